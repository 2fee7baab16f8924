"""What a layer is: by class, base class, name, structure, and as registered from outside."""

import json

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spp
from spp.errors import InputError, UnknownNameError
from spp.layers import LAYERS, Layer, canonical_activation, kind_of_name, layer_of, register_layer
from spp.vocabulary import LayerKind


def kind(module: nn.Module) -> str:
    return str(layer_of(module).kind)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv1d(2, 3, 3), "convolution"),
        (nn.ConvTranspose3d(2, 3, 3), "convolution"),
        (nn.LazyConv2d(3, 3), "convolution"),
        (nn.Linear(2, 3), "linear"),
        (nn.Bilinear(2, 2, 3), "linear"),
        (nn.EmbeddingBag(5, 3), "embedding"),
        (nn.SyncBatchNorm(3), "norm"),
        (nn.CrossMapLRN2d(3), "norm"),
        (nn.RMSNorm(3), "norm"),
        (nn.PReLU(), "activation"),
        (nn.GLU(), "activation"),
        (nn.LogSoftmax(-1), "softmax"),
        (nn.LPPool2d(2, 2), "pooling"),
        (nn.AlphaDropout(), "dropout"),
        (nn.GRU(2, 3), "recurrent"),
        (nn.LSTMCell(2, 3), "recurrent"),
        (nn.MultiheadAttention(4, 2), "attention"),
        (nn.ReflectionPad2d(1), "reshape"),
        (nn.PixelShuffle(2), "reshape"),
        (nn.UpsamplingBilinear2d(4), "reshape"),
        (nn.Identity(), "reshape"),
        (nn.ModuleList(), "container"),
        (nn.TransformerEncoderLayer(4, 2, 8), "container"),
        (nn.CrossEntropyLoss(), "other"),
        (nn.CosineSimilarity(), "other"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_kinds_of_torch(module, expected):
    assert kind(module) == expected
    assert kind_of_name(type(module).__name__) == expected or type(module).__name__ == "CosineSimilarity"


def test_every_module_of_torch_has_a_kind_by_name():
    names = [n for n, cls in vars(nn).items() if isinstance(cls, type) and issubclass(cls, nn.Module)]
    unknown = {n for n in names if kind_of_name(n) is LayerKind.OTHER and not n.endswith(("Loss", "Loss2d"))}
    assert unknown <= {"Module", "Container", "CosineSimilarity", "PairwiseDistance", "DataParallel"} | {
        "AdaptiveLogSoftmaxWithLoss"
    }


def test_fans():
    assert layer_of(nn.Conv2d(8, 6, 3, groups=2)) == Layer(LayerKind.CONVOLUTION, "first", 36, 27, groups=2)
    assert layer_of(nn.Conv2d(8, 16, 3, groups=8)).depthwise and not layer_of(nn.Conv2d(1, 4, 3)).depthwise
    transposed = layer_of(nn.ConvTranspose2d(4, 6, 2))
    assert (transposed.fan_in, transposed.fan_out, transposed.unit_axis) == (16, 24, 1)
    assert layer_of(nn.Linear(3, 5)) == Layer(LayerKind.LINEAR, "last", 3, 5)
    assert layer_of(nn.GroupNorm(2, 4, eps=1e-3)) == Layer(LayerKind.NORM, "first", groups=2, eps=1e-3)
    assert layer_of(nn.LayerNorm(4)).channel_layout == "last"


def test_activations_have_canonical_names_and_ranges():
    assert layer_of(nn.GELU(approximate="tanh")).activation == "gelu_tanh"
    assert layer_of(nn.LeakyReLU()).activation == "leaky_relu"
    assert layer_of(nn.Hardtanh(-2, 3)).output_range == (-2.0, 3.0)
    assert layer_of(nn.ReLU6()).output_range == (0.0, 6.0) and layer_of(nn.ReLU()).output_range is None
    assert layer_of(nn.Softmax(-1)).activation == "softmax" and layer_of(nn.MultiheadAttention(4, 2)).activation is None
    for name, row in spp.nn.ACTIVATIONS.items():
        found = layer_of(row.make())
        assert found.activation == (None if name == "identity" else name)
        scaled = layer_of(spp.nn.ScaledActivation(name, 2.0))
        assert (scaled.kind, scaled.activation) == (LayerKind.ACTIVATION, name)
        if found.output_range is not None:
            low, high = found.output_range
            values = row.function(torch.linspace(-50, 50, 1001))
            assert (values.min(), values.max()) == pytest.approx((low, high), abs=0.05)
            assert scaled.output_range == (2 * low, 2 * high)


def test_our_own_layers():
    assert kind(spp.nn.DyT(3)) == kind(spp.nn.BatchRenorm(3)) == kind(spp.nn.EvoNormS0(32)) == "norm"
    assert kind(spp.nn.AffineLayer(3)) == "other"
    assert kind(spp.nn.SqueezeExcite(8, 2)) == "gate" and kind(spp.nn.StochasticDepth(0.1)) == "dropout"
    conv = spp.nn.StandardizedConv2d(4, 4, 3, rule="ws")
    assert layer_of(conv) == layer_of(nn.Conv2d(4, 4, 3))
    model = spp.models.build("effnet_b0", num_classes=2)
    kinds = {name: layer_of(m).kind for name, m in model.named_modules()}
    assert LayerKind.OTHER not in kinds.values() and kinds[""] is LayerKind.CONTAINER


def test_a_subclass_is_what_its_base_is_and_its_function_is_its_own():
    class Doubled(nn.Sigmoid):
        def forward(self, x):
            return 2 * super().forward(x)

    class Renamed(nn.Sigmoid):
        pass

    assert layer_of(Doubled()) == Layer(LayerKind.ACTIVATION)
    assert layer_of(Renamed()) == layer_of(nn.Sigmoid())

    class LayerNorm2d(nn.LayerNorm):  # timm's and torchvision's, over axis 1 of maps
        pass

    assert layer_of(LayerNorm2d(4)).channel_layout == "first"
    pruned = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    assert layer_of(pruned) == layer_of(nn.Conv2d(2, 3, 3)) and type(pruned).__name__ == "ParametrizedConv2d"
    assert kind_of_name("ParametrizedConv2d", leaf=False) is LayerKind.CONVOLUTION


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_scripted_modules_are_what_they_were_made_from():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()))
    assert [kind(m) for m in scripted.modules()] == ["container", "convolution", "activation"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            "LlamaRMSNorm T5LayerNorm BatchNormAct2d LayerNormAct GlobalResponseNorm FrozenBatchNorm2d DyT EvoNorm2dS0",
            "norm",
        ),
        ("ScaledStdConv2d StdConv2dSame EncodecConv1d WeightNormConv2d PvtV2DepthWiseConv", "convolution"),
        ("Conv1D NonDynamicallyQuantizableLinear QuantLinear", "linear"),
        ("NewGELUActivation QuickGELUActivation SwishMe HardSwish GELUTanh ReLUSquaredActivation SwiGLU", "activation"),
        ("SEModule SqueezeExcitation EffectiveSEModule SqueezeExcite RegNetSELayer", "gate"),
        ("DropPath StochasticDepth DropBlock2d StableDropout", "dropout"),
        ("BertSelfAttention GPT2Attention WindowAttention MHA", "attention"),
        ("AttentionPool AdaptiveAvgMaxPool2d BlurPool2d", "pooling"),
        ("Conv2dNormActivation ConvBnAct ConvNormLayer", "container"),
        ("Permute Upsample DynamicPad2d ChannelShuffle", "reshape"),
        ("EncodecLSTM LSTMBlock", "recurrent"),
        ("LlamaRotaryEmbedding LayerScale AMSoftmaxLoss Dense121Base", "other"),
    ],
)
def test_kinds_by_name(names, expected):
    found = {name: str(kind_of_name(name)) for name in names.split() if name != "AttentionPool"}
    assert found == dict.fromkeys(found, expected)


def test_names_of_functions():
    assert [canonical_activation(n) for n in ("relu", "leaky_relu", "hardswish", "NewGELUActivation", "add")] == [
        "relu",
        "leaky_relu",
        "hard_swish",
        "gelu_tanh",
        None,
    ]


class OfTransformers(nn.Module):
    """GPT-2's linear layer."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf, self.weight = outputs, nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


Conv1D = type("Conv1D", (OfTransformers,), {})


def test_the_linear_layer_of_gpt2_by_name_and_by_structure():
    by_name, by_structure = layer_of(Conv1D(12, 4)), layer_of(OfTransformers(12, 4))
    for found in (by_name, by_structure):
        assert (found.kind, found.fan_in, found.fan_out, found.unit_axis) == (LayerKind.LINEAR, 4, 12, 1)
    layer = Conv1D(12, 4)
    run = spp.trace(nn.Sequential(layer), torch.randn(8, 5, 4))
    row = run.frame.query("signal == 'weight' and output == 'weight'").iloc[0]
    assert row.channels == 12  # its output units
    assert row.acv == pytest.approx(float(layer.weight.detach().double().var(0, correction=0).mean()))


class Own(nn.Module):
    """A layer that nobody knows."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        for i, shape in enumerate(shapes):
            self.register_parameter("ab"[i], nn.Parameter(torch.randn(shape)))


class Product(Own):
    def forward(self, x):
        return x @ self.a


class Turned(Own):
    def forward(self, x):
        return x @ self.a.T + self.b


class Functional(Own):
    def forward(self, x):
        return F.linear(x, self.a)


class Table(Own):
    def forward(self, i):
        return F.embedding(i, self.a)


class Kernel(Own):
    def forward(self, x):
        return F.conv2d(x, self.a)


class Centred(Own):
    def forward(self, x):
        return (x - x.mean(1, keepdim=True)) * torch.rsqrt(x.var(1, keepdim=True) + 1e-5) * self.a


class Squash(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.7 * x)


class Order(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 1).flatten(1)


class Weights(nn.Module):
    def forward(self, x):
        return F.softmax(x, -1)


class Gain(Own):
    def forward(self, x):
        return x * self.a


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Product((3, 5)), Layer(LayerKind.LINEAR, fan_in=3, fan_out=5, unit_axis=1)),
        (Turned((5, 3), (5,)), Layer(LayerKind.LINEAR, fan_in=3, fan_out=5)),
        (Functional((5, 3)), Layer(LayerKind.LINEAR, "last", fan_in=3, fan_out=5)),
        (Table((5, 3)), Layer(LayerKind.EMBEDDING)),
        (Kernel((4, 2, 3, 3)), Layer(LayerKind.CONVOLUTION, fan_in=18, fan_out=36)),
        (Centred((3,)), Layer(LayerKind.NORM)),
        (Squash(), Layer(LayerKind.ACTIVATION)),
        (Order(), Layer(LayerKind.RESHAPE)),
        (Weights(), Layer(LayerKind.SOFTMAX)),
        (Gain((3,)), Layer(LayerKind.OTHER)),
        (Around(), Layer(LayerKind.CONTAINER)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_structure_tells_where_nobody_knows_the_class(module, expected):
    assert layer_of(module) == expected


def test_children_decide_over_words():
    class PatchEmbed(Around):
        pass

    class BatchNormReLU(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.act = nn.Parameter(torch.ones(3)), nn.ReLU()

    class SelfAttention(Around):
        pass

    assert (kind(PatchEmbed()), kind(SelfAttention()), kind(BatchNormReLU())) == ("container", "attention", "norm")


@pytest.fixture
def registered():
    """Takes out again what a test registers."""
    before = set(LAYERS)
    yield
    for name in set(LAYERS) - before:
        LAYERS.unregister(name)


@pytest.mark.usefixtures("registered")
def test_a_layer_registered_from_outside_is_known_everywhere(tmp_path):
    class Mystery(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(2, 4))

        def forward(self, x):
            return torch.stack([self.table[0] * x[:, :4], self.table[1] * x[:, :4]]).sum(0).sigmoid()

    assert layer_of(Mystery()).kind is LayerKind.OTHER
    register_layer(
        Mystery,
        kind="linear",
        fans=lambda m: (len(m.table), 4),
        channel_layout="last",
        output_range=(0.0, 1.0),
        unit_axis=1,
    )
    run = spp.trace(nn.Sequential(Mystery(), nn.ReLU()), torch.randn(8, 6))
    fact = run.modules.set_index("name").loc["0"]
    assert (fact.kind, fact.fan_in, fact.fan_out) == ("linear", 2, 4)
    assert set(run.frame.query("name == '0'").kind) == {"linear"}
    assert run.frame.query("name == '0' and signal == 'activation'").saturated_fraction.notna().all()
    assert spp.load(run.save(tmp_path / "run")).modules.kind.tolist() == run.modules.kind.tolist()
    weight = run.frame.query("name == '0' and output == 'table' and signal == 'weight'").iloc[0]
    assert weight.channels == 4
    register_layer(
        lambda m: isinstance(m, Mystery), kind="gate", name="mysteries"
    )  # a predicate goes before what classes say
    assert kind(Mystery()) == "gate"
    LAYERS.unregister("mysteries")
    register_layer(Mystery, kind="norm", replace=True)
    assert kind(Mystery()) == "norm" and kind_of_name("Mystery") is LayerKind.NORM


@pytest.mark.usefixtures("registered")
def test_what_cannot_be_registered():
    with pytest.raises(InputError, match=r"a layer is one of convolution, linear.*got 'dense'"):
        register_layer("Dense", kind="dense")
    with pytest.raises(InputError, match="first, last or inherit; got 'middle'"):
        register_layer("Dense", kind="linear", channel_layout="middle")
    with pytest.raises(InputError, match="unique; got 'Linear' once more"):
        register_layer(nn.Linear, kind="norm")
    with pytest.raises(UnknownNameError, match="Linear"):
        LAYERS.row("Linaer")


def test_a_run_of_version_1_opens_plots_and_is_checked(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU()), nn.Flatten(), nn.Linear(144, 2)
    )
    run = spp.trace(model, torch.randn(4, 3, 8, 8))
    folder = run.save(tmp_path / "run")
    for name in ("frame", "modules"):
        pd.read_parquet(folder / f"{name}.parquet").drop(columns="kind").to_parquet(folder / f"{name}.parquet")
    facts = json.loads((folder / "run.json").read_text())
    assert facts["format"] == 2
    del facts["manifest"]  # version 1 kept no account of its files
    (folder / "run.json").write_text(json.dumps({**facts, "format": 1}))
    old = spp.load(folder)
    pd.testing.assert_frame_equal(old.frame, run.frame)
    pd.testing.assert_frame_equal(old.modules, run.modules)
    assert old.findings is not None and old.plot() is not None

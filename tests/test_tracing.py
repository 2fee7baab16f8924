"""``spp.trace`` end to end: numbers against the oracle, conventions of batches and losses, and what it leaves behind."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spp
from spp.frame.precision import lost_shares
from spp.frame.schema import (
    BLOCK_COLUMNS,
    CHANNEL_COLUMNS,
    COLUMNS,
    EXPONENT_COLUMNS,
    MODULE_COLUMNS,
    UNMEASURED_COLUMNS,
    check,
)
from tests.oracle import assert_matches, columns, record

LAST = (nn.Linear, nn.LayerNorm, nn.Flatten)


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 36, 5),
    )


def images(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "shape", "changes"),
    [
        ("ffn", (3, 32, 32), {}),
        ("resnet50", (3, 32, 32), {"widths": (16, 32, 64, 128)}),
        ("effnet_b0", (3, 64, 64), {"width_multiplier": 0.5}),
        ("effnet_b0", (3, 64, 64), {"width_multiplier": 0.5, "norm": "none"}),
    ],
    ids=["ffn", "resnet50", "effnet_b0", "effnet_b0-none"],
)
def test_every_column_matches_a_float64_recomputation(name, shape, changes):
    model = spp.models.build(name, **changes).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()  # batch statistics, but neither dropout nor stochastic depth, which would draw other masks
    inputs = spp.data.gaussian(4, shape, seed=0)
    trace = spp.trace(model, inputs, seed=3)
    cotangent = torch.randn(4, model(inputs).shape[1], generator=torch.Generator().manual_seed(3))
    seen = record(copy.deepcopy(model), inputs, cotangent)
    frame = check(trace.frame, COLUMNS)
    assert len(frame) == len(seen)
    for row in frame.to_dict("records"):
        weight = row["signal"].startswith("weight")
        name = f"{row['name']}.{row['output']}".lstrip(".") if weight else row["name"]
        array = seen[name, row["signal"]]
        axis = 0 if weight else 1 if array.ndim == 4 else array.ndim - 1
        assert row["shape"] == "x".join(map(str, array.shape))
        assert_matches(row, columns(array, axis), where=f"{name} {row['signal']}")
        if np.isclose(row["rms"], 0):
            continue
        np.testing.assert_allclose(row["mean_square"], row["acsm"] + row["acv"], rtol=1e-12)


def test_pre_activation_resnet50_shows_the_closed_form():
    """SCIENCE: BN-ReLU-conv with He weights has Var(f) = 1 - 1/pi; block k of a stage ACV (k+1)(1-1/pi), ACSM (k+1)/pi."""
    torch.manual_seed(0)
    model = spp.models.build("resnetv2_50", norm="batch", init="he")
    blocks = spp.trace(model, spp.data.gaussian(16, (3, 64, 64), seed=0), signals=["activation"]).blocks
    assert len(blocks) == 16
    np.testing.assert_allclose(blocks["branch_acv"], 1 - 1 / np.pi, rtol=0.05)
    stage = blocks["block"].str.split(".").str[0]
    sizes = stage.groupby(stage).size().tolist()
    assert sizes == [3, 4, 6, 3]
    k = blocks.groupby(stage).cumcount() + 1
    listed = stage.isin(stage.unique()[1:])  # stage 1 starts from a max-pooled stem, which is not Gaussian
    np.testing.assert_allclose(blocks["acv"][listed], ((k + 1) * (1 - 1 / np.pi))[listed], rtol=0.05)
    np.testing.assert_allclose(blocks["acsm"][listed], ((k + 1) / np.pi)[listed], rtol=0.20)
    assert blocks["transition"].tolist() == (k == 1).tolist()


def test_batches_merge_exactly():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    whole = images(16)
    loss = lambda output, target: output.square().sum()  # noqa: E731  (a sum, so that gradients do not depend on the split)
    one = spp.trace(model.double(), whole.double(), loss=loss).frame
    four = spp.trace(model, list(whole.double().split(4)), loss=loss).frame
    keep = one["signal"].isin(["activation", "gradient"])
    for name in ("numel", "zero_fraction", "nonfinite", "channels"):
        pd.testing.assert_series_equal(one.loc[keep, name], four.loc[keep, name])
    for name in ("min", "max", "mean_square", "acsm", "acv", "var"):
        np.testing.assert_allclose(one.loc[keep, name], four.loc[keep, name], rtol=1e-12)
    assert four["shape"].iloc[0] == "4x4x6x6"


def test_the_dataloader_is_taken_as_it_is_and_batches_stops_it():
    data = torch.utils.data.TensorDataset(images(12), torch.arange(12) % 5)
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(4))
    state = loader.generator.get_state()
    trace = spp.trace(small(), loader, batches=2)
    assert trace.run["batches"] == 2 and trace.run["samples"] == 8 and trace.run["loss"] == "cross_entropy"
    assert torch.equal(loader.generator.get_state(), state)
    assert trace.frame["numel"].iloc[0] == 8 * 8 * 36


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (images(), "probe"),
        ((images(), torch.tensor([0, 1, 2, 3])), "cross_entropy"),
        ([images(), torch.tensor([0, 1, 2, 3])], "cross_entropy"),
        ((images(), torch.zeros(4, 5)), "mse"),
        ({"input": images()}, "probe"),
        (({"input": images()}, torch.zeros(4, 5)), "mse"),
        ([(images(), torch.zeros(4, 5)), (images(), torch.zeros(4, 5))], "mse"),
        ((images(),), "probe"),
    ],
)
def test_batch_and_loss_conventions(batch, kind):
    assert spp.trace(small(), batch).run["loss"] == kind


def test_several_positional_inputs_go_in_as_a_tuple():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, a, b):
            return self.fc(a * b)

    trace = spp.trace(Two(), ((torch.ones(4, 3), torch.ones(4, 3)), torch.zeros(4, 2)))
    assert trace.run["loss"] == "mse" and len(trace.frame) == 8


def test_an_outputs_own_loss_is_used():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            y = self.fc(x)
            return {"loss": y.square().mean(), "logits": y}

    trace = spp.trace(Own(), torch.ones(4, 3))
    assert trace.run["loss"] == "model"
    gradient = trace.frame.query("signal == 'gradient' and name == 'fc'")["mean_square"].item()
    y = trace.frame.query("signal == 'activation' and name == 'fc'")["mean_square"].item()
    assert gradient == pytest.approx(y * (2 / 8) ** 2, rel=1e-5)


def test_the_probe_is_a_standard_normal_cotangent_and_depends_on_the_seed():
    model, x = nn.Identity(), torch.randn(512, 64, requires_grad=True)
    a, b, c = (spp.trace(model, x, seed=s).frame.query("signal == 'gradient'") for s in (0, 0, 1))
    assert a["mean_square"].item() == pytest.approx(1, abs=0.03)
    assert a["mean"].item() == b["mean"].item() != c["mean"].item()
    assert x.grad is None and not x._backward_hooks


def test_loss_scale_is_divided_out():
    model, batch = small().eval(), (images(), torch.tensor([0, 1, 2, 3]))
    plain, scaled = spp.trace(model, batch), spp.trace(model, batch, loss_scale=1024.0)
    for name in ("mean", "mean_square", "acv", "acsm", "min", "max"):
        np.testing.assert_allclose(plain.frame[name], scaled.frame[name], rtol=1e-5, atol=1e-12)


def test_include_and_exclude():
    model = spp.models.build("resnet18_cifar")
    x = torch.randn(2, 3, 32, 32)
    names = set(spp.trace(model, x, include="stage1*", exclude=nn.BatchNorm2d).frame["name"])
    assert names and all(n.startswith("stage1") and "norm" not in n for n in names)
    only = spp.trace(model, x, include=lambda name, module: isinstance(module, nn.Linear)).frame
    assert set(only["type"]) == {"Linear"}
    with pytest.raises(spp.InputError, match=r"include: unknown module pattern 'stag1\.0'.*Did you mean 'stage1.0'"):
        spp.trace(model, x, include="stag1.0")
    with pytest.raises(spp.InputError, match="a selector is a glob pattern, a module class or a predicate"):
        spp.trace(model, x, include=3)


def test_the_name_of_a_module_selects_it_also_where_it_could_be_a_pattern():
    model = nn.Sequential()
    for name in ("[0]", "a*b", "a?b"):
        model.add_module(name, nn.Linear(4, 4))
    x = torch.randn(3, 4)
    assert set(spp.trace(model, x, include="[0]").frame["name"]) == {"[0]"}
    assert set(spp.trace(model, x, include=["a*b"]).frame["name"]) == {"a*b"}
    assert set(spp.trace(model, x, include="a*").frame["name"]) == {"a*b", "a?b"}
    assert set(spp.trace(model, x, exclude="a*b").frame["name"]) == {"", "[0]", "a?b"}


def test_signals_can_be_chosen():
    frame = spp.trace(small(), images(), signals=["activation", "weight"]).frame
    assert set(frame["signal"]) == {"activation", "weight"}
    with pytest.raises(spp.InputError, match=r"unknown signal 'activations'.*Did you mean 'activation'"):
        spp.trace(small(), images(), signals=["activations"])


def test_channel_axis_overrides():
    x = torch.randn(4, 6, 3)
    by_rule = spp.trace(nn.ReLU(), x).frame
    by_int = spp.trace(nn.ReLU(), x, channel_axis=1).frame
    by_call = spp.trace(nn.ReLU(), x, channel_axis=lambda module, tensor: 0).frame
    assert [f["channels"].iloc[0] for f in (by_rule, by_int, by_call)] == [3, 6, 4]


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class Halves(nn.Module):
    def forward(self, x):
        return x.chunk(2, 1)


class Between(nn.Module):
    """Layers with a function between each two."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        x, *_ = self.layers[0](x), self.layers[-1](torch.zeros(2, 5))
        for layer in self.layers[1:-1]:
            x = layer(self.function(x))
        return x


class Stream(nn.Module):
    """A residual sum whose branch ends in a function, and which no module gives out but the network."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.GELU()

    def forward(self, x):
        x = self.stem(x)
        stream = self.body(x).add_(1) + x
        self.head(stream)
        return self.head(self.body(stream) + stream), stream


@pytest.mark.parametrize(
    ("model", "shape", "channels"),
    [
        (nn.Sequential(nn.Linear(4, 6), Turned(), nn.Dropout()), (3, 7, 4), [6, 6, 6, 6]),
        (nn.Sequential(nn.Conv1d(4, 6, 1), Turned(), nn.Tanh(), Turned()), (3, 4, 7), [6, 6, 6, 6, 6]),
        (Between(torch.abs, nn.Conv2d(8, 4, 1), Halves(), nn.Linear(5, 5)), (1, 8, 4, 4), [4, 5, 2, 2, 2, 2]),
        (Between(lambda x: x.transpose(1, 2), nn.Linear(4, 6), nn.Tanh(), nn.Linear(5, 5)), (3, 7, 4), [6, 5, 6, 6]),
        (Stream(), (2, 3, 5, 5), [4] * 7),
    ],
    ids=["a module that transposes", "twice", "a function before", "a function that transposes", "a stream"],
)
def test_channels_are_found_behind_what_moves_them(model, shape, channels):
    frame = spp.trace(model, torch.randn(shape)).frame.query("signal == 'activation'")
    assert frame["channels"].tolist() == channels


def test_saturated_fraction_is_for_bounded_activations():
    x = torch.tensor([[-10.0, -4.0, 0.0, 0.5], [10.0, 4.7, 1.0, -1.0]])
    frame = spp.trace(nn.Sequential(nn.Sigmoid()), x).frame.query("signal == 'activation'").set_index("name")
    assert frame.loc["0", "saturated_fraction"] == pytest.approx(3 / 8)  # sigmoid(-4) = 0.018 and sigmoid(4.7) = 0.991
    assert np.isnan(frame.loc["", "saturated_fraction"])
    assert spp.trace(nn.Sequential(nn.ReLU()), x).frame["saturated_fraction"].isna().all()


def test_nan_is_measured_and_reported():
    x = images()
    x[0, 0, 0, 0] = float("nan")
    frame = spp.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), x).frame
    row = frame.query("name == '0' and signal == 'activation'").iloc[0]
    assert row["nonfinite"] == 4 and np.isfinite(row["acv"])


def test_a_collapsed_network_keeps_its_digits():
    model = nn.Sequential(*[nn.Linear(32, 32, bias=False) for _ in range(30)])
    for layer in model:
        nn.init.normal_(layer.weight, std=1e-3)
    frame = spp.trace(model.double(), torch.randn(8, 32, dtype=torch.float64)).frame.query(
        "leaf and signal == 'activation'"
    )
    single = spp.trace(model.float(), torch.randn(8, 32)).frame.query("leaf and signal == 'activation'")
    assert frame["mean_square"].iloc[-1] < 1e-130
    low = single["mean_square"] > 1e-70
    np.testing.assert_allclose(np.log10(single["mean_square"][low]), np.log10(frame["mean_square"][low]), atol=0.6)


def test_tables_follow_their_schemas_and_survive_a_round_trip(tmp_path):
    trace = spp.trace(spp.models.build("resnet18_cifar"), torch.randn(2, 3, 32, 32))
    trace.run["note"] = "kept"
    folder = trace.save(tmp_path / "deep" / "run")
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [
            "frame.parquet",
            "frame.csv",
            "blocks.parquet",
            "modules.parquet",
            "unmeasured.parquet",
            "run.json",
            "inputs.parquet",
        ]
    )
    back = spp.load(folder)
    for name, schema in (
        ("frame", COLUMNS),
        ("blocks", BLOCK_COLUMNS),
        ("modules", MODULE_COLUMNS),
        ("unmeasured", UNMEASURED_COLUMNS),
    ):
        check(getattr(trace, name), schema)
        pd.testing.assert_frame_equal(getattr(trace, name), getattr(back, name))
    assert back.run["note"] == "kept" and back.run["versions"]["torch"] == torch.__version__
    assert pickle.loads(pickle.dumps(trace)).frame.equals(trace.frame)


def test_bad_input_is_one_clear_line():
    x = images()
    with pytest.raises(spp.InputError, match=r"model: a model is a torch\.nn\.Module; got a str\."):
        spp.trace("resnet50", x)
    with pytest.raises(spp.InputError, match="batches: at least one batch is traced; got 0"):
        spp.trace(small(), x, batches=0)
    with pytest.raises(spp.InputError, match="loss_scale is a positive number; got 0"):
        spp.trace(small(), x, loss_scale=0)
    with pytest.raises(spp.InputError, match="restore is True, False or 'all'; got 'some'"):
        spp.trace(small(), x, restore="some")
    with pytest.raises(
        spp.InputError, match=r"batch: a batch is a tensor, a pair.*got tuple of \(.*Several positional"
    ):
        spp.trace(small(), (x, x, x))
    with pytest.raises(spp.InputError, match="a trace needs at least one batch; got an iterable that gave none"):
        spp.trace(small(), [])
    with pytest.raises(spp.InputError, match="parameters on the meta device"):
        spp.trace(small().to("meta"), x)


def test_a_failing_module_is_named_with_what_arrived():
    with pytest.raises(spp.TraceError) as caught:
        spp.trace(small(), torch.randn(4, 3, 9, 9))
    message = str(caught.value)
    assert "module '5' (Linear)" in message and "float32 tensor of shape (4, 392)" in message
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_failing_loss_is_explained():
    with pytest.raises(
        spp.TraceError, match=r"the loss raised ZeroDivisionError.*got float32 tensor of shape \(4, 5\)"
    ):
        spp.trace(small(), images(), loss=lambda output, target: 1 / 0)
    with pytest.raises(spp.InputError, match="a loss is a floating scalar tensor"):
        spp.trace(small(), images(), loss=lambda output, target: output)
    with pytest.raises(spp.InputError, match="class indices lie between 0 and 4; got values from 0 to 7"):
        spp.trace(small(), (images(), torch.tensor([0, 1, 2, 7])))


def test_fourth_moments_and_exponents_where_asked_for(tmp_path):
    generator = torch.Generator().manual_seed(0)
    model, x = nn.Sequential(nn.Identity(), nn.Tanh()), torch.randn(64, 100, generator=generator)
    plain = spp.trace(model, x)
    assert plain.frame["kurtosis"].isna().all() and plain.exponents.empty
    whole = spp.trace(model, x, moments=4, exponents=True)
    parts = spp.trace(model, list(x.split(16)), moments=4, exponents=True)
    rows = whole.frame.query("signal == 'activation'").set_index("name")
    d = x.double() - x.double().mean()
    assert rows.loc["0", "kurtosis"] == pytest.approx(((d**4).mean() / (d**2).mean() ** 2).item(), rel=1e-9)
    np.testing.assert_allclose(whole.frame["kurtosis"].iloc[:3], parts.frame["kurtosis"].iloc[:3], rtol=1e-9)
    counted = whole.exponents.query("name == '0' and signal == 'activation'")
    assert counted["count"].sum() == 6400
    k = np.floor(np.log2(x.abs().double().numpy()))
    for sign in (-1, 1):
        mine = counted[counted["sign"] == sign]
        assert dict(zip(mine["exponent"], mine["count"], strict=True)) == dict(
            zip(
                *map(np.ndarray.tolist, np.unique(k[np.sign(x.numpy()) == sign].astype(int), return_counts=True)),
                strict=True,
            )
        )
    pd.testing.assert_frame_equal(whole.exponents.iloc[: len(counted)], parts.exponents.iloc[: len(counted)])
    pd.testing.assert_frame_equal(
        spp.load(whole.save(tmp_path / "run")).exponents, check(whole.exponents, EXPONENT_COLUMNS)
    )
    with pytest.raises(spp.InputError, match="moments is 2, or 4 for the kurtosis too; got 3"):
        spp.trace(model, x, moments=3)


def test_the_spread_over_channels_where_asked_for(tmp_path):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU())
    x = torch.randn(8, 3, 9, 9, generator=generator)
    assert spp.trace(model, x).channels.empty
    trace = spp.trace(model, x, channels=True)
    check(trace.channels, CHANNEL_COLUMNS)
    with torch.no_grad():
        out = model[0](x).double().numpy().transpose(1, 0, 2, 3).reshape(40, -1)
    rows = trace.channels.query("name == '0' and signal == 'activation'").set_index("statistic")
    for statistic, each in (("mean", out.mean(1)), ("var", out.var(1))):
        expected = np.quantile(each, [0.1, 0.5, 0.9, 0.0, 1.0])
        np.testing.assert_allclose(
            rows.loc[statistic, ["p10", "p50", "p90", "min", "max"]].astype(float), expected, rtol=1e-5
        )
    assert len(trace.channels) == 2 * len(trace.frame)
    parts = spp.trace(model, list(x.split(2)), channels=True).channels.query("signal == 'activation'")
    whole = trace.channels.query("signal == 'activation'")
    np.testing.assert_allclose(parts[["p10", "p50", "p90"]], whole[["p10", "p50", "p90"]], rtol=1e-6, atol=1e-9)
    pd.testing.assert_frame_equal(spp.load(trace.save(tmp_path / "run")).channels, trace.channels)


def test_channels_without_a_finite_element_have_no_spread():
    trace = spp.trace(
        nn.Sequential(nn.Identity()), torch.full((4, 3), float("nan")), channels=True, signals=["activation"]
    )
    assert trace.channels[["p10", "max"]].isna().all(axis=None)


def test_what_a_number_format_would_lose():
    x = torch.tensor([[1.0, 2.0**-30, 2.0**17, 0.0]])
    exponents = spp.trace(nn.Sequential(nn.Identity()), x, exponents=True).exponents
    row = lost_shares(exponents, "float16").query("name == '0' and signal == 'activation'").iloc[0]
    assert (row["flushed"], row["overflowed"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    row = lost_shares(exponents, "bfloat16").query("name == '0' and signal == 'activation'").iloc[0]
    assert (row["flushed"], row["overflowed"]) == (0, 0)
    with pytest.raises(spp.InputError, match=r"unknown number format 'fp16'.*Did you mean 'float16'"):
        lost_shares(exponents, "fp16")


def test_a_run_can_be_saved_into_the_current_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spp.trace(small(), images()).save(".")
    assert spp.load(".").run["model"] == "Sequential" and (tmp_path / "frame.csv").exists()

"""Names, arguments and errors of ``spp.models.build``, and networks as wholes."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from spp import models
from spp.errors import InputError, UnknownNameError
from spp.nn import ACTIVATIONS, INITS, NORMS
from spp.nn.activations import make_activation
from spp.nn.norms import make_norm

SMALL = [
    ("ffn", {"depth": 4, "width": 16, "input_shape": (3, 8, 8)}),
    ("resnet18_cifar", {"depths": (1, 1, 1), "widths": (16, 16, 32), "input_shape": (3, 8, 8)}),
    ("resnetv2_50", {"depths": (2, 1), "widths": (8, 16), "input_shape": (3, 16, 16)}),
    ("effnet_b0", {"input_shape": (3, 64, 64), "width_multiplier": 0.25, "depth_multiplier": 0.3}),
]
SMALL_IDS = [name for name, _ in SMALL]


def on_meta(name, **changes):
    with torch.device("meta"):
        return models.build(name, **changes)


def test_names_describe_and_config():
    assert models.names()[0] == "ffn"
    assert {"resnet50", "resnet18_cifar", "resnetv2_101", "effnet_b7"} <= set(models.names())
    assert all("\n" not in models.describe(name) and models.describe(name) for name in models.names())
    assert models.config("effnet_b1").input_shape == (3, 240, 240)
    assert models.config("resnet18_cifar").num_classes == 10


def test_aliases_are_the_same_rows():
    for number in range(8):
        assert models.config(f"efficientnet_b{number}") is models.config(f"effnet_b{number}")


@pytest.mark.parametrize("name", models.names())
def test_every_network_maps_its_own_input_shape_to_its_classes(name):
    model = on_meta(name)
    row = models.config(name)
    assert model.config == row
    models.check_input(model, row.input_shape)
    assert model(torch.empty(2, *row.input_shape, device="meta")).shape == (2, row.num_classes)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("name", "changes"), SMALL, ids=SMALL_IDS)
def test_every_norm_runs_forward_and_backward_and_stands_at_every_place(name, changes, norm):
    if norm == "instance" and name == "ffn":
        with pytest.raises(InputError, match=r"'instance' takes statistics over space, .*Norms for it: none, batch, "):
            models.build(name, norm=norm, **changes)
        return
    torch.manual_seed(0)
    # plain weight standardization multiplies the variance by the fan_in in every layer, so it is in double; the others are
    # not, since torch's depthwise convolutions take many times as long there
    dtype = torch.float64 if norm == "ws" else torch.float32
    model = models.build(name, norm=norm, num_classes=7, **changes).to(dtype)
    out = model(torch.randn(3, *model.config.input_shape, dtype=dtype))
    assert out.shape == (3, 7)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    rule = NORMS[norm].weights
    layers = [m for path, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and ".se." not in path]
    assert {getattr(layer, "rule", None) for layer in layers if layer is not model.head.fc} == {rule}
    assert type(model.head.fc) is nn.Linear

    wanted = type(make_norm(norm, 8, dims=0 if name == "ffn" else 2))
    found = [module for path, module in model.named_modules() if path.rpartition(".")[2].rstrip("123").endswith("norm")]
    assert len(found) >= 3
    assert all(type(module) is wanted for module in found)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("name", "changes"), SMALL, ids=SMALL_IDS)
def test_the_activation_is_everywhere_and_never_in_place(name, changes, activation):
    model = on_meta(name, activation=activation, **changes)
    found = [module for path, module in model.named_modules() if path.rpartition(".")[2].rstrip("123").endswith("act")]
    assert len(found) >= 3
    assert all(type(module) is type(make_activation(activation)) for module in found)
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    assert len(found) == len({id(module) for module in found})


NARROWING = {"delta_orthogonal": ("resnetv2_50", "effnet_b0"), "fixup": ("ffn",)}
"""Networks that an init does not fit."""


@pytest.mark.parametrize("init", NARROWING)
def test_an_init_that_does_not_fit_says_so(init):
    for name, changes in SMALL:
        if name in NARROWING[init]:
            with pytest.raises(InputError, match=r"has at least as many outputs|scales residual branches"):
                models.build(name, init=init, **changes)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(("name", "changes"), SMALL, ids=SMALL_IDS)
def test_the_init_decides_the_weights_and_the_seed_decides_the_numbers(name, changes, init):
    if name in NARROWING.get(init, ()):
        return

    def weights(init, seed):
        torch.manual_seed(seed)
        return [p.detach() for p in models.build(name, init=init, **changes).parameters()]

    one, again, other = weights(init, 0), weights(init, 0), weights(init, 1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("name", "changes"), SMALL, ids=SMALL_IDS)
def test_survives_deepcopy_pickle_state_dict_and_double(name, changes):
    torch.manual_seed(0)
    model = models.build(name, **changes).eval()
    x = torch.randn(2, *model.config.input_shape)
    expected = model(x)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), expected, rtol=0, atol=0)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    fresh = models.build(name, **changes).eval()
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(fresh(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(model.double()(x.double()).float(), expected, rtol=1e-3, atol=1e-4)


def test_fields_of_the_configuration_are_arguments():
    model = models.build("ffn", depth=3, width=7, input_shape=(5,), num_classes=2)
    assert [tuple(p.shape) for p in model.parameters() if p.ndim == 2] == [(7, 5), (7, 7), (2, 7)]
    assert (model.config.depth, model.config.width) == (3, 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: models.build("efnet_b0"),
            r"unknown model 'efnet_b0'\. Did you mean 'effnet_b0'.*\? Known: ffn, resnet18",
        ),
        (lambda: models.build("resnet18", norm="bacth"), r"unknown norm 'bacth'\. Did you mean .*Known: none, batch, "),
        (lambda: models.build("resnet18", norm=["batch"]), r"unknown norm \"\['batch'\]\"\. .*Known: none, batch"),
        (lambda: models.build("ffn", activation="rlu"), r"unknown activation 'rlu'\. Did you mean .*'relu'"),
        (lambda: models.build("ffn", init="hee"), r"unknown init 'hee'\. Did you mean 'he'"),
        (lambda: models.build("ffn", first_norm="btch"), r"unknown norm 'btch'\. Did you mean .*'batch'"),
        (
            lambda: models.build("ffn", dept=3),
            r"model 'ffn': unknown argument 'dept'\. Did you mean 'depth' or 'dropout'\? Known: input_shape, ",
        ),
        (
            lambda: models.build("resnet18", stem="cifer"),
            r"model 'resnet18': unknown stem 'cifer'\. Did you mean 'cifar'\? Known: imagenet",
        ),
        (lambda: models.build("resnet18", block="x"), r"unknown block 'x'\. Known: basic, bottleneck\."),
    ],
)
def test_unknown_names(call, message):
    with pytest.raises(UnknownNameError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("resnet18", {"num_classes": 0}, r"model 'resnet18': num_classes is a positive integer; got 0\."),
        ("resnet18", {"num_classes": True}, r"num_classes is a positive integer; got True\."),
        ("ffn", {"depth": 0}, r"model 'ffn': depth is a positive integer; got 0\."),
        ("ffn", {"width": 2.5}, r"width is a positive integer; got 2\.5\."),
        ("ffn", {"input_shape": (3, 0)}, r"positive integers as \(3, 224, 224\); got \(3, 0\)\."),
        ("resnet18", {"input_shape": 224}, r"positive integers as \(3, 224, 224\); got 224\."),
        (
            "resnet18",
            {"depths": (1, 2, 0, 1)},
            r"depths are positive integers, one .*, as \(3, 4, 6, 3\); got \(1, 2, 0, 1\)",
        ),
        (
            "resnet18",
            {"widths": 64},
            r"widths are positive integers, one for each stage, as \(64, 128, 256, 512\); got 64",
        ),
        ("resnet18", {"depths": (1, 2)}, r"depths and widths have one number for each stage; got depths=\(1, 2\) and"),
        ("effnet_b0", {"dropout": 2}, r"dropout is a number from 0 to 1; got 2\."),
        ("effnet_b0", {"drop_path": 1}, r"drop_path is a number from 0 to 0\.999999; got 1\."),
        (
            "effnet_b0",
            {"width_multiplier": float("nan")},
            r"width_multiplier is a number from 0\.001 to 100; got nan\.",
        ),
        ("effnet_b0", {"batch_eps": "a"}, r"batch_eps is a number from 0 to inf; got 'a'\."),
        ("effnet_b0", {"input_shape": (3, 8, 8)}, r"an image is at least 32x32, .*; got 8x8\. Resize the images, or"),
        (
            "effnet_b0",
            {"input_shape": (3, 32, 32), "norm": "instance"},
            r"'instance' takes .* more than one element; got",
        ),
    ],
)
def test_impossible_values(name, changes, message):
    with pytest.raises(InputError, match=message):
        models.build(name, **changes)


@pytest.mark.parametrize(
    ("model", "shape", "batch", "message"),
    [
        (
            "resnet18",
            (1, 224, 224),
            None,
            r"an input sample has 3 channels; got 1 in \(1, 224, 224\)\. Build the model with",
        ),
        ("resnet18", (3, 31, 224), None, r"at least 32x32, since the network divides its sides by 32; got 31x224\."),
        ("resnet18_cifar", (3, 4, 4), None, r"at least 8x8, since the network divides its sides by 8; got 4x4\."),
        ("resnet18", (3, 224), None, r"an input sample is an image \(C, H, W\), as \(3, 224, 224\); got \(3, 224\)"),
        ("resnet18", (3, -1, 5), None, r"the shape of a sample is positive integers; got \(3, -1, 5\)"),
        ("resnet18", (3, 32, 32), 1, r"norm 'batch' takes statistics over the batch, .*; got one 32x32 image, which"),
        (
            "ffn",
            (3, 8, 8),
            None,
            r"an input sample has 3072 features, as \(3, 32, 32\); got 192 in \(3, 8, 8\)\. Build",
        ),
        (
            "ffn",
            (3072,),
            1,
            r"norm 'batch_minus' takes statistics over the batch, .*; got a batch of 1\. Use a batch of",
        ),
        ("ffn", (3072,), 0, r"a batch has at least one sample; got 0\."),
        (nn.Linear(1, 1), (1,), None, r"only bundled networks know their input shape; got Linear\. Build one with"),
    ],
)
def test_impossible_inputs_are_found_before_running(model, shape, batch, message):
    with pytest.raises(InputError, match=message):
        models.check_input(model, shape, batch=batch)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("ffn", (3072,)), ("ffn", (3, 32, 32)), ("resnet18", (3, 32, 50)), ("resnet18_cifar", (3, 9, 8))],
)
def test_what_check_input_accepts_runs(name, shape):
    model = models.build(name)
    models.check_input(model, shape, batch=2)
    assert model(torch.randn(2, *shape)).shape == (2, model.config.num_classes)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_what_check_input_refuses_for_the_norm_fails_in_torch(norm):
    model = models.build("resnet18", norm=norm)
    with pytest.raises(InputError, match=f"norm '{norm}' takes statistics"):
        models.check_input(model, (3, 32, 32), batch=1)
    with pytest.raises(ValueError, match="Expected more than 1"):
        model(torch.randn(1, 3, 32, 32))

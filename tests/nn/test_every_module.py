"""What every module of ``spp.nn`` must survive: training, compiling, copying, saving, other precisions, odd batches."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch

from spp.errors import InputError
from spp.nn import NORMS, make_norm
from tests.nn.gallery import MODULES

every = pytest.mark.parametrize("name", MODULES)


def make(name, seed=0):
    """The module in float64, with parameters and buffers that a wrong formula would show, and an input."""
    rng = np.random.default_rng(seed)
    exhibit = MODULES[name]
    torch.manual_seed(seed)
    layer = exhibit.make().double()
    with torch.no_grad():
        for tensor in [*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())]:
            tensor.copy_(torch.from_numpy(rng.uniform(0.4, 1.6, tuple(tensor.shape))))
    return layer, torch.from_numpy(rng.normal(0.3, 1.2, exhibit.shape))


def state(layer):
    return {key: value.clone() for key, value in layer.state_dict().items()}


@every
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradients(name, training):
    layer, x = make(name)
    layer.train(training)
    names = [key for key, _ in layer.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def run(x, *parameters):
        buffers = {key: buffer.clone() for key, buffer in layer.named_buffers()}  # statistics stay where they are
        return torch.func.functional_call(layer, {**buffers, **dict(zip(names, parameters, strict=True))}, (x,))

    # Batch Renormalization's r and d are constants for the gradient on purpose: finite differences disagree in x
    x.requires_grad_(not (name == "batch renorm" and training))
    assert torch.autograd.gradcheck(run, (x, *parameters))


@every
def test_compiles_without_a_break(name):
    layer, x = make(name)
    kept = state(layer)
    expected = layer(x)
    after = state(layer)
    layer.load_state_dict(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state(layer), after, rtol=1e-12, atol=1e-12)
    torch.compiler.reset()


@every
def test_copies_pickles_and_saves(name):
    layer, x = make(name)
    layer.eval()
    expected = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), expected)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    fresh = MODULES[name].make().double().eval()
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(fresh(x), expected)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_the_precision_of_its_input(name, dtype):
    layer, x = make(name)
    expected = layer.eval()(x)
    out = layer.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


@every
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_empty_batch_passes_and_leaves_no_trace(name, training):
    layer, x = make(name)
    layer.train(training)
    kept = state(layer)
    out = layer(x[:0].requires_grad_())
    assert out.shape == (0, *layer.eval()(x).shape[1:])
    out.sum().backward()
    for key, value in layer.state_dict().items():
        if key != "num_batches_tracked" and type(layer) is not torch.nn.BatchNorm2d:  # torch's own lets zeros in
            assert torch.equal(value, kept[key]), key


@every
def test_a_batch_of_one_trains(name):
    layer, x = make(name)
    out = layer.train()(x[:1])
    assert out.isfinite().all()


@pytest.mark.parametrize("name", [name for name, row in NORMS.items() if row.batch])
def test_a_single_value_per_channel_is_refused_where_it_has_no_variance(name):
    layer = make_norm(name, 4)
    with pytest.raises(ValueError, match=r"more than 1 value per channel|more than one value per channel"):
        layer(torch.randn(1, 4, 1, 1))
    assert layer.eval()(torch.randn(1, 4, 1, 1)).isfinite().all()


@pytest.mark.parametrize("name", ["batch_renorm", "ghost_batch", "evonorm_b0"])
def test_the_refusal_says_what_to_do(name):
    with pytest.raises(
        InputError,
        match=r"(Renorm|Norm|B0) takes statistics over the batch, .*; got .*\(1, 4, 1, 1\)\. Use a batch of at least 2",
    ):
        make_norm(name, 4)(torch.randn(1, 4, 1, 1))


@every
def test_says_what_it_is(name):
    assert MODULES[name].shows in repr(MODULES[name].make())


@every
def test_leaves_its_input_alone_and_runs_on_meta(name):
    layer, x = make(name)
    kept = x.clone()
    shape = layer(x).shape
    assert torch.equal(x, kept)
    assert layer.to("meta")(x.to("meta")).shape == shape


@every
def test_reset_parameters_restores_the_state_at_construction(name):
    torch.manual_seed(3)
    layer = MODULES[name].make()
    if not hasattr(layer, "reset_parameters"):
        assert not list(layer.parameters(recurse=False))
        return
    fresh = state(layer)
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor.add_(1)
    torch.manual_seed(3)
    layer.reset_parameters()
    assert all(torch.equal(fresh[key], value) for key, value in layer.state_dict().items())

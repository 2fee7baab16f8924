"""Which layers ``neuronwise_`` converts, what it says of the others, and that the forward pass stays what it was."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spp
from spp.errors import InputError, UnknownNameError
from spp.nn.neuronwise import NeuronwiseConv2d, NeuronwiseLayer, NeuronwiseLinear, neuronwise_


class Block(nn.Module):
    """As torchvision writes them: one activation, in place, for several layers, and ``+=``."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.conv3 = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x
        out = self.relu(self.conv1(x))
        out = self.relu(self.norm(self.conv2(out)))
        out = self.conv3(out)
        out += identity
        return self.relu(out)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        for name in "abcdefg":
            self.add_module(name, nn.Linear(4, 4))
        self.identity, self.dropout = nn.Identity(), nn.Dropout(0.5)

    def forward(self, x):
        x = F.relu(self.identity(self.a(x)), inplace=True)
        x = self.b(x).tanh()
        x = F.leaky_relu(self.c(x), 0.3)
        y = self.d(x)
        y = F.gelu(y) + y
        y = torch.relu(self.dropout(self.e(y)))
        return self.f(y)


class Branching(nn.Module):
    """Cannot be traced: what it does depends on values."""

    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Linear(4, 4), nn.SiLU()
        self.rest = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Tanh(), nn.Linear(4, 4))

    def forward(self, x):
        if x.sum() > 0:
            x = -x
        return self.rest(self.act(self.first(x)))


@pytest.fixture(params=["graph", "batch"])
def way(request):
    """Both ways to find out, as a function from an input to what ``batch=`` gets."""
    return (lambda x: x) if request.param == "batch" else (lambda x: None)


def assert_trains_as_before(model, converted, x):
    """Same outputs and input gradients, bit for bit; other weight gradients exactly where converted."""
    found = neuronwise_(copy.deepcopy(model), **converted)
    inputs, outputs = [], []
    for each in (model, found.model):
        inputs.append(x.clone().requires_grad_())
        torch.manual_seed(3)
        outputs.append(each(inputs[-1]))
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    for name, parameter in model.named_parameters():
        layer, _, kind = name.rpartition(".")
        other = found.model.get_parameter(name).grad
        if parameter.grad is None:
            assert other is None
            continue
        changed = not torch.equal(parameter.grad, other)
        assert changed == (layer in found.converted and kind == "weight") or (
            kind == "bias" and layer in found.converted
        )
    return found


def test_torchvision_blocks(way):
    x = torch.randn(2, 3, 8, 8)
    found = assert_trains_as_before(Block(), {"batch": way(x)}, x)
    assert found.converted == ("conv1",)
    assert type(found.model.conv1) is NeuronwiseConv2d
    assert set(found.left) == {"conv2", "conv3"}
    assert re.match("followed by [Bb]atch_?[Nn]orm(2d)?, which is no known nonlinearity", found.left["conv2"])
    assert found.left["conv3"] == "followed by add, which is no known nonlinearity"


def test_functions_and_methods(way):
    x = torch.randn(5, 4)
    found = assert_trains_as_before(Functional(), {"batch": way(x)}, x)
    assert found.converted == ("a", "b")
    assert found.model.b.activation.name == "Tanh()"
    assert found.left["c"] == "leaky_relu is called with constants of its own; use a module for it"
    assert found.left["d"] == "its output is used 2 times: gelu, add"
    assert found.left["e"].lower() == "followed by dropout, which is no known nonlinearity"
    assert found.left["f"] == "nothing follows it: it is the model's output"
    assert found.left["g"] in ("was not called in the forward pass", "was not met in symbolic tracing")


def test_without_a_batch_an_untraceable_model_gives_what_its_sequentials_say():
    found = neuronwise_(Branching())
    assert found.converted == ("rest.0",)
    unknown = "what follows it is unknown (TraceError in symbolic tracing); pass batch= to find out by a forward pass"
    assert found.left == {"first": unknown, "rest.3": unknown}
    assert neuronwise_(Branching(), batch=torch.ones(2, 4)).converted == ("first", "rest.0")


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("ffn", {"depth": 4, "width": 7, "input_shape": (3, 4, 4)}, 3),
        ("resnet18", {}, 9),
        ("effnet_b0", {}, 65),
    ],
)
def test_bundled_networks_without_norm(name, options, count, way):
    model = spp.models.build(name, norm="none", **options)
    x = torch.randn(2, *(options.get("input_shape") or (3, 32, 32)))
    found = neuronwise_(model.eval(), batch=way(x))
    assert len(found.converted) == count
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert len(found.converted) + len(found.left) == len(layers)
    assert sum(isinstance(layer, NeuronwiseLayer) for layer in layers) == count


def test_bundled_networks_forward_and_input_gradients(way):
    model = spp.models.build("ffn", norm="none", depth=4, width=7, input_shape=(3, 4, 4))
    x = torch.randn(6, 3, 4, 4)
    assert_trains_as_before(model, {"batch": way(x), "statistics": "running"}, x)


def test_it_is_the_same_layer_with_its_hooks_and_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    weight, seen = model[0].weight, []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    layer = model[0]
    found = neuronwise_(model, mode="outer", statistics="running", weighting="abs", eps=1e-2, momentum=0.2, sync=True)
    assert found.model is model and model[0] is layer and layer.weight is weight and type(layer) is NeuronwiseLinear
    assert (layer.mode, layer.statistics, layer.weighting) == ("outer", "running", "abs")
    assert (layer.eps, layer.momentum, layer.sync) == (1e-2, 0.2, True)
    before = weight.detach().clone()
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    assert seen == [1] and not torch.equal(before, weight)


def test_what_cannot_be_converted_says_why(way):
    class Own(nn.Linear):
        pass

    shared = nn.Linear(4, 4)
    model = nn.Sequential(
        Own(4, 4),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.ReLU(),
        shared,
        nn.ReLU(),
        shared,
        nn.Tanh(),
        NeuronwiseLinear(4, 4, activation="relu"),
        nn.ReLU(),
        nn.Linear(4, 4),
        nn.PReLU(),
        nn.Linear(4, 4, bias=False),
        nn.SiLU(),
        nn.Unflatten(1, (1, 4)),
        nn.ConvTranspose1d(1, 1, 1),
        nn.ReLU(),
    )
    left = neuronwise_(model, batch=way(torch.randn(2, 4)), mode="coords_centre").left
    assert left["0"] == "Own is a subclass of Linear"
    assert left["2"] == "ParametrizedLinear is a subclass of Linear"
    assert left["4"] == "followed by different nonlinearities: ReLU(), Tanh()"
    assert left["8"] == "has neuron-wise gradients already"
    assert left["10"] in (
        "followed by PReLU, which is no known nonlinearity",
        "followed by prelu, which is no known nonlinearity",
    )
    assert left["12"] == (
        "mode 'coords_centre' moves the bias to make up for the centring, so it needs one, got a layer without bias"
    )
    assert left["15"] == "ConvTranspose1d has no neuron-wise form"
    assert type(model[12]) is nn.Linear


def test_the_watched_pass_leaves_no_trace():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    neuronwise_(model, batch=torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "batch", [(torch.ones(2, 4), torch.ones(2, 4)), {"x": torch.ones(2, 4), "y": torch.ones(2, 4)}]
)
def test_positional_and_keyword_batches(batch):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, y):
            return torch.relu(self.a(x)) + torch.sigmoid(self.b(y))

    assert neuronwise_(Two(), batch=batch).converted == ("a", "b")


def test_a_wrong_option_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with pytest.raises(UnknownNameError, match="unknown mode 'cords'"):
        neuronwise_(model, mode="cords")
    with pytest.raises(InputError, match="eps"):
        neuronwise_(model, eps=-1)
    assert type(model[0]) is nn.Linear


def test_the_report():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert str(neuronwise_(model)) == (
        "1 of 2 layers have neuron-wise gradients\n"
        "  converted 0\n"
        "  left 2: nothing follows it: it is the model's output"
    )

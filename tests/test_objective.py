"""What a batch is, and where the backward pass starts: the loss that a model gives out is the loss, however it gives it."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spp


class Denoiser(nn.Module):
    """Gives its loss in the form that ``wrap`` makes of it, of its parts and of its output."""

    def __init__(self, wrap) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.scale, self.wrap = nn.Linear(6, 6), nn.Parameter(torch.tensor(0.5)), wrap

    def forward(self, x, *_):
        y = self.net(x)
        main, penalty = (y - x).pow(2).mean(), self.net.weight.pow(2).mean() * self.scale
        return self.wrap(y, main, penalty)


@dataclasses.dataclass
class Output:
    prediction: torch.Tensor
    total_loss: torch.Tensor


X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
MAIN = "model"
LOSSES = {
    "a scalar": (lambda y, m, p: m, MAIN, lambda y, m, p: m),
    "first in a tuple": (lambda y, m, p: (m, y), MAIN, lambda y, m, p: m),
    "last in a tuple, made of the output": (lambda y, m, p: (y, m), MAIN, lambda y, m, p: m),
    "through a view of the output": (
        lambda y, m, p: (y, y.view(-1)[:40].square().mean()),
        MAIN,
        lambda y, m, p: y.view(-1)[:40].square().mean(),
    ),
    "first, beside what it is not made of": (lambda y, m, p: (p, y.exp()), MAIN, lambda y, m, p: p),
    "all else detached": (lambda y, m, p: (y.detach(), p), MAIN, lambda y, m, p: p),
    "a loss by name": (lambda y, m, p: {"out": y.exp(), "penalty_loss": p}, MAIN, lambda y, m, p: p),
    "a field of a dataclass": (lambda y, m, p: Output(y, m), MAIN, lambda y, m, p: m),
    "a total and its parts": (lambda y, m, p: (m + p, m, p), MAIN, lambda y, m, p: m + p),
    "a total in a mapping": (lambda y, m, p: {"mse": m, "total": m + p}, MAIN, lambda y, m, p: m + p),
    "a mapping of losses": (
        lambda y, m, p: {"classification": m, "bbox": p},
        "sum of classification, bbox",
        lambda y, m, p: m + p,
    ),
    "several losses": (lambda y, m, p: (m, p), "sum of 0, 1", lambda y, m, p: m + p),
}


def gradient(wrap) -> torch.Tensor:
    model = Denoiser(wrap)
    model(X).backward()
    return model.net.weight.grad


TARGETED = (X, torch.zeros(16, dtype=torch.long))
ALONE = ("a scalar", "a total and its parts", "a total in a mapping", "a mapping of losses", "several losses")
"""Beside these nothing is there to compare a target with."""


@pytest.mark.parametrize(("case", "batch"), [*((c, X) for c in LOSSES), *((c, TARGETED) for c in ALONE)])
def test_a_loss_that_the_model_gives_is_the_loss(case, batch):
    wrap, kind, truth = LOSSES[case]
    true = gradient(truth)
    for seed in range(2):
        trace = spp.trace(Denoiser(wrap), batch, seed=seed)
        row = trace.frame.query("name == 'net' and output == 'weight' and signal == 'weight_gradient'").iloc[0]
        np.testing.assert_allclose(row["rms"], float(true.square().mean().sqrt()), rtol=1e-5)
        np.testing.assert_allclose(row["mean"], float(true.mean()), rtol=1e-4, atol=1e-8)
        assert trace.info["loss"] == kind and np.isfinite(trace.info["loss_value"])


@pytest.mark.parametrize(
    "wrap",
    [lambda y, m, p: (y, p), lambda y, m, p: {"features": y, "aux": p}, lambda y, m, p: (y.exp(), y.sin(), p)],
    ids=["beside one output", "in a mapping", "as the temperature of a contrastive model"],
)
def test_a_scalar_beside_outputs_that_it_is_not_made_of_is_a_penalty(wrap):
    """Its factor is 1; the outputs get the probe, for they are what the network is for."""
    trace = spp.trace(Denoiser(wrap), X, seed=3)
    assert trace.info["loss"] == "probe"
    rows = trace.frame.query("name == '' and signal == 'gradient'")
    scalar = rows[rows["shape"] == ""].iloc[0]
    assert scalar["mean"] == 1.0 and (rows[rows["shape"] != ""]["rms"] > 0.5).all()


def test_a_temperature_that_is_a_parameter_is_no_loss():
    class Contrastive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.scale = nn.Linear(6, 4), nn.Linear(6, 4), nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.a(x), self.b(x), self.scale

    trace = spp.trace(Contrastive(), X)
    assert trace.info["loss"] == "probe"
    assert {"a", "b"} <= set(trace.frame.query("signal == 'weight_gradient'")["name"])


def test_a_target_is_compared_with_the_output_beside_the_loss():
    model = Denoiser(lambda y, m, p: (m, y))
    trace = spp.trace(model, (X, torch.arange(16) % 6))
    assert trace.info["loss"] == "cross_entropy"
    assert trace.info["loss_value"] == pytest.approx(
        F.cross_entropy(model.net(X), torch.arange(16) % 6).item(), rel=1e-6
    )


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, a, b):
        return self.fc(a + b)


@pytest.mark.parametrize("batch", [[X, X], (X, X), X, [(X, X), (X, X)]])
def test_an_input_that_is_missing_says_how_several_are_given(batch):
    with pytest.raises(spp.TraceError, match=r"missing 1 required positional.* \(\(a, b\), target\), or \(\(a, b\),\)"):
        spp.trace(Two(), batch)
    for right in (((X, X),), ((X, X), torch.zeros(16, 3)), [((X, X), None)]):
        assert len(spp.trace(Two(), right).frame)


def test_a_second_input_taken_for_a_target_says_so():
    with pytest.raises(
        spp.InputError, match=r"float targets have the output's shape; .* \(\(a, b\),\) without a target"
    ):
        spp.trace(nn.Linear(6, 3), [X, X])


class Graph:
    """As PyG's Data: iterates over pairs of key and tensor."""

    def __init__(self, **values) -> None:
        self.__dict__.update(values)

    def __iter__(self):
        return iter(self.__dict__.items())

    def __len__(self) -> int:
        return len(self.__dict__)


class Movable(Graph):
    """As a graph that iterates over its tensors, and moves to devices."""

    def __iter__(self):
        return iter(self.__dict__.values())

    def to(self, device):
        return self


class OnGraph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, data):
        return self.fc(data.x)


def graph(kind: type) -> Graph:
    return kind(x=torch.randn(7, 5), edge_index=torch.randint(7, (2, 20)))


@pytest.mark.parametrize("kind", [Graph, Movable])
def test_a_graph_is_a_batch_and_several_are_several(kind):
    one = spp.trace(OnGraph(), graph(kind))
    assert one.info["batches"] == 1 and one.frame.query("name == 'fc' and signal == 'activation'")["numel"].item() == 21
    assert spp.trace(OnGraph(), (graph(kind), torch.zeros(7, 3))).info["loss"] == "mse"
    assert spp.trace(OnGraph(), [graph(kind) for _ in range(3)]).info["batches"] == 3
    assert spp.trace(OnGraph(), (graph(kind) for _ in range(2))).info["batches"] == 2
    assert spp.trace(OnGraph(), [graph(Movable), graph(Movable)]).info["batches"] == 2


def loss_info(output_layer, loss, target, **options):
    """What a trace says of the graph of a loss, behind a network of four inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), *output_layer)
    return spp.trace(model, (torch.randn(8, 4), target), loss=loss, **options).info


CLASSES, FLOATS = torch.arange(8) % 3, torch.linspace(-2, 2, 24).reshape(8, 3)
GRAPHS = {
    "cross-entropy": ([], None, CLASSES, ["log_softmax", "nll_loss"], "cross_entropy", 1.0, ["addmm"]),
    "smoothed": (
        [],
        nn.CrossEntropyLoss(label_smoothing=0.1),
        CLASSES,
        ["log_softmax", "sum", "neg", "sum", "div", "mul", "nll_loss", "mul", "add"],
        "cross_entropy",
        1.0,
        ["addmm"],
    ),
    "of probabilities": (
        [nn.Softmax(1)],
        nn.CrossEntropyLoss(),
        FLOATS.softmax(1),
        ["log_softmax", "mul", "sum", "neg", "div"],
        "cross_entropy",
        1.0,
        ["softmax", "addmm"],
    ),
    "summed": (
        [],
        nn.CrossEntropyLoss(reduction="sum"),
        CLASSES,
        ["log_softmax", "nll_loss"],
        "cross_entropy",
        8.0,
        ["addmm"],
    ),
    "in the loss": (
        [],
        lambda output, target: -nn.functional.cross_entropy(output.softmax(1), target) / 4,
        CLASSES,
        ["softmax", "log_softmax", "nll_loss", "neg", "div"],
        "cross_entropy",
        -0.25,
        ["softmax", "addmm"],
    ),
    "by hand": (
        [nn.Tanh()],
        lambda output, target: (target - output).square().sum(1).mean(),
        FLOATS,
        ["sub", "pow", "sum", "mean"],
        "mse_loss",
        3.0,
        ["tanh", "addmm"],
    ),
    "the other way round": (
        [nn.Sigmoid()],
        lambda output, target: nn.functional.mse_loss(target, output).sqrt(),
        FLOATS,
        ["mse_loss", "sqrt"],
        "mse_loss",
        None,
        ["sigmoid", "addmm"],
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_between_output_and_loss(name):
    layers, loss, target, operations, criterion, factor, takes = GRAPHS[name]
    info = loss_info(layers, loss, target)
    assert info["loss_graph"] == operations and not info["loss_further"]
    (term,) = info["loss_terms"]
    assert (term["criterion"], term["takes"]) == (criterion, takes)
    assert term["factor"] == (factor if factor is None else pytest.approx(factor, rel=1e-6))
    wanted = {
        "distinct": len(target.unique()),
        "min": float(target.min()),
        "mean": pytest.approx(float(target.double().mean()), abs=1e-9),
    }
    assert {key: info["target"][key] for key in wanted} == wanted
    assert info["target"].get("classes") == (3 if criterion == "cross_entropy" else None)


def test_the_graph_of_a_loss_with_a_penalty_of_several_terms_and_of_none():
    weight = torch.zeros(3, requires_grad=True)
    further = loss_info(
        [], lambda output, target: nn.functional.mse_loss(output, target) + weight.square().sum(), FLOATS
    )
    assert further["loss_further"] and [term["criterion"] for term in further["loss_terms"]] == ["mse_loss"]
    several = loss_info([], lambda o, t: nn.functional.mse_loss(o, t) + nn.functional.l1_loss(o, t) * 0.5, FLOATS)
    assert {t["criterion"]: t["factor"] for t in several["loss_terms"]} == {"mse_loss": 1.0, "l1_loss": 0.5}
    probe = spp.trace(nn.Linear(4, 2), torch.randn(8, 4)).info
    assert "loss_graph" not in probe and "target" not in probe


def test_what_a_checkpoint_would_compute_again_is_not_asked_for():
    from torch.utils.checkpoint import checkpoint

    calls = []

    def counted(output, target):
        calls.append(len(calls))
        return nn.functional.cross_entropy(output, target)

    info = loss_info([], lambda *given: checkpoint(counted, *given, use_reentrant=False), CLASSES)
    # once forward, once for the backward; and the target is known from the batch
    assert len(calls) == 2 and info["target"]["distinct"] == 3
    assert info["loss_graph"] == ["log_softmax", "nll_loss"]

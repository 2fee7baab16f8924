"""Our networks are those of torchvision and timm: by fingerprint everywhere, tensor by tensor where they are installed."""

import json

import pytest
import torch

from spp import models
from spp.nn import gain
from tests import foreign
from tests.models.fingerprints import CLASSES, FILE, NETWORKS, SIDE, TIMM_NF, fill_, measure, ours, sample


def parameters(model):
    """Parameters by their order, scalars of residual blocks left out."""
    return [p for p in model.parameters() if p.ndim > 0]


@pytest.mark.parametrize("name", NETWORKS)
def test_fingerprint(name):
    expected = json.loads(FILE.read_text())[name]
    found = measure(fill_(ours(name)))
    assert set(found) == set(expected)
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, rel=1e-6, abs=1e-9 * max(map(abs, values))), key


def test_a_fingerprint_sees_one_weight():
    expected = json.loads(FILE.read_text())["resnet18"]
    model = fill_(ours("resnet18"))
    with torch.no_grad():
        model.stage3[1].conv1.weight[3, 2, 1, 0] += 0.1
    found = measure(model)
    assert found["train"] != pytest.approx(expected["train"], rel=1e-6)


def compare(one, other):
    """Outputs, gradients and, in evaluation, outputs by running statistics, of two networks of the same weights.

    In float32, since the very same operations come out the same; torch's float64 depthwise convolutions take minutes.
    """
    one, other = one.float(), other.float()
    with torch.no_grad():
        for a, b in zip(parameters(one), parameters(other), strict=True):
            assert a.numel() == b.numel()
            a.copy_(b.view_as(a))
    results = []
    for model in (one, other):
        x = sample().float().requires_grad_()
        out = model.train()(x)
        gradients = torch.autograd.grad(out.square().sum(), [x, *parameters(model)])
        with torch.no_grad():
            results.append((out, model.eval()(x), *gradients))
    for index, (a, b) in enumerate(zip(*results, strict=True)):
        error = (a.flatten() - b.flatten()).norm() / b.norm()
        assert error < 1e-5, f"tensor {index}: {error:.2e}"


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_the_other_librarys(name):
    theirs = fill_(NETWORKS[name][1]())
    compare(ours(name), theirs)


def test_nf_resnet_with_the_gain_in_the_activations(monkeypatch):
    """As in the paper's code and in our table; timm has an option for it, and constants that were sampled."""
    timm = foreign.timm()
    act = timm.models.nfnet.GammaAct
    # as written it scales ReLU's output in place, which ReLU's backward pass does not survive
    monkeypatch.setattr(act, "forward", lambda self, x: self.act_fn(x) * self.gamma)
    monkeypatch.setitem(timm.models.nfnet._nonlin_gamma, "relu", gain("relu"))
    theirs = fill_(timm.create_model("nf_resnet50", num_classes=CLASSES, gamma_in_act=True))
    changes = {**TIMM_NF, "norm_options": {"eps": 1e-5, "floor": 0.0}, "gain": None}
    model = models.build("nf_resnet50", num_classes=CLASSES, input_shape=(3, SIDE, SIDE), **changes)
    compare(model, theirs)

"""What a layer is comes from ``spp.layers``: layers of one kind get the same findings, whatever their class is called."""

import pytest
import torch
from torch import nn

import spp
from spp.diagnosis import View, find
from spp.diagnosis.view import Kind


class Conv1D(nn.Module):
    """GPT-2's Linear layer: the weight lies the other way round."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.nf = linear.out_features
        self.weight, self.bias = (
            nn.Parameter(linear.weight.detach().t().clone()),
            nn.Parameter(linear.bias.detach().clone()),
        )

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


def network(sick: str, twin: bool) -> nn.Module:
    """A plain network with one layer that is too large, or a dead one, or weights that are too small throughout."""
    torch.manual_seed(0)
    linears = [nn.Linear(64, 64) for _ in range(10)]
    with torch.no_grad():
        for i, linear in enumerate(linears):
            nn.init.normal_(linear.weight, std=((0.5 if sick == "vanishing" else 2) / 64) ** 0.5)
            linear.bias.zero_()
            linear.weight.mul_(20 if (sick, i) == ("cliff", 4) else 1)
            linear.bias.add_(-50 if (sick, i) == ("dead_layer", 4) else 0)
    layers = [Conv1D(linear) if twin else linear for linear in linears]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())), nn.Linear(64, 4))


@pytest.mark.parametrize("sick", ["cliff", "dead_layer", "vanishing"])
def test_conv1d_gets_the_findings_of_its_linear_twin(sick):
    one, other = (find(spp.trace(network(sick, twin), spp.data.gaussian(64, (64,), seed=0))) for twin in (False, True))
    assert one[0].rule == sick
    assert [(f.rule, f.severity, f.name) for f in one] == [(f.rule, f.severity, f.name) for f in other]
    assert [f.value for f in one] == pytest.approx([f.value for f in other], rel=1e-4)


def test_a_scaled_activation_is_an_activation():
    torch.manual_seed(0)
    model = spp.models.build("nf_resnet50", depths=(1, 1, 1, 1), widths=(8, 16, 32, 64))
    view = View(spp.trace(model, spp.data.gaussian(2, (3, 64, 64), seed=0)))
    kinds = {step.kind for step in view.steps if step.row.type == "ScaledActivation"}
    assert kinds == {Kind.ACTIVATION}

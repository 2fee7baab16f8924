"""Findings of numbers whose ratios a float64 cannot hold, and of facts that nobody told."""

import re
from html import escape

import pytest
import torch
from torch import nn

import spp


def deep(scales: list[float], loss: float = 1.0) -> spp.Run:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8, bias=False).double() for _ in scales]
    for layer, scale in zip(layers, scales, strict=True):
        layer.weight.data.mul_(scale)
    return spp.trace(nn.Sequential(*layers), torch.randn(16, 8).double(), loss=lambda out, _: loss * out.sum())


@pytest.mark.parametrize(
    ("scales", "loss"),
    [
        ([1.7] * 4 + [1e-154] + [1.7] * 4, 1e140),
        ([1e150, 1e-150] * 3, 1.0),
        ([1.7] * 3 + [1e-140, 1e140] + [1.7] * 3, 1e150),
        ([1.7] * 3 + [1e-75, 1e-75, 1e150] + [1.7] * 3, 1e75),
    ],
)
def test_a_ratio_beyond_float64_is_told(scales: list[float], loss: float) -> None:
    run = deep(scales, loss)
    told = " ".join(map(str, run.findings[["message", "evidence"]].to_numpy().ravel()))
    assert len(run.findings) and "inf" not in told.replace("infin", "")


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(self.before(x).detach())


@pytest.mark.parametrize("told", [None, 3, "x"])
def test_a_fact_that_is_no_list_is_as_none(told: object) -> None:
    run = spp.trace(Cut(), torch.randn(8, 4))
    run.info["signals"] = told
    assert "no_gradient" in run.findings["rule"].tolist() and "gets no gradient" in str(run)


def test_a_notebook_shows_what_is_printed() -> None:
    model = nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(8, 8), nn.ReLU())))
    run = spp.trace(model, spp.data.gaussian(4, (8,), seed=0))
    html, text = run._repr_html_(), str(run)
    rows = [line.split() for line in text.splitlines()[3 : 3 + len(run.components)]]
    assert [row[0] for row in rows] == run.components["name"].tolist()
    cells = re.findall("<td>([^<]*)</td>", html)
    assert [cell for cell in cells if cell] == [cell for row in rows for cell in row]
    assert all(escape(finding.message) in html and finding.message in text for finding in list(run.findings)[:5])


@pytest.mark.parametrize("junk", [3, True, 2.5, "text", [], ["text"], {}, {"a": 1}, [{"criterion": "mse_loss"}], None])
@pytest.mark.parametrize(
    "fact", ["loss_terms", "loss_graph", "target", "inputs", "optimizers", "optimizer", "not_optimized", "loss_value"]
)
def test_facts_of_another_form_say_nothing_to_a_rule(fact: str, junk: object) -> None:
    torch.manual_seed(0)
    run = spp.trace(nn.Linear(4, 3), (torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])))
    assert not run.findings.worst("warning")
    run.run[fact] = junk
    assert not spp.diagnose(run).worst("warning")

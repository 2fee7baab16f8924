"""Networks of many layers: what adds up over them, and medians of all but one."""

import numpy as np
import pytest
import torch
from torch import nn

import spp
from spp.diagnosis.view import median_without


class Gate(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.fc, self.act = nn.Linear(4, 1), nn.Sigmoid()
        nn.init.constant_(self.fc.bias, bias)

    def forward(self, x):
        return x * self.act(self.fc(x))


class Gated(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.linear, self.gate = nn.Linear(4, 4), Gate(bias)

    def forward(self, x):
        return x + self.gate(self.linear(x))


@pytest.mark.parametrize("blocks", [2, 40])
def test_factors_of_many_layers_may_be_more_than_a_float_holds(blocks):
    torch.manual_seed(0)
    run = spp.trace(nn.Sequential(*(Gated(-20.0) for _ in range(blocks))), torch.randn(3, 4))
    told = next(finding.message for finding in run.findings if finding.rule == "se_gates")
    assert f"{blocks} gates (Gate) take ÷" in told
    assert "inf" not in told and "sigmoid starts" not in told
    str(run)


@pytest.mark.parametrize("count", range(2, 12))
def test_a_median_without_one_is_that_of_the_others(count):
    generator = np.random.default_rng(count)
    for _ in range(50):
        values = np.round(generator.normal(size=count), 1)
        values[generator.random(count) < 0.05] = np.nan
        for i, value in enumerate(values):
            found, expected = median_without(np.sort(values), value), np.median(np.delete(values, i))
            assert found == expected or (np.isnan(found) and np.isnan(expected))

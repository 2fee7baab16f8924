"""Layers that run in some batches and not in others: several calls have one depth, and each stands at a place of its own."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import spp
from spp.diagnosis.main_path import component_table
from spp.plot import FIGURES, Request


class Experts(nn.Module):
    """An expert for batches of three, another for those of five, and a layer that small batches skip."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.other, self.extra, self.head = (nn.Linear(4, 4) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = (self.first if len(x) == 3 else self.other)(self.stem(x))
        return self.head(x if len(x) == 3 else self.extra(x))


@pytest.fixture(scope="module")
def run() -> spp.Run:
    return spp.trace(Experts(), [(torch.randn(n, 4),) for n in (3, 5)], channels=True, exponents=True)


def drawn(kind: str, run: spp.Run, frame: pd.DataFrame, **options: object) -> Any:
    return FIGURES[kind](Request(frame=frame, blocks=run.blocks, run=run.info, **options)).grid


def test_two_calls_of_one_depth_are_two_layers(run):
    depths = run.frame[(run.frame["signal"] == "activation") & run.frame["leaf"]].set_index("name")["depth"]
    assert depths["first"] == depths["other"]
    ((panel,),) = drawn("layers", run, run.frame, signals="activation", statistics="acsm")
    # of one depth in the order of their first batches
    assert dict(zip(panel.names, panel.x, strict=True)) == {
        "stem": 0,
        "first": 1,
        "other": 2,
        "head": 3,
        "extra": 4,
    }


def test_a_prediction_is_that_of_its_own_call(run):
    of_activations = run.frame["signal"] == "activation"
    frame = run.frame.assign(gradient_predicted=np.arange(1.0, len(run.frame) + 1)).assign(
        gradient_predicted=lambda table: table["gradient_predicted"].where(of_activations)
    )
    (panel,), _ = drawn("theory", run, frame, signals="gradient")
    predicted = panel.curves[1]
    wanted = frame[of_activations & frame["leaf"]].set_index("name")["gradient_predicted"]
    assert len(predicted.names) == 5
    assert list(predicted.y) == [wanted[name] for name in predicted.names]


def test_everything_is_drawn(run, tmp_path):
    for kind in ("layers", "channels"):
        assert run.plot(kind).save(tmp_path / f"{kind}.png").stat().st_size
    assert run.report(tmp_path / "report.html").stat().st_size
    assert spp.compare([run, run]).plot().save(tmp_path / "compare.png").stat().st_size


def test_the_layers_of_a_watch_that_evaluates_are_those_of_its_training():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        for _ in range(2):
            with torch.no_grad():
                # a hundred times as large
                model.eval()(100 * x)
            optimizer.zero_grad()
            model.train()(x).square().sum().backward()
            optimizer.step()
    assert set(watch.frame.loc[watch.frame["step"] == 1, "mode"]) == {"train", "eval"}
    training = watch.frame[watch.frame["mode"] == "train"]
    assert len(watch.components) == 3
    pd.testing.assert_frame_equal(watch.components, component_table(training, watch.blocks))
    alone = spp.Run(training, watch.blocks, watch.modules, watch.unmeasured, watch.info)
    assert str(watch.findings) == str(alone.findings)

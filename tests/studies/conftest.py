"""A study small enough for tests, and real: it traces networks drawn from seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import spp
from spp.plot import SignalPlot
from spp.studies import STUDIES, Cell, Claim, Outcome, Results, Setup, Study, Verdict
from spp.studies.trials import drawn, traced

MEASURED: list[str] = []
"""Cells that this process has measured."""


def cells(setup: Setup) -> list[Cell]:
    return [Cell.of(norm=norm, seed=seed) for norm in ("none", "batch") for seed in setup.seed_list(2)]


def measure(cell: Cell, setup: Setup) -> dict[str, pd.DataFrame]:
    MEASURED.append(str(cell))
    model = drawn(lambda: spp.models.build("ffn", norm=cell["norm"], depth=3, width=16, input_shape=(8,)), cell["seed"])
    return traced(model, spp.data.gaussian(16, (8,), seed=cell["seed"]), setup)


def judge(results: Results, setup: Setup) -> Verdict:
    signals = results.of("signals", norm="batch", type="BatchNorm1d", signal="activation")
    variance = float(signals["var"].mean())
    outcome = Outcome.CONFIRMED if variance < 2 else Outcome.REFUTED
    return Verdict(outcome, f"The mean variance is {variance:.3f}.", {"variance": variance})


def tables(results: Results, setup: Setup) -> dict[str, pd.DataFrame]:
    return {"table": results["signals"].groupby("norm", as_index=False)["mean_square"].mean()}


CLAIM = Claim(
    "T1", "BatchNorm gives unit variance.", "Ioffe & Szegedy (2015)", "confirmed below 2, else refuted", judge
)
TINY = Study(
    name="tiny",
    title="A tiny study",
    source="nobody",
    question="Does it run?",
    arrangement=lambda setup: ["two networks"],
    claims=(CLAIM,),
    cells=cells,
    measure=measure,
    tables=tables,
)


@contextmanager
def registered(study: Study) -> Iterator[None]:
    """The study is known by its name."""
    STUDIES.register(study.name, study)
    try:
        yield
    finally:
        STUDIES.unregister(study.name)


@pytest.fixture(autouse=True)
def _as_in_every_cell() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn as PNG alone, and their PDFs are empty: both are drawn in one study, and in the tests of plots."""
    save = SignalPlot.save

    def png(figure: SignalPlot, path: Path, **options: Any) -> None:
        path.touch() if path.suffix == ".pdf" else save(figure, path, **options)

    monkeypatch.setattr(SignalPlot, "save", png)


@pytest.fixture
def tiny() -> Study:
    MEASURED.clear()
    return TINY

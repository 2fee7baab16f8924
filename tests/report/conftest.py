"""Traces to report on: a real one of a residual network, a hostile one, and one of thousands of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import spp
from spp.diagnosis import Finding, Severity
from spp.diagnosis.findings import build_findings
from spp.vocabulary import Signal

NASTY = "</script><img src=x onerror=alert(1)>&\"'<!--"
"""A module name that would break out of a page that writes it as it is; torch forbids only dots and empty names."""


@dataclass
class Tables:
    """What a report is written from."""

    frame: pd.DataFrame
    blocks: pd.DataFrame
    modules: pd.DataFrame
    unmeasured: pd.DataFrame
    run: dict[str, Any]
    findings: pd.DataFrame | None = None

    @classmethod
    def of(cls, trace: spp.Trace, **run: Any) -> Tables:
        return cls(trace.frame, trace.blocks, trace.modules, trace.unmeasured, trace.run | run)

    def html(self) -> str:
        from spp import report

        return report.html(**self.__dict__)

    def write(self, path: Path) -> Path:
        from spp import report

        return report.write(path, **self.__dict__)


@pytest.fixture(scope="session")
def residual() -> Tables:
    """A residual network of 18 layers, with merges and all four signals."""
    torch.manual_seed(0)
    model = spp.models.build("resnet18_cifar", norm="batch")
    trace = spp.trace(model, spp.data.gaussian(2, (3, 16, 16), seed=0))
    return Tables.of(trace, model="resnet18_cifar", norm="batch", data="gaussian", input_shape=[3, 16, 16])


@pytest.fixture(scope="session")
def hostile() -> Tables:
    """A network with names that are markup, a NaN, exact zeros, an infinity, and a module that never runs."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("first", nn.Linear(4, 4))
    model.add_module(NASTY, nn.Linear(4, 4))
    model.add_module("zeros", nn.Threshold(1e9, 0.0))
    model.add_module("last", nn.Linear(4, 2))
    model.add_module("unused", nn.Identity())
    model.get_submodule("last").weight.data[0, 0] = float("nan")  # type: ignore[union-attr]
    model.get_submodule("first").bias.data[1] = float("inf")  # type: ignore[union-attr]
    model.forward = lambda x: model[3](model[2](model[1](model[0](x))))  # type: ignore[method-assign]
    trace = spp.trace(model, torch.randn(8, 4))
    return Tables.of(trace, model=NASTY, norm=None, note=NASTY, argv=["analyze", "--model", NASTY])


@pytest.fixture(scope="session")
def large(residual: Tables) -> Tables:
    """5,000 rows: the residual network's, over and over, as ever deeper layers."""
    once = residual.frame
    copies = -(-5000 // len(once))
    parts = []
    for copy in range(copies):
        part = once.copy()
        part["name"] = [f"part{copy:02}.{name}" if name else f"part{copy:02}" for name in part["name"]]
        part["depth"] = part["depth"] + copy * (int(once["depth"].max()) + 1)
        part[["acv", "acsm", "mean_square", "var"]] *= 0.5**copy
        part["block"] = None
        parts.append(part)
    frame = pd.concat(parts, ignore_index=True).iloc[:5000].astype(once.dtypes)
    return Tables(frame, residual.blocks, residual.modules, residual.unmeasured, residual.run)


@pytest.fixture(scope="session")
def findings() -> pd.DataFrame:
    """Findings as ``spp.diagnose`` makes them, one of each severity."""
    return build_findings(
        [
            Finding(
                severity=Severity.ERROR,
                rule="vanishing",
                name="last",
                depth=3,
                signal=Signal.ACTIVATION,
                statistic="decades per layer",
                value=-0.18227,
                expected="slower than <2>",
                message="The signal dies: by 1e-9. Most of it at last.",
                remedy="`--init he`.",
                evidence="last 0.0526",
            ),
            Finding(severity=Severity.WARNING, rule="mean_shift", name="zeros", message="The mean dominates."),
            Finding(severity=Severity.NOTE, rule="of_my_own", name="", message="All <b>else</b> is fine."),
        ]
    )


class Page(HTMLParser):
    """A page as a browser's parser sees it: elements with their attributes, and the text of each ``script`` by its id."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.words: list[str] = []
        self._script: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or f"script{len(self.scripts)}"
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.words.append(data)
        else:
            self.scripts[self._script] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def having(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]


@pytest.fixture
def parsed() -> Callable[[str], Page]:
    return Page


@pytest.fixture
def nasty() -> str:
    return NASTY

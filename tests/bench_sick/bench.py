"""Runs the bench: what the diagnosis says first of every sick network, and what it says of the healthy ones; writes tables."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import spp
from spp.diagnosis import Finding, Severity, find
from tests.bench_sick.patients import Patient


@dataclass(frozen=True)
class Verdict:
    """What the diagnosis said of one patient.

    Attributes:
        patient: Who was examined.
        first: The first finding, or None.
        longest: The longest message of all findings.
    """

    patient: Patient
    first: Finding | None
    longest: str = ""

    @property
    def right(self) -> bool:
        """Whether the first finding names the disease and the leaf."""
        return self.first is not None and self.patient.answers(self.first)

    @property
    def row(self) -> str:
        """A line of the table in the documentation."""
        said = (
            "nothing" if self.first is None else f"{self.first.severity}: `{self.first.rule}` {where(self.first.name)}"
        )
        planted = f"`{self.patient.rule}` {where(self.patient.name)}"
        return f"| {self.patient.disease} | {planted} | {'right' if self.right else 'wrong'}, {said} |"


def where(name: str) -> str:
    """``at `conv3` ``, or that it is the whole network."""
    return f"at `{name}`" if name else "everywhere"


def examine(make: Callable[[], tuple[Any, ...]], **options: Any) -> list[Finding]:
    """The findings about a network made with seed 0, on one thread: networks this small run no faster on two."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # not ours: torchvision's about options of its own, torch's about a backward of nothing
        model, batch, *loss = make()
        return find(spp.trace(model, batch, **dict(zip(("loss",), loss, strict=False)) | options))


def judge(patient: Patient) -> Verdict:
    """The first finding about a patient."""
    found = examine(patient.make, **patient.options)
    longest = max((finding.message for finding in found), key=lambda message: len(message.split()), default="")
    return Verdict(patient, found[0] if found else None, longest)


def health(name: str, found: list[Finding]) -> str:
    """A line of the table of healthy networks."""
    worst = [finding for finding in found if finding.severity is not Severity.NOTE]
    notes = ", ".join(f"`{finding.rule}`" for finding in found if finding.severity is Severity.NOTE)
    said = ", ".join(f"{finding.severity}: `{finding.rule}` {where(finding.name)}" for finding in worst)
    return f"| {name} | {said or 'nothing'} | {notes or 'none'} |"


def put(page: Path, tables: dict[str, list[str]]) -> None:
    """Write rows into the tables of a page: each stands behind a comment with its name."""
    text = page.read_text()
    for name, rows in tables.items():
        body = "\n".join(rows) + "\n"
        text = re.sub(rf"(<!-- {name} -->\n\|.*\n\|.*\n)(?:\|.*\n)*", lambda m, body=body: m[1] + body, text)
    page.write_text(text)

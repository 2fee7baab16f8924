"""Results made by hand, and what a study's judges say of them."""

from __future__ import annotations

from spp.studies import Cell, Outcome, Results, Setup, Study
from spp.studies.study import Tables


def results(*cells: tuple[Cell, Tables]) -> Results:
    """What those cells would have measured."""
    return Results(tuple(cell for cell, _ in cells), dict(cells), {cell: 1.0 for cell, _ in cells})


def verdict(study: Study, name: str, *cells: tuple[Cell, Tables], setup: Setup | None = None) -> Outcome:
    """The outcome of the claim called ``name``; what was found is a sentence."""
    (claim,) = (claim for claim in study.claims if claim.name == name)
    found = claim.judge(results(*cells), setup or Setup())
    assert found.found.endswith(".")
    return found.outcome

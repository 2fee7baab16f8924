"""How findings put numbers and names into words."""

from __future__ import annotations

from collections.abc import Sequence


def factor(decades: float) -> str:
    """A ratio given by its log10, as ``3.2-fold`` or ``4.1e+09-fold``."""
    value = 10 ** abs(decades)
    return f"{value:.2g}-fold" if value >= 1e5 else f"{value:,.1f}-fold" if value < 100 else f"{value:,.0f}-fold"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share in percent, three digits."""
    return f"{100 * share:.3g} %"


def count(n: int, noun: str) -> str:
    """``1 layer``, ``3 layers``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def some(names: Sequence[str], most: int = 8) -> str:
    """The names, the first ones of many."""
    shown = ", ".join(name or "the model" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def quoted(name: str) -> str:
    """A module's name for a sentence."""
    return name or "the model itself"

"""Values that are no numbers: where NaN or infinity first appears, and what fed it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from spp.diagnosis.findings import EVERYTHING, Finding
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Key, View
from spp.diagnosis.words import count, number, percent, quoted
from spp.frame.schema import Column
from spp.vocabulary import Severity, Signal


@rule(
    "nonfinite",
    "NaN or infinity, in the first weight, activation or gradient that holds any",
    source="arithmetic: every number behind it is doubtful",
)
def nonfinite(view: View, at: Any) -> Iterator[Finding]:
    """The first non-finite values in the direction the signal travels: weights, then activations, then gradients."""
    bad = view.frame[view.frame[Column.NONFINITE] > 0]
    if bad.empty:
        return
    weights = [row for row in view.weights.values() if row.nonfinite]
    activations = _leaves_first(row for row in view.activations.values() if row.nonfinite)
    gradients = _leaves_first(row for row in reversed(view.gradients.values()) if row.nonfinite)
    if weights:
        first = min(weights, key=lambda row: row.depth if row.depth == row.depth and row.depth is not None else 1 << 60)
        where = f"{first.name}.{first.output}"
        yield _finding(
            first,
            Signal.WEIGHT,
            f"The parameter {where} holds NaN or infinity",
            len(activations),
            "Load or initialize it again; look at the step that wrote it.",
        )
    elif activations:
        first = activations[0]
        fed = view.fed(Key(str(first.name), int(first.call)))
        yield _finding(
            first,
            Signal.ACTIVATION,
            f"NaN or infinity first appears in {quoted(first.name)}, {_fed(view, fed)}",
            len(activations) - 1,
            _remedy(first, fed),
        )
    elif gradients:
        first = gradients[0]
        takers = view.takers(Key(str(first.name), int(first.call)))
        maker = takers[0].row if takers else first
        where = "of what it takes" if takers else "at its output"
        yield _finding(
            first,
            Signal.GRADIENT,
            f"Activations are finite; going backwards, NaN or infinity first appears at {quoted(maker.name)}, in the "
            f"gradient {where}",
            len(gradients) - 1,
            _gradient_remedy(first),
            maker,
        )


def _finding(row: Any, signal: Signal, what: str, after: int, remedy: str, maker: Any = None) -> Finding:
    also = f"; {count(after, 'further layer')} after it" if after else ""
    share = row.nonfinite / row.numel
    maker = row if maker is None else maker
    return Finding(
        severity=Severity.ERROR,
        name=str(maker.name),
        depth=_depth(maker),
        signal=signal,
        statistic=str(Column.NONFINITE),
        value=float(row.nonfinite),
        expected="0",
        message=f"{what} ({percent(share)} of its values{also}).",
        remedy=remedy,
        evidence=f"{row.dtype}; largest finite magnitude {number(row.abs_max)}",
        explains=(EVERYTHING,),
    )


def _leaves_first(rows: Iterable[Any]) -> list[Any]:
    """Leaves where any are among them: a container holds what its leaves gave."""
    every = list(rows)
    leaves = [row for row in every if row.leaf]
    return leaves or every


def _fed(view: View, fed: tuple[Key, ...]) -> str:
    rows = [view.activations[key] for key in fed if key in view.activations]
    if not rows:
        return "which is fed from outside: by the batch, or by functions that no module announces"
    what = ", ".join(f"{quoted(row.name)} (finite, at most {number(row.abs_max)} in magnitude)" for row in rows)
    return f"fed by {what}"


def _remedy(row: Any, fed: tuple[Key, ...]) -> str:
    if row.dtype == "float16":
        return (
            "Its float16 range ends at 65504: compute this layer in float32 or bfloat16, or scale down what it takes."
        )
    return "Look at this layer: its own arithmetic makes them." if fed else "Check the batch with torch.isfinite first."


def _gradient_remedy(row: Any) -> str:
    if row.dtype == "float16":
        return "Lower the loss scale, or compute this layer's backward in float32."
    return "Look at the derivative just behind it: a square root or division at 0, a logarithm, a norm of zeros."


def _depth(row: Any) -> int | None:
    return int(row.depth) if row.depth is not None and row.depth == row.depth else None

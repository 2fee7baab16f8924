"""Number formats: what float16, bfloat16 and the two fp8 would flush to zero or overflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spp.diagnosis.findings import Finding
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Key, View, records
from spp.diagnosis.words import count, number, percent, some
from spp.frame.precision import lost_shares
from spp.stats.extra import FORMATS
from spp.vocabulary import Severity, Signal

LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "fp8-e4m3": 448.0, "fp8-e5m2": 57344.0}


@rule(
    "number_format",
    "values that float16, bfloat16, fp8-e4m3 or fp8-e5m2 would flush to zero or overflow",
    thresholds={
        "flushed": (0.5, "share of a tensor's values: half of what it says is gone"),
        "headroom": (4.0, "the largest value times this still fits: loss spikes of early training stay below"),
    },
    source="IEEE 754; Micikevicius et al. 2022, arXiv 2209.05433; Micikevicius et al. 2018, arXiv 1710.03740 (loss scaling)",
)
def number_format(view: View, at: Any) -> Iterator[Finding]:
    """Exact shares where the trace counted powers of two; else by the largest magnitude and the rms.

    The only rule with absolute limits: a format has them. Formats asked about (``precision=``), and those the run used,
    give warnings and errors; of the others float16 alone is told, as information.
    """
    used = {str(row.dtype) for row in view.activations.values()}
    asked = set(view.precision) | (used & {"float16", "bfloat16"})
    for name in FORMATS:
        if name in asked or name == "float16":
            yield from _of_format(view, at, name, asked=name in asked)


def _of_format(view: View, at: Any, name: str, *, asked: bool) -> Iterator[Finding]:
    for signal, rows in (
        (Signal.ACTIVATION, _leaves(view, view.activations)),
        (Signal.GRADIENT, _leaves(view, view.gradients)),
    ):
        tight = [row for row in rows if row.abs_max * at.headroom > LARGEST[name]]
        over = [row for row in tight if asked or row.abs_max > LARGEST[name]]
        if over:
            worst = max(over, key=lambda row: row.abs_max)
            beyond = worst.abs_max > LARGEST[name]
            yield Finding(
                severity=(Severity.ERROR if beyond else Severity.WARNING) if asked else Severity.NOTE,
                name=str(worst.name),
                depth=int(worst.depth),
                signal=signal,
                statistic="abs_max",
                value=float(worst.abs_max),
                expected=f"below {number(LARGEST[name] / at.headroom)}",
                message=f"{name} {'overflows' if beyond else 'is nearly full'} in {count(len(over), signal)}"
                f"{'' if len(over) == 1 else 's'}: {worst.name} reaches {number(worst.abs_max)}, {name} ends at "
                f"{number(LARGEST[name])}.",
                remedy="Use bfloat16, or keep these layers in float32.",
                evidence=some([f"{row.name} ({number(row.abs_max)})" for row in over]),
            )
        flushed = _flushed(view, name, signal, rows, at.flushed)
        if flushed:
            worst, share = max(flushed, key=lambda pair: pair[1])
            yield Finding(
                severity=Severity.WARNING if asked else Severity.NOTE,
                name=str(worst.name),
                depth=int(worst.depth),
                signal=signal,
                statistic="flushed",
                value=share,
                expected=f"below {at.flushed:g}",
                message=f"{name} would flush {percent(share)} or more of the {signal} at {worst.name} to zero (rms "
                f"{number(worst.rms)})"
                + (f", and more than half in {count(len(flushed) - 1, 'further layer')}." if len(flushed) > 1 else "."),
                remedy="Scale the loss by a power of two (torch.amp.GradScaler), or use bfloat16."
                if signal is Signal.GRADIENT
                else "Use bfloat16, or cure what makes the signal so small.",
                evidence=some([f"{row.name} ({percent(s)})" for row, s in flushed]),
            )


def _leaves(view: View, rows: dict[Key, Any]) -> list[Any]:
    return [row for row in rows.values() if row.leaf and row.abs_max == row.abs_max]


def _flushed(view: View, name: str, signal: Signal, rows: list[Any], least: float) -> list[tuple[Any, float]]:
    """Rows of which at least ``least`` is lost, with the share.

    Without a histogram those whose rms is too small for half of a normal distribution to survive: a normal has half of its
    values below 0.67 of its rms.
    """
    if not view.exponents.empty:
        shares = lost_shares(view.exponents, name)
        known = {(str(s.name), int(s.call)): float(s.flushed) for s in records(shares) if s.signal == signal}
        return [(row, s) for row in rows if (s := known.get((str(row.name), int(row.call)), 0.0)) >= least]
    limit = 2.0 ** FORMATS[name].flush
    return [(row, 0.5) for row in rows if 0 < 0.67 * row.rms < limit]

"""Two runs side by side: did a layer's signal move by more than another seed would move it?

What is compared is the log of the rms of every leaf's (and residual block's) activation, gradient, weight and weight gradient.
Allowed is the given tolerance, or the seed spread times what the largest of so many normal deviations stays below in 99 of 100
comparisons, where that is more. The spread is known

- to be nothing, where both runs have the same seed;
- from further runs of the baseline with other seeds, where they are given: each layer's own deviation over them, drawn
  towards that of all layers (or the rule below, where that is more) by four degrees of freedom, since few seeds give a rough
  deviation, and the same one for all layers that lie behind each other;
- else from the finite-width rule: a layer of ``n`` inputs adds a log-variance of about ``5/n`` to the second moment (Hanin &
  Rolnick 2018, arXiv 1803.01719), which the next norm takes away but for ``1/n``; ``N`` weights drawn anew have one of ``2/N``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from spp.diagnosis.view import Kind, Measured, View
from spp.errors import InputError
from spp.frame.schema import BlockColumn, Column, last_step
from spp.vocabulary import Signal

KEY = [str(c) for c in (Column.SIGNAL, Column.NAME, Column.CALL, Column.OUTPUT)]
# Relative change of an rms that is always allowed: far above what other kernels or devices do to a sum, far below a seed.
TOLERANCE = 0.01
# Share of comparisons of two seeds of the same network in which any layer may seem to have moved.
FALSE_ALARMS = 0.01
# Degrees of freedom by which a layer's own spread over seeds is drawn towards that of all layers.
PRIOR = 4
# Facts of a run that are told where two runs differ in them; times, versions and paths are not.
FACTS = (
    *("model", "norm", "activation", "init", "residual", "se", "data", "input_shape", "batch_size", "batches"),
    *("seed", "loss", "training", "dtype", "device"),
)
# What a layer of width n adds to the variance of the natural log of the second moment over seeds, times n.
LOG_VARIANCE = 5.0


@dataclass(frozen=True, slots=True)
class Regression:
    """What became of each layer.

    Attributes:
        layers: One row per compared tensor: ``signal``, ``name``, ``call``, ``output``, ``depth``, ``type``, ``baseline`` and
            ``now`` (rms; of several baseline runs the geometric mean), ``change`` (now / baseline - 1), ``allowed`` (the
            largest change that is none) and ``moved``.
        missing: Tensors of the baseline that the run does not have, as ``signal name``.
        added: Tensors that the baseline does not have.
        differing: Facts in which the runs differ, as ``seed: 0 -> 1``.
        spread: Where the seed spread comes from: ``none``, ``seeds`` or ``width``.
    """

    layers: pd.DataFrame
    missing: tuple[str, ...]
    added: tuple[str, ...]
    differing: tuple[str, ...]
    spread: str

    @property
    def moved(self) -> pd.DataFrame:
        """The rows that moved, in the order of execution."""
        return self.layers[self.layers["moved"]]

    @property
    def same(self) -> bool:
        """Whether nothing moved, went or came."""
        return not (self.layers["moved"].any() or self.missing or self.added)


def compare(
    run: Measured, baseline: Measured, *, seeds: Sequence[Measured] = (), tolerance: float = TOLERANCE
) -> Regression:
    """Compare a run with its baseline, layer by layer.

    Args:
        run: What is new.
        baseline: What it should be like.
        seeds: Further runs of the baseline with other seeds, which tell the seed spread.
        tolerance: Relative change of an rms that is allowed in any case.

    Raises:
        InputError: The tolerance is not positive, or the runs have no tensor in common.
    """
    if not tolerance > 0:
        raise InputError("a tolerance is positive", received=str(tolerance), where="tolerance")
    now, known = _logs(run), [_logs(b) for b in (baseline, *seeds)]
    common = now.index.intersection(known[0].index)
    if common.empty:
        remedy = "Compare runs of the same network."
        raise InputError("a check needs runs with layers in common", received="none", where="baseline", remedy=remedy)
    table = pd.concat([one.reindex(common) for one in known], axis=1)
    centre, count = table.mean(axis=1), table.notna().sum(axis=1)
    source, spread = _spread(run, baseline, table, common)
    errors = NormalDist().inv_cdf(1 - FALSE_ALARMS / 2 / len(common))
    error = errors * spread * np.sqrt(1 + 1 / count)
    allowed = np.maximum(np.log1p(tolerance), error)
    change = now[common] - centre
    # Infinity less infinity is NaN, though nothing moved.
    change = change.where(~(np.isneginf(now[common]) & np.isneginf(centre)), 0.0)
    vanished = np.isneginf(now[common]) ^ np.isneginf(centre)
    moved = (change.abs() > allowed).fillna(False) | vanished | (now[common].isna() ^ centre.isna())
    facts = _rows(run)[[str(Column.DEPTH), str(Column.TYPE)]].loc[common]
    layers = facts.assign(
        baseline=np.exp(centre),
        now=np.exp(now[common]),
        change=np.expm1(change.where(~vanished, np.inf)),
        allowed=np.expm1(allowed),
        moved=moved,
    ).reset_index()
    told = [(key, baseline.run.get(key), run.run.get(key)) for key in FACTS]
    return Regression(
        layers=layers,
        missing=_names(known[0].index.difference(now.index, sort=False)),
        added=_names(now.index.difference(known[0].index, sort=False)),
        differing=tuple(f"{key}: {old} -> {new}" for key, old, new in told if old != new),
        spread=source,
    )


def _rows(trace: Measured) -> pd.DataFrame:
    """Leaves, residual blocks and parameters, one step, in the order of the frame."""
    frame = last_step(trace.frame)
    blocks = set(trace.blocks[BlockColumn.BLOCK].astype(str))
    weights = frame[Column.SIGNAL].isin([str(Signal.WEIGHT), str(Signal.WEIGHT_GRADIENT)])
    kept = frame[frame[Column.LEAF] | weights | frame[Column.NAME].isin(blocks)]
    rows: pd.DataFrame = kept.assign(**{str(Column.SIGNAL): kept[Column.SIGNAL].astype(str)}).set_index(KEY)
    return rows


def _logs(trace: Measured) -> pd.Series:
    """Natural log of the rms; NaN where a tensor holds anything that is not finite, so that it equals nothing."""
    rows = _rows(trace)
    # An exact zero becomes minus infinity, which equals itself.
    with np.errstate(divide="ignore"):
        logs = pd.Series(np.log(rows[Column.RMS].to_numpy(dtype=np.float64)), index=rows.index)
    return logs.where(rows[Column.NONFINITE] == 0)


def _spread(run: Measured, baseline: Measured, table: pd.DataFrame, common: pd.Index) -> tuple[str, pd.Series]:
    """Where the seed spread comes from, and the standard deviation of the log rms over seeds of each tensor."""
    if table.shape[1] > 1:
        variance = table.replace(-np.inf, np.nan).var(axis=1, ddof=1)
        usual = np.maximum(variance.groupby(level=0).transform("mean").fillna(0.0), _by_width(baseline, common) ** 2)
        free = table.shape[1] - 1
        drawn = (free * variance.fillna(0.0) + PRIOR * usual) / (free + PRIOR)
        # Student's t is wider than a normal.
        return "seeds", np.sqrt(drawn * (free + PRIOR) / (free + PRIOR - 2))
    if run.run.get("seed") == baseline.run.get("seed"):
        return "none", pd.Series(0.0, index=common)
    return "width", _by_width(baseline, common)


def _by_width(trace: Measured, common: pd.Index) -> pd.Series:
    """The finite-width rule, added up along the network; halved, since the rms is the root of the second moment."""
    view = View(trace)
    sums: dict[tuple[str, int], float] = {}
    total = everything = 0.0
    for step in view.steps:
        # Weighted steps are those whose fan_in is known.
        own = LOG_VARIANCE / view.facts[step.name].fan_in if step.is_weighted else 0.0
        total = own + (1 / int(step.row.channels) if step.kind is Kind.NORM else total)
        everything += own
        sums[step.key] = total
    found = []
    numel = _rows(trace)[Column.NUMEL]
    for signal, name, call, output in common:
        fresh = 2 / float(numel[signal, name, call, output])
        if signal == Signal.WEIGHT:
            variance = fresh
        elif signal == Signal.ACTIVATION:
            variance = sums.get((name, call), everything) + fresh
        else:
            # A gradient has come through every layer behind, and depends on the activations before.
            variance = 2 * everything + fresh
        found.append(0.5 * np.sqrt(variance))
    return pd.Series(found, index=common)


def _names(index: pd.Index) -> tuple[str, ...]:
    return tuple(
        f"{signal} {'.'.join(p for p in (name, output) if p) or 'the model'}" for signal, name, _, output in index
    )

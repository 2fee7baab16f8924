"""Frames that conform to the schema, with the curve one asks for: collapses, holes, repeated calls, thousands of layers."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from spp.frame.schema import BLOCK_COLUMNS, COLUMNS, STATISTICS, BlockColumn, Column, Spec, check
from spp.layers import kind_of_name
from spp.plot import FIGURES, Request
from spp.plot.panels import Points
from spp.vocabulary import Signal

RUN = {
    "model": "testnet",
    "norm": "none",
    "init": "he",
    "activation": "relu",
    "data": "gaussian",
    "batch_size": 32,
    "input_shape": (3, 32, 32),
    "seed": 7,
    "parameters": 123456,
    "loss": "probe",
}

Curve = Callable[[np.ndarray], np.ndarray]


def _typed(rows: list[dict[str, object]], columns: dict[Column, Spec] | dict[BlockColumn, Spec]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[str(column) for column in columns])
    for column, spec in columns.items():
        values = table[column]
        if spec.dtype == "category":
            table[column] = pd.Categorical(values, categories=list(spec.categories) or None)
        elif spec.dtype == "float64":
            table[column] = values.astype(object).where(values.notna(), np.nan).astype("float64")
        else:
            table[column] = values.astype(spec.dtype)
    return check(table, columns)


def row(depth: int | None, name: str, signal: Signal, acsm: float, acv: float, **changes: object) -> dict[str, object]:
    """One row of the frame; what is not said is plausible."""
    values: dict[str, object] = {str(column): np.nan for column in STATISTICS}
    values |= {"mean_square": acsm + acv, "acsm": acsm, "acv": acv, "mean": np.sqrt(abs(acsm)), "nonfinite": 0}
    values |= {"step": 0, "depth": depth, "name": name, "call": 0, "output": "", "type": "Conv2d", "leaf": True}
    values |= {"signal": signal, "role": None, "block": None, "shape": "32x8x4x4", "dtype": "float32"}
    values |= {"channels": 8, "numel": 4096}
    values |= changes
    return {"kind": str(kind_of_name(str(values["type"]))), **values}


def frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    return _typed(rows, COLUMNS)


def residual_names(stages: Sequence[int] = (3, 4, 6, 3)) -> list[tuple[str, str]]:
    """Leaf names and types of a residual network with a stem and a head."""
    named = [("stem.conv", "Conv2d"), ("stem.norm", "BatchNorm2d"), ("stem.act", "ReLU")]
    for stage, count in enumerate(stages, start=1):
        for block in range(count):
            for i in (1, 2, 3):
                named += [
                    (f"stage{stage}.{block}.{part}{i}", kind)
                    for part, kind in (("conv", "Conv2d"), ("norm", "BatchNorm2d"), ("act", "ReLU"))
                ]
    return [*named, ("head.pool", "AdaptiveAvgPool2d"), ("head.fc", "Linear")]


def network(
    curve: Curve,
    *,
    named: Sequence[tuple[str, str]] | None = None,
    signals: Sequence[Signal] = (Signal.ACTIVATION, Signal.WEIGHT, Signal.GRADIENT),
    steps: Sequence[int] = (0,),
) -> pd.DataFrame:
    """A network whose ACV at the relative depth t in [0, 1] is ``curve(t)`` and whose ACSM is half of that."""
    named = residual_names() if named is None else named
    values = curve(np.linspace(0.0, 1.0, len(named)))
    rows = []
    for step in steps:
        for signal in signals:
            for depth, ((name, kind), value) in enumerate(zip(named, values, strict=True)):
                common: dict[str, object] = {"type": kind, "step": step}
                if signal in (Signal.WEIGHT, Signal.WEIGHT_GRADIENT):
                    if kind in ("Conv2d", "Linear"):
                        rows.append(row(depth, name, signal, 1e-6, 0.02, output="weight", shape="8x8x3x3", **common))
                        rows.append(row(depth, name, signal, 0.0, 0.0, output="bias", shape="8", **common))
                    elif kind == "BatchNorm2d":
                        rows.append(row(depth, name, signal, 1.0, 0.0, output="weight", shape="8", **common))
                else:
                    rows.append(row(depth, name, signal, value / 2, value, **common))
    return frame(rows)


def layer_panels(frame: pd.DataFrame, **asked: Any) -> tuple[tuple[tuple[Points, ...], ...], int]:
    """The panels of the ``layers`` figure, and the step they show."""
    return _panels("layers", Request(frame=frame, **asked))


def block_panels(blocks: pd.DataFrame, **asked: Any) -> tuple[tuple[tuple[Points, ...], ...], int]:
    """The panels of the ``blocks`` figure, and the step they show."""
    return _panels("blocks", Request(frame=pd.DataFrame(), blocks=blocks, **asked))


def _panels(kind: str, request: Request) -> tuple[tuple[tuple[Points, ...], ...], int]:
    drawing = FIGURES[kind](request)
    return cast("tuple[tuple[Points, ...], ...]", drawing.grid), drawing.step


def block_frame(stages: Sequence[int] = (3, 4, 6, 3), steps: Sequence[int] = (0,)) -> pd.DataFrame:
    """Blocks with the closed form of He-initialized pre-activation networks: the variance grows by 1 - 1/pi, and resets."""
    share = 1 - 1 / np.pi
    rows: list[dict[str, object]] = []
    for step in steps:
        depth = 0
        for stage, count in enumerate(stages, start=1):
            for k in range(count):
                depth += 9
                values = {"acsm": (k + 2) / np.pi, "acv": (k + 2) * share, "branch_acv": share}
                values |= {f"gradient_{name}": 1e-7 * value for name, value in values.items()}
                facts = {"step": step, "depth": depth, "block": f"stage{stage}.{k}", "merge": 0, "call": 0}
                facts |= {"branch": f"stage{stage}.{k}.conv3", "skip": "", "transition": k == 0}
                rows.append(facts | values)
    return _typed(rows, BLOCK_COLUMNS)

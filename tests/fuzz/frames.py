"""Random valid runs: real ones with rows, names, numbers and facts changed as the schema allows."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import spp
from spp.errors import SppError
from spp.frame import schema
from spp.frame.schema import one_mode
from spp.plot import FIGURES, Request
from tests.fuzz.measured import expect

NAMES = (
    "",
    "a b",
    "α.βγ",
    "层.卷积",
    "$x_1$",
    "a_b^c\\d{e}",
    "%&#~",
    "<b>&amp;",
    "=1+1",
    "x" * 300,
    "0.0.0",
    "é\u0301",
    "🙂",
    "\u202eabc",
    "a\tb",
)
NUMBERS = (np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1e-320, 1e300, 5e-324, 1.0)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Sigmoid())
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((x + self.block(x)).mean((2, 3)))


@lru_cache(maxsize=1)
def real() -> tuple[spp.Run, spp.Run]:
    """A trace with everything that can be asked for, and a watch of some steps with evaluations between."""
    torch.manual_seed(0)
    model, x = Small(), torch.randn(4, 3, 6, 6)
    trace = spp.trace(model, (x, torch.tensor([0, 1, 2, 3])), channels=True, exponents=True, statistics=("kurtosis",))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model.train()(x).square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                model.eval()(x)
    return trace, watch


def frame(seed: int, number: int) -> spp.Run:
    """The run of a number."""
    rng = np.random.default_rng([seed, number])
    base = real()[int(rng.random() < 0.4)]
    tables = {n: getattr(base, n).copy() for n in ("frame", "blocks", "modules", "unmeasured", "exponents", "channels")}
    for name, table in tables.items():
        if name == "frame" or rng.random() < 0.5:
            tables[name] = _changed(table, rng, most=4 if name == "frame" else 1)
    # a tensor has one row in a step of either mode
    key = [c for c in ("step", "mode", "name", "call", "output", "signal") if c in tables["frame"]]
    tables["frame"] = tables["frame"].drop_duplicates(key, ignore_index=True)
    if rng.random() < 0.15:
        tables["frame"] = _attached(tables["frame"], rng)
    info = dict(base.info)
    for key in sorted(info.keys() - {"kind"}):
        if rng.random() < 0.15:
            del info[key]
        elif rng.random() < 0.1:
            info[key] = rng.choice(np.array([None, "$a_b$", "层", 3, -1.5, True, "x" * 200], dtype=object))
    watched = "mode" in tables["frame"]
    schema.check(tables["frame"], schema.WATCH_COLUMNS if watched else schema.COLUMNS)
    return spp.Run(
        *(tables[n] for n in ("frame", "blocks", "modules", "unmeasured")),
        info,
        tables["exponents"],
        tables["channels"],
    )


def _attached(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """With the columns of a prediction."""
    if "mode" in table:
        return table
    return table.assign(**{str(c): rng.choice([*NUMBERS, 0.5, 2.0], len(table)) for c in schema.PREDICTED})


def _changed(table: pd.DataFrame, rng: np.random.Generator, most: int) -> pd.DataFrame:
    for _ in range(int(rng.integers(0, most + 1))):
        word = rng.choice(
            [
                "fewer",
                "one",
                "none",
                "layer",
                "many",
                "cells",
                "cells",
                "column",
                "names",
                "twice",
                "depth",
                "types",
                "step",
                "order",
            ]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = globals()[f"_{word}"](table, rng).reset_index(drop=True)
    return table


def _fewer(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return t[rng.random(len(t)) < rng.choice([0.1, 0.5, 0.9])]


def _one(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return t.sample(min(1, len(t)), random_state=int(rng.integers(99)))


def _none(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return t[:0] if rng.random() < 0.3 else t


def _layer(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return t[t["name"] == rng.choice(t["name"].unique())] if "name" in t and len(t) else t


def _many(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A thousand layers, now and then."""
    if "name" not in t or "depth" not in t or not len(t) or rng.random() < 0.7:
        return t
    times = -(-1000 // max(1, t["name"].nunique()))
    parts = [t.assign(name=f"{i}." + t["name"], depth=t["depth"] + i * 20) for i in range(times)]
    return pd.concat(parts, ignore_index=True)


def _cells(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    for column in t.columns[t.dtypes == "float64"]:
        if rng.random() < 0.4:
            t = t.assign(**{column: t[column].where(rng.random(len(t)) < 0.8, rng.choice(NUMBERS, len(t)))})
    return t


def _column(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """One column, the same number all over."""
    floats = t.columns[t.dtypes == "float64"]
    return t.assign(**{rng.choice(floats): float(rng.choice(NUMBERS))}) if len(floats) else t


def _names(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    column = rng.choice([c for c in ("name", "block", "output", "reason", "branch", "skip") if c in t] or [""])
    if not column or not len(t):
        return t
    old = t[column].dropna().unique()
    new = {
        name: str(rng.choice(NAMES)) + (str(name) if rng.random() < 0.6 else "") for name in old if rng.random() < 0.5
    }
    # two modules never have one name
    found = [new.get(name, name) for name in old]
    if len(set(found)) < len(found):
        new = {name: f"{text}{i}" for i, (name, text) in enumerate(new.items())}
    return t.assign(**{column: t[column].replace(new).astype(t[column].dtype)})


def _twice(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Every call made once more."""
    if "call" not in t or not len(t) or "statistic" in t:
        return t
    return pd.concat(
        [t, t.assign(call=t["call"] + t["call"].max() + 1, **({"depth": t["depth"] + 100} if "depth" in t else {}))]
    )


def _depth(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Later ones, or none for parameters of modules that never ran."""
    if "depth" not in t:
        return t
    if rng.random() < 0.5 or "signal" not in t:
        return t.assign(depth=t["depth"] * int(rng.integers(1, 1000)))
    never = t["signal"].isin(["weight", "weight_gradient"]) & (rng.random(len(t)) < 0.3)
    return t.assign(depth=t["depth"].mask(never))


def _types(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    if "type" not in t or not len(t):
        return t
    new = rng.choice([*NAMES[1:], "Conv2d", "Linear", "LayerNorm"], len(t))
    return t.assign(type=pd.Categorical(new))


def _step(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    if "step" not in t or not len(t):
        return t
    steps = rng.choice([[0, 1, 2], [5, 10**12], list(range(0, 4000, 400)), [3]][int(rng.integers(4))], len(t))
    return t.assign(step=steps.astype("int64"))


def _order(t: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return t.sample(frac=1, random_state=2)


def survive(run: spp.Run, number: int, folder: Path, errors: Any) -> None:
    """Everything that reads a frame, on this one: it works, or says in one line why it cannot."""
    other = real()[number % 2]

    def attempt(what: str, act: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return act()
            except SppError as error:
                expect("\n" not in str(error) and str(error).strip(), what, "says several lines:", str(error))
                # any frame has these; a figure may have nothing to show, and a check nothing in common
                expect(
                    run.frame.empty or what not in ("summary", "_repr_html_", "findings", "report"), what, str(error)
                )
                errors[f"{what}: {type(error).__name__}"] += 1
            except Exception as error:
                raise AssertionError(f"{what} raised {type(error).__name__}: {error}") from error
            return None

    for name in ("summary", "__repr__", "_repr_html_"):
        attempt(name, getattr(run, name))
    attempt("findings", lambda: str(run.findings))
    attempt("components", lambda: run.components)
    layers = run.frame["name"].unique().tolist()
    more = {"unmeasured": run.unmeasured, "channels": run.channels, "exponents": run.exponents, "run": run.info}
    if number % 4 == 0:
        more |= {"signals": ["weight", "gradient"]}
    request = Request(frame=one_mode(run.frame), blocks=one_mode(run.blocks), layer=layers[:1], others=[other], **more)
    for k, kind in enumerate(FIGURES):
        drawing = attempt(f"panels of {kind}", lambda kind=kind: FIGURES[kind](request))
        # drawing takes nearly all of the time: one kind of each run
        if drawing is not None and number % len(FIGURES) == k:
            style, ending = ("paper", "notebook", "slides")[number % 3], ("png", "svg", "pdf")[number // 3 % 3]
            plot = attempt(f"plot {kind}", lambda: drawing.plot(kind, run.info, style, "double"))  # noqa: B023
            attempt(f"save {kind}", lambda: plot is None or plot.save(folder / f"figure.{ending}"))  # noqa: B023
    if number % 3 == 0:
        attempt("report", lambda: run.report(folder / "report.html"))
    saved = attempt("save", lambda: run.save(folder / "run", csv=number % 5 == 0))
    if saved is not None:
        back = attempt("load", lambda: spp.load(saved))
        expect(back is not None, "a run that was saved is not loaded")
        pd.testing.assert_frame_equal(back.frame, run.frame, check_categorical=False)
    both = attempt("compare", lambda: spp.compare([run, other]))
    if both is not None:
        attempt("comparison", lambda: (repr(both), both.frame, both.components))
        if number % 9 == 0:
            attempt("plot of a comparison", both.plot)
    moved = attempt("check", lambda: spp.check(run, other))
    if moved is not None:
        attempt("result of a check", lambda: (str(moved), moved.same, moved.moved))

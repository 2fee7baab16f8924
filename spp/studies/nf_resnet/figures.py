"""What is printed and drawn of ``nf-resnet``: each statistic as measured, by the closed form and layer by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spp import plot
from spp.plot.kinds.outcomes import values
from spp.studies.nf_resnet.claims import ARMS, MEASURED, closed_form
from spp.studies.study import Figures, Results, Setup, Tables

# whether the study is quick: side of the images, batch, and depths of the networks with the blocks of their stages
SIZES: dict[bool, tuple[int, int, dict[int, tuple[int, ...]]]] = {
    True: (64, 32, {50: (3, 4, 6, 3)}),
    False: (224, 16, {50: (3, 4, 6, 3), 600: (50, 50, 50, 50)}),
}

TITLES = {"acsm": "ACSM", "acv": "ACV", "branch_acv": "ACV of the branch"}


def sources(results: Results, arm: str, depth: int, depths: tuple[int, ...]) -> dict[str, pd.DataFrame]:
    """An arm at every block: as measured, and what theory says; empty where it says nothing."""
    closed = closed_form(arm, depths)
    return {
        "measured": results.of("blocks", arm=arm, depth=depth),
        "closed form": pd.DataFrame() if closed is None else closed,
        "layer by layer": results.of("prediction", arm=arm, depth=depth),
    }


def tables(results: Results, setup: Setup) -> Tables:
    """The end of each stage by arm: measured, by the closed form, layer by layer."""
    printed: Tables = {}
    for depth, depths in SIZES[setup.quick][2].items():
        rows = []
        for arm, one in ARMS.items():
            found = sources(results, arm, depth, depths)
            seen = found["measured"]
            for stage, count in enumerate(depths if len(seen) else (), 1):
                ends = {name: _end(table, stage, count) for name, table in found.items() if len(table)}
                row = {"network": one.label, "stage": stage, "blocks": count, "seeds": seen["seed"].nunique()}
                for key, title in TITLES.items():
                    at = ends["measured"][key]
                    row[title] = f"{at.mean():.3g} ± {at.std(ddof=0):.2g}"
                    for name in ("closed form", "layer by layer"):
                        row[f"{title}, {name}"] = f"{ends[name][key].mean():.3g}" if name in ends else ""
                rows.append(row)
        if rows:
            printed[f"stages-{depth}"] = pd.DataFrame(rows)
    return printed


def _end(table: pd.DataFrame, stage: int, k: int) -> pd.DataFrame:
    return table[(table["stage"] == stage) & (table["k"] == k)]


def figures(results: Results, setup: Setup) -> Figures:
    """One for each arm and depth: the three statistics by block, measured and by theory."""
    side, batch, nets = SIZES[setup.quick]
    made = {}
    for depth, depths in nets.items():
        for arm, one in ARMS.items():
            lines = sources(results, arm, depth, depths)
            if lines["measured"].empty:
                continue
            long = pd.concat(
                [
                    table.assign(value=table[key], statistic=TITLES[key], line=name)
                    for key in MEASURED
                    for name, table in lines.items()
                    if len(table)
                ],
                ignore_index=True,
            )
            # without norm the mean square doubles in every block, which only a log axis can show
            finite = long["value"][np.isfinite(long["value"])]
            seeds = ", ".join(map(str, values(lines["measured"]["seed"])))
            facts = {"data": "unit normal", "batch_size": batch, "input_shape": [3, side, side], "seeds": seeds}
            made[f"{arm}-{depth}".replace("_", "-")] = plot.outcomes(
                long,
                x="block",
                y="value",
                by="line",
                panels="statistic",
                xlabel="residual block",
                ylabel="statistic",
                yscale="log" if finite.max() > 100 else "linear",
                run={"model": f"{one.label}, {depth} layers", **facts},
            )
    return made

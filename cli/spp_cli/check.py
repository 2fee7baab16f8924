"""``spp check``: did the signals of a network change? A regression test for signals, to be kept in a team's CI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from spp_cli.console import as_json as to_json
from spp_cli.console import make_console, records, words
from spp_cli.options import Command, option, take

if TYPE_CHECKING:
    from rich.console import Console

    from spp.diagnosis import Regression

MOST = 25
"""Layers that are listed, the first ones of many; ``--json`` lists all."""

FOLDER = click.Path(file_okay=False)

EXAMPLES = """\b
Examples:
  spp analyze --model resnet50 --out runs/now
  spp check runs/now --baseline runs/main
  spp check runs/now --baseline runs/main --seeds runs/main-seed1 --seeds runs/main-seed2
"""


@click.command(
    cls=Command, short_help="Compare a run with its baseline; exit 1 if a layer's signal moved.", epilog=EXAMPLES
)
@click.argument("run", type=FOLDER)
@take(
    *("baseline", "seeds", "tolerance", "as_json"),
    baseline=option("What it should be like.", FOLDER, "RUN", required=True),
    seeds=option(
        "A further run of the baseline with another seed; repeatable. They tell how far a seed moves each layer.",
        FOLDER,
        "RUN",
        multiple=True,
    ),
    tolerance=option(
        "Relative change of an rms that is allowed in any case.", click.FloatRange(min=0, min_open=True), "X", 0.01
    ),
)
def check(run: str, baseline: str, seeds: tuple[str, ...], tolerance: float, as_json: bool) -> None:
    """Compare the signals of RUN with those of a baseline, layer by layer.

    A layer has moved if the rms of its activation, gradient, weight or weight gradient changed by more than the tolerance
    and by more than other seeds would move it: not at all for runs of one seed, as --seeds show where given, else as the
    layers' widths let expect. Exit codes: 0 nothing moved, 1 something did, 2 wrong usage or input.
    """
    from spp.diagnosis import compare
    from spp.run import load

    others = [load(folder) for folder in seeds]
    found = compare(load(run), load(baseline), seeds=others, tolerance=tolerance)
    if as_json:
        click.echo(to_json(_report(found)))
    else:
        _show(found, make_console())
    # click's own exit code for usage is 2, so that 1 says one thing only
    if not found.same:
        raise SystemExit(1)


def _report(found: Regression) -> dict[str, Any]:
    return {
        "same": found.same,
        "compared": len(found.layers),
        "moved": records(found.moved),
        "missing": list(found.missing),
        "added": list(found.added),
        "differing": list(found.differing),
        "spread": found.spread,
    }


def _show(found: Regression, console: Console) -> None:
    from rich import box
    from rich.table import Table

    moved = found.moved
    if found.differing:
        console.print(words(f"The runs differ in {'; '.join(found.differing)}."))
    for what, names in (("gone", found.missing), ("new", found.added)):
        if names:
            more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
            console.print(words(f"{len(names)} {what}: {', '.join(names[:MOST])}{more}."))
    if not moved.empty:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("layer", overflow="ellipsis", min_width=21)
        table.add_column("signal")
        for title in ("baseline rms", "now", "change", "allowed"):
            table.add_column(title, justify="right", no_wrap=True)
        for row in moved.head(MOST).to_dict("records"):
            name = ".".join(part for part in (row["name"], row["output"]) if part) or "the model"
            numbers = (
                f"{row['baseline']:.3g}",
                f"{row['now']:.3g}",
                _change(row["change"]),
                _change(row["allowed"], "±"),
            )
            table.add_row(words(name), row["signal"].replace("_", " "), *numbers)
        console.print(table)
        if len(moved) > MOST:
            console.print(f"({len(moved) - MOST} more)")
    console.print(words(_sentence(found)))


def _sentence(found: Regression) -> str:
    known = {
        "none": "one seed",
        "seeds": "the spread over the seeds given",
        "width": "the spread that the widths let expect",
    }
    number = len(found.layers)
    if found.same:
        return f"Nothing moved: {number} tensors compared, within tolerance and {known[found.spread]}."
    moved = found.moved
    if moved.empty:
        return f"The network is another one: {number} tensors compared, none of which moved."
    first = moved.iloc[0]
    layers = moved["name"].nunique()
    what = "1 layer moved" if layers == 1 else f"{layers} layers moved, {first['name'] or 'the model'} first"
    return f"{what}: {len(moved)} of {number} tensors, beyond tolerance and {known[found.spread]}."


def _change(value: float, sign: str = "+") -> str:
    """``+12.5 %`` or, from a doubling on, ``x 3.2``; empty where it is not known."""
    if math.isnan(value):
        return "not finite"
    if math.isinf(value):
        return "to or from 0"
    if sign == "±":
        return f"± {100 * value:.2g} %" if value < 1 else f"x {1 + value:.3g}"
    return f"{100 * value:+.3g} %" if -0.5 < value < 1 else f"x {1 + value:.3g}"

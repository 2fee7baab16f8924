"""``spp study``: the published experiments, run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spp_cli.console import jsonable, plain_warnings

if TYPE_CHECKING:
    from spp.studies import Progress, Published

EXAMPLES = """\b
Examples:
  spp study list
  spp study run thesis-ffn --quick
  spp study run thesis-effnet --data data --device cuda --out studies/effnet
"""


@click.group(short_help="Run the published experiments again.", epilog=EXAMPLES)
def study() -> None:
    """Run the published experiments again, and read which of their claims held."""


@study.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def list_studies(as_json: bool) -> None:
    """List the studies and the claims that they judge."""
    from spp import studies

    found = [studies.find(name) for name in studies.names()]
    if as_json:
        report = {
            one.name: {
                "title": one.title,
                "source": one.source,
                "question": one.question,
                "claims": {c.name: {"text": c.text, "source": c.source, "criterion": c.criterion} for c in one.claims},
            }
            for one in found
        }
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        click.echo(f"{one.name:<{width}}  {one.title}")
        for claim in one.claims:
            click.echo(f"{'':<{width}}  {claim.name}: {claim.text}")


@study.command("run", epilog=EXAMPLES)
@click.argument("name", metavar="NAME")
@click.option("--quick", is_flag=True, help="The smaller experiment: scikit-learn's digits, a CPU, minutes.")
@click.option("--data", metavar="DIR", type=click.Path(), help="Folder with CIFAR's binary version, for the full size.")
@click.option(
    "--seeds", type=click.IntRange(min=1), metavar="N", help="How many seeds; the study's own number if left out."
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(),
    help="Folder of the study; studies/NAME, or studies/NAME-quick, if left out.",
)
@click.option(
    "--jobs", type=int, default=1, show_default=True, metavar="N", help="Cells at a time; -1 for one per core."
)
@click.option(
    "--backend",
    default="loky",
    show_default=True,
    metavar="NAME",
    help="Of joblib: loky, or dask or ray for a cluster.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto is a GPU where torch sees one; for --quick, the CPU.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def run_study(name: str, **given: Any) -> None:
    """Run a study, or go on with it: a finished cell is never run again.

    Writes its tables (Markdown, LaTeX, CSV, parquet), its figures, its verdicts and a page that holds them all, README.md.
    Without --quick it is the experiment at full size, which wants CIFAR and a GPU.
    """
    from spp import studies
    from spp.studies import Setup
    from spp_cli.device import pick_device

    found = studies.find(name)
    size = "" if not given["quick"] else "-quick"
    out = Path(given["out"] or Path("studies") / f"{name}{size}")
    setup = Setup(
        quick=given["quick"],
        data=None if given["data"] is None else Path(given["data"]),
        seeds=given["seeds"],
        device="cpu" if given["quick"] and given["device"] == "auto" else pick_device(given["device"]),
    )
    silent = given["as_json"]
    if not silent:
        click.echo(f"{found.title}\n{found.source}\n")
        for line in found.arrangement(setup):
            click.echo(f"- {line}")
        click.echo()
    bar = Bar(silent=silent)
    try:
        with plain_warnings(), bar:
            published = studies.run(found, out, setup, jobs=given["jobs"], backend=given["backend"], report=bar)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {bar.done} of {bar.total} cells are kept. Type the same line to go on.", err=True)
        sys.exit(130)
    _show(published, as_json=silent)


class Bar:
    """A progress bar on a terminal, a line per cell in a pipe, both with the time left.

    Args:
        silent: Print nothing.
    """

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._bar: Any = None
        self.done = self.total = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Tell where the study stands."""
        self.done, self.total = progress.done, progress.total
        if self._silent:
            return
        left = "" if progress.seconds_left is None else f"about {duration(progress.seconds_left)} left"
        if sys.stderr.isatty():
            self._move(progress, left)
        elif progress.cell is not None:
            click.echo(
                f"{progress.done} of {progress.total}: {progress.cell}" + (f" ({left})" if left else ""), err=True
            )

    def _move(self, progress: Progress, left: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            layout = "{l_bar}{bar}| {n_fmt} of {total_fmt} cells, {elapsed}{postfix}"
            self._bar = tqdm(total=progress.total, initial=progress.done, leave=False, bar_format=layout)
        self._bar.n = progress.done
        self._bar.set_postfix_str(left, refresh=True)


def duration(seconds: float) -> str:
    """A time as people say it: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _show(published: Published, *, as_json: bool) -> None:
    if as_json:
        facts = json.loads((published.folder / "verdicts.json").read_text(encoding="utf-8"))
        click.echo(json.dumps(jsonable({"folder": str(published.folder), **facts, "files": published.files}), indent=2))
        return
    from spp.studies.publish import markdown

    for name, table in published.tables.items():
        click.echo(f"{name}\n\n{markdown(table)}\n")
    for claim, verdict in published.verdicts.items():
        click.echo(f"{claim.name} {verdict.outcome}: {claim.text}\n  {verdict.found}")
    click.echo(f"\n{published.folder}: {' '.join(published.files)}")

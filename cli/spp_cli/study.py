"""``spp study``: the published experiments, run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spp_cli.console import as_json as to_json
from spp_cli.console import tell
from spp_cli.options import COUNT, Command, option, take

if TYPE_CHECKING:
    from spp.studies import Progress, Published, Size, Study

SIZE = click.Choice(("tiny", "real", "full"))

EXAMPLES = """\b
Examples:
  spp study list
  spp study run thesis-ffn --size tiny
  spp study run thesis-ffn --size real --jobs 2
  spp study run thesis-ffn --size real --scheduler tcp://HOST:8786
  spp study draw thesis-ffn
  spp study run thesis-effnet --data data --device cuda --out studies/effnet
"""


@click.group(short_help="Run the published experiments again.", epilog=EXAMPLES)
def study() -> None:
    """Run the published experiments again, and read which of their claims held."""


@study.command("list", cls=Command)
@take("as_json")
def list_studies(as_json: bool) -> None:
    """List the studies, their sizes with what they take, about, and the claims that they judge."""
    from spp import studies

    found = [studies.find(name) for name in studies.names()]
    if as_json:
        report = {
            one.name: {
                "title": one.title,
                "source": one.source,
                "question": one.question,
                "sizes": {str(size): _cost(one, size) for size in one.sizes},
                "claims": {c.name: {"text": c.text, "source": c.source, "criterion": c.criterion} for c in one.claims},
            }
            for one in found
        }
        click.echo(to_json(report, ascii_only=False))
        return
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        tell(f"{one.name:<{width}}  {one.title}")
        tell(f"{'':<{width}}  " + "; ".join(f"{size}: {_words(size, **_cost(one, size))}" for size in one.sizes))
        for claim in one.claims:
            tell(f"{'':<{width}}  {claim.name}: {claim.text}")


@study.command("draw", cls=Command)
@click.argument("name", metavar="NAME")
@take(
    *("size", "out", "as_json"),
    size=option("Which run of the study: the largest that is there, if left out.", SIZE),
    out={"help": "Folder of the study; studies/NAME-SIZE if left out."},
)
def draw_study(name: str, size: str | None, out: str | None, as_json: bool) -> None:
    """Draw the page, tables, figures and verdicts again of what a run stored, without running anything.

    Where the run is not finished, it says which cells are missing.
    """
    from spp import studies

    found = studies.find(name)
    folders = [_folder(name, one) for one in ([size] if size else reversed(SIZE.choices))]
    place = Path(out) if out else next((one for one in folders if one.exists()), folders[0])
    _show(studies.draw(found, place), as_json=as_json)


@study.command("run", cls=Command, epilog=EXAMPLES)
@click.argument("name", metavar="NAME")
@take(
    *("size", "quick", "images", "seeds", "out", "jobs", "scheduler", "backend", "device", "as_json"),
    size=option(
        "tiny: scikit-learn's digits, minutes. real: Fashion-MNIST, at most an hour on two cores. full, if left out: the "
        "published size, CIFAR and a GPU.",
        SIZE,
    ),
    quick=option("Another name of --size tiny.", is_flag=True),
    images=option(
        "Folder with the images: CIFAR's binary version for full; for real, Fashion-MNIST where it is not in its usual place.",
        click.Path(),
        "DIR",
        flags=("--data",),
    ),
    seeds=option("How many seeds; the study's own number if left out.", COUNT, "N"),
    out={"help": "Folder of the study; studies/NAME-SIZE if left out."},
    jobs=option("Cells at a time; -1 for one per core.", int, "N", 1),
    scheduler=option(
        "Send the cells to the Dask cluster with this scheduler, as tcp://HOST:8786; with --backend ray, to the Ray cluster at "
        "this address.",
        metavar="ADDRESS",
    ),
    backend=option(
        "loky: processes on this machine. dask, if there is a --scheduler, or ray: a cluster, which sees the data where this "
        "machine does.",
        click.Choice(("loky", "dask", "ray")),
    ),
    device={"help": "auto is a GPU where torch sees one for the full size, else the CPU."},
)
def run_study(name: str, **given: Any) -> None:
    """Run a study, or go on with it: a finished cell is never run again.

    Writes its tables (Markdown, LaTeX, CSV, parquet), its figures, its verdicts and a page that holds them all, README.md.
    Numbers of the sizes tiny and real are the same to the bit on the same CPU, with any number of jobs.
    """
    from spp import studies
    from spp.studies import Setup, Size
    from spp_cli.inputs import pick_device

    found = studies.find(name)
    if given["quick"] and given["size"] not in (None, "tiny"):
        raise click.UsageError(f"--quick is another name of --size tiny; got --size {given['size']} too.")
    size = Size("tiny" if given["quick"] else given["size"] or "full")
    out = Path(given["out"] or _folder(name, size))
    setup = Setup(
        size=size,
        data=None if given["images"] is None else Path(given["images"]),
        seeds=given["seeds"],
        device="cpu" if size != "full" and given["device"] == "auto" else pick_device(given["device"]),
    )
    found.check(setup)
    address = given["scheduler"]
    backend = given["backend"] or ("dask" if address else "loky")
    silent = given["as_json"]
    if not silent:
        click.echo(f"{found.title}\n{found.source}\n")
        for line in found.arrangement(setup):
            tell(f"- {line}")
        click.echo()
    bar = Bar(silent=silent)
    try:
        with bar:
            published = studies.run(found, out, setup, jobs=given["jobs"], backend=backend, address=address, report=bar)
    # joblib raises it in the middle of a batch of cells; those that are done lie on the disk
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; {bar.done} of {bar.total} cells are kept. Type the same line to go on.", err=True)
        sys.exit(130)
    _show(published, as_json=silent)


def _cost(one: Study, size: Size) -> dict[str, float]:
    """How many cells a study has, and the seconds that they take on one core or, at full size, on a GPU, about."""
    from spp.studies import Setup

    cells = one.cells(Setup(size=size))
    return {"cells": len(cells), "seconds": sum(cell.cost for cell in cells)}


def _words(size: str, cells: float, seconds: float) -> str:
    return f"{cells} cells, about {duration(seconds)} {'of a GPU' if size == 'full' else 'of one core'}"


def _folder(name: str, size: str) -> Path:
    """``studies/NAME-SIZE``, or the folder of the older layout where there is one alone."""
    place, older = Path("studies", f"{name}-{size}"), {"tiny": f"{name}-quick", "full": name}.get(size, "")
    return place if place.exists() or not Path("studies", older, "study.json").is_file() else Path("studies", older)


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
            tell(f"{progress.done} of {progress.total}: {progress.cell}" + (f" ({left})" if left else ""), err=True)

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
        click.echo(to_json({"folder": str(published.folder), **facts, "files": published.files}))
        return
    from spp.studies.publish import markdown

    for name, table in published.tables.items():
        click.echo(f"{name}\n\n{markdown(table)}\n")
    for claim, verdict in published.verdicts.items():
        click.echo(f"{claim.name} {verdict.outcome}: {claim.text}\n  {verdict.found}")
    click.echo()
    if missing := published.missing:
        tell(f"Not finished, {len(missing)} of {len(missing) + len(published.results.cells)} cells are missing:")
        for cell in missing:
            tell(f"  {cell}")
    tell(f"{published.folder}: {' '.join(published.files)}")

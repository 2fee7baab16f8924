"""``spp plot`` and ``spp report``: any figure of a saved run, or its page, made again without the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spp_cli.console import tell_path
from spp_cli.options import Command, named, option, take

if TYPE_CHECKING:
    from spp.plot import SignalPlot

FORMATS = ("png", "pdf", "svg", "pgf")
STYLES = ("paper", "notebook", "slides")

EXAMPLES = """\b
Examples:
  spp plot runs/effnet_b0-none --signal gradient --statistic acsm --format pdf --style paper
  spp plot runs/effnet_b0-none --kind blocks --width single --out fig1.pdf --latex
  spp plot runs/effnet_b0-none runs/effnet_b0-batch
"""


def width(ctx: click.Context, param: click.Parameter, value: str) -> str | float:
    """``single``, ``double`` or a number of inches."""
    try:
        return value if value in ("single", "double") else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither single, double nor a number of inches.", ctx, param) from None


def several(flag: str, text: str, kind: Any = None, **more: Any) -> dict[str, Any]:
    """An option that may be given several times."""
    return option(text, kind, flags=(flag,), multiple=True, **more)


@click.command(cls=Command, short_help="Draw a saved run again, or several in one figure.", epilog=EXAMPLES)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path())
@take(
    *("kind", "signals", "statistics", "steps", "layers", "formats", "style", "width", "out", "latex"),
    kind=named(
        "spp.plot:FIGURES",
        "What to draw (`spp list kinds`); components if left out, layers (or compare) with --signal or --statistic.",
    ),
    signals=several("--signal", "activation, gradient, ...; repeatable.", metavar="NAME"),
    statistics=several("--statistic", "acsm, acv, mean, ...; repeatable.", metavar="NAME"),
    steps=several("--step", "Training step; of an evolution, a line; repeatable.", int),
    layers=several("--layer", "Module whose distribution to draw; repeatable.", metavar="NAME"),
    formats=several("--format", "png if left out; repeatable.", click.Choice(FORMATS)),
    style=option("Fonts and sizes.", click.Choice(STYLES), default="notebook"),
    width=option("Final width.", str, "single|double|INCHES", "double", callback=width),
    out=option("The file, or its folder; the run folder if left out.", click.Path(), "FILE|DIR"),
    latex=option("Print the figure environment for a LaTeX document.", is_flag=True),
)
def plot(
    runs: tuple[str, ...], style: str, width: str | float, formats: tuple[str, ...], out: str | None, **given: Any
) -> None:
    """Draw a saved run again, or several in one figure, without their models.

    Prints the files that were written; with --latex the figure environment, and the files on standard error.
    """
    latex = given.pop("latex")
    drawn = _drawn(runs, style, width, given)
    files = _files(drawn, runs, formats, out, given)
    # what LaTeX sets itself before what it merely places
    best = next((file for file in files if file.suffix in (".pgf", ".pdf")), files[0])
    environment = drawn.latex(best) if latex else None
    for file in files:
        drawn.save(file)
        tell_path(file, err=latex)
    if environment is not None:
        click.echo(environment)


@click.command(cls=Command, short_help="Write the interactive page of a saved run.")
@click.argument("run", type=click.Path(file_okay=False))
@take("out", out=option("The page; report.html in the run if left out.", click.Path(dir_okay=False), "FILE"))
def report(run: str, out: str | None) -> None:
    """Write the interactive page of a saved run, without its model: findings, plot, table, facts in one HTML file.

    Prints the file. It opens offline; a page that is there already is replaced. Needs the extra `report`.
    """
    from spp.run import load

    tell_path(load(run).report(Path(run) / "report.html" if out is None else out))


def _drawn(runs: tuple[str, ...], style: str, width: str | float, given: dict[str, Any]) -> SignalPlot:
    """Read the runs and draw what is asked for."""
    from spp.errors import InputError
    from spp.plot import compare, default_kind, evolutions
    from spp.run import load

    steps = given["steps"]
    options: dict[str, Any] = {
        "signals": given["signals"] or None,
        "statistics": given["statistics"] or None,
        "style": style,
        "width": width,
    }
    kind = given["kind"] or default_kind(options, "compare" if len(runs) > 1 else "layers")
    if kind == "evolution":
        options["steps"] = steps or None
    elif len(steps) > 1:
        raise InputError("this kind of figure shows one step", received=f"{len(steps)} of them", where="--step")
    elif steps:
        options["step"] = steps[0]
    if kind in ("components", "compare"):
        return compare(list(runs), kind, **options)
    if kind == "evolution" and len(runs) > 1:
        return evolutions(list(runs), **options)
    if len(runs) > 1:
        raise InputError(
            "several runs are drawn in one figure by comparing them, or over their steps",
            received=f"--kind {kind}",
            where="--kind",
            remedy="Leave it out, take evolution, or name one run.",
        )
    if given["layers"]:
        options["layer"] = given["layers"]
    return load(runs[0]).plot(kind, **options)


def _files(
    drawn: SignalPlot, runs: tuple[str, ...], formats: tuple[str, ...], out: str | None, given: dict[str, Any]
) -> list[Path]:
    """Where the figure goes: ``--out`` as a file, or a file in it or in the (first) run, named after what is drawn."""
    from spp.errors import InputError

    words = [*given["layers"], *given["signals"], *given["statistics"], *(f"step{step}" for step in given["steps"])]
    stem = "-".join([drawn.kind, *words]).replace("/", "_")
    folder = Path(runs[0]) if out is None else Path(out)
    if out is not None and folder.suffix.lower().removeprefix(".") in FORMATS and not folder.is_dir():
        if formats and set(formats) != {folder.suffix.lower().removeprefix(".")}:
            raise InputError(
                "a file's format is its suffix",
                received=f"{out} and --format {', '.join(formats)}",
                where="--out",
                remedy="Leave --format out, or name a folder.",
            )
        return [folder]
    if not folder.is_dir():
        raise InputError(
            f"--out is a folder that is there, or a file that ends in {', '.join(FORMATS)}",
            received=str(folder),
            where="--out",
        )
    return [folder / f"{stem}.{form}" for form in formats or ("png",)]

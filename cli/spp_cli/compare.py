"""``spp compare``: several networks, norms, activations, inits or seeds, each traced, all in one figure."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spp_cli.console import jsonable, plain_warnings
from spp_cli.device import pick_device
from spp_cli.options import Request, repeatable

if TYPE_CHECKING:
    from spp.plot import SignalPlot
    from spp.run import Run

VARIED = ("model", "norm", "activation", "init", "residual", "se", "seed")
"""Options that may be repeated: every combination is one run."""

LEFT_OUT = ("fail_on", "no_report", "theory")
"""Options of ``spp analyze`` that say nothing about a comparison."""

FACTS = "compare.json"
"""What the folder of a comparison holds beside its runs and the figure."""

EXAMPLES = """\b
Examples:
  spp compare --model effnet_b0 --norm none --norm batch --norm affine
  spp compare --model ffn --activation relu --activation tanh --seed 0 --seed 1 --seed 2
  spp compare --model resnet50 --model resnetv2_50
"""


@click.command(short_help="Run several models, norms or seeds; draw them in one figure.", epilog=EXAMPLES)
@repeatable(
    VARIED,
    without=LEFT_OUT,
    helps={
        "out": "Folder of the comparison; runs/compare-MODEL if left out, numbered where that is taken.",
        "overwrite": "Replace the comparison that is in --out.",
        "no_figures": "Write the numbers only.",
        "quiet": "Print only the folder.",
    },
)
def compare(**given: Any) -> None:
    """Run every combination of the repeated options and draw all of them in one figure.

    The first run is what the others are compared with. Prints where each of them parts from it, and by which factor. Writes a
    folder with one run folder for each, compare.png and compare.pdf, and compare.json.
    """
    with plain_warnings():
        _run(given)


def _run(given: dict[str, Any]) -> None:
    import spp.plot
    from spp_cli import inputs, networks
    from spp_cli.analyze import traced

    requests = list(_requests(given))
    device = pick_device(given["device"])
    samples = inputs.read_file(requests[0])
    shape = None if samples is None else tuple(samples.inputs.shape[1:])
    plans = [networks.plan(request, shape) for request in requests]  # all names are looked up before anything is traced
    names = _names(requests, [plan.label for plan in plans])
    traces: list[Run] = []
    with _folder("compare-" + "-".join(given["model"]).replace(":", ".").replace("/", "."), given) as folder:
        for number, (request, plan, name) in enumerate(zip(requests, plans, names, strict=True), start=1):
            if sys.stderr.isatty() and not request.quiet:
                click.echo(f"tracing {name} ({number} of {len(requests)})", err=True)
            batch = samples or inputs.fitting(request, plan)
            traces.append(traced(request, plan, batch, device))
            traces[-1].save(folder / name, overwrite=given["overwrite"])
        figure = spp.plot.compare(traces)
        files = [] if given["no_figures"] else [figure.save(folder / f"compare{end}").name for end in (".png", ".pdf")]
        report = {
            "folder": str(folder),
            "files": files,
            "runs": [{"folder": name, "run": trace.run} for name, trace in zip(names, traces, strict=True)],
            "caption": figure.caption,
            "partings": _partings(figure),
        }
        text = json.dumps(jsonable(report), indent=2, allow_nan=False)
        (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    if given["as_json"]:
        click.echo(text)
    elif given["quiet"]:
        click.echo(str(folder))
    else:
        _show(report)


def _requests(given: dict[str, Any]) -> Iterator[Request]:
    """One request per combination, seeds varying fastest."""
    left = dict.fromkeys(LEFT_OUT, None) | {"no_report": True, "theory": False}
    for values in product(*(given[name] or (None,) for name in VARIED)):
        yield Request(**{**given, **left, **dict(zip(VARIED, values, strict=True))})


def _names(requests: list[Request], labels: list[str]) -> list[str]:
    """A folder for each run: model and norm, and whatever else was given more than once."""
    varied = [name for name in VARIED[2:] if len({getattr(request, name) for request in requests}) > 1]
    return [
        "-".join([label, *(f"{name if name == 'seed' else ''}{getattr(request, name)}" for name in varied)])
        for request, label in zip(requests, labels, strict=True)
    ]


def _folder(label: str, given: dict[str, Any]) -> AbstractContextManager[Path]:
    """The comparison's folder, new or given up with ``--overwrite``."""
    from spp_cli.folders import claim

    out = given["out"]
    if out is not None and given["overwrite"] and (Path(out) / FACTS).is_file():
        return nullcontext(Path(out))
    return claim(label, out, overwrite=given["overwrite"])


def _partings(figure: SignalPlot) -> list[dict[str, str]]:
    """What stands over each difference panel."""
    return [
        {"signal": str(panel.signal), "statistic": panel.statistic.partition(":")[0], "note": note}
        for panel in figure.panels
        for note in getattr(panel, "note", "").splitlines()
    ]


def _show(report: dict[str, Any]) -> None:
    click.echo(report["caption"])
    click.echo()
    rows = report["partings"]
    wide = max((len(f"{row['signal']} {row['statistic']}") for row in rows), default=0)
    for row in rows:
        what = f"{row['signal']} {row['statistic']}"
        click.echo(f"{what:<{wide}}  {row['note']}")
    if rows:
        click.echo()
    click.echo(f"{report['folder']}: {' '.join([*(run['folder'] + '/' for run in report['runs']), *report['files']])}")

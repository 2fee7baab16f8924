"""``spp compare``: several networks, norms, activations, inits or seeds, each traced, all in one figure."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spp_cli import inputs
from spp_cli.analyze import traced
from spp_cli.console import as_json, tell, tell_path
from spp_cli.folders import claim
from spp_cli.options import OPTIONS, Call, Command, call_of, take

if TYPE_CHECKING:
    from spp.plot import SignalPlot
    from spp.run import Run

VARIED = ("model", "norm", "activation", "init", "residual", "se", "seed")
"""Options that may be repeated: every combination is one run."""

LEFT_OUT = {"theory": False, "no_report": True, "fail_on": None}
"""Options of ``spp analyze`` that say nothing about a comparison, and what each of its runs has for them."""

FACTS = "compare.json"
"""What the folder of a comparison holds beside its runs and the figure."""

EXAMPLES = """\b
Examples:
  spp compare --model effnet_b0 --norm none --norm batch --norm affine
  spp compare --model ffn --activation relu --activation tanh --seed 0 --seed 1 --seed 2
  spp compare --model resnet50 --model resnetv2_50
"""


@click.command(
    cls=Command, short_help="Trace several models, norms or seeds; draw them in one figure.", epilog=EXAMPLES
)
@take(
    *(name for name in OPTIONS if name not in LEFT_OUT),
    repeated=VARIED,
    out={"help": "Folder of the comparison; runs/compare-MODEL if left out, numbered where that is taken."},
    overwrite={"help": "Replace the comparison that is in --out."},
    no_figures={"help": "Write the numbers only."},
    quiet={"help": "Print only the folder."},
)
@click.pass_context
def compare(ctx: click.Context, /, **given: Any) -> None:
    """Trace every combination of the repeated options and draw all of them in one figure.

    The first run is what the others are compared with. Prints where each of them parts from it, and by which factor. Writes a
    folder with one run folder for each, compare.png and compare.pdf (by component), compare-layers.png and compare-layers.pdf,
    and compare.json.
    """
    from spp import plot
    from spp.errors import InputError
    from spp.plot.panels import MOST_LINES

    call = call_of(ctx)
    calls = _calls(call)
    lines = len(calls) // len(dict.fromkeys(call.seed))
    if lines > MOST_LINES:
        raise InputError(
            f"one figure has room for {MOST_LINES} lines", received=f"{lines} combinations", remedy="Leave some out."
        )
    device = inputs.pick_device(call.device)
    samples = inputs.read_file(call)
    shape = None if samples is None else tuple(samples.inputs.shape[1:])
    # all names are looked up before anything is traced
    plans = [inputs.plan_network(one, shape) for one in calls]
    names = _names(calls, [plan.label for plan in plans])
    traces: list[Run] = []
    with _folder("compare-" + "-".join(call.model).replace(":", ".").replace("/", "."), call) as folder:
        for number, (one, plan, name) in enumerate(zip(calls, plans, names, strict=True), start=1):
            if sys.stderr.isatty() and not call.quiet:
                tell(f"tracing {name} ({number} of {len(calls)})", err=True)
            traces.append(traced(one, plan, samples or inputs.fitting(one, plan), device))
            traces[-1].save(folder / name, overwrite=call.overwrite)
        # even without files it is drawn up: the caption and the partings are read off its panels
        figure = plot.compare(traces, "compare")
        drawn = {} if call.no_figures else {"compare": plot.compare(traces), "compare-layers": figure}
        files = _saved(drawn, folder)
        report = {
            "folder": str(folder),
            "files": files,
            "runs": [{"folder": name, "run": trace.info} for name, trace in zip(names, traces, strict=True)],
            "caption": figure.caption,
            "partings": _partings(figure),
        }
        text = as_json(report)
        (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    if call.as_json:
        click.echo(text)
    elif call.quiet:
        tell_path(folder)
    else:
        _show(report)


def _calls(call: Call) -> list[Call]:
    """One call of ``spp analyze`` per combination, seeds varying fastest."""
    # what is given twice is one run
    combinations = product(*(dict.fromkeys(getattr(call, name)) or (None,) for name in VARIED))
    return [Call(**vars(call) | LEFT_OUT | dict(zip(VARIED, values, strict=True))) for values in combinations]


def _names(calls: list[Call], labels: list[str]) -> list[str]:
    """A folder for each run: model and norm, whatever else was given more than once, and a number where that is taken."""
    varied = [name for name in VARIED[2:] if len({getattr(one, name) for one in calls}) > 1]
    names = [
        "-".join([label, *(f"{name if name == 'seed' else ''}{getattr(one, name)}" for name in varied)])
        for one, label in zip(calls, labels, strict=True)
    ]
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name}-{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def _folder(label: str, call: Call) -> AbstractContextManager[Path]:
    """The comparison's folder, new or given up with ``--overwrite``."""
    # a folder of an earlier comparison holds runs, so that ``claim`` would refuse it as something else than a run
    if call.out is not None and call.overwrite and (Path(call.out) / FACTS).is_file():
        return nullcontext(Path(call.out))
    return claim(label, call.out, overwrite=call.overwrite)


def _saved(drawn: dict[str, SignalPlot], folder: Path) -> list[str]:
    """Write every figure as PNG and PDF; returns the names of the files."""
    return [figure.save(folder / f"{name}{end}").name for name, figure in drawn.items() for end in (".png", ".pdf")]


def _partings(figure: SignalPlot) -> list[dict[str, str]]:
    """What stands over each difference panel."""
    return [
        {"signal": str(panel.signal), "statistic": panel.statistic.partition(":")[0], "note": note}
        for panel in figure.panels
        for note in getattr(panel, "note", "").splitlines()
    ]


def _show(report: dict[str, Any]) -> None:
    tell(report["caption"])
    click.echo()
    rows = report["partings"]
    wide = max((len(f"{row['signal']} {row['statistic']}") for row in rows), default=0)
    for row in rows:
        what = f"{row['signal']} {row['statistic']}"
        tell(f"{what:<{wide}}  {row['note']}")
    if rows:
        click.echo()
    tell(f"{report['folder']}: {' '.join([*(run['folder'] + '/' for run in report['runs']), *report['files']])}")

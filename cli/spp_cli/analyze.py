"""``spp analyze``: one model, one trace, numbers and figures on disk, a summary in the terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spp_cli import inputs
from spp_cli.console import as_json, bars_for, device_of, make_console, records, tell_path, words
from spp_cli.folders import claim
from spp_cli.options import OPTIONS, Call, Command, call_of, take, words_for

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from rich.console import Console
    from rich.table import Table

    from spp.diagnosis import Finding, Findings
    from spp.errors import SppError
    from spp.models.sources import Plan
    from spp.remedy_trials import Trials
    from spp.run import Run

MOST_ROWS = 70
"""Components that are listed; of more, the first and the last ones."""

MOST_BARS = 16
"""Width of a sparkline; longer components are thinned to it."""

MOST_NOTES = 3
"""Facts that are told of a network without trouble, the most striking ones."""

TRIED = "remedies.csv"
"""File of a run folder that has a row for each remedy that was tried."""

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
"""Of the severities, the worst first."""

EXAMPLES = """\b
Examples:
  spp analyze --model effnet_b0 --norm none
  spp analyze --model resnet50 --norm batch_minus --data digits --image-size 64
  spp analyze --model mypackage.networks:make --checkpoint weights.pt --eval
"""


@click.command(cls=Command, short_help="Trace one model, write its numbers and its plots.", epilog=EXAMPLES)
@take(*OPTIONS)
@click.pass_context
def analyze(ctx: click.Context, /, **given: Any) -> None:
    """Trace one model: one forward and one backward pass per batch.

    Prints what ran, a table along the network, and what is wrong: the worst first, with the layer where it begins and what
    to type against it. A network without trouble gets its most striking facts instead. Writes to the run folder:
    frame.parquet and frame.csv (every statistic of every tensor), spp.png and spp.pdf (by component), spp-layers.png and
    spp-layers.pdf (by layer), spp-theory.png and spp-theory.pdf (with --theory), report.html
    (an interactive page that opens offline, where the extra `report` is installed), remedies.csv (with --try-remedies), and
    run.json (what is needed to run it again).
    """
    from spp.errors import InputError, SppError

    call = call_of(ctx)
    device = inputs.pick_device(call.device)
    samples = inputs.read_file(call)
    plan = inputs.plan_network(call, None if samples is None else tuple(samples.inputs.shape[1:]))
    if call.theory and plan.vocabulary is not None:
        raise InputError("--theory predicts networks of images and features", received=call.model, where="--theory")
    with claim(plan.label, call.out, overwrite=call.overwrite) as folder:
        if samples is None:
            samples = inputs.fitting(call, plan)
        try:
            trace = traced(call, plan, samples, device)
        except SppError as error:
            _keep(error, folder, call.out)
            raise
        files = _write(trace, folder, figures=not call.no_figures, report=not call.no_report)
        tried = _tried(call, plan, samples, device, trace, folder) if call.try_remedies else None
    files += [] if tried is None else [TRIED]
    _tell(call, trace, folder, files, tried)
    # what was measured until then is kept and told; the code is that of a program that Ctrl-C ends
    if tried is not None and tried.unfinished:
        ctx.exit(130)
    # last, since a CI that fails wants the run folder all the more
    if call.fail_on is not None and trace.findings.worst(call.fail_on):
        ctx.exit(1)


def _keep(error: SppError, folder: Path, out: str | None) -> None:
    """Save what a trace that failed had measured where a new folder was named for it, and say so."""
    from spp.frame.runs import holds_something

    if error.partial is None:
        return
    told = "--out with a new folder keeps what was measured until then"
    if out is not None and not holds_something(folder):
        error.partial.save(folder, overwrite=True)
        told = f"What was measured until then is in {folder}"
    error.remedy = f"{error.remedy.rstrip('.')}. {told}"


def _tried(call: Call, plan: Plan, samples: inputs.Samples, device: str, trace: Run, folder: Path) -> Trials:
    """Try the remedies on the same network, built once more, and write the table of them."""
    from spp.frame.files import put_csv
    from spp.remedy_trials import try_remedies

    tried = try_remedies(
        trace,
        inputs.build_network(call, plan, device),
        _batches(call, plan, samples),
        progress=not call.quiet and sys.stderr.isatty(),
        include=list(call.include) or None,
        exclude=list(call.exclude) or None,
        functions=call.functions,
    )
    put_csv(folder / TRIED, tried)
    return tried


def _tell(call: Call, trace: Run, folder: Path, files: list[str], tried: Trials | None) -> None:
    if call.quiet and not call.as_json:
        tell_path(folder)
        return
    if not call.as_json:
        show(trace, folder, files, tried)
        if "report.html" not in files and not (call.no_figures or call.no_report):
            click.echo('For report.html, an interactive page: pip install "torch-spp[report]"', err=True)
        return
    report = {
        "folder": str(folder),
        "files": files,
        "run": trace.info,
        "findings": records(trace.findings),
        "facts": [
            {"severity": fact.value, "theme": fact.statistic, "where": fact.name, "sentence": fact.message}
            for fact in trace.findings.notes[:MOST_NOTES]
        ],
        "components": component_rows(trace),
        **({} if tried is None else {"remedies": records(tried)}),
    }
    click.echo(as_json(report))


def traced(call: Call, plan: Plan, samples: inputs.Samples, device: str) -> Run:
    """Build the network, trace it, and add to ``trace.info`` what it takes to do it again."""
    import torch

    from spp.models import recipe_of
    from spp.tracing import trace as measure

    model = inputs.build_network(call, plan, device)
    # building takes no part: what is told is what measuring costs
    started = time.perf_counter()
    trace = measure(
        model,
        _batches(call, plan, samples),
        include=list(call.include) or None,
        exclude=list(call.exclude) or None,
        seed=call.seed,
        progress=call.batches > 1 and not call.quiet and sys.stderr.isatty(),
        exponents=call.exponents,
        channels=call.channels,
        statistics=call.statistics,
        stop_at_nonfinite=call.stop_at_nonfinite,
        functions=call.functions,
    )
    if call.theory:
        _predict(trace, model, samples, call)
    trace.info.update(
        recipe_of(model),
        data=call.data if plan.vocabulary is None else "tokens",
        input_shape=list(plan.shape),
        threads=torch.get_num_threads(),
        seconds=round(time.perf_counter() - started, 3),
        arguments=vars(call),
        argv=words_for(analyze, call),
        takes=[*plan.takes(model), "batch_size", "model"],
    )
    return trace


def _batches(call: Call, plan: Plan, samples: inputs.Samples) -> inputs.Batches:
    samples = inputs.Samples(samples.inputs, None) if call.loss == "probe" else samples
    return inputs.Batches(samples, call.batch_size, plan.names)


def _predict(trace: Run, model: torch.nn.Module, samples: inputs.Samples, call: Call) -> None:
    """Add what theory expects to ``trace.frame``: of unit normal noise, or of the data as they are."""
    from spp.theory import attach, predict

    first = samples.inputs[: call.batch_size]
    trace.frame = attach(trace.frame, predict(model, tuple(first.shape) if call.data == "gaussian" else first))


def _write(trace: Run, folder: Path, *, figures: bool, report: bool) -> list[str]:
    """Save the trace, its figures and, where plotly is installed, its report; return the names of the files.

    The numbers come first: a figure that fails must not take them along.
    """
    from spp.report import available

    # ``claim`` has made sure that this is an empty folder, or a run that the user gave up
    trace.save(folder, overwrite=True)
    drawn = {"components": "spp", "layers": "spp-layers"}
    if "acv_predicted" in trace.frame:
        drawn["theory"] = "spp-theory"
    for kind, stem in drawn.items() if figures else ():
        plot = trace.plot(kind)
        for suffix in (".png", ".pdf"):
            plot.save(folder / f"{stem}{suffix}")
    if figures and report and available():
        trace.report(folder / "report.html")
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def show(trace: Run, folder: Path, files: list[str], tried: Trials | None = None) -> None:
    """Print the summary of ``trace`` to standard output, and what became of the remedies that were tried."""
    console = make_console()
    for line in heading(trace.info):
        console.print(words(line))
    rows = component_rows(trace)
    if rows:
        console.print()
        console.print(table(rows, console))
        console.print(
            "ACSM: average channel squared mean; ACV: average channel variance, both at the end of the component; "
            "gradient: mean square there; leaves: log mean square of the activations inside, one scale for all.",
            style="dim",
        )
    console.print()
    show_findings(trace.findings, console, None if tried is None else partial(tried.told, info=trace.info))
    if tried is not None:
        console.print(words(f"Tried: {tried.verdict}"))
    if not trace.findings.worst("warning"):
        console.print(_numbered(trace.findings.notes[:MOST_NOTES]))
    unmeasured = len(trace.unmeasured)
    if unmeasured:
        what = "1 tensor was" if unmeasured == 1 else f"{unmeasured} tensors were"
        console.print(f"{what} not measured; unmeasured.parquet says why.")
    console.print()
    # in a pipe a path is never broken over two lines: somebody may cut it out
    console.print(words(f"{folder}: {' '.join(files)}"), soft_wrap=not console.is_terminal)


def heading(run: dict[str, Any]) -> list[str]:
    """Three lines that say what ran, and on what."""
    settings = [
        f"{key} {run[key]}" for key in ("norm", "activation", "init", "residual", "se") if run.get(key) is not None
    ]
    shape = "x".join(str(size) for size in run["input_shape"])
    batches = f", {run['batches']} batches of " if run["batches"] > 1 else " "
    mode = "training" if run["training"] else "evaluation"
    took = f"traced in {run['seconds']:.1f} s"
    if "replaced" in run:
        left = f", {len(run['left'])} left as they were (run.json says why)" if run["left"] else ""
        settings.append(f"{run['replaced']} layers replaced{left}")
    return [
        f"{run['model']}: {', '.join([*settings, mode + ' mode'])}",
        f"{run['parameters']:,} parameters, seed {run['seed']}, {device_of(run)}, {took}",
        f"{run['data']}{batches}{run['batch_size']} x {shape}, loss {run['loss'] or 'none'}",
    ]


def component_rows(trace: Run) -> list[dict[str, Any]]:
    """One record per component along the network: its name and, at its end, the statistics of the table."""
    from spp.diagnosis.main_path import components
    from spp.frame.schema import ComponentColumn as Column

    inside, powers = components(trace.frame), _leaf_powers(trace.frame)
    shown = [*(Column.NAME, Column.DEPTH, Column.ACSM, Column.ACV), *(Column.BRANCH_ACV, Column.GRADIENT_MEAN_SQUARE)]
    rows = records(trace.components[shown].rename(columns={Column.NAME: "component"}))
    for row in rows:
        row["leaves"] = [powers[leaf] for leaf in inside[row["component"]] if leaf in powers]
    return rows


def table(rows: list[dict[str, Any]], console: Console) -> Table:
    """The rows of ``component_rows`` as a table for ``console``."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    # the only column that gives way where the terminal is narrow
    made.add_column("component", overflow="ellipsis", min_width=9)
    shown = {"acsm": "ACSM", "acv": "ACV", "branch_acv": "branch ACV", "gradient_mean_square": "gradient"}
    shown = {key: title for key, title in shown.items() if any(row[key] is not None for row in rows)}
    for title in shown.values():
        made.add_column(title, justify="right", no_wrap=True)
    made.add_column("leaves", no_wrap=True)
    # one scale for all components, so that bars can be compared down the table
    finite = [power for row in rows for power in row["leaves"] if math.isfinite(power)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    bars = bars_for(console.encoding)
    cut = len(rows) - MOST_ROWS
    for index, row in enumerate(rows):
        if cut > 0 and MOST_ROWS // 2 <= index < MOST_ROWS // 2 + cut:
            if index == MOST_ROWS // 2:
                made.add_row(f"({cut} more)")
            continue
        line = sparkline(row["leaves"], low, high, bars)
        made.add_row(words(row["component"]), *(_number(row[key]) for key in shown), line)
    return made


def sparkline(powers: list[float], low: float, high: float, bars: str) -> str:
    """One bar per value, from the lowest for ``low`` to the highest for ``high``; ``!`` where a value is not finite.

    More than ``MOST_BARS`` values are thinned by taking the mean of neighbours.
    """
    if len(powers) > MOST_BARS:
        edges = [round(index * len(powers) / MOST_BARS) for index in range(MOST_BARS + 1)]
        groups = [powers[start:stop] for start, stop in pairwise(edges)]
        powers = [sum(group) / len(group) for group in groups]
    # all values alike have no step: every bar is the lowest then
    step = (high - low) / (len(bars) - 1) or 1.0
    return "".join(bars[round((power - low) / step)] if math.isfinite(power) else "!" for power in powers)


def show_findings(findings: Findings, console: Console, told: Callable[[Finding], str] | None = None) -> None:
    """Print the findings as a list: severity, rule and layer, the sentence, and what to try; ``told`` gives other words."""
    from rich.table import Table
    from rich.text import Text

    numbers = {severity: len([f for f in findings if f.severity == severity]) for severity in COLOURS}
    parts = [f"{number} {severity}{'' if number == 1 else 's'}" for severity, number in numbers.items() if number]
    console.print(f"Diagnosis: {', '.join(parts) or 'nothing to report'}.")
    made = Table.grid(padding=(0, 1))
    made.add_column(no_wrap=True)
    made.add_column()
    for finding in findings:
        where = f" {finding.where}" if finding.where else ""
        text = Text.assemble(words(finding.rule, "bold"), words(f"{where}: {finding.message}"))
        remedy = finding.remedy if told is None else told(finding)
        if remedy:
            text.append("\n").append(words(f"Try: {remedy}"))
        made.add_row(words(finding.severity, COLOURS[finding.severity]), text)
    if len(findings):
        console.print(made)


def _numbered(facts: Sequence[Finding]) -> Table:
    """The facts as a list whose lines are indented beside their number."""
    from rich.table import Table

    made = Table.grid(padding=(0, 1))
    for number, fact in enumerate(facts, start=1):
        made.add_row(f"{number}.", words(fact))
    return made


def _leaf_powers(frame: pd.DataFrame) -> dict[str, float]:
    """log10 of the mean square of each leaf's activation, at its first call; a zero counts as not finite."""
    from spp.frame.schema import Column
    from spp.vocabulary import Signal

    rows = frame[(frame[Column.SIGNAL] == Signal.ACTIVATION) & frame[Column.LEAF]].drop_duplicates(Column.NAME)
    pairs = zip(rows[Column.NAME].astype(str), rows[Column.MEAN_SQUARE], strict=True)
    return {name: math.log10(value) if value > 0 and math.isfinite(value) else -math.inf for name, value in pairs}


def _number(value: float | None) -> str:
    """Three digits, as ``0.341`` or ``1.2e-17``; empty for what does not exist."""
    return "" if value is None or math.isnan(value) else f"{value:.3g}"

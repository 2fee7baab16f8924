"""``spp analyze``: one model, one trace, numbers and figures on disk, a summary in the terminal."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spp_cli.console import jsonable, plain_warnings
from spp_cli.device import pick_device
from spp_cli.options import Request, analyze_options, argv

if TYPE_CHECKING:
    import torch

    from spp.models.sources import Plan
    from spp.run import Run
    from spp_cli.inputs import Samples


EXAMPLES = """\b
Examples:
  spp analyze --model effnet_b0 --norm none
  spp analyze --model resnet50 --norm batch_minus --data digits --image-size 64
  spp analyze --model mypackage.networks:make --checkpoint weights.pt --eval
"""


@click.command(short_help="Run one model, write its numbers and its plots.", epilog=EXAMPLES)
@analyze_options
def analyze(**given: Any) -> None:
    """Run one model: one forward and one backward pass per batch.

    Prints what ran, a table along the network, and what is wrong: the worst first, with the layer where it begins and what
    to type against it. A network without trouble gets its most striking facts instead. Writes to the run folder:
    frame.parquet and frame.csv (every statistic of every tensor), spp.png and spp.pdf (by layer), spp-blocks.png and
    spp-blocks.pdf (by residual block, where there are any), spp-theory.png and spp-theory.pdf (with --theory), report.html
    (an interactive page that opens offline, where the extra `report` is installed), and run.json (what is needed to run it
    again).
    """
    request = Request(**given)
    with plain_warnings():
        _run(request)


def _run(request: Request) -> None:
    from spp.diagnosis import notes
    from spp.errors import InputError
    from spp_cli import findings, inputs, networks, summary
    from spp_cli.folders import claim

    device = pick_device(request.device)
    samples = inputs.read_file(request)
    plan = networks.plan(request, None if samples is None else tuple(samples.inputs.shape[1:]))
    if request.theory and plan.vocabulary is not None:
        raise InputError("--theory predicts networks of images and features", received=request.model, where="--theory")
    with claim(plan.label, request.out, overwrite=request.overwrite) as folder:
        if samples is None:
            samples = inputs.fitting(request, plan)
        trace = traced(request, plan, samples, device)
        files = _write(trace, folder, figures=not request.no_figures, report=not request.no_report)
    facts = notes(trace.frame)
    if request.as_json:
        report = {
            "folder": str(folder),
            "files": files,
            "run": trace.run,
            "findings": findings.records(trace.findings),
            "facts": [
                {"severity": fact.value, "theme": fact.statistic, "where": fact.name, "sentence": fact.message}
                for fact in facts
            ],
            "components": summary.component_rows(trace),
        }
        click.echo(json.dumps(jsonable(report), indent=2, allow_nan=False))
    elif request.quiet:
        click.echo(str(folder))
    else:
        summary.show(trace, facts, folder, files)
        if "report.html" not in files and not (request.no_figures or request.no_report):
            click.echo('For report.html, an interactive page: pip install "torch-spp[report]"', err=True)
    if request.fail_on is not None and findings.count(trace.findings, request.fail_on):
        raise SystemExit(1)


def traced(request: Request, plan: Plan, samples: Samples, device: str) -> Run:
    """Build the network, trace it, and add to ``trace.run`` what it takes to do it again."""
    import torch

    import spp
    from spp_cli import inputs, networks

    model = networks.build(request, plan, device)
    if request.loss == "probe":
        samples = inputs.Samples(samples.inputs, None)
    batches = inputs.Batches(samples, request.batch_size, plan.names)
    started = time.perf_counter()
    trace = spp.trace(
        model,
        batches,
        include=list(request.include) or None,
        exclude=list(request.exclude) or None,
        seed=request.seed,
        progress=request.batches > 1 and not request.quiet and sys.stderr.isatty(),
        exponents=request.exponents,
        channels=request.channels,
    )
    if request.theory:
        _predict(trace, model, samples, request)
    trace.run.update(
        spp.models.recipe_of(model),
        data=request.data if plan.vocabulary is None else "tokens",
        input_shape=list(plan.shape),
        threads=torch.get_num_threads(),
        seconds=round(time.perf_counter() - started, 3),
        arguments=asdict(request),
        argv=argv(request),
    )
    return trace


def _predict(trace: Run, model: torch.nn.Module, samples: Samples, request: Request) -> None:
    """Add what theory expects to ``trace.frame``: of unit normal noise, or of the data as they are."""
    from spp.theory import attach, predict

    first = samples.inputs[: request.batch_size]
    trace.frame = attach(trace.frame, predict(model, tuple(first.shape) if request.data == "gaussian" else first))


def _write(trace: Run, folder: Path, *, figures: bool, report: bool) -> list[str]:
    """Save the trace, its figures and, where plotly is installed, its report; return the names of the files.

    The numbers come first: a figure that fails must not take them along. ``claim`` has made sure that what is replaced
    is an empty folder, or a run that the user gave up with ``--overwrite``.
    """
    from spp.report import available

    trace.save(folder, overwrite=True)
    wanted = {"layers": True, "blocks": not trace.blocks.empty, "theory": "acv_predicted" in trace.frame}
    for kind, stem in (("layers", "spp"), ("blocks", "spp-blocks"), ("theory", "spp-theory")):
        if figures and wanted[kind]:
            plot = trace.plot(kind)
            for suffix in (".png", ".pdf"):
                plot.save(folder / f"{stem}{suffix}")
    if figures and report and available():
        trace.report(folder / "report.html")
    return sorted(path.name for path in folder.iterdir() if path.is_file())

"""``spp train``: train one network on images from this machine, and keep everything that it takes to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from spp_cli.console import plain_warnings
from spp_cli.device import pick_device
from spp_cli.options import words_for
from spp_cli.train_options import CALL, FREE, TrainRequest, train_options

if TYPE_CHECKING:
    from torch import nn

    from spp.data import Splits
    from spp.models.sources import Plan

EXAMPLES = """\b
Examples:
  spp train --model ffn --norm batch --data digits --epochs 20 --every 10
  spp train --model resnet20 --data cifar10 --optimizer sgd --schedule cosine --out runs/r20
  spp train --resume --out runs/r20
"""


@click.command(short_help="Train one network, write its history and checkpoints.", epilog=EXAMPLES)
@train_options
@click.pass_context
def train(ctx: click.Context, /, **given: Any) -> None:
    """Train one network, on images that are on this machine.

    Prints a line per epoch and, at the end, loss and accuracy on the test images, with the last weights and with those of
    the epoch that did best on the validation images. Writes to the run folder: history.parquet and history.csv (a row per
    epoch), parts (every statistic of every tensor, at the steps that --every names), checkpoints/last.pt and best.pt, and
    run.json (what is needed to run it again). Ctrl-C saves the run; --resume goes on with it, to the same bits on CPU.
    """
    with plain_warnings():
        ctx.exit(_run(ctx, TrainRequest(**given)))


def _run(ctx: click.Context, request: TrainRequest) -> int:
    from spp.training import check_fit, fit
    from spp.training.interrupts import Interrupted
    from spp_cli import networks, training_report

    before = _begun(request)
    if before is not None:
        request = _continued(ctx, request, before)
    elif not request.model:
        raise click.UsageError("Missing option '--model'.", ctx)
    device, recipe = pick_device(request.device), request.recipe
    data, plan = _plan(request)
    with _folder(request, plan, resumed=before is not None) as folder:
        model = networks.build(request, plan, device)
        check_fit(model, data, recipe, device)
        facts = _facts(request, model, device)
        report = training_report.Report(request, folder)
        report.begin(model, data, facts)
        try:
            with report:
                fitted = fit(
                    model,
                    data,
                    recipe,
                    every=None if request.every == "never" else request.every,
                    watch={"include": list(request.include) or None, "exclude": list(request.exclude) or None},
                    folder=folder,
                    resume=request.resume,
                    facts=facts,
                    report=report,
                )
        except Interrupted as stop:
            click.echo(f"Interrupted, and saved. Go on with: spp train --resume --out {folder}", err=True)
            return 128 + stop.number
    report.end(fitted)
    return 0 if fitted.stopped is None else 1


def _begun(request: TrainRequest) -> dict[str, Any] | None:
    """The options of the run that is to be resumed; None where there is none yet.

    Raises:
        InputError: ``--resume`` without ``--out``, or the folder holds something else than a run of ``spp train``.
    """
    from spp.errors import InputError, StoreError

    if not request.resume:
        return None
    if request.out is None:
        raise InputError("a run is resumed from its folder", received="no --out", where="--resume")
    file = Path(request.out) / "run.json"
    if not file.is_file():
        if request.model:
            return None
        raise InputError(
            "there is a run to resume", received=f"no {file}", where="--resume", remedy="Give --model to begin one."
        )
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        arguments = facts["arguments"] if facts.get("command") == "train" else None
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise StoreError("run.json holds the facts of a run", received="something else", where=str(file)) from error
    if not isinstance(arguments, dict):
        raise InputError("spp train goes on with its own runs", received="a run of another command", where=str(file))
    return arguments


def _continued(ctx: click.Context, request: TrainRequest, before: dict[str, Any]) -> TrainRequest:
    """The options that the run began with; those of this call in place of them where that is possible.

    Raises:
        InputError: An option was given that would make it another run.
    """
    from spp.errors import InputError, StoreError

    size = before.get("image_size")
    before = {**before, "image_size": None if size is None else tuple(size)}
    before |= {name: tuple(before.get(name, ())) for name in ("include", "exclude")}
    typed = {name for name in before if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    changed = [name for name in typed - set(FREE) if getattr(request, name, None) != before[name]]
    if changed:
        options = {str(option.name): option.opts[0] for option in ctx.command.params}
        pairs = [
            f"{options[name]} {getattr(request, name)}, not {before[name] or 'left out'}" for name in sorted(changed)
        ]
        raise InputError(
            "a resumed run keeps the options it began with",
            received="; ".join(pairs),
            where="--resume",
            remedy="Leave them out, or begin a new run.",
        )
    own = {name: getattr(request, name) for name in (*CALL, *(typed & set(FREE)))}
    try:
        return replace(TrainRequest(**before), **own)
    except TypeError as error:
        raise StoreError("run.json holds the options of a run", received=str(error), where=str(request.out)) from error


def _plan(request: TrainRequest) -> tuple[Splits, Plan]:
    """The images, and the network that takes them: as large as they are unless ``--image-size`` says otherwise."""
    from spp import models
    from spp.data import splits
    from spp.errors import InputError
    from spp_cli import networks

    if request.model.partition(":")[0] == "transformers":
        raise InputError(
            "spp train trains networks that take a tensor of images",
            received=request.model,
            where="--model",
            remedy="Watch transformers' own trainer: spp.integrations.transformers.",
        )
    shape: tuple[int, ...] | None = None
    if request.image_size is not None:
        shape = (3, *request.image_size)
    elif Path(request.data).expanduser().is_dir():
        if ":" not in request.model:
            shape = models.config(request.model).input_shape
        elif request.model.partition(":")[0] in models.SOURCES:
            shape = networks.plan(request, None).shape
    data = splits(request.data, folder=request.data_dir, shape=shape, validation=request.validation, seed=request.seed)
    wanted = request if request.num_classes is not None else replace(request, num_classes=len(data.classes))
    return data, networks.plan(wanted, data.shape)


@contextmanager
def _folder(request: TrainRequest, plan: Plan, *, resumed: bool) -> Iterator[Path]:
    """The run folder, empty unless a run goes on in it."""
    import shutil

    from spp_cli.folders import claim

    if resumed:
        yield Path(str(request.out))
        return
    label = f"{plan.label}-{Path(request.data).name}"
    with claim(label, request.out, overwrite=request.overwrite) as folder:
        for old in folder.iterdir():  # a run that the user gave up with --overwrite: claim refuses anything else
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        yield folder


def _facts(request: TrainRequest, model: nn.Module, device: str) -> dict[str, Any]:
    """What it takes to run it again."""
    import torch

    from spp import models

    return {
        "command": "train",
        **models.recipe_of(model),
        "data": request.data,
        "device": device,
        "threads": torch.get_num_threads(),
        "arguments": asdict(request),
        "argv": words_for(train, request),
    }

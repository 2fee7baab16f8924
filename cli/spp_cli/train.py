"""``spp train``: train one network on images from this machine, and keep everything that it takes to go on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from spp_cli import inputs
from spp_cli.console import tell
from spp_cli.folders import claim
from spp_cli.options import COUNT, Call, Command, call_of, load_named, named, option, take, words_for
from spp_cli.training_report import Report

if TYPE_CHECKING:
    from torch import nn

    from spp.data import Splits
    from spp.models.sources import Plan
    from spp.training import Recipe

PRECISIONS = ("float32", "bfloat16", "float16")

OF_THE_CALL = ("device", "out", "overwrite", "resume", "as_json", "quiet")
"""Options of one call, which say nothing of the run."""

FREE = (*OF_THE_CALL, "epochs", "keep_going", "data_dir", "plugin")
"""Options that may have another value when a run is resumed."""

EXAMPLES = """\b
Examples:
  spp train --model ffn --norm batch --data digits --epochs 20 --every 10
  spp train --model resnet20 --data cifar10 --optimizer sgd --schedule cosine --out runs/r20
  spp train --resume --out runs/r20
"""


def steps(ctx: click.Context, param: click.Parameter, value: str | int) -> int | str:
    """A number of steps, or one of the words."""
    text = str(value)
    if text in ("epoch", "log", "never"):
        return text
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise click.BadParameter(f"{text!r} is neither a positive number of steps nor epoch, log or never.", ctx, param)
    return int(text)


POSITIVE = click.FloatRange(min=0, min_open=True)
NOT_NEGATIVE = click.FloatRange(min=0)
SHARE = click.FloatRange(min=0, max=1, max_open=True)

OPTIONS: dict[str, dict[str, Any]] = {
    "model": {"required": False},
    "norm": {},
    "activation": {},
    "init": {},
    "residual": {},
    "se": {},
    "num_classes": {},
    "image_size": {},
    "checkpoint": {},
    "data": named(
        "spp.data:SOURCES",
        "A data set of images (`spp list data`), as digits, or a folder of images with one subfolder per class.",
        metavar="NAME|FOLDER",
        default="digits",
    ),
    "data_dir": {},
    "validation": option("Of the training images, held back to find the best epoch.", SHARE, "SHARE", 0.2),
    "epochs": option("Passes over the data.", COUNT, "N", 20),
    "batch_size": {"default": 128, "help": "Images per step."},
    "optimizer": named("spp.training:OPTIMIZERS", "What takes the steps (`spp list optimizers`).", default="adam"),
    "lr": option("Learning rate; 0.1 with sgd, else 0.001, if left out.", POSITIVE, "RATE"),
    "momentum": option("Of sgd.", SHARE, "M", 0.9),
    "nesterov": option("Let sgd look ahead.", is_flag=True),
    "weight_decay": option("Weight decay; 0.01 with adamw, else 0, if left out.", NOT_NEGATIVE, "DECAY"),
    "agc": option("Clip gradients adaptively, as NFNets do with 0.01.", POSITIVE, "CLIP"),
    "schedule": named("spp.training:SCHEDULES", "Of the learning rate (`spp list schedules`).", default="constant"),
    "warmup": option("Let the rate grow to its value in so many epochs.", NOT_NEGATIVE, "EPOCHS", 0.0),
    "step_size": option("Between drops of --schedule step.", COUNT, "EPOCHS", 10),
    "gamma": option("Factor of such a drop.", POSITIVE, "G", 0.1),
    "label_smoothing": option("Of the target, spread over all classes.", SHARE, "SHARE", 0.0),
    "precision": option("Of the forward pass; float16 on a GPU only.", click.Choice(PRECISIONS), default="float32"),
    "augment": named(
        "spp.data:AUGMENTATIONS",
        "Of training images (`spp list augmentations`); crop_flip with CIFAR, else none, if left out.",
    ),
    "seed": {"help": "Of weights, validation images, order, augmentation and dropout."},
    "keep_going": option("Train on where the loss is not finite, instead of stopping.", is_flag=True),
    "every": option(
        "Steps that are measured: every N-th, the first of each epoch, ten in each factor of ten, or none.",
        metavar="N|epoch|log|never",
        default="epoch",
        callback=steps,
    ),
    "include": {"help": "Measure only modules of these names; repeatable."},
    "exclude": {},
    "functions": {},
    "device": {},
    "out": {"help": "Run folder; runs/MODEL-NORM-DATA if left out, numbered where that is taken."},
    "overwrite": {},
    "resume": option(
        "Go on with the run in --out, with the options it began with; --epochs may be raised. A run that does not "
        "exist yet is begun.",
        is_flag=True,
    ),
    "as_json": {},
    "quiet": {},
}
"""What ``spp train`` takes, in the order of its help: what is new, and what is different from ``spp analyze``."""


@click.command(cls=Command, short_help="Train one network, write its history and checkpoints.", epilog=EXAMPLES)
@take(*OPTIONS, **OPTIONS)
@click.pass_context
def train(ctx: click.Context, /, **given: Any) -> None:
    """Train one network, on images that are on this machine.

    Prints a line per epoch and, at the end, loss and accuracy on the test images, with the last weights and with those of
    the epoch that did best on the validation images. Writes to the run folder: history.parquet and history.csv (a row per
    epoch), parts (every statistic of every tensor, at the steps that --every names), checkpoints/last.pt and best.pt, and
    run.json (what is needed to run it again). Ctrl-C saves the run; --resume goes on with it, to the same bits on CPU.
    """
    from spp.training import check_fit, fit
    from spp.training.checkpoints import Interrupted

    call = call_of(ctx)
    before = _begun(call)
    if before is not None:
        call = _continued(ctx, call, before)
        load_named(call.plugin)
    elif not call.model:
        raise click.UsageError("Missing option '--model'.", ctx)
    device, recipe = inputs.pick_device(call.device), recipe_of(call)
    data, plan = _plan(call)
    with _folder(call, plan, resumed=before is not None) as folder:
        model = inputs.build_network(call, plan, device)
        check_fit(model, data, recipe, device)
        facts = _facts(call, plan, model, device)
        report = Report(call, folder)
        report.begin(model, data, recipe, facts)
        try:
            with report:
                fitted = fit(
                    model,
                    data,
                    recipe,
                    every=None if call.every == "never" else call.every,
                    watch={
                        "include": list(call.include) or None,
                        "exclude": list(call.exclude) or None,
                        "functions": call.functions,
                    },
                    folder=folder,
                    resume=call.resume,
                    facts=facts,
                    report=report,
                )
        except Interrupted as stop:
            line = shlex.join(["spp", "train", "--resume", "--out", str(folder)])
            tell(f"Interrupted, and saved. Go on with: {line}", err=True)
            # what a shell gives a process that a signal ended
            ctx.exit(128 + stop.number)
    report.end(fitted)
    ctx.exit(0 if fitted.stopped is None else 1)


def recipe_of(call: Call) -> Recipe:
    """The options that say how to train: the fields of the recipe, by the same names.

    Raises:
        InputError: Some do not go together.
    """
    from spp.training import Recipe

    return Recipe(**{name: getattr(call, name) for name in Recipe.__slots__})


def _begun(call: Call) -> dict[str, Any] | None:
    """The options of the run that is to be resumed; None where there is none yet.

    Raises:
        InputError: ``--resume`` without ``--out``, or the folder holds something else than a run of ``spp train``.
    """
    from spp.errors import InputError, StoreError
    from spp.frame.files import read_json

    if not call.resume:
        return None
    if call.out is None:
        raise InputError("a run is resumed from its folder", received="no --out", where="--resume")
    file = Path(call.out) / "run.json"
    if not file.is_file():
        if call.model:
            return None
        raise InputError(
            "--resume needs a run to go on with",
            received=f"no {file}",
            where="--resume",
            remedy="Give --model to begin one.",
        )
    try:
        facts = read_json(file)
        arguments = facts["arguments"] if facts.get("command") == "train" else None
    except (ValueError, KeyError, OSError) as error:
        raise StoreError(
            "run.json needs to hold the facts of a run", received="something else", where=str(file)
        ) from error
    if not isinstance(arguments, dict):
        raise InputError("spp train goes on with its own runs", received="a run of another command", where=str(file))
    return arguments


def _continued(ctx: click.Context, call: Call, before: dict[str, Any]) -> Call:
    """The options that the run began with; those of this call in place of them where that is possible.

    Raises:
        InputError: An option was given that would make it another run.
        StoreError: ``run.json`` holds something else than the options of a run.
    """
    from spp.errors import InputError, StoreError

    if unknown := set(before) - set(vars(call)):
        received = f"unknown ones: {', '.join(sorted(unknown))}"
        raise StoreError("run.json needs to hold the options of a run", received=received, where=str(call.out))
    # JSON has lists where click has tuples; what an earlier version did not know is as it is by default
    before = {name: tuple(value) if isinstance(value, list) else value for name, value in before.items()}
    # a default is no wish: only what was typed can contradict the run
    typed = {name for name in before if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    changed = sorted(name for name in typed - set(FREE) if getattr(call, name) != before[name])
    if changed:
        flags = {str(option.name): option.opts[0] for option in ctx.command.params}
        pairs = [f"{flags[name]} {getattr(call, name)}, not {before[name] or 'left out'}" for name in changed]
        raise InputError(
            "a resumed run keeps the options it began with",
            received="; ".join(pairs),
            where="--resume",
            remedy="Leave them out, or begin a new run.",
        )
    own = {name: getattr(call, name) for name in (*OF_THE_CALL, *(typed & set(FREE)))}
    return Call(**vars(call) | before | own)


def _plan(call: Call) -> tuple[Splits, Plan]:
    """The images, and the network that takes them: as large as they are unless ``--image-size`` says otherwise."""
    from spp import models
    from spp.data import splits
    from spp.data.folder import is_folder
    from spp.errors import InputError

    prefix, colon, _ = call.model.partition(":")
    if prefix == "transformers":
        raise InputError(
            "spp train trains networks that take a tensor of images",
            received=call.model,
            where="--model",
            remedy="Watch transformers' own trainer: spp.integrations.transformers.",
        )
    # of CIFAR and digits the size is known; images of a folder are resized to what the network is made for
    shape: tuple[int, ...] | None = None
    if call.image_size is not None:
        shape = (3, *call.image_size)
    elif is_folder(call.data):
        if not colon:
            shape = models.config(call.model).input_shape
        elif prefix in models.SOURCES:
            shape = inputs.plan_network(call, None).shape
    data = splits(call.data, folder=call.data_dir, shape=shape, validation=call.validation, seed=call.seed)
    classes = len(data.classes) if call.num_classes is None else call.num_classes
    return data, inputs.plan_network(Call(**vars(call) | {"num_classes": classes}), data.shape)


@contextmanager
def _folder(call: Call, plan: Plan, *, resumed: bool) -> Iterator[Path]:
    """The run folder, empty unless a run goes on in it."""
    if resumed:
        yield Path(str(call.out))
        return
    from spp.frame.runs import remove

    label = f"{plan.label}-{Path(call.data).name}"
    with claim(label, call.out, overwrite=call.overwrite) as folder:
        # a run that the user gave up with --overwrite: claim refuses anything else
        remove(folder)
        yield folder


def _facts(call: Call, plan: Plan, model: nn.Module, device: str) -> dict[str, Any]:
    """What it takes to run it again."""
    import torch

    from spp import models

    return {
        "command": "train",
        **models.recipe_of(model),
        "data": call.data,
        "device": device,
        "threads": torch.get_num_threads(),
        "arguments": vars(call),
        "argv": words_for(train, call),
        "takes": [*plan.takes(model), "batch_size", "model"],
    }

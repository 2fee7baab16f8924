"""The options of ``spp train`` and what they ask for, as one record that ``run.json`` keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from spp_cli.options import (
    DATA_DIR,
    DEVICE,
    JSON,
    NETWORK,
    OVERWRITE,
    QUIET,
    model_option,
    options_of,
    seed_option,
)

if TYPE_CHECKING:
    from spp.training import Recipe

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine")
PRECISIONS = ("float32", "bfloat16", "float16")
AUGMENTATIONS = ("none", "crop", "crop_flip")

RECIPE = (
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "momentum",
    "nesterov",
    "weight_decay",
    "agc",
    "schedule",
    "warmup",
    "step_size",
    "gamma",
    "label_smoothing",
    "precision",
    "augment",
    "seed",
    "keep_going",
)
"""Options that are fields of ``spp.training.Recipe``, by the same names."""

CALL = ("device", "out", "overwrite", "resume", "as_json", "quiet")
"""Options of one call, which say nothing of the run."""

FREE = (*CALL, "epochs", "keep_going", "data_dir")
"""Options that may have another value when a run is resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """One call of ``spp train``: every option under its own name, as the user gave it or by default."""

    model: str
    norm: str | None
    activation: str | None
    init: str | None
    residual: str | None
    se: str | None
    num_classes: int | None
    image_size: tuple[int, int] | None
    checkpoint: str | None
    data: str
    data_dir: str | None
    validation: float
    epochs: int
    batch_size: int
    optimizer: str
    lr: float | None
    momentum: float
    nesterov: bool
    weight_decay: float | None
    agc: float | None
    schedule: str
    warmup: float
    step_size: int
    gamma: float
    label_smoothing: float
    precision: str
    augment: str | None
    seed: int
    keep_going: bool
    every: int | str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    device: str
    out: str | None
    overwrite: bool
    resume: bool
    as_json: bool
    quiet: bool

    @property
    def eval_mode(self) -> bool:
        """Networks are built to be trained."""
        return False

    @property
    def recipe(self) -> Recipe:
        """The options that say how to train.

        Raises:
            InputError: Some do not go together.
        """
        from spp.training import Recipe

        return Recipe(**{name: getattr(self, name) for name in RECIPE})


def steps(ctx: click.Context, param: click.Parameter, value: str | int) -> int | str:
    """A number of steps, or one of the words."""
    text = str(value)
    if text in ("epoch", "log", "never"):
        return text
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise click.BadParameter(f"{text!r} is neither a positive number of steps nor epoch, log or never.", ctx, param)
    return int(text)


POSITIVE = click.FloatRange(min=0, min_open=True)
SHARE = click.FloatRange(min=0, max=1, max_open=True)

train_options = options_of(
    model_option(required=False),
    *NETWORK,
    click.option(
        "--data",
        default="digits",
        show_default=True,
        metavar="NAME|FOLDER",
        help="digits, cifar10, cifar100, or a folder of images with one subfolder per class.",
    ),
    DATA_DIR,
    click.option(
        "--validation",
        type=SHARE,
        default=0.2,
        show_default=True,
        metavar="SHARE",
        help="Of the training images, held back to find the best epoch.",
    ),
    click.option(
        "--epochs", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="Passes over the data."
    ),
    click.option(
        "--batch-size", type=click.IntRange(min=1), default=128, show_default=True, metavar="N", help="Images per step."
    ),
    click.option(
        "--optimizer", type=click.Choice(OPTIMIZERS), default="adam", show_default=True, help="What takes the steps."
    ),
    click.option("--lr", type=POSITIVE, metavar="RATE", help="Learning rate; 0.1 with sgd, else 0.001, if left out."),
    click.option("--momentum", type=SHARE, default=0.9, show_default=True, metavar="M", help="Of sgd."),
    click.option("--nesterov", is_flag=True, help="Let sgd look ahead."),
    click.option(
        "--weight-decay",
        type=click.FloatRange(min=0),
        metavar="DECAY",
        help="Weight decay; 0.01 with adamw, else 0, if left out.",
    ),
    click.option("--agc", type=POSITIVE, metavar="CLIP", help="Clip gradients adaptively, as NFNets do with 0.01."),
    click.option(
        "--schedule", type=click.Choice(SCHEDULES), default="constant", show_default=True, help="Of the learning rate."
    ),
    click.option(
        "--warmup",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        metavar="EPOCHS",
        help="Let the rate grow to its value in so many epochs.",
    ),
    click.option(
        "--step-size",
        type=click.IntRange(min=1),
        default=10,
        show_default=True,
        metavar="EPOCHS",
        help="Between drops of --schedule step.",
    ),
    click.option("--gamma", type=POSITIVE, default=0.1, show_default=True, metavar="G", help="Factor of such a drop."),
    click.option(
        "--label-smoothing",
        type=SHARE,
        default=0.0,
        show_default=True,
        metavar="SHARE",
        help="Of the target, spread over all classes.",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="float32",
        show_default=True,
        help="Of the forward pass; float16 on a GPU only.",
    ),
    click.option(
        "--augment",
        type=click.Choice(AUGMENTATIONS),
        help="Of training images; crop_flip with CIFAR, else none, if left out.",
    ),
    seed_option("Of weights, validation images, order, augmentation and dropout."),
    click.option("--keep-going", is_flag=True, help="Train on where the loss is not finite, instead of stopping."),
    click.option(
        "--every",
        callback=steps,
        default="epoch",
        show_default=True,
        metavar="N|epoch|log|never",
        help="Steps that are measured: every N-th, the first of each epoch, ten in each factor of ten, or none.",
    ),
    click.option("--include", multiple=True, metavar="GLOB", help="Measure only modules of these names; repeatable."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out modules of these names; repeatable."),
    DEVICE,
    click.option(
        "--out",
        metavar="DIR",
        type=click.Path(),
        help="Run folder; runs/MODEL-NORM-DATA if left out, numbered where that is taken.",
    ),
    OVERWRITE,
    click.option(
        "--resume",
        is_flag=True,
        help="Go on with the run in --out, with the options it began with; --epochs may be raised. A run that does not "
        "exist yet is begun.",
    ),
    JSON,
    QUIET,
)
"""Adds every option of ``TrainRequest`` to a command."""

"""The options of ``spp analyze``, as one record that ``run.json`` keeps, and the options that other commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

LOSSES = ("auto", "probe", "cross_entropy")
DEVICES = ("auto", "cpu", "cuda")
FAIL_ON = ("warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of ``spp analyze``: every option under its own name, as the user gave it or by default."""

    model: str
    norm: str | None
    activation: str | None
    init: str | None
    residual: str | None
    se: str | None
    num_classes: int | None
    image_size: tuple[int, int] | None
    checkpoint: str | None
    eval_mode: bool
    data: str
    tokens: int | None
    data_dir: str | None
    batch_size: int
    batches: int
    seed: int
    loss: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    exponents: bool
    channels: bool
    theory: bool
    device: str
    out: str | None
    overwrite: bool
    no_figures: bool
    no_report: bool
    fail_on: str | None
    as_json: bool
    quiet: bool


def image_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """``224`` or ``224x160`` (height x width) as a pair of pixels."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is no size in pixels, as 224, or height x width, as 224x160.", ctx, param)
    return int(parts[0]), int(parts[-1])


def argv(request: Request) -> list[str]:
    """The words after ``spp`` that ask for ``request``; defaults are spelled out, so that later ones do not matter."""
    return words_for(analyze_options(click.Command("analyze")), request)


def words_for(command: click.Command, request: object) -> list[str]:
    """The name of ``command`` and the words that give its options the values in ``request``."""
    words = [str(command.name)]
    for option in command.params:
        name, value = option.opts[0], getattr(request, str(option.name))
        if value is True:
            words.append(name)
        elif isinstance(value, tuple) and option.multiple:
            words += [word for item in value for word in (name, item)]
        elif isinstance(value, tuple):
            words += [name, "x".join(str(side) for side in value)]
        elif value is not None and value is not False:
            words += [name, str(value)]
    return words


def repeatable(
    names: tuple[str, ...], without: tuple[str, ...] = (), helps: Mapping[str, str] | None = None
) -> Callable[[F], F]:
    """Add every option of ``Request`` but those of ``without``; those of ``names`` may be given several times.

    A repeated option is a tuple, empty (or with the default alone) where it is left out. ``helps`` has other texts.
    """

    def decorate(command: F) -> F:
        for option in analyze_options(click.Command("analyze")).params:
            assert isinstance(option, click.Option)
            option.help = (helps or {}).get(str(option.name), option.help)
            if option.name in names:
                usual = (option.default,) if option.show_default else None
                option = click.Option(
                    option.opts,
                    multiple=True,
                    required=option.required,
                    type=option.type,
                    metavar=option.metavar,
                    default=usual,
                    show_default=bool(usual),
                    help=f"{option.help} Repeatable.",
                )
            if option.name not in without:
                known: list[click.Parameter] = command.__dict__.setdefault("__click_params__", [])
                known.append(option)
        return command

    return decorate


def analyze_options(command: F) -> F:
    """Add every option of ``Request`` to ``command``."""
    return options_of(*_OPTIONS)(command)


def options_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that adds options to a command, in this order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def model_option(*, required: bool) -> Callable[[F], F]:
    """``--model``."""
    return click.option(
        "--model",
        required=required,
        metavar="NAME",
        help="A bundled network (`spp list models`), torchvision:NAME, timm:NAME, transformers:CONFIG.json, or "
        "package.module:factory, a callable returning a torch module. Weights are random: nothing is downloaded.",
    )


def seed_option(text: str) -> Callable[[F], F]:
    """``--seed``, with what it is the seed of."""
    return click.option(
        "--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True, metavar="N", help=text
    )


NETWORK = (
    click.option(
        "--norm",
        metavar="NAME",
        help="Normalization (`spp list norms`); the network's own if left out. In a network of your own, norms are replaced.",
    ),
    click.option("--activation", metavar="NAME", help="Activation (`spp list activations`)."),
    click.option("--init", metavar="NAME", help="Initialization (`spp list inits`)."),
    click.option(
        "--residual",
        metavar="NAME",
        help="Residual rule: plain, skipinit, rezero, layerscale, nf, sqrt2, mp, mp_learned.",
    ),
    click.option("--se", metavar="NAME", help="Squeeze-and-excitation: plain, doubled, magnitude or none."),
    click.option("--num-classes", type=click.IntRange(min=1), metavar="N", help="Number of outputs."),
    click.option(
        "--image-size",
        callback=image_size,
        metavar="SIZE",
        help="Pixels, as 224 or 224x160; the network's own if left out.",
    ),
    click.option(
        "--checkpoint",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="Weights to load: a state dict saved by torch (nothing else is unpickled).",
    ),
)
"""What the network is, after its name."""

DATA_DIR = click.option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(),
    help="Folder with the binary version of CIFAR; ./data if left out.",
)

DEVICE = click.option(
    "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Where to compute."
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace the run that is in --out.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
QUIET = click.option("--quiet", "-q", is_flag=True, help="Print only the run folder.")

_OPTIONS = (
    model_option(required=True),
    *NETWORK,
    click.option("--eval", "eval_mode", is_flag=True, help="Trace in evaluation mode (default: training mode)."),
    click.option(
        "--data",
        default="gaussian",
        show_default=True,
        metavar="NAME|FILE|FOLDER",
        help="gaussian, digits, cifar10, cifar100, a folder of images with one subfolder per class, or a .npy or .pt file "
        "with the samples along its first axis.",
    ),
    click.option(
        "--tokens",
        type=click.IntRange(min=1),
        metavar="N",
        help="Length of the random texts that a language model is given; 128 if left out, or what it takes at most.",
    ),
    DATA_DIR,
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=32,
        show_default=True,
        metavar="N",
        help="Samples per batch.",
    ),
    click.option(
        "--batches",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Batches, merged exactly.",
    ),
    seed_option("Of weights, data and probe."),
    click.option(
        "--loss",
        type=click.Choice(LOSSES),
        default="auto",
        show_default=True,
        help="What is propagated backwards: auto takes cross_entropy where the data have targets, else a random probe.",
    ),
    click.option("--include", multiple=True, metavar="GLOB", help="Observe only modules of these names; repeatable."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out modules of these names; repeatable."),
    click.option("--exponents", is_flag=True, help="Count values by power of two, for `spp plot --kind distribution`."),
    click.option("--channels", is_flag=True, help="Keep the spread over channels, for `spp plot --kind channels`."),
    click.option(
        "--theory", is_flag=True, help="Predict every layer too, and draw the prediction over what was measured."
    ),
    DEVICE,
    click.option(
        "--out",
        metavar="DIR",
        type=click.Path(),
        help="Run folder; runs/MODEL-NORM if left out, numbered where that is taken.",
    ),
    OVERWRITE,
    click.option("--no-figures", is_flag=True, help="Write the numbers only: no figures, no report."),
    click.option("--no-report", is_flag=True, help="Write no report.html."),
    click.option(
        "--fail-on", type=click.Choice(FAIL_ON), help="Exit with 1 if the diagnosis finds anything this bad or worse."
    ),
    JSON,
    QUIET,
)

"""Every option that more than one command takes, declared once, and the record of a call that ``run.json`` keeps."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import click

from spp_cli.console import plain_warnings

F = TypeVar("F", bound=Callable[..., Any])

LOSSES = ("auto", "probe", "cross_entropy")
DEVICES = ("auto", "cpu", "cuda")
FAIL_ON = ("warning", "error")


class Call(SimpleNamespace):
    """The options of one call, each under its own name, as the user gave it or by default."""


class Command(click.Command):
    """A command of ``spp``: it takes ``--plugin``, and each warning of the library becomes one line."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        # appended here, so that no command can forget it and it stands last in every help
        text = "Module to import first, which registers norms, networks, data, rules, ... of your own; repeatable."
        self.params.append(
            click.Option(
                ["--plugin"], multiple=True, metavar="MODULE", help=text, expose_value=False, callback=_keep_plugins
            )
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Load the plugins, and run the command."""
        load_named(ctx.meta.get(PLUGINS, ()))
        # a plugin's own warnings are its business, and come as Python shows them
        with plain_warnings():
            return super().invoke(ctx)


PLUGINS = "spp_cli.plugins"


def _keep_plugins(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    # not among the parameters of the function: most commands have no use for the names
    ctx.meta[PLUGINS] = value


def load_named(plugins: Iterable[str]) -> None:
    """Import the plugins that are installed, and these, which may lie in the current folder.

    Raises:
        InputError: One cannot be imported.
    """
    from spp.plugins import VARIABLE, load_plugins

    # an installed plugin is on the path already; the current folder goes there for those that are named alone
    if plugins or os.environ.get(VARIABLE):
        import_from_here()
    load_plugins(plugins, where="--plugin")


def import_from_here() -> None:
    """Let modules of the current folder be imported: a console script's path begins at its own folder instead."""
    # last: a random.py in it is not the one that torch imports
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def call_of(ctx: click.Context) -> Call:
    """The options of a call, in the order in which the command declares them."""
    # click orders its parameters as they were typed; a run's record is to look the same however that was
    given = {**ctx.params, "plugin": ctx.meta.get(PLUGINS, ())}
    return Call(**{str(option.name): given[str(option.name)] for option in ctx.command.params})


def words_for(command: click.Command, call: Call) -> list[str]:
    """The words after ``spp`` that ask for ``call``; defaults are spelled out, so that later ones do not matter."""
    words = [str(command.name)]
    for option in command.params:
        # opts[0] is the long name: -q would be read, but not understood
        name, value = option.opts[0], getattr(call, str(option.name))
        if value is True:
            words.append(name)
        elif isinstance(value, tuple) and option.multiple:
            words += [word for item in value for word in (name, str(item))]
        elif isinstance(value, tuple):
            words += [name, "x".join(str(side) for side in value)]
        elif value is not None and value is not False:
            words += [name, str(value)]
    return words


def image_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """``224`` or ``224x160`` (height x width) as a pair of pixels."""
    if value is None:
        return None
    parts = value.lower().split("x")
    # isdigit takes the digits of every script, int too: 224 is to be typed one way only
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is no size in pixels, as 224, or height x width, as 224x160.", ctx, param)
    return int(parts[0]), int(parts[-1])


COUNT = click.IntRange(min=1)


def option(text: str, kind: Any = None, metavar: str | None = None, default: Any = None, **more: Any) -> dict[str, Any]:
    """How an option is declared: its help, type, what stands for its value in the help, default, and more of click's own."""
    declared = {"type": kind, "metavar": metavar, "default": default, "help": text, **more}
    # click tells a default that is left out from None, which it would show
    return {name: value for name, value in declared.items() if value is not None}


def table_at(place: str) -> Any:
    """A table of the library, as ``spp.nn:NORMS``, imported when it is asked for."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def named(table: str, text: str, **more: Any) -> dict[str, Any]:
    """An option whose value is a name in one of the library's tables, which the shell completes."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        # a plugin that cannot be imported is told of when the command runs: a message would land in the line being typed
        with suppress(Exception):
            load_named(ctx.meta.get(PLUGINS, ()))
        return [name for name in table_at(table) if name.startswith(incomplete)]

    return option(text, shell_complete=complete, **{"metavar": "NAME", **more})


OPTIONS: dict[str, dict[str, Any]] = {
    "model": named(
        "spp.models:MODELS",
        "A bundled network (`spp list models`), torchvision:NAME, timm:NAME, transformers:CONFIG.json, or "
        "package.module:factory, a callable returning a torch module. Weights are random: nothing is downloaded.",
        required=True,
    ),
    "norm": named(
        "spp.nn:NORMS",
        "Normalization (`spp list norms`); the network's own if left out. In a network of your own, norms are "
        "replaced.",
    ),
    "activation": named("spp.nn:ACTIVATIONS", "Activation (`spp list activations`)."),
    "init": named("spp.nn:INITS", "Initialization (`spp list inits`)."),
    "residual": named("spp.nn:RESIDUALS", "Rule of residual sums (`spp list residuals`)."),
    "se": named("spp.nn:SE_SCALINGS", "Squeeze-and-excitation (`spp list gates`), or none."),
    "num_classes": option("Number of outputs.", COUNT, "N"),
    "image_size": option(
        "Pixels, as 224 or 224x160; the network's own if left out.", metavar="SIZE", callback=image_size
    ),
    "checkpoint": option(
        "Weights to load: a state dict saved by torch (nothing else is unpickled).",
        click.Path(exists=True, dir_okay=False),
        "FILE",
    ),
    "eval_mode": option("Trace in evaluation mode (default: training mode).", flags=("--eval",), is_flag=True),
    "data": named(
        "spp.data:SOURCES",
        "A data set (`spp list data`), a folder of images with one subfolder per class, or a .npy or .pt file with the "
        "samples along its first axis.",
        metavar="NAME|FILE|FOLDER",
        default="gaussian",
    ),
    "tokens": option(
        "Length of the random texts that a language model is given; 128 if left out, or what it takes at most.",
        COUNT,
        "N",
    ),
    "data_dir": option(
        "Folder where CIFAR, MNIST and the like lie; SPP_DATA of the environment, else ./data, if left out.",
        click.Path(),
        "DIR",
    ),
    "batch_size": option("Samples per batch.", COUNT, "N", 32),
    "batches": option("Batches, merged exactly.", COUNT, "N", 1),
    "seed": option("Of weights, data and probe.", click.IntRange(min=0, max=2**63 - 1), "N", 0),
    "loss": option(
        "What is propagated backwards: auto takes cross_entropy where the data have targets, else a random probe.",
        click.Choice(LOSSES),
        default="auto",
    ),
    "include": option("Observe only modules of these names; repeatable.", metavar="GLOB", multiple=True),
    "exclude": option("Leave out modules of these names; repeatable.", metavar="GLOB", multiple=True),
    "functions": option(
        "Measure functions between modules too, as F.relu in a forward.",
        flags=("--functions/--no-functions",),
        default=True,
    ),
    "statistics": named(
        "spp.stats:STATISTICS",
        "A statistic beyond those of every frame, as kurtosis or one of your own; repeatable.",
        flags=("--statistic",),
        multiple=True,
    ),
    "exponents": option("Count values by power of two, for `spp plot --kind distribution`.", is_flag=True),
    "channels": option("Keep the spread over channels, for `spp plot --kind channels`.", is_flag=True),
    "stop_at_nonfinite": option("End at the first activation or gradient that holds NaN or infinity.", is_flag=True),
    "theory": option("Predict every layer too, and draw the prediction over what was measured.", is_flag=True),
    "try_remedies": option("Apply each remedy to a copy, trace it again, and tell which is best.", is_flag=True),
    "device": option("Where to compute.", click.Choice(DEVICES), default="auto"),
    "out": option("Run folder; runs/MODEL-NORM if left out, numbered where that is taken.", click.Path(), "DIR"),
    "overwrite": option("Replace the run that is in --out.", is_flag=True),
    "no_figures": option("Write the numbers only: no figures, no report.", is_flag=True),
    "no_report": option("Write no report.html.", is_flag=True),
    "fail_on": option("Exit with 1 if the diagnosis finds anything this bad or worse.", click.Choice(FAIL_ON)),
    "as_json": option("Print one JSON object instead of text.", flags=("--json",), is_flag=True),
    "quiet": option("Print only the run folder.", flags=("--quiet", "-q"), is_flag=True),
}
"""What ``spp analyze`` takes, in the order of its help, and other commands take parts of."""


def take(*names: str, repeated: Iterable[str] = (), **changed: dict[str, Any]) -> Callable[[F], F]:
    """Add options of the table to a command.

    Args:
        names: Which, in this order; others than those of the table are declared by ``changed`` alone.
        repeated: Those that may be given several times; each is a tuple then, of the default alone where it is left out.
        changed: What is different for this command, by the option's name.
    """

    def add(command: F) -> F:
        # decorators go from the inside out: the one that is applied last comes first in the help
        for name in reversed(names):
            declared = OPTIONS.get(name, {}) | changed.get(name, {})
            flags = declared.pop("flags", (f"--{name.replace('_', '-')}",))
            if name in repeated:
                declared |= {"multiple": True, "help": f"{declared['help']} Repeatable."}
                if "default" in declared:
                    declared["default"] = (declared["default"],)
            command = click.option(*flags, name, show_default="default" in declared, **declared)(command)
        return command

    return add

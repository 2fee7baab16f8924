"""The command ``spp``: one file per command, loaded when it is asked for.

The files of this package import only click and the standard library at the top, and everything else where it is used:
``spp --help`` answers before torch would have started to load.
"""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

COMMANDS = {
    "analyze": "spp_cli.analyze:analyze",
    "compare": "spp_cli.compare:compare",
    "train": "spp_cli.train:train",
    "plot": "spp_cli.plotting:plot",
    "report": "spp_cli.plotting:report",
    "check": "spp_cli.check:check",
    "study": "spp_cli.study:study",
    "list": "spp_cli.listing:list_names",
    "info": "spp_cli.listing:info",
}
"""Name of each command and where it is."""


class Refusal(click.ClickException):
    """What the library refuses on purpose, shown as one line: exit code 2, as for any other wrong usage."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group whose commands are imported when they are looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        # click asks for each one to write the help, which is why their files may import click alone
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that ``args`` begin with; an unknown name is answered with the nearest ones."""
        # click suggests near options, but no near commands
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Commands: {', '.join(COMMANDS)}."
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of the library becomes one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            # click quotes what was typed, line breaks and all; the library has a function for that, and takes a second to load
            words = " ".join(error.message.split())
            error.message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)  # type: ignore[misc]
            raise
        except Exception as error:
            # asked for in this way, since importing it would load the library: unloaded, it cannot have raised anything
            errors = sys.modules.get("spp.errors")
            if errors is None:
                raise
            if isinstance(error, errors.SppError):
                raise Refusal(str(error)) from error
            if lacking := errors.memory_lacking(error):
                needs = "a network, its batch and what is measured need to fit into memory"
                raise Refusal(f"{needs}; got no room for {lacking}. {errors.LESS}") from error
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="torch-spp", prog_name="spp")
def cli() -> None:
    """Measure how a signal travels through a neural network, forward and backward, and draw it."""
    # an encoding that lacks a letter costs the letter and not the command
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

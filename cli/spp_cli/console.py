"""Where text goes: a terminal with its width and colours, or a pipe with neither."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 80
"""Columns of text that nobody looks at yet."""

BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


def make_console() -> Console:
    """A console on standard output that adds no highlighting of its own."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def bars_for(encoding: str) -> str:
    """The eight heights of a sparkline that ``encoding`` can write."""
    try:
        BARS.encode(encoding)
    except UnicodeEncodeError:
        return ASCII_BARS
    return BARS


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show each warning of the library as one line on standard error, without file, line and source."""

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def jsonable(value: Any) -> Any:
    """``value`` as JSON knows it: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)

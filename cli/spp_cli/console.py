"""Where text goes: a terminal with its width and colours, a pipe with neither, or JSON."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.text import Text

PIPE_WIDTH = 80
"""Columns of text that nobody looks at yet."""

BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


def make_console() -> Console:
    """A console on standard output that adds no highlighting of its own."""
    from rich.console import Console

    # in a pipe rich takes $COLUMNS, so that a log would depend on the terminal it was started from
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def bars_for(encoding: str) -> str:
    """The eight heights of a sparkline that ``encoding`` can write."""
    try:
        BARS.encode(encoding)
    except UnicodeEncodeError:
        return ASCII_BARS
    return BARS


def tell(text: object, *, err: bool = False) -> None:
    """Print one line, whatever names are in it."""
    from spp.errors import plain

    click.echo(plain(text), err=err)


def tell_path(path: Path | str, *, err: bool = False) -> None:
    """Print a path in a line of its own: byte by byte into a pipe, where a program reads it."""
    from spp.errors import plain

    seen = (sys.stderr if err else sys.stdout).isatty()
    # as text where that is the same, which Windows writes in the encoding of its console
    click.echo(plain(path) if seen or plain(path) == str(path) else os.fsencode(path), err=err)


def words(text: object, style: str = "") -> Text:
    """Text for a console or a table of rich's, which would take brackets in a name for a style."""
    from rich.text import Text

    from spp.errors import plain

    return Text(plain(text), style)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show each warning of the library as one line on standard error, without file, line and source."""

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        tell(f"Warning: {message}", err=True)

    # how they are shown, not which: a filter of the user's still holds
    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def device_of(facts: dict[str, Any]) -> str:
    """As ``cuda:0``, or ``cpu (2 threads)``."""
    if facts["device"] != "cpu":
        return str(facts["device"])
    return f"cpu ({facts['threads']} thread{'' if facts['threads'] == 1 else 's'})"


def show_names(described: dict[str, str]) -> None:
    """Print one line per name, descriptions below each other."""
    width = max(map(len, described), default=0)
    for name, text in described.items():
        tell(f"{name:<{width}}  {text}")


def as_json(value: Any, *, ascii_only: bool = True) -> str:
    """``value`` as a JSON text; numbers that are not finite are null, which JSON knows."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=ascii_only, allow_nan=False)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table; what is missing is None."""
    # as objects first: a column of numbers would turn None back into NaN
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        # a scalar of NumPy's
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)

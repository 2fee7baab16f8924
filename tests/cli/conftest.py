import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from spp_cli.main import cli


@dataclass(frozen=True)
class Done:
    """What one command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def spp(tmp_path, monkeypatch):
    """Run ``spp`` in an empty folder, as a pipe would: ``spp("list", "norms").out``."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> Done:
        result = CliRunner().invoke(cli, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception  # a traceback is never the answer to a user
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def undrawn(monkeypatch):
    """Figures become empty files, for tests of which ones are written: drawing takes most of a run's time."""

    def save(self: Any, path: str | Path) -> Path:
        Path(path).write_bytes(b"")
        return Path(path)

    monkeypatch.setattr("spp.plot.page.SignalPlot.save", save)


class Terminal(io.StringIO):
    """Standard error of somebody who looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Put one in place of standard error: called in the test, since pytest puts its own there when a test begins."""

    def put() -> Terminal:
        monkeypatch.setattr("sys.stderr", shown := Terminal())
        return shown

    return put


TINY = ("analyze", "--model", "ffn", "--batch-size", "4", "--no-figures")
"""The cheapest run there is: drawing takes most of its time."""


@pytest.fixture
def tiny():
    """Words of the cheapest run."""
    return TINY

"""The group: help, version, unknown commands, and which errors become one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spp_cli.main import COMMANDS


def test_help_lists_every_command(spp):
    done = spp("--help")
    assert done.code == 0
    assert all(f"\n  {name} " in done.out for name in COMMANDS)


def test_version(spp):
    import spp as library

    assert spp("--version").out == f"spp, version {library.__version__}\n"


def test_an_unknown_command_is_answered_with_the_nearest(spp):
    done = spp("analyse")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "Error: No such command 'analyse'. Did you mean 'analyze'?"
    assert spp("xyz").err.splitlines()[-1] == f"Error: No such command 'xyz'. Commands: {', '.join(COMMANDS)}."


def test_errors_of_the_library_are_one_line(spp):
    done = spp("analyze", "--model", "efnet_b0")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Error: unknown model 'efnet_b0'. Did you mean 'effnet_b0'")
    assert len(done.err.splitlines()) == 1


def test_a_bug_is_not_dressed_up_as_bad_input(spp, tiny, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("spp_cli.analyze.show", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        spp(*tiny)


def test_the_installed_command_is_this_one(tmp_path):
    """The console script of the environment that runs the tests."""
    script = shutil.which("spp", path=str(Path(sys.executable).parent))
    assert script is not None, "install the project first: pip install -e ."
    done = subprocess.run([script, "list", "data"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.startswith("gaussian")


def test_examples_keep_their_lines(spp):
    assert "\n    spp analyze --model effnet_b0 --norm none\n" in spp("analyze", "--help").out

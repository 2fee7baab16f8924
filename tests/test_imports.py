"""What an import loads: measured in a fresh interpreter, since this one has loaded everything.

tqdm is not on the list of ``import spp``: torch itself loads it where it is installed.
"""

import subprocess
import sys
import time

import pytest


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after ``code``."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_library_loads_nothing_that_draws_or_parses():
    loaded = loaded_by("import spp")
    assert {"spp", "torch", "pandas"} <= loaded
    assert not {"matplotlib", "seaborn", "click", "rich", "sklearn", "spp_cli"} & loaded


def test_tracing_and_the_frame_need_no_drawing_library():
    loaded = loaded_by(
        "import spp, torch\n"
        "trace = spp.trace(torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.randn(3, 4))\n"
        "assert len(trace.frame)"
    )
    assert not {"matplotlib", "seaborn", "click", "rich"} & loaded


@pytest.mark.parametrize("arguments", (["--help"], ["analyze", "--help"], ["list", "--help"], ["nonsense"]))
def test_the_command_line_answers_without_the_library(arguments):
    loaded = loaded_by(f"from spp_cli.main import cli\ntry:\n    cli({arguments!r})\nexcept SystemExit:\n    pass")
    assert "click" in loaded
    assert not {"spp", "torch", "numpy", "pandas", "matplotlib", "seaborn", "rich", "tqdm"} & loaded


def test_help_is_instant():
    """Well under half a second on top of Python's own start; the best of three, since machines are shared."""

    def seconds(*arguments: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        return time.perf_counter() - started

    bare = min(seconds("-c", "pass") for _ in range(3))
    helped = min(seconds("-c", "from spp_cli.main import cli; cli(['--help'])") for _ in range(3))
    assert helped - bare < 0.4

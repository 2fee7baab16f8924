"""What an import loads: measured in a fresh interpreter, since this one has loaded everything.

tqdm is not on the list of ``import spp``: torch itself loads it where it is installed.
"""

import subprocess
import sys
from importlib.util import find_spec

import pytest

STAGES = {
    "import": "import spp",
    "trace": "import torch; trace = spp.trace(torch.nn.Linear(4, 2), torch.randn(3, 4)); assert len(trace.frame)",
    "panels": "import spp.plot.panels, spp.plot.stages, spp.plot.series, spp.plot.kinds.layers, spp.plot.kinds.blocks",
    "report": "import tempfile; trace.report(tempfile.mkdtemp() + '/report.html')",
}
"""What one interpreter does, one thing after the other."""


def loaded_by(*steps: str) -> list[set[str]]:
    """Top-level names of the modules that a fresh interpreter holds after each step."""
    tell = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    script = "\n".join(f"{step}\n{tell}" for step in steps)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()[-len(steps) :]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What is loaded after each of the stages; the report only where it can be written."""
    wanted = {name: step for name, step in STAGES.items() if name != "report" or find_spec("plotly")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("reports")))
        return dict(zip(wanted, loaded_by(*wanted.values()), strict=True))


def test_importing_the_library_loads_nothing_that_draws_or_parses(loaded):
    assert "spp" in loaded["import"] and {"torch", "pandas"} <= loaded["trace"]
    heavy = {"torch", "pandas", "matplotlib", "seaborn", "click", "rich", "sklearn", "spp_cli"}
    assert not heavy & loaded["import"], "what a name needs is loaded when it is asked for"


def test_tracing_and_the_frame_need_no_drawing_library(loaded):
    assert not {"matplotlib", "seaborn", "click", "rich"} & loaded["trace"]


def test_panels_need_no_drawing_library(loaded):
    assert "matplotlib" not in loaded["panels"]


def test_writing_a_report_loads_nothing_that_draws(loaded):
    if "report" not in loaded:
        pytest.skip("reports need plotly, the extra report")
    assert not {"matplotlib", "seaborn", "plotly", "click"} & loaded["report"]


@pytest.mark.parametrize("arguments", (["--help"], ["analyze", "--help"], ["list", "--help"], ["nonsense"]))
def test_the_command_line_answers_without_the_library(arguments):
    (loaded,) = loaded_by(f"from spp_cli.main import cli\ntry:\n    cli({arguments!r})\nexcept SystemExit:\n    pass")
    assert "click" in loaded
    assert not {"spp", "torch", "numpy", "pandas", "matplotlib", "seaborn", "rich", "tqdm"} & loaded


def test_help_imports_click_and_the_standard_library_alone():
    """This is what makes it instant: an allow-list, since a clock would say more of the machine than of the command."""
    (bare,) = loaded_by("import click")
    (loaded,) = loaded_by("from spp_cli.main import cli\ntry:\n    cli(['--help'])\nexcept SystemExit:\n    pass")
    assert loaded - bare <= {"spp_cli", *sys.stdlib_module_names}


def test_the_package_runs_as_a_module():
    script = "import sys, runpy; sys.argv = ['spp', '--help']; runpy.run_module('spp', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: python -m spp [OPTIONS] COMMAND")

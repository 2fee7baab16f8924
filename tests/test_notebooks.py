"""Notebooks read the library: they run from top to bottom, carry no output, and define next to nothing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 12
"""Lines of code; what needs more belongs into the library."""


def codes(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert "01-first-plot.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_stripped(path):
    assert all(not cell.outputs and cell.execution_count is None for cell in codes(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_cells_are_short_and_define_no_classes(path):
    for cell in codes(path):
        assert len(cell.source.splitlines()) <= LONGEST_CELL
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.ClassDef)]


AFRESH = """
%reset -f
import os, sys
os.chdir({folder!r})
[sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "spp"]
del os, sys
"""
"""What makes the kernel as good as new: no name is left, and ours is imported again; only other libraries stay loaded."""


SMALLER = {r"epochs=\d+": "epochs=1", r"gaussian\(8, \(3, 64, 64\)": "gaussian(8, (3, 32, 32)"}
"""What takes most of the time of a notebook, and what is shown in place of it: no number that a notebook shows is asserted."""


def smaller(path: Path) -> nbformat.NotebookNode:
    """A notebook whose networks are trained for one epoch, on small images."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for long, short in SMALLER.items():
            cell.source = re.sub(long, short, cell.source)
    return notebook


@pytest.fixture(scope="module")
def client() -> Iterator[NotebookClient]:
    """One kernel for all notebooks: to load torch, pandas and matplotlib takes five seconds."""
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=300, kernel_name="python3")
    yield client
    client.nb = nbformat.v4.new_notebook()
    client.execute()  # nobody asked to keep the kernel, so that it ends


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_and_shows_something(client, path, tmp_path):
    notebook = smaller(path)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(AFRESH.format(folder=str(tmp_path))))
    client.nb = notebook
    client.execute(cleanup_kc=False)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]

"""The cells of a study on processes of this machine, on a Dask cluster and on Ray: the same tables to the byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from spp.errors import InputError, MissingExtraError, UnknownNameError
from spp.studies import Cell, Progress, Setup, Study, StudyError, run
from spp_cli.study import study as command
from tests.studies.conftest import MEASURED, measure, registered


def published(folder: Path) -> dict[str, bytes]:
    """What a study wrote of its results; the page and the verdicts tell how long it took."""
    files = [file for file in folder.glob("*.*") if file.suffix in (".parquet", ".md", ".tex", ".csv", ".png")]
    return {file.name: file.read_bytes() for file in files if file.name != "README.md"}


def dies(cell: Cell, setup: Setup) -> dict[str, pd.DataFrame]:
    if cell["norm"] == "batch":
        os._exit(1)
    return measure(cell, setup)


def fails(cell: Cell, setup: Setup) -> dict[str, pd.DataFrame]:
    raise ZeroDivisionError(f"no {cell['norm']}")


@pytest.fixture(scope="module")
def dask() -> Iterator[dict[str, Any]]:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    # two threads each, as clusters have them: cells of one process must not meet
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None}
    import dask

    strict = {"distributed.scheduler.allowed-failures": 0, "distributed.comm.timeouts.connect": "3s"}
    with dask.config.set(strict), distributed.LocalCluster(**options) as cluster:
        yield {"backend": "dask", "address": cluster.scheduler_address}


@pytest.fixture(scope="module")
def ray() -> Iterator[dict[str, Any]]:
    library = pytest.importorskip("ray", reason="the extra ray is not installed")
    library.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield {"backend": "ray"}
    library.shutdown()


@pytest.fixture(params=["loky", "dask", "ray"])
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where cells are measured, as ``run`` takes it."""
    return {"jobs": 2} if request.param == "loky" else request.getfixturevalue(request.param)


def test_it_is_interrupted_and_goes_on_to_the_same_bytes(tiny: Study, tmp_path: Path, place: dict[str, Any]) -> None:
    run(tiny, tmp_path / "whole")
    MEASURED.clear()

    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "part", report=interrupt, **place)
    assert len(list((tmp_path / "part" / "cells").iterdir())) == 2
    seen: list[Progress] = []
    run(tiny, tmp_path / "part", report=seen.append, **place)
    # in processes of their own
    assert not MEASURED
    assert [progress.done for progress in seen] == [2, 3, 4] and seen[-1].seconds_left == 0
    assert published(tmp_path / "part") == published(tmp_path / "whole") and len(published(tmp_path / "whole")) == 5


def test_a_cell_that_fails_and_a_worker_that_dies_are_one_line(
    tiny: Study, tmp_path: Path, place: dict[str, Any]
) -> None:
    with pytest.raises(StudyError, match=r"^tiny, norm=\w+ seed=868: a cell of .* got ZeroDivisionError: no \w+\.$"):
        run(replace(tiny, measure=fails), tmp_path / "fails", Setup(seeds=1), **place)
    with pytest.raises(StudyError, match="who measures the cells of a study stays until they are done; got ") as caught:
        run(replace(tiny, measure=dies), tmp_path / "dies", Setup(seeds=1), **place)
    assert "\n" not in str(caught.value)


def test_the_command_line_sends_cells_to_a_scheduler(tiny: Study, tmp_path: Path, dask: dict[str, Any]) -> None:
    with registered(tiny):
        words = ["run", "tiny", "--quick", "--scheduler", dask["address"], "--out", str(tmp_path), "--seeds", "1"]
        said = CliRunner().invoke(command, words, catch_exceptions=False)
    assert said.exit_code == 0 and "T1 confirmed" in said.output


@pytest.mark.usefixtures("dask")
def test_an_address_where_nobody_answers_is_named(tiny: Study, tmp_path: Path) -> None:
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(
            InputError, match=rf"^{address}: a Dask scheduler answers at its address; got .*\.$"
        ) as caught:
            run(tiny, tmp_path, backend="dask", address=address)
        assert "\n" not in str(caught.value)


def test_an_address_where_ray_is_not_is_named(tiny: Study, tmp_path: Path) -> None:
    library = pytest.importorskip("ray", reason="the extra ray is not installed")
    # a session of another test would be taken
    library.shutdown()
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:port"):
        with pytest.raises(InputError, match=rf"^{address}: Ray answers at its address; got .*\.$"):
            run(tiny, tmp_path, backend="ray", address=address)


def test_a_cluster_that_cannot_be_is_one_line(tiny: Study, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"backend: unknown backend 'threading'.* Known: loky, dask, ray\."):
        run(tiny, tmp_path, backend="threading")
    for given in ({"backend": "dask"}, {"address": "tcp://127.0.0.1:9"}):
        with pytest.raises(InputError, match="a Dask cluster is found by the address of its scheduler"):
            run(tiny, tmp_path, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_library_names_its_extra(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, module: str
) -> None:
    # None in sys.modules is how Python itself marks what cannot be imported
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=rf'needs {module}; .*pip install "torch-spp\[{backend}\]"'):
        run(tiny, tmp_path, backend=backend, address="tcp://127.0.0.1:9")

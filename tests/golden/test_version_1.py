"""Runs that the first version saved open, plot, report and check today."""

import shutil
from pathlib import Path

import pytest

import spp
from tests.golden.cases import traced

HERE = Path(__file__).parent


@pytest.fixture(params=["version-1-trace", "version-1-watch"])
def run(request, tmp_path):
    shutil.copytree(HERE / request.param, tmp_path / "run")
    return spp.load(tmp_path / "run")


def test_its_tables_are_there_with_what_the_schema_of_today_asks_for(run):
    assert len(run.frame) and len(run.modules) and run.info["model"]
    kinds = dict(zip(run.modules["name"], run.modules["kind"], strict=True))
    assert {"linear", "norm", "activation"} <= set(kinds.values())
    layers = run.frame[run.frame["leaf"]]
    assert (layers["kind"].astype(str) == layers["name"].map(kinds).astype(str)).all()


def test_it_is_told_drawn_and_diagnosed(run, tmp_path):
    assert run.info["model"] in str(run) and len(run.components)
    assert set(run.findings.columns) >= {"rule", "severity", "name"}
    assert run.plot().save(tmp_path / "figure.png")
    assert run.plot("layers").panels


def test_a_trace_of_today_is_checked_against_it():
    before = spp.load(HERE / "version-1-trace")
    found = spp.check(traced("residual"), before)
    assert len(found.layers) and not found.layers["moved"].any() and not found.missing


def test_it_is_saved_again_as_a_run_of_today(run, tmp_path):
    run.save(tmp_path / "again")
    assert len(spp.load(tmp_path / "again").frame) == len(run.frame)

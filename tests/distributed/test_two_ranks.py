"""Two processes through torchrun, DDP and FSDP2 over gloo, against one process on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import spp
from tests.distributed import worker

ROOT = Path(__file__).resolve().parents[2]
KEY = ["step", "mode", "name", "call", "output", "signal"]
EXACT = ["depth", "type", "leaf", "role", "block", "dtype", "channels", "numel", "nonfinite"]
NUMBERS = ["mean", "var", "std", "mean_square", "rms", "acsm", "acv", "min", "max", "abs_max", "update_ratio"]
SHARES = ["zero_fraction", "dead_fraction", "saturated_fraction"]
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both processes have left what they measured."""
    where = tmp_path_factory.mktemp("ranks")
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(ROOT / "tests/distributed/worker.py")]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*launch, str(where)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("done") == 2, done.stderr[-4000:]
    return where


@pytest.fixture(scope="module", params=list(worker.CASES))
def both(folder, request):
    """What two processes gave and what one gives on the whole batch, with the name of the dtype."""
    _, dtype, accumulate = worker.CASES[request.param]
    model = worker.build(dtype)
    optimizer = worker.sgd(model)
    with spp.watch(model, optimizer, every=1) as watch:
        worker.train(model, optimizer, dtype, slice(None), accumulate)
    tables = [pd.read_parquet(folder / f"{request.param}.{name}.parquet") for name in ("frame", "blocks")]
    loss = spp.load(folder / f"{request.param}.run").steps["loss"], watch.steps["loss"]
    np.testing.assert_allclose(*loss, rtol=TOLERANCE[str(dtype).removeprefix("torch.")])
    return tables, (watch.frame, watch.blocks), str(dtype).removeprefix("torch.")


def test_the_frame_is_that_of_one_process_on_the_whole_batch(both):
    (frame, _), (expected, _), dtype = both
    frame, expected = frame.set_index(KEY).sort_index(), expected.set_index(KEY).sort_index()
    assert frame.index.tolist() == expected.index.tolist()
    assert set(expected.index.get_level_values("mode")) == {"train", "eval"}
    for column in EXACT:
        assert (
            frame[column].astype(object).fillna("").tolist() == expected[column].astype(object).fillna("").tolist()
        ), column
    for column in SHARES:
        np.testing.assert_allclose(frame[column], expected[column], rtol=1e-12, err_msg=column)
    for column in NUMBERS:
        squared = column in ("var", "mean_square", "acsm", "acv")
        size = expected["rms"] ** (2 if squared else 1)  # a mean near zero is as exact as the values it is a mean of
        allowed = TOLERANCE[dtype] * (expected[column].abs() if column == "update_ratio" else size)
        difference = (frame[column] - expected[column]).abs()
        wrong = ~((difference <= allowed) | (frame[column].isna() & expected[column].isna()))
        assert not wrong.any(), (column, frame[wrong][column], expected[wrong][column])


def test_the_blocks_too(both):
    (_, blocks), (_, expected), dtype = both
    assert blocks["block"].tolist() == expected["block"].tolist()
    # the evaluation has its merges too: without a graph, functions that are layers lead from module to module
    assert blocks["mode"].tolist() == expected["mode"].tolist()
    assert blocks["mode"].value_counts().to_dict() == {"train": 2 * worker.STEPS, "eval": 2}
    for column in ("acsm", "acv", "branch_acv", "gradient_acsm", "gradient_acv", "gradient_branch_acv"):
        np.testing.assert_allclose(blocks[column], expected[column], rtol=TOLERANCE[dtype], err_msg=column)


def test_only_the_first_rank_writes(folder):
    run = spp.load(folder / "ddp-float64.run")
    pd.testing.assert_frame_equal(run.frame, pd.read_parquet(folder / "ddp-float64.frame.parquet"))
    assert run.run["ranks"] == 2 and run.run["model"] == "Net"
    sharded = spp.load(folder / "fsdp-float64.run")
    assert sharded.run["parameters"] == run.run["parameters"] and sharded.run["model"] == "Net"
    # what a shard hands on is no output that a module gave
    tables = [one.modules.drop(columns="input_rows") for one in (sharded, run)]
    pd.testing.assert_frame_equal(*tables)


def test_without_torch_distributed_a_process_group_is_an_error():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(spp.InputError, match=r"process_group: a process group is one of torch.distributed"):
        spp.watch(model, process_group=object())

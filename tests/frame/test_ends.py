"""However a process ends, what was sampled is on disk; what it forks writes nothing there."""

import signal
import textwrap

import pytest
import torch
from torch import nn

import spp

LOOP = """
    import os, signal, sys, time
    import torch, spp
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(5, 3)).square().sum().backward()
            optimizer.step()

    def started(**options):
        return spp.watch(model, optimizer, **{"path": sys.argv[1], "every": 1, "flush": 3600, **options}).start()
"""


@pytest.fixture
def loop(python):
    return lambda code, folder: python(textwrap.dedent(LOOP) + textwrap.dedent(code), folder)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise RuntimeError('mine')", 1),
        ("signal.raise_signal(signal.SIGTERM); time.sleep(60)", -signal.SIGTERM),
        # in the middle of writing: it waits until the part is whole
        (
            "import spp.frame.runs as runs; put = runs.put_table;"
            "runs.put_table = lambda *a: (signal.raise_signal(signal.SIGTERM), put(*a)); watch.flush(); time.sleep(60)",
            -signal.SIGTERM,
        ),
        # of a terminal that closes both the system and the shell tell
        (
            "import spp.frame.runs as runs; put = runs.put_table; hang_up = lambda: signal.raise_signal(signal.SIGHUP);"
            "runs.put_table = lambda *a: (hang_up(), put(*a), hang_up()); hang_up(); time.sleep(60)",
            -signal.SIGHUP,
        ),
    ],
)
def test_a_watch_that_nobody_closes_is_on_disk(loop, tmp_path, end, code):
    done = loop(
        f"""
    watch = started()
    train(3)
    {end}
    """,
        tmp_path / "run",
    )
    assert done.returncode == code, done.stderr
    assert ("RuntimeError: mine" in done.stderr) == (code == 1)
    loaded = spp.load(tmp_path / "run")
    assert loaded.frame["step"].unique().tolist() == [0, 1, 2] and loaded.run["next_step"] == 3
    assert not loaded.frame.duplicated(["step", "name", "output", "signal", "mode"]).any()


def test_a_handler_of_somebody_else_stays(loop, tmp_path):
    done = loop(
        """
    signal.signal(signal.SIGTERM, lambda *_: print("mine"))
    watch = started()
    signal.raise_signal(signal.SIGTERM)
    watch.close()
    signal.raise_signal(signal.SIGTERM)
    """,
        tmp_path / "run",
    )
    assert (done.returncode, done.stdout) == (0, "mine\nmine\n")


def test_the_default_handler_is_back_after_a_watch(tmp_path):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    model = nn.Linear(2, 2)
    with spp.watch(model, path=tmp_path / "run"):
        model(torch.randn(3, 2)).sum().backward()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_rows_are_written_by_time_and_by_number(loop, tmp_path):
    done = loop(
        """
    watch = started()
    train(1)
    assert not len(spp.load(sys.argv[1]).frame)
    train(299)
    assert 200 < spp.load(sys.argv[1]).frame["step"].nunique() < 300
    watch.close()
    watch = started(path=sys.argv[1] + "-2", every=1000, flush=0.2)
    train(1)
    time.sleep(0.3)
    train(1)
    assert spp.load(sys.argv[1] + "-2").frame["step"].unique().tolist() == [0]
    """,
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)", "watch.close(); sys.exit()", "raise SystemExit"])
def test_what_a_forked_process_does_is_not_in_the_run(loop, tmp_path, end):
    done = loop(
        f"""
    with spp.watch(model, optimizer, path=sys.argv[1], every=1, flush=0) as watch:
        train(2)
        child = os.fork()
        if not child:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            train(5)
            {end}
        os.waitpid(child, 0)
        train(1)
    """,
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    assert "AssertionError" not in done.stderr
    loaded = spp.load(tmp_path / "run")
    assert loaded.frame["step"].unique().tolist() == [0, 1, 2] and loaded.run["next_step"] == 3
    lines = [line for line in done.stderr.splitlines() if "forked" in line]
    assert len(lines) == 1 and "a process that was forked inside a watch writes nothing to its run" in lines[0]

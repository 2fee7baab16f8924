"""The folder of a run: everything up to the last flush, whatever happens to its writer."""

import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import spp
from spp.frame import runs
from spp.frame.runs import RunWriter
from spp.frame.schema import MODULE_COLUMNS, UNMEASURED_COLUMNS, WATCH_BLOCK_COLUMNS, WATCH_COLUMNS, check
from tests.watching.loops import Net, plain, train

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}", "OMP_NUM_THREADS": "1"}


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05)


def run(path, steps=6, *, model=None, build=Net, after=lambda step: None, **options):
    if model is None:
        torch.manual_seed(0)
        model = build()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, **{"every": 2, "flush": 0, "path": path, **options}) as watch:
        train(model, optimizer, steps, after=lambda step: after(watch))
    return watch


def test_written_as_it_goes_and_read_meanwhile(tmp_path):
    seen = []

    def look(watch):
        seen.append(spp.load(tmp_path / "run").frame["step"].unique().tolist())
        pd.testing.assert_frame_equal(spp.load(tmp_path / "run").frame, watch.frame)

    watch = run(tmp_path / "run", after=look)
    assert seen == [[0], [0], [0, 2], [0, 2], [0, 2, 4], [0, 2, 4]]
    loaded = spp.load(tmp_path / "run")
    in_memory = run(None)
    pd.testing.assert_frame_equal(check(loaded.frame, WATCH_COLUMNS), in_memory.frame)
    pd.testing.assert_frame_equal(check(loaded.blocks, WATCH_BLOCK_COLUMNS), in_memory.blocks)
    pd.testing.assert_frame_equal(check(loaded.modules, MODULE_COLUMNS), in_memory.modules)
    pd.testing.assert_frame_equal(check(loaded.unmeasured, UNMEASURED_COLUMNS), in_memory.unmeasured)
    pd.testing.assert_frame_equal(watch.frame, in_memory.frame)
    assert loaded.run["model"] == "Net" and loaded.run["next_step"] == 6
    assert len(list((tmp_path / "run" / "parts").glob("*.parquet"))) == 6


def test_rows_wait_until_they_are_flushed(tmp_path):
    seen = []

    def look(watch):
        seen.append(len(spp.load(tmp_path / "run").frame))
        if watch.step == 3:
            watch.flush()

    watch = run(tmp_path / "run", after=look, flush=3600)
    rows = len(watch.frame)
    assert seen == [0, 0, 0, rows * 2 // 3, rows * 2 // 3, rows * 2 // 3]
    assert len(spp.load(tmp_path / "run").frame) == rows


def test_a_run_is_continued(tmp_path):
    torch.manual_seed(0)
    model = plain()
    first = run(tmp_path / "run", 3, model=model, build=plain)
    second = run(tmp_path / "run", 3, model=model, build=plain, resume=True)
    assert first.step == 3 and second.step == 6
    loaded = spp.load(tmp_path / "run")
    assert loaded.frame["step"].unique().tolist() == [0, 2, 4]
    pd.testing.assert_frame_equal(second.frame, loaded.frame)
    again = run(tmp_path / "run", 4, model=model, build=plain, resume=True, start=2, every=3)  # from a checkpoint
    assert again.step == 6
    assert spp.load(tmp_path / "run").frame["step"].unique().tolist() == [0, 3]
    assert not spp.load(tmp_path / "run").frame.duplicated(["step", "name", "output", "signal"]).any()


def test_where_there_is_nothing_to_continue_a_run_begins(tmp_path):
    run(tmp_path / "run", 2, resume=True)
    assert spp.load(tmp_path / "run").frame["step"].unique().tolist() == [0]


class Moody(nn.Module):
    """A residual block, and a layer, that are used in some steps."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.expert, self.head = (
            nn.Linear(4, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 2),
        )

    def forward(self, x, step):
        x = torch.tanh(self.stem(x))
        if step % 4 == 0:
            x = x + torch.tanh(self.block(x))
        if step in (2, 6):
            x = self.expert(x)
        return self.head(x)


@pytest.mark.parametrize("optimized", [True, False])
def test_a_run_that_goes_on_is_the_one_that_was_not_interrupted(tmp_path, optimized):
    data = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0))

    def session(path, model, begin, end):
        optimizer = sgd(model)
        options = {"every": 2, "flush": 0, "path": path, "resume": True, "start": begin}
        with spp.watch(model, optimizer if optimized else None, **options):
            for step in range(begin, end):
                optimizer.zero_grad()
                model(data[step], step).square().sum().backward()
                optimizer.step()
                if step % 3 == 2:
                    with torch.no_grad():
                        model.eval()(data[0], 1)
                        model.train()

    # without an optimizer a session ends as with one: a stop within an evaluation, a block's and a layer's absence
    stops = range(1, 10) if optimized else (2, 5, 8)
    for name, ends in (("whole", [10]), *((f"parts {stop}", [stop, 10]) for stop in stops)):
        torch.manual_seed(0)
        model, begin = Moody(), 0
        for end in ends:
            session(tmp_path / name, model, begin, end)
            begin = end
    whole = spp.load(tmp_path / "whole")
    assert (whole.frame["mode"] == "eval").any() and whole.frame["block"].notna().any()
    for stop in stops:
        parts = spp.load(tmp_path / f"parts {stop}")
        for name in ("frame", "blocks", "modules", "unmeasured"):
            pd.testing.assert_frame_equal(getattr(whole, name), getattr(parts, name), check_exact=True)


def test_what_was_not_measured_is_kept_over_sessions(tmp_path):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.first, self.second = plain(), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.net(x)

    torch.manual_seed(0)
    model = Partly()
    run(tmp_path / "run", 1, model=model)
    before = spp.load(tmp_path / "run").unmeasured
    run(tmp_path / "run", 1, model=model, resume=True)
    assert len(before) > 2
    pd.testing.assert_frame_equal(spp.load(tmp_path / "run").unmeasured, before)


def test_a_run_is_replaced_only_when_that_is_said(tmp_path):
    run(tmp_path / "run", 5)
    with pytest.raises(
        spp.errors.StoreError,
        match=r"an existing run is not overwritten silently; got a folder that holds one. Pass resume=True to continue it, "
        "overwrite=True to replace it, or choose another folder",
    ):
        spp.watch(plain(), path=tmp_path / "run")
    run(tmp_path / "run", 1, build=plain, overwrite=True)
    loaded = spp.load(tmp_path / "run")
    assert loaded.frame["step"].unique().tolist() == [0] and loaded.run["model"] == "Sequential"


def test_paths_that_are_refused(tmp_path):
    model = plain()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(spp.errors.StoreError, match="file: a run is saved in a folder; got a file"):
        spp.watch(model, path=tmp_path / "file")
    with pytest.raises(spp.errors.StoreError, match="a run needs a place that can be written; got Not a directory"):
        spp.watch(model, path=tmp_path / "file" / "run").start()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(
            spp.errors.StoreError, match="a run is written to a folder of its own; got a folder that holds"
        ):
            spp.watch(model, path=tmp_path / "other", **options)
    with pytest.raises(spp.InputError, match="a run is continued or replaced; got resume=True and overwrite=True"):
        spp.watch(model, path=tmp_path / "new", resume=True, overwrite=True)
    with pytest.raises(spp.InputError, match="flush is a number of seconds, 0 or more; got -1"):
        spp.watch(model, path=tmp_path / "new", flush=-1)
    assert not (tmp_path / "new").exists()


def test_runs_that_cannot_be_continued(tmp_path):
    run(tmp_path / "run", 1)
    with pytest.raises(
        spp.errors.StoreError,
        match=r"continued with the model it began with, Net of [\d,]+ parameters; got Sequential of",
    ):
        spp.watch(plain(), path=tmp_path / "run", resume=True).start()
    spp.trace(plain(), torch.randn(2, 3, 5, 5)).save(tmp_path / "trace")
    with pytest.raises(spp.errors.StoreError, match=r"written by spp.watch as it went; got a saved trace"):
        spp.watch(plain(), path=tmp_path / "trace", resume=True).start()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(spp.errors.StoreError, match=r"this spp reads runs up to version 2; got version 99.*Upgrade"):
        spp.watch(Net(), path=tmp_path / "run", resume=True).start()
    with pytest.raises(spp.errors.StoreError, match="got version 99"):
        spp.load(tmp_path / "run")


def test_two_writers_in_one_process(tmp_path):
    model = plain()
    with (
        warnings.catch_warnings(action="ignore"),
        spp.watch(model, path=tmp_path / "run"),
        pytest.raises(
            spp.errors.StoreError, match="a run has one writer; got a folder that another watch of this process"
        ),
    ):
        spp.watch(plain(), path=tmp_path / "run", resume=True).start()
    with warnings.catch_warnings(action="ignore"), spp.watch(model, path=tmp_path / "run", resume=True):
        pass


def talking(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, arguments)],
        env=ENVIRONMENT,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_writers_in_two_processes_and_the_lock_of_a_dead_one(tmp_path):
    writer = RunWriter(tmp_path / "run", resume=True)
    other = talking(
        """
        import sys
        from spp.frame.runs import RunWriter
        writer = RunWriter(sys.argv[1], resume=True)
        writer.open({"kind": "watch"}, None)
        print("open", flush=True)
        sys.stdin.read()
        """,
        tmp_path / "run",
    )
    assert other.stdout.readline() == "open\n"
    with pytest.raises(
        spp.errors.StoreError, match=rf"a run has one writer; got a folder that process {other.pid} is writing"
    ):
        writer.open({"kind": "watch"}, None)
    other.kill()
    other.communicate()
    assert writer.open({"kind": "watch"}, None) == 0
    writer.close()


NURSERY = """
    import os, random, signal, sys, time
    import pandas as pd
    from spp.frame.runs import RunWriter
    from spp.frame.runs import read
    tables, _ = read(sys.argv[1])  # also gets everything loaded before the first fork
    frame, blocks = tables["frame"].head(8), tables["blocks"].head(1)
    random.seed(5)

    def write(folder, pipe):
        writer = RunWriter(folder, resume=True)
        step = writer.open({"kind": "watch", "model": "Net", "parameters": 1}, None)
        os.write(pipe, b"o\\n")
        while True:
            rows = frame.assign(step=step), blocks.assign(step=step)
            writer.append(*rows, next_step=step + 1, unmeasured=tables["unmeasured"])
            os.write(pipe, f"{step}\\n".encode())
            step += 1

    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            write(line.strip(), writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            pipe.readline()
            acknowledged = [pipe.readline() for _ in range(random.randrange(4))]  # a busy machine takes longer
            time.sleep(random.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged += pipe.readlines()
        print(int(acknowledged[-1]) if acknowledged else -1, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_run_opens_with_everything_to_its_last_flush(tmp_path, request):
    run(tmp_path / "seed", 1)
    nursery = talking(NURSERY, tmp_path / "seed")
    drafts = flushed = 0
    request.addfinalizer(nursery.kill)
    # a share: benchmarks/kills.py kills hundreds
    for kill in range(20):
        folder = tmp_path / f"run-{kill // 5}"  # five writers continue each other's run, each is killed
        nursery.stdin.write(f"{folder}\n")
        nursery.stdin.flush()
        last = int(nursery.stdout.readline())
        drafts += any(folder.rglob(".draft-*"))
        tables, facts = runs.read(folder)
        steps = tables["frame"]["step"].unique().tolist()
        reached = max(steps, default=-1)
        assert steps == list(range(reached + 1)) and (tables["frame"].groupby("step").size() == 8).all()
        assert reached >= last and tables["blocks"]["step"].tolist() == steps
        assert facts["kind"] == "watch"
        flushed += last >= 0
    nursery.communicate()
    assert flushed >= 4 and drafts >= 2  # the kills did land in the middle of things


def test_a_full_disk_ends_the_watching_not_the_training(python, tmp_path):
    """A limit on file sizes is what a full disk is: the operating system refuses to write on."""
    done = python(
        """
        import resource, signal, sys, warnings
        import torch, spp
        from tests.watching.loops import Net, train
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        def losses(path=None):
            torch.manual_seed(0)
            model = Net()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            if path is None:
                return train(model, optimizer, 6)
            with spp.watch(model, optimizer, every=1, flush=0, path=path) as watch:
                found = train(model, optimizer, 6, after=lambda step: step == 2 and limit())
            print(sorted(watch.frame["step"].unique().tolist()), flush=True)
            return found
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watched = losses(sys.argv[1])
        print(caught[0].message)
        print(watched == losses())
        """,
        tmp_path / "run",
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0] == "[0, 1, 2, 3]"  # what could not be written is still in memory
    assert (
        lines[1].startswith("the watching has ended, the training goes on: StoreError:")
        and "File too large" in lines[1]
    )
    assert lines[2] == "True"
    assert spp.load(tmp_path / "run").frame["step"].unique().tolist() == [0, 1, 2]
    assert not list((tmp_path / "run").rglob(".draft*"))


def test_damage_is_named(tmp_path):
    run(tmp_path / "run", 3)
    part = tmp_path / "run" / "parts" / "blocks-000002.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(spp.errors.StoreError, match=r"blocks-000002.parquet of a run needs to be readable"):
        spp.load(tmp_path / "run")

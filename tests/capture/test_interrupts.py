"""Ctrl-C, a timeout or a polite kill at any moment of a trace or of a watched step leaves nothing behind, and is not lost."""

import signal
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import spp
from tests.scripts import script

interrupts = script("../benchmarks/interrupts.py")
SHARE = 32
"""One line in so many; ``benchmarks/interrupts.py`` takes every one."""


@pytest.fixture(autouse=True)
def _one_thread(_calm: None) -> None:
    torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.parametrize("case", [interrupts.Traced, interrupts.Watched])
@pytest.mark.parametrize("hit", [1, 3])
def test_ctrl_c_at_any_line(case, hit):
    lines = interrupts.lines_of(case)
    assert len(lines) > 1000
    found = {}
    for line in lines[hit :: SHARE * hit]:
        faults = interrupts.at_line(case, line, hit)
        # not every line runs several times
        if faults and (hit == 1 or faults != ["the interrupt was lost"]):
            found[line] = faults
    assert not found


@pytest.mark.parametrize("case", [interrupts.Traced, interrupts.Watched])
def test_timers(case):
    found, early = interrupts.timed(case, 50)
    assert not found and early


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_other_signals_with_a_handler_that_raises(number):
    """A polite kill as SystemExit."""

    def leave(number, frame):
        raise SystemExit(3)

    before = signal.signal(number, leave)
    try:
        for line in interrupts.lines_of(interrupts.Traced)[::80]:
            case = interrupts.Traced()
            with pytest.raises(SystemExit), interrupts.signal_at(line, number):
                case.run()
            assert case.faults() == []
    finally:
        signal.signal(number, before)


class Signalling(nn.Module):
    """Does something in its forward."""

    def __init__(self, act):
        super().__init__()
        self.norm, self.act = nn.BatchNorm1d(3), act

    def forward(self, x):
        x = self.norm(x)
        self.act()
        return x


def test_a_handler_that_does_not_raise_runs_at_once():
    seen, before = [], signal.signal(signal.SIGTERM, lambda *_: seen.append("handler"))

    def act():
        signal.raise_signal(signal.SIGTERM)
        seen.append("forward")

    try:
        spp.trace(Signalling(act), torch.randn(4, 3))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["handler", "forward"]


def test_a_handler_that_a_forward_installs_stays_and_has_the_one_before_it():
    seen = []

    def first(*_):
        seen.append("first")

    def act():
        older = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *args: (seen.append("second"), older(*args)))

    before = signal.signal(signal.SIGTERM, first)
    try:
        spp.trace(Signalling(act), torch.randn(4, 3))
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["second", "first"]


def test_an_interrupt_in_a_trace_inside_a_watched_forward():
    """It goes up through both, and the handlers are the user's at once where it was not raised."""
    other, inside = nn.Linear(3, 2), []

    def stop():
        signal.raise_signal(signal.SIGINT)

    def act():
        before = interrupts.world()
        with pytest.raises(KeyboardInterrupt):
            spp.trace(nn.Sequential(Signalling(stop), other), torch.randn(4, 3))
        inside.append(interrupts.world() == before)
        stop()

    world = interrupts.world()
    model = Signalling(act)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyboardInterrupt), spp.watch(model, optimizer, every=1):
        model(torch.randn(4, 3))
    assert inside == [True] and interrupts.world() == world


def test_a_second_ctrl_c_waits_until_everything_is_let_go():
    """While the first one goes up, a line of the letting go has another."""
    world, second = interrupts.world(), []
    lines = [line for line in interrupts.lines_of(interrupts.Traced) if line[0].endswith("tensor_state.py")]
    for line in lines[-15:]:
        case = interrupts.Traced()
        case.model.register_forward_hook(lambda *_: second.append(signal.raise_signal(signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt), interrupts.signal_at(line):
            case.run()
        case.model._forward_hooks.clear()
        assert case.faults() == []
    assert interrupts.world() == world


def test_on_another_thread_nothing_waits():
    """A signal belongs to the main thread, which goes on at once while another one traces."""
    inside, go_on = threading.Event(), threading.Event()
    model = Signalling(lambda: (inside.set(), go_on.wait(60)))
    worker = threading.Thread(target=lambda: spp.trace(model, torch.randn(4, 3)))
    worker.start()
    try:
        assert inside.wait(60)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        go_on.set()
        worker.join()


EMBEDDED = """
import _thread, sys, time

def work():
    try:
        import torch, spp
        found.append(len(spp.trace(torch.nn.Linear(3, 2), torch.ones(4, 3)).frame))
    except BaseException as error:
        found.append(repr(error))

found, known = [], "threading" in sys.modules
_thread.start_new_thread(work, ())
while not found:
    time.sleep(0.05)
print(known, found)
"""


def test_where_python_takes_another_thread_for_the_main_one():
    """As in a program that embeds it, where ``threading`` was imported elsewhere."""
    done = subprocess.run([sys.executable, "-c", EMBEDDED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "[6]"]


def test_the_loader_may_be_interrupted():
    world, depth = interrupts.world(), sys.getrecursionlimit()

    def batches():
        yield torch.randn(4, 3)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the interrupt came too late")

    model = nn.BatchNorm1d(3)
    with pytest.raises(KeyboardInterrupt):
        spp.trace(model, batches())
    assert interrupts.world() == world and sys.getrecursionlimit() == depth and model.num_batches_tracked == 0


def test_an_interrupted_save_is_none(tmp_path):
    run = spp.trace(nn.Linear(3, 2), torch.randn(4, 3))
    folders = []

    class Saved(interrupts.Case):
        def __init__(self):
            folders.append(tmp_path / str(len(folders)))

        def run(self):
            run.save(folders[-1])

    for line in interrupts.lines_of(Saved)[::8]:
        case = Saved()
        with pytest.raises(KeyboardInterrupt), interrupts.signal_at(line):
            case.run()
        if folders[-1].exists():
            assert spp.load(folders[-1]).frame.equals(run.frame)
        assert {path.name for path in tmp_path.iterdir()} <= {folder.name for folder in folders}

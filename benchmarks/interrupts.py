"""Ctrl-C at every line of ours that a trace and a watched step run, and at random moments; nothing may be left behind.

    python benchmarks/interrupts.py                 # every line, and 2,000 by timer
    python benchmarks/interrupts.py --timed 200 --share 10

A signal is raised at one line, each time on a fresh network with BatchNorm, dropout, a residual sum and a ``.grad`` that is
already there. Then torch, Python and the network must be as before, and a training step must give what it gives on a twin that
nobody looked at, to the bit. ``tests/capture/test_interrupts.py`` runs a share of it.
"""

from __future__ import annotations

import argparse
import copy
import gc
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

import spp
import spp.watching

OURS = str(Path(spp.__file__).parent)
Line = tuple[str, int]


UNGUARDED = spp.watching.Watch.__exit__.__code__.co_filename, spp.watching.Watch.__exit__.__code__.co_firstlineno + 2
"""Where Python has not yet begun to leave a ``with``, nothing can be left; ``close`` does it then."""


class Interrupted(BaseException):
    """What the handler of another signal than Ctrl-C raises."""


class Net(nn.Module):
    """Convolution, BatchNorm, a residual sum, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(4 * 25, 5)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(self.drop(x).flatten(1))


class Case:
    """A network that something looks at, and its twin."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.x, self.y = torch.randn(4, 3, 5, 5), torch.tensor([0, 1, 2, 3])
        self.model = Net()
        nn.functional.cross_entropy(self.model(self.x), self.y).backward()
        self.twin = copy.deepcopy(self.model)
        for ours, theirs in zip(self.model.parameters(), self.twin.parameters(), strict=True):
            theirs.grad = ours.grad.clone()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.of_twin = torch.optim.SGD(self.twin.parameters(), lr=0.1, momentum=0.9)
        self.before, self.world = self.state(), world()
        self.grads = [p.grad for p in self.model.parameters()]

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        loss = nn.functional.cross_entropy(model(self.x), self.y)
        loss.backward()
        optimizer.step()

    def state(self, model: nn.Module | None = None) -> list[Any]:
        model = self.model if model is None else model
        tensors = [t.detach().clone() for t in model.state_dict().values()]
        return [*tensors, *(p.grad.clone() for p in model.parameters()), torch.get_rng_state()]

    def run(self) -> None:
        # what is swept is a subclass's: a trace, or a watched step
        raise NotImplementedError

    def faults(self) -> list[str]:
        """What is not as it should be."""
        found = [name for name, value in world().items() if self.world[name] is not value and self.world[name] != value]
        for module in self.model.modules():
            found += [f"{name} of a module" for name, value in vars(module).items() if "hook" in name and value]
            found += [name for name in ("forward", "_compiled_call_impl") if vars(module).get(name) is not None]
        found += [
            "hook of a parameter" for p in self.model.parameters() if p._backward_hooks or p._post_accumulate_grad_hooks
        ]
        hooks = self.optimizer._optimizer_step_pre_hooks, self.optimizer._optimizer_step_post_hooks
        found += ["hook of the optimizer"] if any(hooks) else []
        return found

    def twin_step(self) -> list[str]:
        states = []
        for model, optimizer in ((self.model, self.optimizer), (self.twin, self.of_twin)):
            torch.manual_seed(1)
            self.step(model, optimizer)
            states.append(self.state(model))
        return [] if same(*states) else ["a step of a twin"]


class Traced(Case):
    def run(self) -> None:
        spp.trace(self.model, [(self.x, self.y), (self.x, self.y)])

    def faults(self) -> list[str]:
        found = super().faults()
        if not same(self.before, self.state()):
            found.append("values, gradients or random state")
        if any(p.grad is not grad for p, grad in zip(self.model.parameters(), self.grads, strict=True)):
            found.append(".grad")
        if self.model.calls != self.twin.calls:
            found.append("attributes")
        return found + self.twin_step()


class Watched(Case):
    def run(self) -> None:
        self.watch = spp.watch(self.model, self.optimizer, every=[0, 2])
        with self.watch:
            for _ in range(3):
                self.step(self.model, self.optimizer)
            self.model.eval()
            try:
                # no_grad is in Python, where an interrupt of its own __exit__ leaves gradients off
                torch._C._set_grad_enabled(False)
                self.model(self.x)
            finally:
                torch._C._set_grad_enabled(True)

    def faults(self) -> list[str]:
        found = super().faults()
        # where the loop has come to is its own business
        self.model.train()
        self.model.load_state_dict(self.twin.state_dict())
        self.optimizer.load_state_dict(self.of_twin.state_dict())
        for ours, grad in zip(self.model.parameters(), self.before[-1 - len(self.grads) : -1], strict=True):
            ours.grad = grad.clone()
        return found + self.twin_step()


def world() -> dict[str, Any]:
    """What of torch and Python everybody shares."""
    stance = sys.modules["torch._dynamo.eval_frame"]._stance if "torch._dynamo" in sys.modules else None
    found = {
        "Module.__call__": nn.Module.__call__,
        "autograd.backward": torch.autograd.backward,
        "scale": GradScaler.scale,
        "update": GradScaler.update,
        "stance": stance,
        "recursion limit": sys.getrecursionlimit(),
        "threshold": gc.get_threshold(),
        "frozen": gc.get_freeze_count(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "torch.add": torch.add,
    }
    for name in ("__add__", "__iadd__", "add", "add_"):
        found[f"Tensor.{name}"] = (getattr(Tensor, name), name in vars(Tensor))
    for number in signal.valid_signals():
        found[f"handler of {int(number)}"] = signal.getsignal(number)
    return found


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def lines_of(case: Callable[[], Case]) -> list[Line]:
    """Every distinct line of ours that a case runs, in order."""
    found: dict[Line, None] = {}

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            found[frame.f_code.co_filename, frame.f_lineno] = None
        return local

    def called(frame: FrameType, _: str, __: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(OURS) else None

    case().run()
    one = case()
    sys.settrace(called)
    try:
        one.run()
    finally:
        sys.settrace(None)
    return list(found)


@contextmanager
def signal_at(line: Line, number: int = signal.SIGINT, hit: int = 1) -> Iterator[None]:
    """Raise a signal when a line is about to run for the ``hit``-th time."""
    left = [hit]

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and frame.f_lineno == line[1] and left[0] > 0:
            left[0] -= 1
            if not left[0]:
                sys.settrace(None)
                signal.raise_signal(number)
        return local if left[0] else None

    def called(frame: FrameType, _: str, __: Any) -> Any:
        return local if left[0] and frame.f_code.co_filename == line[0] else None

    sys.settrace(called)
    try:
        yield
    finally:
        sys.settrace(None)


def at_line(case: Callable[[], Case], line: Line, hit: int = 1) -> list[str]:
    """What is wrong after a Ctrl-C at a line."""
    one, raised = case(), False
    try:
        with signal_at(line, hit=hit):
            one.run()
    except KeyboardInterrupt:
        raised = True
    if line == UNGUARDED:
        one.watch.close()
    return one.faults() + ([] if raised else ["the interrupt was lost"])


def timed(case: Callable[[], Case], count: int, seed: int = 0) -> tuple[list[str], int]:
    """What is wrong after timers have gone off at random moments, and how many went off in time."""
    draw, found, early = random.Random(seed), [], 0

    def raising(number: int, _: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, raising)
    try:
        case().run()
        durations = []
        for one in (case(), case(), case()):
            begin = time.perf_counter()
            one.run()
            durations.append(time.perf_counter() - begin)
        for _ in range(count):
            one = case()
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.02, 1.0) * min(durations))
                one.run()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                early += 1
            with suppress(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, 0)
            found += one.faults()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return found, early


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=int, default=1, help="one line in so many")
    parser.add_argument("--timed", type=int, default=2000, help="interrupts by timer")
    parser.add_argument("--hit", type=int, default=1, help="at the line's so many-th run")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # what runs in the background ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wrong = 0
    for case in (Traced, Watched):
        lines, begin, bad = lines_of(case)[:: given.share], time.perf_counter(), 0
        for file, number in lines:
            faults = at_line(case, (file, number), given.hit)
            if faults and not (given.hit > 1 and faults == ["the interrupt was lost"]):
                bad += 1
                print(f"{case.__name__} {file.removeprefix(OURS)}:{number}: {', '.join(sorted(set(faults)))}")
        print(f"{case.__name__}: {len(lines)} lines, {bad} with faults, {time.perf_counter() - begin:.0f} s")
        found, early = timed(case, given.timed // 2)
        print(f"{case.__name__}: {given.timed // 2} timers, {early} in time, {len(found)} faults {sorted(set(found))}")
        wrong += bad + len(found)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

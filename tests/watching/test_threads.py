"""Traces and watches on several threads, inside one another and side by side: each has the rows that it has alone."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

import spp

PATIENCE = 120
"""Seconds after which two threads that should meet have not."""


class Net(nn.Module):
    """A stem, a residual block, a head; something can be done amid its forward."""

    def __init__(self, act: Callable[[], None] = lambda: None, seed: int = 0) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 3)
        # of its own: two threads that seed torch's and draw from it get each other's numbers
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.4, 0.4, generator=generator)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.act()
        x = x + self.block(x)
        self.act()
        return self.head(x)


def data(n: int = 5, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, between: Callable[[], None] = lambda: None, n: int = 5
) -> None:
    x, y = data(n)
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        between()
        loss.backward()
        between()
        optimizer.step()


def watched(model: nn.Module, between: Callable[[], None] = lambda: None, n: int = 5) -> spp.Run:
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=1) as watch:
        train(model, optimizer, between, n)
    return watch


def shims() -> list[Any]:
    """What of torch and Python everybody shares."""
    added = [(getattr(Tensor, name), name in vars(Tensor)) for name in ("__add__", "__iadd__", "add", "add_")]
    functions = nn.Module.__call__, torch.add, torch.autograd.backward, GradScaler.scale, GradScaler.update
    stance = sys.modules["torch._dynamo.eval_frame"]._stance if "torch._dynamo" in sys.modules else None
    return [*functions, *added, sys.getrecursionlimit(), stance]


@pytest.fixture(autouse=True)
def _nothing_stays() -> Any:
    # loads dynamo, whose stance is shared too
    sgd(nn.Linear(1, 1))
    before = shims()
    yield
    assert shims() == before


def equal(a: spp.Run, b: spp.Run) -> None:
    pd.testing.assert_frame_equal(a.frame, b.frame, check_exact=True)
    pd.testing.assert_frame_equal(a.blocks, b.blocks, check_exact=True)
    pd.testing.assert_frame_equal(a.modules, b.modules, check_exact=True)
    pd.testing.assert_frame_equal(a.unmeasured, b.unmeasured, check_exact=True)


def together(*acts: Callable[[], Any]) -> list[Any]:
    """Run each on a thread of its own; what they give."""
    results: list[Any] = [None] * len(acts)
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            results[i] = acts[i]()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(len(acts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    if errors:
        raise errors[0]
    assert not any(worker.is_alive() for worker in workers)
    return results


def test_two_traces_on_two_threads():
    """They meet twice in their forwards, in which both are observed."""
    meet = threading.Barrier(2, timeout=PATIENCE)
    alone = [spp.trace(Net(seed=i), data(4 + i)) for i in range(2)]
    both = together(*(lambda i=i: spp.trace(Net(meet.wait, seed=i), data(4 + i)) for i in range(2)))
    for one, other in zip(both, alone, strict=True):
        equal(one, other)


def test_a_watched_forward_that_waits_for_a_thread_that_traces():
    run, seen = spp.trace(Net(), data()), []

    def act():
        seen.extend(together(lambda: spp.trace(Net(), data())))

    equal(watched(Net(act)), watched(Net()))
    for one in seen:
        equal(one, run)
    assert len(seen) == 6


def test_two_watches_on_two_threads():
    """Their steps begin together, and each waits for the other between its forward and its backward."""
    meet = threading.Barrier(2, timeout=PATIENCE)
    alone = [watched(Net(seed=i), n=4 + i) for i in range(2)]
    both = together(*(lambda i=i: watched(Net(meet.wait, seed=i), meet.wait, n=4 + i) for i in range(2)))
    for one, other in zip(both, alone, strict=True):
        equal(one, other)


def test_a_backward_on_another_thread_is_anothers():
    """A thread trains a model that nobody watches, amid the steps of one that is."""

    def unwatched():
        model, scaler = Net(seed=5), GradScaler("cpu", init_scale=64.0)
        scaler.scale(nn.functional.cross_entropy(model(data()[0]), data()[1])).backward()
        scaler.step(sgd(model))
        scaler.update()

    equal(watched(Net(), lambda: together(unwatched)), watched(Net()))


def test_a_trace_inside_a_watched_forward_and_between_the_steps():
    other, model, traces = Net(seed=2), Net(), []

    def trace(which=other):
        traces.append(spp.trace(which, data(7)))

    model.act = trace
    run = watched(model, trace)
    equal(run, watched(Net()))
    for one in traces:
        equal(one, spp.trace(other, data(7)))
    assert len(traces) == 12
    # of the watched model itself
    equal(watched(again := Net(), lambda: trace(again)), watched(Net()))


def test_a_trace_of_a_watched_model_is_no_evaluation_and_no_step():
    model, plain = Net(), Net()
    x, y = data()

    def loop(model, trace):
        with spp.watch(model, every=1) as watch:
            for _ in range(3):
                nn.functional.cross_entropy(model(x), y).backward()
                trace()
            model.eval()
            trace()
        return watch

    equal(loop(model, lambda: spp.trace(model, data(7))), loop(plain, lambda: None))


@pytest.mark.parametrize("first", ["whole", "part"])
def test_a_watch_on_a_part_of_a_watched_model(first):
    def loop(names):
        model = Net()
        optimizer = sgd(model)
        of = {"whole": model, "part": model.block}
        watches = {name: spp.watch(of[name], optimizer, every=1).start() for name in names}
        train(model, optimizer)
        for watch in watches.values():
            watch.close()
        return watches

    both = loop(["whole", "part"] if first == "whole" else ["part", "whole"])
    for name, watch in both.items():
        equal(watch, loop([name])[name])


def test_two_watches_of_one_model():
    model = Net()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=1) as first, spp.watch(model, optimizer, every=[1]) as second:
        train(model, optimizer)
    alone = watched(Net())
    equal(first, alone)
    step = alone.frame.query("step == 1").reset_index(drop=True)
    pd.testing.assert_frame_equal(second.frame.reset_index(drop=True), step, check_exact=True)


class Parts(nn.Module):
    """An autoencoder whose loop calls its halves and never the whole."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), nn.Linear(4, 6)


def test_two_watches_of_a_loop_that_calls_parts():
    def loop(count):
        model = Parts()
        optimizer = sgd(model)
        watches = [spp.watch(model, optimizer, every=1).start() for _ in range(count)]
        for _ in range(3):
            optimizer.zero_grad()
            (model.decoder(model.encoder(data()[0])) - data()[0]).square().mean().backward()
            optimizer.step()
        for watch in watches:
            watch.close()
        return watches

    (alone,) = loop(1)
    for one in loop(2):
        equal(one, alone)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
def test_closing_in_any_order_leaves_no_shim(order):
    model, before = Net(), shims()
    optimizer = sgd(model)
    kinds = [(model, optimizer), (model, None), (model.block, optimizer)]
    watches = [spp.watch(m, o, every=1).start() for m, o in kinds]
    train(model, optimizer)
    # each is in the middle of a sampled step
    nn.functional.cross_entropy(model(data()[0]), data()[1]).backward()
    for i in order:
        watches[i].close()
        # the others go on
        model(data()[0])
    assert shims() == before
    assert all("_compiled_call_impl" not in vars(m) for m in model.modules())
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_traces_that_end_in_the_order_in_which_they_began():
    """The second one begins inside of the first, and ends after it, on another thread."""
    begun, ended = threading.Event(), threading.Event()
    alone, ran = spp.trace(Net(), data()), []

    def first():
        if not ran:
            ran.append(worker.start())
            assert begun.wait(PATIENCE)

    def second():
        begun.set()
        assert ended.wait(PATIENCE)

    worker = threading.Thread(target=lambda: ran.append(spp.trace(Net(second), data())))
    one = spp.trace(Net(first), data())
    # the other is in its forward, and torch is still observed for it alone
    quiet = Net()(data()[0])
    ended.set()
    worker.join(PATIENCE)
    equal(one, alone)
    equal(ran[1], alone)
    assert quiet.shape == (5, 3)


def test_a_loop_on_another_thread_than_the_watch_was_started_on():
    model = Net()
    optimizer = sgd(model)
    with spp.watch(model, optimizer, every=1) as watch:
        together(lambda: train(model, optimizer))
    equal(watch, watched(Net()))


def test_calls_of_another_thread_during_a_sampled_step_are_not_of_it():
    """An actor uses the policy that a learner trains."""
    model = Net()

    def act():
        with torch.no_grad():
            model(data(9)[0])

    equal(watched(model, lambda: together(act)), watched(Net()))


def test_compiled_models_are_eager_until_the_last_trace_ends():
    """The stance of the compiler is one for all threads."""
    import torch._dynamo

    stances = []
    inner = Net(lambda: stances.append(torch._dynamo.eval_frame._stance.stance))
    outer = Net(lambda: together(lambda: spp.trace(inner, data())))
    spp.trace(outer, data())
    assert set(stances) == {"force_eager"} and torch._dynamo.eval_frame._stance.stance == "default"

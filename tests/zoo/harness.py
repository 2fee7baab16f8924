"""What every hostile model must survive: see :func:`examine`.

A model is given by a function that builds it, so that the traced one, its untraced twin and the one that the oracle records
are equal without being copies: some modules cannot be copied.
"""

import contextlib
import gc
import random
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import spp
from tests.oracle import Recorder, assert_matches, columns, leaves
from tests.zoo.fingerprint import bits, unmoved

Build = Callable[[], nn.Module]


def seeded(seed: int = 7) -> None:
    """Set every global source of randomness."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (the models draw from it)
    random.seed(seed)


def make(build: Build) -> nn.Module:
    """The model, the same each time."""
    seeded(0)
    return build()


def x(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """A standard-normal input."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def square(output: Any, target: Any = None) -> Tensor:
    """A loss over every floating output that no gradient of vanishes."""
    found = [t for _, t in leaves(output) if t.is_floating_point()]
    return sum((t.float().square().mean() + 0.1 * t.float().sum() for t in found), torch.zeros(()))


def axis(module: nn.Module, tensor: Tensor) -> int:
    """The channel axis that traces here are told to take, and the oracle takes: layouts have tests of their own."""
    return 1 if tensor.dim() >= 3 else tensor.dim() - 1


def call(model: nn.Module, batch: Any) -> Any:
    """Feed a batch as :func:`spp.trace` does."""
    if isinstance(batch, dict):
        return model(**batch)
    if isinstance(batch, tuple) and not isinstance(batch, PackedSequence):
        inputs = batch[0]
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return model(batch)


def examine(
    build: Build,
    batch: Callable[[], Any],
    *,
    loss: Callable[..., Tensor] = square,
    oracle: Build | None = None,
    rows: bool = True,
    interrupted: bool = True,
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    **options: Any,
) -> spp.Trace:
    """Trace a model and assert that nothing moved, that training goes on to the bit, and that the rows are right.

    Args:
        build: Builds the model; called several times.
        batch: Builds the batch.
        loss: The loss, of the trace and of training.
        oracle: Builds the model that the oracle records, where it must differ (without checkpoints, say).
        rows: Whether the oracle can record it at all.
        interrupted: Whether to check exceptions and interrupts as well.
        around: A context in which the trace, the oracle's pass and training run.
        options: Passed on to :func:`spp.trace`.
    """
    traced, twin, given = make(build), make(build), batch()
    options = {"channel_axis": axis, "loss": loss} | options
    seeded()
    with unmoved(traced, given), around():
        trace = spp.trace(traced, given, **options)
    assert_step_identical(twin, traced, batch, loss, around)
    if rows:
        slow = make(oracle or build)
        with around():
            assert_rows(trace, recorded(slow, batch(), loss), options["channel_axis"])
    if interrupted:
        for where in ("forward", "loss", "backward"):
            assert_survives(build, batch, loss, where, RuntimeError, around)
        # where it comes latest; capture/test_interrupts.py has it at every line
        assert_survives(build, batch, loss, "backward", KeyboardInterrupt, around)
    return trace


def recorded(
    model: nn.Module, batch: Any, loss: Callable[..., Tensor], only: Collection[str] | None = None
) -> Recorder:
    """One plain forward and backward pass, recorded by the oracle; with ``only``, of some modules and without weights."""
    recorder = Recorder(model, only)
    seeded()
    for parameter in model.parameters():
        parameter.grad = None
    value = loss(call(model, batch), None)
    recorder.armed = True
    if value.requires_grad:
        value.backward()
    recorder.armed = False
    if only is None:
        recorder.read_weights()
    recorder.close()
    return recorder


def assert_rows(trace: spp.Trace, recorder: Recorder, axis_of: Callable[..., int]) -> None:
    """Every row equals the recomputation, and what has no row is in ``unmeasured``; functions have no hooks to compare."""
    rows = trace.frame[trace.frame["type"] != "function"]
    frame = {(r["name"], r["call"], r["output"], r["signal"]): r for r in rows.to_dict("records")}
    assert len(frame) == len(rows)
    unknown = frame.keys() - recorder.seen.keys()
    assert not unknown, f"rows that the oracle did not see: {sorted(unknown)}"
    holes = {
        (r["name"], None if pd.isna(r["call"]) else r["call"], r["output"], r["signal"])
        for r in trace.unmeasured.to_dict("records")
    }
    both = frame.keys() & holes
    assert not both, f"measured, and said not to be: {sorted(both)}"
    for key, values in recorder.seen.items():
        name, number, output, signal = key
        if key not in frame:
            unseen = (name, None, "", "activation")  # a module that was not seen at all has one line
            assert {key, (name, None, output, signal), unseen} & holes, (
                f"neither measured nor listed: {key} call {number}"
            )
            continue
        weight = signal.startswith("weight")
        at = None if not values.ndim else 0 if weight else axis_of(nn.Identity(), torch.from_numpy(values))
        assert_matches(frame[key], columns(values, at), where=str(key))
    assert not trace.unmeasured["reason"].eq("").any()


def assert_step_identical(
    twin: nn.Module,
    traced: nn.Module,
    batch: Callable[[], Any],
    loss: Callable[..., Tensor],
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> None:
    """Both models take an ordinary training step and agree to the bit."""
    with around():
        wanted, got = step(twin, batch(), loss), step(traced, batch(), loss)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        assert same(value, got[name]), f"{name} differs from that of a model that was never traced"


def step(model: nn.Module, batch: Any, loss: Callable[..., Tensor]) -> dict[str, Tensor | None]:
    """One step of SGD: everything that it gave, by name."""
    seeded(9)
    output = call(model, batch)
    value = loss(output, None)
    if value.requires_grad:
        value.backward()
    seen: dict[str, Tensor | None] = {f"output {p}": t.detach().clone() for p, t in leaves(output)}
    seen["loss"] = value.detach()
    for name, parameter in model.named_parameters():
        seen[f"gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
        if parameter.grad is not None:
            with torch.no_grad():
                parameter -= (0.01 * parameter.grad.to_dense()).to(parameter.dtype)
        seen[name] = parameter.detach().clone()
    for name, buffer in model.named_buffers():
        seen[name] = buffer.detach().clone()
    return seen


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal to the bit, signs of zero and patterns of NaN included."""
    if a is None or b is None:
        return a is b
    a, b = (t.to_dense() if t.layout is not torch.strided else t for t in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def assert_survives(
    build: Build,
    batch: Callable[[], Any],
    loss: Callable[..., Tensor],
    where: str,
    error: type[BaseException],
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> None:
    """Break the pass in its forward, loss or backward: nothing moved, and what is raised names its cause."""
    model, twin, given = make(build), make(build), batch()
    bomb = _Bomb(error)
    if where == "loss":
        broken: Callable[..., Tensor] = bomb
    else:
        broken = loss
        bomb.plant(model, where)
    seeded()
    with unmoved(model, given), around():
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                spp.trace(model, given, loss=broken)
        else:
            with pytest.raises(spp.TraceError) as caught:
                spp.trace(model, given, loss=broken)
            assert "bomb" in str(caught.value) and "\n" not in str(caught.value)
            causes, cause = [], caught.value.__cause__
            while cause is not None:
                causes.append(cause)
                cause = cause.__cause__ or cause.__context__
            assert any(isinstance(c, error) and "bomb" in str(c) for c in causes)
    bomb.live = False
    assert_step_identical(twin, model, batch, loss, around)


class _Bomb:
    """Raises in the place it is planted in, as long as it is live."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error, self.live, self.waiting, self.arrived = error, True, 0, 0

    def __call__(self, *_: Any) -> None:
        if self.live:
            raise self.error("bomb")

    def plant(self, model: nn.Module, where: str) -> None:
        """Forward: when the root is about to return. Backward: when some gradients have arrived."""
        modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
        if where == "forward":
            modules[0].register_forward_hook(self)
            return
        for module in modules:
            module.register_forward_hook(self._wait)

    def _wait(self, _module: nn.Module, _args: object, output: object) -> None:
        for _, tensor in leaves(output):
            if self.live and tensor.requires_grad:
                self.waiting += 1
                tensor.grad_fn  # noqa: B018
                tensor.register_hook(self._arrive)

    def _arrive(self, _: Tensor) -> None:
        self.arrived += 1
        if self.arrived >= (3 if self.waiting > 3 else 1):
            self()


def alive(kind: type) -> int:
    """How many objects of a kind the interpreter holds."""
    gc.collect()
    return sum(issubclass(type(o), kind) for o in gc.get_objects())

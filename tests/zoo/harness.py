"""What every hostile model must survive: see :func:`examine`.

A model is given by a function that builds it, so that the traced one, its untraced twin and the one that the oracle records
are equal without being copies: some modules cannot be copied.
"""

import contextlib
import gc
import random
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import spp
from tests.oracle import Recorder, assert_matches, columns, leaves

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
        for error in (RuntimeError, KeyboardInterrupt):
            for where in ("forward", "loss", "backward"):
                assert_survives(build, batch, loss, where, error, around)
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
    """Every row equals the recomputation, and what has no row is in ``unmeasured``."""
    frame = {(r["name"], r["call"], r["output"], r["signal"]): r for r in trace.frame.to_dict("records")}
    assert len(frame) == len(trace.frame)
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


def bits(tensor: Tensor) -> bytes:
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach()
        plain = plain.to_dense() if plain.layout is not torch.strided else plain.as_subclass(Tensor)
        if plain.is_quantized:
            plain = plain.int_repr()
        return plain.contiguous().flatten().view(torch.uint8).numpy().tobytes()


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


@contextlib.contextmanager
def unmoved(model: nn.Module, batch: Any) -> Iterator[None]:
    """Nothing of the model, the batch, torch's hooks or any random state may differ afterwards, however the body ends."""
    before = fingerprint(model, batch)
    yield
    after = fingerprint(model, batch)
    assert before.keys() == after.keys(), f"appeared or gone: {before.keys() ^ after.keys()}"
    for name, value in before.items():
        assert value == after[name], f"{name} was moved"


class Same:
    """Compares objects by identity, and keeps them alive, so that no identity is given out twice."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


def fingerprint(model: nn.Module, batch: Any) -> dict[str, Any]:
    """Everything that a trace may not move."""
    seen: dict[str, Any] = {
        "random torch": torch.get_rng_state().numpy().tobytes(),
        "random python": random.getstate(),
        "random numpy": str(np.random.get_state()),  # noqa: NPY002
        "call": nn.Module.__call__,
        "additions": [getattr(torch.Tensor, n) for n in ("__add__", "__iadd__", "add", "add_")] + [torch.add],
        "own additions": [n in vars(torch.Tensor) for n in ("__add__", "__iadd__", "add", "add_")],
        "recursion limit": sys.getrecursionlimit(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "global hooks": [
            dict(getattr(nn.modules.module, n))
            for n in ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
        ],
    }
    for name, module in model.named_modules():
        seen[f"module {name}"] = (type(module), module.training, Same(module))
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for key, value in vars(module).items():
            seen[f"attribute {name}.{key}"] = Same(value)
            if isinstance(value, dict):
                seen[f"entries {name}.{key}"] = [(k, Same(v)) for k, v in value.items()]
            elif isinstance(value, list):
                seen[f"entries {name}.{key}"] = [Same(v) for v in value]
            elif isinstance(value, torch.Generator):
                seen[f"generator {name}.{key}"] = value.get_state().numpy().tobytes()
            elif isinstance(value, np.random.Generator):
                seen[f"generator {name}.{key}"] = str(value.bit_generator.state)
            elif isinstance(value, np.ndarray):
                seen[f"array {name}.{key}"] = value.tobytes()
            elif isinstance(value, Tensor) and not isinstance(value, nn.parameter.UninitializedTensorMixin):
                seen |= _tensor(f"tensor {name}.{key}", value)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            seen |= _tensor(f"tensor {name}", tensor)
    for path, tensor in leaves(batch):
        seen |= _tensor(f"batch {path}", tensor)
    return seen


def _tensor(name: str, tensor: Tensor) -> dict[str, Any]:
    with torch._C.DisableTorchFunctionSubclass():
        seen: dict[str, Any] = {
            f"{name} values": bits(tensor),
            f"{name} address": tensor.data_ptr() if tensor.layout is torch.strided else 0,
            f"{name} version": None if tensor.is_inference() else tensor._version,
            f"{name} needs gradient": tensor.requires_grad,
        }
        if tensor.is_leaf:
            hooks, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
            seen |= {
                f"{name} gradient": Same(tensor.grad),
                f"{name} gradient's values": None if tensor.grad is None else bits(tensor.grad),
                f"{name} hooks": (Same(hooks), dict(hooks or {}), Same(after), dict(after or {})),
            }
        return seen


def alive(kind: type) -> int:
    """How many objects of a kind the interpreter holds."""
    gc.collect()
    return sum(issubclass(type(o), kind) for o in gc.get_objects())

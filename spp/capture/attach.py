"""Where a watch takes hold of a training loop: at the root's call always, at torch's backward in sampled steps only.

The root's call is taken at ``_compiled_call_impl``, the one attribute through which ``nn.Module.__call__`` lets an
instance answer by itself (``module.compile()`` sets it). A forward pre-hook would do, but ``torch.compile`` would
compile it into the graph, and fused paths such as that of ``nn.TransformerEncoder`` ask whether a module has hooks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

ATTRIBUTE = "_compiled_call_impl"

Run = Callable[[], Any]


def untraced(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook as ``torch.compile`` leaves it alone, where a compiled function runs it (a compiled ``optimizer.step``)."""
    if "torch._dynamo" not in sys.modules:  # making an optimizer has loaded it
        return hook
    disable: Callable[[Callable[..., Any]], Callable[..., Any]] = torch.compiler.disable
    return disable(hook)


class RootCall:
    """Hands every call of a module to ``called(args, kwargs, run)``, where ``run()`` makes the call.

    Args:
        module: Whose calls.
        called: Given the positional and keyword arguments and the call itself; returns its output.
    """

    def __init__(self, module: nn.Module, called: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> None:
        self._module, self._called = module, called
        self._own: Any = None
        self._shim: Any = None

    def install(self) -> None:
        """Stand in the way of the module's calls."""
        self._own = self._module.__dict__.get(ATTRIBUTE)
        called = self._called

        def shim(*args: Any, **kwargs: Any) -> Any:
            return called(args, kwargs)

        self._shim = shim
        self._module.__dict__[ATTRIBUTE] = shim

    def remove(self) -> None:
        """Leave the module as it was; where somebody has compiled it meanwhile, theirs stays."""
        if self._module.__dict__.get(ATTRIBUTE) is not self._shim:
            return
        if self._own is None:
            del self._module.__dict__[ATTRIBUTE]
        else:
            self._module.__dict__[ATTRIBUTE] = self._own

    def original(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make the call as if nobody watched."""
        own: Callable[..., Any] = self._module._call_impl if self._own is None else self._own
        return own(*args, **kwargs)


class StepGrip:
    """What is held during one sampled step, and only then: ``torch.autograd.backward``, the scaler, the compiler's stance.

    The functions of torch are replaced when the first of several watches takes hold and put back when the last lets go,
    since the sampled steps of two watches (a generator's and a discriminator's) need not lie inside one another.

    Args:
        backward: Given the roots of a backward pass and the pass itself.
        skipped: Called when a scaler has found infinite gradients and skipped the optimizer's step.

    Attributes:
        scaler: The ``GradScaler`` that scaled a loss in this step.
    """

    def __init__(self, backward: Callable[[list[Tensor], Run], Any], skipped: Callable[[], None]) -> None:
        self.scaler: GradScaler | None = None
        self.backward, self.skipped = backward, skipped

    @property
    def scale(self) -> float:
        """What the loss of this step was multiplied by."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def install(self) -> None:
        """Take hold."""
        if not _HELD:
            _take_hold()
        _HELD.append(self)

    def remove(self) -> None:
        """Let go."""
        if self in _HELD:
            _HELD.remove(self)
            if not _HELD:
                _LETTING_GO.close()


_HELD: list[StepGrip] = []
_LETTING_GO = ExitStack()


def _take_hold() -> None:
    if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
        _LETTING_GO.enter_context(torch.compiler.set_stance("force_eager"))
    for owner, name, replacement in (
        (torch.autograd, "backward", _watched_backward(torch.autograd.backward)),
        (GradScaler, "scale", _watched_scale(GradScaler.scale)),
        (GradScaler, "update", _watched_update(GradScaler.update)),
    ):
        _LETTING_GO.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, replacement)


def _watched_backward(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if torch._C._current_graph_task_id() >= 0:  # inside another backward: a reentrant checkpoint
            return original(tensors, *args, **kwargs)
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        run: Run = partial(original, roots, *args, **kwargs)
        for held in list(_HELD):
            run = partial(held.backward, roots, run)
        return run()

    return backward


def _watched_scale(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def scale(scaler: GradScaler, outputs: Any) -> Any:
        if scaler.is_enabled():
            for held in _HELD:
                held.scaler = scaler
        return original(scaler, outputs)

    return scale


def _watched_update(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def update(scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
        for held in list(_HELD):
            if held.scaler is scaler:  # a step that was taken has let go before
                held.scaler = None
                held.skipped()
        return original(scaler, *args, **kwargs)

    return update

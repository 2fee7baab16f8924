"""The watch over additions: Python functions in place of torch's, which call the originals with the very same arguments.

Besides the module boundary (:mod:`spp.capture.boundary`) and tensor hooks (:mod:`spp.capture.gradients`) this is the only place
that reaches into torch while a pass runs; everything is put back by :meth:`Watch.remove`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spp.capture.residual import Merges
from spp.capture.sites import Call
from spp.capture.stage import Stage, modes_active

_WATCHED = ((Tensor, "__add__"), (Tensor, "__iadd__"), (Tensor, "add"), (Tensor, "add_"), (torch, "add"))
_KEYWORDS = frozenset({"input", "other", "alpha", "out"})


class Watch:
    """Tells ``merges`` of every sum of two floating tensors while ``stage`` is in the forward pass."""

    def __init__(self, stage: Stage, merges: Merges, stack: list[Call]) -> None:
        self._stage, self._merges, self._stack = stage, merges, stack
        self._saved: list[tuple[Any, str, Any, bool]] = []
        self._inside = False

    def install(self) -> None:
        """Put the watching functions in place of ``+``, ``+=``, ``Tensor.add``, ``Tensor.add_`` and ``torch.add``."""
        for owner, name in _WATCHED:
            original = getattr(owner, name)
            self._saved.append((owner, name, original, name in vars(owner)))
            setattr(owner, name, self._watched(original))

    def remove(self) -> None:
        """Put the originals back; those that ``Tensor`` inherits are inherited again."""
        while self._saved:
            owner, name, original, own = self._saved.pop()
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        here = self._stage.forward_here

        def add(*args: Any, **kwargs: Any) -> Any:
            if not here() or self._inside:
                return original(*args, **kwargs)
            a, b = args if len(args) == 2 and not kwargs else _operands(args, kwargs)
            if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
                return original(*args, **kwargs)
            if type(a) is Tensor is type(b) and not modes_active():
                return self._noted(original, a, b, args, kwargs)
            return self._noted_quietly(original, a, b, args, kwargs)

        return add

    def _noted(
        self, original: Callable[..., Any], a: Tensor, b: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not (a.is_floating_point() and b.is_floating_point()) or _transformed(a) or _transformed(b):
            return original(*args, **kwargs)
        merges, stack = self._merges, self._stack
        values = merges.streams(a, stack), merges.streams(b, stack)
        same_shape = a.shape == b.shape
        out = original(*args, **kwargs)
        if type(out) is Tensor:
            merges.added(*values, out, same_shape, stack)
        return out

    def _noted_quietly(
        self, original: Callable[..., Any], a: Tensor, b: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As above, with subclasses and modes seeing the addition itself and nothing of what is noted about it."""
        merges, stack = self._merges, self._stack
        with torch._C.DisableTorchFunction():
            wanted = a.is_floating_point() and b.is_floating_point() and not (_transformed(a) or _transformed(b))
            if wanted:
                values = merges.streams(a, stack), merges.streams(b, stack)
                same_shape = a.shape == b.shape
        self._inside = True  # what a subclass or a mode adds up to add its operands is the same sum once more
        try:
            out = original(*args, **kwargs)
        finally:
            self._inside = False
        if wanted and isinstance(out, Tensor):
            with torch._C.DisableTorchFunction():
                merges.added(*values, out, same_shape, stack)
        return out


def _operands(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The two summands of ``add(a, b, alpha=..., out=...)``; ``(None, None)`` for other forms."""
    if not kwargs.keys() <= _KEYWORDS or len(args) > 2:
        return None, None
    named = [kwargs[name] for name in ("input", "other") if name in kwargs]
    both = (*args, *named)
    return (both[0], both[1]) if len(both) == 2 else (None, None)


_transformed = torch._C._functorch.is_functorch_wrapped_tensor

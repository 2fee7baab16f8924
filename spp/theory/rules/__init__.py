"""Rules for torch's functions, and the tensor without numbers that carries moments through a model's own ``forward``.

``Symbol`` is a tensor on torch's meta device: every function of torch that meets one computes the shape of its result there,
and :data:`RULES` has the moments of the result. So functional code, scales, gates and residual sums are followed as they are
written, and nothing is computed that costs. What has no rule gives a symbol without moments, with the reason.

A rule for a further operation is one function, anywhere; it takes the arguments of torch's function, with the moments in place
of the tensor::

    from spp.theory.rules.elementwise import unary

    @spp.theory.rule(torch.special.erfcx)
    def erfcx(x: spp.theory.MomentsState) -> spp.theory.MomentsState:
        return unary(x, torch.special.erfcx)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from itertools import repeat
from math import isfinite
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_map_only, tree_unflatten

from spp import _torch
from spp.theory.moments_state import MomentsState

Ints = tuple[int, ...]
R = TypeVar("R", bound=Callable[..., Any])


RULES: dict[Any, Callable[[tuple[Any, ...], Mapping[str, Any], Any], Any]] = {}
"""By torch's function: from its arguments, by position and by name, and its result as a meta tensor (or a list) to moments.

Importing the modules of this package enters their rules.
"""


Heard = Callable[[Any, tuple[Any, ...], Mapping[str, Any], Any], None]
HEARD: ContextVar[Heard | None] = ContextVar("HEARD", default=None)
"""Who is told, on this thread, of every function that was followed: of it, its arguments and its result."""


def rule(*functions: Any, several: bool = False) -> Callable[[R], R]:
    """Enter the decorated function as the rule for these functions of torch.

    It is called with torch's arguments, a :class:`~spp.theory.moments_state.MomentsState` in place of each tensor that depends
    on the input, and with the keyword ``result`` (the result as a meta tensor, or a list) if it has such a parameter. It
    returns the moments of the result, a list for several results, or None where it does not hold; it never changes its
    arguments.

    Args:
        functions: As ``torch.overrides`` sees them, so ``Tensor.add_`` and ``torch.add`` are two.
        several: Whether more than one argument may depend on the input. Without it, the first alone may.
    """

    def enter(found: R) -> R:
        wants_result = "result" in signature(found).parameters

        def applied(args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> Any:
            # Torch's own name for the first argument is input, whatever the rule calls it.
            if "input" in kwargs:
                args, kwargs = (kwargs["input"], *args), {k: v for k, v in kwargs.items() if k != "input"}
            args, kwargs = tree_map(_moments, args), tree_map(_moments, dict(kwargs))
            carrying = sum(isinstance(leaf, MomentsState) for leaf in tree_flatten((args, kwargs))[0])
            if not several and (carrying > 1 or not args or not isinstance(args[0], MomentsState)):
                return None
            return found(*args, **kwargs, **({"result": result} if wants_result else {}))

        RULES.update(dict.fromkeys(functions, applied))
        return found

    return enter


class Symbol(torch.Tensor):
    """A meta tensor with moments, or with the reason why there are none.

    Attributes:
        state: The moments; None where nothing is known.
        reason: Why nothing is known.
        place: The device that the model sees.
    """

    state: MomentsState | None
    reason: str
    place: torch.device

    @staticmethod
    def of(tensor: Tensor, place: torch.device, found: Any) -> Symbol:
        """A symbol of the shape and dtype of a meta tensor, with what a rule found: moments, or a reason why none."""
        out: Symbol = torch.Tensor._make_subclass(Symbol, tensor)
        out.place = place
        out.learn(found)
        return out

    def learn(self, found: Any) -> None:
        """Take what a rule found."""
        self.state, self.reason = (found, "") if isinstance(found, MomentsState) else (None, str(found))

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Follow one call."""
        result = _followed(func, args, kwargs or {})
        if (heard := HEARD.get()) is not None:
            heard(func, args, kwargs or {}, result)
        return result


def each_axis(value: Any, dims: int) -> Ints:
    """``value`` once for each axis, as torch takes it for all or for each."""
    if isinstance(value, int):
        return (value,) * dims
    found = tuple(int(v) for v in value)
    return found * dims if len(found) == 1 else found


def _followed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    symbols = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Symbol)]
    place = symbols[0].place
    # Without this, every attribute that is read below would come back here.
    with _torch.unseen_by_subclasses():
        if func is Tensor.device.__get__:
            return place
        # Models that branch on is_meta skip their computation there, which is what is to be followed.
        if func is Tensor.is_meta.__get__:  # type: ignore[attr-defined]
            return False
        if func in _SILENT:
            return func(*args, **kwargs)
        result = _computed(func, args, kwargs)
        if func in _FILLED:
            return torch.empty(result.shape, dtype=result.dtype, device=place) if isinstance(result, Tensor) else result
        tensors = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        if not tensors:
            return result
        if not isinstance(result, Tensor):
            found = _ruled(func, args, kwargs, tensors, symbols)
            each = iter(found) if isinstance(found, list) else repeat(found)
            return tree_map_only(Tensor, lambda r: Symbol.of(r, place, next(each)), result)
        found, written = _ruled(func, args, kwargs, result, symbols), _written(func, args, kwargs)
        if written is None:
            return Symbol.of(result, place, found)
        written.learn(found if written.shape == result.shape else "an in-place operation that changes the shape")
        return written


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Symbol | None:
    """The symbol that ``func`` writes its result into, if it works in place."""
    name = func.__name__
    inplace = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or kwargs.get("inplace")
    return args[0] if inplace and args and isinstance(args[0], Symbol) else None


def _ruled(func: Any, args: Any, kwargs: Any, result: Any, symbols: list[Symbol]) -> Any:
    """What the rule for ``func`` gives, or the reason why nothing is known."""
    unknown = next((s for s in symbols if s.state is None), None)
    if unknown is not None:
        return unknown.reason
    name = getattr(func, "__name__", str(func))
    if func not in RULES:
        return f"no rule for {name}"
    found = RULES[func](args, kwargs, result)
    if found is None or (isinstance(found, MomentsState) and not isfinite(found.second)):
        return f"no rule for {name} of these tensors"
    return found


def _moments(value: Any) -> Any:
    return value.state if isinstance(value, Symbol) else value


@dataclass(frozen=True, slots=True)
class _Spec:
    """What the shape of a result depends on."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> Tensor:
        """A meta tensor of these."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


def _computed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The result without numbers."""
    leaves, form = tree_flatten((args, dict(kwargs)))
    given = [torch.device("meta") if isinstance(leaf, torch.device) else _spec(leaf) for leaf in leaves]
    # Torch's meta functions are slow (decompositions in Python), and networks repeat their layers, hence the cache.
    try:
        known = _known(func, form, *given)
    except TypeError:  # a slice among the arguments has no hash; whatever else it is, it is raised again
        known = None
    return _called(func, form, given) if known is None else known.made()


# typed, since 1, 1.0 and True are equal, but not as arguments of a function
@lru_cache(maxsize=4096, typed=True)
def _known(func: Any, form: TreeSpec, *given: Any) -> _Spec | None:
    """The result for arguments of this form; None where that is not one tensor."""
    result = _spec(_called(func, form, given))
    return result if isinstance(result, _Spec) else None


def _called(func: Any, form: TreeSpec, given: Iterable[Any]) -> Any:
    args, kwargs = tree_unflatten([leaf.made() if isinstance(leaf, _Spec) else leaf for leaf in given], form)
    return func(*args, **kwargs)


def _spec(value: Any) -> Any:
    return _Spec(tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else value


_ATTRIBUTES = "shape dtype ndim layout requires_grad grad_fn is_leaf grad is_cuda"
_METHODS = (
    "size dim ndimension numel nelement is_floating_point is_complex stride is_contiguous element_size storage_offset "
    "__len__ __repr__ requires_grad_ get_device _is_view"
)
# Questions about a tensor whose answer a symbol knows as it is.
_SILENT = {
    *(getattr(Tensor, name).__get__ for name in _ATTRIBUTES.split()),
    *(getattr(Tensor, name) for name in _METHODS.split()),
    *(torch.is_floating_point, torch.numel),
}
# Functions that make a new tensor whose values come later, on the model's own device.
_FILLED = {Tensor.new_empty, torch.empty_like}

"""The private names of torch that are in use, each with what stands in for it where a version of torch lacks it.

A name that was renamed costs the feature that needs it, and not ``import spp``. Seen on torch 2.13. ``tests/test_torch.py``
names each of them, so that a new version of torch shows at once which have gone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

MISSING: list[str] = []
"""What this torch lacks."""


def _private(module: str, name: str, fallback: Any) -> Any:
    """``module.name``, or the fallback where there is none."""
    try:
        found: Any = import_module("torch")
        for part in module.split(".")[1:]:
            # parts of torch._C are no modules that can be imported, others are no attributes until they are
            found = getattr(found, part, None) or import_module(f"{found.__name__}.{part}")
        return getattr(found, name)
    except (ImportError, AttributeError):
        MISSING.append(f"{module}.{name}")
        return fallback


NoFunctions = Callable[[], AbstractContextManager[Any]]

unseen_functions: NoFunctions = _private("torch._C", "DisableTorchFunction", nullcontext)
"""A context in which neither subclasses nor function modes see torch's functions."""

unseen_by_subclasses: NoFunctions = _private("torch._C", "DisableTorchFunctionSubclass", nullcontext)
"""A context in which subclasses do not; modes do."""

without_modes: NoFunctions = _private("torch.utils._python_dispatch", "_disable_current_modes", nullcontext)
"""A context in which dispatch modes do not see torch's operations."""

function_modes: Callable[[], int] = _private("torch._C", "_len_torch_function_stack", lambda: 0)
dispatch_modes: Callable[[], int] = _private("torch._C", "_len_torch_dispatch_stack", lambda: 0)
"""How many modes of either kind are active."""

autocasting: Callable[[], bool] = _private("torch._C", "_is_any_autocast_enabled", torch.is_autocast_enabled)
"""Whether autocast is on for any type of device."""

is_transformed: Callable[[Tensor], bool] = _private(
    "torch._C._functorch", "is_functorch_wrapped_tensor", lambda tensor: False
)
"""Whether a tensor stands for a batch of tensors inside ``vmap``, or is a dual number inside ``grad`` or ``jvp``."""

transform: Callable[[], Any] = _private("torch._C._functorch", "peek_interpreter_stack", lambda: None)
"""The functorch transform that is active, or None."""

without_transforms: NoFunctions = _private(
    "torch._functorch.pyfunctorch", "temporarily_clear_interpreter_stack", nullcontext
)
"""A context without functorch transforms: inside ``torch.func.grad`` even a plain tensor's copy would be a wrapper."""

graph_task: Callable[[], int] = _private("torch._C", "_current_graph_task_id", lambda: -1)
"""Which backward pass runs on this thread; -1 for none. A backward inside another has a number of its own."""

swap: Callable[[Tensor, Tensor], None] = _private("torch._C", "_swap_tensor_impl", torch.utils.swap_tensors)
"""Exchange what two tensors are, whoever holds them."""

set_versions: Callable[[tuple[Tensor, ...], tuple[int, ...]], None] = _private(
    "torch._C._autograd", "_unsafe_set_version_counter", lambda tensors, versions: None
)
"""Put version counters back, so that autograd does not take a restored tensor for a changed one."""


def _copy_each(into: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(into, values, strict=True):
        tensor.copy_(value)


copy_all: Callable[[list[Tensor], list[Tensor]], None] = _private("torch", "_foreach_copy_", _copy_each)
"""Copy many tensors in one call, as torch's optimizers do."""


saved_tensor: Any = _private("torch._C._autograd", "SavedTensor", None)
"""What autograd keeps a tensor in; without its ``unpack_hook`` nobody knows whether having it back runs hooks of the user's."""


def saved(node: Any, name: str) -> Tensor | None:
    """A tensor that autograd has saved at a node of its graph; None where it is gone, or where having it would run hooks."""
    try:
        kept = getattr(node, f"_raw_saved_{name}", None)
        # a checkpoint's hook would run its forward again
        plain = isinstance(kept, saved_tensor or ()) and getattr(kept, "unpack_hook", kept) is None
        found = getattr(node, f"_saved_{name}") if plain else None
    # freed by a backward pass, or written to since
    except RuntimeError:
        return None
    return found if isinstance(found, Tensor) else None


def shape_at(node: Any, number: int) -> torch.Size | None:
    """The shape of an output of a node of autograd's graph."""
    known = getattr(node, "_input_metadata", ())
    return torch.Size(known[number].shape) if number < len(known) else None


def shape_of(tensor: Tensor) -> torch.Size | None:
    """Its shape; None of a nested tensor of the layout that has none, where asking raises."""
    return None if tensor.is_nested and tensor.layout is torch.strided else tensor.shape


def local_shape_and_offset(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of what lies here of a ``DTensor``, and where it begins in the whole.

    Raises:
        ImportError: This torch has no function for it.
    """
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(shape), tuple(offset)

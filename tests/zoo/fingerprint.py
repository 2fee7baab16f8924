"""Everything that a trace may not move, as one dictionary to compare."""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.oracle import leaves


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
        "own data": "data" in vars(nn.Parameter),
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
                for i, item in enumerate(value):
                    if isinstance(item, Tensor):
                        seen |= _tensor(f"tensor {name}.{key}.{i}", item)
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
            f"{name} is a leaf": tensor.is_leaf,
        }
        if tensor.is_leaf:
            hooks, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
            seen |= {
                f"{name} gradient": Same(tensor.grad),
                f"{name} gradient's values": None if tensor.grad is None else bits(tensor.grad),
                f"{name} hooks": (Same(hooks), dict(hooks or {}), Same(after), dict(after or {})),
            }
        return seen


def bits(tensor: Tensor) -> bytes:
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach()
        plain = plain.to_dense() if plain.layout is not torch.strided else plain.as_subclass(Tensor)
        if plain.is_quantized:
            plain = plain.int_repr()
        return plain.contiguous().flatten().view(torch.uint8).numpy().tobytes()

"""An independent, slow recomputation of a trace in float64 NumPy: hooks that clone everything, formulas written out.

It shares nothing with ``spp.capture``: activations come from ordinary forward hooks, gradients from ``retain_grad`` on the
hooked outputs, the channel axis from a rule of its own, and every statistic from its definition over the whole array.
"""

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

FIRST = (nn.Conv1d, nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)

STATISTICS = (
    *("mean", "var", "std", "mean_square", "rms", "acsm", "acv"),
    *("min", "max", "abs_max", "zero_fraction", "dead_fraction"),
)


def columns(x: np.ndarray, axis: int | None) -> dict[str, float]:
    """Every statistic of the frame for one array, from its definition."""
    x = np.asarray(x, dtype=np.float64)
    rows = [x.reshape(-1)] if axis is None or x.ndim == 0 else [part.reshape(-1) for part in np.moveaxis(x, axis, 0)]
    whole = bool(np.isfinite(x).all())  # the usual case, without a copy of each row
    finite = rows if whole else [row[np.isfinite(row)] for row in rows]
    every = x.reshape(-1) if whole else np.concatenate(finite) if finite else np.zeros(0)
    if not every.size:
        nothing = dict.fromkeys(STATISTICS, np.nan)
        return {"channels": len(rows), "numel": x.size, **nothing, "nonfinite": int((~np.isfinite(x)).sum())}
    channels = [c for c in finite if c.size]
    means = np.array([c.mean() for c in channels])
    variances = np.array([((c - m) ** 2).mean() for c, m in zip(channels, means, strict=True)])
    mean, square = every.mean(), (every**2).mean()
    rms = np.sqrt(square)
    dead = [np.sqrt(v) < 1e-6 * rms or bool(np.all(c == 0)) for v, c in zip(variances, channels, strict=True)]
    var = ((every - mean) ** 2).mean()
    return {
        "channels": len(rows),
        "numel": x.size,
        "mean": mean,
        "var": var,
        "std": np.sqrt(var),
        "mean_square": square,
        "rms": rms,
        "acsm": (means**2).mean(),
        "acv": variances.mean(),
        "min": every.min(),
        "max": every.max(),
        "abs_max": np.abs(every).max(),
        "zero_fraction": (every == 0).mean(),
        "dead_fraction": np.mean(dead),
        "nonfinite": int((~np.isfinite(x)).sum()),
    }


def record(model: nn.Module, inputs: torch.Tensor, cotangent: torch.Tensor) -> dict[tuple[str, str], np.ndarray]:
    """Activations, gradients, weights and weight gradients of one pass, as arrays, by (name or name.parameter, signal)."""
    kept: dict[str, torch.Tensor] = {}
    seen: dict[tuple[str, str], np.ndarray] = {}

    def keep(name: str):
        def hook(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
            seen[name, "activation"] = output.detach().double().numpy().copy()
            if output.requires_grad:
                output.retain_grad()
                kept[name] = output

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in model.named_modules()]
    model.zero_grad(set_to_none=True)
    output = model(inputs)
    for name, parameter in model.named_parameters():
        seen[name, "weight"] = parameter.detach().double().numpy().copy()
    (output * cotangent).sum().backward()
    for handle in handles:
        handle.remove()
    for name, tensor in kept.items():
        if tensor.grad is not None:
            seen[name, "gradient"] = tensor.grad.double().numpy().copy()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            seen[name, "weight_gradient"] = parameter.grad.double().numpy().copy()
    return seen


class Recorder:
    """Records every call of every module: each tensor it gives out, and the gradient that arrives there.

    Copes with repeated calls, nested outputs, in-place operations and views: values are cloned inside forward hooks, gradients
    inside tensor hooks on the outputs themselves. Only gradients that arrive while :attr:`armed` count.

    Args:
        model: Whose modules to record.
        only: Names of the modules to record; None records all.

    Attributes:
        seen: Arrays by (module name, call, path in the output or parameter's name, signal).
        armed: Set while the backward pass in question runs.
    """

    def __init__(self, model: nn.Module, only: Collection[str] | None = None) -> None:
        self.seen: dict[tuple[str, int, str, str], np.ndarray] = {}
        self.armed = False
        self._model, self._calls = model, dict[str, int]()
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule) and (only is None or name in only):
                self._handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str):
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            call = self._calls[name] = self._calls.get(name, -1) + 1
            for path, tensor in leaves(output):
                if not (tensor.is_floating_point() or tensor.is_complex()):
                    continue
                self.seen[name, call, path, "activation"] = array(tensor)
                if tensor.requires_grad:
                    tensor.grad_fn  # noqa: B018  (see DESIGN.md: register_hook on some views crashes without)
                    tensor.register_hook(self._receiver((name, call, path, "gradient")))

        return hook

    def _receiver(self, key: tuple[str, int, str, str]):
        def receive(gradient: torch.Tensor) -> None:
            if self.armed:
                self.seen[key] = array(gradient)

        return receive

    def read_weights(self) -> None:
        """Note every parameter, and its gradient where it has one."""
        for name, module in self._model.named_modules():
            for parameter_name, parameter in module._parameters.items():
                if parameter is not None:
                    self.seen[name, 0, parameter_name, "weight"] = array(parameter)
                    if parameter.grad is not None:
                        self.seen[name, 0, parameter_name, "weight_gradient"] = array(parameter.grad)

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor inside an output with its path, written down a second time."""
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if isinstance(value, PackedSequence):
        items: Any = [("data", value.data)]
    elif isinstance(value, dict):
        items = value.items()
    elif is_dataclass(value):
        items = vars(value).items()
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        items = value._asdict().items()
    elif isinstance(value, list | tuple | deque):
        items = enumerate(value)
    elif isinstance(value, type({}.values()) | type({}.items())):
        items = value.mapping.items()
    elif isinstance(value, set | frozenset):
        items = enumerate(value) if len(value) == 1 else ()
    elif isinstance(value, int | str | float):
        items = [
            (name, item) for name, item in getattr(value, "__dict__", {}).items() if isinstance(item, torch.Tensor)
        ]
    else:
        return
    for key, item in items:
        yield from leaves(item, f"{path}.{key}" if path else str(key))


def array(tensor: torch.Tensor) -> np.ndarray:
    """A copy of the values in float64; complex numbers by magnitude, sparse ones dense, subclasses stripped."""
    with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach()
        plain = plain.to_dense() if plain.layout is not torch.strided else plain.as_subclass(torch.Tensor)
        plain = plain.abs() if plain.is_complex() else plain
        return plain.double().numpy().copy()


def assert_matches(row, expected: dict[str, float], *, second: float = 1e-6, where: str = "") -> None:
    """One row of the frame against the oracle: second moments to ``second`` relative, means to 1e-6 of the rms."""
    rms = expected["rms"]
    tiny = 1e-9 * expected["mean_square"]
    for name in ("var", "std", "mean_square", "rms", "acv"):
        np.testing.assert_allclose(row[name], expected[name], rtol=second, atol=tiny, err_msg=f"{where} {name}")
    # a squared mean moves by 2 |mean| times what the mean may move, so near zero its tolerance is the mean's
    np.testing.assert_allclose(
        row["acsm"], expected["acsm"], rtol=second, atol=max(tiny, 1e-12 * rms**2), err_msg=f"{where} acsm"
    )
    np.testing.assert_allclose(row["mean"], expected["mean"], rtol=0, atol=1e-6 * rms, err_msg=f"{where} mean")
    for name in ("channels", "numel", "nonfinite", "min", "max", "abs_max"):
        same = row[name] == expected[name] or (np.isnan(row[name]) and np.isnan(expected[name]))
        assert same, f"{where} {name}: {row[name]} != {expected[name]}"
    for name in ("zero_fraction", "dead_fraction"):
        np.testing.assert_allclose(row[name], expected[name], rtol=1e-12, err_msg=f"{where} {name}")

"""Facts about modules that explain their signals, so that a diagnosis needs neither the model nor torch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from spp.capture.feeds import feeds
from spp.capture.sites import Call, Entry
from spp.capture.weights import parameters_of


@dataclass(slots=True)
class ModuleFacts:
    """One row of ``trace.modules``; the fields are its columns."""

    name: str
    aliases: tuple[str, ...]
    type: str
    depth: int | None
    calls: int
    leaf: bool
    training: bool
    parameters: int
    trainable: int
    fan_in: int | None
    fan_out: int | None
    groups: int | None
    eps: float | None
    activation: str | None
    tied: str | None
    inputs: str | None


def module_facts(
    entries: list[Entry], calls: dict[str, tuple[int | None, int]], inputs: dict[str, list[Call]]
) -> list[ModuleFacts]:
    """The facts of every module.

    Args:
        entries: The roster.
        calls: Depth of the first call and number of calls, by name.
        inputs: The calls of one pass, by name, for what fed them.
    """
    owner: dict[int, str] = {}
    facts = []
    for entry in entries:
        module = entry.module
        tied, numel, trainable = [], 0, 0
        for name, parameter in parameters_of(module):
            known = owner.setdefault(id(parameter), qualified := f"{entry.name}.{name}" if entry.name else name)
            if known is not qualified:
                tied.append(f"{name}={known}")
            size = parameter.numel()
            numel += size
            trainable += size if parameter.requires_grad else 0
        fan_in, fan_out = _fans(module)
        depth, number = calls.get(entry.name, (None, 0))
        groups = _own(module, "groups") or _own(module, "num_groups")
        eps = _own(module, "eps")
        facts.append(
            ModuleFacts(
                name=entry.name,
                aliases=entry.aliases,
                type=entry.type,
                depth=depth,
                calls=number,
                leaf=entry.leaf,
                training=bool(module.training),
                parameters=numel,
                trainable=trainable,
                fan_in=fan_in,
                fan_out=fan_out,
                groups=groups if isinstance(groups, int) else None,
                eps=eps if isinstance(eps, float) else None,
                activation=entry.type.lower() if type(module).__module__ == nn.modules.activation.__name__ else None,
                tied=" ".join(tied) or None,
                inputs=feeds(inputs[entry.name]) if entry.name in inputs else None,
            )
        )
    return facts


def _own(module: nn.Module, name: str) -> object:
    """An attribute of the module's, or its class's; asking a module for one that it lacks goes by way of an exception."""
    found = vars(module).get(name)
    return getattr(type(module), name, None) if found is None else found


def _fans(module: nn.Module) -> tuple[int | None, int | None]:
    """Inputs of one output unit, and output units that one input reaches, over the kernel and within its group."""
    if isinstance(module, nn.modules.conv._ConvNd):
        taps = 1
        for size in module.kernel_size:
            taps *= size
        return module.in_channels // module.groups * taps, module.out_channels // module.groups * taps
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return None, None

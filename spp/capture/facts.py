"""Facts about modules that explain their signals, so that a diagnosis needs neither the model nor torch."""

from __future__ import annotations

from dataclasses import dataclass

from spp.capture.dataflow import wiring
from spp.capture.parameters import parameters_of
from spp.capture.sites import Call, Entry
from spp.vocabulary import LayerKind


@dataclass(slots=True)
class ModuleFacts:
    """One row of ``trace.modules``; the fields are its columns."""

    name: str
    aliases: tuple[str, ...]
    type: str
    kind: LayerKind
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
        layer = entry.layer
        depth, number = calls.get(entry.name, (None, 0))
        facts.append(
            ModuleFacts(
                name=entry.name,
                aliases=entry.aliases,
                type=entry.type,
                kind=layer.kind,
                depth=depth,
                calls=number,
                leaf=entry.leaf,
                training=bool(module.training),
                parameters=numel,
                trainable=trainable,
                fan_in=layer.fan_in,
                fan_out=layer.fan_out,
                groups=layer.groups,
                eps=layer.eps,
                activation=layer.activation,
                tied=" ".join(tied) or None,
                inputs=wiring(inputs[entry.name]) if entry.name in inputs else None,
            )
        )
    return facts

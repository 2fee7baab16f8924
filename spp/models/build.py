"""From a name to a network: ``build("resnet50", norm="none", num_classes=10)``, ``build("timm:resnet18", norm="group")``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from spp.errors import InputError
from spp.models.config import Config, ConvConfig
from spp.models.sources import RECIPE, VARIED, Asked, Plan, Source
from spp.models.sources.checkpoint import load_checkpoint
from spp.models.sources.factory import factory, refuse_file
from spp.models.sources.transformers import transformers
from spp.models.sources.vision import timm, torchvision
from spp.models.table import ALIASES, MODELS
from spp.nn.init import initialize_, zero_gamma_
from spp.nn.neuronwise import neuronwise_
from spp.nn.norms import NEURONWISE
from spp.registry import Registry

SOURCES: Registry[Source] = Registry(
    "model source", {"torchvision": torchvision, "timm": timm, "transformers": transformers}, of=Callable
)
"""What looks up the networks of each prefix; any other prefix is a module of the user's that has a factory."""

COMMON = ("norm", "activation", "init", "num_classes")
"""What describes any network, if anybody knows it."""


def names() -> tuple[str, ...]:
    """Names of the bundled networks; ``efficientnet_b0`` and so on are further names of ``effnet_b0``."""
    return MODELS.names


def config(name: str, **changes: Any) -> Config:
    """The row called ``name``, with the fields of ``changes`` changed.

    Args:
        name: A name of ``names()``, or an alias.
        changes: Fields of the row, as for ``build``.

    Raises:
        UnknownNameError: The name, a field or something that a field names does not exist.
        InputError: A value is not possible.
    """
    row = MODELS.row(ALIASES.get(name, name)).config
    return row.change(**changes) if changes else row


def describe(name: str) -> str:
    """One line about the network called ``name``.

    Raises:
        UnknownNameError: There is none.
    """
    return config(name).description


def plan(name: str, *, tokens: int | None = None, spelled: Callable[[str], str] = str, **changes: Any) -> Plan:
    """Look up a network and what it takes, without building it; ``plan(...).build()`` does.

    Args:
        name: As for ``build``.
        tokens: Length of a text, for a language model.
        spelled: How the caller writes the name of an argument, for errors; the command line puts dashes before it.
        changes: The other arguments of ``build``, except ``checkpoint``.

    Raises:
        UnknownNameError: No network has that name, or something that an argument names does not exist.
        InputError: There is no such factory, or the network cannot be changed or fed as asked.
        MissingExtraError: The library that it is from is not installed.
    """
    # None means the network's own for these alone: a field of a configuration may be None, as head_init
    changes = {key: value for key, value in changes.items() if value is not None or key not in COMMON}
    prefix, _, rest = name.partition(":")
    refuse_file(name, spelled("model"))
    image_size = changes.pop("image_size", None)
    if rest:
        shape = changes.pop("input_shape", None)
        asked = Asked(
            model=name,
            name=rest,
            changes=changes,
            image_size=image_size,
            input_shape=None if shape is None else tuple(shape),
            tokens=tokens,
            spelled=spelled,
        )
        return SOURCES.get(prefix, factory)(asked)
    if image_size is not None:
        changes["input_shape"] = (*config(name).input_shape[:1], *image_size)
    row = config(name, **changes)
    facts = Asked(model=name, name=name, changes=changes).facts(**{key: getattr(row, key) for key in COMMON})
    build = partial(_initialized, row, MODELS[ALIASES.get(name, name)].network)
    options = tuple(field for field in VARIED if hasattr(row, field))
    label = f"{name}-{row.norm}"
    return Plan(label, facts, row.input_shape, build, spelled=spelled, config=row, options=options)


def build(
    name: str,
    *,
    norm: str | None = None,
    activation: str | None = None,
    init: str | None = None,
    num_classes: int | None = None,
    checkpoint: str | Path | None = None,
    **changes: Any,
) -> nn.Module:
    """Build a network, in training mode, with random weights from torch's global random state.

    A bundled network carries its configuration as ``model.config``. Built under ``torch.device("meta")`` it has shapes and
    no values, which counts the parameters of the largest in no time. Every network carries its recipe; see ``recipe_of``.

    Args:
        name: A name of ``names()``, an alias, or a network of a library (an extra of its own), with random weights, since
            nothing is ever downloaded: ``torchvision:NAME``, ``timm:NAME``, ``transformers:CONFIG.json`` (what a
            config.json beside saved weights describes); or ``package.module:factory``, a callable that returns a torch
            module and is given all arguments but the shapes. ``SOURCES`` takes further prefixes.
        norm: A name of ``spp.nn.NORMS``; None for the network's own, as for the next three. In a library's network, or
            where a factory does not take it, it replaces the norms that are there (``spp.nn.replace_norm``).
        activation: A name of ``spp.nn.ACTIVATIONS``.
        init: A name of ``spp.nn.INITS``; it governs every convolution and Linear layer.
        num_classes: Outputs of the classifier.
        checkpoint: A state dict saved by torch.save, to be loaded; nothing else in the file is unpickled.
        changes: Any other field of the network's configuration: ``input_shape``, ``norm_options``, ``gain`` and more for
            all, ``image_size`` (height and width) in place of the first, ``depth`` and ``width`` for ``ffn``,
            ``residual``, ``se``, ``zero_gamma`` and ``drop_path`` for all others, ``depths``, ``stem`` or ``shortcut`` for
            ResNets, ``width_multiplier`` and others for EfficientNets. A new ``residual`` brings the norm and the init that
            belong to it, unless they are given too. A library's network takes ``input_shape`` and ``image_size`` alone.

    Returns:
        The network; a bundled one maps ``(N, *input_shape)`` to ``(N, num_classes)``.

    Raises:
        UnknownNameError: The name, a field or something that a field names does not exist; the message lists what does.
        InputError: A value is not possible, norm and input shape do not fit each other, or the checkpoint does not fit.
        MissingExtraError: The library is not installed.
        TraceError: The library or the factory fails to build the network.

    Examples:
        >>> import torch
        >>> with torch.device("meta"):  # shapes alone
        ...     model = build("resnet18", norm="none", num_classes=10)
        >>> sum(parameter.numel() for parameter in model.parameters()), model.config.norm
        (11172042, 'none')
        >>> recipe_of(model)
        {'model': 'resnet18', 'norm': 'none', 'activation': 'relu', 'init': 'he_fan_out', 'num_classes': 10}
    """
    model = plan(name, norm=norm, activation=activation, init=init, num_classes=num_classes, **changes).build()
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def recipe_of(model: nn.Module) -> dict[str, Any]:
    """How ``build`` made the network: model, norm, activation, init, num_classes, each None where it is not known.

    A residual rule and the gates' (``residual``, ``se``) are there where they were asked for, ``checkpoint`` where one was
    loaded, and where norms were replaced how many (``replaced``), and which were left and why (``left``).

    Args:
        model: Any model, also inside DataParallel or DistributedDataParallel.

    Returns:
        A copy; empty for a model that ``build`` did not make.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    # getattr, so that the wrapper of torch.compile is asked too, which hands on what it does not have
    return dict(getattr(model, RECIPE, ()))


def check_input(model: nn.Module | Config | str, shape: tuple[int, ...], *, batch: int | None = None) -> None:
    """Raise unless the network can take samples of this shape; nothing is run.

    Images are refused below the network's total stride: torch would run them, but its last convolutions would see
    padding only.

    Args:
        model: A network of ``build``, its configuration or a name.
        shape: Shape of one sample, without the batch axis, as ``(3, 224, 224)``.
        batch: Samples in a batch; where given, norms over the batch are checked too, for training.

    Raises:
        InputError: It cannot; the message says what would fit.
    """
    row = model if isinstance(model, Config) else config(model) if isinstance(model, str) else _config_of(model)
    shape = tuple(shape)
    if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise InputError(
            "the shape of a sample is positive integers", received=repr(shape), where=f"model {row.name!r}"
        )
    if batch is not None and batch < 1:
        raise InputError("a batch has at least one sample", received=repr(batch))
    row.check_input(shape, batch=batch)


def _config_of(model: nn.Module) -> Config:
    row = getattr(model, "config", None)
    if not isinstance(row, Config):
        raise InputError(
            "only bundled networks know their input shape",
            received=type(model).__name__,
            remedy="Build one with spp.models.build, or run the model on a batch.",
        )
    return row


def _initialized(row: Config, network: Callable[[Any], nn.Module]) -> nn.Module:
    model = network(row)
    rule = row.weight_rule
    # a network from outside may make its layers itself; it would be called after a rule that none of them follows
    if rule is not None and not any(getattr(module, "rule", None) == rule for module in model.modules()):
        raise InputError(
            f"the rule {rule!r} is for weights, and needs a layer of the network that follows it",
            received=type(model).__name__,
            where=f"model {row.name!r}",
            remedy="Let spp.models.Parts make its layers, or call spp.nn.replace_norm on the network.",
        )
    # once the whole network is there: an init may look at all of it, as fixup counts the branches
    initialize_(model, row.init)
    if row.head_init is not None:
        initialize_(model.get_submodule("head"), row.head_init)
    if isinstance(row, ConvConfig) and row.zero_gamma:
        zero_gamma_(model)
    # last, since the layers are to keep the weights that were drawn
    if row.norm == NEURONWISE:
        neuronwise_(model, **dict(row.norm_options))
    return model

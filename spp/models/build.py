"""From a name to a network: ``build("resnet50", norm="none", num_classes=10)``."""

from __future__ import annotations

from typing import Any

from torch import nn

from spp.errors import InputError, UnknownNameError
from spp.models.config import Config, ConvConfig
from spp.models.efficientnet import EfficientNet, EfficientNetConfig
from spp.models.ffn import FFN, FFNConfig
from spp.models.resnet import ResNet, ResNetConfig
from spp.models.resnetv2 import PreResNet
from spp.models.table import ALIASES, VARIANTS
from spp.nn.init import initialize_, zero_gamma_
from spp.nn.neuronwise import neuronwise_
from spp.nn.norms import NEURONWISE


def names() -> tuple[str, ...]:
    """Names of the bundled networks; ``efficientnet_b0`` and so on are further names of ``effnet_b0``."""
    return tuple(VARIANTS)


def config(name: str, **changes: Any) -> Config:
    """The row called ``name``, with the fields of ``changes`` changed.

    Args:
        name: A name of ``names()``, or an alias.
        changes: Fields of the row, as for ``build``.

    Raises:
        UnknownNameError: The name, a field or something that a field names does not exist.
        InputError: A value is not possible.
    """
    name = ALIASES.get(name, name)
    if name not in VARIANTS:
        raise UnknownNameError("model", str(name), VARIANTS)
    row = VARIANTS[name]
    return row.change(**changes) if changes else row


def describe(name: str) -> str:
    """One line about the network called ``name``.

    Raises:
        UnknownNameError: There is none.
    """
    return config(name).description


def build(
    name: str,
    *,
    norm: str | None = None,
    activation: str | None = None,
    init: str | None = None,
    num_classes: int | None = None,
    **changes: Any,
) -> nn.Module:
    """Build a bundled network, in training mode, initialized from torch's global random state.

    The network carries its configuration as ``model.config``. Built under ``torch.device("meta")`` it has shapes and no
    values, which counts the parameters of the largest in no time.

    Args:
        name: A name of ``names()``, or an alias.
        norm: A name of ``spp.nn.NORMS``; None for the network's own, as for the next three.
        activation: A name of ``spp.nn.ACTIVATIONS``.
        init: A name of ``spp.nn.INITS``; it governs every convolution and Linear layer.
        num_classes: Outputs of the classifier.
        changes: Any other field of the network's configuration: ``input_shape``, ``norm_options``, ``gain`` and more for
            all, ``depth`` and ``width`` for ``ffn``, ``residual``, ``se``, ``zero_gamma`` and ``drop_path`` for all others,
            ``depths``, ``stem`` or ``shortcut`` for ResNets, ``width_multiplier`` and others for EfficientNets. A new
            ``residual`` brings the norm and the init that belong to it, unless they are given too.

    Returns:
        The network, mapping ``(N, *input_shape)`` to ``(N, num_classes)``.

    Raises:
        UnknownNameError: The name, a field or something that a field names does not exist; the message lists what does.
        InputError: A value is not possible, or norm and input shape do not fit each other.

    Examples:
        >>> import torch
        >>> with torch.device("meta"):  # shapes alone
        ...     model = build("resnet18", norm="none", num_classes=10)
        >>> sum(parameter.numel() for parameter in model.parameters()), model.config.norm
        (11172042, 'none')
    """
    common = {"norm": norm, "activation": activation, "init": init, "num_classes": num_classes}
    row = config(name, **{key: value for key, value in common.items() if value is not None}, **changes)
    model = initialize_(_make(row), row.init)
    if row.head_init is not None:
        initialize_(model.get_submodule("head"), row.head_init)
    if isinstance(row, ConvConfig) and row.zero_gamma:
        zero_gamma_(model)
    if row.norm == NEURONWISE:
        neuronwise_(model, **dict(row.norm_options))
    return model


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


def _make(row: Config) -> nn.Module:
    match row:
        case FFNConfig():
            return FFN(row)
        case ResNetConfig(preactivation=True):
            return PreResNet(row)
        case ResNetConfig():
            return ResNet(row)
        case EfficientNetConfig():
            return EfficientNet(row)
        case _:
            raise TypeError(f"no family for {type(row).__name__}")

"""The fully connected network of the thesis (Dewyse, JKU Linz, 2025): Linear, norm, activation, many times over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self

from torch import nn

from spp.models.config import Config
from spp.models.parts import Chain, Parts
from spp.nn.norms import NORMS


@dataclass(frozen=True, kw_only=True)
class FFNConfig(Config):
    """A fully connected network.

    Attributes:
        depth: Number of Linear layers, the classifier included.
        width: Features of each hidden layer.
        first_norm: Norm after the first Linear layer; None for the same as after the others.
        dropout: After each activation.
    """

    depth: int = 10
    width: int = 100
    first_norm: str | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self._need_number("dropout", 0, 1)
        self._need_count("depth")
        self._need_count("width")
        if self.first_norm is not None:
            NORMS.row(self.first_norm)
        super().__post_init__()
        if self.first_norm is not None and NORMS[self.first_norm].weights is not None:
            raise self._error(
                f"norm {self.first_norm!r} acts on the weights of the whole network",
                received=f"first_norm={self.first_norm!r}",
                remedy=f"Give norm={self.first_norm!r} instead.",
            )
        for norm in (self.norm, self.first_norm):
            if norm is not None and NORMS[norm].spatial:
                fit = ", ".join(known for known, row in NORMS.items() if not row.spatial)
                raise self._error(
                    f"norm {norm!r} takes statistics over space, which a fully connected network does not have",
                    remedy=f"Norms for it: {fit}.",
                )

    def change(self, **changes: Any) -> Self:
        """This row with some fields changed; a new ``norm`` goes everywhere, unless ``first_norm`` comes with it."""
        if "norm" in changes:
            changes.setdefault("first_norm", None)
        return super().change(**changes)

    @property
    def features(self) -> int:
        """Features of one sample."""
        return prod(self.input_shape)

    def check_input(self, shape: tuple[int, ...], *, batch: int | None = None) -> None:
        """Raise unless a sample of this shape has as many features as the first layer takes."""
        if prod(shape) != self.features:
            raise self._error(
                f"an input sample has {self.features} features, as {self.input_shape}",
                received=f"{prod(shape)} in {tuple(shape)}",
                remedy=f"Build the model with input_shape={tuple(shape)}.",
            )
        for norm in (self.norm, self.first_norm):
            if batch == 1 and norm is not None and NORMS[norm].batch and self.depth > 1:
                raise self._error(
                    f"norm {norm!r} takes statistics over the batch, so it trains on more than one sample",
                    received="a batch of 1",
                    remedy="Use a batch of at least 2.",
                )


class Layer(Chain):
    """Linear, norm, activation, dropout if any: ``(N, inputs)`` to ``(N, outputs)``."""

    def __init__(self, parts: Parts, inputs: int, outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = parts.make_linear(inputs, outputs)
        self.norm = parts.make_norm(outputs)
        self.act = parts.make_act()
        # no child at rate 0, so that a trace has no row for a layer that does nothing
        if dropout:
            self.dropout = parts.make_dropout(dropout)


class Classifier(Chain):
    """The last Linear layer: ``(N, inputs)`` to ``(N, num_classes)``."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, num_classes)


class FFN(Chain):
    """``depth`` Linear layers: ``layer1`` to ``layer{depth - 1}`` with norm and activation, then ``head.fc``.

    ``(N, *input_shape)`` to ``(N, num_classes)``. Samples of any shape are flattened first.
    """

    def __init__(self, config: FFNConfig) -> None:
        super().__init__()
        self.config = config
        parts = Parts(config, dims=0)
        self.flatten = nn.Flatten()
        features = config.features
        for index in range(1, config.depth):
            norm = config.first_norm if index == 1 and config.first_norm is not None else config.norm
            self.add_module(
                f"layer{index}", Layer(replace(parts, norm=norm), features, config.width, dropout=config.dropout)
            )
            features = config.width
        self.head = Classifier(features, config.num_classes)

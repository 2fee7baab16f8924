"""What the commands that build a network have in common: how it was asked for."""

from __future__ import annotations

from typing import Protocol


class NetworkRequest(Protocol):
    """What any command says about the network it wants."""

    @property
    def model(self) -> str:
        """A bundled name, ``torchvision:NAME``, ``timm:NAME``, ``transformers:CONFIG.json`` or ``package.module:factory``."""
        ...

    @property
    def norm(self) -> str | None:
        """A norm; None for the network's own, as for the next four."""
        ...

    @property
    def activation(self) -> str | None:
        """An activation."""
        ...

    @property
    def init(self) -> str | None:
        """An initialization."""
        ...

    @property
    def residual(self) -> str | None:
        """A rule of residual sums."""
        ...

    @property
    def se(self) -> str | None:
        """A rule of squeeze-and-excitation gates."""
        ...

    @property
    def num_classes(self) -> int | None:
        """Outputs."""
        ...

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width."""
        ...

    @property
    def checkpoint(self) -> str | None:
        """A file of weights."""
        ...

    @property
    def eval_mode(self) -> bool:
        """Whether it is put into evaluation mode."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples per batch."""
        ...

    @property
    def seed(self) -> int:
        """Of the weights."""
        ...

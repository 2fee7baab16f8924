"""The networks of ``thesis-effnet``: EfficientNet-B0 as the thesis builds it, and the controls that it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from spp.models import build
from spp.nn.activations import find_activation
from spp.nn.gains import gain_of

SIDE = 32
"""Of an image of CIFAR."""

QUICK_WIDTH = 0.25
"""Width multiplier of the networks that are trained in the quick study."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One network.

    Attributes:
        label: As figures and tables call it.
        about: What it is, for the description of the study.
        model: Name of the bundled network.
        changes: What is changed about it.
        gain: Whether the weights of convolutions are drawn with SiLU's gain, ``rms``, on top of the init.
        circular: Whether convolutions wrap around the image in place of padding with zeros, which loses variance.
        side: Of the images that its signals are measured on at init.
        batch: How many of them.
    """

    label: str
    about: str
    model: str = "effnet_b0"
    changes: Mapping[str, Any] = field(default_factory=dict)
    gain: bool = False
    circular: bool = False
    side: int = SIDE
    batch: int = 64

    def make(self, classes: int, width: float = 1.0) -> nn.Module:
        """Build it for images of CIFAR's size; the thesis' drop path does nothing, so that there is none here."""
        model = build(
            self.model,
            input_shape=(3, SIDE, SIDE),
            num_classes=classes,
            width_multiplier=width,
            drop_path=0.0,
            **self.changes,
        )
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                self._finish(layer)
        return model

    @torch.no_grad()
    def _finish(self, layer: nn.Conv2d) -> None:
        if self.gain:
            layer.weight.mul_(gain_of(find_activation("silu").function, "rms"))
        if self.circular and layer.kernel_size != (1, 1):
            layer.padding_mode = "circular"


#   the thesis' own init of its baseline: depthwise convolutions as if they were dense
BASELINE = {"init": "he_groups_blind", "head_init": "small_normal"}
TORCH_NORM = {"batch_eps": 1e-5, "batch_momentum": 0.1}
#   images on which gates and padding are told apart: circular padding wants maps no smaller than itself
LARGE: Mapping[str, Any] = {"side": 64, "batch": 16}

ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "batch": Arm("BatchNorm", "the network as it is, SiLU, the thesis' init", changes={**BASELINE, **TORCH_NORM}),
        "none": Arm("no norm", "without norms, SiLU, the thesis' init", changes={"norm": "none", **BASELINE}),
        "sn": Arm("SN", "self-normalizing: SELU, LeCun init, no norm", "effnet_b0_sn"),
        "snmp": Arm("SN-MP", "SN with magnitude-preserving sums and gates", "effnet_b0_snmp"),
        "dyt": Arm("DyT", "DyT (alpha 0.5) in place of BatchNorm, SiLU, the thesis' init", "effnet_b0_dyt", BASELINE),
        "dyt_sn": Arm("DyT + SN", "DyT (alpha 1) with SELU and LeCun init", "effnet_b0_dyt_sn"),
        "ws": Arm("WS", "weights standardized, gates too, SiLU, no norm", "effnet_b0_ws", BASELINE),
        "ws_sn": Arm("WS + SN", "the same with SELU and LeCun init", "effnet_b0_ws_sn"),
        "control": Arm(
            "no norm + gain",
            "the control: no norm, variance g^2/fan_in in each convolution, groups counted, g the rms gain of SiLU",
            changes={"norm": "none", "init": "lecun"},
            gain=True,
        ),
        "groups": Arm(
            "no norm + groups",
            "no norm, He's init by fan-out with groups counted",
            changes={"norm": "none", "init": "he_fan_out", "head_init": "small_normal"},
        ),
        "he": Arm("no norm + He", "no norm, He's init by fan-in", changes={"norm": "none", "init": "he"}),
        "sn_64": Arm("SN at 64x64", "SN on larger images", "effnet_b0_sn", **LARGE),
        "snmp_64": Arm("SN-MP at 64x64", "SN-MP on larger images", "effnet_b0_snmp", **LARGE),
        "snmp_double": Arm("SN-MP + doubled gates", "its gates doubled", "effnet_b0_snmp", {"se": "doubled"}, **LARGE),
        "sn_kept": Arm(
            "SN + doubled gates + circular",
            "SN with gates doubled and circular padding, so that neither loses variance",
            "effnet_b0_sn",
            {"se": "doubled"},
            circular=True,
            **LARGE,
        ),
        "snmp_kept": Arm(
            "SN-MP + doubled gates + circular",
            "SN-MP with the same",
            "effnet_b0_snmp",
            {"se": "doubled"},
            circular=True,
            **LARGE,
        ),
    }
)
"""Every arm by name."""

TABLE_1 = ("none", "batch", "sn", "snmp")
"""The arms of the thesis' Table 1."""

TRAINED = (*TABLE_1, "dyt", "ws", "control")
"""What is trained at either size."""

TRAINED_FULL = (*TABLE_1, "dyt", "dyt_sn", "ws", "ws_sn", "control")
"""What is trained at full size."""

RATES = (0.1, 0.01, 0.001)
"""Of Adam, in the thesis' Table 1."""

LOW_RATES = (1e-5, 1e-7)
"""Further ones at full size for weight standardization, which the thesis' scripts try down to 1e-7."""

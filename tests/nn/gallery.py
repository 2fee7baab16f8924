"""One of every module of ``spp.nn``, with an input that suits it: what every module must survive is tested over this list."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from spp.nn import (
    NORMS,
    SE_SCALES,
    WEIGHT_NORMS,
    AffineLayer,
    BatchRenorm,
    ChannelsLast,
    DyT,
    EvoNormB0,
    EvoNormS0,
    FilterResponseNorm,
    GhostBatchNorm,
    ScaledActivation,
    SqueezeExcite,
    StandardizedConv1d,
    StandardizedConv2d,
    StandardizedConv3d,
    StandardizedLinear,
    StochasticDepth,
    make_activation,
    make_norm,
)


@dataclass(frozen=True)
class Exhibit:
    """How to make a module, the shape of an input, and what its ``repr`` shows."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 4, 3, 2)
    shows: str = ""
    batch: bool = False

    def __repr__(self) -> str:
        return self.shows


def norm(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: make_norm(name, 4, **options)


MODULES = {
    **{f"norm {name}": Exhibit(norm(name), batch=NORMS[name].batch) for name in NORMS if NORMS[name].weights is None},
    "affine": Exhibit(lambda: AffineLayer(4), shows="AffineLayer(4)"),
    "affine last": Exhibit(lambda: AffineLayer(4, channel_axis=-1), (3, 2, 4), "AffineLayer(4, channel_axis=-1)"),
    "dyt": Exhibit(lambda: DyT(4, 0.8), shows="DyT(4, alpha=0.8)"),
    "dyt last": Exhibit(lambda: DyT(4, channel_axis=-1), (3, 2, 4), "DyT(4, alpha=0.5, channel_axis=-1)"),
    "frn": Exhibit(
        lambda: FilterResponseNorm(4, activated=False), shows="FilterResponseNorm(4, eps=1e-06, activated=False)"
    ),
    "frn learned": Exhibit(
        lambda: FilterResponseNorm(4, learned_eps=True),
        shows="FilterResponseNorm(4, eps=0.0001 (learned), activated=True)",
    ),
    "evonorm s0": Exhibit(lambda: EvoNormS0(4, 2), shows="EvoNormS0(4, groups=2, eps=1e-05, activated=True)"),
    "evonorm s0 linear": Exhibit(
        lambda: EvoNormS0(4, 2, activated=False), shows="EvoNormS0(4, groups=2, eps=1e-05, activated=False)"
    ),
    "evonorm b0": Exhibit(
        lambda: EvoNormB0(4), shows="EvoNormB0(4, eps=0.001, momentum=0.1, activated=True)", batch=True
    ),
    "evonorm b0 linear": Exhibit(
        lambda: EvoNormB0(4, activated=False), shows="EvoNormB0(4, eps=0.001, momentum=0.1, activated=False)"
    ),
    "batch renorm": Exhibit(
        lambda: BatchRenorm(4, r_max=1.1, d_max=0.2, ramp=False),
        shows="BatchRenorm(4, eps=1e-05, momentum=0.1, r_max=1.1, d_max=0.2, ramp=False)",
        batch=True,
    ),
    "ghost batch": Exhibit(
        lambda: GhostBatchNorm(4, 2),
        (4, 4, 3, 2),
        "GhostBatchNorm(4, eps=1e-05, momentum=0.1, ghost=2)",
        batch=True,
    ),
    "channels last": Exhibit(
        lambda: ChannelsLast(EvoNormS0(4, 2)), (3, 2, 2, 4), "EvoNormS0(4, groups=2, eps=1e-05, activated=True)"
    ),
    **{
        f"conv {rule}": Exhibit(
            lambda rule=rule: StandardizedConv2d(4, 6, 3, padding=1, groups=2, rule=rule),
            shows=f"StandardizedConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=2, rule='{rule}')",
        )
        for rule in WEIGHT_NORMS
    },
    "conv1d": Exhibit(
        lambda: StandardizedConv1d(4, 2, 2, rule="scaled_ws", gain=False, options={"gamma": 1.5}),
        (2, 4, 3),
        "StandardizedConv1d(4, 2, kernel_size=(2,), stride=(1,), rule='scaled_ws', gain=False, gamma=1.5)",
    ),
    "conv3d circular": Exhibit(
        lambda: StandardizedConv3d(2, 2, 3, padding=1, padding_mode="circular", rule="scaled_ws"),
        (2, 2, 3, 3, 3),
        "padding_mode=circular, rule='scaled_ws'",
    ),
    "linear": Exhibit(
        lambda: StandardizedLinear(4, 3, rule="mp"),
        (5, 4),
        "StandardizedLinear(in_features=4, out_features=3, bias=True, rule='mp')",
    ),
    **{
        f"se {scale}": Exhibit(
            lambda scale=scale: SqueezeExcite(4, 2, "silu", scale=scale, weight_norm="ws"), shows=f"scale='{scale}'"
        )
        for scale, row in SE_SCALES.items()
        if row.apply is not None
    },
    "scaled activation": Exhibit(
        lambda: make_activation("gelu", "gamma"), shows="ScaledActivation(gelu, gain=1.70093)"
    ),
    "scaled by a number": Exhibit(lambda: ScaledActivation("tanh", 2.0), shows="ScaledActivation(tanh, gain=2)"),
    "function": Exhibit(lambda: make_activation("erf"), shows="Elementwise(erf)"),
    "stochastic depth": Exhibit(
        lambda: StochasticDepth(0.0, rescale=False), shows="StochasticDepth(rate=0, rescale=False)"
    ),
}

"""Remedies of signals that die or explode: the init, norm, activation or network that makes good for what was measured."""

from __future__ import annotations

import numpy as np

from spp.diagnosis.attenuation import Leg
from spp.diagnosis.view import Kind, View

# Models that have a normalizer-free twin.
WITH_NF_TWIN = ("resnet50", "resnetv2_50")


def activation_gains(view: View) -> list[float]:
    """Decades of the gain of each activation, where known."""
    return [s.decades for s in view.steps if s.kind is Kind.ACTIVATION and np.isfinite(s.decades)]


def of_leg(view: View, leg: Leg) -> str:
    """What to type: an init where the weights' gain is off what the activations take, else a norm."""
    init = _init(view, leg)
    parts = [f"`--init {init}`"] if init is not None and view.run.get("init") != init else []
    if not view.norms or view.run.get("norm") in ("none", "dyt", "affine"):
        parts.append("`--norm batch`")
    model = str(view.run.get("model", ""))
    without = "effnet_b0_nf" if model == "effnet_b0" else "nf_resnet50" if model.startswith(WITH_NF_TWIN) else None
    parts += [f"`--model {without}`, which needs no norm"] if without is not None else []
    if not parts:
        return "Scale the weights by what the activations take, `--init he`; or a norm."
    return f"{', or '.join(parts)}."


def _init(view: View, leg: Leg) -> str | None:
    """The init whose gain makes good for what the activations take, where the weights' gain is off that the leg's way."""
    taken = activation_gains(view)
    gains = [gain for gain in view.weight_gains(Kind.WEIGHTED) if gain > 0]
    if not taken or not gains:
        return None
    needed = -float(np.median(taken))
    off = needed - float(np.median(np.log10(gains)))
    if np.sign(off) != -np.sign(leg.decades) or abs(off) < 0.1:
        return None
    # ReLU halves the second moment, which He's init makes good for; what keeps it needs LeCun's.
    return "he" if abs(needed - np.log10(2)) < 0.12 else "lecun" if abs(needed) < 0.06 else None


def of_backward_leg(view: View, leg: Leg) -> str:
    """Likewise for a course of the gradients."""
    if leg.decades > 0 and view.norms and view.blocks.empty:
        return (
            "Norms in a deep plain network enlarge gradients at every layer: fewer layers, skips, "
            "or `--norm none --init he`."
        )
    if leg.decades < 0 and any(view.activation(s.name) in ("sigmoid", "tanh", "softsign") for s in view.steps):
        return "`--activation relu --init he`, or a norm, `--norm batch`."
    return of_leg(view, leg)


def of_nonfinite(dtype: str, *, fed: bool, backward: bool = False) -> str:
    """Against the first value that is no number, by the dtype it has; ``fed`` tells whether a module gave it its input."""
    if dtype == "float16" and backward:
        return "Lower the loss scale, or compute this layer's backward in float32."
    if dtype == "float16":
        return "Its float16 range ends at 65504: compute this layer in float32 or bfloat16, or scale down its input."
    if backward:
        return "Look at the derivative just behind it: a square root or division at 0, a logarithm, a norm of zeros."
    # functions between the two have no rows of their own in every run
    where = "Look at this layer, and at the functions between it and what feeds it: a root or logarithm of negative numbers."
    return where if fed else "Check the batch with torch.isfinite first."

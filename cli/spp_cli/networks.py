"""What ``--model`` names, looked up and built; the library knows how."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from spp.models.sources import Plan
    from spp_cli.network_request import NetworkRequest as Request


def plan(request: Request, shape: tuple[int, ...] | None) -> Plan:
    """Look up what ``--model`` names, without building it.

    Args:
        request: The options.
        shape: Shape of one sample where a data file fixes it.

    Raises:
        InputError: No such network or factory, or it cannot be changed or fed as asked.
        MissingExtraError: The library that it is from is not installed.
    """
    from spp import models
    from spp.models.sources.transformers import only_tokens

    # a console script's path begins at its own folder, not at the user's
    if ":" in request.model and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    # libraries of networks look for new weights where nothing tells them not to
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    data = getattr(request, "data", "gaussian")

    def spelled(name: str) -> str:
        return f"--data {data}" if name == "input_shape" else f"--{name.replace('_', '-')}"

    more = {key: value for key in ("residual", "se") if (value := getattr(request, key)) is not None}
    if shape is not None and request.image_size is None:
        more["input_shape"] = shape
    found = models.plan(
        request.model,
        norm=request.norm,
        activation=request.activation,
        init=request.init,
        num_classes=request.num_classes,
        image_size=request.image_size,
        tokens=getattr(request, "tokens", None),
        spelled=spelled,
        **more,
    )
    if found.vocabulary is not None and data != "gaussian":
        raise only_tokens(request.model, f"--data {data}")
    if found.config is not None:
        found.config.check_input(found.shape, batch=None if request.eval_mode else request.batch_size)
    return found


def build(request: Request, plan: Plan, device: str) -> nn.Module:
    """Build the network of ``plan`` from ``--seed``, load ``--checkpoint``, and move it to ``device``."""
    import torch

    from spp.models.sources.checkpoint import load_checkpoint

    torch.manual_seed(request.seed)
    model = plan.build()
    if request.checkpoint is not None:
        load_checkpoint(model, request.checkpoint, plan.spelled)
    if request.eval_mode:
        model.eval()
    return model.to(device)

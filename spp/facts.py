"""Facts about a run that are the same for every kind of run."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import spp
from spp.capture.parameters import parameters_in
from spp.capture.sites import named_modules
from spp.layers import type_name


def model_facts(model: nn.Module, parameters: Sequence[nn.Parameter] | None = None) -> dict[str, Any]:
    """Class, number of parameters, mode, device and dtype of a model, and the versions it runs on.

    Args:
        model: Which model.
        parameters: Its parameters, where somebody has listed them already.
    """
    parameters = parameters_in(m for _, m in named_modules(model)) if parameters is None else parameters
    first = parameters[0] if parameters else None
    return {
        "model": type_name(model),
        "parameters": sum(p.numel() for p in parameters if not isinstance(p, nn.UninitializedParameter)),
        "training": model.training,
        "device": str(torch.device("cpu") if first is None else first.device),
        "dtype": str(torch.get_default_dtype() if first is None else first.dtype).removeprefix("torch."),
        "versions": {
            "spp": spp.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pandas": pd.__version__,
            "python": platform.python_version(),
        },
    }

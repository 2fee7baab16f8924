"""Inputs and parameters that a wrong formula would show."""

import numpy as np
import torch

SHAPE = (4, 64, 5, 3)


def batch(shape=SHAPE, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(1.5, 2.0, shape))


def scramble(layer, seed=1):
    """Give the affine parameters values that a wrong formula would show."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=parameter.shape)))
    return layer

"""Neuron-wise gradients from their definition: every neuron's coordinates written out as samples x neurons x features.

Autograd differentiates the loss with respect to the coordinates ``v`` and ``c``, in float64. Nothing is shared with
``spp.nn.neuronwise`` but the names of the modes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTINGS = {"clamp": lambda p: p.clamp(min=0), "abs": Tensor.abs, "square": Tensor.square}


def statistics(rows, p):
    """Mean and biased variance of ``rows (N, F)`` for each neuron, weighted by ``p (N, O)``; dead: batch mean and 1."""
    mass = p.sum(0)[:, None]
    dead = mass == 0
    mean = torch.where(dead, rows.mean(0), torch.einsum("no,nf->of", p, rows) / mass)
    deviation = rows[:, None, :] - mean
    return mean, torch.where(dead, 1.0, torch.einsum("no,nof->of", p, deviation**2) / mass)


def derivative(phi, z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(phi(z).sum(), z)[0]


def gradients(rows, weight, bias, phi, upstream, mode, eps, weighting="clamp"):
    """Gradients of ``sum(upstream * phi(rows @ weight.T + bias))``, neuron-wise; shapes (N, F), (O, F), (O,), (N, O)."""
    shift = 0 if bias is None else bias
    p = WEIGHTINGS[weighting](derivative(phi, rows @ weight.T + shift))
    mean, var = statistics(rows, p)
    spread = torch.ones_like(var) if mode.endswith("centre") else (var + eps).sqrt()
    if mode.startswith("coords") and bias is None:
        mean = torch.zeros_like(mean)
    u = (rows[:, None, :] - mean) / spread  # (N, O, F)
    v = (weight * spread).requires_grad_()
    c = (shift + (weight * mean).sum(1)).detach().requires_grad_()
    z = (u * v).sum(-1) + c  # the same pre-activations in other coordinates
    torch.testing.assert_close(z, rows @ weight.T + shift, rtol=1e-9, atol=1e-9)
    g_v, g_c = torch.autograd.grad((upstream * phi(z)).sum(), (v, c))
    if mode.startswith("outer"):
        return g_v, g_c
    return g_v / spread, g_c - (mean / spread * g_v).sum(1)


def patches(x, kernel, stride, padding, dilation, groups):
    """Inputs of each output position, per group: a list of (N * positions, features)."""
    columns = F.unfold(x, kernel, dilation, padding, stride)  # (N, C * k, L)
    return [part.transpose(1, 2).flatten(0, 1) for part in columns.chunk(groups, 1)]


def conv_gradients(x, weight, bias, phi, upstream, mode, eps, *, stride, padding, dilation, groups):
    """The same for a two-dimensional convolution; upstream is (N, O, H, W)."""
    rows = patches(x, weight.shape[2:], stride, padding, dilation, groups)
    parts = []
    for group, samples in enumerate(rows):
        each = slice(group * len(weight) // groups, (group + 1) * len(weight) // groups)
        tops = upstream[:, each].flatten(2).transpose(1, 2).flatten(0, 1)
        own = None if bias is None else bias[each]
        parts.append(gradients(samples, weight[each].flatten(1), own, phi, tops, mode, eps))
    return torch.cat([w for w, _ in parts]).view_as(weight), torch.cat([b for _, b in parts])

"""Relatives of BatchNorm that change whose statistics are used: Batch Renormalization and Ghost BatchNorm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spp.errors import InputError
from spp.nn import functional
from spp.nn.activating_norms import needs_a_batch

R_MAX, D_MAX = 3.0, 5.0
"""Final bounds of Batch Renormalization's corrections (Ioffe 2017)."""
R_RAMP, D_RAMP = (5_000, 40_000), (5_000, 25_000)
"""Steps between which the bounds grow from BatchNorm's 1 and 0 to their final values (Ioffe 2017)."""
GHOST_BATCH = 32
"""Samples of a virtual batch; the paper's are 32 to 128 (Hoffer et al. 2017)."""


class BatchRenorm(nn.Module):
    """Batch Renormalization: BatchNorm corrected towards its running statistics (Ioffe 2017, arXiv 1702.03275).

    ``y = ((x - m) / s * r + d) * weight + bias`` for ``x`` of shape ``(N, C, *spatial)``; see
    ``functional.batch_renorm``. Weight starts at 1, bias at 0. Evaluation uses the running statistics. As in the paper the
    running scale is the mean of standard deviations, not of variances.

    Args:
        num_channels: ``C``.
        eps: Added to the biased variance.
        momentum: Weight of the newest batch in the running statistics.
        r_max: Final bound of the scale correction, at least 1.
        d_max: Final bound of the shift correction, at least 0.
        ramp: Whether the bounds grow to these values as in the paper: plain BatchNorm for 5,000 steps, ``r_max`` in full
            after 40,000 and ``d_max`` after 25,000. If not, they hold from the first step.

    Raises:
        InputError: A bound is out of its range.
    """

    running_mean: Tensor
    running_std: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        r_max: float = R_MAX,
        d_max: float = D_MAX,
        ramp: bool = True,
    ) -> None:
        super().__init__()
        if r_max < 1 or d_max < 0:
            raise InputError("r_max is at least 1 and d_max at least 0", received=f"{r_max!r} and {d_max!r}")
        self.num_channels, self.eps, self.momentum = num_channels, eps, momentum
        self.r_max, self.d_max, self.ramp = r_max, d_max, ramp
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_std", torch.ones(num_channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set scale to 1, shift to 0, and forget the running statistics."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_std)
        self.num_batches_tracked.zero_()

    def bounds(self) -> tuple[Tensor | float, Tensor | float]:
        """``(r_max, d_max)`` at the present step."""
        if not self.ramp:
            return self.r_max, self.d_max
        share_r, share_d = (
            ((self.num_batches_tracked - start) / (end - start)).clamp(0, 1) for start, end in (R_RAMP, D_RAMP)
        )
        return 1 + (self.r_max - 1) * share_r, self.d_max * share_d

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``.

        Raises:
            InputError: It trains on a single value per channel.
        """
        running = self.running_mean, self.running_std
        if not (self.training and x.numel()):
            return functional.batch_renorm(x, running, running, self.weight, self.bias, r_max=1, d_max=0)
        mean, var = functional.batch_moments(needs_a_batch(self, x))
        batch = mean, (var + self.eps).sqrt()
        r_max, d_max = self.bounds()
        out = functional.batch_renorm(x, batch, running, self.weight, self.bias, r_max=r_max, d_max=d_max)
        with torch.no_grad():
            for kept, new in zip(running, batch, strict=True):
                kept.lerp_(new.to(kept.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return out

    def extra_repr(self) -> str:
        """Show channels, eps, momentum and bounds."""
        bounds = f"r_max={self.r_max:g}, d_max={self.d_max:g}, ramp={self.ramp}"
        return f"{self.num_channels}, eps={self.eps:g}, momentum={self.momentum:g}, {bounds}"


class GhostBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of virtual batches (Hoffer et al. 2017, arXiv 1705.08741).

    A batch is cut, in order, into ``max(1, N // ghost)`` nearly equal parts, and each part is normalized by itself. Scale
    and shift are shared, and the running statistics take every part in turn. Parameters and buffers are those of BatchNorm.

    Args:
        num_features: ``C`` of the input ``(N, C, *spatial)``.
        ghost: Samples of a virtual batch.
        eps: Added to the biased variance.
        momentum: Weight of the newest virtual batch in the running statistics.

    Raises:
        InputError: ``ghost`` is below 1.
    """

    def __init__(self, num_features: int, ghost: int = GHOST_BATCH, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        if ghost < 1:
            raise InputError("a virtual batch has at least one sample", received=repr(ghost))
        self.ghost = ghost

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``input``.

        Raises:
            InputError: A virtual batch has a single value per channel while training.
        """
        if not self.training or not input.numel():
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        parts = []
        for part in input.tensor_split(max(1, len(input) // self.ghost)):
            needs_a_batch(self, part)
            running = self.running_mean, self.running_var
            parts.append(F.batch_norm(part, *running, self.weight, self.bias, True, self.momentum or 0.0, self.eps))
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return torch.cat(parts)

    def extra_repr(self) -> str:
        """Show channels, eps, momentum and the size of a virtual batch."""
        return f"{self.num_features}, eps={self.eps:g}, momentum={self.momentum:g}, ghost={self.ghost}"

"""What happens to a residual branch before it is merged."""

from torch import Tensor, nn

from spp.errors import InputError
from spp.nn import functional


class StochasticDepth(nn.Module):
    """Drop the branch of whole samples while training, and scale the kept ones by ``1 / (1 - rate)``.

    The identity in evaluation mode and for ``rate=0``. Source: Huang et al. 2016, arXiv 1603.09382; EfficientNet calls
    it drop connect.

    Args:
        rate: Probability that a sample's branch is dropped, in ``[0, 1)``.

    Raises:
        InputError: The rate is outside ``[0, 1)``.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise InputError("a drop rate is at least 0 and below 1", received=repr(rate))
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x``, of shape ``(N, ...)``."""
        return functional.stochastic_depth(x, self.rate, training=self.training)

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.rate:g}"

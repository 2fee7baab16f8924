import pytest
import torch

from spp.errors import InputError
from spp.nn import StochasticDepth


def test_identity_in_evaluation_and_at_rate_zero():
    x = torch.randn(4, 3)
    assert StochasticDepth(0.5).eval()(x) is x
    assert StochasticDepth(0.0).train()(x) is x


def test_drops_whole_samples_and_scales_the_kept_ones():
    torch.manual_seed(0)
    x = torch.randn(2000, 3, 2, 2)
    y = StochasticDepth(0.25)(x)
    kept = y.flatten(1).abs().amax(1) > 0
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(InputError, match=rf"at least 0 and below 1; got {rate}"):
        StochasticDepth(rate)


def test_says_its_rate():
    assert repr(StochasticDepth(0.25)) == "StochasticDepth(rate=0.25)"

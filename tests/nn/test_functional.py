"""The functions behind the modules, on their own arguments; values are tested with the modules."""

import pytest
import torch

from spp.nn import functional


def test_norms_over_channels_do_without_scale_and_shift():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    layer = functional.channel_layer_norm(x, None, None, eps=0.0)
    rms = functional.channel_rms_norm(x, None, eps=0.0)
    assert layer[0].tolist() == pytest.approx([-1.3416407865, -0.4472135955, 0.4472135955, 1.3416407865])
    assert rms[0].tolist() == pytest.approx([0.3651483717, 0.7302967433, 1.0954451150, 1.4605934867])


def test_norms_over_channels_do_not_mix_positions():
    x = torch.randn(2, 8, 3, 3)
    changed = x.clone()
    changed[:, :, 0, 0] += torch.randn(8)
    for norm in (functional.channel_layer_norm(x, None, None), functional.channel_rms_norm(x, None)):
        assert norm.shape == x.shape
    same = functional.channel_rms_norm(x, None) == functional.channel_rms_norm(changed, None)
    assert same[:, :, 1:].all()
    assert not same[:, :, 0, 0].all()


@pytest.mark.parametrize("shape", [(0, 4), (0, 4, 3, 3)])
def test_empty_batches_pass(shape):
    x = torch.empty(shape)
    ones = torch.ones(4)
    assert functional.affine(x, ones, ones).shape == shape
    assert functional.channel_layer_norm(x, ones, ones).shape == shape
    assert functional.channel_rms_norm(x, ones).shape == shape
    assert functional.stochastic_depth(x, 0.5, training=True).shape == shape


def test_stochastic_depth_gives_the_gradient_the_same_mask():
    torch.manual_seed(0)
    x = torch.randn(64, 5, requires_grad=True)
    y = functional.stochastic_depth(x, 0.5, training=True)
    y.sum().backward()
    kept = y.detach().abs().amax(1) > 0
    assert torch.equal(x.grad, (kept * 2.0).unsqueeze(1).expand_as(x))

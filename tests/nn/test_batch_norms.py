"""Batch Renormalization and norms of virtual batches: numbers worked by hand, and torch's BatchNorm where they become it."""

import pytest
import torch
from torch import nn

from spp.errors import InputError
from spp.nn import BatchRenorm, GhostBatchNorm, make_norm
from tests.nn.batches import batch, scramble


class TestBatchRenorm:
    x = torch.tensor([[2.0], [4.0], [6.0]], dtype=torch.float64)

    def layer(self, **bounds):
        layer = BatchRenorm(1, eps=0.0, ramp=False, **bounds).double()
        layer.running_mean.fill_(1)
        return layer

    def test_unclipped_it_normalizes_by_the_running_statistics(self):
        out = self.layer()(self.x)
        assert out.flatten().tolist() == pytest.approx([1, 3, 5], abs=1e-12)

    def test_clipped(self):
        out = self.layer(r_max=1.5, d_max=0.5)(self.x)
        assert out.flatten().tolist() == pytest.approx([-1.3371173071, 0.5, 2.3371173071], abs=1e-10)

    def test_bounds_of_one_and_zero_are_batch_norm_and_gradients_too(self):
        x = batch((5, 4, 3, 3)).requires_grad_()
        one, other = (
            scramble(layer.double(), 2) for layer in (BatchRenorm(4, r_max=1, d_max=0), make_norm("batch", 4))
        )
        torch.testing.assert_close(one(x), other(x), rtol=1e-12, atol=1e-12)
        cotangent = batch((5, 4, 3, 3), 9)
        grads = [torch.autograd.grad(layer(x), [x, *layer.parameters()], cotangent) for layer in (one, other)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)

    def test_the_corrections_are_constants_for_the_gradient(self):
        """With r and d frozen, ``dy/dx`` is r times BatchNorm's."""
        x = batch((6, 2)).requires_grad_()
        renorm, plain = BatchRenorm(2, ramp=False).double(), make_norm("batch", 2, dims=0).double()
        r = ((x.detach().var(0, correction=0) + 1e-5).sqrt() / 1.0).clamp(1 / 3, 3)
        cotangent = batch((6, 2), 5)
        (one,) = torch.autograd.grad(renorm(x), x, cotangent)
        (other,) = torch.autograd.grad(plain(x), x, cotangent)
        torch.testing.assert_close(one, other * r, rtol=1e-10, atol=1e-12)

    def test_running_statistics_are_means_of_means_and_of_standard_deviations(self):
        layer = BatchRenorm(1, eps=0.0, momentum=0.25).double()
        layer(self.x)
        assert layer.running_mean.item() == pytest.approx(0.25 * 4)
        assert layer.running_std.item() == pytest.approx(0.75 + 0.25 * (8 / 3) ** 0.5)
        expected = (self.x - layer.running_mean) / layer.running_std
        torch.testing.assert_close(layer.eval()(self.x), expected, rtol=1e-12, atol=0)

    @pytest.mark.parametrize(
        ("step", "r_max", "d_max"),
        [(0, 1, 0), (5_000, 1, 0), (15_000, 1 + 2 * 10 / 35, 2.5), (25_000, 1 + 2 * 20 / 35, 5), (90_000, 3, 5)],
    )
    def test_the_bounds_grow_as_in_the_paper(self, step, r_max, d_max):
        layer = BatchRenorm(1)
        layer.num_batches_tracked.fill_(step)
        assert [float(bound) for bound in layer.bounds()] == pytest.approx([r_max, d_max])

    @pytest.mark.parametrize("bounds", [{"r_max": 0.5}, {"d_max": -1.0}])
    def test_impossible_bounds(self, bounds):
        with pytest.raises(InputError, match=r"r_max is at least 1 and d_max at least 0; got"):
            BatchRenorm(3, **bounds)


class TestGhostBatchNorm:
    def test_one_virtual_batch_is_batch_norm_bit_for_bit(self):
        x = batch((8, 3, 2, 2)).float()
        ghost, plain = GhostBatchNorm(3, ghost=8), make_norm("batch", 3)
        assert torch.equal(ghost(x), plain(x))
        assert all(torch.equal(value, plain.state_dict()[key]) for key, value in ghost.state_dict().items())

    @pytest.mark.parametrize(("ghost", "parts"), [(2, [2, 2, 2, 1]), (3, [4, 3]), (7, [7]), (100, [7])])
    def test_is_batch_norm_on_the_parts(self, ghost, parts):
        parts = [2, 2, 3] if ghost == 2 else parts
        x = batch((7, 3, 2, 2))
        layer, plain = GhostBatchNorm(3, ghost=ghost).double(), make_norm("batch", 3).double()
        sizes = [len(part) for part in x.tensor_split(max(1, 7 // ghost))]
        assert sorted(sizes) == sorted(parts)
        expected = torch.cat([plain(part) for part in x.split(sizes)])
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.running_var, plain.running_var)
        assert layer.num_batches_tracked == 1

    def test_its_state_is_batch_norms(self):
        GhostBatchNorm(3).load_state_dict(nn.BatchNorm2d(3).state_dict())

    def test_impossible_size(self):
        with pytest.raises(InputError, match=r"a virtual batch has at least one sample; got 0"):
            GhostBatchNorm(3, ghost=0)

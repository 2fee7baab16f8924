"""Sections 1.2 and 1.3 of the reference sheet: residual curves and padding."""

from math import pi, sqrt

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import spp
from spp.errors import InputError, UnknownNameError
from spp.theory.residual import (
    ChannelMoments,
    branch_share,
    growth,
    nf_resnet_variances,
    normalized_branch,
    padding_loss,
    stage_curve,
)


def test_branches_of_the_sheet():
    he = normalized_branch("relu", 2)
    assert he == pytest.approx((0.3183098862, 0.6816901138), abs=1e-10)
    assert he == pytest.approx((1 / pi, 1 - 1 / pi), rel=1e-13)
    assert normalized_branch("relu", 1) == pytest.approx((0.159155, 0.340845), abs=5e-7)
    assert normalized_branch("relu", 1, norm_last=True) == (0, 1)
    assert normalized_branch("relu", 2, norm_last=True) == (0, 2)


def test_stage_of_a_preactivation_resnet():
    curve = stage_curve(normalized_branch("relu", 2), 6)
    assert [block.acv for block in curve] == pytest.approx(
        [1.36338, 2.04507, 2.72676, 3.40845, 4.09014, 4.77183], abs=6e-6
    )
    assert [block.acsm for block in curve] == pytest.approx(
        [0.63662, 0.95493, 1.27324, 1.59155, 1.90986, 2.22817], abs=6e-6
    )
    identity = stage_curve(ChannelMoments(0, 1), 3, start=ChannelMoments(0.5, 1))
    assert identity == [(0.5, 2), (0.5, 3), (0.5, 4)]


def test_a_real_preactivation_resnet_follows_the_curve():
    """ResNet-V2-50 at 64x64, batch 16, He: ACV within 5 % in stages 2 and 3, ACSM within 20 %, as the sheet has it."""
    torch.manual_seed(0)
    model = spp.models.build("resnetv2_50", init="he")
    blocks = spp.trace(model, spp.data.gaussian(16, (3, 64, 64)), signals=["activation"]).blocks
    curve = stage_curve(normalized_branch("relu", 2), 6)
    for stage, depth in (("stage2", 4), ("stage3", 6)):
        rows = blocks[blocks["block"].str.startswith(stage)]
        assert rows["acv"].tolist() == pytest.approx([block.acv for block in curve[:depth]], rel=0.05)
        assert rows["acsm"].tolist() == pytest.approx([block.acsm for block in curve[:depth]], rel=0.2)
        assert rows["branch_acv"].tolist() == pytest.approx([1 - 1 / pi] * depth, rel=0.05)


def test_growth_rules():
    assert growth("plain", 16)[-1] == 2**16
    assert growth("sqrt2", 5) == [1] * 5
    assert growth("skipinit", 5) == [1] * 5
    assert growth("normalized", 4) == [2, 3, 4, 5]
    assert [1 / total for total in growth("normalized", 4)] == [branch_share(block) for block in (1, 2, 3, 4)]
    with pytest.raises(UnknownNameError, match=r"unknown growth rule 'plane'\. Did you mean 'plain'"):
        growth("plane", 3)
    with pytest.raises(InputError, match="blocks count from 1; got 0"):
        branch_share(0)


def test_nf_resnet_50():
    stages = nf_resnet_variances((3, 4, 6, 3))
    betas = [[beta for beta, _ in stage] for stage in stages]
    assert betas == [
        pytest.approx([1, 1.019804, 1.03923], abs=1e-6),
        pytest.approx([1.058301, 1.019804, 1.03923, 1.058301], abs=1e-6),
        pytest.approx([1.077033, 1.019804, 1.03923, 1.058301, 1.077033, 1.095445], abs=1e-6),
        pytest.approx([1.113553, 1.019804, 1.03923], abs=1e-6),
    ]
    variances = [[variance for _, variance in stage] for stage in stages]
    assert variances == [pytest.approx([1 + 0.04 * block for block in range(1, depth + 1)]) for depth in (3, 4, 6, 3)]
    model = spp.models.build("nf_resnet50")
    found = [block.beta for name, block in model.named_modules() if hasattr(block, "beta")]
    assert found == [beta for stage in betas for beta in stage]


@pytest.mark.parametrize(
    ("size", "factor"),
    [(2, 0.4444), (4, 0.6944), (7, 0.8186), (8, 0.8403), (14, 0.9070), (16, 0.9184), (28, 0.9530), (56, 0.9763)],
)
def test_padding_of_the_sheet(size, factor):
    assert padding_loss(size, 3) == pytest.approx(factor, abs=6e-5)
    assert padding_loss(size, 3) == pytest.approx(((3 * size - 2) / (3 * size)) ** 2, rel=1e-14)


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([1, 3, 5, 7]),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 2),
)
def test_padding_is_what_a_convolution_of_ones_counts(height, width, kernel, stride, padding, dilation):
    if min(height, width) + 2 * padding < dilation * (kernel - 1) + 1:
        return
    ones = torch.ones(1, 1, height, width, dtype=torch.float64)
    taps = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
    counted = F.conv2d(ones, taps, stride=stride, padding=padding, dilation=dilation).mean().item() / kernel**2
    found = padding_loss((height, width), kernel, stride=stride, padding=padding, dilation=dilation)
    assert found == pytest.approx(counted, rel=1e-12)


def test_a_convolution_without_outputs():
    with pytest.raises(InputError, match="at least one output; got kernel 5 and padding 0 on 3 pixels"):
        padding_loss(3, 5, padding=0)
    assert sqrt(padding_loss(2, 3)) == pytest.approx(padding_loss(2, 3, axes=1))

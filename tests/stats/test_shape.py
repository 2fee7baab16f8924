"""Fourth moments and exponent histograms: against NumPy, mergeable exactly, and the formats' limits against torch's casts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import spp
from spp.frame.precision import lost_shares
from spp.stats.backends import reduce
from spp.stats.extra import (
    FORMATS,
    HIGHEST,
    LOWEST,
    POWERS,
    fourth_moments,
    kurtosis,
    merge_fourth,
    signed_exponents,
)

CASTS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8-e4m3": torch.float8_e4m3fn,
    "fp8-e5m2": torch.float8_e5m2,
}


def kurtosis_of(x: torch.Tensor) -> float:
    return float(kurtosis(fourth_moments(x).numpy()[None])[0])


def test_kurtosis_of_known_distributions():
    generator = torch.Generator().manual_seed(0)
    assert kurtosis_of(torch.randn(400_000, generator=generator)) == pytest.approx(3, rel=0.03)
    assert kurtosis_of(torch.rand(400_000, generator=generator)) == pytest.approx(1.8, rel=0.01)
    assert kurtosis_of(torch.tensor([-1.0, 1.0, float("nan")])) == 1.0
    assert np.isnan(kurtosis_of(torch.ones(5)))


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5), st.integers(0, 999), st.floats(-100, 100))
@settings(max_examples=60, deadline=None)
def test_fourth_moments_merge_exactly(sizes, seed, offset):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, generator=generator, dtype=torch.float64) * (i + 1) + offset for i, n in enumerate(sizes)]
    merged = fourth_moments(parts[0])
    for part in parts[1:]:
        merged = merge_fourth(merged, fourth_moments(part))
    x = torch.cat(parts).numpy()
    d = x - x.mean()
    expected = [x.size, x.mean(), (d**2).sum(), (d**3).sum(), (d**4).sum()]
    scale = [1, abs(offset) + 1, expected[2], expected[2] ** 1.5 + 1e-9, expected[4]]
    np.testing.assert_array_less(np.abs(merged.numpy()[:5] - expected), 1e-9 * np.array(scale) + 1e-12)


def test_exponents_count_by_powers_of_two():
    x = torch.tensor([0.0, 1.0, 1.5, -2.0, 0.25, float("inf"), float("nan"), 2.0**-149, -(2.0**127)])
    counts = signed_exponents(x).sum(0)
    found = {LOWEST + i: int(n) for i, n in enumerate(counts.tolist()) if n}
    assert found == {0: 2, 1: 1, -2: 1, -149: 1, 127: 1}
    ends = signed_exponents(torch.tensor([1e-300, 1e300], dtype=torch.float64)).sum(0)
    assert ends[0] == 1 and ends[-1] == 1 and len(ends) == HIGHEST - LOWEST + 1
    assert torch.equal(signed_exponents(torch.cat([x, x[1:4]])).sum(0), counts + signed_exponents(x[1:4]).sum(0))


def test_exponents_are_counted_for_either_sign_and_merge_exactly():
    x = torch.tensor([0.0, -0.0, 1.0, -1.5, -2.0, float("-inf")])
    counts = signed_exponents(x)
    assert counts.shape == (2, HIGHEST - LOWEST + 1)
    assert [(side, LOWEST + k, int(counts[side, k])) for side, k in counts.nonzero().tolist()] == [
        (0, 0, 1),
        (0, 1, 1),
        (1, 0, 1),
    ]
    assert torch.equal(signed_exponents(torch.cat([x, x])), 2 * counts)
    scaled = reduce(x, None, further=[POWERS]).scaled(0.25).further[POWERS.name]
    assert torch.equal(scaled, signed_exponents(x * 0.25))


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_loses_is_what_torchs_cast_loses(name):
    generator = torch.Generator().manual_seed(1)
    exponent = torch.rand(200_000, generator=generator, dtype=torch.float64) * 300 - 150
    x = (
        2.0 ** exponent.round(decimals=0) * (1 + 0.99 * torch.rand(200_000, generator=generator, dtype=torch.float64))
    ).float()
    x = x[torch.isfinite(x) & (x != 0)]
    last = 2.0 ** (FORMATS[name].overflow - 1)
    # the last binade is cut where the format's largest number lies, not at a power of two
    x = x[(x < last) | (x >= 2 * last)]
    run = spp.trace(nn.Identity(), x, signals="activation", exponents=True)
    ((flushed, overflowed),) = lost_shares(run.exponents, name)[["flushed", "overflowed"]].to_numpy().tolist()
    cast = x.to(CASTS[name]).float()
    assert flushed == pytest.approx((cast == 0).float().mean().item(), abs=1e-4)
    largest = torch.finfo(CASTS[name]).max
    out_of_range = ~torch.isfinite(cast) | (
        (cast == largest) & (x >= 2 * last)
    )  # torch saturates e4m3: it has no infinity
    assert overflowed == pytest.approx(out_of_range.float().mean().item(), abs=1e-4)

"""Numbers at the ends of float64, on both backends: what cannot be squared is infinite or 0, and never NaN."""

import numpy as np
import pytest
import torch
from torch import nn

import spp
from spp.stats import backends
from spp.stats.backends import reduce
from spp.stats.extra import FOURTH
from spp.stats.statistics import STATISTICS, summarize

SCALES = (1e300, 1.7e307, 1e160, 1e-90, 1e-180, 1e-310)
NORMAL = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["native", "reference"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("SPP_KERNELS", "auto" if request.param == "native" else "off")
    backends.choose()
    yield
    monkeypatch.undo()
    backends.choose()


def numbers(parts) -> dict[str, float]:
    sums = reduce(parts[0], 1, further=(FOURTH,))
    for part in parts[1:]:
        sums = sums.merge(reduce(part, 1, further=(FOURTH,)))
    return {name: float(v[0]) for name, v in summarize([sums], [STATISTICS["kurtosis"]]).items()}


@pytest.mark.parametrize("split", [(8,), (3, 5), (0, 8), (8, 0)])
@pytest.mark.parametrize("scale", SCALES)
def test_squares_beyond_float64_are_infinite_or_zero(scale, split):
    x = NORMAL * scale
    found, plain = numbers(x.split(split)), numbers([NORMAL])
    wanted = {name: np.float64(plain[name]) * scale for name in ("min", "max", "abs_max")}
    with np.errstate(over="ignore"):
        wanted |= {name: np.float64(plain[name]) * scale * scale for name in ("var", "mean_square", "acsm", "acv")}
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-320), name
    assert found["dead_fraction"] == found["zero_fraction"] == found["nonfinite"] == 0
    assert found["kurtosis"] == pytest.approx(plain["kurtosis"], rel=1e-9)


@pytest.mark.parametrize(
    "others", [[torch.zeros(4, 4, dtype=torch.float64)], [NORMAL], [NORMAL * 1e-200, NORMAL * 1e200]]
)
@pytest.mark.parametrize("scale", SCALES)
def test_kurtosis_merges_over_all_sizes(others, scale):
    parts = [NORMAL * scale, *others]
    largest = max(float(part.abs().max()) for part in parts)
    values = np.concatenate([part.numpy().ravel() / largest for part in parts])
    values -= values.mean()
    expected = (values**4).mean() / (values**2).mean() ** 2
    assert numbers(parts)["kurtosis"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_a_trace_of_such_numbers(scale):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Flatten(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.mul_(scale)
    frame = spp.trace(model, [NORMAL[:3], NORMAL[3:5], NORMAL[5:]], moments=4).frame
    finite = frame[frame["nonfinite"] == 0]
    assert len(finite) and finite[["mean_square", "rms", "var", "acv", "kurtosis"]].notna().all().all()


class Negative(nn.Module):
    """Gives out views that are conjugated or negated by a bit alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conj, self.imag, self.head = nn.Linear(4, 4), nn.Identity(), nn.Identity(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.imag(self.conj(torch.complex(self.fc(x), x).conj()).imag))


def test_views_negated_by_a_bit():
    x = NORMAL.float()
    rows = spp.trace(Negative(), x).frame.query("signal == 'activation'").set_index("name")
    for name in ("mean", "min", "max"):
        assert rows.loc["imag", name] == pytest.approx(float(getattr(-x, name)()), rel=1e-6)
    z = torch.complex(x, x)
    for view in (z.conj().imag, z.conj().imag.T, z.conj().imag[::2], torch._neg_view(x)):
        assert view.is_neg()
        found = summarize([reduce(view, 1)])
        assert found["mean"][0] == pytest.approx(view.mean().item(), rel=1e-5)
        assert found["min"][0] == view.min().item()
    assert summarize([reduce(z.conj(), 1)])["mean"][0] == pytest.approx(z.abs().mean().item(), rel=1e-6)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x, None), lambda x: {"input": x}, lambda x: [x, x, x]])
def test_a_batch_without_values_is_refused(form):
    with pytest.raises(
        spp.InputError, match="batch: a batch that is traced has values; got a tensor on the meta device"
    ):
        spp.trace(nn.Linear(4, 2), form(torch.empty(2, 4, device="meta")))

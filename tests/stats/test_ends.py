"""Numbers at the ends of float64, on both backends: what cannot be squared is infinite or 0, and never NaN."""

import mpmath
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


def numbers(parts, further=(FOURTH,)) -> dict[str, float]:
    sums = reduce(parts[0], 1, further=further)
    for part in parts[1:]:
        sums = sums.merge(reduce(part, 1, further=further))
    asked = [STATISTICS["kurtosis"]] if further else []
    return {name: float(v[0]) for name, v in summarize([sums], asked).items()}


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


def exact(*parts: torch.Tensor) -> dict[str, float]:
    """Mean and spread to 50 digits, of numbers of any size."""
    with mpmath.workdps(50):
        values = [mpmath.mpf(value) for part in parts for value in part.flatten().tolist()]
        mean = mpmath.fsum(values) / len(values)
        var = mpmath.fsum((value - mean) ** 2 for value in values) / len(values)
        return {"mean": float(mean), "std": float(mpmath.sqrt(var)), "rms": float(mpmath.sqrt(var + mean**2))}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("form", [lambda x: x, lambda x: 1 + x / 1000, lambda x: x.T[::2], lambda x: x.abs()[:1, :1]])
@pytest.mark.parametrize("scale", (*SCALES, 1e-150, 1e-130, 1e130, 1e150))
def test_mean_and_spread_at_every_size(scale, form, whole):
    x = form(NORMAL) * scale
    for found in (summarize([reduce(x, 1, whole=whole)]), summarize([reduce(torch.complex(x, 0 * x), 1, whole=whole)])):
        for name, value in exact(x if found["min"][0] == x.min() else x.abs()).items():
            # a number of 1e-310 has 13 bits fewer
            assert found[name][0] == pytest.approx(value, rel=1e-12, abs=1e-323), name


@pytest.mark.parametrize(
    "parts",
    [
        [NORMAL * 1e-180, NORMAL * 1e-170, torch.zeros(4, 4, dtype=torch.float64)],
        [torch.zeros(4, 4, dtype=torch.float64), NORMAL * 1e-180, torch.empty(0, 4, dtype=torch.float64)],
        [NORMAL, NORMAL * 1e300, NORMAL * 1e-300],
        [NORMAL * 1e-180, NORMAL[:, :3] * 1e-180],
        [NORMAL[:, :3] * 1e300, torch.cat([NORMAL, NORMAL], 1), NORMAL * 1e299],
        [NORMAL * 1e-119, NORMAL * 1e-121, NORMAL * 1e-123],
        [NORMAL * 1e119, NORMAL * 1e121, NORMAL * 1e123],
    ],
)
def test_mean_and_spread_merge_at_every_size(parts):
    for order in (parts, parts[::-1]):
        found = numbers(order, further=())
        for name, value in exact(*parts).items():
            assert found[name] == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("scale", [1e-180, 1e300])
def test_frames_at_such_sizes(scale):
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    batches = [NORMAL[:3], NORMAL[3:5], NORMAL[5:]]
    with spp.watch(model, every=1) as watch:
        model(NORMAL).sum().backward()
    for run in (spp.trace(model, NORMAL), spp.trace(model, batches), watch):
        rows = run.frame.query("signal == 'weight'").set_index("name")
        for name, parameter in model.named_parameters():
            found = rows.loc[name.split(".")[0]].query("output == @name.split('.')[1]").iloc[0]
            for column, value in exact(parameter.detach()).items():
                assert found[column] == pytest.approx(value, rel=1e-12), (name, column)
        activation = run.frame.query("signal == 'activation' and name == '0'").iloc[0]
        for column, value in exact(model[0](NORMAL).detach()).items():
            assert activation[column] == pytest.approx(value, rel=1e-12), column


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


@pytest.mark.parametrize("where", ["input", "target", "buffer"])
def test_views_negated_by_a_bit_are_put_back(where):
    view, model = torch._neg_view(torch.randn(8, 4)), nn.Sequential(nn.Linear(4, 4))
    if where == "buffer":
        model.register_buffer("kept", view)
    before = view.clone()
    spp.trace(model, (torch.randn(8, 4), view) if where == "target" else view)
    assert view.is_neg() and torch.equal(view, before)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x, None), lambda x: {"input": x}, lambda x: [x, x, x]])
def test_a_batch_without_values_is_refused(form):
    with pytest.raises(
        spp.InputError, match="batch: a batch that is traced has values; got a tensor on the meta device"
    ):
        spp.trace(nn.Linear(4, 2), form(torch.empty(2, 4, device="meta")))

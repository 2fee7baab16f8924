"""One layer's values over signed powers of two."""

import numpy as np
import pytest
import torch
from torch import nn

import spp
from spp.errors import InputError
from spp.plot.kinds.distribution import RANGES, place
from spp.plot.panels import Bars, Scale
from spp.stats.extra import FORMATS


@pytest.fixture(scope="module")
def trace() -> spp.Trace:
    torch.manual_seed(0)
    x = torch.randn(64, 50) * 2.0 ** torch.randint(-20, 5, (64, 50))
    x[:, :5] = 0.0
    return spp.trace(nn.Sequential(nn.Identity(), nn.Tanh(), nn.ReLU()), x, exponents=True)


def _bars(trace: spp.Trace, layer: str, **options: object) -> Bars:
    panel = trace.plot("distribution", layer=layer, signals="activation", **options).panels[0]
    assert isinstance(panel, Bars)
    return panel


def test_bars_are_the_counts_of_the_table(trace: spp.Trace) -> None:
    figure = trace.plot("distribution", layer="0", style="paper")
    panel, drawn = figure.panels[0], figure.artists_[0]
    assert isinstance(panel, Bars)
    counted = trace.exponents.query("name == '0' and signal == 'activation'")
    share = dict(zip(zip(counted["sign"], counted["exponent"], strict=True), counted["count"] / 3200, strict=True))
    found = dict(zip(panel.labels, panel.share, strict=True))
    assert found["zero"] == pytest.approx(0.1)
    assert found["[2^0, 2^1)"] == pytest.approx(share[1, 0])
    assert found["-[2^-3, 2^-2)"] == pytest.approx(share[-1, -3])
    assert panel.share.sum() == pytest.approx(1.0)
    tops = {round(bar.get_x() + bar.get_width() / 2, 6): bar.get_y() + bar.get_height() for bar in drawn.bars}
    assert tops == pytest.approx({round(float(x), 6): y for x, y in zip(panel.x, panel.share, strict=True)})


def test_negative_powers_mirror_positive_ones(trace: spp.Trace) -> None:
    panel = _bars(trace, "0")
    at = dict(zip(panel.labels, panel.x, strict=True))
    assert at["[2^0, 2^1)"] == -at["-[2^0, 2^1)"] and at["zero"] == 0
    assert at["[2^1, 2^2)"] - at["[2^0, 2^1)"] == 1
    one_sided = _bars(trace, "2")
    assert (one_sided.x >= 0).all() and all(x >= 0 for x, _ in one_sided.marks)


def test_the_range_of_the_activation_is_shaded(trace: spp.Trace) -> None:
    figure = trace.plot("distribution", layer="1", signals="activation")
    panel, drawn = figure.panels[0], figure.artists_[0]
    assert isinstance(panel, Bars)
    ends = sorted(limit.x for limit in panel.limits if limit.kind == "range")
    edge = max(x for x, label in zip(panel.x, panel.labels, strict=True) if label != "zero") + 0.5
    assert "[2^0, 2^1)" in panel.labels  # tanh saturates at 1, which is counted from 1 on
    assert ends == [-edge, edge]
    assert len(drawn.shades) == 1
    assert "range of Tanh" in [text.get_text() for text in figure.figure_.legends[0].get_texts()]
    assert not [limit for limit in _bars(trace, "0").limits if limit.kind == "range"]


def test_a_range_whose_end_no_value_reaches_ends_there() -> None:
    x = torch.tensor([[0.1, -0.2, 0.3]])
    panel = _bars(spp.trace(nn.Sequential(nn.Sigmoid()), x, exponents=True), "0")
    (edge, text) = panel.marks[-1]
    low = int(text.strip("$").removeprefix("2^{").removesuffix("}")) - int(edge) + 1
    assert [limit.x for limit in panel.limits if limit.kind == "range"] == [0.0, place(1.0, low)]


def test_the_limits_of_number_formats_are_at_their_powers(trace: spp.Trace) -> None:
    panel = _bars(trace, "0")
    low = min(int(label.lstrip("-[").removeprefix("2^").partition(",")[0]) for label in panel.labels if label != "zero")
    found = {(limit.label, limit.x) for limit in panel.limits if limit.kind == "format"}
    low = min(low, FORMATS["float16"].flush)
    assert ("fp8-e4m3", place(2.0 ** FORMATS["fp8-e4m3"].flush, low)) in found
    assert ("fp8-e4m3", -place(2.0 ** FORMATS["fp8-e4m3"].flush, low)) in found
    assert not [label for label, _ in found if label == "bfloat16"]  # its ends are far from these values


@pytest.mark.parametrize("name", ["SiLU", "Mish", "GELU", "SELU", "Hardswish"])
def test_the_minima_of_the_smooth_activations(name: str) -> None:
    x = torch.linspace(-40, 2, 400_001, dtype=torch.float64)
    assert RANGES[name.lower()][0] == pytest.approx(getattr(nn, name)()(x).min().item(), abs=2e-7)


def test_shares_of_one_size_are_on_a_linear_axis() -> None:
    trace = spp.trace(nn.Sequential(nn.Identity()), torch.tensor([[1.0, 2.0, -1.0, -2.0]]), exponents=True)
    panel = _bars(trace, "0")
    assert panel.scale is Scale.LINEAR and panel.share[panel.share > 0].tolist() == [0.25] * 4


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


def test_values_that_are_all_zero_or_not_finite() -> None:
    model = nn.Sequential(nn.Identity(), nn.Hardtanh(5.0, 6.0), nn.Threshold(9.0, 0.0), Broken())
    trace = spp.trace(model, torch.ones(2, 3), exponents=True, signals=["activation"])
    assert _bars(trace, "2").share.tolist() == [1.0]
    assert _bars(trace, "2").labels == ("zero",)
    assert _bars(trace, "3").message == "activations of 3\nhave no finite value"
    figure = trace.plot("distribution", layer="1")
    assert figure.panels[1].message == "gradients of 1\nwere not measured"


def test_wrong_input_is_one_clear_line(trace: spp.Trace) -> None:
    with pytest.raises(
        InputError, match=r'^layer: the distribution figure draws one layer; got none\. Name it, as layer="'
    ):
        trace.plot("distribution")
    with pytest.raises(InputError, match=r"a layer that was measured; got 'act'\. There are 4, as '0'\."):
        trace.plot("distribution", layer="act")
    ffn = spp.trace(spp.models.build("ffn"), spp.data.gaussian(4, (3, 32, 32), seed=0), exponents=True)
    with pytest.raises(InputError, match=r"got 'layer3\.atc'\. Did you mean 'layer3\.act' or"):
        ffn.plot("distribution", layer="layer3.atc")
    with pytest.raises(InputError, match=r"got a trace without them\. Trace with exponents=True\."):
        spp.trace(nn.Sequential(nn.Identity()), torch.ones(1, 2)).plot("distribution", layer="0")
    assert np.isfinite(place(0.0, -3))

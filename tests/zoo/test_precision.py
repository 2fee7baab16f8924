"""Number formats, autocast, scaled losses and what overflows."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.harness import examine, square, x


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    trace = examine(lambda: small().to(dtype), lambda: x(4, 3, 6, 6, dtype=dtype))
    assert set(trace.frame["dtype"]) == {str(dtype).removeprefix("torch.")}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_around(dtype):
    trace = examine(small, lambda: x(4, 3, 6, 6), around=lambda: torch.autocast("cpu", dtype))
    assert set(trace.frame.query("type == 'Conv2d' and signal == 'activation'")["dtype"]) == {
        str(dtype).removeprefix("torch.")
    }
    assert set(trace.frame.query("signal == 'weight'")["dtype"]) == {"float32"}


def test_autocast_inside_and_the_weight_cache():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                y = self.fc(self.fc(x))  # the second call takes the weight cast by the first from autocast's cache
            return self.head(y.float())

    trace = examine(Net, lambda: x(5, 6))
    assert trace.frame.query("name == 'fc' and signal == 'activation'")["dtype"].tolist() == ["bfloat16"] * 2


def test_half_precision_is_widened_before_it_is_squared():
    def build() -> nn.Module:
        model = nn.Linear(64, 64)
        nn.init.constant_(model.weight, 100.0)
        return model.half()

    trace = examine(build, lambda: x(4, 64, dtype=torch.float16).abs(), rows=False, interrupted=False)
    row = trace.frame.query("signal == 'activation'").iloc[0]
    assert row["abs_max"] > 256 and row["mean_square"] > 65504 and row["nonfinite"] == 0


def test_an_overflowing_scaled_loss_is_counted_and_a_fitting_one_divided_out():
    model, batch = small().half(), x(4, 3, 6, 6, dtype=torch.float16)
    plain = spp.trace(model, batch, loss=lambda output, target: output.float().square().mean()).frame
    fits, overflows = (
        spp.trace(model, batch, loss=lambda output, target: output.float().square().mean(), loss_scale=s).frame
        for s in (2.0**6, 2.0**24)
    )
    gradient = plain["signal"] == "gradient"
    np.testing.assert_allclose(plain.loc[gradient, "rms"], fits.loc[gradient, "rms"], rtol=0.05)
    assert (overflows.loc[gradient, "nonfinite"] > 0).any() and (fits["nonfinite"] == 0).all()
    assert (overflows.loc[~gradient & (overflows["signal"] == "activation"), "nonfinite"] == 0).all()


def test_nan_and_infinity():
    def batch() -> Tensor:
        given = x(4, 3, 6, 6)
        given[0, 0, 0, 0], given[1, 0, 0, 0] = float("nan"), float("inf")
        return given

    trace = examine(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), batch)
    assert trace.frame.query("name == '0' and signal == 'activation'")["nonfinite"].item() == 8


def test_a_network_of_nothing_but_nan():
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
        nn.init.constant_(model[0].weight, float("nan"))
        return model

    trace = examine(build, lambda: x(5, 6))
    row = trace.frame.query("name == '0' and signal == 'activation'").iloc[0]
    assert row["nonfinite"] == 20 and np.isnan(row["rms"])


def test_channels_last():
    def batch() -> Tensor:
        return x(4, 3, 6, 6).to(memory_format=torch.channels_last)

    trace = examine(lambda: small().to(memory_format=torch.channels_last), batch)
    assert trace.frame.query("name == '0' and signal == 'weight' and output == 'weight'")["channels"].item() == 4


@pytest.mark.filterwarnings("ignore:torch.ao.quantization:DeprecationWarning", "ignore:torch.quantize:UserWarning")
def test_quantized_modules():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantize, self.back = Quantize(), Dequantize()

        def forward(self, x: Tensor) -> Tensor:
            return self.back(self.quantize(x))

    class Quantize(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)

    class Dequantize(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.dequantize()

    trace = spp.trace(Net(), x(5, 6), loss=square)
    rows = trace.frame.set_index("name")
    assert rows.loc["quantize", "mean_square"] == pytest.approx(rows.loc["back", "mean_square"], rel=1e-6)
    assert rows.loc["quantize", "dtype"] == "qint8"


def test_default_device_and_other_modes_see_none_of_the_reductions():
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    # in no attribute: a trace puts back what the model's objects hold
    seen: dict[object, list[str]] = {}

    class Functions(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.setdefault(self, []).append(getattr(function, "__name__", str(function)))
            return function(*args, **(kwargs or {}))

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.setdefault(self, []).append(str(function))
            return function(*args, **(kwargs or {}))

    class Net(nn.Module):
        def __init__(self, mode) -> None:
            super().__init__()
            self.fc, self.act, self.mode = nn.Linear(6, 6), nn.Tanh(), mode

        def forward(self, x: Tensor) -> Tensor:
            with self.mode:
                return self.act(self.fc(x)) + x

    for kind in (Functions, Operations):
        plain, traced = kind(), kind()
        Net(plain)(x(5, 6))
        trace = spp.trace(Net(traced), x(5, 6), loss=square)
        assert seen[traced] == seen[plain]
        assert len(trace.blocks) == 1
    with torch.device("cpu"):
        assert spp.trace(nn.Linear(6, 6), x(5, 6), loss=square).unmeasured.empty

"""Very deep, very nested, empty and single."""

import sys

import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.harness import examine, square, x


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        nn.init.normal_(self.fc.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(x)


def test_more_layers_than_python_recurses():
    trace = examine(
        lambda: nn.Sequential(*[nn.Linear(4, 4) if i % 2 else nn.Tanh() for i in range(1200)]),
        lambda: x(3, 4),
        interrupted=False,
    )
    assert trace.frame["depth"].max() == 1200


def test_a_thousand_residual_blocks():
    model = nn.Sequential(*[Residual() for _ in range(1000)])
    trace = spp.trace(model, x(3, 4), loss=square, signals=["activation"])
    assert trace.blocks["block"].tolist() == [str(i) for i in range(1000)]
    assert not trace.blocks["transition"].any()


@pytest.mark.parametrize("levels", [60, 150])
def test_deeply_nested(levels):
    def build() -> nn.Module:
        model: nn.Module = nn.Linear(4, 4)
        for _ in range(levels):
            model = nn.Sequential(model)
        return model

    build()(x(3, 4))
    limit = sys.getrecursionlimit()
    trace = examine(build, lambda: x(3, 4), interrupted=levels == 60)
    assert len(trace.frame.query("signal == 'gradient'")) == levels + 1 and sys.getrecursionlimit() == limit


def test_an_empty_batch():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    trace = spp.trace(model, x(0, 3, 6, 6), loss=lambda output, target: output.sum())
    activations = trace.frame.query("signal == 'activation'")
    assert (activations["numel"] == 0).all() and activations["mean_square"].isna().all()
    assert trace.frame.query("signal == 'weight_gradient'")["abs_max"].eq(0).all()
    examine(lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU()), lambda: x(0, 6), loss=lambda o, t: o.sum())


def test_no_channels_and_no_features():
    examine(
        lambda: nn.Sequential(nn.Identity(), nn.Tanh()), lambda: x(5, 0).requires_grad_(), loss=lambda o, t: o.sum()
    )


def test_a_batch_of_one():
    trace = examine(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), lambda: x(1, 3, 6, 6)
    )
    assert trace.run["batch_size"] == 1


def test_scalars():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.fc = nn.Parameter(torch.tensor(2.0)), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return (self.fc(x) * self.scale).sum()

    trace = examine(Net, lambda: x(5, 6))
    rows = trace.frame.query("name == ''")
    assert rows["channels"].eq(1).all() and rows["numel"].eq(1).all() and len(rows) == 4


def test_a_model_without_parameters_or_modules():
    examine(nn.Sequential, lambda: x(5, 6).requires_grad_())
    examine(nn.Tanh, lambda: x(5, 6), interrupted=False)


def test_a_parameter_is_the_output():
    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4))

        def forward(self) -> Tensor:
            return self.weight

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gives = Gives()

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.gives()

    trace = examine(Net, lambda: x(5, 6))
    rows = trace.frame.query("name == 'gives'").set_index("signal")
    assert rows.loc["gradient", "rms"] == pytest.approx(rows.loc["weight_gradient", "rms"])


def test_thousands_of_outputs():
    class Many(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return list(x.unbind(0))

    trace = spp.trace(Many(), x(2000, 3).requires_grad_())
    assert len(trace.frame) == 4000

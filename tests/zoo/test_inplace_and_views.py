"""Operations that write into what a module gave out, and outputs that share memory with others."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.harness import examine, square, x


class Then(nn.Module):
    """A convolution with a norm, and something written into what they gave out."""

    def __init__(self, change) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.change(self.conv(x), self.norm))


def images() -> Tensor:
    return x(4, 3, 6, 6)


def _slice(y: Tensor, norm: nn.Module) -> Tensor:
    y = norm(y)
    y[:, :2] = y[:, 2:] * 3
    return y


def _chunks(y: Tensor, norm: nn.Module) -> Tensor:
    a, b = norm(y).chunk(2, dim=1)
    return torch.cat([a.relu(), b * 2], dim=1)


def _written_view(y: Tensor, norm: nn.Module) -> Tensor:
    y = norm(y)
    y.view(-1)[:5] += 1
    return y


def _masked(y: Tensor, norm: nn.Module) -> Tensor:
    y = norm(y)
    y[y > 0.5] = 0.5
    return y


def _copied(y: Tensor, norm: nn.Module) -> Tensor:
    y = norm(y)
    out = torch.empty_like(y)
    out.copy_(y)
    return out.clamp_(min=-1)


CHANGES = {
    "in-place relu after a norm": lambda y, norm: nn.functional.relu_(norm(y)),
    "in-place add and relu": lambda y, norm: norm(y).add_(y).relu_(),
    "add and in-place relu": lambda y, norm: (norm(y) + y).relu_(),
    "iadd": lambda y, norm: norm(y).__iadd__(y),
    "scaled in place twice": lambda y, norm: norm(y).mul_(2).mul_(0.5),
    "slice assignment": _slice,
    "chunks": _chunks,
    "a view written to": _written_view,
    "masked assignment": _masked,
    "copied into": _copied,
    "transposed": lambda y, norm: norm(y).transpose(2, 3),
    "expanded": lambda y, norm: norm(y).mean((2, 3), keepdim=True).expand(-1, -1, 6, 6),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_is_written_later_is_not_what_was_given_out(change):
    trace = examine(lambda: Then(change), images)
    assert set(trace.frame.query("signal == 'gradient'")["name"]) == {"", "conv", "norm", "head"}


def test_inplace_relu_modules_after_batch_norm_and_after_an_in_place_sum():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm1, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
            self.conv2, self.norm2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
            y += x
            return self.relu(y)

    trace = examine(lambda: nn.Sequential(Block(), Block()), images)
    assert len(trace.blocks) == 2 and trace.unmeasured.empty
    relu = trace.frame.query("name == '0.relu' and signal == 'activation'")
    assert relu["call"].tolist() == [0, 1] and (relu["min"] == 0).all()
    norm = trace.frame.query("name == '0.norm1' and signal == 'activation'")
    assert norm["min"].item() < 0  # values before the in-place ReLU, as batch norm gave them out


class Halves(nn.Module):
    """Gives out two views of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.fc(x).chunk(2, dim=1)


def test_views_given_out_are_rows_of_their_own():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halves, self.head = Halves(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.halves(x)
            return self.head(a * b.sigmoid())

    trace = examine(Net, lambda: x(5, 6))
    assert set(trace.frame.query("name == 'halves'")["output"]) == {"0", "1"}
    assert trace.unmeasured.empty


def test_a_view_that_is_written_to_later_loses_its_gradient_and_says_so():
    """Autograd gives such a view a new place in its graph, so the hook cannot fire: the row is left out, never zero."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.flat = nn.Linear(6, 8), nn.Flatten(0)

        def forward(self, x: Tensor) -> Tensor:
            y = self.base(x)
            z = self.flat(y)  # a view
            z.mul_(2)
            return z

    trace = examine(Net, lambda: x(5, 6))
    missing = trace.unmeasured.query("name == 'flat' and signal == 'gradient'")
    assert len(missing) == 1 and "written to in place later" in missing["reason"].item()
    assert trace.frame.query("name == 'flat' and signal == 'gradient'").empty


def test_a_hook_on_a_view_whose_slice_was_written_does_not_crash_the_process():
    """``y = a.view(8); y[:1] += 1; y.register_hook(f)`` ends torch 2.13 unless ``y.grad_fn`` is read in between."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x).view(-1)
            y[:1] += 1
            return y

    trace = examine(Net, lambda: x(5, 6))
    assert len(trace.frame.query("name == '' and signal == 'gradient'")) == 1


def test_the_output_is_the_very_object_that_the_module_gave_out():
    seen = {}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = Keeps()

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            seen["same"] = y is seen.pop("given")
            return y.relu_()

    class Keeps(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            seen["given"] = super().forward(x)
            return seen["given"]

    examine(Net, lambda: x(5, 6))
    assert seen["same"] is True


def test_an_input_changed_in_place_is_put_back():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(-0.0)  # even the signs of zero
            return self.fc(x + 1)

    examine(Net, lambda: torch.zeros(5, 6))


def test_the_values_are_those_of_the_moment():
    """One tensor given out by three modules, changed in between: three different rows."""

    class Add(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1)

    model = nn.Sequential(nn.Linear(6, 4), Add(), Add())
    frame = spp.trace(model, x(5, 6), loss=square).frame.query("leaf and signal == 'activation'")
    np.testing.assert_allclose(np.diff(frame["mean"]), 1, rtol=1e-5)
    examine(lambda: nn.Sequential(nn.Linear(6, 4), Add(), Add()), lambda: x(5, 6))

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
    rows = trace.frame.query("signal == 'gradient' and type != 'function'")
    assert set(rows["name"]) == {"", "conv", "norm", "head"}


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


class Flattened(nn.Module):
    """Writes into a view that a module gave out, or does the same out of place."""

    def __init__(self, in_place: bool, beside: bool = False) -> None:
        super().__init__()
        self.base, self.flat, self.in_place, self.beside = nn.Linear(6, 8), nn.Flatten(0), in_place, beside

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        more = y * 3 if self.beside else None
        z = self.flat(y)  # a view
        z = z.mul_(2) if self.in_place else z * 2
        return z if more is None else z + more.flatten()


# of several dimensions a Linear gives out a view itself, and what is flattened is a view of a view
SHAPES = [(5, 6), (2, 5, 6), (2, 3, 5, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_that_is_written_to_later_has_the_gradient_of_its_base(shape):
    """Autograd gives such a view a new place in its graph, so that a hook on it cannot fire."""
    trace = examine(lambda: Flattened(True), lambda: x(*shape), oracle=lambda: Flattened(False))
    assert len(trace.frame.query("name == 'flat' and signal == 'gradient'")) == 1 and trace.unmeasured.empty


@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_that_is_written_to_later_whose_base_went_elsewhere_too_says_so(shape):
    """What reaches the base is then more than what reaches the view: the row is left out, never wrong."""
    trace = examine(lambda: Flattened(True, True), lambda: x(*shape), oracle=lambda: Flattened(False, True))
    missing = trace.unmeasured.query("name == 'flat' and signal == 'gradient'")
    assert len(missing) == 1 and "written to in place later" in missing["reason"].item()
    assert trace.frame.query("name == 'flat' and signal == 'gradient'").empty


class First(nn.Module):
    """The first output of what gives several."""

    def __init__(self, module: nn.Module, times: int) -> None:
        super().__init__()
        self.module, self.times = module, times

    def forward(self, x: Tensor) -> Tensor:
        return self.module(*[x] * self.times)[0]


VIEWS = {
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4), (3, 4, 7)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), (2, 4, 5, 5)),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(4), (2, 4, 3, 3, 3)),
    "Linear": (lambda: nn.Linear(4, 6), (2, 5, 4)),
    "Linear of images": (lambda: nn.Linear(4, 6), (2, 3, 3, 4)),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), (2, 3, 12)),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), (2, 3, 12)),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 3, 12)),
    "LSTM": (lambda: First(nn.LSTM(4, 6, batch_first=True), 1), (2, 5, 4)),
    "MultiheadAttention": (lambda: First(nn.MultiheadAttention(4, 2, batch_first=True), 3), (2, 5, 4)),
    "Unflatten": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))), (5, 4)),
    "of a view": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Flatten(1), nn.Unflatten(1, (6, 5))), (2, 5, 4)),
}
WRITES = {
    "relu": lambda y, in_place: y.relu_() if in_place else y.relu(),
    "a sum and a leaky relu": lambda y, in_place: (
        nn.functional.leaky_relu_(y.add_(1)) if in_place else nn.functional.leaky_relu(y + 1)
    ),
    "used before": lambda y, in_place: y * 3 + (y.tanh() if not in_place else y.clone().tanh_()),
}


class Written(nn.Module):
    """What a module gives out is a view, and is written into."""

    def __init__(self, inner, write, in_place: bool) -> None:
        super().__init__()
        self.first, self.inner, self.write, self.in_place = nn.Identity(), inner(), write, in_place
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.inner(x * self.scale), self.in_place).square()


def _gradients(run) -> dict[tuple[str, str], tuple[float, float]]:
    rows = run.frame.query("signal == 'gradient' and name != ''")
    keys = zip(rows["name"], rows["output"], strict=True)
    return dict(zip(keys, zip(rows["mean_square"], rows["acsm"].fillna(0), strict=True), strict=True))


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize(("inner", "shape"), VIEWS.values(), ids=VIEWS.keys())
def test_views_before_an_in_place_activation_have_the_gradients_of_the_same_out_of_place(inner, shape, write):
    found = []
    for in_place in (True, False):
        torch.manual_seed(0)
        model, batch = Written(inner, write, in_place).double(), x(*shape).double()
        trace = spp.trace(model, batch, loss=square)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with spp.watch(model, optimizer, every=1) as watch:
            square(model(batch), None).backward()
            optimizer.step()
        found += [_gradients(trace), _gradients(watch)]
        assert not any(t._backward_hooks for t in model.parameters())
    assert {name for name, _ in found[0]} == {n for n, _ in found[2]} >= {"inner"}
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        for key, numbers in found[0].items():
            np.testing.assert_allclose(numbers, other[key], rtol=1e-9, err_msg=str(key))


def test_a_view_that_was_used_before_it_is_written_to_has_all_of_its_gradient():
    """The hook on the view sees what came before the write alone."""

    class Net(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.norm, self.in_place, self.scale = nn.InstanceNorm2d(3), in_place, nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x * self.scale)
            before = y.mean((2, 3), keepdim=True) + y.sigmoid() * 0 + y * 2
            return before + (y.relu_() if self.in_place else y.relu()) * 3

    gradients = [
        _gradients(spp.trace(Net(in_place).double(), x(2, 3, 4, 4).double(), loss=square))[("norm", "")]
        for in_place in (True, False)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-9)


class Part(nn.Module):
    """Gives out a view by ``cut``."""

    def __init__(self, cut) -> None:
        super().__init__()
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        return self.cut(x)


class UsedTwice(nn.Module):
    """Uses a view, writes into it, and uses it again; its base may go elsewhere too."""

    def __init__(self, cut, beside: bool, in_place: bool) -> None:
        super().__init__()
        self.fc, self.part, self.beside, self.in_place = nn.Linear(4, 6), Part(cut), beside, in_place

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.fc(x)
        beside = [y * 2] * self.beside
        part = self.part(y)
        before = part + 1
        return [before * 2, (part.relu_() if self.in_place else part.relu()) * 3, *beside]


@pytest.mark.parametrize(
    ("cut", "shape", "beside"),
    [
        (lambda y: y[:, :3], (5, 4), False),
        (lambda y: y.unflatten(-1, (2, 3)).select(-2, 1), (2, 5, 4), False),
        (lambda y: y.transpose(1, 2), (2, 5, 4), True),
        (lambda y: y.flatten(), (2, 5, 4), True),
    ],
    ids=["a slice", "a head", "a transposed view beside its base", "a flat view beside its base"],
)
def test_a_view_used_before_and_after_it_is_written_into_has_no_part_of_its_gradient(cut, shape, beside):
    """The hook on the view sees what came before the write alone, and the base knows more than the view."""
    runs = []
    for in_place in (True, False):
        torch.manual_seed(0)
        runs.append(spp.trace(UsedTwice(cut, beside, in_place).double(), x(*shape).double(), loss=square))
    written, twin = map(_gradients, runs)
    assert twin.keys() - written.keys() == {("part", "")}
    np.testing.assert_allclose(written["fc", ""], twin["fc", ""], rtol=1e-9)
    reason = runs[0].unmeasured.query("name == 'part' and signal == 'gradient'")["reason"].item()
    assert "written to in place later" in reason


def test_a_base_that_a_module_uses_elsewhere_too_is_not_taken_for_its_view():
    class Penalized(nn.Module):
        """Keeps a penalty of what it gives out a view of."""

        def __init__(self) -> None:
            super().__init__()
            self.fc, self.penalty = nn.Linear(6, 4), None

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            self.penalty = (y * 3).square().mean()
            return y.view(2, -1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Penalized()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(x).relu_().mean() + self.part.penalty

    trace = spp.trace(Net(), x(4, 6), loss=lambda out, _: out)
    assert trace.frame.query("name == 'part' and signal == 'gradient'").empty
    assert "written to in place" in trace.unmeasured.query("name == 'part'")["reason"].item()


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

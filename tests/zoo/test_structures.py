"""Outputs of every form."""

from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import spp
from tests.zoo.harness import examine, square, x

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Record:
    hidden: Tensor
    aux: Any = None
    note: str = "a text"


class Gives(nn.Module):
    """An inner module that gives its two tensors in some form, and an outer one that takes them out again."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.inner, self.head = Inner(wrap), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        return self.head(self.inner.last[0] * self.inner.last[1])


class Inner(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.a, self.b, self.wrap, self.last = nn.Linear(6, 6), nn.Linear(6, 6), wrap, None

    def forward(self, x: Tensor) -> Any:
        self.last = self.a(x), self.b(x)
        return self.wrap(*self.last)


FORMS = {
    "tuple": (lambda a, b: (a, b), {"0", "1"}),
    "list": (lambda a, b: [a, b], {"0", "1"}),
    "dict": (lambda a, b: {"a": a, "b": b}, {"a", "b"}),
    "ordered dict": (lambda a, b: OrderedDict(a=a, b=b), {"a", "b"}),
    "named tuple": (Pair, {"left", "right"}),
    "dataclass": (Record, {"hidden", "aux"}),
    "a part missing": (lambda a, b: (a * b, None), {"0"}),
    "nested": (lambda a, b: {"x": [a, {"y": (b,)}], "n": 3, "t": "text"}, {"x.0", "x.1.y.0"}),
    "dataclass in dataclass": (lambda a, b: Record(a, Record(b)), {"hidden", "aux.hidden"}),
    "the same twice": (lambda a, b: (a, a, b), {"0", "1", "2"}),
    "queue": (lambda a, b: deque([a, [b]], maxlen=4), {"0", "1.0"}),
    "values of a dict": (lambda a, b: OrderedDict(a=a, b=b).values(), {"a", "b"}),
    "items of a dict": (lambda a, b: {"a": a, "b": b}.items(), {"a", "b"}),
    "set of one": (lambda a, b: {a * b}, {"0"}),
    "frozen set of one": (lambda a, b: [frozenset([a * b]), {1, 2}, {"a": 1}.keys()], {"0.0"}),
    "a number that holds": (lambda a, b: _holding(Number(3), a * b), {"held"}),
    "a text that holds": (lambda a, b: (_holding(Text("t"), a * b), b), {"0.held", "1"}),
    "60 levels": (lambda a, b: _nested(a + b, 60), {".".join("0" * 60)}),
}


class Number(int):
    """What a quantizer gives out: an integer, with its tensor at hand."""


class Text(str):
    """The same as text."""


def _holding(value: Any, held: Tensor) -> Any:
    value.held = held
    return value


def _nested(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(("wrap", "paths"), FORMS.values(), ids=FORMS.keys())
def test_every_tensor_inside_has_its_path(wrap, paths):
    trace = examine(lambda: Gives(wrap), lambda: x(5, 6))
    assert set(trace.frame.query("name == 'inner' and signal == 'activation'")["output"]) == paths


@pytest.mark.parametrize(
    "build", [lambda: Inner(Record), lambda: Inner(lambda a, b: {"a": a, "b": [b, None]}), lambda: Inner(Pair)]
)
def test_the_root_may_give_any_form_and_the_probe_reaches_it(build):
    examine(build, lambda: x(5, 6))
    trace = spp.trace(build(), x(5, 6))
    assert trace.run["loss"] == "probe" and set(trace.frame["signal"]) == {
        *("activation", "gradient", "weight", "weight_gradient")
    }
    gradients = trace.frame.query("signal == 'gradient' and name == ''")
    assert gradients["mean_square"].between(0.4, 2.5).all() and gradients["mean_square"].is_unique


def test_none_and_no_tensor_at_all():
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nothing, self.fc = Nothing(), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.nothing(x)
            return self.fc(x)

    trace = examine(Net, lambda: x(5, 6))
    assert "nothing" not in set(trace.frame["name"]) and trace.modules.set_index("name").loc["nothing", "calls"] == 1


def test_an_opaque_output_is_a_hole():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = Inner(lambda a, b: SimpleNamespace(a=a, b=b)), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x).a)

    trace = spp.trace(Net(), x(5, 6), loss=square)
    assert trace.unmeasured.query("name == 'inner'")["reason"].tolist() == ["output of type SimpleNamespace is opaque"]
    assert len(trace.frame.query("name == 'inner.a' and signal == 'activation'")) == 1


def test_a_set_of_several_has_no_names_for_them():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = Inner(lambda a, b: {a, b}), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(sum(self.inner(x)))

    trace = spp.trace(Net(), x(5, 6), loss=square)
    reasons = trace.unmeasured.query("name == 'inner'")["reason"].tolist()
    assert reasons == ["output of type set has no order that would name its items"]


class Ragged(nn.Module):
    """A linear layer, a skip, a ReLU, on rows that come as one tensor or as a nested one of two parts."""

    def __init__(self, nest) -> None:
        super().__init__()
        self.fc, self.out, self.act, self.keep, self.nest = (
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.ReLU(),
            nn.Identity(),
            nest,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.nest(x)
        x = self.keep(x + self.out(self.act(self.fc(x))))
        return x.values().view(-1, 6) if x.is_nested else x


def jagged(x: Tensor) -> Tensor:
    return torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 2, 5]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("nest", [jagged, lambda x: torch.nested.as_nested_tensor([x[:2], x[2:]])])
@pytest.mark.parametrize("watched", [False, True])
def test_nested_tensors_have_the_rows_of_all_their_values(nest, watched):
    def rows(nest):
        torch.manual_seed(4)
        model = Ragged(nest)
        if not watched:
            return spp.trace(model, x(5, 6), loss=square)
        with spp.watch(model, every=1) as watch:
            square(model(x(5, 6))).backward()
        return watch

    nested, plain = rows(nest), rows(lambda x: x)
    numbers = ["name", "output", "signal", "shape", "channels", "numel", "acsm", "acv", "mean_square"]
    a, b = (run.frame[numbers].set_index(numbers[:3]) for run in (nested, plain))
    a = a.drop(("", "", "activation")).drop(("", "", "gradient"))
    pd.testing.assert_frame_equal(a, b.loc[a.index], rtol=1e-6)
    assert len(a) == 16 and nested.unmeasured.empty


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_jagged_batch_is_left_as_it_was():
    given, model = jagged(x(5, 6)), Ragged(lambda x: x)
    before = given.values().clone()
    trace = spp.trace(model, given, loss=square)
    assert (
        len(trace.frame.query("name == 'keep'")) == 2 and torch.equal(given.values(), before) and given.grad_fn is None
    )
    transposed = spp.trace(nn.Sequential(nn.Identity()), given.detach().transpose(1, 2).requires_grad_())
    assert transposed.frame["shape"].tolist() == ["5x6"] * 4 and transposed.info["loss"] == "probe"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_strided_nested_batch_has_no_shape_and_is_measured_and_left_as_it_was():
    given = torch.nested.nested_tensor([x(2, 6), x(3, 6, seed=2)])
    before = [part.clone() for part in given.unbind()]
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 4))
    rows = spp.trace(model, given).frame.query("signal == 'activation'").set_index("name")
    assert rows.loc["0", "mean_square"] == pytest.approx(torch.cat(before).relu().square().mean().item(), rel=1e-6)
    assert all(torch.equal(*pair) for pair in zip(given.unbind(), before, strict=True))
    for wrong, loss in ((nn.Linear(7, 4), None), (model, lambda out, target: 1 / 0)):
        with pytest.raises(spp.SppError, match=r"got float32 tensor of shape \?"):
            spp.trace(wrong, given, loss=loss)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("nest", "reason"),
    [
        (
            lambda x: torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 2, 5]), torch.tensor([1, 3])),
            "a jagged tensor with lengths of its own has values between its rows",
        ),
        (
            lambda x: torch.nested.as_nested_tensor([x[:2], x[2:, :3]]),
            "the parts of a nested tensor differ in their last axis, or lie apart",
        ),
        (
            lambda x: torch.nested.as_nested_tensor([x[:2], x[2:]]).transpose(1, 2),
            "the parts of a nested tensor differ in their last axis, or lie apart",
        ),
    ],
)
def test_a_nested_tensor_whose_values_are_no_rows_says_why(nest, reason):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keep, self.fc = nn.Identity(), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.keep(nest(x))
            return self.fc(x)

    trace = spp.trace(Net(), x(5, 6), loss=square)
    assert trace.unmeasured["reason"].tolist() == [reason]


def test_an_output_that_contains_itself():
    def cyclic(a: Tensor, b: Tensor) -> list[Any]:
        out: list[Any] = [a, b]
        out.append(out)
        return out

    trace = spp.trace(Gives(cyclic), x(5, 6), loss=square)
    assert set(trace.frame.query("name == 'inner'")["output"]) == {"0", "1"}


def test_integers_and_booleans_are_holes():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.fc = Top(), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.top(x)[1].unsqueeze(1)

    class Top(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.argmax(1), x.sum(1) > 0

    trace = examine(Net, lambda: x(5, 6))
    assert trace.unmeasured["reason"].tolist() == ["integer output", "boolean output"]


def test_complex_outputs_count_by_magnitude():
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.spectrum = nn.Linear(6, 6), Spectrum()

        def forward(self, x: Tensor) -> Tensor:
            return self.spectrum(self.fc(x)).abs()

    trace = examine(Net, lambda: x(5, 6))
    assert trace.frame.query("name == 'spectrum'")["dtype"].tolist() == ["complex64"] * 2


def test_packed_sequences_in_and_out():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, packed: PackedSequence) -> Tensor:
            out, _ = self.lstm(packed)
            return self.head(pad_packed_sequence(out, batch_first=True)[0])

    def batch() -> PackedSequence:
        return pack_padded_sequence(x(3, 4, 6), [4, 2, 1], batch_first=True)

    trace = examine(Net, batch)
    rows = trace.frame.query("name == 'lstm' and signal == 'activation'")
    assert set(rows["output"]) == {"0.data", "1.0", "1.1"}
    assert rows.set_index("output").loc["0.data", "shape"] == "7x5"


def test_the_batches_own_containers_are_put_back():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, parts: dict[str, Any]) -> Tensor:
            parts["list"].append(1)
            return self.fc(parts.pop("x"))

    given = {"x": x(5, 6), "list": []}
    spp.trace(Net(), ((given,), None), loss=square)
    assert list(given) == ["x", "list"] and given["list"] == []


def test_a_batch_is_seen_with_its_flags_as_they_were():
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            x.requires_grad_()
            x.register_hook(lambda g: g)
            return torch.autograd.grad(self.fc(x).square().sum(), x, create_graph=True)[0]

    examine(Forces, lambda: x(5, 6))

"""Outputs of every form."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

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
    "60 levels": (lambda a, b: _nested(a + b, 60), {".".join("0" * 60)}),
}


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

"""Functions that are layers have the rows that the modules would have, and nothing of torch stays replaced."""

import functools
import threading

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, tanh
from torch.nn.functional import gelu, max_pool2d
from torch.utils.checkpoint import checkpoint

import spp
from spp.capture.functions import functions
from spp.layers import FUNCTIONS, layer_of, twin_of


class Block(nn.Module):
    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.again = F.relu if functional else None
        if not functional:
            self.relu, self.dropout = nn.ReLU(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.again is None:
            return self.relu(x + self.dropout(self.conv2(self.relu(self.conv1(x)))))
        return F.relu(x + F.dropout(self.conv2(self.again(self.conv1(x))), 0.5, self.training), inplace=True)


class Network(nn.Module):
    """The same network of functions, or of the modules that do the same, under the names that the functions have."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.functional = functional
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.one, self.two, self.head = Block(functional), Block(functional), nn.Linear(8, 10)
        if not functional:
            self.max_pool2d, self.adaptive_avg_pool2d = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
            self.tanh, self.gelu, self.sigmoid = nn.Tanh(), nn.GELU(), nn.Sigmoid()
            self.layer_norm, self.softmax = nn.LayerNorm(8, elementwise_affine=False), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        if self.functional:
            x = self.two(self.one(max_pool2d(x, 2)))
            x = gelu(tanh(F.adaptive_avg_pool2d(x, 1).flatten(1))).sigmoid()
            return torch.softmax(self.head(F.layer_norm(x, (8,))), dim=-1)
        x = self.two(self.one(self.max_pool2d(x)))
        x = self.sigmoid(self.gelu(self.tanh(self.adaptive_avg_pool2d(x).flatten(1))))
        return self.softmax(self.head(self.layer_norm(x)))


def made(functional: bool) -> Network:
    torch.manual_seed(0)
    return Network(functional)


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def untyped(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="type")


@pytest.fixture(autouse=True)
def nothing_stays() -> None:
    def state() -> list[object]:
        return [(getattr(f, "__code__", None), f) for *_, f in functions()] + [tanh, gelu, max_pool2d]

    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("train", [True, False])
def test_a_network_of_functions_has_the_rows_of_its_twin(train, batches):
    def measured(functional: bool) -> spp.Run:
        batch = images() if batches == 1 else iter([images(), images(1)])
        torch.manual_seed(5)
        return spp.trace(made(functional).train(train), batch)

    one, two = measured(True), measured(False)
    pd.testing.assert_frame_equal(untyped(one.frame), untyped(two.frame), check_exact=True)
    pd.testing.assert_frame_equal(one.blocks, two.blocks, check_exact=True)
    wiring = [run.modules.set_index("name")[["kind", "leaf", "depth", "calls", "inputs"]] for run in (one, two)]
    # what the arguments of a call say, as eps, is not known of a function
    pd.testing.assert_frame_equal(wiring[0].sort_index(), wiring[1].sort_index())
    assert one.unmeasured.empty
    assert [f.message for f in one.findings] == [f.message for f in two.findings]
    assert set(one.frame.loc[one.frame["type"] == "function", "name"]) == {
        *("max_pool2d", "one.relu", "one.dropout", "two.relu", "two.dropout", "adaptive_avg_pool2d"),
        *("tanh", "gelu", "sigmoid", "layer_norm", "softmax"),
    }


def test_theory_predicts_the_rows_of_functions_as_those_of_the_twin():
    one, two = (spp.theory.predict(made(functional).eval(), images()) for functional in (True, False))
    pd.testing.assert_frame_equal(untyped(one), untyped(two))


def test_predictions_of_two_threads_do_not_hear_each_other():
    started, go_on = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            started.set()
            go_on.wait()
            return F.relu(self.lin(x))

    found: list[pd.DataFrame] = []
    thread = threading.Thread(target=lambda: found.append(spp.theory.predict(Waits(), (3, 4))))
    thread.start()
    started.wait()
    other = spp.theory.predict(Holds(torch.tanh), (3, 4))
    go_on.set()
    thread.join()
    assert other["name"].tolist() == ["lin", "tanh", ""] and found[0]["name"].tolist() == ["lin", "relu", ""]


def test_a_watch_of_functions_has_the_rows_of_its_twin():
    def watched(functional: bool) -> tuple[spp.Watch, Network]:
        model = made(functional)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        torch.manual_seed(5)
        with spp.watch(model, optimizer, every=2) as watch:
            for step in range(3):
                model(images(step)).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        return watch, model

    (one, model), (two, twin) = watched(True), watched(False)
    pd.testing.assert_frame_equal(untyped(one.frame), untyped(two.frame), check_exact=True)
    assert set(one.modules["name"]) == set(two.modules["name"])
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_functions_can_be_left_out():
    plain = spp.trace(made(True), images(), functions=False)
    assert "function" not in set(plain.frame["type"]) and "function" not in set(plain.modules["type"])
    with_them = spp.trace(made(True), images()).frame
    kept = with_them[with_them["type"] != "function"].drop(columns="depth").reset_index(drop=True)
    # a block's branch ends in a dropout where that is seen
    pd.testing.assert_frame_equal(
        kept.drop(columns="role"), plain.frame.drop(columns=["depth", "role"]), check_categorical=False
    )


def test_they_are_selected_by_name_and_by_class():
    assert set(spp.trace(made(True), images(), include="*.relu").frame["name"]) == {"one.relu", "two.relu"}
    assert set(spp.trace(made(True), images(), include=[nn.Tanh, nn.ReLU]).frame["name"]) == {
        *("one.relu", "two.relu", "tanh")
    }
    assert "tanh" not in set(spp.trace(made(True), images(), exclude="tanh").frame["name"])
    with pytest.raises(spp.InputError, match=r"unknown module pattern 'three\.\*'"):
        spp.trace(made(True), images(), include="three.*")


class Holds(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.lin, self.function = nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.lin(x))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.relu, "relu"),
        (torch.tanh, "tanh"),
        (F.gelu, "gelu"),
        (Tensor.sigmoid, "sigmoid"),
        (functools.partial(F.leaky_relu, negative_slope=0.1), "leaky_relu"),
        (lambda x: x.relu_(), "relu"),
        (lambda x: F.elu(input=x), "elu"),
        (
            lambda x: F.scaled_dot_product_attention(x[None], key=x[None], value=x[None])[0],
            "scaled_dot_product_attention",
        ),
    ],
)
def test_whatever_a_function_is_bound_to(function, name):
    torch.manual_seed(0)
    model, x = Holds(function), torch.randn(5, 4)
    run = spp.trace(model, x)
    row = run.frame.query(f"name == '{name}' and signal == 'activation'").iloc[0]
    values = function(model.lin(x)).detach().double()
    assert row["type"] == "function" and row["mean_square"] == pytest.approx(float(values.square().mean()), rel=1e-12)
    assert model.function is function


def test_what_a_layer_is_made_of_is_no_layer():
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Parameter(torch.zeros(3))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.act, self.norm = nn.SiLU(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            # a parameter that is mixed with is no signal
            x = x * F.softmax(self.mix, 0)[0]
            return self.norm(self.act(self.attention(x, x, x)[0]))

    run = spp.trace(Scores(), torch.randn(2, 5, 8))
    assert "function" not in set(run.frame["type"])


def test_a_child_of_that_name_is_another_layer():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin, self.relu = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.lin(self.relu(x)))

    frame = spp.trace(Both(), torch.randn(5, 4)).frame
    types = frame.drop_duplicates("name").set_index("name")["type"]
    assert types["relu"] == "ReLU" and types["relu#2"] == "function"


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_behind_a_checkpoint(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self, by: bool) -> None:
            super().__init__()
            self.first, self.block, self.by = nn.Linear(4, 4), Holds(F.relu), by

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return checkpoint(self.block, x, use_reentrant=reentrant) if self.by else self.block(x)

    def measured(by: bool) -> pd.DataFrame:
        torch.manual_seed(0)
        return spp.trace(Checkpointed(by), torch.randn(5, 4)).frame

    pd.testing.assert_frame_equal(measured(True), measured(False), check_exact=True)


def test_a_subclass_is_given_the_function_itself():
    """Tables of ``__torch_function__`` are keyed by functions, and so are checks by identity in a forward."""
    seen: list[object] = []

    class Logged(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    relu, softmax, torch_tanh, pool = F.relu, F.softmax, torch.tanh, F.max_pool1d

    class Forward(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert F.relu is relu and F.softmax is softmax
            return pool(torch_tanh(F.softmax(F.relu(x.as_subclass(Logged)), -1)), 2)

    model, x = nn.Sequential(nn.Linear(4, 4), Forward()), torch.randn(5, 4)
    model(x)
    plain, seen[:] = list(seen), []
    spp.trace(model, x)
    assert [f for f in seen if f in plain] == plain and {F.relu, F.softmax, torch.tanh} <= set(seen)


def test_other_threads_are_not_told():
    """A forward on another thread, while a trace runs, is none of its business."""
    started, go_on = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            started.set()
            go_on.wait()
            return x

    runs: list[spp.Run] = []
    model = nn.Sequential(nn.Linear(4, 4), Waits(), Holds(F.relu))
    thread = threading.Thread(target=lambda: runs.append(spp.trace(model, torch.randn(5, 4))))
    thread.start()
    started.wait()
    x = torch.randn(3, 4)
    assert torch.equal(F.relu(x), x.clamp(min=0)) and torch.equal(torch.tanh(x), tanh(x))
    go_on.set()
    thread.join()
    assert runs[0].frame.query("type == 'function'")["name"].unique().tolist() == ["2.relu"]


def test_an_error_names_the_function():
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.layer_norm(self.lin(x), (5,))

    with pytest.raises(
        spp.TraceError, match=r"module 'layer_norm' \(function\).*float32 tensor of shape \(3, 4\), tuple of \(5\)"
    ):
        spp.trace(Wrong(), torch.randn(3, 4))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_the_layer_that_its_class_is(name):
    """Without a draw from torch's generator, since a watch must not move it."""
    state = torch.get_rng_state()
    twin_of.cache_clear()
    twin = twin_of(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(twin.parameters()) and any(function == name for function, *_ in functions())
    assert layer_of(twin).kind not in ("other", "container")

"""Who is called, how often, under which name, and in which way."""

import threading

import pytest
import torch
from torch import Tensor, nn

import spp
from spp.capture.sites import named_modules
from tests.zoo.harness import examine, square, x


class Thrice(nn.Module):
    """One module, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(6, 6), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.act(self.fc(x))
        return x


def test_a_module_called_three_times_has_three_rows():
    trace = examine(Thrice, lambda: x(5, 6))
    rows = trace.frame.query("name == 'fc' and signal == 'activation'")
    assert rows["call"].tolist() == [0, 1, 2] and rows["depth"].tolist() == [0, 2, 4]
    assert trace.modules.set_index("name").loc["fc", "calls"] == 3
    assert len(trace.frame.query("name == 'fc' and signal == 'weight' and output == 'weight'")) == 1


def test_one_module_under_two_names_is_one_module():
    def build() -> nn.Module:
        fc = nn.Linear(6, 6)
        model = nn.Sequential(fc, nn.ReLU())
        model.again = fc
        return model

    trace = examine(build, lambda: x(5, 6))
    assert trace.modules.set_index("name").loc["0", "aliases"] == "again"
    assert trace.frame.query("type == 'Linear' and signal == 'activation'")["call"].tolist() == [0, 1]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


def test_tied_weights_carry_the_total_gradient():
    trace = examine(Tied, lambda: torch.arange(6).reshape(2, 3))
    rows = trace.frame.query("signal == 'weight_gradient'").set_index("name")
    assert rows.loc["embed", "mean_square"] == rows.loc["head", "mean_square"] > 0
    assert trace.modules.set_index("name").loc["head", "tied"] == "weight=embed.weight"


def test_modules_that_are_never_called_are_listed_and_their_weights_measured():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.parts = nn.Linear(6, 4), nn.Linear(6, 4), nn.ModuleList([nn.Linear(6, 4)])

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    trace = examine(Net, lambda: x(5, 6))
    holes = trace.unmeasured.query("signal == 'activation'")
    assert holes["name"].tolist() == ["idle", "parts.0"] and holes["reason"].str.startswith("never called").all()
    assert trace.frame.query("signal == 'weight' and name == 'idle'")["depth"].isna().all()
    reasons = trace.unmeasured.query("signal == 'weight_gradient' and name == 'idle'")["reason"]
    assert reasons.str.contains("the loss does not depend on this parameter").all() and len(reasons) == 2


def test_a_forward_that_is_called_directly_is_never_seen_and_said_to_be():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc.forward(x)

    trace = examine(Net, lambda: x(5, 6))
    assert "call its forward directly" in trace.unmeasured.query("name == 'fc'")["reason"].item()
    assert trace.unmeasured["name"].tolist() == ["fc"]


@pytest.mark.parametrize("build", [nn.Identity, lambda: nn.Sequential(nn.Identity(), nn.Dropout(0.0))])
def test_identity(build):
    def batch() -> Tensor:
        return x(5, 6).requires_grad_()

    trace = examine(build, batch)
    assert set(trace.frame["signal"]) == {"activation", "gradient"}


def test_identity_shares_its_tensor_and_so_its_gradient_with_the_skip():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.same = nn.Linear(6, 6), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            return self.same(y) * 2 + y

    trace = examine(Net, lambda: x(5, 6))
    rows = trace.frame.query("signal == 'gradient'").set_index("name")
    assert rows.loc["same", "mean_square"] == rows.loc["fc", "mean_square"]
    assert rows.loc["fc", "mean_square"] == pytest.approx(9 * rows.loc["", "mean_square"], rel=1e-5)


def test_a_class_that_replaces_call_is_seen_where_it_goes_through_nn_module():
    class Through(nn.Linear):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs) * 2

    class Around(nn.Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return self.forward(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.through, self.around = Through(6, 6), Around(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.around(self.through(x))

    trace = examine(Net, lambda: x(5, 6))
    assert len(trace.frame.query("name == 'through' and signal == 'activation'")) == 1
    assert "replaces __call__" in trace.unmeasured.query("name == 'around'")["reason"].item()


def test_modules_in_a_plain_list_are_named_as_holes_and_left_as_they_were():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.hidden = nn.Linear(6, 6), [nn.BatchNorm1d(6), {"last": nn.Linear(6, 4)}]

        def forward(self, x: Tensor) -> Tensor:
            return self.hidden[1]["last"](self.hidden[0](self.fc(x)))

    model = Net()
    mean = model.hidden[0].running_mean.clone()
    trace = examine(Net, lambda: x(5, 6))
    spp.trace(model, x(5, 6), loss=square)
    assert torch.equal(model.hidden[0].running_mean, mean) and model.hidden[0].num_batches_tracked == 0
    assert model.hidden[1]["last"].weight.grad is None
    assert trace.unmeasured["output"].tolist() == ["hidden.0", "Linear"]
    assert trace.unmeasured["reason"].str.contains("not registered").all()


class Grows(nn.Module):
    """Makes its layers when it is first called, or at each call anew."""

    def __init__(self, make) -> None:
        super().__init__()
        self.stem, self.layers, self.make = nn.Linear(6, 6), nn.ModuleList(), make

    def forward(self, x: Tensor) -> Tensor:
        return self.make(self)(self.stem(x))


def keeps(model: nn.Module) -> nn.Module:
    if not hasattr(model, "child"):
        model.child = nn.Linear(6, 4)
    return model.child


def appends(model: nn.Module) -> nn.Module:
    if not model.layers:
        model.layers.append(nn.Sequential(nn.Linear(6, 4), nn.ReLU()))
    return model.layers[0]


def replaces(model: nn.Module) -> nn.Module:
    model.stem = nn.Linear(6, 6)
    return model.stem


@pytest.mark.parametrize(
    ("make", "names"), [(keeps, ["child"]), (appends, ["layers.0", "layers.0.0", "layers.0.1"]), (replaces, ["stem"])]
)
def test_what_is_registered_during_the_forward_says_so(make, names):
    trace = examine(lambda: Grows(make), lambda: x(5, 6), rows=False)
    late = trace.unmeasured.query("name == '' and signal == 'activation'")
    assert late["output"].tolist() == names
    for name, reason in zip(names, late["reason"], strict=True):
        assert reason.endswith(
            f"was registered after the measuring had begun, as {name!r}; one that stays is measured after a first call"
        )
    model = Grows(make)
    model(x(5, 6))
    if make is not replaces:
        assert {"", "stem", *names} == set(
            spp.trace(model, x(5, 6), loss=square).frame.query("signal == 'gradient'")["name"]
        )


class Correlation(nn.Module):
    """No forward, as torchvision's RAFT has one: it is filled, then asked."""

    def fill(self, x: Tensor) -> None:
        self.volume = x[:, :, None] * x[:, None]

    def ask(self) -> Tensor:
        return self.volume.mean(-1)


class Codebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(8, 6))


class Store(nn.ModuleDict):
    def any(self) -> nn.Module:
        return self["one"]


def test_modules_without_a_forward_say_that_it_is_not_called():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.correlation, self.codebook, self.store = Correlation(), Codebook(), Store({"one": nn.Linear(6, 6)})
            # these hold modules, and nothing more
            self.space, self.list, self.parameters_ = nn.Module(), nn.ModuleList([nn.ReLU()]), nn.ParameterList()
            self.space.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            self.correlation.fill(self.store.any()(x))
            return self.list[0](self.space.fc(self.correlation.ask())) + self.codebook.embed[2]

    trace = examine(Net, lambda: x(5, 6))
    reasons = trace.unmeasured.query("signal == 'activation'").set_index("name")["reason"]
    assert set(reasons) == {"has no forward that could be called: others use what it holds, or its methods"}
    assert set(reasons.index) == {"correlation", "codebook", "store"}
    assert "weight_gradient" in set(trace.frame.query("name == 'codebook'")["signal"])
    assert not [f for f in trace.findings if f.rule == "never_ran"]


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_has_its_weights_and_says_what_is_inlined():
    program = torch.export.export(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)), (x(5, 6),))
    for model, start in ((program.module(), ""), (nn.Sequential(program.module(), nn.Tanh()), "0.")):
        trace = spp.trace(model, x(5, 6), loss=square)
        reasons = trace.unmeasured.query("signal == 'activation'").set_index("name")["reason"]
        assert list(reasons.index) == [f"{start}0", f"{start}2"] and reasons.str.startswith("has no forward").all()
        weights = trace.frame.query("signal == 'weight_gradient'")
        assert set(weights["name"]) == {f"{start}0", f"{start}2"}
    flat = spp.trace(torch.export.unflatten(program), x(5, 6), loss=square)
    assert {"0", "1", "2"} <= set(flat.frame.query("signal == 'gradient'")["name"])


def test_calls_on_other_threads_are_holes():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.here, self.there = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: list[Tensor] = []
            worker = threading.Thread(target=lambda: result.append(self.there(x)))
            worker.start()
            worker.join()
            return self.here(x) + result[0]

    trace = examine(Net, lambda: x(5, 6))
    assert "another thread" in trace.unmeasured.query("name == 'there'")["reason"].item()
    assert trace.unmeasured["name"].tolist() == ["there"]


def test_another_thread_that_uses_the_model_meanwhile_is_left_alone():
    stop, errors, calls = threading.Event(), [], []

    def serve(model: nn.Module) -> None:
        try:
            while not stop.is_set():
                with torch.no_grad():
                    model(x(3, 6, seed=5))
                calls.append(1)
        except Exception as error:
            errors.append(error)

    model = Thrice()
    worker = threading.Thread(target=serve, args=(model,))
    worker.start()
    try:
        traces = [spp.trace(model, x(5, 6), loss=square) for _ in range(5)]
    finally:
        stop.set()
        worker.join()
    assert not errors and calls
    quiet = spp.trace(model, x(5, 6), loss=square)
    assert all(t.frame.equals(quiet.frame) and t.unmeasured.equals(quiet.unmeasured) for t in traces)


def test_data_parallel_on_a_cpu_is_its_module():
    trace = examine(lambda: nn.DataParallel(nn.Linear(6, 4)), lambda: x(5, 6))
    assert set(trace.frame["name"]) == {"", "module"}


def test_kwargs_only():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, *, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
            return self.fc(input=left * right * scale)

    examine(Net, lambda: {"left": x(5, 6), "right": x(5, 6, seed=2), "scale": 0.5})


def test_include_leaves_the_rest_alone():
    trace = spp.trace(Thrice(), x(5, 6), include="act", loss=square)
    assert set(trace.frame["name"]) == {"act"} and trace.unmeasured.empty


def test_a_trace_inside_a_forward():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.other = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            inner = spp.trace(self.other, x, loss=square)
            assert len(inner.frame) == 6
            return self.fc(x)

    trace = examine(Net, lambda: x(5, 6), rows=False)
    # what another trace runs is none of the model's own calls
    assert set(trace.frame.query("signal == 'activation'")["name"]) == {"", "fc"}


def test_a_trace_inside_the_forward_of_a_traced_model():
    seen, before = [], nn.Module.__call__

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            seen.append(spp.trace(self.last, y.detach()))
            return self.last(y)

    trace = spp.trace(Net(), x(5, 6))
    (inner,) = seen
    assert trace.frame.query("signal == 'activation'")["name"].tolist() == ["first", "last", ""]
    assert trace.frame.query("signal == 'gradient'")["name"].tolist() == ["first", "last", ""]
    assert set(inner.frame["signal"]) == set(spp.ALL) and set(inner.frame["name"]) == {""}
    assert nn.Module.__call__ is before


def test_names_and_order_are_those_of_torch():
    class Own(nn.Sequential):
        def named_modules(self, *args, **kwargs):
            yield from (item for item in super().named_modules(*args, **kwargs) if not item[0].endswith("1"))

    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, nn.Sequential(nn.ReLU(), nn.ModuleDict({"a": shared, "b": nn.ModuleList([nn.Tanh()])})))
    net.missing = None
    net.register_module("nothing", None)
    for root in (net, nn.Linear(1, 1), nn.Sequential(net, Own(nn.ReLU(), nn.Tanh()))):
        assert list(named_modules(root)) == list(root.named_modules())
        assert list(named_modules(root, duplicates=True)) == list(root.named_modules(remove_duplicate=False))


class Namesakes(nn.Module):
    """Several modules of one qualified name; ``add_module`` refuses the dot, the dictionary does not."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.a = nn.Module()
        self.a.b = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
        self._modules["a.b"] = nn.Sequential(nn.Linear(6, width), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a.b(x), 3 * self._modules["a.b"](x)], 1)


@pytest.mark.parametrize("width", [4, 5])
def test_two_modules_of_one_name_are_two(width):
    torch.manual_seed(0)
    model, batch = Namesakes(width), torch.randn(5, 6)
    first, second = model.a.b[0], model._modules["a.b"][0]
    trace = spp.trace(model, batch)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    expected = [float(layer(batch).detach().square().mean()) for layer in (first, second)]
    with spp.watch(model, optimizer, every=1) as watch:
        model(batch).square().mean().backward()
        optimizer.step()
    for frame in (trace.frame, watch.frame):
        rows = frame.query("signal == 'activation'").set_index("name")["mean_square"]
        assert rows[["a.b.0", "a.b.0#2"]].tolist() == pytest.approx(expected, rel=1e-5)
        assert frame.query("signal == 'weight'")["name"].tolist() == ["a.b.0", "a.b.0", "a.b.0#2", "a.b.0#2"]
    assert trace.modules["name"].is_unique and {"a.b", "a.b#2"} < set(trace.modules["name"])
    assert spp.trace(model, batch, include="a.b.0").frame["name"].nunique() == 2

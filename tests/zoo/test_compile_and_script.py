"""Compiled and scripted models: hooks would be ignored or refused; the call boundary is not."""

import pytest
import torch
from torch import Tensor, nn

import spp
from tests.zoo.fingerprint import unmoved
from tests.zoo.harness import assert_step_identical, examine, make, square, x

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]


class Pair(nn.Module):
    """A class of its own: ``module.compile()`` passes over those of torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x)).relu_()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = Pair(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pair(x))


def small() -> nn.Module:
    return Net()


def batch() -> Tensor:
    return x(5, 6)


class Counting:
    """A backend of torch.compile that runs the graph as it is and counts how often it was asked."""

    def __init__(self) -> None:
        self.compiled = 0

    def __call__(self, graph, inputs):
        self.compiled += 1
        return graph.forward


def plain_rows() -> dict:
    trace = spp.trace(make(small), batch(), loss=square)
    return {(r["name"], r["signal"], r["output"]): r["mean_square"] for r in trace.frame.to_dict("records")}


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "child"])
@pytest.mark.parametrize("in_place", [True, False], ids=["module.compile", "torch.compile"])
def test_compiled_models_are_seen_and_not_compiled_again(warm, whole, in_place):
    torch._dynamo.reset()
    backends = []

    def build() -> nn.Module:
        backends.append(Counting())
        model = small()
        target = model if whole else model.pair
        if in_place:
            target.compile(backend=backends[-1])
            return model
        compiled = torch.compile(target, backend=backends[-1])
        if whole:
            return compiled
        model.pair = compiled
        return model

    models = [make(build) for _ in range(2)]
    twin, traced = models
    if warm:
        for model in models:
            model(batch())
    given = batch()
    with unmoved(traced, given):
        trace = spp.trace(traced, given, loss=square)
    before = backends[1].compiled
    assert before == (1 if warm else 0)
    assert_step_identical(twin, traced, batch, square)
    assert backends[0].compiled == backends[1].compiled
    rows = {
        (r["name"].replace("_orig_mod.", "").replace("._orig_mod", ""), r["signal"], r["output"]): r["mean_square"]
        for r in trace.frame.to_dict("records")
        if r["name"] != "_orig_mod"
    }
    if not warm:  # a warm one has moved its running statistics once, which the outputs of training mode do not show
        assert trace.unmeasured.query("name != '_orig_mod' and not name.str.endswith('._orig_mod')").empty
    wanted = plain_rows()
    assert rows.keys() == wanted.keys()
    assert rows == pytest.approx(wanted, rel=1e-6)


def test_the_inner_module_of_a_compiled_one_says_why_it_has_no_rows():
    torch._dynamo.reset()
    model = torch.compile(small(), backend="eager")
    trace = spp.trace(model, batch(), loss=square)
    assert trace.unmeasured["name"].tolist() == ["_orig_mod"]
    assert "torch.compile" in trace.unmeasured["reason"].item()


def test_aot_eager_takes_a_training_step_as_if_never_traced():
    torch._dynamo.reset()
    twin, traced = (torch.compile(make(small), backend="aot_eager") for _ in range(2))
    for model in (twin, traced):
        model(batch()).sum().backward()
        model.zero_grad()
    spp.trace(traced, batch(), loss=square)
    assert_step_identical(twin, traced, batch, square)


class Scripted(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.first, self.script, self.last = nn.Linear(6, 6), how(nn.Sequential(nn.Linear(6, 6), nn.Tanh())), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.script(self.first(x)))


@pytest.mark.parametrize(
    "how", [torch.jit.script, lambda m: torch.jit.trace(m, torch.randn(2, 6))], ids=["script", "trace"]
)
def test_scripted_children_are_measured_and_what_is_inside_them_is_listed(how):
    trace = examine(lambda: Scripted(how), batch, oracle=lambda: Scripted(lambda m: m), rows=False)
    plain = spp.trace(make(lambda: Scripted(lambda m: m)), batch(), loss=square).frame
    for signal in ("activation", "gradient"):
        seen, wanted = (f[f["signal"] == signal].set_index("name") for f in (trace.frame, plain))
        assert seen.loc["script", "mean_square"] == pytest.approx(wanted.loc["script", "mean_square"], rel=1e-6)
        assert "script.0" not in seen.index
    inside = trace.unmeasured.query("signal == 'activation'")
    assert inside["name"].tolist() == ["script.0", "script.1"]
    assert inside["reason"].str.contains("inside a scripted module").all()
    assert len(trace.frame.query("name == 'script.0' and signal == 'weight_gradient'")) == 2


def test_a_scripted_root_and_buffers_that_it_rebinds():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)
            self.register_buffer("count", torch.zeros(1))
            self.register_buffer("total", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count = self.count + 1
            self.total += 1
            return self.fc(x)

    model = torch.jit.script(Counts())
    trace = spp.trace(model, batch(), loss=square)
    assert model.count.item() == 0 and model.total.item() == 0 and model.training
    assert len(trace.frame.query("name == '' and signal == 'gradient'")) == 1
    assert trace.modules["type"].tolist() == ["Counts", "Linear"]

"""Weights that are computed: norms old and new, parametrizations, functional calls, lazy and sparse ones."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize, prune

import spp
from tests.oracle import array, assert_matches, columns
from tests.zoo.harness import examine, make, square, x


def with_(change):
    def build() -> nn.Module:
        return nn.Sequential(change(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 4))

    return build


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).T


NORMS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "symmetric": lambda m: parametrize.register_parametrization(m, "weight", Symmetric()) and m,
    "two of them": lambda m: parametrizations.spectral_norm(
        parametrize.register_parametrization(m, "weight", Symmetric()) and m
    ),
}


@pytest.mark.parametrize("change", NORMS.values(), ids=NORMS.keys())
def test_a_parametrized_weight_has_its_raw_parameters_and_its_effective_weight(change):
    build = with_(change)
    trace = examine(build, lambda: x(5, 6), rows=False)
    weights = trace.frame.query("signal == 'weight'")
    effective = weights.query("name == '0' and output == 'weight'")
    assert len(effective) == 1
    gradient = trace.frame.query("signal == 'weight_gradient' and name == '0' and output == 'weight'")
    assert len(gradient) == 1
    model = make(build)
    seen: dict[str, Tensor] = {}
    plain = nn.functional.linear

    def spy(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if "weight" not in seen:
            seen["weight"] = array(weight)
            weight.register_hook(lambda g: seen.__setitem__("gradient", array(g)))
        return plain(inputs, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", spy)
        square(model(x(5, 6))).backward()
    assert_matches(effective.iloc[0].to_dict(), columns(seen["weight"], 0), where="effective weight")
    assert_matches(gradient.iloc[0].to_dict(), columns(seen["gradient"], 0), where="its gradient")
    raw = {n for n, _ in model.named_parameters()}
    rows = {f"{r['name']}.{r['output']}" for r in weights.to_dict("records")} - {"0.weight"}
    assert raw <= rows | {"0.weight"}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("change", [nn.utils.weight_norm, nn.utils.spectral_norm], ids=["weight_norm", "spectral_norm"])
def test_the_old_norms(change):
    build = with_(change)
    trace = examine(build, lambda: x(5, 6), rows=False)
    row = trace.frame.query("name == '0' and signal == 'weight' and output == 'weight'").iloc[0]
    model = make(build)
    model(x(5, 6))
    assert_matches(row.to_dict(), columns(array(model[0].weight), 0), where="effective weight")
    assert len(trace.frame.query("name == '0' and signal == 'weight_gradient' and output == 'weight'")) == 1
    raw = {n.partition(".")[2] for n, _ in model.named_parameters() if n.startswith("0.")}
    assert raw <= set(trace.frame.query("name == '0' and signal == 'weight_gradient'")["output"])


class Equalized:
    """``weight = weight_orig * gain`` before every call, an equalized learning rate (Karras et al. 2018)."""

    def __call__(self, module: nn.Module, args: object) -> None:
        module.weight = module.weight_orig * 0.1


def _rename(layer: nn.Module, to: str) -> nn.Parameter:
    raw = layer._parameters.pop("weight")
    layer.register_parameter(to, raw)
    return raw


def equalized(layer: nn.Linear) -> nn.Linear:
    _rename(layer, "weight_orig")
    layer.register_forward_pre_hook(Equalized())
    return layer


def standardized(layer: nn.Linear) -> nn.Linear:
    """By a hook on a raw parameter whose name says nothing."""
    _rename(layer, "v")
    layer.register_forward_pre_hook(
        lambda m, _: setattr(m, "weight", (m.v - m.v.mean(1, keepdim=True)) / m.v.std(1, keepdim=True))
    )
    return layer


class Kernel(nn.Module):
    """Multiplies with a kernel that a hook makes, under names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.direction, self.length = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.ones(6, 1))
        self.register_forward_pre_hook(lambda m, _: setattr(m, "kernel", m.length * m.direction / m.direction.norm()))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel.T


def frozen(layer: nn.Linear) -> nn.Linear:
    prune.l1_unstructured(layer, "weight", 0.5)
    layer.weight_orig.requires_grad_(False)
    return layer


def twice(layer: nn.Linear) -> nn.Linear:
    return prune.ln_structured(prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.3, n=2, dim=0)


HOOKED = {
    "pruned": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "pruned twice": twice,
    "pruned and frozen": frozen,
    "equalized": equalized,
    "standardized": standardized,
}


@pytest.mark.parametrize("change", HOOKED.values(), ids=HOOKED.keys())
def test_a_weight_that_a_pre_hook_makes_has_a_row(change):
    build = with_(change)
    trace = examine(build, lambda: x(5, 6), rows=False)
    rows = trace.frame[(trace.frame["name"] == "0") & (trace.frame["output"] == "weight")]
    model = make(build)
    model(x(5, 6))
    used = model[0].weight
    assert_matches(
        rows.query("signal == 'weight'").iloc[0].to_dict(), columns(array(used), 0), where="the weight in use"
    )
    expected = ["weight", "weight_gradient"] if used.requires_grad else ["weight"]
    assert rows["signal"].tolist() == expected
    raw = {n for n, _ in model[0].named_parameters()}
    assert raw <= set(trace.frame.query("name == '0' and signal == 'weight'")["output"])

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        square(model(x(5, 6))).backward()
        optimizer.step()
    seen = watch.frame[(watch.frame["name"] == "0") & (watch.frame["output"] == "weight")]
    assert seen["signal"].tolist() == expected
    np.testing.assert_allclose(seen["mean_square"], rows["mean_square"], rtol=1e-6)


def test_a_kernel_of_another_name_has_a_row_too():
    trace = examine(lambda: nn.Sequential(Kernel(), nn.Tanh()), lambda: x(5, 6), rows=False)
    assert {"kernel", "direction", "length"} == set(trace.frame.query("signal == 'weight_gradient'")["output"])


def test_a_hook_of_the_root_makes_the_weights_of_its_layers():
    class Hyper(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
            for layer in (self[0], self[2]):
                _rename(layer, "weight_orig")
            self.register_forward_pre_hook(lambda m, _: [Equalized()(layer, ()) for layer in (m[0], m[2])] and None)

    trace = examine(Hyper, lambda: x(5, 6), rows=False)
    weights = trace.frame.query("signal == 'weight_gradient' and output == 'weight'")
    assert weights["name"].tolist() == ["0", "2"]


def test_what_a_module_remembers_of_its_inputs_is_no_weight():
    class Remembers(nn.Linear):
        """Keeps its last output, and a mean of its outputs in the shape of its bias."""

        def __init__(self) -> None:
            super().__init__(6, 6)
            self.register_forward_pre_hook(lambda m, args: setattr(m, "last_input", args[0]))
            self.mem, self.weight_seen = torch.zeros(6), 0

        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            self.last, self.mem = out, self.mem.detach().lerp(out.mean(0), 0.1)
            return out

    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(Remembers(), Remembers(), nn.Tanh())

    trace = examine(Net, lambda: x(5, 6), rows=False)
    assert trace.frame.query("name in ('0', '1') and signal == 'weight'")["output"].tolist() == ["weight", "bias"] * 2


def test_reading_a_weight_does_not_advance_a_power_iteration():
    model = with_(parametrizations.spectral_norm)()
    before = {n: b.clone() for n, b in model.named_buffers()}
    spp.trace(model, x(5, 6), loss=square, include="2")
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


LAZY = {
    "linear": lambda: nn.Sequential(nn.LazyLinear(5), nn.ReLU()),
    "convolution and norm": lambda: nn.Sequential(nn.LazyConv1d(5, 1), nn.LazyBatchNorm1d()),
}


@pytest.mark.parametrize("build", LAZY.values(), ids=LAZY.keys())
def test_lazy_modules_stay_lazy(build):
    def batch() -> Tensor:
        return x(5, 6, 3) if len(build()) == 2 and isinstance(build()[0], nn.LazyConv1d) else x(5, 6)

    trace = examine(build, batch, rows=False)
    model = build()
    spp.trace(model, batch(), loss=square)
    assert isinstance(model[0].weight, nn.UninitializedParameter) and type(model[0]).__name__.startswith("Lazy")
    assert {"weight", "bias"} <= set(trace.frame.query("name == '0' and signal == 'weight_gradient'")["output"])


def test_sparse_gradients():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.fc(self.embed(tokens))

    trace = examine(Net, lambda: torch.tensor([[1, 2, 2], [3, 1, 1]]))
    row = trace.frame.query("name == 'embed' and signal == 'weight_gradient'").iloc[0]
    assert row["numel"] == 36 and row["zero_fraction"] == pytest.approx(6 / 9)


def test_sparse_outputs_count_as_their_dense_form():
    class Thins(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * (x > 0)).to_sparse()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.thins, self.head = nn.Linear(6, 6), Thins(), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.thins(self.fc(x)).to_dense())

    trace = examine(Net, lambda: x(5, 6))
    row = trace.frame.query("name == 'thins' and signal == 'activation'").iloc[0]
    assert row["numel"] == 30 and 0.2 < row["zero_fraction"] < 0.8


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_a_sparse_batch():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.sparse.mm(x, self.weight.t())

    examine(Net, lambda: (x(5, 6) * (x(5, 6, seed=3) > 0)).to_sparse())


def test_a_functional_call_inside_reads_the_weights_that_were_used():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scale = nn.Linear(6, 4), nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return functional_call(self.fc, {"weight": self.fc.weight * self.scale}, (x,))

    trace = examine(Net, lambda: x(5, 6), rows=False)
    model = make(Net)
    used = trace.frame.query("name == 'fc' and signal == 'weight' and output == 'weight'").iloc[0]
    assert_matches(used.to_dict(), columns(array(model.fc.weight * 2), 0), where="weight")
    assert len(trace.frame.query("name == 'fc' and signal == 'weight_gradient' and output == 'weight'")) == 1


class Scaled(nn.Module):
    """Calls a layer with multiples of its own weights, by ``factors`` one after the other; None calls it as it is."""

    def __init__(self, *factors: float | None) -> None:
        super().__init__()
        self.l, self.head, self.factors = nn.Linear(6, 4), nn.Linear(4, 2), factors

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum(self.called(factor, x) for factor in self.factors))

    def called(self, factor: float | None, x: Tensor) -> Tensor:
        if factor is None:
            return self.l(x)
        return functional_call(self.l, {k: factor * v for k, v in self.l.named_parameters()}, (x,))


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Scaled(2.0)

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.inner, {k: 3 * v for k, v in self.inner.named_parameters()}, (x,))


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize(
    ("build", "name", "factor"),
    [
        (lambda: Scaled(2.0), "l", 2),
        (lambda: Scaled(2.0, 5.0), "l", 2),
        (lambda: Scaled(None, 2.0), "l", 1),
        (lambda: Scaled(2.0, None), "l", 2),
        (Around, "inner.l", 6),
    ],
    ids=["once", "twice", "plain first", "plain last", "nested"],
)
def test_a_watch_reads_the_weights_that_a_functional_call_uses(build, name, factor, micro):
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with spp.watch(model, optimizer, every=1) as watch:
        for _ in range(2):
            before = model.get_submodule(name).weight.detach().clone()
            for part in x(6, 6).chunk(micro):
                square(model(part)).backward()
            optimizer.step()
            optimizer.zero_grad()
    rows = watch.frame[(watch.frame["name"] == name) & (watch.frame["output"] == "weight")]
    values = rows.query("signal == 'weight'")
    assert values["step"].tolist() == [0, 1] and values["numel"].tolist() == [24, 24]
    assert values["mean_square"].iloc[1] == pytest.approx(float((before * factor).square().mean()), rel=1e-5)
    if micro == 1 or factor == 1:
        assert len(rows.query("signal == 'weight_gradient'")) == 2
    else:
        assert "only the parts were seen" in watch.unmeasured.query("name == @name")["reason"].iloc[0]


def test_micro_batches_of_which_some_compute_the_weight():
    """The computed weight has the row, whichever comes first."""
    for order in ((None, 2.0), (2.0, None)):
        torch.manual_seed(0)
        model = Scaled(2.0)
        before = model.l.weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with spp.watch(model, optimizer, every=1) as watch:
            for factor in order:
                model.factors = (factor,)
                square(model(x(5, 6))).backward()
            optimizer.step()
        row = watch.frame.query("name == 'l' and output == 'weight' and signal == 'weight'")
        assert row["mean_square"].tolist() == [pytest.approx(4 * float(before.square().mean()), rel=1e-5)]


def test_a_functional_call_with_leaves_of_somebody_else():
    outside = {"weight": torch.ones(4, 6, requires_grad=True), "bias": torch.zeros(4, requires_grad=True)}
    outside["weight"].grad = torch.full((4, 6), 7.0)
    kept = outside["weight"].grad

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return functional_call(self.fc, outside, (x,))

    trace = spp.trace(Net(), x(5, 6), loss=square)
    assert outside["weight"].grad is kept and bool((kept == 7).all()) and outside["bias"].grad is None
    row = trace.frame.query("signal == 'weight_gradient' and output == 'weight'").iloc[0]
    assert row["abs_max"] < 7  # the pass's own gradient, not what was there


def test_vmap_over_an_ensemble_is_a_hole_and_works():
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList([nn.Sequential(nn.Linear(6, 4), nn.ReLU()) for _ in range(3)])
            self.base, self.head = nn.Sequential(nn.Linear(6, 4), nn.ReLU()), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            params, buffers = stack_module_state(list(self.members))
            y = vmap(lambda p, b: functional_call(self.base, (p, b), (x,)) + functional_call(self.base, (p, b), (x,)))(
                params, buffers
            )
            return self.head(y.mean(0))

    trace = examine(Ensemble, lambda: x(5, 6), rows=False)
    holes = trace.unmeasured.query("name == 'base.0' and signal == 'activation'")
    assert holes["reason"].str.contains("inside a functorch transform").all() and len(holes) == 2
    assert len(trace.frame.query("name == 'head' and signal == 'gradient'")) == 1


def test_torch_func_grad_inside():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy, self.head = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.func.grad(lambda y: self.energy(y).sum())(x))

    trace = examine(Net, lambda: x(5, 6), rows=False)
    assert len(trace.frame.query("name == 'head' and signal == 'gradient'")) == 1
    assert trace.unmeasured.query("name == 'energy'")["reason"].str.contains("functorch").any()


def test_custom_autograd_functions():
    class Clip(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
            ctx.save_for_backward(x)
            ctx.mark_non_differentiable(mask := x > 0)
            return x.clamp(min=0), mask

        @staticmethod
        def backward(ctx, gradient: Tensor, _: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return gradient * (x > 0) * 3

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            return gradient * 2

    class Act(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return Clip.apply(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act, self.head = nn.Linear(6, 6), Act(), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y, mask = self.act(Double.apply(self.fc(x)))
            return self.head(y * mask) + self.head(y)

    trace = examine(Net, lambda: x(5, 6))
    rows = trace.frame.query("signal == 'gradient'").set_index(["name", "output"])
    np.testing.assert_array_less(0, rows["mean_square"].astype(float))

"""Which additions are residual merges, and which are not."""

import sys

import pytest
import torch
from torch import Tensor, nn

import spp
from spp.capture import residual
from tests.zoo.harness import examine, make, seeded, square, x


class Block(nn.Module):
    """``merge`` is given the block, its input and the end of its branch."""

    def __init__(self, merge, width: int = 6) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2, self.project = (
            nn.Linear(6, 8),
            nn.Tanh(),
            nn.Linear(8, width),
            nn.Linear(6, width),
        )
        self.weight = nn.Parameter(torch.randn(6))
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self, x, self.fc2(self.act(self.fc1(x))))


def _add_out(b: Block, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.add(x, y, out=torch.empty_like(x))


def _iadd(b: Block, x: Tensor, y: Tensor) -> Tensor:
    y += x
    return y


IDENTITY = {
    "x + y": lambda b, x, y: x + y,
    "y + x": lambda b, x, y: y + x,
    "y += x": _iadd,
    "x.add(y)": lambda b, x, y: x.add(y),
    "y.add_(x)": lambda b, x, y: y.add_(x),
    "torch.add": lambda b, x, y: torch.add(x, y),
    "torch.add with names": lambda b, x, y: torch.add(input=x, other=y),
    "alpha": lambda b, x, y: torch.add(x, y, alpha=0.5),
    "out": _add_out,
    "a scaled branch": lambda b, x, y: x + 0.2 * y,
    "a scaled skip": lambda b, x, y: x * 0.5 + y,
    "a gated branch": lambda b, x, y: x + b.weight * y,
    "a nonlinearity afterwards": lambda b, x, y: (x + y).relu(),
    "a branch reshaped": lambda b, x, y: x + y.reshape(-1).view(x.shape),
    "another dtype": lambda b, x, y: x.double() + y,
    "sum()": lambda b, x, y: sum([x, y]),
}


@pytest.mark.parametrize("merge", IDENTITY.values(), ids=IDENTITY.keys())
def test_identity_skips(merge):
    model = make(lambda: nn.Sequential(nn.Linear(6, 6), Block(merge)))
    trace = spp.trace(model, x(5, 6), loss=square)
    assert trace.blocks[["block", "merge", "branch", "skip", "transition"]].values.tolist() == [
        ["1", 0, "1.fc2", "0", False]
    ]
    frame = trace.frame.query("signal == 'activation'").set_index("name")
    assert trace.blocks["branch_acv"].item() == frame.loc["1.fc2", "acv"]
    assert trace.blocks["acv"].item() == frame.loc["1", "acv"]
    roles = trace.frame.query("signal == 'activation' and role.notna()").set_index("name")["role"].to_dict()
    assert roles["0"] == "residual_skip" and roles["1.fc2"] == "residual_branch"
    assert set(trace.frame.query("name.str.startswith('1')")["block"]) == {"1"}


def test_a_projected_skip_is_a_transition():
    model = make(lambda: nn.Sequential(nn.Linear(6, 6), Block(lambda b, x, y: b.project(x) + y, width=4)))
    trace = spp.trace(model, x(5, 6), loss=square)
    assert trace.blocks[["block", "branch", "skip", "transition"]].values.tolist() == [
        ["1", "1.fc2", "1.project", True]
    ]


def test_three_branches_that_leave_from_one_point():
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.a(x) + self.b(x)

    trace = spp.trace(nn.Sequential(nn.Linear(6, 6), Parallel()), x(5, 6), loss=square)
    assert trace.blocks[["block", "branch", "transition"]].values.tolist() == [["1", "1.a", False], ["1", "1.b", False]]


def test_nested_blocks_belong_to_the_innermost():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(Block(lambda b, x, y: x + y), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    trace = spp.trace(nn.Sequential(nn.Linear(6, 6), Outer()), x(5, 6), loss=square)
    assert trace.blocks[["block", "branch"]].values.tolist() == [["1.inner.0", "1.inner.0.fc2"], ["1", "1.inner.1"]]
    blocks = trace.frame.query("signal == 'activation'").set_index("name")["block"]
    assert blocks["1.inner.0.fc1"] == "1.inner.0" and blocks["1.inner.1"] == "1" and blocks.isna()["0"]


NO_MERGES = {
    "two layers of equal length": lambda b, x, y: b.project(x) + b.project(x * 2),
    "a bias": lambda b, x, y: y + b.weight,
    "a bias in place": lambda b, x, y: y.add_(b.weight),
    "a constant": lambda b, x, y: y + 1.0,
    "a broadcast": lambda b, x, y: y + x[:1],
    "itself": lambda b, x, y: y + y,
    "its own function": lambda b, x, y: y + y.exp(),
    "nothing in common": lambda b, x, y: y + torch.ones_like(y),
    "integers": lambda b, x, y: y * (torch.ones(5, 6, dtype=torch.long) + torch.ones(5, 6, dtype=torch.long)),
}


@pytest.mark.parametrize("merge", NO_MERGES.values(), ids=NO_MERGES.keys())
def test_other_sums_are_no_merges(merge):
    trace = examine(lambda: nn.Sequential(nn.Linear(6, 6), Block(merge)), lambda: x(5, 6), interrupted=False)
    assert trace.blocks.empty and trace.frame["role"].isna().all()


def test_positional_and_token_embeddings_are_no_merges():
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.position, self.head = nn.Embedding(9, 6), nn.Embedding(4, 6), nn.Linear(6, 9)
            self.table = nn.Parameter(torch.randn(3, 4, 6))

        def forward(self, tokens: Tensor) -> Tensor:
            places = torch.arange(4).expand_as(tokens)
            return self.head(self.token(tokens) + self.position(places) + self.table)

    trace = spp.trace(Embeds(), torch.arange(12).reshape(3, 4) % 9, loss=square)
    assert trace.blocks.empty


@pytest.mark.parametrize("train", [True, False])
def test_frozen_networks_and_no_grad(train):
    """Without a graph the lineage follows module calls alone: what passes through functions in between is lost."""

    class NoGrad(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.inner(x)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), Block(lambda b, x, y: x + y)).train(train)

    frozen = spp.trace(build().requires_grad_(False), x(5, 6), loss=square)
    graphless = spp.trace(NoGrad(build()), x(5, 6), loss=square)
    assert frozen.blocks["block"].tolist() == ["1"] and graphless.blocks["block"].tolist() == ["inner.1"]
    assert frozen.blocks["gradient_acv"].isna().all()
    lost = nn.Sequential(nn.Linear(6, 6), Block(lambda b, x, y: x + 0.5 * y)).requires_grad_(False)
    assert spp.trace(lost, x(5, 6), loss=square).blocks.empty


@pytest.mark.parametrize(
    "merge",
    [
        lambda b, x, y: torch.stack([x, y]).sum(0),
        lambda b, x, y: torch.lerp(x, y, 0.5),
        lambda b, x, y: torch.addcmul(x, y, torch.ones_like(y)),
        lambda b, x, y: torch.cat([x, y], 1),
        lambda b, x, y: torch.func.vmap(lambda p, q: p + q)(x, y),
    ],
    ids=["stack and sum", "lerp", "addcmul", "concatenation", "inside vmap"],
)
def test_what_cannot_be_seen(merge):
    """As the documentation says; when one of these comes to be seen, it is to be changed there."""
    trace = spp.trace(nn.Sequential(nn.Linear(6, 6), Block(merge)), x(5, 6), loss=square)
    assert trace.blocks.empty


def test_a_subclass_is_added_as_its_class_wants():
    class Marked(Tensor):
        pass

    model = make(lambda: nn.Sequential(nn.Linear(6, 6), Block(lambda b, x, y: x + y)))
    seeded()
    trace = spp.trace(model, x(5, 6).as_subclass(Marked), loss=square)
    assert trace.blocks["block"].tolist() == ["1"]
    assert type(model(x(5, 6).as_subclass(Marked))) is Marked


def test_additions_are_torchs_own_again_afterwards():
    before = [(o, n, getattr(o, n), n in vars(o)) for o in (Tensor, torch) for n in ("add", "__add__") if hasattr(o, n)]
    spp.trace(nn.Linear(6, 6), x(5, 6))
    for owner, name, value, own in before:
        assert getattr(owner, name) is value and (name in vars(owner)) is own


def _added_up(layers: nn.ModuleList, x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for layer in layers:
        total = total + layer(x)
    return total


def _in_a_row(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = x + 0.01 * layer(x)
    return x


def _from_the_start(layers: nn.ModuleList, x: Tensor) -> Tensor:
    start = x
    for layer in layers:
        x = layer(x) + start
    return x


def _scaled_from_the_start(layers: nn.ModuleList, x: Tensor) -> Tensor:
    start = x
    for layer in layers:
        x = 0.9 * layer(x) + 0.1 * start
    return x


class Loop(nn.Module):
    def __init__(self, forward, n: int) -> None:
        super().__init__()
        self.layers, self.loop = nn.ModuleList(nn.Linear(3, 3) for _ in range(n)), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.loop(self.layers, x)


def _work(model: nn.Module) -> int:
    """How many lines of the finder a trace runs, loops within a line counted: its work without a clock."""
    count = 0

    def local(frame, event, _):
        nonlocal count
        count += event == "line"
        return local

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: local if frame.f_code.co_filename == residual.__file__ else None)
    try:
        spp.trace(model, torch.randn(2, 3))
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("forward", [_added_up, _in_a_row, _from_the_start, _scaled_from_the_start])
def test_the_work_grows_with_the_number_of_sums_and_not_with_its_square(forward, monkeypatch):
    # where the walks end, which takes hundreds of sums otherwise
    monkeypatch.setattr(residual, "PAST", 8)
    few, many = (_work(Loop(forward, n)) for n in (60, 240))
    assert many < 5 * few

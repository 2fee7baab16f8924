"""Whose outputs a module's calls took: chains, sums, functions in between, and modules that hand their input on."""

import torch
from torch import nn

import spp


def inputs(model: nn.Module, batch: object, **options: bool) -> dict[str, str]:
    """The column by module."""
    modules = spp.trace(model, batch, **options).modules
    return {row.name: row.inputs for row in modules.itertuples() if isinstance(row.inputs, str)}


def test_a_chain():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    assert inputs(net, torch.randn(3, 4)) == {"": ".", "0": ".", "1": "0", "2": "1"}


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.c(torch.relu(self.a(x)) + self.b(x).reshape(-1, 4))


def test_functions_in_between_lead_to_every_module_behind_them():
    assert inputs(Joined(), torch.randn(3, 4), functions=False)["c"] == "a b"
    assert inputs(Joined(), torch.randn(3, 4))["c"] == "relu b"


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin, self.act, self.head = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        for _ in range(3):
            x = self.act(self.lin(x))
        return self.head(x)


def test_every_call_has_its_own():
    found = inputs(Shared(), torch.randn(3, 4))
    assert found["lin"] == ".,act,act:1"
    assert found["act"] == "lin,lin:1,lin:2"
    assert found["head"] == "act:2"


class Handed(nn.Module):
    """A block whose sum goes through a module that hands it on unchanged, as stochastic depth at rate 0 does."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.drop = nn.Linear(4, 4), nn.Identity()

    def forward(self, x):
        return self.drop(0.5 * self.lin(x))


def test_what_hands_its_input_on_feeds_neither_itself_nor_its_insides():
    found = inputs(nn.Sequential(Handed(), nn.Linear(4, 2)), torch.randn(3, 4))
    assert found["0.drop"] == "0.lin"
    assert found["1"] == "0.drop"
    assert found["0"] == "."


class Gathered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Bilinear(4, 4, 2)

    def forward(self, x):
        return self.b(self.a(x), x)


def test_several_inputs_and_the_batch_among_them():
    assert inputs(Gathered(), torch.randn(3, 4))["b"] == "a ."


def test_a_cut_graph_comes_from_outside():
    """Without autograd's graph nobody announces what a function took."""

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.a(x).detach() + 1)

    assert inputs(Cut(), torch.randn(3, 4))["b"] == "."


def test_batches_are_wired_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    assert inputs(net, (torch.randn(size, 4) for size in (3, 2)))["1"] == "0"

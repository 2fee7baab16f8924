"""Recomputation during backward: no new calls, and every gradient found."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.zoo.harness import examine, x


class Blocks(nn.Module):
    """Three blocks with dropout, each behind a checkpoint or not; the second one used twice where asked for."""

    def __init__(self, reentrant: bool | None, twice: bool = False, norm: bool = False) -> None:
        super().__init__()
        self.reentrant, self.twice = reentrant, twice
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6) if norm else nn.Tanh(), nn.Dropout(0.4)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.blocks, *([self.blocks[1]] if self.twice else ())):
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        return x


def batch() -> Tensor:
    return x(5, 6).requires_grad_()


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("twice", [True, False], ids=["twice", "once"])
def test_both_kinds_equal_no_checkpoint(reentrant, twice):
    trace = examine(lambda: Blocks(reentrant, twice), batch, oracle=lambda: Blocks(None, twice))
    assert trace.unmeasured.empty
    assert trace.modules.set_index("name").loc["blocks.1", "calls"] == 1 + twice


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_batch_norm_inside(reentrant):
    trace = examine(
        lambda: Blocks(reentrant, norm=True), batch, oracle=lambda: Blocks(None, norm=True), interrupted=False
    )
    assert trace.unmeasured.empty


def test_checkpoint_sequential():
    class Net(nn.Module):
        def __init__(self, plain: bool) -> None:
            super().__init__()
            self.body, self.plain = nn.Sequential(*[nn.Linear(6, 6) for _ in range(4)]), plain

        def forward(self, x: Tensor) -> Tensor:
            if self.plain:
                for layer in self.body:
                    x = layer(x)
                return x
            return checkpoint_sequential(self.body, 2, x, use_reentrant=False)

    examine(lambda: Net(False), batch, oracle=lambda: Net(True))


def test_nested_checkpoints():
    class Net(nn.Module):
        def __init__(self, plain: bool) -> None:
            super().__init__()
            self.a, self.b, self.plain = nn.Linear(6, 6), nn.Linear(6, 6), plain

        def inner(self, x: Tensor) -> Tensor:
            return self.a(x).tanh()

        def outer(self, x: Tensor) -> Tensor:
            return self.b(checkpoint(self.inner, x, use_reentrant=False))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.inner(x)) if self.plain else checkpoint(self.outer, x, use_reentrant=False)

    examine(lambda: Net(False), batch, oracle=lambda: Net(True))


def test_a_model_called_by_a_reentrant_checkpoint_as_a_whole():
    class Net(nn.Module):
        def __init__(self, plain: bool) -> None:
            super().__init__()
            self.body, self.plain = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.ReLU(inplace=True)), plain

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) if self.plain else checkpoint(self.body, x, use_reentrant=True)

    trace = examine(lambda: Net(False), batch, oracle=lambda: Net(True))
    assert torch.is_grad_enabled() and trace.unmeasured.empty


def test_an_error_in_the_recomputation_names_its_module():
    import spp

    class Late(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 2:
                raise ValueError("the second time")
            return x * x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.late = nn.Linear(6, 6), Late()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(lambda y: self.late(self.fc(y)), x, use_reentrant=False)

    model = Net()
    with pytest.raises(
        spp.TraceError, match=r"module 'late' \(Late\): the backward pass raised ValueError: the second"
    ):
        spp.trace(model, batch())
    assert model.late.calls == 0

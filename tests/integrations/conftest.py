"""Every library is the real one, or its tests are skipped with the reason."""

import importlib.util
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tests import foreign


@pytest.fixture(autouse=True)
def _one_thread(_calm: None) -> None:
    torch.set_num_threads(1)


def wanted(name: str) -> ModuleType:
    """The library of that name; skips where it is not installed. torchvision, which some import, is made importable first."""
    if importlib.util.find_spec("torchvision") is not None:
        foreign.torchvision()
    return pytest.importorskip(name, reason=f"{name} is not installed; it is no dependency of the tests")


class Net(nn.Module):
    """Two layers and a loss where labels come too, as transformers wants it; counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer1, self.act, self.layer2 = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor] | Tensor:
        logits = self.layer2(self.act(self.layer1(x)))
        if labels is None:
            return logits
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.fixture
def net() -> Net:
    return Net()


def samples(n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator)

"""``run.blocks`` against networks that say themselves what they add: their own tensors, their gradients, torch's arithmetic."""

import numpy as np
import pytest
import torch
from torch import nn

import spp


class Stage(nn.Module):
    """A residual block that keeps its merges, while somebody asks for them: the stream afterwards and the end of the branch."""

    asked: list | None = None

    def note(self, stream, branch):
        if Stage.asked is not None:
            for tensor in (stream, branch):
                tensor.retain_grad()
            Stage.asked.append((self, stream, branch))
        return stream


class PreActivation(Stage):
    def __init__(self, channels: int, dims: int = 2, stride: int = 1) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv1d, nn.BatchNorm1d)
        self.norm, self.conv = norm(channels), conv(channels, channels, 3, padding=1, stride=stride)
        self.short = conv(channels, channels, 1, stride=stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        branch = self.conv(torch.relu(self.norm(x)))
        return self.note((self.short(x) if self.conv.stride[0] > 1 else x) + branch, branch)


class PostActivation(Stage):
    """As He et al. 2015: the block's output is what the activation makes of the sum."""

    def __init__(self, channels: int, inplace: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.act = (
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace),
        )

    def forward(self, x):
        branch = self.norm(self.conv(x))
        return self.note(self.act(x + branch), branch)


class Written(Stage):
    """Adds in place."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(features), nn.Linear(features, features)

    def forward(self, x):
        branch = self.fc(self.norm(x))
        x = x.clone()
        x += branch
        return self.note(x, branch)


class Transformer(Stage):
    """Two merges in one block."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.one, self.mix, self.two = nn.LayerNorm(features), nn.Linear(features, features), nn.LayerNorm(features)
        self.up, self.down = nn.Linear(features, 2 * features), nn.Linear(2 * features, features)

    def forward(self, x):
        branch = self.mix(self.one(x))
        x = self.note(x + branch, branch)
        branch = self.down(torch.tanh(self.up(self.two(x))))
        return self.note(x + branch, branch)


class ThreeMerges(Stage):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(features, features) for _ in range(3))

    def forward(self, x):
        for part in self.parts:
            branch = part(torch.sin(x))
            x = self.note(x + branch, branch)
        return x


def images() -> torch.Tensor:
    return torch.randn(4, 6, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.3


def tokens() -> torch.Tensor:
    return torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0)) + 0.3


NETWORKS = {
    "pre-activation": (lambda: nn.Sequential(nn.Conv2d(6, 6, 1), *(PreActivation(6) for _ in range(3))), images),
    "post-activation": (lambda: nn.Sequential(nn.Conv2d(6, 6, 1), *(PostActivation(6) for _ in range(3))), images),
    "post-activation in place": (
        lambda: nn.Sequential(nn.Conv2d(6, 6, 1), *(PostActivation(6, True) for _ in range(2))),
        images,
    ),
    "a transition": (
        lambda: nn.Sequential(nn.Conv2d(6, 6, 1), PreActivation(6), PreActivation(6, stride=2), PreActivation(6)),
        images,
    ),
    "one dimension": (lambda: nn.Sequential(nn.Conv1d(5, 5, 1), PreActivation(5, 1), PreActivation(5, 1)), tokens),
    "in place": (lambda: nn.Sequential(nn.Linear(6, 6), Written(6), Written(6)), tokens),
    "transformer": (lambda: nn.Sequential(nn.Linear(6, 6), Transformer(6), Transformer(6), nn.LayerNorm(6)), tokens),
    "three merges": (lambda: nn.Sequential(nn.Linear(6, 6), ThreeMerges(6), nn.Linear(6, 3)), tokens),
    "mixed": (lambda: nn.Sequential(nn.Linear(6, 6), Written(6), Transformer(6), ThreeMerges(6)), tokens),
    "nested": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Sequential(Written(6), nn.Sequential(Transformer(6)))),
        tokens,
    ),
}


def split(tensor: torch.Tensor, axis: int) -> tuple[float, float]:
    """ACSM and ACV by torch in float64."""
    flat = tensor.detach().double().movedim(axis, 0).flatten(1)
    return float(flat.mean(1).square().mean()), float(flat.var(1, unbiased=False).mean())


def recomputed(model: nn.Module, x: torch.Tensor, seed: int) -> list[dict[str, float | str]]:
    names = {module: name for name, module in model.named_modules()}
    Stage.asked = []
    try:
        output = model(x)
        cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
        output.backward(cotangent)
        found, numbers = [], {}
        for block, stream, branch in Stage.asked:
            axis = -1 if any(isinstance(m, nn.Linear) for m in block.modules()) else 1
            row = {"block": names[block], "merge": numbers.setdefault(block, 0)}
            numbers[block] += 1
            row["acsm"], row["acv"] = split(stream, axis)
            row["branch_acv"] = split(branch, axis)[1]
            row["gradient_acsm"], row["gradient_acv"] = split(stream.grad, axis)
            row["gradient_branch_acv"] = split(branch.grad, axis)[1]
            found.append(row)
    finally:
        Stage.asked = None
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_merge_is_what_the_network_added(name):
    make, batch = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    blocks = spp.trace(model, batch(), seed=5).blocks
    expected = recomputed(model, batch(), seed=5)
    assert blocks[["block", "merge"]].to_numpy().tolist() == [[row["block"], row["merge"]] for row in expected]
    for column in ("acsm", "acv", "branch_acv", "gradient_acsm", "gradient_acv", "gradient_branch_acv"):
        wanted = [row[column] for row in expected]
        np.testing.assert_allclose(blocks[column], wanted, rtol=2e-5, atol=1e-12, err_msg=column)


@pytest.mark.parametrize("name", ["pre-activation", "transformer", "three merges"])
def test_merges_of_several_batches_are_those_of_all_of_them(name):
    make, batch = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make().eval(), batch()
    parts = spp.trace(model, [x[:1], x[1:3], x[3:]], loss=lambda y, _: y.sum()).blocks
    whole = spp.trace(model, x, loss=lambda y, _: y.sum()).blocks
    for column in ("acsm", "acv", "branch_acv", "gradient_acsm", "gradient_acv", "gradient_branch_acv"):
        np.testing.assert_allclose(parts[column], whole[column], rtol=1e-5, atol=1e-12, err_msg=column)

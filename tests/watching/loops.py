"""Training loops of every kind, run twice from the same seed: once watched, once not."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import spp


class Net(nn.Module):
    """Convolution, BatchNorm, in-place ReLU, a residual block, dropout; checkpointed where asked for."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(4 * 25, 5)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)
        x = x + inner
        return self.head(self.drop(x).flatten(1))


def plain() -> nn.Module:
    """A network whose samples do not see each other: no norm over the batch, no dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8), nn.Linear(8, 5)
    )


def batches(steps: int, n: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(n, 3, 5, 5, generator=generator), torch.randint(0, 5, (n,), generator=generator))
        for _ in range(steps)
    ]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 7,
    *,
    accumulate: int = 1,
    autocast: bool = False,
    scaler: Any = None,
    after: Callable[[int], None] = lambda step: None,
    call: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[float]:
    """An ordinary training loop; the losses of its micro-batches."""
    losses, call = [], model if call is None else call
    for step, (images, labels) in enumerate(batches(steps)):
        optimizer.zero_grad()
        for x, y in zip(images.to(dtype).chunk(accumulate), labels.chunk(accumulate), strict=True):
            with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                loss = nn.functional.cross_entropy(call(x), y) / accumulate
            losses.append(loss.item())
            (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        after(step)
    return losses


def state(model: nn.Module) -> list[Tensor]:
    """Every parameter and buffer, and the random state."""
    return [t.detach().clone() for t in model.state_dict().values()] + [torch.get_rng_state()]


def twice(
    build: Callable[[], nn.Module],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    *,
    watch: dict[str, Any] | None = None,
    with_optimizer: bool = True,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    scaler: Callable[[], Any] = lambda: None,
    **loop: Any,
) -> spp.Watch:
    """Train without and with a watch; assert that losses, weights and random state are bit-identical; return the watch."""
    results = []
    for watched in (False, True):
        torch.manual_seed(3)
        model = build()
        step = optimizer(model.parameters())
        called = wrap(model)
        if not watched:
            results.append((train(model, step, call=called, scaler=scaler(), **loop), state(model)))
            continue
        before = fingerprint(called, step)
        with spp.watch(called, step if with_optimizer else None, **{"every": 3, **(watch or {})}) as seen:
            results.append((train(model, step, call=called, scaler=scaler(), **loop), state(model)))
        assert fingerprint(called, step) == before
    (losses, states), (watched_losses, watched_states) = results
    assert losses == watched_losses
    assert all(torch.equal(a, b) for a, b in zip(states, watched_states, strict=True))
    return seen


def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[object]:
    """What a watch could leave behind: attributes, hooks, torch's own functions."""
    found: list[object] = [
        nn.Module.__call__,
        torch.autograd.backward,
        torch.amp.GradScaler.scale,
        torch.amp.GradScaler.update,
        torch.Tensor.__add__,
        len(optimizer._optimizer_step_pre_hooks),
        len(optimizer._optimizer_step_post_hooks),
    ]
    for module in model.modules():
        hooks = (len(v) for k, v in module.__dict__.items() if k.endswith("hooks") and v is not None)
        found += [sorted(module.__dict__), *hooks]
    found += [p._backward_hooks for p in model.parameters()]
    return found

"""What each of two processes runs: the same training as a single process, on its half of every batch, watched.

    torchrun --nproc-per-node 2 worker.py FOLDER

Each case writes what the first rank has to ``FOLDER/<case>.frame.parquet`` and ``.blocks.parquet``; asserts hold on both ranks.
"""

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

import spp

STEPS, BATCH = 3, 8


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width + 1),
            nn.Linear(2 * width + 1, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """No norm over the batch, no dropout; odd widths, so that shards are uneven; a bounded activation; a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bound = nn.Conv1d(2, 7, 3, padding=1), nn.Tanh()
        self.blocks = nn.Sequential(Block(7), Block(7))
        self.frozen, self.head = nn.Linear(7, 7), nn.Linear(7, 3)
        self.frozen.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bound(self.stem(x)).transpose(1, 2)
        return self.head(self.frozen(self.blocks(x)).mean(1) * self.scale)


def build(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return Net().to(dtype)


def batch(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 2, 5, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 3, (BATCH,), generator=generator)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, dtype: torch.dtype, part: slice, accumulate: int = 1
) -> list[Tensor]:
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        x, y = (t[part] for t in batch(step, dtype))
        for a, b in zip(x.chunk(accumulate), y.chunk(accumulate), strict=True):
            loss = nn.functional.cross_entropy(model(a), b) / accumulate
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
        if step == 1:
            model.eval()
            with torch.no_grad():
                model(x)
            model.train()
    return losses


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model)


def fsdp(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def plain(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


CASES = {
    f"{name}-{dtype}{'-accumulated' if accumulate > 1 else ''}": (wrap, getattr(torch, dtype), accumulate)
    for name, wrap in (("ddp", ddp), ("fsdp", fsdp))
    for dtype in ("float64", "float32")
    for accumulate in ((1, 2) if dtype == "float64" else (1,))
}


def case(name: str, folder: Path, rank: int) -> None:
    wrap, dtype, accumulate = CASES[name]
    part = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    results = []
    for watched in (False, True):
        model = wrap(build(dtype))
        optimizer = sgd(model)
        if not watched:
            losses = train(model, optimizer, dtype, part, accumulate)
        else:
            path = folder / f"{name}.run"
            with spp.watch(model, optimizer, every=1, path=path, flush=0) as watch:
                losses = train(model, optimizer, dtype, part, accumulate)
        results.append([*losses, *(plain(p).detach().clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), name
    if rank:
        assert watch.frame.empty
    else:
        watch.frame.to_parquet(folder / f"{name}.frame.parquet")
        watch.blocks.to_parquet(folder / f"{name}.blocks.parquet")
        assert spp.load(path).run["ranks"] == 2


def refused(folder: Path, rank: int) -> None:
    """What the first rank cannot write to is an error on every rank, and nobody waits for anybody."""
    if rank == 0:
        (folder / "taken").write_text("mine")
    dist.barrier()
    model = ddp(build(torch.float32))
    try:
        spp.watch(model, sgd(model), path=folder / "taken").start()
    except spp.errors.StoreError as error:
        assert "got a file" in str(error)
    else:
        raise AssertionError("nothing was raised")


def fails_on_one(rank: int) -> None:
    """A rank whose measuring fails ends the watching of all, and the training goes on."""
    results = []
    for watched in (False, True):
        model = ddp(build(torch.float32))
        optimizer = sgd(model)
        part = slice(rank * 4, rank * 4 + 4)

        def axis(module: nn.Module, tensor: Tensor) -> int:
            if rank == 1:
                raise RuntimeError("broken here")
            return -1

        if not watched:
            losses = train(model, optimizer, torch.float32, part)
        else:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with spp.watch(model, optimizer, every=1, channel_axis=axis):
                    losses = train(model, optimizer, torch.float32, part)
            messages = [str(w.message) for w in caught if issubclass(w.category, spp.SppWarning)]
            expected = "failed on another rank" if rank == 0 else "broken here"
            assert len(messages) == 1 and expected in messages[0], messages
        results.append([*losses, *(p.detach().clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class Computed(nn.Module):
    """Calls a part of itself with weights that it computes, nested, and has two modules of one name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.a = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Module()
        self.a.b, self._modules["a.b"] = nn.Linear(4, 4), nn.Linear(4, 4)
        self.computes = True

    def twofold(self, x: Tensor) -> Tensor:
        return functional_call(self.inner, {k: 2 * v for k, v in self.inner.named_parameters()}, (x,))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.twofold(x) if self.computes else self.inner(x)
        return self.a.b(inner) + self._modules["a.b"](inner)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Computed()

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.net, {k: 3 * v for k, v in self.net.named_parameters()}, (x,))


def computed(rank: int) -> None:
    """Weights that are computed are the same on every rank, and are one row, as are those of each module of one name."""
    for build, factor, prefix in ((Computed, 2.0, ""), (Around, 6.0, "net.")):
        torch.manual_seed(0)
        model = build()
        before = model.get_submodule(f"{prefix}inner.0").weight.detach().clone()
        optimizer = sgd(model)
        with spp.watch(model, optimizer, every=1) as watch:
            model(torch.randn(rank + 2, 4)).square().mean().backward()
            optimizer.step()
        if rank == 0:
            frame = watch.frame.set_index(["name", "signal", "output"])
            row = frame.loc[(f"{prefix}inner.0", "weight", "weight")]
            assert row["numel"].item() == 16
            torch.testing.assert_close(
                row["mean_square"].item(), float((before * factor).square().mean()), rtol=1e-5, atol=0
            )
            for name in ("a.b", "a.b#2"):
                assert frame.loc[(prefix + name, "activation", "")]["numel"].item() == 5 * 4, frame
                assert frame.loc[(prefix + name, "weight", "weight")]["numel"].item() == 16


def stays_local(rank: int) -> None:
    """A trace on one rank asks nobody and is about that rank's batch alone."""
    model = build(torch.float32)
    if rank == 0:
        frame = spp.trace(model, batch(0, torch.float32)).frame
        assert frame.query("name == 'stem' and signal == 'activation'")["numel"].item() == BATCH * 7 * 5


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name in CASES:
        case(name, folder, rank)
    refused(folder, rank)
    fails_on_one(rank)
    computed(rank)
    stays_local(rank)
    dist.barrier()
    dist.destroy_process_group()
    print("done", rank, flush=True)


if __name__ == "__main__":
    main()

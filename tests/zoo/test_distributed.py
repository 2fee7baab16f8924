"""Two processes over gloo: the steps before and after a trace are those of an untraced twin.

A trace of DistributedDataParallel sends nothing. One of FSDP2 has the rows of what lies here, however the pass ends.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

WORKER = textwrap.dedent(
    """
    import sys, warnings
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel as DDP
    import spp

    rank, where = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
    if not dist.is_initialized():
        sys.exit(3)

    def build(**options):
        torch.manual_seed(0)
        return DDP(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 4)), **options)

    def step(model, seed):
        torch.manual_seed(100 * seed + rank)
        output = model(torch.randn(5, 6))
        output.square().mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        seen = [output.detach().clone(), *(p.grad.clone() for p in model.parameters()), *(b.clone() for b in model.buffers())]
        model.zero_grad()
        return seen

    for options in ({}, {"find_unused_parameters": True}, {"gradient_as_bucket_view": True}, {"static_graph": True}):
        twin, traced = build(**options), build(**options)
        for seed in range(3):
            wanted, got = step(twin, seed), step(traced, seed)
            assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True)), (options, seed)
            torch.manual_seed(rank)
            batch = torch.randn(5, 6)
            if rank == 0:  # alone: nobody answers
                alone, both = spp.trace(traced.module, batch).frame, spp.trace(traced, batch).frame
                a, b = (f[f["signal"] == "weight_gradient"]["mean_square"].tolist() for f in (alone, both))
                assert a == b and len(a) == 6, (a, b)  # this rank's own gradients, no average
            if seed == 1:
                spp.trace(traced, batch)

    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (2,))
    everything = ("activation", "gradient", "weight", "weight_gradient")
    batch = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 7), nn.Sequential(nn.Tanh(), nn.Linear(7, 5)), nn.LayerNorm(5), nn.Linear(5, 3))

    def sharded():
        model = network()
        model[3].requires_grad_(False)
        fully_shard(model[1], mesh=mesh)
        return fully_shard(model, mesh=mesh)

    def fails(*_):
        raise ArithmeticError("no")

    def train(model, optimizer):
        for _ in range(2):
            loss = model(batch).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return [loss.detach(), *(p.to_local().clone() for p in model.parameters())]

    whole = spp.trace(network(), batch).frame.set_index(["name", "output", "signal"])
    for before, options in (
        ("", {}),
        ("", {"signals": ["activation"]}),
        ("", {"loss": fails}),
        ("evaluated", {}),
        ("trained", {"batches": 2}),
        ("evaluated", {"signals": ["weight"]}),
    ):
        twin, traced = sharded(), sharded()
        optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (twin, traced)]
        for model, optimizer in zip((twin, traced), optimizers):
            if before == "trained":
                train(model, optimizer)
            elif before:
                with torch.no_grad():
                    model(batch)  # leaves whole parameters in the root
        given = iter([batch, batch]) if "batches" in options else batch
        try:
            run = spp.trace(traced, given, **options)
        except spp.TraceError as error:
            run = error.partial
        assert all(isinstance(p, DTensor) and p.grad is None for p in traced.parameters()), (before, options)
        frame = run.frame[run.frame["signal"].str.startswith("weight")].set_index(["name", "output", "signal"])
        wanted = {s for s in options.get("signals", everything) if s.startswith("weight") and not (s[6:] and "loss" in options)}
        assert set(frame.index.get_level_values("signal")) == wanted, (before, options)
        for place in frame.index if before != "trained" else ():
            row = frame.loc[place]
            sums = torch.tensor([row["numel"], row["numel"] * row["mean_square"] if row["numel"] else 0.0], dtype=torch.float64)
            dist.all_reduce(sums)
            numel, mean_square = whole.loc[place, ["numel", "mean_square"]]
            assert sums[0] == numel and abs(sums[1] / numel - mean_square) <= 1e-6 * mean_square, (place, sums)
        reasons = set(run.unmeasured["reason"])
        assert not [r for r in reasons if "does not depend" in r], reasons
        for a, b in zip(train(twin, optimizers[0]), train(traced, optimizers[1]), strict=True):
            assert torch.equal(a, b), (before, options)
    dist.barrier()
    dist.destroy_process_group()
    print("done", rank)
    """
)


def test_a_trace_among_several_processes(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), str(rank), str(tmp_path / "meeting")],
            cwd=ROOT,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [w.communicate(timeout=120) for w in workers]
    finally:
        for worker in workers:
            worker.kill()
    for rank, (out, err) in enumerate(outputs):
        assert out.strip().endswith(f"done {rank}"), err[-3000:]


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

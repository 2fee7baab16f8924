"""DistributedDataParallel over gloo: a trace sends nothing, and the steps before and after it are those of an untraced twin."""

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
    dist.barrier()
    dist.destroy_process_group()
    print("done", rank)
    """
)


def test_distributed_data_parallel(tmp_path):
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

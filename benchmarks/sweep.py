"""Traces one small member of every torchvision and timm classification family and prints what came of it.

    python benchmarks/sweep.py --out sweep.jsonl              # resumes where an earlier run stopped
    python benchmarks/sweep.py --out sweep.jsonl --minutes 15

Each family is built twice from one seed; one of the two is traced, then both take an ordinary training step on the same
batch. "Bit-identical" says that outputs, loss, every gradient, every updated parameter and every buffer agree to the bit.
Families run in a worker process; one that dies or hangs is noted and the next worker goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CLASSES = 10
LARGEST = 140_000_000
"""Families whose smallest member has more parameters are left out, with the reason."""
SMALLNESS = (
    "atto",
    "femto",
    "pico",
    "nano",
    "xxtiny",
    "xtiny",
    "tiny",
    "xxs",
    "_xs",
    "mini",
    "small",
    "_s_",
    "lite",
    "025",
    "050",
    "b0",
    "_18",
    "18",
)
"""Parts of names that small members carry, the smallest first."""


SHALLOW: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": {"depth": 2, "img_size": 224},
    "gemma4_vit_167m_enc": {"depth": 2, "img_size": 192},
}
"""Families that have large members only are built with fewer layers."""


def families() -> Iterator[tuple[str, str, list[str]]]:
    """``(library, family, members)``, members that are likely small first."""
    from tests import foreign

    models = foreign.torchvision().models
    grouped: dict[str, list[str]] = {}
    for name in models.list_models(module=models):
        grouped.setdefault(models.get_model_builder(name).__module__.rpartition(".")[2], []).append(name)
    yield from (("torchvision", family, _small_first(members)) for family, members in sorted(grouped.items()))
    timm = foreign.timm()
    for family in sorted(timm.list_modules()):
        members = timm.list_models(module=family)
        if members:
            yield "timm", family, _small_first(members)


def _small_first(names: list[str]) -> list[str]:
    def rank(name: str) -> tuple[int, int, str]:
        found = [i for i, part in enumerate(SMALLNESS) if part in name]
        return (len(SMALLNESS) * name.startswith("test_") + (found[0] if found else len(SMALLNESS)), len(name), name)

    return sorted(names, key=rank)


def build(library: str, name: str) -> nn.Module:
    from tests import foreign

    torch.manual_seed(0)
    if library == "timm":
        return foreign.timm().create_model(name, num_classes=CLASSES, **SHALLOW.get(name, {}))
    changes: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return foreign.torchvision().models.get_model(name, weights=None, num_classes=CLASSES, **changes)


def smallest(library: str, members: list[str], looked_at: int = 6) -> tuple[str, int]:
    """The member with the fewest parameters among the likely small ones, counted without allocating them."""
    counts: dict[str, int] = {}
    for name in members[:looked_at]:
        try:
            with torch.device("meta"):
                counts[name] = sum(p.numel() for p in build(library, name).parameters())
        except Exception:  # some constructors compute with real numbers
            model = build(library, name)
            counts[name] = sum(p.numel() for p in model.parameters())
    real = {n: c for n, c in counts.items() if not n.startswith("test_")}
    name = min(real or counts, key=lambda n: counts[n])
    return name, counts[name]


def sizes(model: nn.Module) -> list[tuple[int, int, int]]:
    """Input shapes to try: a small one where the network takes any, then its own."""
    config = getattr(model, "default_cfg", {}) or {}
    if (changes := SHALLOW.get(config.get("architecture", ""))) is not None:
        return [(3, changes["img_size"], changes["img_size"])]
    own = tuple(config.get("input_size", (3, 224, 224)))
    return [own] if config.get("fixed_input_size") else [(own[0], 128, 128), own, (own[0], 299, 299)]


def step(model: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    """One ordinary SGD step; everything it gave, in order."""
    from spp._pytree import tensors_in

    torch.manual_seed(1)
    outputs = [t for _, t in tensors_in(model(inputs)) if t.is_floating_point()]
    loss = sum(t.float().square().mean() for t in outputs)
    loss.backward()
    parameters = list(model.parameters())
    gradients = [torch.zeros(()) if p.grad is None else p.grad for p in parameters]
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    return [*outputs, loss, *gradients, *parameters, *model.buffers()]


def identical(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and x.dtype == y.dtype and x.detach().numpy().tobytes() == y.detach().numpy().tobytes()
        for x, y in zip(a, b, strict=True)
    )


def examine(library: str, family: str, members: list[str]) -> dict[str, Any]:
    """One line of the table."""
    import spp

    row: dict[str, Any] = {"library": library, "family": family}
    try:
        row["member"], row["parameters"] = smallest(library, members)
        if row["parameters"] > LARGEST:
            return row | {"note": f"smallest member has {row['parameters'] / 1e6:.0f} M parameters"}
        untraced, traced = build(library, row["member"]), build(library, row["member"])
    except Exception as error:
        return row | {"note": f"cannot be built here: {type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    problem = ""
    for shape in sizes(untraced):
        torch.manual_seed(2)
        inputs = torch.randn(2, *shape)
        try:
            wanted = step(untraced, inputs)
        except Exception as error:
            problem = f"does not run here: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
            untraced = build(library, row["member"])
            continue
        row["input"] = "x".join(map(str, shape))
        started = time.perf_counter()
        try:
            trace = spp.trace(traced, inputs)
        except Exception as error:
            return row | {"traced": False, "note": f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"}
        row["seconds"] = round(time.perf_counter() - started, 2)
        reasons = trace.unmeasured["reason"].value_counts()
        return row | {
            "traced": True,
            "identical": identical(wanted, step(traced, inputs)),
            "rows": len(trace.frame),
            "merges": len(trace.blocks),
            "unmeasured": int(reasons.sum()),
            "reasons": {str(k): int(v) for k, v in reasons.items()},
        }
    return row | {"note": problem}


def work(out: Path) -> None:
    """Append the lines that are missing from ``out``."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = {(r["library"], r["family"]) for r in read(out)}
    for library, family, members in families():
        if (library, family) in known:
            continue
        print(f"> {library} {family}", flush=True)
        row = examine(library, family, members)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def sweep(out: Path, minutes: float, patience: float) -> None:
    """Run workers until every family has its line or the time is over."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        worker = subprocess.Popen(
            [sys.executable, __file__, "--work", "--out", str(out)], stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout is not None
        current, reason = watch(worker, out, end, patience)
        if not reason:
            return
        if current and time.monotonic() < end:
            library, family = current
            with out.open("a") as file:
                file.write(json.dumps({"library": library, "family": family, "traced": False, "note": reason}) + "\n")


def watch(worker: subprocess.Popen[str], out: Path, end: float, patience: float) -> tuple[tuple[str, str] | None, str]:
    """Follow one worker; the family it was at and why it ended early ("" when it is done)."""
    import selectors

    assert worker.stdout is not None
    current: tuple[str, str] | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        while True:
            limit = min(end, time.monotonic() + patience)
            if not selector.select(max(0.0, limit - time.monotonic())):
                worker.kill()
                worker.wait()
                return current, f"no result within {patience:.0f} s"
            line = worker.stdout.readline()
            if not line:
                code = worker.wait()
                return current, f"the process ended with status {code}" if code else ""
            if line.startswith("> "):
                library, family = line[2:].split()
                current = library, family
                print(line.rstrip(), flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """The lines as a Markdown table."""
    lines = [
        "| library | family | member | input | traced | bit-identical | seconds | merges | unmeasured |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: (r["library"] != "torchvision", r["family"])):
        if "traced" not in r:
            lines.append(f"| {r['library']} | {r['family']} | {r.get('member', '')} | | {r['note']} | | | | |")
            continue
        traced = "yes" if r["traced"] else f"no: {r.get('note', '')}"
        same = "" if "identical" not in r else "yes" if r["identical"] else "NO"
        layers = f", {SHALLOW[r['member']]['depth']} layers" if r.get("member") in SHALLOW else ""
        lines.append(
            f"| {r['library']} | {r['family']} | {r.get('member', '')}{layers} | {r.get('input', '')} | {traced} | {same} "
            f"| {r.get('seconds', '')} | {r.get('merges', '')} | {r.get('unmeasured', '')} |"
        )
    traced = [r for r in rows if r.get("traced")]
    lines.append("")
    lines.append(
        f"{len(rows)} families: {len(traced)} traced, {sum(r['identical'] for r in traced)} of them bit-identical, "
        f"{sum('traced' not in r for r in rows)} that this machine cannot build or run, "
        f"{sum(r.get('traced') is False for r in rows)} failed."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("sweep.jsonl"), help="lines of results; an earlier run is resumed"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long")
    parser.add_argument("--patience", type=float, default=180.0, help="seconds that one family may take")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.out)
        return
    sweep(options.out, options.minutes, options.patience)
    print(table(read(options.out)))


if __name__ == "__main__":
    main()

"""Remedies as they are printed, on the sick networks of ``sick.py``: is the finding gone, and what came instead.

    python benchmarks/remedies.py                  # every one; a line for each that fails, the counts, remedies.json
    python benchmarks/remedies.py --only "*GPT*"   # some

What stands between the backticks of a finding's first remedy is executed on a copy, with ``spp``, ``torch``, ``model``,
``batch`` and ``run`` at hand, and the copy is traced again. Remedies of words alone are counted, not tried.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import sick
import torch

import spp
from spp.diagnosis import Findings, Remedy
from tests.bench_sick.bench import put, where
from tests.bench_sick.patients import PATIENTS, Patient


def applied(model: torch.nn.Module, one: Remedy, batch: Any, run: spp.Run) -> torch.nn.Module:
    """A copy of the model on which the Python of a remedy was executed as it is printed."""
    copy = deepcopy(model)
    exec(one.command({}), {"spp": spp, "torch": torch, "model": copy, "batch": batch, "run": run})
    return copy


def rules(found: Findings) -> set[str]:
    return {finding.rule for finding in found.worst("warning")}


def tried(patient: Patient) -> dict[str, Any]:
    """What became of the patient: ``untold``, ``words``, ``healed``, ``stays``, ``brings`` or ``fails``, with why."""
    torch.manual_seed(0)
    model, batch, *loss = patient.make()
    options = dict(zip(("loss",), loss, strict=False)) | dict(patient.options)
    run = spp.trace(model, batch, **options)
    finding = next((f for f in run.findings.worst("warning") if f.rule == patient.rule), None)
    if finding is None:
        return {"became": "untold", "remedy": "", "why": ""}
    one = next(iter(finding.remedies), None)
    if one is None or not one.command({}) or one.change is None:
        return {"became": "words", "remedy": finding.remedy, "why": ""}
    row = {"remedy": one.command({}), "why": ""}
    torch.manual_seed(0)
    try:
        after = spp.trace(applied(model, one, batch, run), batch, **options).findings
    # what the printed words do to a network is the result
    except Exception as error:
        return row | {"became": "fails", "why": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    brought = rules(after) - rules(run.findings)
    left = [f for f in after.worst("warning") if f.rule in brought | {patient.rule}]
    became = "stays" if patient.rule in rules(after) else "brings" if brought else "healed"
    return row | {"became": became, "why": ", ".join(f"`{f.rule}` {where(f.name)}" for f in left[:3])}


def tables(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By rule, and every network on which the first remedy does not do it."""
    counts = []
    for rule in dict.fromkeys(row["rule"] for row in rows):
        own = [row["became"] for row in rows if row["rule"] == rule]
        typed = [one for one in own if one not in ("untold", "words")]
        share = f"{typed.count('healed')} of {len(typed)}" if typed else "words alone" if "words" in own else "not told"
        counts.append(f"| `{rule}` | {len(own)} | {own.count('words')} | {share} |")
    failed = [
        f"| {row['disease']} | `{row['rule']}` | `{row['remedy']}` | {row['became']}: {row['why']} |"
        for row in rows
        if row["became"] in ("stays", "brings", "fails")
    ]
    return {"REMEDY COUNTS": counts, "REMEDY FAILURES": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="glob over what was done")
    parser.add_argument("--out", type=Path, default=Path("remedies.json"))
    parser.add_argument("--page", action="store_true", help="write the tables into docs/benches.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows, begin = [], time.process_time()
    for patient in (*PATIENTS, *sick.FAMILIES):
        if not fnmatch.fnmatchcase(patient.disease, args.only):
            continue
        rows.append(row := {"disease": patient.disease, "rule": patient.rule, **tried(patient)})
        if row["became"] != "healed":
            print(f"{row['became']}: {row['disease']} | {row['rule']} | {row['remedy']} | {row['why']}", flush=True)
    args.out.write_text(json.dumps(rows, indent=1))
    if args.page:
        put(sick.ROOT / "docs" / "benches.md", tables(rows))
    made = [row["became"] for row in rows if row["became"] not in ("untold", "words")]
    print(
        f"{made.count('healed')} of {len(made)} healed, of {len(rows)} networks; {time.process_time() - begin:.0f} s of CPU"
    )


if __name__ == "__main__":
    main()

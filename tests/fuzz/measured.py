"""A trace and a watch of a random network against plain hooks on its twin, in float64 NumPy."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import spp
from tests.fuzz.networks import Case
from tests.oracle import array, columns
from tests.zoo.fingerprint import unmoved
from tests.zoo.harness import same, seeded, square, step

Key = tuple[str, int, str, str]

ENDS: dict[str, tuple[float, float]] = {"Sigmoid": (0, 1), "Tanh": (-1, 1), "Hardtanh": (-1, 1), "ReLU6": (0, 6)}
"""Between which values the output of a bounded activation lies."""
EXACT = ("channels", "numel", "nonfinite", "nan", "posinf", "neginf", "min", "max", "abs_max", "called")
EXACT_TEXT = ("shape", "dtype", "type", "leaf")


def found_in(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a module gives out."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from found_in(item, f"{path}.{key}" if path else str(key))


def _cloned(value: Any) -> Any:
    """The same, each view by itself."""
    if isinstance(value, Tensor):
        return value.clone() if value._is_view() else value
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return type(value)(map(_cloned, value)) if isinstance(value, list | tuple) else value


class Ear:
    """Hooks on every module of a twin that copy outputs, and hooks on these that copy gradients.

    Args:
        model: The twin.
        apart: Whether views are replaced by copies, so that what is written into them later is written elsewhere.

    Attributes:
        seen: What each batch gave, by key.
        calls: How many batches made a call.
        facts: Of each output: whether it needs a gradient, whether it is a view, its shape, dtype and order.
        other: Outputs that are tensors without a float in them.
    """

    def __init__(self, model: nn.Module, apart: bool = False) -> None:
        self.model, self.apart = model, apart
        self.seen: dict[Key, list[np.ndarray]] = {}
        self.facts: dict[Key, dict[str, Any]] = {}
        self.called: Counter[tuple[str, int]] = Counter()
        self.other: dict[Key, torch.dtype] = {}
        self.types = dict(model.named_modules())
        self.armed, self.listening, self.order, self.ran = False, False, 0, False
        self.other_twin: Ear | None = None
        self.alone, self.loss = True, math.nan
        self._number: Counter[str] = Counter()
        self._got: dict[Key, np.ndarray] = {}
        self._given: list[tuple[Key, Tensor, int]] = []
        self._handles = [m.register_forward_hook(self._hook(n)) for n, m in self.types.items()]

    def _hook(self, name: str) -> Any:
        owner, _, weight = name.partition(".parametrizations.")

        def hook(_module: nn.Module, _args: object, output: Any) -> Any:
            if not self.listening:
                return None
            number, self._number[name] = self._number[name], self._number[name] + 1
            self.called[name, number] += 1
            output = _cloned(output) if self.apart else output
            for path, tensor in found_in(output):
                key = (
                    (owner, number, weight, "weight")
                    if weight and "." not in weight
                    else (name, number, path, "activation")
                )
                key = (*key[:3], "weight") if weight else key
                if not tensor.is_floating_point():
                    self.other[key] = tensor.dtype
                    continue
                # what a parametrization makes does not change between batches
                if not (weight and key in self.seen):
                    self.seen.setdefault(key, []).append(array(tensor))
                self.facts.setdefault(
                    key,
                    {
                        "graph": tensor.requires_grad,
                        "view": tensor._is_view(),
                        "always a view": tensor._is_view(),
                        "shape": "x".join(map(str, tensor.shape)),
                        "dtype": str(tensor.dtype).removeprefix("torch."),
                        "depth": self.order,
                        "written": False,
                    },
                )
                self.facts[key]["graph"] |= tensor.requires_grad
                self.facts[key]["view"] |= tensor._is_view()
                self.facts[key]["always a view"] &= tensor._is_view()
                # shares its version counter with the output, and no graph
                self._given.append((key, tensor.detach(), tensor._version))
                if tensor.requires_grad:
                    tensor.grad_fn  # noqa: B018  (register_hook on some views crashes without)
                    signal = "weight_gradient" if weight else "gradient"
                    tensor.register_hook(self._receive((*key[:3], signal)))
            self.order += 1
            return output if self.apart else None

        return hook

    def _receive(self, key: Key) -> Any:
        def receive(gradient: Tensor | None) -> None:
            if self.armed and gradient is not None:
                self._got[key] = array(gradient)

        return receive

    def run(self, batch: tuple[Tensor], clear: bool = True) -> Tensor:
        """One forward and backward, heard."""
        self._number.clear()
        for parameter in self.model.parameters() if clear else ():
            parameter.grad = None
        self.listening = True
        loss = square(self.model(*batch))
        self.listening = False
        for key, tensor, version in self._given:
            self.facts[key]["written"] |= tensor._version != version
        self._given.clear()
        self.weights()
        self.armed = True
        if loss.requires_grad:
            loss.backward()
        self.armed = False
        for name, parameter in self.parameters():
            if parameter.grad is not None:
                self.seen.setdefault((*name, "weight_gradient"), []).append(array(parameter.grad))
        for key, value in self._got.items():
            self.seen.setdefault(key, []).append(value)
        self._got.clear()
        self.ran = loss.requires_grad
        return loss

    def weights(self) -> None:
        for name, parameter in self.parameters():
            self.seen.setdefault((*name, "weight"), [array(parameter)])
            self.facts[*name, "weight"] = {"graph": parameter.requires_grad, "parameter": True}

    def parameters(self) -> Iterator[tuple[tuple[str, int, str], nn.Parameter]]:
        for name, module in self.types.items():
            for own, parameter in module._parameters.items():
                if parameter is not None:
                    yield (name, 0, own), parameter

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


class Difference(AssertionError):
    """A trace says something else than the hooks."""


def expect(holds: Any, *what: object) -> None:
    if not holds:
        raise Difference(" ".join(map(str, what)))


def channels_first(arrays: list[np.ndarray], axis: int | None) -> np.ndarray:
    """The arrays of several batches as one, (C, elements)."""
    parts = [
        np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) if axis is not None and a.ndim else a.reshape(1, -1)
        for a in arrays
    ]
    return np.concatenate(parts, 1)


def numbers(arrays: list[np.ndarray], axis: int | None, ends: tuple[float, float] | None) -> dict[str, float]:
    """Every column of a row."""
    x = channels_first(arrays, axis)
    finite = x[np.isfinite(x)]
    out = columns(x, 0)
    out |= {"nan": int(np.isnan(x).sum()), "posinf": int((x == math.inf).sum()), "neginf": int((x == -math.inf).sum())}
    out["saturated_fraction"] = math.nan
    if ends is not None and finite.size:
        margin = 0.01 * max(map(abs, ends))
        out["saturated_fraction"] = float(((finite <= ends[0] + margin) | (finite >= ends[1] - margin)).mean())
    return out


def same_numbers(row: dict[str, Any], wanted: dict[str, float], where: object, native: bool) -> None:
    """One row against its recomputation: counts and ends exactly, sums to what float64 can tell (the reference: 1e-6)."""
    relative, least = (1e-9, 1e-12) if native else (1e-6, 1e-9)
    for name in EXACT:
        if name in wanted:
            a, b = row[name], wanted[name]
            expect(a == b or (pd.isna(a) and pd.isna(b)), where, name, a, "is not", b)
    square, rms = wanted["mean_square"], wanted["rms"]
    for name, absolute in (
        *((n, least * square) for n in ("var", "acsm", "acv", "mean_square")),
        ("rms", least * rms),
        ("mean", relative * rms),
        ("std", math.sqrt(least) * rms),
        *((n, 0.0) for n in ("zero_fraction", "dead_fraction", "saturated_fraction")),
    ):
        a, b = float(row[name]), float(wanted[name])
        expect(
            abs(a - b) <= absolute + relative * abs(b) or (math.isnan(a) and math.isnan(b)), where, name, a, "is not", b
        )


def axis_of(case: Case, key: Key, ear: Ear, rank: int, override: bool) -> int | None:
    """Where the channels of a tensor lie, as the documentation says and the generator knows."""
    name, _, output, signal = key
    if not rank:
        return None
    if signal.startswith("weight"):
        owner = ear.types[name]
        transposed = isinstance(owner, nn.ConvTranspose2d) and rank > 1 and output.startswith("weight")
        return 1 if transposed else 0
    if override:
        return 1 if rank >= 3 else rank - 1
    if rank <= 2:
        return rank - 1
    if isinstance(ear.types[name], nn.MultiheadAttention | nn.GRU | nn.LSTM):
        return rank - 1
    return case.axes[name or f":{output}"]


def override(module: nn.Module, tensor: Tensor) -> int:
    return 1 if tensor.dim() >= 3 else tensor.dim() - 1


def heard(case: Case, apart: bool = False) -> tuple[Ear, nn.Module]:
    """What hooks hear of a twin."""
    model = case.build()
    ear = Ear(model, apart)
    seeded()
    for batch in case.batches():
        ear.run(batch)
    ear.close()
    return ear, model


def examine(case: Case, number: int, reasons: Counter[str]) -> int:
    """Trace the network of a case and compare every row; returns how many rows were compared, -1 for a broken network.

    Raises:
        Difference: Something differs.
    """
    try:
        ear, _ = heard(case)
    except RuntimeError as broken:
        refused(case, broken)
        return -1
    given = number % 3 == 0
    options: dict[str, Any] = {"channel_axis": override} if given else {}
    model, batches = case.build(), case.batches()
    batch: Any = batches if len(batches) > 1 else batches[0]
    seeded()
    with unmoved(model, batch):
        run = spp.trace(model, batch, loss=square, **options)
    seeded()
    second = spp.trace(model, batch, loss=square, **options)
    pd.testing.assert_frame_equal(run.frame, second.frame)
    try:
        wanted = step(case.build(), case.batches()[0], square)
    except RuntimeError:
        # with other draws than the trace's, a network that nobody traced raises by itself
        reasons["a step of an untouched twin raises, not compared"] += 1
    else:
        got = step(model, case.batches()[0], square)
        for name, value in wanted.items():
            expect(same(value, got[name]), name, "differs after a trace")
    rows = compare(case, run.frame, ear, given, reasons)
    compare_holes(case, run.unmeasured, [ear], reasons)
    if len(batches) == 1:
        depth = {k: f["depth"] for k, f in ear.facts.items() if "depth" in f and k[3] == "activation"}
        for row in run.frame.to_dict("records"):
            key = (row["name"], row["call"], row["output"], row["signal"])
            if key in depth:
                expect(row["depth"] == depth[key], key, "depth", row["depth"], "is not", depth[key])
    return rows


def refused(case: Case, broken: RuntimeError) -> None:
    """A network that fails by itself ends in one line, and stays as it is."""
    model, batches = case.build(), case.batches()
    batch: Any = batches if len(batches) > 1 else batches[0]
    seeded()
    try:
        with unmoved(model, batch):
            spp.trace(model, batch, loss=square)
    except spp.TraceError as error:
        expect("\n" not in str(error), "several lines:", error)
        expect(str(broken).split("\n")[0][:40] in str(error), "another error:", error, "instead of", broken)
    else:
        raise Difference(f"a trace passed where the network raises {broken}")


def watched(case: Case, number: int, reasons: Counter[str]) -> int:
    """Two steps of training, watched and not: each step's rows, and the same weights in the end."""
    batches = (case.batches() * 2)[:2]
    plain, model = case.build(), case.build()
    options: dict[str, Any] = {"channel_axis": override} if number % 3 == 0 else {}
    rates = [torch.optim.SGD(m.parameters(), 1e-3) for m in (plain, model)]
    ears: list[tuple[Ear, dict[Key, float]]] = []
    seeded()
    for batch in batches:
        ear = Ear(plain)
        loss = ear.run(batch)
        ear.close()
        ear.alone = False
        before = {k: p.detach().clone() for k, p in ear.parameters()}
        rates[0].step()
        ears.append((ear, {k: _moved(p, before[k]) for k, p in ear.parameters()}))
        ear.loss = float(loss)
    if not all(ear.ran for ear, _ in ears):
        return 0
    seeded()
    with spp.watch(model, rates[1], every=1, **options) as watch:
        for batch, (ear, _) in zip((case.batches() * 2)[:2], ears, strict=True):
            rates[1].zero_grad()
            loss = square(model(*batch))
            expect(float(loss) == ear.loss or math.isnan(ear.loss), "the loss of a watched step differs")
            loss.backward()
            rates[1].step()
    for (name, a), (_, b) in zip(plain.state_dict().items(), model.state_dict().items(), strict=True):
        expect(same(a, b), name, "differs after a watch")
    rows = 0
    for at, (ear, moved) in enumerate(ears):
        frame = watch.frame[watch.frame["step"] == at]
        rows += compare(case, frame, ear, bool(options), reasons)
        for row in frame[frame["signal"] == "weight"].to_dict("records"):
            wanted = moved.get((row["name"], row["call"], row["output"]), math.nan)
            a, b = row["update_ratio"], wanted
            expect(
                abs(a - b) <= 1e-6 * abs(b) or (math.isnan(a) and math.isnan(b)),
                row["name"],
                row["output"],
                "update_ratio",
                a,
                "is not",
                b,
            )
    compare_holes(case, watch.unmeasured, [ear for ear, _ in ears], reasons)
    return rows


def _moved(now: Tensor, before: Tensor) -> float:
    a, b = array(now), array(before)
    size = np.linalg.norm(b[np.isfinite(b)])
    move = a - b
    return float(np.linalg.norm(move[np.isfinite(move)]) / size) if size else math.nan


def compare(case: Case, frame: pd.DataFrame, ear: Ear, given: bool, reasons: Counter[str]) -> int:
    """Every row with what was heard; returns how many."""
    native = os.environ.get("SPP_KERNELS") != "off"
    rows = {(r["name"], r["call"], r["output"], str(r["signal"])): r for r in frame.to_dict("records")}
    expect(len(rows) == len(frame), "two rows have one key")
    for key, value in ear.facts.items():
        gradient = (*key[:3], "gradient")
        if key[3] == "activation" and value["view"] and value["written"]:
            # a hook on the view hears what came before the write alone; a twin whose views are copies hears all of it
            apart = twin_apart(case, ear)
            ear.seen.pop(gradient, None)
            if gradient not in rows:
                continue
            full = apart is not None and len(apart.seen.get(gradient, ())) == len(ear.seen[key])
            if full and rows[gradient]["numel"] == sum(a.size for a in apart.seen[gradient]):
                ear.seen[gradient] = apart.seen[gradient]
                reasons["row: the gradient of a view that is written into, as of a copy"] += 1
            else:
                # two views of one memory, or what only some batches wrote into: nobody else knows the number
                reasons["row: the gradient of a view that is written into, not compared"] += 1
                value["graph"] = None
                del rows[gradient]
    for key, arrays in ear.seen.items():
        expect(key in rows, "no row:", key)
        row = rows.pop(key)
        axis = axis_of(case, key, ear, arrays[0].ndim, given)
        owner = ear.types[key[0]]
        ends = ENDS.get(type(owner).__name__) if key[3] == "activation" else None
        wanted = numbers(arrays, axis, ends)
        weight = key[3].startswith("weight")
        wanted["called"] = ear.called[key[0], key[1]] if not weight else row["called"]
        same_numbers(row, wanted, key, native)
        facts = ear.facts.get((*key[:3], "weight" if weight else "activation"), {})
        for name in ("shape", "dtype"):
            expect(facts.get(name, row[name]) == row[name], key, name, row[name], "is not", facts.get(name))
        expect(
            row["type"].removeprefix("Parametrized") == type(owner).__name__.removeprefix("Parametrized"),
            key,
            "type",
            row["type"],
        )
        expect(row["leaf"] == (not list(owner.children())), key, "leaf", row["leaf"])
    expect(not rows, "rows too many:", list(rows))
    return len(ear.seen)


def compare_holes(case: Case, unmeasured: pd.DataFrame, ears: list[Ear], reasons: Counter[str]) -> None:
    """Every row that is missing in all of several steps with its reason, and no reason without a row that is missing."""
    holes = {
        (r["name"], None if pd.isna(r["call"]) else int(r["call"]), r["output"], str(r["signal"])): r["reason"]
        for r in unmeasured.to_dict("records")
    }
    expect(len(holes) == len(unmeasured), "two reasons have one key")
    missing: dict[Key, list[Ear]] = {}
    for ear in ears:
        for key, facts in ear.facts.items():
            signal = "weight_gradient" if key[3] == "weight" else "gradient"
            if facts["graph"] is not None:
                missing.setdefault((*key[:3], signal), []).append(ear)
        for key in ear.other:
            missing.setdefault(key, []).append(ear)
    filled = {key for ear in ears for key in ear.seen}
    filled |= {(*k[:3], "gradient") for ear in ears for k, facts in ear.facts.items() if facts["graph"] is None}
    ran = {name for ear in ears for name, _ in ear.called}
    uncalled = {n for n, m in ears[0].types.items() if n not in ran and type(m).forward is not nn.Module.forward}
    for key in missing.keys() - filled:
        name, _, output, signal = key
        reason = holes.pop(key, None) or holes.pop((name, None, output, signal), None)
        expect(reason, "neither a row nor a reason:", key)
        reasons[reason.partition(" (called in")[0]] += 1
        holds = any(true_reason(reason, key, case, ear, reasons) for ear in missing[key])
        expect(holds, "a reason that is not true:", key, reason)
    for name in uncalled:
        reason = holes.pop((name, None, "", "activation"), None)
        expect(reason, "never called, and no reason:", name)
        expect(reason.startswith("never called in this pass"), name, reason)
        reasons[reason] += 1
    expect(not holes, "reasons for what was measured or never was:", holes)


def twin_apart(case: Case, ear: Ear) -> Ear | None:
    """A twin whose views are copies, where that changes no value."""
    if not ear.alone:
        return None
    if ear.other_twin is None:
        ear.other_twin, _ = heard(case, apart=True)
    apart = ear.other_twin
    for key in (k for k in ear.seen if k[3] == "activation"):
        for a, b in zip(ear.seen[key], apart.seen.get(key, ()), strict=False):
            if not np.array_equal(a, b, equal_nan=True):
                return None
    return apart


def true_reason(reason: str, key: Key, case: Case, ear: Ear, reasons: Counter[str]) -> bool:
    """Whether a reason holds for what was heard."""
    words = reason.partition(" (called in")[0]
    name, number, output, signal = key
    facts = ear.facts.get((name, number, output, "weight" if signal == "weight_gradient" else "activation"), {})
    if words.startswith("frozen"):
        holds = facts["graph"] is False and facts.get("parameter")
    elif words.startswith("nothing the loss depends on"):
        holds = not ear.ran
    elif words.startswith("output needs no gradient"):
        holds = facts["graph"] is False
    elif "the loss does not depend on this parameter" in words:
        holds = facts["graph"] and facts.get("parameter")
    elif "the loss does not depend on this output" in words:
        # of several batches one tells the reason
        holds = facts["graph"] and not facts["always a view"]
    elif "the loss does not depend on this view" in words:
        holds = facts["graph"] and facts["view"]
        apart = twin_apart(case, ear)
        if holds and apart is not None and key in apart.seen:
            holds = facts["written"]
            reasons["of these: views that are written into"] += 1
    elif words in ("integer output", "boolean output"):
        holds = key in ear.other
    else:
        holds = False
    return bool(holds)

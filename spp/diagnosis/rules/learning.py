"""What will not learn, and what learns too fast or too slowly: parameters, the optimizer, and the size of its updates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp.diagnosis.findings import EVERYTHING, Finding, count, further, number, percent, some
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Array, Key, Step, View, given, measured
from spp.frame.schema import Column, ModuleColumn, StepColumn
from spp.vocabulary import LayerKind, Severity, Signal

UNREGISTERED = re.compile(r"the (\w+) called here is not registered: .*; ([\d,]+) parameters")
WITH_WEIGHTS = (LayerKind.CONVOLUTION, LayerKind.LINEAR, LayerKind.EMBEDDING)
NORMAL = (1.0, 4e-4, 1e-4)
"""Mean squares of normal inits that look at no fan: torch's of an embedding, GPT's, and 0.01 of old readouts."""
ADAPTERS = ("lora", "adapter")
"""In the names of modules that are trained in the place of frozen ones."""


Steps = npt.NDArray[np.int_]


class Course(NamedTuple):
    """One number over the steps of a training: ``values`` has a row for each sampled step, a column for each of ``keys``."""

    steps: Steps
    keys: list[tuple[str, Any]]
    values: Array


def course(rows: pd.DataFrame, column: str, by: str = Column.CALL) -> Course:
    """A column of the rows of several steps, by module and call (or parameter): of several outputs the first counts."""
    steps, row = np.unique(rows[Column.STEP].to_numpy(), return_inverse=True)
    place, keys = pd.MultiIndex.from_frame(rows[[Column.NAME, by]]).factorize()
    values = np.full((len(steps), len(keys)), np.nan)
    # written backwards, so that the first output stays
    values[row[::-1], place[::-1]] = rows[column].to_numpy(dtype=np.float64)[::-1]
    return Course(steps, list(keys), values)


@rule(
    "unregistered", source="bookkeeping of the pass: torch registers modules that are attributes, not items of a list"
)
def unregistered(view: View, at: Any) -> Iterator[Finding]:
    """Layers with parameters that run inside the model without being part of it, as those in a plain list.

    ``model.parameters()`` lacks them, so that no optimizer made of it trains them, and ``state_dict`` does not save them.
    """
    held = sum(one["foreign"] for one in view.run.get("optimizers") or ())
    rows = [(row, UNREGISTERED.match(str(row.reason))) for row in view.holes]
    bad = [(row, found) for row, found in rows if found is not None and found[2] != "0"]
    if not bad:
        return
    row, found = bad[0]
    lost = sum(int(match[2].replace(",", "")) for _, match in bad)
    share = lost / (lost + sum(int(fact.trainable) for fact in view.facts.values()))
    where = view.activations.get(Key(str(row.name)))
    name = ".".join(part for part in (str(row.name), str(row.output)) if part)
    # an optimizer that was given them trains them all the same
    verb = "are saved in no state_dict and moved to no device" if held else "learn nothing"
    yield Finding(
        severity=Severity.WARNING if held else Severity.ERROR,
        name=name,
        depth=None if where is None else int(where.depth),
        statistic="share of parameters",
        value=share,
        expected="0",
        message=f"{name} ({found[1]}) runs but is not registered{further(len(bad) - 1, before=', nor ')}: "
        f"{lost:,} parameters ({percent(share)}) are not in model.parameters(), so that they {verb}.",
        remedy="Put the layers into torch.nn.ModuleList (or ModuleDict, Sequential) in place of a plain list or dict.",
        evidence=some([f"{r.name}.{r.output}".strip(".") for r, _ in bad]),
    )


@rule("not_optimized", source="the optimizers' param_groups against model.named_parameters(), as the watch began")
def not_optimized(view: View, at: Any) -> Iterator[Finding]:
    """Trainable parameters that no optimizer of the watch has, and that no step has moved.

    Parameters that something else trains move between the sampled steps; those of one sampled step are believed.
    """
    weights, still = _at_rest(view)
    at_rest = {".".join(filter(None, key)): key for key, same in zip(weights.keys, still, strict=True) if same}
    lacking, optimizers = set(view.run.get("not_optimized") or ()), view.run.get("optimizers")
    # what gets no gradient is another trouble
    bad = {name: key for name, key in at_rest.items() if name in lacking and key in view.weight_gradients}
    if not bad or not optimizers:
        return
    lost, trainable = (sum(int(view.weights[key].numel) for key in of) for of in (bad.values(), view.weight_gradients))
    share, layers = lost / trainable, list(dict.fromkeys(name for name, _ in bad.values()))
    learns = {name for name, _ in view.weight_gradients} - set(layers)
    what, where = "None of the model's parameters is", ""
    if learns:
        what, where = f"{count(len(bad), 'parameter')} of {some(layers, 3)} are not", layers[0]
    yield Finding(
        # training the readout alone may be meant
        severity=Severity.ERROR if share >= 0.5 and learns != {view.readout} else Severity.WARNING,
        name=where,
        depth=_depth(view, where) if where else None,
        signal=Signal.WEIGHT,
        statistic="share of parameters",
        value=share,
        expected="0",
        step=int(weights.steps[0]),
        message=f"{what} in the optimizer ({_described(optimizers)}): {percent(share)} of the "
        "trainable parameters get gradients and never move.",
        remedy="Make the optimizer of model.parameters(), after layers were replaced or moved; freeze what is not to learn.",
        evidence=some(list(bad)),
    )


def _at_rest(view: View) -> tuple[Course, npt.NDArray[np.bool_]]:
    """The weights over the sampled steps, and which of them have not moved."""
    weights = course(view.history[view.history[Column.SIGNAL] == Signal.WEIGHT], Column.MEAN_SQUARE, Column.OUTPUT)
    still = (weights.values == weights.values[0]).all(axis=0) if len(weights.values) else np.array([], dtype=bool)
    return weights, still


def _described(optimizers: list[dict[str, Any]]) -> str:
    """The types of optimizers, and how much they have that is not the model's."""
    foreign = sum(one["foreign"] for one in optimizers)
    others = f"; it has {count(foreign, 'parameter')} of something else" if foreign else ""
    return " + ".join(one["type"] for one in optimizers) + others


def _depth(view: View, name: str) -> int | None:
    row = view.activations.get(Key(name))
    return None if row is None else int(row.depth)


@rule(
    "frozen_at_init",
    thresholds={
        "values": (64, "of a weight, where an init is uniform: what was learned has tails"),
        "many": (2e4, "of a weight, where an init is normal: its mean square is then known to 3 %"),
        "table": (1000, "of an embedding, as torch draws it: a mean square of 1 to 13 %, and as few tails"),
        "share": (0.8, "of the frozen layers; in a trained network some are like an init by chance"),
        "sigmas": (3.0, "standard errors within which the moments are those of an init"),
    },
    source="torch's default init is uniform within 1/sqrt(fan_in); He et al. 2015, arXiv 1502.01852; Glorot & Bengio 2010",
)
def frozen_at_init(view: View, at: Any) -> Iterator[Finding]:
    """Layers that are frozen (``requires_grad`` is False) with weights that are still as an init draws them.

    Beside layers that are trained: fine-tuning freezes what was learned. Where adapters are trained it is a note.
    """
    layers = [name for name in dict.fromkeys(step.name for step in view.steps) if _has_weights(view, name)]
    frozen = [name for name in layers if not _learns(view, name)]
    random = [name for name in frozen if _as_drawn(view, name, at)]
    if len(layers) == len(frozen) or len(random) < max(1, at.share * len(frozen)):
        return
    trained = next(i for i, name in enumerate(layers) if name not in frozen)
    behind = [name for name in random if layers.index(name) > trained]
    adapted = any(word in name.lower() for name in view.facts for word in ADAPTERS)
    name, what = (behind or random)[0], "a layer behind trained ones" if behind else "the network's front"
    what = "the readout" if name == view.readout else what
    yield Finding(
        severity=Severity.NOTE if adapted else Severity.WARNING,
        name=name,
        depth=_depth(view, name),
        signal=Signal.WEIGHT,
        statistic="frozen layers",
        value=float(len(random)),
        expected="0",
        message=f"{name}, {what}, is frozen (requires_grad is False) with the weights of a random init"
        f"{further(len(random) - 1, before='; so are ')}.",
        remedy="Unfreeze it: layer.requires_grad_(True), and give it to the optimizer; or load trained weights.",
        evidence=some(random),
    )


def _has_weights(view: View, name: str) -> bool:
    fact = view.facts.get(name)
    return fact is not None and fact.parameters > 0 and fact.kind in WITH_WEIGHTS


def _as_drawn(view: View, name: str, at: Any) -> bool:
    """Whether a weight is as an init draws it: uniform, or of the moments of a common normal init."""
    row, fact = view.weights.get((name, "weight")), view.facts[name]
    if row is None or row.numel < at.values or not row.rms > 0:
        return False
    values, peak = float(row.numel), float(row.abs_max / row.rms)
    # the largest value of a uniform draw is sqrt(3) times its rms; what was learned has tails
    if abs(peak / np.sqrt(3) - 1) < at.sigmas * np.sqrt(0.2 / values):
        return True
    table = fact.kind == LayerKind.EMBEDDING
    if values < (at.table if table else at.many) or peak >= np.sqrt(2 * np.log(values)) + 1.5:
        return False
    usual = np.array(NORMAL[:1] if values < at.many else NORMAL)
    if given(fact, "fan_in"):
        fan_in, fan_out = float(fact.fan_in), float(fact.fan_out)
        usual = np.array([1 / fan_in, 2 / fan_in, 2 / fan_out, 2 / (fan_in + fan_out), *NORMAL[1:]])
    centred = abs(row.mean) < at.sigmas * row.rms / np.sqrt(values)
    return bool(centred and (np.abs(row.mean_square / usual - 1) < at.sigmas * np.sqrt(2 / values)).any())


@rule("gradients_not_cleared", source="torch adds to .grad: optimizer.zero_grad() clears it", tags=("cleared",))
def gradients_not_cleared(view: View, at: Any) -> Iterator[Finding]:
    """Gradients of earlier steps that are still in ``.grad`` when a step's own are added.

    Seen at each backward pass of the sampled steps, before it runs.
    """
    table = view.progress
    known = table[table[StepColumn.CARRIED].notna()]
    bad = known[known[StepColumn.CARRIED] > 0.5]
    if bad.empty:
        return
    step, later = int(bad[StepColumn.STEP].iloc[0]), len(known) - 1
    yield Finding(
        severity=Severity.ERROR if len(bad) >= max(later, 1) else Severity.WARNING,
        name="",
        step=step,
        signal=Signal.WEIGHT_GRADIENT,
        statistic="steps",
        value=float(len(bad)),
        expected="0",
        message=f"Gradients are not cleared: in {len(bad)} of {count(len(known), 'sampled step')}, {step} first, those of "
        "earlier steps were still in .grad, so that every step takes the sum of all before.",
        remedy="Call optimizer.zero_grad() in every step, before loss.backward().",
    )


@rule(
    "cleared_too_early",
    source="torch.optim: step() reads .grad as it stands, and does nothing to a weight that has none",
    tags=("cleared", "taken"),
)
def cleared_too_early(view: View, at: Any) -> Iterator[Finding]:
    """Gradients that are cleared between the backward pass and the optimizer's step, which then has none to use.

    Outputs of layers that learn have gradients, and in no sampled step has any weight one that is not zero, nor does it move.
    """
    asked = set(view.run.get("signals") or ())
    if not view.run.get("optimizers") or not {Signal.GRADIENT, Signal.WEIGHT_GRADIENT} <= asked:
        return
    reached = [k.name for k, row in view.gradients.items() if row.mean_square > 0 and _learns(view, k.name)]
    history = view.history
    taken = history[(history[Column.SIGNAL] == Signal.WEIGHT_GRADIENT) & (history[Column.MEAN_SQUARE] != 0)]
    # of sharded or sparse gradients nothing is seen but what they do; a decay moves weights without any
    decays = any(group["weight_decay"] for group in _groups(view))
    if not reached or len(taken) or not (decays or _at_rest(view)[1].all()):
        return
    steps = history[Column.STEP].unique()
    yield Finding(
        severity=Severity.ERROR,
        name="",
        step=int(steps[0]),
        signal=Signal.WEIGHT_GRADIENT,
        statistic="steps",
        value=float(len(steps)),
        expected="0",
        message=f"Gradients are cleared before they are used: in {count(len(steps), 'sampled step')} backward reached "
        f"{some(list(dict.fromkeys(reached)), 1)}, and the optimizer found no gradient that is not zero.",
        remedy="The order is optimizer.zero_grad(), loss.backward(), optimizer.step(): nothing clears in between.",
    )


def _learns(view: View, name: str) -> bool:
    """Whether a module has parameters that require a gradient."""
    return name in view.facts and view.facts[name].trainable > 0


class Updates(NamedTuple):
    """The update ratios of the weight matrices over the sampled steps, and the typical one of each step.

    A weight that is nearly zero, as some inits begin with, is left out: any update is large beside it.
    """

    steps: Steps
    layers: list[Step]
    ratios: Array
    typical: Array


def updates(view: View, least_gain: float) -> Updates | None:
    """What the optimizer makes of the weights of convolutions and Linear layers; None where no step was measured."""
    history = view.history
    if Column.UPDATE_RATIO not in history:
        return None
    by_name = {step.name: step for step in reversed(view.steps) if step.is_weighted}
    rows = history[(history[Column.SIGNAL] == Signal.WEIGHT) & (history[Column.OUTPUT] == "weight")]
    rows = rows[rows[Column.NAME].isin(by_name)]
    steps, keys, ratios = course(rows, Column.UPDATE_RATIO, Column.OUTPUT)
    layers = [by_name[str(name)] for name, _ in keys]
    fans = np.array([float(view.facts[step.name].fan_in) for step in layers])
    gains = course(rows, Column.MEAN_SQUARE, Column.OUTPUT).values * fans
    ratios = np.where(np.isfinite(ratios) & (gains >= least_gain), ratios, np.nan)
    typical = np.array([np.median(row[~np.isnan(row)]) if not np.isnan(row).all() else np.nan for row in ratios])
    return None if np.isnan(typical).all() else Updates(steps, layers, ratios, typical)


LEAST_GAIN = (
    1e-2,
    "fan_in x mean square of a weight: a hundredth of what keeps a signal; smaller ones begin near zero",
)
OF_UPDATES = "Karpathy, CS231n notes on learning: the norm of an update over that of its weight is around 1e-3"


@rule(
    "update_too_large",
    thresholds={
        "warning": (
            0.3,
            "of the weight, in one step: Adam at 1e-3 begins at 0.1 where 3,000 inputs meet, all else is below",
        ),
        "error": (1.0, "of the weight: one step writes over what was there"),
        "least_gain": LEAST_GAIN,
    },
    source=OF_UPDATES,
    tags=("rate",),
)
def update_too_large(view: View, at: Any) -> Iterator[Finding]:
    """A learning rate so high that one update is about as large as the weights it changes.

    The median layer of the worst step; where that is well, the worst layer.
    """
    found = updates(view, at.least_gain)
    if found is None:
        return
    whole = np.nanmax(found.typical)
    every = whole >= at.warning
    worst = found.typical if every else np.nan_to_num(found.ratios).max(axis=1)
    size, limit = float(np.nanmax(worst)), at.warning if every else at.error
    if not size >= limit:
        return
    first = int(np.argmax(np.nan_to_num(worst) >= limit))
    layer = found.layers[int(np.nanargmax(found.ratios[first]))]
    bad = view.history[(view.history[Column.NONFINITE] > 0) & (view.history[Column.STEP] >= found.steps[first])]
    then = "" if bad.empty else f" NaN or infinity follows at step {int(bad[Column.STEP].min())}."
    begun = float(worst[first])
    error = every and size >= at.error
    yield Finding(
        severity=Severity.ERROR if error else Severity.WARNING,
        **measured(None if every else layer, Signal.WEIGHT, Column.UPDATE_RATIO, begun, "about 1e-3"),
        step=int(found.steps[first]),
        message=f"The learning rate is too high{'' if every else f' for {layer.name}'}: the update of step "
        f"{int(found.steps[first])} has {percent(begun)} of the size of the {'median weight' if every else 'weight'} "
        f"(usual 0.1 %, to learn and keep 1 %).{then}",
        remedy=f"Lower the learning rate.{_rate_for(view, 1e-2 / begun, 'hundredth')} Warm it up over the first steps.",
        evidence=_over(found.steps, worst),
        # the init is gone: what is wrong behind it is wrong because of it
        tags=("rate", EVERYTHING) if error else ("rate",),
    )


def _rate_for(view: View, factor: float, part: str) -> str:
    """Which rate would make the updates a part of the weights; empty where the present one is not known."""
    rates = [group["lr"] for group in _groups(view) if group["lr"] > 0]
    return f" {max(rates) * factor:.0e} makes it a {part}." if rates else ""


def _groups(view: View) -> list[dict[str, Any]]:
    return [group for one in view.run.get("optimizers") or () for group in one["groups"]]


def _over(steps: Steps, values: Array, what: str = "step", most: int = 6) -> str:
    """A number over the steps, some of them."""
    which = np.unique(np.linspace(0, len(steps) - 1, most).astype(int))
    return ", ".join(f"{what} {int(steps[i])}: {number(values[i])}" for i in which)


@rule(
    "eps_outweighs",
    thresholds={
        "times": (10.0, "times the gradient's rms: the update is a tenth of what the rate says"),
        "update": (3e-4, "of the weight: a third of the usual; a larger rate may make good for a large eps"),
        "usual": (1e-6, "of no eps up to here: gradients below it are another trouble, or the end of a training"),
        "least_gain": LEAST_GAIN,
    },
    source="Kingma & Ba 2015, arXiv 1412.6980: the update is rate * m / (sqrt(v) + eps)",
    tags=("rate",),
    follows=("dead", "layer", "derivative"),
)
def eps_outweighs(view: View, at: Any) -> Iterator[Finding]:
    """An eps of Adam or RMSprop that is larger than the gradients it is added to, so that hardly anything moves.

    Against the rms of the weight gradient of the median layer in the median step.
    """
    adaptive = [one for one in view.run.get("optimizers") or () if re.search("Adam|RMSprop", one["type"])]
    eps = max((group.get("eps", 0.0) for one in adaptive for group in one["groups"]), default=0.0)
    found = updates(view, at.least_gain) if eps > at.usual else None
    if found is None:
        return
    history, layers = view.history, {layer.name for layer in found.layers}
    rows = history[(history[Column.SIGNAL] == Signal.WEIGHT_GRADIENT) & (history[Column.OUTPUT] == "weight")]
    rows = rows[rows[Column.NAME].isin(layers) & (rows[Column.RMS] > 0)]
    size = float(rows.groupby(Column.STEP)[Column.RMS].median().median())
    update = float(np.nanmedian(found.typical))
    if not (eps >= at.times * size and update < at.update):
        return
    yield Finding(
        severity=Severity.WARNING,
        **measured(None, Signal.WEIGHT_GRADIENT, "eps / gradient rms", eps / size, "far below 1"),
        step=int(found.steps[0]),
        message=f"The optimizer's eps of {eps:g} outweighs the gradients, of an rms of {number(size)} in the median layer: "
        f"an update is {number(update)} of its weight (usual 1e-3).",
        remedy="Leave eps at 1e-8, and the learning rate near 1e-3.",
        evidence=_over(found.steps, found.typical),
    )


@rule(
    "update_too_small",
    thresholds={
        "ratio": (3e-5, "of the weight, in the upper quarter of the steps: 30,000 steps to change it by its own size"),
        "stuck": (1e-4, "of the weight, where the loss has moved by less than a thirtieth too"),
        "moved": (0.03, "of the first loss, by which it has to have fallen"),
        "apart": (1e-3, "of the median layer's ratio; Adam's layers lie within a factor of 100 of each other"),
        "least_gain": LEAST_GAIN,
    },
    source=OF_UPDATES,
    follows=("dead", "layer", "derivative", "rate", "taken"),
)
def update_too_small(view: View, at: Any) -> Iterator[Finding]:
    """A learning rate so low that the weights do not change, in all layers or in some of them.

    The upper quartile over the steps, so that warm-up and the end of a schedule do not count.
    """
    found = updates(view, at.least_gain)
    if found is None or _warming(view, found.steps):
        return
    size = float(np.nanquantile(found.typical, 0.75))
    layers = np.array([np.nanquantile(c, 0.75) if not np.isnan(c).all() else np.nan for c in found.ratios.T])
    known = layers[~np.isnan(layers)]
    usual = float(np.median(known))
    name: Step | None = None
    if size < at.ratio or (size < at.stuck and stuck(view, at.moved)):
        what, value = "the median layer's update", size
    else:
        slow = [i for i in np.flatnonzero(layers < at.ratio) if layers[i] < at.apart * usual]
        if len(known) < 4 or not slow:
            return
        name, value = found.layers[slow[0]], float(layers[slow[0]])
        what = f"the update of {name.name}{further(len(slow) - 1, before=' (and of ', after=')')}"
    advice = _rate_for(view, 1e-3 / value, "thousandth") if name is None and value > 0 else ""
    yield Finding(
        severity=Severity.WARNING,
        **measured(name, Signal.WEIGHT, Column.UPDATE_RATIO, value, "about 1e-3"),
        step=int(found.steps[0]),
        message=f"The learning rate is too low: {what} is {number(value)} of its weight per step (usual 1e-3)"
        f"{'' if name is None else f', in the median layer {number(usual)}'}.",
        remedy=f"Raise the learning rate{' of that layer (its parameter group)' if name is not None else ''}.{advice}",
        evidence=_over(found.steps, found.typical),
    )


def rates_at(view: View, steps: Steps) -> Array:
    """The learning rate in force at each of the steps; NaN where it is not known."""
    known = dict(zip(view.progress[StepColumn.STEP], view.progress[StepColumn.RATE], strict=True))
    return np.array([known.get(int(step), np.nan) for step in steps], dtype=np.float64)


def _warming(view: View, steps: Steps) -> bool:
    """Whether the rate rises to the last sampled step: what is small may be meant to grow."""
    rates = rates_at(view, steps)
    return bool(rates[-1] > rates[0] and rates[-1] >= np.nanmax(rates))


def stuck(view: View, moved: float) -> bool:
    """Whether the loss is known, and is at the end about what it was."""
    losses = view.progress[StepColumn.LOSS].to_numpy(dtype=np.float64)
    losses = losses[np.isfinite(losses)]
    if len(losses) < 10:
        return False
    tenth = max(1, len(losses) // 10)
    return bool(losses[-tenth:].mean() > losses[:tenth].mean() - moved * abs(losses[:tenth].mean()))


@rule(
    "decay_outweighs",
    thresholds={
        "share": (0.5, "of an update that is the decay's; in balance with the gradient it is half the update ratio"),
        "shrunk": (0.7, "of the rms that the median weight began with"),
        "least_gain": (0.0, "weights of any size count"),
    },
    source="Loshchilov & Hutter 2019, arXiv 1711.05101; Kosson et al. 2024, arXiv 2305.17212 (equilibrium of update and decay)",
    follows=("rate",),
    tags=("decay", "fall", "dead", "layer"),
)
def decay_outweighs(view: View, at: Any) -> Iterator[Finding]:
    """A weight decay that outweighs the gradients, so that the weights shrink away.

    The decay's share of the median layer's update, over the later half of the sampled steps.
    """
    found, group = updates(view, at.least_gain), max(_groups(view), key=lambda g: g["weight_decay"], default=None)
    if found is None or group is None or not group["weight_decay"] > 0 or len(found.steps) < 2:
        return
    history, decay = view.history, float(group["weight_decay"])
    own = history[Column.NAME].isin([layer.name for layer in found.layers]) & (history[Column.OUTPUT] == "weight")
    weights = course(history[own & (history[Column.SIGNAL] == Signal.WEIGHT)], Column.RMS, Column.OUTPUT)
    shrunk = float(np.nanmedian(weights.values[-1] / weights.values[0]))
    if group["decoupled"]:
        # a step that left a weight as it was has no shares
        shares = (rates_at(view, found.steps) * decay)[:, None] / np.where(found.ratios > 0, found.ratios, np.nan)
    else:
        rows = history[own & (history[Column.SIGNAL] == Signal.WEIGHT_GRADIENT)]
        gradients = course(rows, Column.RMS, Column.OUTPUT)
        if gradients.keys != weights.keys or len(gradients.steps) != len(weights.steps):
            return
        pull = decay * weights.values
        shares = pull / (pull + gradients.values)
    late = shares[len(shares) // 2 :]
    late = late[np.isfinite(late)]
    share = float(np.median(late)) if len(late) else 0.0
    if share < at.share or shrunk > at.shrunk:
        return
    yield Finding(
        severity=Severity.ERROR if shrunk < at.shrunk**2 else Severity.WARNING,
        **measured(None, Signal.WEIGHT, "decay's share of the update", min(share, 1.0), f"below {at.share:g}"),
        step=int(found.steps[0]),
        message=f"The weight decay of {decay:g} outweighs the gradients: it makes {percent(min(share, 1.0))} of the update, "
        f"and the median weight has shrunk to {percent(shrunk)} of its size.",
        remedy="Lower the weight decay: 1e-4 with SGD, 1e-2 with AdamW; leave biases, norms and embeddings out of it.",
        evidence=_over(found.steps, np.nanmedian(weights.values, axis=1)),
    )


@rule(
    "forgetting",
    thresholds={
        "calls": (8, "of one module; over fewer nothing has to be remembered"),
        "fade": (
            14.4,
            "decades of the mean square: 2^-24 in amplitude, which float32 adds to nothing; twice that is an error",
        ),
        "burst": (
            6.0,
            "decades of the mean square from the last call to the first: a thousandfold; twice that is an error",
        ),
    },
    source="Bengio et al. 1994; Pascanu et al. 2013, arXiv 1211.5063: the product of the recurrent Jacobians",
    tags=("fall", "rise", "derivative"),
)
def forgetting(view: View, at: Any) -> Iterator[Finding]:
    """A recurrence through which gradients do not come back, or explode: the first calls of a cell get none, or all.

    The gradient at each call of a module with parameters whose calls take what an earlier one gave, in the median of the
    sampled steps: some recurrences are mended by training, and each step is of other sequences.
    """
    rows = view.frame[(view.frame[Column.SIGNAL] == Signal.GRADIENT) & (view.frame[Column.CALL] >= at.calls - 1)]
    for name in dict.fromkeys(rows[Column.NAME]):
        learned = name in view.facts and view.facts[name].parameters
        found = _way_back(view, name) if learned and _recurs(view, name) else None
        if found is None:
            continue
        step, decades, sizes = found
        limit = at.fade if decades < 0 else at.burst
        if abs(decades) < limit:
            continue
        late, zero = float(_late(sizes)), int((sizes == 0).sum())
        first = f"exactly zero at the first {count(zero, 'call')}" if zero else f"{number(sizes[0])} at the first"
        yield Finding(
            severity=Severity.ERROR if abs(decades) >= 2 * limit else Severity.WARNING,
            **measured(view.gradients[Key(name)], Signal.GRADIENT, "decades over calls", decades, f"within {limit:g}"),
            step=step,
            message=f"{name} {'forgets' if decades < 0 else 'explodes on the way back'}: its gradient is {number(late)} at the "
            f"last of {len(sizes)} calls and {first}: early inputs {'teach nothing' if decades < 0 else 'drown the others'}.",
            remedy="An LSTM's forget-gate bias of 1 or more, orthogonal recurrent weights, or shorter sequences."
            if decades < 0
            else "Clip the gradient norm; orthogonal recurrent weights, or a gated cell.",
            evidence=_over(np.arange(len(sizes)), sizes, "call"),
        )
        return


def _way_back(view: View, name: str) -> tuple[int | None, float, Array] | None:
    """The median step (None of a single one) by decades from the last calls' gradient to the first's; those, and all sizes."""
    own = view.history[(view.history[Column.SIGNAL] == Signal.GRADIENT) & (view.history[Column.NAME] == name)]
    # of several states the one that remembers best
    every = own.groupby([Column.STEP, Column.CALL])[Column.MEAN_SQUARE].max()
    steps, starts = np.unique(every.index.get_level_values(0), return_index=True)
    parts = zip(steps.tolist(), np.split(every.to_numpy(dtype=np.float64), starts[1:]), strict=True)
    known = [(step, sizes) for step, sizes in parts if np.isfinite(sizes).all() and _late(sizes) > 0]
    if not known:
        return None
    with np.errstate(divide="ignore"):
        decades = [float(np.log10(sizes[0] / _late(sizes))) for _, sizes in known]
    middle = int(np.argsort(decades)[len(decades) // 2])
    return known[middle][0] if len(known) > 1 else None, decades[middle], known[middle][1]


def _late(sizes: Array) -> Any:
    """The largest of the last eighth."""
    return sizes[-max(1, len(sizes) // 8) :].max()


def _recurs(view: View, name: str, reach: int = 8) -> bool:
    """Whether a late call of a module takes, through a few others at most, what an earlier call of it gave."""
    # the wiring of many calls ends before the last one
    wired = str(getattr(view.facts[name], ModuleColumn.INPUTS, None)).count(",")
    front, seen = [Key(name, wired)], set[Key]()
    for _ in range(reach):
        seen.update(front)
        front = [fed for key in front for fed in view.wired(key) if fed not in seen]
        if any(key.name == name for key in front):
            return True
    return False

"""What comes about in training: layers that die, samples that grow alike, signals and weights that drift, running statistics.

Only a run of several steps has such findings. Each compares a layer with itself at the first sampled step, and tells since
when, and in which layer first; what was so from the beginning is told by the rules of one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from spp.diagnosis.findings import Finding, factor, further, number, percent, some
from spp.diagnosis.registry import rule
from spp.diagnosis.remedies import advice, remedy
from spp.diagnosis.rules.learning import Course, Steps, course, rates_at, stuck, updates
from spp.diagnosis.view import Key, Step, View, measured
from spp.frame.schema import BlockColumn, Column, StepColumn, last_step
from spp.vocabulary import LayerKind, Severity, Signal

SAMPLES = (16.0, "values per channel: of a ReLU with so many, one channel in 2^16 is dead by chance")


class Onset(NamedTuple):
    """When something began that lasted to the end, and in which layers, the first ones first."""

    step: int
    layers: list[int]


def onset(bad: npt.NDArray[np.bool_], steps: Steps) -> Onset | None:
    """Since when and in which layers ``bad``, ``(steps, layers)``, has held to the last step; None where in none.

    Layers in which it began at the same step stand in the order of execution.
    """
    lasting = np.flatnonzero(bad[-1])
    if not len(lasting):
        return None
    # the sampled steps behind the last one at which all was well
    begun = [len(bad) - int(np.argmin(bad[::-1, i])) if not bad[:, i].all() else 0 for i in lasting]
    order = [int(lasting[i]) for i in np.argsort(begun, kind="stable")]
    return Onset(int(steps[min(begun)]), order)


def activations(view: View, least: float, kind: LayerKind | None = None) -> pd.DataFrame:
    """The rows of leaves over the steps of training with at least so many values per channel; empty for a single step."""
    rows = view.history
    if not len(rows) or rows[Column.STEP].iloc[0] == rows[Column.STEP].iloc[-1]:
        return rows.iloc[:0]
    rows = rows[(rows[Column.SIGNAL] == Signal.ACTIVATION) & rows[Column.LEAF]]
    rows = rows[rows[Column.NUMEL] >= least * rows[Column.CHANNELS]]
    return rows if kind is None else rows[rows[Column.KIND] == kind]


def inner(view: View, found: Course) -> Course:
    """A course without the readout, whose scale is what a network learns first, and what follows it."""
    depths = {step.key: step.depth for step in view.steps}
    end = max((step.depth for step in view.steps if step.name == view.readout), default=1 << 60)
    stays = [i for i, key in enumerate(found.keys) if depths.get(Key(*key), end) < end]
    return Course(found.steps, [found.keys[i] for i in stays], found.values[:, stays])


def before_the_loss(view: View, step: int) -> str:
    """That the loss showed it later: the first step at which it is twice its least so far, or no number."""
    table = view.progress
    losses = table[StepColumn.LOSS].to_numpy(dtype=np.float64)
    if not len(losses) or np.isnan(losses[0]):
        return ""
    least = np.minimum.accumulate(np.nan_to_num(losses, nan=np.inf))
    bad = ~np.isfinite(losses) | ((losses > 2 * least) & (losses > losses[0]))
    shown = int(table[StepColumn.STEP].iloc[int(np.argmax(bad))]) if bad.any() else step
    return f" The loss showed it at step {shown}." if shown > step else ""


@rule(
    "died_in_training",
    thresholds={
        "warning": (0.6, "of the channels are dead at the end"),
        "error": (0.9, "of the channels: what is left is no layer"),
        "rise": (0.4, "of the channels died since the first step: healthy training of ReLU networks loses up to 0.25"),
        "samples": SAMPLES,
    },
    source="Lu et al. 2019, arXiv 1903.06733 (dying ReLU); a layer that was alive died of its updates, not of its init",
    tags=("died", "dead", "layer", "channels"),
    follows=("rate", "decay"),
)
def died_in_training(view: View, at: Any) -> Iterator[Finding]:
    """An activation whose channels were alive at the first step and are dead at the last: an update killed them.

    The first one, by the step since when it has been so.
    """
    rows = activations(view, at.samples, LayerKind.ACTIVATION)
    if rows.empty:
        return
    found = course(rows, Column.DEAD_FRACTION)
    bad = (found.values >= at.warning) & (found.values >= found.values[0] + at.rise)
    begun = onset(bad, found.steps)
    if begun is None:
        return
    i = begun.layers[0]
    key = Key(*found.keys[i])
    step = next((one for one in view.steps if one.key == key), None)
    culprit = (view.feeder(step) if step is not None else None) or step
    share, before = float(found.values[-1, i]), float(found.values[0, i])
    worst = float(found.values[-1, begun.layers].max())
    yield Finding(
        severity=Severity.ERROR if worst >= at.error else Severity.WARNING,
        **measured(culprit, Signal.ACTIVATION, Column.DEAD_FRACTION, share, f"below {at.warning:g}"),
        step=begun.step,
        message=f"{key.name} died in training: {percent(share)} of its channels are dead since step {begun.step}, "
        f"{percent(before)} were at step {int(found.steps[0])}{further(len(begun.layers) - 1, before='; so did ')}."
        + before_the_loss(view, begun.step),
        remedy="Lower the learning rate, or warm it up: updates killed it, not its init. A leaky activation cannot die.",
        evidence=_courses(found, begun.layers),
    )


def _courses(found: Course, layers: list[int], most: int = 4) -> str:
    """The first, middle and last number of some layers."""
    steps = sorted({0, len(found.steps) // 2, len(found.steps) - 1})
    told = [f"{found.keys[i][0]} {' -> '.join(number(found.values[s, i]) for s in steps)}" for i in layers]
    return f"{some(told, most)} at steps {', '.join(str(int(found.steps[s])) for s in steps)}"


@rule(
    "no_warmup",
    thresholds={
        "full": (0.5, "of the largest rate is in force at the first sampled step"),
        "update": (0.01, "of the weights, by the first updates: ten times the usual"),
        "moved": (
            0.05,
            "of the first loss, by which it has to have fallen; logits of torch's init behind a norm begin 1/6 above a guess",
        ),
        "norms": (2, "that stand behind a residual sum and begin a skip"),
    },
    source="Xiong et al. 2020, arXiv 2002.04745: behind post-norm the gradients near the output are large at first",
    tags=("rate",),
    follows=("rate",),
)
def no_warmup(view: View, at: Any) -> Iterator[Finding]:
    """A post-norm network that began at its full rate with Adam, and whose loss has not moved since.

    Norms that take a residual sum and begin the next skip. Told only where the loss is known and has not moved: small
    networks train without a warm-up.
    """
    types = [one["type"] for one in view.run.get("optimizers") or ()]
    # behind a sum stands a norm of pre-norm blocks too, but there no skip begins at it
    skips = set(view.blocks[BlockColumn.SKIP].dropna())
    behind = [step for step in view.norms if len(step.fed) > 1 and step.name in skips]
    found = updates(view, 0.0)
    if found is None or len(behind) < at.norms or not any("Adam" in name or "Lion" in name for name in types):
        return
    first = float(np.nanmax(found.typical[:3]))
    rates = rates_at(view, found.steps)
    full = rates[0] >= at.full * np.nanmax(rates, initial=0.0)
    if not (full and at.update <= first and stuck(view, at.moved)):
        return
    step = int(found.steps[0])
    yield Finding(
        severity=Severity.ERROR,
        **measured(behind[0], Signal.WEIGHT, Column.UPDATE_RATIO, first, f"below {at.update:g} at first"),
        step=step,
        message=f"Post-norm blocks, {behind[0].name} first, began at the full rate of {rates[0]:g} without a warm-up: the "
        f"first update has {percent(first)} of the size of the weights, and the loss has not moved since.",
        remedies=(
            advice("Warm the rate up over the first steps (100 and more), or put the norms before the branches"),
            remedy("branches", why="Branches that are scaled down"),
        ),
        evidence=some([one.name for one in behind]),
    )


@rule(
    "samples_grew_alike",
    thresholds={
        "begun": (0.1, "of the second moment was variance at the first step"),
        "left": (0.01, "of the second moment is variance at the last: samples differ by a tenth of the amplitude"),
        "fall": (30.0, "times smaller it has become; in healthy training it falls fivefold at most"),
        "layers": (0.5, "of the layers"),
        "samples": SAMPLES,
    },
    source="Dong et al. 2021, arXiv 2103.03404 (rank collapse); Brock, De & Smith 2021, arXiv 2101.08692 (mean shift)",
    tags=("alike", "mean", "fall", "layer"),
    follows=("rate", "died", "decay"),
)
def samples_grew_alike(view: View, at: Any) -> Iterator[Finding]:
    """Samples that the network told apart at the first step and no longer does at the last.

    The share of the channel variance in the second moment, ACV / (ACSM + ACV), in most of the layers.
    """
    rows = activations(view, at.samples)
    if rows.empty:
        return
    rows = rows.assign(share=rows[Column.ACV] / (rows[Column.ACSM] + rows[Column.ACV]))
    found = inner(view, course(rows, "share"))
    first = found.values[0]
    bad = (first >= at.begun) & (found.values <= at.left) & (found.values * at.fall <= first)
    begun = onset(bad, found.steps)
    if begun is None or len(begun.layers) < max(2, at.layers * (first >= at.begun).sum()):
        return
    i = begun.layers[0]
    name, share = found.keys[i][0], float(found.values[-1, i])
    yield Finding(
        severity=Severity.ERROR,
        **measured(
            view.activations.get(Key(*found.keys[i])), Signal.ACTIVATION, "acv / mean_square", share, "above 0.1"
        ),
        step=begun.step,
        message=f"Samples grew alike in training: in {name} the variance is {percent(share)} of the second moment since step "
        f"{begun.step}, {percent(first[i])} at first{further(len(begun.layers) - 1, before='; so it is in ')}."
        + before_the_loss(view, begun.step),
        remedy="Lower the learning rate, or warm it up; post-norm Transformers need a warm-up, pre-norm ones less.",
        evidence=_courses(found, begun.layers),
    )


@rule(
    "drift",
    thresholds={
        "activations": (2.5, "decades of the rms since the first step; hidden layers of healthy training drift by 2"),
        "weights": (1.0, "decades of the median weight's rms; healthy training moves it by a factor of 2 to 4"),
        "error": (4.0, "decades, of either"),
        "samples": (2.0, "values per channel"),
    },
    source="each layer against itself at the first sampled step",
    tags=("drifted", "layer", "rise", "fall"),
    follows=("rate", "died", "decay", "alike"),
)
def drift(view: View, at: Any) -> Iterator[Finding]:
    """Activations or weights whose scale has drifted away since training began.

    The rms of each hidden layer, and of each weight, against its own at the first step.
    """
    rows = activations(view, at.samples)
    if rows.empty:
        return
    history = view.history
    matrices = history[
        (history[Column.SIGNAL] == Signal.WEIGHT)
        & (history[Column.OUTPUT] == "weight")
        & history[Column.NAME].isin([step.name for step in view.steps if step.is_weighted])
    ]
    both = (
        (Signal.WEIGHT, course(matrices, Column.RMS, Column.OUTPUT), at.weights),
        (Signal.ACTIVATION, inner(view, course(rows, Column.RMS)), at.activations),
    )
    for signal, found, limit in both:
        if not found.values.size:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            decades = np.log10(found.values / found.values[0])
        # what began at zero has no scale to drift from
        decades[~np.isfinite(decades)] = 0.0
        begun = onset(np.abs(decades) >= limit, found.steps)
        if begun is None or (signal is Signal.WEIGHT and len(begun.layers) < decades.shape[1] / 2):
            continue
        i = begun.layers[0]
        name, far = str(found.keys[i][0]), float(decades[-1, i])
        where = view.activations.get(Key(name))
        what = f"The weight of {name}" if signal is Signal.WEIGHT else name
        yield Finding(
            severity=Severity.ERROR if np.abs(decades[-1]).max() >= at.error else Severity.WARNING,
            **measured(where, signal, "rms / first rms", 10**far, f"within a factor {number(10**limit)}"),
            step=begun.step,
            message=f"{what} {'grows' if far > 0 else 'shrinks'} {factor(far)} in training, from an rms of "
            f"{number(found.values[0, i])} to {number(found.values[-1, i])}, beyond {number(10**limit)}-fold since step "
            f"{begun.step}{further(len(begun.layers) - 1, before='; so do ')}." + before_the_loss(view, begun.step),
            remedy="Lower the learning rate; clip gradients; a norm before the layer, or weight decay, holds its scale."
            if far > 0
            else "Lower the weight decay or the learning rate; a norm before the layer holds its scale.",
            evidence=_courses(found, begun.layers),
        )
        return


@rule(
    "trained_in_eval_mode",
    source="torch: in evaluation mode BatchNorm takes running statistics that nothing updates, and dropout drops nothing",
    tags=("objective", "batch"),
)
def trained_in_eval_mode(view: View, at: Any) -> Iterator[Finding]:
    """A training in evaluation mode of a model whose BatchNorm or dropout acts otherwise in training mode.

    The mode of the model in each sampled step, and of each module in the first. Of a model in training mode whose norms
    alone are in evaluation mode it is a note: they may be frozen on purpose, as those whose parameters are frozen surely are.
    """
    found = _asleep(view)
    if found is None:
        return
    step, whole, names = found
    severity, what = (Severity.WARNING, "The model is") if whole else (Severity.NOTE, "Some modules are")
    mend = "Call model.train() before training, and again after each evaluation."
    yield Finding(
        severity=severity,
        name="",
        step=step,
        statistic="modules",
        value=float(len(names)),
        expected="0",
        message=f"{what} trained in evaluation mode since step {step}: {some(names, 3)} would act otherwise in training mode.",
        remedy=mend if whole else f"Nothing, where they are frozen on purpose. {mend}",
        evidence=some(names),
        tags=None if whole else (),
    )


def _asleep(view: View) -> tuple[int, bool, list[str]] | None:
    """Since which step modules that would act otherwise are in evaluation mode, whether the whole model is, and which.

    None where there are none, and where their mode is not known.
    """
    modes, trains = view.progress[StepColumn.TRAINING].to_numpy(dtype=bool), "" in view.facts and view.trained("")
    if view.run.get("kind") != "watch" or not len(modes):
        return None
    # the mode of the last step, and since when it has been that
    evaluates, since = not modes[-1], int(np.flatnonzero(modes != modes[-1]).max(initial=-1)) + 1
    # modules that were looked at in an evaluation say nothing of training
    if not (evaluates or trains):
        return None
    leaves = [fact for fact in view.facts.values() if fact.leaf]
    # of a model that was put into evaluation mode later only the mode of the whole is known
    later = evaluates and trains
    names = [fact.name for fact in leaves if (later or not fact.training) and _acts(view, fact)]
    learning = [fact.training for fact in leaves if fact.trainable]
    whole = evaluates or not any(learning or [True])
    return (int(view.progress[StepColumn.STEP].iloc[since]), whole, names) if names else None


def _acts(view: View, fact: Any) -> bool:
    """Whether a module does something else in training mode: BatchNorm that is not frozen, and dropout that drops any."""
    if "BatchNorm" in str(fact.type):
        return bool(fact.trainable or not fact.parameters)
    return bool(fact.kind == LayerKind.DROPOUT and view.run.get("dropped", 0.0) > 0)


@rule(
    "running_statistics",
    thresholds={
        "factor": (3.0, "of the channel variance behind the norm, evaluating over training; 1.2 in healthy networks"),
        "step": (30.0, "of the training: with the default momentum of 0.1 the first statistics are 4 % by then"),
        "samples": SAMPLES,
    },
    source="Ioffe & Szegedy 2015, arXiv 1502.03167: evaluation normalizes by running statistics",
    follows=("rate", "died", "drifted"),
)
def running_statistics(view: View, at: Any) -> Iterator[Finding]:
    """A BatchNorm whose running statistics are not those of its batches, so that evaluation differs from training.

    The channel variance that it gives out in the last evaluation, against that of the last step of training before it.
    """
    evaluated = view.evaluations
    if evaluated.empty or evaluated[Column.STEP].max() < at.step:
        return
    step = int(evaluated[Column.STEP].max())
    rows = view.history[view.history[Column.STEP] <= step]
    if rows.empty:
        return
    ratios: list[tuple[Step, float]] = []
    sizes = [_variances(table, at.samples) for table in (last_step(evaluated), last_step(rows))]
    for one in view.norms:
        evaluating, training = (of.get(one.key, np.nan) for of in sizes)
        if "BatchNorm" in str(one.row.type) and training > 0 and evaluating > 0:
            ratios.append((one, float(np.log10(evaluating / training))))
    if not ratios or max(abs(decades) for _, decades in ratios) < np.log10(at.factor):
        return
    bad = [(one, decades) for one, decades in ratios if abs(decades) >= np.log10(at.factor) / 2]
    first, decades = bad[0]
    worst = max(bad, key=lambda pair: abs(pair[1]))
    yield Finding(
        severity=Severity.WARNING,
        **measured(
            first, Signal.ACTIVATION, "acv evaluating / training", 10**decades, f"within a factor {at.factor:g}"
        ),
        step=step,
        message=f"The running statistics of {first.name} lag: evaluating at step {step} it gives {number(10**decades)} times "
        f"the variance that it gives in training{further(len(bad) - 1, before=', as do ')} ({worst[0].name} "
        f"{number(10 ** worst[1])}).",
        remedy="A larger momentum (0.1), larger batches, or running statistics made anew by forwards in train mode; "
        "see that the evaluation prepares its inputs as the training does.",
        evidence=some([f"{one.name} ({number(10**d)})" for one, d in ratios]),
    )


def _variances(rows: pd.DataFrame, least: float) -> dict[Key, float]:
    rows = rows[(rows[Column.SIGNAL] == Signal.ACTIVATION) & (rows[Column.NUMEL] >= least * rows[Column.CHANNELS])]
    return {
        Key(str(n), int(c)): float(v)
        for n, c, v in zip(rows[Column.NAME], rows[Column.CALL], rows[Column.ACV], strict=True)
    }

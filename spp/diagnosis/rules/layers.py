"""One layer at fault: dead, saturated, badly initialized, or with channels that carry little; norms with too little to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from spp.diagnosis.attenuation import distinct, dying, judge
from spp.diagnosis.findings import (
    EVERYTHING,
    Finding,
    arrow,
    count,
    further,
    number,
    percent,
    power,
    powered,
    some,
    times,
)
from spp.diagnosis.registry import FACT, rule
from spp.diagnosis.remedies import Remedy, activation_for, advice, init_for, norm_for, remedy
from spp.diagnosis.view import Key, Kind, Step, View, given, measured, median_without, ratio
from spp.frame.schema import Column
from spp.vocabulary import LayerKind, Severity, Signal

# Share of values within 1 % of an end of the range when the input is a unit normal; other bounded activations: none.
UNIT_SATURATION = {"relu6": 0.5236, "hardtanh": 0.3222, "hardsigmoid": 0.0033, "tanh": 0.0081}


@rule("fresh_statistics", source="y = (x - 0) / sqrt(1 + eps): the identity", tags=(EVERYTHING,))
def fresh_statistics(view: View, at: Any) -> Iterator[Finding]:
    """BatchNorms in evaluation mode that have seen no data, and pass on what comes in.

    Norms with running statistics whose gain is that of their weight: mean 0 and variance 1, as they are made.

    What the signal does there says nothing of training, in which they normalize: every later rule follows.
    """
    norms = [s for s in view.norms if _is_batch_norm(view.facts[s.name])]
    if any(view.trained(s.name) for s in norms):
        return
    known = [(s, gain) for s in norms if np.isfinite(gain := _spread(view, s) - _scale(view, s))]
    # Scales that differ meet channels that differ: the gain is theirs but for chance.
    even = all(weight is None or weight.std == 0 for weight in (_weight(view, s) for s, _ in known))
    # With one that saw data the others did too; what feeds a few is not known.
    if known and np.quantile([abs(gain) for _, gain in known], 0.9) < (0.03 if even else 0.2):
        yield Finding(
            severity=Severity.NOTE,
            **measured(
                None, Signal.ACTIVATION, "acv out / in", power(float(np.median([gain for _, gain in known]))), "not 1"
            ),
            message=f"{count(len(norms), 'BatchNorm')} in evaluation mode saw no data yet: running mean 0 and variance 1 "
            "pass on what comes in.",
            remedies=(advice("Trace in training mode, or run batches in training mode first."),),
            evidence=some([s.name for s in norms]),
        )


def _spread(view: View, step: Step) -> float:
    """log10 of the channel variance that a step gives out over that of what it takes: a bias adds none."""
    sources = view.sources(step.key)
    return ratio(step.row.acv, sources[0].acv) if len(sources) == 1 else float("nan")


def _weight(view: View, step: Step) -> Any:
    """The row of a norm's weight; None for one without."""
    return view.weights.get((str(view.facts[step.name].name), "weight"))


def _scale(view: View, step: Step) -> float:
    """log10 of the mean square of a norm's weight; 0 for one without."""
    weight = _weight(view, step)
    return 0.0 if weight is None else ratio(float(weight.mean_square), 1.0)


@rule(
    "dead_layer",
    thresholds={
        "alive": (1e-6, "share of the variance in its input's second moment: a million times what counts as dead")
    },
    source="no information passes a constant; the gradient through it is zero or useless",
    tags=("dead", "layer"),
    follows=("died", "rate", "decay", "fall"),
)
def dead_layer(view: View, at: Any) -> Iterator[Finding]:
    """A layer that gives out the same whatever comes in: all channels zero or constant over the batch.

    The first step whose channels are all dead while what it takes is alive: an error where nothing gets past it.
    """
    for step in view.steps:
        # One value per channel is constant whatever comes in, and so is a softmax over one.
        if step.row.dead_fraction < 1 or _is_single(view, step) or step.samples < 2 or not _alive(view, step, at.alive):
            continue
        culprit, why, remedies = _cause(view, step)
        # What is dead by design, or dropped this time, is told by the rule of residual branches.
        if view.zero_by_design(culprit.name) or _skipped(view, step):
            continue
        behind = (view.activations[key] for way in view.ways[:1] for key in way)
        passed = any(_tells(row, at.alive) for row in behind if row.depth > step.depth and row.dead_fraction < 1)
        # A table of zeros beside others opens with the first step.
        if passed and step.kind is Kind.TABLE:
            continue
        yield Finding(
            severity=Severity.WARNING if passed else Severity.ERROR,
            **measured(culprit, Signal.ACTIVATION, Column.DEAD_FRACTION, step.row.dead_fraction, "below 1"),
            message=f"{step.name} ({step.row.type}) gives out the same for every sample: {why}.",
            remedies=remedies,
            evidence=f"largest magnitude of its output {number(step.row.abs_max)}",
        )
        return


def _unbiased(view: View, step: Step) -> tuple[Remedy, ...]:
    """To take a bias away that makes most of what a step gives out."""
    bias = view.weights.get((step.name, "bias"))
    biased = bias is not None and bias.mean_square > 0.5 * step.mean_square
    return (remedy("zero_bias", where=step.name, why="Take its bias away"),) if biased else ()


def _is_single(view: View, step: Step) -> bool:
    """Whether a softmax has one value to choose from, as that of a state space over one place: all it gives is 1."""
    fact = view.facts.get(step.name)
    return fact is not None and fact.kind == LayerKind.SOFTMAX and step.row.min == step.row.max == 1


def _tells(row: Any, least: float) -> bool:
    """Whether a tensor tells its samples apart, well above the spread that counts as dead."""
    return bool(row.numel > row.channels and row.acv > least * row.mean_square)


def _alive(view: View, step: Step, least: float) -> bool:
    """Whether what a step takes tells its samples apart; of what came from outside only a weight of zero is a surprise."""
    sources = view.sources(step.key)
    if not sources:
        return view.has_zero_weight(step.name) and (step.is_weighted or step.kind is Kind.TABLE)
    # A mean over places, or one of them alone, need not tell samples apart where all places do.
    return any(_tells(row, least) for row in sources if view.places(row) <= view.places(step.row))


def _skipped(view: View, step: Step) -> bool:
    """Whether a dead step lies on a residual branch that is dead by design, or that stochastic depth dropped this time."""
    if not view.in_branch(step.name):
        return False
    return step.kind is Kind.PLAIN or bool(view.born_as_skips(view.limits["branch_vanishes"].decades))


def _cause(view: View, step: Step) -> tuple[Step, str, tuple[Remedy, ...]]:
    """The leaf to blame for a dead step, why in words, and what to do."""
    if view.has_zero_weight(step.name):
        again = remedy("init", init_for(view), where=step.name, why="Initialize it again")
        return step, "its weight is exactly zero", (again,)
    feeder = view.feeder(step)
    if step.kind is Kind.ACTIVATION and feeder is not None:
        low, high = number(feeder.row.min), number(feeder.row.max)
        why = f"{feeder.name} gives it values from {low} to {high}, where it is flat"
        norm = remedy("norm", norm_for(view), why="Look at the weights of that layer; or a norm before the activation")
        return feeder, why, (*_unbiased(view, feeder), norm, remedy("init", init_for(view)))
    sources = view.sources(step.key)
    why = f"ACV {arrow(float(sources[0].acv), float(step.row.acv))}" if sources else "its weight or bias does it"
    return step, why, (advice("Look at its weight and its eps."),)


@rule(
    "saturation",
    thresholds={
        "warning": (0.5, "half of the values beyond what a unit normal input would saturate pass no gradient"),
        "error": (0.9, "nine tenths do"),
    },
    source="Glorot & Bengio 2010; shares of a unit normal by its distribution function",
    tags=("layer",),
    follows=("dead", "rise"),
)
def saturation(view: View, at: Any) -> Iterator[Finding]:
    """A bounded activation most of whose values lie at an end of its range, where its derivative is near zero.

    The saturated share beyond that of a unit normal input, as a part of what could be beyond it.
    """
    bad: list[tuple[Key, Any, float]] = []
    for key, row in view.leaves.items():
        name = view.activation(key.name)
        usual = UNIT_SATURATION.get(name, 0.0)
        # NaN where the activation has no ends, and then no number is exceeded.
        excess = (row.saturated_fraction - usual) / (1 - usual)
        # The lower end of a ReLU6 is that of a ReLU, near which it is no more flat than elsewhere.
        if excess >= at.warning and row.dead_fraction < 1 and not (name == "relu6" and row.max < 5.9):
            bad.append((key, row, excess))
    if not bad:
        return
    key, row, excess = bad[0]
    sources = view.sources(key)[:1]
    came = "".join(f"; {source.name} gives it rms {number(source.rms)}" for source in sources)
    weighted = [step.row for step in view.steps if step.is_weighted and step.row in sources]
    culprit, share = (*weighted, row)[0], row.saturated_fraction
    yield Finding(
        severity=Severity.ERROR if excess >= at.error and not view.in_branch(str(row.name)) else Severity.WARNING,
        **measured(culprit, Signal.ACTIVATION, Column.SATURATED_FRACTION, share, f"below {at.warning:g}"),
        message=f"{percent(share)} of the values of {row.name} ({row.type}) lie at an end of its range{came}"
        f"{further(len(bad) - 1)}.",
        remedies=(
            # one layer that is at fault leaves the others alone
            remedy(
                "init",
                "xavier",
                where=str(culprit.name) if len(bad) == 1 and weighted else "",
                why="Smaller weights before it",
            ),
            remedy("norm", norm_for(view), why="A norm before it"),
        ),
        until=str(bad[-1][1].name) if len(bad) > 1 else "",
        evidence=some([f"{r.name} ({percent(r.saturated_fraction)})" for _, r, _ in bad]),
    )


@rule(
    "groups_init",
    thresholds={
        "groups": (8.0, "below, the fault is smaller than the spread between common inits (He to LeCun to fan-out)"),
        "share": (0.5, "most grouped layers show it; one alone is a cliff"),
    },
    source="He et al. 2015, arXiv 1502.01852: variance 2/fan, fan = k C / groups; Dewyse 2025",
    tags=("groups",),
)
def groups_init(view: View, at: Any) -> Iterator[Finding]:
    """Grouped or depthwise convolutions whose init counted all channels instead of those of one group.

    Variance ``2 / (k C_out)`` where ``2 / (k C_out / groups)`` was meant scales the second moment by ``1 / groups``.

    torch's own ``fan_out`` does this, and torchvision's EfficientNet and MobileNet with it, where the norm behind every
    convolution makes good for it; without norms the signal dies.
    """
    blind = _blind(view, at)
    if not blind:
        return
    first, groups = blind[0]
    wanted = f"about 1 to 2, as for a group of {view.facts[first.name].fan_in} inputs"
    stream = [g for s, g in blind if not view.in_branch(s.name)] or [g for _, g in blind]
    lost = float(np.log10(np.array(stream) / 2).sum())
    kind = "depthwise" if {s.kind for s, _ in blind} == {Kind.DEPTHWISE} else "grouped"
    told = (
        f"The init of {len(blind)} {kind} convolutions ignores their groups: mean squares change by about 2/groups "
        f"(×{number(2 / groups)} at {first.name}), {times(-abs(lost))} over {len(stream)}"
    )
    found = Finding(
        severity=dying(view) or Severity.NOTE,
        **measured(first, Signal.WEIGHT, "fan_in x mean_square", view.weight_gain(first.name), wanted),
        message=f"{told}.",
        remedies=(remedy("init", "he", why="An init that counts the channels of one group"),),
        evidence=some([f"{s.name} ({g} groups)" for s, g in blind]),
    )
    # A note where the norm behind each, or a skip beside it, makes good for it.
    if dying(view) is None or all(view.normed(s) for s, _ in blind):
        told += "; norms or skips make good for it"
        found = replace(found, severity=Severity.NOTE, message=f"{told}.", remedies=(), tags=())
    yield found


def _blind(view: View, at: Any) -> list[tuple[Step, int]]:
    """Grouped layers with an init that ignores their groups, and how many groups; none where the most do not."""
    weighted = [s for s in view.steps if s.is_weighted and given(view.facts[s.name], "groups")]
    grouped = [(s, g) for s in weighted if (g := int(view.facts[s.name].groups)) >= at.groups]
    blind = [(s, g) for s, g in grouped if 0.2 <= view.weight_gain(s.name) * g <= 5.0]
    return blind if len(blind) >= at.share * len(grouped) else []


@rule(
    "bias_outlier",
    thresholds={
        "share": (
            0.9,
            "of the second moment, which does not depend on the input; less than a third of the amplitude does",
        ),
        "times": (100.0, "ten times the amplitude of the other biases: torch's and all published inits differ by less"),
    },
    source="second moment of w x + b = that of w x + b^2",
    tags=("bias",),
    follows=("dead",),
)
def bias_outlier(view: View, at: Any) -> Iterator[Finding]:
    """A bias so large that the layer gives out little else.

    Bias squared against the second moment of the output, and against the biases of the other layers.
    """
    biased = [
        (step, float(view.weights[step.name, "bias"].mean_square))
        for step in view.steps
        if (step.name, "bias") in view.weights and (step.is_weighted or step.kind is Kind.NORM)
    ]
    sizes = np.sort([size for _, size in biased])
    for step, size in biased:
        usual = median_without(sizes, size) if len(sizes) > 1 else 0.0
        share = size / step.mean_square if step.mean_square > 0 else 0.0
        weight = view.weights.get((step.name, "weight"))
        unit = float(weight.mean_square) if weight is not None else 0.0
        # Of a branch the sum shows what comes of it; a bias of 1 there makes a gate that is open, one of 100 does not.
        most = at.times ** (2 if view.in_branch(step.name) else 1) * max(usual, unit)
        if share < at.share or size < most:
            continue
        if _kills(view, step) or _removed(view, step):
            continue
        largest = view.weights[step.name, "bias"].abs_max
        end = view.activations[view.ways[0][-1]]
        yield Finding(
            # What comes out at the end shows whether samples still look alike there.
            severity=Severity.ERROR if end.acsm > end.acv else Severity.WARNING,
            **measured(step, Signal.WEIGHT, "bias mean_square / output mean_square", share, f"at most {at.share:g}"),
            message=f"The bias of {step.name} ({step.row.type}, up to {number(largest)}) outweighs its input: it is "
            f"{percent(min(share, 1.0))} of the mean square that comes out, so samples look alike.",
            remedies=(remedy("zero_bias", where=step.name, why="Set it to zero"), remedy("init", init_for(view))),
            evidence=f"{step.name}.bias mean square {number(size)}, median of the other layers {number(usual)}",
        )
        return


def _kills(view: View, step: Step) -> bool:
    """Whether most of what an activation makes of the step is dead: the rules of dead layers and channels tell more."""
    return any(taker.kind is Kind.ACTIVATION and taker.row.dead_fraction >= 0.5 for taker in view.takers(step.key))


def _removed(view: View, step: Step) -> bool:
    """Whether what takes the step's output takes the bias out again, as a norm does, or multiplies with it."""
    takers = view.takers(step.key)
    return bool(takers) and all(taker.row.acsm < taker.row.acv for taker in takers)


@rule(
    "mean_shift",
    thresholds={
        "ratio": (30.0, "samples differ by less than a fifth of the amplitude; ReLU networks at init reach 2 to 10"),
        "jump": (10.0, "times that of what the layer takes: ReLU networks and biases raise it by less in each layer"),
    },
    source="Brock, De & Smith 2021, arXiv 2101.08692 (mean shift)",
    tags=("mean",),
    follows=("layer", "bias"),
)
def mean_shift(view: View, at: Any) -> Iterator[Finding]:
    """Channel means that outweigh the variance, so that all samples look alike.

    ACSM over ACV at the outputs of weighted layers, norms and activations; the first that exceeds, and where most arises.
    """
    # Where the variance dies, the mean is all that is left over.
    if judge(distinct(view).down, view.limits["vanishing"]):
        return
    ratios = [(s, float(s.row.acsm / s.row.acv)) for s in view.steps if _measurable(view, s)]
    bad = [(step, share) for step, share in ratios if share > at.ratio and step.name != view.readout]
    # What rises little by little does so in every ReLU network; a shift begins somewhere.
    sudden = [(step, share) for step, share in bad if share > at.jump * _taken(view, step)]
    if len(bad) < 2 or not sudden:
        return
    first, share = sudden[0]
    yield Finding(
        severity=Severity.WARNING,
        **measured(_blamed(view, first), Signal.ACTIVATION, "acsm / acv", share, f"below {at.ratio:g}"),
        message=f"From {first.name} ({first.row.type}) on the mean drowns the signal: ACSM is {number(share)} times ACV, "
        f"{further(len(bad) - 1, before='and so in ', after=', ')}up to {number(max(r for _, r in bad))}.",
        remedies=(
            remedy("norm", norm_for(view), why="Centre the input"),
            remedy("norm", "scaled_ws", why="Centre the weights"),
            activation_for(view, "selu", "An activation of mean zero, with an init of lecun"),
        ),
        evidence=some([f"{s.name} ({number(r)})" for s, r in bad]),
    )


def _taken(view: View, step: Step) -> float:
    """ACSM over ACV of what feeds a step; 0 for the batch, with which a shift may begin."""
    rows = [view.activations[key] for key in step.fed if key in view.activations]
    return max((float(row.acsm / row.acv) for row in rows if row.acv > 0), default=0.0)


def _measurable(view: View, step: Step) -> bool:
    """Whether a step's means tell something: a branch is judged by its sum, and a mean over places by what it averages."""
    kinds = (Kind.WEIGHTED, Kind.DEPTHWISE, Kind.NORM, Kind.ACTIVATION)
    known = step.kind in kinds and step.samples >= 4 and step.row.acv > 0 and np.isfinite(step.row.acsm)
    return known and not view.in_branch(step.name) and view.places(step.row) >= min(2, view.most_places)


def _blamed(view: View, step: Step) -> Step:
    """A weighted layer itself, else what feeds the step."""
    return step if step.is_weighted else view.feeder(step) or step


@rule(
    "dead_channels",
    thresholds={
        "share": (0.5, "half of the width is gone"),
        "samples": (16.0, "values per channel; of a healthy ReLU with so many, one in 2^16 channels is dead by chance"),
    },
    source="Lu et al. 2019, arXiv 1903.06733 (dying ReLU)",
    tags=("channels",),
    follows=("layer", "bias", "mean", "fall"),
)
def dead_channels(view: View, at: Any) -> Iterator[Finding]:
    """An activation most of whose channels are zero or constant over the batch.

    Activations with at least ``share`` of dead channels, twice as many as in what they take.
    """
    bad = []
    for step in view.steps:
        dead = float(step.row.dead_fraction)
        before = max((float(row.dead_fraction) for row in view.sources(step.key)), default=0.0)
        judged = step.is_weighted or step.kind in (Kind.ACTIVATION, Kind.OTHER)
        if judged and at.share <= dead < 1 and dead > 2 * before and step.samples >= at.samples:
            bad.append(step)
    if not bad:
        return
    first = bad[0]
    culprit = _blamed(view, first)
    fed = f"; {culprit.name} ({culprit.row.type}) feeds it" if culprit is not first else ""
    # rows of zeros come alive with an init, whatever the activation
    gone = culprit.is_weighted and culprit.row.dead_fraction >= at.share
    yield Finding(
        severity=Severity.WARNING,
        **measured(culprit, Signal.ACTIVATION, Column.DEAD_FRACTION, first.row.dead_fraction, f"below {at.share:g}"),
        message=f"{percent(first.row.dead_fraction)} of the channels of {first.name} ({first.row.type}) give out the same "
        f"for every sample{further(len(bad) - 1, before=', and so in ')}{fed}.",
        remedies=(
            *_unbiased(view, culprit),
            *((remedy("init", init_for(view), where=culprit.name, why="Initialize it again"),) if gone else ()),
            activation_for(view, "leaky_relu", "A smaller bias or rate, or an activation without a dead side"),
            remedy("init", init_for(view)),
        ),
        evidence=some([f"{s.name} ({percent(s.row.dead_fraction)})" for s in bad]),
    )


# --- norms -----------------------------------------------------------------------------------------------------------


@rule(
    "batch_of_one",
    thresholds={
        "values": (
            8.0,
            "per channel; the variance of so few has a relative spread of 1/2, and gradients grow twice as fast",
        )
    },
    source="Ioffe & Szegedy 2015, arXiv 1502.03167; Yang et al. 2019, arXiv 1902.08129: (B-2)/(B-3) per layer",
    tags=("batch",),
)
def batch_of_one(view: View, at: Any) -> Iterator[Finding]:
    """BatchNorm in training mode on one sample: it normalizes each sample by itself, unlike in evaluation.

    Batch size and values per channel of every BatchNorm that ran in training mode.
    """
    norms = [s for s in view.norms if _is_batch_norm(view.facts[s.name]) and view.trained(s.name)]
    # a watch knows no batch size, but every BatchNorm has it in front
    single = all(str(s.row.shape).startswith("1x") for s in norms)
    bad = norms if single else [s for s in norms if _values(s) < at.values]
    if not bad:
        return
    first = bad[0]
    wanted = f"batches of 2 or more, and at least {at.values:g} values"
    who = f"{first.name} ({first.row.type}){further(len(bad) - 1, 'norm', ' and ')}"
    yield Finding(
        severity=Severity.ERROR if single else Severity.WARNING,
        **measured(first, Signal.ACTIVATION, "values per channel", _values(first), wanted),
        message=f"BatchNorm on batches of one: {who} normalize each sample by itself, unlike in evaluation mode."
        if single
        else f"{who} normalize over {number(_values(first))} values per channel: noise as large as the signal.",
        remedies=(
            remedy("batch_size", 32, why="Larger batches, of 32"),
            remedy("norm", "group", why="A norm that needs no batch"),
        ),
        evidence=some([f"{s.name} ({number(_values(s))})" for s in bad]),
    )


@rule(
    "norm_input",
    thresholds={
        "times": (0.01, "of eps: there the output has less than a tenth of unit amplitude, instead of all of it")
    },
    source="y = (x - mean) / sqrt(var + eps)",
    tags=("layer",),
    follows=("layer", "bias", "batch", "fall"),
)
def norm_input(view: View, at: Any) -> Iterator[Finding]:
    """A norm whose input is so small that eps takes its place.

    What the norm divides by (mean square for RMSNorm, channel variance for BatchNorm, else the variance) against eps.
    """
    bad = []
    for step in view.norms:
        fact, sources = view.facts[step.name], view.sources(step.key)
        running = _is_batch_norm(fact) and not view.trained(step.name)
        size = _normalized(fact, sources[0]) if len(sources) == 1 and not running else np.nan
        if size < at.times * fact.eps:
            bad.append((step, sources[0], size, float(fact.eps)))
    if not bad:
        return
    step, came, size, eps = bad[0]
    source = view.activations[step.fed[0]] if step.fed and step.fed[0] in view.activations else came
    scalable = [source] if (source.name, "weight") in view.weights and size > 0 else []
    yield Finding(
        severity=Severity.ERROR,
        **measured(source, Signal.ACTIVATION, "variance", size, f"above {at.times:g} eps = {number(at.times * eps)}"),
        message=f"{source.name} ({source.type}) gives {step.name} a variance of {number(size)}, far below its eps of {eps:g}: "
        f"it no longer normalizes{further(len(bad) - 1, 'norm')}.",
        remedies=(
            *(
                remedy("gain", size**-0.5, where=str(source.name), why="Scale it up, or take a smaller eps")
                for _ in scalable
            ),
            remedy("init", init_for(view), why="Larger weights before it, or a smaller eps"),
        ),
        evidence=some([f"{s.name} ({number(v)} against {e:g})" for s, _, v, e in bad]),
    )


@rule(
    "norm_gradient",
    thresholds={"factor": (1.1, "a tenth in the squared gradient, per norm; below there is nothing to tell")},
    source="Yang et al. 2019, arXiv 1902.08129, Theorem 8: pi/(pi-1) = 1.467 for BatchNorm before ReLU; Dewyse 2025",
    tags=(FACT,),
)
def norm_gradient(view: View, at: Any) -> Iterator[Finding]:
    """By how much the norms rescale the gradients that come back through them.

    Mean square of the gradient before a norm over that behind it, where nothing else takes the norm's input.
    """
    found = [(step, view.backward_decades(step, total=False)) for step in view.norms]
    found = [(step, decades) for step, decades in found if np.isfinite(decades)]
    mean = float(np.mean([decades for _, decades in found])) if found else 0.0
    if abs(mean) < np.log10(at.factor):
        return
    low, high = min(found, key=lambda p: p[1]), max(found, key=lambda p: p[1])
    yield Finding(
        severity=Severity.NOTE,
        **measured(None, Signal.GRADIENT, "squared gradient before / behind", abs(mean), f"within {at.factor:g} of 1"),
        message=f"{count(len(found), 'norm')} rescale squared gradients on their way back, {times(mean)} on average, from "
        f"{times(low[1])} at {low[0].name} to {times(high[1])} at {high[0].name}.",
        evidence=some([f"{step.name} ({powered(decades)})" for step, decades in found]),
    )


def _normalized(fact: Any, row: Any) -> float:
    """What a norm divides by: the variance within channels, over all of them, or the mean square."""
    word = str(fact.type).lower()
    within = _is_batch_norm(fact) or "instance" in word
    return float(row.acv if within else row.mean_square if "rms" in word else row.var)


def _values(step: Step) -> float:
    """Values per channel in one batch."""
    # numel counts every batch that was measured; the shape is that of one.
    sides = [int(side) for side in str(step.row.shape).split("x") if side]
    return float(np.prod(sides)) / max(1, int(step.row.channels))


def _is_batch_norm(fact: Any) -> bool:
    """Whether a norm takes its statistics over the batch."""
    word = str(fact.type).lower()
    return "batch" in word and "norm" in word

"""What the network is asked to do: the loss and what it is given, the targets and the inputs, and how the loss goes.

Most of it is read from the graph between output and loss, see :func:`spp.objective.loss_facts`. What was not seen there
gives no finding: a loss written by hand is known as far as its operations are, and a watch knows a target only where
autograd keeps it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from spp.diagnosis.findings import Finding, arrow, count, number, percent
from spp.diagnosis.registry import Check, rule
from spp.diagnosis.view import Kind, Step, View, measured
from spp.frame.schema import ModuleColumn, StepColumn
from spp.vocabulary import Severity, Signal

CROSS_ENTROPY, BCE, BCE_LOGITS = "cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits"
SQUARES = ("mse_loss", "smooth_l1_loss", "huber_loss", "l1_loss")
"""Criteria of a difference between output and target."""
KNOWN = (CROSS_ENTROPY, "nll_loss", BCE, BCE_LOGITS, *SQUARES)
LAYERS = ("addmm", "mm", "bmm", "baddbmm", "convolution")
"""Operations of layers whose output has no range."""
RANGES = {
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, math.inf),
    "softplus": (0.0, math.inf),
    "exp": (0.0, math.inf),
}
"""Where what an operation gives out lies."""
FEW = 20
"""Units of an output that tells classes apart; more are an image."""
ADAPTIVE = re.compile("ada|adam|rms|lamb|lion|novo|sophia|muon|shampoo", re.IGNORECASE)
"""Names of optimizers to which the scale of a loss makes no difference."""


class Criterion(NamedTuple):
    """The one criterion that a loss is made of, see :class:`spp.objective.Term`; ``width`` is of one sample of the output."""

    name: str
    factor: float
    elements: int
    takes: list[str]
    units: int | None
    repeated: int
    width: float

    @property
    def source(self) -> str:
        """The operation that made what it is given."""
        return self.takes[0] if self.takes else ""


def criterion_of(view: View) -> Criterion | None:
    """The criterion of a loss that is one criterion of the model's output; None for any other loss."""
    terms = view.run.get("loss_terms") or []
    # with layers between, as those of a discriminator, it is no criterion of this model's output
    if len(terms) != 1 or terms[0]["criterion"] not in KNOWN or not set(view.run["loss_graph"]).isdisjoint(LAYERS):
        return None
    one, factor = terms[0], terms[0]["factor"]
    factor = math.nan if factor is None else factor
    shape = view.steps[-1].row.shape if view.steps else ""
    width = math.prod(map(int, shape.split("x")[1:])) if "x" in shape else math.nan
    facts = list(one["takes"]), one["units"], one.get("repeated", 1), width
    return Criterion(one["criterion"], factor, one["elements"], *facts)


def _fails(view: View) -> bool:
    """Whether the loss of a training did not fall."""
    losses = _losses(view)[1]
    return len(losses) > 4 and not losses[-2:].mean() < losses[0]


def _target(view: View) -> dict[str, Any]:
    """Facts of the targets; empty where they were not seen."""
    found: dict[str, Any] = view.run.get("target") or {}
    return found if "mean" in found else {}


def _maker(view: View, operation: str) -> Step | None:
    """The step that gave out what the loss is given: the last that is ``operation``, behind the readout; or the readout."""
    for step in reversed(view.steps):
        fact = view.facts.get(step.name)
        if step.is_weighted or operation in (view.activation(step.name), getattr(fact, ModuleColumn.KIND, None)):
            return step
    return None


def _wrong(view: View, operation: str, severity: Severity, message: str, remedy: str, **more: Any) -> Finding:
    """A finding about what the loss is given."""
    at = measured(_maker(view, operation), Signal.ACTIVATION, "operation", math.nan, more.pop("expected", None))
    at["value"] = more.pop("value", math.nan)
    at["statistic"] = more.pop("statistic", "operation before the loss")
    return Finding(severity=severity, **at, message=message, remedy=remedy, **more)


# -- what the loss is given -------------------------------------------------------------------------------------------------


@rule(
    "one_unit_softmax",
    source="arithmetic: exp(x) / exp(x) = 1, with derivative zero",
    tags=("dead", "derivative", "fall"),
)
def one_unit_softmax(view: View, at: Any) -> Iterator[Finding]:
    """A softmax over a single unit before the loss: 1 whatever comes in.

    The shortest axis over which a softmax between the last layer and the loss runs.
    """
    for term in view.run.get("loss_terms") or []:
        if term["units"] == 1:
            yield _wrong(
                view,
                "softmax",
                Severity.ERROR,
                "The softmax before the loss runs over one unit: it gives 1 for every input, and no gradient.",
                "One unit takes a sigmoid, `nn.BCEWithLogitsLoss` on the plain output; or give the layer one unit a class.",
                value=1.0,
                statistic="units",
                expected="at least 2",
            )
            return


@rule(
    "output_activation",
    source="torch's documentation of each loss; Nikanjam et al. 2021 (NeuraLint), Schoop et al. 2021 (UMLAUT)",
    tags=("objective",),
)
def output_activation(view: View, at: Any) -> Iterator[Finding]:
    """An activation before the loss that the loss does not want: applied twice, missing, or cutting off gradients.

    The operations that autograd recorded between the last layer and the criterion.
    """
    one = criterion_of(view)
    if one is None:
        return
    told = _misfit(one, _target(view))
    if told is not None:
        severity, message, remedy = told
        shown = " <- ".join([one.name, *one.takes])
        yield _wrong(view, one.source, severity, message, remedy, evidence=shown)


class Misfit(NamedTuple):
    """What criteria do not want to be given: how bad it is, in words, and what to do."""

    criteria: tuple[str, ...]
    sources: tuple[str, ...]
    severity: Severity
    message: str
    remedy: str


PLAIN = "Take the {source} away: {name} takes the plain output."
CROSS = "Use `F.cross_entropy` on the plain output."
SURE = ": where it is sure and wrong its derivative vanishes"
MISFITS = (
    Misfit(
        (CROSS_ENTROPY, BCE_LOGITS),
        ("softmax", "sigmoid", "tanh", "relu"),
        Severity.WARNING,
        "{name} takes logits, and {source} is applied {again}{least}.",
        PLAIN,
    ),
    Misfit(
        (CROSS_ENTROPY,),
        ("log_softmax",),
        Severity.NOTE,
        "cross_entropy has a log_softmax of its own: the one before it changes nothing.",
        PLAIN,
    ),
    Misfit(
        ("nll_loss",),
        ("log of softmax",),
        Severity.NOTE,
        "The log of a softmax loses small probabilities; log_softmax does not.",
        "Use `F.log_softmax`.",
    ),
    Misfit(
        ("nll_loss",),
        ("log_softmax",),
        Severity.ERROR,
        "The log_softmax before nll_loss runs over another axis than the classes, which are on axis 1.",
        CROSS,
    ),
    Misfit(
        ("nll_loss",),
        ("softmax", *LAYERS),
        Severity.ERROR,
        "nll_loss takes log-probabilities and is given {given}: it does not measure how wrong they are.",
        CROSS,
    ),
    Misfit(
        (BCE,),
        ("softmax",),
        Severity.WARNING,
        "binary_cross_entropy judges each unit by itself, and the softmax before it ties them together.",
        f"{CROSS[:-1]}, or a sigmoid where several classes may hold at once.",
    ),
    Misfit(SQUARES, ("softmax",), Severity.WARNING, f"{{name}} of a softmax{SURE}, and nothing is learned.", CROSS),
    Misfit(
        SQUARES,
        ("sigmoid of two",),
        Severity.WARNING,
        f"{{name}} of a sigmoid against zeros and ones{SURE}.",
        "Use `F.binary_cross_entropy_with_logits` on the plain output.",
    ),
)
AGAIN = ((CROSS_ENTROPY, "softmax"), (BCE_LOGITS, "sigmoid"))
"""Criteria that apply an activation themselves."""


def _misfit(one: Criterion, target: dict[str, Any]) -> tuple[Severity, str, str] | None:
    """How bad it is that a criterion is given what it is given, in words, and what to do; None where it fits."""
    source = _given(one, target)
    found = next((row for row in MISFITS if one.name in row.criteria and source in row.sources), None)
    if found is None:
        return None
    floor = _floor(one, source)
    words = {
        "name": one.name,
        "source": source,
        "again": "a second time" if (one.name, source) in AGAIN else "first",
        "least": ", and units below zero get no gradient" if source == "relu" else "",
        "given": "probabilities" if source == "softmax" else "the plain output",
    }
    if floor is not None:
        words["least"] = f", and the loss cannot fall below {number(floor)}"
    # a few units tell classes apart, many are an image
    image = source == "sigmoid of two" and one.width > FEW
    severity = Severity.NOTE if image else found.severity
    return severity, found.message.format(**words), found.remedy.format(**words)


def _given(one: Criterion, target: dict[str, Any]) -> str:
    """What a criterion is given, as the table of misfits calls it."""
    if one.source == "log" and "softmax" in one.takes:
        return "log of softmax"
    binary = target.get("distinct") == 2 and (target["min"], target["max"]) == (0.0, 1.0)
    return "sigmoid of two" if one.source == "sigmoid" and one.name in SQUARES and binary else one.source


def _floor(one: Criterion, source: str) -> float | None:
    """The smallest loss where logits lie in the range of ``source``: the right one at its upper end, others at the lower."""
    low, high = RANGES.get(source, (0.0, math.inf))
    if not math.isfinite(high) or one.name != CROSS_ENTROPY or not one.units:
        return None
    return math.log(1 + (one.units - 1) * math.exp(low - high))


@rule(
    "output_range",
    thresholds={
        "beyond": (0.02, "of the targets' spread: below, it is a matter of rounding"),
        "error": (0.5, "of the spread cannot be reached: most of the targets"),
    },
    source="arithmetic: an activation's output range",
    tags=("objective",),
)
def output_range(view: View, at: Any) -> Iterator[Finding]:
    """Targets that the last activation cannot give out.

    The share of the targets' spread that lies outside of the activation's range.
    """
    one, target = criterion_of(view), _target(view)
    if one is None or one.name not in (*SQUARES, BCE) or one.source not in RANGES or not target:
        return
    (low, high), least, most = RANGES[one.source], target["min"], target["max"]
    beyond = max(low - least, 0.0) + max(most - high, 0.0)
    share = min(1.0, beyond / (most - least)) if most > least else float(beyond > 0)
    if share < at.beyond:
        return
    reach = f"{number(low)} to {number(high)}" if math.isfinite(high) else f"{number(low)} upwards"
    outside = share >= at.error or not low <= target["mean"] <= high
    yield _wrong(
        view,
        one.source,
        Severity.ERROR if outside else Severity.WARNING,
        f"Targets run from {number(least)} to {number(most)}; the {one.source} before the loss gives out {reach}.",
        f"Scale the targets to that range, or take the {one.source} away.",
        value=share,
        statistic="share of the targets' spread out of reach",
        expected=f"below {percent(at.beyond)}",
    )


# -- the loss itself ----------------------------------------------------------------------------------------------------------


@rule(
    "loss_sum",
    thresholds={
        "elements": (16, "from there on the sum is more than a decade above the mean: a rate of 0.1 acts as 1.6")
    },
    source="arithmetic: the gradient of a sum grows with the batch, and so does the step that a rate makes",
    tags=("objective",),
)
def loss_sum(view: View, at: Any) -> Iterator[Finding]:
    """A loss that adds its elements up where a mean is meant.

    How often the loss has the mean of its criterion, where that is once for every element.
    """
    one = criterion_of(view)
    if (
        one is None
        or view.run.get("loss_further")
        or one.elements < at.elements
        or not abs(one.factor) >= 0.99 * one.elements
    ):
        return
    optimizer = view.run.get("optimizer") or ""
    adaptive = bool(ADAPTIVE.search(optimizer))
    yield Finding(
        severity=Severity.NOTE if adaptive else Severity.ERROR if _fails(view) else Severity.WARNING,
        name="",
        statistic="loss over mean criterion",
        value=abs(one.factor),
        expected="1",
        message=f"{one.name} is summed over {one.elements:,} elements: gradients are that many times those of the mean"
        + (f", which {optimizer} divides out." if adaptive else "."),
        remedy='`reduction="mean"`, or divide by the number of elements.',
    )


@rule("ascended", source="arithmetic: the sign of the loss in its graph", tags=("objective",))
def ascended(view: View, at: Any) -> Iterator[Finding]:
    """A criterion that is made larger, not smaller.

    The sign that the criterion has in the loss, and whether the optimizer maximizes.
    """
    groups = [group for optimizer in view.run.get("optimizers") or [] for group in optimizer["groups"]]
    one, maximizes = criterion_of(view), any(group.get("maximize") for group in groups)
    # a generator may want to be judged wrongly: its targets are all alike
    if one is None or _target(view).get("distinct", 2) < 2 or math.isnan(one.factor) or (one.factor > 0) != maximizes:
        return
    why = "the optimizer has maximize=True" if maximizes else f"the loss has it times {number(one.factor)}"
    yield Finding(
        severity=Severity.ERROR,
        name="",
        statistic="sign of the criterion",
        value=one.factor,
        expected="above 0",
        message=f"Training makes {one.name} larger: {why}.",
        remedy="Turn the sign of the loss." if not maximizes else "Leave `maximize` out.",
    )


# -- the targets ----------------------------------------------------------------------------------------------------


@rule(
    "targets",
    thresholds={
        "samples": (8, "of them; of two balanced classes so many are alike by chance once in 128 batches"),
        "mass": (0.05, "by which probabilities may miss a sum of one"),
    },
    source="the definition of each criterion",
    tags=("objective",),
)
def targets(view: View, at: Any) -> Iterator[Finding]:
    """Targets that the loss cannot use: NaN, all alike, or outside of what it is defined for.

    Facts of the targets of the first measured batch.
    """
    one, target = criterion_of(view), view.run.get("target") or {}
    if one is not None and target.get("numel"):
        checks = (_not_numbers, _undefined, _alike) if "mean" in target else (_not_numbers,)
        yield from islice((finding for check in checks for finding in check(view, one, target, at)), 1)


def _of_targets(severity: Severity, statistic: str, value: float, message: str, remedy: str) -> Finding:
    return Finding(severity=severity, name="", statistic=statistic, value=float(value), message=message, remedy=remedy)


def _not_numbers(view: View, one: Criterion, target: dict[str, Any], at: Any) -> Iterator[Finding]:
    """Targets that hold NaN or infinity."""
    if many := target["nonfinite"]:
        message = f"{percent(many / target['numel'])} of the targets are NaN or infinite."
        yield _of_targets(Severity.ERROR, "nonfinite", many, message, "Look at the data.")


def _undefined(view: View, one: Criterion, target: dict[str, Any], at: Any) -> Iterator[Finding]:
    """Targets that the loss is not defined for, or does not meet as they are meant."""
    low, high = target["min"], target["max"]
    if one.repeated > 1 and one.elements == one.repeated**2:
        message = f"Each of {one.repeated} outputs is compared with all targets: (N, 1) and (N,) were broadcast."
        yield _of_targets(
            Severity.ERROR, "repeated", one.repeated, message, "Give both the same shape, `target[:, None]`."
        )
    if one.name in (BCE, BCE_LOGITS) and (low < -1e-6 or high > 1 + 1e-6):
        message = (
            f"{one.name} is defined for targets from 0 to 1, and they run from {number(low)} to {number(high)}: it "
        )
        which, value = ("max", high) if high > 1 else ("min", low)
        yield _of_targets(Severity.ERROR, which, value, f"{message}has no lower bound.", "Map the targets to 0 and 1.")
    if _mixed(one, target) and abs((mass := target["mean"] * target["classes"]) - 1) > at.mass:
        message = f"cross_entropy is given probabilities that add up to {number(mass)} for each sample."
        yield _of_targets(Severity.WARNING, "sum of probabilities", mass, message, "Normalize them to a sum of 1.")


def _mixed(one: Criterion, target: dict[str, Any]) -> bool:
    """Whether targets are probabilities of several classes."""
    floats = one.name == CROSS_ENTROPY and target["dtype"].startswith(("float", "bfloat"))
    return bool(floats and target.get("classes"))


def _alike(view: View, one: Criterion, target: dict[str, Any], at: Any) -> Iterator[Finding]:
    """Targets that are one number."""
    low = target["min"]
    if target["distinct"] > 1 or target["numel"] < at.samples or _mixed(one, target):
        return
    binary = one.name in (BCE, BCE_LOGITS)
    # zeros of a regression are a residual that is to vanish, and a discriminator's ones are all alike
    if binary or one.name in (CROSS_ENTROPY, "nll_loss") or (one.name in SQUARES and low not in (0.0, 1.0)):
        message = f"All {target['numel']:,} targets are {number(low)}: there is nothing to tell apart."
        remedy = "Look at how targets are read, and whether batches are shuffled."
        # one batch of ones is also what a generator is trained with
        severity = Severity.NOTE if binary and len(_losses(view)[0]) < 2 else Severity.WARNING
        yield _of_targets(severity, "distinct", 1, message, remedy)


@rule("loss_nonfinite", source="arithmetic: no gradient of it is a number", tags=("everything",))
def loss_nonfinite(view: View, at: Any) -> Iterator[Finding]:
    """A loss that is NaN or infinite, or becomes so, though what the network gives out is finite.

    From which measured step on.
    """
    steps, losses = _losses(view)
    if not len(steps) or np.isfinite(losses[-1]) or not view.run.get("loss_graph"):
        return
    # what comes out of the network says more of where it begins
    if any(row.nonfinite for row in (*view.weights.values(), *view.activations.values())):
        return
    first = int(np.flatnonzero(np.isfinite(losses))[-1]) + 1 if np.isfinite(losses).any() else 0
    # a loss that nobody knows is NaN as well, but not for ever after
    since = (
        ""
        if not first
        else f" since step {steps[first]}; at step {steps[first - 1]} it was {number(losses[first - 1])}"
    )
    made = " <- ".join(reversed(view.run["loss_graph"]))
    yield Finding(
        severity=Severity.ERROR,
        name="",
        step=int(steps[first]) if len(steps) > 1 else None,
        statistic="loss",
        value=float(losses[-1]),
        message=f"The loss is {losses[-1]}{since}, though what the network gives out is finite.",
        remedy="Look at what the loss computes: a logarithm or root of 0, a division by 0; or the targets.",
        evidence=made,
    )


@rule(
    "target_scale",
    thresholds={
        "warning": (
            100,
            "times the output: hundreds of steps of a rate of 1e-3, or gradients a hundred times too large",
        ),
        "error": (1e4, "times the output: no usual rate reaches it"),
    },
    source="arithmetic: a step of a rate r moves a weight by about r (Kingma & Ba 2015, arXiv 1412.6980, section 2.1)",
    tags=("objective",),
)
def target_scale(view: View, at: Any) -> Iterator[Finding]:
    """Targets of a scale that is far from that of the output.

    The rms of the targets over that of the output, or over 1 where the output is smaller; or that of the output over theirs.
    """
    one, target = criterion_of(view), _target(view)
    end = view.steps[-1] if view.steps else None
    if one is None or one.name not in SQUARES or one.source not in LAYERS or not target or end is None:
        return
    rms = math.hypot(target["mean"], math.sqrt(target["var"]))
    out = float(end.row.rms)
    short = rms / max(out, 1.0)
    ratio = max(short, out / rms if target["distinct"] > 1 and rms > 0 else 0.0)
    # where it is not the output itself, its scale is not known
    if end.row.numel != one.elements or not ratio >= at.warning:
        return
    yield Finding(
        severity=Severity.ERROR if ratio >= at.error else Severity.WARNING,
        **measured(end, Signal.ACTIVATION, "ratio of target rms and output rms", ratio, f"below {at.warning:g}"),
        message=f"Targets have an rms of {number(rms)}, the output one of {number(out)}.",
        evidence=f"targets of mean {number(target['mean'])} and std {number(math.sqrt(target['var']))}",
        remedy="Standardize the targets, or set the bias of the last layer to their mean.",
        # an output that is too large may be the network's doing
        tags=None if ratio == short else (),
        follows=None if ratio == short else LARGE,
    )


@rule(
    "inputs",
    thresholds={
        "rms": (
            30,
            "inits suppose an input of rms 1: first activations, and gradients of the first layer, are as many times larger",
        ),
        "least": (0.02, "of the largest magnitude: the first layer gives out little else than its bias"),
        "offset": (
            10,
            "standard deviations of a feature: its mean is a hundred times the second moment of what varies",
        ),
        "scales": (1000, "between the features' standard deviations: no one rate serves both weights"),
    },
    source="LeCun et al. 1998, Efficient BackProp, section 4.3: inputs of mean 0 and like variances",
    tags=("objective", "layer", "mean", "bias"),
)
def inputs(view: View, at: Any) -> Iterator[Finding]:
    """Inputs that an init does not suppose: not centred, of other scales, integers up to 255, constant or all alike.

    Facts of the first measured batch; not where a norm takes it.
    """
    first = next((step for step in view.steps if step.kind in (Kind.NORM, Kind.WEIGHTED, Kind.OTHER)), None)
    if first is None or first.kind is Kind.NORM:
        return
    for facts in view.run.get("inputs") or []:
        statistic, value, message, remedy = next(_bad_input(facts, at), ("", 0.0, "", ""))
        # a scale alone matters beside a loss, which has one of its own
        if not statistic or (statistic in ("rms", "largest") and not view.run.get("loss_graph")):
            continue
        few = statistic == "constant" and facts["features"] > 4
        severity = Severity.NOTE if few else Severity.ERROR if _fails(view) else Severity.WARNING
        where = measured(first, Signal.ACTIVATION, statistic, value)
        yield Finding(severity=severity, **where, message=message, remedy=remedy, tags=() if few else None)
        return


def _bad_input(facts: dict[str, Any], at: Any) -> Iterator[tuple[str, float, str, str]]:
    """What is wrong with an input, the worst first: which number, how large, in words, and what to do."""
    low, high, rms = facts["min"], facts["max"], math.hypot(facts["mean"], facts["std"])
    largest, scales, offset = max(abs(low), abs(high)), facts.get("scales", 1.0), facts.get("offset", 0.0)
    constant, standardize = facts["constant"], "Standardize each feature."
    if facts["alike"]:
        what = "the same in every sample" if largest else "zero"
        yield "alike", 1.0, f"All values of the input are {what}: there is nothing to tell apart.", "Look at the data."
    if scales >= at.scales:
        message = f"Features of the input have standard deviations that differ {number(scales)}-fold."
        yield "scales", scales, message, standardize
    if facts["whole"] and low >= 0 and 127 < high <= 255 and rms >= at.rms:
        message = f"The input is whole numbers from {number(low)} to {number(high)}, of rms {number(rms)}: raw pixels."
        yield "rms", rms, message, "Divide by 255, and subtract the mean."
    if offset >= at.offset:
        message = f"Features of the input have means of {number(offset)} standard deviations."
        yield "offset", offset, message, standardize
    if rms >= at.rms:
        yield "rms", rms, f"The input has an rms of {number(rms)}; inits suppose 1.", standardize
    if largest < at.least:
        message = f"No value of the input is larger than {number(largest)}; inits suppose an rms of 1."
        yield "largest", largest, message, standardize
    if len(facts["shape"]) >= 4 and constant:
        message = f"{count(constant, 'channel')} of {facts['features']} are constant."
        yield "constant", float(constant), message, "Look at how images are read."


# -- how the loss goes ----------------------------------------------------------------------------------------------------


def _losses(view: View) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Steps and losses of the training."""
    table = view.losses[view.losses[StepColumn.TRAINING]].sort_values(StepColumn.STEP)
    return table[StepColumn.STEP].to_numpy(), table[StepColumn.LOSS].to_numpy("float64")


def _uninformed(view: View) -> float:
    """The loss of an output that says nothing of its input; NaN where that is not known."""
    one, target = criterion_of(view), _target(view)
    if one is None or view.run.get("loss_further") or not target or target["distinct"] < 2:
        return math.nan
    if one.name == CROSS_ENTROPY and one.units:
        return one.factor * math.log(one.units)
    if one.name in (BCE, BCE_LOGITS) and 0 < (p := target["mean"]) < 1 and target["distinct"] == 2:
        return float(-one.factor * (p * math.log(p) + (1 - p) * math.log(1 - p)))
    return float(one.factor * target["var"]) if one.name == "mse_loss" else math.nan


CAUSES = (
    "dead",
    "layer",
    "bias",
    "groups",
    "mean",
    "growth",
    "derivative",
    "fall",
    "rise",
    "objective",
    "rate",
    "cleared",
)
LARGE = ("layer", "bias", "growth", "derivative", "rise")
"""Tags of what makes outputs too large."""

COURSE: list[Callable[[], object]] = []


def _last(name: str, **options: Any) -> Callable[[Check], Check]:
    """A rule about how the loss goes, of which whatever another rule finds is a cause: it is registered behind all others."""

    def keep(check: Check) -> Check:
        COURSE.append(partial(rule(name, follows=CAUSES, **options), check))
        return check

    return keep


def register_course() -> None:
    """Register the rules about how the loss goes."""
    for register in COURSE:
        register()


@_last(
    "first_loss",
    thresholds={
        "warning": (3.0, "nats above ln C: half the variance of the logits, whose std is then 2.4"),
        "error": (
            10.0,
            "nats, where training does not bring it down: logits of a std of 4.5, of which the largest decides alone",
        ),
        "ratio": (100.0, "times the targets' mean square: the output begins ten times too large"),
    },
    source="E[-log softmax] = ln C + var / 2 for normal logits of a small variance; Karpathy 2019, 'verify loss @ init'",
)
def first_loss(view: View, at: Any) -> Iterator[Finding]:
    """A first loss far above that of an output that says nothing.

    Against ln C for a cross-entropy over C classes, against the targets' mean square for a squared error.
    """
    steps, losses = _losses(view)
    one, target, base = criterion_of(view), _target(view), _uninformed(view)
    # an evaluation may be of a network whose running statistics are not its own yet
    if one is None or not len(steps) or steps[0] != 0 or not math.isfinite(base) or one.factor <= 0:
        return
    loss, end = float(losses[0]) / one.factor, _maker(view, one.source)
    base = base / one.factor
    if one.name == "mse_loss":
        base += target["mean"] ** 2
        severity = Severity.WARNING if loss >= at.ratio * base else None
        what = f"{number(loss / base)} times the targets' mean square, {number(base)}"
    else:
        over = loss - base
        # T5's own head begins at 30 nats and learns
        failed = over >= at.error and _fails(view)
        severity = Severity.ERROR if failed else Severity.WARNING if over >= at.warning else None
        guess = f"ln {one.units}" if one.name == CROSS_ENTROPY else "a guess by frequency"
        what = f"an output that says nothing has {number(base)} ({guess})"
    if severity is not None:
        yield Finding(
            severity=severity,
            **measured(end, Signal.ACTIVATION, "loss", loss, f"near {number(base)}"),
            message=f"The first loss is {number(loss)}; {what}: the output begins too large.",
            remedy="A smaller init of the last layer, inputs of unit scale, or a norm before it.",
        )


def _thirds(losses: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """The means of the first and the last third, and the standard error of their difference."""
    size = max(2, len(losses) // 3)
    first, last = losses[:size], losses[-size:]
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / size)
    return float(first.mean()), float(last.mean()), error


@_last(
    "loss_rises",
    thresholds={
        "times": (1.2, "the first loss, on average since: more than batches of usual sizes differ"),
        "share": (0.05, "of the first third, by which the last one is above it; a training loss falls"),
        "errors": (4.0, "standard errors of that difference: not by chance"),
        "error": (10.0, "times, in the end: it has diverged"),
        "samples": (5, "measured steps"),
    },
    source="Zhang et al. 2021 (AUTOTRAINER), Cao et al. 2022 (DeepFD): a loss that increases",
)
def loss_rises(view: View, at: Any) -> Iterator[Finding]:
    """A loss that has grown over the training, or jumps about above where it began.

    The mean of the measured steps against the first one, and the last third against the first third.
    """
    steps, losses = _losses(view)
    one, base = criterion_of(view), _uninformed(view)
    if (
        one is None
        or len(losses) < at.samples
        or not np.isfinite(losses).all()
        or not math.isfinite(base)
        or one.factor < 0
    ):
        return
    (early, end, error), start = _thirds(losses), float(losses[0])
    jumps = losses[1:].mean() >= at.times * start and np.median(losses[1:]) > start
    grows = end - early >= max(at.share * early, at.errors * error)
    if not (jumps or grows) or end < max(start, 0.95 * base):
        return
    steadily = (np.diff(losses) > 0).mean() >= 0.9
    yield Finding(
        severity=Severity.ERROR if end >= at.error * start else Severity.WARNING,
        name="",
        step=int(steps[0]),
        statistic="loss, end / start",
        value=end / start,
        expected=f"below {at.times:g}",
        message=f"The loss goes {arrow(start, end)} from step {steps[0]} to {steps[-1]}, and up to {number(losses.max())} "
        f"between; a guess has {number(base)}.",
        remedy="Is the gradient subtracted? The loss rises at every step."
        if steadily
        else "A lower learning rate, or a warm-up.",
    )


@_last(
    "loss_stuck",
    thresholds={
        "change": (0.02, "of the loss at the beginning, between the first and the last third of the measured steps"),
        "noise": (0.05, "of the loss, as the error of a third's mean; above, nobody can tell"),
        "uninformed": (0.6, "of the loss of an output that says nothing of its input: below, something was learned"),
        "samples": (6, "measured steps"),
        "steps": (20, "of training between the first and the last of them"),
    },
    source="Schoop et al. 2021 (UMLAUT), Wardat et al. 2021 (DeepLocalize): a loss that does not decrease",
)
def loss_stuck(view: View, at: Any) -> Iterator[Finding]:
    """A loss that does not move from that of an output that says nothing.

    The means of the first and the last third of the measured steps, within their noise.
    """
    steps, losses = _losses(view)
    if len(losses) < at.samples or steps[-1] - steps[0] < at.steps or not np.isfinite(losses).all():
        return
    start, end, error = _thirds(losses)
    base = _uninformed(view)
    frozen = np.ptp(losses) <= 1e-6 * abs(start)
    noisy = error > at.noise * abs(start)
    still = abs(end - start) <= max(at.change * abs(start), 2 * error)
    if not frozen and (noisy or not still or not end >= at.uninformed * base > 0):
        return
    guess = f", and a guess has {number(base)}" if math.isfinite(base) else ""
    yield Finding(
        severity=Severity.WARNING,
        name="",
        statistic="loss, end - start",
        value=end - start,
        expected=f"a fall of {percent(at.change)} or more",
        message=f"The loss does not move: {arrow(start, end)} from step {steps[0]} to {steps[-1]}{guess}.",
        remedy="Check that the optimizer has these parameters, and that the data belong to their targets; a higher rate.",
    )

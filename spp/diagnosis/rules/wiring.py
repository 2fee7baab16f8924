"""What stands next to what: layers with nothing between them, activations in a row, a softmax inside, too much dropout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from spp.diagnosis.findings import Finding, further, number, percent, quoted, some
from spp.diagnosis.registry import rule
from spp.diagnosis.view import Kind, Step, View, given, measured
from spp.frame.schema import BlockColumn, ModuleColumn
from spp.vocabulary import LayerKind, Severity, Signal

Pairs = list[tuple[Step, Step]]


def _pairs(view: View) -> Iterator[tuple[Step, Step]]:
    """Steps that take the very output of the one before them, with nothing else taking it.

    Dropout and reshapes between them do nothing to what they are.
    """
    skips = set(view.blocks[BlockColumn.SKIP].dropna().astype(str))
    for step in view.steps:
        before = _alone_before(view, step)
        while before is not None and _is(view, before, LayerKind.DROPOUT, LayerKind.RESHAPE):
            before = _alone_before(view, before)
        if before is not None and before.name not in skips and before.key.call == step.key.call == 0:
            yield before, step


def _is(view: View, step: Step, *kinds: LayerKind) -> bool:
    return getattr(view.facts.get(step.name), ModuleColumn.KIND, None) in kinds


def _alone_before(view: View, step: Step) -> Step | None:
    """The step whose output alone a step takes, and which nothing else takes."""
    if len(step.fed) != 1:
        return None
    before = view.by_key.get(step.fed[0])
    # what a function that nobody announces has changed between them has another mean square
    same = before is not None and math.isclose(step.fed_mean_square, before.mean_square, rel_tol=1e-6)
    return before if same and len(view.takers(step.fed[0])) == 1 else None


def _told(pairs: Pairs, severity: Severity, message: str, remedy: str) -> Iterator[Finding]:
    """One finding of the pairs of a kind, at the first of them; ``{}`` in the message stands for the two names."""
    if pairs:
        first, second = pairs[0]
        others = further(len(pairs) - 1, "pair", " (", ")")
        yield Finding(
            severity=severity,
            **measured(second, Signal.ACTIVATION, "pairs", float(len(pairs)), "0"),
            message=f"{message.format(quoted(first.name), quoted(second.name))}{others}.",
            remedy=remedy,
            evidence=some([f"{a.name} -> {b.name}" for a, b in pairs]),
        )


@rule(
    "linear_pair",
    thresholds={"share": (0.15, "of the weighted layers: so much of the network is linear; below, a design")},
    source="W2 (W1 x) = (W2 W1) x: two such layers are one; Nikanjam et al. 2021 (NeuraLint)",
)
def linear_pair(view: View, at: Any) -> Iterator[Finding]:
    """Two weighted layers that both learn, with no activation or norm between them.

    Pairs that have more parameters than their product, which is one layer; a factorization has fewer and is meant. So is a
    layer that learns before or behind a frozen one: an adapter, a probe.
    """
    both = (pair for pair in _pairs(view) if all(step.kind is Kind.WEIGHTED for step in pair))
    pairs = [pair for pair in both if not _meant(view, *pair)]
    severe = len(pairs) >= at.share * max(1, sum(step.kind is Kind.WEIGHTED for step in view.steps) - 1)
    message = "Nothing lies between {} and {}: together they are one linear layer"
    remedy = "Put an activation between them, or make them one layer."
    yield from _told(pairs, Severity.WARNING if severe else Severity.NOTE, message, remedy)


def _meant(view: View, first: Step, second: Step) -> bool:
    """Whether one of two layers is frozen, or both have fewer parameters than the one that they come to."""
    one, two = (view.weights.get((step.name, "weight")) for step in (first, second))
    facts = [view.facts.get(step.name) for step in (first, second)]
    if one is None or two is None or not given(facts[0], ModuleColumn.FAN_IN):
        return True
    if not all(getattr(fact, ModuleColumn.TRAINABLE, 0) for fact in facts):
        return True
    kernels = [list(map(int, str(row.shape).split("x")[2:])) for row in (one, two)]
    inputs = int(getattr(facts[0], ModuleColumn.FAN_IN)) / math.prod(kernels[0])
    # a kernel of 3 behind one of 3 sees 5
    kernel = math.prod(a + b - 1 for a, b in zip_longest(*kernels, fillvalue=1))
    return int(one.numel) + int(two.numel) < inputs * kernel * int(second.row.channels)


@rule("activation_pair", source="the range of one is the domain of the other; Nikanjam et al. 2021 (NeuraLint)")
def activation_pair(view: View, at: Any) -> Iterator[Finding]:
    """Two activations in a row, the second of which sees a part of its domain only.

    Activations that take the very output of another one.
    """
    pairs = [pair for pair in _pairs(view) if all(step.kind is Kind.ACTIVATION for step in pair)]
    if pairs:
        (first, _), (one, two) = pairs[0], map(view.activation, (step.name for step in pairs[0]))
        span = f"{number(float(first.row.min))} to {number(float(first.row.max))}"
        message = f"{{1}} ({two}) takes what {{0}} ({one}) gives out, {span}: two activations in a row"
        # a ReLU of a ReLU changes nothing
        severity = Severity.NOTE if one == two == "relu" else Severity.WARNING
        yield from _told(pairs, severity, message, "Leave one of them out.")


@rule(
    "redundant_pair", source="a norm of a norm, and a bias that the mean of BatchNorm takes away (Ioffe & Szegedy 2015)"
)
def redundant_pair(view: View, at: Any) -> Iterator[Finding]:
    """A norm behind a norm, or a bias before a BatchNorm, which takes it away.

    Layers that take the very output of the one before them.
    """
    behind = [(first, second) for first, second in _pairs(view) if second.kind is Kind.NORM]
    norms = [pair for pair in behind if pair[0].kind is Kind.NORM]
    biased = [
        (first, second)
        for first, second in behind
        if first.is_weighted and (first.name, "bias") in view.weights and "BatchNorm" in str(second.row.type)
    ]
    yield from _told(norms, Severity.NOTE, "{1} normalizes what {0} has normalized", "Leave one of them out.")
    yield from _told(biased, Severity.NOTE, "{1} takes away the bias of {0}", "`bias=False` there.")


@rule(
    "hidden_softmax",
    source="the softmax of n units has a mean of 1/n and at most that variance: what follows sees a constant",
    tags=("objective",),
)
def hidden_softmax(view: View, at: Any) -> Iterator[Finding]:
    """A softmax over features whose output the next layer takes: units share a sum of one, and hardly vary.

    Softmaxes that a weighted layer takes as they are; attention, gates and mixtures multiply theirs.
    """
    pairs = [(a, b) for a, b in _pairs(view) if _is(view, a, LayerKind.SOFTMAX) and b.is_weighted]
    # The heads of an attention may be mixed, each of which sums to one over places.
    pairs = [(a, b) for a, b in pairs if math.isclose(a.row.mean * a.row.channels, 1, rel_tol=1e-3)]
    message = "{0} is a softmax between layers: {1} takes values that add up to 1, alike in every sample"
    yield from _told(pairs, Severity.WARNING, message, "An activation of single units, as ReLU, GELU or tanh.")


@rule(
    "dropout",
    thresholds={
        "share": (0.75, "of the values are dropped: 0.2 to 0.5 is usual, and from here the noise is 3 times the signal")
    },
    source="Srivastava et al. 2014: a rate p adds p / (1 - p) of the second moment as noise",
    tags=("objective",),
)
def dropout(view: View, at: Any) -> Iterator[Finding]:
    """Dropout that leaves little of the signal, or that drops what the network says.

    The share of values that are zero behind a dropout and were not before it.
    """
    steps = [step for step in view.steps if str(step.row.type).startswith("Dropout") and view.trained(step.name)]
    dropped = [(step, _dropped(view, step)) for step in steps]
    heavy = [(step, share) for step, share in dropped if share >= at.share]
    for step, share in heavy[:1]:
        yield Finding(
            severity=Severity.WARNING,
            **measured(step, Signal.ACTIVATION, "share dropped", share, f"below {at.share:g}"),
            message=f"{step.name} drops {percent(share)} of the values: noise of {number(share / max(1 - share, 1e-9))} times "
            f"the signal's second moment{further(len(heavy) - 1, 'dropout', ' (', ')')}.",
            remedy="A rate of 0.1 to 0.5: `nn.Dropout(p)` drops a share p, it does not keep it.",
            evidence=some([f"{one.name} ({percent(p)})" for one, p in heavy]),
        )
    for step, share in dropped:
        before = view.by_key.get(step.fed[0]) if len(step.fed) == 1 else None
        last = before is not None and before.name == view.readout and step is view.steps[-1]
        if last and share > 0 and view.run.get("loss_graph"):
            yield Finding(
                severity=Severity.WARNING,
                **measured(step, Signal.ACTIVATION, "share dropped", share, "0"),
                message=f"{step.name} drops {percent(share)} of what the network gives out before the loss sees it.",
                remedy="Put the dropout before the last layer.",
            )


def _dropped(view: View, step: Step) -> float:
    """The share of values that were not zero and are; 0 where what entered is not known."""
    source = next(iter(view.sources(step.key)), None)
    if source is None or not source.zero_fraction < 1:
        return 0.0
    return float(step.row.zero_fraction - source.zero_fraction) / float(1 - source.zero_fraction)

"""What neuron-wise input normalization promises, and by which criterion it is judged."""

from __future__ import annotations

from functools import partial

import pandas as pd

from spp.studies.evidence import (
    Effect,
    decided,
    difference,
    every,
    factor,
    greater,
    less,
    provided,
    ratio,
    restricted,
    tuned,
    within,
)
from spp.studies.neuronwise.networks import BATCH, CNN, COORDS, DAMPED, FFN, PLAIN
from spp.studies.study import Results, Setup, Untestable, Verdict, claim

SGD, ADAM = "sgd", "adam"
NEAT, CHANGED = "standardized", "changed"
"""Inputs as they are, and in other units and from other origins."""

PROPOSAL = "the proposal"
NETS = (FFN, CNN)
MARGIN = 0.01
"""Accuracies that differ by less are the same."""


def runs(results: Results, *, optimizer: str = SGD, inputs: str = NEAT) -> pd.DataFrame:
    """Every run of one optimizer on one kind of inputs."""
    return results.of("outcome", optimizer=optimizer, inputs=inputs)


def best(results: Results, *, optimizer: str = SGD, inputs: str = NEAT) -> pd.DataFrame:
    """Its runs at each arm's best rate, by network."""
    return tuned(runs(results, optimizer=optimizer, inputs=inputs), ["net", "arm"])


def _of(table: pd.DataFrame, net: str, arm: str) -> pd.DataFrame:
    return table[(table["net"] == net) & (table["arm"] == arm)]


@claim("N1", PROPOSAL)
def forward(results: Results, setup: Setup) -> Verdict:
    """The forward pass and the gradients of inputs are the ordinary ones.

    Criterion: outputs and input gradients are equal to the bit for every mode, network and seed, at init and in training
    (confirmed); else refuted.
    """
    # a pair is a network and its twin: all of their layers, or neither
    by_mode = results["law"].groupby(["net", "inputs", "epochs", "arm", "seed"])
    pairs = by_mode[["forward", "inputs_gradient"]].all().all(axis=1)
    same = int(pairs.sum())
    found = f"Outputs and input gradients are the same to the bit in {same} of {len(pairs)} comparisons."
    return decided(found, {"same": same, "comparisons": len(pairs)}, confirmed=same == len(pairs))


@claim("N2", "derived from the proposal (docs/neuronwise.md)")
def descent(results: Results, setup: Setup) -> Verdict:
    """A step in the modes `coords` and `coords_centre` is a descent direction.

    Criterion: no neuron's gradient, of weights and bias together, has a negative inner product with the ordinary one, to
    rounding (confirmed); else refuted.
    """
    law = results["law"]
    own = law[law["arm"].str.startswith("coords")]
    neurons, against, cosine = own["neurons"].sum(), own["against"].sum(), own["cosine"].min()
    found = f"{against} of {neurons} neurons' gradients point against the ordinary ones; the smallest cosine is {cosine:.2g}."
    return decided(found, {"neurons": neurons, "against": against, "cosine": cosine}, confirmed=not against)


@claim("N3", "derived from the proposal (docs/neuronwise.md, with an example)")
def ascent(results: Results, setup: Setup) -> Verdict:
    """A step in the modes `outer` and `outer_centre`, the proposal read literally, can raise the loss.

    Criterion: some neuron's gradient has a negative inner product with the ordinary one (confirmed); else not testable,
    since these networks would merely not show it.
    """
    law = results["law"]
    own = law[law["arm"].str.startswith("outer")]
    numbers: dict[str, float] = {}
    words = []
    for inputs, part in own.groupby("inputs", sort=False):
        share, cosine = part["against"].sum() / part["neurons"].sum(), part["cosine"].min()
        numbers |= {f"share_{inputs}": share, f"cosine_{inputs}": cosine}
        words.append(f"{share:.1%} of neurons on {inputs} inputs (smallest cosine {cosine:.2g})")
    found = f"Against the ordinary gradient point those of {' and '.join(words)}."
    if not own["against"].sum():
        raise Untestable(found)
    return decided(found, numbers, confirmed=True)


@claim("N4", PROPOSAL)
def invariance(results: Results, setup: Setup, level: float) -> Verdict:
    """`coords` does not depend on units and origins of the inputs.

    Criterion: what `coords` loses of its test accuracy on changed inputs is within {MARGIN:g} of nothing; not decided unless
    ordinary gradients lose more than {MARGIN:g}, since there would be nothing to be independent of.
    """
    lost = {arm: _lost(results, arm) for arm in (PLAIN, COORDS)}
    neat, changed = (_of(runs(results, inputs=inputs), FFN, COORDS) for inputs in (NEAT, CHANGED))
    pairs = [one[one["finished"]].set_index(["lr", "seed"])["accuracy"] for one in (neat, changed)]
    apart = float((pairs[0] - pairs[1]).abs().mean())
    found = provided(
        greater(f"Lost on changed inputs, {PLAIN}", lost[PLAIN], MARGIN, level=level),
        within(f"Lost on changed inputs, {COORDS}", lost[COORDS], MARGIN, level=level),
    )
    words = f"{found.found} At equal rates {COORDS} ends within {100 * apart:.1f} points of itself, on average."
    return Verdict(found.outcome, words, {**(found.numbers or {}), "apart": apart})


def _lost(results: Results, arm: str) -> Effect:
    """Test accuracy of an arm on the inputs as they are less that on changed ones, each at its best rate."""
    both = (_of(best(results, inputs=inputs), FFN, arm) for inputs in (NEAT, CHANGED))
    neat, changed = (one.set_index("seed")["accuracy"] for one in both)
    return difference(neat, changed)


@claim("N5", PROPOSAL)
def speed(results: Results, setup: Setup, level: float) -> Verdict:
    """It trains in fewer epochs than ordinary gradients.

    Criterion: at best rates, the mean of the epochs to the target with ordinary gradients over that with `coords_damped` is
    above 1, in both networks; a run that does not reach the target counts the epochs that it had.
    """
    return every(
        {
            net: partial(greater, f"{net}: epochs, {PLAIN} over {DAMPED}", ratio(*_epochs(results, net)), 1.0)
            for net in NETS
        },
        level=level,
    )


@claim("N5-time", "this re-run's, since an epoch takes longer")
def seconds(results: Results, setup: Setup, level: float) -> Verdict:
    """It trains in less time than ordinary gradients.

    Criterion: as N5, of epochs times the time of a step, which was taken of one network; that time is a machine's, and has no
    interval here.
    """
    times, parts = results["timing"], {}
    if times.empty:
        raise Untestable("No time was taken.")
    for net in NETS:
        plain, own = _epochs(results, net)
        slower = float(_of(times, net, DAMPED)["ratio"].median())
        words = f"{net}: time, {PLAIN} over {DAMPED}, whose step takes {slower:.2f} times as long"
        parts[net] = partial(greater, words, ratio(plain, own * slower), 1.0)
    return every(parts, level=level)


def _epochs(results: Results, net: str, optimizer: str = SGD) -> tuple[pd.Series[float], pd.Series[float]]:
    """Epochs to the target by seed, of ordinary gradients and of damped ``coords``, at their best rates."""
    found = best(results, optimizer=optimizer)
    horizon = results["history"]["epoch"].max() + 1.0
    plain, own = (
        restricted(_of(found, net, arm).set_index("seed")["epochs"].astype("float64"), horizon)
        for arm in (PLAIN, DAMPED)
    )
    return plain, own


@claim("N6", PROPOSAL)
def accuracy(results: Results, setup: Setup, level: float) -> Verdict:
    """It reaches BatchNorm's accuracy.

    Criterion: `coords_damped` less BatchNorm in test accuracy, the mean over both networks, is above -{MARGIN:g}.
    """
    found = best(results).set_index(["net", "seed"])
    own, other = (found[found["arm"] == arm]["accuracy"] for arm in (DAMPED, BATCH))
    return greater(f"{DAMPED} less {BATCH}, mean over both networks", difference(own, other), -MARGIN, level=level)


@claim("N7", "this re-run's")
def adam(results: Results, setup: Setup, level: float) -> Verdict:
    """Adam, which rescales every weight by itself, leaves less to be gained.

    Criterion: the factor in epochs of N5, by network and seed, is smaller with Adam than with SGD, in geometric means; not
    decided unless with SGD it is above 1.
    """
    gains = {}
    for optimizer in (SGD, ADAM):
        each = {net: _epochs(results, net, optimizer) for net in NETS}
        gains[optimizer] = pd.concat({net: plain / own for net, (plain, own) in each.items()})
    return provided(
        greater(f"Epochs with SGD, {PLAIN} over {DAMPED}", factor(gains[SGD]), 1.0, level=level),
        less("The same with Adam, over that with SGD", factor(gains[ADAM], gains[SGD]), 1.0, level=level),
    )


CLAIMS = (forward, descent, ascent, invariance, speed, seconds, accuracy, adam)

"""What neuron-wise input normalization promises, and by which criterion it is judged, fixed before anything was run."""

from __future__ import annotations

from collections.abc import Callable
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
from spp.studies.neuronwise.networks import (
    BATCH,
    CENTRE,
    CNN,
    COORDS,
    DAMPED,
    FFN,
    GROUP,
    LAYER,
    PLAIN,
    SCALED,
    WHOLE_CENTRE,
    WHOLE_DAMPED,
)
from spp.studies.study import Results, Setup, Untestable, Verdict, claim

SGD, ADAM = "sgd", "adam"
NEAT, RAW = "standardized", "raw"
"""Images standardized, and their pixels as they are stored, from 0 to 255: in another unit and from another origin."""

PROPOSAL = "the proposal"
NETS = (FFN, CNN)
CHOOSING = 2
"""Seeds that choose learning rates, and are not judged."""

MARGIN = 0.01
"""Accuracies that differ by less are the same."""

MATTERS = 1.1
"""A factor in epochs below which it does not matter which samples are normalized over."""


def runs(results: Results, *, optimizer: str = SGD, inputs: str = NEAT) -> pd.DataFrame:
    """Every run of one optimizer on one kind of inputs."""
    return results.of("outcome", optimizer=optimizer, inputs=inputs)


def best(results: Results, *, optimizer: str = SGD, inputs: str = NEAT) -> pd.DataFrame:
    """Its runs at each arm's best rate, by network."""
    return tuned(runs(results, optimizer=optimizer, inputs=inputs), ["net", "arm"], CHOOSING)


def best_balancing(results: Results) -> pd.DataFrame:
    """The runs of cart-pole at each arm's best rate."""
    return tuned(results["balance"], ["arm"], CHOOSING)


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
    """`coords` does not depend on the unit and the origin of the inputs.

    Criterion: what `coords` loses of its test accuracy on raw pixels is within {MARGIN:g} of nothing; not decided unless
    ordinary gradients lose more than {MARGIN:g}, since there would be nothing to be independent of.
    """
    lost = {arm: _lost(results, arm) for arm in (PLAIN, COORDS)}
    return provided(
        greater(f"Lost on raw pixels, {PLAIN}", lost[PLAIN], MARGIN, level=level),
        within(f"Lost on raw pixels, {COORDS}", lost[COORDS], MARGIN, level=level),
    )


def _lost(results: Results, arm: str) -> Effect:
    """Test accuracy of an arm on standardized inputs less that on raw ones, each at its best rate."""
    both = (_of(best(results, inputs=inputs), FFN, arm) for inputs in (NEAT, RAW))
    neat, raw = (one.set_index("seed")["accuracy"] for one in both)
    return difference(neat, raw)


@claim("N5", PROPOSAL)
def speed(results: Results, setup: Setup, level: float) -> Verdict:
    """It trains in fewer epochs than ordinary gradients.

    Criterion: at best rates, the mean of the epochs to the target with ordinary gradients over that with `coords_damped` is
    above 1, in both networks; a run that does not reach the target counts the epochs that it had.
    """
    return every(_faster(results, PLAIN, DAMPED, 1.0), level=level)


@claim("N5-time", "this re-run's, since an epoch takes longer")
def seconds(results: Results, setup: Setup, level: float) -> Verdict:
    """It trains in less time than ordinary gradients.

    Criterion: as N5, of epochs times the process time of a step, taken once for every seed that is judged.
    """
    if results["timing"].empty:
        raise Untestable("No time was taken.")
    parts = {}
    for net in NETS:
        slower = results.of("timing", net=net, arm=DAMPED).set_index("seed")["ratio"]
        words = f"{net}: time, {PLAIN} over {DAMPED}, whose step takes {slower.mean():.2f} times as long"
        epochs = _epochs(results, net, PLAIN), _epochs(results, net, DAMPED)
        parts[net] = partial(greater, words, ratio(epochs[0], epochs[1] * slower), 1.0)
    return every(parts, level=level)


def _faster(results: Results, arm: str, other: str, bound: float) -> dict[str, Callable[..., Verdict]]:
    """By network: whether one arm takes more than ``bound`` times the epochs of another."""
    return {
        net: partial(
            greater,
            f"{net}: epochs, {arm} over {other}",
            ratio(_epochs(results, net, arm), _epochs(results, net, other)),
            bound,
        )
        for net in NETS
    }


def _epochs(results: Results, net: str, arm: str, optimizer: str = SGD) -> pd.Series[float]:
    """Epochs to the target by seed, at the best rate."""
    found = _of(best(results, optimizer=optimizer), net, arm).set_index("seed")["epochs"].astype("float64")
    return restricted(found, results.of("history", net=net)["epoch"].max() + 1.0)


@claim("N6", PROPOSAL)
def accuracy(results: Results, setup: Setup, level: float) -> Verdict:
    """It reaches BatchNorm's accuracy.

    Criterion: `coords_damped` less BatchNorm in test accuracy, the mean over both networks, is above -{MARGIN:g}.
    """
    return _reaches(results, BATCH)(level=level)


@claim("N6-others", "this re-run's")
def others(results: Results, setup: Setup, level: float) -> Verdict:
    """It reaches the accuracy of LayerNorm, of GroupNorm and of scaled weight standardization, which need no batch either.

    Criterion: as N6, of each of the three.
    """
    return every({arm: _reaches(results, arm) for arm in (LAYER, GROUP, SCALED)}, level=level)


def _reaches(results: Results, arm: str) -> Callable[..., Verdict]:
    found = best(results).set_index(["net", "seed"])
    own, other = (found[found["arm"] == one]["accuracy"] for one in (DAMPED, arm))
    return partial(greater, f"{DAMPED} less {arm}, mean over both networks", difference(own, other), -MARGIN)


@claim("N7", "this re-run's")
def adam(results: Results, setup: Setup, level: float) -> Verdict:
    """Adam, which rescales every weight by itself, leaves less to be gained.

    Criterion: the factor in epochs of N5, by network and seed, is smaller with Adam than with SGD, in geometric means; not
    decided unless with SGD it is above 1.
    """
    gains = {}
    for optimizer in (SGD, ADAM):
        each = {net: [_epochs(results, net, arm, optimizer) for arm in (PLAIN, DAMPED)] for net in NETS}
        gains[optimizer] = pd.concat({net: plain / own for net, (plain, own) in each.items()})
    return provided(
        greater(f"Epochs with SGD, {PLAIN} over {DAMPED}", factor(gains[SGD]), 1.0, level=level),
        less("The same with Adam, over that with SGD", factor(gains[ADAM], gains[SGD]), 1.0, level=level),
    )


RIVAL = "the proposal's premise; the rival is older (LeCun et al. 1998, Schraudolph 1998, Raiko et al. 2012)"


@claim("N8", RIVAL)
def region(results: Results, setup: Setup, level: float) -> Verdict:
    """It is each neuron's own region that helps: with 1/s^2, mean and variance of the whole batch do less.

    Criterion: as N5, `whole_damped` takes more than {MATTERS:g} times the epochs of `coords_damped`, in both networks.
    """
    return every(_faster(results, WHOLE_DAMPED, DAMPED, MATTERS), level=level)


@claim("N8-centre", RIVAL)
def region_centred(results: Results, setup: Setup, level: float) -> Verdict:
    """It is each neuron's own region that helps: without 1/s^2, the plain mean of the batch does less.

    Criterion: as N5, `whole_centre` takes more than {MATTERS:g} times the epochs of `coords_centre`, in both networks.
    """
    return every(_faster(results, WHOLE_CENTRE, CENTRE, MATTERS), level=level)


@claim("N9", "this re-run's; reinforcement learning is asked for in the proposal")
def balancing(results: Results, setup: Setup, level: float) -> Verdict:
    """It helps where BatchNorm cannot go: on cart-pole, learned from one state at a time.

    Criterion: the mean length of episodes with `coords` over that with ordinary gradients, by seed, geometric mean, each at
    its best rate, is above 1.
    """
    if results["balance"].empty:
        raise Untestable("Nothing was balanced.")
    lengths = best_balancing(results).pivot(index="seed", columns="arm", values="length")
    return greater(
        f"Length of episodes, {COORDS} over {PLAIN}", factor(lengths[COORDS], lengths[PLAIN]), 1.0, level=level
    )


CLAIMS = (
    forward,
    descent,
    ascent,
    invariance,
    speed,
    seconds,
    accuracy,
    others,
    adam,
    region,
    region_centred,
    balancing,
)

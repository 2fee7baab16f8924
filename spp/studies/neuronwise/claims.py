"""What neuron-wise input normalization promises, by which criterion it is judged, and what is printed and drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from spp.plot import outcomes
from spp.studies.evidence import (
    RATES,
    TEN,
    Difference,
    at_best_rates,
    decided,
    rate_in_words,
    spread,
    tabled,
    tuned,
    tuning_figures,
)
from spp.studies.neuronwise.networks import BATCH, CNN, COORDS, DAMPED, FFN, PLAIN
from spp.studies.study import Figures, Results, Setup, Tables, Verdict, claim

SGD, ADAM = "sgd", "adam"
NEAT, CHANGED = "standardized", "changed"
"""Inputs as they are, and in other units and from other origins."""

PROPOSAL = "the proposal"
FASTER = 1.25
"""How many times as many epochs without, for with to count as faster."""
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
    return decided(found, numbers, confirmed=own["against"].sum() > 0, refuted=False)


@claim("N4", PROPOSAL)
def invariance(results: Results, setup: Setup) -> Verdict:
    """`coords` does not depend on units and origins of the inputs.

    Criterion: on changed inputs `coords` loses less than a point of test accuracy and less than a quarter of what ordinary
    gradients lose (confirmed), or more than a half of it (refuted); not testable in between, or where those lose less than
    a point or than twice the standard error.
    """
    plain, coords = (_degradation(results, arm) for arm in (PLAIN, COORDS))
    neat, changed = (_of(runs(results, inputs=inputs), FFN, COORDS) for inputs in (NEAT, CHANGED))
    pairs = [one[one["finished"]].set_index(["lr", "seed"])["accuracy"] for one in (neat, changed)]
    apart = float((pairs[0] - pairs[1]).abs().mean())
    found = (
        f"On changed inputs {PLAIN} loses {plain.points()}, {COORDS} loses {coords.points()} of test accuracy (mean ± "
        f"standard error, n = {plain.n}); at equal rates {COORDS} ends within {100 * apart:.1f} points of itself, on average."
    )
    numbers = {"plain": plain.mean, "plain_error": plain.error, "coords": coords.mean, "apart": apart}
    # an arm cannot lose a quarter of nothing
    comparable = plain.clear and plain.mean > MARGIN
    if not comparable:
        found += f" {PLAIN} loses too little for a comparison."
    kept = comparable and coords.mean < min(MARGIN, plain.mean / 4)
    return decided(found, numbers, confirmed=kept, refuted=comparable and coords.mean > plain.mean / 2)


def _degradation(results: Results, arm: str) -> Difference:
    """Test accuracy of an arm on the inputs as they are less that on changed ones, each at its best rate."""
    both = (_of(best(results, inputs=inputs), FFN, arm) for inputs in (NEAT, CHANGED))
    return Difference.between(*(one.set_index("seed")["accuracy"] for one in both))


@claim("N5", PROPOSAL)
def speed(results: Results, setup: Setup) -> Verdict:
    """It trains in fewer epochs than ordinary gradients.

    Criterion: at best rates ordinary gradients take 1.25 times the epochs of `coords_damped` to the target, or more, in
    both networks (confirmed), or no more epochs in either (refuted); else not testable. A run that does not reach it counts
    one epoch more than it had.
    """
    pairs = {net: _epochs(results, net) for net in (FFN, CNN)}
    words = ", ".join(
        f"{net}: {plain:.1f} with ordinary gradients, {own:.1f} with {DAMPED}" for net, (plain, own) in pairs.items()
    )
    gains = {net: plain / own for net, (plain, own) in pairs.items()}
    found = f"Epochs to the target, mean over seeds: {words}."
    return decided(found, gains, confirmed=min(gains.values()) >= FASTER, refuted=max(gains.values()) <= 1)


def _epochs(results: Results, net: str, optimizer: str = SGD) -> tuple[float, float]:
    """Mean epochs to the target of ordinary gradients and of damped ``coords``, at their best rates."""
    found = best(results, optimizer=optimizer)
    # what never reaches the target counts one epoch more than were trained
    most = results["history"]["epoch"].max() + 2.0
    plain, own = (_of(found, net, arm)["epochs"].replace(np.inf, most).mean() for arm in (PLAIN, DAMPED))
    return float(plain), float(own)


@claim("N6", PROPOSAL)
def accuracy(results: Results, setup: Setup) -> Verdict:
    """It reaches BatchNorm's accuracy.

    Criterion: `coords_damped` less BatchNorm in test accuracy, over both networks and all seeds, is above -1 point by twice
    its standard error (confirmed), or below -1 point and below 0 by twice its standard error (refuted); else not testable.
    """
    found = best(results).set_index(["net", "seed"])
    ahead = Difference.between(*(found[found["arm"] == arm]["accuracy"] for arm in (DAMPED, BATCH)))
    words = (
        f"{DAMPED} less BatchNorm: {ahead.points()} of test accuracy (mean ± standard error, {ahead.n} pairs of runs)."
    )
    numbers = {"difference": ahead.mean, "error": ahead.error, "pairs": ahead.n}
    reached = ahead.mean - 2 * ahead.error > -MARGIN
    return decided(words, numbers, confirmed=reached, refuted=ahead.mean < min(-MARGIN, -2 * ahead.error))


@claim("N7", "this re-run's")
def adam(results: Results, setup: Setup) -> Verdict:
    """Adam, which rescales every weight by itself, leaves less to be gained.

    Criterion: the factor in epochs of N5, both networks together, exceeds 1 with Adam by less than half of what it does
    with SGD (confirmed), or is no smaller than with SGD (refuted); not testable in between, or where it is below 1.25 with
    SGD.
    """
    gains = {}
    for optimizer in (SGD, ADAM):
        pairs = [_epochs(results, net, optimizer) for net in (FFN, CNN)]
        gains[optimizer] = sum(plain for plain, _ in pairs) / sum(own for _, own in pairs)
    found = (
        f"Ordinary gradients take {gains[SGD]:.2f} times the epochs of {DAMPED} with SGD and {gains[ADAM]:.2f} times with "
        "Adam, both networks together."
    )
    comparable = gains[SGD] >= FASTER
    if not comparable:
        found += " With SGD there is too little gain to lose."
    less = comparable and gains[ADAM] - 1 < (gains[SGD] - 1) / 2
    return decided(found, gains, confirmed=less, refuted=comparable and gains[ADAM] >= gains[SGD])


CLAIMS = (forward, descent, ascent, invariance, speed, accuracy, adam)


def tables(results: Results, setup: Setup) -> Tables:
    """Training with SGD, with Adam and on changed inputs; gradients against the ordinary ones; times."""
    printed = {
        "training": training(best(results)),
        "adam": training(best(results, optimizer=ADAM)),
        "changed": training(best(results, inputs=CHANGED)),
        "gradients": tabled(results["law"], ["inputs", "epochs", "arm"], _gradients),
    }
    times = results["timing"]
    if not times.empty:
        words = {"net": "network", "arm": "arm", "ms": "ms per step", "plain_ms": "plain", "ratio": "ratio"}
        printed["speed"] = times[list(words)].round(2).rename(columns=words)
    return printed


def training(found: pd.DataFrame) -> pd.DataFrame:
    """By network and arm: the best rate, test accuracy there, and epochs to the target."""

    def row(key: tuple[str, str], own: pd.DataFrame) -> dict[str, Any]:
        reached = own["epochs"][np.isfinite(own["epochs"])]
        missed = f" ({len(reached)} of {len(own)} seeds)" if 0 < len(reached) < len(own) else ""
        return {
            "network": key[0],
            "arm": key[1],
            "rate": rate_in_words(own),
            "test accuracy": spread(own["accuracy"], 100),
            "epochs to the target": (spread(reached) if len(reached) else "never") + missed,
            "seeds": len(own),
        }

    return tabled(found, ["net", "arm"], row)


def _gradients(key: tuple[str, int, str], own: pd.DataFrame) -> dict[str, Any]:
    """How many neurons' gradients point against the ordinary ones, and how far at most."""
    neurons, against = int(own["neurons"].sum()), int(own["against"].sum())
    return {
        "inputs": key[0],
        "epochs trained": key[1],
        "mode": key[2],
        "neurons": neurons,
        "against the gradient": f"{against} ({against / max(neurons, 1):.1%})",
        "smallest cosine": round(float(own["cosine"].min()), 4),
    }


def figures(results: Results, setup: Setup) -> Figures:
    """Accuracy over rates, learning at the best ones, and what changed inputs do."""
    facts = {"data": setup.size.images("CIFAR-10"), "optimizer": SGD}
    neat, changed = runs(results), runs(results, inputs=CHANGED)
    histories = at_best_rates(results.of("history", optimizer=SGD, inputs=NEAT), best(results), ["net", "arm"])
    # the caption calls panels by the name of their column
    neat, changed, histories = (table.assign(network=table["net"]) for table in (neat, changed, histories))
    both = pd.concat([neat[neat["net"].isin(changed["net"]) & neat["arm"].isin(changed["arm"])], changed])
    both = both.assign(kind_of_inputs=both["inputs"] + " inputs")
    shared: dict[str, Any] = {"by": "arm", "panels": "kind_of_inputs", "chance": TEN, "run": {**facts, "model": "ffn"}}
    drawn = tuning_figures(neat, histories, panels="network", run=facts)
    return {**drawn, "changed": outcomes(both, **RATES, **shared)}

"""What neuron-wise input normalization promises, and by which criterion each promise is judged."""

from __future__ import annotations

from spp.studies.neuronwise_networks import BATCH, CNN, COORDS, DAMPED, FFN, PLAIN
from spp.studies.neuronwise_tables import ADAM, CHANGED, NEAT, SGD, best, counted, runs
from spp.studies.study import Claim, Outcome, Results, Setup, Verdict
from spp.studies.tuning import Difference

PROPOSAL = "the proposal"
FASTER = 1.25
"""How many times as many epochs without, for with to count as faster."""
MARGIN = 0.01
"""Accuracies that differ by less are the same."""


def judge_forward(results: Results, setup: Setup) -> Verdict:
    """Whether outputs and input gradients are the ordinary ones, to the bit."""
    law = results["law"]
    pairs = law.groupby(["net", "inputs", "epochs", "arm", "seed"])[["forward", "inputs_gradient"]].all()
    same = int(pairs.all(axis=1).sum())
    outcome = Outcome.CONFIRMED if same == len(pairs) else Outcome.REFUTED
    found = f"Outputs and input gradients are the same to the bit in {same} of {len(pairs)} comparisons."
    return Verdict(outcome, found, {"same": float(same), "comparisons": float(len(pairs))})


def judge_descent(results: Results, setup: Setup) -> Verdict:
    """Whether no neuron's step in a mode of ``coords`` goes against its gradient."""
    law = results["law"]
    own = law[law["arm"].str.startswith("coords")]
    neurons, against, cosine = int(own["neurons"].sum()), int(own["against"].sum()), float(own["cosine"].min())
    found = f"{against} of {neurons} neurons' gradients point against the ordinary ones; the smallest cosine is {cosine:.2g}."
    outcome = Outcome.REFUTED if against else Outcome.CONFIRMED
    return Verdict(outcome, found, {"neurons": float(neurons), "against": float(against), "cosine": cosine})


def judge_ascent(results: Results, setup: Setup) -> Verdict:
    """Whether some neuron's step in a mode of ``outer`` goes against its gradient."""
    law = results["law"]
    own = law[law["arm"].str.startswith("outer")]
    numbers: dict[str, float] = {}
    words = []
    for inputs, part in own.groupby("inputs", sort=False):
        share = float(part["against"].sum() / part["neurons"].sum())
        numbers |= {f"share_{inputs}": share, f"cosine_{inputs}": float(part["cosine"].min())}
        words.append(f"{share:.1%} of neurons on {inputs} inputs (smallest cosine {part['cosine'].min():.2g})")
    found = f"Against the ordinary gradient point those of {' and '.join(words)}."
    return Verdict(Outcome.CONFIRMED if own["against"].sum() else Outcome.NOT_TESTABLE, found, numbers)


def judge_invariance(results: Results, setup: Setup) -> Verdict:
    """Whether ``coords`` does not mind other units and origins of its inputs, where ordinary gradients do."""
    lost = {arm: degradation(results, arm) for arm in (PLAIN, COORDS)}
    apart = equal_rates(results, COORDS)
    words = ", ".join(f"{arm} loses {one.points()}" for arm, one in lost.items())
    found = (
        f"On changed inputs {words} of test accuracy (mean ± standard error, n = {lost[PLAIN].n}); at equal rates {COORDS} "
        f"ends within {100 * apart:.1f} points of itself, on average."
    )
    numbers = {"plain": lost[PLAIN].mean, "plain_error": lost[PLAIN].error, "coords": lost[COORDS].mean, "apart": apart}
    if not (lost[PLAIN].clear and lost[PLAIN].mean > MARGIN):
        return Verdict(Outcome.NOT_TESTABLE, f"{found} {PLAIN} loses too little for a comparison.", numbers)
    if lost[COORDS].mean < MARGIN and lost[COORDS].mean < lost[PLAIN].mean / 4:
        return Verdict(Outcome.CONFIRMED, found, numbers)
    return Verdict(
        Outcome.REFUTED if lost[COORDS].mean > lost[PLAIN].mean / 2 else Outcome.NOT_TESTABLE, found, numbers
    )


def degradation(results: Results, arm: str) -> Difference:
    """Test accuracy of an arm on the inputs as they are less that on changed ones, each at its best rate."""
    neat, changed = best(results), best(results, inputs=CHANGED)
    both = [one[(one["net"] == FFN) & (one["arm"] == arm)].set_index("seed")["accuracy"] for one in (neat, changed)]
    return Difference.between(*both)


def equal_rates(results: Results, arm: str) -> float:
    """By how much an arm's test accuracy differs between the two kinds of inputs at the same rate and seed, on average."""
    neat, changed = (runs(results, inputs=inputs) for inputs in (NEAT, CHANGED))
    both = [
        one[(one["net"] == FFN) & (one["arm"] == arm) & one["finished"]].set_index(["lr", "seed"])["accuracy"]
        for one in (neat, changed)
    ]
    return float((both[0] - both[1]).abs().mean())


def judge_speed(results: Results, setup: Setup) -> Verdict:
    """Whether ``coords`` takes fewer epochs than ordinary gradients."""
    ratios = {net: speed_up(results, net) for net in (FFN, CNN)}
    words = ", ".join(
        f"{net}: {plain:.1f} with ordinary gradients, {own:.1f} with {DAMPED}" for net, (plain, own) in ratios.items()
    )
    gains = {net: plain / own for net, (plain, own) in ratios.items()}
    found = f"Epochs to the target, mean over seeds: {words}."
    if min(gains.values()) >= FASTER:
        outcome = Outcome.CONFIRMED
    else:
        outcome = Outcome.REFUTED if max(gains.values()) <= 1 else Outcome.NOT_TESTABLE
    return Verdict(outcome, found, gains)


def speed_up(results: Results, net: str, optimizer: str = SGD) -> tuple[float, float]:
    """Mean epochs to the target of ordinary gradients and of damped ``coords``, at their best rates."""
    found = best(results, optimizer=optimizer)
    most = int(results["history"]["epoch"].max()) + 1
    means = [
        float(counted(found[(found["net"] == net) & (found["arm"] == arm)]["epochs"], most).mean())
        for arm in (PLAIN, DAMPED)
    ]
    return means[0], means[1]


def judge_batch(results: Results, setup: Setup) -> Verdict:
    """Whether ``coords`` reaches BatchNorm's accuracy."""
    found = best(results).set_index(["net", "seed"])
    ahead = Difference.between(*(found[found["arm"] == arm]["accuracy"] for arm in (DAMPED, BATCH)))
    words = (
        f"{DAMPED} less BatchNorm: {ahead.points()} of test accuracy (mean ± standard error, {ahead.n} pairs of runs)."
    )
    numbers = {"difference": ahead.mean, "error": ahead.error, "pairs": float(ahead.n)}
    if ahead.mean - 2 * ahead.error > -MARGIN:
        return Verdict(Outcome.CONFIRMED, words, numbers)
    worse = ahead.mean < -MARGIN and ahead.mean + 2 * ahead.error < 0
    return Verdict(Outcome.REFUTED if worse else Outcome.NOT_TESTABLE, words, numbers)


def judge_adam(results: Results, setup: Setup) -> Verdict:
    """Whether Adam leaves less to be gained."""
    gains = {}
    for optimizer in (SGD, ADAM):
        pairs = [speed_up(results, net, optimizer) for net in (FFN, CNN)]
        gains[optimizer] = sum(plain for plain, _ in pairs) / sum(own for _, own in pairs)
    found = (
        f"Ordinary gradients take {gains[SGD]:.2f} times the epochs of {DAMPED} with SGD and {gains[ADAM]:.2f} times with "
        "Adam, both networks together."
    )
    if gains[SGD] < FASTER:
        return Verdict(Outcome.NOT_TESTABLE, f"{found} With SGD there is too little gain to lose.", gains)
    if gains[ADAM] - 1 < (gains[SGD] - 1) / 2:
        return Verdict(Outcome.CONFIRMED, found, gains)
    return Verdict(Outcome.REFUTED if gains[ADAM] >= gains[SGD] else Outcome.NOT_TESTABLE, found, gains)


CLAIMS = (
    Claim(
        "N1",
        "The forward pass and the gradients of inputs are the ordinary ones.",
        PROPOSAL,
        "outputs and input gradients are equal to the bit for every mode, network and seed, at init and in training "
        "(confirmed); else refuted.",
        judge_forward,
    ),
    Claim(
        "N2",
        "A step in the modes `coords` and `coords_centre` is a descent direction.",
        "derived from the proposal (docs/neuronwise.md)",
        "no neuron's gradient, of weights and bias together, has a negative inner product with the ordinary one, to rounding "
        "(confirmed); else refuted.",
        judge_descent,
    ),
    Claim(
        "N3",
        "A step in the modes `outer` and `outer_centre`, the proposal read literally, can raise the loss.",
        "derived from the proposal (docs/neuronwise.md, with an example)",
        "some neuron's gradient has a negative inner product with the ordinary one (confirmed); else not testable, since "
        "these networks would merely not show it.",
        judge_ascent,
    ),
    Claim(
        "N4",
        "`coords` does not depend on units and origins of the inputs.",
        PROPOSAL,
        "on changed inputs `coords` loses less than a point of test accuracy and less than a quarter of what ordinary "
        "gradients lose (confirmed), or more than a half of it (refuted); not testable in between, or where those lose less "
        "than a point or than twice the standard error.",
        judge_invariance,
    ),
    Claim(
        "N5",
        "It trains in fewer epochs than ordinary gradients.",
        PROPOSAL,
        "at best rates ordinary gradients take 1.25 times the epochs of `coords_damped` to the target, or more, in both "
        "networks (confirmed), or no more epochs in either (refuted); else not testable. A run that does not reach it counts "
        "one epoch more than it had.",
        judge_speed,
    ),
    Claim(
        "N6",
        "It reaches BatchNorm's accuracy.",
        PROPOSAL,
        "`coords_damped` less BatchNorm in test accuracy, over both networks and all seeds, is above -1 point by twice its "
        "standard error (confirmed), or below -1 point and below 0 by twice its standard error (refuted); else not testable.",
        judge_batch,
    ),
    Claim(
        "N7",
        "Adam, which rescales every weight by itself, leaves less to be gained.",
        "this re-run's",
        "the factor in epochs of N5, both networks together, exceeds 1 with Adam by less than half of what it does with SGD "
        "(confirmed), or is no smaller than with SGD (refuted); not testable in between, or where it is below 1.25 with SGD.",
        judge_adam,
    ),
)

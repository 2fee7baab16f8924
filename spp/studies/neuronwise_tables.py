"""What is printed and drawn of ``neuronwise``, and the runs that it is judged by: those at each arm's own best rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spp.plot import outcomes
from spp.studies.study import Results, Setup, Tables
from spp.studies.trials import spread
from spp.studies.tuning import rate_in_words, tuned
from spp.training.results import History

if TYPE_CHECKING:
    from spp.plot import SignalPlot

LAW, TRAINED, TIMING = "law", "train", "timing"
"""Kinds of cells."""

SGD, ADAM = "sgd", "adam"
NEAT, CHANGED = "standardized", "changed"
"""Inputs as they are, and in other units and from other origins."""


CHANCE = 0.1
"""Accuracy of guessing one of ten classes."""


def runs(results: Results, *, optimizer: str = SGD, inputs: str = NEAT) -> pd.DataFrame:
    """Every run of one optimizer on one kind of inputs."""
    return results.of("outcome", kind=TRAINED, optimizer=optimizer, inputs=inputs)


def best(results: Results, *, optimizer: str = SGD, inputs: str = NEAT) -> pd.DataFrame:
    """Its runs at each arm's best rate, by network."""
    return tuned(runs(results, optimizer=optimizer, inputs=inputs), ["net", "arm"])


def counted(epochs: pd.Series[float], most: int) -> pd.Series[float]:
    """Epochs to the target; one more than were trained where it was not reached."""
    return epochs.where(np.isfinite(epochs), most + 1.0)


def tables(results: Results, setup: Setup) -> Tables:
    """Training with SGD, with Adam and on changed inputs; gradients against the ordinary ones; times."""
    printed = {
        "training": training(best(results)),
        "adam": training(best(results, optimizer=ADAM)),
        "changed": training(best(results, inputs=CHANGED)),
        "gradients": gradients(results["law"]),
    }
    times = results["timing"]
    if not times.empty:
        printed["speed"] = pd.DataFrame(
            {
                "network": times["net"],
                "arm": times["arm"],
                "ms per step": times["ms"].round(2),
                "plain": times["plain_ms"].round(2),
                "ratio": times["ratio"].round(2),
            }
        )
    return printed


def training(found: pd.DataFrame) -> pd.DataFrame:
    """By network and arm: the best rate, test accuracy there, and epochs to the target."""
    rows = []
    for (net, arm), own in found.groupby(["net", "arm"], sort=False):
        reached = own["epochs"][np.isfinite(own["epochs"])]
        words = spread(reached) if len(reached) else "never"
        missed = f" ({len(reached)} of {len(own)} seeds)" if 0 < len(reached) < len(own) else ""
        rows.append(
            {
                "network": net,
                "arm": arm,
                "rate": rate_in_words(own),
                "test accuracy": spread(own["accuracy"], 100),
                "epochs to the target": words + missed,
                "seeds": len(own),
            }
        )
    return pd.DataFrame(rows)


def gradients(law: pd.DataFrame) -> pd.DataFrame:
    """By mode and inputs: how many neurons' gradients point against the ordinary ones, and how far at most."""
    rows = []
    for (inputs, epochs, arm), own in law.groupby(["inputs", "epochs", "arm"], sort=False):
        neurons, against = int(own["neurons"].sum()), int(own["against"].sum())
        rows.append(
            {
                "inputs": inputs,
                "epochs trained": epochs,
                "mode": arm,
                "neurons": neurons,
                "against the gradient": f"{against} ({against / max(neurons, 1):.1%})",
                "smallest cosine": round(float(own["cosine"].min()), 4),
            }
        )
    return pd.DataFrame(rows)


def figures(results: Results, setup: Setup) -> dict[str, SignalPlot]:
    """Accuracy over rates, learning at the best ones, and what changed inputs do."""
    facts = {"data": "digits" if setup.quick else "CIFAR-10", "optimizer": SGD}
    neat, changed = runs(results), runs(results, inputs=CHANGED)
    keys = ["net", "arm", "lr", "seed"]
    histories = results.of("history", kind=TRAINED, optimizer=SGD, inputs=NEAT).merge(best(results)[keys], on=keys)
    histories = histories.assign(epoch=histories[History.EPOCH] + 1, network=histories["net"])
    both = pd.concat([neat[neat["net"].isin(changed["net"]) & neat["arm"].isin(changed["arm"])], changed])
    both = both.assign(kind_of_inputs=both["inputs"] + " inputs")
    rates: dict[str, Any] = {
        "x": "lr",
        "y": "accuracy",
        "by": "arm",
        "xlabel": "learning rate",
        "ylabel": "accuracy on test images",
    }
    return {
        "rates": outcomes(neat.assign(network=neat["net"]), panels="network", chance=CHANCE, run=facts, **rates),
        "learning": outcomes(
            histories,
            x="epoch",
            y=History.VALIDATION_ACCURACY,
            by="arm",
            panels="network",
            ylabel="validation accuracy at the best rate",
            chance=CHANCE,
            run=facts,
        ),
        "changed": outcomes(both, panels="kind_of_inputs", chance=CHANCE, run={**facts, "model": "ffn"}, **rates),
    }

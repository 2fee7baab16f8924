"""Prediction against measurement: fully connected networks of width 512 and depth 50, ten seeds, every layer.

The geometric mean over seeds of measured over predicted second moment is 1 within 10 %, or within three standard errors of the
mean log where that is wider; ``docs/theory.md`` says where theory is further off, and why.
"""

from functools import cache

import numpy as np
import pytest
import torch

import spp
from spp.theory import attach, predict

pytestmark = pytest.mark.slow

SEEDS, BATCH, WIDTH, DEPTH = 10, 128, 512, 50
INIT = {"relu": "he", "tanh": "lecun", "selu": "lecun", "gelu": "he"}
NARROW = {("gelu", "none"): 1.7, ("relu", "batch"): 2.0, ("gelu", "batch"): 3.7}
"""Where the band is too narrow, since one variance does not tell what is far from normal: by up to that factor."""
CASES = [(activation, norm) for activation in INIT for norm in ("none", "batch", "layer", "rms")]


@cache
def runs(activation: str, norm: str):
    """Logs of measured, (seeds, outputs), and of predicted second moments, (a few, outputs), and the predicted spread.

    Predictions know the weights' scale, not all that the draw makes of it: two draws' are enough.
    """
    model = spp.models.build(
        "ffn", norm=norm, activation=activation, width=WIDTH, depth=DEPTH, input_shape=(WIDTH,), num_classes=100
    )
    measured, predicted, spread = [], [], []
    for seed in range(SEEDS):
        torch.manual_seed(1000 + seed)  # not the inputs' own: the first weights would be the inputs
        spp.nn.initialize_(model, INIT[activation])
        frame = spp.trace(model, spp.data.gaussian(BATCH, (WIDTH,), seed=seed), signals=["activation"]).frame
        if seed < 2:
            joined = attach(frame, predict(model, (BATCH, WIDTH)))
            joined = joined[joined["leaf"]]
            assert joined["acsm_predicted"].notna().all() and joined["acv_predicted"].notna().all()
            predicted.append(np.log((joined["acsm_predicted"] + joined["acv_predicted"]).to_numpy()))
            spread.append(joined["log_spread_predicted"].to_numpy())
        measured.append(np.log(frame.loc[frame["leaf"], "mean_square"].to_numpy()))
    return np.array(measured), np.array(predicted), np.mean(spread, 0), list(joined["name"])


@pytest.mark.parametrize(("activation", "norm"), CASES)
def test_second_moments(activation, norm):
    measured, predicted, _, names = runs(activation, norm)
    assert len(names) > 3 * DEPTH - 5
    gap = measured.mean(0) - predicted.mean(0)
    error = np.sqrt(measured.var(0, ddof=1) / SEEDS + predicted.var(0, ddof=1) / len(predicted))
    allowed = np.maximum(3 * error, np.log(1.1))
    worst = int(np.argmax(np.abs(gap) - allowed))
    assert abs(gap[worst]) <= allowed[worst], (names[worst], np.exp(gap[worst]), error[worst])


@pytest.mark.parametrize(("activation", "norm"), CASES)
def test_spread_over_seeds(activation, norm):
    """Within a factor of 1.5 of the finite-width rule over the network; of a fifth of it, within what ten seeds can tell.

    Three combinations are allowed the factor that ``docs/theory.md`` gives.
    """
    measured, _, spread, names = runs(activation, norm)
    layers = np.array([name.endswith(".act") for name in names])
    ratio = np.log(measured.std(0, ddof=1)[layers] / spread[layers])
    assert abs(ratio.mean()) < np.log(NARROW.get((activation, norm), 1.5)), np.exp(ratio.mean())
    if (activation, norm) in NARROW:
        return
    unsure = 1 / np.sqrt(2 * (SEEDS - 1))  # of the log of a standard deviation
    for part in np.array_split(ratio, 5):
        assert abs(part.mean()) < np.log(1.5) + unsure, np.exp(part.mean())


def test_relu_adds_five_over_the_width():
    """Where all inputs have come to point the same way, the variance of the log grows by 5 / n a layer."""
    _, _, spread, names = runs("relu", "none")
    variance = spread[[name.endswith(".act") for name in names]] ** 2
    assert np.diff(variance)[-10:] * WIDTH == pytest.approx(np.full(10, 5), rel=0.1)
    assert np.all(np.diff(variance) > 0)

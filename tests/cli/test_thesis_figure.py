"""The thesis' figure comes out of the three commands that the page on training gives, with the numbers that it speaks of."""

from pathlib import Path

import numpy as np
import pytest
import torch

import spp as library
from spp.plot import evolutions
from tests.scripts import DOCS, script


def documented():
    return script("make_images.py").commands(DOCS / "training.md", "The thesis' figure")


@pytest.mark.slow
def test_two_trainings_and_one_plot_draw_it(spp):
    torch.set_num_threads(1)
    lines = documented()
    assert [words[0] for words in lines] == ["train", "train", "plot"]
    for words in lines:
        done = spp(*words)
        assert done.code == 0, done.err
    assert Path("thesis-ffn.png").read_bytes().startswith(b"\x89PNG")
    runs = {name: library.load(f"runs/{name}") for name in ("minus", "batch")}
    figure = evolutions(runs, signals="gradient", statistics="mean_square", steps=[0, 81, 171])
    without, with_affine = ([curve.y for curve in panel.curves] for panel in figure.panels)
    assert [curve.label for curve in figure.panels[0].curves] == [
        "step 0 (epoch 0)",
        "step 81 (epoch 9)",
        "step 171 (epoch 19)",
    ]
    np.testing.assert_allclose(
        without[0], with_affine[0], rtol=1e-4
    )  # shift and scale do nothing before the first step
    for curves in (without, with_affine):
        assert all(len(y) == 9 and (np.diff(y) < 0).all() for y in curves[:2])  # gradients grow towards the input
        per_layer = (curves[0][0] / curves[0][-1]) ** (1 / 8)
        assert per_layer == pytest.approx(np.pi / (np.pi - 1), rel=0.1)  # 1.467 in mean-field theory
    for run in runs.values():
        gradients = run.frame[(run.frame["signal"] == "gradient") & (run.frame["name"] != "layer9.act")]
        assert (gradients["acsm"] < 1e-10 * gradients["mean_square"]).all()  # what BatchNorm sends back sums to zero

"""Weights & Biases, in offline mode: what its own reader finds in the file."""

import json

import pytest
import torch

import spp
from spp.errors import InputError
from tests.integrations.conftest import wanted
from tests.integrations.test_boards import steps

pytestmark = pytest.mark.filterwarnings("ignore")  # its dependencies' own deprecations


@pytest.fixture
def run(tmp_path, monkeypatch):
    wandb = wanted("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    try:
        run = wandb.init(project="spp", mode="offline", dir=str(tmp_path), settings={"console": "off"})
    except Exception as error:  # its service is a program of its own
        pytest.skip(f"wandb cannot begin an offline run here: {error}")
    yield run
    run.finish()


def test_scalars_and_a_figure_are_logged_beside_ones_own(net, run):
    from spp.integrations.wandb import WandB

    optimizer = torch.optim.Adam(net.parameters())
    sent = []
    log = run.log
    run.log = lambda values, *args, **more: (sent.append(values), log(values, *args, **more))
    with spp.watch(net, optimizer, every=2) as watch:
        board = WandB(watch, run)
        for number in range(5):
            steps(net, optimizer, 1)
            run.log({"mine": number})
            board.update()
        board.figure("layers", step=4)
    assert [values["spp/step"] for values in sent if "spp/step" in values] == [0, 2, 4, 5]
    frame = watch.frame
    rows = frame[(frame.signal == "gradient") & (frame.name == "layer1")].set_index("step")["rms"]
    assert sent[1]["spp/gradient_rms/layer1"] == rows[0]
    assert run.summary["spp/gradient_rms/layer1"] == rows[4]
    assert run.summary["spp/layers"]["_type"] == "image-file"
    json.dumps(dict(run.summary), default=str)


def test_without_a_run(net):
    wanted("wandb")
    from spp.integrations.wandb import WandB

    with pytest.raises(InputError, match=r"a run that wandb\.init began is needed; got none\. Call it first\."):
        WandB(spp.watch(net))

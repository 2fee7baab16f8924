"""The Lightning callback, in Lightning's own trainer."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import spp
from spp.errors import InputError
from tests.integrations.conftest import Net, samples, wanted

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # Lightning advises about workers, and its dependencies about each other


@pytest.fixture
def lightning():
    wanted("lightning")
    import lightning.pytorch

    return lightning.pytorch


def make_module(lightning, *, own_forward=False):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, index):
            inputs, targets = batch
            return nn.functional.cross_entropy((self if own_forward else self.net)(inputs), targets)

        def validation_step(self, batch, index):
            (self if own_forward else self.net)(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    class WithForward(Module):
        def forward(self, x):
            return self.net(x)

    return (WithForward if own_forward else Module)()


def fit(lightning, module, tmp_path, callbacks, **options):
    loader = DataLoader(TensorDataset(*samples()), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=str(tmp_path),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"logger": False, **options},
    )
    trainer.fit(module, loader, loader)
    return trainer


@pytest.mark.parametrize("own_forward", [False, True])
def test_it_measures_what_a_plain_loop_measures_and_changes_nothing(lightning, own_forward, tmp_path):
    from spp.integrations.lightning import SignalPropagation

    callback = SignalPropagation(every=2, log=False)
    module, twin = make_module(lightning, own_forward=own_forward), make_module(lightning, own_forward=own_forward)
    fit(lightning, module, tmp_path, [callback])
    fit(lightning, twin, tmp_path, [])
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), twin.parameters(), strict=True))
    plain, (inputs, targets) = Net(), samples()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    with spp.watch(plain, optimizer, every=2) as watch:
        for _ in range(2):
            for part in (slice(0, 8), slice(8, 16), slice(16, 24)):
                optimizer.zero_grad()
                nn.functional.cross_entropy(plain(inputs[part]), targets[part]).backward()
                optimizer.step()

    def numbers(watch):
        frame = watch.frame[(watch.frame["mode"] == "train") & watch.frame["leaf"]]
        frame = frame.assign(name=frame["name"].str.removeprefix("net."))
        return frame.set_index(["step", "name", "output", "signal"])[["rms", "acsm", "update_ratio"]]

    pd.testing.assert_frame_equal(numbers(callback.watch), numbers(watch), rtol=1e-12)
    assert sorted(set(numbers(callback.watch).index.get_level_values("step"))) == [0, 2, 4]
    assert "eval" in set(callback.watch.frame["mode"])


def test_the_trainers_loggers_get_the_numbers(lightning, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    from spp.integrations.lightning import SignalPropagation

    callback = SignalPropagation(every=3)
    fit(lightning, make_module(lightning), tmp_path, [callback], logger=CSVLogger(tmp_path, flush_logs_every_n_steps=1))
    found = pd.read_csv(next(tmp_path.rglob("metrics.csv"))).set_index("step")["gradient_rms/layer1"].dropna()
    frame = callback.watch.frame
    rows = frame[(frame.signal == "gradient") & (frame.name == "layer1")].set_index("step")["rms"]
    assert found.index.tolist() == rows.index.tolist() == [0, 3]
    np.testing.assert_allclose(found, rows)


def test_accumulated_batches_are_one_step(lightning, tmp_path):
    from spp.integrations.lightning import SignalPropagation

    callback = SignalPropagation(every=1)
    fit(lightning, make_module(lightning), tmp_path, [callback], accumulate_grad_batches=3)
    frame = callback.watch.frame
    rows = frame[(frame["mode"] == "train") & (frame["name"] == "act") & (frame["signal"] == "activation")]
    assert rows["step"].tolist() == [0, 1]
    assert rows["numel"].tolist() == [24 * 8] * 2


def test_an_exception_ends_the_watching_and_keeps_what_was_measured(lightning, tmp_path):
    from spp.integrations.lightning import SignalPropagation

    class Failing(lightning.Callback):
        def on_train_batch_end(self, trainer, *rest):
            if trainer.global_step == 2:
                raise ZeroDivisionError

    callback = SignalPropagation(every=1)
    module = make_module(lightning)
    with pytest.raises(ZeroDivisionError):
        fit(lightning, module, tmp_path, [callback, Failing()])
    assert len(callback.watch.frame)
    assert not any(child._forward_hooks for child in module.modules())


def test_a_network_that_is_not_known_is_asked_for(lightning, tmp_path):
    from spp.integrations.lightning import SignalPropagation

    module = make_module(lightning)
    module.other = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"without a forward and with 2 modules that have parameters\. Name the one"):
        fit(lightning, module, tmp_path, [SignalPropagation()])
    with pytest.raises(
        InputError, match=r"network: the network needs to be a module inside the LightningModule; got 'nett'"
    ):
        fit(lightning, module, tmp_path, [SignalPropagation(network="nett")])
    callback = SignalPropagation(network="net", every=5)
    fit(lightning, module, tmp_path, [callback])
    frame = callback.watch.frame
    assert set(frame.loc[frame["mode"] == "train", "step"]) == {0, 5}

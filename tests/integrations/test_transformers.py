"""The transformers callback, in transformers' own trainer."""

import pytest
import torch
from torch.utils.data import Dataset

from tests.integrations.conftest import Net, samples, wanted

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers and its dependencies advise about each other


class Samples(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        inputs, labels = samples()
        return {"x": inputs[index], "labels": labels[index]}


def train(model, folder, callbacks, **options):
    transformers = wanted("transformers")
    wanted("accelerate")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        num_train_epochs=2,
        per_device_train_batch_size=8,
        learning_rate=0.01,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **options,
    )
    transformers.Trainer(model, arguments, train_dataset=Samples(), callbacks=callbacks).train()
    return model


def test_it_measures_every_step_and_changes_nothing(tmp_path):
    wanted("transformers")
    from spp.integrations.transformers import SignalPropagation

    callback = SignalPropagation(every=2)
    model, twin = train(Net(), tmp_path, [callback]), train(Net(), tmp_path, [])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    frame = callback.watch.frame
    rows = frame[(frame["name"] == "layer1") & (frame["signal"] == "activation")]
    assert rows["step"].tolist() == [0, 2, 4]
    assert rows["shape"].tolist() == ["8x8"] * 3
    weights = frame[(frame["signal"] == "weight") & (frame["output"] == "weight")]
    assert (weights["update_ratio"] > 0).all()
    assert not any(module._forward_hooks for module in model.modules())


def test_accumulated_batches_are_one_step(tmp_path):
    wanted("transformers")
    from spp.integrations.transformers import SignalPropagation

    callback = SignalPropagation(every=1)
    train(Net(), tmp_path, [callback], gradient_accumulation_steps=3)
    frame = callback.watch.frame
    rows = frame[(frame["name"] == "act") & (frame["signal"] == "activation")]
    assert (rows["step"].tolist(), rows["numel"].tolist()) == ([0, 1], [24 * 8] * 2)


def test_a_board_is_told_after_each_step(tmp_path):
    wanted("transformers")
    from spp.integrations import board
    from spp.integrations.transformers import SignalPropagation

    sent = []
    train(Net(), tmp_path, [SignalPropagation(every=3, board=board(lambda *one: sent.append(one)))])
    assert [step for step, _ in sent] == [0, 3]
    assert "gradient_rms/layer1" in sent[0][1]

"""``fit``: it learns, what it says is so, and nothing is lost, to the bit, when it is interrupted."""

import functools
import os
import random
import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import spp
from spp.errors import InputError, StoreError
from spp.training import Recipe, evaluate, fit
from spp.training.checkpoints import BEST, LAST, Interrupted
from spp.training.results import History
from tests.data import files
from tests.training import small

RECIPES = {
    "adam": Recipe(epochs=4, batch_size=200),
    "adamw bfloat16": Recipe(epochs=3, batch_size=200, optimizer="adamw", precision="bfloat16"),
    "everything": Recipe(
        epochs=4,
        batch_size=200,
        optimizer="sgd",
        nesterov=True,
        lr=0.05,
        agc=0.02,
        schedule="cosine",
        warmup=1.5,
        label_smoothing=0.1,
        augment="crop",
        weight_decay=1e-4,
        seed=7,
    ),
}
SECONDS = [str(History.SECONDS)]


def comparable(folder, name=LAST):
    state = torch.load(folder / "checkpoints" / name, weights_only=True)
    state.pop("seconds", None)
    for row in (*state.get("history", ()), state.get("row", {})):
        row.pop(History.SECONDS, None)
    return state


def assert_same_run(one, other, folders):
    assert small.same(one.model.state_dict(), other.model.state_dict())
    pd.testing.assert_frame_equal(
        one.history.drop(columns=SECONDS), other.history.drop(columns=SECONDS), check_exact=True
    )
    assert one.test == other.test
    for name in (LAST, BEST):
        assert small.same(*(comparable(folder, name) for folder in folders))


def assert_same_rows(*folders):
    one, other = (spp.load(folder) for folder in folders)
    for name in ("frame", "blocks", "modules", "unmeasured"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nothing interrupts, each trained once, in a folder of its own; to be read only."""

    @functools.cache
    def trained(name, every=None):
        folder = tmp_path_factory.mktemp("whole") / "run"
        return fit(small.network(), small.digits(), RECIPES[name], every=every, folder=folder)

    return trained


class StopAfter:
    """A report that presses Ctrl-C after so many steps."""

    def __init__(self, steps, number=signal.SIGINT):
        self.left, self.number = steps, number

    def __call__(self, news):
        if news.row is None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)


def test_it_learns_digits():
    fitted = fit(small.network(dropout=0.0, width=64), small.digits(), Recipe(epochs=15, lr=1e-2))
    assert fitted.test["last"]["accuracy"] > 0.93
    assert fitted.history[History.TRAIN_LOSS].iloc[-1] < 0.1 < fitted.history[History.TRAIN_LOSS].iloc[0]
    assert fitted.history[History.EPOCH].tolist() == list(range(15))
    assert fitted.history[History.STEP].tolist() == [9 * (epoch + 1) for epoch in range(15)]
    assert fitted.stopped is None


@pytest.mark.parametrize("name", RECIPES)
def test_two_runs_are_the_same_to_the_bit(name, whole, tmp_path):
    one, two = whole(name), fit(small.network(), small.digits(), RECIPES[name], folder=tmp_path / "two")
    assert_same_run(one, two, [one.folder, tmp_path / "two"])


@pytest.mark.parametrize("steps", [1, 6, 8, 13])
@pytest.mark.parametrize("name", RECIPES)
def test_an_interrupted_run_goes_on_to_the_same_bits(name, steps, whole, tmp_path):
    with pytest.raises(Interrupted):
        fit(small.network(), small.digits(), RECIPES[name], folder=tmp_path / "parts", report=StopAfter(steps))
    torch.manual_seed(99)
    random.seed(99)
    resumed = fit(small.network(seed=5), small.digits(), RECIPES[name], folder=tmp_path / "parts", resume=True)
    assert_same_run(whole(name), resumed, [whole(name).folder, tmp_path / "parts"])


@pytest.mark.parametrize("norm", ["batch_renorm", "ghost_batch", "neuronwise", "layer", "none"])
def test_norms_with_a_state_of_their_own_resume_too(norm, tmp_path):
    recipe = Recipe(epochs=3, batch_size=256, lr=1e-2)
    whole = fit(small.network(norm=norm), small.digits(), recipe)
    with pytest.raises(Interrupted):
        fit(small.network(norm=norm), small.digits(), recipe, folder=tmp_path, report=StopAfter(7))
    resumed = fit(small.network(norm=norm, seed=3), small.digits(), recipe, folder=tmp_path, resume=True)
    assert small.same(whole.model.state_dict(), resumed.model.state_dict())


@pytest.mark.parametrize("polite", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_kill_is_taken_as_an_interruption(tmp_path, polite):
    with pytest.raises(Interrupted) as stopped:
        fit(small.network(), small.digits(), folder=tmp_path, report=StopAfter(2, polite))
    assert stopped.value.number == polite
    assert comparable(tmp_path)["position"] == {"epoch": 0, "batch": 2, "step": 2}


def test_more_epochs_can_be_asked_for(whole, tmp_path):
    recipe = RECIPES["adam"]
    fit(small.network(), small.digits(), replace(recipe, epochs=2), folder=tmp_path)
    more = fit(small.network(seed=4), small.digits(), recipe, folder=tmp_path, resume=True)
    assert small.same(whole("adam").model.state_dict(), more.model.state_dict())
    assert len(pd.read_parquet(tmp_path / "history.parquet")) == 4


def test_a_run_that_has_ended_is_given_back(whole, tmp_path):
    first, copy = whole("adam"), tmp_path / "copy"
    shutil.copytree(first.folder, copy)
    again = fit(small.network(seed=4), small.digits(), RECIPES["adam"], folder=copy, resume=True)
    assert_same_run(first, again, [first.folder, copy])
    pd.testing.assert_frame_equal(first.history, again.history, check_exact=True)


KILLED = """
import os, sys, torch
from spp.training import Recipe, fit
from tests.training import small

torch.set_num_threads(1)

def kill(news):
    if news.epoch == 2 and news.batch == 3:
        os.kill(os.getpid(), 9)

fit(small.network(), small.digits(), Recipe(epochs=4, batch_size=200), every=4, watch={"flush": 0.0}, folder=sys.argv[1],
    report=kill)
"""


def test_the_global_random_states_are_put_back():
    model = small.network()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    fit(model, small.digits(), Recipe(epochs=1))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_modes_are_put_back_and_frozen_parts_stay_in_evaluation():
    model = small.network()
    model.layer1.eval()
    fit(model, small.digits(), Recipe(epochs=1))
    assert model.training and not model.layer1.norm.training


def test_best_and_last_are_tested_with_their_weights(tmp_path):
    recipe = Recipe(epochs=6, batch_size=64, lr=0.05)
    data, model = small.digits(), small.network(dropout=0.5)
    fitted = fit(model, data, recipe, folder=tmp_path)
    history = fitted.history.sort_values(
        [History.VALIDATION_ACCURACY, History.VALIDATION_LOSS], ascending=[False, True], kind="stable"
    )
    assert fitted.test["best"]["epoch"] == history[History.EPOCH].iloc[0]
    for name in ("last", "best"):
        twin = small.network(dropout=0.5)
        twin.load_state_dict(torch.load(tmp_path / "checkpoints" / f"{name}.pt", weights_only=True)["model"])
        expected = {"epoch": fitted.test[name]["epoch"], **evaluate(twin, data.test)}
        assert fitted.test[name] == expected
    assert small.same(model.state_dict(), torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["model"])
    without = fit(small.network(dropout=0.5), data, recipe)
    assert without.test == fitted.test


def test_without_validation_images_the_last_is_the_best():
    fitted = fit(small.network(), small.digits(validation=0), Recipe(epochs=2))
    assert fitted.test["best"] == fitted.test["last"]
    assert fitted.history[History.VALIDATION_LOSS].isna().all()


def test_evaluation_is_exact_and_changes_nothing():
    model, data = small.network(), small.digits()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = evaluate(model, data.test, batch_size=50)
    assert small.same(before, model.state_dict()) and model.training
    inputs, targets = data.test.batch(torch.arange(len(data.test)))
    with torch.no_grad():
        outputs = model.double().eval()(inputs.double())
    assert found["loss"] == pytest.approx(F.cross_entropy(outputs, targets).item(), rel=1e-5)
    assert found["accuracy"] == (outputs.argmax(1) == targets).double().mean().item()


def test_the_first_loss_is_that_of_torch_with_label_smoothing():
    data, recipe = small.digits(), Recipe(epochs=1, batch_size=2000, label_smoothing=0.3)
    model, twin = small.network(dropout=0.0), small.network(dropout=0.0)
    ((inputs, targets),) = spp.data.shuffled(data.train, 2000, seed=0, epoch=0)
    expected = F.cross_entropy(twin(inputs), targets, label_smoothing=0.3).item()
    assert fit(model, data, recipe).history[History.TRAIN_LOSS][0] == expected


def test_training_is_what_a_plain_loop_does():
    data, recipe = small.digits(), Recipe(epochs=2, batch_size=300, lr=0.01, seed=3)
    model, twin = small.network(), small.network()
    fit(model, data, recipe)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    torch.manual_seed(3)
    for epoch in range(2):
        for inputs, targets in spp.data.shuffled(data.train, 300, seed=3, epoch=epoch):
            optimizer.zero_grad()
            F.cross_entropy(twin(inputs), targets).backward()
            optimizer.step()
    assert small.same(model.state_dict(), twin.state_dict())


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    recipe = Recipe(epochs=3, optimizer="sgd", lr=1e6)
    fitted = fit(small.network(norm="none"), small.digits(), recipe, folder=tmp_path)
    assert fitted.stopped is not None and fitted.stopped.startswith("the loss is not finite at step ")
    assert len(fitted.history) == 1 and fitted.history[History.TRAIN_LOSS].isna().all()
    assert (fitted.trace.frame["nonfinite"] > 0).any()
    assert np.isnan(fitted.test["last"]["loss"])
    again = fit(small.network(norm="none"), small.digits(), recipe, folder=tmp_path, resume=True)
    assert again.stopped == fitted.stopped
    on = fit(small.network(norm="none"), small.digits(), replace(recipe, keep_going=True), folder=tmp_path, resume=True)
    assert on.stopped is None and on.history[History.EPOCH].tolist() == [0, 1, 2]


def test_convolutions_on_cifar_with_its_own_augmentation(tmp_path):
    files.write_cifar("cifar10", tmp_path, images=8)
    data = spp.data.splits("cifar10", folder=tmp_path)
    torch.manual_seed(0)
    model = spp.models.build("resnet20", num_classes=10)
    fitted = fit(model, data, Recipe(epochs=1, batch_size=16, optimizer="sgd", schedule="cosine"))
    assert np.isfinite(fitted.history[History.TRAIN_LOSS]).all()
    assert fitted.history[History.STEP].tolist() == [2]


def test_news_tell_where_the_run_stands():
    heard = []
    fit(small.network(), small.digits(), Recipe(epochs=2, batch_size=600), report=heard.append)
    assert [(news.epoch, news.batch, news.row is not None) for news in heard] == [
        (0, 1, False),
        (0, 2, False),
        (0, 2, True),
        (1, 1, False),
        (1, 2, False),
        (1, 2, True),
    ]
    assert heard[2].row[History.TRAIN_LOSS] == heard[2].loss == heard[1].loss
    assert all(news.batches == 2 and news.epochs == 2 for news in heard)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipe": Recipe(lr=0.5)},
            r"resume: a resumed run needs the recipe it began with; got lr 0\.5 instead of None",
        ),
        ({"data": {"seed": 4}}, r"a resumed run needs the data it began with; got seed 4 instead of 0"),
        ({"model": {"width": 17}}, r"a resumed run needs the model it began with; got size mismatch"),
    ],
)
def test_another_run_is_not_gone_on_with(change, message, tmp_path):
    fit(small.network(), small.digits(), Recipe(epochs=1), folder=tmp_path)
    model, data = small.network(**change.get("model", {})), small.digits(**change.get("data", {}))
    with pytest.raises(InputError, match=message):
        fit(model, data, change.get("recipe", Recipe()), folder=tmp_path, resume=True)


def test_a_checkpoint_of_something_else(tmp_path):
    fit(small.network(), small.digits(), Recipe(epochs=1), folder=tmp_path)
    torch.save({"format": 1, "weights": 3}, tmp_path / "checkpoints" / LAST)
    with pytest.raises(StoreError, match=r"a checkpoint of a run needs to hold its state; got KeyError\('recipe'\)"):
        fit(small.network(), small.digits(), folder=tmp_path, resume=True)


@pytest.mark.parametrize("name", ["adam", "everything"])
def test_a_watched_run_is_the_same_to_the_bit_and_holds_its_frame(name, whole):
    plain, watched, recipe = whole(name), whole(name, every=4), RECIPES[name]
    assert_same_run(plain, watched, [plain.folder, watched.folder])
    run = spp.load(watched.folder)
    training = run.frame[run.frame["mode"] == "train"]
    assert sorted(set(training["step"])) == list(range(0, 6 * recipe.epochs, 4))
    assert run.run["steps_per_epoch"] == 6 and run.run["test"] == watched.test
    pd.testing.assert_frame_equal(run.frame, watched.watch.frame)
    assert plain.watch is None


@pytest.mark.parametrize("steps", [3, 6, 13])
def test_an_interrupted_run_has_the_rows_of_a_whole_one(steps, whole, tmp_path):
    recipe = RECIPES["everything"]
    with pytest.raises(Interrupted):
        fit(small.network(), small.digits(), recipe, every=4, folder=tmp_path / "parts", report=StopAfter(steps))
    fit(small.network(seed=2), small.digits(), recipe, every=4, folder=tmp_path / "parts", resume=True)
    assert_same_rows(whole("everything", every=4).folder, tmp_path / "parts")


def test_a_killed_run_goes_on_from_its_last_epoch_to_the_same_bits_and_rows(python, whole, tmp_path):
    assert python(KILLED, tmp_path / "parts").returncode == -9
    assert len(pd.read_csv(tmp_path / "parts" / "history.csv")) == 2
    assert spp.load(tmp_path / "parts").frame["step"].max() > 11  # rows that the run resumed at step 12 measures again
    one = whole("adam", every=4)
    folders = [one.folder, tmp_path / "parts"]
    other = fit(small.network(seed=4), small.digits(), RECIPES["adam"], every=4, folder=folders[1], resume=True)
    assert_same_run(one, other, folders)
    assert_same_rows(*folders)


@pytest.mark.parametrize("every", [None, 4])
def test_what_a_kill_leaves_of_the_last_epoch_is_made_good(every, tmp_path):
    fit(small.network(), small.digits(), Recipe(epochs=2), every=every, folder=tmp_path)
    before = pd.read_parquet(tmp_path / "history.parquet")
    # as killed behind the last checkpoint, in the middle of the next file
    before.head(1).to_parquet(tmp_path / "history.parquet")
    (tmp_path / "history.csv").unlink()
    for name in ("", "checkpoints"):
        (tmp_path / name / ".draft-123-a").write_text("half")
    fit(small.network(seed=1), small.digits(), Recipe(epochs=2), every=every, folder=tmp_path, resume=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "history.parquet"), before)
    assert len(pd.read_csv(tmp_path / "history.csv")) == 2
    assert not list(tmp_path.rglob(".draft*"))


@pytest.mark.parametrize("every", [None, 4])
def test_a_run_has_one_trainer(every, tmp_path):
    def second(news):
        with pytest.raises(StoreError, match="a run has one writer; got a folder that"):
            fit(small.network(), small.digits(), Recipe(epochs=1), folder=tmp_path, every=every, resume=True)

    fit(small.network(), small.digits(), Recipe(epochs=1), folder=tmp_path, every=every, report=second)


def test_the_first_step_of_each_epoch_and_what_is_left_out():
    fitted = fit(small.network(), small.digits(), RECIPES["adam"], every="epoch", watch={"include": ["*.act"]})
    frame = fitted.watch.frame
    assert sorted(set(frame.loc[frame["mode"] == "train", "step"])) == [0, 6, 12, 18]
    assert set(frame["name"]) == {"layer1.act", "layer2.act"}


def test_the_worst_finding_is_told_as_it_comes_and_kept_when_the_run_is_resumed(tmp_path):
    sick = {"depth": 10, "norm": "none", "activation": "sigmoid", "init": "default", "dropout": 0.0}
    heard = []

    def stop(news):
        heard.append(news.finding)
        if len(heard) == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        fit(small.network(**sick), small.digits(), RECIPES["adam"], every=4, folder=tmp_path, report=stop)
    assert heard[0] is None and heard[6]["step"] == 4
    assert set(heard[6]) == {"step", "severity", "rule", "name", "message", "remedy"}
    fitted = fit(small.network(**sick), small.digits(), RECIPES["adam"], every=4, folder=tmp_path, resume=True)
    assert fitted.finding is not None and fitted.finding["severity"] <= heard[6]["severity"]
    found = spp.diagnosis.find(spp.load(tmp_path))
    assert fitted.finding["rule"] in {finding.rule for finding in found}


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    fit(small.network(), small.digits(), Recipe(epochs=1), folder=tmp_path / "run")
    with pytest.raises(StoreError, match="an existing run is not overwritten silently"):
        fit(small.network(), small.digits(), Recipe(epochs=1), folder=tmp_path / "run")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError):
        fit(small.network(), small.digits(), Recipe(epochs=1), folder=tmp_path / "own", resume=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(torch.nn.ReLU(), small.digits()), "a model that is trained has parameters; got ReLU without any"),
        (lambda: fit(small.network(), small.digits(), resume=True), "a run is resumed from its folder; got no folder"),
        (
            lambda: fit(small.network(num_classes=3), small.digits()),
            r"each of the 10 classes; got 3 outputs\. Build it with",
        ),
        (lambda: fit(small.network(), small.digits(shape=(1, 9, 9))), r"an input sample has 64 features"),
        (lambda: fit(small.network(), small.digits(), Recipe(batch_size=1)), "trains on more than one sample"),
        (
            lambda: fit(small.network(), small.digits(), Recipe(precision="float16")),
            r"precision: float16 is for accelerators; got cpu\. Use bfloat16 or float32 there\.",
        ),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_on_a_gpu(precision, tmp_path):
    recipe = Recipe(epochs=8, lr=1e-2, precision=precision)
    model = small.network(dropout=0.0, width=64)
    with pytest.raises(Interrupted):
        fit(model, small.digits(), recipe, folder=tmp_path, device="cuda", report=StopAfter(30))
    fitted = fit(model, small.digits(), recipe, folder=tmp_path, device="cuda", resume=True)
    assert fitted.test["last"]["accuracy"] > 0.85

"""``--data``: bundled data by name, files of one's own, and what they must hold."""

from pathlib import Path

import numpy as np
import pytest
import torch

import spp as library
from tests.data import files


def activations(folder: str):
    frame = library.load(folder).frame
    return frame[frame.signal == "activation"].set_index("name")


def test_four_small_batches_hold_what_a_large_one_holds(spp):
    for name, words in {"one": ("16", "1"), "four": ("4", "4")}.items():
        sizes = ("--batch-size", words[0], "--batches", words[1])
        done = spp("analyze", "--model", "ffn", "--norm", "none", "--no-figures", *sizes, "--out", name)
        assert done.code == 0
    one, four = activations("one"), activations("four")
    np.testing.assert_allclose(four["mean_square"], one["mean_square"], rtol=1e-5)
    np.testing.assert_allclose(four["acv"], one["acv"], rtol=1e-5)


def test_digits_bring_their_classes(spp, tiny):
    assert spp(*tiny, "--data", "digits", "--json").json["run"]["loss"] == "cross_entropy"
    assert spp(*tiny, "--data", "digits", "--loss", "probe", "--json").json["run"]["loss"] == "probe"
    assert spp(*tiny, "--loss", "cross_entropy", "--json").json["run"]["loss"] == "cross_entropy"
    assert spp(*tiny, "--json").json["run"]["loss"] == "probe"


def test_more_digits_than_there_are(spp):
    done = spp("analyze", "--model", "ffn", "--no-figures", "--data", "digits", "--batch-size", "2000")
    assert done.code == 2
    assert done.err == "Error: the digits are 1797 images; got n=2000. Ask for at most 1797.\n"


def test_an_array_of_ones_own(spp):
    array = np.random.default_rng(0).normal(size=(6, 1, 8, 8))
    np.save("mine.npy", array)
    done = spp("analyze", "--model", "ffn", "--no-figures", "--data", "mine.npy", "--batch-size", "4", "--out", "run")
    assert done.code == 0
    first = activations("run").loc["flatten"]
    assert first["mean_square"] == pytest.approx(np.mean(array[:4].astype(np.float32) ** 2), rel=1e-6)
    assert first["shape"] == "4x64"


def test_nan_in_the_data_is_measured_and_reported(spp):
    array = np.ones((4, 3, 8, 8), np.float32)
    array[2, 0, 0, 0] = np.nan
    np.save("mine.npy", array)
    done = spp(
        "analyze",
        "--model",
        "ffn",
        "--no-figures",
        "--norm",
        "none",
        "--data",
        "mine.npy",
        "--batch-size",
        "4",
        "--out",
        "run",
    )
    assert done.code == 0
    assert "NaN comes in at flatten (Flatten)" in done.out
    assert activations("run").loc["flatten", "nonfinite"] == 1


def test_a_pair_of_inputs_and_targets(spp):
    torch.save((torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])), "mine.pt")
    words = (
        "analyze",
        "--model",
        "ffn",
        "--no-figures",
        "--data",
        "mine.pt",
        "--batch-size",
        "2",
        "--batches",
        "2",
        "--json",
    )
    run = spp(*words).json["run"]
    assert (run["loss"], run["samples"], run["data"]) == ("cross_entropy", 4, "mine.pt")


@pytest.mark.parametrize(
    ("save", "line"),
    [
        (lambda: None, "Error: --data: a file of that name is needed; got mine.pt.\n"),
        (
            lambda: torch.save({"a": 1}, "mine.pt"),
            "a .pt file needs to hold a tensor, or a pair of inputs and targets; got dict.",
        ),
        (lambda: torch.save(torch.zeros(5, dtype=torch.int64), "mine.pt"), "got shape (5,), dtype int64."),
        (lambda: torch.save(torch.zeros(3, 3, 8, 8), "mine.pt"), "--batches 1 need 4 samples; got 3. Ask for fewer."),
        (
            lambda: torch.save(torch.nn.Linear(1, 1), "mine.pt"),
            "a .pt file needs to hold tensors saved by torch.save; got ",
        ),
    ],
)
def test_files_that_do_not_do(spp, tiny, save, line):
    save()
    done = spp(*tiny, "--data", "mine.pt")
    assert done.code == 2
    assert line in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("save", "line"),
    [
        (lambda: None, "Error: --data: a file of that name is needed; got mine.npy.\n"),
        (
            lambda: np.save("mine.npy", np.array([{}])),
            "Error: mine.npy: a .npy file needs to hold an array; got Object arrays",
        ),
        (lambda: np.save("mine.npy", np.array(["a"])), "Error: mine.npy: a .npy file needs to hold an array; got "),
        (lambda: Path("mine.npy").write_text("text"), "Error: mine.npy: a .npy file needs to hold an array; got "),
        (lambda: np.save("mine.npy", np.zeros((4, 2, 2), np.complex64)), "got shape (4, 2, 2), dtype complex64."),
    ],
)
def test_arrays_that_do_not_do(spp, tiny, save, line):
    save()
    done = spp(*tiny, "--data", "mine.npy")
    assert done.code == 2
    assert line in done.err
    assert len(done.err.splitlines()) == 1


def test_cross_entropy_needs_targets(spp, tiny):
    np.save("mine.npy", np.zeros((4, 3, 8, 8), np.float32))
    done = spp(*tiny, "--data", "mine.npy", "--loss", "cross_entropy")
    assert done.code == 2
    assert done.err == (
        "Error: mine.npy: cross_entropy needs targets; got inputs only. "
        "Save the pair (inputs, targets) with torch.save.\n"
    )


def test_unknown_data(spp, tiny):
    done = spp(*tiny, "--data", "digit")
    assert done.code == 2
    assert (
        done.err == "Error: --data: unknown data 'digit'. Did you mean 'digits' or 'emnist_digits'? "
        "Known: gaussian, digits, cifar10, cifar100, fashion_mnist, mnist, kmnist, emnist, emnist_byclass, emnist_bymerge, "
        "emnist_letters, emnist_digits, emnist_mnist, FOLDER, FILE.npy, FILE.pt.\n"
    )


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-has-this-name/images"])
@pytest.mark.parametrize("command", ["analyze", "train"])
def test_a_folder_of_an_impossible_name(spp, command, name):
    done = spp(command, "--model", "ffn", "--data", name)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert f"unknown data {'set ' * (command == 'train')}{name!r}" in done.err


def test_cifar_and_folders_of_images(spp, tiny):
    Path("here").mkdir()
    files.write_cifar("cifar10", Path("here"), images=1)
    done = spp(*tiny, "--data", "cifar10", "--data-dir", "here", "--json")
    assert (done.json["run"]["loss"], done.json["run"]["data"]) == ("cross_entropy", "cifar10")
    files.write_images(Path("images"), {"a": 3, "b": 3})
    done = spp(*tiny, "--data", "images", "--json")
    assert (done.json["run"]["loss"], done.json["run"]["data"]) == ("cross_entropy", "images")


def test_mnist_and_the_sets_in_its_form(spp, tiny):
    Path("data").mkdir()
    files.write_mnist("kmnist", Path("data"), images=4)
    done = spp(*tiny, "--data", "kmnist", "--json")
    assert (done.json["run"]["loss"], done.json["run"]["data"]) == ("cross_entropy", "kmnist")
    done = spp("train", "--model", "ffn", "--data", "kmnist", "--epochs", "1", "--validation", "0.5", "--json")
    assert (done.code, done.json["run"]["input_shape"]) == (0, [1, 28, 28])
    done = spp(*tiny, "--data", "mnist", "--data-dir", "nowhere")
    assert done.code == 2
    assert done.err.startswith(
        "Error: nowhere: MNIST lies in a folder, or in mnist inside it, as train-images-idx3-ubyte, "
    )
    assert len(done.err.splitlines()) == 1


def test_cifar_that_is_not_there(spp, tiny):
    done = spp(*tiny, "--data", "cifar100")
    assert done.code == 2
    assert done.err.startswith("Error: data: CIFAR-100 lies in a local folder as train.bin and test.bin")
    assert len(done.err.splitlines()) == 1

"""``--model torchvision:NAME``, ``timm:NAME`` and ``transformers:CONFIG.json``: real libraries where they are installed."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests import foreign
from tests.data import files

SMALL = ("--batch-size", "2", "--no-figures", "--json")


@pytest.fixture
def configuration(tmp_path):
    """Write a configuration; returns what ``--model`` takes."""

    def write(name: str = "config.json", **content) -> str:
        (tmp_path / name).write_text(json.dumps(content))
        return f"transformers:{name}"

    return write


GPT2 = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "vocab_size": 50,
    "n_positions": 12,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "vocab_size": 60,
}
T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "num_layers": 1,
    "num_heads": 2,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "vocab_size": 40,
}
VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 16,
}


def test_torchvision_by_name(spp):
    models = foreign.torchvision().models
    done = spp("analyze", "--model", "torchvision:resnet18", "--num-classes", "5", "--image-size", "64", *SMALL)
    assert done.code == 0, done.err
    run = done.json["run"]
    assert done.json["folder"] == "runs/torchvision-resnet18"
    assert (run["model"], run["num_classes"], run["input_shape"]) == ("torchvision:resnet18", 5, [3, 64, 64])
    expected = models.resnet18(num_classes=5)
    assert run["parameters"] == sum(p.numel() for p in expected.parameters())
    frame = pd.read_parquet("runs/torchvision-resnet18/frame.parquet")
    assert {"layer1.0.bn2", "fc"} <= set(frame["name"])


def test_the_norms_of_a_librarys_network_are_replaced(spp):
    foreign.torchvision()
    words = ("--model", "torchvision:resnet18", "--norm", "group", "--image-size", "64")
    run = spp("analyze", *words, *SMALL).json["run"]
    assert (run["norm"], run["replaced"], run["left"]) == ("group", 20, {})
    frame = pd.read_parquet("runs/torchvision-resnet18-group/frame.parquet")
    assert "BatchNorm2d" not in set(frame["type"])


def test_sizes_are_the_networks_own(spp):
    foreign.torchvision()
    from spp_cli import inputs
    from spp_cli.analyze import analyze
    from spp_cli.options import call_of

    def shape(*words: str) -> tuple[int, ...]:
        with analyze.make_context("analyze", list(words)) as context:
            return inputs.plan_network(call_of(context), None).shape

    assert shape("--model", "torchvision:resnet50") == (3, 224, 224)
    assert shape("--model", "torchvision:inception_v3") == (3, 299, 299)
    assert shape("--model", "torchvision:resnet50", "--image-size", "96x64") == (3, 96, 64)
    foreign.timm()
    assert shape("--model", "timm:halonet_h1") == (3, 256, 256)


@pytest.mark.parametrize("name", ["vit_b_16", "googlenet"])
def test_torchvision_networks_that_ask_for_more(spp, name):
    foreign.torchvision()
    size = "32" if name == "vit_b_16" else "64"
    done = spp("analyze", "--model", f"torchvision:{name}", "--image-size", size, "--num-classes", "3", *SMALL)
    assert done.code == 0, done.err
    assert done.err == ""
    assert done.json["run"]["input_shape"] == [3, int(size), int(size)]


def test_timm_by_name_with_an_image_size_of_its_own(spp):
    timm = foreign.timm()
    done = spp("analyze", "--model", "timm:deit_tiny_patch16_224", "--image-size", "32", "--num-classes", "3", *SMALL)
    assert done.code == 0, done.err
    run = done.json["run"]
    assert done.json["folder"] == "runs/timm-deit_tiny_patch16_224"
    assert (run["num_classes"], run["input_shape"]) == (3, [3, 32, 32])
    expected = timm.create_model("deit_tiny_patch16_224", num_classes=3, img_size=32)
    assert run["parameters"] == sum(p.numel() for p in expected.parameters())


def test_a_library_and_a_bundled_network_side_by_side(spp):
    foreign.torchvision()
    words = ("--model", "torchvision:resnet18", "--model", "resnet18", "--image-size", "64", "--num-classes", "5")
    done = spp("compare", *words, *SMALL)
    assert done.code == 0, done.err
    assert [one["folder"] for one in done.json["runs"]] == ["torchvision-resnet18", "resnet18-batch"]
    assert done.json["folder"] == "runs/compare-torchvision.resnet18-resnet18"


def test_a_librarys_network_is_trained_at_its_own_size(spp):
    foreign.timm()
    files.write_images(Path("images"), {"a": 8, "b": 8})
    words = ("--model", "timm:test_resnet", "--data", "images", "--epochs", "1", "--batch-size", "4")
    done = spp("train", *words, "--out", "run", "-q")
    assert done.code == 0, done.err
    run = json.loads(Path("run/run.json").read_text())
    assert (run["num_classes"], run["input_shape"]) == (2, [3, 160, 160])


@pytest.mark.parametrize(
    ("model", "words", "line"),
    [
        ("torchvision:resnet51", (), "Error: --model: unknown torchvision model 'resnet51'. Did you mean 'resnet5"),
        ("torchvision:fcn_resnet50", (), "Error: --model: unknown torchvision model 'fcn_resnet50'. Did you mean "),
        (
            "torchvision:resnet18",
            ("--init", "he", "--se", "none"),
            "Error: torchvision:resnet18: a library's network is",
        ),
    ],
)
def test_what_torchvision_cannot_do(spp, model, words, line):
    foreign.torchvision()
    done = spp("analyze", "--model", model, *words)
    assert done.code == 2
    assert done.err.startswith(line)
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_unknown_timm_networks_get_near_misses(spp):
    foreign.timm()
    done = spp("analyze", "--model", "timm:convnext_tinny")
    assert done.code == 2
    assert done.err.startswith("Error: --model: unknown timm model 'convnext_tinny'. Did you mean 'convnext_tiny' or ")
    assert "timm.list_models() has all 1" in done.err


def test_a_language_model_is_fed_token_ids(spp, configuration):
    transformers = foreign.transformers()
    done = spp("analyze", "--model", configuration(**GPT2, architectures=["GPT2LMHeadModel"]), *SMALL)
    assert done.code == 0, done.err
    run = done.json["run"]
    assert done.json["folder"] == "runs/transformers-gpt2"
    assert (run["class"], run["data"], run["input_shape"]) == ("GPT2LMHeadModel", "tokens", [12])
    torch.manual_seed(0)
    expected = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
    assert run["parameters"] == sum(p.numel() for p in expected.parameters())
    frame = pd.read_parquet("runs/transformers-gpt2/frame.parquet")
    weights = frame[(frame["signal"] == "weight") & (frame["name"] == "transformer.wte")]
    assert weights["var"].item() == pytest.approx(expected.transformer.wte.weight.double().var(correction=0).item())


def test_the_number_of_tokens(spp, configuration):
    foreign.transformers()
    model = configuration(**GPT2)
    assert spp("analyze", "--model", model, "--tokens", "5", *SMALL).json["run"]["input_shape"] == [5]
    done = spp("analyze", "--model", model, "--tokens", "13")
    assert done.code == 2
    assert done.err == "Error: --tokens: the network takes at most 12 tokens; got 13.\n"


def test_a_seed_gives_the_same_run_twice(spp, configuration):
    foreign.transformers()
    model = configuration(**GPT2)
    frames = []
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert spp("analyze", "--model", model, "--seed", seed, "--out", out, *SMALL).code == 0
        frames.append(pd.read_parquet(f"{out}/frame.parquet"))
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])


@pytest.mark.parametrize("content", [BERT, T5], ids=["bert", "t5"])
def test_classifiers_and_pairs_of_encoder_and_decoder(spp, configuration, content):
    foreign.transformers()
    done = spp("analyze", "--model", configuration(**content), "--tokens", "6", *SMALL)
    assert done.code == 0, done.err
    assert done.json["run"]["class"] == content["architectures"][0]
    assert done.json["run"]["input_shape"] == [6]


def test_the_norms_of_a_language_model_are_replaced(spp, configuration):
    foreign.transformers()
    run = spp("analyze", "--model", configuration(**GPT2), "--norm", "rms", *SMALL).json["run"]
    assert (run["norm"], run["replaced"]) == ("rms", 5)


def test_a_vision_transformer_is_fed_images(spp, configuration):
    foreign.transformers()
    pytest.importorskip("sklearn")
    model = configuration(**VIT)
    run = spp("analyze", "--model", model, "--num-classes", "7", *SMALL).json["run"]
    assert (run["num_classes"], run["input_shape"], run["data"]) == (7, [3, 32, 32], "gaussian")
    words = ("--num-classes", "10", "--image-size", "48", "--data", "digits")
    done = spp("analyze", "--model", model, *words, *SMALL)
    assert done.code == 0, done.err
    assert (done.json["run"]["input_shape"], done.json["run"]["loss"]) == ([3, 48, 48], "cross_entropy")


@pytest.mark.parametrize(
    ("content", "words", "line"),
    [
        ({"model_type": "gpt3"}, (), "config.json: unknown model_type 'gpt3'. Did you mean 'gpt"),
        (
            {"n_layer": 2},
            (),
            "config.json: a configuration is a JSON file with a model_type, as the config.json beside saved ",
        ),
        (
            {**GPT2, "architectures": ["GPT2Nothing"]},
            (),
            "config.json: architectures needs to name a network of transformers; got 'GPT2Nothing'.",
        ),
        (
            {**GPT2, "architectures": ["GPT2Config"]},
            (),
            "config.json: architectures needs to name a network of transformers; got 'GPT2Config'.",
        ),
        (
            GPT2,
            ("--num-classes", "3"),
            "transformers:config.json: --num-classes is for networks that classify; got GPT2Model.",
        ),
        (
            GPT2,
            ("--activation", "tanh"),
            "transformers:config.json: a library's network is changed by --norm and --num-classes",
        ),
        (
            GPT2,
            ("--data", "digits"),
            "transformers:config.json: a language model is traced on random token ids; got --data",
        ),
        (
            GPT2,
            ("--theory",),
            "--theory: --theory predicts networks of images and features; got transformers:config.json.",
        ),
        (
            {"model_type": "whisper"},
            (),
            "transformers:config.json: the network's main input needs to be input_ids or pixel_values; got",
        ),
    ],
)
def test_configurations_that_do_not_work(spp, configuration, content, words, line):
    foreign.transformers()
    done = spp("analyze", "--model", configuration(**content), *words)
    assert done.code == 2
    assert done.err.startswith(f"Error: {line}")
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_a_class_that_cannot_be_imported(configuration, tmp_path):
    foreign.transformers()
    if find_spec("torchvision") is None:
        pytest.skip("without torchvision nothing is in the way of importing the class")
    model = configuration(**GPT2, architectures=["GPT2LMHeadModel"])
    call = "from spp_cli.main import cli; cli()"  # in a process of its own, where no operators are declared
    words = ("analyze", "--model", model, *SMALL)
    done = subprocess.run(
        [sys.executable, "-c", call, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        pytest.skip("this torchvision can be imported")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Error: config.json: transformers needs to import the network's class; got ModuleNotFoundError: "
    )
    assert "(RuntimeError: operator torchvision::nms does not exist)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_files_that_are_no_configuration(spp):
    foreign.transformers()
    Path("config.json").write_text("{")
    for model, received in (("config.json", "Expecting property name"), ("nowhere.json", "No such file or directory")):
        done = spp("analyze", "--model", f"transformers:{model}")
        assert done.code == 2
        assert done.err.startswith(f"Error: {model}: a configuration is a JSON file with a model_type")
        assert f"got {received}" in done.err


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_a_missing_library_names_its_extra(spp, monkeypatch, library):
    monkeypatch.setattr("spp.models.sources.find_spec", lambda name: None)
    done = spp("analyze", "--model", f"{library}:anything")
    assert done.code == 2
    assert done.err == (
        f"Error: --model {library}:... needs {library}; got an environment without it. "
        f'Install it with: pip install "torch-spp[{library}]"\n'
    )


def test_a_library_that_cannot_be_imported(spp, tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    done = spp("analyze", "--model", "timm:resnet18")
    assert done.code == 2
    assert done.err == (
        "Error: --model timm:... needs a timm that can be imported beside this torch; "
        "got RuntimeError: operator torchvision::nms does not exist.\n"
    )


def test_transformers_are_not_for_training(spp, configuration):
    pytest.importorskip("sklearn")
    done = spp("train", "--model", configuration(**GPT2), "--data", "digits")
    assert done.code == 2
    assert done.err.startswith(
        "Error: --model: spp train trains networks that take a tensor of images; got transformers:"
    )

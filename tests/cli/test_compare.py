"""``spp compare`` end to end: every combination traced and saved, one figure, and where the curves part."""

import json
from pathlib import Path

import pytest

import spp as library
from spp_cli.compare import VARIED, compare

TINY = ("compare", "--model", "ffn", "--batch-size", "4")


def test_every_norm_is_a_run_and_a_line(spp, undrawn):
    done = spp(*TINY, "--norm", "none", "--norm", "batch")
    assert done.code == 0, done.err
    folder = Path("runs/compare-ffn")
    assert sorted(path.name for path in folder.iterdir()) == [
        "compare-layers.pdf",
        "compare-layers.png",
        "compare.json",
        "compare.pdf",
        "compare.png",
        "ffn-batch",
        "ffn-none",
    ]
    assert library.load(folder / "ffn-batch").run["norm"] == "batch"
    assert "norm none and norm batch compared" in done.out
    lines = [line for line in done.out.splitlines() if "norm batch parts at" in line]
    assert [line.split()[:2] for line in lines][1] == ["activation", "acv"]
    assert done.out.splitlines()[-1] == (
        "runs/compare-ffn: ffn-none/ ffn-batch/ compare.png compare.pdf compare-layers.png compare-layers.pdf"
    )


def test_seeds_are_one_line_with_a_band(spp):
    done = spp(*TINY, "--norm", "none", "--norm", "layer", "--seed", "1", "--seed", "2", "--json", "--no-figures")
    assert [one["folder"] for one in done.json["runs"]] == [
        "ffn-none-seed1",
        "ffn-none-seed2",
        "ffn-layer-seed1",
        "ffn-layer-seed2",
    ]
    assert "seeds 1, 2" in done.json["caption"] and done.json["files"] == []
    assert {row["note"].partition(" ")[0] for row in done.json["partings"]} == {"norm"}
    assert len(done.json["partings"]) == 4
    assert json.loads(Path("runs/compare-ffn/compare.json").read_text()) == done.json


def test_runs_can_be_traced_again_from_their_own_arguments(spp):
    spp(*TINY, "--activation", "relu", "--activation", "tanh", "--no-figures", "-q")
    run = library.load("runs/compare-ffn/ffn-batch_minus-tanh").run
    assert run["activation"] == "tanh"
    again = spp(*run["argv"], "--no-figures", "--out", "again")
    assert again.code == 0, again.err
    assert library.load("again").frame.equals(library.load("runs/compare-ffn/ffn-batch_minus-tanh").frame)


def test_a_comparison_is_replaced_only_when_told_to(spp):
    words = (*TINY, "--norm", "none", "--no-figures", "-q", "--out", "mine")
    assert spp(*words).out == "mine\n"
    assert spp(*words).code == 2
    assert spp(*words, "--overwrite").code == 0


def test_a_wrong_name_is_found_before_anything_is_traced(spp):
    done = spp(*TINY, "--norm", "none", "--norm", "bathc")
    assert done.code == 2 and "unknown norm 'bathc'. Did you mean 'batch'" in done.err
    assert not Path("runs").exists()


def test_a_model_is_needed(spp):
    assert "Missing option '--model'" in spp("compare").err


def test_the_options_are_those_of_analyze_in_its_order():
    names = [parameter.name for parameter in compare.params]
    assert names[0] == "model" and "fail_on" not in names and "no_report" not in names
    assert {option.name for option in compare.params if option.multiple} == {
        *VARIED,
        "include",
        "exclude",
        "plugin",
        "statistics",
    }


@pytest.mark.parametrize("name", VARIED)
def test_what_can_be_repeated_says_so(name):
    (option,) = (option for option in compare.params if option.name == name)
    assert option.help.endswith("Repeatable.")

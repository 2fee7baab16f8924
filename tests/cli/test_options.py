"""Options become a record, and the record becomes the same words again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_cli.analyze import analyze
from spp_cli.options import Call, call_of, words_for


def parsed(words: list[str]) -> Call:
    return call_of(analyze.make_context("analyze", words[1:]))


NAMES = st.none() | st.sampled_from(["batch", "none", "group"])
SIDES = st.integers(1, 600)


@settings(deadline=None)
@given(
    norm=NAMES,
    num_classes=st.none() | SIDES,
    image_size=st.none() | st.tuples(SIDES, SIDES),
    globs=st.lists(st.sampled_from(["stem*", "*.act", "head"]), max_size=3).map(tuple),
    seed=st.integers(0, 2**31),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    out=st.none() | st.just("some folder/x"),
)
def test_a_request_can_be_asked_for_again(norm, num_classes, image_size, globs, seed, flags, out):
    fields = vars(parsed(["analyze", "--model", "ffn"]))
    fields |= {"norm": norm, "num_classes": num_classes, "image_size": image_size, "seed": seed, "out": out}
    fields |= {"plugin": globs, "include": globs, "exclude": globs[::-1]}
    fields |= dict(zip(("eval_mode", "as_json", "overwrite"), flags, strict=True))
    call = Call(**fields)
    assert parsed(words_for(analyze, call)) == call


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("224x160", (224, 160)), ("7X9", (7, 9))])
def test_image_sizes(text, size):
    assert parsed(["analyze", "--model", "ffn", "--image-size", text]).image_size == size


@pytest.mark.parametrize("text", ["", "0", "-3", "3x", "a", "1x2x3", "2.5", "٣"])
def test_what_is_no_image_size(spp, text):
    done = spp("analyze", "--model", "ffn", f"--image-size={text}")
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        f"Error: Invalid value for '--image-size': {text!r} is no size in pixels, as 224, or height x width, as 224x160."
    )


@pytest.mark.parametrize("option", ["--batch-size", "--batches", "--num-classes"])
def test_counts_are_positive(spp, option):
    done = spp("analyze", "--model", "ffn", option, "0")
    assert done.code == 2
    assert done.err.splitlines()[-1] == f"Error: Invalid value for '{option}': 0 is not in the range x>=1."

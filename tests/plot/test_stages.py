"""Stages, blocks and families are read off the names people use."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp.plot.label_layout import spread
from spp.plot.panels import Family, family
from spp.plot.stages import blocks, shortened, stages, ticks

from .frames import residual_names


def _torchvision_resnet() -> list[str]:
    names = ["conv1", "bn1", "relu", "maxpool"]
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        for block in range(count):
            names += [
                f"layer{stage}.{block}.{part}" for part in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "relu")
            ]
    return [*names, "avgpool", "fc"]


def _torchvision_efficientnet() -> list[str]:
    names = ["features.0.0", "features.0.1", "features.0.2"]
    for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1), start=1):
        for block in range(count):
            names += [f"features.{stage}.{block}.block.{i}.{j}" for i in range(4) for j in range(3)]
    return [*names, "features.8.0", "features.8.1", "features.8.2", "avgpool", "classifier.0", "classifier.1"]


def _gpt2(layers: int = 12) -> list[str]:
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.act", "mlp.c_proj")
    middle = [f"transformer.h.{i}.{part}" for i in range(layers) for part in parts]
    return ["transformer.wte", "transformer.wpe", "transformer.drop", *middle, "transformer.ln_f", "lm_head"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([name for name, _ in residual_names()], ["stem", "stage1", "stage2", "stage3", "stage4", "head"]),
        (_torchvision_resnet(), ["stem", "layer1", "layer2", "layer3", "layer4", "head"]),
        (
            _torchvision_efficientnet(),
            ["features.0", *(f"features.{i}" for i in range(1, 8)), "head"],
        ),
        (["fc"], []),
        ([f"fc{i}" for i in range(9)], []),
    ],
)
def test_stages(names: list[str], expected: list[str]) -> None:
    assert [span.name for span in stages(names)] == expected


def test_the_blocks_of_a_transformer_are_its_stages() -> None:
    found = stages(_gpt2())
    assert [span.name for span in found] == ["transformer", *(f"h.{i}" for i in range(12)), "head"]
    assert len(stages(_gpt2(48))) <= 3


@given(
    st.lists(
        st.sampled_from(["stem.a", "s1.0.a", "s1.0.b", "s1.1.a", "s2.0.a", "head.fc", "x"]), min_size=1, max_size=80
    )
)
def test_stages_and_blocks_cover_every_layer_once(names: list[str]) -> None:
    for spans in (stages(names), blocks(names)):
        covered = [index for span in spans for index in range(span.start, span.stop)]
        assert covered == (list(range(len(names))) if spans else [])


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layer1.0.conv1", "layer1.0"),
        ("features.3.1.block.0.0", "features.3.1"),
        ("transformer.h.3.attn.c_attn", "transformer.h.3"),
        ("conv1", "conv1"),
        ("stem.conv", "stem"),
    ],
)
def test_blocks_end_at_the_first_run_of_numbers(name: str, block: str) -> None:
    assert [span.name for span in blocks([name])] == [block]


@pytest.mark.parametrize(
    ("type_name", "expected"),
    [
        ("Conv2d", Family.WEIGHTED),
        ("Linear", Family.WEIGHTED),
        ("BatchNorm2d", Family.NORM),
        ("RMSNorm", Family.NORM),
        ("AffineLayer", Family.OTHER),
        ("ReLU6", Family.ACTIVATION),
        ("GELU", Family.ACTIVATION),
        ("Hardswish", Family.ACTIVATION),
        ("NewGELUActivation", Family.ACTIVATION),
        ("MaxPool2d", Family.OTHER),
        ("Identity", Family.OTHER),
    ],
)
def test_family(type_name: str, expected: Family) -> None:
    assert family(None, type_name) is expected


def test_numbered_names_are_shortened_after_the_first() -> None:
    assert shortened(["stem", "stage1", "stage2", "stage10", "head"]) == ("stem", "stage1", "2", "10", "head")
    assert shortened(["encoder", "decoder"]) == ("encoder", "decoder")


def test_large_stages_come_first_among_the_ticks() -> None:
    names = [name for name, _ in residual_names()]
    found = ticks(names, names)
    assert [tick.text for tick in found[:3]] == ["stage3.0", "stage2.0", "stage1.0"]
    assert sum(tick.level == 2 for tick in found) == len(names)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30).map(sorted), st.floats(0.1, 10))
def test_spread_keeps_order_and_distance_and_moves_nothing_that_fits(wanted: list[float], gap: float) -> None:
    places = spread(wanted, gap)
    assert np.all(np.diff(places) >= gap - 1e-9)
    assert np.mean(places) == pytest.approx(np.mean(wanted), abs=1e-6)
    if np.all(np.diff(wanted) > gap):
        assert places == pytest.approx(wanted)

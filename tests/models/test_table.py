"""Parameter counts of every row, against counts published or made by instantiating the reference implementations."""

import pytest
import torch

from spp import models


def count(name, **changes):
    with torch.device("meta"):
        return sum(p.numel() for p in models.build(name, **changes).parameters())


BATCH = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet18_cifar": 11_173_962,
    "resnet34_cifar": 21_282_122,
    "resnet50_cifar": 23_520_842,
    "resnet101_cifar": 42_512_970,
    "effnet_b0": 5_288_548,
    "effnet_b1": 7_794_184,
    "effnet_b2": 9_109_994,
    "effnet_b3": 12_233_232,
    "effnet_b4": 19_341_616,
    "effnet_b5": 30_389_784,
    "effnet_b6": 43_040_704,
    "effnet_b7": 66_347_960,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "nf_resnet50": 25_557_048,
}
BATCH_NORM_PARAMETERS = {
    "resnet18": 9_600,
    "resnet34": 17_024,
    "resnet50": 53_120,
    "resnet101": 105_344,
    "resnet152": 151_424,
    "effnet_b0": 42_016,
}
CONVOLUTIONS = {
    "resnet18": 11_166_912,
    "resnet34": 21_267_648,
    "resnet50": 23_454_912,
    "resnet101": 42_394_816,
    "resnet152": 57_992_384,
}


@pytest.mark.parametrize("name", BATCH)
def test_with_batch_norm(name):
    assert count(name) == BATCH[name]


@pytest.mark.parametrize("name", BATCH_NORM_PARAMETERS)
def test_the_arms_of_the_batch_norm_ablation_differ_in_the_norm_alone(name):
    bare = BATCH[name] - BATCH_NORM_PARAMETERS[name]
    assert [count(name, norm=norm) for norm in ("none", "batch_minus", "affine", "batch")] == [
        bare,
        bare,
        BATCH[name],
        BATCH[name],
    ]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_both_versions(name):
    for version in (name, name.replace("resnet", "resnetv2_")):
        with torch.device("meta"):
            model = models.build(version)
        found = sum(p.numel() for key, p in model.named_parameters() if p.ndim == 4)
        assert found == CONVOLUTIONS[name]


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_pre_activation_norms_stand_before_the_convolutions(depth):
    """Two parameters for each input channel of each 3x3 and 1x1 convolution of a branch, and of the classifier."""
    with torch.device("meta"):
        model = models.build(f"resnetv2_{depth}")
    branches = [
        m for key, m in model.named_modules() if key.rpartition(".")[2].startswith("conv") and "stem" not in key
    ]
    channels = sum(conv.in_channels for conv in branches) + model.head.fc.in_features
    convolutions = CONVOLUTIONS[f"resnet{depth}"]
    classifier = model.head.fc.in_features * 1000 + 1000
    assert sum(p.numel() for p in model.parameters()) == convolutions + classifier + 2 * channels


def test_resnetv2_50_has_the_parameters_of_the_known_implementations():
    assert count("resnetv2_50") == 25_549_352


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("resnet18_cifar", {"num_classes": 100}, 11_220_132),
        ("effnet_b0", {"num_classes": 100}, 4_135_648),
        ("effnet_b0", {"num_classes": 10}, 4_020_358),
        ("effnet_b0", {"num_classes": 100, "norm": "none"}, 4_093_632),
        ("ffn", {"norm": "none"}, 398_200),
        ("ffn", {}, 398_400),
        ("ffn", {"norm": "batch"}, 398_200 + 9 * 200),
        ("ffn", {"norm": "batch_minus"}, 398_200),
    ],
)
def test_with_changes(name, changes, expected):
    assert count(name, **changes) == expected


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_projections_of_cifar_resnets(depth):
    """Option B of the paper: 1x1 convolutions, 16 to 32 and 32 to 64, and their norms."""
    assert count(f"resnet{depth}", shortcut="projection") == BATCH[f"resnet{depth}"] + 2_752


GAINS_AND_BIASES = 2 * 52_672  # of the convolutions of ResNet-101, its classifier aside
BARE = 5_288_548 - 42_016


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # a gain and a bias for each output of a convolution, where BatchNorm has scale and shift; a gain for each block
        ("nf_resnet101", 42_394_816 + GAINS_AND_BIASES + 33 + 2_049_000),
        # six scalars and a scale in each of 16 blocks
        ("fixup_resnet50", 25_503_912 + 16 * 7),
        *((f"effnet_b0_{arm}", BARE) for arm in ("sn", "snmp", "ws", "ws_sn", "ws_se_sn", "gain")),
        ("effnet_b0_snmp_learned", BARE + 9),  # nine blocks have a skip
        ("effnet_b0_dyt", BARE + 42_016 + 49),
        ("effnet_b0_dyt_sn", BARE + 42_016 + 49),
        ("effnet_b0_nf", BARE + 42_016 + 9),
    ],
)
def test_rows_without_batch_norm(name, expected):
    assert count(name) == expected


def test_every_row_is_counted():
    counted = {*BATCH, "ffn", "nf_resnet101", "fixup_resnet50"}
    rest = [name for name in models.names() if name not in counted]
    pre_activation = [name for name in rest if name.startswith("resnetv2_")]
    arms = [name for name in rest if name.startswith("effnet_b0_")]
    assert sorted(rest) == sorted([*pre_activation, *arms, "resnet152_cifar"])
    assert count("resnet152_cifar") == 60_192_808 - 2_049_000 + 20_490 - 7_680


def test_the_weights_of_no_network_depend_on_the_norm():
    for name in ("ffn", "resnet18", "resnetv2_18", "effnet_b0"):
        counts = {
            norm: sum(p.numel() for p in weights(name, norm)) for norm in ("none", "batch", "affine", "group", "rms")
        }
        assert len(set(counts.values())) == 1, counts


def weights(name, norm):
    with torch.device("meta"):
        return [p for p in models.build(name, norm=norm).parameters() if p.ndim > 1]

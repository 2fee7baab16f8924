"""Networks cut into components: with residual blocks, without, and with everything in one container."""

import torch
from torch import nn

import spp
from spp.diagnosis.main_path import along, components
from spp.frame.schema import Column
from spp.vocabulary import Signal


def leaf(name: str, block: str | None = None, **more) -> dict:
    return {"name": name, "block": block, **more}


def container(name: str, kind: str, block: str | None = None, **more) -> dict:
    return {"name": name, "type": kind, "leaf": False, "block": block, **more}


def test_blocks_and_their_siblings_without_a_skip_are_components(frame_of):
    frame = frame_of(
        [
            leaf("features.0.conv"),
            container("features.0", "Stem"),
            leaf("features.1.0.conv"),
            container("features.1.0", "Block"),  # the same class as a residual block, without a skip
            leaf("features.1.1.conv", "features.1.1", role="residual_branch"),
            container("features.1.1", "Block", "features.1.1", role="residual_sum"),
            container("features.1", "Sequential"),
            container("features", "Sequential"),
            leaf("classifier"),
        ]
    )
    assert components(frame) == {
        "features.0": ["features.0.conv"],
        "features.1.0": ["features.1.0.conv"],
        "features.1.1": ["features.1.1.conv"],
        "classifier": ["classifier"],
    }


def test_a_container_of_most_leaves_is_opened(frame_of):
    names = [f"net.layers.{i}" for i in range(4)]
    frame = frame_of([*(leaf(name) for name in names), container("net.layers", "Sequential"), container("net", "Net")])
    assert list(components(frame)) == names


def test_a_container_of_few_leaves_stays_closed(frame_of):
    frame = frame_of([leaf("a.0"), leaf("a.1"), leaf("b.0"), leaf("b.1"), leaf("c.0")])
    assert components(frame) == {"a": ["a.0", "a.1"], "b": ["b.0", "b.1"], "c": ["c.0"]}


def test_the_end_of_a_component_is_its_own_output_else_its_last_leaf(frame_of):
    frame = frame_of(
        [
            leaf("a.0", acv=1.0),
            leaf("a.1", acv=2.0),
            container("a", "Sequential", acv=3.0),
            leaf("b.0", acv=4.0),
            leaf("b.1", acv=5.0),
            leaf("c", acv=6.0),
        ]
    )
    assert along(frame, Signal.ACTIVATION)[Column.ACV].to_dict() == {"a": 3.0, "b": 5.0, "c": 6.0}
    assert along(frame, Signal.GRADIENT).empty


def test_of_several_calls_the_last_counts(frame_of):
    frame = frame_of([leaf("a", acv=1.0), leaf("b", acv=2.0), leaf("a", call=1, acv=3.0)])
    path = along(frame, Signal.ACTIVATION)
    assert path[Column.ACV].to_dict() == {"b": 2.0, "a": 3.0}


def test_modules_that_never_ran_are_not_on_the_path(frame_of):
    frame = frame_of([leaf("a"), leaf("b"), leaf("b", signal="weight", output="weight", depth=None)])
    assert list(components(frame)) == ["a", "b"]
    assert along(frame, Signal.WEIGHT).empty


def test_real_networks():
    torch.manual_seed(0)
    batch = spp.data.gaussian(2, (3, 32, 32))
    resnet = components(spp.trace(spp.models.build("resnet18_cifar", num_classes=10), batch).frame)
    blocks = [name for name, leaves in resnet.items() if len(leaves) > 3]
    assert len(blocks) == 8
    ffn = components(spp.trace(spp.models.build("ffn", depth=5), batch).frame)
    assert list(ffn) == ["flatten", "layer1", "layer2", "layer3", "layer4", "head"]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 2))
    assert list(components(spp.trace(plain, batch).frame)) == ["0", "1", "2", "3"]

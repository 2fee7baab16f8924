"""Networks of torchvision, timm and transformers: bit-identical afterwards, right rows, right residual merges."""

import pytest
import torch
from torch import nn

import spp
from tests import foreign
from tests.oracle import columns
from tests.zoo.harness import examine, make, recorded, seeded, square, x


def from_torchvision(name: str, **changes):
    models = foreign.torchvision().models
    return lambda: models.get_model(name, weights=None, num_classes=5, **changes)


def from_timm(name: str, **changes):
    timm = foreign.timm()
    return lambda: timm.create_model(name, num_classes=5, **changes)


def gpt2():
    transformers = foreign.transformers()
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=12)
    return lambda: transformers.GPT2LMHeadModel(config)


def blocks_of(trace: spp.Trace) -> list[tuple[str, str, bool]]:
    table = trace.blocks
    return list(zip(table["block"], table["branch"], table["transition"], strict=True))


def assert_branches(trace: spp.Trace, build, batch) -> None:
    """What ends each branch, and what leaves each block, has the channel variance that the oracle finds there."""
    last = trace.blocks.groupby(["block", "call"])["merge"].transform("max") == trace.blocks["merge"]
    seen = recorded(make(build), batch, square, only={*trace.blocks["block"], *trace.blocks["branch"]}).seen
    checked = 0
    for row, ends in zip(trace.blocks.to_dict("records"), last, strict=True):
        for name, column in ((row["branch"], "branch_acv"), *(((row["block"], "acv"),) if ends else ())):
            for signal, prefix in (("activation", ""), ("gradient", "gradient_")):
                values = next(
                    v for key, v in seen.items() if key[0] == name and key[2] in ("", "0") and key[3] == signal
                )
                axis = 1 if values.ndim == 4 and not name.endswith("layer_scale") else values.ndim - 1
                expected = columns(values, axis)["acv"]
                assert row[prefix + column] == pytest.approx(expected, rel=1e-5), (name, prefix + column)
                checked += 1
    assert checked >= 2 * len(trace.blocks)


RESNET18 = [(f"layer{i}.{j}", f"layer{i}.{j}.bn2", i > 1 and j == 0) for i in (1, 2, 3, 4) for j in (0, 1)]
RESNET50 = [
    (f"layer{i}.{j}", f"layer{i}.{j}.bn3", j == 0)
    for i, n in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True)
    for j in range(n)
]
EFFICIENTNET = [(2, 1), (3, 1), (4, 1), (4, 2), (5, 1), (5, 2), (6, 1), (6, 2), (6, 3)]

VISION = {
    "torchvision resnet18": (lambda: from_torchvision("resnet18"), 32, RESNET18),
    "torchvision resnet50": (lambda: from_torchvision("resnet50"), 32, RESNET50),
    "torchvision efficientnet_b0": (
        lambda: from_torchvision("efficientnet_b0"),
        32,
        [(f"features.{i}.{j}", f"features.{i}.{j}.stochastic_depth", False) for i, j in EFFICIENTNET],
    ),
    "torchvision convnext_tiny": (
        lambda: from_torchvision("convnext_tiny"),
        32,
        [
            (f"features.{i}.{j}", f"features.{i}.{j}.stochastic_depth", False)
            for i, n in zip((1, 3, 5, 7), (3, 3, 9, 3), strict=True)
            for j in range(n)
        ],
    ),
    "torchvision vit": (
        lambda: (
            lambda: foreign.torchvision().models.VisionTransformer(
                image_size=32, patch_size=16, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
            )
        ),
        32,
        [
            (f"encoder.layers.encoder_layer_{i}", f"encoder.layers.encoder_layer_{i}.{end}", False)
            for i in range(3)
            for end in ("self_attention", "mlp.3")
        ],
    ),
    "timm efficientnet_b0": (
        lambda: from_timm("efficientnet_b0"),
        32,
        [(f"blocks.{i - 1}.{j}", f"blocks.{i - 1}.{j}.bn3.drop", False) for i, j in EFFICIENTNET],
    ),
    "timm resnetv2_50": (
        lambda: from_timm("resnetv2_50"),
        32,
        [
            (f"stages.{i}.blocks.{j}", f"stages.{i}.blocks.{j}.conv3", j == 0)
            for i, n in enumerate((3, 4, 6, 3))
            for j in range(n)
        ],
    ),
    "timm nf_resnet50": (
        lambda: from_timm("nf_resnet50"),
        32,
        [(f"stages.{i}.{j}", f"stages.{i}.{j}.conv3", j == 0) for i, n in enumerate((3, 4, 6, 3)) for j in range(n)],
    ),
    "timm vit_tiny_patch16_224": (
        lambda: from_timm("vit_tiny_patch16_224", img_size=32, depth=3),
        32,
        [(f"blocks.{i}", f"blocks.{i}.{end}", False) for i in range(3) for end in ("attn.proj", "mlp.fc2")],
    ),
}


@pytest.mark.parametrize(("which", "size", "wanted"), VISION.values(), ids=VISION.keys())
def test_vision_networks(which, size, wanted):
    build = which()
    traced, batch = make(build), x(2, 3, size, size)
    seeded()
    trace = spp.trace(traced, batch, loss=square, signals=["activation", "gradient"])
    assert blocks_of(trace) == wanted
    assert_branches(trace, build, batch)
    assert set(trace.unmeasured["reason"]) <= {
        "never called in this pass; its parent may use its parameters or call its forward directly",
        *(r for r in trace.unmeasured["reason"] if r.startswith("no gradient arrived")),
    }
    skips = trace.frame.query("role == 'residual_skip' and signal == 'activation'")
    assert (
        len(skips) and trace.blocks.query("merge == 0")["skip"].notna().all()
    )  # a later skip may be the sum before it


def test_the_full_vit_b_16_has_its_24_merges():
    build = from_torchvision("vit_b_16", image_size=32)
    trace = spp.trace(build(), x(1, 3, 32, 32), signals=["activation"], loss=square)
    assert trace.blocks["block"].tolist() == [f"encoder.layers.encoder_layer_{i}" for i in range(12) for _ in range(2)]


def test_a_transformers_gpt2_from_its_config():
    build = gpt2()
    tokens = torch.arange(12).reshape(2, 6)
    trace = examine(
        build,
        lambda: {"input_ids": tokens, "labels": tokens},
        loss=lambda output, target: output.loss,
        channel_axis=lambda module, tensor: tensor.dim() - 1,
        interrupted=False,
        rows=False,
    )
    assert blocks_of(trace) == [
        (f"transformer.h.{i}", f"transformer.h.{i}.{end}", False)
        for i in range(2)
        for end in ("attn.resid_dropout", "mlp.dropout")
    ]
    assert spp.trace(build(), {"input_ids": tokens, "labels": tokens}).run["loss"] == "model"
    assert "lm_head" in set(trace.frame.query("signal == 'gradient'")["name"])
    tied = trace.modules.set_index("name").loc["lm_head", "tied"]
    assert tied == "weight=transformer.wte.weight"


def test_a_transformers_vit_from_its_config():
    transformers = foreign.transformers()
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    trace = examine(
        lambda: transformers.ViTForImageClassification(config),
        lambda: {"pixel_values": x(2, 3, 32, 32)},
        loss=lambda output, target: output.logits.square().mean(),
        rows=False,
        interrupted=False,
    )
    assert len(trace.blocks) == 4 and trace.blocks["block"].nunique() == 2 and not trace.blocks["transition"].any()


def test_rows_of_a_torchvision_resnet_equal_the_recomputation():
    examine(from_torchvision("resnet18"), lambda: x(4, 3, 64, 64), interrupted=False)


def test_rows_of_a_timm_convolutional_network_equal_the_recomputation():
    examine(from_timm("test_efficientnet"), lambda: x(2, 3, 32, 32), interrupted=False)


def test_two_merges_a_block_in_a_plain_transformer_layer():
    def build() -> nn.Module:
        return nn.Sequential(
            *[nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=n) for n in (True, False)]
        )

    model = make(build)
    seeded()
    trace = spp.trace(model, x(3, 4, 8), loss=square)
    assert blocks_of(trace) == [(str(i), f"{i}.dropout{k}", False) for i in (0, 1) for k in (1, 2)]
    assert_branches(trace, build, x(3, 4, 8))

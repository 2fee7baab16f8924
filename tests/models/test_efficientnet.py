import pytest
import torch

from spp import models
from spp.data import gaussian
from spp.nn import DyT, SqueezeExcite
from spp.nn.residual import residual_blocks

CHANNELS = {
    0: [32, 16, 24, 40, 80, 112, 192, 320, 1280],
    1: [32, 16, 24, 40, 80, 112, 192, 320, 1280],
    2: [32, 16, 24, 48, 88, 120, 208, 352, 1408],
    3: [40, 24, 32, 48, 96, 136, 232, 384, 1536],
    4: [48, 24, 32, 56, 112, 160, 272, 448, 1792],
    5: [48, 24, 40, 64, 128, 176, 304, 512, 2048],
    6: [56, 32, 40, 72, 144, 200, 344, 576, 2304],
    7: [64, 32, 48, 80, 160, 224, 384, 640, 2560],
}
BLOCKS = {0: 16, 1: 23, 2: 23, 3: 26, 4: 32, 5: 39, 6: 45, 7: 55}
SIDES = {0: 224, 1: 240, 2: 260, 3: 300, 4: 380, 5: 456, 6: 528, 7: 600}
DROPOUTS = {0: 0.2, 1: 0.2, 2: 0.3, 3: 0.3, 4: 0.4, 5: 0.4, 6: 0.5, 7: 0.5}


def meta(number):
    with torch.device("meta"):
        return models.build(f"effnet_b{number}")


@pytest.mark.parametrize("number", range(8))
def test_scaling(number):
    model = meta(number)
    stages = [model.get_submodule(f"stage{stage}") for stage in range(1, 8)]
    found = [model.stem.conv.out_channels, *(stage[-1].project.out_channels for stage in stages)]
    assert [*found, model.final.conv.out_channels] == CHANNELS[number]
    assert sum(len(stage) for stage in stages) == BLOCKS[number]
    assert model.config.input_shape == (3, SIDES[number], SIDES[number])
    assert model.head.dropout.p == DROPOUTS[number]


def test_b0_has_49_batch_norms_with_its_own_eps_and_momentum():
    norms = [module for module in meta(0).modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 49
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


def test_squeeze_excite_is_a_quarter_of_the_channels_that_enter_the_block():
    gates = [module for module in meta(0).modules() if isinstance(module, SqueezeExcite)]
    inputs = [32, 16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192]
    assert [gate.reduce.out_channels for gate in gates] == [channels // 4 for channels in inputs]
    assert gates[3].reduce.in_channels == 24 * 6


def test_drop_path_grows_linearly_with_the_block():
    model = meta(0)
    blocks = [block for stage in range(1, 8) for block in model.get_submodule(f"stage{stage}")]
    rates = {index: block.drop_rate for index, block in enumerate(blocks) if block.merges}
    assert rates == {index: pytest.approx(0.2 * index / 16) for index in (2, 4, 6, 7, 9, 10, 12, 13, 14)}


def test_a_block_adds_its_input_to_the_projected_branch():
    torch.manual_seed(0)
    model = models.build("effnet_b0").eval().double()
    block = model.stage2[1]
    x = torch.randn(2, 24, 9, 9, dtype=torch.float64)
    silu = torch.nn.functional.silu
    branch = silu(block.expand_norm(block.expand(x)))
    branch = silu(block.depthwise_norm(block.depthwise(branch)))
    branch = block.project_norm(block.project(block.se(branch)))
    torch.testing.assert_close(block(x), x + branch)
    first = model.stage2[0]
    assert not first.merges
    assert first(torch.randn(2, 16, 9, 9, dtype=torch.float64)).shape == (2, 24, 5, 5)


def test_stage_one_does_not_expand_and_names_read_well():
    names = [name for name, module in meta(0).named_modules() if not list(module.children())]
    assert names[:6] == [
        *("stem.conv", "stem.norm", "stem.act"),
        *("stage1.0.depthwise", "stage1.0.depthwise_norm", "stage1.0.depthwise_act"),
    ]
    assert names[-7:] == [
        *("final.conv", "final.norm", "final.act", "head.pool", "head.flatten", "head.dropout", "head.fc"),
    ]


def test_parts_can_be_left_out():
    with torch.device("meta"):
        model = models.build("effnet_b0", se_ratio=0, dropout=0, drop_path=0)
    assert not any(isinstance(module, SqueezeExcite | torch.nn.Dropout) for module in model.modules())
    assert {block.drop_rate for block in residual_blocks(model).values()} == {0}


def last_variance(norm, init):
    torch.manual_seed(0)
    model = models.build("effnet_b0", norm=norm, init=init, num_classes=100)
    found = []
    model.final.register_forward_hook(lambda module, inputs, output: found.append(output.double().var().item()))
    with torch.no_grad():
        model(gaussian(4, (3, 64, 64)))
    return found[0]


def test_without_a_norm_the_signal_collapses_and_with_one_it_does_not():
    """The thesis' init, which forgets groups, starves the network far beyond what squeeze-and-excitation does alone."""
    assert last_variance("none", "he_groups_blind") < 1e-24
    assert 1e-13 < last_variance("none", "efficientnet") < 1e-7
    assert last_variance("batch", "efficientnet") > 0.1


class TestArmsOfTheThesis:
    def build(self, arm, **changes):
        torch.manual_seed(0)
        return models.build(f"effnet_b0_{arm}", input_shape=(3, 32, 32), num_classes=100, **changes)

    def test_sn_and_snmp(self):
        sn, mp = self.build("sn"), self.build("snmp")
        for model in (sn, mp):
            assert isinstance(model.stem.act, torch.nn.SELU)
            weight = model.stage6[1].depthwise.weight
            assert weight.std().item() == pytest.approx(1 / 5, rel=0.02)  # LeCun, groups counted
        assert sn.head.fc.weight.std().item() == pytest.approx(1280**-0.5, rel=0.02)
        assert mp.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
        blocks = residual_blocks(mp).values()
        assert {block.rule for block in blocks} == {"mp"}
        assert {block.se.scale for block in blocks} == {"magnitude"}
        learned = residual_blocks(self.build("snmp_learned")).values()
        assert [block.share.item() for block in learned] == 9 * [0.5]

    def test_variance_decays_through_plain_gates_and_hardly_through_doubled_ones(self):
        """The thesis sees the variance fall in squeeze-and-excitation blocks: the gate of 1/2 quarters it in each."""
        found = {}
        for se in ("plain", "doubled"):
            model = self.build("sn", se=se, drop_path=0.0, dropout=0.0)
            model.final.conv.register_forward_pre_hook(
                lambda _m, inputs, se=se: found.__setitem__(se, inputs[0].double().var().item())
            )
            with torch.no_grad():
                model(gaussian(32, (3, 32, 32)))
        assert found["plain"] < 1e-3
        assert found["doubled"] > 100 * found["plain"]

    def test_dyt(self):
        dyt = [m for m in self.build("dyt").modules() if isinstance(m, DyT)]
        assert [m.alpha.item() for m in dyt] == 49 * [0.5]
        sn = [m for m in self.build("dyt_sn").modules() if isinstance(m, DyT)]
        assert [m.alpha.item() for m in sn] == 49 * [1.0]

    def test_ws(self):
        rules = {
            arm: [getattr(m, "rule", None) for m in self.build(arm).modules() if isinstance(m, torch.nn.Conv2d)]
            for arm in ("ws", "ws_sn", "ws_se_sn")
        }
        assert set(rules["ws"]) == set(rules["ws_sn"]) == {"ws"}
        assert rules["ws_se_sn"].count("ws") == 32
        assert len(rules["ws"]) == 81

    def test_alpha_dropout(self):
        assert isinstance(self.build("sn", alpha_dropout=True).head.dropout, torch.nn.AlphaDropout)
        assert isinstance(self.build("sn").head.dropout, torch.nn.Dropout)

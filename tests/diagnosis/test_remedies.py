"""Remedies: what a finding says to type heals it, in the tongue that the user speaks; the table is open."""

import re

import pytest
import torch
from torch import nn

import spp
from spp.diagnosis import REMEDIES, Finding, Remedy, diagnose, remedy
from spp.errors import InputError, UnknownNameError

BATCH = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))


def plain(act=nn.ReLU, layers=12, init="he"):
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (nn.Linear(32, 32), act())]
    return spp.nn.initialize_(nn.Sequential(*parts, nn.Linear(32, 10)), init)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.act, self.outer = nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)

    def forward(self, x):
        return x + self.outer(self.act(self.inner(x)))


def scaled(net, layer, factor, bias=None):
    with torch.no_grad():
        net.get_submodule(layer).weight.mul_(factor)
        if bias is not None:
            net.get_submodule(layer).bias.add_(bias)
    return net


def unscaled():
    torch.manual_seed(0)
    return spp.nn.initialize_(nn.Sequential(*[Block() for _ in range(16)], nn.Linear(32, 10)), "he")


SICK = {
    "small weights": (lambda: plain(init="small_normal"), "vanishing"),
    "a wrong gain for tanh": (lambda: plain(nn.Tanh, 30, "small_normal"), "vanishing"),
    "one layer too large": (lambda: scaled(plain(), "10", 20), "cliff"),
    "a zero weight": (lambda: scaled(plain(), "10", 0.0), "dead_layer"),
    "a large bias": (lambda: scaled(plain(nn.Tanh), "10", 1, bias=50.0), "dead_layer"),
    "saturated": (lambda: scaled(plain(nn.Tanh), "0", 30), "saturation"),
    "unscaled branches": (unscaled, "residual_growth"),
}


@pytest.mark.parametrize("name", SICK)
def test_what_is_printed_can_be_typed_and_heals(name):
    make, disease = SICK[name]
    model = make()
    run = spp.trace(model, BATCH)
    found = {finding.rule: finding for finding in run.findings}
    assert disease in found, str(run.findings)
    (typed,) = re.findall("`(.*)`", found[disease].remedy)
    exec(typed, {"spp": spp, "torch": torch, "model": model, "batch": BATCH, "run": run})
    healed = spp.trace(model, BATCH).findings
    assert not healed.worst("warning"), f"{typed}: {healed}"


def test_the_words_are_those_of_the_shell_where_it_was_typed_and_they_work():
    one, typed = remedy("init", "he", why="Initialize it"), {"argv": ["analyze"], "takes": ["init"]}
    assert one.words() == one.words({"takes": ["init"]}) == "Initialize it: `spp.nn.initialize_(model, 'he')`."
    assert one.words(typed) == "Initialize it: `--init he`."
    labelled = "Initialize it: in Python `spp.nn.initialize_(model, 'he')`."
    assert one.words({"argv": ["analyze"], "takes": ["norm"]}) == labelled, "no option of this network"
    assert "in Python" in remedy("init", "he", where="0").words(typed), "an option would do it to every layer"


def test_remedies_of_a_finding_come_with_it_and_the_first_is_its_words():
    first = next(iter(spp.trace(plain(init="small_normal"), BATCH).findings))
    assert [one.kind for one in first.remedies] == ["init", "norm", "calibrate"]
    assert first.remedy == first.remedies[0].words() == "`spp.nn.initialize_(model, 'he')`."


def test_a_rule_of_words_alone_and_a_remedy_from_outside():
    def shorten(model, one, case):
        return model[: one.value]

    REMEDIES.register("shorten", Remedy(kind="shorten", python="model = model[:{value}]", change=shorten))
    try:
        check = _long_rule()
        words, table = diagnose(spp.trace(plain(), BATCH), rules=[check])
        assert words.remedy == "Be brief" and [one.kind for one in words.remedies] == ["told"]
        assert table.remedy == "Too long: `model = model[:4]`."
        assert len(table.remedies[0].change(plain(), table.remedies[0], None)) == 4
    finally:
        REMEDIES.unregister("shorten")
    with pytest.raises(UnknownNameError, match="remedy"):
        remedy("shorten")


def _long_rule():
    def long(view, at):
        yield Finding(severity="warning", name="", message="It is long.", remedy="Be brief")
        yield Finding(severity="warning", name="", message="Really.", remedies=(remedy("shorten", 4, why="Too long"),))

    return long


def test_branches_and_gates_that_are_not_there():
    model = plain()
    run = spp.trace(model, BATCH)
    with pytest.raises(InputError, match="branches that are scaled end in a weighted layer; got none in the run"):
        spp.diagnosis.scale_branches_(model, run)
    with pytest.raises(InputError, match="squeeze-and-excitation blocks; got none in the run"):
        spp.diagnosis.double_gates_(model, run)


def test_doubled_gates_let_four_times_as_much_through():
    torch.manual_seed(0)
    model = spp.models.build("effnet_b0", norm="batch", width_multiplier=0.25, input_shape=(3, 32, 32))
    x = torch.randn(4, 3, 32, 32)
    run = spp.trace(model, x)
    before = run.frame.query("signal == 'activation' and name == 'stage1.0.se'").mean_square.item()
    spp.diagnosis.double_gates_(model, run)
    after = spp.trace(model, x).frame.query("signal == 'activation' and name == 'stage1.0.se'").mean_square.item()
    assert after == pytest.approx(4 * before, rel=1e-4)

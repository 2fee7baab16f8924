"""Rules where the bench has no patient: what is healthy, what is missing, what theory predicts, and odd traces."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import spp
from spp.diagnosis import Severity, View, find
from spp.diagnosis.attenuation import attenuation, forward
from spp.diagnosis.view import Kind
from tests.bench_sick.parts import convolutional, encoder, images, plain, vectors


def view_of(trace: spp.Trace) -> View:
    return View(trace)


@pytest.fixture(scope="module")
def effnet():
    torch.manual_seed(0)
    model = spp.models.build("effnet_b0", norm="none", width_multiplier=0.5)
    return spp.trace(model, spp.data.gaussian(4, (3, 64, 64), seed=0))


def test_a_gate_is_one_step_and_its_insides_are_none(effnet):
    view = view_of(effnet)
    assert len(view.gates) == 16
    steps = {step.name: step for step in view.steps}
    assert steps["stage2.0.se"].kind is Kind.GATE
    assert 10 ** steps["stage2.0.se"].decades == pytest.approx(0.25, rel=0.05)
    assert not [name for name in steps if ".se." in name]


def test_gains_are_those_of_the_frame(effnet):
    rows = effnet.frame[effnet.frame.signal == "activation"].set_index("name").mean_square
    step = next(s for s in view_of(effnet).steps if s.name == "stage2.0.depthwise")
    assert [key.name for key in step.fed] == ["stage2.0.expand_act"]
    assert 10**step.decades == pytest.approx(rows["stage2.0.depthwise"] / rows["stage2.0.expand_act"], rel=1e-12)


def test_an_account_adds_up_to_what_was_lost(effnet):
    view = view_of(effnet)
    leg = forward(view).down
    assert leg is not None
    shares = attenuation(view, leg)
    assert sum(share.decades for share in shares) == pytest.approx(leg.decades, abs=0.2)
    by_kind = {share.kind: share for share in shares}
    assert by_kind["gate"].steps == 7
    assert by_kind["gate"].decades == pytest.approx(7 * np.log10(0.25), abs=0.1)
    assert by_kind["depthwise convolution"].decades > 0  # this init counts groups


def test_groups_ignored_are_the_largest_taker():
    torch.manual_seed(0)
    model = spp.models.build("effnet_b0", norm="none", init="he_groups_blind", width_multiplier=0.5)
    trace = spp.trace(model, spp.data.gaussian(4, (3, 64, 64), seed=0))
    view = view_of(trace)
    leg = forward(view).down
    assert leg is not None
    assert attenuation(view, leg)[0].kind == "depthwise convolution"
    assert list(trace.findings.rule[:3]) == ["groups_init", "se_gates", "vanishing"]
    assert set(trace.findings.severity[:3]) == {"error"}
    assert "`spp.nn.initialize_(model, 'he')`" in trace.findings.remedy[0]


def test_what_a_norm_makes_good_is_information():
    torch.manual_seed(0)
    model = spp.models.build("effnet_b0", init="he_groups_blind", width_multiplier=0.5)
    found = find(spp.trace(model, spp.data.gaussian(4, (3, 64, 64), seed=0)))
    assert {f.rule: f.severity for f in found if f.rule in ("groups_init", "se_gates")} == {
        "groups_init": Severity.NOTE,
        "se_gates": Severity.NOTE,
    }


def test_batch_norm_before_relu_enlarges_gradients_as_theory_says():
    """pi/(pi-1) = 1.467 in the squared norm: with He weights the norm alone gives it, as one over the variance it takes."""
    torch.manual_seed(0)
    model = spp.models.build("ffn", norm="batch", init="he", depth=8, width=256, input_shape=(3, 8, 8))
    findings = spp.trace(model, spp.data.gaussian(256, (3, 8, 8), seed=0)).findings
    (found,) = [fact for fact in findings.notes if fact.rule == "norm_gradient"]
    assert found.severity is Severity.NOTE and "norm_gradient" not in set(findings.rule)
    inner = [float(value) for value in re.findall(r"layer[4-7]\.norm \(([\d.]+)\)", found.evidence)]
    assert inner == pytest.approx([np.pi / (np.pi - 1)] * 4, rel=0.05)


def test_few_values_per_channel_are_a_warning():
    torch.manual_seed(0)
    found = find(spp.trace(plain(depth=4, norm=True), vectors(4)))
    assert ("batch_of_one", "norm0", Severity.WARNING) in {(f.rule, f.name, f.severity) for f in found}
    assert not [f for f in find(spp.trace(plain(depth=4, norm=True).eval(), vectors(4))) if f.rule == "batch_of_one"]


def test_a_watch_knows_that_its_batches_are_of_one():
    torch.manual_seed(0)
    net = convolutional(norm=True)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    with spp.watch(net, optimizer, every=1) as watch:
        net(images(1)).sum().backward()
        optimizer.step()
    assert ("batch_of_one", "norm0", Severity.ERROR) in {(f.rule, f.name, f.severity) for f in find(watch)}


def test_departures_from_a_prediction_are_named_where_they_begin():
    torch.manual_seed(0)
    trace = spp.trace(plain(), vectors())
    frame = trace.frame.copy()
    frame["acsm_predicted"], frame["acv_predicted"] = frame.acsm, frame.acv
    later = frame.depth >= frame.loc[frame.name == "lin7", "depth"].iloc[0]
    frame.loc[later, "acv_predicted"] *= 10
    frame.loc[later, "acsm_predicted"] *= 10
    predicted = spp.Trace(frame, trace.blocks, trace.modules, trace.unmeasured, trace.run)
    found = [f for f in find(predicted) if f.rule == "off_theory"]
    assert [(f.name, f.severity) for f in found] == [("lin7", Severity.WARNING)]
    assert not [f for f in find(trace) if f.rule == "off_theory"]


@pytest.mark.parametrize("signals", [["activation"], ["weight"], ["gradient"], ["weight", "weight_gradient"]])
def test_a_trace_of_few_signals_is_diagnosed_as_far_as_it_goes(signals):
    torch.manual_seed(0)
    for net, batch in ((plain(), vectors()), (convolutional(norm=True), images()), (encoder(2), torch.randn(4, 5, 64))):
        assert not [f for f in find(spp.trace(net, batch, signals=signals)) if f.severity is Severity.ERROR]


def test_a_part_of_the_modules_is_enough():
    torch.manual_seed(0)
    for include in ("lin*", ["act3"], "head"):
        assert not [f for f in find(spp.trace(plain(), vectors(), include=include)) if f.severity is not Severity.NOTE]


class Odd(nn.Module):
    """Recurrence, attention, several outputs, an embedding, a part of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(10, 8), nn.LSTM(8, 8, batch_first=True)
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        x, (hidden, _) = self.rnn(self.embed(x))
        y, _ = self.attention(x, x, x)
        return {"out": self.scale * self.norm(x + y), "hidden": hidden}


def test_odd_networks_are_no_trouble():
    torch.manual_seed(0)
    networks = (
        (Odd(), torch.randint(10, (4, 6))),
        (nn.Identity(), torch.randn(3, 4)),
        (nn.Sequential(nn.Flatten(), nn.Softmax(-1)), torch.randn(3, 2, 2)),
        (nn.Linear(4, 1), torch.randn(1, 4)),
    )
    for model, batch in networks:
        found = find(spp.trace(model, batch))
        assert not [f for f in found if f.severity is Severity.ERROR], found


def test_several_batches_are_diagnosed_like_one():
    torch.manual_seed(0)
    net, batch = plain(depth=30, init="default"), vectors()
    one, two = find(spp.trace(net, batch)), find(spp.trace(net, (half for half in batch.split(32))))
    assert [f.rule for f in one] == [f.rule for f in two]
    assert one[0].rule == "vanishing"

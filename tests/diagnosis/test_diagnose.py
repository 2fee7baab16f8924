"""The engine: what a diagnosis needs, its order, its thresholds, rules of one's own, and the surface on a trace."""

import pandas as pd
import pytest
import torch
from torch import nn

import spp
from spp.diagnosis import RULES, Finding, Severity, find, rule
from spp.diagnosis.findings import arrange, build_findings
from spp.errors import InputError, UnknownNameError
from spp.frame.schema import FINDING_COLUMNS, check


def dying(depth: int = 12, gain: float = 0.1) -> nn.Module:
    """A plain ReLU network every weight of which is too small."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(64, 64, bias=False)
        nn.init.normal_(linear.weight, std=(2 * gain / 64) ** 0.5)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 4))


@pytest.fixture(scope="module")
def trace():
    return spp.trace(dying(), spp.data.gaussian(64, (64,), seed=0))


def test_findings_have_the_columns_of_the_schema(trace):
    check(trace.findings, FINDING_COLUMNS)
    check(build_findings([]), FINDING_COLUMNS)


def test_a_dying_network_is_one_finding_of_the_whole(trace):
    bad = trace.findings[trace.findings.severity == "error"]
    assert list(bad.rule) == ["vanishing"]
    assert bad.name.iloc[0] == ""
    assert bad.value.iloc[0] == pytest.approx(-1, abs=0.1)  # a tenth per layer
    assert bad.remedy.iloc[0] == "`spp.nn.initialize_(model, 'he')`."


def test_findings_are_worked_out_once_and_a_plain_diagnosis_says_the_same(trace):
    assert trace.findings is trace.findings
    pd.testing.assert_frame_equal(trace.findings, spp.diagnose(trace))


def test_a_saved_run_is_enough(trace, tmp_path):
    trace.save(tmp_path / "run")
    pd.testing.assert_frame_equal(spp.load(tmp_path / "run").findings, trace.findings)


def test_errors_come_first_and_causes_before_what_follows():
    one = Finding(severity=Severity.NOTE, name="a", message="", rule="first")
    two = Finding(severity=Severity.ERROR, name="b", message="", depth=7, rule="second", tags=("cause",))
    three = Finding(severity=Severity.ERROR, name="c", message="", depth=8, rule="third", follows=("cause",))
    four = Finding(severity=Severity.ERROR, name="d", message="", depth=1, rule="fourth")
    assert arrange([one, two, three, four]) == [two, four, one]


@pytest.mark.parametrize(("depth", "told"), [(3, ["early", "cause"]), (7, ["cause"]), (9, ["cause"])])
def test_a_cause_hides_only_what_begins_at_it_or_behind_it(depth, told):
    cause = Finding(severity=Severity.ERROR, name="b", message="", depth=7, rule="cause", tags=("layer",))
    early = Finding(severity=Severity.ERROR, name="", message="", depth=depth, rule="early", follows=("layer",))
    assert {f.rule for f in arrange([cause, early])} == set(told)


def test_what_begins_earlier_hides_what_an_earlier_rule_found_behind_it():
    dead = Finding(
        severity=Severity.ERROR, name="head", message="", depth=9, rule="dead", tags=("x",), follows=("fall",)
    )
    fall = Finding(severity=Severity.ERROR, name="", message="", depth=1, rule="fall", tags=("fall",), follows=("x",))
    assert [f.rule for f in arrange([dead, fall])] == ["fall"]


def test_of_two_rules_about_one_leaf_the_cause_stays_unless_the_other_is_worse():
    cause = Finding(severity=Severity.WARNING, name="a", message="", rule="cause")
    same = Finding(severity=Severity.WARNING, name="a", message="", rule="same")
    worse = Finding(severity=Severity.ERROR, name="a", message="", rule="worse")
    assert arrange([cause, same]) == [cause]
    assert arrange([cause, worse]) == [worse, cause]


def test_rules_are_asked_by_name(trace):
    assert set(spp.diagnose(trace, rules=["exploding", "dead_layer"]).rule) == set()
    assert list(spp.diagnose(trace, rules="vanishing").rule) == ["vanishing"]
    with pytest.raises(
        UnknownNameError, match=r"unknown rule 'vanish'. Did you mean 'vanishing', .* Known: one_unit_softmax, "
    ):
        spp.diagnose(trace, rules=["vanish"])
    with pytest.raises(InputError, match=r"a rule is a name or a function \(view, at\) -> findings; got 3"):
        spp.diagnose(trace, rules=[3])


def test_thresholds_are_tunable(trace):
    lenient = {"vanishing.warning": 99, "vanishing.error": 99}
    assert "vanishing" not in set(spp.diagnose(trace, thresholds=lenient).rule)
    with pytest.raises(UnknownNameError, match=r"unknown threshold 'vanishing.speed'"):
        spp.diagnose(trace, thresholds={"vanishing.speed": 1})
    with pytest.raises(InputError, match=r"thresholds\['cliff.decades'\]: a threshold is a number; got 'two'"):
        spp.diagnose(trace, thresholds={"cliff.decades": "two"})


def test_a_rule_of_ones_own(trace):
    def small_head(view, at):
        row = next(row for key, row in view.leaves.items() if key.name == view.readout)
        yield Finding(severity=Severity.WARNING, name=view.readout, message=f"rms {row.rms:.2g}")

    (found,) = find(trace, rules=[small_head])
    assert (found.rule, found.name) == ("small_head", "24")
    rule("small_head", "the readout is small")(small_head)
    try:
        assert "small_head" in set(spp.diagnose(trace).rule)
        with pytest.raises(InputError, match=r"names of the table of rules are unique; got 'small_head' once more"):
            rule("small_head", "again")(small_head)
    finally:
        RULES.unregister("small_head")


def test_a_rule_that_yields_something_else_is_named(trace):
    def broken(view, at):
        return ["oh no"]

    with pytest.raises(InputError, match=r"rule 'broken': a rule yields findings; got str"):
        find(trace, rules=[broken])


def test_a_precision_that_is_asked_for_is_a_warning(trace):
    assert "number_format" not in set(trace.findings.rule)
    asked = spp.diagnose(trace, precision="fp8-e4m3")
    lost = asked[asked.rule == "number_format"]
    assert set(lost.severity) == {"warning"}
    assert "fp8-e4m3 would flush" in lost.message.iloc[0]
    with pytest.raises(UnknownNameError, match=r"unknown number format 'float17'"):
        spp.diagnose(trace, precision="float17")


def test_counted_powers_of_two_give_exact_shares():
    """Two thirds of the values of one tensor lies below float16's smallest number, which its rms does not tell."""
    batch = torch.rand(8, 6) + 1
    batch[:, :4] *= 1e-9
    trace = spp.trace(nn.Sequential(nn.Identity(), nn.Linear(6, 2)), batch, exponents=True)
    lost = [f for f in find(trace, precision="float16") if f.statistic == "flushed" and f.signal == "activation"]
    assert [f.name for f in lost] == ["0"]
    assert lost[0].value == pytest.approx(2 / 3)
    blind = spp.Trace(trace.frame, trace.blocks, trace.modules, trace.unmeasured, trace.run)
    assert not [f for f in find(blind, precision="float16") if f.statistic == "flushed" and f.name == "0"]


def test_every_threshold_has_a_reason_and_every_rule_a_source():
    for row in RULES.values():
        assert row.source and row.description
        assert all(len(limit.reason) > 10 for limit in row.thresholds.values())


def test_multiplying_the_signal_changes_no_finding_but_those_of_number_formats():
    """Scale-free: the same network on an input a thousand times larger."""
    network, batch = dying(), spp.data.gaussian(64, (64,), seed=0)
    scaled = spp.diagnose(spp.trace(network, batch * 1000))
    plain = spp.diagnose(spp.trace(network, batch))
    a, b = (found[found.rule != "number_format"] for found in (scaled, plain))
    assert list(a.rule) == list(b.rule) == ["vanishing"]
    assert a.value.to_numpy() == pytest.approx(b.value.to_numpy(), rel=1e-3)


def test_several_steps_are_diagnosed_at_the_last(trace):
    later = trace.frame.assign(step=1)
    early = trace.frame.assign(acsm=0.0, acv=1.0, mean_square=1.0, rms=1.0)
    both = spp.Trace(
        pd.concat([early, later], ignore_index=True), trace.blocks, trace.modules, trace.unmeasured, trace.run
    )
    # what has changed since the first step is told by the rules over time
    rules = list(trace.findings.rule)
    assert list(spp.diagnose(both, rules=rules).rule) == rules

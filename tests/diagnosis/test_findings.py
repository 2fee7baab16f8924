"""The table of findings as text, as HTML, as records and as a DataFrame; causes by tag; a rule from outside the package."""

import pickle

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import spp
from spp.diagnosis import EVERYTHING, RULES, Finding, Findings, Severity, find, notes, rule
from spp.diagnosis.registry import FACT
from spp_cli.main import cli


def dying(depth: int = 12) -> spp.Trace:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(32, 32, bias=False)
        nn.init.normal_(linear.weight, std=(0.2 / 32) ** 0.5)
        layers += [linear, nn.ReLU()]
    return spp.trace(nn.Sequential(*layers, nn.Linear(32, 4)), spp.data.gaussian(32, (32,), seed=0))


@pytest.fixture(scope="module")
def trace():
    return dying()


def test_findings_print_as_sentences_and_as_html(trace):
    text, html = str(trace.findings), trace.findings._repr_html_()
    (first, *_) = trace.findings
    assert text.startswith(f"error: vanishing from {first.since} to {first.until}: The signal dies: mean square ")
    assert (first.name, first.depth) == ("", 1) and "-> " in first.message and " per layer over 1" in first.message
    assert f"    Try: {first.remedy}" in text.splitlines()
    assert "<code>vanishing</code>" in html
    assert (str(Findings()), Findings()._repr_html_()) == ("Nothing to report.", "<p>Nothing to report.</p>")


def test_findings_are_records_and_a_table(trace):
    found = trace.findings
    assert [f.rule for f in found] == list(found.rule) == list(found["rule"])
    assert type(found.frame) is type(found[found.severity == "error"]) is type(found.iloc[:1]) is pd.DataFrame
    assert len(found) == len(list(found)) and not found.empty and Findings().empty
    assert found.worst("error") == [f for f in found if f.severity is Severity.ERROR]
    assert found.worst() == list(found)


def test_findings_keep_their_records_in_a_pickle(trace):
    again = pickle.loads(pickle.dumps(trace)).findings
    assert (list(again), again.notes) == (list(trace.findings), trace.findings.notes)
    pd.testing.assert_frame_equal(again, trace.findings)


def test_notes_stand_beside_the_table_and_never_fail_a_run(trace):
    assert list(trace.findings.notes[:3]) == notes(trace.frame)
    assert {note.severity for note in trace.findings.notes} == {Severity.NOTE}
    assert not {note.rule for note in trace.findings.notes} & set(trace.findings["rule"])
    (told,) = spp.diagnose(trace, rules="activation_scale")
    assert told.message.startswith("Activations fall: ")


def test_no_rule_names_another_and_every_cause_is_one_of_some_rule():
    tags = {tag for row in RULES.values() for tag in row.tags} - {FACT, EVERYTHING}
    followed = {tag for row in RULES.values() for tag in row.follows}
    assert tags == followed
    assert not (tags | followed) & set(RULES)


def test_a_rule_from_outside_is_asked_listed_and_a_cause(trace):
    """One file: it registers, is known by name to Python and to the command line, and hides what follows from it."""

    @rule(
        "quiet_layer",
        "a layer that is quieter than ours may be",
        thresholds={"rms": (1e-2, "our sensors end there")},
        source="the data sheet",
        tags=("layer",),
        follows=("dead",),
    )
    def quiet_layer(view, at):
        for step in view.steps:
            if step.row.rms < at.rms:
                yield Finding(severity=Severity.WARNING, name=step.name, depth=step.depth, message="too quiet")
                return

    @rule("outside_cause", "a cause that follows nothing stands before what follows it", source="here", tags=("layer",))
    def outside_cause(view, at):
        yield Finding(severity=Severity.WARNING, name="2", message="it was this one")

    try:
        assert [f.rule for f in spp.diagnose(trace)] == ["outside_cause", "quiet_layer"]
        assert list(spp.diagnose(trace, rules="quiet_layer", thresholds={"quiet_layer.rms": 0})) == []
        listed = CliRunner().invoke(cli, ["list", "rules"])
        assert listed.exit_code == 0
        assert "quiet_layer" in listed.output and "a layer that is quieter than ours may be" in listed.output
    finally:
        RULES.unregister("quiet_layer")
        RULES.unregister("outside_cause")
    assert [f.rule for f in find(trace)] == ["vanishing"]

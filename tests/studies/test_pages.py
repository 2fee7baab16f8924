"""The pages of the studies show what the code says: the claims and criteria of today, and the verdicts of a real run."""

from __future__ import annotations

import json

import pytest

from spp import studies
from spp.studies import Outcome, Setup
from spp.studies.publish import markdown
from tests.scripts import DOCS, script


@pytest.mark.parametrize("name", studies.names())
def test_a_page_has_the_claims_of_the_code(name: str) -> None:
    study, page = studies.find(name), (DOCS / "studies" / f"{name}.md").read_text()
    facts = json.loads((DOCS / "studies" / f"{name}.json").read_text())
    for judged in facts["claims"]:
        assert judged["outcome"] in list(Outcome) and judged["found"].replace("|", "\\|") in page
    current = facts.get("criteria") == study.criteria
    assert current, "run the study again"
    assert facts["cells"] == len(list(study.cells(Setup(**facts["setup"])))), "run the study again"
    told = [(claim["claim"], claim["text"], claim["criterion"]) for claim in facts["claims"]]
    assert told == [(claim.name, claim.text, claim.criterion) for claim in study.claims]
    assert f"Criteria sha256: {study.criteria}." in page
    setup = Setup(**facts["setup"])
    assert all(line in page for line in (*study.arrangement(setup), *study.limits(setup), f"**Size: {setup.size}**"))


def test_every_study_says_what_it_cannot_say_and_what_it_takes() -> None:
    for study in map(studies.find, studies.names()):
        for setup in (Setup(size=size) for size in study.sizes):
            assert len(study.limits(setup)) >= 2 and all(line.endswith(".") for line in study.limits(setup))
            # a study of real images is done in an hour on two cores
            assert setup.size != "real" or sum(cell.cost for cell in study.cells(setup)) <= 7200


def test_the_overview_holds_every_verdict() -> None:
    made = script("make_studies.py")
    assert markdown(made.verdicts()) in (DOCS / "studies.md").read_text()

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
    assert [claim["claim"] for claim in facts["claims"]] == [claim.name for claim in study.claims]
    for claim, judged in zip(study.claims, facts["claims"], strict=True):
        assert (judged["text"], judged["criterion"]) == (claim.text, claim.criterion)
        assert judged["outcome"] in list(Outcome) and judged["found"].replace("|", "\\|") in page
    assert facts["cells"] == len(list(study.cells(Setup(**facts["setup"])))), "run the study again"
    assert all(line in page for line in study.arrangement(Setup(**facts["setup"])))


def test_the_overview_holds_every_verdict() -> None:
    made = script("make_studies.py")
    assert markdown(made.verdicts()) in (DOCS / "studies.md").read_text()

"""The bench of sick and healthy networks, and that ``docs/rules.md`` shows what it gives.

Run as a program, it writes the tables of rules, of the sick and of the healthy into that page.
"""

import re
import sys
from pathlib import Path

import pytest

from benchmarks.sick import FAMILIES
from spp.diagnosis import RULES, Severity
from tests.bench_sick.bench import examine, health, judge, put
from tests.bench_sick.healthy import HEALTHY
from tests.bench_sick.patients import PATIENTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rules.md"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def verdicts():
    return [judge(patient) for patient in PATIENTS]


@pytest.fixture(scope="module")
def others():
    """Of the other families those that are quick."""
    return [judge(patient) for patient in FAMILIES if patient.quick]


@pytest.fixture(scope="module")
def examined():
    """Findings by name of healthy network; those of a library that is not installed are left out."""
    found = {}
    for name, make in HEALTHY.items():
        try:
            found[name] = examine(make)
        except pytest.skip.Exception as reason:
            found[name] = str(reason)
    return found


def rows_of_rules() -> list[str]:
    rows = []
    for name, row in RULES.items():
        limits = "; ".join(f"`{key}` {limit.value:g}: {limit.reason}" for key, limit in row.thresholds.items())
        rows.append(f"| `{name}` | {row.description} | {limits or 'none'} | {row.source} |")
    return rows


def section(name: str) -> list[str]:
    found = re.search(rf"<!-- {name} -->\n\|.*\n\|.*\n((?:\|.*\n)*)", PAGE.read_text())
    assert found is not None
    return found[1].splitlines()


def test_there_are_enough_of_both():
    assert len(PATIENTS) >= 30
    assert len(HEALTHY) >= 20
    assert len({patient.rule for patient in PATIENTS}) >= 18


def test_nine_in_ten_sick_networks_are_told_right(verdicts):
    wrong = [verdict.row for verdict in verdicts if not verdict.right]
    assert len(wrong) <= len(verdicts) / 10, "\n".join(wrong)


def test_most_of_other_families_are_told_right(others):
    assert len({verdict.patient.family for verdict in others}) >= 15
    wrong = [verdict.row for verdict in others if not verdict.right]
    assert len(wrong) <= len(others) / 5, "\n".join(wrong)


def test_a_message_is_one_sentence_of_at_most_thirty_words(verdicts, others):
    long = [verdict.longest for verdict in (*verdicts, *others) if len(verdict.longest.split()) > 30]
    assert not long


def test_no_healthy_network_gets_an_error_and_few_a_warning(examined):
    seen = {name: found for name, found in examined.items() if not isinstance(found, str)}
    errors = [health(name, found) for name, found in seen.items() if any(f.severity is Severity.ERROR for f in found)]
    warned = [health(name, found) for name, found in seen.items() if any(f.severity is Severity.WARNING for f in found)]
    assert not errors
    assert len(warned) <= len(seen) / 5, "\n".join(warned)


def test_the_page_has_every_rule_with_its_thresholds():
    assert section("RULES") == rows_of_rules(), "run `python -m tests.bench_sick.test_bench`"


def test_the_page_shows_what_the_bench_gives(verdicts, examined):
    assert section("SICK") == [verdict.row for verdict in verdicts], "run `python -m tests.bench_sick.test_bench`"
    known = {line.split(" | ")[0]: line for line in section("HEALTHY")}
    for name, found in examined.items():
        if not isinstance(found, str):
            assert known[f"| {name}"] == health(name, found), "run `python -m tests.bench_sick.test_bench`"


def test_libraries_that_are_not_installed_are_said(examined):
    missing = {reason for reason in examined.values() if isinstance(reason, str)}
    if missing:
        pytest.skip("; ".join(sorted(missing)))


def write() -> None:
    """Write the three tables into the page; healthy networks of a library that is missing keep their lines."""
    old = {line.split(" | ")[0]: line for line in section("HEALTHY")}
    healthy = []
    for name, make in HEALTHY.items():
        try:
            healthy.append(health(name, examine(make)))
        except pytest.skip.Exception:
            healthy.append(old[f"| {name}"])
    tables = {"RULES": rows_of_rules(), "SICK": [judge(patient).row for patient in PATIENTS], "HEALTHY": healthy}
    put(PAGE, tables)


if __name__ == "__main__":
    sys.exit(write())

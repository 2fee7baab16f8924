"""A short share of ``benchmarks/fuzz.py``."""

from collections import Counter

import pytest

from benchmarks.fuzz import one_call, one_frame, one_network
from tests.fuzz.networks import network

SEED = 1


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    monkeypatch.setenv("SPP_KERNELS", "auto")


@pytest.mark.filterwarnings("ignore")
def test_random_networks_are_measured_as_plain_hooks_hear_them():
    counts: Counter[str] = Counter()
    for number in range(8):
        one_network(SEED, number, counts)
    assert counts["rows compared"] > 200


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [39, 1345, 1272, 565])
def test_networks_that_were_measured_wrongly(number):
    one_network(0, number, Counter())


@pytest.mark.filterwarnings("ignore")
def test_random_calls_end_in_a_result_or_in_one_line():
    for number in range(6):
        one_call(SEED, number, Counter())


@pytest.mark.filterwarnings("ignore")
def test_random_frames_are_drawn_or_refused_in_one_line():
    for number in (1, 2):
        one_frame(0, number, Counter())


def test_a_number_is_one_network():
    a, b = network(SEED, 5).build(), network(SEED, 5).build()
    assert str(a) == str(b)
    assert all((x == y).all() for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))

"""Fixtures for every test: two threads at most, a known seed; and Ctrl-C is heard."""

import signal

import pytest
import torch


@pytest.fixture(autouse=True)
def _calm() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)


def pytest_configure() -> None:
    """Hear Ctrl-C: what is started in the background ignores it, and hands that on to whatever it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

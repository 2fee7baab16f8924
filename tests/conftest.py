"""Fixtures for every test: two threads at most, a known seed."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _calm() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)

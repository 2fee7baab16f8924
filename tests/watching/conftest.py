"""One thread: the networks are tiny, and on a busy machine two threads wait for each other far longer than they work."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_calm: None) -> None:
    torch.set_num_threads(1)

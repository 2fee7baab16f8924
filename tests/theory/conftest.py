import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_calm):
    """What these tests compute is too small for two threads: they would wait for each other."""
    torch.set_num_threads(1)

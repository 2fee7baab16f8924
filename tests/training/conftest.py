import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_calm: None) -> None:
    """Networks this small only wait for a second thread; and bits depend on how many there are."""
    torch.set_num_threads(1)

"""For every test: one thread a core, two at most; a known seed; signals are heard; and long files come first."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.processes import Forked

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, min(2, (os.cpu_count() or 1) // WORKERS))
"""Workers share the cores: threads that wait for one that another worker holds take several times as long."""


settings.register_profile("suite", max_examples=50)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _calm() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """Run code in a process of its own."""
    forked = Forked(tmp_path_factory.mktemp("processes"))
    yield forked
    forked.close()


def pytest_configure(config: pytest.Config) -> None:
    """Hear Ctrl-C and SIGHUP: what is started in the background ignores them, and hands that on to whatever it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None):
        # for the processes that tests start; not where workers are started from, which would hand on its own number
        os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first: one that comes last keeps one worker busy while the others wait for it."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)

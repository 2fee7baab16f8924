"""``spp info``: versions and the kernels in use, with the reason."""

import torch

import spp as library
from spp.stats import backends
from spp.stats.backends import cuda


def test_it_says_which_kernels_are_in_use_and_why(spp, monkeypatch):
    found = spp("info", "--json").json
    assert found["spp"] == library.__version__ and found["torch"] == torch.__version__
    status = backends.choose()
    assert found["kernels"].startswith("native" if status.native else "reference") and status.reason in found["kernels"]
    on_cuda = cuda.status()
    wanted = "triton" if on_cuda.triton else "reference"
    assert found["cuda kernels"].startswith(wanted) and on_cuda.reason in found["cuda kernels"]
    text = spp("info").out
    assert all(name in text and value in text for name, value in found.items())
    monkeypatch.setenv("SPP_KERNELS", "off")
    off = spp("info", "--json").json
    assert off["kernels"] == off["cuda kernels"] == "reference: torch operations (SPP_KERNELS=off)"
    monkeypatch.undo()
    backends.choose()


def test_a_wrong_choice_is_one_line(spp, monkeypatch):
    monkeypatch.setenv("SPP_KERNELS", "fastest")
    done = spp("info")
    assert done.code == 2 and "SPP_KERNELS is auto, off or require; got 'fastest'" in done.err
    monkeypatch.undo()
    backends.choose()

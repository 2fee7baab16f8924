"""The Triton sweep: its logic in Triton's interpreter, its machine code for devices that need not be here, its choice.

Tests marked ``gpu`` run it for real where a CUDA device is.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import spp
from spp.capture.gradients import Gradients
from spp.capture.recorder import Recorder
from spp.errors import InputError
from spp.stats import backends
from spp.stats.backends import cuda, native, reference
from spp.stats.layout import memory_order
from spp.stats.sums import Row, merge_tables
from tests.stats.arrays import FLOATS, LAYOUTS, assert_table, tensors
from tests.stats.interpreter import ROOT, Interpreter

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (it comes with the CUDA build of torch)"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
SMALL = {"tile": 64, "programs": 64}
"""Tiles so small that small tensors need several programs, and programs several tiles."""


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    process = Interpreter()
    yield process
    process.close()


@needs_triton
@given(case=tensors().filter(lambda case: case[0].numel() <= 1_000))
@settings(max_examples=25, deadline=None)
def test_tables_equal_the_oracle(interpreter, case):
    x, axis = case
    table = interpreter.reduce(x, axis, **SMALL)
    if x.numel() == 0:
        assert table is None
        return
    assert_table(table, x, axis, second=1e-9, first=1e-12)


@needs_triton
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (2, 3, 2, 3, 2, 2), (9, 3, 35)])
def test_every_layout_and_dtype(interpreter, layout, dtype, shape):
    x = layout(torch.randn(shape, dtype=torch.float64).add(0.5).to(dtype))
    for axis in (1, x.dim() - 1):
        assert_table(interpreter.reduce(x, axis), x, axis, second=1e-9, first=1e-12)


@needs_triton
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_non_finite_values_zeros_and_saturated_ones_are_counted(interpreter, axis, dtype):
    x = torch.randn(5, 7, 40).to(dtype)
    x[x > 1.5], x[x < -1.5], x[:, 3], x[2] = float("nan"), 0.0, float("inf"), -float("inf")
    x[0, :, :2] = 0.875
    table = interpreter.reduce(x, axis, (-0.5, 0.875), **SMALL)
    assert torch.equal(table[Row.SATURATED], reference.saturated(x, axis, (-0.5, 0.875)))
    table[Row.SATURATED] = 0
    assert_table(table, x, axis, second=1e-9, first=1e-12)


@needs_triton
def test_means_far_above_the_spread_and_a_first_tile_unlike_the_rest_cost_no_digits(interpreter):
    x = (torch.randn(24, 3, 30, dtype=torch.float64) * 1e-2 + 1e4).float()
    for axis in (1, 2):
        assert_table(interpreter.reduce(x, axis, **SMALL), x, axis, second=1e-9)
    x[:4] = 0
    x[4] = float("nan")
    for axis in (1, 2):
        assert_table(interpreter.reduce(x, axis, tile=64, programs=1), x, axis, second=1e-9)


@needs_triton
@pytest.mark.parametrize("scale", [1e-44, 1e-25, 1e25, 3e38])
def test_floats_whose_squares_leave_the_range_of_floats(interpreter, scale):
    x = (torch.rand(3, 4, 80, dtype=torch.float64) * 2 - 1).mul(scale).float()
    for axis in (1, 2):
        assert_table(interpreter.reduce(x, axis), x, axis, second=1e-9, first=1e-12)


@needs_triton
def test_equal_values_have_no_spread_at_all(interpreter):
    x = torch.full((5, 6, 70), 0.1)
    for axis in (None, 1, 2):
        assert (interpreter.reduce(x, axis, **SMALL)[Row.M2] == 0).all()


@needs_triton
def test_the_same_tensor_gives_the_same_bits_and_one_batch_equals_several(interpreter):
    x = torch.randn(16, 5, 24)
    whole = interpreter.reduce(x, 1, **SMALL)
    assert torch.equal(whole, interpreter.reduce(x, 1, **SMALL))
    merged = interpreter.reduce(x[:4], 1, **SMALL)
    for begin in range(4, 16, 4):
        merged = merge_tables(merged, interpreter.reduce(x[begin : begin + 4], 1, **SMALL))
    torch.testing.assert_close(merged, whole, rtol=1e-12, atol=1e-12)


def test_plans_read_memory_in_order_and_every_element_once():
    plan = cuda.plan_of((64, 256, 56, 56), (256 * 3136, 3136, 56, 1), 1)
    assert (plan.run, plan.outer, plan.columns, plan.blocks) == (3136, 64, 256, (1, 1, 1024))
    assert plan.parts * plan.per >= plan.tiles > (plan.parts - 1) * plan.per
    last = cuda.plan_of((64, 256, 56, 56), (256 * 3136, 1, 56 * 256, 256), 1)
    assert (last.column_stride, last.outer, last.blocks) == (1, 64 * 3136, (64, 16, 1))
    short = cuda.plan_of((64, 256, 3, 3), (256 * 9, 9, 3, 1), 1)
    assert (short.channels, short.columns, short.fold, short.column_stride) == (256, 256 * 9, 9, 1)
    assert cuda.plan_of((4, 3, 5), (0, 1, 0), 1).repeats == 20
    assert cuda.plan_of((3, 0), (1, 1), 0) is None
    far = cuda.plan_of((2, 3), (2**31, 1), 1)
    assert far.wide and not plan.wide
    apart = tuple(3 * 4**k for k in range(7))
    assert cuda.plan_of((2,) * 7, apart, 0) is None, "six axes that nothing folds are the reference's"


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from spp.stats.backends import cuda, triton_sweep

STRIDES = ("s0", "s1", "s2", "s3", "s4")

def machine_code(kernel, types, constants, target, warps):
    names = kernel.arg_names
    types = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    aligned = [n for n in ("x", "out", "channels", "channel_stride", "run", *STRIDES) if n in names and n not in constants]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(kernel, types, {(names.index(n),): v for n, v in constants.items()}, attributes)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": warps}).asm["ptx"]

numbers = {"low_end": "fp32", "high_end": "fp32", "out": "*fp64", "tables": "*fp64"}
for target, dtype, size in ((80, "fp32", 4), (90, "fp16", 2), (90, "bf16", 2), (90, "fp64", 8)):
    for blocks, adjacent, dims in (((1, 4, 256), False, 5), ((64, 16, 1), True, 1)):
        constants = dict(zip(("BLOCK_C", "BLOCK_O", "BLOCK_R"), blocks), DIMS=dims, ADJACENT=adjacent, ENDS=adjacent,
                         WIDE=adjacent, DOUBLE=size == 8, STAGES=cuda.STAGES[size], **({"run": 1} if adjacent else {}))
        ptx = machine_code(triton_sweep.sweep, {**numbers, "x": "*" + dtype}, constants, target, 4)
        assert "cp.async" in ptx and "atom" not in ptx, (target, dtype, blocks)
        print("sweep", target, dtype, blocks)
for block in ((1, 1024), (16, 64)):
    ptx = machine_code(triton_sweep.merge, numbers, dict(zip(("BLOCK_C", "BLOCK_P"), block)), 90, 4)
    assert "atom" not in ptx
    print("merge", block)
"""


@needs_triton
def test_the_kernels_compile_for_devices_that_are_not_here(tmp_path):
    """Down to machine code, with loads in a pipeline and without atomic additions, whose order would change the bits."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10


class Broken:
    """What a kernel looks like whose compiler, assembler or driver fails."""

    @property
    def sweep(self):
        raise RuntimeError("ptxas died\nof something long")


@pytest.fixture
def broken(monkeypatch):
    found = cuda._Kernels()
    found._asked, found.module, found.reason = True, Broken(), "triton 0"
    monkeypatch.setattr(cuda, "_KERNELS", found)
    return found


def test_a_kernel_that_fails_once_gives_way_to_the_reference(broken, monkeypatch):
    monkeypatch.delenv("SPP_KERNELS", raising=False)
    assert cuda.reduce(torch.ones(3, 4), 1) is None
    assert broken.module is None and broken.reason == "the kernel failed: RuntimeError: ptxas died"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda.status() == (False, "the kernel failed: RuntimeError: ptxas died")
    monkeypatch.setenv("SPP_KERNELS", "require")
    with pytest.raises(
        InputError, match="SPP_KERNELS=require needs the Triton kernel for CUDA tensors; got the kernel fa"
    ):
        cuda.reduce(torch.ones(3, 4), 1)


def test_off_and_no_device_say_so(monkeypatch):
    monkeypatch.setenv("SPP_KERNELS", "off")
    assert cuda.status() == (False, "SPP_KERNELS=off") and cuda.reduce(torch.ones(3), None) is None
    monkeypatch.setenv("SPP_KERNELS", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.status() == (False, "no CUDA device")


def test_a_missing_triton_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    found = cuda._Kernels()
    assert found.get() is None and "triton" in found.reason


def test_the_path_of_a_device_is_named():
    assert backends.path_of(torch.device("cpu")) == ("native" if native.status().native else "reference")
    assert backends.path_of(torch.device("mps")) == "reference"
    assert backends.path_of(torch.device("cuda")) in ("triton", "reference")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_the_reference_off_the_cpu_halves_what_is_large_and_asks_no_number(layout, monkeypatch):
    monkeypatch.setattr(reference, "DEVICE_CHUNK", 100)
    x = torch.randn(6, 5, 9, 11)
    x[x > 1.5] = float("nan")
    x = layout(x)
    for axis in (None, 0, 1, 3):
        view, repeats = memory_order(x, axis)
        if repeats == 1:
            assert_table(reference._on_device(view), x, axis, second=1e-12, first=1e-12)
    meta = torch.empty(6, 5, 99, device="meta")  # here every look at a number fails
    assert reference._on_device(meta).shape == (8, 5)


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("reduce", [cuda.reduce, reference.reduce], ids=["triton", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(6, 5, 9, 11), (2, 3, 4, 3, 2, 3), (1, 9_001), (9, 130, 3), (64, 32, 112, 112)])
def test_on_a_device_tables_equal_the_oracle(reduce, layout, dtype, shape):
    if reduce is cuda.reduce and not cuda.status().triton:
        pytest.skip(cuda.status().reason)
    x = torch.randn(shape, dtype=torch.float64).add(0.5).to(dtype)
    x[x > 2.5] = float("inf")
    on_cpu, on_device = layout(x), layout(x.cuda())
    for axis in (None, 1, x.dim() - 1):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            table = reduce(on_device, axis)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert_table(table.cpu(), on_cpu, axis, second=1e-9, first=1e-12)


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("wanted", ["auto", "off"])
@pytest.mark.parametrize(
    "options", [{}, {"moments": 4, "exponents": True, "loss_scale": 8.0}], ids=["second", "fourth"]
)
def test_on_a_device_no_hook_waits(wanted, options, monkeypatch):
    monkeypatch.setenv("SPP_KERNELS", wanted)

    def strictly(owner, name):
        original = getattr(owner, name)

        def run(*args, **kwargs):
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                return original(*args, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode(before)

        monkeypatch.setattr(owner, name, run)

    for owner, name in ((Recorder, "on_enter"), (Recorder, "on_exit"), (Recorder, "_operand"), (Gradients, "_take")):
        strictly(owner, name)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(1568, 10)
    )
    x = torch.randn(4, 3, 16, 16)
    expected = spp.trace(model, x, **options).frame
    trace = spp.trace(model.cuda(), x, **options)
    assert trace.run["kernels"] == backends.path_of(torch.device("cuda"))
    for column in ("mean_square", "acsm", "acv", "min", "max"):
        np.testing.assert_allclose(trace.frame[column], expected[column], rtol=2e-2, atol=1e-4)

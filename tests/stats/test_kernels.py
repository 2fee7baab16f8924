"""Both reductions against a float64 NumPy oracle, over every layout and dtype; and who chooses between them."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from spp import _cbuild
from spp.errors import InputError
from spp.stats import backends
from spp.stats.backends import native, reference
from spp.stats.layout import plain
from spp.stats.sums import Room, Row
from tests.stats.arrays import FLOATS, LAYOUTS, assert_table, oracle, tensors

# on a machine that has not built it yet, the tests wait for the compiler
NATIVE, WHY = native.LIBRARY.status(patience=60)
needs_native = pytest.mark.skipif(not NATIVE, reason=f"no C kernel here: {WHY}")


def swept(x: torch.Tensor, axis: int | None, ends: tuple[float, float] | None = None) -> torch.Tensor | None:
    """The table of the C sweep, where it takes the tensor."""
    sums = native.reduce(x, axis, ends, Room(0), whole=False)
    return None if sums is None else sums.table


PATHS = [pytest.param(swept, id="native", marks=needs_native), pytest.param(reference.reduce, id="reference")]


@pytest.mark.parametrize("reduce", PATHS)
@given(case=tensors())
@settings(max_examples=100, deadline=None)
def test_tables_equal_the_oracle(reduce, case):
    x, axis = case
    table = reduce(x, axis)
    if reduce is swept and x.numel() == 0:
        assert table is None
        return
    assert_table(table, x, axis, second=1e-12 if reduce is swept else 1e-6)


@pytest.mark.parametrize("reduce", PATHS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(6, 5, 9, 11), (2, 3, 4, 3, 2, 3), (1, 9_001), (9, 130, 3)])
def test_every_layout_and_dtype(reduce, layout, dtype, shape):
    x = layout(torch.randn(shape, dtype=torch.float64).add(0.5).to(dtype))
    for axis in (None, *range(x.dim())):
        assert_table(reduce(x, axis), x, axis, second=1e-12 if reduce is swept else 1e-6)


@pytest.mark.parametrize("reduce", PATHS)
@pytest.mark.parametrize("shape", [(64, 8, 40, 40), (9, 40, 6, 6), (4096, 48), (3, 9_001)])
def test_a_mean_far_above_the_spread_costs_no_digits(reduce, shape):
    x = (torch.randn(shape, dtype=torch.float64) * 1e-2 + 1e4).float()  # float32 resolves 1e-3 here
    assert_table(reduce(x, 1 if len(shape) > 2 else len(shape) - 1), x, 1, second=1e-5)
    x = (torch.randn(shape, dtype=torch.float64) + 1e3).float()
    assert_table(reduce(x, 1), x, 1, second=1e-6)


@pytest.fixture(scope="module")
def many():
    """2^25 numbers, twice as many as float32 can count one by one, with their mean and sum of squared deviations."""
    x = torch.empty(2**25).uniform_(-1, 3, generator=torch.Generator().manual_seed(0))
    wide = x.double()
    mean = wide.mean()
    return x, mean.item(), wide.sub_(mean).square_().sum().item()


@pytest.mark.parametrize("reduce", PATHS)
def test_two_to_the_25_elements(reduce, many):
    x, mean, m2 = many
    table = reduce(x, None)
    assert table[Row.COUNT].item() == 2**25
    assert table[Row.MEAN].item() == pytest.approx(mean, abs=1e-7)
    assert table[Row.M2].item() == pytest.approx(m2, rel=1e-6)


@pytest.mark.parametrize("reduce", PATHS)
def test_half_precision_near_overflow_is_widened_first(reduce):
    x = torch.full((4, 6, 50), 60_000.0, dtype=torch.float16)
    x[:, :, ::2] = -60_000.0
    table = reduce(x, 1)
    assert_table(table, x, 1, second=1e-6)
    assert np.isfinite(table.numpy()).all()
    x[0, 0, 0] = float("inf")
    assert_table(reduce(x, 1), x, 1, second=1e-6)


@pytest.mark.parametrize("reduce", PATHS)
def test_floats_whose_squares_leave_the_range_of_floats(reduce):
    for scale in (1e-25, 1e25):
        x = torch.randn(3, 4, 80, dtype=torch.float64).mul(scale).float()
        assert_table(reduce(x, 1), x, 1, second=1e-6)


@pytest.mark.parametrize("reduce", PATHS)
@pytest.mark.parametrize("shape", [(9, 5, 7, 7), (3, 5, 1), (2, 5, 9_001)])
def test_a_channel_of_one_value_has_no_variance(reduce, shape):
    x = torch.full(shape, 0.1)
    x[:, 1] = 0.0
    x[0, 2, 0] = float("nan")
    table = reduce(x, 1)
    assert table[Row.M2].tolist() == [0.0] * 5
    assert table[Row.NONFINITE].sum() == x.isnan().sum()


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing_but_rounding(threads):
    x = torch.randn(7, 33, 41, 43)
    torch.set_num_threads(threads)
    for axis in (None, 0, 1, 3):
        assert_table(swept(x, axis), x, axis, second=1e-12)


@needs_native
@pytest.mark.parametrize("attempt", range(len(_cbuild.ATTEMPTS)))
def test_every_build_gives_the_same(attempt, monkeypatch, tmp_path):
    monkeypatch.setenv("SPP_CACHE", str(tmp_path / "cache"))
    build = _cbuild.plan(native.SOURCE, _cbuild.find_compiler(), attempt)
    assert _cbuild.build(build, timeout=60) == ""
    loaded = native.Sweep()
    assert loaded._load(build.find(), build) == ""
    monkeypatch.setattr(native, "LIBRARY", loaded)
    for layout in LAYOUTS:
        for dtype in FLOATS:
            for shape in ((6, 5, 9, 11), (5, 37, 3, 3), (2, 3, 1100)):
                x = layout(torch.randn(shape, dtype=torch.float64).add(0.5).to(dtype))
                if x.is_contiguous():
                    x.view(-1)[7], x.view(-1)[-3], x.view(-1)[20:24] = torch.nan, torch.inf, 0
                for axis in (None, *range(x.dim())):
                    table = swept(x, axis, (-0.5, 1.0))
                    if table is not None:  # a build may lack half precision
                        assert_table(table, x, axis, second=1e-12)
                        want = reference.saturated(x, axis, (-0.5, 1.0))
                        assert table[Row.SATURATED].tolist() == want.tolist()


@needs_native
def test_the_kernel_copies_nothing():
    x = torch.randn(2, 64, 200, 200)[:, :, 1:-1, 1:-1].transpose(0, 1)
    plan = native.plan_for(x, 0)
    assert plan is not None and plan.large and plan.layout.run == 198
    assert_table(swept(x, 0), x, 0, second=1e-12)


@needs_native
@pytest.mark.parametrize("shape", [(8, 40, 3, 3), (3, 33, 1, 2), (16, 5, 5), (129, 1, 3), (700, 50), (4, 19, 6, 6)])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_many_channels_of_few_values(dtype, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    flat = x.view(-1)
    flat[::7] = 0  # first values, about which sums are taken, among them
    for case in ("finite", "not"):
        for axis in (None, 0, 1):
            assert_table(swept(x, axis), x, axis, second=1e-12)
        if case == "finite":
            flat[3], flat[-2], flat[50:70] = torch.nan, -torch.inf, torch.inf


def test_what_is_not_a_plain_float_tensor_is_made_one():
    assert plain(torch.tensor([True, False])).tolist() == [1.0, 0.0]
    assert plain(torch.tensor([3, 4])).dtype is torch.float64
    assert plain(torch.tensor([3 + 4j])).tolist() == [5.0]
    assert plain(torch.eye(2).to_sparse()).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to drop this dtype one day; until then people's models have it
        quantized = torch.quantize_per_tensor(torch.tensor([1.0, 2.0]), 0.5, 0, torch.qint8)
    assert plain(quantized).tolist() == [1.0, 2.0]

    class Sub(torch.Tensor):
        pass

    assert type(plain(torch.ones(2).as_subclass(Sub))) is torch.Tensor
    parameter = torch.nn.Parameter(torch.ones(2))
    assert not plain(parameter).requires_grad and plain(parameter).data_ptr() == parameter.data_ptr()


def test_empty_tensors_give_the_neutral_table():
    for shape, axis in (((0, 3), 1), ((3, 0), 1), ((0,), None), ((2, 0, 4), 2)):
        table = backends.reduce(torch.empty(shape), axis).table
        assert table.shape[1] == (shape[axis] if axis is not None else 1)
        assert_table(table, torch.empty(shape), axis, second=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_the_ends_of_a_range_are_not_rounded_to_the_dtype(dtype):
    # the nearest values to -0.99 and 0.01 in half precision lie inside the range
    x = torch.linspace(-1, 1, 1999, dtype=torch.float64).to(dtype)
    values, ends = x.double(), (-0.99, 0.01)
    wanted = int(((values <= ends[0]) | (values >= ends[1])).sum())
    assert reference.saturated(x, None, ends).item() == wanted
    assert backends.reduce(x, None, ends).table[Row.SATURATED].item() == wanted


def test_values_at_the_ends_of_a_range_are_counted():
    x = torch.tensor([[-1.0, -0.99, 0.0, 0.995], [1.0, 0.5, float("nan"), float("inf")]])
    table = backends.reduce(x, 0, (-0.99, 0.99)).table
    assert table[Row.SATURATED].tolist() == [3.0, 1.0]


@pytest.mark.parametrize(("value", "native_wanted"), [("off", False), ("auto", NATIVE)])
def test_the_environment_chooses(monkeypatch, value, native_wanted):
    monkeypatch.setenv("SPP_KERNELS", value)
    assert backends.choose().native is native_wanted
    monkeypatch.undo()
    backends.choose()


def test_a_wrong_choice_says_so(monkeypatch):
    monkeypatch.setenv("SPP_KERNELS", "fast")
    with pytest.raises(InputError, match="environment: SPP_KERNELS is auto, off or require; got 'fast'"):
        backends.choose()


SCRIPT = """
import torch
from spp.stats import backends
from spp.stats.backends import native
native.PATIENCE = {patience}
print(native.status())
print(backends.reduce(torch.ones(3, 4), 1).table[0].tolist())
"""


def _run(patience: float = 60, last: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(patience=patience) + last],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Look for the library anew, as a new process would: ``fresh(CC="...")`` sets the environment and gives the status."""
    monkeypatch.setattr(native, "PATIENCE", 60)

    def look(**environment: str) -> _cbuild.Status:
        for name, value in ({"SPP_CACHE": str(tmp_path / "cache")} | environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(native, "LIBRARY", native.Sweep())
        return backends.choose()

    yield look
    monkeypatch.undo()
    backends.choose()


def served(x: torch.Tensor) -> list[float]:
    return backends.reduce(x, 1)["count"].tolist()


def test_without_a_compiler_the_reference_serves(fresh, tmp_path):
    nowhere = {"PATH": str(tmp_path), "CC": ""}
    status = fresh(**nowhere)
    assert not status.native and "no C compiler found" in status.reason
    assert served(torch.ones(3, 4)) == [3.0, 3.0, 3.0, 3.0]
    required = _run(**nowhere, SPP_CACHE=str(tmp_path / "cache"), SPP_KERNELS="require")
    assert required.returncode and "SPP_KERNELS=require needs the C kernel; got no C compiler found" in required.stderr


def test_a_failing_compiler_is_named_and_leaves_nothing(fresh, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text(
        "#!/bin/sh\ncase $1 in --version) echo broken 1;; *) echo 'cc: no such luck' >&2; exit 1;; esac\n"
    )
    compiler.chmod(0o755)
    status = fresh(CC=str(compiler))
    assert not status.native and "no such luck" in status.reason
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {".lock"}


@needs_native
def test_a_slow_compiler_does_not_hold_up_the_trace(tmp_path):
    compiler = tmp_path / "cc"
    go = tmp_path / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.1; done"
    compiler.write_text(f'#!/bin/sh\ncase $1 in --version) echo slow 1;; *) {wait}; exec cc "$@";; esac\n')
    compiler.chmod(0o755)
    done = _run(0.5, f"open({str(go)!r}, 'w').close()", CC=str(compiler), SPP_CACHE=str(tmp_path / "cache"))
    assert "native=False" in done.stdout and "still compiling after 0.5 s" in done.stdout


def test_digests_tell_compilers_and_flags_apart():
    compiler = _cbuild.find_compiler()
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    paths = {_cbuild.plan(native.SOURCE, compiler, attempt).path for attempt in range(len(_cbuild.ATTEMPTS))}
    assert len(paths) == len(_cbuild.ATTEMPTS)


def test_the_oracle_itself_on_numbers_worked_by_hand():
    """SCIENCE 1.1: x[n, c] = [[1, 2], [3, 4]] has ACSM 6.5 and ACV 1."""
    table = oracle(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)
    assert (table[Row.MEAN] ** 2).mean() == 6.5
    assert (table[Row.M2] / table[Row.COUNT]).mean() == 1.0

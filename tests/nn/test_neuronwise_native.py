"""The C kernel against the torch operations it stands for, against float64, and where there is none."""

import ctypes
import os
import subprocess
import sys
from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from spp import _cbuild
from spp.nn.neuronwise import MODES, NeuronwiseConv1d, NeuronwiseConv2d, NeuronwiseLinear, native

LIBRARY = native.LIBRARY.get(60)
needs_native = pytest.mark.skipif(LIBRARY is None, reason=f"no C kernel here: {native.LIBRARY.reason}")
DOUBLE = torch.float64


def assert_near(found, expected, share=1e-5):
    """To ``share`` of the largest element: a sum of many terms is no better than its terms are large."""
    expected = expected.double()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=share * float(expected.abs().max()))


# The sums --------------------------------------------------------------------------------------------------------------


def room(*shape):
    return torch.full(shape, torch.nan), torch.full(shape, torch.nan)


def assert_sums(into, first, second, each, eps=0.0):
    column = each.double().view(-1, *(1,) * (first.ndim - 1))
    assert_near(into[0], first * column)
    assert_near(into[1], second * column + eps)


@needs_native
@pytest.mark.parametrize("samples", [1, 30, 31, 97])
@pytest.mark.parametrize(("neurons", "features"), [(1, 1), (3, 16), (64, 17), (5, 200), (2100, 65)])
def test_sums_over_the_masks_of_a_linear_layer(samples, neurons, features):
    mask, x, each = torch.rand(samples, neurons) > 0.4, torch.randn(samples, features), torch.rand(neurons)
    into = room(neurons, features)
    native.sum_linear(LIBRARY, mask, x, each, 0.25, False, into)
    p, wide = mask.double().t(), x.double()
    assert_sums(into, p.mm(wide), p.mm(wide**2), each, 0.25)
    native.sum_linear(LIBRARY, mask, x, each, 0.25, True, into)
    assert_sums(into, 2 * p.mm(wide), 2 * p.mm(wide**2), each, 0.25)


def conv_sums(a, x, shape, dilation):
    """``sum_n a_no patch_nof`` by its definition: for each position under the kernel, a product of shifted maps."""
    result = torch.zeros(shape, dtype=DOUBLE)
    height, width = a.shape[2:]
    for ky, kx in product(*map(range, shape[2:])):
        y0, x0 = ky * dilation[0], kx * dilation[1]
        under = x[:, :, y0 : y0 + height, x0 : x0 + width]
        result[:, :, ky, kx] = torch.einsum("noyx,ncyx->oc", a.double(), under.double())
    return result


@needs_native
@pytest.mark.parametrize(
    ("images", "channels", "size", "neurons", "kernel", "dilation"),
    [
        (2, 16, (9, 11), 3, (3, 3), (1, 1)),
        (3, 5, (4, 4), 2, (4, 4), (1, 1)),
        (2, 33, (13, 40), 9, (5, 2), (2, 3)),
        (1, 3, (1, 200), 4, (1, 7), (1, 1)),
        (2, 16, (6, 7), 300, (2, 2), (1, 2)),
        (4, 20, (5, 5), 6, (1, 1), (1, 1)),
    ],
)
def test_sums_over_the_masks_of_a_convolution(images, channels, size, neurons, kernel, dilation):
    out = [n - (k - 1) * d for n, k, d in zip(size, kernel, dilation, strict=True)]
    mask, x = torch.rand(images, neurons, *out) > 0.4, torch.randn(images, channels, *size)
    each, shape = torch.rand(neurons), (neurons, channels, *kernel)
    first, second = conv_sums(mask, x, shape, dilation), conv_sums(mask, x.double() ** 2, shape, dilation)
    into = room(*shape)
    native.sum_conv(LIBRARY, mask, x, each, 0.25, False, into, dilation)
    assert_sums(into, first, second, each, 0.25)
    native.sum_conv(LIBRARY, mask, x, each, 0.25, True, into, dilation)
    assert_sums(into, 2 * first, 2 * second, each, 0.25)
    if kernel[0] == size[0] == 1:
        lone = room(neurons, channels, kernel[1])
        native.sum_conv(LIBRARY, mask[:, :, 0], x[:, :, 0], each, 0.0, False, lone, dilation[1:])
        assert_sums(lone, first[:, :, 0], second[:, :, 0], each)


@needs_native
def test_threads_change_no_bit(monkeypatch):
    mask, x, each = torch.rand(100, 1100) > 0.5, torch.randn(100, 300), torch.rand(1100)
    maps, images = torch.rand(3, 200, 8, 8) > 0.5, torch.randn(3, 40, 10, 10)
    results = []
    for threads in (1, 2):
        monkeypatch.setattr(native, "threads", lambda threads=threads: threads)
        linear, conv = room(1100, 300), room(200, 40, 3, 3)
        native.sum_linear(LIBRARY, mask, x, each, 0.0, False, linear)
        native.sum_conv(LIBRARY, maps, images, each[:200].contiguous(), 0.0, False, conv, (1, 1))
        results.append((*linear, *conv))
    assert all(map(torch.equal, *results))


@needs_native
@pytest.mark.parametrize("attempt", range(len(_cbuild.ATTEMPTS)))
def test_every_way_to_build_it_gives_the_same_sums(tmp_path, monkeypatch, attempt):
    monkeypatch.setenv("SPP_CACHE", str(tmp_path / "cache"))
    build = _cbuild.plan(native.LIBRARY.source, _cbuild.find_compiler(), attempt)
    assert _cbuild.build(build, timeout=60) == ""
    library = ctypes.CDLL(str(build.path))
    assert native._bind(library) == ""
    mask, x, each, into = torch.rand(70, 40) > 0.5, torch.randn(70, 50), torch.ones(40), room(40, 50)
    native.sum_linear(library, mask, x, each, 0.0, False, into)
    assert_sums(into, mask.double().t().mm(x.double()), mask.double().t().mm(x.double() ** 2), each)


# The layers ------------------------------------------------------------------------------------------------------------

LAYERS = {
    "linear": (lambda **o: NeuronwiseLinear(70, 90, **o), (150, 70)),
    "tokens": (lambda **o: NeuronwiseLinear(33, 64, **o), (5, 60, 33)),
    "conv2d": (lambda **o: NeuronwiseConv2d(20, 24, 3, padding=1, **o), (8, 20, 9, 11)),
    "dilated": (lambda **o: NeuronwiseConv2d(12, 30, (3, 2), dilation=(2, 1), **o), (8, 12, 13, 16)),
    "conv1d": (lambda **o: NeuronwiseConv1d(20, 33, 7, padding=3, padding_mode="circular", **o), (8, 20, 40)),
    "strided": (lambda **o: NeuronwiseConv2d(16, 24, 3, stride=2, padding=1, **o), (12, 16, 9, 11)),
    "grouped": (lambda **o: NeuronwiseConv2d(24, 24, 3, groups=2, **o), (8, 24, 9, 11)),
}


def after_two_passes(make, shape, monkeypatch, kernels, dtype=torch.float32, layout=None, **options):
    """Gradients and statistics of a layer whose region is given, so that all ways see the same one."""
    monkeypatch.setenv("SPP_KERNELS", kernels)
    torch.manual_seed(0)
    layer = make(eps=1e-3, **options).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        x = (torch.randn(shape, generator=generator) + 1).to(dtype)
        p = layer.activation.region(layer(x).detach(), "clamp")
        if p.dtype == torch.bool:  # each neuron is active about half of the time
            p = torch.rand(p.shape, generator=generator) > 0.5
        delta = torch.randn(p.shape, generator=generator).to(dtype) * p
        if layout is not None:
            layer, x, p, delta = (each.to(memory_format=layout) for each in (layer, x, p, delta))
        gradients = layer.gradients(x, p, delta, dtype)
    return [tensor.clone() for tensor in (*gradients, *layer.neuronwise_statistics().values())]


@pytest.fixture
def looked_up(monkeypatch):
    """How often the kernel has looked sums up, and finished a gradient."""
    calls = dict.fromkeys(("sum_linear", "sum_conv", "finish_"), 0)

    def counted(name):
        own = getattr(native, name)

        def call(*args, **options):
            calls[name] += 1
            return own(*args, **options)

        return call

    for name in calls:
        monkeypatch.setattr(native, name, counted(name))
    return calls


@needs_native
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_kernel_and_torch_operations_agree_and_are_as_exact(kind, activation, statistics, bias, monkeypatch, looked_up):
    make, shape = LAYERS[kind]
    for mode in (mode for mode in MODES if bias or mode != "coords_centre"):
        options = {"activation": activation, "statistics": statistics, "mode": mode, "bias": bias}
        exact = after_two_passes(make, shape, monkeypatch, "off", DOUBLE, **options)
        plain = after_two_passes(make, shape, monkeypatch, "off", **options)
        before = dict(looked_up)
        found = after_two_passes(make, shape, monkeypatch, "require", **options)
        sums = sum(looked_up[name] - before[name] for name in ("sum_linear", "sum_conv"))
        assert looked_up["finish_"] - before["finish_"] == 2
        assert sums == (2 if activation == "relu" and kind not in ("strided", "grouped") else 0)
        for new, old, wanted in zip(found, plain, exact, strict=True):
            assert_near(new, wanted)
            assert_near(old, wanted)


@needs_native
def test_several_blocks_are_added_up(monkeypatch, looked_up):
    from spp.nn.neuronwise import outer

    make, shape = LAYERS["conv2d"]
    whole = after_two_passes(make, shape, monkeypatch, "require", activation="relu")
    monkeypatch.setattr(outer, "BLOCK", 1)
    looked_up["sum_conv"] = 0
    parts = after_two_passes(make, shape, monkeypatch, "require", activation="relu")
    assert looked_up["sum_conv"] > 2
    for new, old in zip(parts, whole, strict=True):
        assert_near(new, old)


@needs_native
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_channels_last(activation, monkeypatch):
    make, shape = LAYERS["conv2d"]
    wanted = after_two_passes(make, shape, monkeypatch, "off", activation=activation)
    found = after_two_passes(make, shape, monkeypatch, "require", layout=torch.channels_last, activation=activation)
    for new, old in zip(found, wanted, strict=True):
        assert_near(new, old)


@needs_native
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_dead_neurons(kind, monkeypatch):
    make, shape = LAYERS[kind]
    found = {}
    for kernels in ("off", "require"):
        monkeypatch.setenv("SPP_KERNELS", kernels)
        torch.manual_seed(0)
        layer = make(activation="relu")
        with torch.no_grad():
            layer.bias[:3] = -1000  # dead
        z = layer(torch.randn(shape))
        torch.relu(z).backward(torch.randn_like(z))
        found[kernels] = [layer.weight.grad, layer.bias.grad, *layer.neuronwise_statistics().values()]
        assert not layer.weight.grad[:3].any() and layer.neuronwise_statistics()["input_mean"][:3].isnan().all()
    for new, old in zip(found["require"], found["off"], strict=True):
        assert torch.equal(new.isnan(), old.isnan())
        assert_near(new.nan_to_num(), old.nan_to_num())


@needs_native
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_is_seen(value, monkeypatch):
    monkeypatch.setenv("SPP_KERNELS", "require")
    layer = NeuronwiseLinear(70, 90, activation="relu")
    x = torch.randn(150, 70)
    z = layer(x)
    upstream = torch.ones_like(z)
    upstream[0, 0] = value  # as an overflow does, which a loss scaler looks for
    torch.relu(z).backward(upstream)
    assert layer.weight.grad[1:].isfinite().all()
    assert z[0, 0] <= 0 or not layer.weight.grad[0].isfinite().all()
    x[3, 5] = value
    layer.weight.grad = None
    torch.relu(layer(x)).sum().backward()
    assert not layer.weight.grad[:, 5].isfinite().any()


@needs_native
def test_double_precision_stays_with_torch_operations(monkeypatch, looked_up):
    make, shape = LAYERS["linear"]
    plain = after_two_passes(make, shape, monkeypatch, "off", DOUBLE, activation="relu")
    looked_up.update(dict.fromkeys(looked_up, 0))
    monkeypatch.setenv("SPP_KERNELS", "require")
    torch.manual_seed(0)
    found = after_two_passes(make, shape, monkeypatch, "require", DOUBLE, activation="relu")
    assert all(map(torch.equal, found, plain)) and not any(looked_up.values())


def synchronized(activation, rows=slice(None), sync=False):
    """Gradients and statistics for some of the samples."""
    torch.manual_seed(0)
    layer = NeuronwiseLinear(70, 90, activation=activation, eps=0.1, sync=sync)
    x, p, delta = torch.randn(200, 70) + 1, torch.rand(200, 90), torch.randn(200, 90)
    p = p > 0.5 if activation == "relu" else p
    gradients = layer.gradients(x[rows], p[rows], delta[rows], torch.float32)
    return gradients, list(layer.neuronwise_statistics().values())


def rank_main(rank, folder):
    os.environ.update(GLOO_SOCKET_IFNAME="lo", SPP_KERNELS="require")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    try:
        rows = slice(0, 120) if rank == 0 else slice(120, None)
        both = [synchronized(activation, rows, sync=True) for activation in ("relu", "gelu")]
        torch.save(both, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@needs_native
def test_two_processes_have_the_statistics_of_the_whole_batch(tmp_path):
    mp.spawn(rank_main, (tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    # with M and s the same on both, the gradient is a sum over samples; the pivot is the mean of the ranks' means
    for activation, (first, others), (second, too) in zip(("relu", "gelu"), *ranks, strict=True):
        gradients, kept = synchronized(activation)
        for here, there, wanted in zip(first, second, gradients, strict=True):
            assert_near(here + there, wanted)
        for here, there, wanted in zip(others, too, kept, strict=True):
            assert torch.equal(here, there)
            assert_near(here, wanted)


# Where there is no kernel, or not yet ----------------------------------------------------------------------------------

SCRIPT = """
import torch
from spp.nn.neuronwise import NeuronwiseLinear, native
layer = NeuronwiseLinear(64, 64, activation="relu")
torch.relu(layer(torch.randn(64, 64))).sum().backward()
print(bool(layer.weight.grad.isfinite().all()), native.LIBRARY.loaded is not None, native.LIBRARY.reason)
"""


def run(**environment):
    environment = {"SPP_KERNELS": "auto"} | environment
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_without_a_compiler_torch_operations_serve(tmp_path):
    nowhere = {"PATH": str(tmp_path), "CC": "", "SPP_CACHE": str(tmp_path / "cache")}
    assert run(**nowhere).stdout.startswith("True False no C compiler found")
    required = run(**nowhere, SPP_KERNELS="require")
    assert required.returncode and "SPP_KERNELS=require needs the C kernel; got no C compiler found" in required.stderr
    wrong = run(SPP_KERNELS="fast")
    assert wrong.returncode and "SPP_KERNELS is auto, off or require; got 'fast'" in wrong.stderr


@needs_native
def test_the_first_backward_does_not_wait_for_a_slow_compiler(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\ncase $1 in --version) echo slow 1;; *) sleep 8; exec cc "$@";; esac\n')
    compiler.chmod(0o755)
    done = run(CC=str(compiler), SPP_CACHE=str(tmp_path / "cache"))
    assert done.stdout.startswith("True False still compiling after 1 s")


@needs_native
def test_a_library_that_gives_wrong_sums_is_not_used(tmp_path, monkeypatch):
    source = tmp_path / "regions.c"
    text = native.LIBRARY.source.path.read_text()
    source.write_text(text.replace("x += entry->x;", "x -= entry->x;"))
    (tmp_path / "finish.h").write_text(native.LIBRARY.source.path.with_name("finish.h").read_text())
    monkeypatch.setenv("SPP_CACHE", str(tmp_path / "cache"))
    library = _cbuild.Library(_cbuild.Source(source, ("finish.h",)), native._bind)
    assert library.get(60) is None and library.reason == "the compiled kernel gives wrong sums"


@needs_native
def test_a_mode_that_sees_every_operation_sees_all_of_them(monkeypatch, looked_up):
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setenv("SPP_KERNELS", "require")
    layer = NeuronwiseLinear(64, 64, activation="relu", bias=False)
    x = torch.randn(64, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        F.relu(layer(x)).sum().backward()
    assert counter.get_total_flops() == 5 * 2 * 64**3 and not any(looked_up.values())

"""Neuron-wise gradients where training happens: autocast, accumulation, compilation, checkpointing, several processes."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from spp.nn.neuronwise import NeuronwiseConv2d, NeuronwiseLinear


def network(statistics="batch", **options):
    torch.manual_seed(0)
    options |= {"statistics": statistics}
    return nn.Sequential(
        NeuronwiseConv2d(3, 4, 3, activation="relu", **options),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        NeuronwiseLinear(64, 5, activation="gelu", **options),
        nn.GELU(),
        nn.Linear(5, 2),
    )


def images(n=8):
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def statistics_of(model):
    layers = (layer for layer in model.modules() if hasattr(layer, "neuronwise_statistics"))
    return [value.clone() for layer in layers for value in layer.neuronwise_statistics().values()]


def trained(model, x, run=None):
    (run or model)(x).square().sum().backward()
    return gradients(model), statistics_of(model)


def assert_same(found, expected, **tolerance):
    torch.testing.assert_close(found, expected, equal_nan=True, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_checkpointing(reentrant, statistics):
    expected = trained(network(statistics), images())
    model = network(statistics)
    x = images().requires_grad_(reentrant)
    assert_same(trained(model, x, lambda x: checkpoint(model, x, use_reentrant=reentrant)), expected)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own doing
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_compilation_as_one_graph(statistics):
    torch._dynamo.reset()
    expected, model = network(statistics), network(statistics)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for step in range(2):
        for each in (expected, model):
            each.zero_grad()
        x = images() + step
        assert_same(trained(model, x, compiled), trained(expected, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    ordinary = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh())
    model = copy.deepcopy(ordinary)
    model[0] = NeuronwiseLinear(16, 8, activation="relu", statistics="running")
    model[2] = NeuronwiseLinear(8, 4, activation="tanh")
    model.load_state_dict(ordinary.state_dict(), strict=False)
    full = copy.deepcopy(model)
    outputs, inputs = [], []
    for each in (ordinary, model):
        x = torch.randn(32, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            y = each(x)
            y.float().square().sum().backward()  # inside, which must not make the statistics narrow either
        outputs.append(y)
        inputs.append(x.grad)
    assert outputs[0].dtype == dtype
    assert torch.equal(*outputs) and torch.equal(*inputs)
    full(x.detach()).square().sum().backward()
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        wanted = full.get_parameter(name).grad
        assert float((gradient - wanted).norm() / wanted.norm()) < 0.1
    assert model[0].running_mean.dtype == torch.float32
    assert not torch.equal(model[2].weight.grad, model[2].weight.grad.to(dtype).float())


def test_gradients_scale_with_the_loss():
    one, many = network(), network()
    one(images()).sum().backward()
    (many(images()).sum() * 2.0**10).backward()
    for name, gradient in gradients(one).items():
        assert_same(gradients(many)[name], gradient * 2.0**10)


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_accumulation_adds_the_gradients_of_the_parts(statistics):
    parts = images().split(4)
    model = network(statistics)
    for part in parts:
        model(part).square().sum().backward()
    other = network(statistics)
    total = dict.fromkeys(gradients(model), 0)
    for part in parts:
        other.zero_grad()
        other(part).square().sum().backward()
        total = {name: total[name] + gradient for name, gradient in gradients(other).items()}
    assert_same(gradients(model), total)


def test_with_frozen_statistics_parts_add_up_to_the_whole():
    model = network("running").double()
    model(images().double() + 1).square().sum().backward()
    for layer in (model[0], model[3]):
        layer.momentum = 0
    model.zero_grad()
    whole = trained(model, images().double())[0]
    model.zero_grad()
    for part in images().double().split(4):
        model(part).square().sum().backward()
    assert_same(gradients(model), whole, rtol=1e-10, atol=1e-10)


def test_a_layer_that_is_called_twice():
    torch.manual_seed(0)
    shared = NeuronwiseLinear(4, 4, activation="tanh", dtype=torch.float64)
    x = torch.randn(9, 4, dtype=torch.float64)
    torch.tanh(shared(torch.tanh(shared(x)))).sum().backward()
    first, second = copy.deepcopy(shared), copy.deepcopy(shared)
    for layer in (first, second):
        layer.zero_grad()
    torch.tanh(second(torch.tanh(first(x)))).sum().backward()
    assert_same(shared.weight.grad, first.weight.grad + second.weight.grad, rtol=1e-12, atol=1e-12)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation put out."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage():
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_no_tensor_of_samples_by_neurons_by_features(statistics):
    samples, neurons, features = 40, 30, 20
    layer = NeuronwiseLinear(features, neurons, activation="silu", statistics=statistics)
    with Largest() as largest:
        nn.functional.silu(layer(torch.randn(samples, features))).sum().backward()
    assert largest.numel == samples * neurons
    conv = NeuronwiseConv2d(4, 6, 5, padding=2, activation="silu", statistics=statistics)
    with Largest() as largest:
        nn.functional.silu(conv(torch.randn(3, 4, 20, 20))).sum().backward()
    assert largest.numel <= 3 * 6 * 24 * 24  # padded maps; unfolded patches would be 25 times the input


def test_memory_between_forward_and_backward_is_the_inputs_and_a_mask():
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    x = torch.randn(40, 20)
    layer = NeuronwiseLinear(20, 30, activation="relu")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    own = [tensor for tensor in kept if tensor.data_ptr() not in (x.data_ptr(), layer.weight.data_ptr())]
    assert [(tensor.dtype, tuple(tensor.shape)) for tensor in own] == [(torch.bool, (40, 30))]


def synchronized(activation, rows=slice(None), sync=False):
    """Gradients and statistics in float32 for some of the samples, where the region is given."""
    torch.manual_seed(0)
    layer = NeuronwiseLinear(35, 45, activation=activation, eps=0.1, sync=sync)
    x, p, delta = torch.randn(100, 35) + 1, torch.rand(100, 45), torch.randn(100, 45)
    p = p > 0.5 if activation == "relu" else p
    gradients = layer.gradients(x[rows], p[rows], delta[rows], torch.float32)
    return gradients, list(layer.neuronwise_statistics().values())


def rank_main(rank, folder):
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    try:
        for sync in (True, False):
            model = network(sync=sync).double()
            part = images().double()[rank::2]
            parallel = DistributedDataParallel(model)
            (parallel(part).square().sum() / len(part)).backward()
            torch.save((gradients(model), statistics_of(model)), folder / f"{rank}-{sync}.pt")
        rows = slice(0, 60) if rank == 0 else slice(60, None)
        both = [synchronized(activation, rows, sync=True) for activation in ("relu", "gelu")]
        torch.save(both, folder / f"{rank}-uneven.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_with_synchronized_and_with_own_statistics(tmp_path):
    # one pair of processes for both laws: to start them takes longer than all that they compute
    mp.spawn(rank_main, (tmp_path,), nprocs=2)
    assert_uneven_parts_have_the_statistics_of_the_whole_batch(tmp_path)
    results = {(rank, sync): torch.load(tmp_path / f"{rank}-{sync}.pt") for rank in range(2) for sync in (True, False)}
    parts, own = [images().double()[rank::2] for rank in range(2)], []
    for rank, part in enumerate(parts):
        model = network().double()
        (model(part).square().sum() / len(part)).backward()
        own.append(gradients(model))
        assert_same(results[rank, False][1], statistics_of(model), rtol=1e-12, atol=1e-12)
    mean = {name: (own[0][name] + own[1][name]) / 2 for name in own[0]}

    model = network().double()
    (model(images().double()).square().sum() / 8).backward()
    for rank in range(2):
        assert_same(results[rank, False][0], mean, rtol=1e-9, atol=1e-9)
        assert_same(results[rank, True][0], gradients(model), rtol=1e-9, atol=1e-9)
        assert_same(results[rank, True][1], statistics_of(model), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(mean["0.weight"], model[0].weight.grad)


def assert_uneven_parts_have_the_statistics_of_the_whole_batch(folder):
    ranks = [torch.load(folder / f"{rank}-uneven.pt") for rank in range(2)]
    # with M and s the same on both, the gradient is a sum over samples; the pivot is the mean of the ranks' means
    for activation, (first, others), (second, too) in zip(("relu", "gelu"), *ranks, strict=True):
        gradients, kept = synchronized(activation)
        for here, there, wanted in zip(first, second, gradients, strict=True):
            torch.testing.assert_close(here + there, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
        for here, there, wanted in zip(others, too, kept, strict=True):
            assert torch.equal(here, there)
            torch.testing.assert_close(here, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))

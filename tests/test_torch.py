"""The private names of torch that are in use: that this torch has them, and that one without them still traces."""

import pytest
import torch

from spp import _torch

NAMES = {
    "torch._C.DisableTorchFunction": "unseen_functions",
    "torch._C.DisableTorchFunctionSubclass": "unseen_by_subclasses",
    "torch.utils._python_dispatch._disable_current_modes": "without_modes",
    "torch._C._len_torch_function_stack": "function_modes",
    "torch._C._len_torch_dispatch_stack": "dispatch_modes",
    "torch._C._is_any_autocast_enabled": "autocasting",
    "torch._C._functorch.is_functorch_wrapped_tensor": "is_transformed",
    "torch._C._functorch.peek_interpreter_stack": "transform",
    "torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack": "without_transforms",
    "torch._C._current_graph_task_id": "graph_task",
    "torch._C._swap_tensor_impl": "swap",
    "torch._C._autograd._unsafe_set_version_counter": "set_versions",
    "torch._foreach_copy_": "copy_all",
    "torch._C._autograd.SavedTensor": "saved_tensor",
}

WITHOUT = """
import sys, types
import torch
from torch.utils import _python_dispatch
from torch._functorch import pyfunctorch

# what torch itself calls stays; what spp alone asks for by these names is gone
import spp._torch as names
for name in {names!r}:
    module, _, attribute = name.rpartition(".")
    assert names._private(module, attribute + "_renamed", None) is None
names.MISSING.clear()
source = open(names.__file__, encoding="utf-8").read()
for name in {names!r}:
    source = source.replace('"' + name.rpartition(".")[2] + '"', '"a_name_that_is_gone"')
exec(compile(source, names.__file__, "exec"), vars(names))
assert len(names.MISSING) == {count}, names.MISSING

import spp
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
before = {{k: v.clone() for k, v in model.state_dict().items()}}
run = spp.trace(model, torch.randn(6, 4))
assert set(run.frame.signal) == {{"activation", "gradient", "weight", "weight_gradient"}}
assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
print("traced", len(run.frame))
"""


@pytest.mark.parametrize(("name", "ours"), NAMES.items())
def test_this_torch_has_the_name(name, ours):
    module, _, attribute = name.rpartition(".")
    assert name not in _torch.MISSING
    assert getattr(_torch, ours) is _torch._private(module, attribute, None)


def test_the_version_counters_that_are_put_back_are_those_that_are_read():
    tensor = torch.zeros(2)
    tensor.add_(1)
    _torch.set_versions((tensor,), (0,))
    assert tensor._version == 0


def test_many_tensors_are_copied_as_one_by_one():
    into, again = [torch.zeros(3), torch.zeros(2)], [torch.zeros(3), torch.zeros(2)]
    values = [torch.arange(3.0), torch.ones(2)]
    _torch.copy_all(into, values)
    _torch._copy_each(again, values)
    assert all(torch.equal(a, b) for a, b in zip(into, again, strict=True))


def test_without_any_of_them_a_network_is_still_traced(python):
    script = WITHOUT.format(names=list(NAMES), count=len(NAMES))
    done = python(script)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("traced ")

"""``spp.models.build`` beyond the bundled networks: libraries, factories, checkpoints, sources of one's own, recipes."""

import copy
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from spp import models
from spp.errors import InputError, MissingExtraError, TraceError, UnknownNameError
from spp.models.sources import Asked, Plan
from tests import foreign

TINY = {"depth": 3, "width": 8, "input_shape": (3, 4, 4)}


def small(norm: str = "batch", num_classes: int = 4) -> nn.Module:
    layer = nn.BatchNorm1d(6) if norm == "batch" else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), layer, nn.ReLU(), nn.Linear(6, num_classes))


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6))


@pytest.fixture
def zoo(monkeypatch):
    """A module of factories."""
    module = ModuleType("zoo_of_tests")
    module.__dict__.update(small=small, plain=plain, number=lambda: 7)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.fixture
def timm(monkeypatch):
    """What ``spp`` asks of timm, with one network; the real one has tests of its own."""
    made = []

    def create_model(name, pretrained, num_classes=1000, **options):
        made.append(options)
        return small(num_classes=num_classes)

    library = ModuleType("timm")
    library.__spec__ = SimpleNamespace()
    config = SimpleNamespace(input_size=(3, 32, 32), num_classes=1000, fixed_input_size=True)
    library.__dict__.update(
        is_model=lambda name: name == "tiny",
        list_models=lambda: ["tiny"],
        get_pretrained_cfg=lambda name: config,
        create_model=create_model,
        made=made,
    )
    monkeypatch.setitem(sys.modules, "timm", library)
    return library


def test_a_network_of_timm_is_one_call(timm):
    model = models.build("timm:tiny", norm="layer", num_classes=5, input_shape=(1, 8, 8))
    assert model[-1].out_features == 5 and "BatchNorm1d" not in {type(layer).__name__ for layer in model}
    assert timm.made == [{"in_chans": 1, "img_size": (8, 8)}]
    assert models.recipe_of(model) == {
        "model": "timm:tiny",
        "norm": "layer",
        "activation": None,
        "init": None,
        "num_classes": 5,
        "replaced": 1,
        "left": {},
    }


def test_the_plan_says_what_the_network_takes_before_it_is_built(timm):
    plan = models.plan("timm:tiny", image_size=(16, 8))
    assert (plan.label, plan.shape, plan.facts["num_classes"]) == ("timm-tiny", (3, 16, 8), 1000)
    assert models.plan("timm:tiny").shape == (3, 32, 32)
    assert models.plan("ffn", norm="none", **TINY).label == "ffn-none"
    assert models.plan("resnet18_cifar", image_size=(48, 40)).shape == (3, 48, 40)
    assert timm.made == []


def test_errors_name_arguments_as_python_writes_them(timm, monkeypatch):
    with pytest.raises(UnknownNameError, match=r"model: unknown timm model 'tinny'\. Did you mean 'tiny'\? timm\.list"):
        models.build("timm:tinny")
    with pytest.raises(InputError, match=r"changed by norm and num_classes only; got init, se. Write a factory, as in"):
        models.build("timm:tiny", init="he", se="none")
    timm.create_model = lambda *_, **__: nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"timm:tiny: norm dyt needs layers to replace; got a Sequential with none"):
        models.build("timm:tiny", norm="dyt")
    monkeypatch.setattr("spp.models.sources.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"model timm:\.\.\. needs timm; got .* \"torch-spp\[timm\]\""):
        models.build("timm:tiny")


def test_a_factory_takes_what_it_knows_and_has_its_norms_replaced_otherwise(zoo):
    own = models.build(f"{zoo}:small", norm="none", num_classes=3)
    assert isinstance(own[2], nn.Identity) and own[-1].out_features == 3
    assert "replaced" not in models.recipe_of(own)
    swapped = models.build(f"{zoo}:plain", norm="dyt")
    assert type(swapped[2]).__name__ == "DyT" and models.recipe_of(swapped)["replaced"] == 1
    with pytest.raises(InputError, match=r"the factory needs to take depth=3; got got an unexpected"):
        models.build(f"{zoo}:small", depth=3)
    with pytest.raises(InputError, match=r"the factory needs to return a torch module; got int"):
        models.build(f"{zoo}:number")
    with pytest.raises(
        InputError, match=r"no_such:net: model names a factory as package.module:factory; got ModuleNotF"
    ):
        models.build("no_such:net")


def test_transformers_from_a_configuration(tmp_path):
    foreign.transformers()
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 20}))
    model = models.build(f"transformers:{file}", norm="rms")
    assert models.recipe_of(model)["class"] == "GPT2Model" and models.recipe_of(model)["replaced"] == 3
    plan = models.plan(f"transformers:{file}", tokens=7)
    assert (plan.shape, plan.names, plan.vocabulary) == ((7,), ("input_ids",), 20)
    with pytest.raises(InputError, match=r"a language model is traced on random token ids; got input_shape"):
        models.plan(f"transformers:{file}", input_shape=(3, 8, 8))


def test_a_checkpoint_is_loaded_without_running_its_code(tmp_path):
    torch.manual_seed(1)
    saved = models.build("ffn", **TINY)
    torch.save({"state_dict": saved.state_dict(), "epoch": 3}, tmp_path / "weights.pt")
    loaded = models.build("ffn", checkpoint=tmp_path / "weights.pt", **TINY)
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert models.recipe_of(loaded)["checkpoint"] == str(tmp_path / "weights.pt")
    with pytest.raises(
        InputError,
        match=r"keys of the network; got 8 unexpected.* 5 of another shape.* as it was .* \(norm, num_classes",
    ):
        models.build("ffn", checkpoint=tmp_path / "weights.pt", **{**TINY, "width": 9, "norm": "none"})
    with pytest.raises(InputError, match=r"checkpoint: a file of that name is needed; got nowhere.pt"):
        models.build("ffn", checkpoint="nowhere.pt", **TINY)
    torch.save({"weight": nn.Linear(1, 1)}, tmp_path / "code.pt")
    with pytest.raises(InputError, match=r"a checkpoint is a state dict saved by torch.save; got "):
        models.build("ffn", checkpoint=tmp_path / "code.pt", **TINY)


def test_a_source_of_ones_own_is_a_row(tmp_path):
    def mine(asked: Asked) -> Plan:
        """Networks of mine."""
        asked.check({"num_classes"})
        return Plan(f"mine-{asked.name}", asked.facts(), (3, 4, 4), lambda: small(**asked.changes))

    models.SOURCES.register("mine", mine)
    try:
        assert models.SOURCES.describe("mine") == "Networks of mine."
        model = models.build("mine:small", num_classes=2)
        assert model[-1].out_features == 2 and models.recipe_of(model)["model"] == "mine:small"
        with pytest.raises(InputError, match=r"got activation"):
            models.build("mine:small", activation="tanh")
    finally:
        models.SOURCES.unregister("mine")


def test_a_library_that_fails_is_said(timm):
    def broken(*_, **__):
        raise ValueError("too small\nfor this")

    timm.create_model = broken
    with pytest.raises(
        TraceError, match=r"timm:tiny: the library needs to build the network; got ValueError: too small."
    ):
        models.build("timm:tiny")


def test_the_recipe_goes_where_the_model_goes_and_not_into_its_state():
    model = models.build("ffn", **TINY)
    recipe = {"model": "ffn", "norm": "batch_minus", "activation": "relu", "init": "he_fan_out", "num_classes": 100}
    assert models.recipe_of(model) == recipe
    assert models.recipe_of(copy.deepcopy(model)) == recipe
    assert models.recipe_of(nn.DataParallel(model)) == recipe
    assert models.recipe_of(torch.compile(model, backend="eager")) == recipe
    assert models.recipe_of(nn.Linear(1, 1)) == {}
    assert not any("recipe" in key for key in model.state_dict())
    models.recipe_of(model)["norm"] = "mine"
    assert models.recipe_of(model) == recipe
    assert models.recipe_of(models.build("resnet18_cifar", se="none"))["se"] == "none"

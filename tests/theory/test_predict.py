"""``predict`` and ``attach`` as their users meet them: what they take, leave alone, say and return."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spp
from spp.errors import InputError
from spp.frame import schema
from spp.nn.residual import StochasticDepth
from spp.theory import attach, predict
from spp.theory.table import PREDICTION_COLUMNS

PREDICTED = [str(column) for column in schema.PREDICTED]


def small():
    torch.manual_seed(0)
    return spp.models.build("resnet20", norm="batch")


def state_of(model):
    return {
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "grads": [p.grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "attributes": [sorted(m.__dict__) for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "random": torch.get_rng_state(),
    }


def test_nothing_of_the_model_changes():
    model = small()
    before = state_of(model)
    predict(model, (4, 3, 32, 32))
    after = state_of(model)
    assert before["state"].keys() == after["state"].keys()
    for key in before["state"]:
        assert torch.equal(before["state"][key], after["state"][key]), key
    assert torch.equal(before["random"], after["random"])
    for key in ("grads", "training", "attributes", "hooks"):
        assert before[key] == after[key], key
    assert all("forward" not in m.__dict__ for m in model.modules())


class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("this layer is broken")


def test_nothing_changes_either_where_the_forward_fails():
    model = nn.Sequential(nn.Linear(8, 8), Fails(), nn.ReLU())
    own = model[0].forward
    model[0].__dict__["forward"] = own  # somebody's own
    before = state_of(model)
    table = predict(model, (4, 8))
    assert state_of(model)["attributes"] == before["attributes"]
    assert model[0].__dict__["forward"] is own
    rows = table.set_index("name")
    assert rows.loc["0", "reason"] == "" and rows.loc["0", "acv_predicted"] > 0
    for name in ("", "1", "2"):
        assert rows.loc[name, "reason"] == "the forward pass could not be followed: ValueError: this layer is broken"
        assert np.isnan(rows.loc[name, "acv_predicted"])


def test_it_works_where_gradients_are_off():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    with torch.no_grad():
        first = predict(model, (4, 8))
    with torch.inference_mode():
        second = predict(model, (4, 8))
    pd.testing.assert_frame_equal(first, second)


def test_the_table_has_the_rows_of_the_frame():
    model = small()
    table = predict(model, (4, 3, 32, 32))
    schema.check(table, PREDICTION_COLUMNS)
    frame = spp.trace(model, spp.data.gaussian(4, (3, 32, 32)), signals=["activation"]).frame
    keys = ["name", "call", "output"]
    assert set(map(tuple, table[keys].to_numpy())) == set(map(tuple, frame[keys].to_numpy()))
    assert (table["reason"] == "").all()


def test_attach_adds_the_columns_where_they_belong():
    model = small()
    trace = spp.trace(model, spp.data.gaussian(4, (3, 32, 32)))
    before = trace.frame.copy()
    joined = attach(trace.frame, predict(model, (4, 3, 32, 32)))
    pd.testing.assert_frame_equal(trace.frame, before)
    pd.testing.assert_frame_equal(joined[list(before.columns)], before)
    assert list(joined.columns) == [*before.columns, *PREDICTED]
    filled = joined.groupby("signal", observed=True)[PREDICTED].agg(lambda c: c.notna().any())
    assert filled.loc["activation"].tolist() == [True, True, False, True]
    assert filled.loc["gradient"].tolist() == [False, False, True, True]
    assert not filled.loc["weight"].any() and not filled.loc["weight_gradient"].any()
    again = attach(joined, predict(model, (4, 3, 32, 32)))
    pd.testing.assert_frame_equal(again, joined)


def test_gradients_begin_as_the_loss_has_them():
    model = small()
    inputs, targets = spp.data.gaussian(16, (3, 32, 32), num_classes=10)
    trace = spp.trace(model, (inputs, targets))
    joined = attach(trace.frame, predict(model, (16, 3, 32, 32)))
    root = joined[(joined["name"] == "") & (joined["signal"] == "gradient")].iloc[0]
    assert root["mean_square"] < 0.1  # cross-entropy over 16 samples
    assert root["gradient_predicted"] == pytest.approx(root["mean_square"])


def test_a_run_with_predictions_is_saved_and_loaded(tmp_path):
    model = small()
    trace = spp.trace(model, spp.data.gaussian(4, (3, 32, 32)))
    trace.frame = attach(trace.frame, predict(model, (4, 3, 32, 32)))
    trace.save(tmp_path / "run")
    loaded = spp.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.frame, trace.frame)
    schema.check(loaded.frame, schema.COLUMNS)
    with pytest.raises(InputError, match="a frame needs the columns of the schema"):
        schema.check(loaded.frame.drop(columns="acv_predicted"), schema.COLUMNS)


class Sorted(nn.Module):
    def forward(self, x):
        return x.sort(dim=1).values


class Decides(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        return {"left": self.left(x), "rest": (self.right(x), torch.ones(2))}


def test_what_has_no_rule_is_said_and_so_is_what_follows():
    rows = predict(nn.Sequential(nn.Linear(8, 8), Sorted(), nn.ReLU()), (4, 8)).set_index("name")
    assert rows["reason"].tolist() == ["", "no rule for sort", "no rule for sort", "no rule for sort"]
    assert rows["acv_predicted"].notna().tolist() == [True, False, False, False]
    rows = predict(nn.Sequential(nn.Linear(8, 8), Decides()), (4, 8)).set_index("name")
    assert rows.loc["1", "reason"].startswith("the forward pass could not be followed: ")
    rows = predict(nn.Sequential(nn.Embedding(5, 8)), (4, 3)).set_index("name")
    assert rows.loc["", "reason"].startswith("the forward pass could not be followed: ") or rows.loc["", "reason"]


def test_outputs_have_the_paths_of_the_frame():
    torch.manual_seed(0)
    rows = predict(Pair(), (4, 8)).set_index(["name", "output"])
    assert rows.loc[("", "left"), "acv_predicted"] == rows.loc[("left", ""), "acv_predicted"]
    assert rows.loc[("", "rest.0"), "gradient_predicted"] == 1
    assert rows.loc[("", "rest.1"), "reason"] == "a tensor that does not depend on the input's values"


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(self.layer(x).relu_())


def test_calls_are_counted():
    assert predict(Twice(), (4, 8)).set_index("name").loc["layer", "call"].tolist() == [0, 1]


class Residual(nn.Module):
    """As torchvision writes it: in place, with stochastic depth."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(64, 64, 1), nn.ReLU(inplace=True)
        self.drop = StochasticDepth(0.5)

    def forward(self, x):
        identity = x
        out = self.drop(self.conv(x))
        out += identity
        return self.relu(out)


def test_a_sum_in_place_with_a_branch_that_is_dropped():
    torch.manual_seed(0)
    model = Residual()
    nn.init.normal_(model.conv.weight, std=64**-0.5)
    nn.init.zeros_(model.conv.bias)
    rows = predict(model, (8, 64, 4, 4)).set_index("name")
    whole = rows["acsm_predicted"] + rows["acv_predicted"]
    assert whole["drop"] == pytest.approx(2 * whole["conv"])
    assert whole[""] == pytest.approx((1 + whole["drop"]) / 2, rel=1e-6)  # ReLU halves what is symmetric
    assert rows.loc["conv", "gradient_predicted"] == pytest.approx(2 * rows.loc["drop", "gradient_predicted"])


def test_signals_of_any_size_are_followed():
    """ReLU is homogeneous: a small first layer makes every later second moment smaller by the same factor, and none stays."""
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32, bias=False) for _ in range(6)]
    model = nn.Sequential(*(step for layer in layers for step in (layer, nn.ReLU())))
    plain = predict(model, (8, 32))
    with torch.no_grad():
        layers[0].weight *= 1e-12
    small = predict(model, (8, 32))
    leaf = plain["name"] != ""
    for column in ("acsm_predicted", "acv_predicted"):
        assert small.loc[leaf, column].to_numpy() == pytest.approx(1e-24 * plain.loc[leaf, column].to_numpy(), rel=1e-6)


@pytest.mark.parametrize(
    ("batch", "received"),
    [((4,), r"\(4,\)"), ("4x8", "'4x8'"), ((4, 0), r"\(4, 0\)"), ((4, 2.5), r"\(4, 2.5\)"), (None, "None")],
)
def test_what_is_no_shape_is_said(batch, received):
    with pytest.raises(InputError, match=f"batch: a prediction starts from the shape of one batch.*got {received}"):
        predict(nn.Linear(8, 8), batch)


def test_what_is_no_tensor_of_samples_or_no_module_is_said():
    with pytest.raises(InputError, match=r"a floating tensor \(N, C, ...\); got torch.int64 of shape \(4, 8\)"):
        predict(nn.Linear(8, 8), torch.ones(4, 8, dtype=torch.int64))
    with pytest.raises(InputError, match=r"model: a model is a torch.nn.Module; got a str"):
        predict("ffn", (4, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 8))
    expected = predict(model, (4, 16))
    found = predict(model.to(dtype), (4, 16))
    assert found["acv_predicted"].tolist() == pytest.approx(expected["acv_predicted"].tolist(), rel=0.02)


@pytest.mark.parametrize(
    "name", ["effnet_b0_nf", "effnet_b0_snmp", "fixup_resnet50", "resnet18_cifar", "effnet_b0_dyt"]
)
def test_bundled_networks_are_followed_to_the_end(name):
    torch.manual_seed(0)
    model = spp.models.build(name, input_shape=(3, 32, 32), num_classes=10)
    table = predict(model, (4, 3, 32, 32))
    assert (table["reason"] == "").all(), table[table["reason"] != ""]
    assert table["acv_predicted"].notna().all()

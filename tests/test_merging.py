"""Several batches as one run: what differs between them, in length or in what they call, costs no other row anything."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

import spp


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.query, self.soft, self.head = (
            nn.Embedding(50, 8),
            nn.Linear(8, 8),
            nn.Softmax(-1),
            nn.Linear(8, 50),
        )

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(self.soft(self.query(x) @ x.transpose(1, 2)) @ x)


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.flat, self.head = nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(x)
        return self.head(x.mean(2)) + self.flat(x).mean(1, keepdim=True)


def ids(length: int) -> torch.Tensor:
    return torch.randint(50, (4, length))


VARYING = {
    "softmax": (Attention, "soft", [ids(n) for n in (7, 12, 9)]),
    "flatten": (Flattened, "flat", [torch.randn(4, 3, n) for n in (8, 11, 8)]),
    "images of several sizes": (nn.Flatten, "", [torch.randn(2, 3, n, n) for n in (4, 5, 4)]),
    "by the user's axis": (lambda: nn.Conv1d(3, 4, 1), "", [torch.randn(4, 3, n) for n in (8, 11, 8)]),
}


@pytest.mark.parametrize("case", VARYING)
def test_a_channel_axis_of_varying_length_leaves_the_moments_of_the_whole_tensor(case):
    make, name, batches = VARYING[case]
    model, caught = make(), []
    options = {"channel_axis": -1} if case == "by the user's axis" else {}
    trace = spp.trace(model, batches, **options)
    rows = trace.frame[(trace.frame.name == name) & (trace.frame.signal == "activation")]
    dict(model.named_modules())[name].register_forward_hook(lambda *a: caught.append(a[-1].detach().flatten()))
    for one in batches:
        model(one)
    values = torch.cat(caught).double()
    row = rows.iloc[0]
    assert row["numel"] == len(values) and row["channels"] == 0
    np.testing.assert_allclose(
        row[["mean", "var", "min", "max"]].to_numpy(float),
        [float(f) for f in (values.mean(), values.var(unbiased=False), values.min(), values.max())],
        rtol=1e-6,
        atol=1e-7,
    )
    np.testing.assert_allclose(row["rms"], float(values.square().mean().sqrt()), rtol=1e-6)
    assert np.isnan(row[["acsm", "acv", "dead_fraction"]].to_numpy(float)).all()
    why = trace.unmeasured[(trace.unmeasured.name == name) & (trace.unmeasured.signal == "activation")]
    assert why["reason"].str.contains("the channel axis has another length in other batches").all() and len(why) == 1
    assert not trace.findings["rule"].isin(["never_ran", "no_gradient"]).any()


def test_the_other_rows_are_what_they_are_alone():
    model, batches = Attention(), [ids(n) for n in (7, 12, 9)]
    trace = spp.trace(model, batches, statistics=("kurtosis",), exponents=True, channels=True)
    row = trace.frame.query("name == 'query' and signal == 'activation'").iloc[0]
    x = torch.cat([model.query(model.embed(one)).detach().flatten(0, 1) for one in batches]).double()
    assert row["numel"] == x.numel() and row["channels"] == 8
    np.testing.assert_allclose(row["acsm"], float(x.mean(0).square().mean()), rtol=1e-6)
    np.testing.assert_allclose(row["acv"], float(x.var(0, unbiased=False).mean()), rtol=1e-6)
    # every table is still made, and the softmax has no channels to speak of
    assert trace.frame["kurtosis"].notna().any() and len(trace.exponents)
    assert set(trace.channels["name"]) >= {"query", "embed"} and "soft" not in set(trace.channels["name"])


class Skipping(nn.Module):
    """Calls its layers by turns, as LayerDrop and a mixture of experts do."""

    def __init__(self, turns: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), nn.Linear(8, 3)
        self.turns, self.number = turns, 0

    def forward(self, x):
        for i in self.turns[self.number % len(self.turns)]:
            x = x + torch.relu(self.layers[i](x))
        self.number += 1
        return self.head(x)


class Caught(Skipping):
    """A layer that raises on some batches, and whose caller goes on without it."""

    def forward(self, x):
        self.number += 1
        with contextlib.suppress(RuntimeError):
            x = x + self.layers[0](x[:, :7] if self.number == 1 else x)
        for layer in self.layers[1:]:
            x = layer(x)
        return self.head(x)


class Detached(Skipping):
    """A layer whose output is detached in some batches."""

    def forward(self, x):
        self.number += 1
        for layer in self.layers:
            x = layer(x)
            x = x.detach() if layer is self.layers[2] and self.number != 2 else x
        return self.head(x)


def eights(n: int = 3) -> list[torch.Tensor]:
    return [torch.randn(6, 8, generator=torch.Generator().manual_seed(i)) for i in range(n)]


PARTLY = {
    "LayerDrop": (lambda: Skipping([(1, 2), (0, 2), (0, 1, 3)]), [2, 2, 2, 1]),
    "experts": (lambda: Skipping([(0,), (1, 2), (3,)]), [1, 1, 1, 1]),
    "a call that raises": (lambda: Caught([]), [3, 3, 3, 3]),
    "a graph that is cut": (lambda: Detached([]), [3, 3, 3, 3]),
}


@pytest.mark.parametrize("case", PARTLY)
def test_what_some_batch_measured_is_not_unmeasured(case):
    make, called = PARTLY[case]
    trace = spp.trace(make(), eights(), restore=False)
    for signal in ("activation", "gradient", "weight_gradient"):
        assert {f"layers.{i}" for i in range(4)} <= set(trace.frame[trace.frame.signal == signal].name), signal
    assert trace.unmeasured[trace.unmeasured.name.str.startswith("layers")].empty
    assert not trace.findings.frame.rule.isin(["no_gradient", "never_ran"]).any()
    rows = trace.frame.set_index(["name", "signal", "output"]).sort_index()
    assert [rows.loc[(f"layers.{i}", "activation", ""), "called"] for i in range(4)] == called
    assert [rows.loc[(f"layers.{i}", "weight", "weight"), "called"] for i in range(4)] == called
    assert rows.loc[("head", "activation", ""), "called"] == rows.loc[("", "gradient", ""), "called"] == 3
    assert trace.frame.depth.notna().all() and (trace.modules.depth.notna() == (trace.modules.calls > 0)).all()


def test_what_no_batch_measured_says_how_often_it_was_called():
    model = Skipping([(1, 2), (2,), (2, 1)])
    for parameter in model.layers[1].parameters():
        parameter.requires_grad_(False)
    trace = spp.trace(model, eights(), restore=False)
    reasons = trace.unmeasured.set_index(["name", "signal"]).sort_index()["reason"]
    assert (reasons["layers.1", "weight_gradient"] == "frozen: requires_grad is False (called in 2 of 3 batches)").all()
    assert reasons["layers.0", "activation"].startswith("never called in this pass")
    assert trace.findings.frame.rule.eq("never_ran").any()  # layers 0 and 3 ran in no batch
    never = trace.frame[(trace.frame.name == "layers.0") & (trace.frame.signal == "weight")]
    assert (never["called"] == 0).all() and never["depth"].isna().all()


def test_a_hole_of_all_batches_is_still_a_finding():
    class Cut(Skipping):
        def forward(self, x):
            return self.head(super().forward(x).detach().repeat(1, 3)[:, :8])

    trace = spp.trace(Cut([(0, 1), (2, 3), (0, 3)]), eights(), restore=False)
    assert trace.findings.frame.rule.eq("no_gradient").any()


@pytest.mark.parametrize("every_step", [1, 3])
def test_a_watch_strikes_out_what_a_later_forward_filled(every_step, tmp_path):
    model = Skipping([(1, 2), (0, 2), (0, 1, 3)])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with spp.watch(model, optimizer, every=1, path=tmp_path / "run") as watch:
        for number, x in enumerate(eights(6)):
            model(x).square().mean().backward()
            if (number + 1) % every_step == 0:
                optimizer.step()
                optimizer.zero_grad()
    assert watch.unmeasured[watch.unmeasured.signal.isin(["activation", "weight_gradient"])].empty
    assert not watch.findings.frame.rule.isin(["no_gradient", "never_ran"]).any()
    called = watch.frame.query("name == 'layers.2' and signal == 'gradient'")["called"]
    assert called.tolist() == ([1] * 4 if every_step == 1 else [2, 2])
    again = spp.load(tmp_path / "run")
    assert len(again.unmeasured) == len(watch.unmeasured) and again.frame["called"].equals(watch.frame["called"])

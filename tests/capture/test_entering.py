"""What enters a leaf is measured as it enters: by reference where a module gave it out, else in ``run.inputs``."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import spp
from spp.capture.stage import Stage
from spp.diagnosis.view import Key, View


class Functions(nn.Module):
    """Functions between modules: a product, attention by hand, a tensor that three take, one written to after it entered."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled, self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(4))
        self.out, self.act, self.end = nn.Sigmoid(), nn.ReLU(inplace=True), nn.Linear(6, 2)
        self.seen: dict[str, np.ndarray] = {}

    def note(self, name: str, tensor: Tensor) -> Tensor:
        self.seen[name] = tensor.detach().double().numpy().copy()
        return tensor

    def forward(self, x: Tensor) -> Tensor:
        h = self.scaled(self.note("scaled", x)) * 3
        for name in ("q", "k", "v"):
            self.note(name, h)
        q, k, v = self.q(h), self.k(h), self.note("act", self.v(h))
        v = self.act(v)
        mixed = self.note("out", (q @ k.transpose(-1, -2)).sigmoid() @ v)
        h = self.out(mixed)
        mixed.detach().zero_()
        return self.end(self.note("end", h))


@pytest.fixture
def run() -> tuple[spp.Run, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    model = Functions()
    batch = torch.randn(4, 5, 6)
    seen: dict[str, np.ndarray] = {}
    # a trace puts the model's attributes back
    model.note = lambda name, t: (seen.update({name: t.detach().double().numpy().copy()}), t)[1]  # type: ignore[method-assign]
    return spp.trace(model, batch, functions=False), seen


def test_moments_are_those_of_what_entered(run: tuple[spp.Run, dict[str, np.ndarray]]) -> None:
    trace, seen = run
    steps = {step.name: step for step in View(trace).steps}
    assert set(seen) == {"scaled", "q", "k", "v", "out", "act", "end"} <= set(steps)
    for name, tensor in seen.items():
        np.testing.assert_allclose(steps[name].fed_mean_square, (tensor**2).mean(), rtol=1e-6)
    rows = trace.inputs.set_index("name")
    assert list(rows.index) == ["scaled", "q", "k", "v", "out"]
    for name, row in rows.iterrows():
        channels = seen[str(name)].reshape(-1, 6)
        np.testing.assert_allclose(row["acsm"], (channels.mean(0) ** 2).mean(), rtol=1e-5)
        np.testing.assert_allclose(row["acv"], channels.var(0).mean(), rtol=1e-5)
    words = trace.modules.set_index("name")["input_rows"]
    assert words[["scaled", "out", "act", "end"]].tolist() == [".", ".", "v", "out"]


def test_no_tensor_is_reduced_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced: list[int] = []
    plain = Stage.reduce

    def counted(self: Stage, tensor: Tensor, *more: object) -> object:
        reduced.append(tensor.data_ptr())
        return plain(self, tensor, *more)  # type: ignore[arg-type]

    model, batch = Functions(), torch.randn(4, 5, 6)
    monkeypatch.setattr(Stage, "reduce", counted)
    trace = spp.trace(model, batch, signals="activation", functions=False)
    # of each module (the root gives out what its last one does), of the batch, the product that three take, and the mixture
    assert len(reduced) == 7 + 3 and len(trace.inputs) == 5
    reduced.clear()
    trace = spp.trace(HandsOn(), torch.randn(4, 6), signals="activation")
    # of the batch, what the first gives out, the product that the second hands on, and what the third gives out
    assert len(reduced) == 4 and trace.inputs["name"].tolist() == ["first", "second"]


class HandsOn(nn.Module):
    """A module that gives out what it takes, behind a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), nn.Identity(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.third(self.second(self.first(x) * 3))
        return out


@pytest.mark.parametrize("names", [("conv", "linear"), ("linear", "conv")])
def test_takers_of_other_layouts_have_other_channels(names: tuple[str, str]) -> None:
    class Layouts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv1d(6, 3, 1), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 2
            first, second = (self.get_submodule(name)(x).sum() for name in names)
            return first + second

    batch = torch.randn(4, 6, 10) + torch.arange(10.0) + 3 * torch.arange(6.0)[:, None]
    rows = spp.trace(Layouts(), batch).inputs.set_index("name")
    for name, axis in (("conv", 1), ("linear", 2)):
        channels = np.moveaxis(2 * batch.double().numpy(), axis, 0).reshape(batch.shape[axis], -1)
        assert rows.loc[name, "channels"] == len(channels)
        np.testing.assert_allclose(rows.loc[name, "acsm"], (channels.mean(1) ** 2).mean(), rtol=1e-6)
        np.testing.assert_allclose(rows.loc[name, "acv"], channels.var(1).mean(), rtol=1e-6)


def test_batches_merge_and_runs_keep_them(tmp_path: pytest.TempPathFactory) -> None:
    torch.manual_seed(0)
    model, batch = Functions(), torch.randn(8, 5, 6)
    whole, parts = spp.trace(model, batch), spp.trace(model, iter(batch.split(4)))
    columns = ["name", "call", "numel", "mean_square", "acsm", "acv", "min", "max"]
    pd.testing.assert_frame_equal(whole.inputs[columns], parts.inputs[columns], rtol=1e-9)
    kept = spp.load(whole.save(tmp_path / "run"))  # type: ignore[operator]
    pd.testing.assert_frame_equal(kept.inputs, whole.inputs)
    step = {one.key: one for one in View(kept).steps}[Key("out")]
    assert step.fed_mean_square == whole.inputs.set_index("name").loc["out", "mean_square"]
    # a run of before has neither the table nor the column: what fed a step stands for what entered it
    kept._tables["inputs"] = kept.inputs.iloc[:0]
    kept._tables["modules"] = kept.modules.assign(input_rows=None)
    step = {one.key: one for one in View(kept).steps}[Key("q")]
    assert step.fed_mean_square == whole.frame.set_index("name").loc["scaled", "mean_square"].iloc[0]


def test_where_infinity_is_made_is_known_where_what_entered_was_finite() -> None:
    class Overflows(nn.Module):
        def __init__(self, between: bool) -> None:
            super().__init__()
            self.first, self.second, self.between = nn.Linear(4, 4), nn.Linear(4, 4), between
            nn.init.constant_(self.second.weight, 3e38 if not between else 0.1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).abs() + 1
            return self.second(h * 1e38 * 1e38 if self.between else h * 4)

    said = {}
    for between in (False, True):
        trace = spp.trace(Overflows(between), torch.ones(4, 4), loss=lambda out, _: out.sum() * 0)
        said[between] = next(f.message for f in trace.findings if f.rule == "nonfinite")
    assert "made in second (Linear), whose input is finite" in said[False]
    assert "between" in said[True] and "whose input" not in said[True]


def test_a_watch_goes_without(tmp_path: pytest.TempPathFactory) -> None:
    model = Functions()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with spp.watch(model, optimizer=optimizer) as watch:
        model(torch.randn(4, 5, 6)).square().mean().backward()
        optimizer.step()
    assert watch.inputs.empty and not watch.frame.empty
    words = watch.modules.set_index("name")["input_rows"]
    assert words["end"] == "out" and pd.isna(words["out"])

"""NaN and the infinities are three counts, through every way that a tensor is measured; -inf as a mask is no error."""

import math

import pytest
import torch
from torch import nn

import spp
from spp.stats import backends

NAN, INF = math.nan, math.inf
KINDS = ("nonfinite", "nan", "posinf", "neginf")


@pytest.fixture(params=["native", "reference"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("SPP_KERNELS", "auto" if request.param == "native" else "off")
    backends.choose()
    yield
    monkeypatch.undo()
    backends.choose()


def values(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    x[0, 1], x[1, 2], x[1, 3], x[2, 0], x[3, 5], x[3, 4] = NAN, INF, INF, -INF, -INF, -INF
    return x.to(dtype)


def counts(frame, name: str = "0", signal: str = "activation") -> list[int]:
    return frame[(frame.name == name) & (frame.signal == signal)][list(KINDS)].astype(int).to_numpy().tolist()[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_three_counts_in_one_batch_and_over_several(dtype):
    model = nn.Sequential(nn.Identity(), nn.Flatten())
    assert counts(spp.trace(model, values(dtype)).frame) == [6, 1, 2, 3]
    clean = torch.zeros(4, 6, dtype=dtype)
    frame = spp.trace(model, [values(dtype), clean, values(dtype)]).frame
    assert counts(frame) == [12, 2, 4, 6] and counts(spp.trace(model, [clean] * 3).frame) == [0, 0, 0, 0]
    assert [str(frame[kind].dtype) for kind in KINDS] == ["int64", "Int64", "Int64", "Int64"]


def test_weights_gradients_and_varying_lengths():
    model = nn.Sequential(nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[0, 0], model[0].weight[1, 1] = -INF, NAN
    frame = spp.trace(model, torch.ones(2, 6), loss=lambda y, _: (y * torch.tensor([1.0, 1.0, INF])).sum()).frame
    assert counts(frame, signal="weight") == [2, 1, 0, 1] and counts(frame, signal="gradient") == [2, 0, 2, 0]
    lengths = [torch.cat([values(), torch.zeros(4, n)], dim=1) for n in (0, 2, 1)]
    assert counts(spp.trace(nn.Sequential(nn.Identity()), lengths).frame) == [18, 3, 6, 9]


def test_a_watch_and_a_saved_run_have_them(tmp_path):
    model = nn.Sequential(nn.Identity(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with spp.watch(model, optimizer, every=1, path=tmp_path / "run") as watch:
        for _ in range(2):
            for x in (values(), torch.ones(4, 6)):
                model(x).sum().backward()
            optimizer.step()
    assert counts(watch.frame) == counts(spp.load(tmp_path / "run").frame) == [6, 1, 2, 3]


class Scores(nn.Module):
    """Masked logits, in a module of their own, before what takes them."""

    def __init__(self, taker: nn.Module) -> None:
        super().__init__()
        self.fc, self.mask, self.taker, self.head = nn.Linear(6, 6), Mask(), taker, nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.taker(self.mask(self.fc(x))))


class Mask(nn.Module):
    def forward(self, x):
        return x.masked_fill(torch.ones(6, 6).triu(1).bool()[: len(x)], -INF)


class Wrapped(nn.Module):
    """A container that gives out what its mask did."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.mask = nn.Linear(6, 6), Mask()

    def forward(self, x):
        return self.mask(self.fc(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scores(nn.Softmax(-1)),
        lambda: Scores(nn.Sigmoid()),
        lambda: nn.Sequential(Wrapped(), nn.Softmax(-1), nn.Linear(6, 2)),
    ],
    ids=["softmax", "sigmoid", "in a container"],
)
def test_a_mask_before_what_is_finite_is_a_note(make):
    found = spp.trace(make(), torch.randn(6, 6)).findings.frame
    rows = found[(found.rule == "nonfinite")]
    assert rows.severity.tolist() == ["note"] and rows.statistic.tolist() == ["neginf"] and "mask" in rows.name.item()


class Policy(nn.Module):
    """Gives out logits of which some actions are forbidden, or logarithms of which some are of 0."""

    def __init__(self, forbid) -> None:
        super().__init__()
        self.fc, self.forbid, self.out = nn.Linear(6, 4), forbid, nn.Identity()

    def forward(self, x):
        return self.out(self.forbid(self.fc(x)))


def masked(h):
    return h.masked_fill(torch.tensor([False, False, False, True]), -INF)


def test_logits_that_are_masked_at_the_end_are_a_note():
    x, allowed = torch.randn(6, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    model = Policy(masked)
    with spp.watch(model, optimizer=(sgd := torch.optim.SGD(model.parameters(), 0.1)), every=1) as watch:
        nn.functional.cross_entropy(model(x), allowed).backward()
        sgd.step()
    for run in (spp.trace(model, (x, allowed)), spp.trace(model, x), watch):
        rows = run.findings.frame.query("rule == 'nonfinite'")
        assert rows.severity.tolist() == ["note"] and rows.name.tolist() == ["out"]


@pytest.mark.parametrize("end", ["a logarithm of 0", "its gradient", "a forbidden target"])
def test_infinity_that_reaches_the_loss_or_a_gradient_is_an_error(end):
    model = Policy(masked if end == "a forbidden target" else lambda h: h.relu().log())
    batch = torch.randn(6, 6) if end == "its gradient" else (torch.randn(6, 6), torch.full((6,), 3))
    rows = spp.trace(model, batch).findings.frame.query("rule == 'nonfinite'")
    assert rows.severity.tolist() == ["error"]


@pytest.mark.parametrize(
    "taker", [nn.Linear(6, 6), nn.ReLU6(), nn.Identity()], ids=["linear", "finite, nan besides", "identity"]
)
def test_infinities_that_go_on_and_nan_are_errors(taker):
    model = Scores(taker)
    if isinstance(taker, nn.ReLU6):
        with torch.no_grad():
            model.fc.weight[0] = NAN
    found = spp.trace(model, torch.randn(6, 6)).findings.frame
    assert found[found.rule == "nonfinite"].severity.tolist() == ["error"]


class Between(nn.Module):
    """Makes NaN by a function between two modules."""

    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.b, self.c, self.function = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3), function

    def forward(self, x):
        return self.c(torch.relu(self.b(self.function(self.a(x) - 2))))


@pytest.mark.parametrize("function", [torch.sqrt, torch.log, lambda x: x / (x - x)], ids=["sqrt", "log", "0/0"])
def test_nan_made_between_two_modules_is_not_blamed_on_the_taker(function):
    first = spp.trace(Between(function), torch.randn(8, 6)).findings.frame.iloc[0]
    assert first["rule"] == "nonfinite" and first["severity"] == "error"
    assert "functions between it and what feeds it" in first["remedy"]

"""Several batches as one run: what differs between them, in length or in what they call, costs no other row anything."""

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

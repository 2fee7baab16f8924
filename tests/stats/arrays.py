"""Tensors of every layout and dtype the reductions promise to take, and a float64 NumPy oracle for their tables."""

import numpy as np
import torch
from hypothesis import strategies as st

from spp.stats.sums import Row

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def contiguous(x: torch.Tensor) -> torch.Tensor:
    return x


def transposed(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() > 1 else x


def reversed_memory(x: torch.Tensor) -> torch.Tensor:
    order = tuple(range(x.dim()))[::-1]
    return x.permute(order).contiguous().permute(order)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    if x.dim() == 4:
        return x.to(memory_format=torch.channels_last)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x


def sliced(x: torch.Tensor) -> torch.Tensor:
    """The same numbers inside a larger tensor: no two axes collapse."""
    if x.dim() == 0:
        return x
    larger = x.new_full([n + 2 for n in x.shape], 7.0)
    inside = larger[tuple(slice(1, 1 + n) for n in x.shape)]
    inside.copy_(x)
    return inside


def expanded(x: torch.Tensor) -> torch.Tensor:
    return x[:1].expand(x.shape) if x.dim() and x.shape[0] else x


LAYOUTS = (contiguous, transposed, reversed_memory, channels_last, sliced, expanded)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[torch.Tensor, int | None]:
    """A tensor of rank 0 to 6 with any layout, dtype, offset and spread, perhaps with zeros and non-finite values."""
    shape = draw(
        st.lists(st.sampled_from([1, 2, 3, 5, 17, 70]), max_size=6).filter(lambda s: np.prod(s or [1]) <= 20_000)
    )
    dtype = draw(st.sampled_from(FLOATS))
    ratio = draw(st.sampled_from([0.0, 1.0, 30.0, 1e3])) if dtype in (torch.float32, torch.float64) else 1.0
    scale = draw(st.sampled_from([1.0, 1e-12, 1e12])) if dtype is not torch.float16 else 1.0
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) + ratio) * scale
    if draw(st.booleans()):
        x = torch.where(torch.rand(shape, generator=generator) < 0.2, 0.0, x)
    x = x.to(dtype)
    if draw(st.booleans()):
        for value in (float("nan"), float("inf"), -float("inf")):
            x = torch.where(torch.rand(shape, generator=generator) < 0.05, torch.tensor(value, dtype=dtype), x)
    x = draw(st.sampled_from(LAYOUTS))(x)
    axis = draw(st.sampled_from([None, *range(x.dim())]))
    return x, axis


def oracle(x: torch.Tensor, axis: int | None) -> np.ndarray:
    """The ``(8, C)`` table from its definition, in float64 (long double for the sums)."""
    values = x.detach().to(torch.float64).numpy()
    rows = values.reshape(1, -1) if axis is None or values.ndim == 0 else np.moveaxis(values, axis, 0)
    rows = rows.reshape(rows.shape[0], values.size // max(1, rows.shape[0])).astype(np.longdouble)
    table = np.zeros((len(Row), rows.shape[0]))
    for c, row in enumerate(rows):
        finite = row[np.isfinite(row)]
        mean = finite.mean() if finite.size else 0.0
        table[:, c] = [
            finite.size,
            mean,
            ((finite - mean) ** 2).sum(),
            finite.min() if finite.size else np.inf,
            finite.max() if finite.size else -np.inf,
            (finite == 0).sum(),
            row.size - finite.size,
            0,
        ]
    return table


def assert_table(table: torch.Tensor, x: torch.Tensor, axis: int | None, *, second: float, first: float = 1e-6) -> None:
    """Second moments to ``second`` relative, means to ``first`` of the rms, everything counted or compared exactly."""
    expected, found = oracle(x, axis), table.numpy()
    for row in (Row.COUNT, Row.ZEROS, Row.NONFINITE, Row.MIN, Row.MAX):
        np.testing.assert_array_equal(found[row], expected[row], err_msg=row.name)
    count = np.maximum(expected[Row.COUNT], 1)
    rms = np.sqrt(expected[Row.M2] / count + expected[Row.MEAN] ** 2)
    assert np.all(np.abs(found[Row.MEAN] - expected[Row.MEAN]) <= first * rms), "means"
    # the spread of values that all but equal each other is known to the rounding of the values themselves
    resolution = count * (np.finfo(np.float64).eps * np.abs(expected[Row.MEAN])) ** 2
    error = np.abs(found[Row.M2] - expected[Row.M2])
    assert np.all(error <= second * expected[Row.M2] + 10 * resolution + 1e-300), f"m2 {error.max()}"

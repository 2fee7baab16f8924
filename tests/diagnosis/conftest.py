import pandas as pd
import pytest
import torch

from spp.frame.schema import COLUMNS, Column, check
from spp.layers import kind_of_name

NUMBERS = {
    Column.MEAN: 0.0,
    Column.VAR: 1.0,
    Column.ZERO_FRACTION: 0.0,
    Column.DEAD_FRACTION: 0.0,
    Column.MIN: -3.0,
    Column.MAX: 3.0,
    Column.ABS_MAX: 3.0,
}


def make_frame(rows: list[dict]) -> pd.DataFrame:
    """A frame of the schema from what matters about each row; ``acsm`` and ``acv`` give ``mean_square`` and ``rms``."""
    full = []
    for depth, given in enumerate(rows):
        row = dict.fromkeys(COLUMNS, None) | NUMBERS
        row |= {
            Column.STEP: 0,
            Column.DEPTH: depth,
            Column.CALL: 0,
            Column.OUTPUT: "",
            Column.TYPE: "Linear",
            Column.LEAF: True,
            Column.SIGNAL: "activation",
            Column.SHAPE: "8x4",
            Column.DTYPE: "float32",
            Column.CHANNELS: 4,
            Column.NUMEL: 32,
            Column.NONFINITE: 0,
            Column.ACSM: 0.1,
            Column.ACV: 0.9,
        }
        row |= given
        row[Column.KIND] = row[Column.KIND] or str(kind_of_name(row[Column.TYPE]))
        row.setdefault(Column.MEAN_SQUARE, None)
        if row[Column.MEAN_SQUARE] is None:
            row[Column.MEAN_SQUARE] = row[Column.ACSM] + row[Column.ACV]
        row[Column.RMS] = row[Column.MEAN_SQUARE] ** 0.5
        row[Column.STD] = row[Column.VAR] ** 0.5
        full.append(row)
    frame = pd.DataFrame(full, columns=list(COLUMNS))
    for column, spec in COLUMNS.items():
        if spec.categories:
            frame[column] = pd.Categorical(frame[column], categories=list(spec.categories))
        else:
            frame[column] = frame[column].astype(spec.dtype)
    return check(frame, COLUMNS)


@pytest.fixture
def frame_of():
    """``make_frame``, for tests that write a frame by hand."""
    return make_frame


@pytest.fixture(autouse=True)
def _one_thread(_calm):
    """Networks this small run no faster on two threads, and far slower where the machine is busy."""
    torch.set_num_threads(1)

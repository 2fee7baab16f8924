"""What the first version measured of twelve networks is what is measured today, column by column, on both backends."""

from functools import cache

import numpy as np
import pandas as pd
import pytest

from spp.stats import backends
from tests.golden.cases import CASES, NO_HALF, TABLES, golden_file, tables
from tests.golden.networks import NETWORKS

TOLERANCE = {"trace": 1e-6, "batches": 1e-6, "float16": 1e-2, "bfloat16": 5e-2, "watch": 1e-5}
"""Relative to the size of the tensor; half precision is as exact as the arithmetic of the machine's matrix products."""
KEYS = ("step", "name", "call", "output", "signal", "mode", "block", "merge")
RENAMED = {"hardtanh": "hard_tanh", "multiheadattention": None}
"""Activations have the names of ``spp.nn.ACTIVATIONS`` since version 2, and attention is none."""
SQUARED = ("var", "mean_square", "acsm", "acv")


@cache
def golden(case: str, table: str) -> pd.DataFrame:
    return pd.read_parquet(golden_file(case, table))


@pytest.fixture(params=["native", "reference"])
def backend(request, monkeypatch):
    """Which sweep measures; the choice is made anew at the next trace."""
    monkeypatch.setenv("SPP_KERNELS", "auto" if request.param == "native" else "off")
    backends.choose()
    yield request.param
    monkeypatch.undo()
    backends.choose()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("case", CASES)
def test_every_number_is_what_it_was(case, name, backend):
    found = tables(case, name)
    if found is None:
        assert name in NO_HALF
        return
    for table in TABLES:
        whole = golden(case, table)
        same(found[table], whole[whole.network == name].drop(columns="network"), table, TOLERANCE[case])


def same(found: pd.DataFrame, wanted: pd.DataFrame, table: str, tolerance: float) -> None:
    """Compare the columns that the first version had; others may have come."""
    assert set(wanted) <= set(found), f"{table} lost {sorted(set(wanted) - set(found))}"
    keys = [k for k in KEYS if k in wanted]
    found = found.assign(**{k: found[k].astype(str) for k in keys}).sort_values(keys, kind="stable")
    wanted = wanted.assign(**{k: wanted[k].astype(str) for k in keys}).sort_values(keys, kind="stable")
    assert found[keys].to_numpy().tolist() == wanted[keys].to_numpy().tolist(), table
    size = np.asarray(wanted["rms"] if "rms" in wanted else wanted.get("acv", pd.Series(1.0, wanted.index)) ** 0.5)
    # the gradient of a bias before BatchNorm is nothing but rounding, of which only the size is the same from run to run
    noise = size < 1e-6 * np.nanmax(size, initial=0.0)
    for column in [c for c in wanted if c not in keys]:
        ours, theirs = found[column], wanted[column]
        if not pd.api.types.is_float_dtype(theirs.dtype):
            equal = words(ours) == words(theirs.replace(RENAMED) if column == "activation" else theirs)
            assert equal.all(), f"{table}.{column}: {ours[~equal].tolist()} for {theirs[~equal].tolist()}"
            continue
        a, b = ours.to_numpy(np.float64, na_value=np.nan), theirs.to_numpy(np.float64, na_value=np.nan)
        power = 0 if column.endswith("_fraction") else 2 if column in SQUARED else 1
        bound = tolerance * np.maximum(np.abs(b), size**power)
        if column == "kurtosis":
            bound = 1e3 * bound
        off = ~((np.abs(a - b) <= bound) | (a == b) | (np.isnan(a) & np.isnan(b)) | noise)
        assert not off.any(), f"{table}.{column}: {a[off]} for {b[off]} in {wanted[keys][off].to_numpy().tolist()}"


def words(column: pd.Series) -> np.ndarray:
    return np.array(["" if pd.isna(value) else str(value) for value in column], dtype=object)

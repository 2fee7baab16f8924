"""The data inside a page are the frame's, and cannot break out of it."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spp.frame.schema import BLOCK_COLUMNS, COLUMNS, MODULE_COLUMNS
from spp.report.payload import as_json, payload, table
from tests.plot.frames import layer_panels


def axes(tables, **changes):
    """The axes of the page by layer and by block, as its scripts find them."""
    given = {name: getattr(tables, name) for name in ("frame", "blocks", "modules", "unmeasured")} | changes
    found = payload(**given)["axes"]
    return found["layers"], found["blocks"]


def unpacked(packed):
    """The inverse, as the page's script does it: a column as a list."""
    found = {}
    for column in packed["columns"]:
        cells = column.get("codes" if column["kind"] == "text" else "values")
        if "constant" in column:
            assert cells is None
            cells = [column["constant"]] * packed["rows"]
        if column["kind"] == "text":
            cells = [None if code < 0 else column["levels"][code] for code in cells]
        found[column["name"]] = [
            {"inf": np.inf, "-inf": -np.inf}.get(cell, cell) if isinstance(cell, str) else cell for cell in cells
        ]
    return found


def assert_same(packed, frame, columns):
    cells = unpacked(json.loads(as_json(packed)))
    assert list(cells) == [str(column) for column in columns]
    for column, spec in columns.items():
        want, got = frame[column], cells[str(column)]
        assert [cell is None for cell in got] == want.isna().tolist(), column
        want = want[want.notna()]
        got = [cell for cell in got if cell is not None]
        if spec.dtype == "float64":
            np.testing.assert_allclose(np.array(got, dtype=float), want.to_numpy(), rtol=5.1e-6)
        else:
            assert [type(cell)(value) for cell, value in zip(got, want, strict=True)] == got, column


@pytest.mark.parametrize("network", ["residual", "hostile"])
def test_the_tables_come_back_as_they_went_in(network, request):
    tables = request.getfixturevalue(network)
    assert_same(table(tables.frame, COLUMNS), tables.frame, COLUMNS)
    assert_same(table(tables.blocks, BLOCK_COLUMNS), tables.blocks, BLOCK_COLUMNS)
    assert_same(table(tables.modules, MODULE_COLUMNS), tables.modules, MODULE_COLUMNS)


def test_a_column_of_equal_cells_is_written_once(residual):
    packed = {column["name"]: column for column in table(residual.frame, COLUMNS)["columns"]}
    assert packed["step"]["constant"] == 0
    assert "values" in packed["acv"]


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_holds_any_text_and_no_markup(value):
    text = as_json(value)
    assert json.loads(text) == value
    assert not set("<>&") & set(text)
    assert text.isascii()


def test_the_axis_is_that_of_the_printed_figure(residual):
    (axis,), _ = axes(residual)
    grid, _ = layer_panels(
        residual.frame, signals=["activation", "gradient", "weight", "weight_gradient"], statistics="acv"
    )
    panels = [row[0] for row in grid]
    drawn = residual.frame["acv"].to_numpy()[axis["rows"]]
    np.testing.assert_array_equal(drawn, np.concatenate([panel.y for panel in panels]))
    np.testing.assert_array_equal(axis["x"], np.concatenate([panel.x for panel in panels]))
    assert axis["names"] == [name for panel in panels for name in panel.names]
    assert axis["labels"] == list(panels[0].names) and len(axis["labels"]) == panels[0].size
    assert [stage[0] for stage in axis["stages"]] == [span.name for span in panels[0].stages]


def test_the_blocks_stand_in_their_order(residual):
    _, (axis,) = axes(residual)
    ordered = residual.blocks.sort_values("depth")
    assert axis["rows"] == ordered.index.tolist()
    assert axis["labels"] == list(ordered["block"])
    assert [axis["labels"][x] for x in axis["transitions"]] == ordered.loc[ordered["transition"], "block"].tolist()


def test_every_step_has_its_axis(residual):
    later = residual.frame.assign(step=5)
    both = pd.concat([residual.frame, later], ignore_index=True).astype(residual.frame.dtypes)
    (first, second), _ = axes(residual, frame=both)
    assert (first["step"], second["step"]) == (0, 5)
    assert [row + len(residual.frame) for row in first["rows"]] == second["rows"]


def test_without_modules_that_ran_there_is_no_axis(residual):
    frame = residual.frame[residual.frame["signal"] == "weight"].assign(depth=pd.NA).astype(residual.frame.dtypes)
    assert axes(residual, frame=frame, blocks=residual.blocks.iloc[:0]) == ([], [])


def test_what_a_signal_is_missing_for(residual):
    frame = residual.frame[residual.frame["signal"] == "activation"]
    made = payload(frame, residual.blocks, residual.modules, residual.unmeasured)
    assert "holds only activations" in made["axes"]["layers"][0]["missing"]["gradient"]

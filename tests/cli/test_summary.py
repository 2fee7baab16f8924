"""The table in the terminal: sparklines, long names, long networks, terminals that know few characters."""

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from spp_cli.analyze import MOST_BARS, MOST_ROWS, sparkline, table
from spp_cli.console import ASCII_BARS, BARS, bars_for

FINITE = st.floats(-30, 30)


def test_a_sparkline_rises_from_low_to_high():
    assert sparkline([-3, -2, -1, 0, 1, 2, 3, 4], -3, 4, BARS) == BARS
    assert sparkline([2.0, 2.0], 2.0, 2.0, BARS) == "▁▁"
    assert sparkline([0.0, math.inf, math.nan, 1.0], 0, 1, BARS) == "▁!!█"
    assert sparkline([], 0, 1, BARS) == ""


@given(st.lists(FINITE, min_size=1, max_size=100))
def test_sparklines_keep_order_and_width(powers):
    low, high = min(powers), max(powers)
    line = sparkline(powers, low, high, BARS)
    assert len(line) == min(len(powers), MOST_BARS)
    if len(powers) <= MOST_BARS:
        heights = [BARS.index(bar) for bar in line]
        assert all(
            (a <= b) or (x >= y)
            for a, x in zip(powers, heights, strict=True)
            for b, y in zip(powers, heights, strict=True)
        )


def test_bars_follow_the_encoding():
    assert (bars_for("utf-8"), bars_for("ascii"), bars_for("cp1252")) == (BARS, ASCII_BARS, ASCII_BARS)


def rows(number: int, name: str = "stage{}.block") -> list[dict]:
    return [
        {
            "component": name.format(i),
            "depth": i,
            "acsm": 1.234e-17,
            "acv": 1.234e-17,
            "branch_acv": 1.234e-17,
            "gradient_mean_square": 1.234e-17,
            "leaves": [float(i)] * 40,
        }
        for i in range(number)
    ]


def printed(rows: list[dict]) -> list[str]:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(table(rows, console))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("name", ["b{}", "encoder.layers.{}.attention.output.residual_block"])
def test_every_component_has_one_line_of_at_most_80_columns(name):
    lines = printed(rows(12, name))
    assert len(lines) == 2 + 12
    assert max(len(line) for line in lines) <= 80
    assert all(line.count("1.23e-17") == 4 for line in lines[2:])


def test_of_a_very_long_network_both_ends_are_shown():
    lines = printed(rows(500))
    assert len(lines) == 2 + MOST_ROWS + 1
    assert "stage0.block" in lines[2] and "stage499.block" in lines[-1]
    assert any("(430 more)" in line for line in lines)


def test_a_column_without_numbers_is_left_out():
    plain = [{**row, "branch_acv": None} for row in rows(3)]
    assert "branch ACV" not in "\n".join(printed(plain))
    assert "branch ACV" in "\n".join(printed(rows(3)))

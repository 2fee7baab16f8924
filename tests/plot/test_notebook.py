"""What a notebook shows of a trace."""

import re

import numpy as np
import pandas as pd
import torch

import spp
from spp.frame import build
from spp.frame.schema import BLOCK_COLUMNS, MODULE_COLUMNS
from spp.run import SHOWN_ROWS

from .frames import RUN, network


def test_a_trace_shows_its_components() -> None:
    torch.manual_seed(0)
    trace = spp.trace(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()), torch.randn(5, 4))
    html = trace._repr_html_()
    cells, rows = re.findall(r"<td>([^<]*)</td>", html), trace.components
    assert cells[::8] == rows["name"].tolist() == ["0", "1"]
    for place, column in ((2, "acsm"), (3, "acv"), (5, "gradient_mean_square")):
        assert cells[place::8] == [f"{value:.3g}" for value in rows[column]]
    assert "<b>Sequential</b> batch size 5, seed 0, loss probe" in html


def shown(frame: pd.DataFrame, facts: dict[str, object]) -> str:
    """The HTML of a run that holds nothing but a frame."""
    blocks, modules = (
        pd.DataFrame(columns=list(BLOCK_COLUMNS)),
        build.table_of(build.module_columns([], {}, {}), MODULE_COLUMNS),
    )
    return spp.Run(frame, blocks, modules, build.build_unmeasured([]), facts)._repr_html_()


def test_long_networks_are_cut_and_names_are_escaped() -> None:
    table = shown(network(lambda t: 1 + t, named=[(str(i), "ReLU") for i in range(40)]), RUN | {"model": "<b>&"})
    assert "<b>&lt;b&gt;&amp;</b> norm none, activation relu, init he, batch size 32" in table
    assert table.count("<tr") == SHOWN_ROWS + 2  # a heading, and a row of dots
    assert "not measured" not in table


def test_signals_that_were_not_measured_leave_cells_empty() -> None:
    frame = network(lambda t: np.where(t > 0.5, np.nan, 1.0), named=[("a", "Linear"), ("b", "ReLU")])
    html = shown(frame[frame["signal"] == "activation"], {})
    assert "<b>a network</b>" in html and "nan" not in html.lower()
    assert "nothing was measured" in shown(pd.DataFrame(frame.iloc[:0]), {})

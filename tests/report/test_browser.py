"""The page in headless Chromium, with real mouse and key events: what a reader would do with it.

Skipped, with the reason, where selenium or Chromium is missing.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import spp
from spp import report
from spp.diagnosis import Finding, Severity
from spp.diagnosis.findings import build_findings
from spp.frame.schema import STATISTICS

pytest.importorskip("plotly", reason="reports need plotly, the extra report")
pytest.importorskip("selenium", reason="the report is tested in a browser by selenium")
from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By

from tests.report.reader import Reader, wait_for

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="the report is tested in Chromium with chromedriver"),
    pytest.mark.slow,
]

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1400,1000",
)


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def pages(tmp_path_factory, residual, hostile, large, findings) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    hostile = type(hostile)(**{**hostile.__dict__, "findings": findings})
    later = residual.frame.assign(step=100, acv=2 * residual.frame["acv"])
    both = pd.concat([residual.frame, later], ignore_index=True).astype(residual.frame.dtypes)
    steps = type(residual)(**{**residual.__dict__, "frame": both})
    tables = {"residual": residual, "hostile": hostile, "large": large, "steps": steps}
    return {name: one.write(folder / f"{name}.html") for name, one in tables.items()}


@pytest.fixture
def reader(chrome: Chrome) -> Iterator[Reader]:
    """A reader who finds no error in the console, whatever was done to the page."""
    chrome.get_log("browser")
    yield Reader(chrome)
    assert chrome.get_log("browser") == []


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").replace("∞", "inf"))


def leaves(frame: pd.DataFrame, signal: str) -> pd.DataFrame:
    """Rows of leaves, in the order of the x axis."""
    return frame[(frame["signal"] == signal) & frame["leaf"]].sort_values("depth")


def test_hovering_shows_the_right_layer_with_every_statistic(reader, pages, residual):
    reader.open(pages["residual"])
    for panel, signal, x in ((0, "activation", 0), (1, "activation", 59), (3, "gradient", 17)):
        row = leaves(residual.frame, signal).iloc[x]
        reader.hover(panel, x, row["acsm" if panel % 2 == 0 else "acv"])
        reader.until(f"return document.getElementById('tip').dataset.row === '{row.name}'")
        tip = reader.tip()
        assert tip["name"] == row["name"]
        assert tip["line"] == f"{row['type']} · {row['shape'].replace('x', '×')} · float32"
        names = {"ACSM": "acsm", "ACV": "acv"}
        told = {names.get(term, term.replace(" ", "_")): value for term, value in tip.items()}
        for statistic in STATISTICS:
            if pd.isna(row[statistic]):
                assert statistic not in told
            else:
                assert number(told[statistic]) == pytest.approx(row[statistic], rel=6e-4), statistic
        assert row["name"] in reader.text("#readout")


def assert_drawn(reader: Reader, panel: int, column: pd.Series, rows: int) -> None:
    """Marks show the column's numbers, except where they mean zero, which has a mark of its own."""
    values, zeros = reader.marks(panel), reader.marks(panel, "zeros")
    assert len(values) + len(zeros) == rows
    drawn = column.to_numpy()[[row for row, _ in values]]
    np.testing.assert_allclose([y for _, y in values], drawn, rtol=6e-6)
    assert all(column.iloc[row] < 1e-12 for row, _ in zeros)


def test_switching_the_statistic_redraws(reader, pages, residual):
    reader.open(pages["residual"])
    rows = len(leaves(residual.frame, "activation"))
    for statistic in ("rms", "zero_fraction", "acsm"):
        reader.choose("#left", statistic)
        assert_drawn(reader, 0, residual.frame[statistic], rows)
    assert reader.marks(0, "zeros")  # the squared means behind a batch norm
    reader.choose("#right", "")
    assert reader.run("return new Set(document.getElementById('canvas').data.map((one) => one.meta)).size") == 3


def test_switching_signals_and_scales(reader, pages):
    reader.open(pages["residual"])
    count = "return new Set(document.getElementById('canvas').data.map((one) => one.meta)).size"
    assert reader.run(count) == 6
    reader.pick("#signals input[value=weight_gradient]")
    reader.pick("#signals input[value=weight]")
    reader.pick("#signals input[value=activation]")
    assert reader.run(count) == 4
    kind = "return document.getElementById('canvas')._fullLayout.yaxis.type"
    reader.pick("#scale input[value=linear]")
    assert reader.run(kind) == "linear"
    reader.pick("#scale input[value=log]")
    assert reader.run(kind) == "log"
    reader.choose("#left", "mean")  # has negative values: linear around zero
    assert "symlog" in reader.run("return document.getElementById('canvas')._fullLayout.yaxis.title.text")


def test_the_last_signal_stays(reader, pages):
    reader.open(pages["residual"])
    for name in ("activation", "gradient", "weight"):
        reader.pick(f"#signals input[value={name}]")
    assert reader.run("return [...document.querySelectorAll('#signals input:checked')].map((one) => one.value)") == [
        "weight"
    ]


def test_residual_blocks(reader, pages, residual):
    reader.open(pages["residual"])
    reader.pick("#view input[value=blocks]")
    for panel, column in enumerate(
        ("acsm", "acv", "branch_acv", "gradient_acsm", "gradient_acv", "gradient_branch_acv")
    ):
        assert_drawn(reader, panel, residual.blocks[column], len(residual.blocks))
    row = residual.blocks.sort_values("depth").iloc[3]
    reader.hover(1, 3, row["acv"])
    assert reader.tip()["name"] == row["block"]
    assert number(reader.tip()["residual branch ACV"]) == pytest.approx(row["branch_acv"], rel=6e-4)


def test_zooming_names_the_layers_and_zooming_out_forgets(reader, pages, residual):
    reader.open(pages["residual"])
    ticks = "return [...document.getElementById('canvas')._fullLayout.xaxis.ticktext]"
    before = reader.run(ticks)
    reader.run("return window.Plotly.relayout(document.getElementById('canvas'), {'xaxis.range': [9.6, 16.4]})")
    names = leaves(residual.frame, "activation")["name"].tolist()[10:17]
    reader.until(f"return document.getElementById('canvas')._fullLayout.xaxis.ticktext.length === {len(names)}")
    assert all(name.endswith(tick.removeprefix("…")) for name, tick in zip(names, reader.run(ticks), strict=True))
    reader.choose("#left", "rms")  # a zoom survives another statistic
    assert reader.run("return document.getElementById('canvas')._fullLayout.xaxis.range[0]") == pytest.approx(9.6)
    reader.pick("#reset")
    assert reader.run(ticks) == before


def test_the_keyboard_walks_through_the_layers(reader, pages, residual):
    reader.open(pages["residual"])
    reader.find("#position").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    third = leaves(residual.frame, "activation").iloc[2]
    assert reader.tip()["name"] == third["name"]
    assert reader.find("#position").get_attribute("aria-valuetext") == third["name"]
    reader.find("#position").send_keys(Keys.ESCAPE)
    assert reader.run("return document.getElementById('tip').hidden")


FILTERS: tuple[tuple[str, Callable[[pd.DataFrame], pd.Series]], ...] = (
    ("conv2d", lambda f: f["type"].eq("Conv2d")),
    ("Conv2d -stage2", lambda f: f["type"].eq("Conv2d") & ~f["name"].str.contains("stage2")),
    ("acv>0.5 acsm<=0.2", lambda f: (f["acv"] > 0.5) & (f["acsm"] <= 0.2)),
    ("kurtosis=missing leaf=yes", lambda f: f["kurtosis"].isna() & f["leaf"]),
    ("no such layer", lambda f: f["name"].eq("no such layer")),
)


def test_the_filter_filters(reader, pages, residual):
    reader.open(pages["residual"])
    box = reader.find("#query")
    for query, expected in FILTERS:
        box.clear()
        box.send_keys(query)
        rows = np.flatnonzero(expected(residual.frame)).tolist()
        assert reader.shown() == rows[: len(reader.shown())], query
        assert bool(rows) == bool(reader.shown()), query
        assert reader.text("#count") == f"{len(rows)} of {len(residual.frame)} rows", query


def test_a_filter_that_makes_no_sense_says_so(reader, pages, residual):
    reader.open(pages["residual"])
    reader.find("#query").send_keys("avc>1")
    assert reader.text("#complaint") == "There is no column avc."
    reader.pick("#clear")
    reader.find("#query").send_keys("acv>much")
    assert reader.text("#complaint") == "acv is compared with a number, as acv>0.1."
    assert reader.text("#count") == f"{len(residual.frame)} rows"


def test_the_menus_filter_too(reader, pages, residual):
    reader.open(pages["residual"])
    reader.choose("#bysignal", "gradient")
    reader.choose("#bytype", "ReLU")
    reader.pick("#leaves")
    rows = residual.frame[(residual.frame["signal"] == "gradient") & (residual.frame["type"] == "ReLU")]
    assert reader.shown() == rows.index.tolist()


def test_sorting_goes_down_up_and_back(reader, pages, residual):
    reader.open(pages["residual"])
    heads = [
        residual.frame["acv"].sort_values(ascending=up, kind="stable", na_position="last").index[:8].tolist()
        for up in (False, True)
    ]
    for expected, state in ((heads[0], "descending"), (heads[1], "ascending"), (list(range(8)), "none")):
        reader.pick("th[data-column=acv] button")
        assert reader.shown()[:8] == expected
        assert reader.find("th[data-column=acv]").get_attribute("aria-sort") == state


def test_numbers_in_the_table_are_those_of_the_frame(reader, pages, residual):
    """Down to the rounding errors behind a batch norm, 1e-10 and below, and up to a million."""
    reader.open(pages["residual"])
    for column in ("mean", "acsm", "abs_max"):
        reader.pick(f"th[data-column={column}] button")
        reader.run("document.getElementById('scroll').scrollTop = 3000")
        reader.until("return document.querySelector('#grid tr[data-row]').ariaRowIndex > 90")
        cells = f"return [...document.querySelectorAll('td.is-{column}')].map((one) => one.textContent)"
        expected = residual.frame[column].to_numpy()[reader.shown()]
        np.testing.assert_allclose([number(text) for text in reader.run(cells)], expected, rtol=6e-4)


def test_any_column_can_be_shown(reader, pages, residual):
    reader.open(pages["residual"])
    assert not reader.chrome.find_elements(By.CSS_SELECTOR, "th[data-column=channels]")
    reader.pick("#columns input[value=channels]")
    shown = reader.run("return [...document.querySelectorAll('td.is-channels')].map((one) => one.textContent)")
    assert [number(text) for text in shown] == residual.frame["channels"].tolist()[: len(shown)]


def test_plot_table_and_text_point_at_each_other(reader, pages, residual):
    reader.open(pages["residual"])
    name = residual.frame.query("signal == 'activation' and type == 'ReLU'")["name"].iloc[4]
    reader.find("#query").send_keys(f"name={name} signal=activation")
    reader.pick("#grid tr[data-row]")
    assert reader.tip()["name"] == name
    assert reader.run("return document.getElementById('tip').className") == "pinned"
    linked = reader.run("const one = document.querySelector('#findings .layer'); one.click(); return one.dataset.layer")
    selected = reader.text("#grid tr[aria-selected] .is-name")
    assert linked == selected or selected.startswith(f"{linked}.") or linked.startswith(f"{selected}.")
    assert reader.tip()["name"] == selected


def test_a_block_is_shown_by_its_last_layer(reader, pages, residual):
    """From whatever view: the plot by residual block has no place for it."""
    reader.open(pages["residual"])
    reader.pick("#view input[value=blocks]")
    button = "const one = document.querySelector('#findings .layer'); one.dataset.layer = 'stage2.1'; one.click()"
    reader.run(button)
    assert reader.run("return document.querySelector('#view input:checked').value") == "layers"
    inside = leaves(residual.frame, "activation")
    assert reader.tip()["name"] == inside["name"][inside["name"].str.startswith("stage2.1.")].iloc[-1]
    assert reader.find("#query").get_attribute("value") == "stage2.1"


def test_every_step_can_be_looked_at(reader, pages, residual):
    reader.open(pages["steps"])
    rows, many = leaves(residual.frame, "activation"), len(residual.frame)
    assert sorted(row for row, _ in reader.marks(1)) == sorted(rows.index + many)
    reader.choose("#step", "0")
    assert sorted(row for row, _ in reader.marks(1)) == sorted(rows.index)
    assert reader.find("th[data-column=step]").is_displayed()


def test_hostile_names_stay_text(reader, pages, hostile, nasty):
    reader.open(pages["hostile"])
    assert reader.run("return document.querySelectorAll('img, iframe, object').length") == 0
    assert reader.text("h1") == nasty
    reader.hover(2, 1, 0.05)
    assert reader.tip()["name"] == nasty
    reader.run("document.querySelector('[data-layer=zeros]').click()")
    assert reader.tip()["name"] == "zeros"
    reader.find("#query").clear()
    reader.find("#query").send_keys("onerror")
    assert reader.text("#grid tbody .is-name") == nasty


def test_names_on_the_axis_stay_text(reader, tmp_path):
    """``<br>`` broke the line, ESC was a box, and an override of the direction turned the name round."""
    model = torch.nn.Sequential()
    for name in ("a<br>b", "\x1b[31mred", "\u202eabc"):
        model.add_module(name, torch.nn.Linear(4, 4))
    trace = spp.trace(model, torch.randn(3, 4), signals=["activation"])
    note = build_findings([Finding(severity=Severity.NOTE, rule="mine", name="a<br>b", message="Look here.")])
    tables = {name: getattr(trace, name) for name in ("frame", "blocks", "modules", "unmeasured")}
    reader.open(report.write(tmp_path / "page.html", **tables, run=trace.info, findings=note))
    ticks = reader.run("return document.getElementById('canvas').layout.xaxis.ticktext")
    assert ticks == ["a&lt;br&gt;b", r"\u001b[31mred", r"\u202eabc"]
    # a note had no colour, since it was called info once
    dashed = ".filter((one) => one.line.dash === 'dash').map((one) => one.line.color)"
    assert all(reader.run(f"return document.getElementById('canvas').layout.shapes{dashed}"))


def test_findings_are_marked_where_they_begin(reader, pages):
    reader.open(pages["hostile"])
    flags = reader.run(
        "return document.getElementById('canvas').layout.shapes"
        ".filter((one) => one.line.dash === 'dash' && one.xref === 'x').map((one) => one.x0)"
    )
    assert flags == [3, 2]  # last and zeros, by their places on the axis
    assert "error: see the findings" in reader.text("#legend")


def test_what_is_not_finite_is_marked_in_place(reader, pages, hostile):
    reader.open(pages["hostile"])
    marked = [row for row, _ in reader.marks(0, "nonfinite")]
    rows = leaves(hostile.frame, "activation")
    assert sorted(marked) == sorted(rows.index[rows["nonfinite"] > 0].tolist())


def test_nothing_is_fetched_from_anywhere(reader, pages):
    reader.chrome.get_log("performance")
    reader.open(pages["residual"])
    reader.pick("#view input[value=blocks]")
    assert reader.run("return performance.getEntriesByType('resource').map((one) => one.name)") == []
    events = [json.loads(entry["message"])["message"] for entry in reader.chrome.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {pages["residual"].as_uri()}


def test_the_policy_forbids_requests(chrome, pages):
    reader = Reader(chrome).open(pages["residual"])
    outcome = chrome.execute_async_script(
        "const done = arguments[0]; fetch('https://example.org/').then(() => done('fetched'), () => done('refused'))"
    )
    assert outcome == "refused"
    smuggled = (
        "const one = document.createElement('script'); one.textContent = 'window.smuggled = true';"
        "document.head.append(one); return window.smuggled === true"
    )
    assert not reader.run(smuggled)
    assert any("Content Security Policy" in entry["message"] for entry in chrome.get_log("browser"))


def test_dark_follows_the_system_and_can_be_switched(reader, pages):
    reader.open(pages["residual"], dark=True)
    paper = "return getComputedStyle(document.body).backgroundColor"
    ink = "return document.getElementById('canvas')._fullLayout.font.color"
    dark, inked = reader.run(paper), reader.run(ink)
    reader.pick("#theme input[value=light]")
    assert reader.run(paper) != dark and reader.run(ink) != inked
    reader.pick("#theme input[value=auto]")
    assert (reader.run(paper), reader.run(ink)) == (dark, inked)


def test_every_control_has_a_name(reader, pages):
    reader.open(pages["residual"])
    nameless = reader.run(
        "return [...document.querySelectorAll('input, select, button')]"
        ".filter((one) => !(one.labels?.length || one.textContent.trim() || one.getAttribute('aria-label')))"
        ".map((one) => one.outerHTML)"
    )
    assert nameless == []


def test_five_thousand_rows_are_usable_within_three_seconds(reader, pages, large):
    """Told in the main thread's own time, from the click to the drawn plot: machines that run tests are shared."""
    reader.chrome.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = reader.chrome.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))

    reader.chrome.get("about:blank")
    before = spent()
    reader.open(pages["large"])
    assert 0.1 < spent() - before < 3, spent() - before
    reader.chrome.execute_cdp_cmd("Performance.disable", {})
    assert reader.text("#count") == "5,000 rows"
    reader.run(
        "const query = document.getElementById('query');"
        "query.value = 'conv acv<1e-3';"
        "query.dispatchEvent(new Event('input'));"
        "document.getElementById('scroll').scrollTop = 1000;"
    )
    wanted = large.frame["type"].str.contains("Conv") | large.frame["name"].str.contains("conv")
    assert reader.text("#count").startswith(f"{int((wanted & (large.frame['acv'] < 1e-3)).sum()):,} of")
    assert len(reader.shown()) < 60


def test_it_prints_in_light_colours(reader, pages):
    reader.open(pages["residual"], dark=True)
    printed = base64.b64decode(reader.chrome.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert printed.startswith(b"%PDF")
    assert reader.run("return document.documentElement.dataset.theme") == "dark"  # back again


def test_the_figure_can_be_saved(reader, pages, tmp_path):
    reader.open(pages["residual"])
    reader.chrome.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    reader.pick("#save")
    # Chromium writes under another name until the file is whole
    wait_for(lambda: list(tmp_path.glob("*.svg")), "a saved file")
    assert "average channel variance" in next(tmp_path.glob("*.svg")).read_text()

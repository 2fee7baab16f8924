"""The page without a browser: self-contained, escaped, the same bytes for the same input, and clear errors."""

import base64
import gzip
import hashlib
import json
import re

import pytest
import torch

import spp
from spp import report
from spp.diagnosis import RULES
from spp.errors import InputError, MissingExtraError, StoreError
from spp.report import bundle

pytest.importorskip("plotly", reason="reports need plotly, the extra report")

PARTS = ["findings", "explorer", "rows", "run", "unmeasured"]


def test_the_parts_stand_in_their_order(residual, parsed):
    page = parsed(residual.html())
    assert [found["id"] for found in page.having("section")] == PARTS
    assert (
        "resnet18_cifar" in page.text
        and "norm batch · init he_fan_out · activation relu · batch 2 of 3×16×16" in page.text
    )


def test_nothing_is_loaded_from_anywhere(residual, parsed):
    page = parsed(residual.html())
    loading = [(tag, found) for tag, found in page.elements if {"src", "href", "srcset", "action"} & set(found)]
    assert [(tag, found["href"]) for tag, found in loading] == [("link", "data:,"), ("a", "#explorer")]
    assert not re.search(r"url\(|@import", residual.html().partition("</style>")[0])
    (policy,) = page.having("meta", http_equiv="Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in str(policy["content"])


def test_every_script_is_one_that_the_policy_knows(residual, parsed):
    page = parsed(residual.html())
    (policy,) = page.having("meta", http_equiv="Content-Security-Policy")
    allowed = re.findall(r"sha256-([^']+)", str(policy["content"]))
    own = [text for name, text in page.scripts.items() if name.startswith("script")]
    plotly = gzip.decompress(base64.b64decode(page.scripts["plotly"])).decode()
    assert plotly == bundle().text
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (*own, plotly)]
    assert hashes == allowed and len(own) == 2


def test_names_cannot_break_out(hostile, nasty, parsed):
    html = hostile.html()
    page = parsed(html)
    assert nasty not in html
    assert not page.having("img")
    assert [found["id"] for found in page.having("section")] == PARTS
    assert len(page.having("script")) == 4
    assert nasty in page.text
    assert nasty in json.loads(page.scripts["data"])["frame"]["columns"][2]["levels"]


def test_names_that_utf8_cannot_write(residual, tmp_path):
    residual = type(residual)(**{**residual.__dict__, "run": {**residual.run, "model": "bad\ud800"}})
    assert r"bad\ud800" in residual.write(tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_same_input_gives_the_same_bytes(residual, tmp_path):
    first = residual.write(tmp_path / "a.html").read_bytes()
    assert residual.write(tmp_path / "b.html").read_bytes() == first
    assert b"\r" not in first


def test_it_stays_small(residual, large, tmp_path):
    cut = type(large)(**{**large.__dict__, "frame": large.frame.iloc[:1000]})
    assert cut.write(tmp_path / "thousand.html").stat().st_size < 3e6
    assert large.write(tmp_path / "five.html").stat().st_size < 4e6


def test_the_run_says_how_to_repeat_it(hostile, nasty, parsed):
    text = parsed(hostile.html()).text
    assert "To run it again spp analyze --model '</script>" in text
    assert "not measured" in text


def test_holes_are_told_with_their_reasons(hostile, parsed):
    page = parsed(hostile.html())
    reasons = set(hostile.unmeasured["reason"])
    assert reasons and all(reason in page.text for reason in reasons)
    assert page.having("button", data_layer="unused")


def test_findings_come_first(residual, findings, parsed):
    page = parsed(type(residual)(**{**residual.__dict__, "findings": findings}).html())
    cards = [str(found["class"]).split()[1] for found in page.having("li") if "card" in str(found.get("class"))]
    assert cards[:3] == ["error", "warning", "note"]
    assert set(cards[3:]) == {"fact"}
    text = "".join(page.words)
    assert "Findings 1 error, 1 warning, 1 note" in text
    assert "ErrorvanishinglastThe signal dies: by 1e-9. Most of it at last.Try: --init he." in text
    assert "value-0.1823expectedslower than <2>depth3evidencelast 0.0526" in text
    assert "Noteof_my_ownwhole networkAll <b>else</b> is fine." in text
    assert page.having("code", class_="rule", title=RULES["mean_shift"].description)


def test_a_trace_reports_its_own_findings(parsed, tmp_path):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 16) for _ in range(12)]
    for layer in layers:
        layer.weight.data *= 0.05
        layer.bias.data.zero_()
    trace = spp.trace(torch.nn.Sequential(*layers), torch.randn(8, 16))
    text = "".join(parsed(trace.report(tmp_path / "report.html").read_text()).words)
    assert len(trace.findings)
    assert all(str(message).split(". ")[0] in text for message in trace.findings["message"])


def test_a_healthy_network_is_told_so(residual, findings, parsed):
    page = parsed(type(residual)(**{**residual.__dict__, "findings": findings.iloc[:0]}).html())
    assert "No rule of the diagnosis found anything. The most striking facts:" in page.text


def test_without_findings_the_striking_facts_come_first(residual, parsed):
    from spp.diagnosis import notes

    text = "".join(parsed(residual.html()).words)
    assert all(str(fact) in text for fact in notes(residual.frame, 6))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read(residual, theme):
    """Contrast of at least 4.5 to 1 (WCAG 2.2, AA) for text and signals on every surface they stand on."""
    declared = re.findall(r":root(?:\[[^]]*\])? \{(.*?)\}", residual.html(), re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", declared))
    surfaces = {name: colours.pop(name) for name in ("card", "paper", "band")}
    for name in ("rule", "edge", "wash"):  # lines and fills
        del colours[name]
    assert len(colours) == 10
    for name, colour in colours.items():
        for surface, behind in surfaces.items():
            low, high = sorted((luminance(colour), luminance(behind)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, surface)


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour written as #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_what_cannot_be_reported(residual, findings, tmp_path):
    tables = dict(residual.__dict__)
    with pytest.raises(InputError, match="a report needs at least one measured tensor; got an empty frame"):
        report.html(**(tables | {"frame": residual.frame.iloc[:0]}))
    with pytest.raises(InputError, match=r"unknown \['extra'\]"):
        report.html(**(tables | {"frame": residual.frame.assign(extra=1)}))
    with pytest.raises(InputError, match=r"missing \['remedy'\]"):
        report.html(**(tables | {"findings": findings.drop(columns="remedy")}))
    with pytest.raises(StoreError, match="a report is written to a file; got"):
        residual.write(tmp_path / "no folder" / "report.html")


def test_without_plotly_the_error_names_the_extra(residual, monkeypatch):
    bundle.cache_clear()
    monkeypatch.setattr("spp.report.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'an HTML report needs plotly.*pip install "torch-spp\[report\]"'):
        residual.html()


def test_a_trace_writes_its_report_and_a_loaded_one_the_same(tmp_path):
    trace = spp.trace(
        torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)), torch.randn(8, 4)
    )
    path = trace.report(tmp_path / "report.html")
    trace.save(tmp_path / "run")
    again = spp.load(tmp_path / "run").report(tmp_path / "again.html")
    assert path.read_bytes() == again.read_bytes()


def _loop(steps: int, folder) -> spp.Watch:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with spp.watch(model, optimizer, every=1, path=folder) as watch:
        for _ in range(steps):
            model.train()
            optimizer.zero_grad()
            model(torch.ones(5, 3)).square().mean().backward()
            optimizer.step()
            model.eval()
            model(torch.zeros(5, 3))
    return watch


def _data(path, parsed):
    page = parsed(path.read_text())
    return page, json.loads(page.scripts["data"])


def test_a_watch_is_reported_by_its_training(parsed, tmp_path):
    watch = _loop(3, tmp_path / "run")
    for run in (
        watch,
        spp.load(tmp_path / "run"),
        spp.Run(watch.frame, watch.blocks, watch.modules, watch.unmeasured, {}),
    ):
        assert set(run.frame["mode"]) == {"train", "eval"}
        page, data = _data(run.report(tmp_path / "page.html"), parsed)
        assert data["frame"]["rows"] == (run.frame["mode"] == "train").sum()
        assert [axis["step"] for axis in data["axes"]["layers"]] == [0, 1, 2] and "of 3 steps" not in page.text


def test_of_many_steps_a_page_offers_some_that_are_evenly_spread(parsed, tmp_path, monkeypatch):
    watch = _loop(9, tmp_path / "run")
    monkeypatch.setattr(report, "MOST_STEPS", 4)
    page, data = _data(watch.report(tmp_path / "page.html"), parsed)
    assert [axis["step"] for axis in data["axes"]["layers"]] == [2, 5, 8] and "3 of 9 steps" in page.text
    rows = (watch.frame["mode"] == "train").sum()
    assert data["frame"]["rows"] == rows // 3
    monkeypatch.setattr(report, "MOST_ROWS", rows // 9)
    assert [axis["step"] for axis in _data(watch.report(tmp_path / "page.html"), parsed)[1]["axes"]["layers"]] == [8]

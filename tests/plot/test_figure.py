"""The whole page: what a reader sees at the final size, what is saved, and what stays as it was."""

import base64
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from spp.errors import InputError, UnknownNameError
from spp.plot import SignalPlot, signal_plot
from spp.plot.style import STYLES
from spp.vocabulary import Signal

from .frames import RUN, block_frame, network, residual_names


def _frames() -> dict[str, object]:
    rng = np.random.default_rng(0)
    gpt = [
        (f"transformer.h.{i}.{part}", "Linear")
        for i in range(12)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")
    ]
    return {
        "collapse": network(lambda t: 10.0 ** (-40 * t)),
        "flat": network(lambda t: 1 + 0.1 * rng.random(len(t))),
        "one": network(lambda t: 1 + t, named=[("fc", "Linear")]),
        "nonfinite": network(lambda t: np.where(t > 0.7, np.nan, 10.0 ** (20 * t)), signals=[Signal.ACTIVATION]),
        "zeros": network(lambda t: np.where(t > 0.7, 0.0, 10.0 ** (-8 * t))),
        "long": network(lambda t: 10.0 ** (-4 * t), named=residual_names((20, 60, 100, 40))),
        "gpt": network(lambda t: 1 + 5 * t, named=[("transformer.wte", "Embedding"), *gpt, ("lm_head", "Linear")]),
        "ffn": network(lambda t: 1 + t, named=[(f"fc{i}", "Linear") for i in range(8)]),
    }


FRAMES = _frames()


def _plot(name: str = "collapse", kind: str = "layers", **options: object) -> SignalPlot:
    return signal_plot(kind, frame=FRAMES[name], blocks=block_frame(), run=RUN, **options)  # type: ignore[arg-type]


@cache
def _shown(name: str = "collapse", style: str = "notebook", width: str = "double") -> SignalPlot:
    """The figure of a frame's layers, drawn once for all who only look at it."""
    return _plot(name, style=style, width=width)


def _visible(texts: list[Text]) -> list[Bbox]:
    return [text.get_window_extent() for text in texts if text.get_visible() and text.get_text()]


def _all_texts(plot: SignalPlot) -> list[tuple[str, Bbox]]:
    """Every text that a reader sees, with its box in pixels."""
    plot.figure_.draw_without_rendering()
    texts = [text for legend in plot.figure_.legends for text in legend.get_texts()]
    if plot.figure_.get_suptitle():
        texts += plot.figure_.texts
    for axes in plot.axes_:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    seen = [text for text in texts if text.get_visible() and text.get_text()]
    return [(text.get_text(), text.get_window_extent()) for text in seen]


def shrunk(box: Bbox) -> Bbox:
    """A font's line box has air above and below its letters; two boxes may share one pixel of it."""
    return Bbox.from_extents(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1)


CASES = [(name, "paper") for name in FRAMES] + [
    (name, style) for name in ("flat", "gpt") for style in ("notebook", "slides")
]


@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize(("name", "style"), CASES)
def test_nothing_overlaps_and_nothing_is_clipped(name: str, style: str, width: str) -> None:
    plot = _shown(name, style, width)
    texts = _all_texts(plot)
    page = plot.figure_.bbox
    for words, box in texts:
        assert box.x0 >= page.x0 - 0.5 and box.x1 <= page.x1 + 0.5, words
        assert box.y0 >= page.y0 - 0.5 and box.y1 <= page.y1 + 0.5, words
    for index, (words, box) in enumerate(texts):
        for others, other in texts[index + 1 :]:
            assert not shrunk(box).overlaps(shrunk(other)), (words, others)


@pytest.mark.parametrize("width", ["single", "double"])
def test_blocks_overlap_nothing(width: str) -> None:
    plot = _plot(kind="blocks", signals=["activation", "gradient"], style="paper", width=width)
    texts = _all_texts(plot)
    for index, (words, box) in enumerate(texts):
        assert box.x1 <= plot.figure_.bbox.x1 + 0.5, words
        assert not any(shrunk(box).overlaps(shrunk(other)) for _, other in texts[index + 1 :]), words


def test_the_overlap_check_can_fail() -> None:
    plot = _plot(style="paper")
    axes = plot.axes_[4]
    axes.set_xticks(range(0, 140), [f"layer{i}" for i in range(140)])
    boxes = _visible(list(axes.get_xticklabels()))
    assert any(shrunk(a).overlaps(shrunk(b)) for a, b in pairwise(boxes))


def test_six_panels_in_order_with_names_said_once() -> None:
    plot = _shown()
    assert len(plot.axes_) == len(plot.panels) == len(plot.artists_) == 6
    assert [axes.get_title() for axes in plot.axes_] == [
        "ACSM, average channel squared mean",
        "ACV, average channel variance",
        *[""] * 4,
    ]
    assert [axes.get_xlabel() for axes in plot.axes_] == [*[""] * 4, *["layer (execution order)"] * 2]
    assert plot.axes_[4].get_ylabel() == "gradients\nACSM"
    assert [text.get_text() for text in plot.axes_[0].texts] == ["stage1", "stage2", "stage3", "stage4"]
    assert not plot.axes_[2].texts


def test_drawn_numbers_follow_their_panel_when_columns_are_stacked() -> None:
    for width in ("single", "double"):
        plot = _shown(style="paper", width=width)
        for panel, drawn, axes in zip(plot.panels, plot.artists_, plot.axes_, strict=True):
            points = [*drawn.points.values(), *([drawn.zeros] if drawn.zeros else [])]
            assert all(line.axes is axes for line in points)
            at = {x: y for line in drawn.points.values() for x, y in zip(*line.get_data(), strict=True)}
            assert at == {x: y for x, y, shown in zip(panel.x, panel.y, panel.shown, strict=True) if shown}


def test_few_layers_are_named_many_are_not() -> None:
    assert [label.get_text() for label in _shown("ffn").axes_[4].get_xticklabels()] == [f"fc{i}" for i in range(8)]
    labels = [label.get_text() for label in _shown("collapse").axes_[4].get_xticklabels()]
    assert {"stage1.0", "stage2.0", "stage3.0", "stage4.0", "head"} <= set(labels)
    assert len(_shown("long", style="paper").axes_[4].get_xticklabels()) < 40


def test_fonts_are_readable_at_the_final_size() -> None:
    plot = _shown(style="paper", width="double")
    sizes = [
        label.get_fontsize() for axes in plot.axes_ for label in (*axes.get_xticklabels(), *axes.get_yticklabels())
    ]
    sizes += [axes.yaxis.label.get_fontsize() for axes in plot.axes_]
    assert min(sizes) >= 7.0 and max(sizes) <= 9.0


@pytest.mark.parametrize(
    ("kind", "suffix", "signals"),
    [
        ("layers", "pdf", [Signal.ACTIVATION, Signal.GRADIENT]),
        ("layers", "png", [Signal.ACTIVATION]),
        ("layers", "svg", [Signal.ACTIVATION]),
        ("layers", "pgf", [Signal.ACTIVATION]),
        ("blocks", "pdf", [Signal.ACTIVATION]),
    ],
)
def test_saving_twice_gives_the_same_bytes(tmp_path: Path, kind: str, suffix: str, signals: list[Signal]) -> None:
    one = _plot("ffn", kind, signals=signals).save(tmp_path / f"one.{suffix}", style="paper", width="double")
    plot = _plot("ffn", kind, style="paper", signals=signals)
    two = plot.save(str(tmp_path / f"two.{suffix}"))
    assert one == tmp_path / f"one.{suffix}"
    assert one.read_bytes() == two.read_bytes() == plot.save(tmp_path / f"three.{suffix}").read_bytes()


def test_files_carry_the_facts(tmp_path: Path) -> None:
    plot = _plot("ffn", style="paper", signals="activation")
    pdf = plot.save(tmp_path / "a.pdf").read_bytes()
    assert b"/FontType 42" in pdf or b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf and b"CreationDate" not in pdf
    svg = plot.save(tmp_path / "a.svg").read_text()
    assert "Signal propagation plot of testnet" in svg and "seed=7" in svg
    assert re.search(r"<text[^>]*>[^<]*ACV, average channel variance", svg)
    png = plot.save(tmp_path / "a.png").read_bytes()
    assert b"Signal propagation plot of testnet" in png and png.startswith(b"\x89PNG")


def test_the_caption_is_one_sentence_with_the_facts() -> None:
    assert _shown().caption == (
        "Signal propagation plot of testnet (norm none, init he, activation relu, 123,456 parameters) on a batch of 32 "
        "gaussian inputs of 3×32×32, seed 7: ACSM and ACV of activations, weights and gradients of the loss (probe) with "
        "respect to the activations over 149 modules in execution order."
    )
    bare = signal_plot(frame=FRAMES["one"], blocks=block_frame(), run={}, signals="activation")  # type: ignore[arg-type]
    assert (
        bare.caption
        == "Signal propagation plot of a network: ACSM and ACV of activations over 1 module in execution order."
    )


def test_style_and_width_change_the_size(tmp_path: Path) -> None:
    plot = _plot("ffn", style="paper", width="single", signals="activation")
    assert plot.figure_.get_size_inches()[0] == STYLES["paper"].single
    assert _plot("one", width=5.5, signals="activation").figure_.get_size_inches()[0] == 5.5
    narrow = plot.save(tmp_path / "n.png").read_bytes()
    wide = plot.save(tmp_path / "w.png", width="double").read_bytes()
    assert int.from_bytes(wide[16:20], "big") > 1.9 * int.from_bytes(narrow[16:20], "big")
    assert plot.figure_.get_size_inches()[0] == STYLES["paper"].single


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    before, open_before = dict(matplotlib.rcParams), plt.get_fignums()
    with matplotlib.rc_context({"font.size": 40, "axes.facecolor": "black"}):
        odd = _plot("ffn", style="paper", signals="activation").save(tmp_path / "odd.png").read_bytes()
    plain = _plot("ffn", style="paper", signals="activation").save(tmp_path / "plain.png").read_bytes()
    assert odd == plain
    data, metadata = _plot("ffn", signals="activation")._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"].startswith("<SignalPlot layers: Signal propagation plot of testnet")
    assert metadata["image/png"]["width"] == 9 * 96 and "seed 7" in metadata["image/png"]["alt"]
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == open_before


def test_wrong_input_is_one_clear_line(tmp_path: Path) -> None:
    one = _plot("one", signals="activation")
    known = "components, layers, blocks, compare, evolution, channels, distribution, theory"
    with pytest.raises(
        UnknownNameError, match=rf"^kind: unknown kind 'layer'\. Did you mean 'layers'\? Known: {known}\.$"
    ):
        _plot(kind="layer")
    with pytest.raises(UnknownNameError, match=r"Known: paper, notebook, slides\."):
        _plot(style="poster")
    with pytest.raises(UnknownNameError, match=r"Known: single, double\."):
        _plot(width="full")
    with pytest.raises(InputError, match=r"between 1 and 50 inches; got 0\.2"):
        _plot(width=0.2)
    with pytest.raises(InputError, match=r"saved as png, pdf, svg, pgf; got the suffix '\.gif'"):
        one.save(tmp_path / "a.gif")
    with pytest.raises(InputError, match=r"No such file or directory"):
        one.save(tmp_path / "nowhere" / "a.png")


def test_any_set_of_signals_and_statistics() -> None:
    plot = _plot(signals=["weight"], statistics=["mean", "acv", "nonfinite"])
    assert [(panel.signal, panel.statistic) for panel in plot.panels] == [
        (Signal.WEIGHT, "mean"),
        (Signal.WEIGHT, "acv"),
        (Signal.WEIGHT, "nonfinite"),
    ]

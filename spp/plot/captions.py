"""The sentence, the heading and the metadata that say what a figure shows, from a run's facts and the panels.

Facts are a mapping; any of the keys may be missing: ``model``, ``norm``, ``init``, ``activation``, ``data``, ``batch_size``,
``input_shape``, ``seed``, ``parameters``, ``loss``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spp.errors import plain
from spp.frame.schema import Column
from spp.plot.panels import PLURAL, Grid, Panel, short
from spp.vocabulary import Signal

Facts = Mapping[str, object]


def heading(run: Facts, step: int) -> str:
    """Return one line for over the figure, as ``effnet_b0 · norm none · init he · batch 32 · seed 0``."""
    parts = [str(run["model"])] if run.get("model") else []
    parts += _told(run, "norm", "init", "activation")
    if run.get("batch_size") is not None:
        parts.append(f"batch {run['batch_size']}{_of_shape(run)}")
    parts += _told(run, "data", "seed")
    return plain(" · ".join([*parts, f"step {step}"] if step else parts))


def caption(run: Facts, grid: Grid, kind: str, step: int, drawn: str = "") -> str:
    """Return the caption: one sentence with the model, norm, init, input, batch, seed and what is drawn.

    Args:
        run: The facts.
        grid: The panels.
        kind: The kind of figure.
        step: The training step, 0 for a trace.
        drawn: What is drawn, where the panels alone do not say it.
    """
    drawn = drawn or by_depth(run, grid, "residual block" if kind == "blocks" else "module")
    return plain(f"{_opening(run, step, kind)}: {drawn}.")


def by_depth(run: Facts, grid: Grid, place: str = "module") -> str:
    """Return which statistics of which signals stand over how many places, which are called ``place``."""
    # a colon marks a statistic that was derived from another panel's
    panels = [panel for row in grid for panel in row if ":" not in panel.statistic]
    statistics = listed(dict.fromkeys(_statistic(panel) for panel in panels))
    signals = listed(dict.fromkeys(_signal_phrase(panel.signal, run) for panel in panels if panel.signal))
    size = grid[0][0].size
    places = f"{size} {place}{'' if size == 1 else 's'}"
    return f"{statistics} of {signals} over {places} in execution order"


def _opening(run: Facts, step: int, kind: str) -> str:
    if kind == "outcomes":
        sentence = f"Results of {run['model']}" if run.get("model") else "Results"
    else:
        sentence = f"Signal propagation plot of {run.get('model') or 'a network'}"
    details = _told(run, "norm", "init", "activation")
    parameters = run.get("parameters")
    if isinstance(parameters, int):
        details.append(f"{parameters:,} parameters")
    if details:
        sentence += f" ({', '.join(details)})"
    if run.get("batch_size") is not None:
        data = f" {run['data']}" if run.get("data") else ""
        sentence += f" on a batch of {run['batch_size']}{data} inputs{_of_shape(run)}"
    elif run.get("data"):
        sentence += f" on {run['data']} inputs{_of_shape(run)}"
    sentence += "".join(f", {words}" for words in _told(run, "seed", "seeds"))
    return sentence + (f", at training step {step}" if step else "")


def _told(run: Facts, *keys: str) -> list[str]:
    return [f"{key} {run[key]}" for key in keys if run.get(key) is not None]


def entries(run: Facts) -> str:
    """Return the facts as ``key=value`` pairs, sorted by key, for a file's metadata."""
    # metadata of all formats are plain text, and facts such as versions are mappings
    flat: dict[str, object] = {}
    for key, value in run.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return plain("; ".join(f"{key}={flat[key]}" for key in sorted(flat) if flat[key] is not None))


def _statistic(panel: Panel) -> str:
    if panel.statistic in tuple(map(str, Column)):
        return short(Column(panel.statistic))
    return panel.title.partition(", ")[0]


def _signal_phrase(signal: Signal, run: Facts) -> str:
    if signal is Signal.GRADIENT:
        loss = f" of the loss ({run['loss']})" if run.get("loss") else ""
        return f"gradients{loss} with respect to the activations"
    return PLURAL[signal]


def _of_shape(run: Facts) -> str:
    shape = run.get("input_shape")
    if shape is None or shape == "":
        return ""
    if isinstance(shape, Iterable) and not isinstance(shape, str):
        return f" of {'×'.join(str(size) for size in shape)}"
    return f" of {str(shape).replace('x', '×')}"


def listed(words: Iterable[str]) -> str:
    """Return words as one reads a list out: ``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def brief(value: float) -> str:
    """Two digits, as ``140``, ``0.28`` or ``6e9``."""
    return f"{float(f'{value:.2g}'):g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")

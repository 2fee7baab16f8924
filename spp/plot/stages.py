"""Reading aids from module names alone: stages, blocks, and where ticks may stand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

MOST_STAGES = 24
"""More bands than this are no longer read as stages."""

TINY = 1 / 7
"""A run of layers smaller than this share of a typical stage joins the stem, the head or the stage before it."""

ENDS = ("stem", "head")
"""How layers before the first stage and after the last one are called together."""

BRIEF = 12
"""Characters from which a label goes without the component that nearly all names share."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run of neighbouring layers under one name: those with ``start <= index < stop``."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Tick:
    """A candidate for a label on the x axis; the smaller ``level`` (0 stage, 1 block, 2 layer) is kept first.

    ``x`` is the middle of what it names, ``start`` its first position.
    """

    x: float
    start: int
    text: str
    level: int


def stages(names: Sequence[str], least: int = 2) -> tuple[Span, ...]:
    """Divide layers, given in execution order, into stages by the leading components of their qualified names.

    A component that holds most of the network (``features``, ``transformer``) is opened up; single layers before the first
    stage become ``stem``, those after the last one ``head``. Where names show no stages of at least ``least`` layers on
    average the result is empty.
    """
    if len(names) < 2:
        return ()
    keys = _leading(names, least)
    shared = _shared(names)
    runs = _runs([_prefix(name, count) for name, count in zip(names, keys, strict=True)])
    merged = [Span(brief(run.name, shared), run.start, run.stop) for run in _merge_tiny(runs)]
    return tuple(merged) if 1 < len(merged) <= MOST_STAGES and len(merged) * least <= len(names) else ()


def _leading(names: Sequence[str], least: int) -> list[int]:
    """How many leading components name the stage of each layer."""
    keys = [1] * len(names)
    for _ in range(4):
        runs = _runs([_prefix(name, count) for name, count in zip(names, keys, strict=True)])
        dominant = {run.name for run in runs if (run.stop - run.start) * 2 > len(names)}
        opened = [
            count + 1 if _prefix(name, count) in dominant and name.count(".") > count else count
            for name, count in zip(names, keys, strict=True)
        ]
        children = _runs([_prefix(name, count) for name, count in zip(names, opened, strict=True)])
        if opened == keys or len(children) > MOST_STAGES or len(children) * least > len(names):
            break
        keys = opened
    return keys


def blocks(names: Sequence[str]) -> tuple[Span, ...]:
    """Divide layers into blocks: names up to their first run of numbers, as ``layer1.0`` or ``transformer.h.3``."""
    shared = _shared(names)
    return tuple(_runs([_block(name, shared) for name in names]))


def ticks(names: Sequence[str], labels: Sequence[str]) -> tuple[Tick, ...]:
    """Return the candidates for x labels, the most important first: stages by size, other blocks, every layer."""
    size_of = {span.start: span.stop - span.start for span in stages(names)} or {0: len(names)}
    shared = _shared(names)
    found = [
        Tick((span.start + span.stop - 1) / 2, span.start, brief(span.name, shared), int(span.start not in size_of))
        for span in blocks(names)
    ]
    # labels are dropped from the end of this list on where there is no room for all
    found.sort(key=lambda tick: (tick.level, -size_of.get(tick.start, 0), tick.start))
    return (*found, *(Tick(x, x, label, 2) for x, label in enumerate(labels)))


def brief(name: str, shared: str) -> str:
    """Leave out the component that nearly all names share, where a name is long."""
    return name.removeprefix(shared) if len(name) > BRIEF else name


def shortened(names: Sequence[str]) -> tuple[str, ...]:
    """Leave out the leading words that all names after the first share: stage1, stage2, stage3 become stage1, 2, 3.

    Names that end in no number are kept whole.
    """
    numbered = [name for name in names if name[-1:].isdigit()]
    shared = _common_start(numbered).rstrip("0123456789") if len(numbered) > 1 else ""
    first = numbered[0] if numbered else ""
    return tuple(
        name if name == first or not name.startswith(shared) else name[len(shared) :] or name for name in names
    )


def _common_start(names: Sequence[str]) -> str:
    # all others lie between them, letter by letter
    low, high = min(names), max(names)
    return low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]


def _prefix(name: str, count: int) -> str:
    return ".".join(name.split(".")[:count])


def _runs(keys: Sequence[str]) -> list[Span]:
    spans, start = [], 0
    for key, members in groupby(keys):
        stop = start + sum(1 for _ in members)
        spans.append(Span(key, start, stop))
        start = stop
    return spans


def _shared(names: Sequence[str]) -> str:
    """Return the leading component that nearly all names share, with its dot, or nothing; it has several children."""
    pairs = [tuple(name.split(".")[:2]) for name in names if "." in name]
    heads = [head for head, _ in pairs]
    counts = Counter(heads)
    commonest = max(sorted(counts), key=lambda head: counts[head], default="")
    children = {child for head, child in pairs if head == commonest}
    return f"{commonest}." if len(children) > 1 and counts[commonest] > 0.8 * len(names) else ""


def _block(name: str, shared: str) -> str:
    rest = name.removeprefix(shared)
    parts = rest.split(".")
    numbers = [index for index, part in enumerate(parts[:-1]) if part.isdigit()]
    last = numbers[0] if numbers else 0
    while last + 1 in numbers:
        last += 1
    return name[: len(name) - len(rest)] + ".".join(parts[: last + 1])


def _merge_tiny(runs: list[Span]) -> list[Span]:
    sizes = sorted(run.stop - run.start for run in runs for _ in range(run.start, run.stop))
    # the size of the run that the median layer is in
    typical = sizes[len(sizes) // 2]
    large = [index for index, run in enumerate(runs) if run.stop - run.start > typical * TINY]
    first, last = large[0], large[-1]
    merged = [_joined(runs[:first], ENDS[0])] if first else []
    for run in runs[first : last + 1]:
        if merged and first < last and run.stop - run.start <= typical * TINY:
            merged[-1] = Span(merged[-1].name, merged[-1].start, run.stop)
        else:
            merged.append(run)
    return [*merged, _joined(runs[last + 1 :], ENDS[1])] if last + 1 < len(runs) else merged


def _joined(runs: list[Span], name: str) -> Span:
    return Span(runs[0].name if len(runs) == 1 else name, runs[0].start, runs[-1].stop)

"""The exception family of ``spp``: every error states the rule, what came, where, and what to do.

``str(error)`` is one line, so that the command line can print it as it stands. The fields stay readable for programs::

    try:
        spp.models.build("efnet_b0")
    except spp.SppError as error:
        error.rule, error.received, error.where, error.remedy
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# controls (ESC begins a terminal's commands), ends of lines, overrides of the direction of writing, lone surrogates
_NO_LETTERS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    r"""``text`` in one line that terminals, pages and files show as it is: what is no letter is escaped, as ``\x1b``."""
    return _NO_LETTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def first_line(error: BaseException) -> str:
    """What an error says, in one line without a full stop; pyarrow and torch say it in several."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# of CPU, CUDA, MPS, cuBLAS and cuDNN, of the system, and of numbers of elements beyond what torch counts
_NO_MEMORY = re.compile(
    "allocate memory|(out of|not enough) memory|ALLOC_FAILED|overflowed with sizes|Overflow when unpack", re.I
)
_ASKED = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGTPE]iB)")
LESS = "Take a smaller batch, smaller samples or a smaller network."


def memory_lacking(error: BaseException) -> str:
    """What was asked of the memory in vain, as ``1.6 TiB``; empty where an error is about something else."""
    text = str(error)
    if not isinstance(error, MemoryError) and not _NO_MEMORY.search(text):
        return ""
    if (found := _ASKED.search(text)) is None:
        return "what was asked for"
    size, unit = float(found[1]), found[2]
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB") if unit == "bytes" else ():
        if size >= 1024:
            size, unit = size / 1024, larger
    return f"{size:.3g} {unit}"


def said(error: BaseException) -> str:
    """An error's class and what it says, in one line without a full stop."""
    lacking = memory_lacking(error)
    return f"{type(error).__name__}: {f'no memory for {lacking}' if lacking else first_line(error)}"


class SppError(Exception):
    """Base of every error that ``spp`` raises on purpose.

    Args:
        rule: What must hold, as a sentence without a full stop.
        received: What came instead; left out of the message when empty.
        where: Layer, argument, column or file concerned; left out of the message when empty.
        remedy: What to do about it; left out of the message when empty.

    Attributes:
        partial: What had been measured, a :class:`spp.Run`, where a trace had begun a pass; else None.
    """

    partial: Any = None

    def __init__(self, rule: str, *, received: str = "", where: str = "", remedy: str = "") -> None:
        self.rule, self.received, self.where, self.remedy = rule, received, where, remedy
        super().__init__(rule)

    @property
    def headline(self) -> str:
        """Where, and the rule."""
        return f"{self.where}: {self.rule}" if self.where else self.rule

    def __str__(self) -> str:
        parts = [self.headline]
        if self.received:
            parts.append(f"got {self.received}")
        line = "; ".join(parts)
        # names and paths in it may be any text
        return plain(f"{line}. {self.remedy}" if self.remedy else f"{line}.")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.__dict__.copy())


class InputError(SppError, ValueError):
    """An argument, option, file or batch is not what was asked for."""


class UnknownNameError(InputError, KeyError):
    """A name is not in the list it should come from; the message shows the nearest ones, then all or where to find them.

    Args:
        kind: What the name stands for, as ``model`` or ``norm``.
        name: The name that came.
        known: Every name that would have been taken.
        where: Argument or option concerned.
        listing: What lists them all, for more names than anybody reads in a message.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "", listing: str = "") -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        few = 2 if listing else 3  # the names of a large library differ in little: a third one helps nobody
        near = get_close_matches(name, self.known, n=few, cutoff=0.5)
        self.nearest = tuple(near)
        hint = f"Did you mean {_one_of(near)}? " if near else ""
        every = f"{listing} has all {len(self.known)}." if listing else f"Known: {', '.join(self.known) or 'none'}."
        remedy = hint + every
        super().__init__(f"unknown {kind} {name!r}", where=where, remedy=remedy)


class TraceError(SppError, RuntimeError):
    """The model, its loss or its backward pass failed while it was traced; the cause is the user's own exception.

    What had been measured until then is ``partial``.
    """


class StoreError(SppError, OSError):
    """A run folder cannot be written or read."""


class MissingExtraError(SppError, ImportError):
    """An optional library is needed; the message names the extra that brings it."""

    def __init__(self, library: str, extra: str, *, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}",
            received="an environment without it",
            remedy=f'Install it with: pip install "torch-spp[{extra}]"',
        )


class SppWarning(UserWarning):
    """Something was done differently from what a reader might assume; the numbers stay right."""


def _one_of(names: list[str]) -> str:
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _rebuild(cls: type[SppError], state: dict[str, object]) -> SppError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    error.args = (state["rule"],)
    return error

"""What went wrong in the user's model, loss or backward pass, and in which module: one line, with the original as its cause."""

from __future__ import annotations

from typing import Any

from spp._pytree import describe_call
from spp.capture.sites import Entry, Site
from spp.errors import TraceError

_REMEDY = "Check that the model runs on this batch by itself; the original exception is the cause of this one"


class Failure:
    """Remembers the innermost module that an exception came from."""

    def __init__(self) -> None:
        self._noted: tuple[BaseException, Entry, str] | None = None

    def note(self, error: BaseException, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that ``error`` left the module of ``entry``; the first to be left is the innermost."""
        if self._noted is None or self._noted[0] is not error:
            try:
                received = describe_call(args, kwargs)
            except Exception:  # a description must not hide the error that it is about
                received = "arguments that cannot be described"
            self._noted = error, entry, received

    def explain(self, stage: str, error: Exception, received: str = "", after: Site | None = None) -> TraceError:
        """The user's exception, with the module it came from, what arrived there and what to do.

        Args:
            stage: What was going on.
            error: What was raised.
            received: What arrived, where no module is to blame.
            after: What a broken backward pass had reached.
        """
        where = ""
        chain: BaseException | None = error
        while chain is not None and self._noted is not None:
            if chain is self._noted[0]:
                entry, received = self._noted[1], self._noted[2]
                where = _named(entry)
                break
            chain = chain.__cause__ or chain.__context__
        if not where and after is not None:
            stage = f"{stage}, after it had left {_named(after.entry)},"
        message = " ".join(str(error).split())
        return TraceError(
            f"{stage} raised {type(error).__name__}: {message}".rstrip(".: "),
            where=where,
            received=received,
            remedy=_REMEDY,
        )


def _named(entry: Entry) -> str:
    return f"module {entry.name!r} ({entry.type})" if entry.name else f"the model ({entry.type})"

"""Run folders: claimed before any work is done, never overwritten by accident, never left behind empty."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

RUNS = Path("runs")
"""Where run folders go when ``--out`` does not say."""


@contextmanager
def claim(label: str, out: str | None, *, overwrite: bool = False) -> Iterator[Path]:
    """Make the run folder and hold it while the work is done; take it away again if the work fails and it is empty.

    Args:
        label: Name of the folder under ``runs``, where ``out`` is None; a number is added if it is taken.
        out: The folder that the user asked for.
        overwrite: Whether ``out`` may hold files already.

    Raises:
        InputError: The folder is not empty and may not be overwritten, or it cannot be written.
    """
    made: list[Path] = []
    try:
        folder = _given(Path(out), overwrite, made) if out is not None else _numbered(RUNS / label, made)
        _probe(folder)
        yield folder
    except BaseException:
        for path in reversed(made):
            # not empty: something was written, which is worth keeping
            with suppress(OSError):
                path.rmdir()
        raise


def _given(folder: Path, overwrite: bool, made: list[Path]) -> Path:
    from spp.errors import InputError
    from spp.frame.runs import check_writable, holds_something

    # the rename would leave the user's shell in a folder that is gone
    if folder.resolve() == Path.cwd().resolve():
        raise InputError(
            "a run folder is renamed into place as a whole, so it is not the current folder",
            received=str(folder),
            where="--out",
            remedy="Name a folder inside it.",
        )
    if folder.is_dir() and holds_something(folder) and not overwrite:
        raise InputError(
            "a run folder is new or empty",
            received=str(folder),
            where="--out",
            remedy="Choose another folder, or add --overwrite.",
        )
    if folder.is_dir():
        # --overwrite gives up a run, nothing else: a folder of other things is refused
        check_writable(folder, overwrite=overwrite)
    _make(folder, made, exist_ok=True)
    return folder


def _numbered(folder: Path, made: list[Path]) -> Path:
    """The first of ``folder``, ``folder-2``, ... that nobody has; making it claims it, also against another process."""
    for number in count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        # made, not looked for: of two processes that look, both would find it free
        with suppress(FileExistsError):
            _make(candidate, made, exist_ok=False)
            return candidate
    raise AssertionError("count() does not end")


def _make(folder: Path, made: list[Path], *, exist_ok: bool) -> None:
    """Make ``folder`` and its missing parents, noting in ``made`` those that were missing, outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if exist_ok:
            raise _unwritable(folder, "a file of that name") from None
        raise
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error
    made.extend(reversed(missing))


def _probe(folder: Path) -> None:
    """Write and remove a file: permissions alone do not tell whether a file system takes one."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error


def _unwritable(folder: Path, reason: str) -> Exception:
    from spp.errors import InputError

    return InputError(
        "a run needs a folder that can be written",
        received=f"{folder} ({reason})",
        where="--out",
        remedy="Choose another folder with --out.",
    )

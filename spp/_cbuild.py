"""Builds C kernels with the system's compiler, once each, into a private folder of the user's cache, and loads them.

A library's name holds a digest of its source, the compiler's version, the flags and the processor, so that another of any of
these builds its own; it appears by an atomic rename, so that processes that start together never load half a file.

``SPP_KERNELS`` says whether kernels are used: ``auto`` (the default) where a compiler is at hand, ``off`` nowhere, and
``require`` makes it an error where one cannot be built.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spp.errors import InputError

MODES = ("auto", "off", "require")
BASE = ("-O2", "-std=gnu11", "-fPIC", "-fno-math-errno", "-ffp-contract=fast")
ATTEMPTS: tuple[tuple[str, ...], ...] = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-march=native", "-fopenmp-simd"),
    (),
)
"""Flags to try in turn: wide vectors and torch's threads, other processors than x86, one thread, any C compiler."""


@dataclass(frozen=True, slots=True)
class Source:
    """A C file, the files beside it that it includes, and numbers that Python and C share, as ``-DNAME=1``."""

    path: Path
    headers: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()

    @property
    def text(self) -> bytes:
        """All that is compiled."""
        return b"".join(path.read_bytes() for path in (self.path, *map(self.path.with_name, self.headers)))


@dataclass(frozen=True, slots=True)
class Build:
    """One way to build the library: the commands to run and where the result goes."""

    path: Path
    commands: tuple[tuple[str, ...], ...]
    threaded: bool


def mode() -> str:
    """``$SPP_KERNELS``: auto, off or require.

    Raises:
        InputError: It is something else.
    """
    value = os.environ.get("SPP_KERNELS", "auto")
    if value not in MODES:
        raise InputError("SPP_KERNELS is auto, off or require", received=repr(value), where="environment")
    return value


def find_compiler() -> str | None:
    """The C compiler of ``$CC``, else the first of cc, gcc and clang on the path."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        parts = shlex.split(name)
        if parts and shutil.which(parts[0]):
            return name
    return None


def cache_folder() -> Path:
    """``$SPP_CACHE``, else ``spp`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("SPP_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "spp"


def plan(source: Source, compiler: str, attempt: int) -> Build:
    """How to build ``source`` with the ``attempt``-th set of flags.

    Raises:
        OSError: The compiler cannot be asked for its version.
    """
    version = subprocess.run(
        [*shlex.split(compiler), "--version"], capture_output=True, text=True, check=False, timeout=5
    )
    flags = (*BASE, *source.defines, *ATTEMPTS[attempt])
    facts = "\n".join([version.stdout, " ".join(flags), _processor()])
    digest = hashlib.sha256(source.text + facts.encode()).hexdigest()[:20]
    path = cache_folder() / f"{source.path.stem}-{digest}.so"
    draft = f"{path}.{os.getpid()}"
    cc = tuple(shlex.split(compiler))
    compile_ = (*cc, *flags, "-c", str(source.path), "-o", f"{draft}.o")
    link = (
        *cc,
        "-shared",
        f"{draft}.o",
        "-o",
        f"{draft}.tmp",
    )  # without -fopenmp: torch's own runtime gives the symbols
    return Build(path, (compile_, link), "-fopenmp" in flags)


def build(plan: Build, timeout: float) -> str:
    """Run the commands and put the library in its place; "" or why it failed."""
    folder = plan.path.parent
    draft = Path(f"{plan.path}.{os.getpid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep_up(folder)
        for command in plan.commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
            if done.returncode:
                lines = (done.stderr or done.stdout).strip().splitlines()
                return f"{command[0]} failed: {lines[0] if lines else f'exit code {done.returncode}'}"
        Path(f"{draft}.tmp").replace(plan.path)
    except subprocess.TimeoutExpired:
        return f"{plan.commands[0][0]} took longer than {timeout:g} s"
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"
    finally:
        for suffix in (".o", ".tmp"):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)
    return ""


def _sweep_up(folder: Path) -> None:
    """Remove what builds that were killed have left."""
    for draft in folder.glob("*.so.*"):
        if time.time() - draft.stat().st_mtime > 3600:
            draft.unlink(missing_ok=True)


def is_private(path: Path) -> bool:
    """Whether only this user can have put, or could put, a library there; nothing else is loaded."""
    if os.name != "posix":
        return True
    for place in (path, path.parent):
        if not place.exists():
            continue
        facts = place.stat()
        if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
    return True


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


class Status(NamedTuple):
    """Whether a kernel is in use, and why."""

    native: bool
    reason: str


class Library:
    """A kernel that is built beside everything else and asked for when it is needed.

    Args:
        source: What it is built from.
        bind: Takes the loaded library, tells ctypes what its functions take, and tries them; "" or what is wrong with it.

    Attributes:
        loaded: The library, once it is there and right.
        threaded: Whether it was built to use torch's threads.
        reason: Why it is there or not, in words.
    """

    def __init__(self, source: Source, bind: Callable[[ctypes.CDLL], str]) -> None:
        self.source, self.bind = source, bind
        self.loaded: ctypes.CDLL | None = None
        self.threaded = False
        self.reason = "not asked for yet"
        self._lock = threading.Lock()
        self._builder: threading.Thread | None = None
        self._ready = False

    def start(self) -> None:
        """Begin to build, without waiting for it."""
        with self._lock:
            if self._builder is None:
                self._builder = threading.Thread(target=self._prepare, name="spp-compile", daemon=True)
                self._builder.start()

    def get(self, patience: float) -> ctypes.CDLL | None:
        """The library, or None where there is none or it has not come out after ``patience`` seconds."""
        if not self._ready:
            self.start()
            assert self._builder is not None  # it has just been started
            self._builder.join(patience)
            if self._builder.is_alive():
                self.reason = f"still compiling after {patience:g} s"
                return None
            self._ready = True
        return self.loaded

    def status(self, patience: float) -> Status:
        """Whether it is to be used, as ``SPP_KERNELS`` says and a compiler allows; builds it if it has not been asked for.

        Args:
            patience: Seconds to wait for the compiler at most.

        Raises:
            InputError: ``SPP_KERNELS`` is none of its values, or "require" and there is no kernel.
        """
        wanted = mode()
        if wanted == "off":
            return Status(False, "SPP_KERNELS=off")
        loaded = self.get(patience)
        if loaded is None and wanted == "require":
            raise InputError(
                "SPP_KERNELS=require needs the C kernel",
                received=self.reason,
                where="environment",
                remedy="Install a C compiler, or unset SPP_KERNELS to use the slower reference path",
            )
        return Status(loaded is not None, self.reason)

    def _prepare(self) -> None:
        compiler = find_compiler()
        if compiler is None:
            self.reason = "no C compiler found (cc, gcc, clang or $CC)"
            return
        if not is_private(cache_folder() / "library"):
            self.reason = f"{cache_folder()} can be written by others"
            return
        reasons = []
        for attempt in range(len(ATTEMPTS)):
            try:
                made = plan(self.source, compiler, attempt)
                reason = "" if made.path.exists() else build(made, timeout=60)
                reason = reason or self._load(made)
            except (OSError, ValueError, AttributeError, ctypes.ArgumentError) as error:
                reason = str(error)
            if not reason:
                threads = "with torch's threads" if made.threaded else "on one thread"
                self.reason = f"compiled by {compiler}, {threads}, at {made.path}"
                return
            reasons.append(reason)
        self.reason = reasons[0]

    def _load(self, made: Build) -> str:
        if not is_private(made.path):
            return f"{made.path.parent} can be written by others"
        library = ctypes.CDLL(str(made.path))
        wrong = self.bind(library)
        if not wrong:
            self.loaded, self.threaded = library, made.threaded
        return wrong

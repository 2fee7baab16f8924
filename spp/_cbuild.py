"""Builds C kernels with the system's compiler, once each, into a private folder of the user's cache, and loads them.

A library's name holds a digest of its source, the compiler's version, the flags and the processor, so that another of any of
these builds its own, and one of its contents: what a full disk or a crash has cut short would kill the process that loads it,
and is built anew. It appears by an atomic rename. Of processes that start together one builds; one that ends soon waits for it.

``SPP_KERNELS`` says whether kernels are used: ``auto`` (the default) where a compiler is at hand, ``off`` nowhere, and
``require`` makes it an error where one cannot be built.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

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


AT_EXIT = 20.0
"""Seconds that a process which ends waits for its build at most."""


@dataclass(frozen=True, slots=True)
class Source:
    """A C file in a package, the files beside it that it includes, and numbers that Python and C share, as ``-DNAME=1``."""

    package: str
    name: str
    headers: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()

    def texts(self) -> dict[str, bytes]:
        """All that is compiled, by name; the package may lie in a zip archive."""
        return {name: files(self.package).joinpath(name).read_bytes() for name in (self.name, *self.headers)}


@dataclass(frozen=True, slots=True)
class Build:
    """One way to build the library.

    Attributes:
        texts: What is compiled, by name, the main file first.
        compiler: How to call it.
        flags: For the compiler, not for the linker.
        path: Where the result goes, without a digest of its contents and a suffix.
    """

    texts: dict[str, bytes]
    compiler: tuple[str, ...]
    flags: tuple[str, ...]
    path: Path

    @property
    def threaded(self) -> bool:
        """Whether it uses torch's threads."""
        return "-fopenmp" in self.flags

    def commands(self, draft: Path) -> tuple[tuple[str, ...], ...]:
        """What makes ``draft/library`` from the texts in ``draft``."""
        compiled = str(draft / "compiled.o")
        return (
            (*self.compiler, *self.flags, "-c", str(draft / next(iter(self.texts))), "-o", compiled),
            # without -fopenmp: torch's own runtime gives the symbols
            (*self.compiler, "-shared", compiled, "-o", str(draft / "library")),
        )

    def find(self) -> Path | None:
        """The library, where it holds what was built and nobody else can change it."""
        for path in self.path.parent.glob(f"{self.path.name}-*.so"):
            # another process may just have removed it
            with suppress(OSError):
                if path == self.final(path.read_bytes()) and not intruder(path):
                    return path
        return None

    def final(self, contents: bytes) -> Path:
        """Where a library of such contents goes."""
        return Path(f"{self.path}-{hashlib.sha256(contents).hexdigest()[:20]}.so")


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
    """``$SPP_CACHE``, else ``spp`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; without a home, one of the user's in ``$TMPDIR``.

    Raises:
        RuntimeError: ``$SPP_CACHE`` begins with the home of somebody who has none.
    """
    if own := os.environ.get("SPP_CACHE"):
        return Path(own).expanduser().resolve()
    # expanduser leaves "~" as it is where there is neither $HOME nor an entry of the user, as in a container
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    if cache.is_absolute() and (cache.is_dir() or os.access(cache.parent, os.W_OK)):
        return (cache / "spp").resolve()
    user = os.getuid() if os.name == "posix" else "kernels"
    return (Path(tempfile.gettempdir()) / f"spp-{user}").resolve()


def plan(source: Source, compiler: str, attempt: int) -> Build:
    """How to build ``source`` with the ``attempt``-th set of flags.

    Raises:
        OSError: The compiler cannot be asked for its version.
    """
    cc = tuple(shlex.split(compiler))
    version = subprocess.run([*cc, "--version"], capture_output=True, check=False, timeout=5)
    flags = (*BASE, *source.defines, *ATTEMPTS[attempt])
    texts = source.texts()
    facts = (*texts.values(), version.stdout, " ".join(flags).encode(), _processor().encode())
    digest = hashlib.sha256(b"\n".join(facts)).hexdigest()[:20]
    return Build(texts, cc, flags, cache_folder() / f"{Path(source.name).stem}-{digest}")


def build(plan: Build, timeout: float) -> str:
    """Run the commands and put the library in its place, unless another process has; "" or why it failed.

    Args:
        plan: How.
        timeout: Seconds for each command, and to wait for other processes.
    """
    folder = plan.path.parent
    lock = FileLock(folder / ".lock")
    try:
        # one by one, since mkdir(parents=True) leaves to the umask who may write into the others
        for place in (*reversed(folder.parents), folder):
            place.mkdir(mode=0o700, exist_ok=True)
        # whoever has it longer hangs
        with suppress(Timeout):
            lock.acquire(timeout)
        return "" if plan.find() else _build(plan, timeout)
    except subprocess.TimeoutExpired:
        return f"{plan.compiler[0]} took longer than {timeout:g} s"
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror or error}"
    finally:
        lock.release()


def _build(plan: Build, timeout: float) -> str:
    folder = plan.path.parent
    _sweep_up(plan)
    with tempfile.TemporaryDirectory(prefix="draft-", dir=folder, ignore_cleanup_errors=True) as name:
        draft = Path(name)
        for text, contents in plan.texts.items():
            (draft / text).write_bytes(contents)
        for command in plan.commands(draft):
            # in a session of its own: Ctrl-C ends the script, and not the compiler that it waits for
            done = subprocess.run(
                command,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=timeout,
                env={**os.environ, "TMPDIR": name},
                start_new_session=True,
            )
            if done.returncode:
                lines = (done.stderr or done.stdout).strip().splitlines()
                return f"{command[0]} failed: {lines[0] if lines else f'exit code {done.returncode}'}"
        library = draft / "library"
        # the linker leaves to the umask who may write to it
        library.chmod(0o700)
        with library.open("r+b") as file:
            contents = file.read()
            os.fsync(file.fileno())
        library.replace(plan.final(contents))
    return ""


def _sweep_up(plan: Build) -> None:
    """Remove what builds that were killed have left, and what is damaged."""
    for draft in plan.path.parent.glob("draft-*"):
        if time.time() - draft.stat().st_mtime > 3600:
            shutil.rmtree(draft, ignore_errors=True)
    for library in plan.path.parent.glob(f"{plan.path.name}-*.so"):
        library.unlink(missing_ok=True)


def intruder(path: Path) -> str:
    """What lets others than this user and root put a library at ``path``, in words; "" where nothing does.

    Args:
        path: Absolute and without symbolic links; it need not exist.
    """
    # who may write is no matter of modes elsewhere
    for place in (path, *path.parents) if os.name == "posix" else ():
        try:
            facts = place.stat()
        except FileNotFoundError:
            continue
        if facts.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to another user"
        loose = stat.S_IWOTH if _is_own_group(facts.st_gid) else stat.S_IWOTH | stat.S_IWGRP
        # in a sticky folder above, as /tmp, others can add, and not replace what is ours
        sticky = facts.st_mode & stat.S_ISVTX and place not in (path, path.parent)
        if facts.st_mode & loose and not sticky:
            return f"{place} can be written by others"
    return ""


def _is_own_group(group: int) -> bool:
    """Whether nobody but the user is in a group: those that a umask of 002 goes with have the user's name and no members."""
    import grp
    import pwd

    try:
        name, found = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_name == name and set(found.gr_mem) <= {name}


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
        self._started = 0.0
        self._ready = False

    def start(self) -> None:
        """Begin to build, without waiting for it."""
        with self._lock:
            if self._builder is None:
                self._builder = threading.Thread(target=self._prepare, name="spp-compile", daemon=True)
                self._started = time.monotonic()
                self._builder.start()
                # else a process that ends before its compiler loses the build, and the next begins anew
                atexit.register(self._builder.join, AT_EXIT)

    def get(self, patience: float) -> ctypes.CDLL | None:
        """The library, or None where there is none or it has not come out ``patience`` seconds after it was begun."""
        if not self._ready:
            self.start()
            assert self._builder is not None  # it has just been started
            self._builder.join(max(0.0, self._started + patience - time.monotonic()))
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
        try:
            self.reason = self._obtain()
        # a thread has nobody to tell; RuntimeError: no home
        except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
            self.reason = str(error).partition("\n")[0]

    def _obtain(self) -> str:
        """Load the library; why it is there or not."""
        compiler = find_compiler()
        if compiler is None:
            return "no C compiler found (cc, gcc, clang or $CC)"
        if reason := intruder(cache_folder() / "library"):
            return reason
        reasons = []
        for attempt in range(len(ATTEMPTS)):
            made = plan(self.source, compiler, attempt)
            reason = "" if made.find() else build(made, timeout=60)
            path = made.find()
            reason = reason or (self._load(path, made) if path else f"{made.path.parent} does not keep what is built")
            if not reason:
                threads = "with torch's threads" if made.threaded else "on one thread"
                return f"compiled by {compiler}, {threads}, at {path}"
            reasons.append(reason)
        return reasons[0]

    def _load(self, path: Path, made: Build) -> str:
        try:
            library = ctypes.CDLL(str(path))
            wrong = self.bind(library)
        except (OSError, AttributeError, ctypes.ArgumentError) as error:
            return str(error).partition("\n")[0]
        if not wrong:
            self.loaded, self.threaded = library, made.threaded
        return wrong

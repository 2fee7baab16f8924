"""Builds the C sweep with the system's compiler, once, into a private folder of the user's cache.

The library's name holds a digest of its source, the compiler's version, the flags and the processor, so that another of any of
these builds its own; it appears by an atomic rename, so that processes that start together never load half a file.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("sweep.c")
HEADERS = ("walk.h", "narrow.h", "wide.h")
BASE = ("-O2", "-std=gnu11", "-fPIC", "-fno-math-errno", "-ffp-contract=fast")
ATTEMPTS: tuple[tuple[str, ...], ...] = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-march=native", "-fopenmp-simd"),
    (),
)
"""Flags to try in turn: wide vectors and torch's threads, other processors than x86, one thread, any C compiler."""


@dataclass(frozen=True, slots=True)
class Build:
    """One way to build the library: the commands to run and where the result goes."""

    path: Path
    commands: tuple[tuple[str, ...], ...]
    threaded: bool


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


def plan(compiler: str, attempt: int) -> Build:
    """How to build with the ``attempt``-th set of flags.

    Raises:
        OSError: The compiler cannot be asked for its version.
    """
    version = subprocess.run(
        [*shlex.split(compiler), "--version"], capture_output=True, text=True, check=False, timeout=5
    )
    flags = (*BASE, *ATTEMPTS[attempt])
    source = b"".join(path.read_bytes() for path in (SOURCE, *map(SOURCE.with_name, HEADERS)))
    facts = "\n".join([version.stdout, " ".join(flags), _processor()])
    digest = hashlib.sha256(source + facts.encode()).hexdigest()[:20]
    path = cache_folder() / f"sweep-{digest}.so"
    draft = f"{path}.{os.getpid()}"
    cc = tuple(shlex.split(compiler))
    compile_ = (*cc, *flags, "-c", str(SOURCE), "-o", f"{draft}.o")
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
    for draft in folder.glob("sweep-*.so.*"):
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

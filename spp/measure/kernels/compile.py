"""How the C sweep is built: :mod:`spp.compiling`, for its files."""

from __future__ import annotations

from pathlib import Path

from spp.compiling import ATTEMPTS as ATTEMPTS
from spp.compiling import Build as Build
from spp.compiling import Source
from spp.compiling import build as build
from spp.compiling import cache_folder as cache_folder
from spp.compiling import find_compiler as find_compiler
from spp.compiling import is_private as is_private
from spp.compiling import plan as plan_for

SWEEP = Source(Path(__file__).with_name("sweep.c"), ("walk.h", "narrow.h", "wide.h"))


def plan(compiler: str, attempt: int) -> Build:
    """How to build the sweep with the ``attempt``-th set of flags.

    Raises:
        OSError: The compiler cannot be asked for its version.
    """
    return plan_for(SWEEP, compiler, attempt)

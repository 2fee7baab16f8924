"""``spp``: signal propagation diagnostics for PyTorch.

import spp

model = spp.models.build("effnet_b0", norm="none")      # or any torch.nn.Module
batch = spp.data.gaussian(32, (3, 224, 224), seed=0)    # or (inputs, targets), or a DataLoader
run = spp.trace(model, batch)                           # the model is left exactly as it was
print(run)                                              # its components and the worst findings, on one screen
run.frame                                               # one row per observed tensor
run.findings                                            # what is wrong, where it begins, what to try
run.plot()                                              # the Signal Propagation Plot
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from spp._version import __version__ as __version__

if TYPE_CHECKING:
    from spp import data as data
    from spp import diagnosis as diagnosis
    from spp import frame as frame
    from spp import integrations as integrations
    from spp import layers as layers
    from spp import models as models
    from spp import nn as nn
    from spp import plot as plot
    from spp import report as report
    from spp import stats as stats
    from spp import studies as studies
    from spp import theory as theory
    from spp import training as training
    from spp.diagnosis import diagnose as diagnose
    from spp.errors import InputError as InputError
    from spp.errors import SppError as SppError
    from spp.errors import SppWarning as SppWarning
    from spp.errors import TraceError as TraceError
    from spp.remedy_trials import calibrate as calibrate
    from spp.remedy_trials import try_remedies as try_remedies
    from spp.run import Comparison as Comparison
    from spp.run import Run as Run
    from spp.run import Trace as Trace
    from spp.run import check as check
    from spp.run import compare as compare
    from spp.run import load as load
    from spp.tracing import trace as trace
    from spp.vocabulary import ALL as ALL
    from spp.vocabulary import Signal as Signal
    from spp.watching import Watch as Watch
    from spp.watching import watch as watch
_ROOMS = (
    *("data", "diagnosis", "frame", "integrations", "layers", "models", "nn", "plot", "report", "stats", "studies"),
    *("theory", "training"),
)
_NAMES = {
    "spp.diagnosis": ("diagnose",),
    "spp.errors": ("InputError", "SppError", "SppWarning", "TraceError"),
    "spp.remedy_trials": ("calibrate", "try_remedies"),
    "spp.run": ("Comparison", "Run", "Trace", "check", "compare", "load"),
    "spp.tracing": ("trace",),
    "spp.vocabulary": ("ALL", "Signal"),
    "spp.watching": ("Watch", "watch"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for (PEP 562): whoever lists models need not wait for the figures."""
    if name in _ROOMS:
        return import_module(f"spp.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'spp' has no attribute {name!r}")
    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({"__version__", "__doc__", *_ROOMS, *_HOMES})

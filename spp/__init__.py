"""``spp``: signal propagation diagnostics for PyTorch.

import spp

model = spp.models.build("effnet_b0", norm="none")      # or any torch.nn.Module
batch = spp.data.gaussian(32, (3, 224, 224), seed=0)    # or (inputs, targets), or a DataLoader
trace = spp.trace(model, batch)                         # the model is left exactly as it was
trace.frame                                             # one row per observed tensor
trace.findings                                          # what is wrong, where it begins, what to try
trace.plot()                                            # the Signal Propagation Plot
"""

__version__ = "0.1.0.dev0"

from spp import data as data
from spp import models as models
from spp import nn as nn
from spp import theory as theory
from spp.diagnosis import diagnose as diagnose
from spp.errors import InputError as InputError
from spp.errors import SppError as SppError
from spp.errors import SppWarning as SppWarning
from spp.errors import TraceError as TraceError
from spp.run import Trace as Trace
from spp.run import load as load
from spp.tracing import trace as trace
from spp.vocabulary import ALL as ALL
from spp.vocabulary import Signal as Signal
from spp.watching import Watch as Watch
from spp.watching import watch as watch

from spp import training as training  # isort: skip  (stands on all of the above)

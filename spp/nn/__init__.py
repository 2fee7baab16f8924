"""Norms, activations, inits and other parts of networks, by name and as modules.

``NORMS``, ``ACTIVATIONS`` and ``INITS`` are tables from name to row; each row has a one-line ``description``.
"""

from spp.nn import functional as functional
from spp.nn.activations import ACTIVATIONS as ACTIVATIONS
from spp.nn.activations import Activation as Activation
from spp.nn.activations import make_activation as make_activation
from spp.nn.init import INITS as INITS
from spp.nn.init import Init as Init
from spp.nn.init import initialize_ as initialize_
from spp.nn.norms import NORMS as NORMS
from spp.nn.norms import AffineLayer as AffineLayer
from spp.nn.norms import ChannelLayerNorm as ChannelLayerNorm
from spp.nn.norms import ChannelRMSNorm as ChannelRMSNorm
from spp.nn.norms import Norm as Norm
from spp.nn.norms import make_norm as make_norm
from spp.nn.residual import StochasticDepth as StochasticDepth
from spp.nn.squeeze_excite import SqueezeExcite as SqueezeExcite

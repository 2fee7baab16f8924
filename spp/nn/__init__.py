"""Norms, activations, inits and other parts of networks, by name and as modules.

``NORMS``, ``WEIGHT_NORMS``, ``ACTIVATIONS``, ``GAINS``, ``INITS``, ``RESIDUALS`` and ``SE_SCALINGS`` are tables from name to
row; each row has a one-line description. All are open: ``NORMS.register("mine", Norm(make=..., description=...))``, and from
then on the name works wherever a norm is asked for by name.
"""

from spp.nn import functional as functional
from spp.nn import init as init
from spp.nn.activations import ACTIVATIONS as ACTIVATIONS
from spp.nn.activations import Activation as Activation
from spp.nn.activations import ScaledActivation as ScaledActivation
from spp.nn.activations import gain as gain
from spp.nn.activations import make_activation as make_activation
from spp.nn.clipping import clip_grad_agc_ as clip_grad_agc_
from spp.nn.gains import GAINS as GAINS
from spp.nn.gains import PUBLISHED_GAMMAS as PUBLISHED_GAMMAS
from spp.nn.gains import Gain as Gain
from spp.nn.gains import gain_of as gain_of
from spp.nn.init import INITS as INITS
from spp.nn.init import Init as Init
from spp.nn.init import initialize_ as initialize_
from spp.nn.init import lsuv_ as lsuv_
from spp.nn.init import zero_gamma_ as zero_gamma_
from spp.nn.neuronwise import Conversion as Conversion
from spp.nn.neuronwise import NeuronwiseConv1d as NeuronwiseConv1d
from spp.nn.neuronwise import NeuronwiseConv2d as NeuronwiseConv2d
from spp.nn.neuronwise import NeuronwiseLinear as NeuronwiseLinear
from spp.nn.neuronwise import neuronwise_ as neuronwise_
from spp.nn.norm_layers import AffineLayer as AffineLayer
from spp.nn.norm_layers import BatchRenorm as BatchRenorm
from spp.nn.norm_layers import ChannelLayerNorm as ChannelLayerNorm
from spp.nn.norm_layers import ChannelRMSNorm as ChannelRMSNorm
from spp.nn.norm_layers import ChannelsFirst as ChannelsFirst
from spp.nn.norm_layers import ChannelsLast as ChannelsLast
from spp.nn.norm_layers import DyT as DyT
from spp.nn.norm_layers import EvoNormB0 as EvoNormB0
from spp.nn.norm_layers import EvoNormS0 as EvoNormS0
from spp.nn.norm_layers import FilterResponseNorm as FilterResponseNorm
from spp.nn.norm_layers import GhostBatchNorm as GhostBatchNorm
from spp.nn.norms import NORMS as NORMS
from spp.nn.norms import Norm as Norm
from spp.nn.norms import Place as Place
from spp.nn.norms import make_norm as make_norm
from spp.nn.replace import Replacement as Replacement
from spp.nn.replace import put_activation as put_activation
from spp.nn.replace import put_norm as put_norm
from spp.nn.replace import replace_norm as replace_norm
from spp.nn.residual import RESIDUALS as RESIDUALS
from spp.nn.residual import Residual as Residual
from spp.nn.residual import ResidualBlock as ResidualBlock
from spp.nn.residual import StochasticDepth as StochasticDepth
from spp.nn.squeeze_excite import SE_SCALES as SE_SCALES
from spp.nn.squeeze_excite import SE_SCALINGS as SE_SCALINGS
from spp.nn.squeeze_excite import SEScale as SEScale
from spp.nn.squeeze_excite import SqueezeExcite as SqueezeExcite
from spp.nn.weight_norms import WEIGHT_NORMS as WEIGHT_NORMS
from spp.nn.weight_norms import StandardizedConv1d as StandardizedConv1d
from spp.nn.weight_norms import StandardizedConv2d as StandardizedConv2d
from spp.nn.weight_norms import StandardizedConv3d as StandardizedConv3d
from spp.nn.weight_norms import StandardizedLinear as StandardizedLinear
from spp.nn.weight_norms import WeightNorm as WeightNorm

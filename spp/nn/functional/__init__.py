"""The maths of ``spp.nn``, as functions of tensors; the modules only hold parameters and call them."""

from spp.nn.functional.norms import affine as affine
from spp.nn.functional.norms import batch_moments as batch_moments
from spp.nn.functional.norms import batch_renorm as batch_renorm
from spp.nn.functional.norms import channel_layer_norm as channel_layer_norm
from spp.nn.functional.norms import channel_rms_norm as channel_rms_norm
from spp.nn.functional.norms import dyt as dyt
from spp.nn.functional.norms import evo_norm_b0 as evo_norm_b0
from spp.nn.functional.norms import evo_norm_s0 as evo_norm_s0
from spp.nn.functional.norms import filter_response_norm as filter_response_norm
from spp.nn.functional.norms import thresholded as thresholded
from spp.nn.functional.residual import doubled_squeeze_excite as doubled_squeeze_excite
from spp.nn.functional.residual import magnitude_squeeze_excite as magnitude_squeeze_excite
from spp.nn.functional.residual import mp_cat as mp_cat
from spp.nn.functional.residual import mp_sum as mp_sum
from spp.nn.functional.residual import mp_weights as mp_weights
from spp.nn.functional.residual import squeeze_excite as squeeze_excite
from spp.nn.functional.residual import stochastic_depth as stochastic_depth
from spp.nn.functional.weights import centred_normalized_weight as centred_normalized_weight
from spp.nn.functional.weights import magnitude_preserving_weight as magnitude_preserving_weight
from spp.nn.functional.weights import rms_normalized as rms_normalized
from spp.nn.functional.weights import scaled_standardized_weight as scaled_standardized_weight
from spp.nn.functional.weights import standardized_weight as standardized_weight

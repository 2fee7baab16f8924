"""What the signal should do: mean-field theory of layers, and its prediction for a network.

Maps of one layer: :mod:`~spp.theory.gaussian` (moments of an activation), :mod:`~spp.theory.fields` (length, angle and
gradient), :mod:`~spp.theory.selu`, :mod:`~spp.theory.batchnorm`, :mod:`~spp.theory.residual`.
"""

from spp.theory.batchnorm import batchnorm_gradient_factor as batchnorm_gradient_factor
from spp.theory.fields import backward as backward
from spp.theory.fields import chi as chi
from spp.theory.fields import correlation_map as correlation_map
from spp.theory.fields import correlation_scale as correlation_scale
from spp.theory.fields import critical_line as critical_line
from spp.theory.fields import critical_point as critical_point
from spp.theory.fields import finite_width_rate as finite_width_rate
from spp.theory.fields import fixed_correlation as fixed_correlation
from spp.theory.fields import fixed_point as fixed_point
from spp.theory.fields import length_scale as length_scale
from spp.theory.fields import q_map as q_map
from spp.theory.fields import q_slope as q_slope
from spp.theory.gaussian import Nonlinearity as Nonlinearity
from spp.theory.gaussian import jacobian as jacobian
from spp.theory.gaussian import moments as moments
from spp.theory.gaussian import pair_moment as pair_moment
from spp.theory.gaussian import slope_moments as slope_moments
from spp.theory.residual import growth as growth
from spp.theory.residual import nf_resnet_variances as nf_resnet_variances
from spp.theory.residual import normalized_branch as normalized_branch
from spp.theory.residual import padding_loss as padding_loss
from spp.theory.residual import stage_curve as stage_curve
from spp.theory.selu import selu_jacobian as selu_jacobian
from spp.theory.selu import selu_orbit as selu_orbit
from spp.theory.table import attach as attach
from spp.theory.walk import predict as predict

"""What the signal should do: mean-field theory of layers, and its prediction for a network.

Maps of one layer: :mod:`~spp.theory.gaussian` (moments of an activation), :mod:`~spp.theory.mean_field` (length, angle and
gradient; BatchNorm; SELU's map), :mod:`~spp.theory.residual`. A network: :func:`predict` runs its forward on
tensors that carry moments (:mod:`~spp.theory.moments_state`); :func:`rule` adds an operation (:mod:`~spp.theory.rules`).
"""

from spp.theory.gaussian import Nonlinearity as Nonlinearity
from spp.theory.gaussian import jacobian as jacobian
from spp.theory.gaussian import moments as moments
from spp.theory.gaussian import pair_moment as pair_moment
from spp.theory.gaussian import slope_moments as slope_moments
from spp.theory.mean_field import backward as backward
from spp.theory.mean_field import batchnorm_gradient_factor as batchnorm_gradient_factor
from spp.theory.mean_field import chi as chi
from spp.theory.mean_field import correlation_map as correlation_map
from spp.theory.mean_field import correlation_scale as correlation_scale
from spp.theory.mean_field import critical_line as critical_line
from spp.theory.mean_field import critical_point as critical_point
from spp.theory.mean_field import finite_width_rate as finite_width_rate
from spp.theory.mean_field import fixed_correlation as fixed_correlation
from spp.theory.mean_field import fixed_point as fixed_point
from spp.theory.mean_field import length_scale as length_scale
from spp.theory.mean_field import q_map as q_map
from spp.theory.mean_field import q_slope as q_slope
from spp.theory.mean_field import selu_jacobian as selu_jacobian
from spp.theory.mean_field import selu_orbit as selu_orbit
from spp.theory.moments_state import MomentsState as MomentsState
from spp.theory.predict import predict as predict
from spp.theory.residual import growth as growth
from spp.theory.residual import nf_resnet_variances as nf_resnet_variances
from spp.theory.residual import normalized_branch as normalized_branch
from spp.theory.residual import padding_loss as padding_loss
from spp.theory.residual import stage_curve as stage_curve
from spp.theory.rules import rule as rule
from spp.theory.table import attach as attach

"""Neuron-wise input normalization: an ordinary forward pass, and weight gradients in each neuron's own coordinates.

Each neuron of a layer that a nonlinearity follows lives on its own linear region: for ReLU the samples where it is
active, in general the samples weighted by the activation's derivative. In the backward pass its weight gradient is taken
with respect to inputs that are standardized over that region. Outputs and input gradients are torch's own, bit for bit.

    layer = NeuronwiseLinear(784, 100, activation="relu", mode="coords")     # then put nn.ReLU behind it
    print(neuronwise_(model))                                                # or convert a whole model in place

``docs/neuronwise.md`` has the derivation, the modes and their limits, and the cost.
"""

from spp.nn.neuronwise.convert import Conversion as Conversion
from spp.nn.neuronwise.convert import neuronwise_ as neuronwise_
from spp.nn.neuronwise.gradient import MODES as MODES
from spp.nn.neuronwise.layers import NeuronwiseConv1d as NeuronwiseConv1d
from spp.nn.neuronwise.layers import NeuronwiseConv2d as NeuronwiseConv2d
from spp.nn.neuronwise.layers import NeuronwiseLayer as NeuronwiseLayer
from spp.nn.neuronwise.layers import NeuronwiseLinear as NeuronwiseLinear
from spp.nn.neuronwise.regions import DERIVATIVES as DERIVATIVES
from spp.nn.neuronwise.regions import WEIGHTINGS as WEIGHTINGS
from spp.nn.neuronwise.regions import Nonlinearity as Nonlinearity

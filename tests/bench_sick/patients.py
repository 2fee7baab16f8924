"""Sick networks: in each one disease is planted, in a known layer. The answers are the rule and the leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

import spp
from spp.diagnosis import Finding
from spp.nn import initialize_
from tests.bench_sick import parts
from tests.bench_sick.parts import convolutional, encoder, images, inserted, plain, separable, vectors


@dataclass(frozen=True)
class Patient:
    """A network with one disease.

    Attributes:
        disease: What was done to it.
        make: Gives the network, its batch and, where it is not the usual one, its loss.
        rule: The rule that should find it.
        name: The leaf that was made ill, or a glob of leaves; "" where it is the whole network.
        options: Further arguments of ``spp.trace``.
        family: Of networks; left out here, where most are plain chains.
        quick: Whether it runs in the tests.
    """

    disease: str
    make: Callable[[], tuple[Any, ...]]
    rule: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    family: str = "plain"
    quick: bool = True

    def answers(self, finding: Finding) -> bool:
        """Whether a finding names the disease and the leaf."""
        return finding.rule == self.rule and fnmatchcase(finding.name, self.name)


PATIENTS: list[Patient] = []


def patient(
    disease: str, rule: str, name: str, **options: Any
) -> Callable[[Callable[[], tuple[nn.Module, Any]]], None]:
    """Register the network that a function makes."""

    def register(make: Callable[[], tuple[nn.Module, Any]]) -> None:
        PATIENTS.append(Patient(disease, make, rule, name, options))

    return register


def scaled(net: nn.Module, layer: str, factor: float) -> nn.Module:
    """``net`` with the weight of one layer multiplied."""
    with torch.no_grad():
        net.get_submodule(layer).weight.mul_(factor)
    return net


def rescaled(net: nn.Module, factor: float) -> nn.Module:
    """``net`` with every weight matrix multiplied."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
    return net


def biased(net: nn.Module, layer: str, value: float | Tensor) -> nn.Module:
    """``net`` with the bias of one layer set."""
    with torch.no_grad():
        net.get_submodule(layer).bias.copy_(torch.as_tensor(value))
    return net


# -- gains ----------------------------------------------------------------------------------------------------------------


@patient("one Linear layer 10 times too large, ReLU", "cliff", "lin5")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(plain(), "lin5", 10), vectors()


@patient("one Linear layer 20 times too small, ReLU", "cliff", "lin3")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(plain(), "lin3", 1 / 20), vectors()


@patient("one Linear layer 30 times too small, tanh", "cliff", "lin6")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(plain(nn.Tanh, "lecun"), "lin6", 1 / 30), vectors()


@patient("the first Linear layer 30 times too large", "cliff", "lin0")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(plain(), "lin0", 30), vectors()


@patient("one convolution 15 times too large, no norm", "cliff", "conv4")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(convolutional(), "conv4", 15), images()


@patient("one convolution 100 times too small, no norm", "cliff", "conv2")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(convolutional(), "conv2", 0.01), images()


@patient("the readout 1000 times too large", "cliff", "head")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(plain(), "head", 1000), vectors()


@patient("a forgotten constant factor of 1/1000 between two layers", "cliff", "scale")
def _() -> tuple[nn.Module, Tensor]:
    return inserted(plain(), "act4", "scale", parts.Scale(1e-3)), vectors()


@patient("one BatchNorm with a scale of 100", "cliff", "norm3")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(convolutional(norm=True), "norm3", 100), images()


@patient("one BatchNorm in evaluation mode with the variance of another data set", "cliff", "norm4")
def _() -> tuple[nn.Module, Tensor]:
    net = convolutional(norm=True)
    with torch.no_grad():
        for _ in range(200):
            net(images())
    net.get_submodule("norm4").running_var.mul_(1e4)
    return net.eval(), images()


# -- whole networks -------------------------------------------------------------------------------------------------------


@patient("every layer too small by half", "vanishing", "")
def _() -> tuple[nn.Module, Tensor]:
    return rescaled(plain(), 0.5), vectors()


@patient("every layer too large by two", "exploding", "")
def _() -> tuple[nn.Module, Tensor]:
    return rescaled(plain(), 2.0), vectors()


@patient("LeCun init for 20 ReLU layers: the gain of ReLU forgotten", "vanishing", "")
def _() -> tuple[nn.Module, Tensor]:
    return plain(init="lecun", depth=20), vectors()


@patient("torch's default init for 30 ReLU layers", "vanishing", "")
def _() -> tuple[nn.Module, Tensor]:
    return plain(init="default", depth=30), vectors()


@patient("20 sigmoid layers", "vanishing", "")
def _() -> tuple[nn.Module, Tensor]:
    return plain(nn.Sigmoid, "xavier", depth=20), vectors()


@patient("a backward pass that lets a twentieth through at every layer", "vanishing_gradient", "")
def _() -> tuple[nn.Module, Tensor]:
    net = plain()
    for i in range(12):
        net = inserted(net, f"act{i}", f"damp{i}", parts.Damp(0.05))
    return net, vectors()


@patient("60 layers of BatchNorm and ReLU without skips", "exploding_gradient", "")
def _() -> tuple[nn.Module, Tensor]:
    return plain(depth=60, norm=True), vectors()


@patient("24 residual blocks without norm or scale", "residual_growth", "")
def _() -> tuple[nn.Module, Tensor]:
    return spp.models.build("resnetv2_50_cifar", norm="none", init="he"), spp.data.gaussian(4, (3, 32, 32), seed=0)


# -- inits and gates ------------------------------------------------------------------------------------------------------


@patient("EfficientNet without norms whose depthwise init ignores groups", "groups_init", "stage1.0.depthwise")
def _() -> tuple[nn.Module, Tensor]:
    net = spp.models.build("effnet_b0", norm="none", init="he_groups_blind", width_multiplier=0.5)
    return net, spp.data.gaussian(4, (3, 64, 64), seed=0)


@patient("depthwise-separable convolutions whose init ignores groups", "groups_init", "depthwise0")
def _() -> tuple[nn.Module, Tensor]:
    return initialize_(separable(), "he_groups_blind"), images()


@patient("EfficientNet without norms, plain squeeze-and-excitation", "se_gates", "stage1.0.se")
def _() -> tuple[nn.Module, Tensor]:
    net = spp.models.build("effnet_b0", norm="none", width_multiplier=0.5)
    return net, spp.data.gaussian(4, (3, 64, 64), seed=0)


# -- biases, dead and saturated -------------------------------------------------------------------------------------------


@patient("a bias of 50 in one Linear layer", "bias_outlier", "lin4")
def _() -> tuple[nn.Module, Tensor]:
    return biased(plain(), "lin4", 50.0), vectors()


@patient("a bias of 30 in one convolution", "bias_outlier", "conv3")
def _() -> tuple[nn.Module, Tensor]:
    return biased(convolutional(), "conv3", 30.0), images()


@patient("a bias of -50 before a ReLU: the layer is dead", "dead_layer", "lin4")
def _() -> tuple[nn.Module, Tensor]:
    return biased(plain(), "lin4", -50.0), vectors()


@patient("a bias of -30 before a convolutional ReLU", "dead_layer", "conv2")
def _() -> tuple[nn.Module, Tensor]:
    return biased(convolutional(), "conv2", -30.0), images()


@patient("one Linear layer of zeros", "dead_layer", "lin7")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(plain(), "lin7", 0.0), vectors()


@patient("dropout with p = 1", "dead_layer", "drop")
def _() -> tuple[nn.Module, Tensor]:
    return inserted(plain(), "act3", "drop", nn.Dropout(1.0)), vectors()


@patient("70 % of the units of one layer with a bias of -20", "dead_channels", "lin5")
def _() -> tuple[nn.Module, Tensor]:
    return biased(plain(), "lin5", torch.where(torch.arange(64) < 45, -20.0, 0.0)), vectors()


@patient("80 % of the rows of one convolution pruned to zero, before BatchNorm", "dead_channels", "conv3")
def _() -> tuple[nn.Module, Tensor]:
    net = convolutional(norm=True)
    with torch.no_grad():
        net.get_submodule("conv3").weight[:13] = 0
        net.get_submodule("conv3").bias.zero_()
    return net, images()


@patient("one sigmoid fed 100 times too much", "saturation", "lin6")
def _() -> tuple[nn.Module, Tensor]:
    net = plain(nn.Tanh, "lecun")
    net.act6 = nn.Sigmoid()
    return scaled(net, "lin6", 100), vectors()


@patient("one tanh layer 100 times too large", "saturation", "lin2")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(plain(nn.Tanh, "lecun"), "lin2", 100), vectors()


@patient("a ReLU6 fed hundreds", "saturation", "conv3")
def _() -> tuple[nn.Module, Tensor]:
    net = convolutional()
    for i in range(8):
        net.add_module(f"act{i}", nn.ReLU6())
    return scaled(net, "conv3", 500), images()


@patient("inputs with a mean of 100 standard deviations", "inputs", "lin0")
def _() -> tuple[nn.Module, Tensor]:
    return plain(), vectors(mean=100.0)


# -- residual branches ----------------------------------------------------------------------------------------------------


@patient("one residual branch 20 times too large", "branch_dominates", "stage2.1.norm2")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(spp.models.build("resnet20"), "stage2.1.norm2", 20), spp.data.gaussian(8, (3, 32, 32), seed=0)


@patient("one residual branch 1000 times too small", "branch_vanishes", "stage3.1.norm2")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(spp.models.build("resnet20"), "stage3.1.norm2", 1e-3), spp.data.gaussian(8, (3, 32, 32), seed=0)


@patient("one Transformer feed-forward branch 100 times too large", "branch_dominates", "layers.2.linear2")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(encoder(), "layers.2.linear2", 100), spp.data.gaussian(8, (10, 64), seed=0)


# -- norms ----------------------------------------------------------------------------------------------------------------


@patient("BatchNorm trained on a batch of one", "batch_of_one", "stem.norm")
def _() -> tuple[nn.Module, Tensor]:
    return spp.models.build("resnet18_cifar"), spp.data.gaussian(1, (3, 32, 32), seed=0)


@patient("a Linear layer 10^5 times too small before LayerNorm: eps takes over", "norm_input", "lin4")
def _() -> tuple[nn.Module, Tensor]:
    net = scaled(plain(), "lin4", 1e-5)
    return inserted(net, "lin4", "norm", nn.LayerNorm(64)), vectors()


# -- wiring ---------------------------------------------------------------------------------------------------------------


@patient("a head whose output the loss does not see", "no_gradient", "aux.0")
def _() -> tuple[nn.Module, Tensor]:
    return parts.Heads(), vectors()


@patient("detach between two parts", "no_gradient", "front.head")
def _() -> tuple[nn.Module, Tensor]:
    return parts.Cut(), vectors()


@patient("a branch that forward never calls", "never_ran", "branch.0")
def _() -> tuple[nn.Module, Tensor]:
    return parts.Forgotten(), vectors()


@patient("everything under no_grad", "no_gradient", "")
def _() -> tuple[nn.Module, Tensor]:
    return parts.Ungraphed(), vectors()


@patient("rounding without a straight-through gradient", "blocked_gradient", "round")
def _() -> tuple[nn.Module, Tensor]:
    return inserted(plain(), "act5", "round", parts.Round()), vectors()


@patient("a layer that scales gradients by 1e-4", "gradient_cliff", "damp")
def _() -> tuple[nn.Module, Tensor]:
    return inserted(plain(), "act6", "damp", parts.Damp(1e-4)), vectors()


# -- numbers --------------------------------------------------------------------------------------------------------------


@patient("one float16 layer that overflows", "nonfinite", "lin5")
def _() -> tuple[nn.Module, Tensor]:
    return scaled(plain(), "lin5", 3e4).half(), vectors().half() * 10


@patient("a NaN in one weight", "nonfinite", "lin4")
def _() -> tuple[nn.Module, Tensor]:
    net = plain()
    with torch.no_grad():
        net.get_submodule("lin4").weight[3, 5] = float("nan")
    return net, vectors()


@patient("a logarithm of negative values", "nonfinite", "log")
def _() -> tuple[nn.Module, Tensor]:
    return inserted(plain(), "lin5", "log", parts.Log()), vectors()


@patient("a square root of exact zeros: only gradients are infinite", "nonfinite", "root")
def _() -> tuple[nn.Module, Tensor]:
    return inserted(plain(), "act5", "root", parts.Root()), vectors()


@patient("a NaN in the batch", "nonfinite", "lin0")
def _() -> tuple[nn.Module, Tensor]:
    batch = vectors()
    batch[3, 3] = float("nan")
    return plain(), batch


@patient("float16 layers whose values nearly fill the format", "number_format", "lin5")
def _() -> tuple[nn.Module, Tensor]:
    net = scaled(scaled(plain(), "lin5", 4.0), "lin6", 0.25)
    return net.half(), vectors().half() * 1000

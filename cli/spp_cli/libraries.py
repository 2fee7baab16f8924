"""Networks of torchvision and timm by name, with random weights: ``--model torchvision:resnet50``, ``timm:convnext_tiny``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from spp_cli.factories import swapped
from spp_cli.networks import Plan

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

    from spp_cli.network_request import NetworkRequest as Request

LIBRARIES = ("torchvision", "timm")

CHANGES = ("norm", "num_classes")
"""Options of the network that apply to it; ``--image-size`` does too."""

IMAGENET = 1000
"""Classes of both libraries' networks, unless they say otherwise."""

TORCHVISION_SIZE, TORCHVISION_SIZES = 224, {"inception_v3": 299}
"""Pixels that torchvision's networks are made for, and those of the one that is smaller inside than its kernels otherwise."""

TORCHVISION_FIXED = {"vit_": "image_size", "maxvit_": "input_size"}
"""Beginnings of names of networks that take images of one size only, with the argument that says which."""


def plan(request: Request, library: str, name: str, changes: dict[str, Any], shape: tuple[int, ...] | None) -> Plan:
    """Look up a network of a library, without building it.

    Args:
        request: The options.
        library: A name of ``LIBRARIES``.
        name: Of the network.
        changes: Options that say what the network is, where they are given.
        shape: Shape of one sample where a data file fixes it.

    Raises:
        MissingExtraError: The library is not installed.
        InputError: It cannot be imported, has no network of that name, or an option does not apply.
    """
    module = load(library, library)
    check_changes(request, changes, CHANGES)
    classes: int | None = changes.get("num_classes")
    pixels = None if request.image_size is None else (3, *request.image_size)
    find = _torchvision if library == "torchvision" else _timm
    facts = {"model": request.model, **{key: changes.get(key) for key in ("norm", "activation", "init")}}
    own, facts["num_classes"], build = find(module, name, pixels or shape, classes)

    def make() -> nn.Module:
        model = built(request.model, build)
        return model if request.norm is None else swapped(model, request.norm, facts)

    label = "-".join(part for part in (library, name.replace("/", "."), request.norm) if part)
    return Plan(label, facts, pixels or shape or own, make)


Found = tuple[tuple[int, ...], int, Callable[[], Any]]
"""Shape of a sample, number of outputs, and what builds the network."""


def _torchvision(module: ModuleType, name: str, shape: tuple[int, ...] | None, classes: int | None) -> Found:
    from spp.errors import UnknownNameError

    models = import_module("torchvision.models")
    known = models.list_models(module=models)  # those that classify; detectors and the like are in modules of their own
    if name not in known:
        listing = "torchvision.models.list_models(torchvision.models)"
        raise UnknownNameError("torchvision model", name, known, where="--model", listing=listing)
    options: dict[str, Any] = {"num_classes": IMAGENET if classes is None else classes}
    side = TORCHVISION_SIZES.get(name, TORCHVISION_SIZE)
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # as by default, but without a warning that this will change
    fixed = next((argument for start, argument in TORCHVISION_FIXED.items() if name.startswith(start)), None)
    if fixed is not None and shape is not None:
        options[fixed] = shape[-1] if fixed == "image_size" else tuple(shape[-2:])
    return (3, side, side), options["num_classes"], lambda: models.get_model(name, weights=None, **options)


def _timm(module: ModuleType, name: str, shape: tuple[int, ...] | None, classes: int | None) -> Found:
    from spp.errors import UnknownNameError

    if not module.is_model(name):
        raise UnknownNameError("timm model", name, module.list_models(), where="--model", listing="timm.list_models()")
    default = module.get_pretrained_cfg(name)
    own = tuple(default.input_size) if default is not None else (3, 224, 224)
    number = classes if classes is not None else (default.num_classes if default is not None else IMAGENET)
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if shape is not None and shape[0] != own[0]:
        options["in_chans"] = shape[0]
    if shape is not None and shape[-2:] != own[-2:] and default is not None and default.fixed_input_size:
        options["img_size"] = tuple(shape[-2:])
    return own, number, lambda: module.create_model(name, pretrained=False, **options)


def load(library: str, extra: str) -> ModuleType:
    """Import a library, told to stay offline.

    Raises:
        MissingExtraError: It is not installed.
        InputError: It is, but cannot be imported, as a torchvision that was built for another torch.
    """
    from spp.errors import InputError, MissingExtraError

    if find_spec(library) is None:
        raise MissingExtraError(library, extra, purpose=f"--model {library}:...")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return import_module(library)
    except Exception as error:
        raise InputError(
            f"--model {library}:... needs a {library} that can be imported beside this torch",
            received=f"{type(error).__name__}: {first_line(error)}",
        ) from error


def check_changes(request: Request, changes: dict[str, Any], applicable: Iterable[str]) -> None:
    """Raise unless all ``changes`` apply to a library's network.

    Raises:
        InputError: One does not; the message names all that do not.
    """
    from spp.errors import InputError

    wrong = [f"--{key.replace('_', '-')}" for key in changes if key not in applicable]
    if wrong:
        raise InputError(
            "a library's network is changed by --norm and --num-classes only",
            received=", ".join(wrong),
            where=request.model,
            remedy="Write a factory, as in --model package.module:factory, for anything else.",
        )


def built(name: str, build: Callable[[], Any]) -> nn.Module:
    """The network that ``build`` returns.

    Raises:
        TraceError: The library fails to build it.
    """
    from spp.errors import TraceError

    try:
        model: nn.Module = build()
    except Exception as error:
        received = f"{type(error).__name__}: {first_line(error)}"
        raise TraceError("the library builds the network", received=received, where=name) from error
    return model


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without a full stop."""
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")

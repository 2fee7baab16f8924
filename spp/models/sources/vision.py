"""Image networks of torchvision and timm by name, with random weights: ``torchvision:resnet50``, ``timm:convnext_tiny``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any

from spp.errors import UnknownNameError
from spp.models.sources import Asked, Plan, built, load_library

CLASSES = 1000
"""Of networks that do not say."""
SIZE, SIZES = 224, {"inception_v3": 299}
"""Pixels that torchvision's networks are made for, and those of the one that is smaller inside than its kernels otherwise."""
FIXED = {"vit_": "image_size", "maxvit_": "input_size"}
"""Beginnings of names of torchvision's networks that take images of one size only, with the argument that says which."""


def torchvision(asked: Asked) -> Plan:
    """Classifiers of torchvision, with random weights."""
    # the top first: it is what says that its compiled operators do not fit this torch
    load_library(asked, "torchvision")
    asked.check({"norm", "num_classes"})
    models, name, shape = import_module("torchvision.models"), asked.name, asked.shape
    # of this module alone: detectors and segmentation are in modules of their own, and take targets
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(asked, "torchvision", known, "torchvision.models.list_models(torchvision.models)")
    options: dict[str, Any] = {"num_classes": asked.changes.get("num_classes", CLASSES)}
    if name in ("googlenet", "inception_v3"):
        # as by default, but without a warning that the default will change
        options["init_weights"] = True
    fixed = next((argument for start, argument in FIXED.items() if name.startswith(start)), None)
    if fixed is not None and shape is not None:
        options[fixed] = shape[-1] if fixed == "image_size" else tuple(shape[-2:])
    side = SIZES.get(name, SIZE)
    build = partial(models.get_model, name, weights=None, **options)
    return _planned(asked, "torchvision", options["num_classes"], (3, side, side), build)


def timm(asked: Asked) -> Plan:
    """Networks of timm, with random weights."""
    library = load_library(asked, "timm")
    asked.check({"norm", "num_classes"})
    name, shape, classes = asked.name, asked.shape, asked.changes.get("num_classes")
    if not library.is_model(name):
        raise _unknown(asked, "timm", library.list_models(), "timm.list_models()")
    # some networks have no pretrained configuration, hence no size or number of classes that they are made for
    default = library.get_pretrained_cfg(name)
    own = (3, SIZE, SIZE) if default is None else tuple(default.input_size)
    number = classes if classes is not None else CLASSES if default is None else default.num_classes
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if shape is not None and shape[0] != own[0]:
        options["in_chans"] = shape[0]
    # others refuse the argument: only networks with position embeddings or windows are made for a size
    if shape is not None and shape[-2:] != own[-2:] and default is not None and default.fixed_input_size:
        options["img_size"] = tuple(shape[-2:])
    return _planned(asked, "timm", number, own, partial(library.create_model, name, pretrained=False, **options))


def _unknown(asked: Asked, library: str, known: Iterable[str], listing: str) -> UnknownNameError:
    return UnknownNameError(f"{library} model", asked.name, known, where=asked.spelled("model"), listing=listing)


def _planned(asked: Asked, library: str, classes: int, own: tuple[int, ...], make: Callable[[], Any]) -> Plan:
    label = asked.label(library, asked.name.replace("/", "."))
    facts = asked.facts(num_classes=classes)
    return Plan(label, facts, asked.shape or own, lambda: built(asked.model, make), asked.norm, asked.spelled)

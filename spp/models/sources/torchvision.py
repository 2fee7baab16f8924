"""Classifiers of torchvision by name, with random weights: ``torchvision:resnet50``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from spp.errors import UnknownNameError
from spp.models.sources import Asked, Plan, built, load_library

CLASSES = 1000
SIZE, SIZES = 224, {"inception_v3": 299}
"""Pixels that the networks are made for, and those of the one that is smaller inside than its kernels otherwise."""

FIXED = {"vit_": "image_size", "maxvit_": "input_size"}
"""Beginnings of names of networks that take images of one size only, with the argument that says which."""


def torchvision(asked: Asked) -> Plan:
    """Classifiers of torchvision, with random weights."""
    # the top first: it is what says that its compiled operators do not fit this torch
    load_library(asked, "torchvision")
    asked.check({"norm", "num_classes"})
    models, name, shape = import_module("torchvision.models"), asked.name, asked.shape
    # of this module alone: detectors and segmentation are in modules of their own, and take targets
    known = models.list_models(module=models)
    if name not in known:
        listing = "torchvision.models.list_models(torchvision.models)"
        where = asked.spelled("model")
        raise UnknownNameError("torchvision model", name, known, where=where, listing=listing)
    options: dict[str, Any] = {"num_classes": asked.changes.get("num_classes", CLASSES)}
    if name in ("googlenet", "inception_v3"):
        # as by default, but without a warning that the default will change
        options["init_weights"] = True
    fixed = next((argument for start, argument in FIXED.items() if name.startswith(start)), None)
    if fixed is not None and shape is not None:
        options[fixed] = shape[-1] if fixed == "image_size" else tuple(shape[-2:])
    side, norm = SIZES.get(name, SIZE), asked.changes.get("norm")
    return Plan(
        "-".join(part for part in ("torchvision", name, norm) if part),
        asked.facts(num_classes=options["num_classes"]),
        shape or (3, side, side),
        lambda: built(asked.model, lambda: models.get_model(name, weights=None, **options)),
        norm,
        asked.spelled,
    )

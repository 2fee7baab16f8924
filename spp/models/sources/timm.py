"""Networks of timm by name, with random weights: ``timm:convnext_tiny``."""

from __future__ import annotations

from typing import Any

from spp.errors import UnknownNameError
from spp.models.sources import Asked, Plan, built, load_library

SHAPE, CLASSES = (3, 224, 224), 1000
"""Of networks that say neither."""


def timm(asked: Asked) -> Plan:
    """Networks of timm, with random weights."""
    library = load_library(asked, "timm")
    asked.check({"norm", "num_classes"})
    name, shape, classes = asked.name, asked.shape, asked.changes.get("num_classes")
    if not library.is_model(name):
        where = asked.spelled("model")
        raise UnknownNameError("timm model", name, library.list_models(), where=where, listing="timm.list_models()")
    # some networks have no pretrained configuration, hence no size or number of classes that they are made for
    default = library.get_pretrained_cfg(name)
    own = SHAPE if default is None else tuple(default.input_size)
    number = classes if classes is not None else CLASSES if default is None else default.num_classes
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if shape is not None and shape[0] != own[0]:
        options["in_chans"] = shape[0]
    # others refuse the argument: only networks with position embeddings or windows are made for a size
    if shape is not None and shape[-2:] != own[-2:] and default is not None and default.fixed_input_size:
        options["img_size"] = tuple(shape[-2:])
    norm = asked.changes.get("norm")
    return Plan(
        "-".join(part for part in ("timm", name.replace("/", "."), norm) if part),
        asked.facts(num_classes=number),
        shape or own,
        lambda: built(asked.model, lambda: library.create_model(name, pretrained=False, **options)),
        norm,
        asked.spelled,
    )

"""Networks of transformers from a configuration, with random weights: ``--model transformers:CONFIG.json``."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spp_cli import options
from spp_cli.factories import swapped
from spp_cli.libraries import built, check_changes, first_line, load
from spp_cli.networks import Plan

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

    from spp_cli.network_request import NetworkRequest
    from spp_cli.options import Request

TOKENS = 128
"""Length of a text where ``--tokens`` does not say, and the network takes as much."""

PIXELS = 224
"""Side of an image, where neither ``--image-size`` nor the configuration says."""


def plan(request: NetworkRequest, path: str, changes: dict[str, Any], shape: tuple[int, ...] | None) -> Plan:
    """Read a configuration and find its network's class, without building it. Nothing is downloaded.

    The class is the first of ``architectures``, else the one that ``AutoModel`` takes. It is fed random token ids or, where its
    main input is ``pixel_values``, images.

    Args:
        request: The options.
        path: Of the configuration, as ``config.json`` beside weights on the Hugging Face hub.
        changes: Options that say what the network is, where they are given.
        shape: Shape of one sample where a data file fixes it.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: The file holds no configuration, or of a type or class that transformers does not know; the network takes
            other inputs; or an option does not apply.
    """
    from spp.errors import InputError

    if not isinstance(request, options.Request):
        raise InputError(
            "spp train trains networks that take a tensor of images",
            received=request.model,
            where="--model",
            remedy="Watch transformers' own trainer: spp.integrations.transformers.",
        )
    library = load("transformers", "transformers")
    check_changes(request, changes, ("norm", "num_classes"))
    config = _config(library, path)
    kind = _class(library, config, path)
    classes = changes.get("num_classes")
    if classes is not None:
        if "Classification" not in kind.__name__:
            raise InputError("--num-classes is for networks that classify", received=kind.__name__, where=request.model)
        config.num_labels = classes
    if getattr(config, "use_cache", False):
        config.use_cache = False  # what generation keeps is no output to propagate a gradient from
    facts: dict[str, Any] = {"model": request.model, **dict.fromkeys(("activation", "init")), "norm": request.norm}
    facts |= {"num_classes": config.num_labels if "Classification" in kind.__name__ else None, "class": kind.__name__}

    def make() -> nn.Module:
        model = built(request.model, lambda: kind(config))
        return model if request.norm is None else swapped(model, request.norm, facts)

    label = "-".join(part for part in ("transformers", config.model_type, request.norm) if part)
    match kind.main_input_name:
        case "input_ids":
            names = ("input_ids", "decoder_input_ids") if config.is_encoder_decoder else ("input_ids",)
            return Plan(label, facts, _text(request, config, shape), make, names, _vocabulary(config))
        case "pixel_values":
            return Plan(label, facts, _image(request, config, shape), make, ("pixel_values",))
    raise InputError(
        "the network's main input is input_ids or pixel_values",
        received=f"{kind.__name__}, which takes {kind.main_input_name}",
        where=request.model,
        remedy="Trace it with spp.trace and a batch of your own.",
    )


def _config(library: ModuleType, path: str) -> Any:
    from spp.errors import InputError, UnknownNameError

    rule = "a configuration is a JSON file with a model_type, as the config.json beside saved weights"
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise InputError(rule, received=reason, where=path) from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        received = "an object without one" if isinstance(content, dict) else type(content).__name__
        raise InputError(rule, received=received, where=path)
    known = import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    if content["model_type"] not in known:
        listing = "transformers.CONFIG_MAPPING"
        raise UnknownNameError("model_type", content["model_type"], sorted(known), where=path, listing=listing)
    try:
        return known[content["model_type"]].from_dict(content)
    except Exception as error:
        received = f"{type(error).__name__}: {first_line(error)}"
        raise InputError("transformers accepts the configuration", received=received, where=path) from error


def _class(library: ModuleType, config: Any, path: str) -> Any:
    from spp.errors import InputError

    name = next(iter(config.architectures or ()), None)
    try:  # transformers imports a class, and what that needs, when it is asked for
        if name is not None:
            kind = getattr(library, name, None)
        else:
            mapping = import_module("transformers.models.auto.modeling_auto").MODEL_MAPPING
            kind = mapping.get(type(config), None)
    except Exception as error:
        received = f"{type(error).__name__}: {first_line(error)}"
        first = _origin(error)
        received += "" if first is error else f" ({type(first).__name__}: {first_line(first)})"
        raise InputError("transformers imports the network's class", received=received, where=path) from error
    kind = kind[0] if isinstance(kind, tuple) else kind
    if isinstance(kind, type) and issubclass(kind, library.PreTrainedModel):
        return kind
    if name is None:
        rule, received = "AutoModel has a network for the configuration", f"model_type {config.model_type!r}"
    else:
        rule, received = "architectures names a network of transformers", repr(name)
    raise InputError(rule, received=received, where=path)


def _origin(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _text(request: Request, config: Any, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    from spp.errors import InputError

    if shape is not None or request.data != "gaussian" or request.image_size is not None:
        raise InputError(
            "a language model is traced on random token ids",
            received=f"--data {request.data}" if request.image_size is None else "--image-size",
            where=request.model,
            remedy="Leave it out; spp.trace takes a batch of your own.",
        )
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    asked = request.tokens
    if asked is not None and most is not None and asked > most:
        raise InputError(f"the network takes at most {most} tokens", received=str(asked), where="--tokens")
    return (asked if asked is not None else min(TOKENS, most or TOKENS),)


def _vocabulary(config: Any) -> int:
    size: int = config.get_text_config().vocab_size
    return size


def _image(request: Request, config: Any, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    own: Any = getattr(config, "image_size", None)
    size = request.image_size or (shape[-2:] if shape is not None else _pair(own or PIXELS))
    if own is not None and tuple(size) != _pair(own):
        config.image_size = size[0] if size[0] == size[1] else list(size)
    return (getattr(config, "num_channels", 3), *size)


def _pair(size: Any) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, list | tuple) else (size, size)

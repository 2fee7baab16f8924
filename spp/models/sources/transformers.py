"""Networks of transformers from a configuration, with random weights: ``transformers:CONFIG.json``."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from spp.errors import InputError, UnknownNameError, first_line, said
from spp.models.sources import Asked, Plan, built, load_library

TOKENS = 128
"""Length of a text where nobody says, and the network takes as much."""

PIXELS = 224
"""Side of an image, where neither the caller nor the configuration says."""


def transformers(asked: Asked) -> Plan:
    """Networks of transformers from the config.json beside saved weights, with random weights.

    The class is the first of ``architectures``, else the one that ``AutoModel`` takes. It is fed random token ids or, where
    its main input is ``pixel_values``, images. Nothing is downloaded.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: The file holds no configuration, or of a type or class that transformers does not know; the network
            takes other inputs; or a change does not apply.
    """
    library = load_library(asked, "transformers")
    asked.check({"norm", "num_classes"})
    config = _config(asked.name)
    kind = _class(library, config, asked.name)
    classifies = "Classification" in kind.__name__
    if (classes := asked.changes.get("num_classes")) is not None:
        if not classifies:
            rule = f"{asked.spelled('num_classes')} is for networks that classify"
            raise InputError(rule, received=kind.__name__, where=asked.model)
        config.num_labels = classes
    if getattr(config, "use_cache", False):
        # what generation keeps is no output to propagate a gradient from
        config.use_cache = False
    match kind.main_input_name:
        case "input_ids":
            shape = _text(asked, config)
            # an encoder-decoder shifts its labels into the decoder's input, and without labels wants the latter
            names = ("input_ids", "decoder_input_ids") if config.is_encoder_decoder else ("input_ids",)
            vocabulary = config.get_text_config().vocab_size
        case "pixel_values":
            shape, names, vocabulary = _image(asked, config), ("pixel_values",), None
        case other:
            raise InputError(
                "the network's main input needs to be input_ids or pixel_values",
                received=f"{kind.__name__}, which takes {other}",
                where=asked.model,
                remedy="Trace it with spp.trace and a batch of your own.",
            )
    facts = asked.facts(num_classes=config.num_labels if classifies else None) | {"class": kind.__name__}
    label, make = asked.label("transformers", config.model_type), lambda: built(asked.model, lambda: kind(config))
    return Plan(label, facts, shape, make, asked.norm, asked.spelled, names, vocabulary)


def only_tokens(model: str, received: str) -> InputError:
    """The error of a language model that is given anything else than token ids."""
    return InputError(
        "a language model is traced on random token ids",
        received=received,
        where=model,
        remedy="Leave it out; spp.trace takes a batch of your own.",
    )


def _config(path: str) -> Any:
    rule = "a configuration is a JSON file with a model_type, as the config.json beside saved weights"
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise InputError(rule, received=reason, where=path) from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        received = "an object without one" if isinstance(content, dict) else type(content).__name__
        raise InputError(rule, received=received, where=path)
    # AutoConfig.from_pretrained would ask the hub where the file is not as it expects
    known = import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    if content["model_type"] not in known:
        listing = "transformers.CONFIG_MAPPING"
        raise UnknownNameError("model_type", content["model_type"], sorted(known), where=path, listing=listing)
    try:
        return known[content["model_type"]].from_dict(content)
    except Exception as error:
        raise InputError(
            "the configuration needs to be one that transformers accepts", received=said(error), where=path
        ) from error


def _class(library: ModuleType, config: Any, path: str) -> Any:
    name = next(iter(config.architectures or ()), None)
    # transformers imports a class, and what that needs, when it is asked for: this is where a broken torchvision shows
    try:
        if name is not None:
            kind = getattr(library, name, None)
        else:
            mapping = import_module("transformers.models.auto.modeling_auto").MODEL_MAPPING
            kind = mapping.get(type(config), None)
    except Exception as error:
        first = _origin(error)
        received = said(error) + ("" if first is error else f" ({said(first)})")
        raise InputError("transformers needs to import the network's class", received=received, where=path) from error
    kind = kind[0] if isinstance(kind, tuple) else kind
    if isinstance(kind, type) and issubclass(kind, library.PreTrainedModel):
        return kind
    if name is None:
        rule, received = "the configuration needs a network that AutoModel knows", f"model_type {config.model_type!r}"
    else:
        rule, received = "architectures needs to name a network of transformers", repr(name)
    raise InputError(rule, received=received, where=path)


def _origin(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _text(asked: Asked, config: Any) -> tuple[int, ...]:
    if asked.shape is not None:
        raise only_tokens(asked.model, asked.spelled("input_shape" if asked.image_size is None else "image_size"))
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if asked.tokens is not None and most is not None and asked.tokens > most:
        rule = f"the network takes at most {most} tokens"
        raise InputError(rule, received=str(asked.tokens), where=asked.spelled("tokens"))
    return (asked.tokens if asked.tokens is not None else min(TOKENS, most or TOKENS),)


def _image(asked: Asked, config: Any) -> tuple[int, ...]:
    own: Any = getattr(config, "image_size", None)
    size = asked.shape[-2:] if asked.shape is not None else _pair(own or PIXELS)
    # position embeddings are made for one size, so that another one has to be known before
    if own is not None and tuple(size) != _pair(own):
        config.image_size = size[0] if size[0] == size[1] else list(size)
    return (getattr(config, "num_channels", 3), *size)


def _pair(size: Any) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, list | tuple) else (size, size)

"""Where networks come from: ``prefix:name`` is looked up by the source of that prefix, without building anything.

A source is a function from what was asked for to a ``Plan``, and a row of ``SOURCES``, which is open from outside::

    def zoo(asked: Asked) -> Plan:
        '''Networks of my zoo, with random weights.'''
        asked.check({"num_classes"})
        return Plan(f"zoo-{asked.name}", asked.facts(), asked.shape or (3, 32, 32), lambda: my_zoo.make(asked.name))


    spp.models.SOURCES.register("zoo", zoo)
    spp.models.build("zoo:small", norm="group")
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import nn

from spp.errors import InputError, MissingExtraError, TraceError, said
from spp.models.config import Config
from spp.nn.neuronwise import neuronwise_
from spp.nn.norms import NEURONWISE
from spp.nn.recognize import recognize
from spp.nn.replace import replace_norm

RECIPE = "spp_recipe"
"""Attribute of a network that says how it was built; a plain dict, so that copies have it and ``state_dict`` does not."""


VARIED = ("norm", "activation", "init", "residual", "se")
"""Arguments by which a network is varied, whose values are names of the tables of ``spp.nn``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a network was asked for by.

    Attributes:
        model: The words, as ``timm:resnet18``.
        name: What follows the prefix.
        changes: Norm, activation and the like, those that were given.
        image_size: Height and width of an image.
        input_shape: Shape of one sample, where something else than the image size says it.
        tokens: Length of a text.
        spelled: How the caller writes the name of an argument, for errors: the command line puts dashes before it.
    """

    model: str
    name: str
    changes: Mapping[str, Any]
    image_size: tuple[int, int] | None = None
    input_shape: tuple[int, ...] | None = None
    tokens: int | None = None
    spelled: Callable[[str], str] = str

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, where the caller says it; an image has three channels then."""
        return self.input_shape if self.image_size is None else (3, *self.image_size)

    @property
    def norm(self) -> str | None:
        """Name of the norm, where one was given."""
        return self.changes.get("norm")

    def label(self, *parts: str) -> str:
        """A name for people and for the run folder, of these words and the norm."""
        return "-".join((*parts, self.norm) if self.norm else parts)

    def facts(self, **more: Any) -> dict[str, Any]:
        """What describes the network: how it was asked for, and what a source knows beyond that."""
        asked = {key: self.changes.get(key) for key in ("norm", "activation", "init", "num_classes")}
        asked |= {key: self.changes[key] for key in ("residual", "se") if key in self.changes}
        return {"model": self.model, **asked, **more}

    def check(self, taken: Container[str]) -> None:
        """Raise unless a library's network takes every change.

        Raises:
            InputError: It does not; the message names all that it does not take.
        """
        wrong = [self.spelled(key) for key in self.changes if key not in taken]
        if wrong:
            raise InputError(
                f"a library's network is changed by {self.spelled('norm')} and {self.spelled('num_classes')} only",
                received=", ".join(wrong),
                where=self.model,
                remedy=f"Write a factory, as in {self.spelled('model')} package.module:factory, for anything else.",
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """A network to be built.

    Attributes:
        label: Name for people and for the run folder, as ``effnet_b0-none``.
        facts: What describes it: model, norm, activation, init, num_classes; None where it is not known.
        shape: Shape of one sample.
        make: Builds it.
        norm: What takes the place of the norms of what was built, where ``make`` does not see to that.
        spelled: As in ``Asked``.
        names: Keyword arguments of its forward that the samples go in as; positional where there are none.
        vocabulary: Samples are whole numbers below this, tokens of a text; None where they are images or features.
        config: The row of a bundled network.
        options: Which of norm, activation, init, residual and se ``make`` takes.
    """

    label: str
    facts: dict[str, Any]
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]
    norm: str | None = None
    spelled: Callable[[str], str] = str
    names: tuple[str, ...] = ()
    vocabulary: int | None = None
    config: Config | None = field(default=None, repr=False)
    options: tuple[str, ...] = ()

    def takes(self, model: nn.Module) -> tuple[str, ...]:
        """Which of them the network ``model`` that was built takes: a norm too, where it has norms to be replaced."""
        replaced = "norm" not in self.options and any(recognize(module) is not None for module in model.modules())
        return (*self.options, *["norm"] * replaced)

    def build(self) -> nn.Module:
        """The network, which keeps its recipe: ``facts``, and of replaced norms how many they were and what was left.

        Raises:
            TraceError: Building it fails.
            InputError: What was built is no network, or has no norms to replace.
        """
        model, recipe = self.make(), dict(self.facts)
        if self.norm is not None:
            model = self._swap(model, self.norm, recipe)
        # past nn.Module.__setattr__, which models may override, and which looks for tensors and modules
        object.__setattr__(model, RECIPE, recipe)
        return model

    def _swap(self, model: nn.Module, norm: str, recipe: dict[str, Any]) -> nn.Module:
        if norm == NEURONWISE:
            conversion = neuronwise_(model)
            recipe["replaced"], recipe["left"] = len(conversion.converted), dict(conversion.left)
        else:
            done = replace_norm(model, norm)
            model, recipe["replaced"] = done.model, len(done.replaced)
            recipe["left"] = {left.name: left.reason for left in done.left}
        if not recipe["replaced"]:
            option = self.spelled("norm")
            raise InputError(
                f"{option} {norm} needs layers to replace",
                received=f"a {type(model).__name__} with none that can be",
                where=str(self.facts["model"]),
                remedy=f"Leave {option} out, or build the network with another norm in the factory.",
            )
        return model


Source = Callable[[Asked], Plan]
"""A row of ``spp.models.SOURCES``."""


def load_library(asked: Asked, library: str) -> ModuleType:
    """Import a library of networks.

    Raises:
        MissingExtraError: It is not installed.
        InputError: It is, but cannot be imported, as a torchvision that was built for another torch.
    """
    purpose = f"{asked.spelled('model')} {library}:..."
    # looked for before it is imported: an ImportError may as well come from something that the library needs
    if find_spec(library) is None:
        raise MissingExtraError(library, library, purpose=purpose)
    try:
        return import_module(library)
    except Exception as error:
        raise InputError(
            f"{purpose} needs a {library} that can be imported beside this torch", received=said(error)
        ) from error


def built(model: str, make: Callable[[], Any], rule: str = "the library needs to build the network") -> Any:
    """What ``make`` returns.

    Raises:
        TraceError: It fails; the message begins with ``rule``.
    """
    try:
        return make()
    except Exception as error:
        raise TraceError(rule, received=said(error), where=model) from error

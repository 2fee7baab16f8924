"""Remedies: what to do against a finding, in words that can be typed, and as a change to a copy of the model.

``REMEDIES`` has the kinds by name; :func:`remedy` makes one that says what and where. Your own::

    REMEDIES.register("shorten", Remedy(kind="shorten", python="mine.shorten(model, {value})", change=shorten))

    yield Finding(..., remedies=(remedy("shorten", 12, why="It is too deep"),))

where ``shorten(model, remedy, case)`` changes the model that it is given and returns it. A kind without ``change`` is told
only: nobody can try another learning rate on a trace. The first remedy of a finding is its words (``finding.remedy``);
:func:`spp.try_remedies` tries all that can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from spp.diagnosis.view import Key, Kind, Measured, View, records
from spp.errors import InputError
from spp.registry import Registry
from spp.vocabulary import LayerKind

if TYPE_CHECKING:
    from torch import nn

    from spp.nn.init import LayerVariance, VarianceTarget

TARGETS = ("flat", "theory")
"""Curves that a calibrated network's variance follows, see :func:`spp.calibrate`."""


class Case(NamedTuple):
    """What a change may look at beside the model.

    Attributes:
        run: What was measured of the model, wiring included.
        batch: The batch that it was measured on.
    """

    run: Measured
    batch: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Something to try against a finding; a row of ``REMEDIES`` is one that does not say yet what and where.

    Attributes:
        kind: Name of its row.
        description: One line.
        shell: What to type on the command line, as ``--init {value}``; empty where there is no such option.
        python: What to type in Python, where ``model``, ``batch`` and ``run`` are at hand; ``{at}`` stands for the module
            ``where``, ``{value}`` for the value.
        change: From a model that it may change, this remedy and a ``Case`` to the model; None for what can only be told.
        order: Of several, those with the lower number are applied first.
        value: What, as ``"he"``.
        where: Name of a module; "" for the whole model.
        why: Why, or how, in words of their own, without a full stop.
    """

    kind: str
    description: str = ""
    shell: str = ""
    python: str = ""
    change: Callable[[nn.Module, Remedy, Case], nn.Module] | None = None
    order: int = 0
    value: Any = ""
    where: str = ""
    why: str = ""

    def command(self, info: Mapping[str, Any]) -> str:
        """What to type: options of the command line where it was used and this model takes them, else Python.

        Args:
            info: The facts of a run: ``argv`` is there where ``spp`` was typed, ``takes`` names what the network is built
                with.
        """
        value = f"{self.value:.3g}" if isinstance(self.value, float) else self.value
        at = f"model.get_submodule({self.where!r})" if self.where else "model"
        return (self.shell if self._is_typed(info) else self.python).format(value=value, at=at, where=self.where)

    def _is_typed(self, info: Mapping[str, Any]) -> bool:
        option = self.shell.partition(" ")[0].removeprefix("--").replace("-", "_")
        # an option is of the whole network
        return bool(not self.where and info.get("argv") and option and option in (info.get("takes") or ()))

    def quoted(self, info: Mapping[str, Any]) -> str:
        """What to type between backticks; where ``spp`` was typed and no option does it, it says that it is Python."""
        command = self.command(info)
        python = "in Python " if info.get("argv") and not self._is_typed(info) else ""
        return f"{python}`{command}`" if command else ""

    def words(self, info: Mapping[str, Any] | None = None) -> str:
        """The remedy as a sentence, with what to type between backticks."""
        told = [part for part in (self.why, self.quoted(info or {})) if part]
        return ": ".join(told).rstrip(".") + "." if told else ""

    def __str__(self) -> str:
        return self.words()


def _initialize(model: nn.Module, one: Remedy, case: Case) -> nn.Module:
    from spp.nn import initialize_

    initialize_(model.get_submodule(one.where), one.value)
    return model


def _put_norm(model: nn.Module, one: Remedy, case: Case) -> nn.Module:
    from spp.nn import put_norm

    return put_norm(model, one.value).model


def _put_activation(model: nn.Module, one: Remedy, case: Case) -> nn.Module:
    from spp.nn import put_activation

    return put_activation(model, one.value)


def _scale_branches(model: nn.Module, one: Remedy, case: Case) -> nn.Module:
    return scale_branches_(model, case.run, 0.0 if one.value == "skipinit" else None)


def _double_gates(model: nn.Module, one: Remedy, case: Case) -> nn.Module:
    return double_gates_(model, case.run)


def _rescale(model: nn.Module, one: Remedy, case: Case) -> nn.Module:
    layer = model.get_submodule(one.where)
    gain = getattr(layer, "gain", None)
    # a weight that is standardized has its scale in its gain
    (layer.get_parameter("weight") if gain is None else gain).data.mul_(one.value)
    return model


def _zero_bias(model: nn.Module, one: Remedy, case: Case) -> nn.Module:
    model.get_submodule(one.where).get_parameter("bias").data.zero_()
    return model


def _calibrate(model: nn.Module, one: Remedy, case: Case) -> nn.Module:
    calibrate_(model, case.run, case.batch)
    return model


REMEDIES = Registry[Remedy](
    "remedy",
    {
        row.kind: row
        for row in (
            Remedy(kind="told", description="words alone: nothing that a program could do to a copy"),
            Remedy(
                kind="activation",
                description="another activation everywhere",
                shell="--activation {value}",
                python="spp.nn.put_activation(model, '{value}')",
                change=_put_activation,
                order=1,
            ),
            Remedy(
                kind="norm",
                description="a norm in place of the norms, or behind every weighted layer where there are none",
                shell="--norm {value}",
                python="spp.nn.put_norm(model, '{value}')",
                change=_put_norm,
                order=2,
            ),
            Remedy(
                kind="se",
                description="squeeze-and-excitation gates times two",
                shell="--se {value}",
                python="spp.diagnosis.double_gates_(model, run)",
                change=_double_gates,
                order=3,
            ),
            Remedy(
                kind="init",
                description="another init, of one layer or of all",
                shell="--init {value}",
                python="spp.nn.initialize_({at}, '{value}')",
                change=_initialize,
                order=4,
            ),
            Remedy(
                kind="residual",
                description="residual branches that begin at zero",
                shell="--residual {value}",
                python="spp.diagnosis.scale_branches_(model, run, 0.0)",
                change=_scale_branches,
                order=5,
            ),
            Remedy(
                kind="branches",
                description="the last weight of each residual branch divided by the root of their number",
                python="spp.diagnosis.scale_branches_(model, run)",
                change=_scale_branches,
                order=5,
            ),
            Remedy(
                kind="gain",
                description="one layer's weight multiplied",
                python="{at}.weight.data.mul_({value})",
                change=_rescale,
                order=6,
            ),
            Remedy(
                kind="zero_bias",
                description="one layer's bias set to zero",
                python="torch.nn.init.zeros_({at}.bias)",
                change=_zero_bias,
                order=6,
            ),
            Remedy(
                kind="calibrate",
                description="the weights scaled layer by layer until the signal keeps its variance on the batch",
                python="spp.calibrate(model, batch)",
                change=_calibrate,
                order=9,
            ),
            Remedy(kind="batch_size", description="another batch size, told only", shell="--batch-size {value}"),
            Remedy(kind="model", description="another network, told only", shell="--model {value}"),
        )
    },
    of=Remedy,
)
"""Every kind of remedy by name."""


def remedy(kind: str, value: Any = "", *, where: str = "", why: str = "") -> Remedy:
    """A remedy of the table that says what, where and why.

    Args:
        kind: A name of ``REMEDIES``.
        value: What, as the name of an init; a number for ``gain``.
        where: Name of a module; "" for the whole model.
        why: Words in front of what to type, or all of them.

    Raises:
        UnknownNameError: No kind has that name.
    """
    return replace(REMEDIES.row(kind), value=value, where=where, why=why.rstrip("."))


def advice(words: str) -> Remedy:
    """A remedy of words alone."""
    return remedy("told", why=words)


def activation_for(view: View, name: str, why: str) -> Remedy:
    """Another activation; words alone where those of the network are functions, which nothing can take the place of."""
    modules = any(step.kind is Kind.ACTIVATION and step.row.type != "function" for step in view.steps)
    return remedy("activation", name, why=why) if modules else advice(why)


def norm_for(view: View) -> str:
    """The norm that such a network has as a rule: LayerNorm beside attention or recurrence, else BatchNorm."""
    kinds = {fact.kind for fact in view.facts.values()}
    return "layer" if kinds & {LayerKind.ATTENTION, LayerKind.RECURRENT} else "batch"


def init_for(view: View) -> str:
    """The init that fits most of the network's activations: LeCun's for those that keep a small signal, else He's."""
    found = Counter(view.activation(step.name) for step in view.steps if step.kind is Kind.ACTIVATION)
    usual = found.most_common(1)[0][0] if found else "identity"
    return "lecun" if usual in ("selu", "tanh", "hardtanh", "softsign", "sigmoid", "erf", "identity") else "he"


def _own_weight(model: nn.Module, name: str) -> nn.Module | None:
    """The module of that name, or the last one inside it, that has a weight of its own."""
    inside = [part for part in model.get_submodule(name).modules() if "weight" in part._parameters]
    return inside[-1] if inside else None


def scale_branches_(model: nn.Module, run: Measured, factor: float | None = None) -> nn.Module:
    """Multiply the last weight (and bias) of each residual branch, in place: ``x + factor f(x)``.

    Args:
        model: The model that was measured, or a copy.
        run: What :func:`spp.trace` measured of it, which knows its branches.
        factor: 0 for branches that begin at nothing (Goyal et al. 2017; De & Smith 2020); left out, one over the root of
            their number, with which the variance grows e-fold at most over all of them (Radford et al. 2019, section 2.3).

    Returns:
        The model.

    Raises:
        InputError: The run has no residual branch that ends in a weighted layer.
    """
    import torch

    names = dict.fromkeys(branch.name for branch in View(run).branch_ratios)
    ends = [end for name in names if (end := _own_weight(model, name)) is not None]
    if not ends:
        raise InputError("branches that are scaled end in a weighted layer", received="none in the run", where="run")
    scale = 1 / sqrt(len(ends)) if factor is None else factor
    with torch.no_grad():
        for end in ends:
            for parameter in end.parameters(recurse=False):
                parameter.mul_(scale)
    return model


def calibrate_(
    model: nn.Module, run: Measured, batch: Any, *, target: str = "flat", tolerance: float = 0.1, steps: int = 10
) -> dict[str, LayerVariance]:
    """What :func:`spp.calibrate` does, for a model that has been traced already.

    Args:
        model: The model that was measured, or a copy.
        run: What :func:`spp.trace` measured of it, which knows its wiring.
        batch: As for :func:`spp.trace`; the first one counts.
        target: ``flat`` or ``theory``.
        tolerance: How far from its target a variance may stay, relative to it.
        steps: Rescalings of a layer at most.

    Returns:
        What was done to each layer, by name, in the order in which they ran.

    Raises:
        InputError: The target is none of these, or the tolerance is not positive.
    """
    from functools import partial

    from spp.nn.init import rescale_
    from spp.objective import batches_of, to_device

    targets = _targets(model, View(run), target)
    one = to_device(next(batches_of(batch)), next((p.device for p in model.parameters()), None))
    forward = partial(model, *one.args, **one.kwargs)
    return rescale_(model, forward, targets, tolerance=tolerance, steps=steps, by_channel=True, strict=False)


def _targets(model: nn.Module, view: View, target: str) -> dict[str, VarianceTarget]:
    """What the variance of each weighted layer is to be: 1, and at the end of a branch a share of its skip."""
    from spp.nn.init import VarianceTarget

    if target not in TARGETS:
        raise InputError(f"a target is one of {', '.join(TARGETS)}", received=repr(target), where="target")
    modules = dict(model.named_modules())
    # a weight that several modules have would be scaled for each of them
    owners = Counter(id(p) for m in modules.values() for p in m._parameters.values() if p is not None)
    scaled = {
        step.name: step
        for step in view.steps
        if step.is_weighted
        if (weight := getattr(modules.get(step.name), "_parameters", {}).get("weight")) is not None
        if owners[id(weight)] == 1
    }
    # a norm takes the scale away again
    targets = {name: VarianceTarget() for name, step in scaled.items() if not view.normed(step)}
    targets |= {name: share for name, share in _branch_targets(modules, view, target).items() if name in scaled}
    return targets


def _branch_targets(modules: Mapping[str, nn.Module], view: View, target: str) -> dict[str, VarianceTarget]:
    """The same for the ends of branches that are added as they are: a share of what the skip has at that place."""
    from spp.nn.init import VarianceTarget

    sums = [row for row in records(view.blocks) if _is_plain_sum(view, row)]
    ends = {(ratio.block, ratio.merge): ratio.name for ratio in view.branch_ratios}
    known: dict[str, tuple[str, bool, float]] = {}
    targets = {}
    for number, row in enumerate(sums):
        skip = str(row.skip) if isinstance(row.skip, str) else ""
        # a skip that no module gives out is the sum before, or what enters the block
        of, entering, level = (
            (skip, False, 1.0) if skip in modules else known.get(row.block, (str(row.block), True, 1.0))
        )
        share = 1 / len(sums) if target == "flat" else 1 / (number + 1)
        known[row.block] = of, entering, level * (1 + share)
        targets[ends.get((row.block, int(row.merge)), "")] = VarianceTarget(level * share, of, entering)
    return targets


def _is_plain_sum(view: View, row: Any) -> bool:
    """Whether a merge adds branch and skip as they are: a rule that weights them knows itself how large a branch is to be."""
    named = view.activations.get(Key(row.skip, int(row.call))) if isinstance(row.skip, str) else None
    if row.transition or not row.branch_acv > 0:
        return False
    return named is None or abs(row.acv - named.acv - row.branch_acv) < 0.3 * row.acv


def double_gates_(model: nn.Module, run: Measured) -> nn.Module:
    """Multiply what every squeeze-and-excitation gate of the model lets through by two, in place (Brock et al. 2021).

    Args:
        model: The model that was measured, or a copy.
        run: What :func:`spp.trace` measured of it, which knows its gates.

    Returns:
        The model.

    Raises:
        InputError: The run has no gate.
    """
    from torch import nn

    from spp.nn import ScaledActivation

    gates = View(run).gates
    if not gates:
        raise InputError("gates that are doubled are squeeze-and-excitation blocks", received="none in the run")
    for name in gates:
        parent, _, key = name.rpartition(".")
        setattr(
            model.get_submodule(parent),
            key,
            nn.Sequential(model.get_submodule(name), ScaledActivation("identity", 2.0)),
        )
    return model


def first_words(remedies: Iterable[Remedy], info: Mapping[str, Any]) -> str:
    """The first remedy in the user's tongue; empty where there is none."""
    return next((one.words(info) for one in remedies), "")

"""What a layer is: its kind, where its channels lie, its fans, its range. Every room asks here, and nowhere else.

:func:`layer_of` answers for a module. It goes through four sources, the first that knows wins:

1. predicates that were registered;
2. the class and its bases, nearest first, against the rows of :data:`LAYERS` (rows are about a class or about a class's name);
3. the words in the class's name, so that ``LlamaRMSNorm`` and ``BatchNormAct2d`` are norms wherever they come from;
4. the structure: children that do the work, shapes of parameters, functions that ``forward`` names.

:func:`kind_of_name` answers for a class's name alone. :func:`register_layer` adds a row, from inside or outside the package.

>>> from torch import nn
>>> layer_of(nn.Conv2d(8, 8, 3, groups=8)).depthwise, layer_of(nn.GELU()).activation
(True, 'gelu')
>>> kind_of_name("LlamaRMSNorm")
<LayerKind.NORM: 'norm'>
"""

from __future__ import annotations

import dis
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypeVar, cast

from torch import Tensor, nn
from torch.nn.modules import activation, batchnorm, conv, loss, padding, pooling
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from spp.errors import InputError
from spp.registry import Registry
from spp.vocabulary import LayerKind

ChannelLayout = Literal["first", "last", "inherit"]
"""Axis 1 (0 where there is no batch axis), the last axis, or that of the input."""
Fans = tuple[int | None, int | None]
Range = tuple[float, float]
Predicate = Callable[[nn.Module], bool]
T = TypeVar("T")
Of: TypeAlias = T | Callable[[nn.Module], T]
"""A constant, or what gives it for a module."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What is known of a layer.

    Attributes:
        kind: What it does to a signal.
        channel_layout: Where its outputs have their channels: ``first``, ``last`` or as its input.
        fan_in: Inputs of one output unit, over the kernel and within its group; None where the notion does not apply.
        fan_out: Output units that one input reaches, likewise.
        groups: Groups of a convolution or group norm, if it has such.
        eps: The constant that a norm adds to the variance, if it has one.
        activation: Canonical name of the element-wise function (``spp.nn.ACTIVATIONS`` has most) or softmax that it is.
        output_range: The two values between which its output lies and near which it can stay (a sine cannot), if finite.
        depthwise: Whether it is a convolution with a group, of several, for each input channel.
        unit_axis: The axis of its weight along which output units lie: 1 for transposed convolutions and ``Conv1D``, else 0.
    """

    kind: LayerKind
    channel_layout: ChannelLayout = "inherit"
    fan_in: int | None = None
    fan_out: int | None = None
    groups: int | None = None
    eps: float | None = None
    activation: str | None = None
    output_range: Range | None = None
    depthwise: bool = False
    unit_axis: int = 0


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A row of :data:`LAYERS`: which layers, and what they are. Callables are asked with the module.

    Attributes:
        match: A class (with its subclasses), the name of a class, or a predicate.
        kind: What the layer does to a signal.
        channel_layout: Where its outputs have their channels.
        fans: ``(fan_in, fan_out)``.
        output_range: Its two ends, if both are finite.
        activation: Canonical name of the nonlinearity. It and the range hold for subclasses that keep ``forward`` as it is.
        unit_axis: The axis of a weight of rank 2 or more along which output units lie.
    """

    match: type[nn.Module] | str | Predicate
    kind: LayerKind
    channel_layout: Of[ChannelLayout] = "inherit"
    fans: Of[Fans] = (None, None)
    output_range: Of[Range | None] = None
    activation: Of[str | None] = None
    unit_axis: int = 0


class LayerRegistry(Registry[LayerRow]):
    """The rows by name, and what is derived from them for quick look-ups."""

    def __init__(self) -> None:
        super().__init__("layer", of=LayerRow, describe=_described)
        self.by_class: dict[type, LayerRow] = {}
        self.by_name: dict[str, LayerRow] = {}
        self.predicates: list[LayerRow] = []

    def register(self, name: str, row: LayerRow, *, replace: bool = False) -> LayerRow:
        """Add a row, see :meth:`spp.registry.Registry.register`; of rows about the same layers the latest wins."""
        super().register(name, row, replace=replace)
        self._index(row)
        return row

    def unregister(self, name: str) -> None:
        """Take a row out again, see :meth:`spp.registry.Registry.unregister`."""
        super().unregister(name)
        self.by_class, self.by_name, self.predicates = {}, {}, []
        for row in self.values():
            self._index(row)

    def _index(self, row: LayerRow) -> None:
        if isinstance(row.match, type):
            self.by_class[row.match] = self.by_name[row.match.__name__] = row
        elif isinstance(row.match, str):
            self.by_name[row.match] = row
        else:
            self.predicates.insert(0, row)
        _known.cache_clear()


def _described(row: LayerRow) -> str:
    by = "the class and its subclasses" if isinstance(row.match, type) else "by its name"
    return f"{row.kind}: {by if isinstance(row.match, type | str) else 'where a function says so'}"


def register_layer(
    what: type[nn.Module] | str | Predicate,
    *,
    kind: LayerKind | str,
    fans: Of[Fans] = (None, None),
    channel_layout: Of[ChannelLayout] = "inherit",
    output_range: Of[Range | None] = None,
    activation: Of[str | None] = None,
    unit_axis: int = 0,
    name: str | None = None,
    replace: bool = False,
) -> LayerRow:
    """Say what a layer is. From then on tables, figures and diagnoses know.

    Args:
        what: A class (its subclasses are meant too), the name of a class, or a function that says whether a module is meant.
        kind: What the layer does to a signal.
        fans: ``(fan_in, fan_out)``, or a function that gives them for a module.
        channel_layout: ``first`` (axis 1), ``last`` or ``inherit`` (as the input), or a function that says it.
        output_range: The two ends between which outputs lie, if both are finite; or a function.
        activation: Canonical name, if the layer is an element-wise nonlinearity; or a function.
        unit_axis: The axis of a weight of rank 2 or more along which output units lie.
        name: What the row is called in ``LAYERS``; the class's name where it is left out.
        replace: Whether a row of that name may be there already.

    Raises:
        InputError: The kind or the layout does not exist, or the name is taken.

    Examples:
        >>> class Pairwise(nn.Module):
        ...     pairs = 6
        >>> row = register_layer(Pairwise, kind="linear", fans=lambda m: (m.pairs, 1))
        >>> layer_of(Pairwise()).fan_in
        6
        >>> LAYERS.unregister("Pairwise")
    """
    if kind not in set(LayerKind):
        raise InputError(f"a layer is one of {', '.join(LayerKind)}", received=repr(kind), where="kind")
    if not callable(channel_layout) and channel_layout not in ("first", "last", "inherit"):
        raise InputError("channels lie first, last or inherit", received=repr(channel_layout), where="channel_layout")
    row = LayerRow(what, LayerKind(kind), channel_layout, fans, output_range, activation, unit_axis)
    return LAYERS.register(name or (what if isinstance(what, str) else what.__name__), row, replace=replace)


def layer_of(module: nn.Module) -> Layer:
    """What ``module`` is.

    Args:
        module: Any module: foreign, scripted, parametrized, lazy or sharded.
    """
    row, inherited = _row_of(module)
    groups, eps = (
        own(module, "groups") or own(module, "num_groups"),
        own(module, "eps") or own(module, "variance_epsilon"),
    )
    fan_in, fan_out = _asked(row.fans, module)
    return _shared(
        kind=row.kind,
        channel_layout=_asked(row.channel_layout, module),
        fan_in=fan_in,
        fan_out=fan_out,
        groups=groups if isinstance(groups, int) else None,
        eps=eps if isinstance(eps, float) else None,
        activation=None if inherited else _asked(row.activation, module),
        output_range=None if inherited else _asked(row.output_range, module),
        depthwise=row.kind is LayerKind.CONVOLUTION
        and isinstance(groups, int)
        and groups > 1
        and own(module, "in_channels") == groups,
        unit_axis=row.unit_axis,
    )


# a model has few different layers, and looking one up takes a third of the time of making it
_shared = lru_cache(maxsize=4096)(Layer)


def kind_of_name(type_name: str, leaf: bool = True) -> LayerKind:
    """The kind of a layer by the name of its class alone, as for runs that were saved by version 1.

    Args:
        type_name: The class's name.
        leaf: Whether the layer has no children.
    """
    plain = type_name.removeprefix("Parametrized")
    row = LAYERS.by_name.get(plain)
    kind = _kind_by_words(plain) if row is None else row.kind
    if leaf or plain != type_name:
        return LayerKind.OTHER if kind is None else kind
    return kind if kind in WHOLE else LayerKind.CONTAINER


def type_name(module: nn.Module) -> str:
    """The class's name; for a scripted or sharded module that of the class it was made from."""
    kind = type(module)
    original = getattr(module, "original_name", None) if is_scripted(module) else None
    if isinstance(original, str):
        return original
    # fully_shard gives each module a class of its own, between which and the original stands FSDPModule
    if len(kind.__mro__) > 2 and kind.__mro__[1].__name__ == "FSDPModule":
        kind = kind.__mro__[2]
    return kind.__name__


def is_scripted(module: nn.Module) -> bool:
    """Whether TorchScript made the module: its class is torch's, and its attributes are not where Python keeps them."""
    return type(module).__module__.startswith("torch.jit")


def own(module: nn.Module, name: str) -> Any:
    """An attribute of the module's, or of its class's; None where there is none.

    ``getattr`` would ask ``nn.Module.__getattr__``, which looks through parameters and children and raises: slow where most
    modules lack the attribute.
    """
    kind: Any = type(module)
    found = module.__dict__.get(name)
    return _of_class(kind, name) if found is None else found


@lru_cache(maxsize=4096)
def _of_class(cls: type, name: str) -> Any:
    # a class raises and catches an error for each attribute that it lacks
    return getattr(cls, name, None)


def canonical_activation(type_name: str) -> str | None:
    """The canonical name of an element-wise function, from that of a class or function: ``NewGELUActivation``."""
    word = type_name.lower().replace("_", "")
    for end in ("activation", "me", "jit"):
        word = word.removesuffix(end)
    return _ACTIVATIONS.get(word)


def _asked(value: Any, module: nn.Module) -> Any:
    return value(module) if callable(value) else value


def _row_of(module: nn.Module) -> tuple[LayerRow, bool]:
    """The row that fits, and whether only by way of a base class whose ``forward`` was replaced."""
    for row in LAYERS.predicates:
        if cast(Predicate, row.match)(module):
            return row, False
    kind: Any = type(module)
    if is_scripted(module):
        parts = any(True for _ in module.children())
        return LayerRow(kind, kind_of_name(type_name(module), leaf=not parts)), False
    known, by = _known(kind)
    if known is not None and by != "name":
        return known, by == "base" and kind.forward is not cast(Any, known.match).forward
    children = set(module._modules) - {"parametrizations"}
    if known is None:
        return _CONTAINER if children else _by_structure(module), False
    if known.kind is LayerKind.NORM:
        children -= FUSED
    return _CONTAINER if children and known.kind not in WHOLE else known, False


@lru_cache(maxsize=4096)
def _known(kind: type) -> tuple[LayerRow | None, str]:
    """The row of a class, and by what it was found: the class itself, a base, or a name."""
    for cls in kind.__mro__:
        if cls in LAYERS.by_class:
            return LAYERS.by_class[cls], "class" if cls is kind else "base"
        named = LAYERS.by_name.get(cls.__name__)
        if named is not None:
            # a foreign class that is called like one of torch's: its channels and weights may lie elsewhere
            foreign = isinstance(named.match, type)
            return replace(named, channel_layout="inherit", unit_axis=0) if foreign else named, "name"
        if cls is nn.Module:
            break
    for cls in kind.__mro__:
        if cls is nn.Module:
            break
        found = _kind_by_words(cls.__name__)
        if found is not None:
            return _row_by_words(cls, found), "name"
    return None, ""


def _row_by_words(cls: type, kind: LayerKind) -> LayerRow:
    row = LayerRow(cls, kind)
    match kind:
        case LayerKind.ACTIVATION:
            name = canonical_activation(cls.__name__)
            return replace(row, activation=name, output_range=RANGES.get(name or ""))
        case LayerKind.LINEAR:
            return replace(row, fans=_linear_fans)
        case LayerKind.CONVOLUTION:
            return replace(row, fans=_conv_fans)
    return row


# --- fans ------------------------------------------------------------------------------------------------------------------


def _conv_fans(module: nn.Module) -> Fans:
    inputs, outputs, kernel = (own(module, name) for name in ("in_channels", "out_channels", "kernel_size"))
    if isinstance(inputs, int) and isinstance(outputs, int) and isinstance(kernel, tuple):
        taps, groups = math.prod(kernel), own(module, "groups") or 1
        return inputs // groups * taps, outputs // groups * taps
    return _fans_by_shape(module)


def _linear_fans(module: nn.Module) -> Fans:
    inputs, outputs = own(module, "in_features"), own(module, "out_features")
    return (inputs, outputs) if isinstance(inputs, int) and isinstance(outputs, int) else _fans_by_shape(module)


def _fans_by_shape(module: nn.Module) -> Fans:
    """From a weight of shape (outputs, inputs, ...)."""
    weight = _matrix(module)
    if weight is None:
        return None, None
    taps = math.prod(weight.shape[2:])
    return weight.shape[1] * taps, weight.shape[0] * taps


def _fans_by_transposed_shape(module: nn.Module) -> Fans:
    """From a weight of shape (inputs, outputs)."""
    return _fans_by_shape(module)[::-1]


def _matrix(module: nn.Module) -> Tensor | None:
    """The parameter of rank 2 or more, where there is but one and it has a shape by now."""
    found = [p for p in module._parameters.values() if p is not None and not is_lazy(p)]
    matrices = [p for p in found if p.dim() > 1]
    return matrices[0] if len(matrices) == 1 else None


# --- structure -------------------------------------------------------------------------------------------------------------

_PRODUCTS = {"linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "einsum", "tensordot", "@"}
_NORMALIZES = {
    "rsqrt",
    "var",
    "var_mean",
    "layer_norm",
    "rms_norm",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "normalize",
}
_RESHAPES = {
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "movedim",
    "squeeze",
    "unsqueeze",
    "pad",
    "cat",
}
_TURNS = {"t", "T", "mT", "transpose"}


def _by_structure(module: nn.Module) -> LayerRow:
    """The row of a layer that no table and no name knows, from its parameters and what its ``forward`` names."""
    named = _names_in_forward(cast(Any, type(module)))
    row = LayerRow(type(module), LayerKind.OTHER)
    weight = _matrix(module)
    if weight is not None:
        return _of_matrix(module, row, weight, named)
    if named & _PRODUCTS:
        return row
    if named & _NORMALIZES:
        return replace(row, kind=LayerKind.NORM)
    if module._parameters:
        return row
    if named & {"softmax", "log_softmax"}:
        return replace(row, kind=LayerKind.SOFTMAX)
    if named & _RESHAPES:
        pure = not any(map(canonical_activation, named))
        return replace(row, kind=LayerKind.RESHAPE) if pure else row
    return replace(row, kind=LayerKind.ACTIVATION) if any(map(canonical_activation, named)) else row


def _of_matrix(module: nn.Module, row: LayerRow, weight: Tensor, named: frozenset[str]) -> LayerRow:
    """The row of a layer with one parameter of rank 2 or more."""
    if named & {"conv1d", "conv2d", "conv3d"}:
        return replace(row, kind=LayerKind.CONVOLUTION, fans=_conv_fans)
    if "embedding" in named:
        return replace(row, kind=LayerKind.EMBEDDING)
    if weight.dim() != 2 or not named & _PRODUCTS:
        return row
    if "linear" in named:  # F.linear takes (outputs, inputs) and works on the last axis
        return replace(row, kind=LayerKind.LINEAR, channel_layout="last", fans=_linear_fans)
    # With other products the bias shows which side is which, and without a bias whether the weight is transposed first.
    outputs, inputs = weight.shape
    biases = {len(p) for p in module._parameters.values() if p is not None and p.dim() == 1}
    known = bool(biases) and outputs != inputs
    turned = inputs in biases and outputs not in biases if known else not named & _TURNS
    fans = _fans_by_transposed_shape if turned else _linear_fans
    return replace(row, kind=LayerKind.LINEAR, fans=fans, unit_axis=int(turned))


@lru_cache(maxsize=1024)
def _names_in_forward(kind: type[nn.Module]) -> frozenset[str]:
    """The names that the code of ``forward`` mentions, and ``@`` where it multiplies matrices."""
    code = getattr(kind.forward, "__code__", None)
    if code is None:
        return frozenset()
    product = any(step.argrepr == "@" or step.opname == "BINARY_MATRIX_MULTIPLY" for step in dis.get_instructions(code))
    return frozenset(code.co_names) | ({"@"} if product else set())


# --- names -----------------------------------------------------------------------------------------------------------------

_CANONICAL = (
    "relu relu6 rrelu leaky_relu prelu squared_relu elu celu selu gelu gelu_tanh clipped_gelu quick_gelu silu mish "
    "hard_mish hard_swish softplus sqrt_softplus log_sigmoid sigmoid hard_sigmoid tanh hard_tanh tanhshrink "
    "hard_shrink soft_shrink softsign threshold glu laplace xielu erf"
)
_OTHERWISE = {
    "relusquared": "squared_relu",
    "relu2": "squared_relu",
    "pytorchgelutanh": "gelu_tanh",
    "newgelu": "gelu_tanh",
    "fastgelu": "gelu_tanh",
    "accurategelu": "gelu_tanh",
    "swish": "silu",
    "hswish": "hard_swish",
    "hsigmoid": "hard_sigmoid",
}
_ACTIVATIONS = {name.replace("_", ""): name for name in _CANONICAL.split()} | _OTHERWISE
"""Canonical names by those of classes and functions, in small letters, without underscores and endings."""

RANGES: dict[str, Range] = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "laplace": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "erf": (-1.0, 1.0),
    "relu6": (0.0, 6.0),
}
"""Ends of the bounded activations; a sine is none, since it does not stay at its ends."""

FUSED = {"drop", "act"}
"""Children of a norm that timm fuses with what follows it; with others it is a block that has a norm in its name."""

WHOLE = {LayerKind.ATTENTION, LayerKind.GATE, LayerKind.RECURRENT}
"""Kinds that a layer known by its name keeps although it has children; of others the children do the work."""

_WORDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"(?i)(loss|criterion|parametrization)\w*$", LayerKind.OTHER),
        (r"(?i)rotary|rope", LayerKind.OTHER),
        (r"(?i)conv\w*(norm|bn|relu|act)", LayerKind.CONTAINER),
        (r"(?i)(norm|lrn)(act)?(\dd)?$", LayerKind.NORM),
        (r"(?i)soft(max|min)", LayerKind.SOFTMAX),
        (r"(?i:squeeze_?(and_?)?excit|excitation)|SE(Module|Layer|Block|Unit)?$", LayerKind.GATE),
        (r"(?i:attention|attn)|MHA|MHSA", LayerKind.ATTENTION),
        (r"(?i)embed(ding)?s?(\dd)?$", LayerKind.EMBEDDING),
        (r"(?i)conv(olution)?(transpose)?(\dd|\w{0,4}$)", LayerKind.CONVOLUTION),
        (r"(?i)(linear|dense|fullyconnected)(\dd)?$", LayerKind.LINEAR),
        (r"(?i)norm|dyt$|dynamictanh", LayerKind.NORM),
        (r"(?i)pool", LayerKind.POOLING),
        (r"(?i)drop(out|path|block|connect)|stochasticdepth", LayerKind.DROPOUT),
        (r"(?i)(lstm|gru|rnn)(base|_?cell|layer|block)?$", LayerKind.RECURRENT),
        (r"(?i)(flatten|permute|reshape|rearrange|identity|shuffle|transpose|concat|view|fold)$", LayerKind.RESHAPE),
        (r"(?i)pad(ding)?(\dd)?$|upsampl|interpolat|resize", LayerKind.RESHAPE),
        (
            r"(?i)activation|([ges]lu|silu|relu\d?|swish|sigmoid|tanh|softplus|softsign|shrink|mish|snake)\d?(me|jit)?$",
            LayerKind.ACTIVATION,
        ),
    )
)
"""Patterns of names of classes; the first that is found decides."""


def _kind_by_words(type_name: str) -> LayerKind | None:
    return next((kind for pattern, kind in _WORDS if pattern.search(type_name)), None)


# --- rows ------------------------------------------------------------------------------------------------------------------

_CONTAINER = LayerRow("container", LayerKind.CONTAINER)

LAYERS = LayerRegistry()
"""Every row, by the name of its class."""


def _all(kind: LayerKind, what: Iterable[type[nn.Module] | str], **options: Any) -> None:
    for one in what:
        register_layer(one, kind=kind, **options)


def _suffix_layout(module: nn.Module) -> ChannelLayout:
    """A layer norm whose class is called ``...2d`` (timm, torchvision) works on channels-first maps."""
    return "first" if type(module).__name__.lower().endswith("2d") else "last"


def _hardtanh_range(module: nn.Module) -> Range | None:
    ends = own(module, "min_val"), own(module, "max_val")
    return None if None in ends else (float(ends[0]), float(ends[1]))


def _named_activation(module: nn.Module) -> str | None:
    """Of a layer that says in ``name`` which function it is, as :class:`spp.nn.ScaledActivation` does."""
    name = own(module, "name")
    return name if isinstance(name, str) else None


def _scaled_range(module: nn.Module) -> Range | None:
    ends, gain = RANGES.get(_named_activation(module) or ""), own(module, "gain")
    gain = gain if isinstance(gain, int | float) else 1.0
    return None if ends is None else (min(gain * ends[0], gain * ends[1]), max(gain * ends[0], gain * ends[1]))


_classes = [cls for cls in vars(activation).values() if isinstance(cls, type) and cls.__module__ == activation.__name__]
_softmaxes = (nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax)
# a list and no set of classes, whose order, that of the table, would be another in each process
for _cls in [cls for cls in _classes if cls not in (nn.MultiheadAttention, nn.GELU, nn.Hardtanh, *_softmaxes)]:
    _name = canonical_activation(_cls.__name__)
    register_layer(_cls, kind=LayerKind.ACTIVATION, activation=_name, output_range=RANGES.get(_name or ""))
for _cls, _name in zip(_softmaxes, ("softmax", "softmax", "softmin", "log_softmax"), strict=True):
    register_layer(_cls, kind=LayerKind.SOFTMAX, activation=_name)
register_layer(
    nn.GELU,
    kind=LayerKind.ACTIVATION,
    activation=lambda m: "gelu_tanh" if own(m, "approximate") == "tanh" else "gelu",
)
register_layer(
    nn.Hardtanh,
    kind=LayerKind.ACTIVATION,
    activation="hard_tanh",
    output_range=_hardtanh_range,
)
_all(
    LayerKind.ACTIVATION,
    ("ScaledActivation", "Elementwise"),
    activation=_named_activation,
    output_range=_scaled_range,
)
register_layer("LinearActivation", kind=LayerKind.ACTIVATION, activation="identity")

register_layer(conv._ConvNd, kind=LayerKind.CONVOLUTION, channel_layout="first", fans=_conv_fans)
register_layer(conv._ConvTransposeNd, kind=LayerKind.CONVOLUTION, channel_layout="first", fans=_conv_fans, unit_axis=1)
register_layer(nn.Linear, kind=LayerKind.LINEAR, channel_layout="last", fans=_linear_fans)
# its output is quadratic in the signal, so that no fan says how a weight's size acts
register_layer(nn.Bilinear, kind=LayerKind.LINEAR, channel_layout="last")
# GPT-2's: a linear layer whose weight is (inputs, outputs)
register_layer("Conv1D", kind=LayerKind.LINEAR, channel_layout="last", fans=_fans_by_transposed_shape, unit_axis=1)
_all(LayerKind.EMBEDDING, (nn.Embedding, nn.EmbeddingBag), channel_layout="last")

_all(
    LayerKind.NORM,
    (batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d),
    channel_layout="first",
)
_all(LayerKind.NORM, (nn.LayerNorm, nn.RMSNorm), channel_layout=_suffix_layout)
# it scales and shifts as a norm does, and takes no statistics: nothing resets the scale of a signal
_all(LayerKind.OTHER, ("AffineLayer", "LayerScale"))
# modules that compute a weight: what they give out is no signal
_all(LayerKind.OTHER, ("_WeightNorm", "_SpectralNorm", "_Orthogonal", "ParametrizationList"))

_pools = [cls for cls in vars(pooling).values() if isinstance(cls, type) and cls.__module__ == pooling.__name__]
_all(LayerKind.POOLING, _pools, channel_layout="first")
_upsampling = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
_all(LayerKind.DROPOUT, (_DropoutNd,))
_all(LayerKind.RECURRENT, (nn.RNNBase, nn.RNNCellBase), channel_layout="last")
_all(LayerKind.ATTENTION, (nn.MultiheadAttention,), channel_layout="last")
_all(LayerKind.RESHAPE, (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, *_upsampling), channel_layout="first")
_all(LayerKind.RESHAPE, (nn.Flatten,), channel_layout="last")
_all(LayerKind.RESHAPE, (nn.Identity, nn.Unflatten, nn.Fold, nn.Unfold))
_pads = [cls for cls in vars(padding).values() if isinstance(cls, type) and cls.__module__ == padding.__name__]
_all(LayerKind.RESHAPE, _pads)
_all(LayerKind.OTHER, (loss._Loss, nn.AdaptiveLogSoftmaxWithLoss))
_all(LayerKind.CONTAINER, (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict))
_all(
    LayerKind.CONTAINER,
    (
        nn.Transformer,
        nn.TransformerEncoder,
        nn.TransformerDecoder,
        nn.TransformerEncoderLayer,
        nn.TransformerDecoderLayer,
    ),
    channel_layout="last",
)

# --- functions -------------------------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, type[nn.Module]] = {
    **{"relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU, "rrelu": nn.RReLU},
    **{"elu": nn.ELU, "selu": nn.SELU, "celu": nn.CELU, "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish},
    **{"hardswish": nn.Hardswish, "hardtanh": nn.Hardtanh, "hardsigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid},
    **{"tanh": nn.Tanh, "softplus": nn.Softplus, "softsign": nn.Softsign, "logsigmoid": nn.LogSigmoid, "glu": nn.GLU},
    **{"hardshrink": nn.Hardshrink, "softshrink": nn.Softshrink, "tanhshrink": nn.Tanhshrink},
    **{"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax, "softmin": nn.Softmin},
    **{"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm, "group_norm": nn.GroupNorm, "batch_norm": nn.BatchNorm2d},
    **{"instance_norm": nn.InstanceNorm2d, "local_response_norm": nn.LocalResponseNorm},
    **{"dropout": nn.Dropout, "dropout1d": nn.Dropout1d, "dropout2d": nn.Dropout2d, "dropout3d": nn.Dropout3d},
    **{"alpha_dropout": nn.AlphaDropout, "feature_alpha_dropout": nn.FeatureAlphaDropout},
    **{"linear": nn.Linear, "embedding": nn.Embedding, "scaled_dot_product_attention": nn.MultiheadAttention},
    **{"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d},
    **{"conv_transpose1d": nn.ConvTranspose1d, "conv_transpose2d": nn.ConvTranspose2d},
    **{"conv_transpose3d": nn.ConvTranspose3d},
    **{"max_pool1d": nn.MaxPool1d, "max_pool2d": nn.MaxPool2d, "max_pool3d": nn.MaxPool3d},
    **{"avg_pool1d": nn.AvgPool1d, "avg_pool2d": nn.AvgPool2d, "avg_pool3d": nn.AvgPool3d},
    **{"adaptive_max_pool1d": nn.AdaptiveMaxPool1d, "adaptive_max_pool2d": nn.AdaptiveMaxPool2d},
    **{"adaptive_avg_pool1d": nn.AdaptiveAvgPool1d, "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d},
    **{"adaptive_max_pool3d": nn.AdaptiveMaxPool3d, "adaptive_avg_pool3d": nn.AdaptiveAvgPool3d},
}
"""The class of the module that does the same, by the name of a function; an in-place form (``relu_``) is the same layer."""


@lru_cache(maxsize=256)
def twin_of(function: str, training: bool = True) -> nn.Module:
    """A module that says what a function of :data:`FUNCTIONS` does; it holds nothing, and cannot be called.

    Examples:
        >>> layer_of(twin_of("max_pool2d")).kind
        <LayerKind.POOLING: 'pooling'>
    """
    kind = FUNCTIONS[function]
    # the class's own __init__ would make parameters, and draw them from torch's generator
    twin = kind.__new__(kind)
    nn.Module.__init__(twin)
    return twin.train(training)

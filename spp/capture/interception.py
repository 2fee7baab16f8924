"""Everything that stands in torch's place while a pass runs or a loop is watched; no other file replaces anything of torch.

- Module calls: a function in place of ``nn.Module.__call__`` for the length of a pass (:func:`boundary`). It sees scripted
  modules and the order of users' hooks, knows which module raised, and leaves nothing in anybody's hook lists.
- Additions: Python functions in place of ``+``, ``+=`` and ``add``, for residual merges.
- Functions that are layers, as ``F.relu`` and ``Tensor.softmax``.
- A watched loop: the root's call always (:class:`RootCall`), torch's backward and the gradient scaler in sampled steps only
  (:class:`SampledStep`).
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial, reduce, wraps
from itertools import chain
from types import CodeType, FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from spp import _torch
from spp.capture.dataflow import Value
from spp.capture.functions import Functions, functions, signals_of
from spp.capture.sites import Call, Entry
from spp.capture.stage import BACKWARD, FORWARD, IDLE, Stage, gate_here, modes_active

Run = Callable[[], Any]
Original = Callable[..., Any]
Arguments = tuple[Any, ...]
Keywords = dict[str, Any]
Part = Callable[[nn.Module], Original | None]
"""What makes a call of a module that is called from outside of all observed forwards, given what makes it otherwise, the module
and the arguments; None where nobody wants to."""


class Observer(Protocol):
    """Who is told of what happens in a pass.

    Attributes:
        functions: The functions that are layers; None where it does not want to know of them.
    """

    functions: Functions | None

    def on_enter(self, entry: Entry, args: Arguments, kwargs: Keywords) -> Call:
        """A module is about to be called."""

    def on_exit(self, call: Call, output: Any) -> None:
        """The call gave ``output``."""

    def on_error(self, call: Call, error: BaseException, args: Arguments, kwargs: Keywords) -> None:
        """The call raised."""

    def on_recompute(self, entry: Entry, original: Original, args: Arguments, kwargs: Keywords) -> Any:
        """A module is called during the backward pass; makes the call."""

    def on_unregistered(self, module: nn.Module) -> None:
        """A module that is not part of the model is about to be called."""

    def on_other_thread(self, entry: Entry) -> None:
        """A module is called on another thread than the pass runs on."""

    def function(self, name: str) -> Entry | None:
        """The layer that a function is where it is about to be called; None where it is none."""

    def before_sum(self, a: Tensor, b: Tensor) -> tuple[Value, Value] | None:
        """Two floating tensors are about to be added; the values they stand for."""

    def after_sum(self, values: tuple[Value, Value] | None, out: Tensor, same_shape: bool) -> None:
        """Their sum is ``out``."""


# -- what is replaced -------------------------------------------------------------------------------------------------------


class _Shim:
    """Something of torch or Python that is another for everybody while anybody needs it, on any thread and in any order.

    Args:
        replace: Puts the other in its place and returns what puts it back.
    """

    def __init__(self, replace: Callable[[], Callable[[], object]]) -> None:
        self._replace, self._holders, self._lock = replace, 0, threading.RLock()

    def hold(self) -> None:
        """Put it there, unless it is."""
        with self._lock:
            if not self._holders:
                self._put_back = self._replace()
            self._holders += 1

    def release(self) -> None:
        """Put back what was there, unless others hold it."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self._put_back()


def _deepen() -> Callable[[], object]:
    """A frame more for each level of nesting must not be what makes a model too deep."""
    depth = sys.getrecursionlimit()
    sys.setrecursionlimit(2 * depth)
    # unless somebody has set another meanwhile
    return lambda: sys.setrecursionlimit(depth) if sys.getrecursionlimit() == 2 * depth else None


def _run_eagerly() -> Callable[[], object]:
    """Have compiled modules run eagerly: one that is compiled and warm ignores what is added later."""
    stance = torch.compiler.set_stance("force_eager")
    return partial(stance.__exit__, None, None, None)


def _replaced(*pairs: tuple[Any, str, Original]) -> Callable[[], None]:
    """Set attributes; returns what sets them back or lets them be inherited again, unless somebody has set another since."""
    saved = [(owner, name, getattr(owner, name), name in vars(owner)) for owner, name, _ in pairs]
    for owner, name, replacement in pairs:
        setattr(owner, name, replacement)

    def put_back() -> None:
        for (owner, name, original, own), (_, _, replacement) in zip(saved, pairs, strict=True):
            if vars(owner).get(name) is not replacement:
                continue
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

    return put_back


# -- module calls -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Observing:
    """Who observes what runs on one thread.

    Attributes:
        observer: Who is told.
        stage: The phase of its capture.
        entries: The modules whose calls it is about, by identity.
        original: What makes a call: the observer inside whose forward this one runs, in the end torch.
        chain: This one and those inside which it runs, innermost first.
        alone: Whether what runs is none of the others' business, and no part of a watched loop.
        inside: Whether an addition or a function runs whose insides are its own business.
    """

    observer: Observer
    stage: Stage
    entries: dict[int, Entry]
    original: Original
    chain: tuple[_Observing, ...]
    alone: bool
    inside: bool = False


OBSERVING: dict[int, _Observing] = {}
"""The innermost observer of each thread."""


def traced_here() -> bool:
    """Whether a trace runs on this thread, of which no watch is told."""
    observing = OBSERVING.get(threading.get_ident())
    return observing is not None and observing.alone


def _call_of(unobserved: Original, fixed: _Observing | None = None) -> Original:
    """What stands in place of ``nn.Module.__call__``.

    Args:
        unobserved: What makes a call that nobody observes.
        fixed: Who is told; by default the innermost observer of the thread.
    """
    get_ident, innermost = threading.get_ident, OBSERVING.get

    def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        observing = fixed or innermost(get_ident())
        if observing is None:
            return _unobserved(unobserved, module)(module, *args, **kwargs)
        # a watch that does not observe yet may be about a part of the model of one that does
        if fixed is None and len(_HELD) > len(observing.chain) and not observing.alone and (parts := _parts_of(module)):
            return reduce(_inside, parts, _call_of(unobserved, observing))(module, *args, **kwargs)
        stage, original, phase = observing.stage, observing.original, observing.stage.phase
        if phase is IDLE:
            return original(module, *args, **kwargs)
        entry, observer = observing.entries.get(id(module)), observing.observer
        if phase is BACKWARD:
            # outside of any graph task it is none of a checkpoint's recomputations
            if entry is None or _torch.graph_task() < 0:
                return original(module, *args, **kwargs)
            return observer.on_recompute(entry, original, args, kwargs)
        if entry is None:
            observer.on_unregistered(module)
            return original(module, *args, **kwargs)
        gate = stage.gate
        gate.open = False
        call = observer.on_enter(entry, args, kwargs)
        try:
            gate.open = True
            if gate.waiting:
                gate.deliver()
            output = original(module, *args, **kwargs)
        except BaseException as error:
            # a signal's handler that has raised has closed it
            was, gate.open = gate.open, False
            observer.on_error(call, error, args, kwargs)
            gate.open = was
            raise
        gate.open = False
        observer.on_exit(call, output)
        gate.open = True
        if gate.waiting:
            gate.deliver()
        return output

    return __call__


def _unobserved(call: Original, module: nn.Module) -> Original:
    """What makes a call where nobody observes: of a part of a watched model, or on a thread of a forward or of autograd."""
    if _HELD and (parts := _parts_of(module)):
        return reduce(_inside, parts, call)
    for other in tuple(OBSERVING.values()):
        entry, phase = other.entries.get(id(module)), other.stage.phase
        if entry is not None and phase is FORWARD:
            other.observer.on_other_thread(entry)
        elif entry is not None and phase is BACKWARD and _torch.graph_task() >= 0:
            recompute = partial(other.observer.on_recompute, entry, other.original)
            return lambda _, *args, **kwargs: recompute(args, kwargs)
    return call


def _parts_of(module: nn.Module) -> list[Original]:
    found = [held.part(module) for held in tuple(_HELD) if held.root is not module]
    return [part for part in found if part is not None]


def _inside(call: Original, part: Original) -> Original:
    return partial(part, call)


_original: Original = nn.Module.__call__


def _replace_calls() -> Callable[[], None]:
    global _original
    _original = nn.Module.__call__
    return _replaced((nn.Module, "__call__", _call_of(_original)))


@contextmanager
def boundary(
    observer: Observer, stage: Stage, entries: dict[int, Entry], *, alone: bool = False
) -> Iterator[Callable[[Original], Original]]:
    """Tell ``observer`` of the additions and of the calls of the modules in ``entries``, by identity, for the body.

    That is about the thread that runs it; one on another thread is another's. Inside of another boundary both are told, unless
    this one is ``alone``: then the other sees nothing of the body.

    Yields:
        Makes of what makes a call what makes it as one that is observed.
    """
    wanted = () if observer.functions is None else (_FUNCTIONS, _Bound(entries))
    thread, shims = threading.get_ident(), (*(eager() if alone else ()), _DEEP, CALLS, _ADDITIONS, *wanted)
    outer = OBSERVING.get(thread)
    for shim in shims:
        shim.hold()
    inside = outer is not None and not alone
    here = _Observing(observer, stage, entries, _call_of(_original, outer) if inside else _original, (), alone)
    here.chain = (here, *outer.chain) if outer is not None and inside else (here,)
    stage.gate, OBSERVING[thread] = gate_here(), here
    try:
        yield lambda original: _call_of(original, replace(here, original=original))
    finally:
        if outer is None:
            del OBSERVING[thread]
        else:
            OBSERVING[thread] = outer
        here.chain = ()
        for shim in reversed(shims):
            shim.release()


# -- additions --------------------------------------------------------------------------------------------------------------

_WATCHED = ((Tensor, "__add__"), (Tensor, "__iadd__"), (Tensor, "add"), (Tensor, "add_"), (torch, "add"))
_KEYWORDS = frozenset({"input", "other", "alpha", "out"})


def _replace_additions() -> Callable[[], None]:
    """Put watching functions in place of ``+``, ``+=``, ``Tensor.add``, ``Tensor.add_`` and ``torch.add``.

    They call the originals with the very same arguments. A ``TorchFunctionMode`` would see additions too, but it would also
    slow down every other operation and be seen by the model's own modes.
    """
    return _replaced(*((owner, name, _watched(getattr(owner, name))) for owner, name in _WATCHED))


def _watched(original: Original) -> Original:
    """Tells the observers of a thread of every sum of two floating tensors in their forward passes."""
    get_ident, innermost = threading.get_ident, OBSERVING.get

    def add(*args: Any, **kwargs: Any) -> Any:
        observing = innermost(get_ident())
        # what is added up while the gate is closed is our own
        if (
            observing is None
            or observing.stage.phase is not FORWARD
            or observing.inside
            or not observing.stage.gate.open
        ):
            return original(*args, **kwargs)
        a, b = _operands(args, kwargs)
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return original(*args, **kwargs)
        if not (type(a) is Tensor is type(b)) or modes_active():
            return _unseen(observing, original, a, b, args, kwargs)
        if not _summands(a, b):
            return original(*args, **kwargs)
        gate = observing.stage.gate
        gate.open = False
        told = []
        for one in observing.chain:
            if one.stage.phase is FORWARD:
                told.append((one.observer, one.observer.before_sum(a, b)))
        same_shape = a.shape == b.shape
        gate.let()
        out = original(*args, **kwargs)
        gate.open = False
        for observer, values in told if type(out) is Tensor else ():
            observer.after_sum(values, out, same_shape)
        gate.let()
        return out

    return add


def _unseen(observing: _Observing, original: Original, a: Tensor, b: Tensor, args: Arguments, kwargs: Keywords) -> Any:
    """As above, with subclasses and modes seeing the addition itself and nothing of what is noted about it."""
    gate, told, same_shape = observing.stage.gate, [], False
    gate.open = False
    with _torch.unseen_functions():
        if _summands(a, b):
            told, same_shape = [(o.observer, o.observer.before_sum(a, b)) for o in observing.chain], a.shape == b.shape
    # what a subclass or a mode adds up to add its operands is the same sum once more
    observing.inside = True
    try:
        gate.let()
        out = original(*args, **kwargs)
    finally:
        observing.inside = False
    gate.open = False
    if told and isinstance(out, Tensor):
        with _torch.unseen_functions():
            for observer, values in told:
                observer.after_sum(values, out, same_shape)
    gate.let()
    return out


def _summands(a: Tensor, b: Tensor) -> bool:
    """Whether a sum of the two can be a residual merge; inside a functorch transform a tensor stands for a batch of them."""
    if not (a.is_floating_point() and b.is_floating_point()) or _transformed(a) or _transformed(b):
        return False
    # a nested tensor that is strided has no shape to be asked for
    return not (a.is_nested or b.is_nested) or a.layout is torch.jagged is b.layout


def _operands(args: Arguments, kwargs: Keywords) -> tuple[Any, Any]:
    """The two summands of ``add(a, b, alpha=..., out=...)``; ``(None, None)`` for other forms."""
    if len(args) == 2 and not kwargs:
        return args
    if not kwargs.keys() <= _KEYWORDS or len(args) > 2:
        return None, None
    both = (*args, *(kwargs[name] for name in ("input", "other") if name in kwargs))
    return (both[0], both[1]) if len(both) == 2 else (None, None)


_transformed = _torch.is_transformed


# -- functions that are layers ------------------------------------------------------------------------------------------------


def _replace_functions() -> Callable[[], None]:
    """Have functions that are layers tell the observers of a thread of their calls.

    A function that is written in Python gets other code and stays itself, since names elsewhere are bound to it, and what a
    subclass or mode of the user's is given to tell functions apart. What is written in C is replaced by name.
    """
    codes: list[tuple[FunctionType, CodeType, CodeType]] = []
    pairs: list[tuple[Any, str, Original]] = []
    for name, owner, attribute, original in functions():
        if isinstance(original, FunctionType):
            code, closure = original.__code__, original.__closure__
            twin = FunctionType(code, original.__globals__, name, original.__defaults__, closure)
            twin.__kwdefaults__ = original.__kwdefaults__
            # the function's closure stays, so that there must be a place for it
            codes.append((original, code, _calling(_told(twin, name)).replace(co_freevars=code.co_freevars)))
        else:
            pairs.append((owner, attribute, wraps(original)(_told(original, name))))
    for function, _, ours in codes:
        function.__code__ = ours
    put_back = _replaced(*pairs)
    for _, _, replacement in pairs:
        original = replacement.__wrapped__  # type: ignore[attr-defined]
        _REPLACED[id(original)] = _REPLACED[id(replacement)] = original, replacement

    def all_back() -> None:
        put_back()
        _REPLACED.clear()
        for function, code, ours in codes:
            if function.__code__ is ours:
                function.__code__ = code

    return all_back


_REPLACED: dict[int, tuple[Original, Original]] = {}
"""What is replaced by name while it is, with what stands in its place, by the identity of either."""
_BOUND: Counter[tuple[int, str]] = Counter()
"""How many hold each further name: of a namespace, by its identity."""


class _Bound:
    """Replaces what else is bound to a function that is written in C: ``self.act = F.gelu``, ``from torch import tanh``.

    Looked through are the attributes of modules, and the globals that the methods of their classes mention.
    """

    def __init__(self, entries: dict[int, Entry]) -> None:
        self._entries, self._held = entries, list[tuple[dict[str, Any], str, Original, Original]]()

    def hold(self) -> None:
        """Put what stands in its place everywhere."""
        spaces = [entry.module.__dict__ for entry in self._entries.values()]
        found = [
            (own, name) for own in spaces if not _REPLACED.keys().isdisjoint(map(id, own.values())) for name in own
        ]
        kinds: set[Any] = {type(entry.module) for entry in self._entries.values()}
        mentioned = [_mentioned(kind) for kind in kinds]
        for own, name in (*found, *chain.from_iterable(mentioned)):
            if (known := _REPLACED.get(id(own.get(name)))) is not None:
                _BOUND[id(own), name] += 1
                self._held.append((own, name, *known))
                own[name] = known[1]

    def release(self) -> None:
        """Put back what was there, unless others hold it."""
        for own, name, original, replacement in self._held:
            _BOUND[id(own), name] -= 1
            if not _BOUND[id(own), name] and own.get(name) is replacement:
                own[name] = original


@lru_cache(maxsize=4096)
def _mentioned(kind: type) -> list[tuple[dict[str, Any], str]]:
    """The globals that methods of a class mention; those of torch's own classes mention torch's namespaces alone."""
    functions = [f for cls in kind.__mro__ if not cls.__module__.startswith("torch.") for f in vars(cls).values()]
    return [(f.__globals__, name) for f in functions if isinstance(f, FunctionType) for name in f.__code__.co_names]


def _calling(other: Original) -> CodeType:
    """The code of a function that calls ``other``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        other: Any = "other"
        return other(*args, **kwargs)

    # a constant, since the names that a function's code knows are those of the function's module
    code = call.__code__
    return code.replace(co_consts=tuple(other if one == "other" else one for one in code.co_consts))


def _told(original: Original, name: str) -> Original:
    """Tells the observers of a thread of every call between the modules of their models."""
    get_ident, innermost = threading.get_ident, OBSERVING.get

    def function(*args: Any, **kwargs: Any) -> Any:
        observing = innermost(get_ident())
        if observing is None or observing.inside:
            return original(*args, **kwargs)
        stage = observing.stage
        phase, gate = stage.phase, stage.gate
        if not ((phase is FORWARD and gate.open) or (phase is BACKWARD and _torch.graph_task() >= 0)):
            return original(*args, **kwargs)
        layers = []
        for one in observing.chain:
            entry = one.observer.function(name) if one.stage.phase is phase else None
            if entry is not None:
                layers.append((one.observer, entry))
        signals = signals_of(name, args, kwargs) if layers else ()
        if not signals:
            return original(*args, **kwargs)
        if phase is BACKWARD:
            observer, entry = layers[0]
            return observer.on_recompute(entry, lambda _, *args, **kwargs: original(*args, **kwargs), args, kwargs)
        gate.open = False
        told = [(observer, observer.on_enter(entry, signals, {})) for observer, entry in layers]
        # what it is made of, as the softmax of an attention, is its own
        observing.inside = True
        try:
            gate.let()
            output = original(*args, **kwargs)
        except BaseException as error:
            was, gate.open = gate.open, False
            for observer, call in told:
                observer.on_error(call, error, args, kwargs)
            gate.open = was
            raise
        finally:
            observing.inside = False
        gate.open = False
        for observer, call in told:
            observer.on_exit(call, output)
        gate.let()
        return output

    return function


# -- values of parameters -----------------------------------------------------------------------------------------------------

_DATA_TOLD: list[Callable[[Tensor], None]] = []
_DATA_LOCK = threading.Lock()


@contextmanager
def data_told(told: Callable[[Tensor], None]) -> Iterator[None]:
    """Tell of every parameter before the body gets at its ``.data``, through which it writes without a version counter.

    A property of ``nn.Parameter`` stands before that of ``Tensor``, which modes and subclasses go on to see as it is.
    """
    original: Any = Tensor.data

    def get(parameter: Tensor) -> Any:
        with _torch.unseen_functions(), _torch.without_modes(), _torch.without_transforms():
            for one in tuple(_DATA_TOLD):
                one(parameter)
        return original.__get__(parameter)

    with _DATA_LOCK:
        if not _DATA_TOLD:
            nn.Parameter.data = property(get, original.__set__)  # type: ignore[assignment]
        _DATA_TOLD.append(told)
    try:
        yield
    finally:
        with _DATA_LOCK:
            _DATA_TOLD.remove(told)
            if not _DATA_TOLD:
                del nn.Parameter.data


# -- a watched loop -----------------------------------------------------------------------------------------------------------

COMPILED_CALL = "_compiled_call_impl"
"""The one attribute through which ``nn.Module.__call__`` lets an instance answer by itself; ``module.compile()`` sets it."""


def untraced(hook: Original) -> Original:
    """The hook as ``torch.compile`` leaves it alone, where a compiled function runs it (a compiled ``optimizer.step``)."""
    # making an optimizer has loaded dynamo; importing it here would take seconds for nothing
    if "torch._dynamo" not in sys.modules:
        return hook
    disable: Callable[[Original], Original] = torch.compiler.disable
    return disable(hook)


_ROOT_CALLS: list[RootCall] = []


class RootCall:
    """Has every call of a module answered by ``called``, which makes it by :attr:`original` or otherwise.

    The call is taken at ``_compiled_call_impl``. A forward pre-hook would do, but ``torch.compile`` would compile it into the
    graph, and fused paths such as that of ``nn.TransformerEncoder`` ask whether a module has hooks.
    """

    def __init__(self, module: nn.Module, called: Callable[..., Any]) -> None:
        self._module, self._called = module, called
        self._own: Any = None

    def install(self) -> None:
        """Stand in the way of the module's calls."""
        self._own = self._module.__dict__.get(COMPILED_CALL)
        self._module.__dict__[COMPILED_CALL] = self._called
        _ROOT_CALLS.append(self)

    def remove(self) -> None:
        """Leave the module as it was; where somebody has compiled it meanwhile, theirs stays."""
        if self not in _ROOT_CALLS:
            return
        _ROOT_CALLS.remove(self)
        for later in _ROOT_CALLS:
            # a watch of the same module that was started later ends later
            if later._module is self._module and later._own is self._called:
                later._own = self._own
        if self._module.__dict__.get(COMPILED_CALL) is not self._called:
            return
        if self._own is None:
            del self._module.__dict__[COMPILED_CALL]
        else:
            self._module.__dict__[COMPILED_CALL] = self._own

    def make(self, _: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Make a call as if nobody watched."""
        return self.original(*args, **kwargs)

    @property
    def original(self) -> Original:
        """What makes the call as if nobody watched."""
        own: Original = self._module._call_impl if self._own is None else self._own
        return own


class SampledStep:
    """What is held during one sampled step, and only then: ``torch.autograd.backward``, the scaler, the compiler's stance.

    Those of several watches (a generator's and a discriminator's) need not lie inside one another.

    Args:
        backward: Given the roots of a backward pass and the pass itself.
        skipped: Called when a scaler has found infinite gradients and skipped the optimizer's step.
        part: Given a module that is called from outside of all observed forwards.
        root: The module whose calls :class:`RootCall` answers, which is no part.

    Attributes:
        scaler: The ``GradScaler`` that scaled a loss in this step.
        thread: The thread of the step's forwards; backward passes on others are of others.
    """

    def __init__(
        self, backward: Callable[[list[Tensor], Run], Any], skipped: Callable[[], None], part: Part, root: nn.Module
    ) -> None:
        self.scaler: GradScaler | None = None
        self.thread: int | None = None
        self.backward, self.skipped, self.part, self.root = backward, skipped, part, root
        self._shims: tuple[_Shim, ...] = ()

    @property
    def scale(self) -> float:
        """What the loss of this step was multiplied by."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def install(self) -> None:
        """Take hold."""
        self._shims = *eager(), CALLS, _LOOP
        for shim in self._shims:
            shim.hold()
        _HELD.append(self)

    def remove(self) -> None:
        """Let go."""
        if self in _HELD:
            _HELD.remove(self)
            for shim in self._shims:
                shim.release()


_HELD: list[SampledStep] = []


def _held_here() -> list[SampledStep]:
    """Whose steps what runs on this thread belongs to."""
    here = threading.get_ident()
    return [] if traced_here() else [held for held in tuple(_HELD) if held.thread == here]


def _replace_loop() -> Callable[[], None]:
    return _replaced(
        (torch.autograd, "backward", _watched_backward(torch.autograd.backward)),
        (GradScaler, "scale", _watched_scale(GradScaler.scale)),
        (GradScaler, "update", _watched_update(GradScaler.update)),
    )


def _watched_backward(original: Original) -> Original:
    @wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        # inside another backward it is a reentrant checkpoint's
        helds = [] if _torch.graph_task() >= 0 else _held_here()
        if not helds:
            return original(tensors, *args, **kwargs)
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        run: Run = partial(original, roots, *args, **kwargs)
        for held in helds:
            run = partial(held.backward, roots, run)
        return run()

    return backward


def _watched_scale(original: Original) -> Original:
    @wraps(original)
    def scale(scaler: GradScaler, outputs: Any) -> Any:
        for held in _held_here() if scaler.is_enabled() else ():
            held.scaler = scaler
        return original(scaler, outputs)

    return scale


def _watched_update(original: Original) -> Original:
    @wraps(original)
    def update(scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
        for held in tuple(_HELD):
            # a step that was taken has let go before
            if held.scaler is scaler:
                held.scaler = None
                held.skipped()
        return original(scaler, *args, **kwargs)

    return update


CALLS = _Shim(_replace_calls)
"""Setting that attribute makes Python look through every class of modules there is, so a sampled step holds it throughout."""
_DEEP, _ADDITIONS, _LOOP, _EAGER = _Shim(_deepen), _Shim(_replace_additions), _Shim(_replace_loop), _Shim(_run_eagerly)
_FUNCTIONS = _Shim(_replace_functions)


def eager() -> tuple[_Shim, ...]:
    """What has compiled modules run eagerly; if dynamo is not loaded nothing can have been compiled."""
    return (_EAGER,) if "torch._dynamo" in sys.modules else ()

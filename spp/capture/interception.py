"""Everything that stands in torch's place while a pass runs or a loop is watched; no other file replaces anything of torch.

- Module calls: a function in place of ``nn.Module.__call__`` for the length of a pass (:func:`boundary`). It sees scripted
  modules and the order of users' hooks, knows which module raised, and leaves nothing in anybody's hook lists.
- Additions: Python functions in place of ``+``, ``+=`` and ``add``, for residual merges.
- A watched loop: the root's call always (:class:`RootCall`), torch's backward and the gradient scaler in sampled steps only
  (:class:`SampledStep`).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from spp import _torch
from spp.capture.dataflow import Value
from spp.capture.sites import Call, Entry
from spp.capture.stage import BACKWARD, IDLE, Stage, modes_active

Run = Callable[[], Any]
Original = Callable[..., Any]
Arguments = tuple[Any, ...]
Keywords = dict[str, Any]
Part = Callable[[nn.Module], Callable[[Run], Any] | None]
"""What makes a call of a module that is called from outside of all observed forwards; None where nobody wants to."""


class Observer(Protocol):
    """Who is told of what happens in a pass."""

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

    def before_sum(self, a: Tensor, b: Tensor) -> tuple[Value, Value] | None:
        """Two floating tensors are about to be added; the values they stand for."""

    def after_sum(self, values: tuple[Value, Value] | None, out: Tensor, same_shape: bool) -> None:
        """Their sum is ``out``."""


# -- module calls -----------------------------------------------------------------------------------------------------------


_Observing = tuple[Observer, Stage, dict[int, Entry], Original]
"""Who observes which calls, and what makes them."""


class _ModuleCalls:
    """The function that stands in place of ``nn.Module.__call__`` while anybody holds it there.

    Setting that attribute makes Python look through every class of modules there is, so a sampled step of a watch holds it from
    its first forward to the end of its last backward. Passes take turns under a lock; one observes at a time, and those inside
    which it runs.
    """

    def __init__(self) -> None:
        self.observing: _Observing | None = None
        self._lock, self._holders = threading.Lock(), 0
        self._original: Original = nn.Module.__call__
        self._own: Original | None = None

    def hold(self) -> None:
        """Put the function there, unless it is."""
        with self._lock:
            if not self._holders:
                self._original = nn.Module.__call__
                nn.Module.__call__ = self._own = self._made(self._original)  # type: ignore[method-assign]
            self._holders += 1

    def release(self) -> None:
        """Put back what was there, unless others hold it, or somebody has put another in its place meanwhile."""
        with self._lock:
            self._holders -= 1
            if not self._holders and nn.Module.__call__ is self._own:
                nn.Module.__call__ = self._original  # type: ignore[method-assign]

    def below(self) -> Original:
        """What a further observer's calls go on to: those that observe already, in the end the original."""
        return self._original if self.observing is None else self._made(self._original, self.observing)

    def _made(self, unobserved: Original, fixed: _Observing | None = None) -> Original:
        get_ident = threading.get_ident

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            observing = fixed or self.observing
            if observing is None:
                for held in tuple(_HELD):
                    observed = None if held.root is module else held.part(module)
                    if observed is not None:
                        return observed(partial(nn.Module.__call__, module, *args, **kwargs))
                return unobserved(module, *args, **kwargs)
            observer, stage, entries, original = observing
            phase = stage.phase
            if phase is IDLE:
                return original(module, *args, **kwargs)
            entry = entries.get(id(module))
            if phase is BACKWARD:
                # outside of any graph task it is another thread's own business
                if entry is None or _torch.graph_task() < 0:
                    return original(module, *args, **kwargs)
                return observer.on_recompute(entry, original, args, kwargs)
            if get_ident() != stage.thread:
                if entry is not None:
                    observer.on_other_thread(entry)
                return original(module, *args, **kwargs)
            if entry is None:
                observer.on_unregistered(module)
                return original(module, *args, **kwargs)
            call = observer.on_enter(entry, args, kwargs)
            try:
                output = original(module, *args, **kwargs)
            except BaseException as error:
                observer.on_error(call, error, args, kwargs)
                raise
            observer.on_exit(call, output)
            return output

        return __call__


_CALLS = _ModuleCalls()
hold_calls, release_calls = _CALLS.hold, _CALLS.release


@contextmanager
def boundary(observer: Observer, stage: Stage, entries: dict[int, Entry]) -> Iterator[None]:
    """Tell ``observer`` of the additions and of the calls of the modules in ``entries``, by identity, for the body."""
    depth, before = sys.getrecursionlimit(), _CALLS.observing
    additions = _Additions(observer, stage)
    hold_calls()
    try:
        # a frame more for each level of nesting must not be what makes a model too deep
        sys.setrecursionlimit(2 * depth)
        _CALLS.observing = observer, stage, entries, _CALLS.below()
        additions.install()
        yield
    finally:
        additions.remove()
        _CALLS.observing = before
        release_calls()
        sys.setrecursionlimit(depth)


# -- additions --------------------------------------------------------------------------------------------------------------

_WATCHED = ((Tensor, "__add__"), (Tensor, "__iadd__"), (Tensor, "add"), (Tensor, "add_"), (torch, "add"))
_KEYWORDS = frozenset({"input", "other", "alpha", "out"})


class _Additions:
    """Tells the observer of every sum of two floating tensors while ``stage`` is in the forward pass.

    The functions call the originals with the very same arguments. A ``TorchFunctionMode`` would see additions too, but it
    would also slow down every other operation and be seen by the model's own modes.
    """

    def __init__(self, observer: Observer, stage: Stage) -> None:
        self._observer, self._stage = observer, stage
        self._saved: list[tuple[Any, str, Any, bool]] = []
        self._inside = False

    def install(self) -> None:
        """Put the watching functions in place of ``+``, ``+=``, ``Tensor.add``, ``Tensor.add_`` and ``torch.add``."""
        for owner, name in _WATCHED:
            original = getattr(owner, name)
            self._saved.append((owner, name, original, name in vars(owner)))
            setattr(owner, name, self._watched(original))

    def remove(self) -> None:
        """Put the originals back; those that ``Tensor`` inherits are inherited again."""
        while self._saved:
            owner, name, original, own = self._saved.pop()
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

    def _watched(self, original: Original) -> Original:
        here, observer = self._stage.forward_here, self._observer

        def add(*args: Any, **kwargs: Any) -> Any:
            if not here() or self._inside:
                return original(*args, **kwargs)
            a, b = args if len(args) == 2 and not kwargs else _operands(args, kwargs)
            if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
                return original(*args, **kwargs)
            if not (type(a) is Tensor is type(b)) or modes_active():
                return self._unseen(original, a, b, args, kwargs)
            if not _summands(a, b):
                return original(*args, **kwargs)
            values, same_shape = observer.before_sum(a, b), a.shape == b.shape
            out = original(*args, **kwargs)
            if type(out) is Tensor:
                observer.after_sum(values, out, same_shape)
            return out

        return add

    def _unseen(self, original: Original, a: Tensor, b: Tensor, args: Arguments, kwargs: Keywords) -> Any:
        """As above, with subclasses and modes seeing the addition itself and nothing of what is noted about it."""
        with _torch.unseen_functions():
            wanted = _summands(a, b)
            values, same_shape = (self._observer.before_sum(a, b), a.shape == b.shape) if wanted else (None, False)
        # what a subclass or a mode adds up to add its operands is the same sum once more
        self._inside = True
        try:
            out = original(*args, **kwargs)
        finally:
            self._inside = False
        if wanted and isinstance(out, Tensor):
            with _torch.unseen_functions():
                self._observer.after_sum(values, out, same_shape)
        return out


def _summands(a: Tensor, b: Tensor) -> bool:
    """Whether a sum of the two can be a residual merge; inside a functorch transform a tensor stands for a batch of them."""
    if not (a.is_floating_point() and b.is_floating_point()) or _transformed(a) or _transformed(b):
        return False
    # a nested tensor that is strided has no shape to be asked for
    return not (a.is_nested or b.is_nested) or a.layout is torch.jagged is b.layout


def _operands(args: Arguments, kwargs: Keywords) -> tuple[Any, Any]:
    """The two summands of ``add(a, b, alpha=..., out=...)``; ``(None, None)`` for other forms."""
    if not kwargs.keys() <= _KEYWORDS or len(args) > 2:
        return None, None
    both = (*args, *(kwargs[name] for name in ("input", "other") if name in kwargs))
    return (both[0], both[1]) if len(both) == 2 else (None, None)


_transformed = _torch.is_transformed


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

    def remove(self) -> None:
        """Leave the module as it was; where somebody has compiled it meanwhile, theirs stays."""
        if self._module.__dict__.get(COMPILED_CALL) is not self._called:
            return
        if self._own is None:
            del self._module.__dict__[COMPILED_CALL]
        else:
            self._module.__dict__[COMPILED_CALL] = self._own

    @property
    def original(self) -> Original:
        """What makes the call as if nobody watched."""
        own: Original = self._module._call_impl if self._own is None else self._own
        return own


class SampledStep:
    """What is held during one sampled step, and only then: ``torch.autograd.backward``, the scaler, the compiler's stance.

    The functions of torch are replaced when the first of several watches takes hold and put back when the last lets go,
    since the sampled steps of two watches (a generator's and a discriminator's) need not lie inside one another.

    Args:
        backward: Given the roots of a backward pass and the pass itself.
        skipped: Called when a scaler has found infinite gradients and skipped the optimizer's step.
        part: Given a module that is called from outside of all observed forwards.
        root: The module whose calls :class:`RootCall` answers, which is no part.

    Attributes:
        scaler: The ``GradScaler`` that scaled a loss in this step.
    """

    def __init__(
        self, backward: Callable[[list[Tensor], Run], Any], skipped: Callable[[], None], part: Part, root: nn.Module
    ) -> None:
        self.scaler: GradScaler | None = None
        self.backward, self.skipped, self.part, self.root = backward, skipped, part, root

    @property
    def scale(self) -> float:
        """What the loss of this step was multiplied by."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def install(self) -> None:
        """Take hold."""
        if not _HELD:
            _take_hold()
        _HELD.append(self)

    def remove(self) -> None:
        """Let go."""
        if self in _HELD:
            _HELD.remove(self)
            if not _HELD:
                _LETTING_GO.close()


_HELD: list[SampledStep] = []
_LETTING_GO = ExitStack()


def eager(stack: ExitStack) -> None:
    """Run compiled modules eagerly until ``stack`` closes: one that is compiled and warm ignores what is added later."""
    # if dynamo is not loaded nothing can have been compiled
    if "torch._dynamo" in sys.modules:
        stack.enter_context(torch.compiler.set_stance("force_eager"))


def _take_hold() -> None:
    eager(_LETTING_GO)
    hold_calls()
    _LETTING_GO.callback(release_calls)
    for owner, name, replacement in (
        (torch.autograd, "backward", _watched_backward(torch.autograd.backward)),
        (GradScaler, "scale", _watched_scale(GradScaler.scale)),
        (GradScaler, "update", _watched_update(GradScaler.update)),
    ):
        _LETTING_GO.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, replacement)


def _watched_backward(original: Original) -> Original:
    @wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        # inside another backward it is a reentrant checkpoint's
        if _torch.graph_task() >= 0:
            return original(tensors, *args, **kwargs)
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        run: Run = partial(original, roots, *args, **kwargs)
        for held in list(_HELD):
            run = partial(held.backward, roots, run)
        return run()

    return backward


def _watched_scale(original: Original) -> Original:
    @wraps(original)
    def scale(scaler: GradScaler, outputs: Any) -> Any:
        if scaler.is_enabled():
            for held in _HELD:
                held.scaler = scaler
        return original(scaler, outputs)

    return scale


def _watched_update(original: Original) -> Original:
    @wraps(original)
    def update(scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
        for held in list(_HELD):
            # a step that was taken has let go before
            if held.scaler is scaler:
                held.scaler = None
                held.skipped()
        return original(scaler, *args, **kwargs)

    return update

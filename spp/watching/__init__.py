"""``spp.watch``: the frame of a trace over the steps of your own training loop, which stays as it is.

::

    with spp.watch(model, optimizer, every=100) as watch:
        train(model, optimizer)
    watch.frame
    watch.plot()
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from spp.capture.sites import ChannelAxis, Selection, roster
from spp.capture.stage import Held
from spp.errors import InputError, SppWarning, said
from spp.frame.runs import WATCH, RunWriter
from spp.run import Run, describe_model, no_channels, no_exponents, no_inputs
from spp.vocabulary import ALL, Signal, chosen
from spp.watching.collect import Collector, Keeper, Listener
from spp.watching.distributed import Ranks
from spp.watching.loop import Every as Every
from spp.watching.loop import Loop, Schedule, schedule_of
from spp.watching.sample import Settings, rate_of, trained

if TYPE_CHECKING:
    from spp.plot import SignalPlot


class Watch(Run):
    """A training run being watched: a :class:`spp.Run` that grows, and a context manager around the loop.

    Made by :func:`spp.watch`.
    """

    def __init__(self, loop: Loop, collector: Collector, info: dict[str, Any], start: int | None) -> None:
        self.info = info
        self._loop, self._collector, self._keeper, self._first = loop, collector, collector.keeper, start
        self._started = self._closed = False

    # -- the loop around it -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Watch:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # a context that is to be left, and whose end a signal cuts short at this very line, is left to close()
        try:
            with Held():
                self._close(clean=kind is None)
        finally:
            # a signal that came before the first could hold it has left everything to do
            with Held():
                self._close(clean=False)

    def start(self) -> Watch:
        """Begin to watch, where no ``with`` can stand around the loop; :meth:`close` ends it.

        Raises:
            StoreError: The run cannot be written to its folder, or somebody else is writing there.
        """
        if self._started:
            raise InputError(
                "a watch is started once", received="a second start", where="watch", remedy="Make a new one"
            )
        try:
            with Held():
                begun = self._collector.open(self.info, self._first)
                self._started = True
                self._loop.attach(begun)
            return self
        except BaseException:
            # nobody leaves a context whose beginning has raised, be it a signal that has waited
            with Held():
                self._close(clean=False)
            raise

    def close(self) -> None:
        """End the watching; model and optimizer are left as they were, and what was measured stays.

        Where several processes train, every rank closes its watch.
        """
        with Held():
            self._close(clean=True)

    def _close(self, clean: bool) -> None:
        if self._closed or not self._started:
            return
        self._closed = True
        self._loop.detach(clean)
        try:
            self._collector.close(self.info, self._loop.step, clean)
        except Exception as error:
            give_up(error)
        reason = self._loop.silence() if clean else None
        # a session that goes on with a run may be shorter than the distance of two samples
        if reason is not None and not (self._loop.forwards and len(self.frame)):
            warnings.warn(reason, SppWarning, stacklevel=3)

    @property
    def step(self) -> int:
        """The number of the step that is going on."""
        return self._loop.step

    def measure(self) -> None:
        """Sample the next step, whatever the schedule says; on every rank where there are several."""
        self._loop.measure()

    def pause(self) -> None:
        """Sample nothing until :meth:`resume`; steps are counted on."""
        self._loop.pause()

    def resume(self) -> None:
        """Sample again, from the next step that is due."""
        self._loop.resume()

    def listen(self, listener: Listener) -> None:
        """Have ``listener`` called with the rows of each sample as it is taken, its frame and its blocks.

        Cheaper than to look at :attr:`frame` again and again, which is read back from disk where there is a ``path``. A
        listener that raises ends the watching with a warning; the training goes on.
        """
        self._keeper.listeners.append(listener)

    def flush(self) -> None:
        """Write what was measured so far, where there is a ``path``.

        Raises:
            StoreError: It cannot be written; nothing is lost, and the next flush tries again.
        """
        self._keeper.flush(self._loop.step)

    # -- what was measured so far -----------------------------------------------------------------------------------------

    def _table(self, name: str) -> pd.DataFrame:
        """Tables grow: what was measured since the last look is in them."""
        if name in ("frame", "blocks", "steps"):
            return self._keeper.table(name)
        if name in ("modules", "unmeasured"):
            table: pd.DataFrame = getattr(self._keeper, name)
            return table
        return {"exponents": no_exponents, "channels": no_channels, "inputs": no_inputs}[name]()

    def _derived(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return make()

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a watch is bound to its training loop; save it, and pickle what spp.load gives back")

    def plot(self, kind: str | None = "evolution", **options: Any) -> SignalPlot:
        """Draw the run; ``kind`` and ``options`` as for :func:`spp.plot.signal_plot`."""
        return super().plot(kind, **options)

    def save(self, folder: str | Path, *, overwrite: bool = False, csv: bool = False) -> Path:
        """Write a run folder that :func:`spp.load` gives back; a watch with ``path=`` writes as it goes."""
        return super().save(folder, overwrite=overwrite, csv=csv)


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    *,
    every: Every = 100,
    schedule: Schedule | None = None,
    signals: Iterable[Signal | str] = ALL,
    include: Selection = None,
    exclude: Selection = None,
    channel_axis: ChannelAxis = None,
    functions: bool = True,
    start: int | None = None,
    path: str | Path | None = None,
    flush: float = 10.0,
    resume: bool = False,
    overwrite: bool = False,
    process_group: Any = None,
) -> Watch:
    """Watch a training loop of your own: the frame of :func:`spp.trace` at some of its steps, the training undisturbed.

    With an optimizer a step is an optimizer step. What leads up to it is merged exactly, so that the micro-batches of an
    accumulation are one batch; gradients are those the optimizer is about to use, clipped where you clip them, the scale
    of a ``torch.amp.GradScaler`` divided out; ``weight`` rows are about the weights before the step and carry the
    ``update_ratio``. Without one a step is a forward of the model in train mode, and ``.grad`` is read as it stands
    after its backward.

    Args:
        model: The module that the loop calls. ``DistributedDataParallel`` and what ``torch.compile`` returns are looked
            through: rows have the names of the network inside. Compiled models run their sampled steps eagerly.
        optimizer: Whose steps are the steps. One that is wrapped (SAM, accelerate) is found inside. Of several in a list a
            step is the last one's, and the gradients of each are read before its own.
        every: Every so many steps, beginning with the first; a list of steps; or ``"log"``, ten in each factor of ten.
        schedule: ``step -> bool``, in place of ``every``.
        signals: Which of ``activation``, ``gradient``, ``weight``, ``weight_gradient`` to measure.
        include: Glob patterns over qualified names, module classes, or predicates ``(name, module) -> bool``.
        exclude: The same, for modules to leave out.
        channel_axis: Overrides the channel axis of activations and gradients: an int, or a callable of module and tensor.
        functions: Measure functions that are layers too, as :func:`spp.trace` does.
        start: Number of the first step, where training is taken up again. Left out it is 0, or with ``resume`` the step
            after the last one that is in the run; where an earlier session had gone further, its rows from ``start`` on
            are replaced.
        path: A folder to write to as the run goes; :func:`spp.load` reads it, also meanwhile.
        flush: Seconds that rows wait in memory before they are written, at the next step; 0 writes each at once. They are also
            written when the process ends without :meth:`Watch.close`, by an exception, ``sys.exit``, SIGTERM or SIGHUP.
        resume: Continue the run in ``path``, if there is one.
        overwrite: Replace the run in ``path``, if there is one.
        process_group: The processes of ``torch.distributed`` that train on parts of one batch; all of them when left
            out. Each makes the same watch; what they measure is merged exactly, and the first of them has the rows and
            writes.

    Returns:
        The watch, to be entered as a context manager. Evaluations (forwards in eval mode) have rows of their own, told
        apart by the ``mode`` column: the first batch of the first evaluation since each sampled step began.

    Raises:
        InputError: An argument is not what was asked for.
        StoreError: ``path`` is a file, holds something else, or a run that neither ``resume`` nor ``overwrite`` was said
            of. Once the loop runs nothing is raised: a failure of the measuring, or a full disk, ends the watching with
            a warning, and the training goes on.
    """
    wanted = chosen(signals)
    root = network_inside(model)
    given = optimizers_of(optimizer)
    due = schedule_of(every, schedule)
    if start is not None and (not isinstance(start, int) or isinstance(start, bool) or start < 0):
        raise InputError("start is the number of the first step", received=repr(start), where="start")
    roster(root, include, exclude)  # a wrong selector is an error now, not in the middle of the night
    if resume and overwrite:
        raise InputError("a run is continued or replaced", received="resume=True and overwrite=True", where="path")
    if not flush >= 0:
        raise InputError("flush is a number of seconds, 0 or more", received=repr(flush), where="flush")
    ranks = Ranks(process_group)

    def keeper(first: bool) -> Keeper:
        to = RunWriter(path, resume=resume, overwrite=overwrite) if first and path is not None else None
        return Keeper(to, flush)

    collector = Collector(keeper, ranks, give_up)
    settings = Settings(root, wanted, include, exclude, channel_axis, functions, ranks.size)
    loop = Loop(model, given, due, settings, collector, give_up)
    info = {
        "kind": WATCH,
        **describe_model(root),
        "optimizer": " + ".join(type(one).__name__ for one in given) or None,
        **describe_optimizers(given, root),
        "dropped": max(map(_dropped, root.modules())),
        "every": every if isinstance(every, int | str) else sorted(every),
        "signals": [str(s) for s in ALL if s in wanted],
        "ranks": ranks.size,
    }
    return Watch(loop, collector, info, start)


def give_up(error: Exception) -> None:
    """Say that the watching has ended."""
    warnings.warn(f"the watching has ended, the training goes on: {said(error)}", SppWarning, stacklevel=4)


def network_inside(model: object) -> nn.Module:
    """The network inside what the loop calls."""
    if not isinstance(model, nn.Module):
        raise InputError("a model is a torch.nn.Module", received=f"a {type(model).__name__}", where="model")
    root = model
    while True:
        if isinstance(root, DistributedDataParallel):
            root = root.module
        # the children of a scripted module are no dictionary, but can be asked for
        elif "_orig_mod" in root._modules:
            root = root._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return root


def optimizers_of(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The optimizers themselves."""
    if optimizer is None:
        return []
    if isinstance(optimizer, list | tuple) and optimizer:
        return [one for several in optimizer for one in optimizers_of(several)]
    while (inner := _inner(optimizer)) is not None:
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            "an optimizer is a torch.optim.Optimizer",
            received=f"a {type(optimizer).__name__}",
            where="optimizer",
            remedy="Several are given as a list",
        )
    return [optimizer]


def describe_optimizers(given: Sequence[torch.optim.Optimizer], root: nn.Module) -> dict[str, Any]:
    """What the optimizers were set to when the watch was made, and which parameters none of them has.

    Returns:
        ``optimizers``: of each its type, how many of its parameters are not the model's (``foreign``), and of each group the
        number of parameters, the rate, the weight decay, an ``eps`` and whether it maximizes; ``not_optimized``: names of
        trainable parameters that are in none.
    """
    named = list(root.named_parameters(remove_duplicate=False))
    own, held = {id(p) for _, p in named}, {i for one in given for i in trained(one)}
    if given and not own & held:
        warnings.warn(
            f"{' + '.join(type(one).__name__ for one in given)} has none of the parameters of the model that is watched, "
            "which will not learn; pass the optimizer of this model, made after it was moved, sharded or replaced",
            SppWarning,
            stacklevel=3,
        )
    optimizers = [
        {
            "type": type(one).__name__,
            "foreign": len(trained(one) - own),
            "groups": [
                {
                    "parameters": len(group["params"]),
                    "lr": rate_of(group),
                    "weight_decay": float(group.get("weight_decay") or 0.0),
                    "maximize": bool(group.get("maximize")),
                    **({"eps": float(eps)} if isinstance(eps := group.get("eps"), int | float) else {}),
                    # AdamW takes it from the weight itself, Adam and SGD add it to the gradient
                    "decoupled": bool(group.get("decoupled_weight_decay", type(one).__name__.endswith("W"))),
                }
                for group in one.param_groups
            ],
        }
        for one in given
    ]
    # without an optimizer nobody knows what has them
    lacking = [name for name, p in named if p.requires_grad and id(p) not in held] if given else []
    return {"optimizers": optimizers, "not_optimized": lacking}


def _dropped(module: nn.Module) -> float:
    """The share that a dropout drops in train mode; 0 of other modules."""
    rate = getattr(module, "p", None) if isinstance(module, _DropoutNd) else None
    return float(rate) if isinstance(rate, int | float) else 0.0


def _inner(optimizer: Any) -> torch.optim.Optimizer | None:
    """The optimizer that a wrapper steps: accelerate's, SAM's, whose own step may never be called."""
    if isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        return inner
    if type(optimizer).__module__.startswith("torch.") or not hasattr(optimizer, "param_groups"):
        return None
    found = [one for one in vars(optimizer).values() if isinstance(one, torch.optim.Optimizer)]
    if len(found) != 1 or found[0] is optimizer:
        return None
    # one that trains a part only (a shard, a further group) is not the whole of the step
    return found[0] if trained(optimizer) <= trained(found[0]) else None

"""Which calls of somebody else's training loop belong to which step, and which steps are sampled.

On a step that is not sampled, all that runs of this is one function around the root's call and one hook after the
optimizer's step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from spp import _torch
from spp.capture.interception import RootCall, untraced
from spp.capture.state import patient_collector
from spp.errors import InputError
from spp.watching.collect import Collector
from spp.watching.sample import Finished, Sample, Settings, evaluation

Every = int | str | Iterable[int]
Schedule = Callable[[int], bool]

PER_DECADE = 10
"""Steps in each factor of ten of the logarithmic schedule."""


class Loop:
    """Counts steps, opens a :class:`Sample` where one is due, and hands on what it gave.

    With an optimizer, step ``k`` is everything between the ends of its steps ``k - 1`` and ``k``; without one it is the
    ``k``-th forward of the root in train mode, and whatever backward follows it before the next.

    Args:
        called: The module whose calls are seen: the root, or what wraps it (DistributedDataParallel, ``torch.compile``).
        optimizer: Its steps are the steps; None counts forwards.
        due: Whether a step is sampled.
        settings: What to measure.
        collector: Given what each sampled step and each sampled evaluation gave.
        give_up: Told what went wrong in the measuring; nothing that is measured may break the training.

    Attributes:
        step: The step that is going on.
        forwards: How many forwards of the root were seen.
    """

    def __init__(
        self,
        called: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        due: Schedule,
        settings: Settings,
        collector: Collector,
        give_up: Callable[[Exception], None],
    ) -> None:
        self.step, self.forwards = 0, 0
        self._called_module, self._optimizer, self._due = called, optimizer, due
        self._settings, self._collector, self._give_up = settings, collector, give_up
        self._root = settings.root
        self._call = RootCall(called, self._called)
        self._sample: Sample | None = None
        self._inside = self._paused = self._forced = self._evaluation_due = self._attached = False
        self._seen = self._failed = self._owes = False
        self._handles: list[Any] = []
        self._before: Any = None

    # -- from outside -----------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Begin to count."""
        self._attached = True
        self._call.install()
        if self._optimizer is not None:
            self._handles.append(self._optimizer.register_step_post_hook(untraced(self._after_step)))
            self._safely(self._open_if_due)

    def detach(self, clean: bool = True) -> None:
        """Stop; leave model and optimizer as they were.

        Args:
            clean: Whether the loop has come to its end, on every rank.
        """
        if not self._attached:
            return
        if self._optimizer is None and self._sample is not None and (clean or not self._collector.waited_for):
            self._safely(self._end_forward)
        self._drop()
        self._attached = False
        self._call.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def measure(self) -> None:
        """Sample the next step, or the one that is going on where nothing of it has run yet."""
        self._forced = True
        self._begin_late()

    def pause(self) -> None:
        """Sample nothing more; a step that is being sampled is left out."""
        self._paused = True
        self._drop()

    def resume(self) -> None:
        """Sample again, from the next step that is due, or the one that is going on where nothing of it has run yet."""
        self._paused = False
        self._begin_late()

    def _begin_late(self) -> None:
        if self._optimizer is not None and self._sample is None and not self._seen:
            self._safely(self._open_if_due)

    # -- the root's calls -------------------------------------------------------------------------------------------------

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        # a call inside a backward pass is a checkpoint's recomputation
        if self._inside or _torch.graph_task() >= 0:
            return self._call.original(*args, **kwargs)
        self.forwards += 1
        training = self._root.training
        if self._optimizer is None and training:
            self._safely(self._next_forward)
        sample = self._sample
        if not training and (self._optimizer is None or sample is None or not torch.is_grad_enabled()):
            if self._evaluation_due and not self._paused and not self._failed:
                return self._evaluated(lambda: nn.Module.__call__(self._called_module, *args, **kwargs))
            return self._call.original(*args, **kwargs)
        self._seen = True
        if sample is not None and not sample.gathered:
            self._safely(sample.prepare)
            sample = self._sample
        if sample is None or sample.gathered:
            return self._call.original(*args, **kwargs)
        self._inside = True
        try:
            # looked up when it is called: by then the observing function stands there
            output = sample.forward(lambda: nn.Module.__call__(self._called_module, *args, **kwargs))
        finally:
            self._inside = False
        if sample.failed is not None:
            self._stop(sample.failed)
        return output

    def _evaluated(self, run: Callable[[], Any]) -> Any:
        self._evaluation_due = False
        self._inside = True
        try:
            output, found = evaluation(self._settings, self.step, run)
        finally:
            self._inside = False
        if isinstance(found, Exception):
            self._stop(found)
        elif found is not None:
            self._safely(lambda: self._hand_on(found))
        return output

    def _next_forward(self) -> None:
        if self._owes:
            self._pay()
        if self._sample is not None:
            self._end_forward()
        elif self._seen:
            self.step += 1
        self._open_if_due()

    def _end_forward(self) -> None:
        sample = self._sample
        assert sample is not None
        sample.gather()
        self._finish(sample)
        self.step += 1

    # -- the optimizer's steps --------------------------------------------------------------------------------------------

    def _before_step(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gather before the weights change: now, or where a closure is yet to compute the gradients, after its first call."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._safely(self._gather)
            return None

        def gathering() -> Any:
            result = closure()
            self._safely(self._gather)
            return result

        if "closure" in kwargs:
            return args, {**kwargs, "closure": gathering}
        return (args[0], gathering, *args[2:]), kwargs

    def _gather(self) -> None:
        if self._sample is not None:
            self._sample.gather()
            if self._sample.failed is not None:
                raise self._sample.failed

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._sample is not None:
            with patient_collector():
                self._safely(self._end_step)
        if self._owes:
            self._safely(self._pay)
        self.step += 1
        self._seen = False
        self._safely(self._open_if_due)

    def _end_step(self) -> None:
        sample = self._sample
        assert sample is not None
        if sample.gathered:
            self._finish(sample)
        else:
            self._drop()
            self._hand_on(None)

    # -- samples ----------------------------------------------------------------------------------------------------------

    def _open_if_due(self) -> None:
        if self._attached and not self._paused and (self._forced or self._due(self.step)):
            self._forced, self._evaluation_due = False, True
            if self._failed:
                self._owes = True
                return
            self._sample = Sample(self._settings, self.step, self._optimizer)
            self._sample.open()
            if self._optimizer is not None:
                self._before = self._optimizer.register_step_pre_hook(untraced(self._before_step))

    def _finish(self, sample: Sample) -> None:
        finished = sample.finish()
        self._drop()
        self._hand_on(finished)

    def _hand_on(self, finished: Finished | None) -> None:
        """Give on what a step gave; where ranks exchange what they measured, stop when one of them cannot."""
        if self._collector.add(finished, self._failed):
            told = self._failed
            self.detach(clean=False)
            if not told:
                self._give_up(RuntimeError("the measuring has failed on another rank"))

    def _pay(self) -> None:
        """Take part in an exchange with nothing to give."""
        self._owes = False
        self._hand_on(None)

    def _drop(self) -> None:
        if self._sample is not None:
            self._sample.close()
            self._sample = None
        if self._before is not None:
            self._before.remove()
            self._before = None

    def _safely(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        """Measure no more; where other ranks would wait, only once they know."""
        if self._failed:
            return
        if self._collector.waited_for and self._attached:
            self._failed, self._owes = True, self._sample is not None
            self._drop()
        else:
            self._drop()
            self.detach(clean=False)
        self._give_up(error)


def schedule_of(every: Every, schedule: Schedule | None = None) -> Schedule:
    """Whether a step, counted from 0, is sampled.

    Args:
        every: Every so many steps, beginning with step 0; a list of steps; or ``"log"``: step 0 and then ten steps in each
            factor of ten, evenly spaced on a logarithmic axis (1, 2, ..., 8, 10, 13, 16, 20, 25, 32, 40, ...).
        schedule: ``step -> bool``, in place of ``every``.

    Raises:
        InputError: ``every`` is none of these.
    """
    if schedule is not None:
        if not callable(schedule):
            raise InputError("a schedule is a callable step -> bool", received=repr(schedule), where="schedule")
        return schedule
    if every == "log":
        return _logarithmic
    if isinstance(every, int) and not isinstance(every, bool):
        if every < 1:
            raise _wrong(every)
        return lambda step: step % every == 0
    if isinstance(every, str | bool) or not isinstance(every, Iterable):
        raise _wrong(every)
    steps = list(every)
    if not steps or not all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in steps):
        raise _wrong(steps)
    return frozenset(steps).__contains__


def _logarithmic(step: int) -> bool:
    """Whether ``step`` is 0 or ``round(10 ** (k / 10))`` for some whole k."""
    if step < 2:
        return step >= 0
    digits = len(str(step)) - 1
    return any(round(10 ** (k / PER_DECADE)) == step for k in range(PER_DECADE * digits, PER_DECADE * (digits + 1) + 1))


def _wrong(every: object) -> InputError:
    return InputError(
        "every is a positive number of steps, a list of steps, or 'log'", received=repr(every), where="every"
    )

"""Which calls of somebody else's training loop belong to which step, and which steps are sampled.

On a step that is not sampled, all that runs of this is one function around the root's call and one hook after the
optimizer's step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from spp import _torch
from spp.capture.interception import OBSERVING, Arguments, Keywords, Original, RootCall, traced_here, untraced
from spp.capture.recorder import MODES
from spp.capture.stage import Held, Window
from spp.capture.state import patient_collector
from spp.errors import InputError
from spp.watching.collect import Begun, Collector
from spp.watching.sample import Evaluation, Finished, Sample, Settings

Every = int | str | Iterable[int]
Schedule = Callable[[int], bool]

PER_DECADE = 10
"""Steps in each factor of ten of the logarithmic schedule."""


class Loop:
    """Counts steps, opens a :class:`Sample` where one is due, and hands on what it gave.

    With optimizers, step ``k`` is everything between the ends of the last one's steps ``k - 1`` and ``k``; without any it is
    the ``k``-th forward of the root in train mode, and whatever backward follows it before the next.

    Args:
        called: The module whose calls are seen: the root, or what wraps it (DistributedDataParallel, ``torch.compile``).
        optimizers: The steps of the last one are the steps; without any, forwards are.
        due: Whether a step is sampled.
        settings: What to measure.
        collector: Given what each sampled step and each sampled evaluation gave.
        give_up: Told what went wrong in the measuring; nothing that is measured may break the training.

    Attributes:
        step: The step that is going on.
        forwards: How many forwards of the root, or of outermost parts of it in sampled steps, were seen.
        started: Number of the first step.
        measured: How many steps and evaluations have rows.
    """

    def __init__(
        self,
        called: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        due: Schedule,
        settings: Settings,
        collector: Collector,
        give_up: Callable[[Exception], None],
    ) -> None:
        self.step = self.forwards = self.started = self.measured = 0
        self._called_module, self._optimizers, self._due = called, optimizers, due
        self._settings, self._collector, self._give_up = settings, collector, give_up
        self._root = settings.root
        self._call = RootCall(called, self._called)
        self._sample: Sample | None = None
        self._evaluation: Evaluation | None = None
        # whether forwards in eval mode are trained on (a frozen BatchNorm); None until something was trained on
        self._trains_in_eval: bool | None = None
        self._sampled = self._evaluated_at = -1
        self._thread = threading.current_thread()
        self._inside = self._paused = self._forced = self._evaluation_due = self._attached = False
        self._seen = self._failed = self._owes = self._described = False
        self._handles: list[Any] = []
        self._before: list[Any] = []

    # -- from outside -----------------------------------------------------------------------------------------------------

    def attach(self, begun: Begun) -> None:
        """Begin to count."""
        self._attached, self.step, self.started = True, begun.step, begun.step
        # of the last sampled step of an earlier session there may be no evaluation yet
        self._evaluated_at, self._evaluation_due = begun.evaluated, begun.evaluated < begun.sampled
        self._call.install()
        if self._optimizers:
            self._handles.append(self._optimizers[-1].register_step_post_hook(untraced(self._after_step)))
            self._safely(self._open_if_due)
        else:
            self._evaluation_due |= self._due(self.step)

    def detach(self, clean: bool = True) -> None:
        """Stop; leave model and optimizer as they were.

        Args:
            clean: Whether the loop has come to its end, on every rank.
        """
        if not self._attached:
            return
        with Held():
            if not self._optimizers and self._sample is not None and (clean or not self._collector.waited_for):
                self._safely(self._end_forward)
            self._safely(self._end_evaluation)
            self._drop()
            self._attached = False
            self._call.remove()
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    def silence(self) -> str | None:
        """Why there are no rows, or none but those of weights; None where there are."""
        steps = self.step - self.started
        if self._failed:
            return None
        if self._optimizers and not steps and not self.measured:
            # a wrapper's own step may go past its hooks, or the loop steps another one
            name, seen = type(self._optimizers[-1]).__name__, self.forwards or "no"
            return (
                f"{name} took no step while it was watched ({seen} forwards of the model were seen);"
                " give spp.watch the optimizer that the loop steps (of several a list, the last to step at its end) or none"
            )
        if not self.forwards:
            parts = "" if self._optimizers else "; where it calls parts of the model only, give the optimizer too"
            return (
                "no forward of the model was seen while it was watched; pass to spp.watch the module that the loop calls"
                + parts
            )
        if self.measured:
            return None
        if self._paused:
            return "the watch was paused, and nothing was measured"
        if 0 <= self._sampled < self.step:
            return "nothing was measured: the steps that were sampled were skipped, or did not come to their end"
        if not steps and not self._seen:
            return "nothing was measured: all forwards were in eval mode, which have rows of activations at steps that are due"
        last = max(self.step - bool(self._optimizers), self.started)
        return f"nothing was measured: none of the steps {self.started} to {last} was due, see every and schedule"

    def measure(self) -> None:
        """Sample the next step, or the one that is going on where nothing of it has run yet."""
        self._forced = True
        self._begin_late()

    def pause(self) -> None:
        """Sample nothing more; a step that is being sampled is left out."""
        with Held():
            self._paused = True
            self._drop()

    def resume(self) -> None:
        """Sample again, from the next step that is due, or the one that is going on where nothing of it has run yet."""
        self._paused = False
        self._begin_late()

    def _begin_late(self) -> None:
        if self._optimizers and self._sample is None and not self._seen:
            self._safely(self._open_if_due)

    # -- the root's calls -------------------------------------------------------------------------------------------------

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        # a call inside a backward pass is a checkpoint's recomputation; what a trace does is no part of the loop
        if self._inside or _torch.graph_task() >= 0 or (OBSERVING and traced_here()):
            return self._call.original(*args, **kwargs)
        if not self._looks():
            self.forwards += 1
            return self._call.original(*args, **kwargs)
        sample, evaluates = self._place()
        if self._sample is None and not evaluates:
            return self._call.original(*args, **kwargs)
        with Held():
            # while a sample is open, what is called inside of a forward that is none of its own is no part that opens a pass
            self._inside = True
            try:
                if evaluates:
                    return self._evaluated(args, kwargs)
                if sample is None:
                    with Window():
                        return self._call.original(*args, **kwargs)
                output = sample.forward(self._call.make, self._called_module, args, kwargs)
            finally:
                self._inside = False
            if sample.failed is not None:
                self._stop(sample.failed)
            return output

    def _looks(self) -> bool:
        """Whether a call of the root may be one to measure, or the end of something; most are neither."""
        if self._sample is None and self._evaluation is None and self._optimizers:
            if self._root.training or (self._trains_in_eval and torch.is_grad_enabled()):
                self._seen = True
                return False
            if not self._evaluation_due:
                return False
        # one on another thread is somebody else's, unless it is the first of a step
        here = threading.current_thread()
        if here is not self._thread and torch.is_grad_enabled() and (self._sample is None or not self._sample.begun):
            self._thread = here
        return here is self._thread

    def _place(self) -> tuple[Sample | None, bool]:
        """Where a call of the root belongs: the sample that observes it, if any, and whether it is an evaluation to measure."""
        self.forwards += 1
        self._safely(self._end_evaluation)
        grad = torch.is_grad_enabled()
        training = self._root.training or bool(self._trains_in_eval and grad)
        if not self._optimizers and training:
            self._safely(self._next_forward)
        if not training and (not self._optimizers or self._sample is None or not grad):
            return None, self._evaluation_due and not self._paused and not self._failed
        self._seen = True
        if self._sample is not None and not self._sample.gathered:
            self._safely(self._sample.prepare)
        # which may have ended the watching
        sample = self._sample
        return None if sample is None or sample.gathered else sample, False

    def _part_called(self, module: nn.Module) -> Original | None:
        """What makes a call from outside of all observed forwards, if the module is a part of the model in a sampled step."""
        sample = self._sample
        if sample is None or sample.gathered or self._inside or not self._optimizers:
            return None
        here = threading.current_thread()
        # what no gradient can arrive at is no part of a step: a rollout, a target
        if not torch.is_grad_enabled() or _torch.graph_task() >= 0 or (sample.begun and here is not self._thread):
            return None
        self._safely(sample.prepare)
        if self._sample is not sample or not sample.holds(module):
            return None
        self._thread = here
        return partial(self._part, sample)

    def _part(self, sample: Sample, call: Original, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.forwards += 1
        with Held():
            self._inside = self._seen = True
            try:
                output = sample.forward(call, module, args, kwargs, part=True)
            finally:
                self._inside = False
            if sample.failed is not None:
                self._stop(sample.failed)
            return output

    def _evaluated(self, args: Arguments, kwargs: Keywords) -> Any:
        self._evaluation_due, self._evaluation = False, Evaluation(self._settings, self.step)
        output = self._evaluation.forward(self._call.make, self._called_module, args, kwargs)
        if not torch.is_grad_enabled():
            self._safely(self._end_evaluation)
        return output

    def _end_evaluation(self) -> None:
        """Hand on the last evaluation, by now known to be one: no backward of it has followed."""
        evaluation, self._evaluation = self._evaluation, None
        if evaluation is None:
            return
        finished = evaluation.finish()
        if evaluation.followed:
            self._evaluation_due = True
            if self._trains_in_eval is None:
                self._trains_in_eval = True
                if not self._optimizers:
                    # it was a step, and too late to sample it: the next one stands in for it
                    self._seen, self._forced = True, self._due(self.step)
        elif finished is not None:
            self._evaluated_at = self.step
            self._hand_on(finished)

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

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gather before the weights change: now, or where a closure is yet to compute the gradients, after its first call."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._safely(partial(self._gather, optimizer))
            return None

        def gathering() -> Any:
            result = closure()
            self._safely(partial(self._gather, optimizer))
            return result

        if "closure" in kwargs:
            return args, {**kwargs, "closure": gathering}
        return (args[0], gathering, *args[2:]), kwargs

    def _gather(self, optimizer: torch.optim.Optimizer) -> None:
        with Held():
            if self._sample is not None:
                self._sample.before_step(optimizer)
                if self._sample.failed is not None:
                    raise self._sample.failed

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._sample is None and self._evaluation is None and not self._owes:
            self._next_step()
            return
        with Held():
            if self._sample is not None:
                with patient_collector():
                    self._safely(partial(self._finish, self._sample) if self._sample.gathered else self._drop_step)
            if self._owes:
                self._safely(self._pay)
            self._safely(self._end_evaluation)
            self._next_step()

    def _next_step(self) -> None:
        self.step += 1
        self._seen = False
        self._safely(self._open_if_due)

    def _drop_step(self) -> None:
        self._drop()
        self._hand_on(None)

    # -- samples ----------------------------------------------------------------------------------------------------------

    def _open_if_due(self) -> None:
        self._collector.tick(self.step)
        if self._attached and not self._paused and (self._forced or self._due(self.step)):
            # an evaluation before the first forward of a loop without an optimizer is the step's already
            self._forced, self._evaluation_due = False, self._evaluated_at != self.step
            if self._failed:
                self._owes = True
                return
            with Held():
                self._sampled = self.step
                of = self._optimizers, self._part_called, self._called_module
                self._sample = Sample(self._settings, self.step, *of, describes=not self._described)
                self._sample.open()
                hook = untraced(self._before_step)
                self._before = [optimizer.register_step_pre_hook(hook) for optimizer in self._optimizers]

    def _finish(self, sample: Sample) -> None:
        finished = sample.finish()
        if sample.trained_in_eval is not None:
            self._trains_in_eval = sample.trained_in_eval
        self._evaluation_due = self._evaluation_due and MODES[1] not in finished.measured
        self._described |= bool(finished.facts)
        self._drop()
        self._hand_on(finished)

    def _hand_on(self, finished: Finished | None) -> None:
        """Give on what a step gave; where ranks exchange what they measured, stop when one of them cannot."""
        self.measured += finished is not None and bool(finished.measured)
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
        for handle in self._before:
            handle.remove()
        self._before = []

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

"""Which steps are sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spp.errors import InputError

Every = int | str | Iterable[int]
Schedule = Callable[[int], bool]

PER_DECADE = 10
"""Steps in each factor of ten of the logarithmic schedule."""


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

"""Between the loop and the rows: at once where one process trains, through an exchange where several do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spp.errors import SppError
from spp.watching.keeper import Keeper
from spp.watching.ranks import Ranks
from spp.watching.sample import Finished


class Sink:
    """Takes what each step gave.

    Args:
        keeper: Makes the keeper of the rows, on the first rank; elsewhere it is given False and keeps nothing.
        ranks: Who shares the run.
        give_up: Told why the first rank keeps no more rows.
    """

    def __init__(self, keeper: Callable[[bool], Keeper], ranks: Ranks, give_up: Callable[[Exception], None]) -> None:
        self.ranks = ranks
        self._give_up = give_up
        self._pending: list[Finished] = []
        self._failed = self._over = False
        self._refusal: SppError | None = None
        try:
            self.keeper = keeper(ranks.rank == 0)
        except SppError as error:
            if not ranks.shared:
                raise
            self._refusal, self.keeper = error, keeper(False)  # the others are told when all of them start

    @property
    def waited_for(self) -> bool:
        """Whether other ranks wait for this one at the end of each sampled step."""
        return self.ranks.shared and not self._over

    def open(self, run: dict[str, Any], start: int | None) -> int:
        """Begin, on every rank; the number of the first step.

        Raises:
            StoreError: The first rank cannot write the run; every rank raises it.
        """
        self.ranks.open()
        first, error = 0, self._refusal
        if error is None:
            try:
                first = self.keeper.open(run, start)
            except SppError as refused:
                error = refused
        first, error = self.ranks.told((first, error))
        if error is not None:
            self._over = True
            self.ranks.close(together=True)
            raise error
        return int(first)

    def add(self, finished: Finished | None, failed: bool = False) -> bool:
        """Keep what a step gave (None: nothing), and say whether the watching is over, because some rank has failed."""
        if not self.ranks.shared:
            if finished is not None:
                self.keeper.add(finished)
            return False
        if finished is not None:
            self._pending.append(finished)
            if finished.evaluation:  # not every rank need evaluate; it goes with the next step
                return False
        return self._exchange(failed)

    def close(self, run: dict[str, Any], next_step: int, clean: bool) -> None:
        """Take in what is pending, if every rank has come to its end, and write the rest."""
        together = clean and self.waited_for
        try:
            if together:
                self._exchange(False)
                self.ranks.close(together=True)
        finally:
            self._over = True
            if self.ranks.rank == 0:
                self.keeper.close(run, next_step)

    def _exchange(self, failed: bool) -> bool:
        pending, self._pending = self._pending, []
        if self._over:
            return True
        try:
            merged, self._over = self.ranks.gathered(pending, failed or self._failed)
        except Exception:
            self._over = True
            raise
        if not self._failed:
            try:
                for one in merged:
                    self.keeper.add(one)
            except Exception as error:  # the others learn of it at the next exchange
                self._failed = True
                self._give_up(error)
        return self._over

"""Several processes that train one model on parts of one batch: what each has measured, merged on the first of them.

Everything here is a collective: every rank takes part in every exchange, or all wait. So a rank whose measuring has
failed goes on taking part until the others know.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import torch.distributed as dist

from spp.errors import InputError
from spp.frame.accumulate import Accumulator, Row
from spp.stats.sums import SUMS, Sums
from spp.vocabulary import Signal
from spp.watching.sample import Finished

FACTS = tuple(f.name for f in fields(Row) if f.name != "sums")
_OF_WEIGHTS = (Signal.WEIGHT, Signal.WEIGHT_GRADIENT)


class Ranks:
    """The processes among which a batch is split; one where torch is not distributed.

    Args:
        group: Their process group; None for all there are.

    Attributes:
        size: How many.
        rank: Which of them this one is; the first keeps the rows and writes.
    """

    def __init__(self, group: Any = None) -> None:
        together = dist.is_available() and dist.is_initialized()
        if group is not None and not together:
            raise InputError(
                "a process group is one of torch.distributed",
                received="one while torch.distributed is not initialized",
                where="process_group",
                remedy="Call torch.distributed.init_process_group first",
            )
        self.size = dist.get_world_size(group) if together else 1
        self.rank = dist.get_rank(group) if together else 0
        if self.rank < 0:
            raise InputError("every process that watches needs to be in the process group", where="process_group")
        self._members = dist.get_process_group_ranks(group) if together else [0]
        self._everybody = together and self.size == dist.get_world_size()
        self._own: Any = None

    @property
    def shared(self) -> bool:
        """Whether there are several."""
        return self.size > 1

    def open(self) -> None:
        """Make a group of one's own, over gloo, so that nothing gets between the collectives of the training."""
        if self.shared:
            self._own = dist.new_group(self._members, backend="gloo", use_local_synchronization=not self._everybody)

    def close(self, together: bool) -> None:
        """Give that group up, where every rank does so now.

        A group of some of the processes is left to the end of the process: the next one of the same ranks would have its name,
        and find the addresses of the old one under it.
        """
        own, self._own = self._own, None
        if own is not None and together and self._everybody and dist.is_initialized():
            dist.barrier(own)
            dist.destroy_process_group(own)

    def told(self, value: Any) -> Any:
        """What the first rank has."""
        if not self.shared:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=self._members[0], group=self._own)
        return box[0]

    def gathered(self, finished: list[Finished], failed: bool) -> tuple[list[Finished], bool]:
        """Exchange what was measured.

        Args:
            finished: What this rank has measured since the last exchange.
            failed: Whether it will measure no more.

        Returns:
            On the first rank everything, merged by step and mode, elsewhere nothing; and whether any rank has failed.
        """
        mine = [_packed(one) for one in finished]
        box: list[Any] = [None] * self.size
        dist.gather_object((mine, failed), box if self.rank == 0 else None, dst=self._members[0], group=self._own)
        stop = self.told(any(theirs[1] for theirs in box) if self.rank == 0 else None)
        if self.rank:
            return [], stop
        for theirs, _ in box[1:]:
            for one in theirs:
                _absorb(finished, one)
        return finished, stop


def _absorb(finished: list[Finished], packed: dict[str, Any]) -> None:
    """Merge what another rank has measured into what this one has."""
    mine = next((f for f in finished if f.step == packed["step"] and f.evaluation == packed["evaluation"]), None)
    if mine is None:
        mine = Finished(packed["step"], {}, evaluation=packed["evaluation"])
        finished.append(mine)
    mine.loss += packed["loss"]
    sharded: set[tuple[str, str]] = set()
    for mode, (rows, merges) in packed["measured"].items():
        unpacked = _unpacked(rows)
        sharded.update((row.name, row.output) for row in unpacked if row.sharded)
        mine.measured.setdefault(mode, Accumulator()).absorb(
            unpacked, merges, lambda row: row.sharded or row.signal not in _OF_WEIGHTS
        )
    for key, (moved, size) in packed["updates"].items():
        if key in sharded:
            known = mine.updates.get(key, (0.0, 0.0))
            mine.updates[key] = known[0] + moved, known[1] + size


def _packed(one: Finished) -> dict[str, Any]:
    """Without modules, and with all tables of channels as one array."""
    measured = {mode: (_rows(rows.all_rows), rows.merges) for mode, rows in one.measured.items()}
    return {
        **{name: getattr(one, name) for name in ("step", "evaluation", "updates", "loss", "training")},
        "measured": measured,
    }


def _rows(rows: list[Row]) -> tuple[list[tuple[Any, ...]], Any]:
    tables = [row.sums.table.cpu() for row in rows]
    facts = [tuple(getattr(row, name) for name in FACTS) for row in rows]
    rare = [{name: t.tolist() for name, t in row.sums.further.items() if SUMS[name].implied} for row in rows]
    facts = [
        (*fact, further, row.sums.varying, row.sums.channels)
        for fact, further, row in zip(facts, rare, rows, strict=True)
    ]
    return facts, torch.cat(tables, dim=1).numpy() if tables else None


def _unpacked(packed: tuple[list[tuple[Any, ...]], Any]) -> list[Row]:
    facts, numbers = packed
    if not facts:
        return []
    tables = torch.split(torch.from_numpy(numbers), [f[-1] for f in facts], dim=1)
    return [
        Row(**dict(zip(FACTS, f, strict=False)), sums=Sums.of_table(t, _tensors(f[-3]), varying=f[-2]))
        for f, t in zip(facts, tables, strict=True)
    ]


def _tensors(numbers: dict[str, list[float]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in numbers.items()}

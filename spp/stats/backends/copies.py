"""Copies of tensors that are about to change, and how far these have moved since."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spp.stats.backends import library
from spp.stats.backends.native import plan_for
from spp.stats.backends.plans import Plan

ROOM = 1 << 20
"""Bytes that small tensors share: a copy of each by itself costs more than the copying."""


class Copies:
    """What plain CPU tensors held, each in one stretch of memory."""

    def __init__(self, tensors: Sequence[Tensor], plans: Sequence[Plan]) -> None:
        self._plans = list(plans)
        self._layouts = list(map(_layout, tensors))
        self._rooms: list[Tensor] = []
        self._at: list[int] = []
        start, left = 0, 0
        for i, tensor in enumerate(tensors):
            size = tensor.nbytes + -tensor.nbytes % 64
            if size > left:
                left = max(size, min(ROOM, sum(t.nbytes + 64 for t in tensors[i:])))
                self._rooms.append(torch.empty(left, dtype=torch.uint8))
                start = self._rooms[-1].data_ptr()
            ctypes.memmove(start, tensor.data_ptr(), tensor.nbytes)
            self._at.append(start)
            start, left = start + size, left - size

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Copies | None:
        """Copy tensors; None where the C library is not there or cannot compare one of them."""
        plans = [plan_for(tensor, None) for tensor in tensors]
        whole = [plan for plan in plans if plan is not None]
        if len(whole) < len(tensors) or not all(map(_in_one_stretch, tensors)):
            return None
        return cls(tensors, whole)

    def moved(self, now: Sequence[Tensor]) -> list[float]:
        """For each tensor the sum of the squares of what its elements have gained or lost, as far as that is finite.

        NaN where the tensor has another layout or dtype by now, and nothing can be compared.
        """
        functions, threaded = library.LIBRARY.functions, library.LIBRARY.threaded
        out = np.full(len(self._at), np.nan)
        same = [
            i
            for i, (tensor, layout) in enumerate(zip(now, self._layouts, strict=True))
            if _layout(tensor) == layout and plan_for(tensor, None) is not None
        ]
        if functions is None or not same:
            return [float(x) for x in out]
        rows = [(self._at[i], now[i].data_ptr(), self._plans[i].address, now[i].numel()) for i in same]
        columns = np.array(rows, dtype=np.int64).T.copy()
        found = np.empty(len(same))
        threads = torch.get_num_threads() if threaded else 1
        functions.moved(len(same), *(column.ctypes.data for column in columns), threads, found.ctypes.data)
        out[same] = found
        return [float(x) for x in out]


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype


def _in_one_stretch(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)

"""Scalars and figures of a watch in TensorBoard, through torch's own writer.

writer = SummaryWriter("runs/mine")
with spp.watch(model, optimizer, every=100) as watch:
    board = TensorBoard(watch, writer)
    for ...:
        optimizer.step()
        board.update()
    board.figure()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spp.errors import MissingExtraError
from spp.integrations.boards import SHOWN, Board, Shown
from spp.watching import Watch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Board):
    """Writes what a watch has measured.

    Args:
        watch: What measures.
        writer: Where to; it is flushed and closed by whoever made it.
        shown: Pairs of a signal and a column of the frame; a scalar for each and every leaf module or parameter.

    Raises:
        MissingExtraError: TensorBoard is not installed (extra ``tensorboard``).
    """

    def __init__(self, watch: Watch, writer: SummaryWriter, shown: Shown = SHOWN) -> None:
        try:
            import torch.utils.tensorboard as _  # noqa: F401 (a writer of another make would not do)
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", purpose="a TensorBoard of signals") from error
        super().__init__(watch, self._add, shown, self._draw)
        self._writer = writer

    def _add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def _draw(self, tag: str, image: Any, _: Any) -> None:
        self._writer.add_image(tag, np.asarray(image), self._watch.step, dataformats="HWC")

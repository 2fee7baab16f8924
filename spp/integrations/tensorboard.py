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

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from spp.errors import MissingExtraError
from spp.integrations.scalars import SHOWN, Scalars, Shown
from spp.watching import Watch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
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
        self._watch, self._writer, self._scalars = watch, writer, Scalars(watch, shown)

    def update(self) -> None:
        """Write the scalars of steps that were sampled since the last call; costs nothing where there are none."""
        for step, values in self._scalars.take():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def figure(self, kind: str = "evolution", *, tag: str | None = None, **options: Any) -> None:
        """Write a figure as an image, at the step that is going on.

        Args:
            kind: Of the figure, as for ``watch.plot``.
            tag: Its name; ``spp/KIND`` if left out.
            options: As for ``watch.plot``.
        """
        from PIL import Image

        plot = self._watch.plot(kind, **options)
        with Image.open(BytesIO(plot.png())) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(tag or f"spp/{kind}", pixels, self._watch.step, dataformats="HWC")

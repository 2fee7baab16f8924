"""A figure as pixels, which is what dashboards take."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from spp.plot import SignalPlot


def image_of(plot: SignalPlot) -> Image.Image:
    """The figure as it would be saved, in RGB."""
    with tempfile.TemporaryDirectory() as folder:
        path = plot.save(Path(folder) / "figure.png")
        with Image.open(path) as image:
            return image.convert("RGB")

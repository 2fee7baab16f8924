"""TensorBoard: what its own reader finds in the files."""

import numpy as np
import pytest
import torch

import spp
from spp.errors import MissingExtraError
from tests.integrations.conftest import wanted
from tests.integrations.test_boards import steps


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scalars_and_a_figure_are_in_the_files(net, tmp_path):
    wanted("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from spp.integrations.tensorboard import TensorBoard

    optimizer = torch.optim.Adam(net.parameters())
    with SummaryWriter(tmp_path) as writer, spp.watch(net, optimizer, every=2) as watch:
        board = TensorBoard(watch, writer)
        for _ in range(5):
            steps(net, optimizer, 1)
            board.update()
        board.figure()
        board.figure("layers", tag="last", step=4)
    events = EventAccumulator(str(tmp_path)).Reload()
    frame = watch.frame
    for signal, statistic, layer in (("activation", "rms", "layer1"), ("gradient", "rms", "act")):
        found = events.Scalars(f"{signal}_{statistic}/{layer}")
        rows = frame[(frame.signal == signal) & (frame.name == layer)]
        assert [event.step for event in found] == rows["step"].tolist() == [0, 2, 4]
        np.testing.assert_allclose([event.value for event in found], rows[statistic], rtol=1e-6)
    assert set(events.Tags()["images"]) == {"spp/evolution", "last"}
    (image,) = events.Images("spp/evolution")
    assert image.step == 5 and image.width > 400 and image.encoded_image_string.startswith(b"\x89PNG")


def test_without_tensorboard_the_extra_is_named(net, monkeypatch):
    import sys

    from spp.integrations.tensorboard import TensorBoard

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r'pip install "torch-spp\[tensorboard\]"'):
        TensorBoard(spp.watch(net), None)

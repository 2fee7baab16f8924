"""Recurrent networks, cells in loops, attention and the transformer layers of torch.nn."""

import pytest
import torch
from torch import Tensor, nn

from tests.zoo.harness import examine, x


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.LSTM(6, 5, num_layers=2, dropout=0.3, bidirectional=True, batch_first=True),
        lambda: nn.LSTM(6, 5, proj_size=3),
        lambda: nn.GRU(6, 5, num_layers=2),
        lambda: nn.RNN(6, 5),
    ],
    ids=["lstm", "projected lstm", "gru", "rnn"],
)
def test_recurrent_layers(build):
    trace = examine(build, lambda: x(3, 4, 6))
    assert {"0", "1"} <= {o.partition(".")[0] for o in trace.frame.query("signal == 'gradient'")["output"]}


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_in_a_loop(kind):
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = kind(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return self.head(state[0] if isinstance(state, tuple) else state)

    trace = examine(Loop, lambda: x(3, 4, 6))
    assert trace.modules.set_index("name").loc["cell", "calls"] == 4
    assert trace.blocks.empty


def test_a_cell_written_by_hand_is_no_residual_block():
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ih, self.hh = nn.Linear(6, 5), nn.Linear(5, 5)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(self.ih(x) + self.hh(h))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Cell()

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(3, 5)
            for step in x.unbind(1):
                h = self.cell(step, h)
            return h

    trace = examine(Net, lambda: x(3, 4, 6))
    assert trace.blocks.empty and trace.frame["role"].isna().all()


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention(train, weights):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True), nn.Linear(8, 3)
            self.train(train)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, need_weights=weights)[0])

    trace = examine(Net, lambda: x(3, 4, 8))
    assert "0" in set(trace.frame.query("name == 'attention' and signal == 'gradient'")["output"])
    # its output projection is used through its parameters only, which are measured all the same
    assert "never called" in trace.unmeasured.query("name == 'attention.out_proj'")["reason"].iloc[0]
    assert len(trace.frame.query("name == 'attention.out_proj' and signal == 'weight_gradient'")) == 2


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def test_transformer_encoder_in_training():
    trace = examine(encoder, lambda: x(3, 4, 8))
    assert trace.blocks["block"].tolist() == ["layers.0", "layers.0", "layers.1", "layers.1"]
    assert trace.blocks["merge"].tolist() == [0, 1, 0, 1] and not trace.blocks["transition"].any()
    assert trace.blocks["branch"].tolist() == [f"layers.{i}.dropout{k}" for i in (0, 1) for k in (1, 2)]


def test_a_frozen_encoder_in_eval_stays_on_its_fused_path():
    seen = []

    class Spy(nn.TransformerEncoderLayer):
        def _sa_block(self, *args, **kwargs):  # what runs off the fused path
            seen.append(1)
            return super()._sa_block(*args, **kwargs)

    def build() -> nn.Module:
        layers = nn.TransformerEncoder(Spy(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
        return layers.eval().requires_grad_(False)

    trace = examine(build, lambda: x(3, 4, 8), rows=False, interrupted=False)
    assert not seen
    assert set(trace.frame.query("signal == 'activation'")["name"]) == {"", "layers.0", "layers.1"}
    never = trace.unmeasured.query("signal == 'activation'")["name"]
    assert "layers.0.linear1" in set(never)
    assert trace.unmeasured.query("signal == 'gradient'")["reason"].str.startswith("nothing the loss").all()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_inside_the_fused_path_are_measured_without_their_padding():
    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        return nn.TransformerEncoder(layer, 2).eval().requires_grad_(False)

    mask = torch.tensor([[False, False, False, True]] * 3)
    trace = examine(build, lambda: {"src": x(3, 4, 8), "src_key_padding_mask": mask}, rows=False, interrupted=False)
    row = trace.frame.query("name == 'layers.0' and signal == 'activation'").iloc[0]
    assert (row["shape"], row["numel"]) == ("9x8", 72)


def test_transformer_decoder():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(x, x.flip(1))

    trace = examine(Net, lambda: x(3, 4, 8))
    assert trace.blocks["branch"].str[-8:].tolist() == ["dropout1", "dropout2", "dropout3"]

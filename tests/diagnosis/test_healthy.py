"""What is no disease: what a layer's own algebra explains, what nobody compared, and what follows from something else."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spp
from spp.diagnosis import Severity, View, find
from spp.diagnosis.attenuation import backward, forward
from spp.nn import initialize_
from tests.bench_sick.parts import convolutional, images, plain, vectors


def alarms(model: nn.Module, batch, **options) -> list[str]:
    """Rule and place of the errors and warnings."""
    found = find(spp.trace(model, batch, **options))
    return [f"{f.rule} {f.name}" for f in found if f.severity is not Severity.NOTE]


def test_a_mean_over_places_takes_no_gradient_away():
    """4 x (convolution, ReLU) and global pooling: 1024 places divide the squared norm by 1024, and nothing else does."""
    torch.manual_seed(0)
    run = spp.trace(convolutional(depth=4), (images(side=32), torch.arange(8)))
    assert not [f for f in run.findings if f.severity is not Severity.NOTE]
    assert backward(View(run)).fall < 1
    (told,) = [fact.message for fact in run.findings.notes if fact.rule == "gradient_scale"]
    assert "keep their scale" in told


class Averaged(nn.Module):
    """Pooling between every two layers: of noise a mean over 16 places is a sixteenth."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(m for _ in range(3) for m in (nn.Conv1d(16, 16, 1, bias=False), nn.ReLU(), nn.AvgPool1d(16)))
        )
        self.last, self.act, self.head = nn.Conv1d(16, 16, 1), nn.ReLU(), nn.Conv1d(16, 4, 1)
        initialize_(self, "he")

    def forward(self, x):
        return self.head(self.act(self.last(self.body(x))))


def test_what_pooling_takes_on_the_way_is_explained():
    torch.manual_seed(0)
    view = View(spp.trace(Averaged(), torch.randn(4, 16, 4096)))
    leg = backward(view).down
    assert leg is None or -leg.decades < 1  # 3.6 decades with what pooling takes
    assert forward(view).fall < 1


class Streams(nn.Module):
    """A table of angles beside every layer, and a second stream that joins late."""

    def __init__(self) -> None:
        super().__init__()
        self.angles, self.memory = nn.Linear(8, 8, bias=False), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        memory = self.memory(1e4 * x)
        angles = self.angles(1e-3 * x)
        for layer in self.layers:
            x = layer(x) + angles
        return self.head(x + 1e-9 * memory)


def test_a_second_stream_is_no_station_of_the_first():
    torch.manual_seed(0)
    view = View(spp.trace(Streams(), torch.randn(16, 8)))
    ways = [[key.name for key in way] for way in view.ways]
    assert ways[0][-1] == "head"
    on_main = next(way for way in ways if "layers.2" in way)
    assert [name for name in on_main if name.startswith("layers")] == [f"layers.{i}" for i in range(4)]
    assert not {"angles", "memory", "memory.1"} & set(on_main[:-1])


def test_norms_that_saw_no_data_are_a_note_and_hide_what_follows():
    torch.manual_seed(0)
    model = spp.models.build("effnet_b0", width_multiplier=0.5).eval()
    found = find(spp.trace(model, spp.data.gaussian(4, (3, 64, 64), seed=0)))
    assert [(f.rule, f.severity) for f in found] == [("fresh_statistics", Severity.NOTE)]
    seen = convolutional(norm=True)
    with torch.no_grad():
        for _ in range(20):
            seen(images())
    assert "fresh_statistics" not in {f.rule for f in find(spp.trace(seen.eval(), images()))}


class Tokens(nn.Module):
    """Words, their places and their segments, of which there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.segments = nn.Embedding(50, 32), nn.Embedding(9, 32), nn.Embedding(2, 32)
        self.norm, self.rnn, self.head = nn.LayerNorm(32), nn.LSTM(32, 32, batch_first=True), nn.Linear(32, 50)

    def forward(self, x):
        x = self.norm(self.words(x) + self.places(torch.arange(9)) + self.segments(torch.zeros_like(x)))
        return self.head(self.rnn(x)[0]).transpose(1, 2)


def test_tables_of_one_segment_and_a_lone_lstm_are_healthy():
    torch.manual_seed(0)
    ids = torch.randint(50, (8, 9))
    assert alarms(Tokens(), (ids, ids)) == []


def test_a_sigmoid_at_the_end_is_no_peer_of_relus():
    torch.manual_seed(0)
    net = plain(depth=6)
    net.add_module("last", nn.Sigmoid())
    assert alarms(net, 1e-3 * vectors()) == []


def test_a_bias_that_the_norm_behind_it_takes_out_is_none():
    torch.manual_seed(0)
    net = convolutional(norm=True)
    with torch.no_grad():
        net.get_submodule("conv3").bias.fill_(50.0)
    assert alarms(net, images()) == []


def test_a_dead_end_follows_from_the_fall_before_it():
    """The tutorial's network: it was told that its head is dead, and nothing of the gradients' 13 decades."""
    torch.manual_seed(0)
    body = [m for _ in range(16) for m in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
    net = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    found = find(spp.trace(net, spp.data.gaussian(8, (3, 16, 16), seed=0)))
    assert [(f.rule, f.severity) for f in found if f.severity is not Severity.NOTE] == [("vanishing", Severity.ERROR)]
    assert found[0].depth <= 3 and found[0].since and found[0].until
    assert "gradients go with it on their way back, ÷" in found[0].evidence


class Functional(nn.Module):
    """A logarithm between two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.behind(torch.log(F.relu(self.before(x)) - 0.1))


def test_nan_that_functions_make_is_between_modules():
    torch.manual_seed(0)
    first = find(spp.trace(Functional(), vectors()))[0]
    assert (first.rule, first.name) == ("nonfinite", "behind")
    assert first.message.startswith("NaN is made between relu (finite, at most ")


@pytest.mark.parametrize(("value", "name"), [(float("nan"), "NaN"), (float("inf"), "+inf"), (-float("inf"), "-inf")])
def test_what_is_not_finite_is_named(value, name):
    net = plain(depth=4)
    with torch.no_grad():
        net.get_submodule("lin2").weight[0, 0] = value
    assert find(spp.trace(net, vectors()))[0].message.startswith(f"The parameter lin2.weight holds {name} (")


def test_statistics_are_fresh_whatever_the_norms_are_scaled_by():
    """Scales and biases drawn at random, as RepVGG has them, make a gain that is not theirs alone."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for _ in range(6):
        norm = nn.BatchNorm2d(48)
        nn.init.normal_(norm.weight, 0.1, 0.1)
        nn.init.normal_(norm.bias, 0.0, 0.1)
        model += nn.Sequential(nn.Conv2d(48, 48, 3, padding=1, bias=False), norm, nn.ReLU())
    found = find(spp.trace(model.eval(), torch.randn(4, 48, 8, 8)))
    assert [(f.rule, f.severity) for f in found] == [("fresh_statistics", Severity.NOTE)]


class Chosen(nn.Module):
    """A softmax over ``places``, whose heads or places a weighted layer mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.softmax, self.mix = nn.Conv1d(8, 8, 1), nn.Softmax(-1), nn.Conv1d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(self.softmax(self.first(x)))


@pytest.mark.parametrize("places", [1, 16])
def test_a_softmax_over_places_is_no_hidden_one_and_over_one_place_not_dead(places):
    torch.manual_seed(0)
    told = {one.split()[0] for one in alarms(Chosen(), torch.randn(32, 8, places))}
    assert told.isdisjoint({"hidden_softmax", "dead_layer"})


def test_a_bias_of_a_hundred_in_a_branch_is_told_and_one_that_opens_a_gate_is_not():
    torch.manual_seed(0)
    for size, told in ((100.0, ["bias_outlier layers.1.linear1"]), (1.0, [])):
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        nn.init.constant_(model.layers[1].linear1.bias, size)
        assert alarms(model, torch.randn(8, 16, 32))[:1] == told


def test_a_layer_without_peers_is_a_cliff_where_no_init_reaches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    assert not alarms(model, torch.randn(64, 32))
    model[2].weight.data *= 300
    assert alarms(model, torch.randn(64, 32))[0] == "cliff 2"

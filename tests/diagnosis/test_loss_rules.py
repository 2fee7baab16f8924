"""The rules about what a network is asked to do: two sick and two healthy networks of two families each."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spp
from spp.diagnosis import RULES

OURS = {name for name, rule in RULES.items() if rule.check.__module__.endswith(("rules.loss", "rules.wiring"))}
SQUARE = nn.functional.mse_loss


def plain(*end, out=5, between=()):
    """A perceptron of three layers."""
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), *between, nn.Linear(32, out), *end)


def convolutional(*end, out=5, between=()):
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), *between
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, out), *end)


class Language(nn.Module):
    """A causal transformer over tokens, whose readout may be its embedding."""

    def __init__(self, tied=False, std=0.02, end=None, out=200):
        super().__init__()
        self.embedding = nn.Embedding(200, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(64), enable_nested_tensor=False)
        self.head = nn.Linear(64, out, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=std)
        self.end = end or nn.Identity()

    def forward(self, ids):
        return self.end(self.head(self.body(self.embedding(ids)))).transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self, end=None, out=5):
        super().__init__()
        self.lstm, self.head, self.end = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, out), end or nn.Identity()

    def forward(self, x):
        return self.end(self.head(self.lstm(x)[0][:, -1]))


class Residual(nn.Module):
    """A projection that a block takes and its skip hands on; a branch that ends without an activation."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(20, 32), nn.LayerNorm(32)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(self.norm(x))


def generator():
    return torch.Generator().manual_seed(3)


def vectors(target="classes", size=48):
    return torch.randn(size, 20, generator=generator()), targets_of(target, size)


def images(target="classes", size=12):
    return torch.randn(size, 3, 12, 12, generator=generator()), targets_of(target, size)


def sequences(target="classes", size=24):
    return torch.randn(size, 7, 6, generator=generator()), targets_of(target, size)


def targets_of(kind, size):
    g = generator()
    classes = torch.randint(0, 5, (size,), generator=g)
    kinds = {
        "classes": classes,
        "one class": torch.full((size,), 3),
        "floats": torch.randn(size, 5, generator=g),
        "unit": torch.rand(size, 5, generator=g),
        "one hot": F.one_hot(classes, 5).float(),
        "binary": torch.randint(0, 2, (size, 1), generator=g).float(),
        "signs": torch.randint(0, 2, (size, 1), generator=g).float() * 2 - 1,
        "prices": 2e5 + 3e4 * torch.randn(size, 5, generator=g),
        "holes": torch.where(torch.rand(size, 5, generator=g) < 0.1, torch.nan, 0.5),
    }
    return kinds[kind]


def tokens():
    ids = torch.randint(0, 200, (6, 17), generator=generator())
    return ids[:, :-1], ids[:, 1:]


def told(model, batch, loss=None):
    """The findings of our rules, worst first."""
    found = spp.trace(model, batch, loss=loss).findings
    return [f for f in found if f.rule in OURS], found


def enlarged(model):
    """With a last layer of weights that are far too large."""
    with torch.no_grad():
        model.head.weight.mul_(200)
    return model


def summed(output, target):
    return F.cross_entropy(output, target, reduction="sum")


def negated(output, target):
    return -F.cross_entropy(output, target)


SICK = {
    "softmax": ("output_activation", "warning", "5", lambda: plain(nn.Softmax(1)), vectors, None),
    "softmax, images": ("output_activation", "warning", "7", lambda: convolutional(nn.Softmax(1)), images, None),
    "softmax in the loss": (
        "output_activation",
        "warning",
        "head",
        Recurrent,
        sequences,
        lambda output, target: F.cross_entropy(output.softmax(1), target),
    ),
    "sigmoid and logits": (
        "output_activation",
        "warning",
        "end",
        lambda: Recurrent(nn.Sigmoid(), 1),
        lambda: sequences("binary"),
        F.binary_cross_entropy_with_logits,
    ),
    "relu": ("output_activation", "warning", "5", lambda: plain(nn.ReLU()), vectors, None),
    "nll of scores": ("output_activation", "error", "6", convolutional, images, F.nll_loss),
    "nll of probabilities": ("output_activation", "error", "5", lambda: plain(nn.Softmax(1)), vectors, F.nll_loss),
    "square of a softmax": (
        "output_activation",
        "warning",
        "5",
        lambda: plain(nn.Softmax(1)),
        lambda: vectors("one hot"),
        SQUARE,
    ),
    "one unit": (
        "one_unit_softmax",
        "error",
        "5",
        lambda: plain(nn.Softmax(1), out=1),
        lambda: vectors("binary"),
        F.binary_cross_entropy,
    ),
    "one class of one": (
        "one_unit_softmax",
        "error",
        "6",
        lambda: convolutional(out=1),
        lambda: (images()[0], torch.zeros(12, dtype=torch.long)),
        None,
    ),
    "sigmoid out of range": (
        "output_range",
        "error",
        "5",
        lambda: plain(nn.Sigmoid()),
        lambda: vectors("floats"),
        None,
    ),
    "tanh out of range": (
        "output_range",
        "error",
        "end",
        lambda: Recurrent(nn.Tanh()),
        lambda: sequences("prices"),
        F.smooth_l1_loss,
    ),
    "sum": ("loss_sum", "warning", "", plain, vectors, summed),
    "sum over tokens": ("loss_sum", "warning", "", Language, tokens, summed),
    "ascended": ("ascended", "error", "", plain, vectors, negated),
    "ascended, images": ("ascended", "error", "", convolutional, images, negated),
    "one target": ("targets", "warning", "", plain, lambda: vectors("one class"), None),
    "signs": (
        "targets",
        "error",
        "",
        lambda: convolutional(out=1),
        lambda: images("signs"),
        F.binary_cross_entropy_with_logits,
    ),
    "holes": ("targets", "error", "", Recurrent, lambda: sequences("holes"), None),
    "no probabilities": ("targets", "warning", "", plain, lambda: vectors("unit"), F.cross_entropy),
    "prices": ("target_scale", "error", "4", plain, lambda: vectors("prices"), None),
    "prices of images": ("target_scale", "error", "6", convolutional, lambda: images("prices"), F.l1_loss),
    "tied": ("first_loss", "warning", "head", lambda: Language(tied=True, std=1.0), tokens, None),
    "large readout": ("first_loss", "warning", "head", lambda: enlarged(Recurrent()), sequences, None),
    "pixels": (
        "inputs",
        "warning",
        "0",
        plain,
        lambda: (torch.randint(0, 256, (48, 20), generator=generator()).float(), vectors()[1]),
        None,
    ),
    "features of many scales": (
        "inputs",
        "warning",
        "0",
        plain,
        lambda: (vectors()[0] * 10 ** torch.linspace(-2, 2, 20), vectors()[1]),
        None,
    ),
    "images of one colour": (
        "inputs",
        "warning",
        "0",
        convolutional,
        lambda: (images()[0] * torch.tensor([1.0, 0.0, 0.0])[:, None, None], images()[1]),
        None,
    ),
    "one sample": (
        "inputs",
        "warning",
        "0",
        convolutional,
        lambda: (images()[0][:1].repeat(12, 1, 1, 1), images()[1]),
        None,
    ),
    "not centred": ("inputs", "warning", "0", plain, lambda: (vectors()[0] + 20, vectors()[1]), None),
    "over the batch": (
        "output_activation",
        "error",
        "4",
        plain,
        vectors,
        lambda output, target: F.nll_loss(output.log_softmax(0), target),
    ),
    "square of a sigmoid": (
        "output_activation",
        "warning",
        "7",
        lambda: convolutional(nn.Sigmoid(), out=1),
        lambda: images("binary"),
        SQUARE,
    ),
    "broadcast": (
        "targets",
        "error",
        "",
        lambda: plain(out=1),
        lambda: (vectors()[0], torch.linspace(-1, 1, 48)),
        lambda output, target: (output - target).square().mean(),
    ),
    "tiny targets": (
        "target_scale",
        "error",
        "4",
        plain,
        lambda: (vectors()[0], 1e-6 * targets_of("floats", 48)),
        None,
    ),
    "linear": (
        "linear_pair",
        "warning",
        "1",
        lambda: nn.Sequential(nn.Linear(20, 32), nn.Linear(32, 32), nn.Linear(32, 5)),
        vectors,
        None,
    ),
    "convolutions": (
        "linear_pair",
        "warning",
        "1",
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3),
            nn.Conv2d(16, 16, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        ),
        images,
        None,
    ),
    "sigmoid of relu": ("activation_pair", "warning", "4", lambda: plain(between=[nn.Sigmoid()]), vectors, None),
    "tanh of relu": ("activation_pair", "warning", "4", lambda: convolutional(between=[nn.Tanh()]), images, None),
    "hidden softmax": ("hidden_softmax", "warning", "5", lambda: plain(between=[nn.Softmax(1)]), vectors, None),
    "channels of a softmax": (
        "hidden_softmax",
        "warning",
        "5",
        lambda: convolutional(between=[nn.Softmax(1), nn.Conv2d(16, 16, 3)]),
        images,
        None,
    ),
    "heavy dropout": ("dropout", "warning", "4", lambda: plain(between=[nn.Dropout(0.9)]), vectors, None),
    "heavy dropout of channels": (
        "dropout",
        "warning",
        "4",
        lambda: convolutional(between=[nn.Dropout(0.9)]),
        images,
        None,
    ),
    "dropout of the output": ("dropout", "warning", "5", lambda: plain(nn.Dropout(0.5)), vectors, None),
    "norm of norm": (
        "redundant_pair",
        "note",
        "5",
        lambda: plain(between=[nn.LayerNorm(32), nn.LayerNorm(32)]),
        vectors,
        None,
    ),
    "bias before norm": (
        "redundant_pair",
        "note",
        "1",
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        ),
        images,
        None,
    ),
    "a loss of its own": (
        "loss_nonfinite",
        "error",
        "",
        lambda: plain(nn.ReLU()),
        lambda: vectors("floats"),
        lambda output, target: (output - 10).log().mean(),
    ),
}


@pytest.mark.parametrize("name", SICK)
def test_a_sick_network_is_told_of_at_its_place(name):
    rule, severity, where, build, batch, loss = SICK[name]
    torch.manual_seed(0)
    ours, found = told(build(), batch(), loss)
    assert ours, found
    assert (ours[0].rule, ours[0].severity, ours[0].name) == (rule, severity, where)
    assert len(ours[0].message.split()) <= 30 and ours[0].remedy
    # nothing else is told as loudly and before it
    assert severity == "note" or next(iter(found)).rule == rule


def two_terms(output, target):
    """As of a VAE: a sum over everything, and a penalty on the output's spread."""
    rebuilt = F.binary_cross_entropy(output, target, reduction="sum")
    return rebuilt + 0.1 * (output.var(0) - output.var(0).log()).sum()


HEALTHY = {
    "classes": (plain, vectors, None),
    "images": (convolutional, images, None),
    "tokens": (Language, tokens, None),
    "tied": (lambda: Language(tied=True), tokens, None),
    "sequence": (Recurrent, sequences, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "probabilities": (plain, lambda: vectors("one hot"), F.cross_entropy),
    "regression": (Recurrent, lambda: sequences("floats"), None),
    "binary": (lambda: plain(out=1), lambda: vectors("binary"), F.binary_cross_entropy_with_logits),
    "sigmoid": (lambda: plain(nn.Sigmoid(), out=1), lambda: vectors("binary"), F.binary_cross_entropy),
    "log of a softmax": (lambda: plain(nn.LogSoftmax(1)), vectors, F.nll_loss),
    "unit range": (lambda: convolutional(nn.Sigmoid()), lambda: images("unit"), SQUARE),
    "two terms": (lambda: plain(nn.Sigmoid()), lambda: vectors("unit"), two_terms),
    "summed features": (plain, lambda: vectors("floats"), lambda o, t: (o - t).square().sum(1).mean()),
    "residual": (Residual, vectors, None),
    "bottleneck": (
        lambda: nn.Sequential(
            nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 5)
        ),
        vectors,
        None,
    ),
    "adapter": (
        lambda: nn.Sequential(nn.Linear(20, 32).requires_grad_(False), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)),
        vectors,
        None,
    ),
    "dropout": (lambda: plain(between=[nn.Dropout(0.5)]), vectors, None),
    "separable": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            *(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1)),
            *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
        ),
        images,
        None,
    ),
    "relu before pooling": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
        images,
        None,
    ),
    "raw behind a norm": (
        lambda: nn.Sequential(nn.BatchNorm1d(20), *plain()),
        lambda: (vectors()[0] * 300 + 1000, vectors()[1]),
        None,
    ),
    "digits": (
        plain,
        lambda: ((vectors()[0].abs() * (torch.arange(20) > 2)).clamp(max=1), vectors()[1]),
        None,
    ),
    "a probe": (plain, lambda: vectors()[0], None),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_is_left_alone(name):
    build, batch, loss = HEALTHY[name]
    torch.manual_seed(0)
    ours, _ = told(build(), batch(), loss)
    assert not ours, [str(one) for one in ours]


def test_what_changes_nothing_is_a_note():
    for model, batch in ((plain(nn.LogSoftmax(1)), vectors()), (plain(between=[nn.ReLU()]), vectors())):
        torch.manual_seed(0)
        ours, _ = told(model, batch)
        assert [one.severity for one in ours] == ["note"]


# -- over the steps of a training ---------------------------------------------------------------------------------------


def watched(model, batch, rate=0.1, loss=F.cross_entropy, steps=40, **options):
    """The findings of our rules on a training on fresh batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, **options)
    with warnings.catch_warnings(), spp.watch(model, optimizer, every=4) as watch:
        for step in range(steps):
            x, y = batch(step)
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return [f for f in watch.findings if f.rule in OURS], watch


def by_rule(x, width):
    """Classes that can be learned."""
    return (x.flatten(1)[:, :width] @ torch.randn(width, 5, generator=torch.Generator().manual_seed(9))).argmax(1)


def fresh_vectors(step):
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(step))
    return x, by_rule(x, 20)


def fresh_sequences(step):
    x = torch.randn(64, 7, 6, generator=torch.Generator().manual_seed(step))
    return x, by_rule(x[:, -1], 6)


def turned(model):
    """Whose gradients are added, as nothing in the graph of the loss says."""
    for parameter in model.parameters():
        parameter.register_hook(torch.neg)
    return model


COURSES = {
    "stuck": ("loss_stuck", plain, fresh_vectors, {"rate": 1e-7}),
    "stuck, recurrent": ("loss_stuck", Recurrent, fresh_sequences, {"rate": 1e-7}),
    "rises": ("loss_rises", lambda: turned(plain()), fresh_vectors, {"rate": 0.06}),
    "rises, recurrent": ("loss_rises", lambda: turned(Recurrent()), fresh_sequences, {"rate": 0.3}),
    "ascended": ("ascended", plain, fresh_vectors, {"loss": negated, "rate": 0.01}),
    "maximized": ("ascended", Recurrent, fresh_sequences, {"maximize": True, "rate": 0.01}),
    "softmax": ("output_activation", lambda: plain(nn.Softmax(1)), fresh_vectors, {}),
    "learns": (None, plain, fresh_vectors, {}),
    "learns, recurrent": (None, Recurrent, fresh_sequences, {"rate": 1.0}),
    "negated twice": (None, plain, fresh_vectors, {"loss": negated, "maximize": True}),
}


@pytest.mark.parametrize("name", COURSES)
def test_how_a_loss_goes(name):
    rule, build, batch, options = COURSES[name]
    torch.manual_seed(0)
    ours, watch = watched(build(), batch, **options)
    assert [one.rule for one in ours][:1] == ([rule] if rule else []), (ours, watch.steps)


def test_a_loss_that_becomes_nan_says_since_when(tmp_path):
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with warnings.catch_warnings(action="ignore"), spp.watch(model, optimizer, every=1, path=tmp_path / "run") as watch:
        for step in range(4):
            x, y = fresh_vectors(step)
            # the weights stay finite, so that only the loss tells
            loss = F.cross_entropy(model(x), y) * (torch.nan if step > 1 else 1)
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters():
                parameter.grad = None
            optimizer.step()
    for run in (watch, spp.load(tmp_path / "run")):
        (found,) = [f for f in run.findings if f.rule in OURS and f.severity == "error"]
        assert (found.rule, found.step) == ("loss_nonfinite", 2) and "since step 2" in found.message

"""What will not learn, learns too fast or too slowly, and what comes about over the steps of a training."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, RMSprop

import spp
from spp.diagnosis import Finding, Severity

OURS = {
    *(
        "unregistered",
        "not_optimized",
        "frozen_at_init",
        "gradients_not_cleared",
        "cleared_too_early",
        "eps_outweighs",
        "update_too_large",
        "update_too_small",
    ),
    *(
        "decay_outweighs",
        "forgetting",
        "died_in_training",
        "no_warmup",
        "samples_grew_alike",
        "drift",
        "running_statistics",
        "trained_in_eval_mode",
    ),
}


def vectors(width: int = 16, n: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Classes that a small network learns in some tens of steps."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, width, generator=generator)
    while True:
        label = torch.randint(0, 4, (n,), generator=generator)
        yield centres[label] + 0.7 * torch.randn(n, width, generator=generator), label


def images() -> Iterator[tuple[Tensor, Tensor]]:
    return ((x.view(-1, 1, 6, 6), y) for x, y in vectors(36))


def tokens(n: int = 16, length: int = 6) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        x = torch.randint(0, 8, (n, length), generator=generator)
        yield x, x


def mlp(depth: int = 3, width: int = 32, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers = [m for i in range(depth) for m in (nn.Linear(width if i else 16, width), act())]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def large(layer: nn.Linear) -> nn.Linear:
    nn.init.normal_(layer.weight)
    return layer


def cnn(norm: bool = True, momentum: float = 0.1) -> nn.Sequential:
    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1), *([nn.BatchNorm2d(o, momentum=momentum)] if norm else []), nn.ReLU()]

    return nn.Sequential(*block(1, 8), *block(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


class Transformer(nn.Module):
    def __init__(self, layers: int = 2, width: int = 16, post: bool = False, drop: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 32, dropout=drop, batch_first=True, norm_first=not post)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def watched(
    model: nn.Module,
    data: Iterator[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer | None = None,
    steps: int = 12,
    *,
    every: int = 1,
    given: Any = None,
    rate: Callable[[int], float] | None = None,
    clear: bool = True,
    between: Callable[[int], object] = lambda step: None,
    evaluate: bool = False,
) -> spp.Run:
    """An ordinary training loop; ``between`` is done between backward and step."""
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], 1e-3) if optimizer is None else optimizer
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate) if rate is not None else None
    with spp.watch(model, optimizer if given is None else given, every=every) as watch:
        for step, (x, y) in enumerate(islice(data, steps)):
            if clear:
                optimizer.zero_grad()
            F.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
            between(step)
            optimizer.step()
            if schedule is not None:
                schedule.step()
        if evaluate:
            model.eval()
            with torch.no_grad():
                model(next(data)[0])
            model.train()
    return watch


def told(run: spp.Run, rule: str = "") -> list[Finding]:
    """The warnings and errors of the rules of this file, or of one of them."""
    return [f for f in run.findings.worst("warning") if (f.rule == rule if rule else f.rule in OURS)]


def one(run: spp.Run, rule: str) -> Finding:
    """The finding of a rule, which is the first one."""
    first = next(iter(run.findings.worst("warning")), None)
    assert first is not None and first.rule == rule, str(run.findings)
    return first


# -- healthy trainings ------------------------------------------------------------------------------------------------------


def cosine(steps: int, warm: int = 0) -> Callable[[int], float]:
    return lambda s: (s + 1) / warm if s < warm else 0.5 * (1 + math.cos(math.pi * (s - warm) / (steps - warm)))


def pretrained() -> nn.Module:
    model = mlp()
    watched(model, vectors(), Adam(model.parameters(), 1e-2), 30, every=30)
    model[:4].requires_grad_(False)
    model[-1] = nn.Linear(32, 4)
    return model


@pytest.mark.parametrize(
    ("make", "data", "optimizer", "options"),
    [
        (mlp, vectors, lambda m: Adam(m.parameters(), 1e-3), {"steps": 40}),
        (lambda: mlp(act=nn.Tanh), vectors, lambda m: SGD(m.parameters(), 0.1), {"steps": 40}),
        (lambda: cnn(norm=False), images, lambda m: Adam(m.parameters(), 3e-3), {"steps": 40}),
        (
            cnn,
            images,
            lambda m: SGD(m.parameters(), 0.1, momentum=0.9, weight_decay=5e-4),
            {"steps": 40, "rate": cosine(40), "evaluate": True},
        ),
        (
            Transformer,
            tokens,
            lambda m: AdamW(m.parameters(), 3e-3, weight_decay=0.1),
            {"steps": 40, "rate": cosine(40, 10)},
        ),
        (lambda: Transformer(post=True), tokens, lambda m: Adam(m.parameters(), 1e-3), {"steps": 30}),
        (pretrained, vectors, lambda m: Adam([p for p in m.parameters() if p.requires_grad], 1e-3), {"steps": 40}),
        # the end of a warm-up is far: nothing has learned yet, as is meant
        (mlp, vectors, lambda m: Adam(m.parameters(), 1e-3), {"rate": lambda s: (s + 1) / 1e5}),
    ],
    ids=["mlp", "tanh", "cnn", "batchnorm", "transformer", "post-norm", "fine-tuning", "warm-up"],
)
def test_healthy_trainings_are_left_alone(make, data, optimizer, options):
    model = make()
    assert not told(watched(model, data(), optimizer(model), every=6, **options))


# -- what will not learn ----------------------------------------------------------------------------------------------------


class Listed(nn.Module):
    """Layers in a plain list, a plain dictionary, or where they belong."""

    def __init__(self, keep: Callable[[list[nn.Module]], Any], first: nn.Module) -> None:
        super().__init__()
        self.first, self.layers, self.head = first, keep([nn.Linear(32, 32), nn.Linear(32, 32)]), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers.values() if isinstance(self.layers, dict) else self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


class Distilled(nn.Module):
    """A teacher that is kept out of the parameters on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = mlp(), [mlp()]

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher[0](x)
        return self.student(x) + target


def test_layers_in_a_plain_list_are_named():
    listed = spp.trace(Listed(list, nn.Linear(16, 32)), next(vectors()))
    found = one(listed, "unregistered")
    assert (found.name, found.severity, found.value) == ("layers.0", Severity.ERROR, 2112 / (2112 + 544 + 132))
    convolutional = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model = nn.Sequential(Listed(lambda layers: dict(zip("ab", layers, strict=True)), convolutional))
    assert one(watched(model, images()), "unregistered").name == "0.layers.a"


@pytest.mark.parametrize("model", [Listed(nn.ModuleList, nn.Linear(16, 32)), Distilled()])
def test_registered_layers_and_teachers_are_left_alone(model):
    assert not told(spp.trace(model, next(vectors())))


def test_parameters_that_are_in_no_optimizer_are_named():
    model = mlp()
    found = one(watched(model, vectors(), Adam(model[:4].parameters(), 1e-3)), "not_optimized")
    assert (found.name, found.severity, found.step) == ("4", Severity.WARNING, 0)
    model = cnn()
    optimizer = Adam(model.parameters(), 1e-3)
    model[-1] = nn.Linear(16, 4)
    found = one(watched(model, images(), optimizer), "not_optimized")
    assert found.name == "8" and "2 parameters of something else" in found.message


def test_the_optimizer_of_another_model_is_a_finding():
    model, other = mlp(), mlp()
    with pytest.warns(spp.SppWarning, match="Adam has none of the parameters of the model that is watched"):
        run = watched(model, vectors(), Adam(other.parameters(), 1e-3))
    found = one(run, "not_optimized")
    assert (found.name, found.severity, found.value) == ("", Severity.ERROR, 1.0)


def test_parameters_that_something_else_moves_are_learning():
    model = mlp()
    front, back = SGD(model[:2].parameters(), 0.1), SGD(model[2:].parameters(), 0.1)
    front.register_step_post_hook(lambda *_: back.step())
    assert not told(watched(model, vectors(), front))


def test_frozen_layers_that_were_never_trained_are_named():
    model = mlp()
    model[2].requires_grad_(False)
    found = one(watched(model, vectors()), "frozen_at_init")
    assert (found.name, found.severity) == ("2", Severity.WARNING)
    model = cnn()
    model[-1].requires_grad_(False)
    assert one(spp.trace(model, next(images())), "frozen_at_init").name == "8"


def test_a_random_front_is_frozen_by_mistake_and_adapters_on_purpose():
    front = mlp()
    front[:2].requires_grad_(False)
    assert one(spp.trace(front, next(vectors())), "frozen_at_init").name == "0"
    for size in (1000, 43):
        words = nn.Sequential(nn.Embedding(size, 32).requires_grad_(False), nn.Linear(32, 4))
        assert one(spp.trace(words, torch.arange(40)), "frozen_at_init").name == "0"
    adapted = nn.Sequential()
    for i, layer in enumerate(mlp()):
        adapted.add_module(f"base{i}", layer.requires_grad_(False))
    adapted.add_module("lora_a", nn.Linear(4, 4))
    adapted.add_module("base_out", nn.Linear(4, 4).requires_grad_(False))
    assert not told(spp.trace(adapted, next(vectors())))


@pytest.mark.parametrize("drawn", [lambda w: 0.4 * w, lambda w: w * torch.rand(len(w), 1) * 3**0.5, lambda w: w + 0.2])
def test_word_vectors_unlike_a_random_draw_are_frozen_on_purpose(drawn):
    """Smaller than torch draws them; rare words shorter than others; with a common direction."""
    words = nn.Sequential(nn.Embedding.from_pretrained(drawn(torch.randn(200, 32))), nn.Linear(32, 4))
    assert not told(spp.trace(words, torch.arange(40)))


def test_gradients_that_are_never_cleared_are_seen():
    found = one(watched(mlp(), vectors(), clear=False), "gradients_not_cleared")
    assert (found.step, found.value, found.severity) == (1, 11.0, Severity.ERROR)
    model = cnn()
    assert told(watched(model, images(), SGD(model.parameters(), 0.01), 21, every=10, clear=False))[0].step == 10


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize(("make", "data"), [(mlp, vectors), (Transformer, tokens)], ids=["mlp", "transformer"])
def test_gradients_that_are_cleared_before_the_step(make, data, to_none):
    model = make()
    optimizer = AdamW(model.parameters(), 1e-3)
    run = watched(model, data(), optimizer, between=lambda step: optimizer.zero_grad(set_to_none=to_none))
    found = one(run, "cleared_too_early")
    assert (found.severity, found.name, found.value) == (Severity.ERROR, "", 12.0)
    assert [f.rule for f in told(run)] == ["cleared_too_early"] and "no_gradient" not in {f.rule for f in run.findings}


def test_gradients_that_are_used_elsewhere_or_not_wanted_were_not_cleared_too_early():
    model = cnn()
    optimizer = SGD(model.parameters(), 0.01)

    def by_hand(step: int) -> None:
        optimizer.step()
        optimizer.zero_grad()

    # of what else moves the weights the watch sees the updates alone
    other = SGD(model.parameters(), 0.0)
    assert not told(watched(model, images(), other, between=by_hand), "cleared_too_early")
    probed = mlp().requires_grad_(False)
    prompt = nn.Sequential(probed, nn.Linear(4, 4))
    assert not told(watched(prompt, vectors()), "cleared_too_early")


def test_gradients_that_are_accumulated_or_cleared_in_turn_are_not():
    model, data = mlp(), vectors()
    front, back = SGD(model[:2].parameters(), 0.1), SGD(model[2:].parameters(), 0.1)
    with spp.watch(model, [front, back], every=1) as watch:
        for _ in range(4):
            # each optimizer clears right before its own backward; what the other backward left is there until then
            for optimizer in (front, back):
                optimizer.zero_grad()
                for _ in range(3):
                    x, y = next(data)
                    F.cross_entropy(model(x), y).backward()
                optimizer.step()
    assert not told(watch) and watch.steps.carried.max() <= 0.5


# -- the size of updates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "data", "optimizer", "severity"),
    [
        (mlp, vectors, lambda m: Adam(m.parameters(), 0.3), Severity.ERROR),
        (cnn, images, lambda m: Adam(m.parameters(), 0.3), Severity.ERROR),
        (Transformer, tokens, lambda m: Adam(m.parameters(), 0.1), Severity.WARNING),
        (lambda: cnn(norm=False), images, lambda m: SGD(m.parameters(), 30.0), Severity.ERROR),
    ],
    ids=["mlp", "cnn", "transformer", "sgd"],
)
def test_a_rate_that_is_too_high_is_told_first_and_alone(make, data, optimizer, severity):
    model = make()
    run = watched(model, data(), optimizer(model), 20)
    found = one(run, "update_too_large")
    assert found.severity is severity and not found.name
    # what is wired so stays true: a note tells of the bias before a BatchNorm
    assert severity is Severity.WARNING or [f.rule for f in run.findings.worst("warning")] == ["update_too_large"]


@pytest.mark.parametrize(
    ("make", "data", "optimizer"),
    [
        (mlp, vectors, lambda m: Adam(m.parameters(), 1e-6)),
        (cnn, images, lambda m: SGD(m.parameters(), 1e-5)),
        (Transformer, tokens, lambda m: Adam(m.parameters(), 1e-6)),
    ],
    ids=["mlp", "cnn", "transformer"],
)
def test_a_rate_that_is_too_low_is_told(make, data, optimizer):
    model = make()
    found = one(watched(model, data(), optimizer(model), 12, every=4), "update_too_small")
    assert not found.name and found.value < 3e-5


@pytest.mark.parametrize(
    ("make", "data", "optimizer"),
    [
        (mlp, vectors, lambda m: Adam(m.parameters(), 1e-3, eps=1.0)),
        (cnn, images, lambda m: RMSprop(m.parameters(), 1e-3, eps=3.0)),
    ],
    ids=["mlp", "cnn"],
)
def test_an_eps_above_the_gradients_is_told_alone(make, data, optimizer):
    model = make()
    run = watched(model, data(), optimizer(model), 12, every=4)
    found = one(run, "eps_outweighs")
    assert found.value > 10 and [f.rule for f in told(run)] == ["eps_outweighs"]


@pytest.mark.parametrize(
    ("make", "data", "optimizer"),
    [
        (mlp, vectors, lambda m: Adam(m.parameters(), 1.0, eps=1.0)),
        (Transformer, tokens, lambda m: AdamW(m.parameters(), 3e-3, eps=1e-6)),
    ],
    ids=["rate", "usual"],
)
def test_an_eps_that_the_rate_makes_good_for_is_left_alone(make, data, optimizer):
    model = make()
    assert not told(watched(model, data(), optimizer(model), 20, every=4))


def test_one_layer_that_is_too_slow_is_named():
    model = mlp(depth=4)
    groups = [
        {"params": model[2].parameters(), "lr": 1e-8},
        {"params": [*model[:2].parameters(), *model[4:].parameters()]},
    ]
    assert [f.name for f in told(watched(model, vectors(), Adam(groups, 1e-3)), "update_too_small")] == ["2"]


@pytest.mark.parametrize(
    ("make", "data", "optimizer"),
    [
        (mlp, vectors, lambda m: SGD(m.parameters(), 0.1, weight_decay=1.0)),
        (lambda: cnn(norm=False), images, lambda m: AdamW(m.parameters(), 1e-3, weight_decay=100.0)),
    ],
    ids=["sgd", "adamw"],
)
def test_a_weight_decay_that_outweighs_the_gradients(make, data, optimizer):
    model = make()
    found = one(watched(model, data(), optimizer(model), 30, every=3), "decay_outweighs")
    assert found.value >= 0.5 and found.severity is Severity.ERROR


# -- over time --------------------------------------------------------------------------------------------------------------


FAMILIES = pytest.mark.parametrize(
    ("make", "data"), [(mlp, vectors), (lambda: cnn(norm=False), images)], ids=["mlp", "cnn"]
)


def tampered(model: nn.Module, data: Iterator[tuple[Tensor, Tensor]], change: Callable[[], object]) -> spp.Run:
    """Six steps, behind the third of which weights are changed: what a single bad update does."""
    optimizer = Adam(model.parameters(), 1e-3)
    with spp.watch(model, optimizer, every=1) as watch:
        for step, (x, y) in enumerate(islice(data, 6)):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step == 2:
                with torch.no_grad():
                    change()
    return watch


@FAMILIES
def test_a_layer_that_was_alive_died_of_an_update(make, data):
    model = make()
    run = tampered(model, data(), lambda: model[2].bias.sub_(30.0))
    found = one(run, "died_in_training")
    assert (found.name, found.step, found.severity) == ("2", 3, Severity.ERROR)
    assert "learning rate" in found.remedy and "--init" not in found.remedy
    assert not {"dead_layer", "dead_channels"} & {f.rule for f in run.findings}


def test_a_layer_that_is_dead_from_the_beginning_did_not_die_in_training():
    model = mlp()
    nn.init.constant_(model[2].bias, -30.0)
    rules = [f.rule for f in watched(model, vectors(), steps=4).findings]
    assert "dead_layer" in rules and "died_in_training" not in rules


@FAMILIES
def test_samples_that_grow_alike(make, data):
    model = make()
    found = one(tampered(model, data(), lambda: model[0].bias.add_(30.0)), "samples_grew_alike")
    assert (found.name, found.step) == ("0", 3)


@FAMILIES
def test_activations_that_drift_are_named_where_it_began(make, data):
    model = make()
    found = one(tampered(model, data(), lambda: model[2].weight.mul_(2000.0)), "drift")
    assert (found.name, found.step, found.signal) == ("2", 3, "activation")
    assert found.value == pytest.approx(2000, rel=0.3)


def test_a_loss_that_shows_it_later_is_said_to():
    model = mlp()
    run = tampered(model, vectors(), lambda: model[2].weight.mul_(2000.0))
    assert "The loss showed it" not in one(run, "drift").message
    steps = run.steps
    run = spp.Run(
        run.frame, run.blocks, run.modules, run.unmeasured, run.info, steps=steps.assign(loss=[1, 1, 1, 1, 1, 9.0])
    )
    assert "The loss showed it at step 5." in one(run, "drift").message


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (lambda momentum: cnn(momentum=momentum), images),
        (
            lambda momentum: nn.Sequential(
                large(nn.Linear(16, 32)), nn.BatchNorm1d(32, momentum=momentum), *mlp(2)[1:]
            ),
            vectors,
        ),
    ],
    ids=["cnn", "mlp"],
)
def test_running_statistics_that_lag(make, data):
    found = one(watched(make(1e-3), data(), steps=40, every=20, evaluate=True), "running_statistics")
    assert (found.name, found.step) == ("1", 40)
    assert not told(watched(make(0.1), data(), steps=40, every=20, evaluate=True))


def test_a_model_that_is_trained_in_eval_mode_is_told_since_when():
    model = cnn().eval()
    found = one(watched(model, images()), "trained_in_eval_mode")
    assert (found.severity, found.step, found.value, found.evidence) == (Severity.WARNING, 0, 2.0, "1, 4")
    model = Transformer(drop=0.1)
    # an evaluation from which nothing leads back
    found = one(watched(model, tokens(), between=lambda step: model.train(step < 7)), "trained_in_eval_mode")
    assert (found.step, found.value) == (8, 6.0) and "blocks.0.dropout" in found.message


def test_modules_that_are_kept_in_eval_mode_on_purpose():
    model = cnn()
    for norm in (model[1], model[4]):
        norm.eval()
    run = watched(model, images())
    assert not told(run) and [f.evidence for f in run.findings if f.rule == "trained_in_eval_mode"] == ["1, 4"]
    model = cnn().eval()
    model[:-1].requires_grad_(False)
    assert not told(watched(model, images()), "trained_in_eval_mode")
    assert not told(watched(Transformer().eval(), tokens()))
    model = cnn()
    assert not told(watched(model, images(), between=lambda step: model.train(step % 4 != 1)))


@pytest.mark.parametrize(("warm", "rules"), [(1, ["no_warmup"]), (40, [])])
def test_a_post_norm_transformer_that_needs_a_warm_up(warm, rules):
    """Six layers that reverse their input at a rate of 0.02: the loss stays at ln 8, or falls to 0.01."""
    model = Transformer(6, post=True)
    model.position = nn.Parameter(torch.randn(6, 16))
    model.embed.register_forward_hook(lambda module, inputs, output: output + model.position)
    with torch.no_grad():
        model.head.weight.mul_(0.1)
    data = ((x, x.flip(1)) for x, _ in tokens())
    options = {"every": 6, "rate": lambda step: min(1.0, (step + 1) / warm)}
    run = watched(model, data, Adam(model.parameters(), 2e-2), 60, **options)
    assert [f.rule for f in told(run)] == rules and (run.steps.loss.iloc[-1] < 0.2) == (warm > 1)
    assert all((f.name, f.step, f.severity) == ("blocks.0.norm1", 0, "error") for f in told(run))


# -- recurrence -------------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, cell: nn.Module, gain: float = 1.0) -> None:
        super().__init__()
        self.cell, self.head, self.lstm = cell, nn.Linear(16, 4), isinstance(cell, nn.LSTMCell)
        with torch.no_grad():
            for name, p in cell.named_parameters():
                p.mul_(gain if name == "weight_hh" else 1.0)
            if self.lstm and gain < 1:
                cell.bias_ih[16:32] -= 2.0

    def forward(self, x: Tensor) -> Tensor:
        state = (x.new_zeros(len(x), 16),) * 2 if self.lstm else x.new_zeros(len(x), 16)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0] if self.lstm else state)


def recurrence(model: nn.Module, steps: int) -> spp.Run:
    return spp.trace(model, (torch.randn(8, steps, 4), torch.randint(0, 4, (8,))))


def test_a_cell_that_forgets_is_named():
    found = one(recurrence(Recurrent(nn.LSTMCell(4, 16), 0.1), 200), "forgetting")
    assert (found.name, found.severity, found.value) == ("cell", Severity.ERROR, -math.inf)
    assert "exactly zero at the first" in found.message
    assert one(recurrence(Recurrent(nn.RNNCell(4, 16), 0.1), 20), "forgetting").name == "cell"


def test_a_recurrence_that_explodes_is_named():
    model = Recurrent(nn.RNNCell(4, 16, nonlinearity="relu"), 6.0)
    assert "explodes on the way back" in told(recurrence(model, 40), "forgetting")[0].message


def test_cells_that_remember_and_modules_that_are_shared_are_left_alone():
    model = Recurrent(nn.LSTMCell(4, 16))
    with torch.no_grad():
        model.cell.bias_ih[16:32] = 4.0
    assert not told(recurrence(model, 100))
    assert not told(recurrence(Recurrent(nn.GRUCell(4, 16)), 12))
    act = nn.Tanh()
    deep = nn.Sequential(*[m for i in range(12) for m in (nn.Linear(16, 16), act)], nn.Linear(16, 4))
    assert not told(spp.trace(deep, next(vectors())), "forgetting")

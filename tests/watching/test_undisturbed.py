"""A watched run is bit-identical to one that is not: losses, weights, buffers, random state; nothing stays behind."""

import pytest
import torch
from torch import nn

import spp
from tests.watching.loops import Net, batches, fingerprint, plain, state, train, twice


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


@pytest.mark.parametrize("optimizer", [sgd, adam])
@pytest.mark.parametrize("with_optimizer", [True, False], ids=["optimizer", "forwards"])
@pytest.mark.parametrize(
    ("build", "loop"),
    [
        (Net, {}),
        (Net, {"accumulate": 3}),
        (Net, {"autocast": True}),
        (lambda: Net(reentrant=False), {}),
        (lambda: Net(reentrant=True), {"accumulate": 2}),
    ],
    ids=["batch norm and dropout", "accumulation", "autocast", "checkpoint", "reentrant checkpoint"],
)
def test_losses_and_weights_are_bit_identical(build, loop, optimizer, with_optimizer):
    watch = twice(build, optimizer, with_optimizer=with_optimizer, **loop)
    assert watch.unmeasured.empty
    count = 7 if with_optimizer else 7 * loop.get("accumulate", 1)
    assert watch.frame["step"].unique().tolist() == list(range(0, count, 3))
    assert set(watch.frame["signal"]) == set(spp.ALL)


def test_a_gradient_scaler():
    twice(Net, sgd, scaler=lambda: torch.amp.GradScaler("cpu", init_scale=1024.0), watch={"every": 1})


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.parametrize("in_place", [True, False], ids=["module.compile", "torch.compile"])
def test_a_compiled_model_runs_its_sampled_steps_eagerly(in_place):
    torch._dynamo.reset()

    def wrap(model):
        if in_place:
            model.compile(backend="eager")
            return model
        return torch.compile(model, backend="eager")

    watch = twice(lambda: Net(), sgd, wrap=wrap)
    assert {"stem.0", "block.2", "head"} <= set(watch.frame["name"])
    assert watch.frame["step"].unique().tolist() == [0, 3, 6]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_the_network_inside_a_compiled_one_can_be_watched_too():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Net()
    compiled, optimizer = torch.compile(model, backend="eager"), sgd(model.parameters())
    train(model, optimizer, 2, call=compiled)
    with spp.watch(model, optimizer, every=2) as watch:
        train(model, optimizer, 4, call=compiled)
    assert watch.frame["step"].unique().tolist() == [0, 2]
    assert "head" in set(watch.frame["name"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_a_compiled_optimizer_step():
    results = []
    for watched in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = Net()
        optimizer = sgd(model.parameters())
        step = torch.compile(optimizer.step, backend="eager")
        watch = spp.watch(model, optimizer, every=2)
        if watched:
            watch.start()
        for x, y in batches(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            step()
        if watched:
            watch.close()
        results.append(state(model))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert watch.frame["step"].unique().tolist() == [0, 2, 4]
    assert (watch.frame.query("signal == 'weight' and output == 'weight'")["update_ratio"] > 0).all()


def test_an_exception_in_the_loop_leaves_nothing_behind():
    torch.manual_seed(0)
    model = Net()
    optimizer = sgd(model.parameters())
    before = fingerprint(model, optimizer)

    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), spp.watch(model, optimizer, every=1) as watch:
        train(model, optimizer, after=stop)
    assert fingerprint(model, optimizer) == before
    assert watch.frame["step"].unique().tolist() == [0]


def test_an_exception_of_the_model_is_the_users_own():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2))
    optimizer = sgd(model.parameters())
    before = fingerprint(model, optimizer)
    with spp.watch(model, optimizer, every=1) as watch:
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            model(torch.randn(2, 3))
        model[1] = nn.Linear(4, 2)
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
    assert fingerprint(model, optimizer)[:7] == before[:7]
    assert watch.frame["step"].unique().tolist() == [0]


def test_on_other_steps_nothing_is_attached():
    model = plain()
    optimizer = sgd(model.parameters())
    untouched = fingerprint(model, optimizer)
    seen = []

    def look(step):
        seen.append(fingerprint(model, optimizer)[:6] == untouched[:6])

    with spp.watch(model, optimizer, every=4):
        train(model, optimizer, 9, after=look)
    assert seen == [True, True, True, False, True, True, True, False, True]  # held from the end of the step before


def test_two_watches_whose_steps_overlap():
    """A generator and a discriminator: the sampled steps of one begin before those of the other end, and end before."""
    torch.manual_seed(0)
    results = []
    for watched in (False, True):
        torch.manual_seed(0)
        maker, judge = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
        first, second = sgd(maker.parameters()), sgd(judge.parameters())
        before = fingerprint(maker, first) + fingerprint(judge, second)
        watches = [spp.watch(maker, first, every=1), spp.watch(judge, second, every=1)] if watched else []
        for watch in watches:
            watch.start()
        for _ in range(3):
            second.zero_grad()
            (judge(torch.randn(3, 6)).mean() - judge(maker(torch.randn(3, 4)).detach()).mean()).backward()
            second.step()
            first.zero_grad()
            judge(maker(torch.randn(3, 4))).mean().backward()
            first.step()
        for watch in watches:
            watch.close()
        assert fingerprint(maker, first) + fingerprint(judge, second) == before
        results.append(state(maker) + state(judge))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    frame = watches[1].frame.query("name == '0' and signal == 'activation'")
    assert frame["numel"].tolist() == [2 * 15, 3 * 15, 3 * 15]  # the generator's own pass is seen as well


def test_evaluations_do_not_disturb_either():
    def evaluate(model):
        def after(step):
            model.eval()
            with torch.no_grad():
                for x, _ in batches(2):
                    model(x)
            model.train()

        return after

    results = []
    for watched in (False, True):
        torch.manual_seed(3)
        model = Net()
        optimizer = sgd(model.parameters())
        if watched:
            with spp.watch(model, optimizer, every=2):
                results.append((train(model, optimizer, after=evaluate(model)), state(model)))
        else:
            results.append((train(model, optimizer, after=evaluate(model)), state(model)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("with_optimizer", [True, False])
@pytest.mark.parametrize("how", ["scripted", "traced", "a scripted part"])
def test_a_scripted_root(how, with_optimizer):
    """It has the rows that can be seen: its own outputs, and the weights of what is inside."""

    def build():
        if how == "scripted":
            return torch.jit.script(plain())
        if how == "traced":
            return torch.jit.trace(plain(), batches(1)[0][0])
        return nn.Sequential(torch.jit.script(plain()[:3]), *plain()[3:])

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.05)

    watch = twice(build, sgd, with_optimizer=with_optimizer)
    rows = watch.frame.query("name == ''")
    assert rows["step"].unique().tolist() == [0, 3, 6] and {"activation", "gradient"} <= set(rows["signal"])
    assert set(watch.frame["signal"]) == {str(s) for s in spp.ALL}

import pytest
import torch

from spp.errors import InputError, UnknownNameError
from spp.nn import RESIDUALS, ResidualBlock, StochasticDepth, functional
from spp.nn.residual import ExpectedVariance


def test_identity_in_evaluation_and_at_rate_zero():
    x = torch.randn(4, 3)
    assert StochasticDepth(0.5).eval()(x) is x
    assert StochasticDepth(0.0).train()(x) is x


def test_drops_whole_samples_and_scales_the_kept_ones():
    torch.manual_seed(0)
    x = torch.randn(2000, 3, 2, 2)
    y = StochasticDepth(0.25)(x)
    kept = y.flatten(1).abs().amax(1) > 0
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(InputError, match=rf"at least 0 and below 1; got {rate}"):
        StochasticDepth(rate)


def test_says_its_rate():
    assert repr(StochasticDepth(0.25)) == "StochasticDepth(rate=0.25)"


def test_kept_samples_stay_as_they_are_where_brock_leaves_them():
    torch.manual_seed(0)
    x = torch.randn(500, 3)
    y = StochasticDepth(0.25, rescale=False)(x)
    kept = y.abs().amax(1) > 0
    assert torch.equal(y[kept], x[kept])
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.06)


class Block(ResidualBlock):
    """The smallest block: what comes in as branch and skip is merged."""

    branch = ("one", "two")

    def __init__(self, rule, **arguments):
        super().__init__()
        self.set_residual(rule, 3, **arguments)

    def forward(self, branch, skip):
        return self.weigh_branch(branch) + self.weigh_skip(skip)


B, S = (torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2))


def expected(rule, block):
    match rule:
        case "plain":
            return B + S
        case "skipinit" | "rezero":
            return 0.7 * B + S
        case "layerscale":
            return torch.tensor([0.7, 0.8, 0.9]).double().view(3, 1, 1) * B + S
        case "fixup":
            return 0.7 * B + 0.3 + S
        case "nf":
            return 0.2 * 0.7 * B + S
        case "sqrt2":
            return (B + S) / 2**0.5
        case "mp":
            return (0.5 * S + 0.5 * B) / 0.5**0.5
        case "mp_learned":
            return (0.3 * S + 0.7 * B) / (0.3**2 + 0.7**2) ** 0.5
    raise AssertionError(rule)


@pytest.mark.parametrize("rule", RESIDUALS)
def test_each_rule_is_its_formula(rule):
    block = Block(rule).double()
    with torch.no_grad():
        for name, value in {"skip_gain": 0.7, "share": 0.7, "bias_out": 0.3}.items():
            if hasattr(block, name):
                getattr(block, name).fill_(value)
        if rule == "layerscale":
            block.layer_scale.copy_(torch.tensor([0.7, 0.8, 0.9]).view(3, 1, 1))
    torch.testing.assert_close(block(B, S), expected(rule, block), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("rule", "parameters", "at_init"),
    [
        ("plain", {}, B + S),
        ("skipinit", {"skip_gain": 0.0}, S),
        ("rezero", {"skip_gain": 0.0}, S),
        ("layerscale", {"layer_scale": 1e-5}, S + 1e-5 * B),
        ("fixup", {"bias_in": 0.0, "skip_gain": 1.0, "bias_out": 0.0, "biases": 0.0}, B + S),
        ("nf", {"skip_gain": 0.0}, S),
        ("sqrt2", {}, (B + S) / 2**0.5),
        ("mp", {}, (B + S) / 2**0.5),
        ("mp_learned", {"share": 0.5}, (B + S) / 2**0.5),
    ],
)
def test_parameters_and_what_a_block_is_at_init(rule, parameters, at_init):
    block = Block(rule)
    assert {key: p.flatten()[0].item() for key, p in block.named_parameters()} == pytest.approx(parameters)
    torch.testing.assert_close(block.double()(B, S), at_init, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("rule", RESIDUALS)
def test_gradients(rule):
    block = Block(rule).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2)
    inputs = [t[:2, :, :2, :2].clone().requires_grad_() for t in (B, S)]
    assert torch.autograd.gradcheck(block, inputs)
    block(*inputs).sum().backward()
    assert all(p.grad is not None for key, p in block.named_parameters() if key not in ("bias_in", "biases"))


def test_mp_sum_in_three_numbers():
    a, b = torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    found = [functional.mp_sum(a, b, weight).item() for weight in (0, 0.3, 0.5)]
    assert found == pytest.approx([1, 1.7069836272, 2.1213203436], abs=1e-10)
    assert [functional.mp_sum(a, b, torch.tensor(w).double()).item() for w in (0, 0.3, 0.5)] == pytest.approx(found)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_mp_sum_keeps_the_variance_of_uncorrelated_tensors_and_of_no_others(weight):
    torch.manual_seed(0)
    a, b = torch.randn(2, 200_000, dtype=torch.float64)
    assert functional.mp_sum(a, b, weight).var().item() == pytest.approx(1, abs=0.02)
    correlated = functional.mp_sum(a, a, weight).var().item()
    assert (correlated > 1.5) == (weight in (0.3, 0.5))


@pytest.mark.parametrize(("channels", "weights"), [((64, 64), (1, 1)), ((64, 192), (1.4142135624, 0.8164965809))])
def test_mp_cat(channels, weights):
    a, b = (torch.ones(1, n, dtype=torch.float64) for n in channels)
    out = functional.mp_cat(a, b)
    assert out.shape == (1, sum(channels))
    assert (out[0, 0].item(), out[0, -1].item()) == pytest.approx(weights, abs=1e-10)
    assert out.square().mean().item() == pytest.approx(1, rel=1e-12)


def test_the_branch_is_dropped_before_it_is_weighted_and_only_nf_leaves_the_kept_as_they_are():
    torch.manual_seed(0)
    ones = torch.ones(4000, 3, 1, 1)
    for rule, kept in (("plain", 1 / 0.75), ("sqrt2", 2**-0.5 / 0.75), ("nf", 0.2)):
        options = {"gain": 1.0} if rule == "nf" else {}
        block = Block(rule, drop_rate=0.25, options=options)
        out = block.weigh_branch(ones)
        assert sorted(out.unique().tolist()) == pytest.approx([0, kept])
        assert (out > 0).float().mean().item() == pytest.approx(0.75, abs=0.03)
        torch.testing.assert_close(
            block.eval().weigh_branch(ones).unique(), torch.tensor([kept]) * (1 if rule == "nf" else 0.75)
        )


def test_expected_variance_is_the_books_of_nf_resnet_50():
    books, betas, outputs = ExpectedVariance(0.2), [], []
    for depth in (3, 4, 6, 3):
        for index in range(depth):
            betas.append(books.beta())
            books.projected_skip() if index == 0 else books.identity_skip()
            outputs.append(books.variance)
    first = [1, 1.019804, 1.03923]
    second = [1.058301, 1.019804, 1.03923, 1.058301]
    third = [1.077033, 1.019804, 1.03923, 1.058301, 1.077033, 1.095445]
    fourth = [1.113553, 1.019804, 1.03923]
    assert betas == pytest.approx(first + second + third + fourth, abs=5e-7)
    assert outputs == pytest.approx(
        [1.04, 1.08, 1.12, 1.04, 1.08, 1.12, 1.16, 1.04, 1.08, 1.12, 1.16, 1.20, 1.24, 1.04, 1.08, 1.12]
    )
    books.no_skip()
    assert books.beta() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Block("skip_init"),
            r"unknown residual rule 'skip_init'\. Did you mean 'skipinit'\? Known: plain, skipinit",
        ),
        (lambda: Block("nf", options={"beta": 1}), r"residual 'nf': unknown option 'beta'\. .*Known: alpha, gain\."),
        (lambda: Block("mp", options={"weight": "x"}), r"residual 'mp': option 'weight' is a finite number; got 'x'\."),
        (lambda: Block("plain", drop_rate=1.0), r"a drop rate is at least 0 and below 1; got 1\.0\."),
    ],
)
def test_impossible_rules(call, message):
    with pytest.raises((UnknownNameError, InputError), match=message):
        call()


def test_blocks_say_their_rule():
    assert repr(Block("plain")) == "Block()"
    assert repr(Block("nf", drop_rate=0.1)) == "Block(residual='nf', alpha=0.2, gain=0, drop_rate=0.1)"
    assert all(row.description for row in RESIDUALS.values())

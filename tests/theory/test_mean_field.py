"""Section 5 of the reference sheet: every number, to the digits it gives; and one real network."""

from math import acos, asin, inf, pi, sqrt

import pytest
import torch

from spp.errors import InputError
from spp.theory import mean_field

TANH = [  # sw2, sb2, q*, chi_1, xi_q
    (1, 0, 0, 1, inf),
    (1, 0.05, 0.193592520245, 0.759031647185, 1.747626243),
    (1.3, 0.01, 0.204756888841, 0.975237832711, 2.983694837),
    (1.5, 0, 0.286894229380, 1.040567565033, 2.753781731),
    (1.5, 0.05, 0.418037200533, 0.938636268199, 1.682828389),
    (2, 0, 0.617964769769, 1.105528820439, 1.685564982),
    (2.5, 0.1, 1.149093029164, 1.099801098012, 1.084204076),
    (4, 0, 2.121473568203, 1.362673337522, 0.904374877),
]
CRITICAL = [  # q*, sw2, sb2
    (0.01, 1.019710760741, 1.257996e-6),
    (0.1, 1.177569096165, 8.32280425e-4),
    (0.25, 1.393961628314, 0.008125154162),
    (0.5, 1.687975120578, 0.038041201111),
    (1, 2.153302648903, 0.150964629379),
    (2, 2.861162399998, 0.512264947595),
]
ERF = [  # sw2, sb2, q*, chi_1
    (1.5, 0.05, 0.601753167110, 1.034700129582),
    (2, 0, 0.880750630396, 1.197365386447),
    (1, 0, 0.141923765314, 1.016902519951),
]
RELU = {-1: 0, -0.5: 0.108997781044, 0: 0.318309886184, 0.5: 0.608997781044, 0.9: 0.909538398845, 0.99: 0.990300255733}
RELU_ORBIT = {
    1: 0.318309886184,
    2: 0.493731090200,
    3: 0.604825720113,
    5: 0.735946350628,
    10: 0.871535516022,
    100: 0.996423146684,
}


@pytest.mark.parametrize(("sw2", "sb2", "q", "chi", "scale"), TANH)
def test_tanh_fixed_points(sw2, sb2, q, chi, scale):
    found = mean_field.fixed_point("tanh", sw2, sb2)
    assert found == pytest.approx(q, abs=1e-12)
    assert mean_field.chi("tanh", found, sw2) == pytest.approx(chi, abs=2e-12)
    assert mean_field.length_scale("tanh", found, sw2) == pytest.approx(scale, abs=1e-9)
    assert mean_field.fixed_point("tanh", sw2, sb2, start=1e-3) == pytest.approx(q, abs=1e-11)  # from below too


def test_tanh_one_step():
    assert mean_field.q_map("tanh", 1.0, 1.5, 0.05) == pytest.approx(0.641441735597, abs=1e-12)


@pytest.mark.parametrize(
    ("sw2", "sb2", "mapped", "c", "scale"),
    [(1.5, 0.05, 0.376518741717, 1, 15.790994034), (2.5, 0.1, 0.341170498942, 0.664361346727, 13.460086675)],
)
def test_tanh_correlation_map(sw2, sb2, mapped, c, scale):
    q = mean_field.fixed_point("tanh", sw2, sb2)
    assert mean_field.correlation_map("tanh", 0.3, q, sw2, sb2) == pytest.approx(mapped, abs=1e-12)
    found = mean_field.fixed_correlation("tanh", q, sw2, sb2)
    assert found == pytest.approx(c, abs=1e-11)
    assert mean_field.correlation_scale("tanh", q, sw2, found) == pytest.approx(scale, abs=1e-8)


@pytest.mark.parametrize(("q", "sw2", "sb2"), CRITICAL)
def test_tanh_critical_line(q, sw2, sb2):
    assert mean_field.critical_point("tanh", q) == (
        pytest.approx(sw2, abs=1e-12),
        pytest.approx(sb2, rel=1e-6 if q == 0.01 else 1e-8),
    )
    assert mean_field.chi("tanh", q, sw2) == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize(
    ("sb2", "sw2", "q"),
    [
        (0.01, 1.424205290489, 0.273300913458),
        (0.05, 1.760954639607, 0.570047881641),
        (0.1, 1.986072641136, None),
        (0.5, 2.843167459724, None),
    ],
)
def test_tanh_critical_line_by_bias(sb2, sw2, q):
    found, length = mean_field.critical_line("tanh", sb2)
    assert found == pytest.approx(sw2, abs=1e-11)
    assert length == pytest.approx(q if q else mean_field.fixed_point("tanh", found, sb2), abs=1e-10)


@pytest.mark.parametrize(("sw2", "sb2", "q", "chi"), ERF)
def test_erf_closed_forms(sw2, sb2, q, chi):
    found = mean_field.fixed_point("erf", sw2, sb2)
    assert found == pytest.approx(q, abs=1e-11)
    assert mean_field.chi("erf", found, sw2) == pytest.approx(chi, abs=1e-11)
    assert mean_field.q_map("erf", 0.7, sw2, sb2) == pytest.approx(sw2 * 2 / pi * asin(1.4 / 2.4) + sb2, rel=1e-13)
    assert mean_field.chi("erf", 0.7, sw2) == pytest.approx(sw2 * 4 / pi / sqrt(1 + 4 * 0.7), rel=1e-13)


def test_relu_keeps_any_length_at_hes_variance():
    for q in (1e-3, 1.0, 50.0):
        assert mean_field.q_map("relu", q, 2) == pytest.approx(q, rel=1e-14)
        assert mean_field.fixed_point("relu", 2, start=q) == q
        assert mean_field.chi("relu", q, 2) == pytest.approx(1, rel=1e-14)
    assert mean_field.fixed_point("relu", 1.9) == 0
    assert mean_field.fixed_point("relu", 2.1) == inf
    assert mean_field.fixed_point("relu", 1, 0.5) == pytest.approx(1.0)
    assert mean_field.q_map("relu", 3.0, 1.4, 0.3) == pytest.approx(1.4 * 3 / 2 + 0.3)
    assert mean_field.chi("relu", 3.0, 1.4) == pytest.approx(0.7)


@pytest.mark.parametrize(("c", "mapped"), RELU.items())
def test_relu_correlation_map(c, mapped):
    assert mean_field.correlation_map("relu", c, 1.0, 2.0) == pytest.approx(mapped, abs=1e-12)
    if abs(c) < 1:
        slope = (mean_field.correlation_map("relu", c + 1e-5, 1.0, 2.0) - mapped) / 1e-5
        assert slope == pytest.approx((pi - acos(c)) / pi, abs=1e-4)


def test_relu_correlation_orbit():
    c, orbit = 0.0, {}
    for layer in range(1, 101):
        c = orbit[layer] = mean_field.correlation_map("relu", c, 1.0, 2.0)
    assert {layer: orbit[layer] for layer in RELU_ORBIT} == pytest.approx(RELU_ORBIT, abs=2e-12)
    gap = 9 * pi**2 / 2
    assert gap == pytest.approx(44.4132, abs=1e-4)
    for layer in range(101, 2001):  # by the closed form, which the map has just been seen to equal
        c = (sqrt(1 - c * c) + c * (pi - acos(c))) / pi
        orbit[layer] = c
    assert (1 - orbit[2000]) * 2000**2 == pytest.approx(gap, rel=0.02)


def test_selu_fixed_point():
    assert mean_field.fixed_point("selu", 1) == pytest.approx(1, abs=1e-9)
    assert mean_field.chi("selu", 1.0, 1) == pytest.approx(1.071574992456, abs=1e-12)
    assert mean_field.q_slope("selu", 1.0, 1) == pytest.approx(0.782647883, abs=1e-9)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_backward_recursion_on_a_real_layer(activation):
    """Gradients through one wide random layer, 300 inputs to 1200 units, against the recursion."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n_in, n_out, sw2, q = 300, 1200, 1.7, 1.4
    z = (sqrt(q) * normal(256, n_in)).requires_grad_()
    phi = mean_field.nonlinearity(activation).function
    (phi(z) @ (sqrt(sw2 / n_in) * normal(n_in, n_out))).backward(normal(256, n_out))
    expected = mean_field.backward(1.0, n_in, n_out, sw2, activation, q)
    assert z.grad.square().mean().item() == pytest.approx(expected, rel=0.02)


def test_finite_width_rates():
    assert mean_field.finite_width_rate("relu") == pytest.approx(5)
    assert mean_field.finite_width_rate("identity", 3.0) == pytest.approx(2)
    assert mean_field.finite_width_rate("tanh", 1e-9) == pytest.approx(2, rel=1e-6)


def test_where_there_is_no_critical_point():
    with pytest.raises(InputError, match="positive variance of the biases; got 0"):
        mean_field.critical_line("tanh", 0)
    with pytest.raises(InputError, match="critical line needs to reach that variance of the biases; got sb2 = 1"):
        mean_field.critical_line("relu", 1.0)  # relu is critical at sb2 = 0 alone
    with pytest.raises(InputError, match="variance of the biases of at least 0"):
        mean_field.critical_point("sigmoid", 1.0)
    assert mean_field.critical_point("relu", 3.0) == pytest.approx((2, 0))

"""Averages of activations under a normal, against scipy's adaptive quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e
from scipy import integrate, special, stats

from bilens.nearest.averages import averages, rule
from bilens.nn import ACTIVATIONS

# of a complex number, from their definitions
ANALYTIC = {
    "linear": lambda a: a,
    "square": lambda a: a * a,
    "gelu": lambda a: a * (1 + special.erf(a / math.sqrt(2))) / 2,
    "gelu_pytorch_tanh": lambda a: (
        a / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))
    ),
    "quick_gelu": lambda a: a / (1 + np.exp(-1.702 * a)),
    "silu": lambda a: a / (1 + np.exp(-a)),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "tanh": np.tanh,
}
MEANS, SPREADS = [0.0, 0.3, -1.2, 2.0, -4.0], [1.0, 0.5, 2.0, 0.1, 3.0]


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_averages_are_integrals(act):
    mean, spread = (torch.tensor(values, dtype=torch.float64) for values in (MEANS, SPREADS))
    found = averages(act, mean, spread, 5)
    assert found.values.shape == (6, 5)
    for unit, n in itertools.product(range(5), (0, 1, 3, 5)):
        m, s, he = MEANS[unit], SPREADS[unit], np.eye(6)[n]

        def integrand(z, m=m, s=s, he=he):
            value = float(ACTIVATIONS[act](torch.tensor(m + s * z, dtype=torch.float64)))
            return value * hermite_e.hermeval(z, he) * stats.norm.pdf(z)

        truth, _ = integrate.quad(integrand, -12, 12, points=[-m / s], limit=200, epsabs=1e-11)
        got = float(found.values[n, unit]) * s**n
        assert got == pytest.approx(truth, abs=1e-6 if act == "tanh" else 1e-8), (m, s, n)


@pytest.mark.parametrize("spread", [1e-2, 1e-5, 1e-9])
@pytest.mark.parametrize("act", sorted({*ACTIVATIONS} - {"relu", "relu2"}))
def test_of_a_narrow_spread_the_averages_are_the_derivatives(act, spread):
    """E[act⁽ⁿ⁾] = act⁽ⁿ⁾ + σ²/2 act⁽ⁿ⁺²⁾ + O(σ⁴), against Cauchy's integrals around the mean."""
    means = [0.3, -1.2, 2.0]
    with torch.inference_mode():
        found = averages(act, torch.tensor(means).double(), torch.full((3,), spread).double(), 3)
    circle = np.exp(2j * np.pi * np.arange(128) / 128)
    for unit, m in enumerate(torch.tensor(means).double().tolist()):
        values = ANALYTIC[act](m + 0.5 * circle)
        slopes = [math.factorial(n) * np.mean(values / (0.5 * circle) ** n).real for n in range(6)]
        truth = [slopes[n] + spread**2 / 2 * slopes[n + 2] for n in range(4)]
        assert found.values[:, unit].tolist() == pytest.approx(truth, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_a_unit_that_does_not_move_has_its_value_and_no_slope(act):
    mean = torch.tensor([0.7, -0.7]).double()
    found = averages(act, mean, torch.zeros(2).double(), 3).values
    assert torch.equal(found[0], ACTIVATIONS[act](mean))
    assert not found[1:].any()


def test_a_rule_too_coarse_says_so():
    wide = averages("silu", torch.zeros(1).double(), torch.full((1,), 300.0).double(), 3)
    assert wide.error > 1e-9
    assert averages("silu", torch.zeros(1).double(), torch.ones(1).double(), 3).error < 1e-9


def test_rules_are_gauss_and_hermites():
    nodes, weights = rule(31)
    truth = hermite_e.hermegauss(31)
    assert np.allclose(nodes, truth[0], atol=1e-12)
    assert np.allclose(weights, truth[1] / truth[1].sum(), atol=1e-12)

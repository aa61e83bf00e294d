"""Averages of activations under a normal, against scipy's adaptive quadrature."""

import itertools

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e
from scipy import integrate, stats

from bilens.nearest.averages import averages, rule
from bilens.nn import ACTIVATIONS

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

"""Lanczos costs what its docstring says: counted operations, not times."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bilens.decompose.lanczos import lanczos

STEPS = 20


def operations(make, i: int, h: int, n: int = 3) -> float:
    """Floating-point operations of each step and direction, where nothing converges."""
    form = make.cp(n, i, h=h).interaction(torch.eye(n, dtype=torch.float64))
    with FlopCounterMode(display=False) as counter:
        found = lanczos(form, 2, "magnitude", 0.0, max_steps=STEPS)
    assert not found.converged.any()
    return counter.get_total_flops() / n / found.steps


def slope(sizes, costs):
    """The exponent of growth: least squares through the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def test_a_step_is_four_products_with_the_factors(make):
    """8 h i for the products, and at most 8 i · basis for keeping the basis orthogonal."""
    for i, h in ((64, 512), (128, 1024)):
        assert 8 * h * i <= operations(make, i, h) <= 8 * h * i + 8 * i * STEPS


@pytest.mark.parametrize("vary", ["i", "h"])
def test_a_step_grows_linearly_in_the_width_and_in_the_hidden_units(make, vary):
    sizes = (256, 512, 1024)
    costs = [operations(make, **{"i": 128, "h": 512, vary: size}) for size in sizes]
    assert slope(sizes, costs) == pytest.approx(1, abs=0.05)

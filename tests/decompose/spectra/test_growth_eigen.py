"""Lanczos costs what its docstring says: counted operations, not times."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bilens.decompose import Lanczos, eigen
from bilens.decompose.spectra.lanczos import lanczos, room
from tests.watches import LiveBytes, slope

STEPS = 20


def operations(make, i: int, h: int, n: int = 3) -> float:
    """Floating-point operations of each step and direction, where nothing converges."""
    form = make.cp(n, i, h=h).interaction(torch.eye(n, dtype=torch.float64))
    with FlopCounterMode(display=False) as counter:
        found = lanczos(form, 2, "magnitude", 0.0, max_steps=STEPS)
    assert not found.converged.any()
    return counter.get_total_flops() / n / found.steps


def test_a_step_is_four_products_with_the_factors(make):
    """8 h i for the products, and at most 8 i · basis for keeping the basis orthogonal."""
    for i, h in ((64, 512), (128, 1024)):
        assert 8 * h * i <= operations(make, i, h) <= 8 * h * i + 8 * i * STEPS


@pytest.mark.parametrize("vary", ["i", "h"])
def test_a_step_grows_linearly_in_the_width_and_in_the_hidden_units(make, vary):
    sizes = (256, 1024)
    costs = [operations(make, **{"i": 128, "h": 512, vary: size}) for size in sizes]
    assert slope(sizes, costs) == pytest.approx(1, abs=0.05)


def memory(make, i: int, h: int, n: int) -> int:
    """The most bytes at once beside the factors."""
    tensor, u = make.cp(5, i, h=h), make.randn(n, 5)
    with LiveBytes() as watch:
        eigen(tensor, u, k=2, solver=Lanczos(norm=False))
    return watch.peak


def test_memory_is_a_basis_for_each_direction_and_grows_with_neither_h_squared_nor_i_squared(make):
    """A basis, its copy when directions leave, its projection and eigenvectors; hidden features of
    each direction; once for all of them the factors laid out anew.
    """
    for i, h, n in ((128, 256, 4), (256, 512, 8)):
        space = room(2, i)
        each = 2 * i * (space + 1) + 5 * space**2 + 10 * h
        assert memory(make, i, h, n) <= 8 * (n * each + 2 * h * i)
    sizes = (128, 512)
    assert slope(sizes, [memory(make, i, 256, 4) for i in sizes]) < 1.1
    assert slope(sizes, [memory(make, 128, h, 4) for h in sizes]) < 1.0
    factors = 8 * 2 * 256 * 256
    grown = [memory(make, 256, 256, n) - factors for n in (2, 8)]
    assert slope((2, 8), grown) == pytest.approx(1, abs=0.1)

"""How the search grows, counted and not timed: entries, multiply-adds, and the largest array, where
factors decay.
"""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bilens.algebra import CP
from bilens.decompose import top_entries
from bilens.decompose.entries.outputs import Outputs

SIZES = [128, 256, 512]


class Largest(TorchDispatchMode):
    """The most bytes that an operation returned."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [
            leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if torch.is_tensor(leaf)
        ]
        self.nbytes = max(self.nbytes, *sizes, 0)
        return result


def decaying(maker, size: int, r: int = 12, h: int = 24) -> CP:
    """Over a vocabulary of ``size`` whose embeddings have r dimensions and norms that fall."""
    make = maker(seed=0)
    norms = torch.arange(1, size + 1, dtype=torch.float64) ** -0.5
    out = make.randn(size, r) @ make.randn(r, h) * norms[:, None]
    return CP(
        out,
        make.randn(h, r) @ make.randn(r, size) * norms,
        make.randn(h, r) @ make.randn(r, size) * norms,
    )


def slope(values: list[int]) -> float:
    """The power of the size by which they grow, from the least to the most."""
    return math.log(values[-1] / values[0]) / math.log(SIZES[-1] / SIZES[0])


def test_far_less_than_the_cube_is_computed(maker):
    entries, flops = [], []
    for size in SIZES:
        with FlopCounterMode(display=False) as counter:
            found = top_entries(decaying(maker, size), 10)
        assert found.complete
        entries.append(found.looked_at)
        flops.append(counter.get_total_flops())
    assert slope(entries) < 2  # of 3, the cube
    assert slope(flops) < 2.1  # rows of outputs, size² r²; the cube by blocks is size³ h
    assert flops[-1] < 2 * SIZES[-1] ** 3 * 24 / 10


@pytest.mark.parametrize("h", [16, 40, 64, 200])
def test_where_nothing_is_excluded_it_is_brute_force(maker, h):
    """h = 40: cores cost 0.4 of a slice, and are given up when they turn out to exclude nothing."""
    T = maker(seed=0).cp(400, 128, 128, h)
    with FlopCounterMode(display=False) as counter:
        found = top_entries(T, 10)
    assert found.complete
    assert counter.get_total_flops() < 1.25 * 2 * 400 * 128**2 * h


def test_products_made_in_float32_have_few_dimensions_too(maker):
    flops = []
    for dtype in (torch.float32, torch.float64):
        make = maker(seed=0, dtype=dtype)
        sides = [
            make.randn(200, 12) @ (make.randn(12, 256) * make.randn(256).exp()) for _ in range(2)
        ]
        with FlopCounterMode(display=False) as counter:
            top_entries(CP(make.randn(256, 200), *sides), 10)
        flops.append(counter.get_total_flops())
    assert flops[0] < 1.2 * flops[1]


def test_what_is_symmetric_already_is_not_made_so_again(maker):
    S, flops = decaying(maker, 128, h=200).symmetrise(), []
    for symmetric in (False, True):
        with FlopCounterMode(display=False) as counter:
            top_entries(S, 10, symmetric=symmetric)
        flops.append(counter.get_total_flops())
    assert flops[1] < 1.2 * flops[0]


@pytest.mark.parametrize("kind", ["gaussian", "decaying", "many units"])
def test_the_reading_that_costs_less_is_taken(maker, kind, monkeypatch):
    """Gaussian: cores exclude nothing. Decaying: plain rows exclude enough, and cost nothing. Many
    units: cores pay.
    """
    T = (
        maker(seed=0).cp(400, 128, 128, 40)
        if kind == "gaussian"
        else decaying(maker, 128, h=48 if kind == "decaying" else 400)
    )
    flops = []
    for expected in (
        Outputs.expected,
        lambda self, reading, bounded, output: int(
            not bounded or reading.columns.shape[1] == T.rank
        ),
        lambda self, reading, bounded, output: int(
            not bounded or reading.columns.shape[1] != T.rank
        ),
    ):
        monkeypatch.setattr(Outputs, "expected", expected)
        with FlopCounterMode(display=False) as counter:
            top_entries(T, 10)
        flops.append(counter.get_total_flops())
    assert flops[1] != flops[2]
    assert flops[0] < 1.3 * min(flops[1:])


@pytest.mark.parametrize("kind", ["decaying", "gaussian"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_array_is_larger_than_allowed(maker, kind, symmetric):
    """Beside the factors (and one output's rows, which are no larger), blocks stay within
    ``max_bytes``, not F × F.
    """
    T = decaying(maker, 600) if kind == "decaying" else maker(seed=0).cp(600, 600, 600, 8)
    T = CP(T.out[:8], T.left, T.right)
    factor = 8 * 600 * T.rank * (2 if symmetric else 1)
    allowed = 400_000
    with Largest() as largest:
        top_entries(T, 10, symmetric=symmetric, max_bytes=allowed)
    assert largest.nbytes <= max(allowed, factor)
    assert largest.nbytes < 4 * 600 * 600

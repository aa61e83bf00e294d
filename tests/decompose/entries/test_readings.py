"""Both readings against the dense cube: what they are off by is within their slack, and no entry is
above its bound.
"""

import pytest
import torch

from bilens.algebra import CP
from bilens.base.numerics import near_one, scaled
from bilens.decompose.entries.readings import norms_of, plain, short

EVERY = 2**62  # what one output costs otherwise: any short reading is worth it
SMALL = {
    "full": lambda m: m.cp(90, 30, 20, 12),
    "narrow": lambda m: m.cp(90, 30, 20, 12).map(
        left=m.randn(25, 4) @ m.randn(4, 30), right=m.randn(22, 3) @ m.randn(3, 20)
    ),
    "more units than entries": lambda m: m.cp(90, 6, 5, 200),
    "few outputs behind many": lambda m: m.cp(2, 40, 40, 100).map(out=m.randn(200, 2)),
    "large terms that cancel": lambda m: cancelling(m),
    "sizes apart": lambda m: apart(m),
    "an entry of out beside the span": lambda m: beside(m, 0),
    "an entry of left beside the span": lambda m: beside(m, 1),
    "an entry of right beside the span": lambda m: beside(m, 2),
    "zero": lambda m: m.cp(90, 30) * 0.0,
}


def cancelling(make) -> CP:
    T, big = make.cp(90, 30, h=4), make.cp(90, 30, h=1) * 1e4
    return T + big + CP(-big.out, big.left, big.right)


def beside(make, which: int) -> CP:
    """Factors of one dimension, but for an entry of one of them, so small that the span leaves it
    out.
    """
    sizes = ((64, 40), (40, 200), (40, 200))
    sizes = ((64, 40), (40, 200), (40, 200))
    factors = [make.randn(rows, 1) @ make.randn(1, columns) for rows, columns in sizes]
    factors[which][3, 3] += 9e-7 * factors[which].norm()
    return CP(*factors)


def apart(make) -> CP:
    T = make.cp(90, 30, h=12)
    sizes = torch.logspace(0, -30, 30, dtype=torch.float64)
    return CP(
        T.out * torch.logspace(0, -50, 90, dtype=torch.float64)[:, None],
        T.left * sizes,
        T.right * sizes,
    )


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("joined", [True, False])
def test_entries_are_within_slack_and_bounds(maker, cube, name, joined):
    T = SMALL[name](maker(seed=1))
    T = CP(*(near_one(factor)[0] for factor in (T.out, T.left, T.right)))
    o, i, j = T.shape
    for reading in (plain(T), short(T, EVERY, 2**30 if joined else 0)):
        assert reading is not None
        z = reading.rows(torch.arange(o)).view(o, i, -1)
        found = torch.empty(o, i, j, dtype=torch.float64)
        found[:, :, reading.order] = (z @ reading.columns.mT).double()
        truth = cube(T)
        assert bool(((found - truth).abs() <= reading.slack[:, None, None]).all())
        assert bool((truth.abs() <= reading.bounds[:, None, None]).all())
        norms = norms_of(z.flatten(0, 1)).view(o, i, 1) * reading.norms
        assert bool(
            (truth[:, :, reading.order].abs() <= norms + reading.slack[:, None, None]).all()
        )


def test_slack_is_small_where_nothing_cancels(make):
    T = make.cp(2, 40, 40, 100).map(out=make.randn(200, 2))
    for reading in (plain(T), short(T, EVERY, 2**30)):
        assert float((reading.slack / T.dense().abs().flatten(1).amax(1)).max()) < 0.01


def test_a_metric_makes_bounds_tighter(make):
    """A left side that few directions carry: bounds are of the right side's part along these."""
    steep = torch.logspace(0, -3, 12, dtype=torch.float64)
    T = CP(make.randn(80, 12), make.randn(12, 50) * steep[:, None], make.randn(12, 50))
    reading = short(T, EVERY, 2**30)
    assert reading is not None
    z = reading.rows(torch.arange(80)).view(80, 50, -1)
    bounds = z.norm(dim=2)[:, :, None] * reading.norms
    flat = (T.left.mT[None] * T.out[:, None]).norm(dim=2)[:, :, None] * T.right.norm(dim=0)
    assert float(bounds.mean() / flat.mean()) < 0.8


def test_scaling_is_exact(make):
    x = make.randn(5, 4) * 1e-200
    near, power = near_one(x)
    assert 0.5 <= float(near.abs().max()) < 1
    assert torch.equal(scaled(near, power), x)
    assert near_one(x * 0)[1] == 0


def test_none_where_it_would_not_pay(make):
    assert short(make.cp(4, 30, h=50), EVERY, 2**30) is None  # few outputs
    T = make.cp(200, 40, h=400)
    assert short(T, 400 * 40 * 41, 2**30) is None  # cores as large as the slices

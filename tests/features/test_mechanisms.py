"""Shared mechanisms: planted sparse cores come back, steps never lower the criterion, random layers
show nothing.
"""

import math

import pytest
import torch

from bilens.algebra import Tucker
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError, TooLargeError
from bilens.features.mechanisms import MATCHED, _alike, _slope, _weights, mechanisms


def basis(make, size, rank):
    return torch.linalg.qr(make.randn(size, rank))[0]


@pytest.fixture
def products(make):
    """Five outputs, each a product of two directions of its own, in random orthonormal bases."""
    core = torch.zeros(5, 10, 10, dtype=torch.float64)
    for n in range(5):
        core[n, 2 * n, 2 * n + 1] = 1.0 + 0.5 * n
    return Tucker(core, basis(make, 12, 5), *[basis(make, 14, 10)] * 2)


@pytest.fixture
def scattered(make):
    """A sparse core of 16 terms at random places, in random orthonormal bases."""
    places = torch.randperm(6 * 9 * 9, generator=make.generator)[:16]
    core = torch.zeros(6 * 9 * 9, dtype=torch.float64)
    core[places] = make.randn(16)
    core = core.view(6, 9, 9)
    return Tucker((core + core.mT) / 2, basis(make, 11, 6), *[basis(make, 13, 9)] * 2)


def criterion(core):
    """Σ s² / (Σ s)² by a loop over unordered pairs."""
    shares = [
        float(core[a, b, c] ** 2) * (1 if b == c else 2)
        for a in range(core.shape[0])
        for b in range(core.shape[1])
        for c in range(b, core.shape[1])
    ]
    return sum(s**2 for s in shares) / sum(shares) ** 2, sorted(shares, reverse=True)


def test_products_come_back_with_their_directions(products, close, cube):
    found = mechanisms(products, starts=3, draws=1, tol=1e-14)
    assert found.error < 1e-12
    assert float(found.after[4]) == pytest.approx(1, abs=1e-10)
    assert float(found.before[4]) < 0.9
    assert float(found.after[4] - found.random_after[:, 4].max()) > 0.2
    close(found.tucker.dense(), (cube(products) + cube(products).mT) / 2)
    # the same directions, signs and order aside
    for name, truth in (("out", products.out), ("in", products.left)):
        overlap = (truth.mT @ found.bases[name]).abs()
        close(overlap.max(0).values, torch.ones(overlap.shape[1], dtype=torch.float64), tol=1e-6)
        assert sorted(overlap.argmax(0).tolist()) == list(range(truth.shape[1]))
    top = found.rows()[0]
    assert top["value"] == pytest.approx(3.0) or top["value"] == pytest.approx(-3.0)


def test_scattered_terms_are_found_at_least_as_sparse_as_they_were_planted(scattered):
    found = mechanisms(scattered, starts=4, draws=1)
    planted, _ = criterion(scattered.core)
    assert max(found.criteria) >= planted - 1e-4  # as near as the default steps come
    # the highest start need not have the same zeros
    assert float(found.after[15]) == pytest.approx(1, abs=1e-2)
    assert float(found.after[15]) > float(found.random_after[:, 15].max()) + 0.05


def test_the_largest_entry_of_each_direction_is_positive(make, close):
    """Directions have no sign of their own; by the rule, a layer and its negative share them."""
    T = make.tucker(6, 8, ranks=(4, 5, 5)).symmetrise()
    found, turned = (mechanisms(layer, 4, starts=1, draws=0, steps=30) for layer in (T, -T))
    for basis in found.bases.values():
        largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
        assert bool((largest > 0).all())
    close(turned.bases["out"], found.bases["out"], tol=1e-8)
    close(turned.bases["in"], found.bases["in"], tol=1e-8)
    close(turned.core, -found.core, tol=1e-8)


@pytest.mark.parametrize("power", [-300, 300])
def test_what_is_relative_knows_no_scale(make, power):
    T = make.cp(4, 5, h=6)
    plain, moved = (
        mechanisms(layer, 4, starts=2, draws=1, steps=20) for layer in (T, T * 2.0**power)
    )
    torch.testing.assert_close(moved.after, plain.after)
    torch.testing.assert_close(moved.random_after, plain.random_after)
    assert moved.error == pytest.approx(plain.error, rel=1e-6)
    assert moved.rows()[0]["value"] == pytest.approx(plain.rows()[0]["value"] * 2.0**power)


def test_the_turn_is_orthogonal_and_loses_nothing(make, cube, close):
    tensor = make.cp(6, 8, h=9)
    found = mechanisms(tensor, (4, 5), starts=2, draws=1)
    assert found.core.shape == (4, 5, 5)
    for name, size in (("out", 4), ("in", 5)):
        close(found.bases[name].mT @ found.bases[name], torch.eye(size, dtype=torch.float64))
    truth = (cube(tensor) + cube(tensor).mT) / 2
    off = truth - torch.einsum(
        "abc,oa,ib,jc->oij", found.core, found.bases["out"], found.bases["in"], found.bases["in"]
    )
    assert found.error == pytest.approx(float(off.norm() / truth.norm()), abs=1e-10)
    close(
        found.core,
        torch.einsum(
            "oij,oa,ib,jc->abc", truth, found.bases["out"], found.bases["in"], found.bases["in"]
        ),
    )
    value, shares = criterion(found.core)
    assert max(found.criteria) == pytest.approx(value, rel=1e-10)
    assert found.effective_terms == pytest.approx(1 / value)
    close(found.after, torch.tensor(shares, dtype=torch.float64).cumsum(0) / truth.square().sum())
    assert float(found.after[-1]) == pytest.approx(float(found.before[-1]), rel=1e-12)
    assert float(found.after[-1]) == pytest.approx(1 - found.error**2, rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_no_step_lowers_the_criterion(seed, maker):
    found = mechanisms(maker(seed).cp(7, 9, h=11), draws=0, starts=3, tol=0.0, steps=40, seed=seed)
    assert bool((found.history.diff() >= -1e-13).all())
    assert float(found.history[-1]) == max(found.criteria) > float(found.history[0])
    assert len(found.criteria) == len(found.steady) == 3


def test_the_slope_is_that_of_the_criterion(make):
    """Against autograd: along out, and along the inputs, which turn both axes."""
    core = make.randn(3, 4, 4)
    core = (core + core.mT) / 2
    out, inputs = (torch.eye(size, dtype=torch.float64, requires_grad=True) for size in (3, 4))
    turned = torch.einsum("abc,xa,yb,zc->xyz", core, out, inputs, inputs)
    (_weights(turned) * turned**4).sum().backward()
    slope = _slope(core)
    assert torch.allclose(out.grad, slope.flatten(1) @ core.flatten(1).mT)
    assert torch.allclose(inputs.grad, 2 * (slope @ core).sum(0))


def test_random_cores_have_the_layers_grams(make):
    core = make.randn(4, 6, 6)
    core = (core + core.mT) / 2 * torch.arange(1.0, 5)[:, None, None]
    draw, off = _alike(core, make.generator)
    assert off <= MATCHED
    assert torch.allclose(draw, draw.mT)
    assert torch.allclose(
        torch.einsum("abc,xbc->ax", draw, draw), torch.einsum("abc,xbc->ax", core, core)
    )
    assert torch.allclose(
        torch.einsum("abc,axc->bx", draw, draw), torch.einsum("abc,axc->bx", core, core)
    )
    assert float((draw - core).norm()) > 0.5 * float(core.norm())


def test_a_gaussian_layer_is_like_its_random_cores(make):
    tensor = Tucker(make.randn(6, 8, 8), basis(make, 9, 6), *[basis(make, 10, 8)] * 2)
    found = mechanisms(tensor, starts=2, draws=6, steps=100)
    for count in (10, 50):
        figures = found.carried(count)
        assert figures["after"] > figures["before"]  # what the turn alone is worth
        assert abs(figures["after"] - figures["random after"]) < 4 * figures["random after, spread"]


def test_seeds(make):
    tensor = make.cp(5, 6, h=8)
    one, same, other = (
        mechanisms(tensor, seed=seed, starts=2, draws=2, steps=20) for seed in (0, 0, 1)
    )
    assert torch.equal(one.core, same.core)
    assert torch.equal(one.random_after, same.random_after)
    assert not torch.equal(one.random_after, other.random_after)


def test_rows_figure_carried_save(tmp_path, products, close):
    found = mechanisms(products, draws=2, starts=1)
    rows = found.rows()
    assert [row["share of ‖S‖²"] for row in rows] == sorted(
        (row["share of ‖S‖²"] for row in rows), reverse=True
    )
    x = torch.linspace(-1, 1, 14, dtype=torch.float64)
    along = found.bases["in"].mT @ x
    made = sum(
        row["value"] * along[row["in"]] * along[row["and in"]] * found.bases["out"][:, row["out"]]
        for row in rows
    )
    close(made, products(x))
    assert len(found.figure()["data"]) == 4
    assert found.figure()["data"][0]["x"][-1] == len(found.after)
    assert set(found.carried(3)) == {
        "before",
        "after",
        "random before",
        "random before, spread",
        "random after",
        "random after, spread",
    }
    assert found.carried(10**9)["after"] == pytest.approx(1)
    assert "random" in found.summary()
    found.save(tmp_path / "found")
    again = type(found).load(tmp_path / "found")
    close(again.core, found.core)
    assert again.criteria == found.criteria


def test_without_random_cores_and_not_converged(make):
    found = mechanisms(make.cp(6, 7, h=9), draws=0, steps=1, starts=1, tol=0.0)
    assert not found.converged
    assert "not converged" in found.summary()
    assert "random" not in found.summary()
    assert len(found.figure()["data"]) == 2
    assert math.isnan(found.carried(1)["random after"])


def test_nothing_and_one(make):
    zero = mechanisms(make.cp() * 0.0, draws=1)
    assert (zero.error, zero.effective_terms, float(zero.after[-1])) == (0, 0, 0)
    assert zero.figure()["data"]
    assert "0" in zero.summary()
    one = mechanisms(make.cp(1, 1, h=1), draws=1)
    assert float(one.after[0]) == pytest.approx(1)
    assert one.effective_terms == pytest.approx(1)
    assert mechanisms(make.cp().to(torch.float32), draws=1).core.dtype == torch.float64


@pytest.mark.bad_input
def test_refuses(make, refuses):
    tensor = make.cp()
    refuses(
        ArgumentError,
        lambda: mechanisms(tensor, 0),
        "max_rank must be a whole number ≥ 1, or two (out, inputs); got 0.",
    )
    refuses(
        ArgumentError, lambda: mechanisms(tensor, (1, 2, 3)), "or two (out, inputs); got (1, 2, 3)."
    )
    refuses(
        ArgumentError,
        lambda: mechanisms(tensor, starts=0),
        "starts must be a whole number ≥ 1; got 0.",
    )
    refuses(
        ArgumentError,
        lambda: mechanisms(tensor, draws=-1),
        "draws must be a whole number ≥ 0; got -1.",
    )
    refuses(
        ArgumentError,
        lambda: mechanisms(tensor, steps=0.5),
        "steps must be a whole number ≥ 1; got 0.5.",
    )
    refuses(ArgumentError, lambda: mechanisms(tensor, tol=1.0), "tol must be in [0, 1); got 1.0.")
    for name, odd in (("tol", "x"), ("seed", 2**63), ("max_bytes", "many")):
        refuses(ArgumentError, lambda more={name: odd}: mechanisms(tensor, **more), f"{name} must")
    refuses(
        ArgumentError,
        lambda: mechanisms(tensor, draws=0, starts=1).carried(0),
        "count must be a whole number ≥ 1",
    )
    refuses(
        TooLargeError,
        lambda: mechanisms(tensor, max_bytes=100),
        "core of at most 100 bytes; got 384.",
        "max_rank",
    )
    refuses(ShapeError, lambda: mechanisms(make.cp(3, 4, 5)), "left and right")
    refuses(NotFiniteError, lambda: mechanisms(tensor * math.inf), "finite")


def test_a_dense_core_is_climbed_too(make):
    """Slopes are tiny where thousands of terms share the norm: a first step by their length would
    go nowhere.
    """
    found = mechanisms(make.cp(16, 16, h=64), 16, starts=1, draws=0, steps=60)
    assert float(found.history[-1]) > 1.5 * float(found.history[0])

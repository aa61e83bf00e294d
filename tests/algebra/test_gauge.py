"""Two equal layers in different gauges have one canonical form, and it is the same function."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilens.algebra import CP, canonical
from bilens.algebra.gauge import TIE
from bilens.base.errors import NotFiniteError, ShapeError


def regauged(T, make, swap=True):
    """The same symmetric part: units permuted, scaled with either sign over six decades, left and
    right swapped in some.
    """
    h = T.rank
    a, b = (torch.exp(3 * make.randn(h)) * make.randn(h).sign() for _ in range(2))
    order = torch.randperm(h, generator=make.generator)
    change = (make.randn(h) > 0)[:, None] & swap
    left, right = a[:, None] * T.left, b[:, None] * T.right
    left, right = torch.where(change, right, left), torch.where(change, left, right)
    return CP((T.out / (a * b))[:, order], left[order], right[order])


def same(one, two, close, tol=None):
    assert one.shape == two.shape
    assert one.rank == two.rank
    for name in ("out", "left", "right"):
        close(getattr(one, name), getattr(two, name), tol=tol)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    h=st.integers(0, 9),
    o=st.integers(1, 4),
    i=st.integers(1, 5),
    swap=st.booleans(),
)
def test_equal_layers_compare_equal_factor_by_factor(seed, h, o, i, swap, maker, close):
    make = maker(seed)
    T = make.cp(o, i, h=h)
    found = canonical(T, swap=swap)
    same(canonical(regauged(T, make, swap), swap=swap), found, close)
    close(found.symmetrise().dense(), T.symmetrise().dense(), scale=1.0)
    if not swap:
        close(found.dense(), T.dense(), scale=1.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_weights_full_of_ties(seed, maker, close):
    """Entries −1, 0, 1: equal strengths, largest entries and squared units everywhere, and units
    equal to each other.
    """
    make = maker(seed)
    T = CP(*(make.randn(*shape).round().clamp(-1, 1) for shape in ((2, 8), (8, 3), (8, 3))))
    found = canonical(T)
    same(canonical(regauged(T, make)), found, close)
    close(found.symmetrise().dense(), T.symmetrise().dense(), scale=1.0)


def test_what_the_form_is(make, close):
    found = canonical(make.cp(h=9))
    for factor in (found.left, found.right):
        close(factor.norm(dim=-1), torch.ones(9).double())
        assert bool((factor.gather(1, factor.abs().argmax(1, keepdim=True)) > 0).all())
    strength = found.out.norm(dim=0)
    assert bool((strength.diff() <= 0).all())
    assert bool((found.left[:, 0] >= found.right[:, 0]).all())
    same(canonical(found), found, close, tol=1e-14)


def test_zero_units_are_dropped(make, close):
    T = make.cp(h=5)
    dead = CP(make.randn(3, 3), make.randn(3, 4), make.randn(3, 4))
    dead.out[:, 0], dead.left[1], dead.right[2] = 0.0, 0.0, 0.0
    same(canonical(dead + T), canonical(T), close)
    assert canonical(dead).rank == 0


def test_squared_units_are_alike_either_way_round(make, close):
    left = make.randn(6, 4)
    T = CP(make.randn(3, 6), left, -2 * left)
    found = canonical(T)
    close(found.left, found.right)
    same(canonical(T.swap()), found, close)


def test_without_swap_the_inputs_may_be_different_spaces(make, close):
    T = make.cp(3, 4, 5)
    close(canonical(T, swap=False).dense(), T.dense())


def test_two_layers_that_differ_do_not_compare_equal(make):
    T = make.cp()
    other = CP(T.out, T.left, T.right.clone())
    other.right[0, 0] += 1e-3
    one, two = canonical(T), canonical(other)
    assert (
        max(
            float((mine - theirs).abs().max())
            for mine, theirs in zip(one.factors().values(), two.factors().values(), strict=True)
        )
        > 1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_narrow_types(dtype, maker, close):
    """Powers of two change no digit of a half type, so the gauge is exact and the forms must be the
    same.
    """
    make = maker(0, dtype)
    T = make.cp(h=6)
    two = 2.0 ** torch.randint(-2, 3, (6,), generator=make.generator).to(dtype)
    other = CP(T.out / two, -T.right * two[:, None], -T.left)
    found = canonical(T)
    assert found.dtype == torch.float32
    same(canonical(other), found, close)


def test_strided_and_tracked_factors(make, close):
    T = make.cp()
    strided = CP(T.out.mT.contiguous().mT, T.left.repeat(1, 2)[:, :4], T.right.mT.contiguous().mT)
    same(canonical(strided), canonical(T), close)
    factors = make.randn(2, 3, grad=True), make.randn(3, 4, grad=True), make.randn(3, 4, grad=True)
    assert torch.autograd.gradcheck(
        lambda *factors: tuple(canonical(CP(*factors)).factors().values()), factors
    )


def test_strengths_that_nearly_tie_keep_an_order_of_their_own(make, close):
    """Units a few ulps apart are one chain, broken by their entries; a gauge's rounding may not
    reorder them.
    """
    left, right = torch.linalg.qr(make.randn(4, 4))[0], torch.linalg.qr(make.randn(4, 4))[0]
    out = torch.ones(1, 4).double() * (
        1 + torch.arange(4) * TIE / 4 * torch.finfo(torch.float64).eps
    )
    T = CP(out, left, right)
    for seed in range(20):
        make.generator.manual_seed(seed)
        same(canonical(regauged(T, make)), canonical(T), close)


def test_largest_entries_that_nearly_tie_keep_their_sign(make, close):
    """0.49 and −0.49 and one ulp: a scale rounds them to equal or not, and the sign may not hang on
    that.
    """
    left = torch.tensor([[0.49, -math.nextafter(0.49, 1.0), 0.1]], dtype=torch.float64)
    T = CP(make.randn(2, 1), left, make.randn(1, 3))
    for seed in range(20):
        make.generator.manual_seed(seed)
        same(canonical(regauged(T, make)), canonical(T), close)


@pytest.mark.bad_input
def test_refuses(make, refuses):
    refuses(
        ShapeError,
        lambda: canonical(make.cp(3, 4, 5)),
        "canonical(swap=True) must have left and right of one size",
    )
    refuses(
        NotFiniteError,
        lambda: canonical(make.cp() * math.nan),
        "canonical.out must be finite; got 21 NaN",
    )

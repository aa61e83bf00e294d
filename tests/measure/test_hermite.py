"""Layers as functions on Gaussian data: against the dense fourth moment, and Isserlis in the
factors.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import einsum
from torch.autograd import gradcheck

from bilens.algebra import CP
from bilens.base.errors import ArgumentError, ShapeError
from bilens.measure import Gaussian


@pytest.fixture
def measure(make):
    basis = make.randn(4, 4)
    return Gaussian(make.randn(4), basis @ basis.mT)


def fourth_moment(measure):
    """E[x_i x_j x_k x_l] as an array, by Isserlis: means, six pairs with two means, three pairs of
    pairs.
    """
    m, C = measure.mean, measure.cov
    pairs = ["ij,kl", "ik,jl", "il,jk", "jk,il", "jl,ik", "kl,ij"]
    one_pair = sum(
        einsum(f"{pair.split(',')[0]},{','.join(pair.split(',')[1])}->ijkl", C, m, m)
        for pair in pairs
    )
    two_pairs = sum(einsum(f"{pair}->ijkl", C, C) for pair in pairs[:3])
    return einsum("i,j,k,l->ijkl", m, m, m, m) + one_pair + two_pairs


def dense_inner(T, S, measure):
    return einsum("oij,okl,ijkl->", T, S, fourth_moment(measure))


def dense_mean(T, measure):
    return einsum("oij,ij->o", T, measure.cov + measure.mean.outer(measure.mean))


def isserlis(T, S, measure):
    """E[a b c e] of maths.md, from the factors: a = L x, b = R x, c = L' x, e = R' x."""
    C = measure.cov
    a, b, c, e = (factor @ measure.mean for factor in (T.left, T.right, S.left, S.right))
    ab, ce = einsum("hi,ij,hj->h", T.left, C, T.right), einsum("hi,ij,hj->h", S.left, C, S.right)
    ac, ae, bc, be = (x @ C @ y.mT for x in (T.left, T.right) for y in (S.left, S.right))
    moment = (a * b + ab)[:, None] * (c * e + ce)
    moment = (
        moment
        + ac * be
        + ae * bc
        + ac * b[:, None] * e
        + ae * b[:, None] * c
        + bc * a[:, None] * e
        + be * a[:, None] * c
    )
    return ((T.out.mT @ S.out) * moment).sum()


@pytest.mark.parametrize("other", ["cp", "tucker", "dense"])
def test_inner_is_the_contraction_with_the_fourth_moment(
    form_name, other, make, measure, cube, close
):
    T, S = make.form(form_name), make.form(other)
    truth = dense_inner(cube(T), cube(S), measure)
    scale = float(
        (dense_inner(cube(T), cube(T), measure) * dense_inner(cube(S), cube(S), measure)).sqrt()
    )
    close(measure.of(T).inner(measure.of(S)), truth, scale)
    means = dense_mean(cube(T), measure) @ dense_mean(cube(S), measure)
    close(measure.of(T).inner(measure.of(S), centred=True), truth - means, scale)


def test_inner_is_isserlis_in_the_factors(make, measure, close):
    T, S = make.cp(h=9), make.cp(h=5)
    close(measure.of(T).inner(measure.of(S)), isserlis(T, S, measure))


@pytest.mark.parametrize("far", [1e3, 1e5])
def test_centred_keeps_its_digits_far_from_zero(far, make, close):
    """Var T(x) beside a mean of 1e6 … 1e10: no difference of large numbers is taken. Truth: T(μ +
    z) by hand in z.
    """
    T = make.cp()
    measure = Gaussian(far * torch.ones(4).double(), torch.eye(4).double())
    S = T.symmetrise().dense()
    slope = 2 * einsum("oij,j->oi", S, measure.mean)
    close(
        measure.of(T).inner(measure.of(T), centred=True),
        slope.square().sum() + 2 * S.square().sum(),
        tol=1e-12,
    )


def test_norm_and_similarity(form_name, make, measure, cube, close):
    T, S = make.form(form_name), make.form(form_name)
    squares = [dense_inner(cube(form), cube(form), measure) for form in (T, S)]
    close(measure.of(T).norm(), squares[0].sqrt())
    close(
        measure.of(T).similarity(measure.of(S)),
        dense_inner(cube(T), cube(S), measure) / (squares[0] * squares[1]).sqrt(),
        scale=1.0,
    )
    close(measure.of(T).similarity(measure.of(T * -2.0)), torch.tensor(-1.0).double())
    assert float(measure.of(T).norm(centred=True)) < float(measure.of(T).norm())


def test_the_gauge_does_not_show(make, measure, close):
    """Only the symmetric part acts on the data: unlike the plain inner product, a swap is no
    change.
    """
    T, S = make.cp(), make.cp()
    for same in (T.swap(), T.symmetrise()):
        close(measure.of(same).inner(measure.of(S)), measure.of(T).inner(measure.of(S)))
    assert abs(float(T.inner(S) - T.swap().inner(S))) > 0.1


def test_gram_is_the_second_moment_of_the_outputs(form_name, make, measure, cube, close):
    T = make.form(form_name)
    truth = einsum("oij,pkl,ijkl->op", cube(T), cube(T), fourth_moment(measure))
    mean = dense_mean(cube(T), measure)
    found = measure.of(T).hermite()
    close(found.mean, mean)
    close(found.gram(), truth)
    close(found.gram(centred=True), truth - mean.outer(mean), scale=float(truth.abs().max()))
    close(found.gram().trace(), measure.of(T).norm().square())


def test_parts_are_the_layer_and_add_up(form_name, make, measure, close):
    T, z = make.form(form_name), make.randn(6, 4)
    found = measure.of(T).hermite()
    close(found(z), T(measure.mean + z @ measure.root), tol=1e-9)
    close(found.shares().sum(), found.inner(found))
    close(found.shares()[0], found.mean.square().sum())
    assert bool((found.shares() >= 0).all())


@pytest.mark.parametrize("affine", [False, True])
def test_the_cheapest_root_gives_the_same_figures(affine, form_name, make, measure, close):
    tensor = replace(make.form(form_name, 3, 5 if affine else 4), affine=affine)
    whole, cheap = (measure.of(tensor).hermite(root) for root in ("symmetric", "cheapest"))
    close(cheap.shares(), whole.shares())
    close(cheap.gram(), whole.gram())
    x, over = measure.over(tensor).sample(3), measure.over(tensor)
    close(cheap((x - over.mean) @ torch.linalg.pinv(over.factor).mT), tensor(x))


def test_a_rank_deficient_measure_is_blind_off_its_support(make, close):
    basis = torch.linalg.qr(make.randn(4, 4))[0]
    measure = Gaussian(torch.zeros(4).double(), basis[:, :2] @ basis[:, :2].mT)
    seen = CP(
        make.randn(3, 2), make.randn(2, 2) @ basis[:, :2].mT, make.randn(2, 2) @ basis[:, :2].mT
    )
    hidden = CP(
        make.randn(3, 2), make.randn(2, 2) @ basis[:, 2:].mT, make.randn(2, 2) @ basis[:, 2:].mT
    )
    close(measure.of(seen + hidden).norm(), measure.of(seen).norm())
    assert float(measure.of(hidden).norm()) < 1e-14 * float(hidden.norm())
    assert float(measure.ridge(1e-2).of(hidden).norm()) > 1e-4 * float(hidden.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_narrow_types_are_exactly_those_of_their_factors(dtype, maker, measure):
    T, S = maker(1, dtype).cp(), maker(2, dtype).cp()
    found = measure.of(T).inner(measure.of(S))
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(),
        measure.of(T.to(torch.float64)).inner(measure.of(S.to(torch.float64))),
        rtol=1e-6,
        atol=0,
    )


def test_strided_factors(make, measure, close):
    T = make.cp()
    strided = CP(T.out.mT.contiguous().mT, T.left.mT.contiguous().mT, T.right.repeat(1, 2)[:, :4])
    close(measure.of(strided).norm(), measure.of(T).norm())


def test_rank_zero_and_more_units_than_a_block(make, measure, close):
    nothing = CP(make.randn(3, 0), make.randn(0, 4), make.randn(0, 4))
    assert float(measure.of(nothing).norm()) == 0
    T = make.cp(h=1030)
    close(measure.of(T).inner(measure.of(T)), isserlis(T, T, measure))


def test_gradients_flow_through_the_factors(make, measure):
    factors = make.randn(2, 3, grad=True), make.randn(3, 4, grad=True), make.randn(3, 4, grad=True)
    assert gradcheck(
        lambda *factors: measure.of(CP(*factors)).inner(measure.of(CP(*factors).swap() * 2.0)),
        factors,
    )
    assert gradcheck(lambda *factors: measure.of(CP(*factors)).gram(centred=True), factors)


def test_no_array_of_the_size_of_the_cube_or_of_h_squared(make):
    """Peak of any one result: the factors, and a tile of hidden units."""
    from tests.algebra.test_no_cube import Largest

    d, h = 96, 1600
    T, measure = make.cp(d, d, h=h), Gaussian(make.randn(d), torch.eye(d).double())
    with Largest() as largest:
        measure.of(T).inner(measure.of(T.swap()))
        measure.of(T).hermite().gram()
    assert h * d <= largest.numel < min(d**3, h**2) / 2


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "call", "text"),
    [
        (
            ShapeError,
            lambda T, m: m.map(torch.ones(2, 4).double()).of(T),
            "over the layer's 4 inputs; got 2",
        ),
        (
            ArgumentError,
            lambda T, m: m.of(T).similarity(m.of(T * 0.0)),
            "similarity must compare two tensors that are not zero",
        ),
        (
            ShapeError,
            lambda T, m: m.of(T.map(left=torch.ones(3, 4).double())),
            "Gaussian.of must have left and right of one size",
        ),
        (ArgumentError, lambda T, m: m.of("T"), "Gaussian.of must be given a tensor; got str."),
        (
            ArgumentError,
            lambda T, m: m.of(T).inner(T),
            "inner must join two tensors under a Gaussian; got CP. Pass measure.of(T).",
        ),
        (
            ArgumentError,
            lambda T, m: m.of(T).inner(m.ridge(0.1).of(T)),
            "inner must join two tensors under one measure; got another.",
        ),
        (
            ShapeError,
            lambda T, m: m.of(T).similarity(m.of(T.map(out=torch.ones(2, 3).double()))),
            "similarity must join two tensors of shape (3, 4, 4); got (2, 4, 4).",
        ),
    ],
)
def test_refuses(kind, call, text, make, measure, refuses):
    refuses(kind, lambda: call(make.cp(), measure), text)


def test_one_measure_is_told_by_its_entries(make, measure, close):
    T, again = make.cp(), Gaussian(measure.mean.clone(), measure.cov.clone())
    close(measure.of(T).inner(again.of(T)), measure.of(T).norm().square())
    assert repr(measure.of(T)) == f"OnGaussian({T!r}, Gaussian(size=4))"


def test_similarity_stays_within_one(make, measure):
    T = make.cp()
    assert math.isclose(
        float(measure.of(T).similarity(measure.of(T.symmetrise()))), 1.0, abs_tol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_gradients_flow_to_the_mean_whatever_was_asked_before(dtype, scale, make):
    """What a measure keeps of itself, it may have made where no gradients were wanted."""
    T, mean = make.cp(3, 4), make.randn(4).to(dtype) * scale
    cov = torch.eye(4, dtype=dtype) * scale**2 if scale == 1 else torch.zeros(4, 4, dtype=dtype)
    asked = Gaussian(mean.clone().requires_grad_(), cov)
    with torch.no_grad():
        asked.of(T).norm()
    (asked.of(T).norm() / scale**2).backward()
    fresh = Gaussian(mean.clone().requires_grad_(), cov)
    (fresh.of(T).norm() / scale**2).backward()
    assert fresh.mean.grad.any()
    torch.testing.assert_close(asked.mean.grad, fresh.mean.grad)

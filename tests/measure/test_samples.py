"""Layers on samples: the plain average by einsum, and closed forms within five standard errors."""

import pytest
import torch
from torch import einsum

from bilens.algebra import affine, homogeneous
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.measure import Gaussian, Samples, jackknife


@pytest.fixture
def measure(make):
    basis = make.randn(4, 4)
    return Gaussian(make.randn(4), basis @ basis.mT)


def test_monte_carlo(make, measure):
    """100,000 samples; within five standard errors, and the errors are small enough to see a wrong
    formula.
    """
    T, S = make.cp(h=9), make.cp(h=5)
    samples = Samples(measure.sample(100_000, seed=3))
    f, g = measure.of(T), measure.of(S)
    for centred in (False, True):
        found = samples.of(T).inner(samples.of(S), centred=centred)
        exact = float(f.inner(g, centred=centred))
        assert abs(float(found.value) - exact) <= 5 * float(found.error)
        assert float(found.error) < 0.02 * float(f.norm() * g.norm())
    assert "count=100,000" in repr(found)


def test_inner_is_the_average_and_its_error(make):
    T, S, x = make.cp(), make.cp(), make.randn(50, 4)
    f, g = Samples(x).of(T), Samples(x).of(S)
    products = einsum("no,no->n", T(x), S(x))
    torch.testing.assert_close(f.inner(g).value, products.mean())
    torch.testing.assert_close(f.inner(g).error, products.std() / 50**0.5)
    covariance = torch.cov(torch.cat([T(x), S(x)], dim=1).mT)[:3, 3:]
    torch.testing.assert_close(f.inner(g, centred=True).value, covariance.trace())


@pytest.mark.parametrize("centred", [False, True])
def test_norm_and_similarity(centred, form_name, make, close):
    T, S, x = make.form(form_name), make.form(form_name), make.randn(50, 4)
    f, g = Samples(x).of(T), Samples(x).of(S)
    one, two = (form(x) - centred * form(x).mean(0) for form in (T, S))
    over = 50 - centred
    close(f.norm(centred=centred), (one.square().sum() / over).sqrt())
    cosine = (one * two).sum() / (one.norm() * two.norm())
    close(f.similarity(g, centred=centred), cosine, scale=1.0)
    close(f.norm(centred=centred).square(), f.inner(f, centred=centred).value)


def test_a_layer_with_biases_takes_a_measure_of_x(make, measure):
    factors = make.randn(3, 6), make.randn(6, 4), make.randn(6, 4)
    T = affine(*factors, make.randn(3), make.randn(6), make.randn(6))
    f = Samples(homogeneous(measure.sample(100_000))).of(T)
    found = f.inner(f)
    assert abs(float(found.value - measure.of(T).norm().square())) <= 5 * float(found.error)
    assert torch.equal(measure.of(T).norm(), measure.homogeneous().of(T).norm())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "call", "text"),
    [
        (
            ShapeError,
            lambda T, m: Samples(m.randn(1, 4)),
            "activations must be (n, i) with n ≥ 2; got (1, 4).",
        ),
        (ShapeError, lambda T, m: Samples(3), "activations must be a torch tensor; got int."),
        (
            NotFiniteError,
            lambda T, m: Samples(m.randn(5, 4) * torch.nan),
            "activations must be finite",
        ),
        (
            ShapeError,
            lambda T, m: Samples(m.randn(3, 5)).of(T),
            "activations must end in 4 (T is (3, 4, 4)); got (3, 5).",
        ),
        (
            ArgumentError,
            lambda T, m: Samples(m.randn(3, 4)).of("T"),
            "Samples.of must be given a tensor; got str.",
        ),
        (
            ArgumentError,
            lambda T, m: Samples(m.randn(3, 4)).of(T).inner(T),
            "inner must join two tensors on samples; got CP. Pass Samples(x).of(T).",
        ),
        (
            ArgumentError,
            lambda T, m: Samples(m.randn(3, 4)).of(T).inner(Samples(m.randn(3, 4)).of(T)),
            "inner must join two tensors on the same samples; got others.",
        ),
        (
            ArgumentError,
            lambda T, m: (f := Samples(m.randn(3, 4))).of(T).similarity(f.of(T * 0.0)),
            "must compare two tensors that are not zero on the samples; got a norm of 0.",
        ),
    ],
)
def test_refuses(kind, call, text, make, refuses):
    refuses(kind, lambda: call(make.cp(), make), text)


@pytest.mark.parametrize("blocks", [0, 1])
def test_fewer_than_two_blocks_say_nothing_of_how_they_differ(blocks):
    assert jackknife(torch.ones(blocks, 3)).tolist() == [torch.inf] * 3

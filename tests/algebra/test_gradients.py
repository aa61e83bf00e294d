"""Gradients flow through the factors, and are right."""

import pytest
import torch
from torch.autograd import gradcheck

from bilens.algebra import CP, Dense, QuadraticForm, Tucker
from bilens.base.errors import NotExactError

VERBS = {
    "call": lambda T, x, u: T(x),
    "contract": lambda T, x, u: T.contract(left=x).dense(),
    "interaction": lambda T, x, u: T.interaction(u).dense(),
    "map": lambda T, x, u: T.map(out=u[None], right=x[None]).dense(),
    "symmetrise": lambda T, x, u: T.symmetrise().dense(),
    "norm": lambda T, x, u: T.norm(),
    "inner": lambda T, x, u: T.inner(T.swap()),
    "gram": lambda T, x, u: T.gram("left"),
    "grams": lambda T, x, u: torch.cat([gram.flatten() for gram in T.grams().values()]),
    "eigenvalues": lambda T, x, u: T.interaction(u).eigh(2).values,
}
FACTORS = {
    CP: [(2, 3), (3, 3), (3, 3)],
    Tucker: [(2, 2, 2), (2, 2), (3, 2), (3, 2)],
    Dense: [(2, 3, 3)],
}


@pytest.mark.parametrize("form", FACTORS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("verb", VERBS)
def test_verb(form, verb, make):
    factors = [make.randn(*shape, grad=True) for shape in FACTORS[form]]
    x, u = make.randn(3, grad=True), make.randn(2, grad=True)
    assert gradcheck(lambda x, u, *factors: VERBS[verb](form(*factors), x, u), (x, u, *factors))


def projectors(found):
    return found.vectors[..., :, None] * found.vectors[..., None, :]


@pytest.mark.parametrize("size", [3, 7], ids=["full", "reduced"])
@pytest.mark.parametrize(
    "what", [lambda found: found.values, projectors], ids=["values", "vectors"]
)
def test_eigenpairs_of_a_form(size, what, make):
    factors = (
        make.randn(2, grad=True),
        make.randn(2, size, grad=True),
        make.randn(2, size, grad=True),
    )
    assert gradcheck(lambda *factors: what(QuadraticForm(*factors).eigh(2)), factors)


@pytest.mark.parametrize("size", [3, 7], ids=["full", "reduced"])
def test_eigenvalues_where_left_is_right(size, make):
    """As in a squared MLP, or in a symmetrised tensor: [L; R] then has not full rank."""
    factors = make.randn(2, grad=True), make.randn(2, size, grad=True)
    assert gradcheck(lambda w, left: QuadraticForm(w, left, left).eigh(2).values, factors)


@pytest.mark.parametrize("h", [1, 2])
def test_eigenvalues_of_a_symmetrised_tensor(h, make):
    factors = (
        make.randn(2, h, grad=True),
        make.randn(h, 10, grad=True),
        make.randn(h, 10, grad=True),
    )
    u = make.randn(2)
    assert gradcheck(
        lambda *factors: CP(*factors).symmetrise().interaction(u).eigh(2).values, factors
    )


def kept(found):
    return (found.values[..., None] * found.vectors).mT @ found.vectors


WHOLE = {
    "Σ λ v vᵀ": kept,
    "its square": lambda found: kept(found) @ kept(found),
    "projector": lambda found: found.vectors.mT @ found.vectors,
    "Σ λ": lambda found: found.values.sum(-1),
    "error": lambda found: found.error,
    "discarded": lambda found: found.discarded,
    "norm": lambda found: found.norm,
    "effective rank": lambda found: found.effective_rank,
}


@pytest.mark.parametrize("what", WHOLE)
@pytest.mark.parametrize("apart", [0.0, 1e-13, 1e-9, 1e-6])
def test_equal_and_nearly_equal_eigenvalues(what, apart, make):
    """A block kept whole, through each factor, against central differences."""
    weights = (
        torch.tensor([2.0, 2.0 + apart, 1.0, 0.5, 0.2]).double()
        + torch.tensor([0, apart, 0, 0, 0]).double()
    )
    factors = [weights, *(torch.linalg.qr(make.randn(5, 5))[0] for _ in range(1))]
    pull = make.randn(5, 5)

    def value(weights, turn):
        out = WHOLE[what](QuadraticForm(weights, turn, turn).eigh(2))
        return (out * (pull if out.ndim == 2 else 1.0)).sum()

    given = [factor.clone().requires_grad_() for factor in factors]
    got = torch.autograd.grad(value(*given), given, allow_unused=True)
    for n, slope in enumerate(got):
        truth = torch.zeros(factors[n].numel(), dtype=torch.float64)
        for at in range(len(truth)):
            step = torch.zeros_like(truth)
            step[at] = 1e-6
            ends = (
                value(
                    *(
                        f + sign * step.reshape(f.shape) if m == n else f
                        for m, f in enumerate(factors)
                    )
                )
                for sign in (1, -1)
            )
            truth[at] = (next(ends) - next(ends)) / 2e-6
        assert (slope.flatten() - truth).abs().max() <= 1e-6 * (1 + truth.abs().max())


@pytest.mark.parametrize(
    "what", ["error", "discarded", "norm", "effective rank", "Σ λ", "Σ λ v vᵀ"]
)
def test_a_dead_output_leaves_the_others_their_gradient(what, make):
    """An all-zero row: finite, 0 where it is, and for the other rows what they have alone."""
    out, left, right = make.randn(3, 6), make.randn(6, 5, grad=True), make.randn(6, 5, grad=True)
    out[0] = 0.0

    def slopes(rows):
        found = WHOLE[what](
            CP(rows, left, right).interaction(torch.eye(len(rows), dtype=torch.float64)).eigh(2)
        )
        return torch.autograd.grad(
            found.square().sum() if found.ndim > 1 else found.sum(), (left, right)
        )

    for whole, alone in zip(slopes(out), slopes(out[1:]), strict=True):
        assert torch.allclose(whole, alone, atol=1e-9)


def test_a_look_inside_a_block_has_no_gradient_and_says_so(make, refuses):
    turn = torch.linalg.qr(make.randn(5, 5))[0].requires_grad_()
    found = QuadraticForm(torch.tensor([2.0, 2.0, 1.0, 0.5, 0.2]).double(), turn, turn).eigh(3)
    inside = (found.vectors[0] * make.randn(5)).sum()
    text = "a gradient through eigenvectors must depend on the span of equal eigenvalues alone"
    refuses(NotExactError, inside.backward, text, ".degenerate")

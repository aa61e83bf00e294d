"""Gradients flow through the factors, and are right."""

import pytest
from torch.autograd import gradcheck

from bilens.algebra import CP, Dense, QuadraticForm, Tucker

VERBS = {
    "call": lambda T, x, u: T(x),
    "contract": lambda T, x, u: T.contract(left=x).dense(),
    "interaction": lambda T, x, u: T.interaction(u).dense(),
    "map": lambda T, x, u: T.map(out=u[None], right=x[None]).dense(),
    "symmetrise": lambda T, x, u: T.symmetrise().dense(),
    "norm": lambda T, x, u: T.norm(),
    "inner": lambda T, x, u: T.inner(T.swap()),
    "gram": lambda T, x, u: T.gram("left"),
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
@pytest.mark.parametrize("what", [lambda found: found.values, projectors], ids=["values", "vectors"])
def test_eigenpairs_of_a_form(size, what, make):
    factors = make.randn(2, grad=True), make.randn(2, size, grad=True), make.randn(2, size, grad=True)
    assert gradcheck(lambda *factors: what(QuadraticForm(*factors).eigh(2)), factors)


@pytest.mark.parametrize("size", [3, 7], ids=["full", "reduced"])
def test_eigenvalues_where_left_is_right(size, make):
    """As in a squared MLP, or in a symmetrised tensor: [L; R] then has not full rank."""
    factors = make.randn(2, grad=True), make.randn(2, size, grad=True)
    assert gradcheck(lambda w, left: QuadraticForm(w, left, left).eigh(2).values, factors)


@pytest.mark.parametrize("h", [1, 2])
def test_eigenvalues_of_a_symmetrised_tensor(h, make):
    factors = make.randn(2, h, grad=True), make.randn(h, 10, grad=True), make.randn(h, 10, grad=True)
    u = make.randn(2)
    assert gradcheck(lambda *factors: CP(*factors).symmetrise().interaction(u).eigh(2).values, factors)

"""What is symmetric: inner products of symmetric parts, roots and signs, against dense arrays."""

import pytest
import scipy.linalg
import torch

from bilens.algebra import signs, support, symmetric_root, unit_products
from bilens.algebra.cp import BLOCK
from bilens.base.errors import ShapeError


@pytest.mark.parametrize("other", ["cp", "tucker", "dense"])
def test_inner_of_symmetric_parts_is_the_dense_one(other, form_name, make, cube, close):
    T, S = make.form(form_name), make.form(other)
    one, two = ((array + array.mT) / 2 for array in (cube(T), cube(S)))
    scale = float(one.norm() * two.norm())
    close(T.inner(S, symmetric=True), (one * two).sum(), scale)
    close(T.inner(T, symmetric=True), one.square().sum())


@pytest.mark.parametrize("symmetric", [False, True])
def test_products_of_units_in_batches(symmetric, make, close):
    left, right, p, q = (make.randn(2, n, 4) for n in (3, 3, 5, 5))
    one, two = (torch.einsum("bhi,bhj->bhij", *pair) for pair in ((left, right), (p, q)))
    if symmetric:
        one = (one + one.mT) / 2
    truth = torch.einsum("bhij,bkij->bhk", one, two)
    close(unit_products((left, right), (p, q), symmetric), truth)
    own = torch.einsum("bhij,bkij->bhk", one, one)
    close(unit_products((left, right), (left, right), symmetric), own)
    close(unit_products((left, right), (left.clone(), right.clone()), symmetric), own)


@pytest.mark.parametrize("h", [1, 7, 2 * BLOCK + 3])  # one tile, and tiles beside the diagonal
def test_a_tensor_with_itself_and_with_itself_swapped(h, make, close):
    T = make.cp(2, 3, 3, h)
    cube = torch.einsum("oh,hi,hj->oij", T.out, T.left, T.right)
    for other, array in ((T, cube), (T.swap(), cube.mT), (T.clone(), cube)):
        close(T.inner(other), (cube * array).sum(), float(cube.norm() ** 2))
        both = (cube + cube.mT) / 2
        close(T.inner(other, symmetric=True), both.square().sum())


def test_two_spaces_have_no_symmetric_part(make, refuses):
    T = make.cp(3, 4, 5)
    text = "inner(symmetric=True) must have left and right of one size"
    refuses(ShapeError, lambda: T.inner(T, symmetric=True), text)


@pytest.mark.parametrize("power", [0, 600, -600])
def test_the_symmetric_root_is_that_of_scipy(power, make, close):
    basis = make.randn(5, 5)
    gram = basis @ basis.mT
    root = symmetric_root(gram * 2.0**power)
    truth = torch.from_numpy(scipy.linalg.sqrtm(gram.numpy()).real)
    close(root, truth * 2.0 ** (power // 2))
    close(symmetric_root(gram * 2.0**power, inverse=True) @ root, torch.eye(5).double(), tol=1e-9)


def test_the_root_of_lost_rank_is_zero_off_the_support(make, close):
    basis = torch.linalg.qr(make.randn(5, 5))[0][:, :2]
    gram = basis @ torch.diag(torch.tensor([4.0, 9.0]).double()) @ basis.mT
    found = support(gram, 1e-12)
    assert found.rank == 2
    close(found.power(0.5) @ found.power(0.5), gram)
    close(found.power(0.5) @ found.power(-0.5), basis @ basis.mT)
    assert support(gram * 0.0, 1e-12).rank == 0
    assert float(symmetric_root(gram * 0.0, inverse=True).abs().max()) == 0


def test_the_first_of_the_largest_entries_is_made_positive():
    rows = torch.tensor([[1.0, -3.0, 2.0], [-2.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, -1.01, 0.5]])
    assert signs(rows)[:, 0].tolist() == [-1, -1, 1, -1]
    assert signs(rows, tie=0.02)[:, 0].tolist() == [-1, -1, 1, 1]

"""Factored: every verb against the multiplied-out matrix."""

import pytest
import torch

from bilens.algebra import Factored
from bilens.base.errors import ShapeError

VERBS = {
    "AB": (lambda F: F.AB, lambda M: M),
    "T": (lambda F: F.T.dense(), lambda M: M.mT),
    "norm": (lambda F: F.norm(), lambda M: torch.linalg.norm(M, dim=(-2, -1))),
    "make_even": (lambda F: F.make_even().dense(), lambda M: M),
    "collapse_l": (lambda F: F.collapse_l().mT @ F.collapse_l(), lambda M: M.mT @ M),
    "collapse_r": (lambda F: F.collapse_r() @ F.collapse_r().mT, lambda M: M @ M.mT),
    "get_corner": (lambda F: F.get_corner(2), lambda M: M[..., :2, :2]),
    "unsqueeze": (lambda F: F.unsqueeze(0).dense(), lambda M: M[None]),
    "negation": (lambda F: (-F).dense(), lambda M: -M),
    "3 *": (lambda F: (3 * F).dense(), lambda M: 3 * M),
    "* tensor": (lambda F: (F * torch.tensor(0.5)).dense(), lambda M: M / 2),
    "U S V": (lambda F: F.U * F.S[..., None, :] @ F.V.mT, lambda M: M),
}


@pytest.fixture(params=[(), (2,), (2, 3)], ids=str)
def batch(request):
    return request.param


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("sizes", [(5, 3, 4), (2, 6, 3), (1, 1, 1)], ids=str)
def test_verb_is_the_dense_truth(verb, sizes, batch, make, close):
    factored = make.factored(*sizes, batch)
    does, means = VERBS[verb]
    close(does(factored), means(factored.a @ factored.b))


def test_svd_gives_v_and_not_its_transpose(batch, make, close):
    factored = make.factored(5, 3, 4, batch)
    u, s, v = factored.svd()
    assert (u.shape[-2:], s.shape[-1:], v.shape[-2:]) == ((5, 3), (3,), (4, 3))
    close(u @ torch.diag_embed(s) @ v.mT, factored.dense())
    close(s, torch.linalg.svdvals(factored.dense())[..., :3])
    close(v.mT @ v, torch.eye(3, dtype=v.dtype).expand(*batch, 3, 3))
    close(u.mT @ u, torch.eye(3, dtype=u.dtype).expand(*batch, 3, 3))


def test_leading_dims_broadcast(make, close):
    factored = Factored(make.randn(2, 1, 5, 3), make.randn(4, 3, 6))
    assert (factored.shape, factored.ndim) == ((2, 4, 5, 6), 4)
    close(factored.norm(), torch.linalg.norm(factored.dense(), dim=(-2, -1)))
    close(factored.unsqueeze(0).dense(), factored.dense()[None])


def test_sizes_and_pair(make):
    factored = make.factored(5, 3, 4)
    assert (factored.ldim, factored.mdim, factored.rdim) == (5, 3, 4)
    assert factored.pair == (factored.a, factored.b)
    assert repr(factored) == "Factored(shape=(5, 4), mdim=3, dtype=float64, device=cpu)"


@pytest.mark.parametrize("batch", [(), (5,), (3, 5)])
def test_products_from_both_sides(make, close, batch):
    factored = make.factored(5, 3, 4, batch)
    dense = factored.dense()
    vector, row, wide, tall = make.randn(4), make.randn(5), make.randn(4, 6), make.randn(2, 5)
    close(factored @ vector, dense @ vector)
    close((factored @ wide).dense(), dense @ wide)
    close(factored.__rmatmul__(row), row @ dense)
    close(factored.__rmatmul__(tall).dense(), tall @ dense)


def test_tensor_at_factored_uses_the_operator(make, close):
    factored, row, tall = make.factored(5, 3, 4), make.randn(5), make.randn(2, 5)
    close(row @ factored, row @ factored.dense())
    close((tall @ factored).dense(), tall @ factored.dense())


@pytest.mark.parametrize("middle", [2, 7])
def test_product_of_two_keeps_the_smaller_inner_size(middle, make, close):
    one, two = make.factored(5, 3, 4), make.factored(4, middle, 6)
    product = one @ two
    assert product.mdim == min(3, middle)
    close(product.dense(), one.dense() @ two.dense())


def test_square_verbs(batch, make, close):
    factored = make.factored(5, 3, 5, batch)
    dense = factored.dense()
    close(factored.trace(), dense.diagonal(dim1=-2, dim2=-1).sum(-1))
    close(factored.BA, factored.b @ factored.a)
    top = torch.linalg.eigvals(dense).abs().sort(descending=True)[0][..., :3]
    close(factored.eigenvalues.abs().sort(descending=True)[0], top)


def test_half_types_are_decomposed_in_float32(maker, close):
    factored = maker(0, torch.bfloat16).factored(5, 3, 4)
    close(factored.S, torch.linalg.svdvals(factored.a.float() @ factored.b.float())[:3])
    assert factored.norm().dtype == torch.bfloat16


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: Factored(torch.ones(2, 3), torch.ones(4, 2)),
            "Factored must get a (..., l, m) and b (..., m, r); got (2, 3), (4, 2)",
        ),
        (lambda: Factored(torch.ones(3), torch.ones(3, 2)), "got (3,), (3, 2)"),
        (
            lambda: Factored(torch.ones(2, 3), torch.ones(3, 2).double()),
            "one dtype and device; got float32 on cpu, float64 on cpu",
        ),
        (
            lambda: Factored(torch.ones(2, 3).int(), torch.ones(3, 2)),
            "Factored.a must have a real floating dtype",
        ),
        (
            lambda: Factored(torch.ones(2, 3), torch.ones(3, 4)).trace(),
            "Factored.trace must be asked of a square product",
        ),
        (
            lambda: Factored(torch.ones(2, 3), torch.ones(3, 4)).BA,
            "Factored.BA must come from a square product; got (2, 4)",
        ),
        (
            lambda: Factored(torch.ones(2, 3), torch.ones(3, 4)).unsqueeze(-1),
            "by a number ≥ 0; got -1",
        ),
        (
            lambda: Factored(torch.ones(2, 3), torch.ones(3, 4)) * torch.ones(2),
            "must be given a scalar; got (2,)",
        ),
    ],
)
def test_refuses(call, text, refuses):
    refuses(ShapeError, call, text)

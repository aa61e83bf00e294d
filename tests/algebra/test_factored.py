"""Factored: every verb against the multiplied-out matrix."""

import pickle

import numpy as np
import pytest
import torch

from bilens.algebra import Factored
from bilens.base.errors import (
    BilensError,
    BroadcastError,
    IndexingError,
    OperandError,
    ShapeError,
    SizeError,
)

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
    "A B": (lambda F: F.A @ F.B, lambda M: M),
    "one entry *": (lambda F: (torch.tensor([2.0]) * F).dense(), lambda M: 2 * M),
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


def test_vh_is_v_as_in_transformer_lens_and_says_so(make, close):
    factored = make.factored(5, 3, 4)
    with pytest.warns(DeprecationWarning, match=r"say \.V"):
        close(factored.Vh, factored.V)


def test_leading_dims_broadcast(make, close):
    factored = Factored(make.randn(2, 1, 5, 3), make.randn(4, 3, 6))
    assert (factored.shape, factored.ndim) == ((2, 4, 5, 6), 4)
    assert factored.has_leading_dims
    assert (factored.A.shape, factored.B.shape) == ((2, 4, 5, 3), (2, 4, 3, 6))
    assert factored.A.data_ptr() == factored.a.data_ptr()  # no copy
    close(factored.norm(), torch.linalg.norm(factored.dense(), dim=(-2, -1)))
    for dim in range(3):
        close(factored.unsqueeze(dim).dense(), factored.dense().unsqueeze(dim))


ALL = slice(None)
INDEXES = {  # of a (2, 3, 5, 7): what is asked, and the same of the dense matrix
    "int": (0, 0),
    "int, int": ((0, 1), (0, 1)),
    "slice, int": ((ALL, -1), (ALL, -1)),
    "row": ((0, 1, 3), (0, 1, slice(3, 4))),
    "last row": ((0, 1, -1), (0, 1, slice(4, 5))),
    "entry": ((1, 2, -1, -1), (1, 2, slice(4, 5), slice(6, 7))),
    "column": ((..., 1), (..., slice(1, 2))),
    "last column": ((..., -1), (..., slice(6, 7))),
    "numpy's int": ((..., np.int64(1)), (..., slice(1, 2))),
    "tensor's int": ((..., torch.tensor(1)), (..., slice(1, 2))),
    "all": (..., ...),
    "corner": ((..., slice(1, 4), slice(2, 6)), (..., slice(1, 4), slice(2, 6))),
    "steps": ((..., slice(0, 5, 2), slice(-3, None)), (..., slice(0, 5, 2), slice(-3, None))),
    "new dims": ((None, ..., None, ALL, ALL), (None, ..., None, ALL, ALL)),
    "no dots left": ((0, 1, ..., 2, ALL), (0, 1, slice(2, 3))),
    "columns by list": ((..., [1, 4]), (..., [1, 4])),
    "rows by array": ((..., np.array([1, 3]), ALL), (..., [1, 3], ALL)),
    "rows by yes and no": ((..., [True, False] * 2 + [True], ALL), (..., [0, 2, 4], ALL)),
    "no columns": ((..., []), (..., slice(0, 0))),
    "leading list": ([1, 0, 1], torch.tensor([1, 0, 1])),
    "leading tuple": (((1, 0), ..., 1), (torch.tensor([1, 0]), ..., slice(1, 2))),
    "leading table": (([[1, 0], [0, 1]],), (torch.tensor([[1, 0], [0, 1]]),)),
    "leading pairs": (([1, 0], [2, 0]), ([1, 0], [2, 0])),
    "leading, apart": (([1, 0], None, [2, 0]), ([1, 0], None, [2, 0])),
    "mask": (torch.tensor([True, False]), torch.tensor([True, False])),
    "mask of two": ((torch.eye(2, 3) > 0, ..., 1), (torch.eye(2, 3) > 0, ..., slice(1, 2))),
    "new, mask": ((None, (True, False)), (None, torch.tensor([True, False]))),
    "numpy's mask": (np.eye(2, 3) > 0, torch.eye(2, 3) > 0),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_gives_what_it_gives_of_the_product(name, make, close):
    factored = Factored(make.randn(2, 1, 5, 2), make.randn(3, 2, 7))
    index, dense = INDEXES[name]
    part = factored[index]
    assert part.mdim == 2
    close(part.AB, factored.AB[dense])


def test_rows_and_columns_are_taken_one_by_one_beside_leading_tensors(make, close):
    factored = make.factored(5, 2, 7, (3,))
    lead, rows, columns = torch.tensor([2, 0]), [0, 1], torch.tensor([3, 6])
    close(factored[lead, rows, columns].AB, factored.AB[lead][:, :2][..., columns])
    close(factored[:, rows, [4]].B, factored.B[..., [4]])


def test_bytes_are_a_mask_as_in_torch(make, close):
    factored, mask = make.factored(5, 2, 7, (2, 3)), torch.eye(2, 3, dtype=torch.uint8)
    with pytest.warns(UserWarning, match="uint8"):
        close(factored[mask].AB, factored.AB[mask.bool()])


def test_indexing_keeps_gradients_and_makes_no_product(make, monkeypatch):
    factored = Factored(make.randn(5, 2).requires_grad_(), make.randn(2, 7))
    monkeypatch.setattr(Factored, "dense", None)
    factored[1:3, [0, 4]].norm().backward()
    assert factored.a.grad[1:3].all()
    assert not factored.a.grad[3:].any()
    assert len(list(make.factored(5, 2, 7, (3,)))) == 3  # as a tensor goes over its first dim


def test_sizes_and_pair(make):
    factored = make.factored(5, 3, 4)
    assert (factored.ldim, factored.mdim, factored.rdim) == (5, 3, 4)
    assert all(map(torch.equal, factored.pair, (factored.a, factored.b)))
    assert not factored.has_leading_dims
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


CHAINS = [(3, 3, 3, 3), (1, 1, 1, 1), (2, 1, 1, 6), (4, 5, 5, 6), (6, 5, 5, 7), (6, 3, 3, 7)]


@pytest.mark.parametrize(("left", "right"), [((), ()), ((2,), ()), ((), (2,)), ((2, 9), (9,))])
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_products_keep_the_smallest_inner_size(chain, left, right, make, close):
    m, r, l, n = chain  # noqa: E741
    one, two = make.factored(8, m, r, left), make.factored(l, n, 7, right)
    tall = make.randn(*left, 4, 8)
    for product, truth, inner in (
        (one @ two, one.AB @ two.AB, min(chain)),
        (one @ two.AB, one.AB @ two.AB, min(m, r)),
        (one.AB @ two, one.AB @ two.AB, min(l, n)),
        (tall @ one, tall @ one.AB, min(8, m)),
    ):
        close(product.AB, truth)
        assert product.mdim == inner
        assert product.A.shape[:-2] == product.B.shape[:-2] == truth.shape[:-2]


FUNCTIONS = {
    "matmul": lambda F, x: torch.matmul(x, F),
    "matmul, vector": lambda F, x: torch.matmul(F, x[0]),
    "method": lambda F, x: x.matmul(F),
    "mul": lambda F, x: torch.mul(F, 2.0),
    "mul by a tensor": lambda F, x: torch.mul(torch.tensor(2.0), F),
    "neg": lambda F, x: torch.neg(F),
    "linalg.norm": lambda F, x: torch.linalg.norm(F),
    "matrix_norm": lambda F, x: torch.linalg.matrix_norm(F),
    "svdvals": lambda F, x: torch.linalg.svdvals(F)[..., :3],
    "singular vectors": lambda F, x: torch.linalg.svd(F, full_matrices=False)[2][..., :3, :].abs(),
    "svd": lambda F, x: torch.svd(F)[2][..., :3].abs(),
    "trace": lambda F, x: torch.trace(F),
    "adjoint": lambda F, x: torch.adjoint(F),
    "unsqueeze": lambda F, x: torch.unsqueeze(F, 0),
}


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_functions_take_a_factored(name, batch, make, close):
    if name == "trace" and batch:
        pytest.skip("torch's own trace takes no leading dims")
    factored, x = make.factored(5, 3, 5, batch), make.randn(4, 5)
    given = FUNCTIONS[name](factored, x)
    close(given.AB if isinstance(given, Factored) else given, FUNCTIONS[name](factored.AB, x))


class Guest:
    """A tensor's stand-in with an operator of its own."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __rmatmul__(self, other):
        return Guest(other @ self.tensor)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return function(*(arg.tensor if isinstance(arg, Guest) else arg for arg in args))


def test_guests_answer_themselves(make, close):
    factored, x = make.factored(5, 3, 4), make.randn(4)
    close((factored @ Guest(x)).tensor, factored.AB @ x)
    close(torch.matmul(factored, Guest(x)), factored.AB @ x)


def test_square_verbs(batch, make, close):
    factored = make.factored(5, 3, 5, batch)
    dense = factored.dense()
    close(factored.trace(), dense.diagonal(dim1=-2, dim2=-1).sum(-1))
    close(factored.BA, factored.b @ factored.a)
    top = torch.linalg.eigvals(dense).abs().sort(descending=True)[0][..., :3]
    close(factored.eigenvalues.abs().sort(descending=True)[0], top)


@pytest.mark.parametrize("scale", [1.0, 2.0**-301], ids=["one", "tiny"])
def test_eigenvalues_come_in_the_order_torch_gives(scale, make):
    factored = make.factored(6, 7, 6, (2, 100))  # singular: one of the seven is noise
    given, truth = (factored * scale).eigenvalues / scale, torch.linalg.eigvals(factored.BA)
    same = torch.isclose(given, truth, rtol=1e-9, atol=1e-12).all(-1)
    assert same.float().mean() > 0.97


def test_half_types_are_decomposed_in_float32(maker, close):
    factored = maker(0, torch.bfloat16).factored(5, 3, 4)
    close(factored.S, torch.linalg.svdvals(factored.a.float() @ factored.b.float())[:3])
    assert factored.norm().dtype == torch.bfloat16


def test_what_cancels_leaves_no_float32_rounding_in_the_norm(maker):
    """One matrix less nearly the same: of sixteen digits eight are left, of seven none would be."""
    make = maker(0, torch.float32)
    one, other = make.factored(8, 5, 6), make.randn(8, 5)
    a, b = torch.cat([one.a, -one.a + 1e-4 * other], 1), torch.cat([one.b, one.b])
    truth = float((a.double() @ b.double()).norm())
    assert float(Factored(a, b).norm()) == pytest.approx(truth, rel=1e-5)


def refused():
    plain, square = Factored(torch.ones(2, 3), torch.ones(3, 4)), torch.ones(2, 3).double()
    leading = Factored(torch.ones(2, 2, 3), torch.ones(3, 4))
    return [
        (
            SizeError,
            lambda: Factored(torch.ones(2, 3), torch.ones(4, 2)),
            "Factored must get a (..., l, m) and b (..., m, r); got (2, 3), (4, 2). They must",
        ),
        (ShapeError, lambda: Factored(torch.ones(3), torch.ones(3, 2)), "got (3,), (3, 2)"),
        (
            BroadcastError,
            lambda: Factored(torch.ones(9, 5, 3), torch.ones(2, 4, 3, 7)),
            "leading dims that broadcast; got a mismatch of (9, 5, 3), (2, 4, 3, 7)",
        ),
        (
            ShapeError,
            lambda: Factored(square, torch.ones(3, 2)),
            "one dtype and device; got float64 on cpu, float32 on cpu",
        ),
        (
            ShapeError,
            lambda: Factored(torch.ones(2, 3).int(), torch.ones(3, 2)),
            "Factored.a must have a real floating dtype",
        ),
        (SizeError, plain.trace, "Factored.trace must be asked of a square product"),
        (SizeError, lambda: plain.BA, "BA must come from a square product; got (2, 4)"),
        (SizeError, lambda: plain.eigenvalues, "BA must come from a square product"),
        (ShapeError, lambda: plain.unsqueeze(-1), "by a number ≥ 0; got -1"),
        (SizeError, lambda: plain * torch.ones(2), "must be given a scalar; got (2,)"),
        (SizeError, lambda: torch.ones(2, 2) * plain, "must be given a scalar; got (2, 2)"),
        (SizeError, lambda: plain @ plain, "must meet 4 entries"),
        (SizeError, lambda: torch.ones(3) @ plain, "must meet 2 entries"),
        (BroadcastError, lambda: leading @ torch.ones(3, 4, 2), "batch dims that broadcast"),
        (
            ShapeError,
            lambda: plain @ torch.ones(4).double(),
            "must be with float32 on cpu; got float64",
        ),
        (ShapeError, lambda: plain @ np.ones((4, 2)), "with a tensor or a Factored; got ndarray"),
        (ShapeError, lambda: np.ones((4, 2)) @ plain, "with a tensor or a Factored; got ndarray"),
        (ShapeError, lambda: plain @ "text", "with a tensor or a Factored; got str"),
        (IndexingError, lambda: plain[0, 0, 0], "for 2 dims; got too long an index, for 3"),
        (IndexingError, lambda: plain[..., 0, 0, 0], "too long an index"),
        (IndexingError, lambda: plain[..., ...], "one ellipsis"),
        (IndexingError, lambda: plain[2], "name one of 2 rows or columns; got 2"),
        (IndexingError, lambda: plain[:, -5], "name one of 4 rows or columns; got -5"),
        (IndexingError, lambda: leading[2], "fit (2, 2, 4); got index 2 is out of bounds"),
        (IndexingError, lambda: plain[[0, 2]], "fit (2, 4); got index 2 is out of bounds"),
        (IndexingError, lambda: plain[::-1], "step must be greater than zero"),
        (IndexingError, lambda: plain[:, None], "add dims before them alone; got None"),
        (IndexingError, lambda: plain[torch.ones(2, 4) > 0], "one by one"),
        (IndexingError, lambda: leading[torch.ones(2, 2) > 0], "one by one"),
        (IndexingError, lambda: plain[[[0, 1]]], "columns by vectors; got int64 (1, 2)"),
        (IndexingError, lambda: plain["row"], "tensors or lists of ints or booleans; got 'row'"),
        (IndexingError, lambda: plain[0.5], "tensors or lists of ints or booleans; got float32"),
        (OperandError, lambda: torch.add(plain, 1), "torch.trace, torch.unsqueeze; got torch.add."),
        (OperandError, lambda: torch.linalg.norm(plain, ord=1), "without further options"),
        (OperandError, lambda: torch.linalg.svd(plain), "pass full_matrices=False"),
    ]


@pytest.mark.bad_input
@pytest.mark.parametrize(("kind", "call", "text"), refused())
def test_refuses(kind, call, text, refuses):
    refuses(kind, call, text)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (SizeError, AssertionError),
        (BroadcastError, RuntimeError),
        (IndexingError, IndexError),
        (OperandError, TypeError),
    ],
)
def test_refusals_are_also_what_torch_and_transformer_lens_raise(kind, builtin):
    error = kind("F", must="fit", got=1)
    assert isinstance(error, builtin)
    assert isinstance(error, BilensError)
    assert isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == "F must fit; got 1."

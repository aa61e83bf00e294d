"""QuadraticForm.eigh against numpy's eigh of the explicit matrix, in full and reduced, with all
that it reports.
"""

import numpy as np
import pytest
import torch

from bilens.algebra import CP, QuadraticForm
from bilens.base.errors import ArgumentError, RangeError
from bilens.decompose import Dense, Lanczos, eigen

SIZES = {"full": (6, 4), "reduced": (9, 3)}  # (i, h); reduced where 2h < i
ORDER = {"magnitude": lambda v: -abs(v), "top": lambda v: -v, "bottom": lambda v: v}


@pytest.fixture(params=SIZES)
def form(request, make):
    return make.quadratic(*SIZES[request.param])


def expected(matrix, which):
    values = np.linalg.eigvalsh(matrix.numpy())
    return torch.from_numpy(values[np.argsort(ORDER[which](values), kind="stable")])


def kept(found):
    return torch.einsum("...k,...ki,...kj->...ij", found.values, found.vectors, found.vectors)


@pytest.mark.parametrize("which", ORDER)
@pytest.mark.parametrize("k", [1, 3, 6, 100, None])
def test_eigenpairs_are_numpys(form, which, k, matrix, close):
    q, found = matrix(form), form.eigh(k, which)
    size = form.shape[-1]
    count = size if k is None else min(k, size)
    truth = expected(q, which)
    assert (found.values.shape, found.vectors.shape) == ((count,), (count, size))
    close(found.values, truth[:count])
    close(found.spectrum, truth)
    close(found.vectors @ found.vectors.mT, torch.eye(count).double())
    close(found.vectors @ q, found.values[:, None] * found.vectors, scale=float(truth.abs().max()))
    assert bool(found.converged.all())
    assert (found.which, found.method, found.computed_in) == (which, "dense", "float64")


@pytest.mark.parametrize("which", ORDER)
@pytest.mark.parametrize("k", [1, 3, None])
def test_what_was_left_out_is_what_is_missing(form, which, k, matrix, close):
    q, found = matrix(form), form.eigh(k, which)
    missing, scale = (q - kept(found)).norm(), float(q.norm())
    close(found.discarded, missing, scale=scale)
    close(found.norm, q.norm())
    close(found.error, missing / q.norm(), scale=1)
    values = torch.linalg.eigvalsh(q)
    close(found.effective_rank, values.abs().sum() ** 2 / values.square().sum())


def test_residuals_are_measured(form, matrix, close):
    found = form.eigh(2)
    truth = (found.vectors @ matrix(form) - found.values[:, None] * found.vectors).norm(dim=-1)
    close(found.residuals, truth, scale=float(found.values.abs().max()))
    assert not bool(form.eigh(2, tol=0.0).converged.all())


def test_largest_entry_of_a_vector_is_positive(form):
    vectors = form.eigh().vectors
    assert bool((vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True)) > 0).all())


@pytest.mark.parametrize("path", SIZES)
@pytest.mark.parametrize("which", ORDER)
def test_a_batch_is_its_forms_one_by_one(path, which, make, close):
    forms = make.quadratic(*SIZES[path], batch=(2, 3))
    found = forms.eigh(2, which)
    for n in range(2):
        for m in range(3):
            alone = QuadraticForm(forms.weights[n, m], forms.left, forms.right).eigh(2, which)
            close(found.values[n, m], alone.values)
            close(found.vectors[n, m], alone.vectors)
            close(found.discarded[n, m], alone.discarded)
    assert len(found.rows()) == 12
    assert np.shape(found.degenerate)[:2] == (2, 3)


def test_equal_eigenvalues_are_one_block(make, close):
    form = make.spectral(2.0, 2.0, 2.0, 2.0)
    found = form.eigh()
    assert found.degenerate == [(0, 1, 2, 3)]
    assert not bool(found.cut)
    assert bool(form.eigh(2).cut)
    close(found.effective_rank, torch.tensor(4.0).double())


def test_a_repeated_eigenvalue_is_a_block_of_its_own(make):
    found = make.spectral(5.0, 3.0, 3.0, 1.0).eigh()
    assert found.degenerate == [(1, 2)]
    cuts = [bool(make.spectral(5.0, 3.0, 3.0, 1.0).eigh(k).cut) for k in (1, 2, 3, 4)]
    assert cuts == [False, True, False, False]


@pytest.mark.parametrize("which", ["magnitude", "top"])
def test_signs_set_eigenvalues_apart(which, make, close):
    found = make.spectral(2.0, -2.0, 1.0, -1.0).eigh(which=which)
    assert found.degenerate == []
    close(found.values.abs().sort()[0], torch.tensor([1.0, 1.0, 2.0, 2.0]).double())
    assert not bool(make.spectral(2.0, -2.0).eigh(1).cut)


@pytest.mark.parametrize("hidden", [0, 2, 4])
def test_zero_matrix(hidden, make):
    form = make.quadratic(6, hidden) * 0.0
    for which in ORDER:
        found = form.eigh(2, which)
        assert bool((found.values == 0).all())
        assert bool((found.spectrum == 0).all())
        assert bool(found.converged.all())
        assert bool(found.cut)
        assert found.degenerate == [(0, 1)]
        assert (float(found.error), float(found.effective_rank), float(found.discarded)) == (
            0,
            0,
            0,
        )
        assert all(row["share of ‖Q‖²"] == 0 for row in found.rows())


def test_a_single_direction_has_effective_rank_one(make, close):
    x = make.randn(1, 7)
    found = QuadraticForm(torch.ones(1).double(), x, x).eigh(1)
    close(found.values, x.square().sum()[None])
    close(found.effective_rank, torch.tensor(1.0).double())
    assert float(found.error) < 1e-10


def test_size_one(make, close):
    form = make.quadratic(1, 3)
    close(form.eigh().values, form.dense()[0])


def test_left_equal_to_right_is_reduced_too(make, matrix, close):
    left = make.randn(2, 9)
    form = QuadraticForm(make.randn(2), left, left)
    close(form.eigh(4).spectrum, expected(matrix(form), "magnitude"))


def test_float32_and_bfloat16(maker, matrix, close):
    for dtype in (torch.float32, torch.bfloat16):
        form = maker(0, dtype).quadratic(9, 3)
        found = form.eigh(2)
        assert (found.values.dtype, found.computed_in) == (torch.float32, "float32")
        close(found.values, expected(matrix(form), "magnitude")[:2])


def test_rows_say_what_each_pair_is(make):
    form = make.spectral(4.0, -3.0)
    first, second = form.eigh().rows()
    assert (first["of"], first["k"], first["converged"], first["block"]) == ("0", 0, True, 1)
    assert (round(first["value"], 9), round(second["value"], 9)) == (4, -3)
    assert round(first["share of ‖Q‖²"], 9) == 16 / 25
    assert "2 eigenpairs by magnitude of size 2, dense in float64" in form.eigh().summary()


SCALES = [
    (torch.float32, 1e-30),
    (torch.float32, 1e-18),
    (torch.float32, 1e30),
    (torch.float64, 1e-200),
    (torch.float64, 1e200),
]


@pytest.mark.parametrize("solver", [Dense(), Lanczos()], ids=["dense", "lanczos"])
@pytest.mark.parametrize("where", ["out", "left", "all", "one unit"])
@pytest.mark.parametrize(("dtype", "scale"), SCALES)
def test_relative_figures_do_not_depend_on_the_scale(dtype, scale, where, solver, maker):
    plain = maker(1, dtype).cp(3, 12, h=20)
    by = {"out": (scale, 1, 1), "left": (1, scale, 1), "all": (scale,) * 3, "one unit": (1, 1, 1)}[
        where
    ]
    factors = [
        factor * size for factor, size in zip((plain.out, plain.left, plain.right), by, strict=True)
    ]
    if where == "one unit":  # the same tensor in another gauge
        factors[0][:, 0], factors[1][0] = factors[0][:, 0] * scale, factors[1][0] / scale
    tensor = CP(*factors)
    if where == "all" and dtype == torch.float64:
        with pytest.raises(RangeError, match="eigenvalues must lie in the range of float64"):
            eigen(tensor, k=4, solver=solver)
        return
    found, truth = eigen(tensor, k=4, solver=solver), eigen(plain.to(torch.float64), k=4)
    tol = 1e-5 if dtype == torch.float32 else 1e-10
    size = float(np.prod([float(x) for x in by]))
    assert torch.allclose(found.values.double() / size, truth.values, rtol=tol, atol=0)
    assert torch.allclose(found.error.double(), truth.error, atol=10 * tol)
    assert found.degenerate == truth.degenerate
    assert found.converged.all()
    shares, expected = ([row["share of ‖Q‖²"] for row in one.rows()] for one in (found, truth))
    assert shares == pytest.approx(expected, abs=10 * tol)
    if solver == Dense():
        assert torch.allclose(found.effective_rank.double(), truth.effective_rank, rtol=10 * tol)
        form, same = (
            one.interaction(torch.eye(3, dtype=one.dtype)[0])
            for one in (tensor, plain.to(torch.float64))
        )
        assert torch.allclose(form.gates(3).share.double(), same.gates(3).share, rtol=10 * tol)


@pytest.mark.bad_input
def test_an_eigensolver_that_gives_up_is_one_line(make, monkeypatch, refuses):
    def fail(matrix):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    refuses(ArgumentError, lambda: make.quadratic().eigh(), "eigh must converge")

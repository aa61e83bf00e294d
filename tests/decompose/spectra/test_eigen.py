"""Spectra of many output directions at once."""

import math

import numpy as np
import pytest
import torch

from bilens.algebra import CP
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.decompose import Auto, Chunks, Dense, Lanczos, effective_rank, eigen


@pytest.mark.parametrize("h", [2, 9], ids=["reduced", "full"])
def test_is_the_spectrum_of_each_interaction_matrix(h, make, cube, close):
    tensor, u = make.cp(3, 8, h=h), make.randn(4, 3)
    found = eigen(tensor, u, k=3)
    q = torch.einsum("no,oij->nij", u, cube(tensor))
    values = np.linalg.eigvalsh(((q + q.mT) / 2).numpy())
    truth = np.take_along_axis(values, np.argsort(-abs(values)), -1)[:, :3]
    close(found.values, torch.from_numpy(truth))
    assert (found.vectors.shape, found.spectrum.shape) == ((4, 3, 8), (4, 8))


def test_an_unsymmetrised_tensor_has_the_spectrum_of_its_symmetric_part(
    form_name, make, cube, close
):
    """The peer's fault: eigh of the raw slice reads one triangle and is wrong."""
    tensor = make.form(form_name, 3, 5)
    found = eigen(tensor, k=None)
    close(found.values, eigen(tensor.symmetrise(), k=None).values)
    raw = cube(tensor)
    close(found.values.sort()[0], torch.linalg.eigvalsh((raw + raw.mT) / 2))
    if form_name != "symmetric cp":
        assert float((found.values.sort()[0] - torch.linalg.eigvalsh(raw)).abs().max()) > 0.1


def test_eigenvectors_give_the_output_on_inputs(make, close):
    tensor, u, x = make.cp(3, 6), make.randn(2, 3), make.randn(5, 6)
    found = eigen(tensor, u, k=None)
    terms = found.values * torch.einsum("nki,bi->bnk", found.vectors, x).square()
    close(terms.sum(-1), tensor(x) @ u.mT)


def test_none_takes_every_output(make, close):
    tensor = make.cp(3, 6)
    close(eigen(tensor).values, eigen(tensor, torch.eye(3).double()).values)


@pytest.mark.parametrize("which", ["magnitude", "top", "bottom"])
def test_chunks_do_not_change_the_result(which, make, close):
    tensor, u = make.cp(3, 6), make.randn(5, 3)
    whole, parts = (
        eigen(tensor, u, 2, which=which),
        eigen(tensor, u, 2, which=which, chunks=Chunks(max_bytes=2 * 2 * 8 * 36)),
    )
    for name in ("values", "vectors", "residuals", "discarded", "norm", "spectrum"):
        close(getattr(parts, name), getattr(whole, name), scale=float(whole.norm.max()))
    for name in ("blocks", "cut", "converged"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))


def test_labels_name_the_rows(make):
    found = eigen(make.cp(2, 4), k=1).labelled(["cat", "dog"])
    assert [row["of"] for row in found.rows()] == ["cat", "dog"]
    assert [trace["name"] for trace in found.figure()["data"]] == ["cat", "dog"]


def test_effective_rank_counts_equal_directions(make, close):
    close(effective_rank(make.spectral(2.0, 2.0, -2.0, 0.0)), torch.tensor(3.0).double())
    form = make.quadratic(9, 3)
    values = torch.linalg.eigvalsh(form.dense())
    close(effective_rank(form), values.abs().sum() ** 2 / values.square().sum())


def test_tol_decides_what_converged(make):
    assert not bool(eigen(make.cp(), k=None, solver=Auto(tol=0.0)).converged.all())
    assert bool(eigen(make.cp(), solver=Auto(tol=math.inf)).converged.all())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "kwargs", "text"),
    [
        (
            ShapeError,
            {"directions": torch.ones(2, 4).double()},
            "must end in 3 (T is (3, 4, 4)); got (2, 4)",
        ),
        (
            ShapeError,
            {"directions": torch.ones(3).double()},
            "directions must be a tensor (n, 3) with n ≥ 1; got (3,)",
        ),
        (
            ShapeError,
            {"directions": torch.ones(0, 3).double()},
            "directions must be a tensor (n, 3) with n ≥ 1; got (0, 3)",
        ),
        (
            ShapeError,
            {"directions": torch.ones(2, 3)},
            "must be float64 on cpu like T; got float32 on cpu",
        ),
        (
            NotFiniteError,
            {"directions": torch.full((2, 3), math.nan).double()},
            "eigen.directions must be finite; got 6 NaN",
        ),
        (ArgumentError, {"k": 0}, "k must be a whole number ≥ 1, or None for all; got 0"),
        (
            ArgumentError,
            {"which": "best"},
            "which must be one of magnitude, top, bottom; got 'best'",
        ),
        (ArgumentError, {"solver": "lanczos"}, "solver must be Auto(), Dense() or Lanczos()"),
        (ArgumentError, {"solver": Lanczos}, "solver must be Auto(), Dense() or Lanczos()"),
        (ArgumentError, {"chunks": 3}, "chunks must be a Chunks(size=…, folder=…); got 3"),
    ],
)
def test_refuses(kind, kwargs, text, make, refuses):
    refuses(kind, lambda: eigen(make.cp(), **kwargs), text)


@pytest.mark.bad_input
@pytest.mark.parametrize("labels", [["one"], "one", 3, ["a", "b", "c", "d"]])
def test_refuses_labels_that_do_not_name_each_direction(labels, make, refuses):
    whole = make.cp()
    for found in (eigen(whole), eigen(whole, measure=make.randn(9, 4))):
        refuses(ArgumentError, lambda found=found: found.labelled(labels), "labels must")


@pytest.mark.bad_input
@pytest.mark.parametrize("solver", [Auto, Dense, Lanczos])
@pytest.mark.parametrize("tol", [-1e-9, math.nan, "small", True])
def test_refuses_a_tolerance_that_is_none(solver, tol, refuses):
    refuses(ArgumentError, lambda: solver(tol=tol), f"{solver.__name__}.tol must be a number ≥ 0")


@pytest.mark.bad_input
@pytest.mark.parametrize("option", ["norm", "certify"])
@pytest.mark.parametrize("solver", [Auto, Lanczos])
def test_refuses_an_option_that_is_no_truth_value(solver, option, refuses):
    refuses(
        ArgumentError,
        lambda: solver(**{option: 1}),
        f"{solver.__name__}.{option} must be True or False; got 1",
    )


@pytest.mark.parametrize("factor", ["out", "left", "right"])
def test_refuses_a_tensor_with_nan(factor, make, refuses):
    tensor = make.cp()
    getattr(tensor, factor)[0, 0] = math.nan
    refuses(NotFiniteError, lambda: eigen(tensor), "must be finite")


def test_refuses_left_and_right_of_different_spaces(make, refuses):
    refuses(ShapeError, lambda: eigen(make.cp(3, 4, 5)), "must have left and right of one size")


def test_bfloat16_directions_are_not_rounded_further(maker):
    """The residual says how far each value can be off; so the values must be those of the bfloat16
    factors, exactly fed.
    """
    make = maker(0, torch.bfloat16)
    tensor, directions = make.cp(10, 32, h=64), make.randn(3, 10)
    found = eigen(tensor, directions, k=4)
    truth = eigen(tensor.to(torch.float64), directions.to(torch.float64), k=4)
    assert found.computed_in == "float32"
    torch.testing.assert_close(found.values.double(), truth.values, rtol=1e-5, atol=0)


@pytest.mark.parametrize("form", ["dense", "tucker"])
def test_only_as_many_matrices_as_fit_are_made_at_once(make, form, monkeypatch):
    """Factors of their own for each direction: all together would be directions × i × i numbers."""
    tensor, u, sizes = getattr(make, form)(), make.randn(9, 3), []
    whole = type(tensor).interaction
    monkeypatch.setattr(
        type(tensor), "interaction", lambda self, u: sizes.append(len(u)) or whole(self, u)
    )
    i = tensor.shape[1]
    eigen(tensor, u, k=2, chunks=Chunks(max_bytes=2 * (2 * 8 * i * i)))
    assert max(sizes) == 2


@pytest.mark.parametrize("solver", [Dense(), Lanczos()], ids=["dense", "lanczos"])
def test_more_pairs_than_there_are_is_all_of_them(make, solver):
    assert eigen(make.cp(2, 5, h=9), k=40, solver=solver).values.shape == (2, 5)


@pytest.mark.parametrize("solver", [Dense(), Lanczos()], ids=["dense", "lanczos"])
def test_a_layer_without_hidden_units_is_zero(solver):
    empty = CP(torch.zeros(2, 0), torch.zeros(0, 5), torch.zeros(0, 5))
    found = eigen(empty, k=3, solver=solver)
    assert (
        float(found.values.abs().max()),
        float(found.error.max()),
        bool(found.converged.all()),
    ) == (0, 0, True)


@pytest.mark.parametrize("solver", [Dense(), Lanczos()], ids=["dense", "lanczos"])
@pytest.mark.parametrize(
    "values", [[2.0] * 6, [3.0, -3.0, 2.0, -2.0, 1.0, -1.0]], ids=["all equal", "± pairs"]
)
def test_spectra_without_an_order(make, solver, values):
    form = make.spectral(*values)
    found = eigen(CP(form.weights[None], form.left, form.right), k=4, solver=solver)
    assert sorted(found.values[0].abs().tolist(), reverse=True) == pytest.approx(
        [abs(v) for v in values[:4]], abs=1e-9
    )
    assert found.converged.all()
    gram = found.vectors[0] @ found.vectors[0].mT
    assert torch.allclose(gram, torch.eye(4).double(), atol=1e-8)
    if values == [2.0] * 6:
        assert found.degenerate == [[(0, 1, 2, 3)]]
        assert found.cut.all()


@pytest.mark.parametrize("solver", [Dense(), Lanczos()], ids=["dense", "lanczos"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_and_strided_factors(make, solver, dtype):
    tensor = make.cp(2, 12, h=20).to(dtype)
    strided = CP(
        tensor.out.mT.contiguous().mT,
        tensor.left.mT.contiguous().mT,
        tensor.right.mT.contiguous().mT,
    )
    found, truth = eigen(strided, k=3, solver=solver), eigen(tensor.to(torch.float64), k=3)
    assert found.computed_in == "float32"
    assert (found.values.double() - truth.values).abs().max() < 1e-5 * truth.values.abs().max()

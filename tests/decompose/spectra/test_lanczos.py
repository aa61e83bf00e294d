"""Lanczos in lock step against the dense solver: easy and hard spectra, multiple eigenvalues, and
honest flags.
"""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilens.algebra import CP, QuadraticForm
from bilens.base.errors import ArgumentError, NotFiniteError
from bilens.decompose import Chunks, Dense, Lanczos, eigen
from bilens.decompose.spectra.lanczos import lanczos


def random_cp(make, o=4, i=40, h=60):
    return make.cp(o, i, h=h)


def diagonal(*values, size=30):
    """Forms with these eigenvalues, each row of a list one form, padded with zeros."""
    weights = torch.zeros(len(values), size, dtype=torch.float64)
    for row, given_values in zip(weights, values, strict=True):
        row[: len(given_values)] = torch.tensor(given_values, dtype=torch.float64)
    turn = torch.linalg.qr(
        torch.randn(size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ).Q
    return QuadraticForm(weights, turn, turn)


@pytest.mark.parametrize("which", ["magnitude", "top", "bottom"])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_it_finds_what_the_dense_solver_finds(make, which, k):
    tensor = random_cp(make)
    found, truth = (
        eigen(tensor, k=k, solver=solver, which=which) for solver in (Lanczos(), Dense())
    )
    assert found.method == "lanczos"
    assert found.converged.all()
    scale = truth.values.abs().max()
    assert (found.values - truth.values).abs().max() < 1e-10 * scale
    outer = (torch.einsum("nki,nkj->nkij", one.vectors, one.vectors) for one in (found, truth))
    assert torch.allclose(*outer, atol=1e-5)
    assert found.discarded == pytest.approx(truth.discarded, rel=1e-8, abs=1e-6 * float(scale))
    assert torch.equal(found.norm, truth.norm)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([-3.0, -1.0, 0.0, 1.0, 2.0, 3.0, 1e-9]), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_multiple_eigenvalues_are_found_as_often_as_they_are_there(values, k):
    form = diagonal(values, [1.0])
    found, truth = lanczos(form, k, "magnitude", 1e-10), form.eigh(k)
    assert found.converged.all()
    assert torch.allclose(found.values.abs(), truth.values.abs(), atol=1e-9)


@pytest.mark.parametrize(
    ("values", "k", "expected"),
    [
        ([2.0] * 30, 5, [2.0] * 5),
        ([1.0, -1.0, 0.5, -0.5], 4, [1.0, -1.0, 0.5, -0.5]),
        ([], 3, [0.0] * 3),
        ([5.0, 5.0, 5.0, 4.0], 4, [5.0, 5.0, 5.0, 4.0]),
    ],
)
def test_hard_spectra(values, k, expected):
    """All equal, symmetric about zero, a rank-0 form, and a triple one."""
    found = lanczos(diagonal(values), k, "magnitude", 1e-10)
    assert sorted(found.values[0].abs().tolist()) == pytest.approx(
        sorted(map(abs, expected)), abs=1e-9
    )
    assert found.converged.all()
    gram = found.vectors[0] @ found.vectors[0].mT
    assert torch.allclose(gram, torch.eye(k, dtype=torch.float64), atol=1e-8)


def test_copies_are_degenerate_and_a_cut_among_them_is_said():
    tensor_values = [5.0, 5.0, 5.0, 4.0]
    turn = diagonal([1.0]).left
    weights = torch.zeros(1, 30, dtype=torch.float64)
    weights[0, :4] = torch.tensor(tensor_values)
    found = eigen(CP(weights, turn, turn), k=4, solver=Lanczos())
    assert found.degenerate == [[(0, 1, 2)]] or found.degenerate[0] == [(0, 1, 2)]
    assert not found.cut.any()


def test_a_direction_that_does_not_converge_is_flagged(make):
    form = random_cp(make, i=60, h=90).interaction(torch.eye(4, dtype=torch.float64))
    found = lanczos(form, 8, "magnitude", 1e-12, max_steps=14)
    assert not found.converged.any()
    whole = lanczos(form, 8, "magnitude", 1e-12)
    assert whole.converged.all()
    assert (found.values.abs() <= whole.values.abs().amax(-1, keepdim=True) * (1 + 1e-12)).all()


def test_restarts_reach_the_same_pairs(make, monkeypatch):
    form = random_cp(make, i=120, h=150).interaction(torch.eye(4, dtype=torch.float64))
    monkeypatch.setattr(sys.modules[lanczos.__module__], "room", lambda k, size: k + 12)
    found, truth = lanczos(form, 6, "magnitude", 1e-10), form.eigh(6)
    assert found.converged.all()
    assert found.steps > 18
    assert torch.allclose(found.values, truth.values, atol=1e-10 * float(truth.values.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(make, dtype):
    tensor = random_cp(make).to(dtype)
    found, truth = (
        eigen(tensor, k=4, solver=Lanczos()),
        eigen(tensor.to(torch.float64), k=4, solver=Dense()),
    )
    assert found.computed_in == "float32"
    assert found.converged.all()
    assert (found.values.double() - truth.values).abs().max() < 1e-5 * truth.values.abs().max()


def test_non_contiguous_factors_and_one_direction(make):
    tensor = random_cp(make)
    turned = CP(tensor.out.mT.contiguous().mT, tensor.left.mT.contiguous().mT, tensor.right)
    u = make.randn(1, 4)
    found = (eigen(one, u, k=3, solver=Lanczos()) for one in (turned, tensor))
    assert torch.allclose(*(one.values for one in found), atol=1e-10)


def test_chunks_and_seeds_change_nothing(make):
    tensor, u = random_cp(make), make.randn(7, 4)
    whole, chunked = (
        eigen(tensor, u, k=3, solver=Lanczos(), chunks=Chunks(max_bytes=size))
        for size in (2**30, 2**17)
    )
    assert torch.allclose(whole.values, chunked.values, atol=1e-10)


def test_auto_takes_the_cheaper(make):
    assert eigen(make.cp(2, 20, h=30), k=2).method == "dense"
    assert eigen(make.cp(2, 600, h=700), k=2).method == "lanczos"
    assert eigen(make.cp(2, 600, h=700), k=300).method == "dense"


def test_what_cancels_leaves_no_float32_rounding_in_what_was_left_out(maker):
    """The difference of two layers that are nearly one, as of two checkpoints."""
    make = maker(3, torch.float32)
    one = make.cp(2, 40, h=9)
    T = one - CP(one.out, one.left, one.right + 1e-3 * make.randn(9, 40))
    found, truth = eigen(T, k=3, solver=Lanczos()), eigen(T.to(torch.float64), k=3, solver=Dense())
    torch.testing.assert_close(found.norm.double(), truth.norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.error.double(), truth.error, rtol=1e-2, atol=0)


@pytest.mark.parametrize(("dtype", "told"), [(torch.float32, 1e-3), (torch.float64, 1e-7)])
def test_where_nothing_is_left_out_no_more_is_told_than_is_said(maker, dtype, told):
    make = maker(5, dtype)
    for h in (3, 4, 6):
        found = eigen(make.cp(4, 60, h=h), k=2 * h, solver=Lanczos())
        assert (found.error < told).all()


def test_no_gradients_flow(make):
    directions = make.randn(2, 3, grad=True)
    found = eigen(make.cp(3, 12), directions, 2, solver=Lanczos(certify=True))
    assert not any(t.requires_grad for t in vars(found).values() if isinstance(t, torch.Tensor))


def test_lanczos_tells_what_it_left_out_only_where_asked(make):
    tensor = random_cp(make)
    bare, whole = (eigen(tensor, k=3, solver=Lanczos(norm=norm)) for norm in (False, True))
    assert torch.equal(bare.values, whole.values)
    assert bare.error.isnan().all()
    assert not whole.error.isnan().any()
    assert "not measured" in bare.summary()


def test_residuals_are_no_smaller_than_what_each_pair_misses(make, matrix):
    """In float32, where rounding is most of it: Lanczos' bounds alone would promise too much."""
    form = make.cp(8, 200, h=400).to(torch.float32).interaction(torch.eye(8))
    found = eigen(
        CP(torch.eye(8) @ form.weights, form.left, form.right), k=5, solver=Lanczos(tol=1e-12)
    )
    truth = (
        matrix(form) @ found.vectors.double().mT
        - found.vectors.double().mT * found.values.double()[:, None]
    )
    assert not found.converged.any()  # no float32 pair is as good as that
    assert (truth.norm(dim=1).norm(dim=-1) <= 3 * found.residuals.norm(dim=-1)).all()


def test_a_partial_spectrum_has_no_effective_rank(refuses, make):
    found = eigen(random_cp(make), k=3, solver=Lanczos())
    refuses(
        ArgumentError,
        lambda: found.effective_rank,
        "effective_rank must be asked of a whole spectrum",
    )


@pytest.mark.bad_input
def test_what_cannot_be_is_refused(refuses, make):
    tensor = random_cp(make)
    broken = CP(tensor.out, tensor.left * torch.nan, tensor.right)
    refuses(NotFiniteError, lambda: eigen(broken, k=2, solver=Lanczos()), "must be finite")
    refuses(
        NotFiniteError,
        lambda: eigen(tensor, make.randn(1, 4) * torch.nan, solver=Lanczos()),
        "directions must be finite",
    )
    refuses(ArgumentError, lambda: eigen(tensor, k=0, solver=Lanczos()), "k must be a whole number")
    zero = eigen(tensor, torch.zeros(1, 4, dtype=torch.float64), k=3, solver=Lanczos())
    assert zero.values.abs().max() == 0
    assert zero.converged.all()

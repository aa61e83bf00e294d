"""HOSVD against tensorly, torch's SVD of the unfoldings, and the dense error."""

import math

import pytest
import tensorly
import torch
from tensorly.decomposition import tucker as hooi

from bilens.algebra import CP, Dense
from bilens.base.axes import MODES
from bilens.base.errors import ArgumentError, NotFiniteError
from bilens.decompose import hosvd


def unfoldings(cube):
    return {mode: torch.from_numpy(tensorly.unfold(cube.numpy(), n)) for n, mode in enumerate(MODES)}


def true_error(found, truth):
    return float((truth - found.tucker.dense()).norm() / truth.norm())


@pytest.mark.parametrize("shape", [(3, 4, 4), (5, 2, 6), (1, 3, 1)], ids=str)
@pytest.mark.parametrize("name", ["cp", "tucker", "dense"])
def test_spectra_and_bases_are_those_of_the_unfoldings(name, shape, make, cube, close):
    tensor = make.form(name, *shape)
    found = hosvd(tensor, 2)
    for mode, unfolded in unfoldings(cube(tensor)).items():
        u, s, _ = torch.linalg.svd(unfolded, full_matrices=False)
        whole = torch.nn.functional.pad(s, (0, len(unfolded) - len(s)))
        close(found.spectrum[mode], whole, tol=1e-7)  # a Gram squares the condition number: √eps
        kept = found.bases[mode].shape[1]
        assert kept == min(2, len(unfolded))
        if kept < len(s) and s[kept - 1] - s[kept] > 1e-3 * s[0]:
            close(found.bases[mode] @ found.bases[mode].mT, u[:, :kept] @ u[:, :kept].mT, tol=1e-8)


def test_untruncated_is_exact(form_name, make, cube, close):
    tensor = make.form(form_name)
    found = hosvd(tensor)
    close(found.tucker.dense(), cube(tensor))
    assert found.ranks == (3, 4, 4)
    assert (found.error, found.bound) == (0, 0)
    assert found.discarded == dict.fromkeys(MODES, 0.0)
    core = found.tucker.core
    for unfolded in unfoldings(core).values():  # all-orthogonality, De Lathauwer et al. 2000, theorem 2
        close(unfolded @ unfolded.mT, torch.diag_embed((unfolded @ unfolded.mT).diagonal()), scale=float(core.norm() ** 2))


@pytest.mark.parametrize("rank", [1, 2, 3, (2, 3, 1), (1, 4, 4), (3, 2, 4), (100, 1, 100)], ids=str)
def test_error_is_the_true_error_below_its_bound(form_name, rank, make, cube):
    tensor = make.form(form_name)
    found, truth = hosvd(tensor, rank), cube(tensor)
    wanted = rank if isinstance(rank, tuple) else (rank,) * 3
    assert found.ranks == tuple(min(r, size) for r, size in zip(wanted, tensor.shape, strict=True))
    assert found.error == pytest.approx(true_error(found, truth), abs=1e-12)
    assert found.error <= found.bound + 1e-12
    for mode, unfolded in unfoldings(truth).items():
        left_out = torch.linalg.svdvals(unfolded)[found.bases[mode].shape[1] :].norm()
        assert found.discarded[mode] == pytest.approx(float(left_out), abs=1e-6)


@pytest.mark.parametrize("tiny", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("dense", [False, True])
def test_a_tiny_error_is_still_right(tiny, dense, make, cube):
    small = make.cp(6, 7, h=2)
    tensor = small + make.cp(6, 7, h=5) * tiny
    truth = cube(tensor)
    found = hosvd(Dense(truth) if dense else tensor, 2)
    assert 0.01 * tiny < found.error < 100 * tiny
    assert found.error == pytest.approx(true_error(found, truth), rel=1e-5)
    assert found.error <= found.bound * (1 + 1e-6) or found.bound < max(found.noise.values()) / found.norm


def test_close_to_the_best_that_tensorly_finds(make, cube):
    """De Lathauwer: HOSVD is within √3 of the best approximation, which HOOI (started there) comes at least near to."""
    truth = cube(make.cp(5, 6))
    _, errors = hooi(truth.numpy(), rank=[2, 3, 3], init="svd", n_iter_max=50, return_errors=True)
    error = hosvd(Dense(truth), (2, 3, 3)).error
    assert errors[-1] - 1e-9 <= error <= 3**0.5 * errors[-1] + 1e-9


def test_cutoff_keeps_what_is_above_it(make):
    tensor = make.cp(4, 6)
    spectra = hosvd(tensor).spectrum
    for cutoff in (0.0, 0.3, 0.6, 0.999):
        kept = tuple(int((spectra[mode] > cutoff * spectra[mode][0]).sum()) for mode in MODES)
        assert hosvd(tensor, cutoff=cutoff).ranks == kept
        assert hosvd(tensor, 2, cutoff).ranks == tuple(min(2, n) for n in kept)


def test_low_rank_is_found(make):
    found = hosvd(make.cp(5, 6, h=2), cutoff=1e-6)
    assert found.ranks == (2, 2, 2)
    assert found.error < 1e-12
    noisy = [row for row in found.rows() if not row["above noise"]]
    assert len(noisy) == 3 + 4 + 4


def test_zero_tensor(make):
    found = hosvd(make.cp() * 0.0, 2)
    assert (found.error, found.bound, found.norm) == (0, 0, 0)
    assert hosvd(make.cp() * 0.0, cutoff=0.1).ranks == (1, 1, 1)


def test_works_in_float64_and_keeps_no_graph(maker, close):
    make = maker(0, torch.float32)
    tensor = CP(make.randn(3, 7, grad=True), make.randn(7, 4, grad=True), make.randn(7, 4, grad=True))
    found = hosvd(tensor, 2)
    assert found.computed_in == "float64"
    assert found.tucker.dtype == torch.float64
    assert not found.tucker.core.requires_grad


def test_rows_and_summary(make):
    found = hosvd(make.cp(), (1, 2, 3))
    rows = found.rows()
    assert [sum(row["kept"] for row in rows if row["mode"] == mode) for mode in MODES] == [1, 2, 3]
    assert sum(row["share of ‖T‖²"] for row in rows) == pytest.approx(3)
    assert "kept out 1 of 3, left 2 of 4, right 3 of 4; relative error" in found.summary()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"max_rank": 0}, "max_rank must be a whole number ≥ 1, or three (out, left, right); got 0."),
        ({"max_rank": 1.5}, "got 1.5."),
        ({"max_rank": (1, 2)}, "got (1, 2)."),
        ({"max_rank": (1, 2, -1)}, "got (1, 2, -1)."),
        ({"cutoff": 1.0}, "cutoff must be in [0, 1), relative to the largest singular value; got 1.0."),
        ({"cutoff": -0.1}, "got -0.1."),
        ({"cutoff": math.nan}, "got nan."),
    ],
)
def test_refuses(kwargs, text, make, refuses):
    refuses(ArgumentError, lambda: hosvd(make.cp(), **kwargs), text)


def test_refuses_nan(make, refuses):
    refuses(NotFiniteError, lambda: hosvd(make.cp() * math.nan), "hosvd.out must be finite; got 21 NaN or infinite of 21")
    refuses(NotFiniteError, lambda: hosvd(make.dense() * math.inf), "hosvd.array must be finite")

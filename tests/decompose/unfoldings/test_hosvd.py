"""HOSVD against tensorly, torch's SVD of the unfoldings, and the dense error."""

import math

import numpy as np
import pytest
import tensorly
import torch
from tensorly.decomposition import tucker as hooi

from bilens.algebra import CP, Dense
from bilens.base.axes import MODES
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.decompose import hosvd
from bilens.measure import Gaussian


def unfoldings(cube):
    return {
        mode: torch.from_numpy(tensorly.unfold(cube.numpy(), n)) for n, mode in enumerate(MODES)
    }


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
    # all-orthogonality, De Lathauwer et al. 2000, theorem 2
    for unfolded in unfoldings(core).values():
        close(
            unfolded @ unfolded.mT,
            torch.diag_embed((unfolded @ unfolded.mT).diagonal()),
            scale=float(core.norm() ** 2),
        )


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
    assert (
        found.error <= found.bound * (1 + 1e-6)
        or found.bound < max(found.noise.values()) / found.norm
    )


def test_close_to_the_best_that_tensorly_finds(make, cube):
    """De Lathauwer: HOSVD is within √3 of the best approximation, which HOOI (started there) comes
    at least near to.
    """
    truth = cube(make.cp(5, 6))
    _, errors = hooi(truth.numpy(), rank=[2, 3, 3], init="svd", n_iter_max=50, return_errors=True)
    error = hosvd(Dense(truth), (2, 3, 3)).error
    assert errors[-1] - 1e-9 <= error <= 3**0.5 * errors[-1] + 1e-9


@pytest.mark.parametrize("precision", ["float64", "float32", "orthogonal"])
@pytest.mark.parametrize("name", ["cp", "dense"])
def test_sweeps_are_those_of_tensorly(name, precision, make, cube, close):
    """Its iteration starts from the same bases; so many sweeps that both have settled."""
    tensor, ranks = make.cp(6, 9, h=20), (3, 4, 4)
    tensor = tensor if name == "cp" else Dense(cube(tensor))
    plain = hosvd(tensor, ranks, precision=precision)
    found = hosvd(tensor, ranks, precision=precision, sweeps=60)
    theirs = hooi(cube(tensor).numpy(), ranks, init="svd", tol=1e-14, n_iter_max=300)
    best = np.linalg.norm(cube(tensor).numpy() - tensorly.tucker_to_tensor(theirs))
    assert plain.error > 1.001 * found.error
    assert 0 < found.sweeps <= 60
    assert abs(found.error * found.norm / best - 1) < 1e-6
    close(found.spectrum["out"], plain.spectrum["out"])
    approximation = found.tucker.dense().double()
    off = (cube(tensor) - approximation).norm() / cube(tensor).norm()
    assert abs(float(off) - found.error) < 1e-6


@pytest.mark.parametrize(
    ("seed", "ranks"),
    [(57, (1, 1, 1)), (8, (1, 2, 2)), (1, (2, 3, 3)), (2, (2, 3, 3))],  # the first two would
    ids=str,
)
def test_no_sweep_raises_the_error_of_a_symmetric_part(seed, ranks, maker, cube):
    tensor = maker(seed).cp(3, 6, h=3 + seed % 6)
    plain = hosvd(tensor, ranks, symmetric=True)
    found = hosvd(tensor, ranks, symmetric=True, sweeps=2)
    assert found.error <= plain.error
    part = (cube(tensor) + cube(tensor).mT) / 2
    off = (part - cube(found.tucker)).norm() / part.norm()
    assert abs(float(off) - found.error) < 1e-10
    assert torch.equal(found.bases["left"], found.bases["right"])


def test_nothing_truncated_nothing_swept(make):
    found = hosvd(make.cp(3, 4), sweeps=2)
    assert (found.sweeps, found.error < 1e-7) == (0, True)
    assert "sweeps" not in found.summary()
    assert "after sweeps: 1" in hosvd(make.cp(4, 6, h=9), 2, sweeps=1).summary()


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
    tensor = CP(
        make.randn(3, 7, grad=True), make.randn(7, 4, grad=True), make.randn(7, 4, grad=True)
    )
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
        (
            {"max_rank": 0},
            "max_rank must be a whole number ≥ 1, or three (out, left, right); got 0.",
        ),
        ({"max_rank": 1.5}, "got 1.5."),
        ({"max_rank": (1, 2)}, "got (1, 2)."),
        ({"max_rank": (1, 2, -1)}, "got (1, 2, -1)."),
        (
            {"cutoff": 1.0},
            "cutoff must be in [0, 1), relative to the largest singular value; got 1.0.",
        ),
        ({"cutoff": -0.1}, "got -0.1."),
        ({"cutoff": math.nan}, "got nan."),
        ({"sweeps": -1}, "sweeps must be a whole number ≥ 0; got -1."),
    ],
)
def test_refuses(kwargs, text, make, refuses):
    refuses(ArgumentError, lambda: hosvd(make.cp(), **kwargs), text)


def test_refuses_nan(make, refuses):
    refuses(
        NotFiniteError,
        lambda: hosvd(make.cp() * math.nan),
        "hosvd.out must be finite; got 21 NaN or infinite of 21",
    )
    refuses(NotFiniteError, lambda: hosvd(make.dense() * math.inf), "hosvd.array must be finite")


def spectrum_of(cube, mode):
    return torch.linalg.svdvals(cube.movedim(MODES.index(mode), 0).flatten(1))


@pytest.mark.parametrize("precision", ["float64", "orthogonal"])
@pytest.mark.parametrize("shape", [(3, 4), (5, 2), (2, 9), (1, 3), (4, 1)], ids=str)
@pytest.mark.parametrize("name", ["cp", "symmetric cp", "tucker", "dense"])
def test_symmetric_is_that_of_the_symmetric_part(name, shape, precision, make, cube, close):
    tensor = make.form(name, *shape)
    truth = (cube(tensor) + cube(tensor).mT) / 2
    found = hosvd(tensor, 2, symmetric=True, precision=precision)
    for mode in MODES:
        padded = torch.zeros(truth.shape[MODES.index(mode)], dtype=truth.dtype)
        values = spectrum_of(truth, mode)
        padded[: len(values)] = values
        close(found.spectrum[mode], padded, tol=1e-7 if precision == "float64" else 1e-13)
    assert torch.equal(found.bases["left"], found.bases["right"])
    error = true_error(found, truth)
    assert found.error**2 == pytest.approx(error**2, abs=1e-14)  # inner products are of squares
    if precision == "orthogonal":
        assert found.error == pytest.approx(error, abs=1e-12)
    whole = hosvd(tensor, symmetric=True, precision=precision)
    close(whole.tucker.dense(), truth)
    assert whole.error == 0


@pytest.mark.parametrize("precision", ["float64", "float32", "orthogonal"])
@pytest.mark.parametrize("hidden", [1, 3, 30])
@pytest.mark.parametrize("symmetric", [False, True])
def test_precisions_agree_within_what_they_say(precision, hidden, symmetric, make, cube):
    tensor = make.cp(4, 6, h=hidden)
    truth = (cube(tensor) + cube(tensor).mT) / 2 if symmetric else cube(tensor)
    found = hosvd(tensor, 3, symmetric=symmetric, precision=precision)
    for mode in MODES:
        off = float((found.spectrum[mode].double() - spectrum_of(truth, mode)).abs().max())
        assert off < found.noise[mode]
    assert found.error == pytest.approx(
        true_error(found.to(torch.float64), truth), abs=1e-12 if "32" not in precision else 1e-6
    )
    assert (found.computed_in, found.precision) == (
        "float32" if precision == "float32" else "float64",
        precision,
    )
    assert found.tucker.dtype == (torch.float32 if precision == "float32" else torch.float64)


def with_singular_values(make, values, symmetric):
    """A CP whose out unfolding has these singular values: Σ_k σ_k u_k ⊗ M_k, M_k orthonormal, each
    of two hidden units.
    """
    turn, other, third = (torch.linalg.qr(make.randn(n, n))[0] for n in (len(values), 6, 6))
    out = turn * torch.tensor(values, dtype=torch.float64)
    if symmetric:  # M_k = (a_k b_kᵀ + b_k a_kᵀ) / √2 with orthonormal a and b
        return CP(out * 2**0.5, other[:3], other[3:])
    return CP(out, other[:3], third[:3])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("tiny", [1e-12, 1e-10])
def test_orthogonal_resolves_what_a_gram_cannot(symmetric, tiny, make):
    values = [1.0, 1e-3, tiny]
    tensor = with_singular_values(make, values, symmetric)
    fine = hosvd(tensor, symmetric=symmetric, precision="orthogonal")
    for mode in ("out", "left") if symmetric else MODES:
        assert fine.noise[mode] < tiny / 50
    assert fine.spectrum["out"].tolist() == pytest.approx(values, rel=1e-3)
    gram = hosvd(tensor, symmetric=symmetric)
    # and so the Gram says that what it shows there means nothing
    assert gram.noise["out"] > 100 * tiny
    assert [row["above noise"] for row in gram.rows() if row["mode"] == "out"] == [
        True,
        True,
        False,
    ]
    assert [row["above noise"] for row in fine.rows() if row["mode"] == "out"] == [True, True, True]


@pytest.mark.parametrize("symmetric", [False, True])
def test_orthogonal_in_many_blocks(symmetric, make, cube, close):
    tensor = make.cp(5, 24, h=40)  # 576 rows of the Khatri-Rao product in blocks of 256
    truth = (cube(tensor) + cube(tensor).mT) / 2 if symmetric else cube(tensor)
    found = hosvd(tensor, symmetric=symmetric, precision="orthogonal")
    for mode in MODES:
        close(found.spectrum[mode], spectrum_of(truth, mode), tol=1e-13)


@pytest.mark.parametrize("precision", ["float64", "orthogonal"])
def test_noise_rises_where_terms_cancel(precision, make, cube):
    large, small = make.cp(4, 5, h=6) * 1e4, make.cp(4, 5, h=2) * 1e-3
    tensor = large + small - large
    found = hosvd(tensor, precision=precision)
    for mode in MODES:
        off = float((found.spectrum[mode] - spectrum_of(cube(small), mode)).abs().max())
        assert off < found.noise[mode]
        assert found.noise[mode] > 1e3 * hosvd(small, precision=precision).noise[mode]


@pytest.mark.parametrize("precision", ["float64", "float32", "orthogonal"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_nothing_to_find(precision, symmetric, make):
    for tensor in (make.cp(h=0), make.cp() * 0.0):
        found = hosvd(tensor, 2, 0.1, symmetric=symmetric, precision=precision)
        assert (found.error, found.bound, found.norm) == (0, 0, 0)
        assert not any(row["above noise"] for row in found.rows())
        assert float(found.tucker.dense().abs().max()) == 0


def test_an_antisymmetric_tensor_has_no_symmetric_part(make):
    tensor = make.cp()
    found = hosvd(tensor - tensor.swap(), 2, symmetric=True, precision="orthogonal")
    assert float(found.spectrum["out"].max()) <= found.noise["out"]


@pytest.mark.parametrize("precision", ["float64", "float32", "orthogonal"])
@pytest.mark.parametrize("left_over", [1e-2, 1e-3, 3e-5])
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_error_that_cannot_be_where_units_cancel(left_over, precision, symmetric, maker, cube):
    """Units a thousand and more times louder than their sum: the error stays the true one, within
    its bound and one.
    """
    make = maker(seed=4)
    loud, small = make.cp(3, 20, h=60), make.cp(3, 20, h=6) * left_over
    tensor = loud + small - loud
    found = hosvd(tensor, 2, precision=precision, symmetric=symmetric)
    truth = (cube(small) + cube(small).mT) / 2 if symmetric else cube(small)
    error = true_error(found.to(torch.float64), truth)
    # float32 bases, loud terms
    assert found.error == pytest.approx(error, rel=2e-2 if precision == "float32" else 2e-3)
    assert found.error <= found.bound <= 1


@pytest.mark.parametrize("precision", ["float64", "float32", "orthogonal"])
def test_what_cancels_outright_is_zero(precision, make):
    T = make.cp()
    for gone, symmetric in ((T - T, False), (T - T, True), (T - T.swap(), True)):
        found = hosvd(gone, 2, symmetric=symmetric, precision=precision)
        assert (found.norm, found.error, found.bound) == (0, 0, 0)
        assert not any(row["above noise"] or row["share of ‖T‖²"] for row in found.rows())
        assert "zero, or below the noise" in found.summary()


def test_the_figure_has_a_line_a_mode_on_a_log_axis(make):
    found = hosvd(make.cp(5, 6, h=2))
    lines = found.figure()["data"]
    assert [line["name"] for line in lines] == list(MODES)
    assert [line["y"] for line in lines] == [found.spectrum[mode][:2].tolist() for mode in MODES]
    assert [line["line"]["dash"] for line in lines] == ["solid", "solid", "dot"]
    assert found.figure()["layout"]["yaxis"]["type"] == "log"


def test_half_precision_and_gaps(maker, cube, close):
    make = maker(0, torch.bfloat16)
    one = make.cp(3, 8, h=14)
    gaps = CP(one.out[:, ::2], one.left[::2, ::2], one.right[1::2, 1::2])
    for precision in ("float64", "orthogonal"):
        found = hosvd(gaps, precision=precision)
        close(
            found.spectrum["left"], torch.nn.functional.pad(spectrum_of(cube(gaps), "left"), (0, 0))
        )
        close(found.tucker.dense(), cube(gaps))


def test_left_and_right_of_other_sizes(make, cube, close):
    tensor = make.cp(3, 4, 6)
    for precision in ("float64", "orthogonal"):
        found = hosvd(tensor, (2, 3, 4), precision=precision)
        assert found.ranks == (2, 3, 4)
        assert found.error == pytest.approx(true_error(found, cube(tensor)), abs=1e-12)


def test_a_truncated_core_keeps_nothing_else_alive(form_name, make):
    found = hosvd(make.form(form_name, 6, 8), (6, 2, 2))
    for factor in found.core.factors().values():
        assert factor.untyped_storage().nbytes() == factor.numel() * factor.element_size()


def test_saved_and_loaded(tmp_path, make, close):
    found = hosvd(make.cp(), 2, symmetric=True)
    found.save(tmp_path / "hosvd")
    again = type(found).load(tmp_path / "hosvd")
    close(again.tucker.dense(), found.tucker.dense())
    assert (again.symmetric, again.precision, again.error) == (True, "float64", found.error)


@pytest.mark.bad_input
def test_refuses_what_has_no_unfolding(make, refuses):
    refuses(
        ShapeError,
        lambda: hosvd(make.cp(3, 4, 5), symmetric=True),
        "hosvd(symmetric=True) must have left and right of one",
    )
    refuses(
        ShapeError,
        lambda: hosvd(make.cp(0, 4)),
        "hosvd must be given a tensor with no empty mode; got (0, 4, 4).",
    )
    refuses(
        ArgumentError,
        lambda: hosvd(make.randn(3, 4, 4)),
        "hosvd must be given a CP, Dense or Tucker; got Tensor.",
    )
    refuses(
        ArgumentError,
        lambda: hosvd(make.cp(), precision="double"),
        "precision must be one of float64, float32, orthogonal",
    )
    refuses(
        ArgumentError,
        lambda: hosvd(make.cp(), (1, 2, 3), symmetric=True),
        "max_rank must be the same for left and right",
    )


def test_a_measure_weighs_the_inputs(make, cube, close):
    """The same as the HOSVD of the dense cube with Σ^½ on both inputs; activations stand for their
    Gaussian.
    """
    tensor, x = make.cp(3, 5), make.randn(40, 5) @ make.randn(5, 5)
    measure = Gaussian.from_batches([x])
    white = torch.einsum("oij,ia,jb->oab", cube(tensor), measure.root, measure.root)
    for given in (measure, x):
        found = hosvd(tensor, 2, measure=given)
        for mode, unfolded in unfoldings(white).items():
            close(found.spectrum[mode][:3], torch.linalg.svdvals(unfolded)[:3], tol=1e-7)
        assert found.summary().startswith("over z")

"""The SVD over outputs against torch's SVD of the dense unfolding."""

import math

import pytest
import torch

from bilens.algebra import CP
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.decompose import eigen, svd

PRECISIONS = ("float64", "orthogonal")


def part(cube, symmetric):
    return (cube + cube.mT) / 2 if symmetric else cube


def slices(found):
    """The matrices M_k as the result means them."""
    return part(found.tensor.dense(), found.symmetric)


def rebuilt(found):
    return torch.einsum("k,ko,kij->oij", found.values, found.directions, slices(found))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (6, 3), (1, 5), (5, 1)], ids=str)
def test_is_the_dense_svd(shape, symmetric, precision, form_name, make, cube, close):
    tensor = make.form(form_name, *shape)
    truth = part(cube(tensor), symmetric)
    found = svd(tensor, 2, symmetric=symmetric, precision=precision)
    u, s, vh = torch.linalg.svd(truth.flatten(1), full_matrices=False)
    k = len(found.values)
    assert k == min(2, int((s > 1e-7 * s[0]).sum()))
    close(found.values, s[:k])
    close(found.spectrum[: len(s)], s, tol=1e-7)
    close((found.directions @ u[:, :k]).abs(), torch.eye(k, dtype=s.dtype), tol=1e-8)
    matrices = slices(found).flatten(1)
    close(matrices @ matrices.mT, torch.eye(k, dtype=s.dtype))
    close((matrices @ vh[:k].mT).abs(), torch.eye(k, dtype=s.dtype), tol=1e-8)
    close(rebuilt(found), ((u[:, :k] * s[:k]) @ vh[:k]).reshape(truth.shape))
    error = float((truth - rebuilt(found)).norm() / truth.norm())
    assert found.error**2 == pytest.approx(error**2, abs=1e-14)  # inner products are of squares
    if precision == "orthogonal":
        assert found.error == pytest.approx(error, abs=1e-12)
    assert found.discarded == pytest.approx(float(s[k:].norm()), abs=1e-6)


def test_all_components_are_the_tensor(form_name, make, cube, close):
    tensor = make.form(form_name)
    found = svd(tensor, symmetric=False, precision="orthogonal")
    close(rebuilt(found), cube(tensor))
    assert found.error < 1e-12
    assert type(found.tensor) is type(tensor)


def test_the_default_is_the_symmetric_part(make, cube, close):
    tensor = make.cp()
    found = svd(tensor)
    assert found.symmetric
    close(found.spectrum, torch.linalg.svdvals(part(cube(tensor), True).flatten(1)), tol=1e-7)


def test_matrices_are_the_interaction_matrices_of_the_directions(make, close):
    tensor, x = make.cp(), make.randn(5, 4)
    found = svd(tensor)
    close(
        found.matrices.dense() * found.values[:, None, None],
        tensor.interaction(found.directions).dense(),
    )
    close(found.matrices(x[:, None]) * found.values, tensor(x) @ found.directions.mT)
    pairs = eigen(tensor, found.directions, k=None)  # the directions serve as they are
    close(pairs.norm, found.values)


def test_signs_are_fixed(make):
    for seed_factor in (1.0, -1.0):
        found = svd(make.cp() * seed_factor)
        assert (
            found.directions.gather(1, found.directions.abs().argmax(1, keepdim=True)) > 0
        ).all()


def test_small_values_need_the_orthogonal_way(make):
    turn, a, b = (torch.linalg.qr(make.randn(n, n))[0] for n in (3, 6, 6))
    tensor = CP(turn * torch.tensor([1.0, 1e-4, 1e-12], dtype=torch.float64), a[:3], b[:3])
    gram, fine = (svd(tensor, symmetric=False, precision=precision) for precision in PRECISIONS)
    assert len(gram.values) == 2  # the third is below the noise, has no matrix, and is left out
    assert gram.noise > 1e-10
    assert fine.values.tolist() == pytest.approx([1, 1e-4, 1e-12], rel=1e-3)
    matrices = fine.tensor.dense().flatten(1)
    assert torch.allclose(matrices @ matrices.mT, torch.eye(3, dtype=torch.float64), atol=1e-2)
    assert fine.error == 0


def test_cutoff_and_rank(make):
    tensor = make.cp(5, 6)
    s = svd(tensor).spectrum
    assert len(svd(tensor, 100).values) == 5
    for cutoff in (0.0, 0.5, 0.9):
        assert len(svd(tensor, cutoff=cutoff).values) == int((s > cutoff * s[0]).sum())
    assert len(svd(tensor, 1, 0.0).values) == 1


@pytest.mark.parametrize("precision", ["float64", "float32", "orthogonal"])
def test_nothing_to_find(precision, make):
    for tensor in (make.cp(h=0), make.cp() * 0.0):
        found = svd(tensor, precision=precision)
        assert (len(found.values), found.error, found.norm) == (0, 0, 0)
        assert found.tensor.shape == (0, 4, 4)
        assert len(found.rows()) == 3
        assert "0 of 3 components" in found.summary()


def test_half_precision_and_other_sizes(maker, cube, close):
    make = maker(0, torch.float16)
    tensor = make.cp(3, 4, 6)
    found = svd(tensor, symmetric=False)
    close(found.spectrum, torch.linalg.svdvals(cube(tensor).flatten(1)), tol=1e-7)
    assert found.computed_in == "float64"
    assert svd(tensor, symmetric=False, precision="float32").tensor.dtype == torch.float32


def test_rows_figure_save(tmp_path, make, close):
    found = svd(make.cp(), 2)
    assert [row["kept"] for row in found.rows()] == [True, True, False]
    assert sum(row["share of ‖T‖²"] for row in found.rows()) == pytest.approx(1)
    assert found.figure()["data"][0]["y"] == pytest.approx(found.spectrum.tolist())
    found.save(tmp_path / "svd")
    close(type(found).load(tmp_path / "svd").tensor.dense(), found.tensor.dense())


def test_what_cancels_outright_has_no_component(make):
    """T − T, and the symmetric part of what has none."""
    T = make.cp()
    for gone in (T - T, T - T.swap()):
        for precision in ("float64", "float32", "orthogonal"):
            found = svd(gone, precision=precision)
            assert (len(found.values), found.norm, found.error) == (0, 0, 0)
            assert found.tensor.dense().shape == (0, 4, 4)
            assert not any(row["above noise"] or row["share of ‖T‖²"] for row in found.rows())


def test_the_figure_is_the_spectrum_above_the_noise_on_a_log_axis(make):
    found = svd(make.cp(5, 6, h=2))
    figure = found.figure()
    assert figure["data"][0]["y"] == found.spectrum[:2].tolist()
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert figure["layout"]["yaxis"]["title"]["text"] == "singular value"
    assert figure["layout"]["xaxis"]["title"]["text"] == "component"


@pytest.mark.bad_input
def test_refuses(make, refuses):
    refuses(
        ShapeError,
        lambda: svd(make.cp(3, 4, 5)),
        "svd(symmetric=True) must have left and right of one size",
        "symmetric=Fal",
    )
    refuses(
        ArgumentError,
        lambda: svd(make.cp(), 0),
        "max_rank must be a whole number ≥ 1, or None for all; got 0.",
    )
    refuses(ArgumentError, lambda: svd(make.cp(), cutoff=1.0), "cutoff must be in [0, 1)")
    refuses(ArgumentError, lambda: svd(make.cp(), precision="half"), "precision must be one of")
    refuses(NotFiniteError, lambda: svd(make.cp() * math.nan), "svd.out must be finite")

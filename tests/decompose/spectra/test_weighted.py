"""Data-weighted spectra against the dense whitened problem, Monte Carlo, and sums that must come
out as one.
"""

from dataclasses import replace

import pytest
import torch

from bilens.algebra import homogeneous
from bilens.base.errors import NotFiniteError, ShapeError
from bilens.decompose import Dense, Lanczos, WeightedEigen, eigen
from bilens.measure import Gaussian


@pytest.fixture
def layer(make):
    return make.cp(3, 6, h=9)


@pytest.fixture
def data(make):
    """A mean that matters and a covariance with a wide spectrum."""
    mix = make.randn(6, 6) * torch.logspace(0, -2, 6, dtype=torch.float64)
    return Gaussian(make.randn(6), mix @ mix.mT)


def dense(layer, cube):
    s = cube(layer)
    return (s + s.mT) / 2


@pytest.mark.parametrize("solver", [Dense(), Lanczos()], ids=["dense", "lanczos"])
def test_it_is_the_spectrum_of_the_whitened_matrices(layer, data, cube, close, solver):
    found = eigen(layer, k=6, measure=data, solver=solver)
    white = data.root @ dense(layer, cube) @ data.root
    truth = torch.linalg.eigvalsh(white)
    close(found.values.sort()[0], truth, tol=1e-9)
    close(found.plain.values, eigen(layer, k=6).values, tol=1e-9)
    close(found.norm, white.flatten(1).norm(dim=1), tol=1e-9)


def test_terms_give_back_the_form_on_the_support(layer, data, cube, make, close):
    """xᵀQx = Σ λ (v·x)²: of all pairs, for every x of the support (here all of space)."""
    found, x = eigen(layer, k=None, measure=data), make.randn(4, 6)
    terms = (found.values * torch.einsum("nki,bi->bnk", found.vectors, x).square()).sum(-1)
    close(terms, layer(x), tol=1e-8)
    unit = torch.einsum("nki,ij,nkj->nk", found.vectors, data.cov, found.vectors)
    close(unit, torch.ones_like(unit), tol=1e-8)


def test_shares_of_variance_add_up_and_means_to_the_mean(layer, data):
    found = eigen(layer, k=None, measure=data)
    for part in (found.data, found.plain_data):
        assert part.share.sum(-1).tolist() == pytest.approx([1.0] * 3, abs=1e-9)
        assert torch.allclose(part.mean.sum(-1), found.total_mean, atol=1e-9)
        assert part.standard_error.isnan().all()


def test_moments_are_those_of_samples(layer, data):
    """Monte Carlo, 400,000 draws: within five standard errors."""
    found, x = eigen(layer, k=3, measure=data), data.sample(400_000)
    y = layer(x)
    assert torch.allclose(
        found.total_mean, y.mean(0), atol=5 * float(y.std(0).max()) / 400_000**0.5
    )
    assert torch.allclose(found.total_variance, y.var(0), rtol=0.03)
    for pairs, part in ((found, found.data), (found.plain, found.plain_data)):
        terms = pairs.values * torch.einsum("nki,bi->bnk", pairs.vectors, x).square()
        error = terms.std(0) / 400_000**0.5
        assert ((terms.mean(0) - part.mean).abs() <= 5 * error).all()
        covariance = ((terms - terms.mean(0)) * (y - y.mean(0))[..., None]).mean(0) / y.var(0)[
            :, None
        ]
        assert torch.allclose(covariance, part.share, atol=0.03)


def test_activations_are_averaged_with_standard_errors(layer, data):
    x = data.sample(5000)
    found = eigen(layer, k=4, measure=x)
    assert (found.count, found.rank) == (5000, 6)
    terms = found.plain.values * torch.einsum("nki,bi->bnk", found.plain.vectors, x).square()
    assert torch.allclose(found.plain_data.mean, terms.mean(0))
    assert torch.allclose(found.plain_data.standard_error, terms.std(0) / 5000**0.5)
    whole = eigen(layer, k=None, measure=x)
    assert torch.allclose(whole.data.share.sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(whole.data.mean.sum(-1), layer(x).mean(0), atol=1e-8)


def test_a_layer_with_biases_takes_a_measure_over_x(make, data):
    """The linear part has its share too: all shares of a plain spectrum add up to one."""
    layer = replace(make.cp(3, 7, h=9), affine=True)
    found, x = eigen(layer, k=None, measure=data), data.sample(300_000)
    assert found.rank == 6
    assert "blind to 1 directions" in found.summary()
    assert torch.allclose(found.total_variance, layer(homogeneous(x)).var(0), rtol=0.03)
    assert found.plain_data.share.sum(-1).tolist() == pytest.approx([1.0] * 3, abs=1e-9)
    averaged = eigen(layer, k=None, measure=x[:2000])
    assert torch.allclose(averaged.total_mean, layer(homogeneous(x[:2000])).mean(0))


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("blind", ["constant", "plane"])
def test_shares_add_up_with_what_is_linear_where_a_mean_lies_off_the_support(make, blind, averaged):
    layer, width = make.cp(3, 6, h=9), 6 if blind == "plane" else 5
    if blind == "constant":
        layer = replace(layer, affine=True)
    x = make.randn(4000, 3) @ make.randn(3, width) + make.randn(width)
    found = eigen(layer, k=None, measure=x if averaged else Gaussian.from_batches([x]))
    share = found.linear_share
    assert float(share.abs().min()) > 1e-3
    torch.testing.assert_close(found.data.share.sum(-1) + share, torch.ones(3).double())
    assert "beside them what is linear" in found.summary()
    # by hand: what is left of the form beside the terms
    rows = homogeneous(x) if blind == "constant" else x
    terms = (found.values * torch.einsum("nki,bi->bnk", found.vectors, rows).square()).sum(-1)
    whole = layer(rows)
    rest = whole - terms
    both = ((rest - rest.mean(0)) * (whole - whole.mean(0))).sum(0) / (len(x) - 1)
    near = {"rel": 1e-6} if averaged else {"abs": 0.05}
    assert share.tolist() == pytest.approx((both / whole.var(0)).tolist(), **near)


def test_a_blind_measure_says_so_and_reads_nothing_off_its_support(layer, data, make):
    flat = data.map(torch.diag(torch.tensor([1.0, 1, 1, 1, 0, 0], dtype=torch.float64)))
    found = eigen(layer, k=None, measure=flat)
    assert found.rank == 4
    assert found.vectors[..., 4:].abs().max() < 1e-8
    assert (found.values.abs() > 1e-12).sum(-1).tolist() == [4, 4, 4]


def test_rows_name_both_spectra_and_files_keep_them(layer, data, tmp_path):
    found = eigen(layer, k=2, measure=data).labelled(("a", "b", "c"))
    rows = found.rows()
    assert [row["spectrum"] for row in rows] == ["data-weighted"] * 6 + ["plain"] * 6
    assert {"of", "value", "share of variance", "λ E[(v·x)²]", "± s.e."} <= set(rows[0])
    assert len(found.figure()["data"]) == 6
    found.save(tmp_path / "w")
    assert torch.equal(WeightedEigen.load(tmp_path / "w").data.share, found.data.share)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_float32_holds_no_measure_of_that_scale_and_need_not(layer, data, scale):
    x = data.sample(200)
    low = layer.to(torch.float32)
    far = Gaussian(data.mean * scale, data.cov * scale**2)
    for near, there in ((data, far), (x.float(), (x * scale).float())):
        one, two = eigen(layer, k=2, measure=near), eigen(low, k=2, measure=there)
        torch.testing.assert_close(two.data.share, one.data.share, rtol=1e-3, atol=1e-4)
        mean = one.total_mean * scale**2
        torch.testing.assert_close(two.total_mean / mean, mean / mean, rtol=1e-3, atol=0)


def test_nothing_varies(layer):
    found = eigen(layer, k=2, measure=Gaussian(torch.zeros(6).double(), torch.zeros(6, 6).double()))
    assert found.values.abs().max() == 0
    assert found.data.share.abs().max() == 0


@pytest.mark.bad_input
def test_a_measure_that_does_not_fit_is_refused(layer, data, refuses, make):
    wrong = Gaussian(torch.zeros(9).double(), torch.eye(9).double())
    refuses(
        ShapeError, lambda: eigen(layer, measure=wrong), "measure must be over the layer's 6 inputs"
    )
    refuses(
        ShapeError,
        lambda: eigen(layer, measure=make.randn(10, 9)),
        "must be a Gaussian or activations (m, 6)",
    )
    refuses(
        ShapeError,
        lambda: eigen(layer, measure="gaussian"),
        "must be a Gaussian or activations",
        "got str",
    )
    refuses(
        NotFiniteError,
        lambda: eigen(layer, measure=make.randn(10, 6) * torch.nan),
        "measure.activations must be finite",
    )

"""Mean and covariance in one pass against torch.cov, merged across shards, far from zero, and what
a covariance must be.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilens.algebra import CP, homogeneous
from bilens.base.errors import ArgumentError, NotFiniteError, RangeError, ShapeError
from bilens.decompose import eigen, similarity
from bilens.measure import Gaussian


def is_measure_of(found, x, close, tol=1e-12):
    x = x.double()
    close(found.mean, x.mean(0), tol=tol)
    close(found.cov, torch.cov(x.mT), tol=tol)
    assert found.count == len(x)
    assert (found.mean.dtype, found.cov.dtype) == (torch.float64, torch.float64)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1),
    seed=st.integers(0, 99),
)
def test_any_split_into_batches_gives_the_whole(sizes, seed, maker, close):
    x = maker(seed).randn(sum(sizes), 4) + 3
    is_measure_of(Gaussian.from_batches(iter(x.split(sizes))), x, close)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(2, 9), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_merged_shards_are_the_whole(sizes, seed, maker, close):
    x = maker(seed).randn(sum(sizes), 4) * 2 - 1
    first, *rest = (Gaussian.from_batches([part]) for part in x.split(sizes))
    for shard in rest:
        first = first.merge(shard)
    is_measure_of(first, x, close)


def test_a_mean_far_from_zero_costs_no_digits(make, close):
    """mean 1e6, std 1: E[x²] − E[x]² would keep 4 digits of 16."""
    x = make.randn(2000, 5) + 1e6
    found = Gaussian.from_batches(x.split(300))
    close(found.cov, torch.cov((x - 1e6).mT), tol=1e-9)  # x itself is only known to 1e6 · eps
    halves = [Gaussian.from_batches([half]) for half in x.split(1000)]
    # and so are the means between which the halves are joined
    close(halves[0].merge(halves[1]).cov, found.cov, tol=1e-10)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_every_dtype_is_measured_in_float64(dtype, maker, close):
    x = maker(0, dtype).randn(50, 6)
    is_measure_of(Gaussian.from_batches(x.split(7)), x, close)


def test_batches_may_be_strided_tracked_and_have_leading_dims(make, close):
    x = make.randn(6, 40, grad=True).mT[::2]
    assert not x.is_contiguous()
    found = Gaussian.from_batches([x[:8].reshape(2, 4, 6), x[8], x[9:]])
    is_measure_of(found, x.detach(), close)
    assert not found.cov.requires_grad


def low_rank(make, rank=3, size=6):
    basis = make.randn(rank, size)
    return Gaussian(make.randn(size), basis.mT @ basis), torch.linalg.pinv(basis) @ basis


def test_root_and_inverse_root_on_the_support(make, close):
    measure, onto = low_rank(make)
    assert measure.rank == 3
    close(measure.root, measure.root.mT)
    close(measure.root @ measure.root, measure.cov)
    close(measure.root @ measure.inverse_root, onto)
    values, vectors = torch.arange(1.0, 6).double(), torch.eye(5).double()
    close(
        Gaussian(make.randn(5), torch.diag(values)).inverse_root,
        vectors @ torch.diag(values**-0.5) @ vectors.mT,
    )


@pytest.mark.parametrize("size", [1.0, 1e-140, 1e140], ids=["one", "tiny", "huge"])
@pytest.mark.parametrize("dead", [(), (0, 3)], ids=["all vary", "some do not"])
def test_factor_is_a_triangle_of_what_varies(dead, size, make, close):
    basis = make.randn(6, 6)
    basis[list(dead)] = 0.0
    measure = Gaussian(make.randn(6), size**2 * (basis @ basis.mT))
    factor = measure.factor / size
    assert factor.shape == (6, 6 - len(dead))
    assert torch.equal(factor, factor.tril())
    close(factor @ factor.mT, basis @ basis.mT)
    assert measure.rank == 6 - len(dead)
    close((measure.root / size) @ (measure.root / size), basis @ basis.mT)


@pytest.mark.parametrize("least", [0.0, 1e-17, 1e-12])
def test_factor_cuts_off_what_the_root_does(least, make, close):
    turn = torch.linalg.qr(make.randn(6, 6)).Q
    cov = turn @ torch.diag(torch.tensor([1, 1, 1, 1, 1, least]).double()) @ turn.mT
    measure = Gaussian(make.randn(6), (cov + cov.mT) / 2)
    assert measure.rank == (6 if least > 1e-15 else 5)
    assert torch.equal(measure.factor, measure.root) == (measure.rank == 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_input_that_varies_much_hides_nothing_of_the_others(dtype, make, close):
    """A massive activation, a million times the others and more."""
    ratio = 1e10 if dtype == torch.float32 else 1e15
    x = make.randn(200, 8)
    x[:, 0] *= ratio**0.5
    cov = torch.cov(x.mT).to(dtype)
    measure = Gaussian(torch.zeros(8, dtype=dtype), cov)
    assert measure.rank == 8
    rows, others = make.randn(2, 6, 8)
    rows[:, 0] = others[:, 0] = 0.0
    tensor = CP(make.randn(4, 6), rows, others)
    own = cov[1:, 1:].double()
    left, right = tensor.left[:, 1:], tensor.right[:, 1:]
    form = torch.einsum("oh,hi,hj->oij", tensor.out, left, right)
    form = (form + form.mT) / 2
    mean = torch.einsum("oij,ij->o", form, own)
    squares = 2 * torch.einsum("oij,jk,okl,li->", form, own, form, own) + mean.square().sum()
    close(measure.of(tensor).norm(), squares.sqrt(), tol=1e-9)
    if dtype == torch.float32:
        spread = cov.double().diagonal().sqrt()
        off = (measure.root @ measure.root - cov.double()) / spread / spread[:, None]
        assert float(off.abs().max()) < 1e-4  # of each input's own variance
        assert float(measure.sample(5)[:, 1:].std()) > 0.3


def test_a_root_that_loses_what_varies_is_refused(make, refuses):
    measure = Gaussian(make.randn(8), torch.diag(torch.tensor([1e20] + [1.0] * 7).double()))
    assert measure.rank == 8
    refuses(RangeError, lambda: measure.root, "Gaussian.root must have variances", "7 below")


def test_rounding_is_no_variance_of_a_new_input(make):
    """Mapped to its own principal axes, a measure varies on as many as before."""
    measure, _ = low_rank(make)
    for dtype in (torch.float32, torch.float64):
        given = measure.to(dtype)
        axes = torch.linalg.eigh(given.cov).eigenvectors.mT
        assert given.map(axes).rank == 3


def test_rank_of_few_samples_is_one_less(make):
    x = make.randn(4, 9)
    assert Gaussian.from_batches([x]).rank == 3
    assert Gaussian.from_batches([x.float()]).rank == 3
    assert Gaussian(torch.zeros(3), torch.zeros(3, 3)).rank == 0
    assert Gaussian.from_batches([make.randn(99, 9)]).rank == 9


def test_ridge_fills_all_directions_by_a_share_of_the_mean_variance(make, close):
    measure, _ = low_rank(make)
    more = measure.ridge(1e-3)
    assert more.rank == 6
    close(more.cov - measure.cov, torch.eye(6).double() * 1e-3 * measure.cov.trace() / 6, tol=1e-10)
    close(measure.ridge(0).cov, measure.cov)


def test_homogeneous_is_the_measure_of_one_and_x(make, close):
    x = make.randn(30, 4)
    found, truth = Gaussian.from_batches([x]).homogeneous(), Gaussian.from_batches([homogeneous(x)])
    close(found.mean, truth.mean)
    close(found.cov, truth.cov)
    assert found.count == 30
    T = replace(make.cp(3, 5), affine=True)
    assert found.over(T) is found
    assert Gaussian.from_batches([x]).over(T).mean.shape == (5,)
    assert found.over(make.cp(3, 5)) is found
    assert torch.equal(found.root[0], torch.zeros(5).double())


def test_map_is_the_measure_of_mapped_samples(make, close):
    x, matrix = make.randn(30, 4), make.randn(7, 4)
    found, truth = Gaussian.from_batches([x]).map(matrix), Gaussian.from_batches([x @ matrix.mT])
    close(found.mean, truth.mean)
    close(found.cov, truth.cov)
    assert found.rank == 4


def test_samples_have_the_mean_and_covariance(make):
    """200,000 draws: entries within five standard errors, √((Σ_ii Σ_jj + Σ_ij²) / n)."""
    measure, _ = low_rank(make)
    n, variance = 200_000, measure.cov.diagonal()
    found = Gaussian.from_batches(measure.sample(n, seed=1).split(50_000))
    assert bool(((found.mean - measure.mean).abs() <= 5 * (variance / n).sqrt()).all())
    error = ((variance.outer(variance) + measure.cov.square()) / n).sqrt()
    assert bool(((found.cov - measure.cov).abs() <= 5 * error).all())
    assert found.rank == 3


def test_samples_are_reproducible(make):
    measure, _ = low_rank(make)
    assert torch.equal(measure.sample(3), measure.sample(3, seed=0))
    assert not torch.equal(measure.sample(3), measure.sample(3, seed=1))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([measure.sample(2, generator), measure.sample(1, generator)])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[:2], measure.sample(2))


def test_a_float32_covariance_is_taken_with_its_own_rounding(make):
    measure, _ = low_rank(make)
    narrow = measure.to(torch.float32)
    assert narrow.rank == 3
    assert narrow.root.dtype == torch.float64
    assert repr(narrow) == "Gaussian(size=6)"
    assert repr(Gaussian.from_batches([make.randn(1200, 2)])) == "Gaussian(size=2, count=1,200)"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "call", "text"),
    [
        (
            ShapeError,
            lambda m: Gaussian(m.randn(3), m.randn(4, 4)),
            "covariance (i, i), i ≥ 1; got (3,), (4, 4)",
        ),
        (
            ShapeError,
            lambda m: Gaussian(m.randn(3, 1), torch.eye(3).double()),
            "got (3, 1), (3, 3)",
        ),
        (ShapeError, lambda m: Gaussian(m.randn(0), m.randn(0, 0)), "got (0,), (0, 0)"),
        (
            ShapeError,
            lambda m: Gaussian(m.randn(3), torch.eye(3)),
            "of one dtype and device; got torch.float64 on cpu, torch.f",
        ),
        (
            ShapeError,
            lambda m: Gaussian([0.0], torch.eye(1)),
            "Gaussian.mean must be a torch tensor; got list.",
        ),
        (
            ShapeError,
            lambda m: Gaussian(torch.zeros(2).int(), torch.eye(2).int()),
            "must have a real floating dtype",
        ),
        (
            ArgumentError,
            lambda m: Gaussian(m.randn(2), torch.eye(2).double(), -1),
            "Gaussian.count must be a whole number ≥ 0",
        ),
        (
            NotFiniteError,
            lambda m: Gaussian(m.randn(2), torch.eye(2).double() * math.nan),
            "Gaussian.cov must be finite",
        ),
        (
            NotFiniteError,
            lambda m: Gaussian(m.randn(2) / 0, torch.eye(2).double()),
            "Gaussian.mean must be finite",
        ),
        (
            ArgumentError,
            lambda m: Gaussian(m.randn(2), torch.tensor([[1.0, 0.5], [0.2, 1.0]]).double()),
            "Gaussian.cov must be symmetric; got entries that differ by 0.3 from their mirror",
        ),
        (
            ArgumentError,
            lambda m: Gaussian(m.randn(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()),
            "must be positive semidefinite; got an eigenvalue -1. A covariance is centred",
        ),
        (
            ArgumentError,
            lambda m: Gaussian(m.randn(2), torch.diag(torch.tensor([1.0, -1e-9]).double())),
            "got an eigenvalue -1e-09",
        ),
        (
            ArgumentError,
            lambda m: Gaussian.from_batches([]),
            "from_batches must be given samples; got no batches.",
        ),
        (
            ArgumentError,
            lambda m: Gaussian.from_batches([m.randn(1, 3), m.randn(0, 3)]),
            "must be given samples; got 1.",
        ),
        (
            ShapeError,
            lambda m: Gaussian.from_batches([m.randn(2, 3), m.randn(2, 4)]),
            "batch 1 must end in 3; got (2, 4).",
        ),
        (
            ShapeError,
            lambda m: Gaussian.from_batches([torch.tensor(1.0)]),
            "batch 0 must be a tensor (..., i); got ().",
        ),
        (
            ShapeError,
            lambda m: Gaussian.from_batches([[1.0, 2.0]]),
            "batch 0 must be a tensor (..., i); got list.",
        ),
        (
            ShapeError,
            lambda m: Gaussian.from_batches([torch.ones(2, 2).int()]),
            "batch 0 must have a real floating dtype",
        ),
        (
            NotFiniteError,
            lambda m: Gaussian.from_batches([m.randn(2, 3), m.randn(2, 3) * math.nan]),
            "batch 1 must be finite; got 6 NaN or infinite of 6 entries",
        ),
        (
            ArgumentError,
            lambda m: unit(2).merge(unit(2)),
            "merge must join two measures that count their samples; got (0, 0).",
        ),
        (
            ShapeError,
            lambda m: unit(2, 5).merge(unit(3, 5)),
            "merge must join measures over 2 inputs; got (3,).",
        ),
        (
            ArgumentError,
            lambda m: unit(2).ridge(-1.0),
            "ridge must be a finite share ≥ 0 of the mean variance; got -1.0.",
        ),
        (ArgumentError, lambda m: unit(2).ridge(math.nan), "got nan."),
        (
            ArgumentError,
            lambda m: unit(2).sample(0),
            "sample must be a whole number ≥ 1; got 0.",
        ),
        (
            ShapeError,
            lambda m: unit(2).map(m.randn(3, 3)),
            "Gaussian.map must be given (new, 2); got (3, 3).",
        ),
        (
            ShapeError,
            lambda m: unit(2).over(m.cp(3, 4)),
            "measure must be over the layer's 4 inputs; got 2 of them.",
        ),
        (
            ShapeError,
            lambda m: unit(2).over(m.cp(3, 3)),
            "got 2 of them. A tensor over (1, x) says so: CP(..., affine=True).",
        ),
    ],
)
def test_refuses(kind, call, text, make, refuses):
    refuses(kind, lambda: call(make), text)


def unit(size, count=0):
    return Gaussian(torch.zeros(size).double(), torch.eye(size).double(), count)


def test_rounding_in_a_covariance_is_not_refused(make):
    basis = make.randn(2, 50)
    cov = basis.mT @ basis
    assert Gaussian(make.randn(50), cov - 1e-16 * cov.abs().max() * torch.eye(50)).rank == 2


def test_over_a_tensor_it_lies_where_the_tensor_does(make):
    """And is itself, with the roots that it has made, where it lies there already."""
    gaussian = Gaussian(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    tensor = make.cp(i=4)
    assert gaussian.over(tensor) is gaussian
    assert gaussian.over(tensor.to("meta")).cov.device.type == "meta"
    affine = replace(make.cp(i=5), affine=True)
    assert gaussian.over(affine) is gaussian.homogeneous()
    assert gaussian.over(affine.to("meta")).cov.device.type == "meta"


@pytest.mark.parametrize("scale", [1e-170, 1e170])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_covariance_out_of_range_is_refused_however_rows_are_cut(scale, rows, refuses):
    torch.manual_seed(0)
    x = torch.randn(4, 3).double() * scale
    refuses(RangeError, lambda: Gaussian.from_batches(list(x.split(rows))), "")


def test_rows_one_at_a_time_have_the_moments_of_all():
    torch.manual_seed(0)
    x = torch.randn(9, 3).double() * torch.tensor([1.0, 1e-50, 1e50], dtype=torch.float64)
    one, all_ = Gaussian.from_batches(list(x.split(1))), Gaussian.from_batches([x])
    torch.testing.assert_close(one.cov, all_.cov, rtol=1e-9, atol=0)


VERBS = {
    "norm": lambda g, T: g.of(T).norm(centred=True),
    "inner": lambda g, T: g.of(T).inner(g.of(T * 2)),
    "similarity": lambda g, T: g.of(T).similarity(g.of(T.swap())),
    "gram": lambda g, T: g.of(T).gram(),
    "sample": lambda g, T: g.sample(4),
    "root": lambda g, T: g.root + g.inverse_root,
    "factor": lambda g, T: g.factor @ g.factor.mT,
    "rank": lambda g, T: torch.tensor(float(g.rank)),
    "eigen": lambda g, T: eigen(T, torch.eye(3, dtype=T.dtype)[:2], k=2, measure=g).data.share,
    "similarity of layers": lambda g, T: similarity([T, T.swap() * 2], g).matrix,
    "linear": lambda g, T: eigen(T, torch.eye(3, dtype=T.dtype), k=1, measure=g).linear_share,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("of", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("singular", [False, True])
def test_a_measure_of_any_dtype_is_taken_as_what_it_holds(verb, of, dtype, singular, make, close):
    """The same as in float64 with the same values."""
    spread = torch.tensor([4.0, 1.0, 0.5, 2.0])
    spread[1] *= not singular
    narrow = Gaussian(torch.ones(4, dtype=dtype), torch.diag(spread).to(dtype))
    T = make.cp(3, 4).to(of)
    found, truth = (VERBS[verb](g, T) for g in (narrow, narrow.to(torch.float64)))
    assert found.dtype == truth.dtype
    close(found, truth, tol=1e-5)


@pytest.mark.bad_input  # by the signature, which says int
def test_a_seed_may_be_numpys_and_draws_the_same():
    given = Gaussian(torch.zeros(3), torch.eye(3))
    assert torch.equal(given.sample(4, np.int64(7)), given.sample(4, 7))

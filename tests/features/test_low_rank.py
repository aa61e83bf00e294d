"""Rank-k predictions of latents against plain arithmetic over the active tokens."""

import dataclasses
import importlib

import pytest
import torch

from bilens.algebra import Dense, affine
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.features import Dictionary
from bilens.features.low_rank import LowRank, low_rank

O, I, H, F, N = 5, 6, 9, 8, 600  # noqa: E741


@pytest.fixture(params=[False, True], ids=["no biases", "biases"])
def case(request, make):
    biases = map(make.randn, (O, H, H)) if request.param else ()
    T = affine(make.randn(O, H), make.randn(H, I), make.randn(H, I), *biases)
    b_enc = make.randn(F)
    b_enc[3] = -1e6  # dead
    out = Dictionary(make.randn(O, F), make.randn(F, O), b_enc, make.randn(O), centred=True)
    return T, out, make.randn(N, I)


def over(T, x):
    return torch.cat([torch.ones_like(x[:, :1]), x], 1) if T.shape[1] > I else x


def test_correlations_are_those_of_the_dense_eigenvectors(case, cube):
    T, out, x = case
    found = low_rank(T, out, x, ranks=(1, 2, 6))
    whole = out.encode(T(over(T, x)))
    S = torch.einsum("of,oij->fij", out.W_enc, cube(T))
    S, first = (S + S.mT) / 2, T.shape[1] - I
    for row, f in enumerate(found.features.tolist()):
        on = whole[:, f] != 0
        assert int(found.active[row]) == int(on.sum())
        values, vectors = torch.linalg.eigh(S[f, first:, first:])
        order = values.abs().argsort(descending=True)
        slope = 2 * S[f, 0, 1:] if first else torch.zeros(I, dtype=x.dtype)
        for n, rank in enumerate((1, 2, 6)):
            best = order[:rank]
            guess = ((x @ vectors[:, best]).square() * values[best]).sum(1) + x @ slope
            r = torch.corrcoef(torch.stack([guess[on], whole[on, f]]))[0, 1]
            assert float(found.correlation[row, n]) == pytest.approx(float(r), abs=1e-10)
    # all eigenvectors: exact
    assert torch.allclose(found.correlation[:, -1], torch.ones_like(found.correlation[:, -1]))


def test_dead_and_rare_latents_are_named_and_left_out(case):
    T, out, x = case
    counts = (out.encode(T(over(T, x))) != 0).sum(0)
    least = int(counts[counts > 0].min()) + 1
    found = low_rank(T, out, x, least=least)
    assert found.dead == (3,)
    assert sorted(found.rare) == [f for f in range(F) if 0 < int(counts[f]) < least]
    assert set(found.features.tolist()).isdisjoint({*found.dead, *found.rare})
    assert "1 dead" in found.summary()


def test_fishers_interval_covers(maker):
    """Of a known correlation ρ = .6 in normal draws: 95 % intervals hold it in 95 % of trials (±
    2.5 at 1000).
    """
    from bilens.features.low_rank import _fisher

    make, n = maker(seed=5), 50
    u, v = make.randn(1000, n), make.randn(1000, n)
    v = 0.6 * u + 0.8 * v
    u, v = u - u.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    r = (u * v).sum(1) / u.norm(dim=1) / v.norm(dim=1)
    low, high = _fisher(r[:, None], torch.full((1000,), n), 0.95)
    assert abs(float(((low < 0.6) & (high > 0.6)).double().mean()) - 0.95) < 0.025


def test_the_share_above_has_wilsons_interval(case):
    import scipy.stats

    found = low_rank(*case, threshold=0.5)
    for n, share in enumerate(found.share):
        above = int((found.correlation[:, n] > 0.5).sum())
        known = scipy.stats.binomtest(above, len(found.features)).proportion_ci(method="wilson")
        assert (share["low"], share["high"]) == pytest.approx((known.low, known.high), abs=1e-10)
        assert share["share"] == above / len(found.features)


def test_blocks_of_latents_change_nothing(case, monkeypatch):
    whole = low_rank(*case)
    monkeypatch.setattr(importlib.import_module("bilens.features.low_rank"), "NUMBERS", 1)
    assert torch.allclose(low_rank(*case).correlation, whole.correlation, atol=1e-12)


def test_it_is_a_table_a_picture_and_a_file(case, tmp_path):
    found = low_rank(*case, features=[0, 1, 2], names=[f"o{n}" for n in range(F)])
    found.save(tmp_path / "found")
    again = LowRank.load(tmp_path / "found")
    assert again.rows() == found.rows()
    assert found.plot().data
    assert {row["latent"] for row in found.rows()} <= {"o0", "o1", "o2"}


@pytest.mark.bad_input
def test_bad_input(case, make, refuses):
    T, out, x = case
    dead = Dictionary(out.W_enc, out.W_dec, out.b_enc - 1e9, out.b_dec)
    refuses(
        ArgumentError, lambda: low_rank(T, dead, x), "active on 20 tokens", f"{F} active nowhere"
    )
    refuses(
        ShapeError,
        lambda: low_rank(T, Dictionary(*(make.randn(*s) for s in ((9, F), (F, 9), (F,), (9,)))), x),
        "read 5",
    )
    refuses(ShapeError, lambda: low_rank(T, out, make.randn(N, I + 3)), "be (n, ")
    refuses(NotFiniteError, lambda: low_rank(T, out, x / 0), "x")
    for ranks in ((), (0, 1), (2, 1), (1.5,)):
        refuses(ArgumentError, lambda ranks=ranks: low_rank(T, out, x, ranks), "ranks")
    refuses(ArgumentError, lambda: low_rank(T, out, x, features=[F]), f"0 to {F - 1}")
    refuses(ArgumentError, lambda: low_rank(T, out, x, level=1.0), "level")
    refuses(ArgumentError, lambda: low_rank(T, out, x, least=3), "least")
    refuses(ArgumentError, lambda: low_rank(T, out, x, names=["a"]), "names")


@pytest.mark.bad_input
def test_figures_that_mean_nothing_are_refused(case, refuses):
    """A latent twice would count twice in the share; no correlation lies outside −1 … 1."""
    T, out, x = case
    told = "features must name a latent once; got 2 twice"
    refuses(ArgumentError, lambda: low_rank(T, out, x, features=[2, 1, 2]), told)
    for odd in (float("nan"), 7, 1, -1.5, "a", None, True):
        told = "threshold must be a correlation, at least -1 and below 1"
        refuses(ArgumentError, lambda odd=odd: low_rank(T, out, x, threshold=odd), told)
    assert all(row["share"] == 1 for row in low_rank(T, out, x, threshold=-1).share)
    for odd in ("a", None, 0, 2, float("nan")):
        refuses(ArgumentError, lambda odd=odd: low_rank(T, out, x, level=odd), "level must lie")
    for odd in (3, "12", None):
        refuses(ArgumentError, lambda odd=odd: low_rank(T, out, x, odd), "ranks must be whole")
    refuses(ArgumentError, lambda: low_rank(T, out, x, least="a"), "least must be a whole number")
    refuses(ArgumentError, lambda: low_rank(T, out, x, names=3), "names must name all 8")


@pytest.mark.bad_input
def test_what_is_no_layer_or_no_input_is_refused(case, refuses):
    T, out, x = case
    for odd in (x[0], x[None], x[:0], x.tolist(), None):
        refuses(ShapeError, lambda odd=odd: low_rank(T, out, odd), "x must be (n, ")
    refuses(ShapeError, lambda: low_rank(T, out, x.float()), "be given float64", "got float32")
    refuses(ArgumentError, lambda: low_rank(Dense(T.dense()), out, x), "be a CP", "got Dense")
    for odd in (out.reads, "out"):
        refuses(ArgumentError, lambda odd=odd: low_rank(T, odd, x), "must be a Dictionary, whose")
    reader = dataclasses.replace(out, hook="layers.0.mlp.input")
    told = "low_rank(outputs) must be of what a layer writes; got a dictionary of mlp0.input"
    refuses(ArgumentError, lambda: low_rank(T, reader, x), told)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_worked_in_float32(case, dtype):
    """What they hold, in float64, is the truth."""
    T, out, x = case
    out = dataclasses.replace(out, b_enc=out.b_enc.clamp(min=-1e4))  # as float16 holds it
    T, out, x = (one.to(dtype) for one in (T, out, x))
    exact = low_rank(T.to(torch.float64), out.to(torch.float64), x.double(), ranks=(1, 2))
    for given in (x, x.float()):
        found = low_rank(T, out, given, ranks=(1, 2))
        assert found.features.tolist() == exact.features.tolist()
        torch.testing.assert_close(found.correlation, exact.correlation, rtol=0, atol=1e-3)


def test_the_median_of_an_even_number_is_between_two(case):
    found = low_rank(*case, ranks=(1, 2), features=[0, 1, 2, 4])
    for n, share in enumerate(found.share):
        column = sorted(found.correlation[:, n].tolist())
        assert len(column) == 4
        assert share["median"] == pytest.approx((column[1] + column[2]) / 2, abs=1e-14)

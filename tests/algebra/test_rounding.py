"""CP rounding: exact where units repeat, found where a lower rank hides, and as good as tensorly
elsewhere.
"""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bilens.algebra import CP, Rounded, rounding
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError


def off(found: Rounded, cube, T: CP) -> float:
    """The relative error, densely."""
    return float((cube(found.cp) - cube(T)).norm() / cube(T).norm())


def copies(make) -> tuple[CP, int]:
    """Units in several parts, up to factors and signs, with zeros between."""
    T = make.cp(6, 7, 5, 4)
    parts = CP(0.3 * T.out, -2.0 * T.left, T.right) + CP(1.6 * T.out, T.left, -T.right) + T * 0.0
    return parts + T, 4


def split(make) -> tuple[CP, int]:
    """Each unit as a sum over all three modes: pairs share two vectors, and what comes of them does
    again.
    """
    T = make.cp(6, 7, 5, 4)
    x, y = make.randn(4, 7), make.randn(4, 5)
    rest = T.left - x, T.right - y
    return CP(T.out, rest[0], rest[1]) + CP(T.out, x, rest[1]) + CP(T.out, T.left, y), 4


def sums_and_differences(make) -> tuple[CP, int]:
    """(u+v)⊗³ + (u−v)⊗³ = 2 uuu + 2 uvv + 2 vuv + 2 vvu: rank 2 in four units of which no two share
    two vectors.
    """
    u, v = make.randn(3, 9), make.randn(3, 9)
    words = [(u, u, u), (u, v, v), (v, u, v), (v, v, u)]
    out, left, right = (torch.cat(mode) for mode in zip(*words, strict=True))
    return CP(2 * out.mT, left, right), 6


HIDDEN = {"copies": copies, "split": split, "sums and differences": sums_and_differences}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("asked", ["rank", "cutoff"])
def test_a_hidden_rank_is_found(make, cube, name, asked):
    T, rank = HIDDEN[name](make)
    found = T.round(rank) if asked == "rank" else T.round(cutoff=1e-9)
    assert found.rank == rank
    assert found.rank < T.rank
    assert found.error < 1e-9
    assert off(found, cube, T) < 1e-9
    assert found.exact == (name != "sums and differences")


def test_units_that_repeat_are_joined_without_loss(make, cube):
    for make_hidden in (copies, split):
        T, rank = make_hidden(make)
        found = T.round(T.rank)
        assert (found.rank, found.reduced, found.exact) == (rank, rank, True)
        assert off(found, cube, T) < 1e-14
        assert "exact" in found.summary()


def test_units_that_are_only_nearly_parallel_stay_apart(make, cube):
    T = make.cp(6, 7, 5, 3)
    near = T + CP(make.randn(6, 3), T.left + 1e-6 * make.randn(3, 7), T.right)
    found = near.round(6)
    assert found.reduced == 6
    assert off(found, cube, near) < 1e-14


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 7)] * 4), st.integers(1, 8), st.integers(0, 10**6))
@example((2, 4, 4, 6), 4, 20697)  # two terms ten times as large as the cube take each other away
def test_the_error_is_that_of_the_cube(maker, cube, sizes, rank, seed):
    o, i, j, h = sizes
    T = maker(seed=seed).cp(o, i, j, h)
    found = T.round(rank)
    assert found.rank <= rank
    assert abs(found.error - off(found, cube, T)) < 1e-8
    if found.error > 1e-3:
        assert abs(found.error / off(found, cube, T) - 1) < 1e-10


def test_error_falls_with_rank_and_is_no_worse_than_the_kept_units_alone(maker, cube):
    T = maker(seed=2).cp(10, 12, 11, 30)
    errors = [T.round(rank).error for rank in (1, 2, 4, 8, 16, 24)]
    assert errors == sorted(errors, reverse=True)
    sizes = (T.out.norm(dim=0) * T.left.norm(dim=1) * T.right.norm(dim=1)).argsort(descending=True)[
        :8
    ]
    largest = CP(T.out[:, sizes], T.left[sizes], T.right[sizes])
    assert errors[3] < 0.9 * float((T - largest).norm() / T.norm())


def test_rank_1_of_a_matrix_is_its_first_singular_pair(make):
    T = make.cp(1, 9, 8, 20)
    values = torch.linalg.svdvals(T.dense()[0])
    assert T.round(1).error == pytest.approx(float(values[1:].norm() / values.norm()), rel=1e-5)
    assert T.round(5).error == pytest.approx(float(values[5:].norm() / values.norm()), rel=1e-4)


@pytest.mark.parametrize(("h", "rank", "seed"), [(12, 4, 0), (20, 8, 1), (40, 6, 2)])
def test_no_worse_than_tensorly(maker, cube, h, rank, seed):
    tensorly = pytest.importorskip("tensorly")
    from tensorly.decomposition import parafac

    T = maker(seed=seed).cp(8, 9, 7, h)
    dense = cube(T).numpy()
    theirs = min(
        tensorly.norm(
            tensorly.cp_to_tensor(
                parafac(dense, rank, n_iter_max=300, tol=1e-8, init=init, random_state=0)
            )
            - dense
        )
        for init in ("svd", "random")
    )
    assert T.round(rank).error <= 1.02 * theirs / tensorly.norm(dense)


def test_a_cutoff_is_kept_by_as_few_as_are_found(maker, cube):
    make = maker(seed=4)
    T = make.cp(9, 10, 8, 16)
    T = CP(T.out * torch.logspace(0, -3, 16, dtype=torch.float64), T.left, T.right)
    found = T.round(cutoff=0.05)
    assert off(found, cube, T) <= 0.05
    assert 1 < found.rank < 16
    tried = dict(zip(found.ranks.tolist(), found.errors.tolist(), strict=True))
    assert tried[found.rank - 1] > 0.05
    assert tried[found.rank] == found.error
    assert [row["rank"] for row in found.rows() if row["kept"]] == [found.rank]
    assert len(found.plot().data[0].x) == len(tried)


def test_what_a_rank_does_not_allow_is_said(make):
    found = make.cp(8, 8, 8, 20).round(2, cutoff=0.01)
    assert found.rank == 2
    assert not found.reached
    assert "0.01 was not reached" in found.summary()


def test_the_symmetric_part_alone(maker, cube):
    make = maker(seed=6)
    T = make.cp(5, 8, 8, 6)
    S = T.symmetrise()
    found = S.round(6, symmetric=True)
    assert found.exact  # a unit and its swap are one
    assert found.error < 1e-14
    torch.testing.assert_close(cube(found.cp.symmetrise()), cube(S), rtol=0, atol=1e-12)
    assert S.round(12).rank == 12  # which is two where order counts
    less = S.round(3, symmetric=True)
    dense = float((cube(less.cp.symmetrise()) - cube(S)).norm() / cube(S).norm())
    assert less.error == pytest.approx(dense, rel=1e-9)


def test_same_seed_same_answer_and_no_gradients(make):
    T = make.cp(6, 7, 5, 9)
    one, two = T.round(3, seed=1), T.round(3, seed=1)
    assert torch.equal(one.cp.left, two.cp.left)
    assert not CP(T.out.requires_grad_(True), T.left, T.right).round(2).cp.out.requires_grad


def test_other_dtypes_are_worked_in_float64(maker, cube):
    for dtype in (torch.float32, torch.bfloat16):
        T, rank = copies(maker(0, dtype))
        found = T.round(T.rank)
        assert found.cp.dtype == torch.float64
        assert off(found, cube, T) <= found.error + 1e-12
        assert found.rank >= rank


def test_nothing_there():
    for T in (
        CP(torch.zeros(2, 0), torch.zeros(0, 3), torch.zeros(0, 4)),
        CP(*[torch.zeros(3, 3)] * 3),
    ):
        for found in (T.round(2), T.round(cutoff=0.1)):
            assert (found.rank, found.error, found.exact, found.converged) == (0, 0.0, True, True)
            assert found.cp.shape == T.shape


@pytest.mark.parametrize("vanishes", [True, False])
def test_terms_that_cancel(make, cube, vanishes):
    T, big = make.cp(5, 6, 6, 3), make.cp(5, 6, 6, 2) * 1e6
    both = big + CP(-big.out, big.left, big.right)
    found = (both if vanishes else both + T).round(3)
    assert found.rank == (0 if vanishes else 3)
    assert vanishes or off(found, cube, T) < 1e-8


def test_the_floor_is_where_rounding_begins(make, monkeypatch):
    """8 eps of the terms over ‖T‖ where T − T̂ is formed, 8 √eps where only inner products are;
    reached means down to it.
    """
    T = make.cp(5, 6, 6, 3)
    terms = float((T.out.norm(dim=0) * T.left.norm(dim=1) * T.right.norm(dim=1)).sum() / T.norm())
    eps = torch.finfo(torch.float64).eps
    assert T.round(3).floor == pytest.approx(8 * eps * terms, rel=1e-9)
    monkeypatch.setattr(rounding, "SLICES", 1)
    assert T.round(3).floor == pytest.approx(8 * eps**0.5 * terms, rel=1e-9)
    assert T.round(3, cutoff=0.0).reached
    assert (T * 0.0).round(3).floor == 0


def test_the_error_holds_to_the_floor_where_joined_units_were_not_quite_parallel(make, cube):
    """Units that float32 cannot tell from parallel, and that take each other away."""
    T = make.cp(3, 5, 5, 6)
    other = T.right + 1e-6 * make.randn(6, 5)
    T = (T + CP(-T.out, T.left, other)).to(torch.float32)
    found = T.round(2)
    assert abs(found.error - off(found, cube, T)) <= found.floor
    assert found.reduced == 6


def test_the_figure_is_error_by_rank_on_a_log_axis(make):
    found = make.cp(8, 8, 8, 20).round(cutoff=0.3)
    (line,), layout = found.figure()["data"], found.figure()["layout"]
    tried = sorted(zip(found.ranks.tolist(), found.errors.tolist(), strict=True))
    assert [line["x"], line["y"]] == [[rank for rank, _ in tried], [error for _, error in tried]]
    assert (layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]) == (
        "rank",
        "relative error",
    )
    assert layout["yaxis"]["type"] == "log"


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({}, ArgumentError, "round must be given a max_rank or a cutoff; got neither"),
        ({"max_rank": 0}, ArgumentError, "max_rank must be a whole number ≥ 1; got 0"),
        ({"max_rank": 1.5}, ArgumentError, "max_rank must be a whole number ≥ 1; got 1.5"),
        ({"cutoff": -0.1}, ArgumentError, "cutoff must be in [0, 1), relative to ‖T‖; got -0.1"),
        ({"cutoff": 1.0}, ArgumentError, "cutoff must be in [0, 1)"),
        ({"cutoff": float("nan")}, ArgumentError, "cutoff must be in [0, 1)"),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_is_refused(refuses, make, change, kind, text):
    refuses(kind, lambda: make.cp().round(**change), text)


def test_tensors_that_cannot_be_rounded(refuses, make):
    refuses(ShapeError, lambda: make.cp(3, 4, 5).round(2, symmetric=True), "of one space")
    refuses(
        NotFiniteError,
        lambda: CP(*[torch.full((2, 2), torch.nan)] * 3).round(2),
        "round.out must be finite",
    )

"""Principal angles against scipy and against known rotations; blocks are taken whole, and trust
follows the gap.
"""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from bilens.algebra import QuadraticForm
from bilens.base.errors import ArgumentError, ShapeError
from bilens.decompose import Angles, Dense, Lanczos, angles, eigen


def form(basis, *values):
    return QuadraticForm(torch.tensor(values, dtype=torch.float64), basis, basis)


def turned(basis, a, b, by):
    """The basis with two of its rows turned in their plane."""
    new = basis.clone()
    new[a] = math.cos(by) * basis[a] + math.sin(by) * basis[b]
    new[b] = math.cos(by) * basis[b] - math.sin(by) * basis[a]
    return new


@pytest.fixture
def basis(make):
    return torch.linalg.qr(make.randn(5, 5))[0]


@pytest.mark.parametrize("by", [1e-9, 1e-3, 0.5, 1.2, math.pi / 2])
def test_a_known_rotation_is_found(by, basis):
    """To 1e-14 also where a cosine would lose it: 1 − cos(1e-9) is below rounding."""
    values = 5.0, -4.0, 3.0, 2.0, -1.0
    found = angles(form(basis, *values).eigh(3), form(turned(basis, 0, 4, by), *values).eigh(3))
    assert found.positions == (((0,), (0,)), ((1,), (1,)), ((2,), (2,)))
    torch.testing.assert_close(
        found.largest, torch.tensor([by, 0, 0], dtype=torch.float64), rtol=1e-6, atol=1e-14
    )
    assert bool(found.trusted.all())
    torch.testing.assert_close(found.gap[:, 0], torch.tensor([2.0, 3.0, 1.0], dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(1, 4))
def test_degenerate_blocks_are_compared_as_subspaces(seed, size, maker):
    """Within a block the vectors are arbitrary: turning them is no change, and the span's angles
    are scipy's.
    """
    make = maker(seed)
    one, two = (torch.linalg.qr(make.randn(6, 6))[0] for _ in range(2))
    values = [3.0] * size + [1.0, 0.5, 0.25, 0.125, 0.0625][: 6 - size]
    mixed = torch.cat([torch.linalg.qr(make.randn(size, size))[0] @ one[:size], one[size:]])
    again = angles(form(one, *values).eigh(), form(mixed, *values).eigh())
    assert float(again.largest.max()) < 1e-13
    found = angles(form(one, *values).eigh(), form(two, *values).eigh())
    assert found.positions[0] == (tuple(range(size)), tuple(range(size)))
    assert [int(n) for n in found.size] == [size] + [1] * (6 - size)
    truth = torch.from_numpy(
        subspace_angles(one[:size].mT.numpy(), two[:size].mT.numpy()).copy()
    ).sort()[0]
    got = torch.tensor(found.angles[0], dtype=torch.float64)
    torch.testing.assert_close(
        got, truth, rtol=1e-10, atol=1e-7
    )  # spans that meet: scipy's cosine of 0 keeps half the digits
    assert [len(turned) for turned in found.angles] == [size] + [1] * (6 - size)


def test_a_block_of_one_side_binds_the_other(basis):
    """Two equal eigenvalues here, two apart there: only their span can be compared."""
    one, two = (
        form(basis, 4.0, 2.0, 2.0, 1.0, 0.5).eigh(),
        form(turned(basis, 1, 2, 0.7), 4.0, 2.1, 1.9, 1.0, 0.5).eigh(),
    )
    for found in (angles(one, two), angles(two, one)):
        assert [mine for mine, _ in found.positions] == [(0,), (1, 2), (3,), (4,)]
        assert float(found.largest.max()) < 1e-13
    assert int((~angles(two, two).largest.isnan()).sum()) == 5


def test_blocks_chain_across_both_sides(basis):
    one, two = (
        form(basis, 2.0, 2.0, 1.0, 0.5, 0.1).eigh(),
        form(basis, 2.0, 1.0, 1.0, 0.5, 0.1).eigh(),
    )
    assert [mine for mine, _ in angles(one, two).positions] == [(0, 1, 2), (3,), (4,)]


def test_signs_are_matched_not_ranks(basis):
    """3 and −2.9 against 2.9 and −3: by rank alone the two would stand at right angles."""
    one, two = (
        form(basis, 3.0, -2.9, 1.0, 0.5, 0.2).eigh(2),
        form(basis, 2.9, -3.0, 1.0, 0.5, 0.2).eigh(2),
    )
    found = angles(one, two)
    assert found.positions == (((0,), (1,)), ((1,), (0,)))
    assert float(found.largest.max()) < 1e-13
    torch.testing.assert_close(
        found.values, torch.tensor([[3.0, 2.9], [-2.9, -3.0]], dtype=torch.float64)
    )


def test_pairs_without_a_counterpart_are_counted(basis):
    one, two = (
        form(basis, 4.0, 3.0, 0.2, 0.1, 0.05).eigh(2),
        form(basis, 4.0, -3.0, 0.2, 0.1, 0.05).eigh(2),
    )
    found = angles(one, two)
    assert (found.positions, found.unmatched) == ((((0,), (0,)),), 1)
    none = angles(
        form(basis, *[1.0, 0.5] + [0.0] * 3).eigh(2), form(basis, *[-1.0, -0.5] + [0.0] * 3).eigh(2)
    )
    assert (len(none.of), none.unmatched, none.rows()) == (0, 2, [])
    assert none.summary().startswith("0 blocks")


def test_a_block_that_was_cut_is_not_compared(basis):
    """Half of a pair of equal eigenvalues is an arbitrary vector of their plane."""
    one = form(basis, 4.0, 2.0, 2.0, 1.0, 0.5).eigh(2)
    assert bool(one.cut)
    whole = form(basis, 4.0, 2.0, 1.5, 1.0, 0.5).eigh(2)
    for found in (angles(one, one), angles(one, whole), angles(whole, one)):
        assert found.whole.tolist() == [True, False]
        assert found.angles[1] == ()
        assert found.trusted.tolist() == [True, False]
        assert "1 not" in found.summary()


def test_a_block_half_of_which_has_no_counterpart_is_not_compared(basis):
    one, two = (
        form(basis, 2.0, 2.0, -1.0, 0.5, 0.1).eigh(2),
        form(basis, 2.0, -1.9, 1.0, 0.5, 0.1).eigh(2),
    )
    assert angles(one, two).whole.tolist() == [False]


def test_null_spaces_are_one_block(basis, make):
    one, two = (
        form(basis, 3.0, -2.0, 0.0, 0.0, 0.0).eigh(),
        form(torch.linalg.qr(make.randn(5, 5))[0], 3.0, -2.0, 0.0, 0.0, 0.0).eigh(),
    )
    found = angles(one, two)
    assert sorted(map(len, (mine for mine, _ in found.positions))) == [1, 1, 3]
    assert (bool(found.whole.all()), found.unmatched) == (True, 0)
    assert (
        float(
            angles(
                one, form(turned(basis, 3, 4, 1.0), 3.0, -2.0, 0.0, 0.0, 0.0).eigh()
            ).largest.max()
        )
        < 1e-13
    )
    zero = form(basis, 0.0, 0, 0.0, 0.0, 0.0).eigh()
    assert float(angles(zero, zero).largest) == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), size=st.floats(-4, 0))
def test_so_large_an_angle_takes_at_least_that_change(seed, size, maker):
    """Yu, Wang and Samworth: no perturbation turns a span further than 2 ‖Δ‖ / gap."""
    make = maker(seed)
    matrix, change = make.randn(6, 6), make.randn(6, 6)
    one = matrix + matrix.mT
    two = one + 10**size * (change + change.mT)
    eye = torch.eye(6).double()
    spectra = (QuadraticForm(torch.ones(6).double(), eye, side).eigh() for side in (one, two))
    found = angles(*spectra)
    assert bool((found.change <= (one - two).norm() + 1e-9).all())
    assert float(found.change.max()) > 0


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_uncertainty_bounds_what_residuals_can_do(gap, basis):
    """Vectors known to 1e-8 at a gap: the stated uncertainty covers the true error, and grows as 1
    / gap.
    """
    exact = form(basis, 2.0, 2.0 - gap, 1.0, 0.5, 0.2).eigh(3)
    wrong = turned(exact.vectors, 0, 1, min(1e-8 / gap, 1.0))
    residuals = (
        form(basis, 2.0, 2.0 - gap, 1.0, 0.5, 0.2).times_rows(wrong) - exact.values[:, None] * wrong
    ).norm(dim=-1)
    found = angles(dataclasses.replace(exact, vectors=wrong, residuals=residuals), exact)
    assert bool((found.largest <= found.uncertainty + 1e-12).all())
    assert bool(found.trusted[0]) == (gap > 1e-5)


def test_lanczos_knows_no_gap_beyond_its_last_pair(make):
    tensor = make.cp(2, 300, h=400)
    one, two = (eigen(tensor, k=4, solver=solver) for solver in (Lanczos(), Dense()))
    found = angles(one, two)
    assert float(found.largest.nan_to_num(0).max()) < 1e-4
    for n in (0, 1):
        last = (found.of == n).nonzero()[-1]
        assert float(found.gap[last, 0]) == 0
        assert not bool(found.trusted[last])
        assert bool(found.trusted[(found.of == n).nonzero()[0]])


def test_directions_are_compared_pairwise_and_named(make):
    one, two = make.cp(3, 6), make.cp(3, 6)
    names = ["cat", "dog", "cow"]
    found = angles(eigen(one, k=None).labelled(names), eigen(two, k=None))
    alone = angles(
        eigen(one, torch.eye(3)[1:2].double(), k=None),
        eigen(two, torch.eye(3)[1:2].double(), k=None),
    )
    torch.testing.assert_close(found.largest[found.of == 1], alone.largest, equal_nan=True)
    assert {row["of"] for row in found.rows()} == set(names)
    batched = angles(
        one.interaction(make.randn(2, 2, 3)).eigh(2), two.interaction(make.randn(2, 2, 3)).eigh(2)
    )
    assert int(batched.of.max()) <= 3


@pytest.mark.parametrize("which", ["top", "bottom"])
def test_ordered_by_value(which, basis):
    values = 3.0, 2.0, 0.0, -1.0, -5.0
    found = angles(
        form(basis, *values).eigh(2, which), form(turned(basis, 0, 1, 0.3), *values).eigh(2, which)
    )
    expected = {"top": [0.3, 0.3], "bottom": [0.0, 0.0]}[which]
    torch.testing.assert_close(
        found.largest, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=1e-10
    )


def test_float32_spectra_are_less_certain(maker):
    narrow, wide = (
        angles(eigen(maker(0, dtype).cp(2, 6)), eigen(maker(1, dtype).cp(2, 6)))
        for dtype in (torch.float32, torch.float64)
    )
    assert narrow.gap.dtype == torch.float64
    assert float(narrow.uncertainty.min()) > 1e4 * float(wide.uncertainty.min())
    half = eigen(maker(0, torch.float16).cp(2, 6))
    assert float(angles(half, half).largest.nan_to_num(0).max()) < 1e-3


def test_rows_figure_and_saving(make, tmp_path):
    found = angles(eigen(make.cp(3, 6), k=2), eigen(make.cp(3, 6), k=2))
    assert len(found.rows()) == len(found.of) == len(found.positions)
    points = sum(len(trace["x"]) for trace in found.figure()["data"])
    assert points == len(found.of)
    assert found.plot().data[0].mode == "markers"
    found.save(tmp_path / "a")
    loaded = Angles.load(tmp_path / "a")
    assert (loaded.positions, loaded.summary()) == (found.positions, found.summary())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "call", "text"),
    [
        (
            ShapeError,
            lambda m: angles(eigen(m.cp(), k=2), eigen(m.cp(), k=3)),
            "(..., k, i): (3, 2, 4); got (3, 3, 4). Ask bo",
        ),
        (ShapeError, lambda m: angles(eigen(m.cp(2)), eigen(m.cp(3))), "got (3, 4, 4)"),
        (ShapeError, lambda m: angles(eigen(m.cp(3, 4)), eigen(m.cp(3, 5))), "got (3, 5, 5)"),
        (
            ArgumentError,
            lambda m: angles(eigen(m.cp(), which="top"), eigen(m.cp())),
            "angles must compare two spectra by top; got magnitude.",
        ),
        (
            ArgumentError,
            lambda m: angles(eigen(m.cp()), eigen(m.cp()), tol=2.0),
            "tol must be an angle in radians, 0 … π/2",
        ),
        (ArgumentError, lambda m: angles(eigen(m.cp()), eigen(m.cp()), tol=math.nan), "got nan"),
        (ArgumentError, lambda m: angles(eigen(m.cp()), eigen(m.cp()), tol="1"), "got '1'"),
        (
            ArgumentError,
            lambda m: angles(eigen(m.cp(2, 4)), eigen(m.cp(2, 4), measure=m.randn(9, 4))),
            "angles must compare spectra whose vectors are orthonormal; got a WeightedEigen.",
        ),
        (
            ArgumentError,
            lambda m: angles(eigen(m.cp()), m.cp()),
            "angles must be given two Eigen results; got CP.",
        ),
    ],
)
def test_refuses(kind, call, text, make, refuses):
    refuses(kind, lambda: call(make), text)


def test_what_may_be_missing_is_not_trusted(make):
    one = eigen(make.cp(2, 6), k=3)
    doubtful = dataclasses.replace(one, complete=torch.tensor([True, False]))
    found = angles(one, doubtful)
    assert found.trusted[found.of == 0].all()
    assert not found.trusted[found.of == 1].any()


@pytest.mark.parametrize("which", ["magnitude", "bottom"])
def test_negative_eigenvalues_have_their_gaps_and_angles(which, basis):
    """λ = −5, −3, −1: the gap of each, and a turn of the first two by .4."""
    values = -5.0, -3.0, -1.0, 0.5, 0.2
    found = angles(
        form(basis, *values).eigh(3, which), form(turned(basis, 0, 1, 0.4), *values).eigh(3, which)
    )
    expected = torch.tensor([0.4, 0.4, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found.largest, expected, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(found.gap[:, 0], torch.tensor([2.0, 2.0, 1.2], dtype=torch.float64))
    assert found.trusted.all()
    assert found.unmatched == 0

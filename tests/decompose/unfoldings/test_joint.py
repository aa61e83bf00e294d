"""The shared input basis of a layer against the dense symmetric cube."""

import functools
import math

import pytest
import torch

from bilens.algebra import CP, cp
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.decompose import hosvd, joint


def symmetric(cube):
    return (cube + cube.mT) / 2


def dense_held(truth, basis):
    """‖P S P‖² / ‖S‖² for the first 1, 2, … columns of ``basis``."""
    turned = torch.einsum("oij,ia,jb->oab", truth, basis, basis).square().sum(0)
    corners = turned.cumsum(0).cumsum(1).diagonal()
    return corners / truth.square().sum()


@pytest.mark.parametrize("block", [3, 512])
@pytest.mark.parametrize("precision", ["float64", "orthogonal"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 9), (5, 1), (4, 40)], ids=str)
def test_shares_are_those_of_the_dense_cube(
    shape, precision, block, form_name, make, cube, close, monkeypatch
):
    monkeypatch.setattr(cp, "BLOCK", block)
    tensor = make.form(form_name, *shape)
    truth = symmetric(cube(tensor))
    found = joint(tensor, precision=precision)
    s = torch.linalg.svdvals(truth.movedim(1, 0).flatten(1))
    close(found.spectrum[: len(s)], s, tol=1e-7)
    basis = hosvd(tensor, symmetric=True, precision=precision).bases["left"]
    held = dense_held(truth, basis)
    close(found.held, held[[size - 1 for size in found.sizes]])
    close(found.gram_share, s.square().cumsum(0) / s.square().sum())
    for share, both, one in zip(found.shares, found.held_by, found.gram_by, strict=True):
        assert both == int((held < share * (1 - 1e-12)).sum()) + 1
        assert one == int((found.gram_share < share).sum()) + 1
        assert one <= both
        assert (found.needed(share), found.needed(share, both=False)) == (both, one)


@pytest.mark.parametrize("rank", [1, 2, 4, 100])
def test_kept_directions(rank, make, cube, close):
    tensor = make.cp(3, 4)
    truth = symmetric(cube(tensor))
    found = joint(tensor, rank)
    k = min(rank, 4)
    assert found.directions.shape == (k, 4)
    close(found.directions @ found.directions.mT, torch.eye(k, dtype=torch.float64))
    inside = found.directions.mT @ found.directions
    projected = inside @ truth @ inside
    close(found.captured, projected.square().sum((1, 2)) / truth.square().sum((1, 2)))
    assert found.error == pytest.approx(float((truth - projected).norm() / truth.norm()), abs=1e-12)
    assert found.discarded == pytest.approx(float(found.spectrum[k:].norm()), abs=1e-12)
    assert float(1 - found.error**2) == pytest.approx(
        float(projected.square().sum() / truth.square().sum()), abs=1e-12
    )


def test_kept_by_default_hold_the_first_share(make):
    found = joint(make.cp(4, 12, h=9), shares=(0.7, 0.95))
    assert len(found.directions) == found.held_by[0]
    assert 1 - found.error**2 >= 0.7


def test_a_layer_that_reads_few_directions_is_seen(make):
    reads = torch.linalg.qr(make.randn(20, 3))[0].mT  # three directions of twenty
    tensor = CP(make.randn(6, 30), make.randn(30, 3) @ reads, make.randn(30, 3) @ reads)
    found = joint(tensor, precision="orthogonal")
    assert found.held_by[-1] <= 3
    assert found.effective_rank <= 3
    assert float((found.spectrum > found.noise).sum()) == 3
    kept = joint(tensor, 3)
    assert kept.error < 1e-12
    assert torch.allclose(kept.directions.mT @ kept.directions, reads.mT @ reads, atol=1e-10)
    assert torch.allclose(kept.captured, torch.ones(6, dtype=torch.float64), atol=1e-12)


def test_effective_rank_counts_equal_directions():
    for n in (1, 2, 5):
        eye = torch.eye(n, 7, dtype=torch.float64)
        assert joint(
            CP(torch.ones(1, n, dtype=torch.float64), eye, eye)
        ).effective_rank == pytest.approx(n)


def test_a_silent_output_and_a_layer_without_units(make):
    tensor = make.cp()
    silent = CP(
        torch.cat([tensor.out, torch.zeros(1, 7, dtype=torch.float64)]), tensor.left, tensor.right
    )
    assert joint(silent, 4).captured.tolist() == pytest.approx([1, 1, 1, 0])
    for nothing in (make.cp(h=0), tensor * 0.0):
        found = joint(nothing)
        assert (found.held_by, found.gram_by, found.error) == ((0, 0, 0), (0, 0, 0), 0)
        assert found.effective_rank == 0
        assert found.needed(0.5, both=False) == 0
        assert len(found.directions) == 1
        found.summary(), found.rows(), found.figure()


def test_rows_figure_labels_save(tmp_path, make, close):
    found = joint(make.cp(), 2, labels=("a", "b", "c"))
    rows = found.rows()
    assert [row["kept"] for row in rows] == [True, True, False, False]
    assert {
        row["directions"]: row["share held"] for row in rows if row["share held"] is not None
    } == pytest.approx(dict(zip(found.sizes, found.held.tolist(), strict=True)))
    assert [row["output"] for row in found.output_rows()] == ["a", "b", "c"]
    assert [row["output"] for row in joint(make.cp()).output_rows()] == [0, 1, 2]
    assert len(found.figure()["data"]) == 2
    found.save(tmp_path / "joint")
    again = type(found).load(tmp_path / "joint")
    close(again.directions, found.directions)
    assert (again.shares, again.held_by, again.labels) == (
        found.shares,
        found.held_by,
        found.labels,
    )


def test_half_precision(maker, make):
    tensor = maker(0, torch.bfloat16).cp()
    assert joint(tensor, 2).error == pytest.approx(
        joint(tensor.to(torch.float64), 2).error, abs=1e-12
    )
    assert joint(tensor, 2, precision="float32").error == pytest.approx(
        joint(tensor, 2).error, abs=1e-5
    )


@pytest.mark.parametrize("precision", ["float64", "float32", "orthogonal"])
def test_a_layer_without_a_symmetric_part_reads_nothing(precision, make):
    """What is below the noise is not counted: the singular values there are rounding."""
    T = make.cp()
    for gone in (T - T.swap(), T - T, make.dense() * 0.0):
        found = joint(gone, precision=precision)
        assert (found.effective_rank, found.norm, found.error) == (0, 0, 0)
        assert found.held_by == found.gram_by == (0, 0, 0)
        assert not found.captured.any()
        assert not found.held.any()
        assert "none is read" in found.summary()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_an_output_of_rounding_alone_is_not_captured(precision, make):
    """One output whose symmetric part vanishes beside others: its share is 0 and no quotient of
    rounding.
    """
    T, S = make.cp(2, 5), make.cp(1, 5)
    nothing = (S - S.swap()).map(out=torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64))
    tensor = T.map(out=torch.eye(3, 2, dtype=torch.float64)) + nothing
    captured = joint(tensor, 2, precision=precision).captured
    assert float(captured[2]) == 0
    assert bool(((captured[:2] > 0) & (captured[:2] <= 1)).all())


def test_ranks_count_what_is_above_the_noise(make):
    """Two input directions for all outputs, and rounding in the other eight."""
    a, b = torch.linalg.qr(make.randn(10, 2))[0].mT
    tensor = CP(make.randn(3, 2), torch.stack([a, b]), torch.stack([a, b]))
    found = joint(tensor)
    values = found.spectrum[:2].square()
    assert found.effective_rank == pytest.approx(
        float(values.sum() ** 2 / values.square().sum()), rel=1e-12
    )
    assert sum(row["above noise"] for row in found.rows()) == 2
    assert found.held_by[-1] == 2


def test_the_figure_has_both_shares(make):
    found = joint(make.cp(3, 6))
    gram, both = found.figure()["data"]
    assert (gram["y"], gram["x"]) == (found.gram_share.tolist(), [1, 2, 3, 4, 5, 6])
    assert (both["y"], tuple(both["x"])) == (found.held.tolist(), found.sizes)
    assert found.figure()["layout"]["yaxis"]["title"]["text"] == "share of ‖S‖²"
    for line, column in ((gram, "share of the Gram"), (both, "share held")):
        assert line["name"].startswith(f"{column}:")  # as the table calls the same numbers
        assert line["y"][-1] == found.to_frame()[column].tolist()[line["x"][-1] - 1]


@pytest.mark.bad_input
def test_refuses(make, refuses):
    refuses(
        ShapeError,
        lambda: joint(make.cp(3, 4, 5)),
        "must have left and right of one size; got (3, 4, 5).",
    )
    refuses(
        ArgumentError,
        lambda: joint(make.cp(), 0),
        "max_rank must be a whole number ≥ 1, or None for all; got 0.",
    )
    refuses(
        ArgumentError,
        lambda: joint(make.cp(), shares=(0.5, 1.0)),
        "shares must be at least one number in (0, 1)",
    )
    refuses(
        ArgumentError,
        lambda: joint(make.cp(), shares=()),
        "shares must be at least one number in (0, 1); got ().",
    )
    refuses(
        ArgumentError,
        lambda: joint(make.cp(), labels=("a",)),
        "labels must name all 3 outputs; got 1.",
    )
    refuses(
        ArgumentError,
        lambda: joint(make.cp(), labels="abc"),
        "labels must name all 3 outputs; got 'abc'.",
    )
    refuses(
        ArgumentError,
        lambda: joint(make.cp()).needed(0.5),
        "share must be one of (0.9, 0.99, 0.999); got 0.5.",
    )
    for share in (5.0, 1, math.nan, "a"):
        one = functools.partial(joint(make.cp()).needed, share, both=False)
        refuses(ArgumentError, one, "share must be in [0, 1)")
    refuses(NotFiniteError, lambda: joint(make.cp() * math.inf), "joint.out must be finite")

"""The largest terms of a quadratic form over rows, against the whole matrix in float64."""

import pytest
import torch

from bilens.algebra import QuadraticForm
from bilens.base.errors import ArgumentError, NotFiniteError, RangeError
from bilens.decompose import top_pairs
from bilens.decompose.entries.top_pairs import coarse_pays

KINDS = {"all": (0, True), "cross": (1, True), "self": (0, False)}


def coefficients(form: QuadraticForm, rows, kind: str) -> torch.Tensor:
    """Of every pair of that kind, from the whole matrix."""
    matrix = rows.double() @ form.to(torch.float64).dense() @ rows.double().mT
    first, above = KINDS[kind]
    if not above:
        return matrix.diagonal()
    doubled = 2 * matrix - matrix.diagonal().diag()
    at = torch.triu_indices(len(rows), len(rows), first)
    return doubled[at[0], at[1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coarse", [False, True], ids=["as it is", "bfloat16 first"])
@pytest.mark.parametrize("k", [1, 30])
def test_they_are_those_of_the_whole_matrix(maker, monkeypatch, kind, coarse, k):
    monkeypatch.setattr("bilens.decompose.entries.top_pairs.coarse_pays", lambda *_: coarse)
    monkeypatch.setattr("bilens.decompose.entries.top_pairs.BLOCK", 16)
    make = maker(seed=4, dtype=torch.float32)
    form, rows = make.quadratic(9, 12), make.randn(150, 9) * make.randn(150, 1).exp()
    found = top_pairs(form, rows, k, kind)
    expected = coefficients(form, rows, kind)
    order = expected.abs().sort(descending=True).values
    torch.testing.assert_close(found.values.abs(), order[:k], rtol=1e-12, atol=0)
    assert found.complete
    assert found.size == len(expected)
    assert float(order[k]) <= found.certificate <= float(order[k - 1])


def test_more_ties_than_can_be_looked_at_are_said(make):
    """1,830 equal pairs, of which one is asked for."""
    form, rows = make.quadratic(3), make.randn(1, 3).expand(60, 3)
    found = top_pairs(form, rows, 1, "cross")
    whole = coefficients(form, rows, "cross")
    assert found.values.abs() == pytest.approx(float(whole[0].abs()), rel=1e-12)
    assert float(whole.abs().max()) <= found.certificate
    assert found.looked_at == found.size == 1770


@pytest.mark.parametrize("seed", [4, 33, 63])
def test_units_that_cancel_do_not_fool_the_bounds(maker, seed):
    """What is left of the units is a hundred thousandth of them, and rounding goes by them all."""
    make = maker(seed, torch.float32)
    one = make.quadratic(4, 40)
    less = QuadraticForm(one.weights, one.left, one.right + 1e-5 * make.randn(40, 4))
    form, rows = one - less, make.randn(6, 4)
    found = top_pairs(form, rows, 1)
    sizes = coefficients(form, rows, "all").abs().sort(descending=True).values
    assert float(found.values[0].abs()) == pytest.approx(float(sizes[0]), rel=1e-6)
    assert float(sizes[1]) <= found.certificate * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_all_there_is_leaves_nothing(make, kind):
    for count in (0, 1, 3):
        found = top_pairs(make.quadratic(4), make.randn(count, 4), 9, kind)
        assert found.complete
        assert found.certificate == 0
        assert "exact" in found.summary()


@pytest.mark.parametrize("power", [400, -400])
def test_sizes_that_float64_does_not_hold(make, refuses, power):
    form, rows = make.quadratic(4), make.randn(3, 4) * 2.0**power * 2.0 ** (power // 2)
    refuses(RangeError, lambda: top_pairs(form, rows, 1), "must lie in the range of float64")
    apart = torch.cat([make.randn(2, 4), rows]) if power < 0 else None
    assert apart is None or top_pairs(form, apart, 3).certificate > 0


def test_bfloat16_is_used_where_it_is_fewer_operations(monkeypatch):
    cpu = torch.device("cpu")
    for fast in (False, True):
        supported = "bilens.decompose.entries.top_pairs._multiplies_bfloat16"
        monkeypatch.setattr(supported, lambda *_, fast=fast: fast)
        assert coarse_pays(8192, 1024, cpu) == fast
        assert not coarse_pays(8192, 64, cpu)  # the passes take longer than what they save
        assert not coarse_pays(512, 1024, cpu)


@pytest.mark.bad_input
def test_what_cannot_be_is_refused(make, refuses):
    form, rows = make.quadratic(3), make.randn(4, 3)
    refuses(ArgumentError, lambda: top_pairs(form, rows, 0), "k must be a whole number ≥ 1; got 0")
    refuses(ArgumentError, lambda: top_pairs(form, rows, 1, "both"), "kind must be one of all")
    refuses(NotFiniteError, lambda: top_pairs(form, rows / 0, 1), "must be finite")
    assert len(top_pairs(form, rows[:1], 3, "cross").values) == 0

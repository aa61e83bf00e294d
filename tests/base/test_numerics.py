"""Tolerances, working dtypes, finiteness."""

import math

import numpy as np
import pytest
import torch

import bilens
from bilens.base.errors import BilensError, NotFiniteError, ShapeError
from bilens.base.numerics import (
    dtype_name,
    eigh_near,
    holds_several,
    peak,
    powers,
    relative_error,
    require_finite,
    require_floating,
    square_share,
    square_shares,
    tolerance,
    within,
    working_dtype,
)


def test_tolerances():
    assert tolerance(torch.float64) == 1e-10
    assert tolerance(torch.float32) == 1e-5
    assert tolerance(torch.float32) < tolerance(torch.float16) < tolerance(torch.bfloat16) < 0.1


def test_half_types_work_in_float32():
    types = {
        torch.float64: torch.float64,
        torch.float32: torch.float32,
        torch.float16: torch.float32,
        torch.bfloat16: torch.float32,
    }
    assert {dtype: working_dtype(dtype) for dtype in types} == types
    assert dtype_name(torch.bfloat16) == "bfloat16"


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_only_real_floating_types(dtype, refuses):
    kinds = "float64, float32, float16, bfloat16"
    text = f"x must have a real floating dtype ({kinds}); got {dtype_name(dtype)}."
    refuses(ShapeError, lambda: require_floating("x", dtype), text)
    refuses(ShapeError, lambda: tolerance(dtype), "tolerance must have")


def test_finite(refuses):
    good = torch.ones(3)
    require_finite("who", good=good)
    bad = torch.tensor([1, math.nan, math.inf, -math.inf])
    text = "must be finite; got 3 NaN or infinite of 4 entries. A diverged training run or a"
    refuses(NotFiniteError, lambda: require_finite("who", good=good, bad=bad), "who.bad " + text)
    refuses(NotFiniteError, lambda: require_finite("", bad=bad), "bad " + text)


def test_relative_error():
    truth = torch.tensor([1.0, -4.0], requires_grad=True)
    assert relative_error(torch.tensor([1.0, -3.0]), truth) == 0.25
    assert relative_error(torch.tensor([0.5]), torch.zeros(1)) == 0.5
    assert relative_error(torch.zeros(0), torch.zeros(0)) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_peak_is_the_largest_size(dtype):
    for x in (torch.randn(5, 7).to(dtype), -torch.rand(5, 7).to(dtype), torch.ones(1, 1).to(dtype)):
        for given in (x, x.mT, x[:, ::2]):
            assert torch.equal(peak(given), given.abs().max())
            assert torch.equal(peak(given, 1), given.abs().amax(1))
    assert peak(torch.zeros(0, 3)) == 0
    assert math.isnan(peak(torch.tensor([1.0, math.nan])))


@pytest.mark.parametrize("edge", [0.0, math.inf, math.nan, 2.0**9, 2.0**10, 2.0**-11, 2.0**-12])
def test_what_is_within_reach_is_what_all_powers_say(edge):
    for other in (1.0, 0.0, 2.0**-11):
        sizes = torch.tensor([edge, other], dtype=torch.float64)
        assert within(sizes, 10) == bool((powers(sizes).abs() <= 10).all())
    assert within(sizes[:0], 10)


def test_eigenvectors_that_are_nearly_right_are_made_right(make, close):
    """As those are that a GPU gives in float32."""
    matrix = make.randn(2, 20, 20)
    matrix = matrix + matrix.mT
    values, vectors = torch.linalg.eigh(matrix)
    for off in (0.0, 1e-4):
        found, turned = eigh_near(matrix, vectors + off * make.randn(2, 20, 20))
        close(found, values)
        close(turned.mT @ turned, torch.eye(20, dtype=torch.float64).expand(2, -1, -1))
        close(matrix @ turned, turned * found[:, None], scale=float(values.abs().max()))


@pytest.mark.parametrize("power", [0, -565, 565])
def test_shares_of_squares_at_any_scale(power):
    values = torch.tensor([3.0, -4.0, 0.0]).double() * 2.0**power
    assert square_shares(values).tolist() == pytest.approx([0.36, 0.64, 0.0])
    assert square_share(float(values[0]), 5 * 2.0**power) == pytest.approx(0.36)
    assert square_shares(0 * values).tolist() == [0.0] * 3
    assert square_share(0.0, 0.0) == 0.0


HUGE = 10**400  # beyond any float
UNIT = bilens.Gaussian(torch.zeros(2), torch.eye(2))
TENSOR = bilens.CP(torch.ones(2, 3), torch.ones(3, 2), torch.ones(3, 2))
SMALL = bilens.Classifier(
    bilens.ClassifierConfig(input_shape=(1, 2, 2), hidden_size=4, num_labels=2)
)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: UNIT.sample(10**30),
        lambda: UNIT.ridge(HUGE),
        lambda: bilens.decompose.similarity([TENSOR], samples=10**30),
        lambda: TENSOR * HUGE,
        lambda: TENSOR.interaction(torch.ones(2)) * HUGE,
        lambda: bilens.expand(SMALL, torch.rand(4), {0: HUGE}),
    ],
)
def test_a_number_beyond_all_range_is_one_clear_error(refused):
    with pytest.raises(BilensError, match="must be"):
        refused()


def test_a_ridge_may_be_any_whole_number():
    assert torch.equal(UNIT.ridge(10**30).cov, UNIT.ridge(1e30).cov)


def test_what_holds_several():
    assert all(map(holds_several, ([1], torch.ones(2), np.ones(2))))
    for one in ("text", 3, None, torch.tensor(3), np.array(3), np.int64(3)):
        assert not holds_several(one)

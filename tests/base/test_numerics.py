"""Tolerances, working dtypes, finiteness."""

import math

import pytest
import torch

from bilens.base.errors import NotFiniteError, ShapeError
from bilens.base.numerics import (
    dtype_name,
    relative_error,
    require_finite,
    require_floating,
    tolerance,
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

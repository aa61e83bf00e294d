"""The suite's own checks can fail."""

import pytest
import torch

from bilens.algebra import homogeneous_map

CHECKED = hasattr(homogeneous_map, "__wrapped__")  # only with --jaxtyping-packages


@pytest.mark.skipif(not CHECKED, reason="needs --jaxtyping-packages=bilens,beartype.beartype")
def test_shapes_are_checked():
    with pytest.raises(TypeError, match="Type-check error"):
        homogeneous_map(torch.ones(3, 4), torch.ones(2))


@pytest.mark.bad_input
def test_bad_input_reaches_bilens():
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        homogeneous_map(torch.ones(3, 4), torch.ones(2))


def test_close_sees_a_difference(close):
    for other in (torch.ones(3).double() * (1 + 1e-9), torch.ones(1, 3).double()):
        with pytest.raises(AssertionError):
            close(other, torch.ones(3).double())

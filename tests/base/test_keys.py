"""What a key may hold: equality as JSON has it, and choices that are asked of any value."""

import numpy as np
import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError
from bilens.base.keys import OneOf, require, same


def test_equal_in_json():
    assert same(1, 1.0)
    assert same("a", np.str_("a"))
    assert same([1], [1])
    assert not same(0, False)
    assert not same("1", 1)


@pytest.mark.parametrize("array", [np.ones(3), torch.ones(3)], ids=["numpy", "torch"])
def test_an_array_is_equal_to_nothing(array):
    assert not same(array, 1)
    assert not same(array, "out")
    with pytest.raises(ArgumentError, match=r"^which must be one of out, left; got "):
        require("which", array, OneOf(("out", "left")), ArgumentError)


T = bilens.CP(torch.ones(2, 3), torch.ones(3, 2), torch.ones(3, 2))
MODEL = bilens.Classifier(
    bilens.ClassifierConfig(input_shape=(1, 2, 2), hidden_size=4, num_labels=2)
)
CHOICES = {
    "mode": lambda it: T.gram(it),
    "which": lambda it: bilens.decompose.eigen(T, k=1, which=it),
    "precision": lambda it: bilens.decompose.hosvd(T, precision=it),
    "detail": lambda it: bilens.expand(MODEL, torch.rand(4), 0, detail=it),
    "by": lambda it: bilens.expand(MODEL, torch.rand(4), 0).by(it),
    "fit": lambda it: bilens.approximate(
        bilens.nn.GatedMLP(2, 3), bilens.Gaussian(torch.zeros(2), torch.eye(2)), fit=it
    ),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("array", [np.ones(3), torch.ones(3)], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", CHOICES)
def test_where_a_word_is_asked_for_an_array_is_one_clear_error(name, array):
    with pytest.raises(ArgumentError, match=f"^{name} must be one of "):
        CHOICES[name](array)

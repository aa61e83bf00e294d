"""Grams and inner products a tile of hidden units at a time, of the tensor and of its symmetric
part.
"""

import pytest
import torch
from torch import einsum

from bilens.algebra import CP, cp
from bilens.base.axes import MODES
from bilens.base.errors import ArgumentError, ShapeError

# of 7 hidden units: each by itself, a rest, one whole block, more than there are
BLOCKS = (1, 3, 7, 100)


@pytest.fixture(params=BLOCKS, ids=lambda block: f"block {block}")
def _block(request, monkeypatch):
    monkeypatch.setattr(cp, "BLOCK", request.param)


def dense_gram(cube, mode):
    unfolded = cube.movedim(MODES.index(mode), 0).flatten(1)
    return unfolded @ unfolded.mT


@pytest.mark.usefixtures("_block")
class TestBlocks:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("symmetric", [False, True])
    def test_gram_is_the_dense_one(self, mode, symmetric, form_name, make, cube, close):
        tensor = make.form(form_name)
        truth = cube(tensor)
        found = tensor.gram(mode, symmetric=symmetric)
        close(found, dense_gram((truth + truth.mT) / 2 if symmetric else truth, mode))
        close(tensor.grams(symmetric=symmetric)[mode], found)
        assert torch.equal(found, found.mT) or form_name in ("tucker", "dense")

    @pytest.mark.parametrize("mode", MODES)
    def test_left_and_right_of_other_sizes(self, mode, make, cube, close):
        tensor = make.cp(3, 4, 6)
        close(tensor.gram(mode), dense_gram(cube(tensor), mode))

    @pytest.mark.parametrize("hidden", [1, 5, 7, 9])
    def test_inner(self, hidden, make, cube, close):
        one, two = make.cp(), make.cp(h=hidden)
        close(one.inner(two), (cube(one) * cube(two)).sum())
        close(one.norm(), cube(one).norm())
        close(one.inner(one.swap()), (cube(one) * cube(one).mT).sum())
        close(one.inner(CP(one.out, one.right, one.left)), (cube(one) * cube(one).mT).sum())
        close(one.inner(CP(one.out.clone(), one.left, one.right)), cube(one).square().sum())
        close(
            one.inner(CP(one.out, one.left, one.left)),
            einsum("oij,oh,hi,hj", cube(one), one.out, one.left, one.left),
        )

    def test_gradients(self, make):
        factors = tuple(make.randn(*shape, grad=True) for shape in ((2, 4), (4, 3), (4, 3)))

        def verbs(*factors):
            tensor = CP(*factors)
            grams = [tensor.gram(mode, symmetric=on) for mode in MODES for on in (False, True)]
            return *grams, tensor.norm(), tensor.inner(tensor.swap())

        assert torch.autograd.gradcheck(verbs, factors, fast_mode=True)  # along random directions


@pytest.mark.parametrize("symmetric", [False, True])
def test_no_hidden_units(symmetric, make, close):
    nothing = make.cp(h=0)
    for mode, size in zip(MODES, nothing.shape, strict=True):
        close(nothing.gram(mode, symmetric=symmetric), torch.zeros(size, size, dtype=torch.float64))
    assert float(nothing.norm()) == 0
    assert float(nothing.inner(make.cp())) == 0


def test_dtype_of_the_work(form_name, maker, cube, close):
    for dtype, own in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        tensor = maker(0, dtype).form(form_name)
        assert tensor.gram("out").dtype == own
        found = tensor.gram("left", dtype=torch.float64)
        assert found.dtype == torch.float64
        close(found, dense_gram(cube(tensor), "left"))


def test_factors_with_gaps_between_their_entries(make, cube, close):
    one = make.cp(3, 8, h=14)
    gaps = CP(one.out[:, ::2], one.left[::2, ::2], one.right[1::2, 1::2])
    for mode in MODES:
        close(gaps.gram(mode, symmetric=True), dense_gram((cube(gaps) + cube(gaps).mT) / 2, mode))


@pytest.mark.bad_input
def test_refuses(make, refuses):
    for form in (make.cp, make.tucker, make.dense):
        refuses(
            ShapeError,
            lambda form=form: form(3, 4, 5).gram("out", symmetric=True),
            "must have left and right of one size",
        )
        refuses(
            ArgumentError,
            lambda form=form: form().gram("both", symmetric=True),
            "mode must be one of",
        )

"""Biases as the homogeneous coordinate, and back into parts."""

import itertools

import pytest
import torch

from bilens.algebra import affine, constant, homogeneous, homogeneous_map, linear, parts
from bilens.base.errors import ShapeError


@pytest.mark.parametrize("which", list(itertools.product([False, True], repeat=3)), ids=str)
def test_affine_is_the_layer_for_every_choice_of_biases(which, make, close):
    out, left, right, x = make.randn(3, 5), make.randn(5, 4), make.randn(5, 4), make.randn(2, 6, 4)
    c, b, e = (make.randn(n) if given else None for n, given in zip((3, 5, 5), which, strict=True))
    tensor = affine(out, left, right, c, b, e)
    truth = (x @ left.mT + (0 if b is None else b)) * (
        x @ right.mT + (0 if e is None else e)
    ) @ out.mT + (0 if c is None else c)
    close(tensor(homogeneous(x) if any(which) else x), truth)
    assert tensor.rank == 5 + which[0]
    assert tensor.shape == (3, 4 + any(which), 4 + any(which))


def test_homogeneous_puts_the_constant_first(make):
    x = make.randn(2, 3, 4)
    assert torch.equal(homogeneous(x)[..., 0], torch.ones(2, 3).double())
    assert torch.equal(homogeneous(x)[..., 1:], x)


def test_homogeneous_map_is_the_affine_map(make, close):
    m, b, x = make.randn(3, 4), make.randn(3), make.randn(5, 4)
    close(homogeneous(x) @ homogeneous_map(m, b).mT, homogeneous(x @ m.mT + b))
    close(homogeneous(x) @ homogeneous_map(m).mT, homogeneous(x @ m.mT))


def test_homogeneous_map_composes_with_a_layer_with_biases(make, close):
    tensor = affine(
        make.randn(3, 5),
        make.randn(5, 4),
        make.randn(5, 4),
        make.randn(3),
        make.randn(5),
        make.randn(5),
    )
    m, b, x = make.randn(4, 2), make.randn(4), make.randn(6, 2)
    step = homogeneous_map(m, b).mT  # T'(x̃) = T(M̃ x̃), and map(N) feeds T with Nᵀ x̃
    close(tensor.map(left=step, right=step)(homogeneous(x)), tensor(homogeneous(x @ m.mT + b)))


def test_constant_is_constant(make, close):
    value, x = make.randn(3), make.randn(5, 4)
    tensor = constant(value, 5)
    assert tensor.rank == 1
    close(tensor(homogeneous(x)), value.expand(5, 3))


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (3, 3), (1, 1)])
def test_linear_is_linear_at_the_smaller_rank(shape, make, close):
    matrix, x = make.randn(*shape), make.randn(4, shape[1])
    tensor = linear(matrix)
    assert tensor.rank == min(shape)
    close(tensor(homogeneous(x)), x @ matrix.mT)


def test_a_residual_and_a_layer_join_in_one_tensor(make, close):
    layer = affine(
        make.randn(4, 5),
        make.randn(5, 4),
        make.randn(5, 4),
        make.randn(4),
        make.randn(5),
        make.randn(5),
    )
    x = make.randn(3, 4)
    both = layer + linear(torch.eye(4).double())
    close(both(homogeneous(x)), layer(homogeneous(x)) + x)


def test_parts_split_by_degree(make, close):
    tensor = affine(
        make.randn(3, 5),
        make.randn(5, 4),
        make.randn(5, 4),
        make.randn(3),
        make.randn(5),
        make.randn(5),
    )
    split, x = parts(tensor), make.randn(6, 4)
    at = lambda scale: tensor(homogeneous(scale * x))  # noqa: E731
    close(split(x), at(1))
    close(split.constant.expand(6, 3), at(0))
    close(x @ split.linear.mT, (at(1) - at(-1)) / 2)
    close(split.quadratic(x), (at(1) + at(-1)) / 2 - at(0))


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1, 1)])
def test_parts_refuse_what_is_not_over_one_and_x(shape, make, refuses):
    tensor = make.cp(*shape)
    refuses(
        ShapeError,
        lambda: parts(tensor),
        "parts must be given a tensor over (1, x) on both inputs",
        str(shape),
    )

"""Biases as the homogeneous coordinate, and back into parts."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bilens.algebra import (
    CP,
    Dense,
    Tucker,
    affine,
    canonical,
    constant,
    homogeneous,
    homogeneous_map,
    linear,
)
from bilens.base.errors import ArgumentError, ShapeError
from bilens.decompose import eigen, hosvd, similarity, svd
from bilens.measure import Gaussian, Samples


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
    split, x = tensor.split(), make.randn(6, 4)
    at = lambda scale: tensor(homogeneous(scale * x))  # noqa: E731
    close(split(x), at(1))
    close(split.constant.expand(6, 3), at(0))
    close(x @ split.linear.mT, (at(1) - at(-1)) / 2)
    close(split.quadratic(x), (at(1) + at(-1)) / 2 - at(0))


def layer(make, o=3, h=5, i=4):
    factors = make.randn(o, h), make.randn(h, i), make.randn(h, i)
    return affine(*factors, make.randn(o), make.randn(h), make.randn(h))


def test_a_tensor_over_one_and_x_reads_x(make, close):
    T, x = layer(make), make.randn(2, 6, 4)
    assert torch.equal(T.read(x), homogeneous(x))
    assert torch.equal(T.read(homogeneous(x)), homogeneous(x))
    plain = make.cp()
    assert plain.read(x) is x
    assert (T.affine, plain.affine) == (True, False)
    assert "affine" in repr(T)
    assert "affine" not in repr(plain)


def forms(make, T):
    eyes = torch.eye(3).double(), torch.eye(5).double(), torch.eye(5).double()
    return T, Dense(T.dense(), affine=True), Tucker(T.dense(), *eyes, affine=True)


KEEPS = {
    "swap": lambda T: T.swap(),
    "symmetrise": lambda T: T.symmetrise(),
    "sum": lambda T: T + T,
    "difference": lambda T: T - T.swap(),
    "multiple": lambda T: -2.0 * T,
    "map of outputs": lambda T: T.map(out=torch.ones(2, 3).double()),
    "to": lambda T: T.to(torch.float32),
    "detach": lambda T: T.detach(),
    "near one": lambda T: (T * 1e300).near_one()[0],
    "scaled": lambda T: T.scaled(5),
    "outputs near one": lambda T: (T * 1e300).outputs_near_one(),
}


@pytest.mark.parametrize("verb", KEEPS)
def test_verbs_keep_what_the_tensor_is_over(verb, make):
    for T in forms(make, layer(make)):
        assert KEEPS[verb](T).affine
        assert not KEEPS[verb](replace(T, affine=False)).affine


@pytest.mark.parametrize("verb", ["round", "canonical", "hosvd", "svd", "save"])
def test_what_makes_a_tensor_of_it_keeps_it(verb, make, tmp_path):
    T = layer(make)
    T.save(tmp_path / "t")
    made = {
        "round": lambda: T.round(9).cp,
        "canonical": lambda: canonical(T),
        "hosvd": lambda: hosvd(T).tucker,
        "svd": lambda: svd(T).tensor,
        "save": lambda: CP.load(tmp_path / "t"),
    }
    assert made[verb]().affine


def test_files_from_before_the_flag_load_without_it(make, tmp_path):
    T = layer(make)
    T.save(tmp_path / "new")
    with safe_open(tmp_path / "new", framework="pt") as file:
        header = json.loads(file.metadata()["bilens"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    del header["value"]["fields"]["affine"], header["sum"]
    save_file(tensors, tmp_path / "old", metadata={"bilens": json.dumps(header)})
    found = CP.load(tmp_path / "old")
    assert not found.affine
    assert torch.equal(found.dense(), T.dense())


def test_a_map_keeps_it_where_it_keeps_the_constant(make, close):
    T, x = layer(make), make.randn(6, 2)
    m, b = make.randn(4, 2), make.randn(4)
    step = homogeneous_map(m, b).mT
    for form in forms(make, T):
        found = form.map(left=step, right=step)
        assert found.affine
        close(found(found.read(x)), T(T.read(x @ m.mT + b)))
        for other in (step * 2.0, step.flip(1), make.randn(3, 5), torch.zeros(0, 5).double()):
            assert not form.map(left=other, right=step).affine
            assert not form.map(right=other).affine


def test_the_quadratic_part_is_over_x(make, close):
    T, x = layer(make), make.randn(6, 4)
    close(T.quadratic()(x), T.split().quadratic(x))
    plain = make.cp()
    assert plain.quadratic() is plain


@pytest.mark.parametrize("i", [1, 3])
def test_two_that_disagree_are_refused(i, make, refuses):
    T = layer(make, i=i)
    plain = replace(T, affine=False)
    text = "join two tensors over (1, x); got one over x. Make both with the affine="
    for verb in (T.__add__, T.__sub__, T.inner, T.similarity):
        refuses(ShapeError, lambda verb=verb: verb(plain), text)
    refuses(ShapeError, lambda: plain + T, "join two tensors over x; got one over (1, x)")


@pytest.mark.bad_input
def test_refusals(make, refuses):
    T, x = layer(make), make.randn(2, 3)
    refuses(
        ShapeError, lambda: make.cp().split(), "split must be asked of a CP over (1, x); got CP("
    )
    refuses(ShapeError, lambda: T.map(left=torch.ones(2, 5).double()).read(x), "left and right of")
    refuses(ShapeError, lambda: T.read(x), "read must end in 5 (T is (3, 5, 5)); got (2, 3).")
    refuses(ShapeError, lambda: T(make.randn(4)), "T is over (1, x), of a layer with biases")
    refuses(ShapeError, lambda: make.cp().read(x), "A tensor over (1, x) says so")
    refuses(ArgumentError, lambda: replace(T, affine=1), "CP.affine must be True or False; got 1.")
    for one in (None, 3, [1.0], torch.tensor(2.0), torch.eye(2).to_sparse()):
        refuses(ShapeError, lambda one=one: homogeneous(one), "homogeneous must")
    nothing = make.cp(3, 0)
    text = "CP(affine=True) must have a constant coordinate in both inputs; got (3, 0, 0)."
    refuses(ShapeError, lambda: replace(nothing, affine=True), text)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "read",
    [
        lambda T, x: T.read(x),
        lambda T, x: Samples(x).of(T),
        lambda T, x: Gaussian.from_batches([x]).of(T),
        lambda T, x: Gaussian.from_batches([homogeneous(x[:, 1:])]).ridge(0.1).of(T),
        lambda T, x: similarity([T, T], x),
        lambda T, x: eigen(T, torch.eye(3).double(), measure=x),
        lambda T, x: eigen(T, torch.eye(3).double(), measure=Gaussian.from_batches([x])),
    ],
    ids=["read", "samples", "gaussian", "ridge", "similarity", "eigen x", "eigen gaussian"],
)
def test_the_constant_of_a_layer_with_biases_is_one(read, make, refuses):
    """Something of the right width whose first number is another would scale the biases."""
    tensor = affine(make.randn(3, 5), make.randn(5, 4), make.randn(5, 4), make.randn(3))
    refuses(ShapeError, lambda: read(tensor, make.randn(9, 5)), "be")
    x = make.randn(9, 4)
    assert torch.equal(tensor.read(homogeneous(x)), tensor.read(x))

"""What third-order tensors refuse, and in which words."""

import pytest
import torch

from bilens.algebra import CP, Dense, Tucker
from bilens.base.errors import ArgumentError, ShapeError, SizeError

pytestmark = pytest.mark.bad_input


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda m: CP(m.randn(3, 4), m.randn(5, 2), m.randn(4, 2)),
            "CP.left must be (4, any); got (5, 2).",
        ),
        (
            lambda m: CP(m.randn(3, 4), m.randn(4, 2), m.randn(4)),
            "CP.right must be (4, any); got (4,).",
        ),
        (
            lambda m: CP(m.randn(3), m.randn(4, 2), m.randn(4, 2)),
            "CP.out must be (any, any); got (3,).",
        ),
        (
            lambda m: CP(m.randn(3, 4), m.randn(4, 2).float(), m.randn(4, 2)),
            "CP.left must be float64 on cpu like the first factor",
        ),
        (
            lambda m: CP(*(m.randn(2, 2).int() for _ in range(3))),
            "CP.out must have a real floating dtype (float64, float32",
        ),
        (lambda m: CP(*(m.randn(2, 2).to(torch.complex64) for _ in range(3))), "got complex64"),
        (lambda m: Dense(m.randn(3, 4)), "Dense.array must be (any, any, any); got (3, 4)."),
        (
            lambda m: Tucker(m.randn(2, 2, 2), m.randn(3, 2), m.randn(4, 3), m.randn(4, 2)),
            "Tucker.left must be (any, 2); got (4, 3).",
        ),
        (
            lambda m: Tucker(m.randn(2, 2), m.randn(3, 2), m.randn(4, 2), m.randn(4, 2)),
            "Tucker.core must be (any, any, any); got (2, 2)",
        ),
    ],
)
def test_factors_that_do_not_fit(call, text, make, refuses):
    refuses(ShapeError, lambda: call(make), text)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda T, m: T(m.randn(5)), "left input must end in 4 (T is (3, 4, 4)); got (5,)."),
        (
            lambda T, m: T(m.randn(3)),
            "A tensor over (1, x) says so: CP(..., affine=True).",
        ),
        (
            lambda T, m: T(m.randn(4), m.randn(2, 6)),
            "right input must end in 4 (T is (3, 4, 4)); got (2, 6).",
        ),
        (lambda T, m: T(torch.tensor(1.0).double()), "left input must end in 4"),
        (
            lambda T, m: T(m.randn(4).float()),
            "left input must be float64 on cpu like T; got float32 on cpu. Use .to(...) on either.",
        ),
        (lambda T, m: T.contract(out=m.randn(4)), "contract(out=) must end in 3"),
        (
            lambda T, m: T.contract(right=m.randn(4).to("meta")),
            "contract(right=) must be float64 on cpu like T; got float64 on meta",
        ),
        (lambda T, m: T.interaction(m.randn(4)), "must end in 3 (T is (3, 4, 4)); got (4,)"),
        (lambda T, m: T.map(left=m.randn(4, 5)), "map(left=) must be (new, 4); got (4, 5)."),
        (lambda T, m: T.map(out=m.randn(3)), "map(out=) must be (new, 3); got (3,)."),
        (lambda T, m: T.map(right=m.randn(2, 4).float()), "map(right=) must be float64 on cpu"),
        (
            lambda T, m: T + T.map(out=m.randn(2, 3)),
            "must join two tensors of shape (3, 4, 4); got (2, 4, 4).",
        ),
        (
            lambda T, m: T - T.to(torch.float32),
            "must join two tensors that are float64 on cpu; got float32 on cpu.",
        ),
        *(
            (
                lambda T, m, other=other: T.inner(other(m)),
                "inner must join two tensors of shape (3, ",
            )
            for other in (
                lambda m: m.cp(3, 5, 4),
                lambda m: m.tucker(3, 5, 4),
                lambda m: m.dense(3, 5, 4),
            )
        ),
        *(
            (
                lambda T, m, other=other: T.inner(other(m).to(torch.float32)),
                "inner must join two tensors that are float",
            )
            for other in (lambda m: m.cp(), lambda m: m.tucker(), lambda m: m.dense())
        ),
    ],
)
def test_arguments_that_do_not_fit(form_name, call, text, make, refuses):
    tensor = make.form(form_name)
    refuses(ShapeError, lambda: call(tensor, make), text)


def test_a_vector_is_no_scalar(form_name, make, refuses):
    tensor = make.form(form_name)
    refuses(SizeError, lambda: tensor * make.randn(7), "must be given a scalar; got (7,)")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda T, m: T.contract(),
            "contract must be given exactly one of out=, left=, right=; got none.",
        ),
        (lambda T, m: T.contract(out=m.randn(3), left=m.randn(4)), "got ['left', 'out']."),
        (
            lambda T, m: T.gram("middle"),
            "mode must be one of out, left, right; got 'middle'.",
        ),
        (
            lambda T, m: T.similarity(T * 0.0),
            "similarity must compare two tensors that are not zero; got a norm of 0.",
        ),
        (lambda T, m: T + "no tensor", "got str."),
        (lambda T, m: T.inner(m.randn(3, 4, 4)), "got Tensor."),
    ],
)
def test_arguments_of_the_wrong_kind(form_name, call, text, make, refuses):
    tensor = make.form(form_name)
    refuses(ArgumentError, lambda: call(tensor, make), text)


def test_forms_do_not_mix_in_a_sum(make, refuses):
    forms = [make.cp(), make.tucker(), make.dense()]
    for one in forms:
        for other in forms:
            if one is not other:
                name = type(one).__name__
                refuses(
                    ArgumentError,
                    lambda one=one, other=other: one + other,
                    f"join two tensors of the same form ({name})",
                )


@pytest.mark.parametrize("name", ["cp", "tucker", "dense"])
@pytest.mark.parametrize(
    ("call", "who"),
    [
        (lambda T, m: T(m.randn(4)), "a call with one input"),
        (lambda T, m: T.symmetrise(), "symmetrise"),
        (lambda T, m: T.interaction(m.randn(3)), "interaction"),
    ],
)
def test_one_space_is_needed(name, call, who, make, refuses):
    tensor = make.form(name, 3, 4, 5)
    text = (
        f"{who} must have left and right of one size; got (3, 4, 5). Give both inputs, or map one."
    )
    refuses(ShapeError, lambda: call(tensor, make), text)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_similarity_in_a_half_type_does_not_overflow(dtype, maker):
    one = maker(0, dtype).cp(32, 32, h=32)
    assert float((one * 8.0).similarity(one)) == pytest.approx(1, abs=2e-2)

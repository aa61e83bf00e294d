"""QuadraticForm: every verb against its matrix, batches of forms, and gates."""

import pytest
import torch
from torch import einsum

from bilens.algebra import QuadraticForm
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError


def stacked(make, size=6, hidden=4):
    """Three forms that share nothing."""
    return QuadraticForm(
        make.randn(3, hidden), make.randn(3, hidden, size), make.randn(3, hidden, size)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_have_a_norm(make, dtype):
    form = QuadraticForm(*(x.to(dtype) for x in vars(stacked(make)).values()))
    assert form.norm().dtype == torch.float32
    exact = torch.linalg.norm(
        QuadraticForm(*(x.double() for x in vars(form).values())).dense(), dim=(1, 2)
    )
    torch.testing.assert_close(form.norm(), exact.float())


@pytest.mark.parametrize("chosen", [[2, 0], [1], [True, False, True], slice(1, 3)], ids=str)
@pytest.mark.parametrize("shared", ["nothing", "left", "factors", "weights", "one row"])
def test_rows_are_those_of_the_dense_forms(shared, chosen, make, close):
    form = stacked(make)
    weights, left, right = vars(form).values()
    form = {
        "nothing": form,
        "left": QuadraticForm(weights, left[0], right),
        "factors": QuadraticForm(weights, left[0], right[0]),
        "weights": QuadraticForm(weights[0], left, right),
        "one row": QuadraticForm(weights, left[:1], right),
    }[shared]
    chosen = chosen if isinstance(chosen, slice) else torch.tensor(chosen)
    close(form.rows(chosen).dense(), form.dense()[chosen])


def test_rows_of_one_form_are_refused(make, refuses):
    one = QuadraticForm(make.randn(4), make.randn(4, 6), make.randn(4, 6))
    refuses(ShapeError, lambda: one.rows(slice(0, 1)), "must be one of n forms")


VERBS = {
    "dense": (lambda Q: Q.dense(), lambda M: M),
    "negation": (lambda Q: (-Q).dense(), lambda M: -M),
    "2 *": (lambda Q: (2 * Q).dense(), lambda M: 2 * M),
    "norm": (lambda Q: Q.norm(), lambda M: torch.linalg.norm(M, dim=(-2, -1))),
    "trace": (lambda Q: Q.trace(), lambda M: M.diagonal(dim1=-2, dim2=-1).sum(-1)),
    "+": (lambda Q: (Q + 3 * Q).dense(), lambda M: 4 * M),
    "-": (lambda Q: (3 * Q - Q).dense(), lambda M: 2 * M),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["one", "shared factors", "own factors", "no hidden units"])
def test_verb_is_the_dense_truth(verb, kind, make, matrix, close):
    form = {
        "one": lambda: make.quadratic(),
        "shared factors": lambda: make.quadratic(batch=(2, 3)),
        "own factors": lambda: stacked(make),
        "no hidden units": lambda: make.quadratic(hidden=0),
    }[kind]()
    does, means = VERBS[verb]
    assert form.shape == matrix(form).shape
    close(does(form), means(matrix(form)))


def test_forms_with_other_hidden_sizes_and_batches_add(make, matrix, close):
    one, many = make.quadratic(hidden=2), stacked(make, hidden=5)
    close((one + many).dense(), matrix(one) + matrix(many))
    close((many - one).dense(), matrix(many) - matrix(one))


def test_map_is_m_q_m_transposed(make, matrix, close):
    for form in (make.quadratic(), make.quadratic(batch=(2,)), stacked(make)):
        m = make.randn(3, 6)
        close(form.map(m).dense(), m @ matrix(form) @ m.mT)


@pytest.mark.parametrize("own", [False, True])
def test_many_forms_on_many_inputs(own, make, matrix, close):
    form = stacked(make) if own else make.quadratic(batch=(3,))
    x = make.randn(5, 1, 6)
    close(form(x), einsum("nij,bi,bj->bn", matrix(form), x[:, 0], x[:, 0]))
    close(form @ x, einsum("nij,bj->bni", matrix(form), x[:, 0]))
    each = make.randn(3, 6)
    close(form(each), einsum("nij,ni,nj->n", matrix(form), each, each))
    one = make.randn(6)
    close(form(one), einsum("nij,i,j->n", matrix(form), one, one))


def test_one_form_on_inputs_of_any_batch(make, matrix, close):
    form = make.quadratic()
    for x in (make.randn(6), make.randn(5, 6), make.randn(2, 5, 6)):
        close(form(x), einsum("ij,...i,...j->...", matrix(form), x, x))
        close(form @ x, x @ matrix(form))


def test_repr(make):
    assert (
        repr(make.quadratic(batch=(2,)))
        == "QuadraticForm(shape=(2, 6, 6), hidden=4, dtype=float64)"
    )


@pytest.mark.parametrize("count", [None, 1, 2])
def test_gates_and_rest_are_the_form_exactly(count, make, matrix, close):
    form = make.quadratic(8, 6)
    gates = form.gates(count)
    products = einsum("ki,kj->ij", gates.a, gates.b)
    close((products + products.mT) / 2 + gates.rest.dense(), matrix(form))
    x = make.randn(5, 8)
    close(gates(x).sum(-1) + gates.rest(x), form(x))


def test_gates_pair_the_largest_of_each_sign(make, close):
    gates = make.spectral(3.0, 2.0, 1.0, 0.0, -1.0, -4.0).gates()
    close(gates.positive, torch.tensor([3.0, 2.0]).double())
    close(gates.negative, torch.tensor([4.0, 1.0]).double())
    close(gates.norm, torch.tensor(31.0).double().sqrt())


@pytest.mark.parametrize("seed", range(5))
def test_all_gates_leave_a_definite_rest_and_shares_add_up(seed, maker, close):
    gates = maker(seed).quadratic(8, 6).gates()
    rest = torch.linalg.eigvalsh(gates.rest.dense())
    noise = 1e-10 * float(gates.norm)
    assert bool((rest >= -noise).all()) or bool((rest <= noise).all())
    whole = gates.share.sum() + (gates.rest.norm() / gates.norm).square()
    close(whole, torch.ones_like(whole))


def test_a_definite_or_zero_form_has_no_gates(make, matrix, close):
    for form in (make.spectral(3.0, 2.0, 1.0), make.quadratic(hidden=0), make.quadratic() * 0.0):
        gates = form.gates()
        assert gates.a.shape[0] == 0
        close(gates.rest.dense(), matrix(form))
        assert gates.rows() == []
        assert gates.summary().startswith("0 gates over")


def test_gates_of_a_half_type_are_found_in_float32(maker):
    gates = maker(0, torch.bfloat16).quadratic().gates(1)
    assert (gates.computed_in, gates.a.dtype) == ("float32", torch.float32)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "call", "text"),
    [
        (
            ShapeError,
            lambda m: QuadraticForm(m.randn(3), m.randn(4, 5), m.randn(4, 5)),
            "got (3,), (4, 5), (4, 5)",
        ),
        (
            ShapeError,
            lambda m: QuadraticForm(m.randn(4), m.randn(4, 5), m.randn(4, 6)),
            "QuadraticForm must get weights (..., h)",
        ),
        (
            ShapeError,
            lambda m: QuadraticForm(m.randn(4), m.randn(4, 5), m.randn(4, 5).float()),
            "one dtype and device",
        ),
        (
            ShapeError,
            lambda m: m.quadratic()(m.randn(5)),
            "QuadraticForm's input must end in 6; got (5,)",
        ),
        (
            ShapeError,
            lambda m: QuadraticForm(m.randn(2, 4), m.randn(3, 4, 5), m.randn(3, 4, 5)),
            "batch dims that broadcast; got (2,), (3,), (3,)",
        ),
        (ShapeError, lambda m: QuadraticForm([1.0], m.randn(1, 5), m.randn(1, 5)), "got list"),
        (ShapeError, lambda m: m.quadratic(0).gates(), "empty mode"),
        (ShapeError, lambda m: m.quadratic(batch=(4,))(m.randn(3, 6)), "with (4,); got (3,)"),
        (ShapeError, lambda m: m.quadratic(batch=(4,)) @ m.randn(3, 6), "with (4,); got (3,)"),
        (ShapeError, lambda m: m.quadratic()([1.0] * 6), "input must be a torch tensor; got list"),
        (
            ShapeError,
            lambda m: m.quadratic(batch=(2,)) + m.quadratic(batch=(3,)),
            "with (2,); got (3,)",
        ),
        (ArgumentError, lambda m: m.quadratic() + 3, "another QuadraticForm; got int"),
        (ShapeError, lambda m: m.quadratic().map(3), "map must be a torch tensor; got int"),
        (ShapeError, lambda m: m.quadratic() @ m.randn(5), "QuadraticForm's input must end in 6"),
        (
            ShapeError,
            lambda m: m.quadratic(6) + m.quadratic(5),
            "must join forms over 6 inputs; got (5, 5)",
        ),
        (
            ShapeError,
            lambda m: m.quadratic().map(m.randn(6, 5)),
            "QuadraticForm.map must be given (new, 6); got (6, 5)",
        ),
        (
            ShapeError,
            lambda m: m.quadratic(batch=(2,)).gates(),
            "gates must be asked of one form; got a batch (2,). Index one",
        ),
        (
            ArgumentError,
            lambda m: m.quadratic().gates(0),
            "k must be a whole number ≥ 1, or None for all; got 0",
        ),
        (ArgumentError, lambda m: m.quadratic().eigh(0), "k must be a whole number ≥ 1"),
        (ArgumentError, lambda m: m.quadratic().eigh(2.5), "got 2.5"),
        (
            ArgumentError,
            lambda m: m.quadratic().eigh(2, "largest"),
            "which must be one of magnitude, top, bottom; got 'largest'",
        ),
        (
            NotFiniteError,
            lambda m: (m.quadratic() * float("nan")).eigh(),
            "QuadraticForm.weights must be finite; got 4 NaN or infinite of 4",
        ),
    ],
)
def test_refuses(kind, call, text, make, refuses):
    refuses(kind, lambda: call(make), text)


@pytest.mark.bad_input
def test_a_vector_is_no_factor(make):
    with pytest.raises(ShapeError):
        make.quadratic() * make.randn(4)

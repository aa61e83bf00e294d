"""Latents that are products of two readings: against each written out, and what they refuse."""

import pytest
import torch

from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.features import QuadraticLatents

F, D, M, N = 5, 8, 3, 7


def test_each_is_a_product_of_two_readings(make, close):
    left, right, b, c = make.randn(F, D), make.randn(F, D), make.randn(F), make.randn(F)
    out, base, x = make.randn(M, F), make.randn(M), make.randn(N, D)
    made = QuadraticLatents(left, right, b, c, out, base, k=2)
    every = torch.stack(
        [(x @ left[f] + b[f]) * (x @ right[f] + c[f]) for f in range(F)],
        1,
    )
    kept = every * (every >= every.sort(1).values[:, -2, None])
    close(made.encode(x), kept)
    close(made.decode(kept), kept @ out.mT + base)


@pytest.mark.bad_input
def test_factors_that_do_not_fit_are_refused(make, refuses):
    left, right = make.randn(F, D), make.randn(F, D)

    def built(**more):
        return lambda: QuadraticLatents(**{"left": left, "right": right} | more)

    refuses(ShapeError, built(right=right[:1]), f"right must be ({F}, {D}); got (1, {D})")
    refuses(ShapeError, built(left=left[0]), "left must be (any, any)")
    refuses(ShapeError, built(right=right.float()), "right must be float64", "got float32")
    refuses(ShapeError, built(left_bias=make.randn(1)), f"left_bias must be ({F})")
    refuses(ShapeError, built(right_bias=make.randn(F).half()), "got float16")
    refuses(ShapeError, built(out=make.randn(M, F + 1)), f"out must be ({M}, {F})")
    refuses(ShapeError, built(out=make.randn(M, F), base=make.randn(1)), f"base must be ({M})")
    refuses(ArgumentError, built(base=make.randn(M)), "base must come with an out")
    refuses(ShapeError, built(left=left.tolist()), "left must be a torch tensor; got list")
    for k in (0, F + 1, 1.5, True, -1):
        refuses(ArgumentError, built(k=k), f"k must be a whole number from 1 to {F}, or None")
    refuses(ArgumentError, built(unit=1), "unit must be True or False; got 1")
    refuses(ArgumentError, built(hook=3), "hook must be a text; got 3")
    refuses(ArgumentError, built(meta=None), "meta must be a dict; got None")


@pytest.mark.bad_input
def test_what_they_do_not_read_is_refused(make, refuses):
    made = QuadraticLatents(make.randn(F, D), make.randn(F, D), out=make.randn(M, F))
    x, a = make.randn(N, D), make.randn(N, F)
    for ask, given, size in ((made.encode, x, D), (made.decode, a, F)):
        refuses(ShapeError, lambda ask=ask, g=given: ask(g[:, 1:]), f"be given (..., {size})")
        refuses(ShapeError, lambda ask=ask, g=given: ask(g.float()), "be given float64")
        refuses(ShapeError, lambda ask=ask, g=given: ask(g.tolist()), "got list")
        refuses(NotFiniteError, lambda ask=ask, g=given: ask(g / 0), "must be finite")
    large = QuadraticLatents(1e200 * made.left, 1e200 * made.right)
    refuses(NotFiniteError, lambda: large.encode(x), "encode.latents must be finite")
    for odd in ([F], [], "ab", 1.5):
        refuses(ArgumentError, lambda odd=odd: made.tensor(odd), "feature must be")

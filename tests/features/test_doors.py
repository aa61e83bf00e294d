"""Features: what is handed over wrong is refused in one line, and half types are explained in
float32.
"""

import pytest
import torch

from bilens.algebra import CP, Dense
from bilens.base.errors import BilensError
from bilens.features import Dictionary, interactions, low_rank, mechanisms

O, I, H, F_OUT, F_IN = 3, 4, 5, 6, 7  # noqa: E741


def dictionary(make, width, latents):
    return Dictionary(
        make.randn(width, latents),
        make.randn(latents, width),
        make.randn(latents),
        make.randn(width),
    )


@pytest.fixture
def made(make):
    T, out, into = make.cp(O, I, h=H), dictionary(make, O, F_OUT), dictionary(make, I, F_IN)
    return T, out, into, interactions(T, out, into)


NAN = torch.full((2, I), torch.nan, dtype=torch.float64)
ODD = [None, "3", 3.0, [None], True, torch.tensor(2.0), object()]


@pytest.mark.bad_input
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_what_is_no_feature_is_refused(made, odd):
    form = made[3].of(0)
    calls = [
        lambda: made[3].of(odd),
        lambda: made[3].explain(odd, torch.zeros(1, I, dtype=torch.float64)),
        lambda: form.top(odd if odd is not None else 0),
        lambda: form.top(3, odd),
        lambda: form.read(odd),
        lambda: interactions(odd, made[1], made[2]),
        lambda: interactions(made[0], odd, made[2]),
        lambda: interactions(made[0], made[1], odd),
        lambda: made[3].explain(0, odd),
        lambda: made[1].encode(odd),
        lambda: made[1].decode(odd),
        lambda: Dictionary.train([odd]),
        lambda: mechanisms(made[0], max_rank=odd),
        lambda: mechanisms(odd),
        lambda: Dictionary.load(odd),
    ]
    for call in calls:
        with pytest.raises(BilensError, match=" must ") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_what_is_not_finite_or_does_not_fit_is_refused(made, make):
    T, out, into, found = made
    x = torch.zeros(2, I, dtype=torch.float64)
    calls = [
        lambda: found.explain([0], NAN),
        lambda: found.explain([0], x[:, :2]),
        lambda: found.explain([0], x.float()),
        lambda: found.explain([0], x, x),
        lambda: found.explain([F_OUT], x),
        lambda: found.explain([], x),
        lambda: interactions(Dense(T.dense()), out, into),
        lambda: interactions(T, into, out),
        lambda: interactions(T.to(torch.float32), out, into),
        lambda: interactions(T, out, into, in_names=["a"]),
        lambda: interactions(CP(T.out * torch.nan, T.left, T.right), out, into),
        lambda: found.of(0).gates(2, NAN),
        lambda: found.of(0).gates(2, x),
        lambda: found.of(0).gates(2, x[:, :2]),
        lambda: found.of(0).read(NAN),
        lambda: found.of(-1),
        lambda: found.top_entries(0),
        lambda: into.encode(x.float()),
        lambda: into.pre(NAN),
    ]
    for call in calls:
        with pytest.raises(BilensError, match=" must "):
            call()


def test_the_latents_stand_beside_what_adds_up(made, make, close):
    T, out, _, found = made
    x = make.randn(20, I)
    explained = found.explain(range(F_OUT), x)
    pre = (
        torch.einsum("oh,nh,nh->no", T.out, x @ T.left.mT, x @ T.right.mT)
    ) @ out.W_enc + out.b_enc
    close(explained.latents, pre.relu())
    assert bool((explained.latents == 0).any())  # where the sum of the parts is below zero
    row = explained.rows()[0]
    assert row["latent"] == pytest.approx(max(0.0, row["pre-activation"]))
    assert found.explain([1], x, torch.zeros(20, F_IN, dtype=torch.float64)).latents is not None
    rows = interactions(T, out.reads, made[2]).explain([1], x)
    assert rows.latents is None
    assert "latent" not in rows.rows()[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_explained_in_float32(made, make, dtype):
    T, out, into = (one.to(dtype) for one in made[:3])
    x = make.randn(9, I).to(dtype)
    exact = interactions(T.to(torch.float64), out.to(torch.float64), into.to(torch.float64))
    found, truth = interactions(T, out, into).explain([0, 1], x), exact.explain([0, 1], x.double())
    assert found.parts.dtype is torch.float32
    assert found.error < 1e-5
    torch.testing.assert_close(found.parts.double(), truth.parts, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_dictionaries_of_a_whole_layer_are_raised(made, make, dtype):
    """They are exact in its dtype: what their latents make is what they say."""
    T, (out, into) = made[0].to(dtype), (one.to(torch.bfloat16) for one in made[1:3])
    x = make.randn(9, I).to(dtype)
    found = interactions(T, out, into)
    exact = interactions(made[0], out.to(torch.float64), into.to(torch.float64))
    given = found.explain([0, 1], x), exact.explain([0, 1], x.double())
    assert given[0].parts.dtype is dtype
    torch.testing.assert_close(given[0].parts.double(), given[1].parts, rtol=1e-4, atol=1e-4)
    few = low_rank(T, out, make.randn(400, I).to(dtype), ranks=(1, I))
    assert bool((few.correlation[:, 1] > 0.999).all())
    cube = torch.einsum("of,oij->fij", out.W_enc.double(), made[0].dense())[1]
    form = into.W_dec.double() @ (cube + cube.mT) / 2 @ into.W_dec.double().mT
    torch.testing.assert_close(found.of(1).quadratic.dense().double(), form, rtol=1e-4, atol=1e-4)

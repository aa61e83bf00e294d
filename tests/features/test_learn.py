"""Dictionaries of planted directions: found by every architecture, and equally so in other units
and about another mean.
"""

import math

import pytest
import torch

from bilens.base.errors import ArgumentError, ConfigError, NotFiniteError, ShapeError
from bilens.features import Dictionary, DictionaryRecipe, learn

D, F, ON = 12, 24, 0.08  # 24 directions in 12 dimensions, each on in 8 % of rows: 1.9 a row
# and the weight of their penalty
ARCHITECTURES = {"batchtopk": 0.0, "topk": 0.0, "jumprelu": 0.1, "standard": 0.1}


def planted(directions, n=256, seed=1, scale=1.0, shift=0.0):
    """Batches of rows, over and over: sparse sums of ``directions``, with coefficients from 0.5 to
    1.5.
    """
    g = torch.Generator().manual_seed(seed)
    while True:
        on, size = (
            torch.rand(n, len(directions), generator=g, dtype=torch.float64) for _ in range(2)
        )
        yield scale * ((on < ON) * (size + 0.5)).to(directions) @ directions + shift


def recipe(kind, steps=700, **more):
    return DictionaryRecipe(
        kind, **{"expansion": 3, "k": 2, "learning_rate": 1e-2} | more, steps=steps, batch_size=256
    )


@pytest.fixture(scope="module")
def directions(maker):
    rows = maker().randn(F, D)
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def found(request, directions):
    kind = request.param
    how = recipe(kind, sparsity=ARCHITECTURES[kind])
    told = []
    made = Dictionary.train(
        planted(directions.float()), how, "layers.0.mlp.input", lambda *now: told.append(now)
    )
    return kind, made, told


def explained(made, x):
    return float(1 - (x - made(x)).square().sum() / (x - x.mean(0)).square().sum())


def matched(made, directions):
    """How many of the planted directions some latent writes, to a cosine of 0.9."""
    return int(((directions.to(made.W_dec) @ made.W_dec.mT).amax(1) > 0.9).sum())


def test_planted_directions_are_found(found, directions):
    kind, made, told = found
    x = next(planted(directions.float(), 4096, seed=2))
    L0 = float((made.encode(x) > 0).sum(1).double().mean())
    assert matched(made, directions) >= 18  # a start of random directions has 1
    assert explained(made, x) > 0.8
    assert abs(L0 - 2) < (0.5 if "topk" in kind else 3)
    assert float((made.W_dec.norm(dim=1) - 1).abs().max()) < 1e-5
    assert (made.centred, made.hook, made.k) == (
        True,
        "layers.0.mlp.input",
        2 if kind == "topk" else None,
    )
    assert made.architecture == {"batchtopk": "jumprelu"}.get(kind, kind)
    assert [now[:2] for now in told] == [(step, 700) for step in range(50, 701, 50)]
    assert told[-1][2]["L0"] == pytest.approx(L0, rel=0.2)
    assert told[-1][2]["loss"] < told[0][2]["loss"]


def test_more_penalty_leaves_fewer_active(directions):
    x = next(planted(directions.float(), 2048, seed=2))
    for kind in ("jumprelu", "standard"):
        few, many = (
            Dictionary.train(planted(directions.float()), recipe(kind, 200, sparsity=sparsity))
            for sparsity in (0.3, 0.003)
        )
        assert 3 * int((few.encode(x) > 0).sum()) < 2 * int((many.encode(x) > 0).sum())


def test_a_seed_decides_all(directions):
    one, same, other = (
        Dictionary.train(planted(directions), recipe("batchtopk", 20, seed=seed)).tensors
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["W_dec"], other["W_dec"])


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (1.0, 100.0), (1e-3, -7.0)])
def test_units_and_the_mean_change_nothing_else(kind, scale, shift, directions, close):
    how = recipe(kind, 60, sparsity=ARCHITECTURES[kind])
    plain, other = (
        Dictionary.train(planted(directions, **of), how)
        for of in ({}, {"scale": scale, "shift": shift})
    )
    # Rounding (of the shift most: 7000 in units of x) grows over the steps, by a factor of about a
    # hundred.
    for name in ("W_enc", "W_dec"):
        close(getattr(other, name), getattr(plain, name), tol=1e-7)
    close(other.b_enc, plain.b_enc * scale, tol=1e-7)
    close(other.b_dec - shift, plain.b_dec * scale, tol=1e-7)
    if plain.threshold is not None:
        close(other.threshold, plain.threshold * scale, tol=1e-7)
    x = next(planted(directions, seed=3))
    close(other.encode(x * scale + shift), plain.encode(x) * scale, tol=1e-6)


def test_dead_latents_wake(directions, monkeypatch):
    """Half of the latents begin too weak to be among the k largest: only what the others miss can
    wake them.
    """

    class Weak(learn._Learner):
        def __init__(self, *given):
            super().__init__(*given)
            self.W_enc.data[:, D:] *= 0.01

    monkeypatch.setattr(learn, "_Learner", Weak)
    monkeypatch.setattr(learn, "DEAD", 20)
    x, how = next(planted(directions, 4096, seed=2)), recipe("topk", 400, expansion=2)
    alive = []
    for weight in (0.0, learn.AUX):
        monkeypatch.setattr(learn, "AUX", weight)
        alive.append(
            int((Dictionary.train(planted(directions, 128), how).encode(x) > 0).any(0).sum())
        )
    assert alive[0] <= 16
    assert alive[1] >= 22


def test_the_loss_is_as_by_hand(directions, close):
    x = next(planted(directions, 512))
    variance = (x - x.mean(0)).square().sum(1).mean()
    for kind in ARCHITECTURES:
        learner = learn._Learner(x, recipe(kind, sparsity=0.25, k=3))
        loss, active = learner(x)
        W_dec, scale = learner.W_dec, (variance / D).sqrt()
        pre = (x - x.mean(0)) / scale @ W_dec.mT
        match kind:
            case "topk":
                on = pre >= pre.sort(dim=1).values[:, -3:-2]
            case "batchtopk":
                on = pre >= pre[:64].flatten().sort().values[-3 * 64]
            case "jumprelu":
                on = pre > 0.1
            case _:
                on = pre > 0
        a = pre.relu() * on
        penalty = {"jumprelu": (a > 0).sum() / len(x), "standard": a.sum() / len(x)}.get(
            kind, 0
        ) * 0.25
        close(loss, (x - x.mean(0) - scale * a @ W_dec).square().sum(1).mean() / variance + penalty)
        assert float(active) == float((a > 0).sum() / len(x))


def test_the_gradient_of_a_threshold(make):
    """d/dθ E[c a + λ on] of normal pre-activations is −(c θ + λ) φ(θ)."""
    c, weight, theta = 0.7, 0.3, torch.tensor([0.1, 0.8], dtype=torch.float64, requires_grad=True)
    z = make.randn(400_000, 2).requires_grad_()
    a, on = learn._Jump.apply(z, theta)
    (c * a + weight * on).mean(0).sum().backward()
    t = theta.detach()
    assert torch.allclose(
        theta.grad, -(c * t + weight) * (-(t**2) / 2).exp() / math.sqrt(2 * math.pi), rtol=0.03
    )
    assert torch.equal(z.grad * len(z), c * (z > t).double())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_learns_whatever_mode_the_caller_is_in(mode, directions):
    how = recipe("topk", 20)
    plain = Dictionary.train(planted(directions), how)
    with mode():
        quiet = Dictionary.train(planted(directions), how)
    assert torch.equal(quiet.W_enc, plain.W_enc)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_more_k_than_latents_is_refused(kind, directions, refuses):
    """Where k counts what is kept; all may be."""
    whole = Dictionary.train(planted(directions, 32), recipe(kind, 5, expansion=1, k=D))
    assert whole.k == (D if kind == "topk" else None)
    how = recipe(kind, 5, expansion=1, k=D + 1)
    if "topk" not in kind:
        assert Dictionary.train(planted(directions, 32), how).k is None
        return
    text = f"k must be at most {D}, the latents of width {D} at expansion 1; got {D + 1}."
    refuses(ConfigError, lambda: Dictionary.train(planted(directions, 32), how), text)


@pytest.mark.bad_input
def test_what_is_no_recipe_place_or_stream_is_refused(directions, refuses):
    for given, text in (
        (
            (planted(directions), {"k": 3}),
            "train(how=) must be a DictionaryRecipe, or None; got {'k': 3}.",
        ),
        ((planted(directions), None, None), "Dictionary.hook must be a text; got None."),
        ((3,), "activations must be batches of rows; got int."),
    ):
        refuses(ArgumentError, lambda given=given: Dictionary.train(*given), text)


def test_no_more_is_read_than_is_used(directions):
    stream, read = planted(directions, 8), []
    Dictionary.train((read.append(1) or x for x in stream), recipe("topk", 5))
    assert len(read) == 5
    Dictionary.train((read.append(1) or x for x in stream), recipe("topk", 20))
    assert len(read) == 25


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_activations_that_never_change(kind):
    made = Dictionary.train([torch.full((16, 3), 5.0)] * 30, recipe(kind, 30))
    assert torch.allclose(made(torch.full((2, 3), 5.0)), torch.tensor(5.0), atol=0.1)


def test_nothing_is_learned_of_what_made_the_activations():
    """They may come with the graph of a model: its gradients are not the dictionary's."""
    weight = torch.randn(D, D, requires_grad=True)
    x = torch.randn(64, D) @ weight
    Dictionary.train([x] * 3, DictionaryRecipe(steps=3, expansion=2, k=3))
    assert weight.grad is None


@pytest.mark.bad_input
def test_bad_activations(directions, refuses):
    def train(batches, steps=20):
        return lambda: Dictionary.train(batches, recipe("batchtopk", steps))

    x = next(planted(directions, 32))
    bad = x.clone()
    bad[3, 4] = torch.nan
    refuses(ArgumentError, train([]), "activations must hold at least one batch; got none")
    refuses(ArgumentError, train([x] * 3), "activations must last for 20 steps; got 3 batches")
    refuses(
        ArgumentError,
        train([x] * 18),
        "activations must last for 20 steps; got 18 batches. Pass more activations",
    )
    refuses(NotFiniteError, train([x, bad], steps=2), "learn.activations must be finite; got 1 NaN")
    refuses(NotFiniteError, train([x] * 18 + [bad] * 2), "learn.loss must be finite")
    for other, got in (
        (x[:, :5], "got (32, 5) in float64"),
        (x[0], "got (12,) in float64"),
        (x[:0], "got (0, 12) in float64"),
        (x.float(), "got (32, 12) in float32"),
    ):
        for before in (1, 17):
            refuses(
                ShapeError,
                train([x] * before + [other] * 5),
                "activations must be (n ≥ 1, d), all batches of",
                got,
            )
    refuses(ShapeError, train([x.long()] * 20), "activations must have a real floating dtype")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"architecture": "gated"},
            "architecture must be one of batchtopk, topk, jumprelu, standard; got 'gated'",
        ),
        ({"expansion": 0}, "expansion must be a whole number ≥ 1; got 0"),
        ({"k": 0}, "k must be a whole number ≥ 1; got 0"),
        ({"steps": -1}, "steps must be a whole number ≥ 1; got -1"),
        ({"batch_size": 0}, "batch_size must be a whole number ≥ 1; got 0"),
        ({"steps": math.nan}, "steps must be a whole number ≥ 1; got nan"),
        ({"batch_size": True}, "batch_size must be a whole number ≥ 1; got True"),
        ({"k": 1.5}, "k must be a whole number ≥ 1; got 1.5"),
        ({"seed": -1}, "seed must be 0 … 9223372036854775807"),
        ({"learning_rate": "fast"}, "learning_rate must be a finite number ≥ 0; got 'fast'"),
        ({"sparsity": -1.0}, "sparsity must be a finite number ≥ 0; got -1.0"),
        ({"sparsity": math.nan}, "sparsity must be a finite number ≥ 0; got nan"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number ≥ 0; got inf"),
    ],
)
@pytest.mark.bad_input
def test_a_wrong_recipe(changes, text, refuses):
    refuses(ConfigError, lambda: DictionaryRecipe(**changes), text)

"""Models of heads without softmax: explained outright where nothing normalises."""

import pytest
import torch

import bilens
from bilens import circuits
from bilens.base.errors import ArgumentError
from bilens.circuits.paths import parse

IDS = torch.tensor([3, 1, 6, 3])


SIZES = {
    "vocab_size": 11, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 8, "norm": "none",
    "attention": "bilinear", "initializer_range": 0.3,
}  # fmt: skip


def build(**given):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(**SIZES | given)
    model = bilens.Transformer(config).double().eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.3)
    return model


KINDS = [
    {},
    {"attention": "squared"},
    {"attention_bias": True, "mlp_bias": True},
    {"num_key_value_heads": 1},
    {"positions": "learned"},
    {"num_hidden_layers": 1, "intermediate_size": 0},
    {"num_hidden_layers": 3},
]


@pytest.mark.parametrize("detail", ["writes", "pairs", "paths"])
@pytest.mark.parametrize("kind", KINDS, ids=[" ".join(map(str, k.values())) or "-" for k in KINDS])
def test_nothing_is_given(kind, detail):
    model = build(**kind)
    ex = bilens.expand(model, IDS, 5, detail=detail, max_terms=400, cutoff=0)
    truth = float(model(input_ids=IDS[None]).logits[0, -1, 5])
    largest = max(abs(term.value) for term in ex.terms)
    assert ex.forward == pytest.approx(truth, abs=1e-12)
    assert abs(ex.total - truth) < 1e-10 * max(largest, 1.0)
    assert ex.given == ()
    assert "nothing given" in ex.summary()
    for term in ex.terms:
        assert parse(term.path, 3) == term.tree


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("more", [{}, {"qk_norm": True}, {"attention_normalised": True}])
def test_what_normalises_is_given_by_name(norm, more):
    model = build(norm=norm, attention="squared", **more)
    ex = bilens.expand(model, IDS, 5, max_terms=400, cutoff=0)
    assert abs(ex.total - float(model(input_ids=IDS[None]).logits[0, -1, 5])) < 1e-10
    kinds = {name.split("@")[0].split("[")[0].split(" L")[0] for name in ex.given}
    assert not any(kind.startswith("A") for kind in kinds)
    if "qk_norm" in more:
        assert {"σ q1", "σ k1", "σ q2", "σ k2"} <= kinds
    if "attention_normalised" in more:
        assert "sum of scores" in kinds


@pytest.mark.parametrize(
    ("given", "legs", "names"),
    [
        ("scores", 1, {"A L0H0", "A L0H1", "A L1H0", "A L1H1"}),
        ("first score", 3, {f"first score L{n}H{m}" for n in "01" for m in "01"}),
        ("second score", 3, {f"second score L{n}H{m}" for n in "01" for m in "01"}),
    ],
)
def test_scores_may_be_held(given, legs, names):
    model = build()
    ex = bilens.expand(model, IDS, 5, max_terms=600, cutoff=0, given=given)
    assert abs(ex.total - float(model(input_ids=IDS[None]).logits[0, -1, 5])) < 1e-10
    assert {name.split("[")[0] for name in ex.given} == names
    heads = [t.tree for t in ex.terms if t.component == "L1H0" and hasattr(t.tree, "inputs")]
    assert {len(tree.inputs) for tree in heads} == {legs}


def test_other_words_are_refused(refuses):
    refuses(ArgumentError, lambda: bilens.expand(build(), IDS, given="all"), "be one of scores")


def test_patterns_have_both_signs():
    model = build()
    found = circuits.attention_patterns(model, IDS)
    says = model(input_ids=IDS[None], output_attentions=True).attentions
    assert torch.allclose(found.weights, torch.cat([one[0] for one in says]))
    assert float(found.weights.min()) < 0


@pytest.mark.parametrize("kind", [{}, {"attention_bias": True}, {"qk_norm": True}, {"norm": "rms"}])
@pytest.mark.parametrize("attention", ["bilinear", "squared"])
def test_both_scores_are_sums_of_pairs_and_their_product_is_the_pattern(attention, kind):
    """Against queries and keys of the modules themselves."""
    model = build(attention=attention, **kind)
    says = model(input_ids=IDS[None], output_attentions=True).attentions[1][0]
    found = circuits.attention_product(model, IDS, 1, 1, 3, 1, k=7)
    assert found.total == pytest.approx(float(says[1, 3, 1]), rel=1e-10)
    assert found.error < 1e-12
    for one in (found.first, found.second):
        assert one.total == pytest.approx(one.forward, rel=1e-10)
    if attention == "squared":
        assert found.first.total == pytest.approx(found.second.total)
    every = found.first.values.flatten()[:, None] * found.second.values.flatten() * found.scale
    largest = every.flatten().abs().sort(descending=True).values[:7]
    assert [abs(row["value"]) for row in found.rows()] == pytest.approx(largest.tolist())
    assert found.rest + sum(row["value"] for row in found.rows()) == pytest.approx(found.total)


@pytest.mark.parametrize("attention", ["softmax", "bilinear"])
def test_a_score_over_features(attention):
    """Latents, base and error at the query and at the key: all of the score."""
    model = build(attention=attention, norm="rms", attention_bias=True)
    generator = torch.Generator().manual_seed(0)
    w, b = torch.randn(12, 20, generator=generator), torch.randn(12, generator=generator)
    D = bilens.features.Dictionary(w.double(), w.mT.double(), torch.zeros(20).double(), b.double())
    whole = circuits.attention_scores(model, IDS, 1, 0, 3, 2)
    found = circuits.attention_scores(model, IDS, 1, 0, 3, 2, dictionaries={"attn1.input": D})
    assert found.total == pytest.approx(whole.forward, rel=1e-10)
    assert {"base", "error", "1"} < set(found.query_sources)
    assert any(name.startswith("f") for name in found.key_sources)
    n = found.query_sources.index("base")
    attn = model.model.layers[1].self_attn
    q = attn.per_head("q_proj")[0]
    at = [attn.bias_per_head(name)[0] for name in ("q_proj", "k_proj")]
    turns = model.model.rotary_emb(torch.arange(4)[None], torch.float64)
    turned = [
        bilens.nn.rotate(x[None], *(a[0, 0, t, None] for a in turns))[0]
        for x, t in ((D.base @ q, 3), (at[1], 2))
    ]
    scale = attn.scale if attention == "softmax" else 1.0
    truth = float(turned[0] @ turned[1]) * scale
    m = found.key_sources.index("1")
    assert float(found.values[n, m]) == pytest.approx(truth, rel=1e-5)
    assert found.given == ("latents attn1.input@3", "latents attn1.input@2")


def test_a_third_score_and_a_product_of_one_are_refused(refuses):
    model = build()
    scores, product = circuits.attention_scores, circuits.attention_product
    refuses(ArgumentError, lambda: scores(model, IDS, 0, 0, 2, 1, score=3), "score must be 1 or 2")
    soft = build(attention="softmax")
    refuses(ArgumentError, lambda: scores(soft, IDS, 0, 0, 2, 1, score=2), "score must be 1")
    refuses(ArgumentError, lambda: product(soft, IDS, 0, 0, 2, 1), "must have two scores")

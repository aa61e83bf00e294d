"""Models of heads without softmax: explained outright where nothing normalises."""

import pytest
import torch
from torch import Tensor

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
    assert ex.held == f"{len(ex.given)} {'patterns' if given == 'scores' else 'scores'}"
    heads = [t.tree for t in ex.terms if t.component == "L1H0" and hasattr(t.tree, "inputs")]
    assert {len(tree.inputs) for tree in heads} == {legs}


def test_a_path_of_held_scores_by_its_units():
    """No other path goes through the values alone."""
    model = build()
    ex = bilens.expand(model, IDS, 5, max_terms=600, cutoff=0, given="scores")
    term = next(t for t in ex.terms if t.component == "L1H0" and "mlp0" in t.path)
    found = circuits.units(model, IDS, term, 5, given="scores")
    carried = sum(float(units.values.sum()) for units in found.units)
    assert carried == pytest.approx(term.value, rel=1e-10)


def test_other_words_are_refused(refuses):
    refuses(ArgumentError, lambda: bilens.expand(build(), IDS, given="all"), "be one of scores")


def test_scores_are_not_held_of_what_is_recorded_already(refuses):
    model = build()
    made = circuits.record(model, IDS)
    refuses(
        ArgumentError, lambda: bilens.expand(model, made, 5, given="scores"), "must be left out"
    )
    held = circuits.record(model, IDS, given="scores")
    assert {len(p.form.legs) for p in held.products.values() if p.looks} == {1}


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


LEGS = ("Q1", "K1", "Q2", "K2", "V")


def run(model, without: dict[str, tuple[int, str]] | None = None) -> Tensor:
    """Logits by the written-out sum over positions; by source what a leg of layer 1 does not read
    of it, of a head: {"K2": (1, "L0H0")}.
    """
    x, wrote = model.model.embed_tokens(IDS), {}
    for n, block in enumerate(model.model.layers):
        attn, out = block.self_attn, torch.zeros_like(x)
        for head in range(attn.n_heads):
            sides = {}
            for leg, name in zip(
                LEGS, ("q_proj", "k_proj", "q2_proj", "k2_proj", "v_proj"), strict=True
            ):
                gone = (without or {}).get(leg)
                read = x - wrote[gone[1]] if n == 1 and gone and gone[0] == head else x
                side = block.input_layernorm(read) @ attn.per_head(name)[head]
                if leg != "V":
                    cos, sin = model.model.rotary_emb(torch.arange(len(IDS))[None], x.dtype)
                    side = bilens.nn.rotate(side, cos[0, 0], sin[0, 0])
                sides[leg] = side
            pattern = (sides["Q1"] @ sides["K1"].mT) * (sides["Q2"] @ sides["K2"].mT) * attn.scale
            wrote[f"L{n}H{head}"] = pattern.tril() @ sides["V"] @ attn.per_head("o_proj")[head]
            out = out + wrote[f"L{n}H{head}"]
        x = x + out
        wrote[f"mlp{n}"] = block.mlp(block.post_attention_layernorm(x))
        x = x + wrote[f"mlp{n}"]
    return model.lm_head(model.model.norm(x))


@pytest.mark.parametrize("norm", ["none", "rms"])
@pytest.mark.parametrize("leg", ["K", *LEGS])
def test_edges_by_leg_are_what_a_pass_without_them_says(leg, norm):
    model = build(norm=norm)
    assert torch.allclose(run(model), model(input_ids=IDS[None]).logits[0])
    gone = [one for one in LEGS if one.startswith(leg)]
    truth = float(run(model, dict.fromkeys(gone, (1, "L0H0")))[-1, 5].detach())
    found = circuits.knockout(model, IDS, f"L0H0→L1H1.{leg}", 5, with_="zero")
    assert found.after == pytest.approx(truth, rel=1e-10)
    assert found.after != pytest.approx(found.before, rel=1e-6)
    if norm == "none":  # nothing is held: direct terms are all paths along the edge
        model.model.layers[1].mlp.down_proj.weight.data.zero_()
        found = circuits.knockout(model, IDS, f"L0H0→L1H1.{leg}", 5, with_="zero")
        assert found.direct == pytest.approx(found.effect, rel=1e-10)


def test_a_product_of_five_is_taken_out():
    """Its direct term is that product where nothing reacts."""
    model = build()
    path = "L1H1(q1: embed, k1: L0H0, q2: embed, k2: embed, v: mlp0)"
    found = circuits.knockout(model, IDS, path, 5, with_="zero")
    assert found.direct == pytest.approx(five(model), rel=1e-10)


def five(model) -> float:
    """The product of a knock-out above, written out at all positions that it is read from."""
    recording = circuits.record(model, IDS)
    at = {name: recording.writes[recording.index[name]] for name in ("embed", "L0H0", "mlp0")}
    attn, total = model.model.layers[1].self_attn, 0.0
    on = dict(zip(LEGS, ("embed", "L0H0", "embed", "embed", "mlp0"), strict=True))
    cos, sin = model.model.rotary_emb(torch.arange(len(IDS))[None], torch.float64)
    sides = {}
    for leg, name in zip(LEGS, ("q_proj", "k_proj", "q2_proj", "k2_proj", "v_proj"), strict=True):
        side = at[on[leg]] @ attn.per_head(name)[1]
        sides[leg] = side if leg == "V" else bilens.nn.rotate(side, cos[0, 0], sin[0, 0])
    t = len(IDS) - 1
    for s in range(len(IDS)):
        scores = (sides["Q1"][t] @ sides["K1"][s]) * (sides["Q2"][t] @ sides["K2"][s])
        total += float(
            scores
            * attn.scale
            * (sides["V"][s] @ attn.per_head("o_proj")[1] @ model.lm_head.weight[5])
        )
    return total


def test_legs_that_are_not_there_are_refused(refuses):
    model = build()
    refuses(
        ArgumentError, lambda: circuits.knockout(build(attention="softmax"), IDS, "mlp0→L1H0.K2"),
        "read by one of its legs: Q, K, V",
    )  # fmt: skip
    refuses(
        ArgumentError,
        lambda: circuits.knockout(model, IDS, "L1H0(embed, embed, embed, embed, embed)"),
        "name its legs: L1H0(q1: …, k1: …, q2: …, k2: …, v: …)",
    )


def test_composition_by_leg():
    """Against the products of matrices."""
    model = build()
    found = {
        (r["first"], r["second"], r["kind"]): r["strength"]
        for r in circuits.composition(model).rows()
    }
    attn = [block.self_attn for block in model.model.layers]
    ov = attn[0].per_head("v_proj")[1] @ attn[0].per_head("o_proj")[1]
    for kind, sides in (("Q2", ("q2_proj", "k2_proj")), ("K1", ("k_proj", "q_proj"))):
        one, other = (attn[1].per_head(name)[0] for name in sides)
        qk = one @ other.mT
        assert found["L0H1", "L1H0", kind] == pytest.approx(
            float((ov @ qk).norm() / ov.norm() / qk.norm())
        )


@pytest.mark.parametrize("attention", ["bilinear", "squared"])
def test_a_head_by_all_its_legs_from_weights_alone(attention, refuses):
    """Its value is that of the one path that looks so, whatever else is read."""
    model = build(attention=attention, num_hidden_layers=1)
    legs = "q1: embed, k1: embed, q2: embed, k2: embed, v: embed"
    form = circuits.virtual(model, f"W_U L0H1[-2]({legs})")
    ex = bilens.expand(model, IDS, 5, max_terms=None, cutoff=0)
    path = {term.path: term.value for term in ex.terms}[f"L0H1@1→3({legs})"]
    query, key = int(IDS[3]), int(IDS[1])
    on = {"q1": query, "k1": key, "q2": query, "k2": key, "v": key}
    assert float(form(**on)[5]) == pytest.approx(path, rel=1e-6)  # angles are float32's
    hot = {leg: torch.eye(11).double()[token] for leg, token in on.items()}
    assert torch.allclose(form(**hot), form(**on))
    assert all(score.shape == (11, 11) for score in form.scores)
    refuses(ArgumentError, lambda: form(q1=1), "give each of q1, k1, q2, k2, v")
    refuses(
        ArgumentError, lambda: circuits.virtual(model, "L0H1(q1: embed, v: embed)"), "name the legs"
    )
    refuses(
        ArgumentError,
        lambda: circuits.virtual(build(attention="softmax"), f"L0H1({legs})"),
        "have legs where a head goes without softmax",
    )


@pytest.mark.parametrize("attention", ["bilinear", "squared"])
def test_each_score_has_a_circuit_by_name(attention, refuses):
    model = build(attention=attention)
    for number in (1, 2):
        found = circuits.virtual(model, f"L1H1[-2].QK{number}(embed, embed)").dense()
        circuit = circuits.qk_circuit(model, 1, 1, -2, score=number).dense()
        assert (found - circuit).abs().max() < 1e-7 * circuit.abs().max()  # angles are in float32
    paths = circuits.head_paths(model, "L1H1")
    assert paths[0] == "W_U L1H1(embed)"
    assert [parse(path).number for path in paths[1:]] == (
        [1, 2] if attention == "bilinear" else [0]
    )
    for path in paths:
        assert len(circuits.rules(model, path, 3).rows()) == 3
    refuses(ArgumentError, lambda: circuits.virtual(model, "L1H1.QK3(x, x)"), "that it has")
    refuses(ArgumentError, lambda: circuits.head_paths(model, "L9H0"), "L0H0, L0H1")
    if attention == "bilinear":
        two = "say which score of L1H1, QK1 or QK2; got 'QK'"
        refuses(ArgumentError, lambda: circuits.virtual(model, "L1H1.QK(x, x)"), two)


def test_heads_without_softmax_are_measured_by_shares_of_both_signs():
    model = build()
    found = circuits.head_scores(model, block=4, texts=2)
    patterns = [layer.double() for layer in model(found.tokens, output_attentions=True).attentions]
    for n in range(len(found.heads)):
        rows = patterns[n // 2][:, n % 2]
        shares = rows / rows.abs().sum(-1, keepdim=True)
        back = [float(text[t, t - 1]) for text in shares for t in range(1, 8)]
        after = [float(text[t, t - 3]) for text in shares for t in range(4, 8)]
        below = [float(-row[row < 0].sum()) for text in shares for row in text]
        assert float(found.previous[n]) == pytest.approx(sum(back) / len(back))
        assert float(found.induction[n]) == pytest.approx(sum(after) / len(after))
        assert float(found.negative[n]) == pytest.approx(sum(below) / len(below))
    assert 0 < float(found.negative.min()) < float(found.negative.max()) < 1
    assert found.columns()[-1] == "taken away"


@pytest.mark.parametrize("layered", ["q1", "k2", "v"])
def test_a_leg_of_a_head_may_read_a_layer(layered, refuses):
    """Against the head's own module, where each leg reads what its path gives."""
    model = build()
    reads = dict.fromkeys(("q1", "k1", "q2", "k2", "v"), "embed") | {layered: "mlp0(embed, embed)"}
    legs = ", ".join(f"{leg}: {path}" for leg, path in reads.items())
    form = circuits.virtual(model, f"W_U L1H1[-2]({legs})")
    assert form.paired == (layered,)
    query, key = int(IDS[3]), int(IDS[1])
    on = {"q1": query, "k1": key, "q2": query, "k2": key, "v": key}
    on |= {layered: (on[layered],) * 2}

    embed = model.W_E[IDS].detach()
    made = {
        leg: embed if path == "embed" else model.blocks[0].mlp(embed) for leg, path in reads.items()
    }
    there = (torch.arange(len(IDS)) == 1)[:, None]  # nothing is looked at but the key
    made |= {leg: made[leg] * there for leg in ("k1", "k2", "v")}
    heads = model.wiring().parts[2].attention
    truth = heads.by_head(list(made.values()))["L1H1"][3] @ model.W_U[:, 5]
    assert float(form(**on)[5]) == pytest.approx(float(truth), rel=1e-6)  # angles are float32's
    refuses(ArgumentError, lambda: form(**on | {layered: 3}), f"{layered} must have two rows")
    other = "k1" if layered != "k1" else "q1"
    refuses(ArgumentError, lambda: form(**on | {other: (3, 3)}), f"{other} must have one row")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "row", [-1, 99, True, 1.5, None, "a", torch.tensor(99), torch.ones(5), torch.ones(1, 13)]
)
def test_a_leg_has_a_row_that_its_leaf_has(refuses, row):
    """A negative one would be another token's."""
    legs = dict.fromkeys(("q1", "k1", "q2", "k2", "v"), 1)
    expr = f"W_U L0H1[-1]({', '.join(f'{leg}: embed' for leg in legs)})"
    found = circuits.virtual(build(), expr)
    for name in legs:
        refuses(ArgumentError, lambda name=name: found(**legs | {name: row}), "legs must be rows")
    assert torch.equal(found(**legs | {"q1": torch.tensor(3)}), found(**legs | {"q1": 3}))

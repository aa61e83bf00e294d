"""Knock-outs against a model built without the component, and what they say of the terms."""

import numpy as np
import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import At, Knockout, Removal, expand, knockout


def build(norm="rms", layers=2, **given):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=4,
        num_hidden_layers=layers,
        num_attention_heads=2,
        head_dim=4,
        norm=norm,
        initializer_range=0.5,
        **given,
    )
    return bilens.Transformer(config).double().eval().requires_grad_(False)


TOKENS = torch.tensor([1, 4, 2, 7])


def by_hand(model, name):
    """The model with the component's own weights set to zero."""
    with torch.no_grad():
        if name.startswith("mlp"):
            model.blocks[int(name[3:])].mlp.down_proj.weight.zero_()
        elif name.startswith("attn"):
            model.blocks[int(name[4:])].self_attn.o_proj.weight.zero_()
        else:
            head = int(name[3:])
            model.blocks[int(name[1])].self_attn.o_proj.weight[:, 4 * head : 4 * head + 4].zero_()
    return float(model(TOKENS[None]).logits[0, -1, 3])


@pytest.mark.parametrize("name", ["L0H1", "L1H0", "mlp0", "mlp1", "attn0"])
def test_a_knock_out_is_the_model_without_the_component(name):
    found = knockout(build(), TOKENS, name, 3, with_="zero")
    assert found.before == pytest.approx(float(build()(TOKENS[None]).logits[0, -1, 3]), rel=1e-12)
    assert found.after == pytest.approx(by_hand(build(), name), rel=1e-10)
    assert found.effect == found.before - found.after


def test_the_sum_and_the_model_agree_where_nothing_downstream_reacts():
    """The last layer of a model without norms: what its term says is what happens."""
    model = build("none", attention_bias=True)
    terms = {term.path: term.value for term in expand(model, TOKENS, 3, detail="writes").terms}
    found = knockout(model, TOKENS, "mlp1", 3)
    assert found.effect == pytest.approx(terms["mlp1"], rel=1e-10)
    assert found.direct == pytest.approx(terms["mlp1"], rel=1e-10)
    mean = knockout(model, TOKENS, "mlp1", 3, with_="mean")
    assert mean.effect == pytest.approx(mean.direct, rel=1e-10)
    assert mean.effect != pytest.approx(found.effect)


def test_only_the_positions_named_are_touched():
    model = build()
    assert knockout(model, TOKENS, "mlp1", 3, at=[0, 1, 2]).effect == pytest.approx(0, abs=1e-12)
    everywhere, last = (knockout(model, TOKENS, "mlp1", 3, at=at).after for at in (None, [-1]))
    assert everywhere == pytest.approx(last, rel=1e-10)
    assert knockout(model, TOKENS, "L0H0", 3, at=[0]).after != pytest.approx(
        knockout(model, TOKENS, "L0H0", 3).after
    )


@pytest.mark.parametrize(
    ("what", "at", "names"),
    [
        ("mlp1", None, ("mlp1",)),
        ("mlp1", 0, ("mlp1@0",)),
        (["mlp1", "L0H0@1", 2], [-1, 0], (f"mlp1@0,{len(TOKENS) - 1}", "L0H0@1", "@2")),
        ("mlp0→L1H0.V", [1], ("mlp0→L1H0.V@1",)),
        ("mlp1(mlp0, L0H0)", 1, ("mlp1(mlp0, L0H0)@1",)),
    ],
)
def test_what_was_taken_out_says_where(what, at, names):
    """Else numbers of two questions stand under one name."""
    model = build()
    found = knockout(model, TOKENS, what, 3, at=at)
    assert found.what == names
    assert {row["without"] for row in found.rows()} == {", ".join(names)}
    if at is not None and not isinstance(at, list):
        assert found.after == knockout(model, TOKENS, names[0], 3).after


def test_the_model_is_left_as_it_was():
    model = build()
    before = model(TOKENS[None]).logits
    knockout(model, TOKENS, ["L0H0", "mlp1"], 3)
    assert torch.equal(model(TOKENS[None]).logits, before)


def test_layers_of_a_classifier_can_be_taken_out():
    torch.manual_seed(0)
    config = bilens.ClassifierConfig(
        input_shape=[4], hidden_size=5, num_hidden_layers=2, residual=True, id2label={0: "a"}
    )
    model = bilens.Classifier(config).double()
    image = torch.ones(4, dtype=torch.float64)
    found = knockout(model, image, ["mlp0", "mlp1"], "a")
    assert found.after == pytest.approx(float(model.head(model.embed(image))[0]), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"what": "L7H0"}, "what must be among embed, L0H0, L0H1, mlp0, L1H0"),
        ({"what": []}, "what must name at least one component"),
        ({"what": 4}, "what must be a position -4 … 3; got 4"),
        ({"what": "L0H1@9"}, "the position of 'L0H1@9' must be -4 … 3; got 9"),
        ({"what": "L1H0→mlp0"}, "L1H0 must be among what mlp0 reads: embed, L0H0, L0H1"),
        ({"what": "mlp1->L1H0.K"}, "mlp1 must be among what L1H0.K reads"),
        ({"what": "L0H0→L9H0"}, "where the edge 'L0H0→L9H0' ends must be among L0H0"),
        ({"what": "L9H0→mlp0"}, "where the edge 'L9H0→mlp0' begins must be among embed"),
        ({"what": "L0H0→L1H0.O"}, "ends must be among"),
        ({"what": "L0H0→mlp1.K"}, "must be an attention layer's or head's"),
        ({"what": "L0H0→mlp0→mlp1"}, "must have one arrow"),
        ({"what": "mlp0(embed)"}, "must have 2 inputs, as mlp0 multiplies so many; got 1"),
        ({"what": "mlp0(mlp1, embed)"}, "mlp1 must be among what mlp0 reads"),
        ({"what": "mlp0(1, embed)"}, "the constant 1 must be read, where there is a bias"),
        ({"what": "mlp1(mlp0(embed, embed), embed)"}, "must be sources, or 1; got a path"),
        (
            {"what": "mlp1(attn0, mlp0)"},
            "one source; got attn0, which is L0H0, L0H1. Name",
        ),
        (
            {"what": "mlp1(mlp0, attn0)"},
            "what is multiplied must be one source; got attn0",
        ),
        ({"what": "mlp9(embed, embed)"}, "what reads must be among L0H0"),
        ({"what": "L1H0@2→3(mlp0)"}, "must name one step, without where a head looks"),
        ({"what": "mlp0(embed"}, "must have ')' at character"),
        ({"with_": TOKENS[:2]}, 'must be "zero", "mean", or an input of 4 positions, as the first'),
        ({"at": [4]}, "at must hold positions -4 … 3; got 4"),
        ({"at": 9}, "at must hold positions -4 … 3; got 9"),
        ({"at": 1.5}, "at must be positions, or one; got 1.5"),
        ({"what": "L0H1@1", "at": 0}, "at must be left out where all that is taken out names its"),
        ({"what": ["L0H1@1", 2], "at": [0, 1]}, "got [0, 1] for L0H1@1, 2"),
        ({"what": None}, "what must name components"),
        ({"what": [None]}, "what must name components"),
        ({"what": True}, "what must name components"),
        ({"target": At(torch.zeros(6), "mlp0.input")}, "target must be over the outputs"),
        (
            {"inputs": TOKENS[:1], "with_": "mean"},
            'with_="mean" must have positions to take a mean over; got one',
        ),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_taken_out_is_refused(refuses, change, text):
    given = {"inputs": TOKENS, "what": "mlp0", "target": 3} | change
    refuses(ArgumentError, lambda: knockout(build(), **given), text)


@pytest.mark.parametrize("name", ["L0H1", "L1H0", "mlp0", "mlp1"])
def test_the_mean_is_that_of_the_components_own_writes(name):
    """The whole pass by hand, layer by layer, with one write replaced by its mean."""
    model = build("none", positions="none")
    hidden = torch.ones(4, 4).triu(1).bool()
    x = model.W_E[TOKENS]
    for n, mlp in enumerate(block.mlp for block in model.blocks):
        scores = (x @ model.W_Q[n]) @ (x @ model.W_K[n]).mT / 2
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        written = list(pattern @ (x @ model.W_V[n]) @ model.W_O[n])
        for head in (0, 1):
            mean = written[head].mean(0)
            x = x + (mean if name == f"L{n}H{head}" else written[head])
        out = ((x @ mlp.gate_proj.weight.T) * (x @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
        x = x + (out.mean(0) if name == f"mlp{n}" else out)
    truth = float(x[-1] @ model.W_U[:, 3])
    assert knockout(model, TOKENS, name, 3, with_="mean").after == pytest.approx(truth, rel=1e-10)


def test_both_ways_are_tried_side_by_side():
    model = build()
    both = knockout(model, TOKENS, "L0H1", 3)
    assert [removal.replaced_by for removal in both.removals] == ["zero", "mean"]
    for removal in both.removals:
        alone = knockout(model, TOKENS, "L0H1", 3, with_=removal.replaced_by)
        assert len(alone.removals) == 1
        assert alone.after == pytest.approx(removal.after, rel=1e-14)
        assert alone.direct == pytest.approx(removal.direct, rel=1e-14)
    assert (both.after, both.effect, both.direct) == (
        both.removals[0].after,
        both.removals[0].effect,
        both.removals[0].direct,
    )
    single = knockout(model, TOKENS[:1], "L0H1", 3)
    assert [removal.replaced_by for removal in single.removals] == ["zero"]
    rows = both.rows()
    assert [row["replaced by"] for row in rows] == ["zero", "mean"]
    assert all(row["before"] - row["after"] == row["effect"] for row in rows)


@pytest.mark.parametrize(
    ("effect", "direct", "verdict"),
    [
        (1.0, 1.0, "confirmed"),
        (1.0, 1.99, "confirmed"),
        (-1.99, -1.0, "confirmed"),
        (1.0, 2.01, "not confirmed"),
        (2.01, 1.0, "not confirmed"),
        (0.001, 1.0, "not confirmed"),
        (0.0, 1.0, "not confirmed"),
        (1.0, 0.0, "not confirmed"),
        (-0.1, 0.142, "reversed"),
        (1.0, -0.011, "reversed"),
        (1.0, -0.009, "not confirmed"),  # no sign to speak of
        (0.0, 0.0, "nothing either way"),
        (1e-12, -1e-12, "nothing either way"),  # both are rounding
    ],
)
def test_what_the_intervention_says_of_the_terms(effect, direct, verdict):
    removal = Removal("zero", effect, 0.0, direct, 1e-10)
    assert removal.effect == effect
    assert removal.verdict == verdict


def made():
    removals = (Removal("zero", 2.0, 2.5, 0.25, 1e-10), Removal("mean", 2.0, 1.75, 0.25, 1e-10))
    return Knockout("'a' − 'b'", 3, ("L1H3",), removals, "logits")


def test_a_knock_out_says_in_words_what_it_found(tmp_path):
    found = made()
    assert found.summary() == (
        "'a' − 'b' at 3 without L1H3, 2 before: "
        "2.5 with zero in place, effect -0.5, direct terms 0.25: reversed; "
        "1.75 with mean in place, effect 0.25, direct terms 0.25: confirmed"
    )
    assert [row["the attribution"] for row in found.rows()] == ["reversed", "confirmed"]
    assert found.verdict == "reversed"
    found.save(tmp_path / "k.safetensors")
    assert Knockout.load(tmp_path / "k.safetensors").rows() == found.rows()
    (bars,), layout = found.figure()["data"], found.figure()["layout"]
    assert bars["x"] == [-0.5, 0.25, 0.25, 0.25]
    assert layout["yaxis"]["ticktext"] == [
        "effect, zero in place",
        "direct terms, zero in place",
        "effect, mean in place",
        "direct terms, mean in place",
    ]
    assert layout["xaxis"]["title"]["text"] == "loss of 'a' − 'b' (logits)"


def test_the_readmes_head_is_contradicted():
    model = bilens.load("tinystories-2l")
    prompt = "Once upon a time there was a little"
    found = knockout(model, prompt, "L1H3", (" girl", " boy"))
    assert found.direct > 0
    assert found.effect < 0
    assert found.verdict == "reversed"


def test_a_forward_that_goes_around_the_modules_is_the_same_function():
    """What is taken out is what a part writes, whatever calls it."""
    model = build()
    attention = model.blocks[1].self_attn

    def around(x, turn=None, mask=None, cache=None, patterns=False):
        z, pattern = attention._look(*attention._project(x, turn), mask)
        return torch.nn.functional.linear(
            z.transpose(1, 2).flatten(2), attention.o_proj.weight
        ), pattern

    attention.forward = around
    found = knockout(model, TOKENS, "L1H0", 3, with_="zero")
    assert found.after == pytest.approx(by_hand(build(), "L1H0"), rel=1e-10)


@pytest.mark.bad_input
def test_a_model_that_is_not_the_sum_of_its_parts_is_refused(refuses):
    model = build()
    forward = model.model.norm.forward
    model.lm_head.forward = lambda x: 2 * torch.nn.functional.linear(x, model.lm_head.weight)
    assert forward is not None
    refuses(ArgumentError, lambda: knockout(model, TOKENS, "mlp1", 3), "what its parts add up to")


def test_equal_outputs_of_a_pair_are_nothing_to_lose():
    found = knockout(build(), TOKENS, "mlp1", (3, 3))
    assert (found.before, found.after, found.direct) == (0, 0, 0)
    assert found.verdict == "nothing either way"


# Edges, products, positions and other inputs, against a forward pass written out.


def rms(x, weight):
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight


def written_out(model, tokens, unread=(), products=(), replaced=None):
    """Logits at the last position. ``unread``: {(reader, leg): names} that are not read;
    ``products``: (layer, a, b) that are not written; ``replaced``: what stands for a write.
    """
    unread, replaced = dict(unread), replaced or {}
    there, wrote = torch.arange(len(tokens)), {}
    cos, sin = model.model.rotary_emb(there[None], torch.float64)

    def write(name, value):
        wrote[name] = replaced[name](value) if name in replaced else value

    def stream(reader, leg=""):
        return sum(wrote.values()) - sum(wrote[name] for name in unread.get((reader, leg), ()))

    def turned(x):
        half = x.shape[-1] // 2
        return x * cos[0, 0] + torch.cat([-x[:, half:], x[:, :half]], -1) * sin[0, 0]

    hidden = torch.ones(len(tokens), len(tokens)).triu(1).bool()
    write("embed", model.W_E[tokens])
    for n, block in enumerate(model.blocks):
        heads = {}
        for h in (0, 1):
            name = f"L{n}H{h}"
            q, k, v = (
                rms(stream(name, leg), block.input_layernorm.weight) @ w[n, h]
                for leg, w in (("Q", model.W_Q), ("K", model.W_K), ("V", model.W_V))
            )
            scores = turned(q) @ turned(k).mT / 2
            heads[name] = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v @ model.W_O[n, h]
        for name, value in heads.items():
            write(name, value)
        mlp, weight = block.mlp, block.post_attention_layernorm.weight
        x = stream(f"mlp{n}")
        left, right = mlp.gate_proj.weight.T, mlp.up_proj.weight.T
        read = rms(x, weight)
        out = (read @ left) * (read @ right)
        scale = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight
        for layer, a, b in products:
            if layer == f"mlp{n}":
                a, b = (wrote[name] * scale for name in (a, b))
                less = (a @ left) * (b @ right) + (b @ left) * (a @ right)
                out = out - (less if not torch.equal(a, b) else less / 2)
        write(f"mlp{n}", out @ mlp.down_proj.weight.T)
    return rms(stream("logits")[-1], model.model.norm.weight) @ model.W_U


LEGS = "QKV"
CASES = {
    "L0H1→mlp1": {"unread": {("mlp1", ""): ["L0H1"]}},
    "L0H1→L1H0": {"unread": {("L1H0", leg): ["L0H1"] for leg in LEGS}},
    "mlp0→L1H0.K": {"unread": {("L1H0", "K"): ["mlp0"]}},
    "mlp0->L1H1.Q": {"unread": {("L1H1", "Q"): ["mlp0"]}},
    "embed→L0H1.V": {"unread": {("L0H1", "V"): ["embed"]}},
    "attn0→attn1.V": {"unread": {(f"L1H{h}", "V"): ["L0H0", "L0H1"] for h in (0, 1)}},
    "L0H0→logits": {"unread": {("logits", ""): ["L0H0"]}},
    "mlp1(mlp0, L1H0)": {"products": [("mlp1", "mlp0", "L1H0")]},
    "mlp1(L0H1, L0H1)": {"products": [("mlp1", "L0H1", "L0H1")]},
    "mlp0(embed, L0H1)": {"products": [("mlp0", "embed", "L0H1")]},
}
LISTS = {
    ("L0H1", "mlp0→L1H0.K"): {
        "unread": {("L1H0", "K"): ["mlp0"]},
        "replaced": {"L0H1": torch.zeros_like},
    },
    ("L0H1", "mlp1(mlp0, L1H0)"): {
        "products": [("mlp1", "mlp0", "L1H0")],
        "replaced": {"L0H1": torch.zeros_like},
    },
    ("mlp0→L1H0.K", "embed→L1H0.Q"): {
        "unread": {("L1H0", "K"): ["mlp0"], ("L1H0", "Q"): ["embed"]}
    },
    ("mlp0→L1H0.K", "L1H0→mlp1"): {"unread": {("L1H0", "K"): ["mlp0"], ("mlp1", ""): ["L1H0"]}},
    ("L0H0→mlp1", "attn0->mlp1", "L0H0→mlp1@2"): {"unread": {("mlp1", ""): ["L0H0", "L0H1"]}},
    ("mlp0→L1H0", "mlp0→L1H0.K", "mlp0→attn1.Q", "mlp0→attn1"): {
        "unread": {(f"L1H{h}", leg): ["mlp0"] for h in (0, 1) for leg in LEGS}
    },
    ("mlp1(mlp0, L1H0)", "mlp1(L1H0, mlp0)"): {"products": [("mlp1", "mlp0", "L1H0")]},
    ("mlp0→mlp1", "mlp1(mlp0, L1H0)"): {"unread": {("mlp1", ""): ["mlp0"]}},
    ("mlp0→mlp1", "mlp1(L0H0, L1H0)"): {
        "unread": {("mlp1", ""): ["mlp0"]},
        "products": [("mlp1", "L0H0", "L1H0")],
    },
    ("embed", "embed→mlp1"): {
        "unread": {("mlp1", ""): ["embed"]},
        "replaced": {"embed": torch.zeros_like},
    },
}


WITHOUT = [*CASES.items(), *LISTS.items()]
NAMES = [" ".join([w] if isinstance(w, str) else w).replace("→", "->") for w, _ in WITHOUT]


@pytest.mark.parametrize(("what", "changes"), WITHOUT, ids=NAMES)
def test_edges_and_products_are_what_a_pass_without_them_says(what, changes):
    model = build()
    found = knockout(model, TOKENS, what, 3, with_="zero")
    truth = float(written_out(model, TOKENS, **changes)[3])
    assert found.before == pytest.approx(float(written_out(model, TOKENS)[3]), rel=1e-10)
    assert found.after == pytest.approx(truth, rel=1e-10)
    assert abs(found.effect) > 1e-7


@pytest.mark.parametrize("what", [what for what, _ in WITHOUT], ids=NAMES)
def test_direct_terms_and_reactions_are_the_effect_where_no_norm_ends(what):
    """Nothing is left for the end to have done; and a part that reads nothing else reacts not."""
    model = build("none")
    (removal,) = knockout(model, TOKENS, what, 3, with_="zero").removals
    assert removal.direct + sum(removal.through) == pytest.approx(removal.effect, abs=1e-12)
    assert abs(removal.at_the_end) < 1e-12
    if what in ("L0H0→logits", "mlp1(mlp0, L1H0)", "mlp1(L0H1, L0H1)"):
        assert sum(abs(part) for part in removal.through) < 1e-12


def test_a_part_reacts_by_what_it_writes_otherwise():
    model, wrote = build(), {}
    for way, gone in (("clean", {}), ("gone", {"L0H1": torch.zeros_like})):
        keep = {"mlp1": lambda x, way=way: wrote.setdefault(way, x)}
        written_out(model, TOKENS, replaced=gone | keep)
    last = model.model.norm
    x = {}
    written_out(model, TOKENS, replaced={name: keeping(x, name) for name in SOURCES})
    q = last.scale(sum(x.values()))[-1] * last.weight * model.W_U[:, 3]
    removal = knockout(model, TOKENS, "L0H1", 3, with_="zero").removals[0]
    through = dict(zip(removal.parts, removal.through, strict=True))
    assert through["mlp1"] == pytest.approx(float(q @ (wrote["clean"] - wrote["gone"])[-1]))


SOURCES = ("embed", "L0H0", "L0H1", "mlp0", "L1H0", "L1H1", "mlp1")


def keeping(into, name):
    """What stands for a write is itself, and it is kept."""
    return lambda x: into.setdefault(name, x)


@pytest.mark.parametrize(
    "what", ["mlp1(mlp0, L1H0)", "mlp1(L0H1, L0H1)", "mlp0(embed, embed)", "mlp1", "L0H1"]
)
def test_direct_is_the_term_of_the_expansion(what):
    model = build()
    detail = "pairs" if "(" in what else "writes"
    terms = expand(model, TOKENS, 3, detail=detail, cutoff=0, max_terms=None).terms
    value = {term.path: term.value for term in terms}[what]
    assert knockout(model, TOKENS, what, 3).direct == pytest.approx(value, rel=1e-10)


def test_direct_of_an_edge_is_all_its_terms():
    """mlp0→mlp1: mlp1's pairs with mlp0 in them; into a head: what it writes of it."""
    model = build()
    terms = expand(model, TOKENS, 3, detail="pairs", cutoff=0, max_terms=None).terms
    for edge, of in {"mlp0→mlp1": "mlp1(", "mlp0→L1H0": "L1H0@", "mlp0→L1H0.V": "L1H0@"}.items():
        value = sum(t.value for t in terms if t.path.startswith(of) and "mlp0" in t.path)
        assert knockout(model, TOKENS, edge, 3).direct == pytest.approx(value, rel=1e-10)
    assert knockout(model, TOKENS, "mlp0→L1H0.K", 3).direct == pytest.approx(0, abs=1e-12)
    writes = {t.path: t.value for t in expand(model, TOKENS, 3, detail="writes", cutoff=0).terms}
    end = knockout(model, TOKENS, "L0H0→logits", 3)
    assert end.direct == pytest.approx(writes["L0H0"], rel=1e-10)


@pytest.mark.parametrize("name", ["embed", "L0H1", "mlp0"])
def test_all_that_reads_a_source_is_all_of_it(name):
    readers = ["L0H0", "L0H1", "mlp0", "attn1", "mlp1", "logits"]
    after = {"embed": 0, "L0H1": 2, "mlp0": 3}[name]
    edges = [f"{name}→{reader}" for reader in readers[after:]]
    model = build()
    whole = knockout(model, TOKENS, name, 3)
    found = knockout(model, TOKENS, edges, 3)
    for one, other in zip(whole.removals, found.removals, strict=True):
        assert one.after == pytest.approx(other.after, rel=1e-10)


@pytest.mark.parametrize("what", [["L0H1@1", "L0H1@2"], ["attn0@1", "L0H1@2", "L0H1@1"]])
def test_what_is_named_at_several_positions_has_one_mean(what):
    model = build()
    heads = ("L0H0", "L0H1") if "attn0@1" in what else ("L0H1",)
    at = {"L0H0": [1], "L0H1": [1, 2]}
    replaced = {
        name: lambda x, at=at[name]: x.index_copy(
            0, torch.tensor(at), x.mean(0).expand(len(at), -1)
        )
        for name in heads
    }
    truth = float(written_out(model, TOKENS, replaced=replaced)[3])
    assert knockout(model, TOKENS, what, 3, with_="mean").after == pytest.approx(truth, rel=1e-10)


def test_a_position_is_what_is_written_there_first():
    model, at = build(), 2
    changed = {"embed": lambda x: x.index_fill(0, torch.tensor([at]), 0.0)}
    truth = float(written_out(model, TOKENS, replaced=changed)[3])
    for what in (at, "embed@2", "embed@-2"):
        assert knockout(model, TOKENS, what, 3).after == pytest.approx(truth, rel=1e-10)
    assert knockout(model, TOKENS, "embed", 3, at=[at]).after == pytest.approx(truth, rel=1e-10)


def test_another_inputs_activations_both_ways():
    model, other = build(), torch.tensor([3, 4, 8, 7])
    inner = {}
    for name, tokens in {"first": TOKENS, "other": other}.items():
        keep = {"L0H1": lambda x, name=name: inner.setdefault(name, x)}
        written_out(model, tokens, replaced=keep)
    there, back = (
        float(written_out(model, tokens, replaced={"L0H1": lambda _, of=of: inner[of]})[3])
        for tokens, of in ((TOKENS, "other"), (other, "first"))
    )
    found = knockout(model, TOKENS, "L0H1", 3, with_=other)
    ways = [removal.replaced_by for removal in found.removals]
    assert ways == ["the other input's", "the first input's, in the other", "zero", "mean"]
    assert found.removals[0].after == pytest.approx(there, rel=1e-10)
    assert found.removals[1].after == pytest.approx(back, rel=1e-10)
    assert found.removals[1].before == pytest.approx(float(written_out(model, other)[3]), rel=1e-10)
    same = knockout(model, TOKENS, ["L0H1", "mlp1(embed, mlp0)", "embed→L1H0"], 3, with_=TOKENS)
    assert same.removals[0].effect == pytest.approx(0, abs=1e-12)


def test_no_position_is_no_knockout(refuses):
    said = "at must name at least one position; got none"
    refuses(ArgumentError, lambda: knockout(build(), TOKENS, "mlp1", 3, at=[]), said)


@pytest.mark.parametrize("placed", ["pre", "post"])
def test_scores_that_nothing_reads_are_not_held(placed, refuses):
    said = "given must be left out of a model whose heads have a softmax"
    model = build(norm_placement=placed)
    refuses(ArgumentError, lambda: expand(model, TOKENS, 3, given="scores"), said)


@pytest.mark.parametrize("what", [torch.tensor(3), np.array(3), torch.ones(2), np.ones(2), 2.5])
def test_what_names_nothing_is_one_clear_error(what):
    model = build()
    with pytest.raises(ArgumentError, match=r"^what must "):
        knockout(model, TOKENS, what, target=3)
    with pytest.raises(ArgumentError, match=r"^what must "):
        bilens.circuits.effects(model, TOKENS, 3, what=what)
    with pytest.raises(ArgumentError, match=r"^at must "):
        knockout(model, TOKENS, "mlp0", target=3, at=torch.tensor(1.5))

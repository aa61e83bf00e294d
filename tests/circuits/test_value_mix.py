"""Heads that mix the first layer's values in: what each writes by its own, and by those, against a
forward pass written out here.
"""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import bilens
from bilens import circuits
from bilens.base.errors import ArgumentError
from bilens.circuits.paths import parse
from bilens.nn import NoNorm, RMSNorm
from bilens.wiring import Form, Leg, Multilinear, Part, Source
from tests.circuits.models_made import D, Handmade

IDS = torch.tensor([3, 1, 6, 3])
SIZES = {
    "vocab_size": 11, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 8, "norm": "none",
    "attention": "bilinear", "initializer_range": 0.3, "value_mix": True,
}  # fmt: skip
SOFT = {"attention": "softmax"}
KINDS = [
    {},
    SOFT,
    {"attention": "squared", "num_key_value_heads": 1},
    {"norm": "rms"},
    SOFT | {"norm": "layer", "attention_bias": True, "num_hidden_layers": 3},
    {"norm": "layer", "attention_bias": True, "mlp_bias": True},
    {"positions": "learned", "intermediate_size": 0, "num_hidden_layers": 3},
    SOFT | {"positions": "learned", "num_key_value_heads": 1, "norm": "rms"},
    {"residual_mix": True, "residual_scale": 0.7, "write_scale": 1.3, "num_hidden_layers": 3},
    SOFT | {"residual_mix": True, "norm": "rms", "num_hidden_layers": 3},
    {"attention": "squared", "attention_normalised": True, "residual_mix": True},
    SOFT | {"num_hidden_layers": 1},
]
NAMES = ["-".join(map(str, kind.values())) or "bilinear" for kind in KINDS]


def build(**given):
    torch.manual_seed(0)
    model = bilens.Transformer(bilens.TransformerConfig(**SIZES | given)).double().eval()
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            torch.nn.init.normal_(weight, std=0.3)
            weight.data += 0.0 if name.endswith("bias") else 0.7
    if model.model.rotary_emb is not None:
        model.model.rotary_emb.inv_freq = frequencies(model.config.head_dim)  # full precision
    return model.requires_grad_(False)


def frequencies(width):
    return 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def turned(x):
    """Rotary positions as complex numbers: dimension p with p + half of it."""
    half = x.shape[-1] // 2
    angles = torch.arange(len(x))[:, None] * frequencies(2 * half)
    z = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], -1)


class ByHand:
    """The forward pass, one head and one source at a time. ``gone``: sources that write nothing;
    ``unread``: (source, reader, leg), which that leg of the reader does not read ("" for any leg).
    """

    def __init__(self, model, gone=(), unread=()):
        self.model, self.config, self.gone, self.unread = model, model.config, gone, unread
        self.state = model.state_dict()

    def weight(self, name, otherwise=None):
        return self.state.get(name, otherwise)

    def norm(self, name, x):
        kind = self.config.norm
        if kind == "none":
            return x
        w, eps = self.weight(f"{name}.weight"), self.config.rms_norm_eps
        if kind == "layer":
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w
        return x + self.weight(f"{name}.bias") if kind == "layer" else x

    def head(self, layer, name, h, x):
        """Queries, keys or values of head h."""
        name, d = f"model.layers.{layer}.self_attn.{name}_proj", self.config.head_dim
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias", 0.0)
        made = (x @ weight.mT + bias).split(d, -1)
        return made[h * len(made) // self.config.num_attention_heads]

    def pattern(self, layer, h, reads):
        config, scores = self.config, []
        two = {"bilinear": [("q", "k"), ("q2", "k2")], "squared": [("q", "k")] * 2}
        legs = iter(reads)
        for q, k in two.get(config.attention, [("q", "k")]):
            sides = [self.head(layer, name, h, next(legs)) for name in (q, k)]
            if config.positions == "rope":
                sides = [turned(side) for side in sides]
            scores.append(sides[0] @ sides[1].mT)
        seen = torch.ones_like(scores[0]).tril() > 0
        if config.attention == "softmax":
            scores = scores[0] / config.head_dim**0.5
            return scores.masked_fill(~seen, -torch.inf).softmax(-1)
        made = (scores[0] * scores[1] / config.head_dim).masked_fill(~seen, 0)
        return made / made.abs().sum(-1, keepdim=True) if config.attention_normalised else made

    def read(self, norm, x, reader, leg):
        for source, by, name in self.unread:
            if by == reader and leg.startswith(name) and source in self.wrote:
                x = x - self.wrote[source]
        return self.norm(norm, x)

    def moved(self, layer, h, x, first):
        """What a head writes by its own values, and by those of the first layer."""
        norms = f"model.layers.{layer}.input_layernorm", "model.layers.0.input_layernorm"
        legs = ("Q", "K") if self.config.attention == "softmax" else ("Q1", "K1", "Q2", "K2")
        attn = f"model.layers.{layer}.self_attn"
        share = self.weight(f"{attn}.value_mix.weight")
        d, found = self.config.head_dim, {}
        w_o = self.weight(f"{attn}.o_proj.weight")[:, h * d : (h + 1) * d].mT
        for name in (f"L{layer}H{h}", f"L{layer}H{h}.first")[: 1 + (layer > 0)]:
            pattern = self.pattern(layer, h, [self.read(norms[0], x, name, leg) for leg in legs])
            if name.endswith("first"):
                heard, self.wrote = self.wrote, {k: self.wrote[k] for k in self.leaves}
                v = share * self.head(0, "v", h, self.read(norms[1], first, name, "V"))
                self.wrote = heard
            else:
                v = self.head(layer, "v", h, self.read(norms[0], x, name, "V"))
                v = v * (1 - share) if layer else v
            found[name] = pattern @ v @ w_o
        return found

    def mlp(self, layer, x):
        name = f"model.layers.{layer}.mlp"
        gate, up = (
            x @ self.weight(f"{name}.{side}_proj.weight").mT
            + self.weight(f"{name}.{side}_proj.bias", 0.0)
            for side in ("gate", "up")
        )
        down, bias = (
            self.weight(f"{name}.down_proj.weight"),
            self.weight(f"{name}.down_proj.bias", 0.0),
        )
        return (gate * up) @ down.mT + bias

    def logits(self, ids=IDS):
        config = self.config
        self.wrote = {"embed": self.weight("model.embed_tokens.weight")[ids]}
        if config.positions == "learned":
            self.wrote["pos"] = self.weight("model.embed_positions.weight")[: len(ids)]
        self.leaves, first = tuple(self.wrote), None
        self.wrote = {k: 0 * w if k in self.gone else w for k, w in self.wrote.items()}
        x = begun = sum(self.wrote.values())
        a, b = config.residual_scale, config.write_scale
        for layer in range(config.num_hidden_layers):
            if config.residual_mix:
                keep, again = self.weight(f"model.layers.{layer}.residual_mix.weight")
                x = keep * x + again * begun
            first = x if layer == 0 else first
            made, total = {}, self.weight(f"model.layers.{layer}.self_attn.o_proj.bias", 0.0)
            for h in range(config.num_attention_heads):
                made |= self.moved(layer, h, x, first)
            self.wrote |= {n: 0 * v if n in self.gone else v for n, v in made.items()}
            x = a * x + b * (sum(self.wrote[name] for name in made) + total)
            if config.intermediate_size:
                norm = f"model.layers.{layer}.post_attention_layernorm"
                written = self.mlp(layer, self.norm(norm, x))
                self.wrote[f"mlp{layer}"] = written = written * (f"mlp{layer}" not in self.gone)
                x = a * x + b * written
        self.stream = x
        return self.norm("model.norm", x) @ self.weight("lm_head.weight").mT


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_paths_add_up_to_the_pass_by_hand(kind):
    model = build(**kind)
    truth = ByHand(model).logits()
    assert torch.allclose(model(input_ids=IDS[None]).logits[0], truth, rtol=0, atol=1e-11)
    outright = kind.get("attention") != "softmax" and "norm" not in kind
    outright &= "attention_normalised" not in kind
    for detail in ("writes", "pairs", "paths"):
        ex = bilens.expand(model, IDS, 5, detail=detail, max_terms=400, cutoff=0)
        assert abs(ex.total - float(truth[-1, 5])) < 1e-10
        assert ex.given == () or not outright
        assert not ex.opaque
        for term in ex.terms:
            assert parse(term.path, 3) == term.tree
    assert circuits.promises(model, IDS).kept
    assert torch.allclose(circuits.record(model, IDS).outputs(-1), truth[-1], atol=1e-10)


@pytest.mark.parametrize("kind", KINDS[:8], ids=NAMES[:8])
def test_what_is_written_to_a_target_is_what_the_pass_by_hand_says(kind):
    """Source by source, with the final norm's scale held."""
    model = build(**kind)
    ex = bilens.expand(model, IDS, 5, max_terms=900, cutoff=0)
    hand = ByHand(model)
    hand.logits()
    stream, u = hand.stream[-1], model.lm_head.weight[5].double()
    norm = kind.get("norm", "none")
    if norm != "none":
        u = u * model.model.norm.weight
        centred = stream - stream.mean() if norm == "layer" else stream
        u = u / (centred.square().mean() + model.config.rms_norm_eps).sqrt()
        u = u - u.mean() if norm == "layer" else u
    writes = dict(zip(*ex.writes, strict=True))
    groups = ex.by("component")
    sums = dict(zip(groups.names, groups.values, strict=True))
    layers = model.config.num_hidden_layers
    named = [f"L{n}H{h}{of}" for n in range(layers) for h in "01" for of in ("", ".first")]
    for name in named:
        if not name.startswith("L0") or not name.endswith("first"):
            says = float(u @ hand.wrote[name][-1])
            assert writes[name] == pytest.approx(says, abs=1e-12)
            if not ex.left_out:
                assert sums[name] == pytest.approx(says, abs=1e-12)


def test_units_of_a_layer_on_such_a_path():
    model = build(**SOFT)
    ex = bilens.expand(model, IDS, 5, max_terms=300, cutoff=0)
    some = [t for t in ex.terms if t.component == "mlp1" and ".first@" in t.path][:5]
    assert some
    for term in some:
        found = circuits.units(model, IDS, term.path, 5)
        assert found.value == pytest.approx(term.value, rel=1e-9)
        assert sum(found.units[0].values.tolist()) == pytest.approx(term.value, rel=1e-9)


# One head of each layer, on two tokens: few enough paths to have them all.
SINGLE = {"num_attention_heads": 1, "intermediate_size": 0}
TWO = torch.tensor([3, 6])
LEGS = "q1: embed, k1: embed, q2: embed, k2: embed"


def every_term(model):
    ex = bilens.expand(model, TWO, 5, max_terms=None, cutoff=0)
    assert not ex.left_out
    return {term.path: term for term in ex.terms}


def moved_by_hand(model, e):
    """u W_U W_O λ W_V⁰ e: what L1H0.first writes of e, where it looks with weight 1."""
    w, attn = model.state_dict(), "model.layers.1.self_attn"
    v = w[f"{attn}.value_mix.weight"] * e @ w["model.layers.0.self_attn.v_proj.weight"].mT
    return v @ w[f"{attn}.o_proj.weight"].mT @ w["lm_head.weight"][5]


def test_a_term_by_hand_given_a_pattern():
    model = build(**SINGLE, **SOFT)
    term, hand = every_term(model)["L1H0.first@0→1(embed)"], ByHand(model)
    hand.logits(TWO)
    e = hand.wrote["embed"]
    x = e + hand.wrote["L0H0"]
    says = hand.pattern(1, 0, [x, x])[1, 0] * moved_by_hand(model, e[0])
    assert term.value == pytest.approx(float(says), rel=1e-10)
    assert term.given == ("A L1H0[1,0]",)
    assert term.order == 1


def test_a_term_by_hand_with_nothing_given():
    """Its first key is L0H0, of five embeddings; all else is embeddings."""
    model = build(**SINGLE)
    path = f"L1H0.first@0→1(q1: embed, k1: L0H0@0→0({LEGS}, v: embed), q2: embed, k2: embed, "
    term, hand = every_term(model)[path + "v: embed)"], ByHand(model)
    hand.logits(TWO)
    e = hand.wrote["embed"]
    key = hand.wrote["L0H0"]  # at 0 it reads embeddings there alone
    says = hand.pattern(1, 0, [e, key, e, e])[1, 0] * moved_by_hand(model, e[0])
    assert term.value == pytest.approx(float(says), rel=1e-10)
    assert term.given == ()
    assert term.order == 9


CUTS = [
    ["L1H0"], ["L1H0.first"], ["L1H0", "L1H0.first"], ["attn1"], ["embed"], ["L0H1"], ["mlp0"],
    ["L2H1.first", "L0H0", "L1H1.first"],
]  # fmt: skip
RERUN = [
    {"num_hidden_layers": 3},
    SOFT | {"num_hidden_layers": 3, "norm": "rms"},
    SOFT
    | {"num_hidden_layers": 3, "positions": "learned", "norm": "layer", "attention_bias": True},
    {"num_hidden_layers": 3, "attention": "squared", "residual_mix": True},
]


@pytest.mark.parametrize("kind", RERUN, ids=["bilinear", "softmax", "layer", "mixed"])
@pytest.mark.parametrize("what", CUTS, ids=["+".join(what) for what in CUTS])
def test_knockouts_are_the_pass_without_them(kind, what):
    model = build(**kind)
    names = {"attn1": ["L1H0", "L1H1", "L1H0.first", "L1H1.first"]}
    gone = [name for one in what for name in names.get(one, [one])]
    found = circuits.knockout(model, IDS, what, 5, with_="zero")
    assert found.after == pytest.approx(float(ByHand(model, gone).logits()[-1, 5]), abs=1e-11)
    assert found.after != pytest.approx(found.before, abs=1e-6)


EDGES = {
    "embed→L1H0.first.V": [("embed", "L1H0.first", "V")],
    "embed→L1H0.V": [("embed", "L1H0", "V")],
    "embed→L1H0.first": [("embed", "L1H0.first", "")],
    "L0H0→L1H0.first.Q": [("L0H0", "L1H0.first", "Q")],
    "L0H1→L2H0.first.K": [("L0H1", "L2H0.first", "K")],
    "embed→attn1.V": [("embed", f"L1H{h}{of}", "V") for h in "01" for of in ("", ".first")],
    "L0H1→attn2": [("L0H1", f"L2H{h}{of}", "") for h in "01" for of in ("", ".first")],
    "embed→attn2": [("embed", f"L2H{h}{of}", "") for h in "01" for of in ("", ".first")],
    "L1H0.first→attn2": [("L1H0.first", f"L2H{h}{of}", "") for h in "01" for of in ("", ".first")],
}


@pytest.mark.parametrize("kind", RERUN[:3], ids=["bilinear", "softmax", "layer"])
@pytest.mark.parametrize("edge", EDGES)
def test_edges_are_the_pass_in_which_a_leg_does_not_read(kind, edge):
    model = build(**kind)
    found = circuits.knockout(model, IDS, edge, 5, with_="zero")
    truth = ByHand(model, unread=EDGES[edge]).logits()
    assert found.after == pytest.approx(float(truth[-1, 5]), abs=1e-11)
    assert found.after != pytest.approx(found.before, abs=1e-9)


def test_an_edge_and_something_before_it_and_a_mean_and_another_input():
    model = build(num_hidden_layers=3, norm="rms", **SOFT)
    both = ["L0H0", "embed→L2H1.first.V", "mlp1"]
    found = circuits.knockout(model, IDS, both, 5, with_="zero")
    hand = ByHand(model, ["L0H0", "mlp1"], [("embed", "L2H1.first", "V")])
    assert found.after == pytest.approx(float(hand.logits()[-1, 5]), abs=1e-11)
    other = torch.tensor([2, 2, 8, 1])
    swapped = circuits.knockout(model, IDS, "L2H1.first", 5, with_=other).removals[0]
    hand, there = ByHand(model), ByHand(model)
    hand.logits()
    there.logits(other)
    x = hand.stream - hand.wrote["mlp2"] - hand.wrote["L2H1.first"] + there.wrote["L2H1.first"]
    x = x + hand.mlp(2, hand.norm("model.layers.2.post_attention_layernorm", x))
    truth = hand.norm("model.norm", x) @ model.lm_head.weight[5]
    assert swapped.after == pytest.approx(float(truth[-1]), abs=1e-11)


@pytest.mark.parametrize("kind", [{}, {"norm": "rms"}], ids=["none", "rms"])
def test_a_product_is_taken_out_of_a_head(kind):
    """Its value in the target, where nothing reacts, is that of its terms at all positions."""
    model = build(**kind, **SINGLE)
    what = "L1H0.first(q1: embed, k1: L0H0, q2: embed, k2: embed, v: embed)"
    found = circuits.knockout(model, TWO, what, 5, with_="zero")
    begins, ends = "(q1: embed, k1: L0H0@", "v: embed), q2: embed, k2: embed, v: embed)"
    terms = [
        term
        for path, term in every_term(model).items()
        if path.startswith("L1H0.first@") and begins in path and path.endswith(ends)
    ]
    assert len(terms) > 2
    says = sum(term.value for term in terms)
    assert found.removals[0].direct == pytest.approx(says, rel=1e-9)
    if not kind:
        assert found.removals[0].effect == pytest.approx(says, rel=1e-9)


def test_what_a_value_of_the_first_layer_does_not_read_is_refused(refuses):
    model = build()
    refuses(
        ArgumentError,
        lambda: circuits.knockout(model, IDS, "L0H0→L1H0.first.V", 5),
        "be among what L1H0.first.V reads: embed; got what it does not read",
    )
    refuses(
        ArgumentError,
        lambda: circuits.knockout(model, IDS, f"L1H0.first({LEGS}, v: L0H1)", 5),
        "be among what L1H0.first reads: embed",
    )
    refuses(
        ArgumentError,
        lambda: circuits.units(model, IDS, f"mlp1(embed, L1H0.first@0→3({LEGS}, v: mlp0))", 5),
        "let L0H0 read what it reads at 0",
    )
    refuses(
        ArgumentError, lambda: model.wiring().parts[2].run(torch.zeros(2, 12).double()),
        "attn1 must be told what attn0 read",
    )  # fmt: skip
    refuses(
        ArgumentError,
        lambda: circuits.virtual(model, "W_U L1H0.first(L0H0)"),
        "let L1H0.first read what it reads in the model; got attn0",
    )


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_from_the_weights_alone(norm):
    model = build(norm=norm, num_hidden_layers=3, **SOFT)
    w, attn = model.state_dict(), "model.layers.1.self_attn"
    share = w[f"{attn}.value_mix.weight"]
    e, u = w["model.embed_tokens.weight"], w["lm_head.weight"]
    if norm == "layer":
        u = u * w["model.norm.weight"]
        u = u - u.mean(1, keepdim=True)

    def read(layer, x):
        if norm == "none":
            return x
        return (x - x.mean(1, keepdim=True)) * w[f"model.layers.{layer}.input_layernorm.weight"]

    w_o = w[f"{attn}.o_proj.weight"][:, :6].mT
    first, own = (
        times * read(n, e) @ w[f"model.layers.{n}.self_attn.v_proj.weight"][:6].mT @ w_o
        for n, times in ((0, share), (1, 1 - share))
    )
    for path, says in (("L1H0.first", first), ("L1H0", own)):
        made = circuits.virtual(model, f"W_U {path}(embed)").dense()
        assert torch.allclose(made, u @ says.mT, atol=1e-12)
    ov = circuits.ov_circuit(model, 1, 0).dense()
    assert torch.allclose(ov, (first + own) @ u.mT, atol=1e-12)
    assert circuits.head_paths(model, "L1H0")[:2] == ("W_U L1H0(embed)", "W_U L1H0.first(embed)")
    onwards = circuits.virtual(model, "W_U L2H1(L1H0.first(embed))").dense()
    shared = w["model.layers.2.self_attn.value_mix.weight"]
    moved = read(2, first) @ w["model.layers.2.self_attn.v_proj.weight"][6:].mT * (1 - shared)
    moved = moved @ w["model.layers.2.self_attn.o_proj.weight"][:, 6:].mT
    assert torch.allclose(onwards, u @ moved.mT, atol=1e-12)


def test_composition_is_of_both_values():
    model = build(num_hidden_layers=3, intermediate_size=0, **SOFT)
    found = circuits.composition(model)
    rows = {(r["first"], r["second"], r["kind"]): r["strength"] for r in found.rows()}
    assert not [key for key in rows if key[1].endswith(".first")]
    w = model.state_dict()
    v0 = w["model.layers.0.self_attn.v_proj.weight"][:6].mT
    moved = v0 @ w["model.layers.1.self_attn.o_proj.weight"][:, :6].mT
    q = w["model.layers.2.self_attn.q_proj.weight"][6:].mT
    k = w["model.layers.2.self_attn.k_proj.weight"][6:].mT
    says = (moved @ q @ k.mT).norm() / moved.norm() / (q @ k.mT).norm()
    assert rows["L1H0.first", "L2H1", "Q"] == pytest.approx(float(says))


def test_a_head_by_all_its_legs():
    model = build(**SINGLE)
    found = circuits.virtual(model, f"W_U L1H0.first[-1]({LEGS}, v: embed)")
    says = every_term(model)[f"L1H0.first@0→1({LEGS}, v: embed)"].value
    assert float(found(q1=6, k1=3, q2=6, k2=3, v=3)[5]) == pytest.approx(says, rel=1e-6)


@pytest.mark.parametrize("attention", ["softmax", "squared"])
def test_patterns_scores_and_graph(attention):
    model = build(attention=attention, positions="learned", norm="rms", num_hidden_layers=3)
    says = torch.cat([one[0] for one in model(IDS[None], output_attentions=True).attentions])
    found = circuits.attention_patterns(model, IDS)
    assert found.heads == tuple(f"L{n}H{h}" for n in range(3) for h in range(2))
    assert torch.allclose(found.weights, says)
    scored = circuits.attention_scores(model, IDS, 2, 1, 3, 1)
    assert {"L1H0.first", "L1H1.first"} < set(scored.key_sources)
    assert scored.error < 1e-12
    assert circuits.head_scores(model, block=4, texts=1).copying.shape == (6,)
    ex = bilens.expand(model, IDS, 5, max_terms=40, cutoff=0)
    made = circuits.graph(ex)
    kinds = {node["feature_type"] for node in made["nodes"]}
    assert {"attention head", "head on values of the first layer"} <= kinds
    into = [link["weight"] for link in made["links"] if link["target"] == "target"]
    assert sum(into) == pytest.approx(sum(term.value for term in ex.terms))
    ranked = circuits.effects(model, IDS, 5, pairs=3)
    assert {"L2H0.first", "L2H0", "attn2"} < {row["what"] for row in ranked.rows()}
    assert circuits.lens(model, IDS) is not None


def test_a_stream_that_the_first_layer_reads_has_its_name():
    model = build(positions="learned", num_hidden_layers=2, intermediate_size=0)
    ex = bilens.expand(model, IDS, 5, detail="pairs", cutoff=0)
    read = [term for term in ex.terms if "v: x.L0H0)" in term.path]
    assert read
    for term in read:
        assert parse(term.path, 3) == term.tree
        assert term.tree.inputs[-1].reader == "L0H0"


def test_half_precision_and_what_a_later_norm_finishes():
    model = build(norm="rms", norm_placement="both", residual_mix=True, **SOFT)
    assert bilens.expand(model, IDS, 5, max_terms=200, cutoff=0).error < 1e-12
    for what in ("L1H0.first", "embed", "embed→L1H0.first.V", "L0H0→attn1.Q"):
        found = circuits.knockout(model, IDS, what, 5)
        assert found.after != found.before
    half = bilens.Transformer(model.config).to(torch.bfloat16).eval()
    ex = bilens.expand(half, IDS, 5, max_terms=50)
    assert ex.error < 1e-5
    assert ex.as_run is not None


def test_what_changed_is_found_in_both_values():
    first, second = build(), build()
    second.blocks[1].self_attn.value_mix.weight += 0.25
    second.blocks[0].self_attn.v_proj.weight[7, 2] += 0.5
    found = bilens.diff(first, second)
    gone = {row["place"] for row in found.rows() if row["similarity"] < 1 - 1e-6}
    assert gone == {"L0H1 OV", "L1H1.first OV"}


# A kind of part of this file's own, with a leg that reads what another part reads.


class Shared(nn.Module):
    """y = D (A x ⊙ B x ⊙ C x'), x' being what an earlier part reads."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(D, 5, bias=True) for _ in "abc")
        self.out = nn.Linear(5, D, bias=False)
        self.told = None

    def forward(self, x):
        return self.out(self.a(x) * self.b(x) * self.c(self.told))


@dataclass(frozen=True, eq=False)
class SharedPart(Part):
    shared: torch.Tensor | None = None
    shares: ClassVar[str] = "lin0"

    def sharing(self, x):
        return SharedPart(self.name, self.layer, self.norm, self.module, x, beside=self.beside)

    def forms(self):
        m = self.module
        legs = [Leg(side.weight, side.bias) for side in (m.a, m.b)]
        return {self.name: Form((*legs, Leg(m.c.weight, m.c.bias, "lin0")), m.out.weight)}

    def writes(self, x):
        source = Source(self.name, "product with an earlier reading", self.layer)
        return [Multilinear(source, self.forms()[self.name].detach())]

    def run(self, x):
        m = self.module
        return m.out(m.a(x) * m.b(x) * m.c(self.shared))


@dataclass(frozen=True, eq=False)
class Linear(Part):
    def forms(self):
        return {self.name: Form((Leg(torch.eye(D).double()),), self.module.weight)}

    def writes(self, x):
        source = Source(self.name, "linear", self.layer)
        return [Multilinear(source, self.forms()[self.name].detach())]


class Own(Handmade):
    def outputs(self, inputs, gone="", unread=False):
        """``unread``: what pre0 wrote is not read by the last part."""
        streams = [self.embed(inputs[0])]
        for n, (norm, block) in enumerate(zip(self.norms, self.blocks, strict=False)):
            less = streams[1] - streams[0] if unread and isinstance(block, Shared) else 0.0
            if isinstance(block, Shared):
                block.told = self.norms[1](streams[1] - less)
            made = block(norm(streams[-1] - less)) * (self.kinds[n][1] != gone)
            streams.append(streams[-1] + made)
        return self.head(self.norms[-1](streams[-1]))


@pytest.mark.parametrize("norm", [NoNorm, RMSNorm], ids=["none", "rms"])
def test_a_part_of_ones_own_may_share_a_reading(norm):
    torch.manual_seed(0)
    linear = [nn.Linear(D, D, bias=False) for _ in range(3)]
    parts = [(Linear, "pre0", linear[0]), (Linear, "lin0", linear[1]), (Linear, "lin1", linear[2])]
    model = Own([*parts, (SharedPart, "triple1", Shared())], norm).double().eval()
    model.requires_grad_(False)
    ids = [3, 1]
    for detail in ("writes", "pairs", "paths"):
        ex = bilens.expand(model, ids, 2, detail=detail, max_terms=900, cutoff=0)
        assert abs(ex.total - float(model.outputs(model.read(ids))[-1, 2])) < 1e-12
        for term in ex.terms:
            assert parse(term.path, 1) == term.tree
    assert any("x.lin0" in t.path for t in bilens.expand(model, ids, 2, max_terms=20).terms)
    for gone in ("pre0", "lin1", "lin0", "triple1"):
        found = circuits.knockout(model, ids, gone, 2, with_="zero")
        says = model.outputs(model.read(ids), gone)[-1, 2]
        assert found.after == pytest.approx(float(says), abs=1e-12)
    rows = circuits.composition(model).rows()
    into = {(row["first"], row["kind"]) for row in rows if row["second"] == "triple1"}
    of = {("pre0", f"input {n}") for n in (1, 2, 3)}
    assert into == of | {(name, f"input {n}") for name in ("lin0", "lin1") for n in (1, 2)}
    found = circuits.knockout(model, ids, "pre0→triple1", 2, with_="zero")
    says = model.outputs(model.read(ids), unread=True)[-1, 2]
    assert found.after == pytest.approx(float(says), abs=1e-12)
    assert found.after != pytest.approx(found.before, abs=1e-6)


@dataclass(frozen=True, eq=False)
class Halved(SharedPart):
    """The same without its second leg, which is two legs of two readings."""

    def forms(self):
        form = super().forms()[self.name]
        return {self.name: Form(form.legs[::2], form.out)}

    def run(self, x):
        m = self.module
        return m.out(m.a(x) * m.c(self.shared))

    def sharing(self, x):
        return Halved(self.name, self.layer, self.norm, self.module, x, beside=self.beside)


def test_two_legs_of_two_readings_are_refused(refuses):
    parts = [(Linear, "lin0", nn.Linear(D, D, bias=False)), (Halved, "double1", Shared())]
    model = Own(parts).double().eval()
    expected = "double1 must have two legs of one reading; got its own and lin0"
    refuses(ArgumentError, lambda: circuits.record(model, [3, 1]), expected)

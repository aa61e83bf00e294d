"""Dictionaries as sources: latents, base and error add up to what a layer reads, and their pairs to
the forward pass.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from torch import Tensor

import bilens
from bilens.base.errors import ArgumentError, NotExactError, NotFiniteError, ShapeError
from bilens.circuits import At, Expansion, expand, graph, record
from bilens.circuits.engine import Engine
from bilens.circuits.paths import Apply, Latent
from bilens.circuits.replaced import take_apart

PLACES = {
    "mlp0.input": "layers.0.mlp.input",
    "mlp1.input": "layers.1.mlp.input",
    "mlp2.input": "model.layers.2.mlp.input",
}


@dataclass(frozen=True)
class Dictionary:
    """A dictionary as circuits need it: the k largest of pre(x), or all above a threshold."""

    reads: Tensor
    offset: Tensor
    writes: Tensor
    base: Tensor
    k: int | None = None
    threshold: float = 0.0
    hook: str = ""
    hook_out: str = ""
    architecture: str = "standard"

    def pre(self, x):
        return x @ self.reads.mT + self.offset

    def encode(self, x):
        pre = self.pre(x)
        limit = (
            self.threshold if self.k is None else pre.topk(self.k + 1).values[..., -1:].clamp(min=0)
        )
        return torch.where(pre > limit, pre, 0)


def random_dictionary(d=6, f=9, seed=0, dtype=torch.float64, **given):
    g = torch.Generator().manual_seed(seed)
    shapes = ((f, d), (f,), (f, d), (d,))
    return Dictionary(
        *(torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes),
        **given,
    )


def build(layers=1, seed=0, **given):
    """A small model in float64 whose every path counts."""
    config = {
        "vocab_size": 9,
        "hidden_size": 6,
        "intermediate_size": 4,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "head_dim": 2,
        "max_position_embeddings": 8,
    } | given
    model = bilens.Transformer(bilens.TransformerConfig(**config)).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return model.eval()


def relative(ex: Expansion) -> float:
    return ex.error / max([abs(term.value) for term in ex.terms] + [abs(ex.forward), 1e-9])


dictionaries = st.builds(
    random_dictionary,
    f=st.sampled_from([1, 5, 12]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    threshold=st.sampled_from([0.0, 1.0, 1e9]),
)


@st.composite
def models(draw):
    """Models of one to three layers and every norm, in float64, and a dictionary for some of their
    places.
    """
    heads = draw(st.sampled_from([0, 2]))
    biased = dict.fromkeys(("attention_bias", "mlp_bias", "head_bias"), draw(st.booleans()))
    layers = draw(st.integers(1, 3))
    norm = draw(st.sampled_from(["rms", "layer", "none"]))
    gated = draw(st.booleans())
    act = "linear" if gated else "square"
    model = build(
        layers,
        draw(st.integers(0, 99)),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        norm=norm,
        gated=gated,
        hidden_act=act,
        **biased,
    )
    places = draw(
        st.lists(st.sampled_from(list(PLACES.values())[:layers]), unique=True, min_size=1)
    )
    return model, {place: draw(dictionaries) for place in places}


@settings(max_examples=25, deadline=None)
@given(
    models(),
    st.integers(1, 4),
    st.sampled_from(["writes", "pairs", "paths"]),
    st.sampled_from([1, 20, 200]),
)
def test_terms_and_remainder_are_the_forward_pass(made, length, detail, most):
    model, at = made
    tokens = torch.randint(0, 9, (length,), generator=torch.Generator().manual_seed(length))
    for cutoff in (0.0, 0.03):
        ex = expand(
            model, tokens, (3, 7), detail=detail, max_terms=most, cutoff=cutoff, dictionaries=at
        )
        logits = model(tokens[None]).logits[0, -1].detach()
        assert ex.forward == pytest.approx(float(logits[3] - logits[7]), rel=1e-12)
        assert relative(ex) < 1e-10


@settings(max_examples=15, deadline=None)
@given(models())
def test_float32_is_as_exact_as_float32_can_be(made):
    model, at = made
    assert relative(expand(model.float(), [1, 2, 3], 5, dictionaries=at)) < 1e-5


@settings(max_examples=15, deadline=None)
@given(models())
def test_every_term_is_what_its_path_writes(made):
    """Each value again, forwards from the latents instead of backwards from the target; and no path
    twice.
    """
    model, at = made
    ex = expand(model, [1, 2, 3], 5, max_terms=150, cutoff=0, dictionaries=at)
    engine = Engine(record(model, [1, 2, 3], at))
    q = engine.recording.pull(
        len(engine.recording.wiring.parts), model.lm_head.weight[5].detach(), 2
    )
    for term in ex.terms:
        if term.component != "bias":
            assert float(q @ engine.vector(term.tree)) == pytest.approx(
                term.value, rel=1e-9, abs=1e-12
            )
    assert len({term.tree for term in ex.terms}) == len(ex.terms)


@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
def test_by_hand_every_pair_of_one_layer(norm):
    """2 u · T(a_f w_f, a_g w_g), and all the others, from the dense cube and the layer's
    own input.
    """
    model, D = build(norm=norm, mlp_bias=True), random_dictionary()
    heard, tokens = [], torch.tensor([1, 4, 2])
    hook = model.blocks[0].mlp.register_forward_hook(lambda _, given, out: heard.append(given[0]))
    model(tokens[None])
    hook.remove()
    x = heard[0][0, -1]
    a = D.encode(x)
    sources = {f"f{n}": a[n] * D.writes[n] for n in range(9) if a[n] != 0} | {"base": D.base}
    sources["error"] = x - sum(sources.values())
    over_one_x = {"1": torch.eye(7, dtype=torch.float64)[0]}
    over_one_x |= {
        name: torch.cat([torch.zeros(1, dtype=torch.float64), vector])
        for name, vector in sources.items()
    }
    cube = model.model.layers[0].mlp.tensor().symmetrise().dense()
    u = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ex = expand(
        model,
        tokens,
        At(u, "mlp0.output"),
        max_terms=None,
        cutoff=0,
        dictionaries={"mlp0.input": D},
    )
    found = {term.path: term.value for term in ex.terms}
    names = list(over_one_x)
    assert len(found) == len(names) * (len(names) + 1) // 2
    assert 3 < len(names) < 12
    for n, one in enumerate(names):
        for other in names[n:]:
            both = 1 if one == other else 2
            value = both * torch.einsum("o,oij,i,j->", u, cube, over_one_x[one], over_one_x[other])
            assert found[f"mlp0({one}, {other})"] == pytest.approx(
                float(value), rel=1e-9, abs=1e-12
            )
    assert ex.remainder == 0


def test_only_active_latents_are_sources():
    D = random_dictionary(f=30, k=3)
    read = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = take_apart("mlp0", D, read)
    for t in range(5):
        vectors, nodes = found.at("mlp0", t)
        assert torch.allclose(vectors.sum(0), read[t], rtol=0, atol=1e-14)
        assert [node.what for node in nodes] == [
            *D.encode(read[t]).nonzero()[:, 0].tolist(),
            "base",
            "error",
        ]
        assert len(nodes) == 5


def test_a_dictionary_that_misses_nothing_has_no_error():
    identity, none = torch.eye(6, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    D = Dictionary(
        torch.cat([identity, -identity]), none, torch.cat([identity, -identity]), none[:6]
    )
    ex = expand(build(), [1, 2, 3], 5, cutoff=0, max_terms=None, dictionaries={"mlp0.input": D})
    lost = [term.value for term in ex.terms if "error" in term.path or "base" in term.path]
    assert len(lost) == 6 + 6 + 3
    assert max(map(abs, lost)) < 1e-14
    assert relative(ex) < 1e-10


def test_latents_below_another_layer_and_behind_a_head():
    """mlp1 reads embed, heads and mlp0, which has a dictionary; L1's heads look at mlp0 at earlier
    positions.
    """
    ex = expand(
        build(2),
        [1, 2],
        5,
        max_terms=None,
        cutoff=0,
        dictionaries={"mlp0.input": random_dictionary(k=1)},
    )
    texts = {term.path for term in ex.terms}
    assert any(path.startswith("mlp1(mlp0(") and path.count("mlp0(") == 2 for path in texts)
    assert any(path.startswith("L1H0@0→1(mlp0(") for path in texts)
    assert "mlp0(base, error)" in texts
    assert not any(path.startswith("mlp0(embed") for path in texts)
    assert relative(ex) < 1e-10


def test_order_positions_and_what_is_given():
    D = random_dictionary(k=2, f=12)
    ex = expand(
        build(norm="layer", mlp_bias=True),
        [1, 2],
        5,
        max_terms=None,
        cutoff=0,
        dictionaries={"mlp0.input": D},
    )
    terms = {term.path: term for term in ex.terms}
    one, two = sorted(
        {part for path in terms for part in path.strip("mlp0()").split(", ") if part[0] == "f"}
    )
    assert {
        path: terms[path].order
        for path in ("mlp0(base, base)", "mlp0(1, base)", f"mlp0({one}, base)")
    } == {
        "mlp0(base, base)": 0,
        "mlp0(1, base)": 0,
        f"mlp0({one}, base)": 1,
    }
    assert terms[f"mlp0({one}, {two})"].order == terms[f"mlp0({one}, error)"].order == 2
    assert set(terms[f"mlp0({one}, {two})"].given) == {
        "latents mlp0.input@1",
        "σ mlp0@1",
        "σ final@1",
    }
    assert set(terms["mlp0(base, error)"].given) == {
        "latents mlp0.input@1",
        "σ mlp0@1",
        "σ final@1",
    }
    assert terms["mlp0(base, base)"].given == terms["mlp0(1, base)"].given == ("σ final@1",)
    assert terms[f"mlp0({one}, error)"].tree == Apply(
        "mlp0", 1, (Latent("mlp0", 1, int(one[1:])), Latent("mlp0", 1, "error"))
    )
    latent = rf"a^{{0}}_{{1,{one[1:]}}} w^{{0}}_{{{one[1:]}}}"
    latex = rf"2 \left( {latent} \cdot_{{12}} B^{{0}} \cdot_{{21}} \varepsilon^{{0}}_{{1}} \right)"
    assert terms[f"mlp0({one}, error)"].latex == latex
    assert r"b_{\mathrm{dec}}^{0}" in terms["mlp0(base, error)"].latex
    assert "patterns, norm scales and latents" in ex.summary()
    assert {row["from"] for row in ex.rows() if row["path"] == f"W_U · mlp0({one}, {two})"} == {
        ex.inputs[1]
    }
    for what in ("component", "position", "order", "layer"):
        assert sum(ex.by(what).values) == pytest.approx(ex.total, rel=1e-12)
    assert "mlp0" in ex.by("component").names


def test_an_expansion_into_latents_saves_and_loads(tmp_path):
    ex = expand(build(), [1, 2], 4, dictionaries={"mlp0.input": random_dictionary()})
    ex.save(tmp_path / "ex.safetensors")
    again = Expansion.load(tmp_path / "ex.safetensors")
    assert again.rows() == ex.rows()
    assert [term.tree for term in again.terms] == [term.tree for term in ex.terms]


def test_a_graph_has_latents_as_nodes():
    ex = expand(
        build(),
        [1, 2],
        4,
        max_terms=None,
        cutoff=0,
        dictionaries={"mlp0.input": random_dictionary(k=2, f=12)},
    )
    made = json.loads(json.dumps(graph(ex)))
    Draft202012Validator(
        json.loads((Path(__file__).parent / "graph.schema.json").read_text())
    ).validate(made)
    nodes = {node["node_id"]: node for node in made["nodes"]}
    latents = [node for node in nodes.values() if node["feature_type"] == "latent"]
    assert len(latents) == 2
    assert all(
        node["node_id"] == f"mlp0.f{node['feature']}@1" and node["layer"] == "0" for node in latents
    )
    assert nodes["mlp0.error@1"]["feature_type"] == "reconstruction error"
    assert nodes["mlp0.base@1"]["feature_type"] == "bias"
    through = sum(term.value for term in ex.terms if term.component == "mlp0")
    assert sum(value for *_, value in nodes["mlp0@1"]["pair_wise_contributors"]) == pytest.approx(
        through, rel=1e-9
    )


def test_a_latent_is_explained_by_the_latents_of_another_dictionary():
    """Its pre-activation, less its offset, is a direction: of what mlp1 writes, or of what mlp1
    reads.
    """
    model, before, after = (
        build(2, mlp_bias=True),
        random_dictionary(seed=1),
        random_dictionary(seed=2),
    )
    heard = []
    hook = model.blocks[1].mlp.register_forward_hook(
        lambda _, given, out: heard.append((given[0], out))
    )
    model(torch.tensor([[1, 2, 3]]))
    hook.remove()
    for place, x in zip(("mlp1.input", "mlp1.output"), heard[0], strict=True):
        target = At(after.reads[4], place, name="latent 4")
        ex = expand(
            model, [1, 2, 3], target, dictionaries={"mlp0.input": before, "mlp1.input": before}
        )
        assert ex.total + float(after.offset[4]) == pytest.approx(
            float(after.pre(x[0, -1])[4]), rel=1e-10
        )
        assert relative(ex) < 1e-10
        assert any("(f" in term.path for term in ex.terms)


@pytest.mark.parametrize("residual", [False, True])
def test_classifiers_read_through_dictionaries(residual):
    config = bilens.ClassifierConfig(
        input_shape=[4],
        hidden_size=6,
        num_hidden_layers=2,
        residual=residual,
        bias=True,
        id2label={0: "a", 1: "b"},
    )
    model, image = bilens.Classifier(config).double().eval(), torch.arange(4, dtype=torch.float64)
    at = {"mlp1.input": random_dictionary()}
    ex = expand(model, image, "b", max_terms=None, cutoff=0, dictionaries=at)
    assert ex.forward == pytest.approx(float(model(image[None]).logits[0, 1]), rel=1e-12)
    assert relative(ex) < 1e-10
    assert any(term.path.startswith("mlp1(f") for term in ex.terms)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_boxed_model(dtype, limit):
    model = bilens.load("tinystories-2l").to(dtype)
    story = model.tokenizer(
        "Once upon a time there was a little girl named Lily. She loved to play."
    )["input_ids"]
    at = {}
    for seed, place in enumerate(("layers.0.mlp.input", "layers.1.mlp.input")):
        D = random_dictionary(128, 1024, seed, torch.float32, k=32)
        at[place] = replace(D, writes=D.writes / 128)
    ex = expand(model, story, " girl", cutoff=0, max_terms=2000, dictionaries=at)
    assert relative(ex) < limit
    pairs = [
        term.tree.inputs
        for term in ex.terms
        if term.component == "mlp1" and isinstance(term.tree, Apply)
    ]
    assert len(pairs) == 34 * 35 // 2
    assert len({node.what for pair in pairs for node in pair}) == 34


@pytest.mark.parametrize(
    ("at", "kind", "text"),
    [
        (
            {"mlp7.input": random_dictionary()},
            ArgumentError,
            "place must be one of attn0.input, mlp0.input",
        ),
        (
            {"mlp0.output": random_dictionary()},
            ArgumentError,
            "be the input of a layer, mlp0.input say; got mlp0.output",
        ),
        ({"attn0.input": random_dictionary()}, ArgumentError, "got attn0.input"),
        (
            dict.fromkeys(("mlp0.input", "layers.0.mlp.input"), random_dictionary()),
            ArgumentError,
            "got mlp0.input twice",
        ),
        (
            {"mlp0.input": random_dictionary(5)},
            ShapeError,
            "the dictionary at mlp0.input must be of the model's width 6",
        ),
        (
            {"mlp0.input": random_dictionary(hook="layers.1.mlp.input")},
            ArgumentError,
            "must read mlp0.input; got layers.1",
        ),
        (
            {"mlp0.input": random_dictionary(hook="blocks.0.hook")},
            ArgumentError,
            "must read mlp0.input; got blocks.0.hook",
        ),
        (
            {"mlp0.input": random_dictionary(hook_out="layers.0.mlp.output")},
            ArgumentError,
            "Give a transcoder as replacements",
        ),
        (
            {"mlp0.input": random_dictionary(architecture="transcoder")},
            ArgumentError,
            "got a transcoder to another place",
        ),
        (
            {"mlp0.input": torch.nn.Linear(6, 6)},
            ArgumentError,
            "must have encode, writes and base; got Linear",
        ),
        (
            {
                "mlp0.input": replace(
                    random_dictionary(), writes=torch.full((9, 6), torch.nan, dtype=torch.float64)
                )
            },
            NotFiniteError,
            "the dictionary at mlp0.input",
        ),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_is_refused(refuses, at, kind, text):
    refuses(kind, lambda: expand(build(), [1, 2], 3, dictionaries=at), text)


class Unsaid(torch.nn.Module):
    """A layer that says nothing of its write."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def tensor(self):
        raise NotExactError("Unsaid", must="be a tensor", got="none")

    def forward(self, x):
        return self.inside(x)


def test_before_a_gated_layer_latents_are_pairs_given_its_gates():
    model = build(hidden_act="silu")
    ex = expand(model, [1, 2], 3, dictionaries={"mlp0.input": random_dictionary()}, max_terms=None)
    assert ex.error < 1e-12 * max(abs(term.value) for term in ex.terms)
    latents = [term for term in ex.terms if term.path.startswith("mlp0(f")]
    assert latents
    assert all("gates mlp0@1" in term.given for term in latents)


@pytest.mark.bad_input
def test_an_opaque_layer_is_refused(refuses):
    model = build(hidden_act="silu")
    model.model.layers[0].mlp = Unsaid(model.model.layers[0].mlp)
    at = {"mlp0.input": random_dictionary()}
    refuses(
        ArgumentError,
        lambda: expand(model, [1, 2], 3, dictionaries=at),
        "before a layer that comes apart; got mlp0.input: opaque",
    )


def test_a_hook_may_name_the_place_in_either_way():
    for hook in ("layers.0.mlp.input", "model.layers.0.mlp.input", "mlp0.input"):
        at = {"mlp0.input": random_dictionary(hook=hook, hook_out=hook)}
        assert relative(expand(build(), [1, 2], 3, dictionaries=at)) < 1e-10


def test_dictionaries_of_features_are_sources():
    """The package's own, in float32 at a float64 model: whatever it rounds is in the error."""
    g = torch.Generator().manual_seed(4)
    W_enc, W_dec, b_enc, b_dec = (
        torch.randn(shape, generator=g) for shape in ((6, 9), (9, 6), (9,), (6,))
    )
    D = bilens.features.Dictionary(
        W_enc, W_dec, b_enc, b_dec, hook="layers.0.mlp.input", centred=True
    )
    ex = expand(build(norm="rms"), [1, 2], 3, max_terms=None, cutoff=0, dictionaries={D.hook: D})
    assert relative(ex) < 1e-10
    assert any(term.path.startswith("mlp0(f") for term in ex.terms)


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm_rescale"])
def test_a_dictionary_that_normalises_is_taken_apart_given_its_scale(norm):
    """Formulas written out: x̂ = s (a W_dec + b_dec) + m + what is missed."""
    g = torch.Generator().manual_seed(4)
    W_enc, W_dec, b_enc, b_dec = (
        torch.randn(shape, generator=g).double() for shape in ((6, 9), (9, 6), (9,), (6,))
    )
    D = bilens.features.Dictionary(W_enc, W_dec, b_enc, b_dec, normalisation=norm)
    read = 3 * torch.randn(4, 6, generator=g, dtype=torch.float64) + 1
    m = read.mean(1, keepdim=True) if norm == "layer_norm" else torch.zeros(4, 1).double()
    s = (
        read.std(1, keepdim=True)
        if norm == "layer_norm"
        else read.norm(dim=1, keepdim=True) / 6**0.5
    )
    a = (((read - m) / (s + 1e-5 * (norm == "layer_norm"))) @ W_enc + b_enc).relu()
    found = take_apart("mlp0", D, read)
    assert torch.allclose(found.activations, s * a, rtol=1e-12)
    assert torch.allclose(found.base, s * b_dec + m, rtol=1e-12)
    assert torch.allclose(found.error, read - s * (a @ W_dec + b_dec) - m, rtol=1e-12, atol=1e-12)
    at = {"mlp0.input": D}
    ex = expand(build(norm="rms"), [1, 2], 3, max_terms=None, cutoff=0, dictionaries=at)
    assert relative(ex) < 1e-10
    (term,) = [term for term in ex.terms if term.path == "mlp0(base, base)"]
    assert "latents mlp0.input@1" in term.given

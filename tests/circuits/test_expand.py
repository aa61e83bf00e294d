"""Expansions: Σ terms + remainder = forward over random architectures, every path listed once,
refusals.
"""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bilens
from bilens.base.errors import ArgumentError, ShapeError
from bilens.circuits import At, Expansion, Groups, expand, record
from bilens.circuits.engine import Engine, _largest_pairs
from tests.circuits.transformers_made import tiny


@st.composite
def transformers(draw):
    """Small models of every kind that TransformerConfig can say, in float64, biases and norm
    weights not trivial.
    """
    heads = draw(st.sampled_from([0, 1, 2, 4]))
    config = bilens.TransformerConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=draw(st.sampled_from([5, 0])) if heads else 5,
        num_hidden_layers=draw(st.integers(0, 3)),
        num_attention_heads=heads,
        num_key_value_heads=heads and draw(st.sampled_from([1, heads])),
        head_dim=2,
        norm=draw(st.sampled_from(["rms", "layer", "none"])),
        positions=draw(st.sampled_from(["rope", "learned", "none"])),
        max_position_embeddings=8,
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        head_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
    )
    return shaken(bilens.Transformer(config).double(), draw(st.integers(0, 99)))


def shaken(model, seed=0):
    """Weights large enough that every path counts."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.4 * torch.randn(parameter.shape, generator=g, dtype=torch.float64).to(parameter)
            )
    return model.eval()


def relative(ex: Expansion) -> float:
    return abs(ex.total - ex.forward) / max(
        [abs(term.value) for term in ex.terms] + [abs(ex.forward), 1e-9]
    )


@settings(max_examples=60, deadline=None)
@given(
    transformers(),
    st.integers(1, 5),
    st.sampled_from(["writes", "pairs", "paths"]),
    st.sampled_from([1, 20, 300]),
)
def test_terms_and_remainder_are_the_forward_pass(model, length, detail, most):
    tokens = torch.randint(0, 11, (length,), generator=torch.Generator().manual_seed(length))
    for cutoff in (0.0, 0.03):
        ex = expand(model, tokens, (3, 7), detail=detail, max_terms=most, cutoff=cutoff)
        logits = model(tokens[None]).logits[0, -1]
        assert ex.forward == pytest.approx(float(logits[3] - logits[7]), rel=1e-12)
        assert relative(ex) < 1e-10


@settings(max_examples=25, deadline=None)
@given(transformers())
def test_every_term_is_what_its_path_writes(model):
    """Each value again, forwards from the leaves instead of backwards from the target; and no path
    twice.
    """
    ex = expand(model, [1, 2, 3], 5, max_terms=150, cutoff=0)
    engine = Engine(record(model, [1, 2, 3]))
    u = model.lm_head.weight[5]
    q = engine.recording.pull(len(engine.recording.wiring.parts), u, 2)
    for term in ex.terms:
        if term.component != "bias":
            assert float(q @ engine.vector(term.tree)) == pytest.approx(
                term.value, rel=1e-9, abs=1e-12
            )
    assert len({term.tree for term in ex.terms}) == len(ex.terms)


@settings(max_examples=20, deadline=None)
@given(transformers())
def test_float32_is_as_exact_as_float32_can_be(model):
    model = model.float()
    assert relative(expand(model, [1, 2, 3, 4], 5)) < 1e-5


def one_layer(heads=3, norm="none", **given):
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=heads,
        norm=norm,
        max_position_embeddings=32,
        head_dim=2,
        **given,
    )
    return shaken(bilens.Transformer(config).double())


@pytest.mark.parametrize(("heads", "length"), [(0, 3), (1, 4), (3, 5)])
def test_all_paths_of_one_layer_are_counted_by_the_formula(heads, length):
    ex = expand(one_layer(heads), torch.arange(length), 2, max_terms=None, cutoff=0)
    linear = 1 + heads * length
    assert len(ex.terms) == linear + linear * (linear + 1) // 2
    assert ex.remainder == 0
    assert all(term.order in (1, 2) for term in ex.terms)
    assert relative(ex) < 1e-12


def test_all_paths_of_two_mlps():
    """x + m0(x), then m1 of both: 1 + 1 + unordered pairs of two; pairs of m0 with itself stay one
    path.
    """
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=0,
        norm="none",
    )
    model = shaken(bilens.Transformer(config).double())
    ex = expand(model, [1, 2], 2, max_terms=None, cutoff=0)
    assert sorted(term.path for term in ex.terms) == [
        "embed",
        "mlp0(embed, embed)",
        "mlp1(embed, embed)",
        "mlp1(embed, mlp0(embed, embed))",
        "mlp1(mlp0(embed, embed), mlp0(embed, embed))",
    ]
    assert sorted(term.order for term in ex.terms) == [1, 2, 2, 3, 4]
    assert ex.given == ()
    assert "nothing given: exact outright" in ex.summary()


def test_by_hand_one_layer_without_norm():
    """maths §4, written out: the term of embed × L0H1@0→2 is 2 W_U S(W_E t_2, A W_OV W_E t_0)."""
    model = one_layer(2)
    tokens = torch.tensor([1, 4, 2])
    ex = expand(model, tokens, 3, max_terms=None, cutoff=0)
    pattern = model(tokens[None], output_attentions=True).attentions[0][0, 1, 2, 0]
    head = pattern * model.W_E[1] @ model.W_V[0, 1] @ model.W_O[0, 1]
    tensor = model.model.layers[0].mlp.tensor().symmetrise()
    value = 2 * model.W_U[:, 3] @ tensor(model.W_E[2], head)
    found = {term.path: term for term in ex.terms}["mlp0(embed, L0H1@0→2(embed))"]
    assert found.value == pytest.approx(float(value), rel=1e-12)
    assert found.given == ("A L0H1[2,0]",)
    assert found.order == 2


def test_what_is_given_is_named():
    ex = expand(one_layer(1, norm="rms"), [1, 2], 3, max_terms=None, cutoff=0)
    terms = {term.path: term for term in ex.terms}
    assert terms["embed"].given == ("σ final@1",)
    assert set(terms["mlp0(embed, L0H0@0→1(embed))"].given) == {
        "A L0H0[1,0]",
        "σ final@1",
        "σ mlp0@1",
        "σ attn0@0",
    }


def test_a_squared_mlp_is_taken_apart():
    ex = expand(
        one_layer(1, hidden_act="square", gated=False), [1, 2, 3], 4, max_terms=None, cutoff=0
    )
    assert relative(ex) < 1e-12
    assert any(term.path.startswith("mlp0(") for term in ex.terms)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_classifiers_expand(residual, bias, layers):
    config = bilens.ClassifierConfig(
        input_shape=[2, 3],
        hidden_size=5,
        num_hidden_layers=layers,
        residual=residual,
        bias=bias,
        id2label={0: "a", 1: "b"},
    )
    model = shaken(bilens.Classifier(config).double())
    image = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ex = expand(model, image, "b", max_terms=None, cutoff=0)
    assert ex.forward == pytest.approx(float(model(image[None]).logits[0, 1]), rel=1e-12)
    assert relative(ex) < 1e-10
    assert all(term.order is not None for term in ex.terms)
    assert max(term.order for term in ex.terms) == 2**layers
    assert ex.given == ()


@pytest.mark.parametrize(
    "place", ["attn1.input", "mlp0.input", "mlp1.input", "mlp0.output", "mlp1.output"]
)
def test_directions_inside_the_model(place):
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=4,
        norm="layer",
        mlp_bias=True,
        attention_bias=True,
    )
    model = shaken(bilens.Transformer(config).double())
    u = torch.randn(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    layer, side = int(place.split(".")[0][-1]), place.split(".")[1]
    part = model.blocks[layer].self_attn if place.startswith("attn") else model.blocks[layer].mlp
    heard = []
    hook = part.register_forward_hook(
        lambda _, given, out: heard.append(given[0] if side == "input" else out)
    )
    model(torch.tensor([[1, 2, 3]]))
    hook.remove()
    for position in (0, -1):
        ex = expand(model, [1, 2, 3], At(u, place), position)
        assert ex.forward == pytest.approx(float(u @ heard[0][0, position]), rel=1e-12)
        assert relative(ex) < 1e-10


def test_views_add_up():
    ex = expand(one_layer(2, norm="rms"), [1, 2, 3], 4, max_terms=30, cutoff=0.01)
    for what in ("component", "position", "order", "layer"):
        groups = ex.by(what)
        assert sum(groups.values) == pytest.approx(ex.total, rel=1e-12)
        sizes = [abs(value) for value in groups.values[:-1]]
        assert sizes == sorted(sizes, reverse=True)
        for rows in (groups.answer(4), groups.answer(99), ex.answer(4), ex.answer(99)):
            assert sum(row["value"] for row in rows) == pytest.approx(ex.total, rel=1e-12)
        for found in (groups, ex):
            assert sum(found.figure()["data"][0]["x"]) == pytest.approx(ex.total, rel=1e-12)
    top = ex.top(3)
    assert len(top.terms) == 3
    assert top.total == pytest.approx(ex.total, rel=1e-12)
    assert [abs(term.value) for term in ex.terms] == sorted(
        (abs(term.value) for term in ex.terms), reverse=True
    )
    assert repr(ex).splitlines()[1].split()[-1] == ex.read_as(ex.terms[0]).split()[-1]
    assert repr(ex.terms[0]).startswith(f"<Term: {ex.terms[0].value:+.4g} (")
    assert ex.terms[0].to_frame()["path"][0] == ex.terms[0].path
    frame = ex.to_frame()
    assert frame["share"].sum() == pytest.approx(1 - ex.remainder / ex.total)


def test_taking_paths_out_of_the_sum():
    """One term, its text, several of them; what is named twice goes once."""
    ex = expand(one_layer(2), [1, 2, 3], 4, max_terms=None, cutoff=0)
    first, second = ex.terms[:2]
    less = ex.total - first.value
    for one in (first, first.path, f"W_U · {first.path}", [first], (first, first.path), {first}):
        assert ex.ablate(one) == pytest.approx(less, rel=1e-12)
    both = pytest.approx(less - second.value, rel=1e-12)
    for two in ([first, f"W_U · {second.path}"], iter([second, first, second.path]), ex.terms[:2]):
        assert ex.ablate(two) == both
    assert ex.ablate([]) == ex.total
    assert ex.ablate(ex.terms) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("removed", "text"),
    [
        (["no such path"], "path must be among the expansion's terms; got no such path"),
        ("mlp0", "got mlp0. It was taken apart: mlp0("),
        ("L0H1", "got L0H1. It was taken apart: L0H1@"),
        ("embe", "path must be among the expansion's terms; got embe."),
        (3, "must be a term of the expansion, its path, or several of them; got int"),
        (None, "got NoneType"),
        ({"embed": 1}, "got dict"),
        ([3], "must be terms of the expansion, or their paths; got int among them"),
        (["embed", None], "got NoneType among them"),
    ],
)
@pytest.mark.bad_input
def test_what_is_no_path_is_not_taken_out(refuses, removed, text):
    ex = expand(one_layer(2), [1, 2, 3], 4, max_terms=None, cutoff=0)
    refuses(ArgumentError, lambda: ex.ablate(removed), text)


@pytest.mark.parametrize("cutoff", [0.0, 0.01, 0.1])
def test_what_finds_no_room_is_in_the_remainder(cutoff):
    """Pairs of equal inputs are met by the thousand, and only some are kept: the sum is still the
    logit.
    """
    model = bilens.load("tinystories-1l").double()
    prompt = "Once upon a time there was a little girl"
    ids = model.read(prompt)
    logits = model(ids).logits[0, -1].detach()
    for most in (30, 100):
        ex = expand(model, prompt, " named", max_terms=most, cutoff=cutoff)
        assert len(ex.terms) <= most
        assert (ex.left_out > 0) == (cutoff > 0)
        terms = math.fsum(term.value for term in ex.terms)
        truth = float(logits[model.output_index(" named")])
        assert terms + ex.remainder == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("block", [1, 3, 4, 1024])
@pytest.mark.parametrize("room", [1, 7, 54, 55, 90])
def test_the_largest_pairs_block_by_block(monkeypatch, block, room):
    """Against the whole matrix of pairs: which are kept, what the others add up to, and how many
    there are.
    """
    monkeypatch.setattr("bilens.circuits.engine.BLOCK", block)
    g = torch.Generator().manual_seed(room)
    left, right = torch.randn(2, 10, 4, generator=g, dtype=torch.float64).unbind()
    half = left @ right.mT
    whole = {
        (i, j): float(half[i, j] + (half[j, i] if i != j else 0))
        for i in range(10)
        for j in range(i, 10)
    }
    found = _largest_pairs(left, right, lambda i, j: (i, j), room)
    kept = {found.node(n): float(value) for n, value in enumerate(found.values)}
    largest = sorted(whole, key=lambda pair: -abs(whole[pair]))[:room]
    assert set(kept) == set(largest)
    assert kept == pytest.approx({pair: whole[pair] for pair in largest}, rel=1e-12)
    assert found.dropped == len(whole) - len(kept)
    assert found.rest == pytest.approx(sum(whole.values()) - sum(kept.values()), abs=1e-12)


def test_an_expansion_saves_and_loads(tmp_path):
    ex = expand(one_layer(1), [1, 2], 4)
    ex.save(tmp_path / "ex.safetensors")
    again = Expansion.load(tmp_path / "ex.safetensors")
    assert again.rows() == ex.rows()
    assert [term.path for term in again.terms] == [term.path for term in ex.terms]
    assert again.total == ex.total


def test_boxed_models():
    for name, most in (("tinystories-1l", None), ("tinystories-2l", 500)):
        model = bilens.load(name).double()
        story = model.tokenizer(
            "Once upon a time there was a little girl named Lily. She loved to play in the park. "
            * 2
        )
        ex = expand(model, story["input_ids"][:16], " girl", max_terms=most, cutoff=0)
        assert relative(ex) < 1e-10
        if most is None:
            linear = 1 + 4 * 16
            assert len(ex.terms) == linear + math.comb(linear + 1, 2)
            assert not any(name.startswith("σ") for name in ex.given)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (
            {"inputs": "text"},
            ArgumentError,
            "a text must come with a tokenizer beside the model; got none",
        ),
        ({"inputs": []}, ArgumentError, "inputs must hold at least one token; got none"),
        ({"inputs": [1, 99]}, ArgumentError, "inputs must be tokens 0 … 8; got 99"),
        ({"inputs": [1] * 33}, ArgumentError, "inputs must fit the context of 32 tokens; got 33"),
        ({"inputs": [[1, 2], [3, 4]]}, ShapeError, "inputs must be one text"),
        ({"target": 9}, ArgumentError, "target must be a token 0 … 8; got 9"),
        (
            {"target": torch.zeros(3, dtype=torch.float64)},
            ShapeError,
            "target must have one weight for each of 9 outputs",
        ),
        ({"target": (1, 2, 3)}, ArgumentError, "target must be a pair"),
        ({"target": {}}, ArgumentError, "target must name at least one output"),
        (
            {"target": At(torch.zeros(6), "mlp7.input")},
            ArgumentError,
            "place must be one of attn0.input, mlp0.input",
        ),
        (
            {"target": At(torch.zeros(6), "attn0.output")},
            ArgumentError,
            "place must be the output of an mlp",
        ),
        ({"target": At(torch.zeros(5), "mlp0.input")}, ShapeError, "At.direction must be (6,)"),
        ({"position": 2}, ArgumentError, "position must be -2 … 1; got 2"),
        ({"detail": "all"}, ArgumentError, "detail must be one of writes, pairs, paths"),
        ({"max_terms": 0}, ArgumentError, "max_terms must be at least 1"),
        ({"cutoff": 1.0}, ArgumentError, "cutoff must be in [0, 1)"),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_is_refused(refuses, change, kind, text):
    given = {"inputs": [1, 2], "target": 3} | change
    refuses(kind, lambda: expand(one_layer(), **given), text)


@pytest.mark.bad_input
def test_another_thing_than_a_model_is_refused(refuses):
    refuses(
        ArgumentError, lambda: expand(torch.nn.Linear(2, 2), [1], 0), "model must be a bilens model"
    )


def totals(model, ex):
    """The groups of an expansion again, from the text of its paths alone."""
    found = {"component": {}, "layer": {}, "order": {}}
    for term in ex.terms:
        name = re.match(r"\w+|1", term.path)[0]
        layer = re.search(r"\d", name)
        says = {
            "component": "bias" if name == "1" else name,
            "layer": f"layer {layer[0]}" if layer and name != "1" else "embeddings",
            "order": str(term.path.count("embed")),
        }
        for what, group in says.items():
            found[what][group] = found[what].get(group, 0.0) + term.value
    return found


def test_groups_are_sums_of_terms_largest_first_the_remainder_last():
    model = one_layer(2, norm="rms", mlp_bias=True, head_bias=True)
    ex = expand(model, [1, 2, 3], 4, max_terms=None, cutoff=0.02)
    assert ex.remainder != 0
    for what, groups in totals(model, ex).items():
        by = ex.by(what)
        found = dict(zip(by.names, by.values, strict=True))
        assert found.pop("remainder") == ex.remainder
        assert found == pytest.approx(groups, rel=1e-12, abs=1e-15)
        assert by.names[-1] == "remainder"
        sizes = [abs(value) for value in by.values[:-1]]
        assert sizes == sorted(sizes, reverse=True)


def test_groups_as_a_result():
    """Shares are of the total, the remainder's among them; bars stand over their names."""
    found = Groups("layer", ("layer 0", "embeddings", "remainder"), (3.0, -2.0, 1.0))
    assert found.rows() == [
        {"layer": "layer 0", "value": 3.0, "share": 1.5},
        {"layer": "embeddings", "value": -2.0, "share": -1.0},
        {"layer": "remainder", "value": 1.0, "share": 0.5},
    ]
    assert found.summary() == "3 groups by layer, 2 together"
    (bars,) = found.plot().data
    assert bars.x == (3.0, -2.0, 1.0)
    names = found.figure()["layout"]["yaxis"]["ticktext"]
    assert names == ["layer 0", "embeddings", "remainder"]
    assert found.figure()["layout"]["title"]["text"] == "The target by layer"
    nothing = Groups("layer", ("remainder",), (0.0,))
    assert nothing.rows()[0]["share"] == 0.0


def test_the_figure_of_an_expansion_adds_up():
    """The largest terms, then all others in one bar: together the total, whatever is not shown."""
    ex = expand(one_layer(2), [1, 2, 3], 4, max_terms=None, cutoff=0)
    (bars,) = ex.plot().data
    assert [names[-1] for names in bars.customdata[:20]] == [term.path for term in ex.terms[:20]]
    names = ex.figure()["layout"]["yaxis"]["ticktext"][20:]
    assert names == [f"{len(ex.terms) - 20:,} smaller paths", "remainder: 0 paths not kept"]
    assert list(bars.x[:20]) == [term.value for term in ex.terms[:20]]
    assert math.fsum(bars.x) == pytest.approx(ex.total, rel=1e-12)
    assert bars.orientation == "h"
    assert ex.plot().layout.yaxis.autorange == "reversed"


def test_paths_in_the_notes_notation():
    ex = expand(one_layer(2, attention_bias=True), [1, 2, 3], 4, max_terms=None, cutoff=0)
    latex = {term.path: term.latex for term in ex.terms}
    head = r"A^{0,1}_{2,0} W_{OV}^{0,1} W_E t_{0}"
    assert latex["L0H1@0→2(embed)"] == head
    assert latex["embed"] == "W_E t_{2}"
    square = r"\left( W_E t_{2} \cdot_{12} B^{0} \cdot_{21} W_E t_{2} \right)"
    assert latex["mlp0(embed, embed)"] == square
    pair = rf"2 \left( W_E t_{{2}} \cdot_{{12}} B^{{0}} \cdot_{{21}} {head} \right)"
    assert latex["mlp0(embed, L0H1@0→2(embed))"] == pair
    assert latex["L0H1@2→2(1)"] == r"A^{0,1}_{2,2} W_{OV}^{0,1} 1"


@pytest.mark.parametrize("sign", [1, -1])
def test_the_error_has_no_sign(sign):
    ex = expand(one_layer(1), [1, 2], 4)
    off = replace(ex, forward=ex.total + sign * 0.25)
    assert off.error == pytest.approx(0.25, rel=1e-12)


def test_what_is_given_is_told_by_its_kinds():
    gated = bilens.load("tinystories-2l-swiglu").double()
    ex = bilens.expand(gated, "Once upon a time", max_terms=200)
    kinds = [name[0] for name in ex.given]
    assert {"A", "σ", "g"} == set(kinds)
    assert ex.held == f"{len(kinds)} patterns, norm scales and gates"
    assert f"given {ex.held}" in ex.summary()


SCALED = {"write_scale": 0.7}


@torch.no_grad()
@pytest.mark.parametrize(
    "sizes",
    [SCALED, SCALED | {"residual_scale": 0.8}, SCALED | {"norm": "rms", "norm_placement": "both"}],
    ids=lambda sizes: ", ".join(sizes),
)
def test_what_a_layer_writes_is_what_is_heard_of_it(sizes):
    """However many times of that goes into the stream."""
    model, ids = tiny("linear", True, **{"bias": False} | sizes), [1, 4, 2]
    u = torch.arange(6, dtype=torch.float64) - 2
    block, found = model.blocks[1], []
    module = block.mlp_out_norm or block.mlp
    hook = module.register_forward_hook(lambda _, read, wrote: found.append(u @ wrote[0, -1]))
    model(torch.tensor([ids]))
    hook.remove()
    ex = expand(model, ids, At(u, "mlp1.output"), max_terms=300)
    assert ex.forward == pytest.approx(float(found[0]))
    assert ex.total == pytest.approx(float(found[0]))
    (matrix,) = bilens.circuits.pairs(model, ids, At(u, "mlp1.output")).matrices
    assert float(matrix.values.sum()) == pytest.approx(float(found[0]))
    carried = bilens.circuits.units(model, ids, "mlp1", At(u, "mlp1.output"))
    assert carried.value == pytest.approx(float(found[0]))

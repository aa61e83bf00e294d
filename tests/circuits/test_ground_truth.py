"""Models whose circuits are known because they were built: the designed paths come out on top, at
the designed values.

No norm, and weights that are zero but for the circuit. The stream is cut into named rooms, each a
one-hot:

    token      which token stands here                      (the embedding)
    position   where                                        (learned positions)
    previous   which token stands one before                (a previous-token head)
    out        what W_U reads
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

import bilens
from bilens.circuits import At, Expansion, expand
from bilens.nn import GatedMLP

V, CONTEXT = 7, 16
TOKEN, POSITION = slice(0, V), slice(V, V + CONTEXT)
PREVIOUS, OUT = slice(V + CONTEXT, 2 * V + CONTEXT), slice(2 * V + CONTEXT, 3 * V + CONTEXT)
WIDTH = 3 * V + CONTEXT
SHARP = 60.0  # a score so far above the others, which are 0, that the pattern is one-hot to e⁻⁶⁰


def blank(layers: int = 1, heads: int = 1, hidden: int = 0) -> bilens.Transformer:
    """Embeddings write their one-hots, W_U reads ``out``; heads and MLPs write nothing yet."""
    config = bilens.TransformerConfig(
        vocab_size=V,
        hidden_size=WIDTH,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        head_dim=max(V, CONTEXT),
        norm="none",
        positions="learned",
        max_position_embeddings=CONTEXT,
    )
    model = bilens.Transformer(config).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.W_E[:, TOKEN] = torch.eye(V, dtype=torch.float64)
    model.W_pos[:, POSITION] = torch.eye(CONTEXT, dtype=torch.float64)
    model.lm_head.weight[:, OUT] = torch.eye(V, dtype=torch.float64)
    return model


def room(where: slice) -> Tensor:
    """(d_head, d): copies one room of the stream into a head."""
    return torch.eye(WIDTH, dtype=torch.float64)[where]


def earlier() -> Tensor:
    """(d_head, d): asks for the position before this one."""
    return torch.diag(torch.ones(CONTEXT - 1, dtype=torch.float64), 1) @ room(POSITION)


def wire(
    model: bilens.Transformer,
    layer: int,
    query: Tensor,
    key: Tensor,
    copy: tuple[slice, slice],
    score: float,
) -> None:
    """A head whose score is ``score`` where query and key agree and 0 elsewhere, and that copies
    room to room.
    """
    attention = model.blocks[layer].self_attn
    assert attention is not None
    attention.q_proj.weight[: len(query)] = query * score * attention.d_head**0.5
    attention.k_proj.weight[: len(key)] = key
    attention.v_proj.weight[:V] = room(copy[0])
    attention.o_proj.weight[:, :V] = room(copy[1]).mT


def rule(
    model: bilens.Transformer, unit: int, left: int, right: int, out: int, weight: float
) -> None:
    """Hidden unit ``unit`` of the first MLP: stream[left] · stream[right] · weight, written to
    stream[out].
    """
    mlp = model.blocks[0].mlp
    assert isinstance(mlp, GatedMLP)
    mlp.gate_proj.weight[unit, left] = mlp.up_proj.weight[unit, right] = 1.0
    mlp.down_proj.weight[out, unit] = weight


def previous_token(**kind: int) -> bilens.Transformer:
    model = blank(**kind)
    wire(model, 0, earlier(), room(POSITION), (TOKEN, PREVIOUS), SHARP)
    return model


def found(ex: Expansion) -> list[tuple[str, float, int | None, tuple[str, ...]]]:
    """All paths that have a value, largest first; they are the whole of the target."""
    assert ex.remainder == near(0.0)
    assert ex.error < 1e-12
    return [
        (term.path, term.value, term.order, term.given)
        for term in ex.terms
        if abs(term.value) > 1e-12
    ]


def near(value: float):
    return pytest.approx(value, abs=1e-9)


# AND of two features.

RED, ROUND, BOTH, YES = 0, 1, 2, 4  # token 2 is red and round; token 4 is said where both hold


def conjunction() -> bilens.Transformer:
    """MLP-only: tokens 0 and 2 are red, 1 and 2 are round; logit of YES = 3 · red · round."""
    model = blank(heads=0, hidden=2)
    model.W_E[BOTH] = model.W_E[RED] + model.W_E[ROUND]
    rule(model, 0, RED, ROUND, OUT.start + YES, 3.0)
    return model


def test_and_of_two_features_of_one_token_is_one_path_and_nothing_is_given():
    ex = expand(conjunction(), [ROUND, BOTH], YES)
    assert found(ex) == [("mlp0(embed, embed)", near(3.0), 2, ())]
    assert ex.forward == near(3.0)


@pytest.mark.parametrize("token", [RED, ROUND])
def test_and_is_silent_where_one_feature_is_missing(token):
    ex = expand(conjunction(), [token], YES, cutoff=0)
    assert ex.forward == near(0.0)
    assert all(term.value == near(0.0) for term in ex.terms)


def test_and_of_a_token_and_a_position():
    """The same product, but its two features come from two writes: the pair is the path."""
    model = blank(heads=0, hidden=1)
    rule(model, 0, TOKEN.start + RED, POSITION.start + 2, OUT.start + YES, 3.0)
    assert found(expand(model, [ROUND, ROUND, RED], YES)) == [
        ("mlp0(embed, pos)", near(3.0), 1, ())
    ]
    assert expand(model, [RED, ROUND], YES, position=0).forward == near(0.0)


def test_and_of_two_tokens_through_a_head_of_known_softness():
    """The head looks back with weight p = e² / (e² + 2), a softmax over scores (0, 2, 0), so the
    AND is worth 3 p.
    """
    model = blank(hidden=1)
    wire(model, 0, earlier(), room(POSITION), (TOKEN, PREVIOUS), 2.0)
    rule(model, 0, PREVIOUS.start + RED, TOKEN.start + ROUND, OUT.start + YES, 3.0)
    p = math.exp(2) / (math.exp(2) + 2)
    ex = expand(model, [BOTH, RED, ROUND], YES)
    assert found(ex) == [("mlp0(embed, L0H0@1→2(embed))", near(3 * p), 2, ("A L0H0[2,1]",))]
    assert ex.terms[0].share == near(1.0)


def test_both_orders_of_a_pair_are_one_path():
    """Two units that hold the AND in either order, the value of the path is their sum."""
    model = conjunction()
    rule(model, 1, ROUND, RED, OUT.start + YES, 2.0)
    assert found(expand(model, [BOTH], YES)) == [("mlp0(embed, embed)", near(5.0), 2, ())]


# Induction: two layers of attention alone.


def induction() -> bilens.Transformer:
    """Layer 0 writes the previous token; layer 1 looks where that is this token, and says the token
    it finds there.

    Token 0 begins every text: the first position has no previous one, looks at itself, and would
    match its own token.
    """
    model = previous_token(layers=2)
    wire(model, 1, room(TOKEN), room(PREVIOUS), (TOKEN, OUT), SHARP)
    return model


@pytest.mark.parametrize("seed", range(5))
def test_induction_continues_a_repeated_text(seed):
    """At every token of the second half the model says the next one, with all the logit that the
    design gives.
    """
    half = 1 + torch.randperm(V - 1, generator=torch.Generator().manual_seed(seed))
    text = torch.cat([torch.tensor([0]), half, half])
    logits = induction()(text[None]).logits[0]
    second = range(1 + len(half), len(text) - 1)
    assert [int(logits[t].argmax()) for t in second] == [int(text[t + 1]) for t in second]
    assert all(float(logits[t, text[t + 1]]) == near(1.0) for t in second)


def test_induction_is_one_path():
    ex = expand(induction(), [0, 3, 5, 1, 3], 5)
    assert found(ex) == [("L1H0@2→4(embed)", near(1.0), 1, ("A L1H0[4,2]",))]
    assert ex.forward == near(1.0)


def test_where_induction_looks_is_one_path_by_composition_of_keys():
    """The score of key 2 for query 4 is q · W_Kᵀ x̂₂: a direction inside the model, and it comes
    through layer 0's head.
    """
    model = induction()
    query = model.W_E[3] @ model.W_Q[1, 0]
    asked = At(model.W_K[1, 0] @ query / len(query) ** 0.5, "attn1.input")
    ex = expand(model, [0, 3, 5, 1, 3], asked, position=2)
    assert found(ex) == [("L0H0@1→2(embed)", near(SHARP), 1, ("A L0H0[2,1]",))]
    others = [expand(model, [0, 3, 5, 1, 3], asked, position=s) for s in (0, 1, 3, 4)]
    assert all(other.forward == near(0.0) for other in others)


def test_equal_matches_share_what_induction_says():
    """The token came twice before, followed by two others: the pattern is ½ on each, and so are the
    paths.
    """
    ex = expand(induction(), [0, 3, 5, 3, 1, 3], {5: 1.0, 1: 2.0})
    assert found(ex) == [
        ("L1H0@4→5(embed)", near(1.0), 1, ("A L1H0[5,4]",)),
        ("L1H0@2→5(embed)", near(0.5), 1, ("A L1H0[5,2]",)),
    ]


# A head feeding a bilinear layer.

# (previous, current) → (next, weight)
RULES = {(1, 2): (5, 4.0), (2, 1): (6, 3.0), (3, 2): (5, -2.0)}


def skip_trigrams() -> bilens.Transformer:
    """Each rule is a hidden unit; and every token says 5 a little, by itself and by the one
    before.
    """
    model = previous_token(hidden=len(RULES))
    for unit, ((before, current), (out, weight)) in enumerate(RULES.items()):
        rule(model, unit, PREVIOUS.start + before, TOKEN.start + current, OUT.start + out, weight)
    model.lm_head.weight[5, TOKEN] = 0.5
    model.lm_head.weight[5, PREVIOUS] = 0.25
    return model


@pytest.mark.parametrize(("before", "current"), list(itertools.product([1, 2, 3], repeat=2)))
def test_a_rule_on_two_tokens_fires_on_them_alone(before, current):
    logits = skip_trigrams()(torch.tensor([[4, before, current]])).logits[0, -1]
    said, weight = RULES.get((before, current), (5, 0.0))
    truth = torch.zeros(V, dtype=torch.float64)
    truth[5] = 0.75
    truth[said] += weight
    torch.testing.assert_close(logits, truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("before", "weight"), [(1, 4.0), (3, -2.0)])
def test_the_rule_stands_on_top_of_what_is_said_anyway(before, weight):
    ex = expand(skip_trigrams(), [4, before, 2], 5)
    looks = ("A L0H0[2,1]",)
    assert found(ex) == [
        ("mlp0(embed, L0H0@1→2(embed))", near(weight), 2, looks),
        ("embed", near(0.5), 1, ()),
        ("L0H0@1→2(embed)", near(0.25), 1, looks),
    ]
    assert dict(zip(ex.by("component").names, ex.by("component").values, strict=True))[
        "mlp0"
    ] == near(weight)
    assert ex.total == near(weight + 0.75)
    assert ex.ablate([ex.terms[0]]) == near(0.75)


def test_every_path_of_the_rules_is_listed_and_only_the_designed_ones_have_a_value():
    """2 leaves, a head over both at 3 positions, and all unordered pairs of these 8 in the bilinear
    layer.
    """
    ex = expand(skip_trigrams(), [4, 1, 2], 5, max_terms=None, cutoff=0)
    assert len(ex.terms) == 8 + 8 * 9 // 2
    assert sum(abs(term.value) > 1e-9 for term in ex.terms) == 3
    assert ex.remainder == 0


def test_two_targets_are_told_apart():
    """5 less 6: the rule of 6 fires on these two and speaks against, what every token says anyway
    for.
    """
    ex = expand(skip_trigrams(), [4, 2, 1], (5, 6))
    assert found(ex)[0] == ("mlp0(embed, L0H0@1→2(embed))", near(-3.0), 2, ("A L0H0[2,1]",))
    assert ex.total == near(0.75 - 3.0)

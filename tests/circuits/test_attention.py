"""Attention scores as pairs of sources, QK and OV circuits, and what heads do: against dense
oracles and built heads.
"""

import math

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import (
    AttentionScores,
    attention_scores,
    head_scores,
    ov_circuit,
    qk_circuit,
    record,
)

TOKENS = torch.tensor([3, 1, 4, 1, 5])


def transformer(seed=0, **changes):
    """Two layers in float64 with weights large enough that every source counts."""
    fields = {
        "vocab_size": 11,
        "hidden_size": 8,
        "intermediate_size": 5,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "norm": "none",
        "max_position_embeddings": 40,
    }
    model = bilens.Transformer(bilens.TransformerConfig(**fields | changes)).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return model.eval().requires_grad_(False)


def turn(position: int, size: int = 4) -> torch.Tensor:
    """RoPE at one position as a matrix, x ↦ x @ turn, cos and sin made in float32 as everywhere."""
    angles = torch.tensor(float(position)) / 10000.0 ** (torch.arange(0, size, 2) / size)
    c, s = torch.diag(angles.cos().double()), torch.diag(angles.sin().double())
    return torch.cat([torch.cat([c, s], 1), torch.cat([-s, c], 1)])


KINDS = [
    {},
    {"norm": "rms"},
    {"norm": "layer", "attention_bias": True},
    {"norm": "layer", "positions": "learned", "mlp_bias": True},
    {"norm": "rms", "qk_norm": True, "attention_bias": True},
    {"positions": "none", "num_key_value_heads": 1, "tie_word_embeddings": True},
    {"intermediate_size": 0, "qk_norm": True},
    {"hidden_act": "silu", "norm": "rms"},
    {"norm": "rms", "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}},
]


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 3)])
def test_pairs_add_up_to_the_score_behind_the_models_own_pattern(changes, layer, head):
    model = transformer(**changes)
    pattern = model(TOKENS[None], output_attentions=True).attentions[layer][0, head]
    for query in (0, 2, 4):
        scores = [
            attention_scores(model, TOKENS, layer, head, query, key) for key in range(query + 1)
        ]
        for score in scores:
            assert score.error <= 1e-12 * max(1.0, float(score.values.abs().max()))
        softmax = torch.tensor([score.total for score in scores], dtype=torch.float64).softmax(0)
        torch.testing.assert_close(softmax, pattern[query, : query + 1], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("changes", KINDS)
def test_each_side_alone_is_linear_in_its_source(changes):
    """A source taken out of what is read at the key takes its pairs, and no others, out of the
    score.
    """
    model = transformer(**changes)
    score, found = attention_scores(model, TOKENS, 1, 2, 4, 1), record(model, TOKENS)
    n = [part.name for part in found.wiring.parts].index("attn1")
    module, norm = model.blocks[1].self_attn, model.blocks[1].input_layernorm
    heard = norm(found.streams[n])
    scale = found.scales[n]
    for column, source in enumerate(score.key_sources[: len(found.reads[n])]):
        without = heard.clone()
        without[1] -= scale[1] * norm.linear(found.writes[column, 1])
        q, k = (
            module.q_proj(heard).unflatten(-1, (-1, 4))[4, 2],
            module.k_proj(without).unflatten(-1, (-1, 4)),
        )
        k = k[1, 2 // (module.n_heads // module.n_kv)]
        if module.q_norm is not None:
            whole = module.k_proj(heard).unflatten(-1, (-1, 4))[
                1, 2 // (module.n_heads // module.n_kv)
            ]
            q, k = module.q_norm(q), module.k_norm.scale(whole) * k * module.k_norm.weight
        if model.model.rotary_emb is not None:
            theta = model.model.rotary_emb.inv_freq.float()
            angles = [torch.tensor(float(p)) * theta for p in (4, 1)]
            q, k = (_turned(x, angle) for x, angle in zip((q, k), angles, strict=True))
        expected = score.total - float(q @ k) / 2
        assert float(score.values[:, column].sum()) == pytest.approx(
            expected, rel=1e-10, abs=1e-11
        ), source


def _turned(x, angles):
    (first, second), c, s = x.chunk(2), angles.cos().double(), angles.sin().double()
    return torch.cat([first * c - second * s, second * c + first * s])


def test_one_pair_by_hand():
    """x_t W_Q Rot_t Rot_sᵀ W_Kᵀ x_sᵀ / √d_head, and what is given, with the turns as matrices."""
    model = transformer(norm="rms")
    score = attention_scores(model, TOKENS, 0, 3, 4, 2)
    x = model.W_E[TOKENS]
    scale = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    x = x * scale * model.blocks[0].input_layernorm.weight
    value = x[4] @ model.W_Q[0, 3] @ turn(4) @ turn(2).mT @ model.W_K[0, 3].mT @ x[2] / 2
    assert score.query_sources == score.key_sources == ("embed",)
    assert float(score.values[0, 0]) == pytest.approx(float(value), rel=1e-12)
    assert score.given == ("σ attn0@4", "σ attn0@2")


def test_sources_and_what_is_given():
    score = attention_scores(transformer(norm="layer", attention_bias=True), TOKENS, 1, 0, -1, -1)
    heads = tuple(f"L0H{n}" for n in range(4))
    assert score.query_sources == ("embed", *heads, "attn0.bias", "mlp0", "1")
    assert score.given == ("σ attn1@4",)
    assert attention_scores(transformer(), TOKENS, 1, 0, 2, 1).given == ()
    assert attention_scores(transformer(), TOKENS, 1, 0, 2, 1).key_sources == (
        "embed",
        *heads,
        "mlp0",
    )
    both = attention_scores(transformer(qk_norm=True), TOKENS, 1, 0, 2, 1)
    assert both.given == ("σ L1H0.q@2", "σ L1H0.k@1")


def test_rows_are_the_pairs_largest_first(tmp_path):
    score = attention_scores(transformer(norm="rms"), TOKENS, 1, 0, 3, 1)
    frame = score.to_frame()
    assert list(frame.columns) == ["query source", "key source", "value", "share"]
    assert len(frame) == score.values.numel()
    assert frame["value"].abs().is_monotonic_decreasing
    assert frame["share"].sum() == pytest.approx(1)
    row = frame.iloc[0]
    at = score.query_sources.index(row["query source"]), score.key_sources.index(row["key source"])
    assert row["value"] == score.values[at]
    assert torch.equal(
        torch.tensor(score.figure()["data"][0]["z"], dtype=torch.float64), score.values
    )
    figure = score.plot()
    cells, layout = figure.data[0], figure.layout
    assert (layout.xaxis.ticktext, layout.yaxis.ticktext) == (
        score.key_sources,
        score.query_sources,
    )
    assert cells.zmin == -cells.zmax
    assert [colour for _, colour in cells.colorscale] == ["#D55E00", "#ffffff", "#0072B2"]
    assert layout.yaxis.autorange == "reversed"  # rows as in the table, the first on top
    assert [axis.title.text.split(",")[0] for axis in (layout.xaxis, layout.yaxis)] == [
        "what stands at the key",
        "at the query",
    ]
    score.save(tmp_path / "s.safetensors")
    assert AttentionScores.load(tmp_path / "s.safetensors").rows() == score.rows()


def test_float32_is_as_exact_as_float32_can_be():
    score = attention_scores(transformer(norm="rms").float(), TOKENS, 1, 0, 4, 2)
    assert score.error <= 1e-5 * float(score.values.abs().max())


def test_the_forward_is_the_models_own(monkeypatch):
    """The check is no tautology: a decomposition of other numbers is found out."""
    import bilens.circuits.attention as attention

    good = attention._Look.side
    monkeypatch.setattr(attention._Look, "side", lambda *given: good(*given) * 1.01)
    assert attention_scores(transformer(), TOKENS, 1, 0, 4, 2).error > 1e-3


@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
def test_qk_circuit_is_the_score_of_embeddings(norm):
    """Key at position 0, so that both turn by the very same float32 angle; divided by the norm
    scales.
    """
    model = transformer(norm=norm)
    found = record(model, TOKENS)
    for query in range(5):
        form = qk_circuit(model, 0, 2, -query)
        assert form.shape == (11, 11)
        pair = attention_scores(model, TOKENS, 0, 2, query, 0)
        value = float(
            form.dense()[TOKENS[query], TOKENS[0]]
            * found.scales[0][query, 0]
            * found.scales[0][0, 0]
        )
        assert value == pytest.approx(float(pair.values[0, 0]), rel=1e-10)


def test_qk_circuit_at_an_offset_by_hand():
    model = transformer(norm="rms", qk_norm=True)
    attention, weight = model.blocks[1].self_attn, model.blocks[1].input_layernorm.weight
    embed = model.W_E * weight
    q = embed @ model.W_Q[1, 1] * attention.q_norm.weight
    k = embed @ model.W_K[1, 1] * attention.k_norm.weight
    torch.testing.assert_close(
        qk_circuit(model, 1, 1, -3).dense(), q @ turn(3) @ k.mT / 2, rtol=1e-10, atol=1e-12
    )
    flat = transformer(positions="learned")
    torch.testing.assert_close(qk_circuit(flat, 1, 1, -3).dense(), qk_circuit(flat, 1, 1).dense())


def test_a_stretched_rope_scales_both_queries_and_keys():
    model = transformer()
    plain = qk_circuit(model, 0, 0, -2).dense()
    model.model.rotary_emb.scale = 4.0  # exact in float32
    torch.testing.assert_close(qk_circuit(model, 0, 0, -2).dense(), 16 * plain)
    assert attention_scores(model, TOKENS, 0, 0, 2, 0).values[0, 0] == pytest.approx(
        float(16 * plain[4, 3]), rel=1e-10
    )


@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
def test_ov_circuit_is_input_token_by_output_token(norm):
    model = transformer(norm=norm)
    x = model.W_E
    centre = (lambda y: y - y.mean(-1, keepdim=True)) if norm == "layer" else (lambda y: y)
    w = (
        [1.0, 1.0]
        if norm == "none"
        else [model.blocks[1].input_layernorm.weight, model.model.norm.weight]
    )
    expected = centre(centre(x) * w[0] @ model.W_V[1, 3] @ model.W_O[1, 3]) * w[1] @ model.W_U
    form = ov_circuit(model, 1, 3)
    torch.testing.assert_close(form.dense(), expected, rtol=1e-10, atol=1e-12)
    assert form.mdim == 4


def test_circuits_carry_gradients():
    model = transformer(norm="rms").requires_grad_(True)
    (ov_circuit(model, 0, 1).norm() + qk_circuit(model, 0, 1, -1).norm()).backward()
    attention = model.blocks[0].self_attn
    assert all(
        float(getattr(attention, f"{name}_proj").weight.grad.abs().sum()) > 0 for name in "qkvo"
    )


def built() -> bilens.Transformer:
    """Head 0 of layer 0 looks one back; head 0 of layer 1 copies, looking at what followed the
    token's last occurrence.
    """
    v, context = 20, 40
    width = 2 * v + context
    config = bilens.TransformerConfig(
        vocab_size=v,
        hidden_size=width,
        intermediate_size=0,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=context,
        norm="none",
        positions="learned",
        max_position_embeddings=context,
    )
    model = bilens.Transformer(config).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    eye = torch.eye(width, dtype=torch.float64)
    token, before, place = eye[:v], eye[v : 2 * v], eye[2 * v :]
    model.W_E.copy_(token)
    model.W_pos.copy_(place)
    model.lm_head.weight.copy_(token)
    first, second = (block.self_attn for block in model.blocks)
    # feature p: I stand at p + 1
    first.q_proj.weight[:context] = 400 * torch.cat([place[1:], place[:1]])
    first.k_proj.weight[:context] = place
    first.v_proj.weight[:v], first.o_proj.weight[:, :v] = token, before.mT
    second.q_proj.weight[:v], second.k_proj.weight[:v] = 400 * token, before
    second.v_proj.weight[:v], second.o_proj.weight[:, :v] = token, token.mT
    second.v_proj.weight[context : context + v] = token  # head 1 of layer 1 lowers what it looks at
    second.o_proj.weight[:, context : context + v] = -token.mT
    return model


def test_heads_built_for_it_score_one():
    scores = head_scores(built(), block=12)
    rows = {row["head"]: row for row in scores.rows()}
    assert rows["L0H0"]["previous token"] == pytest.approx(1, abs=1e-12)
    # The first token looks back at itself, so that where it returns it is found both there and
    # after it.
    assert rows["L1H0"]["induction"] == pytest.approx(11.5 / 12, abs=1e-12)
    assert rows["L1H0"]["copying"] == pytest.approx(1, abs=1e-12)
    assert rows["L1H1"]["copying"] == pytest.approx(-1, abs=1e-12)
    assert rows["L0H1"]["copying"] == 0
    uniform = sum(1 / (t + 1) for t in range(1, 24)) / 23  # a head that looks everywhere alike
    assert rows["L0H1"]["previous token"] == pytest.approx(uniform)
    assert rows["L1H1"]["induction"] == pytest.approx(sum(1 / (t + 1) for t in range(12, 24)) / 12)
    assert "most induction L1H0 (0.96)" in scores.summary()
    figure = scores.figure()
    names, heads = (figure["layout"][axis]["ticktext"] for axis in ("xaxis", "yaxis"))
    assert names == ["copying", "previous token", "induction"]
    assert figure["data"][0]["z"] == [[rows[head][name] for name in names] for head in heads]
    most = [max(abs(rows[head][name]) for name in names) for head in heads]
    assert most == sorted(most, reverse=True)


def test_scores_against_the_definitions():
    model = transformer(norm="rms")
    scores = head_scores(model, block=9, texts=3, seed=5)
    assert scores.tokens.shape == (3, 18)
    assert all(
        len(set(text[:9].tolist())) == 9 and torch.equal(text[:9], text[9:])
        for text in scores.tokens
    )
    patterns = model(scores.tokens, output_attentions=True).attentions
    for n, name in enumerate(scores.heads):
        layer, head = divmod(n, 4)
        assert name == f"L{layer}H{head}"
        pattern = patterns[layer][:, head]
        previous = [float(p[t, t - 1]) for p in pattern for t in range(1, 18)]
        after = [float(p[t, t - 8]) for p in pattern for t in range(9, 18)]
        assert float(scores.previous[n]) == pytest.approx(
            math.fsum(previous) / len(previous), rel=1e-10
        )
        assert float(scores.induction[n]) == pytest.approx(math.fsum(after) / len(after), rel=1e-10)
        values = torch.linalg.eigvals(ov_circuit(model, layer, head).dense())
        assert float(scores.copying[n]) == pytest.approx(
            float(values.real.sum() / values.abs().sum()), rel=1e-6
        )
    again = head_scores(model, block=9, texts=3, seed=5)
    assert torch.equal(again.induction, scores.induction)
    assert not torch.equal(head_scores(model, block=9, texts=3, seed=6).tokens, scores.tokens)
    assert head_scores(model, block=15).tokens.shape == (4, 30)  # more than there are tokens


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layer": 2}, "layer must be one with heads: 0, 1; got 2"),
        ({"layer": -1}, "layer must be one with heads: 0, 1; got -1"),
        ({"head": 4}, "head must be 0 … 3; got 4"),
        ({"head": True}, "head must be 0 … 3; got True"),
        ({"query": 5}, "query must be -5 … 4; got 5"),
        ({"key": -6}, "key must be -5 … 4; got -6"),
        (
            {"query": 1, "key": 2},
            "key must be no later than query = 1; got 2. Heads look back only.",
        ),
        ({"inputs": [99]}, "inputs must be tokens 0 … 10; got 99"),
        ({"model": torch.nn.Linear(2, 2)}, "model must be a bilens model"),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_is_refused(refuses, change, text):
    given = {
        "model": transformer(),
        "inputs": TOKENS,
        "layer": 1,
        "head": 0,
        "query": 3,
        "key": 1,
    } | change
    refuses(ArgumentError, lambda: attention_scores(**given), text)


@pytest.mark.bad_input
def test_circuits_and_scores_refuse_what_cannot_be(refuses):
    model = transformer()
    refuses(ArgumentError, lambda: qk_circuit(model, 0, 0, 1), "offset must be 0, −1, −2, …")
    refuses(ArgumentError, lambda: ov_circuit(model, 0, 9), "head must be 0 … 3; got 9")
    refuses(
        ArgumentError,
        lambda: ov_circuit(transformer(num_attention_heads=0), 0, 0),
        "model must have attention heads",
    )
    refuses(
        ArgumentError,
        lambda: head_scores(transformer(num_attention_heads=0)),
        "model must have attention heads",
    )
    refuses(
        ArgumentError,
        lambda: head_scores(model, block=1),
        "block must be a whole number ≥ 2; got 1",
    )
    refuses(ArgumentError, lambda: head_scores(model, block=10**9), "at most 1,048,576 tokens")
    for seed in ("a", -1, True):
        refuses(
            ArgumentError,
            lambda seed=seed: head_scores(model, seed=seed),
            "seed must be a whole number ≥ 0",
        )
    refuses(
        ArgumentError,
        lambda: head_scores(model, block=21),
        "inputs must fit the context of 40 tokens; got 42",
    )

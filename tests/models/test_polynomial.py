"""Transformers whose patterns are products of scores: caches, saving, training, verify."""

import json

import pytest
import torch
from transformers import DynamicCache

import bilens
from bilens import Transformer, TransformerConfig
from bilens.base.errors import ArgumentError, ConfigError, NotExactError
from bilens.models import bilinear_frame, from_state_dict

SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
KINDS = {
    "bilinear": {"attention": "bilinear", "norm": "none"},
    "squared": {"attention": "squared", "attention_scale": [1 / 16, -0.3], "norm": "none"},
    "normed": {
        "attention": "bilinear", "attention_bias": True, "qk_norm": True, "rope_reversed": True,
    },
    "normalised": {"attention": "squared", "attention_normalised": True, "qk_norm": True},
}  # fmt: skip


def model(seed=0, **changes):
    torch.manual_seed(seed)
    return Transformer(TransformerConfig(**(SMALL | changes))).double().eval()


def ids(batch=2, length=9, seed=1):
    return torch.randint(3, 40, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_cache_gives_the_full_pass(kind, close):
    made, text = model(**KINDS[kind]), ids()
    full = made(text).logits
    cache = DynamicCache()
    begun = made(text[:, :4], cache=cache)
    rest = [made(text[:, t : t + 1], cache=cache) for t in range(4, 9)]
    close(torch.cat([begun.logits, *(step.logits for step in rest)], 1), full)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0  # padding in front is not read
    places = mask.cumsum(-1).sub(1).clamp(min=0)
    padded = made(text, attention_mask=mask, position_ids=places).logits[0, 3:]
    close(padded, made(text[:1, 3:]).logits[0])
    said = [
        made.generate(text, max_new_tokens=5, do_sample=False, **how)
        for how in ({}, {"use_cache": False}, {"cache_implementation": "static"})
    ]
    assert torch.equal(said[0], said[1])
    assert torch.equal(said[0], said[2])


@pytest.mark.bad_input  # the checks of shapes cannot be compiled
@torch.no_grad()
def test_heads_compile_to_one_graph(close, make):
    heads, x = model(**KINDS["normed"]).blocks[0].self_attn, make.randn(1, 5, 16)
    compiled = torch.compile(heads, backend="eager", fullgraph=True)
    close(compiled(x)[0], heads(x)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.bad_input  # for speed
@torch.no_grad()
def test_saved_loaded_and_by_state_dict(kind, close, tmp_path):
    made = model(**KINDS[kind])
    made.save_pretrained(tmp_path)
    loaded = bilens.load(tmp_path)
    close(loaded(ids()).logits, made(ids()).logits)
    assert json.loads((tmp_path / "config.json").read_text())["attention"] == made.config.attention
    again = from_state_dict(made.state_dict(), made.config)
    close(again(ids()).logits, made(ids()).logits)
    folded = made.folded()
    close(folded(ids()).logits, made(ids()).logits)
    text, patterns = ids(1), made(ids(1), output_attentions=True).attentions
    assert patterns[1].shape == (1, 4, 9, 9)
    expansion = bilens.expand(made, text, target=5, max_terms=50)
    assert expansion.error < 1e-10


@torch.no_grad()
def test_weights_of_both_scores_by_name(make, close):
    made, x = model(**KINDS["bilinear"]), make.randn(9, 16)
    pattern = made.blocks[1].self_attn(x[None], patterns=True)[1]
    scores = [(x @ q[1]) @ (x @ k[1]).mT for q, k in ((made.W_Q, made.W_K), (made.W_Q2, made.W_K2))]
    close(pattern[0], (scores[0] * scores[1] / 4).tril())
    assert made.b_Q2.abs().sum() == made.b_K2.abs().sum() == 0


def test_what_is_refused(refuses):
    squared = model(**KINDS["squared"])
    refuses(
        ArgumentError, lambda: squared.W_Q2, 'W_Q2 must be asked of a model with attention = "b'
    )
    for changes, text in (
        ({"attention": "linear"}, "attention must be one of softmax, bilinear, squared"),
        ({"attention_normalised": True}, "attention_normalised must be false where a softmax"),
        ({"attention": "squared", "attn_logit_softcapping": 5.0}, "must be none of squared att"),
        ({"attention": "squared", "attention_scale": 0}, "for each of 2 layers, other than 0"),
        ({"attention_scale": -1.0}, "for each of 2 layers, above 0; got -1.0"),
        ({"attention": "bilinear", "head_dim": 5}, "head_dim must be even for rotary positions"),
    ):
        refuses(ConfigError, lambda given=changes: TransformerConfig(**(SMALL | given)), text)
    refuses(ConfigError, squared.to_llama, "to_llama: norm must be 'rms'")
    rms = model(attention="bilinear")
    refuses(ConfigError, rms.to_llama, "to_llama: attention must be 'softmax'")


@pytest.mark.bad_input  # for speed
def test_training_moves_both_scores_and_verify_holds():
    made = model(**KINDS["bilinear"])
    optimizer, text = torch.optim.Adam(made.parameters(), lr=3e-3), ids(8, 16)
    losses = []
    for _ in range(20):
        loss = made(text, labels=text).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2
    assert made.blocks[0].self_attn.q2_proj.weight.grad.abs().sum() > 0
    found = bilens.verify(made.eval())
    assert found.passed, found


# Random architectures against dense arrays: W_Q Rot W_Kᵀ for every offset, W_V W_O, cubes.


def dense_logits(made, text):
    """The model's own numbers, put together as dense matrices and cubes over (1, x)."""
    config, state = made.config, made.state_dict()
    embed = state["model.embed_tokens.weight"] * config.embedding_scale
    x = first = embed[text]
    if config.positions == "learned":
        x = first = x + state["model.embed_positions.weight"][: len(text)]
    values = None
    for n in range(config.num_hidden_layers):
        layer = {
            name.removeprefix(f"model.layers.{n}."): value
            for name, value in state.items()
            if name.startswith(f"model.layers.{n}.")
        }
        if config.residual_mix:
            keep, again = layer["residual_mix.weight"]
            x = keep * x + again * first
        a, b, before = config.residual_scale, config.write_scale, x
        if config.num_attention_heads:
            read = with_one(scaled(layer, "input_layernorm", x))
            own = torch.stack([read @ affine(layer, "v_proj", h, config) for h in HEADS])
            values = own if values is None else values
            share = layer["self_attn.value_mix.weight"] if config.value_mix else 0.0
            own = (1 - share) * own + share * values
            z = [dense_pattern(layer, read, h, n, config) @ own[h] for h in HEADS]
            written = torch.cat(z, -1) @ layer["self_attn.o_proj.weight"].mT
            x = a * x + b * (written + layer.get("self_attn.o_proj.bias", 0.0))
        if config.intermediate_size:
            source = before if config.parallel_residual else x
            x = a * x + b * cube(layer, scaled(layer, "post_attention_layernorm", source))
    logits = scaled(state, "model.norm", x) @ state["lm_head.weight"].mT
    cap = config.final_logit_softcapping
    return logits if cap is None else cap * torch.tanh(logits / cap)


HEADS = range(2)


def with_one(x):
    return torch.cat([torch.ones_like(x[:, :1]), x], dim=1)


def scaled(weights, name, x):
    return x * weights.get(f"{name}.weight", 1.0)


def affine(layer, name, head, config):
    """(1 + d, d_head), of the group of a head where it is of keys or values."""
    weight = layer[f"self_attn.{name}.weight"]
    bias = layer.get(f"self_attn.{name}.bias", torch.zeros_like(weight[:, 0]))
    rows = config.head_dim
    at = 0 if len(weight) == rows else head
    return torch.cat([bias[:, None], weight], dim=1)[at * rows : (at + 1) * rows].mT


def turned_by(offset, config):
    """Rot(offset), (d_head, d_head): what stands between a query and a key."""
    width, matrix = config.head_dim, torch.eye(config.head_dim, dtype=torch.float64)
    if config.positions != "rope":
        return matrix
    for p in range(width // 2):
        angle = torch.tensor(offset * 10000.0 ** (-2 * p / width), dtype=torch.float64)
        angle = -angle if config.rope_reversed else angle
        q = p + width // 2
        matrix[p, p] = matrix[q, q] = angle.cos()
        matrix[p, q], matrix[q, p] = -angle.sin(), angle.sin()
    return matrix


def dense_pattern(layer, read, head, n, config):
    length, kind = len(read), config.attention
    scales = {"softmax": config.head_dim**-0.5}.get(kind, 1 / config.head_dim)
    given = config.attention_scale
    c = scales if given is None else given[n] if isinstance(given, list) else given
    pairs = [("q_proj", "k_proj")]
    pairs += [("q2_proj", "k2_proj")] if kind == "bilinear" else pairs if kind == "squared" else []
    scores = torch.ones(length, length, dtype=torch.float64)
    for q, k in pairs:
        one, other = (affine(layer, name, head, config) for name in (q, k))
        for offset in range(length):
            form = one @ turned_by(-offset, config) @ other.mT  # dense, (1 + d, 1 + d)
            found = torch.einsum("ti,ij,sj->ts", read, form, read)
            scores.diagonal(-offset).mul_(found.diagonal(-offset))
    scores = (c * scores).tril()
    if kind == "softmax":
        return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1)
    if config.attention_normalised:
        scores = scores / scores.abs().sum(-1, keepdim=True)
    return scores


def cube(layer, x):
    """The MLP as a dense cube (d, 1 + d, 1 + d)."""
    sides = []
    for name in ("gate_proj", "up_proj"):
        weight = layer[f"mlp.{name}.weight"]
        bias = layer.get(f"mlp.{name}.bias", torch.zeros_like(weight[:, 0]))
        sides.append(torch.cat([bias[:, None], weight], dim=1))
    dense = torch.einsum("oh,hi,hj->oij", layer["mlp.down_proj.weight"], *sides)
    read = with_one(x)
    return torch.einsum("oij,ti,tj->to", dense, read, read) + layer.get("mlp.down_proj.bias", 0.0)


ARCHITECTURES = {
    "attention": ("softmax", "bilinear", "squared"),
    "num_hidden_layers": (2, 1, 3, 0),
    "norm": ("channel", "none", "scalar"),
    "final_norm": (None, "scalar", "none", "channel"),
    "residual_scale": (1.0, 0.6),
    "write_scale": (1.0, 0.4, 1.7),
    "residual_mix": (False, True),
    "value_mix": (False, False, True),
    "attention_scale": (None, 0.7, "by layer"),
    "attention_bias": (False, True),
    "mlp_bias": (False, True),
    "num_key_value_heads": (2, 1),
    "positions": ("rope", "none", "learned"),
    "rope_reversed": (False, True),
    "intermediate_size": (6, 0),
    "final_logit_softcapping": (None, None, 5.0),
    "embedding_scale": (1.0, 1.5),
    "attention_normalised": (False, False, True),
}


def drawn(seed):
    """One architecture, and a model of it whose scales are not what they are made as."""
    draw = torch.Generator().manual_seed(seed)
    picked = {
        name: options[int(torch.randint(len(options), (), generator=draw))]
        for name, options in ARCHITECTURES.items()
    }
    layers, soft = picked["num_hidden_layers"], picked["attention"] == "softmax"
    if picked["attention_scale"] == "by layer":
        picked["attention_scale"] = [0.3 + n if soft else 0.5 - n for n in range(layers)]
    picked["attention_normalised"] &= not soft
    picked["parallel_residual"] = picked["residual_scale"] == 1 and seed % 3 == 0
    sizes = {"vocab_size": 11, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4}
    return model(seed, **(SMALL | picked | sizes | {"initializer_range": 0.3})), picked


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.bad_input  # for speed
@torch.no_grad()
def test_random_architectures_are_dense_arrays(seed, make):
    made, picked = drawn(seed)
    for name, value in made.named_parameters():
        if value.ndim < 2:
            value.copy_(0.3 * make.randn(*value.shape) + (not name.endswith("bias")))
    folded = made.folded()
    for rotary in (*made.model.rotaries.values(), *folded.model.rotaries.values()):
        # angles of full precision, as here
        rotary.inv_freq = 10000.0 ** (-torch.arange(0, 4, 2, dtype=torch.float64) / 4)
    text = torch.randint(0, 11, (6,), generator=torch.Generator().manual_seed(seed))
    truth = dense_logits(made, text)
    got = made(text[None]).logits[0]
    assert float((got - truth).abs().max()) <= 1e-10 * float(truth.abs().max())
    close_to = 1e-9 * float(truth.abs().max())
    assert float((folded(text[None]).logits[0] - truth).abs().max()) <= close_to
    if picked["num_hidden_layers"] < 2 or picked["value_mix"]:
        assert bilens.expand(made, text, target=3, max_terms=30).error <= close_to
    found = bilens.circuits.record(made, text)
    assert float((found.outputs(-1) - truth[-1]).abs().max()) <= close_to


@pytest.mark.bad_input  # for speed
@torch.no_grad()
def test_a_scaled_and_mixed_stream_with_norms(close, make):
    """Norms of a scaled stream have another eps: the sum over paths keeps it."""
    made = model(
        norm_placement="both", residual_mix=True, residual_scale=0.8, write_scale=1.4,
        rms_norm_eps=0.1, attention="bilinear", num_hidden_layers=3,
    )  # fmt: skip
    for block in made.blocks:
        block.residual_mix.weight.copy_(make.randn(2))
    text = ids(1)[0]
    x = first = made.model.embed_tokens(text)
    for block in made.blocks:
        x = block.residual_mix.weight[0] * x + block.residual_mix.weight[1] * first
        turn = made.model.rotary_emb(torch.arange(9)[None], torch.float64)
        written = block.self_attn(block.input_layernorm(x)[None], turn)[0][0]
        x = 0.8 * x + 1.4 * block.self_attn_out_norm(written)
        x = 0.8 * x + 1.4 * block.mlp_out_norm(block.mlp(block.post_attention_layernorm(x)))
    truth = made.lm_head(made.model.norm(x))
    close(made(text[None]).logits[0], truth)
    close(bilens.circuits.record(made, text).outputs(-1), truth[-1])
    assert bilens.expand(made, text, target=3, max_terms=30).error < 1e-10
    names = [part.name for part in made.wiring().parts]
    assert names == ["attn0", "mlp0", "again1", "attn1", "mlp1", "again2", "attn2", "mlp2"]
    assert "again1.output" not in bilens.training.every_place(made)
    assert bilens.circuits.promises(made, text).kept


def test_streams_that_are_refused(refuses):
    for changes, text in (
        ({"residual_scale": 0.0}, "residual_scale must be a finite number > 0; got 0.0"),
        ({"write_scale": 0}, "write_scale must be a finite number > 0; got 0"),
        ({"residual_scale": 0.5, "parallel_residual": True}, "residual_scale must be 1 where both"),
        ({"value_mix": True, "num_attention_heads": 0}, "value_mix must be false where there are"),
        ({"final_norm": "batch"}, "final_norm must be one of rms"),
    ):
        refuses(ConfigError, lambda given=changes: TransformerConfig(**(SMALL | given)), text)
    made = model(residual_mix=True)
    refuses(ConfigError, made.to_llama, "to_llama: residual_mix must be False")
    refuses(ArgumentError, lambda: bilinear_frame(made), "must add what its parts write")
    with torch.no_grad():
        made.blocks[1].residual_mix.weight[0] = 0
    dropped = "layers.1.residual_mix must keep some of the stream; got 0"
    refuses(NotExactError, made.wiring, dropped)
    found = bilens.verify(made)
    assert found.passed
    assert dropped in found.skipped[0]

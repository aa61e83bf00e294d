"""RoPE's frequencies, which no cast may touch, and attention in half types and under masks."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from bilens.base.errors import ArgumentError, ConfigError
from bilens.nn import Attention, RMSNorm, Rotary, Scores, rotate

NORMED = Scores(norm=RMSNorm)

AT = torch.tensor([[0, 1, 448, 1999, 100_000]])
KEPT = Rotary(64)


def through_torch_save(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def made_without_memory():
    with torch.device("meta"):
        return nn.ModuleList([Rotary(64)])


def with_cast_buffers(module):
    """As wrappers that shard or mix precision do, past ``Module.to``."""
    for buffer in module.buffers():
        buffer.data = buffer.data.bfloat16()
    return module


def emptied(module):
    return module.to_empty(device="cpu")


WAYS = {
    "bfloat16()": lambda module: module.bfloat16(),
    "half()": lambda module: module.half(),
    "to(dtype)": lambda module: module.to(torch.bfloat16).to(torch.float64),
    "Module.to": lambda module: nn.Module.to(module, "cpu", torch.float16),
    "double()": lambda module: module.half().double(),
    "type()": lambda module: module.type(torch.bfloat16),
    "buffers cast by hand": lambda module: with_cast_buffers(module),
    "deepcopy": lambda module: copy.deepcopy(module.half()),
    "pickle": lambda module: pickle.loads(pickle.dumps(module.half())),
    "torch.save": lambda module: through_torch_save(module.half()),
    "load_state_dict": lambda module: module.half().load_state_dict(module.state_dict()) and module,
    "to_empty": emptied,
    "meta and back": lambda _: emptied(made_without_memory()),
    "a pass without memory": lambda module: module[0](AT.to("meta"), torch.float32) and module,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_angles_are_those_of_float32_frequencies(way, dtype):
    rotary = WAYS[way](nn.ModuleList([Rotary(64)]))[0]
    truth = LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=1))(
        torch.ones(1, dtype=dtype), AT
    )
    for got, wanted in zip(rotary(AT, dtype), truth, strict=True):
        assert torch.equal(got[:, 0], wanted)


def test_the_default_dtype_is_not_asked():
    torch.set_default_dtype(torch.bfloat16)
    try:
        made = Rotary(64)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(made.inv_freq, KEPT.inv_freq)


def test_frequencies_better_than_float32_are_kept():
    """Given in float64, angles are made in float64: compared with Python's own cosine."""
    given = torch.tensor([0.123456789, 1e-4], dtype=torch.float64)
    cos, sin = Rotary(4, inv_freq=given).bfloat16()(torch.tensor([[1999]]), torch.float64)
    for p in (0, 1):
        assert float(cos[0, 0, 0, p]) == pytest.approx(math.cos(1999 * float(given[p])), abs=1e-12)
        assert float(sin[0, 0, 0, p + 2]) == pytest.approx(
            math.sin(1999 * float(given[p])), abs=1e-12
        )
    assert Rotary(4, inv_freq=given.half()).inv_freq.dtype == torch.float32


def test_an_odd_head_does_not_turn(refuses):
    refuses(ConfigError, lambda: Rotary(7), "head_dim must be even for rotary positions; got 7")


# Attention.


def attention(make, dtype=torch.float64, size=1.0, **changes):
    layer = Attention(16, 4, 2, **changes).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(size * make.randn(*parameter.shape) / 4)
    return layer.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_half_types_do_not_overflow(make, close, dtype):
    """Queries and keys of about 500: their products pass float16's 65,504."""
    layer, x = attention(make, dtype, size=20.0), make.randn(2, 5, 16).to(dtype) * 20
    truth, _ = copy.deepcopy(layer).double()(x.double(), patterns=True)
    for patterns in (False, True):
        got, found = layer(x, patterns=patterns)
        close(got.double(), truth, tol=5e-2)
        assert found is None or bool(torch.isfinite(found).all())


MASKS = {
    "causal": lambda: torch.ones(5, 5).tril().bool(),
    "some see nothing": lambda: torch.ones(5, 5).tril(-1).bool(),
    "of each head": lambda: (
        torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    ),
    "of each row": lambda: torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5,
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("additive", [False, True])
def test_attention_under_a_mask_by_hand(make, close, kind, additive):
    layer, x, may = (
        attention(make, scores=Scores(norm=RMSNorm)),
        make.randn(2, 5, 16),
        MASKS[kind](),
    )
    mask = torch.zeros(may.shape).double().masked_fill(~may, -torch.inf) if additive else may
    q, k, v = (
        p(x).unflatten(-1, (-1, 4)).transpose(1, 2)
        for p in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    q, k = layer.q_norm(q), layer.k_norm(k)
    z = torch.zeros(2, 5, 4, 4).double()
    may = may.expand(2, 4, 5, 5)
    for b, h, t in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(5)).tolist():
        seen = [s for s in range(5) if may[b, h, t, s]]
        weights = [math.exp(float(q[b, h, t] @ k[b, h // 2, s]) / 2) for s in seen]
        for s, weight in zip(seen, weights, strict=True):
            z[b, t, h] += weight / sum(weights) * v[b, h // 2, s]
    for patterns in (False, True):
        close(layer(x, mask=mask, patterns=patterns)[0], layer.o_proj(z.flatten(2)))


def test_gradients_pass_where_a_query_sees_nothing(make):
    layer, x = attention(make), make.randn(2, 5, 16, grad=True)
    layer(x, mask=MASKS["some see nothing"](), patterns=True)[0].square().sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    assert float(x.grad[:, 1].abs().sum()) > 0


# Patterns that are products of two scores.


def turned_by_hand(x, position, reverse):
    """One query or key of width 4, turned by an explicit matrix."""
    matrix = torch.eye(4, dtype=torch.float64)
    for p, angle in enumerate((position, position * 1e-2)):
        cos, sin = math.cos(angle), math.sin(angle) * (-1 if reverse else 1)
        matrix[p, p], matrix[p, p + 2] = cos, -sin
        matrix[p + 2, p], matrix[p + 2, p + 2] = sin, cos
    return matrix @ x


def products_by_hand(layer, x, c, reverse=False, normalised=False, window=None):
    """What each head reads and its pattern: one number at a time."""
    made = {}
    for name, _ in layer.named_children():
        if name[0] in "qkv" and name.endswith("proj"):
            heads = getattr(layer, name)(x).unflatten(-1, (-1, 4))
            norm = getattr(layer, name.replace("proj", "norm"), None)
            made[name] = heads if norm is None else norm(heads)
    second = ("q2_proj", "k2_proj") if "q2_proj" in made else ("q_proj", "k_proj")
    patterns = torch.zeros(4, len(x), len(x)).double()
    for h, t in torch.cartesian_prod(torch.arange(4), torch.arange(len(x))).tolist():
        for s in range(max(0, t + 1 - (window or len(x))), t + 1):
            value = c
            for q, k in (("q_proj", "k_proj"), second):
                query = turned_by_hand(made[q][t, h], t, reverse)
                value *= float(query @ turned_by_hand(made[k][s, h // 2], s, reverse))
            patterns[h, t, s] = value
    if normalised:
        patterns = patterns / patterns.abs().sum(-1, keepdim=True)
    values = made["v_proj"].repeat_interleave(2, dim=1)
    return torch.einsum("hts,shd->thd", patterns, values), patterns


PRODUCTS = {
    "bilinear": {"kind": "bilinear"},
    "squared": {"kind": "squared"},
    "negative scale": {"kind": "bilinear", "scores": Scores(scale=-0.7)},
    "squared, normalised": {"kind": "squared", "scores": Scores(scale=1 / 16, normalised=True)},
    "bilinear, normalised, biases": {
        "kind": "bilinear", "bias": True, "scores": Scores(normalised=True),
    },
    "norms, a window": {"kind": "bilinear", "scores": Scores(norm=RMSNorm, window=3)},
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_products_of_scores_by_hand(make, close, name, reverse):
    layer, x = attention(make, size=3.0, **PRODUCTS[name]), make.randn(5, 16)
    scores = PRODUCTS[name].get("scores", Scores())
    rotary = Rotary(4, inv_freq=torch.tensor([1.0, 1e-2], dtype=torch.float64), reverse=reverse)
    turn = rotary(torch.arange(5)[None], torch.float64)
    z, patterns = products_by_hand(
        layer, x, scores.scale or 1 / 4, reverse, scores.normalised, scores.window
    )
    truth = layer.o_proj(z.flatten(1))
    for asked in (False, True):
        got, found = layer(x[None], turn, patterns=asked)
        close(got[0], truth)
    close(found[0], patterns)
    assert bool((patterns < 0).any()) is (layer.kind == "bilinear")
    assert layer.is_polynomial is (not scores.normalised and scores.norm is None)
    # and from the weights as circuits read them: per head, normed, turned, side by side
    sides = zip(*dict.fromkeys(layer.score_projections), strict=True)
    queries, keys = (
        torch.cat([from_weights(layer, x, projection, turn) for projection in side], -1)
        for side in sides
    )
    seen = torch.ones(5, 5).bool().tril().triu(1 - (scores.window or 5))
    close(layer.pattern(layer.scored(queries, keys), seen), patterns)


def from_weights(layer, x, name, turn):
    heads = x @ layer.per_head(name) + layer.bias_per_head(name)[:, None]
    heads = heads * layer.qk_scale(name, heads) * layer.qk_gain(name)
    made = rotate(heads, turn[0][0], turn[1][0])
    side = layer.side(name, x[None], turn)[0]
    assert torch.allclose(side.repeat_interleave(4 // len(side), dim=0), made, atol=1e-12)
    return made


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("additive", [False, True])
def test_products_under_a_mask(make, close, kind, additive):
    """What is hidden is zero, and nothing else changes."""
    layer, x, may = attention(make, size=2.0, kind="bilinear"), make.randn(2, 5, 16), MASKS[kind]()
    mask = torch.zeros(may.shape).double().masked_fill(~may, -torch.inf) if additive else may
    whole = layer(x, mask=torch.ones(5, 5).bool(), patterns=True)[1]
    got, found = layer(x, mask=mask, patterns=True)
    close(found, whole * may)
    close(got, layer(x, mask=mask)[0])


def test_gradients_of_products(make):
    layer = attention(make, kind="bilinear", size=2.0)
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))[0]

    inputs = [make.randn(1, 3, 16, grad=True), *(v.detach().requires_grad_() for v in values)]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.bad_input
def test_what_products_do_not_have(make, refuses):
    refuses(
        ConfigError, lambda: Attention(8, 2, kind="linear"),
        "attention must be one of softmax, bilinear, squared; got 'linear'",
    )  # fmt: skip
    refuses(ConfigError, lambda: Attention(8, 2, scores=Scores(normalised=True)), "a softmax norm")
    for scale in (0, math.inf, math.nan):
        scores = Scores(scale=scale)
        refuses(
            ConfigError, lambda given=scores: Attention(8, 2, scores=given, kind="squared"),
            "attention_scale must be a finite number other than 0",
        )  # fmt: skip
    refuses(
        ConfigError, lambda: Attention(8, 2, scores=Scores(softcap=5.0), kind="squared"),
        "attn_logit_softcapping must be none of squared attention",
    )  # fmt: skip
    layer, x = attention(make, kind="squared"), make.randn(1, 5, 16)
    refuses(
        ArgumentError, lambda: layer(x, mask=torch.full((5, 5), -1.5)),
        "attention_mask must be 0 or −∞ where patterns are products of scores; got -1.5",
    )  # fmt: skip

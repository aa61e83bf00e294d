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

from bilens.base.errors import ConfigError
from bilens.nn import Attention, RMSNorm, Rotary, Scores

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

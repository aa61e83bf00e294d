"""A mixture of experts: against the formula over all experts at once, and against transformers' own
blocks with the same weights.
"""

import pytest
import torch
from transformers import Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from bilens.base.errors import ConfigError, NotExactError, ShapeError
from bilens.nn import ACTIVATIONS, MLP, Experts, GatedMLP

D, H, E = 6, 9, 5


def build(active=2, normalised=True, kind=GatedMLP, bias=False, act="silu"):
    torch.manual_seed(0)
    made = [kind(D, H, bias, act) for _ in range(E)]
    layer = Experts(made, active, normalised=normalised, bias=bias).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def stacked(layer, name):
    return torch.stack([getattr(expert, name).weight for expert in layer.experts])


def biases(layer, name):
    return torch.stack([getattr(expert, name).bias for expert in layer.experts])


@pytest.mark.parametrize("active", [1, 2, E])
@pytest.mark.parametrize("normalised", [True, False], ids=["normalised", "as they are"])
@pytest.mark.parametrize("kind", [GatedMLP, MLP])
def test_it_is_the_sum_over_all_experts(active, normalised, kind, make, close):
    layer = build(active, normalised, kind, bias=True)
    x = make.randn(3, 4, D)
    p = (x @ layer.gate.weight.mT + layer.gate.bias).softmax(-1)
    r = p * (p >= p.sort(-1).values[..., -active, None])
    r = r / r.sum(-1, keepdim=True) if normalised else r
    up = torch.einsum("btd,ehd->bteh", x, stacked(layer, "up_proj")) + biases(layer, "up_proj")
    hidden = ACTIVATIONS["silu"](up)
    if kind is GatedMLP:
        first = torch.einsum("btd,ehd->bteh", x, stacked(layer, "gate_proj"))
        hidden = ACTIVATIONS["silu"](first + biases(layer, "gate_proj")) * up
    down, bias = stacked(layer, "down_proj"), biases(layer, "down_proj")
    each = r[..., None] * (torch.einsum("bteh,edh->bted", hidden, down) + bias)
    close(layer(x), each.sum(2))
    shares = layer.shares(x.flatten(0, 1))
    for n, (rows, weights) in enumerate(shares):
        assert torch.equal(rows, r.flatten(0, 1)[:, n].nonzero()[:, 0])
        close(weights, r.flatten(0, 1)[rows, n])
    for read, (rows, _) in zip(layer.reads(x.flatten(0, 1)), shares, strict=True):
        assert torch.equal(read, x.flatten(0, 1)[rows])


@pytest.mark.parametrize("normalised", [True, False], ids=["normalised", "as they are"])
def test_it_is_that_of_transformers(normalised, make, close, monkeypatch):
    layer = build(3, normalised)
    config = Qwen3MoeConfig(
        hidden_size=D,
        moe_intermediate_size=H,
        num_experts=E,
        num_experts_per_tok=3,
        norm_topk_prob=normalised,
    )
    stock = Qwen3MoeSparseMoeBlock(config).double()
    gate_up = torch.cat([stacked(layer, "gate_proj"), stacked(layer, "up_proj")], 1)
    weights = {"gate.weight": layer.gate.weight, "experts.gate_up_proj": gate_up}
    stock.load_state_dict(weights | {"experts.down_proj": stacked(layer, "down_proj")})
    monkeypatch.setattr(torch, "float", torch.float64)  # in which its router is computed
    x = make.randn(2, 7, D)
    close(layer(x), stock(x))
    logits = layer.gate(x).flatten(0, 1)
    close(layer.balance(x), load_balancing_loss_func((logits,), E, 3), tol=1e-6)


def test_gradients_reach_the_router_and_the_experts_that_ran(make):
    layer, x = build(), make.randn(3, D, grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradcheck(lambda w: _with(layer, w, x), layer.gate.weight)
    (layer(x).square().sum() + layer.balance(x)).backward()
    assert float(layer.gate.weight.grad.abs().max()) > 0
    shares = layer.shares(x)
    assert not all(len(share.rows) for share in shares)
    for expert, share in zip(layer.experts, shares, strict=True):  # zeros where none is routed
        assert bool(expert.up_proj.weight.grad.any()) == (len(share.rows) > 0)


def _with(layer, weight, x):
    return torch.func.functional_call(layer, {"gate.weight": weight}, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_its_dtype(dtype, make):
    layer, x = build().to(dtype), make.randn(4, D)
    truth = build()(x)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        written = layer(x.to(dtype))
    assert written.dtype == dtype
    assert layer(x.to(dtype)[:0]).shape == (0, D)
    off = (written - truth).abs().max().item()
    assert off < 0.1 * truth.abs().max().item()


def test_what_cannot_be_is_refused(refuses):
    for active in (0, E + 1, 1.5, True, "2"):
        refuses(ConfigError, lambda n=active: build(n), f"active must be 1 … {E}")
    for odd in (GatedMLP(D + 1, H), MLP(D + 1, H)):
        told = f"experts[1] must read and write {D}; got {D + 1}"
        refuses(ConfigError, lambda odd=odd: Experts([MLP(D, H), odd], 1), told)
    refuses(ShapeError, lambda: build().balance(torch.zeros(0, D).double()), "hold a token")
    refuses(NotExactError, lambda: build(act="linear").tensor(), f"got {E} of them")

"""Lenses: against models cut short, and against derivatives."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch.autograd.functional import hessian, jacobian

import bilens
from bilens.base.errors import ArgumentError, NotFiniteError
from bilens.circuits import (
    At,
    Lens,
    QuadraticLens,
    effects,
    expand,
    lens,
    pairs,
    quadratic_lens,
)

IDS = torch.tensor([1, 4, 2, 7])


def build(**given):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=5,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=4,
        initializer_range=0.5,
        **given,
    )
    return bilens.Transformer(config).double().eval().requires_grad_(False)


def test_a_place_says_what_the_model_cut_short_there_says(tmp_path):
    model = build(norm="layer", mlp_bias=True)
    short = deepcopy(model)
    short.model.layers = short.model.layers[:1]
    outputs, whole = short(IDS[None]).logits[0], model(IDS[None]).logits[0]
    found = lens(model, IDS, (3, 5))
    assert found.places == ("embed", "attn0", "mlp0", "attn1", "mlp1")
    for n, truth in {2: outputs, 4: whole}.items():
        assert found.says[n] == tuple(str(int(best)) for best in truth.argmax(-1))
        torch.testing.assert_close(found.probabilities[n], truth.softmax(-1).amax(-1))
        torch.testing.assert_close(found.values[n], truth[:, 3] - truth[:, 5])
        final = truth.gather(-1, whole.argmax(-1, keepdim=True))
        assert found.ranks[n].tolist() == (1 + (truth > final).sum(-1)).tolist()
    assert found.error < 1e-13
    row = found.rows()[4]
    assert (row["after"], row["position"], row["rank"]) == ("mlp1", 3, 1)
    found.save(tmp_path / "l.safetensors")
    assert Lens.load(tmp_path / "l.safetensors").rows() == found.rows()
    assert [list(line) for line in found.plot().data[0].text] == [
        list(line) for line in reversed(found.says)
    ]
    bare = lens(model, IDS)
    assert bare.values is None
    assert "value" not in bare.rows()[0]


@pytest.mark.parametrize("norm", ["none", "channel", "layer"])
@pytest.mark.parametrize(
    "given",
    [{"residual_scale": 0.5}, {"residual_scale": 0.7, "write_scale": 1.3}, {"residual_mix": True}],
    ids=lambda given: ", ".join(given),
)
def test_a_place_says_it_by_the_models_own_stream(norm, given):
    """Where parts make a x + b part(x), or blocks mix the stream with what it began as, the readout
    hears the stream that the model has there, not what of it is left at the end.
    """
    model = build(norm=norm, **given)
    for name, weight in model.named_parameters():
        if "residual_mix" in name:
            weight.copy_(torch.tensor([0.6, 0.3]))
    found = lens(model, IDS, (3, 5))
    for layers, place in ((0, "embed"), (1, "mlp0"), (2, "mlp1")):
        short = deepcopy(model)
        short.model.layers = short.model.layers[:layers]
        truth, n = short(IDS[None]).logits[0], found.places.index(place)
        torch.testing.assert_close(found.values[n], truth[:, 3] - truth[:, 5])
        torch.testing.assert_close(found.probabilities[n], truth.softmax(-1).amax(-1))


@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_shares_do_not_depend_on_the_scale(size):
    """Squares of such values are beyond float32."""
    model = build().float()
    whole = quadratic_lens(model, IDS, "mlp1", (3, 5))
    model.lm_head.weight.mul_(size)
    found = quadratic_lens(model, IDS, "mlp1", (3, 5))
    torch.testing.assert_close(found.shares, whole.shares, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("act", ["bilinear", "silu"])
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_the_quadratic_lens_is_the_layers_derivatives(act, norm, tmp_path):
    model = build(norm=norm, mlp_bias=True, **({"hidden_act": act} if act != "bilinear" else {}))
    t, block, final = 3, model.blocks[1], model.model.norm
    stream = {}
    hooks = [
        block.post_attention_layernorm.register_forward_hook(
            lambda _, x, y: stream.update(read=y[0, t])
        ),
        final.register_forward_hook(lambda _, x, y: stream.update(last=x[0][0, t])),
    ]
    model(IDS[None])
    for hook in hooks:
        hook.remove()
    scale = final.scale(stream["last"])
    mlp = block.mlp
    gate = mlp.gate_proj(stream["read"])
    held = gate.sigmoid() if act == "silu" else torch.ones_like(gate)

    def logits(read):
        written = mlp.down_proj(held * mlp.gate_proj(read) * mlp.up_proj(read))
        return (scale * final.linear(written)) @ model.lm_head.weight.mT

    truth = jacobian(logits, stream["read"])
    bent = hessian(lambda read: logits(read)[3], stream["read"])
    found = quadratic_lens(model, IDS, "mlp1", 3, k=4)
    values, vectors = found.values, found.directions
    torch.testing.assert_close(values[:4], torch.linalg.svdvals(truth)[:4])
    torch.testing.assert_close((vectors[:4] @ truth.mT).norm(dim=-1), values[:4])
    torch.testing.assert_close(vectors[4:] @ bent, values[4:, None] * vectors[4:])
    sizes = torch.linalg.eigvalsh(bent).abs().sort(descending=True).values
    torch.testing.assert_close(values[4:].abs(), sizes[:4])
    torch.testing.assert_close(found.shares[:4], values[:4].square() / truth.square().sum())
    torch.testing.assert_close(found.here, vectors @ stream["read"])
    first = found.rows()[0]
    raised = truth @ vectors[0]
    assert first["adds"].split() == [str(int(n)) for n in raised.topk(4).indices]
    embedded = block.post_attention_layernorm.linear(model.W_E) @ vectors[0]
    assert first["reads, minus"].split() == [str(int(n)) for n in (-embedded).topk(4).indices]
    found.save(tmp_path / "q.safetensors")
    assert QuadraticLens.load(tmp_path / "q.safetensors").rows() == found.rows()
    assert len(found.plot().data[0].x) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_quadratic_lens_has_no_directions_of_rounding(dtype):
    """A layer of two hidden units reads four directions at most, and moves the outputs along two;
    an output less itself does not curve.
    """
    torch.manual_seed(0)
    sizes = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 2, "num_hidden_layers": 1}
    model = bilens.Transformer(bilens.TransformerConfig(**sizes, num_attention_heads=2))
    model = model.to(dtype).eval()
    found = quadratic_lens(model, [3, 1, 4], "mlp0", 5, k=9)
    assert (len(found.values) - found.curved, found.curved) == (2, 4)
    assert found.shares[:2].sum() == pytest.approx(1, abs=1e-5)
    assert found.shares[2:].sum() == pytest.approx(1, abs=1e-5)
    same = quadratic_lens(model, [3, 1, 4], "mlp0", (5, 5), k=9)
    assert same.curved == 0
    assert len(same.rows()) == len(same.plot().data[0].x) == 2
    model.blocks[0].mlp.down_proj.weight.data.zero_()
    nothing = quadratic_lens(model, [3, 1, 4], "mlp0", 5)
    assert nothing.rows() == []
    assert nothing.plot() is not None


@pytest.mark.bad_input
def test_a_layer_that_is_not_quadratic_is_refused(refuses):
    model = build(hidden_act="silu", gated=False)
    refuses(
        ArgumentError,
        lambda: quadratic_lens(model, IDS, "mlp1"),
        "layer must be quadratic in what it reads: none here; got mlp1",
    )
    refuses(ArgumentError, lambda: quadratic_lens(build(), IDS, "L0H0"), "mlp0, mlp1; got L0H0")
    refuses(ArgumentError, lambda: quadratic_lens(build(), IDS, "mlp1", k=0), "k must be a whole")
    refuses(ArgumentError, lambda: quadratic_lens(build(), IDS, ["mlp1"]), "got ['mlp1']")
    refuses(ArgumentError, lambda: lens(build(), IDS, "x"), "")


@pytest.mark.bad_input
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_readout_that_is_not_finite_is_refused(refuses, broken):
    """What is written is finite, and not what is heard of it."""
    model = build()
    model.lm_head.weight[3, 2] = broken
    for ask in (expand, pairs, effects):
        refuses(NotFiniteError, lambda ask=ask: ask(model, IDS, (3, 5)), "the readout.target must")
    refuses(NotFiniteError, lambda: lens(model, IDS), "the readout.outputs must be finite")
    inside = At(torch.ones(6), "mlp1.input")
    ask = partial(quadratic_lens, model, IDS, "mlp0", inside)
    refuses(NotFiniteError, ask, "the readout.outputs must be finite")


@pytest.mark.parametrize("given", [{"hidden_act": "silu"}, {"qk_norm": True}, {"norm": "channel"}])
def test_of_outputs_that_tie_the_last_place_says_the_models_own(given):
    """A readout of its own sums in another order, and may make another of them the largest."""
    for seed in range(8):
        model = build(**given)
        torch.manual_seed(seed)
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.5)
            if "lm_head" in name:
                weight.copy_(weight[:1].expand_as(weight))
        with torch.no_grad():
            own = model(IDS[None]).logits[0].argmax(-1)
        found = lens(model, IDS, (3, 5))
        assert found.ranks[-1].tolist() == [1] * len(IDS)
        assert found.says[-1] == tuple(map(str, own.tolist()))
        assert "it is what the model says from" in found.summary()

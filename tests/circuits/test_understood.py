"""Parts that do something else than their weights say are refused by name; changes that leave this
true are understood.
"""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import (
    attention_scores,
    composition,
    expand,
    knockout,
    ov_circuit,
    pairs,
    qk_circuit,
    virtual,
)
from bilens.models.transformer.blocks import Block
from bilens.nn import Attention, BilinearMLP, GatedMLP, RMSNorm, Rotary

TOKENS = torch.tensor([1, 4, 2, 7])
RELU = torch.nn.functional.relu


def build(norm="rms", **given):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=4,
        norm=norm,
        initializer_range=0.5,
        **given,
    )
    return bilens.Transformer(config).double().eval().requires_grad_(False)


class TwoScores(Attention):
    """A second pair of queries and keys, whose scores are added."""

    def _project(self, x, turn, *read):
        q, k, v = super()._project(x, turn, *read)
        return q, k + 0.5 * k.flip(-1), v


class TwoScoresInForward(Attention):
    def forward(self, x, turn=None, mask=None, cache=None, patterns=False):
        written, pattern = super().forward(x, turn, mask, cache, patterns)
        return written + 0.1 * x, pattern


class Differential(Attention):
    """Two softmaxes, one less the other: the pattern is not the softmax of these scores."""

    def _look_fast(self, q, k, v, mask):
        return super()._look_fast(q, k, v, mask) - 0.3 * super()._look_fast(q.flip(-1), k, v, mask)

    def _look(self, q, k, v, mask):
        z, pattern = super()._look(q, k, v, mask)
        other, less = super()._look(q.flip(-1), k, v, mask)
        return z - 0.3 * other, pattern - 0.3 * less


class FastOnly(Attention):
    def _look_fast(self, q, k, v, mask):
        return super()._look_fast(2 * q, k, v, mask)


class Rectified(BilinearMLP):
    def forward(self, x):
        return self.down_proj(RELU(self.gate_proj(x)) * self.up_proj(x))


class OnePlus(RMSNorm):
    """Gemma's: the weight is what is added to 1."""

    def forward(self, x):
        return super().forward(x) + x * self.scale(x)


class OnePlusHalf(RMSNorm):
    """``linear`` is told, its transpose is forgotten."""

    def forward(self, x):
        return super().forward(x) + x * self.scale(x)

    def linear(self, x):
        return x * (1 + self.weight)


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter, as peft wraps one: ``weight`` is that of the base."""

    def __init__(self, base, size=0.5):
        super().__init__()
        self.base_layer = base
        self.a = nn.Parameter(size * torch.ones(1, base.in_features).double())
        self.b = nn.Parameter(torch.ones(base.out_features, 1).double())
        self.in_features, self.out_features = base.in_features, base.out_features

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + x @ self.a.T @ self.b.T


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Clipped(nn.Embedding):
    def forward(self, input):
        return super().forward(input).clamp(max=0.1)


def turned(kind):
    """A change of the second layer's module in place: another class."""

    def change(model):
        attention = model.blocks[1].self_attn
        attention.__class__ = kind

    return change


def with_module(layer, path, make):
    """A module below a block put in place of the one that is there."""

    def change(model):
        owner, _, name = path.rpartition(".")
        parent = model.blocks[layer].get_submodule(owner)
        setattr(parent, name, make(getattr(parent, name)))

    return change


def of_class(layer, path, kind):
    def change(model):
        model.blocks[layer].get_submodule(path).__class__ = kind

    return change


def hooked(layer, path, act, pre=False):
    def change(model):
        module = model.blocks[layer].get_submodule(path)
        if pre:
            module.register_forward_pre_hook(lambda _, given: (act(given[0]), *given[1:]))
        else:
            module.register_forward_hook(lambda _, given, out: act(out))

    return change


def bound(layer, path, act):
    """A forward of the object's own, as accelerate makes one."""

    def change(model):
        module = model.blocks[layer].get_submodule(path)
        whole = module.forward
        module.forward = lambda *given, **more: act(whole(*given, **more))

    return change


# What changes what a part writes, and the name it is refused by: a pass shows it, and so do weights
# alone.
WRITES = {
    "forward of attention": (turned(TwoScoresInForward), "attn1 must"),
    "the fast path alone": (turned(FastOnly), "attn1 must"),
    "a hook on attention": (
        hooked(1, "self_attn", lambda out: (1.5 * out[0], out[1])),
        "attn1 must",
    ),
    "a pre-hook on o_proj": (
        hooked(0, "self_attn.o_proj", lambda x: x.flip(-1), pre=True),
        "attn0 must",
    ),
    "a hook on v_proj": (hooked(1, "self_attn.v_proj", RELU), "attn1 must"),
    "an adapter at v_proj": (with_module(1, "self_attn.v_proj", Adapted), "attn1 must"),
    "an adapter at o_proj": (with_module(0, "self_attn.o_proj", Adapted), "attn0 must"),
    "a linear layer's forward": (of_class(1, "self_attn.o_proj", Doubled), "attn1 must"),
    "a forward bound to the object": (
        bound(1, "self_attn", lambda out: (-out[0], out[1])),
        "attn1 must",
    ),
    "forward of a layer": (of_class(1, "mlp", Rectified), "mlp1 must"),
    "a hook on a layer": (hooked(0, "mlp", RELU), "mlp0 must"),
    "a pre-hook on a layer": (hooked(1, "mlp", torch.tanh, pre=True), "mlp1 must"),
    "a hook inside a layer": (hooked(1, "mlp.gate_proj", torch.tanh), "mlp1 must"),
    "an adapter inside a layer": (with_module(0, "mlp.down_proj", Adapted), "mlp0 must"),
    "a norm's forward": (of_class(1, "input_layernorm", OnePlus), "the norm of attn1 must"),
    "a norm's transpose": (
        of_class(1, "post_attention_layernorm", OnePlusHalf),
        "the norm of mlp1 must",
    ),
    "a hook on a norm": (hooked(0, "input_layernorm", torch.tanh), "the norm of attn0 must"),
}
# What changes patterns alone: given the patterns the sum is right, but the scores are not these.
SCORES = {
    "a second pair of queries and keys": turned(TwoScores),
    "two softmaxes": turned(Differential),
    "a hook on q_proj": hooked(1, "self_attn.q_proj", torch.tanh),
    "an adapter at k_proj": with_module(1, "self_attn.k_proj", Adapted),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.bad_input
def test_a_part_that_writes_something_else_is_refused_by_name(refuses, name):
    change, who = WRITES[name]
    model = build()
    change(model)
    texts = (who, "do in its forward pass what circuits read", "a difference of ")
    refuses(ArgumentError, lambda: expand(model, TOKENS, 3), *texts)
    refuses(ArgumentError, lambda: pairs(model, TOKENS, 3), *texts)
    refuses(ArgumentError, lambda: knockout(model, TOKENS, "mlp0", 3), *texts)
    refuses(ArgumentError, lambda: composition(model), *texts)
    own = ("model.layers.1.self_attn.forward must be its class's own",)  # verify works on copies
    refuses(ArgumentError, lambda: bilens.verify(model), *(own if "bound" in name else texts))
    layer, norm = who.split()[-2][-1], "attn" in who
    expr = f"W_U L{layer}H0" if norm else f"W_U mlp{layer}(embed, embed)"
    refuses(ArgumentError, lambda: virtual(model, expr), *texts)
    if norm:
        refuses(ArgumentError, lambda: ov_circuit(model, int(layer), 1), *texts)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.bad_input
def test_scores_that_make_no_pattern_are_refused_and_patterns_are_still_taken_as_given(
    refuses, name
):
    model = build()
    SCORES[name](model)
    ex = expand(model, TOKENS, 3, max_terms=200)
    logits = model(TOKENS[None]).logits[0, -1]
    assert ex.total == pytest.approx(float(logits[3]), rel=1e-10)
    texts = (
        "the patterns of attn1 must",
        "the softmax of scores by W_Q and W_K",
        "a difference of ",
    )
    refuses(ArgumentError, lambda: attention_scores(model, TOKENS, 1, 0, 3, 1), *texts)
    refuses(ArgumentError, lambda: qk_circuit(model, 1, 0), *texts)
    refuses(ArgumentError, lambda: virtual(model, "L1H0.QK(embed, embed)"), *texts)
    refuses(ArgumentError, lambda: composition(model), *texts)
    # the other layer is what it was
    assert attention_scores(model, TOKENS, 0, 0, 3, 1).error < 1e-12


@pytest.mark.bad_input
def test_turns_that_are_no_rotations_by_the_offset_are_refused(refuses):
    class Absolute(Rotary):
        def forward(self, positions, dtype):
            cos, sin = super().forward(positions, dtype)
            return cos + positions[..., None, :, None], sin

    model = build()
    model.model.rotary_emb.__class__ = Absolute
    refuses(ArgumentError, lambda: qk_circuit(model, 0, 0), "the turns of attn0 must")
    refuses(ArgumentError, lambda: virtual(model, "L0H0.QK(x, x)"), "the turns of attn0 must")
    assert expand(model, TOKENS, 3).error < 1e-12  # given the patterns


@pytest.mark.bad_input
def test_ends_of_the_model_are_held_against_their_weights_too(refuses):
    for change, who in (
        (lambda model: setattr(model, "lm_head", Adapted(model.lm_head)), "lm_head must"),
        (
            lambda model: model.lm_head.register_forward_hook(lambda _, given, out: -out),
            "lm_head must",
        ),
        (
            lambda model: setattr(model.model.embed_tokens, "__class__", Clipped),
            "model.embed_tokens must",
        ),
    ):
        model = build()
        change(model)
        refuses(ArgumentError, lambda model=model: virtual(model, "W_U embed"), who)
        refuses(ArgumentError, lambda model=model: ov_circuit(model, 0, 0), who)
        if who == "lm_head must":
            refuses(ArgumentError, lambda model=model: expand(model, TOKENS, 3), "the model must")


class Halved(Block):
    def forward(self, x, **attend):
        out, pattern = super().forward(x, **attend)
        return 0.5 * out, pattern


@pytest.mark.bad_input
def test_a_model_put_together_in_another_way_is_refused(refuses):
    """Every part is what it says, and the blocks do not add: the sum of the parts is
    another model.
    """
    texts = ("the model must", "what its parts add up to", "a difference of ")
    for bias in (False, True):
        model = build(head_bias=bias)
        model.blocks[1].__class__ = Halved
        refuses(ArgumentError, lambda model=model: expand(model, TOKENS, 3), *texts)
        refuses(ArgumentError, lambda model=model: bilens.verify(model), *texts)


@pytest.mark.bad_input
def test_quantised_weights_are_refused(refuses):
    model = build().float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    for verb in (lambda: expand(quantised, TOKENS, 3), lambda: composition(quantised)):
        refuses(ArgumentError, verb, "must have a plain weight of a floating dtype; got a method")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = torch.ao.quantization.quantize_dynamic(
            build().float(),
            {"model.layers.0.mlp.up_proj": torch.ao.quantization.default_dynamic_qconfig},
        )
    refuses(
        ArgumentError, lambda: expand(parts, TOKENS, 3), "mlp0.up_proj must have a plain weight"
    )


def understood(name):
    model = build(attention_bias=True)
    attention, mlp = model.blocks[1].self_attn, model.blocks[0].mlp
    match name:
        case "hooks that only listen":
            for module in (attention, attention.q_proj, mlp, model.blocks[0].input_layernorm):
                module.register_forward_hook(lambda *_: None)
                module.register_forward_pre_hook(lambda *_: None)
        case "weight norm":
            parametrizations.weight_norm(attention.q_proj)
            parametrizations.weight_norm(mlp.gate_proj)
        case "a pruned weight":
            prune.l1_unstructured(mlp.up_proj, "weight", amount=0.4)
        case "an adapter that does nothing yet":
            attention.v_proj = Adapted(attention.v_proj, size=0.0)
        case "a layer of one's own with its tensor":
            mlp.__class__ = Scaled
    return model


class Scaled(GatedMLP):
    def forward(self, x):
        return 3 * super().forward(x)

    def tensor(self):
        return 3 * super().tensor()


@pytest.mark.parametrize(
    "name",
    [
        "hooks that only listen",
        "weight norm",
        "a pruned weight",
        "an adapter that does nothing yet",
        "a layer of one's own with its tensor",
    ],
)
@pytest.mark.bad_input
def test_what_leaves_weights_true_is_understood(name):
    model = understood(name)
    ex = expand(model, TOKENS, 3, max_terms=200)
    assert ex.total == pytest.approx(float(model(TOKENS[None]).logits[0, -1, 3]), rel=1e-10)
    assert attention_scores(model, TOKENS, 1, 0, 3, 1).error < 1e-12
    assert len(composition(model).rows()) > 0
    assert virtual(model, "W_U mlp0(embed, L0H1)").shape == (9, 9, 9)


def test_sums_that_cancel_are_no_difference():
    """An antisymmetric layer writes exact zeros but for rounding, in float32: nothing to refuse."""
    model = build().float()
    mlp = model.blocks[0].mlp
    half = mlp.gate_proj.weight[:2]
    mlp.gate_proj.weight[2:] = mlp.up_proj.weight[:2] = half.flip(0)
    mlp.up_proj.weight[2:] = half
    mlp.down_proj.weight[:, 2:] = -mlp.down_proj.weight[:, :2]
    written = mlp(torch.randn(5, 6))
    assert float(written.abs().max()) < 1e-5
    assert expand(model, TOKENS, 3).error < 1e-5
    assert len(composition(model).rows()) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
def test_no_dtype_is_refused_for_its_rounding(dtype, norm):
    for seed in range(3):
        torch.manual_seed(seed)
        config = bilens.TransformerConfig(
            vocab_size=9,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            norm=norm,
            initializer_range=0.3,
            qk_norm=seed == 1,
        )
        model = bilens.Transformer(config).to(dtype).eval()
        expand(model, TOKENS, 3, detail="writes")
        assert len(composition(model).rows()) > 0

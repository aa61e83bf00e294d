"""The transformer by itself: every architecture it promises, its cache, its folding, its weights by
name, its errors.
"""

import copy
import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import bilens
from bilens import Transformer, TransformerConfig
from bilens.base.errors import ArgumentError, ConfigError, ShapeError
from bilens.nn.attention import rotate

SMALL = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip


def build(seed=0, **changes):
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(**(SMALL | changes))).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def tokens(length=9, batch=2):
    return torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(1))


KINDS = [
    {
        "norm": norm,
        "positions": positions,
        "attention_bias": bias,
        "mlp_bias": bias,
        "tie_word_embeddings": tied,
    }
    for norm, positions, bias, tied in itertools.product(
        ("rms", "layer", "none"), ("rope", "learned", "none"), (False, True), (False, True)
    )
] + [
    {"intermediate_size": 0},
    {"num_attention_heads": 0, "num_key_value_heads": 0, "norm": "none", "positions": "none"},
    {"num_key_value_heads": 2, "qk_norm": True, "head_dim": 10},
    {"gated": False, "hidden_act": "gelu", "norm": "layer"},
    {"num_hidden_layers": 0},
    {"num_local_experts": 4, "hidden_act": "silu"},
    {"num_local_experts": 3, "norm_topk_prob": False, "norm": "layer", "gated": False},
]


@pytest.fixture(
    params=KINDS, ids=lambda kind: ", ".join(f"{key} {value}" for key, value in kind.items())
)
def model(request):
    return build(**request.param)


def test_folding_keeps_the_logits(model, close):
    folded, text = model.folded(), tokens()
    close(folded(text).logits, model(text).logits)
    assert folded.config.folded
    assert not model.config.folded
    norms = [
        value
        for name, value in folded.state_dict().items()
        if name.endswith("norm.weight") and "q_" not in name
    ]
    assert all(
        (value == 1).all()
        for name, value in folded.state_dict().items()
        if "layernorm" in name or name == "model.norm.weight"
    )
    assert norms or model.config.norm == "none"
    assert folded.config.norm != "layer"


def test_the_cache_changes_nothing(model):
    text = tokens()
    cached = model.generate(text, max_new_tokens=8, do_sample=False, use_cache=True)
    assert cached.shape == (2, 17)
    assert torch.equal(
        cached, model.generate(text, max_new_tokens=8, do_sample=False, use_cache=False)
    )


def test_patterns_are_what_the_fast_path_uses(model, close):
    text = tokens()
    output = model(text, output_attentions=True)
    close(output.logits, model(text).logits)
    for pattern in output.attentions:
        if pattern is not None:
            close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
            assert torch.equal(pattern, pattern.tril())


def test_save_and_load(model, tmp_path, close):
    model.save_pretrained(tmp_path)
    for loaded in (bilens.load(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        weights = loaded.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        close(loaded(tokens()).logits, model(tokens()).logits)  # other memory, other order of sums


def test_padding_does_not_leak(model, close):
    text, mask = tokens(), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    padded = model(
        text, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)
    ).logits
    close(padded[0, 3:], model(text[:1, 3:]).logits[0])
    close(padded[1], model(text[1:]).logits[0])


def test_the_loss_is_next_token_cross_entropy():
    model, text = build(), tokens()
    output = model(text, labels=text)
    log = output.logits[:, :-1].log_softmax(-1)
    torch.testing.assert_close(output.loss, -log.gather(-1, text[:, 1:, None]).mean())


def test_gradients_reach_every_weight():
    model, text = (
        build(attention_bias=True, mlp_bias=True, norm="layer", positions="learned").train(),
        tokens(),
    )
    model(text, labels=text).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kv", [1, 2, 4])
def test_weights_by_transformer_lens_names(kv, close):
    """One head by hand, row vectors: q = x W_Q + b_Q, z = A (x W_V + b_V), written z W_O + b_O."""
    model, text = build(num_key_value_heads=kv, attention_bias=True), tokens()
    output = model(text, output_attentions=True, output_hidden_states=True)
    x = model.model.layers[1].input_layernorm(output.hidden_states[1])
    turn = model.model.rotary_emb(torch.arange(9)[None], x.dtype)
    written = model.b_O[1]
    for head in range(4):
        q, k = (
            x @ W[1, head] + b[1, head] for W, b in ((model.W_Q, model.b_Q), (model.W_K, model.b_K))
        )
        scores = (
            rotate(q, turn[0][:, 0], turn[1][:, 0])
            @ rotate(k, turn[0][:, 0], turn[1][:, 0]).mT
            / 6**0.5
        )
        pattern = scores.masked_fill(
            ~torch.ones(9, 9, dtype=torch.bool).tril(), -torch.inf
        ).softmax(-1)
        close(pattern, output.attentions[1][:, head])
        written = (
            written + pattern @ (x @ model.W_V[1, head] + model.b_V[1, head]) @ model.W_O[1, head]
        )
    close(written, model.model.layers[1].self_attn(x, turn)[0])
    m = model.model.layers[0].mlp
    close((x @ model.W_gate[0] * (x @ model.W_in[0])) @ model.W_out[0], m(x))
    close(model.W_E[text], model.model.embed_tokens(text))
    close(x @ model.W_U + model.b_U, model.lm_head(x))


def test_every_mlp_is_its_tensor(close):
    model = build()
    x = torch.randn(5, 24).double()
    assert model.config.is_exact
    for block in model.model.layers:
        close(block.mlp.tensor()(x), block.mlp(x))
    assert not build(hidden_act="silu").config.is_exact
    assert build(intermediate_size=0, hidden_act="silu").config.is_exact


# What a dtype may change: rounding, and nothing else.

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10_000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=ROPES)
def halved(request, tmp_path_factory):
    """A folder of stock's in bfloat16, and stock's logits of 900 tokens from it in float64 and in
    bfloat16.
    """
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=4096, initializer_range=0.2, rope_parameters=ROPES[request.param],
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    found = {
        dtype: LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
        for dtype in (torch.float64, torch.bfloat16)
    }
    with torch.no_grad():
        return folder, *(found[dtype](long_text()).logits.double() for dtype in found)


def long_text():
    return torch.randint(0, 64, (1, 900), generator=torch.Generator().manual_seed(3))


WAYS = {
    "load, double": lambda folder, _: bilens.load(folder).double(),
    "load, half, double": lambda folder, _: bilens.load(folder).half().to(torch.float64),
    "from_llama": lambda folder, _: Transformer.from_llama(
        LlamaForCausalLM.from_pretrained(folder)
    ).double(),
    "from a cast Llama": lambda folder, _: Transformer.from_llama(
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).bfloat16()
    ).double(),
    "to_llama": lambda folder, _: bilens.load(folder).to_llama().double(),
    "saved, loaded": lambda folder, at: saved(bilens.load(folder), at) and bilens.load(at).double(),
    "saved, from_pretrained": lambda folder, at: (
        saved(bilens.load(folder), at) and Transformer.from_pretrained(at, dtype=torch.float64)
    ),
    "saved, from_pretrained in half": lambda folder, at: (
        saved(bilens.load(folder), at)
        and Transformer.from_pretrained(at, dtype=torch.bfloat16).double()
    ),
    "folded": lambda folder, _: bilens.load(folder).double().folded(),
}


def saved(model, at):
    model.save_pretrained(at)
    return True


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_through_bfloat16_and_back_a_model_is_stocks(halved, way, tmp_path, close):
    """1e-5: stock's norms work in float32 in its float64 model. Rounded frequencies would be off by
    more than 1.
    """
    folder, truth, _ = halved
    model = WAYS[way](folder, tmp_path)
    # its own cast to float64 keeps what its frequencies are
    if isinstance(model, LlamaForCausalLM):
        assert model.model.rotary_emb.inv_freq.dtype == torch.float64
    close(model(long_text()).logits, truth, tol=1e-5)


@torch.no_grad()
def test_in_bfloat16_a_model_is_as_near_the_truth_as_stock(halved):
    folder, truth, stock = halved
    off = [
        float((logits - truth).square().mean().sqrt())
        for logits in (bilens.load(folder)(long_text()).logits, stock)
    ]
    assert off[0] <= 1.1 * off[1]


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
@torch.no_grad()
def test_a_stream_past_the_square_root_of_float16(norm, dtype, tol, close):
    """A coordinate of 400: its square overflows float16. The pass and the paths are those of
    float64.
    """
    model = build(norm=norm, positions="learned")
    model.model.embed_tokens.weight[:, 0] = 400
    model = model.to(dtype)
    truth, text = copy.deepcopy(model).double(), tokens(5, 1)
    close(model(text).logits, truth(text).logits, tol=tol)
    got, wanted = (bilens.expand(each, text[0], target=5) for each in (model, truth))
    assert got.total == pytest.approx(wanted.total, rel=tol, abs=tol)
    assert float(got.terms[0].value) == pytest.approx(
        float(wanted.terms[0].value), rel=tol, abs=tol
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_dim": 3}, "TransformerConfig.hidden_dim must be a key it knows"),
        (
            {"norm": "batch"},
            "TransformerConfig.norm must be one of rms, rms_unit_offset, layer, channel, scalar",
        ),
        ({"positions": "alibi"}, "TransformerConfig.positions must be one of rope, learned, none"),
        ({"hidden_act": "swish"}, "TransformerConfig.hidden_act must be one of linear"),
        ({"hidden_size": 25}, "hidden_size must be a multiple of num_attention_heads = 4"),
        ({"vocab_size": 0}, "vocab_size must be a whole number ≥ 1"),
        (
            {"rope_parameters": {"rope_type": "proportional"}},
            "rope_type must be one of default, linear, dynamic, llama3",
        ),
    ],
)
def test_a_config_refuses_what_it_does_not_understand(refuses, changes, text):
    refuses(ConfigError, lambda: TransformerConfig(**(SMALL | changes)), text)


@pytest.mark.bad_input
def test_wrong_calls(refuses):
    model = build()
    refuses(
        ArgumentError, lambda: model(torch.tensor([[3, 40]])), "input_ids must be 0 … 39; got 40"
    )
    refuses(ArgumentError, lambda: model(torch.tensor([[-1, 4]])), "got -1")
    refuses(ShapeError, lambda: model(torch.zeros(1, 0, dtype=torch.long)), "at least one token")
    refuses(
        ShapeError,
        lambda: model(torch.zeros(3, dtype=torch.long)),
        "input_ids must be (batch, tokens)",
    )
    refuses(
        ArgumentError,
        lambda: model(tokens(33)),
        "the text must fit the context of 32 tokens; got 33",
    )
    refuses(
        ArgumentError, lambda: model.W_pos, "W_pos must be asked of a model with learned positions"
    )
    refuses(ArgumentError, lambda: model(), "either input_ids or inputs_embeds")

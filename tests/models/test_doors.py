"""Checkpoints of others through ``bilens.load``: tdooms' against a forward pass by hand, Llama's against transformers."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import bilens
from bilens import Transformer, TransformerConfig
from bilens.base.errors import ConfigError, FileError
from bilens.training import train_tokenizer

CONFIG = {
    "bias": False, "bilinear": True, "d_hidden": 20, "d_model": 12, "gate": None, "n_ctx": 16, "n_head": 3, "n_layer": 2,
    "tokenizer": "ts-4096",
}  # fmt: skip


def dooms_weights(config=CONFIG, vocab=30):
    torch.manual_seed(0)
    d, h = config["d_model"], config["d_hidden"]
    shapes = {"transformer.wte.weight": (vocab, d), "lm_head.weight": (vocab, d)}
    for layer in range(config["n_layer"]):
        at = f"transformer.h.{layer}"
        shapes |= {f"{at}.attn.qkv.weight": (3 * d, d), f"{at}.attn.o.weight": (d, d), f"{at}.mlp.p.weight": (d, h)}
        shapes |= {f"{at}.mlp.w.weight": (2 * h if config["bilinear"] else h, d), f"{at}.attn.rotary.inv_freq": (d // 6,)}
    return {name: torch.randn(shape, dtype=torch.float64) / 3 for name, shape in shapes.items()}


def dooms_forward(weights, config, text):
    """The published model, written down from its description: loops over heads and positions, one text."""
    d, heads, layers = config["d_model"], config["n_head"], config["n_layer"]
    size = d // heads

    def norm(x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-8).sqrt()

    def turn(x):  # (t, size): pairs (p, p + size/2) turn by t θ^(-2p/size)
        angle = torch.arange(len(x)).float()[:, None] * (1 / 10000 ** (torch.arange(0, size, 2).float() / size))
        cos, sin = angle.cos().double(), angle.sin().double()
        one, two = x[:, : size // 2], x[:, size // 2 :]
        return torch.cat([one * cos - two * sin, two * cos + one * sin], -1)

    x = weights["transformer.wte.weight"][text]
    for layer in range(layers):
        at = f"transformer.h.{layer}"
        q, k, v = (norm(x) @ weights[f"{at}.attn.qkv.weight"].T).split(d, -1)
        z = torch.zeros_like(x)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = turn(q[:, own]) @ turn(k[:, own]).T / math.sqrt(size)
            for t in range(len(x)):
                z[t, own] = scores[t, : t + 1].softmax(-1) @ v[: t + 1, own]
        x = x + z @ weights[f"{at}.attn.o.weight"].T / math.sqrt(2 * layers)
        left, right = (norm(x) @ weights[f"{at}.mlp.w.weight"].T).chunk(2, -1)
        left = torch.nn.functional.silu(left) if config["gate"] == "silu" else left
        x = x + (left * right) @ weights[f"{at}.mlp.p.weight"].T
    return norm(x) @ weights["lm_head.weight"].T


def write(folder, config=CONFIG, weights=None):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dooms_weights(config) if weights is None else weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("gate", [None, "silu"])
def test_a_dooms_checkpoint_has_its_logits(tmp_path, gate, close):
    config = CONFIG | {"gate": gate}
    model = bilens.load(write(tmp_path, config))
    text = torch.randint(0, 30, (9,))
    close(model(text[None]).logits[0], dooms_forward(dooms_weights(config), config, text))
    assert model.config.is_exact == (gate is None)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"normalization": False}, "normalization"),
        ({"attention2": True}, "attention2"),
        ({"bias": True}, "bias"),
        ({"gate": "tanh"}, "gate"),
        ({"softcap": 30}, "softcap"),
        ({"scale_attn": False}, "scale_attn"),
    ],
)
def test_a_dooms_config_that_is_not_understood_is_refused_by_name(tmp_path, change, key):
    with pytest.raises(ConfigError, match=f"^{key} must"):
        bilens.load(write(tmp_path, CONFIG | change, dooms_weights()))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: w.pop("transformer.h.1.mlp.p.weight"), "transformer.h.1.mlp.p.weight must be in the checkpoint"),
        (
            lambda w: w.update({"transformer.h.0.n2": torch.zeros(3)}),
            "transformer.h.0.n2 must be a weight",
        ),
        (lambda w: w.pop("transformer.wte.weight"), "transformer.wte.weight must be in the checkpoint"),
    ],
)
def test_a_dooms_checkpoint_with_other_weights_is_refused(refuses, tmp_path, change, text):
    weights = dooms_weights()
    change(weights)
    refuses(FileError, lambda: bilens.load(write(tmp_path, CONFIG, weights)), text)


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, hidden_act="linear"
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("shard", ["10GB", "10KB"])
def test_a_llama_folder(llama, tmp_path, shard):
    llama.save_pretrained(tmp_path, max_shard_size=shard)
    model, text = bilens.load(tmp_path), torch.randint(0, 300, (2, 7))
    assert isinstance(model, Transformer)
    torch.testing.assert_close(model(text).logits, llama(text).logits, rtol=1e-5, atol=1e-6)


def test_a_llama_folder_with_other_weights_is_refused(refuses, llama, tmp_path):
    llama.save_pretrained(tmp_path)
    weights = llama.state_dict()
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refuses(FileError, lambda: bilens.load(tmp_path), "model.layers.1.mlp.up_proj.weight missing")


def test_a_tokenizer_comes_along(refuses, tmp_path):
    tokenizer = train_tokenizer("topics", 300, tmp_path)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    Transformer(TransformerConfig(vocab_size=300, **small)).save_pretrained(tmp_path)
    assert bilens.load(tmp_path).tokenizer.encode("hello λ") == tokenizer.encode("hello λ")
    Transformer(TransformerConfig(vocab_size=299, **small)).save_pretrained(tmp_path)
    refuses(FileError, lambda: bilens.load(tmp_path), "tokenizer.json must know at most the model's 299 tokens; got 300")

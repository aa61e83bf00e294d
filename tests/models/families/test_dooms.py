"""tdooms' published models through ``bilens.load``, against a forward pass by hand."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

import bilens
from bilens.base.errors import ConfigError, FileError

CONFIG = {
    "bias": False, "bilinear": True, "d_hidden": 20, "d_model": 12, "gate": None, "n_ctx": 16,
    "n_head": 3, "n_layer": 2,
    "tokenizer": "ts-4096",
}  # fmt: skip


def dooms_weights(config=CONFIG, vocab=30):
    torch.manual_seed(0)
    d, h = config["d_model"], config["d_hidden"]
    shapes = {"transformer.wte.weight": (vocab, d), "lm_head.weight": (vocab, d)}
    for layer in range(config["n_layer"]):
        at = f"transformer.h.{layer}"
        shapes |= {
            f"{at}.attn.qkv.weight": (3 * d, d),
            f"{at}.attn.o.weight": (d, d),
            f"{at}.mlp.p.weight": (d, h),
        }
        shapes |= {
            f"{at}.mlp.w.weight": (2 * h if config["bilinear"] else h, d),
            f"{at}.attn.rotary.inv_freq": (d // 6,),
        }
        if config["bias"]:
            shapes |= {
                f"{at}.mlp.w.bias": (2 * h if config["bilinear"] else h,),
                f"{at}.mlp.p.bias": (d,),
            }
    return {name: torch.randn(shape, dtype=torch.float64) / 3 for name, shape in shapes.items()}


def dooms_forward(weights, config, text):
    """The published model, written down from its description: loops over heads and positions, one
    text.
    """
    d, heads, layers = config["d_model"], config["n_head"], config["n_layer"]
    size = d // heads

    def norm(x):
        if not config.get("normalization", True):
            return x
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-8).sqrt()

    def turn(x):  # (t, size): pairs (p, p + size/2) turn by t θ^(-2p/size)
        angle = torch.arange(len(x)).float()[:, None] * (
            1 / 10000 ** (torch.arange(0, size, 2).float() / size)
        )
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
        hidden = norm(x) @ weights[f"{at}.mlp.w.weight"].T + weights.get(f"{at}.mlp.w.bias", 0)
        gate = getattr(torch.nn.functional, config["gate"] or "", lambda x: x)
        left, right = hidden.chunk(2, -1) if config["bilinear"] else (hidden, 1)
        x = (
            x
            + (gate(left) * right) @ weights[f"{at}.mlp.p.weight"].T
            + weights.get(f"{at}.mlp.p.bias", 0)
        )
    return norm(x) @ weights["lm_head.weight"].T


def write(folder, config=CONFIG, weights=None):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dooms_weights(config) if weights is None else weights, folder / "model.safetensors")
    return folder


# What transformers adds to config.json when it saves a model of a class of its own.
WRITTEN = {
    "architectures": ["Transformer"], "torch_dtype": "float32", "transformers_version": "4.44.0",
    "model_type": "",
    "_name_or_path": "x", "repo": "tdooms/ts-medium", "auto_map": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        WRITTEN,
        {"gate": "silu"},
        {"bilinear": False, "gate": None},
        {"bilinear": False, "gate": "relu"},
        {"normalization": False},
        {"bias": True},
        {"bias": True, "bilinear": False, "gate": "gelu", "normalization": False},
    ],
    ids=str,
)
def test_a_dooms_checkpoint_has_its_logits(tmp_path, changes, close):
    config = CONFIG | changes
    model = bilens.load(write(tmp_path, config))
    text = torch.randint(0, 30, (9,))
    close(model(text[None]).logits[0], dooms_forward(dooms_weights(config), config, text))
    assert model.config.is_exact == (config["bilinear"] and config["gate"] is None)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"normalization": [True, False, True]}, "normalization"),
        ({"attention2": True}, "attention2"),
        ({"bias": 1}, "bias"),
        ({"gate": "tanh"}, "gate"),
        ({"gate": ["silu"]}, "gate"),
        ({"softcap": 30}, "softcap"),
        ({"scale_attn": False}, "scale_attn"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"d_model": "12"}, "d_model"),
        ({"n_ctx": None}, "n_ctx"),
        ({"n_layer": 10**6}, "n_layer"),
        ({"torch_dtype": "int8"}, "torch_dtype"),
    ],
)
def test_a_dooms_config_that_is_not_understood_is_refused_by_name(refuses, tmp_path, change, key):
    write(tmp_path, weights=dooms_weights())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | change))
    refuses(ConfigError, lambda: bilens.load(tmp_path), f"config.json: {key} must")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda w: w.pop("transformer.h.1.mlp.p.weight"),
            "transformer.h.1.mlp.p.weight must have shape (12, 20)",
        ),
        (
            lambda w: w.update({"transformer.h.0.n2": torch.zeros(3)}),
            "transformer.h.0.n2 must not be there",
        ),
        (
            lambda w: w.pop("transformer.wte.weight"),
            "transformer.wte.weight must be in the checkpoint",
        ),
    ],
)
def test_a_dooms_checkpoint_with_other_weights_is_refused(refuses, tmp_path, change, text):
    weights = dooms_weights()
    change(weights)
    refuses(FileError, lambda: bilens.load(write(tmp_path, CONFIG, weights)), text)

"""Melephant's models: a forward pass written from their description."""

import json

import pytest
import torch

import bilens
from bilens.base.errors import ConfigError, FileError

V, D, HEADS, LAYERS, CONTEXT = 13, 8, 2, 2, 16
MODEL = {
    "vocab_size": V, "n_ctx": CONTEXT, "d_model": D, "n_head": HEADS, "n_layers": LAYERS,
    "attn_scale": 0.35, "use_bias_qk": True, "attn_type": "bilinear", "norm_type": "tok0_batch",
    "norm_places": ["pre_unembed"],
}  # fmt: skip
TOKENS = torch.tensor([3, 1, 12, 3, 0, 9])


def drawn(model, energy=True):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 2

    made = {"embed.weight": draw(V, D), "unembed.weight": draw(V, D)}
    turning = ("q1", "k1", "q2", "k2") if model["attn_type"] == "bilinear" else ("q", "k")
    for n in range(LAYERS):
        made |= {f"layers.{n}.{name}.weight": draw(D, D) for name in (*turning, "v", "o")}
        if model["use_bias_qk"]:
            made |= {f"layers.{n}.{name}.bias": draw(D) for name in turning}
    if energy:
        made["final_norm.running_mean_energy"] = torch.tensor([7.5], dtype=torch.float64)
        made["final_norm.num_batches_tracked"] = torch.tensor(12)
    return made


def turned(x):
    half = x.shape[1] // 2
    frequencies = 1 / 10000 ** (torch.arange(0, 2 * half, 2).float() / (2 * half))
    angles = torch.outer(torch.arange(len(x)).float(), frequencies).double()
    one, other = x[:, :half], x[:, half:]
    c, s = angles.float().cos().double(), angles.float().sin().double()
    return torch.cat([one * c - other * s, other * c + one * s], dim=1)


def forward(weights, model, tokens):
    x, width = weights["embed.weight"][tokens], D // HEADS
    pairs = [("q1", "k1"), ("q2", "k2")] if model["attn_type"] == "bilinear" else [("q", "k")] * 2
    for n in range(LAYERS):
        z = []
        for h in range(HEADS):
            rows, pattern = slice(h * width, (h + 1) * width), 1.0
            for pair in pairs:
                made = []
                for name in pair:
                    side = x @ weights[f"layers.{n}.{name}.weight"][rows].mT
                    bias = weights.get(f"layers.{n}.{name}.bias")
                    made.append(turned(side if bias is None else side + bias[rows]))
                pattern = pattern * (made[0] @ made[1].mT) / width
            z.append(pattern.tril() @ x @ weights[f"layers.{n}.v.weight"][rows].mT)
        x = x + model["attn_scale"] * torch.cat(z, -1) @ weights[f"layers.{n}.o.weight"].mT
    energy = weights.get("final_norm.running_mean_energy")
    x = x if energy is None else x * (energy + 1e-6) ** -0.5
    return x @ weights["unembed.weight"].mT


def saved(folder, model, weights):
    """As in their data set: config.json above a folder of checkpoints."""
    (folder / "config.json").write_text(json.dumps({"model": model, "train": {"lr": 0.1}}))
    (folder / "checkpoints").mkdir(exist_ok=True)
    file = folder / "checkpoints" / "step_00100.pt"
    torch.save({"step": 100, "model_state_dict": weights}, file)
    return file


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["bilinear", "quadratic"])
@pytest.mark.bad_input  # for speed
@torch.no_grad()
def test_a_checkpoint_is_the_pass_of_its_description(kind, bias, tmp_path, close):
    about = MODEL | {"attn_type": kind, "use_bias_qk": bias}
    weights = drawn(about, energy=bias)
    model = bilens.load(saved(tmp_path, about, weights))
    truth = forward(weights, about, TOKENS)
    close(model(TOKENS[None]).logits[0], truth)
    expansion = bilens.expand(model, TOKENS, target=3)
    assert expansion.error < 1e-12
    assert not any("σ" in given for given in expansion.given)
    assert model.config.context == CONTEXT


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"attn_type": "softmax"}, ConfigError, "model.attn_type must be one of bilinear, quadrat"),
        ({"norm_places": ["pre_layer"]}, ConfigError, "model.norm_places must be ['pre_unembed']"),
        ({"qk_norm_type": "rmsnorm"}, ConfigError, "model.qk_norm_type must be 'none'"),
        ({"n_ctx": None}, ConfigError, "n_ctx must be given: no weight holds it; got nothing"),
        ({"d_model": 9}, ConfigError, "model.d_model must be 8, as the weights beside it; got 9"),
        ({"n_head": 16}, ConfigError, "n_head must divide the width 8; got 16"),
        ({"attn_scale": 0}, ConfigError, "model.attn_scale must be a finite number > 0; got 0"),
        ({"attn_type": "quadratic"}, FileError, "layers.0.q.weight must be in the checkpoint"),
    ],
)
def test_what_is_refused(changes, kind, text, tmp_path, refuses):
    about = {key: value for key, value in (MODEL | changes).items() if value is not None}
    refuses(kind, lambda: bilens.load(saved(tmp_path, about, drawn(MODEL))), text)

"""Transformers of bilinear-vpd: forward passes written from their description, and the published
run where its files are there.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import bilens
from bilens.base.errors import ConfigError, FileError
from bilens.models import Transformer

V, D, HEAD, HIDDEN, LAYERS = 13, 8, 6, 10, 2
MODEL = {
    "vocab_size": V, "seq_len": 16, "d_model": D, "d_head": HEAD, "d_mlp": HIDDEN,
    "n_layers": LAYERS, "rope_base": 10000.0, "norm_type": "channel", "init_std": 0.02,
}  # fmt: skip
NORMS = ("none", "scalar", "channel", "rmsnorm")


def drawn(norm, seed=0):
    """Weights by the publisher's names, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 3

    made = {"embed.weight": draw(V, D), "unembed.weight": draw(V, D)}
    scales = {"scalar": (), "channel": (D,)}.get(norm)
    for n in range(LAYERS):
        for name in ("q1", "q2", "k1", "k2", "v"):
            made[f"blocks.{n}.attn.{name}_proj.weight"] = draw(HEAD, D)
        made[f"blocks.{n}.attn.o_proj.weight"] = draw(D, HEAD)
        made |= {f"blocks.{n}.mlp.{name}.weight": draw(HIDDEN, D) for name in ("w_m", "w_n")}
        made[f"blocks.{n}.mlp.w_proj.weight"] = draw(D, HIDDEN)
        if scales is not None:
            made |= {
                f"blocks.{n}.{name}.scale": draw(*scales) for name in ("norm_attn", "norm_mlp")
            }
    return made | ({} if scales is None else {"final_norm.scale": draw(*scales)})


def turned(x):
    """(t, d_head): the first half turns with the second, by float32 angles."""
    half = x.shape[1] // 2
    frequencies = 1 / 10000.0 ** (torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(len(x), dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos().double(), angles.sin().double()
    one, other = x[:, :half], x[:, half:]
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=1)


def forward(weights, norm, tokens):
    def normed(name, x):
        if norm == "rmsnorm":
            return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return x * weights.get(f"{name}.scale", 1.0)

    x = weights["embed.weight"][tokens]
    for n in range(LAYERS):
        at = {
            name.removeprefix(f"blocks.{n}.").removesuffix(".weight"): value
            for name, value in weights.items()
        }
        read = normed(f"blocks.{n}.norm_attn", x)
        q1, k1, q2, k2 = (
            turned(read @ at[f"attn.{name}_proj"].mT) for name in ("q1", "k1", "q2", "k2")
        )
        pattern = ((q1 @ k1.mT) * (q2 @ k2.mT) / HEAD).tril()
        x = x + pattern @ read @ at["attn.v_proj"].mT @ at["attn.o_proj"].mT
        read = normed(f"blocks.{n}.norm_mlp", x)
        hidden = (read @ at["mlp.w_m"].mT) * (read @ at["mlp.w_n"].mT)
        x = x + hidden @ at["mlp.w_proj"].mT
    return normed("final_norm", x) @ weights["unembed.weight"].mT


def saved(folder, weights, how="state", about=None):
    """A file as training wrote it, or as a decomposition did, with a config.json beside it."""
    if about is not None:
        (folder / "config.json").write_text(json.dumps({"dgp": {}, "model": about, "train": {}}))
    if how == "safetensors":
        save_file(weights, folder / "step_500.safetensors")
        return folder / "step_500.safetensors"
    if how == "components":
        inside = {f"target_model.{name}": value for name, value in weights.items()}
        inside |= {"_components.embed.V": torch.ones(2, 3), "ci_fn._ci_fns.embed.w": torch.ones(2)}
        weights = inside
    torch.save({"model_state_dict": weights} if how == "nested" else weights, folder / "m.pt")
    return folder / "m.pt"


TOKENS = torch.tensor([1, 5, 2, 2, 12, 0, 7])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("how", ["state", "nested", "components", "safetensors"])
@pytest.mark.bad_input  # for speed
@torch.no_grad()
def test_any_of_them_is_the_pass_of_its_description(norm, how, tmp_path, close):
    weights = drawn(norm)
    model = bilens.load(saved(tmp_path, weights, how, MODEL | {"norm_type": norm}))
    assert isinstance(model, Transformer)
    truth = forward(weights, norm, TOKENS)
    close(model(TOKENS[None]).logits[0], truth)
    expansion = bilens.expand(model, TOKENS, target=3, max_terms=40)
    assert expansion.error < 1e-10
    assert any("σ" in given for given in expansion.given) is (norm == "rmsnorm")


@torch.no_grad()
def test_what_no_file_says_may_be_said(tmp_path, close, refuses):
    """Older runs say ``use_rmsnorm``; without a config.json the rest is asked for by name."""
    weights = drawn("rmsnorm")
    about = {key: value for key, value in MODEL.items() if key != "norm_type"}
    file = saved(tmp_path, weights, about=about | {"use_rmsnorm": True})
    close(bilens.load(file)(TOKENS[None]).logits[0], forward(weights, "rmsnorm", TOKENS))
    (tmp_path / "config.json").unlink()
    said = {"rope_base": 10000.0, "seq_len": 16, "norm_type": "rmsnorm"}
    close(
        bilens.load(file, config=said)(TOKENS[None]).logits[0], forward(weights, "rmsnorm", TOKENS)
    )
    for key in said:
        rest = {name: value for name, value in said.items() if name != key}
        texts = (f"{key} must be given: no weight holds it", "config=")
        refuses(ConfigError, lambda given=rest: bilens.load(file, config=given), *texts)


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def odd(weights):
    halves = ("q1_proj", "k1_proj", "q2_proj", "k2_proj", "v_proj")
    made = {n: w[:5] if any(h in n for h in halves) else w for n, w in weights.items()}
    return {n: w[:, :5] if "o_proj" in n else w for n, w in made.items()}


@pytest.mark.parametrize(
    ("about", "change", "kind", "text"),
    [
        ({"d_head": 4}, None, ConfigError, "model.d_head must be 6, as the weights beside"),
        ({"vocab_size": 12}, None, ConfigError, "model.vocab_size must be 13, as the weights"),
        ({"n_layers": 3}, None, ConfigError, "model.n_layers must be 2, as the weights beside it"),
        ({"norm_type": "layer"}, None, ConfigError, "model.norm_type must be one of none, scalar,"),
        ({"norm_type": "none"}, None, FileError, "norm_attn.scale must not be there"),
        ({"norm_type": "scalar"}, None, FileError, "norm_attn.scale must have shape ()"),
        ({"dropout": 0.1}, None, ConfigError, "model.dropout must be a key bilens understands"),
        ({"rope_base": 0}, None, ConfigError, "model.rope_base must be a finite number > 0"),
        ({}, without("blocks.1.attn.k2_proj.weight"), FileError, "k2_proj.weight must have shape"),
        ({}, without("embed.weight"), FileError, "embed.weight must be in the checkpoint"),
        ({"d_head": 5}, odd, ConfigError, "head_dim must be even for rotary positions; got 5"),
    ],
)  # fmt: skip
def test_what_is_refused(about, change, kind, text, tmp_path, refuses):
    weights = drawn("channel")
    file = saved(tmp_path, change(weights) if change else weights, about=MODEL | about)
    refuses(kind, lambda: bilens.load(file), text)


# The published run.

LOSSES = {  # nats after bigrams, skips and induction, by the publisher's code
    "final": (0.828, 0.017, 0.779), "step_500": (0.838, 1.993, 3.913),
    "step_5000": (0.827, 0.020, 3.587), "step_20000": (0.831, 0.017, 0.825),
}  # fmt: skip


@pytest.mark.bad_input  # for speed
@torch.no_grad()
def test_the_published_run(shared):
    folder = shared("two-qk")
    reference = load_file(folder / "reference.safetensors")
    seen = load_file(folder / "sequences.safetensors")
    tokens, rule = seen["tokens"].long(), seen["rule"][:, 1:]
    for file in ("model_final.pt", "final.safetensors"):
        model = bilens.load(folder / file).double()
        off = model(reference["tokens"]).logits - reference["logits"]
        assert float(off.abs().max()) < 1e-10 * float(reference["logits"].abs().max())
    for name, wanted in LOSSES.items():
        model = bilens.load(folder / f"{name}.safetensors").double()
        nats = -model(tokens).logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        found = [float(nats[rule == n].mean()) for n in (1, 2, 3)]
        assert found == pytest.approx(wanted, abs=1e-3), name

"""Elriggs's models: a forward pass written from their description, one head at a time."""

import json

import pytest
import torch
from torch.nn import functional
from transformers import DynamicCache

import bilens
from bilens.base.errors import ConfigError, FileError

V, D, HEADS, LAYERS = 17, 8, 2, 3
CONFIG = {
    "vocab_size": V, "n_layer": LAYERS, "n_head": HEADS, "n_embd": D, "squared_mlp": False,
    "bilinear": True, "expansion_factor": 4, "gated": False, "squared_attn": True,
    "bilinear_attn": True, "step": 9726,
}  # fmt: skip
KINDS = {
    "two scores, bilinear": {},
    "squared, gated": {"bilinear_attn": False, "gated": True},
    "softmax, relu2": {"squared_attn": False, "bilinear_attn": False, "bilinear": False},
    "squared, square": {"bilinear_attn": False, "bilinear": False, "squared_mlp": True},
}
TOKENS = torch.tensor([3, 1, 16, 3, 0, 9])


def drawn(config):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 2

    made = {"transformer.wte.weight": draw(V, D), "lm_head.weight": 40 * draw(V, D)}
    for n in range(LAYERS):
        at = f"transformer.h.{n}"
        second = ("c_q2", "c_k2") if config["bilinear_attn"] else ()
        for name in ("c_q", "c_k", *second, "c_v", "c_proj"):
            made[f"{at}.attn.{name}.weight"] = draw(D, D)
        made |= {f"{at}.lambdas": 1 + draw(2), f"{at}.attn.lamb": draw()}
        if config["bilinear"]:
            made |= {f"{at}.mlp.{name}.weight": draw(4 * D, D) for name in ("Left", "Right")}
            made |= {f"{at}.mlp.Down.weight": draw(D, 4 * D), f"{at}.mlp.Down_bias": draw(D)}
        else:
            made |= {f"{at}.mlp.c_fc.weight": draw(4 * D, D), f"{at}.mlp.bias": draw(D)}
            made[f"{at}.mlp.c_proj.weight"] = draw(D, 4 * D)
    return made


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()


def turned(x):
    """(t, d_head): y1 = x1 c + x2 s, y2 = −x1 s + x2 c, c and s in bfloat16."""
    half = x.shape[1] // 2
    frequencies = 1 / 10000 ** (torch.arange(0, 2 * half, 2).float() / (2 * half))
    angles = torch.outer(torch.arange(len(x)).float(), frequencies)
    c, s = angles.cos().bfloat16().double(), angles.sin().bfloat16().double()
    one, other = x[:, :half], x[:, half:]
    return torch.cat([one * c + other * s, -one * s + other * c], dim=1)


def forward(weights, config, tokens):
    x = first = rms(weights["transformer.wte.weight"][tokens])
    width, begun = D // HEADS, None
    for n in range(LAYERS):
        at = {
            name.removeprefix(f"transformer.h.{n}."): value
            for name, value in weights.items()
            if name.startswith(f"transformer.h.{n}.")
        }
        x = at["lambdas"][0] * x + at["lambdas"][1] * first
        read = rms(x)
        values = read @ at["attn.c_v.weight"].mT
        begun = values if begun is None else begun
        values = (1 - at["attn.lamb"]) * values + at["attn.lamb"] * begun
        z = []
        for h in range(HEADS):
            rows = slice(h * width, (h + 1) * width)

            def score(q, k, rows=rows, at=at, read=read):
                sides = (read @ at[f"attn.{name}.weight"][rows].mT for name in (q, k))
                query, key = (turned(rms(side)) for side in sides)
                return query @ key.mT

            scores = score("c_q", "c_k")
            if not config["squared_attn"]:
                hidden = torch.ones(len(x), len(x)).triu(1).bool()
                pattern = (scores / width**0.5).masked_fill(hidden, -torch.inf).softmax(-1)
            elif config["bilinear_attn"]:
                pattern = (scores / width * score("c_q2", "c_k2") / width).tril()
            else:
                pattern = (scores / width).square().tril()
                pattern = pattern / pattern.sum(-1, keepdim=True)
            z.append(pattern @ values[:, rows])
        x = x + torch.cat(z, -1) @ at["attn.c_proj.weight"].mT
        read = rms(x)
        if config["bilinear"]:
            left, right = (read @ at[f"mlp.{name}.weight"].mT for name in ("Left", "Right"))
            left = functional.silu(left) if config["gated"] else left
            x = x + (left * right) @ at["mlp.Down.weight"].mT + at["mlp.Down_bias"]
        else:
            up = read @ at["mlp.c_fc.weight"].mT
            up = up.square() if config["squared_mlp"] else functional.relu(up).square()
            x = x + up @ at["mlp.c_proj.weight"].mT + at["mlp.bias"]
    return 30 * torch.tanh(rms(x) @ weights["lm_head.weight"].mT / 30)


def saved(folder, config, weights):
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_kind_is_the_pass_of_its_description(kind, tmp_path, close):
    config = CONFIG | KINDS[kind]
    weights = drawn(config)
    model = bilens.load(saved(tmp_path, config, weights))
    truth = forward(weights, config, TOKENS)
    assert float(truth.abs().max()) > 10  # the cap is felt
    close(model(TOKENS[None]).logits[0], truth)
    cache = DynamicCache()
    model(TOKENS[None, :4], cache=cache)
    close(model(TOKENS[None, 4:], cache=cache).logits[0], truth[4:])
    model.save_pretrained(tmp_path / "again")
    close(bilens.load(tmp_path / "again")(TOKENS[None]).logits[0], truth)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.bad_input  # for speed
@torch.no_grad()
def test_paths_add_up_to_the_pass_of_its_description(kind, tmp_path):
    config = CONFIG | KINDS[kind]
    weights = drawn(config)
    model = bilens.load(saved(tmp_path, config, weights))
    truth = float(forward(weights, config, TOKENS)[-1, 4])
    ex = bilens.expand(model, TOKENS, 4, max_terms=300)
    assert abs(ex.total - truth) < 1e-10 * max(abs(term.value) for term in ex.terms)
    patterns = [name for name in ex.given if name.startswith("A ")]
    assert bool(patterns) != config["squared_attn"]
    found = bilens.circuits.knockout(model, TOKENS, ["L1H0", "L1H0.first"], 4, with_="zero")
    weights["transformer.h.1.attn.c_proj.weight"][:, : D // HEADS] = 0
    assert found.after == pytest.approx(float(forward(weights, config, TOKENS)[-1, 4]), rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"squared_attn": False}, ConfigError, "bilinear_attn must be False"),
        ({"n_head": 3}, ConfigError, "n_head must divide the width 8; got 3"),
        ({"n_embd": 7}, ConfigError, "n_embd must be 8, as the weights beside it; got 7"),
        ({"n_layer": 2}, ConfigError, "n_layer must be 3, as the weights beside it; got 2"),
        ({"expansion_factor": 2}, ConfigError, "expansion_factor must be 4, as the weights"),
        ({"dropout": 0.0}, ConfigError, "dropout must be a key bilens understands"),
        ({"bilinear_attn": False}, FileError, "attn.c_k2.weight must not be there"),
        ({"bilinear": False}, FileError, "mlp.c_fc.weight must be in the checkpoint, a matrix"),
    ],
)
def test_what_is_refused(changes, kind, text, tmp_path, refuses):
    folder = saved(tmp_path, CONFIG | changes, drawn(CONFIG))
    refuses(kind, lambda: bilens.load(folder), text)

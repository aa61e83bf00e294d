"""Models of tensor_language and of tensor-similarity, whose files hold weights alone: forward
passes written from their descriptions.
"""

import pytest
import torch
from torch.nn import functional

import bilens
from bilens.base.errors import ConfigError, FileError

V, LAYERS = 13, 2
TOKENS = torch.tensor([3, 1, 12, 3, 0, 9])
NORMS = ("none", "static-rms", "rmsnorm", "layernorm")


def maker():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 4

    return draw


def turned(x):
    half = x.shape[1] // 2
    frequencies = 1 / 10000 ** (torch.arange(0, 2 * half, 2).float() / (2 * half))
    angles = torch.outer(torch.arange(len(x)).float(), frequencies)
    one, other = x[:, :half], x[:, half:]
    c, s = angles.cos().double(), angles.sin().double()
    return torch.cat([one * c - other * s, other * c + one * s], dim=1)


def attended(sides, values, width):
    """z of every head, from q1, k1, q2, k2 and values (t, heads · width), not yet turned."""
    z = []
    for at in range(0, values.shape[1], width):
        q1, k1, q2, k2 = (turned(side[:, at : at + width]) for side in sides)
        z.append(((q1 @ k1.mT) * (q2 @ k2.mT) / width**2).tril() @ values[:, at : at + width])
    return torch.cat(z, -1)


# tensor_language.


def norm_weights(draw, at, kind, d):
    if kind == "none":
        return {}
    made = {f"{at}.weight": 1 + draw(d)}
    if kind == "static-rms":
        made[f"{at}.running_rms"] = torch.tensor([1.7], dtype=torch.float64)
    return made | ({f"{at}.bias": draw(d)} if kind == "layernorm" else {})


def normed(weights, at, x, kind):
    if kind == "none":
        return x
    weight = weights[f"{at}.weight"]
    if kind == "static-rms":
        return x / (weights[f"{at}.running_rms"] + 1e-5) * weight
    if kind == "rmsnorm":
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight
    return functional.layer_norm(x, x.shape[-1:], weight, weights[f"{at}.bias"], 1e-5)


def sweep(before, last, mlp=True, scaled=True, d=64):
    draw = maker()
    made = {"embed.weight": draw(V, d), "unembed.weight": draw(V, d)}
    made |= norm_weights(draw, "final_norm", last, d)
    for n in range(LAYERS):
        at = f"attn_layers.{n}"
        made |= {f"{at}.{name}.weight": draw(d, d) for name in ("q1", "k1", "q2", "k2", "v", "o")}
        for name in ("bn_q1", "bn_k1", "bn_q2", "bn_k2"):
            made |= {f"{at}.{name}.weight": 1 + draw(d), f"{at}.{name}.bias": draw(d)}
            made |= {f"{at}.{name}.running_mean": draw(d)}
            made |= {f"{at}.{name}.running_var": 1 + draw(d).square()}
            made |= {f"{at}.{name}.num_batches_tracked": torch.tensor(5)}
        made |= norm_weights(draw, f"{at}.prenorm", before, d)
        if mlp:
            to = f"mlp_layers.{n}"
            made |= {f"{to}.L.weight": draw(2 * d, d), f"{to}.R.weight": draw(2 * d, d)}
            made |= {f"{to}.D.weight": draw(d, 2 * d)} | norm_weights(
                draw, f"{to}.prenorm", before, d
            )
        if scaled:
            made |= {f"{part}_layers.{n}.scale": draw() for part in ("attn", "mlp")[: 1 + mlp]}
    return made


def sweep_forward(weights, before, last, tokens):
    x = weights["embed.weight"][tokens]
    for n in range(LAYERS):
        at = f"attn_layers.{n}"
        read, sides = normed(weights, f"{at}.prenorm", x, before), []
        for name in ("q1", "k1", "q2", "k2"):
            bn = {key: weights[f"{at}.bn_{name}.{key}"] for key in ("running_mean", "running_var")}
            gain, bias = weights[f"{at}.bn_{name}.weight"], weights[f"{at}.bn_{name}.bias"]
            made = read @ weights[f"{at}.{name}.weight"].mT
            sides.append(functional.batch_norm(made, **bn, weight=gain, bias=bias))
        z = attended(sides, read @ weights[f"{at}.v.weight"].mT, 32)
        x = x + weights.get(f"{at}.scale", 1.0) * z @ weights[f"{at}.o.weight"].mT
        to = f"mlp_layers.{n}"
        if f"{to}.D.weight" in weights:
            read = normed(weights, f"{to}.prenorm", x, before)
            hidden = (read @ weights[f"{to}.L.weight"].mT) * (read @ weights[f"{to}.R.weight"].mT)
            x = x + weights.get(f"{to}.scale", 1.0) * hidden @ weights[f"{to}.D.weight"].mT
    return normed(weights, "final_norm", x, last) @ weights["unembed.weight"].mT


SWEEPS = [(before, last) for before in NORMS for last in NORMS if "none" in (before, last)]


@pytest.mark.parametrize(("before", "last"), [*SWEEPS, ("static-rms", "layernorm")])
@torch.no_grad()
def test_a_sweep_is_the_pass_of_its_description(before, last, tmp_path, close):
    plain = last == "rmsnorm"
    weights = sweep(before, last, mlp=not plain, scaled=not plain)
    torch.save(weights, tmp_path / "xf2_d64.pt")
    model = bilens.load(tmp_path / "xf2_d64.pt", config={"n_ctx": 16})
    truth = sweep_forward(weights, before, last, TOKENS)
    close(model(TOKENS[None]).logits[0], truth)
    close(model.folded()(TOKENS[None]).logits[0], truth)


# tensor-similarity.


def lerped(bias, d=8, hidden=12):
    draw = maker()
    made = {"embed.weight": 4 * draw(d, V), "head.weight": draw(V, d)}
    for n in range(LAYERS):
        for name in ("q1", "k1", "q2", "k2"):
            made[f"body.{n}.attn.{name}.weight"] = 3 * draw(d, d)
            made |= {f"body.{n}.attn.{name}.bias": draw(d)} if bias else {}
        made |= {f"body.{n}.attn.{name}.weight": draw(d, d) for name in "vo"}
        made |= {f"body.{n}.mlp.{name}.weight": 3 * draw(hidden, d) for name in "lr"}
        made[f"body.{n}.mlp.d.weight"] = draw(d, hidden)
        made |= {f"body.{n}.mlp.d.bias": draw(d)} if bias else {}
    return made


def lerped_forward(weights, s, tokens, heads=2):
    x = weights["embed.weight"].mT[tokens]
    for n in range(LAYERS):
        at = {name.removeprefix(f"body.{n}."): value for name, value in weights.items()}
        sides = [
            x @ at[f"attn.{name}.weight"].mT + at.get(f"attn.{name}.bias", 0.0)
            for name in ("q1", "k1", "q2", "k2")
        ]
        z = attended(sides, x @ at["attn.v.weight"].mT, x.shape[1] // heads)
        x = torch.lerp(x, z @ at["attn.o.weight"].mT, s)
        hidden = (x @ at["mlp.l.weight"].mT) * (x @ at["mlp.r.weight"].mT)
        x = x * (1 - s) + (hidden @ at["mlp.d.weight"].mT + at.get("mlp.d.bias", 0.0)) * s
    return x @ weights["head.weight"].mT


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_lerp_is_the_pass_of_its_description(bias, tmp_path, close):
    weights = lerped(bias)
    torch.save(weights, tmp_path / "lm.pt")
    said = {"n_head": 2, "n_ctx": 16, "scale": 0.3}
    model = bilens.load(tmp_path / "lm.pt", config=said)
    truth = lerped_forward(weights, 0.3, TOKENS)
    close(model(TOKENS[None]).logits[0], truth)
    close(bilens.circuits.record(model, TOKENS).outputs(-1), truth[-1])


REFUSED = [
    (lambda: sweep("none", "none"), {}, ConfigError, "n_ctx must be given: no weight holds it"),
    (lambda: sweep("none", "none"), {"n_ctx": 16, "heads": 2}, ConfigError, "heads must be a key"),
    (
        lambda: {k: v for k, v in sweep("none", "none").items() if "0.bn_k2.running_var" not in k},
        {"n_ctx": 16}, FileError, "attn_layers.0.bn_k2.bias must not be there",
    ),
    (lambda: lerped(True), {"n_head": 2, "n_ctx": 16}, ConfigError, "scale must be given"),
    (
        lambda: lerped(True), {"n_head": 2, "n_ctx": 16, "scale": 1.0}, ConfigError,
        "scale must be below 1: at 1 nothing of the stream is kept",
    ),
    (
        lambda: lerped(False), {"n_head": 3, "n_ctx": 16, "scale": 0.5}, ConfigError,
        "n_head must divide the width 8; got 3",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("weights", "said", "kind", "text"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(weights, said, kind, text, tmp_path, refuses):
    torch.save(weights(), tmp_path / "a.pt")
    refuses(kind, lambda: bilens.load(tmp_path / "a.pt", config=said), text)

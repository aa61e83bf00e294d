"""Weights that others saved, under their names and conventions: forward passes written by hand,
from their descriptions, as the truth.
"""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import linear

import bilens
from bilens import TransformerConfig
from bilens.base.errors import ArgumentError, ConfigError, FileError
from bilens.models import Conventions, Weight, from_state_dict

V, D, HEADS, HIDDEN, LAYERS = 11, 8, 2, 6, 2
SIZES = {
    "vocab_size": V, "hidden_size": D, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "max_position_embeddings": 16,
}  # fmt: skip
PART = "model.layers.{layer}"
QKV = [f"{PART}.self_attn.{name}_proj" for name in "qkv"]
NAMES = {
    "embed": "model.embed_tokens",
    "blocks.{layer}.qkv": QKV,
    "blocks.{layer}.out": f"{PART}.self_attn.o_proj",
    "blocks.{layer}.w": [f"{PART}.mlp.gate_proj", f"{PART}.mlp.up_proj"],
    "blocks.{layer}.p": f"{PART}.mlp.down_proj",
    "unembed": "lm_head",
}
SCALES = {
    "blocks.{layer}.norm_attn.scale": f"{PART}.input_layernorm",
    "blocks.{layer}.norm_mlp.scale": f"{PART}.post_attention_layernorm",
    "final.scale": "model.norm",
}


def drawn(scales=False, bias=False):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 2

    made = {"embed.weight": draw(V, D), "unembed.weight": draw(V, D)}
    for n in range(LAYERS):
        shapes = {"qkv": (3 * D, D), "out": (D, D), "w": (2 * HIDDEN, D), "p": (D, HIDDEN)}
        made |= {f"blocks.{n}.{name}.weight": draw(*shape) for name, shape in shapes.items()}
        if bias:
            made |= {f"blocks.{n}.{name}.bias": draw(shape[0]) for name, shape in shapes.items()}
        if scales:
            made |= {f"blocks.{n}.norm_{part}.scale": draw(D) for part in ("attn", "mlp")}
    return made | ({"final.scale": draw(D)} if scales else {})


def turned(x, rope):
    """RoPE of (head, t, d) as each convention says, one pair of numbers at a time."""
    _, length, width = x.shape
    out = torch.empty_like(x)
    for t in range(length):
        for p in range(width // 2):
            a, b = (2 * p, 2 * p + 1) if rope.startswith("pairs") else (p, p + width // 2)
            angle = torch.tensor(t * 10000.0 ** (-2 * p / width))
            c, s = torch.cos(angle).double(), torch.sin(angle).double()
            s = -s if rope.endswith("reversed") else s
            out[:, t, a] = x[:, t, a] * c - x[:, t, b] * s
            out[:, t, b] = x[:, t, b] * c + x[:, t, a] * s
    return out


def forward(w, ids, rope="halves", scale=None, write=1.0, lerp=None, norm=lambda x: x):
    """The logits, by hand."""

    def put(x, y):
        return (1 - lerp) * x + lerp * write * y if lerp is not None else x + write * y

    def read(x, name):
        return norm(x) * w.get(f"{name}.scale", torch.ones(D).double())

    x, dh = w["embed.weight"][ids], D // HEADS
    for n in range(LAYERS):
        at = f"blocks.{n}"
        qkv = linear(read(x, f"{at}.norm_attn"), w[f"{at}.qkv.weight"], w.get(f"{at}.qkv.bias"))
        q, k, v = (part.unflatten(-1, (HEADS, dh)).transpose(0, 1) for part in qkv.chunk(3, -1))
        q, k = turned(q, rope), turned(k, rope)
        scores = q @ k.mT * (dh**-0.5 if scale is None else scale)
        scores = scores.masked_fill(~torch.ones(len(ids), len(ids)).bool().tril(), -torch.inf)
        z = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = put(x, linear(z, w[f"{at}.out.weight"], w.get(f"{at}.out.bias")))
        hidden = linear(read(x, f"{at}.norm_mlp"), w[f"{at}.w.weight"], w.get(f"{at}.w.bias"))
        left, right = hidden.chunk(2, -1)
        x = put(x, linear(left * right, w[f"{at}.p.weight"], w.get(f"{at}.p.bias")))
    return read(x, "final") @ w["unembed.weight"].T


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


IDS = torch.tensor([3, 1, 4, 1, 5, 9])
CASES = {
    **{rope: {"rope": rope} for rope in ("halves", "halves reversed", "pairs", "pairs reversed")},
    "scores": {"scale": 1 / 16},
    "writes": {"write": 0.35},
    "lerp": {"lerp": 0.25, "norm": "none", "bias": True},
    "scales": {"scales": True, "norm": "none", "rope": "pairs reversed"},
    "all": {"scales": True, "norm": "none", "lerp": 0.5, "write": 0.7, "rope": "pairs",
            "bias": True},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_conventions_are_folded_exactly(case, close, tmp_path):
    asked = {"scales": False, "bias": False, "norm": "rms", **CASES[case]}
    scales, bias, norm = (asked.pop(key) for key in ("scales", "bias", "norm"))
    weights = drawn(scales, bias)
    truth = forward(weights, IDS, norm=rms if norm == "rms" else lambda x: x, **asked)
    config = TransformerConfig(
        **SIZES, norm=norm, rms_norm_eps=1e-6, attention_bias=bias, mlp_bias=bias
    )
    said = Conventions(
        rope=asked.get("rope", "halves"), score_scale=asked.get("scale"),
        write_scale=asked.get("write", 1.0), lerp=asked.get("lerp"),
        channel_scales=SCALES if scales else {}, bare_norms=norm == "rms",
    )  # fmt: skip
    model = from_state_dict(weights, config, NAMES, said)
    close(model(IDS[None]).logits[0], truth, tol=1e-7 if norm == "rms" else 1e-9)
    assert bool(model.config.folds) == (case not in ("halves", "scores"))
    found = bilens.expand(model, IDS, target=(2, 3))
    assert found.total == pytest.approx(float(truth[-1, 2] - truth[-1, 3]), abs=1e-6)
    model.save_pretrained(tmp_path)
    again = bilens.load(tmp_path)
    assert again.config.folds == model.config.folds
    close(again(IDS[None]).logits, model(IDS[None]).logits, tol=1e-12)


def test_matrices_the_other_way_and_heads_fused_one_by_one(close):
    weights, config = drawn(), TransformerConfig(**SIZES, norm="none")
    truth = from_state_dict(weights, config, NAMES)(IDS[None]).logits
    across = {
        name: value.T if "blocks" in name or "unembed" in name else value
        for name, value in weights.items()
    }
    said = Conventions(transposed=True)
    close(from_state_dict(across, config, NAMES, said)(IDS[None]).logits, truth, tol=1e-14)
    plain = from_state_dict(weights, config, NAMES)  # under the names here too, square ones as well
    linears = {name for name, one in plain.named_modules() if isinstance(one, torch.nn.Linear)}
    same = {
        name: value.T if name.removesuffix(".weight") in linears else value
        for name, value in plain.state_dict().items()
    }
    close(from_state_dict(same, config, conventions=said)(IDS[None]).logits, truth, tol=1e-14)
    for n in range(LAYERS):
        fused = weights[f"blocks.{n}.qkv.weight"].unflatten(0, (3, HEADS, -1)).transpose(0, 1)
        weights[f"blocks.{n}.qkv.weight"] = fused.flatten(0, 2)
    rest = [
        Weight(theirs, (ours,) if isinstance(ours, str) else tuple(ours))
        for theirs, ours in NAMES.items()
        if "qkv" not in theirs
    ]
    named = [Weight("blocks.{layer}.qkv", tuple(QKV), blocks=HEADS), *rest]
    close(from_state_dict(weights, config, named)(IDS[None]).logits, truth, tol=1e-14)


@pytest.mark.parametrize(
    ("change", "said", "kind", "says"),
    [
        ("more", {}, ConfigError, "weights: extra.weight must become something here"),
        ("less", {}, ConfigError, "weights: blocks.1.p.weight must be (8, 6), for model.layers.1"),
        ("shape", {}, ConfigError, "weights: unembed.weight must be (11, 8), for lm_head"),
        ("", {"rope": "spiral"}, ArgumentError, "conventions.rope must be one of halves, halves"),
        ("", {"lerp": 1.0}, ConfigError, "conventions.lerp must be below 1"),
        ("", {"write_scale": 0}, ArgumentError, "conventions.write_scale must be above 0"),
        ("", {"channel_scales": {"gone": "model.norm"}}, ConfigError, "channel_scales: gone must"),
        ("norm", {"lerp": 0.5}, ConfigError, "conventions.lerp must be below 1, and of a model"),
        ("norm", {"channel_scales": SCALES}, ConfigError, 'must be in place of norms: norm="none"'),
        ("post", {"write_scale": 3.0}, ConfigError, "write_scale must be 1 where norms over what"),
        ("nan", {}, bilens.base.errors.NotFiniteError, "lm_head.weight"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(change, said, kind, says, refuses):
    weights = drawn()
    if change == "more":
        weights["extra.weight"] = torch.ones(2)
    if change == "less":
        del weights["blocks.1.p.weight"]
    if change in ("shape", "nan"):
        weights["unembed.weight"] = weights["unembed.weight"][:, : 7 + (change == "nan")].clone()
        weights["unembed.weight"][0, 0] = math.nan
    placed = {"norm_placement": "both"} if change == "post" else {}
    config = TransformerConfig(
        **SIZES, norm="rms" if change in ("norm", "post") else "none", **placed
    )
    refuses(kind, lambda: from_state_dict(weights, config, NAMES, Conventions(**said)), says)


# Files of image classifiers, without a configuration.


def image(bias):
    torch.manual_seed(0)
    made = {"embed.weight": torch.randn(6, 784) / 28, "head.weight": torch.randn(10, 6)}
    for n in range(2):
        made[f"blocks.{n}.weight"] = torch.randn(12, 6)
        made |= {f"blocks.{n}.bias": torch.randn(12)} if bias else {}
    return made


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_image_classifiers_of_tdooms(bias, residual, tmp_path, close):
    weights, pixels = image(bias), torch.rand(3, 28, 28)
    torch.save(weights, tmp_path / "mnist.pt")
    model = bilens.load(tmp_path / "mnist.pt", config={"residual": True} if residual else None)
    x = pixels.flatten(1) @ weights["embed.weight"].T
    for n in range(2):
        sides = linear(x, weights[f"blocks.{n}.weight"], weights.get(f"blocks.{n}.bias"))
        left, right = sides.chunk(2, -1)
        x = x * residual + left * right
    close(model(pixels).logits, x @ weights["head.weight"].T, tol=1e-6)
    if bias and residual:
        assert bilens.verify(model).passed


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.2])
@torch.no_grad()
def test_classifiers_of_tensor_similarity(scale, bias, tmp_path, close, refuses):
    torch.manual_seed(1)
    weights = {"embed.weight": torch.randn(5, 20) / 4, "head.weight": torch.randn(3, 5)}
    for n in range(3):
        for name, shape in {"l": (7, 5), "r": (7, 5), "d": (5, 7)}.items():
            weights[f"body.{n}.{name}.weight"] = torch.randn(shape) / 2
        weights |= {f"body.{n}.d.bias": torch.randn(5)} if bias else {}
    file = tmp_path / "final.safetensors"
    save_file(weights, file)
    model, pixels = bilens.load(file, config={"scale": scale}), torch.rand(4, 20)
    x = pixels @ weights["embed.weight"].T
    for n in range(3):
        left, right = (x @ weights[f"body.{n}.{side}.weight"].T for side in "lr")
        made = linear(left * right, weights[f"body.{n}.d.weight"], weights.get(f"body.{n}.d.bias"))
        x = (1 - scale) * x + scale * made
    truth = x @ weights["head.weight"].T
    close(model(pixels).logits, truth, tol=1e-5)
    assert model.config.lerp == scale
    found = bilens.expand(model, pixels[0], target=1, max_terms=200)
    assert found.total == pytest.approx(float(truth[0, 1]), rel=1e-4)
    says = 'scale must be given: no file holds it; got nothing. Say config={"scale": 1.0}'
    refuses(ConfigError, lambda: bilens.load(file), says)


# Pickles.


@pytest.mark.parametrize("how", ["plain", "nested", "compiled", "legacy", "shards"])
def test_state_dicts_of_torch_are_read(how, tmp_path):
    weights = image(False)
    inside = {"compiled": {f"_orig_mod.{name}": value for name, value in weights.items()}}
    whole = {"nested": {"model_state_dict": weights, "step": 3, "config": {"residual": True}}}
    saved = whole.get(how, inside.get(how, weights))
    if how == "shards":
        names = sorted(weights)
        for n, part in enumerate((names[:2], names[2:])):
            shard = {name: weights[name] for name in part}
            torch.save(shard, tmp_path / f"pytorch_model-{n}-of-2.bin")
    else:
        torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=how != "legacy")
    torch.save({"step": 1}, tmp_path / "optimizer.pt")
    model = bilens.load(tmp_path)
    assert torch.equal(model.head.weight, weights["head.weight"])
    assert model.config.residual == (how == "nested")


class Settings:
    """What needs more than weights."""


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ({"w": torch.ones(2), "config": Settings()}, "a pickle that needs"),
        ({"step": 3}, "a.pt must hold a dictionary of weights; got a dictionary of step"),
        (b"junk", "a.pt must be an undamaged file of torch.save"),
        (b"", "a.pt must be an undamaged file of torch.save"),
        ({"w": torch.ones(2).int()}, "must hold a config.json"),
        ({"embed.weight": torch.ones(2, 3).int(), "head.weight": torch.ones(2, 2),
          "blocks.0.weight": torch.ones(4, 2)}, "a.pt: embed.weight must be of type F64"),
        ({"embed.weight": torch.ones(2, 3), "head.weight": torch.ones(2, 2),
          "blocks.0.weight": torch.ones(3, 2)}, "a.pt: blocks.0.weight must have shape (4, 2)"),
    ],
    ids=["code", "no weights", "junk", "empty", "no family", "integers", "shapes"],
)  # fmt: skip
def test_what_is_no_state_dict_is_refused(saved, says, tmp_path, refuses):
    file = tmp_path / "a.pt"
    if isinstance(saved, bytes):
        file.write_bytes(saved)
    else:
        torch.save(saved, file)
    refuses(FileError, lambda: bilens.load(file), says)


def test_a_family_is_one_of_those_there_are(tmp_path, refuses):
    torch.save(image(False), tmp_path / "a.pt")
    refuses(ArgumentError, lambda: bilens.load(tmp_path, family="bert"), "family must be one of")
    model = bilens.load(tmp_path, family="tdooms-image")
    assert model.config.input_shape == [28, 28]
    says = "scale must be given"
    refuses(ConfigError, lambda: bilens.load(tmp_path, family="tensor-similarity"), says)

"""Formats that others publish, written here by hand from their descriptions: sparse autoencoders,
bilinear autoencoders and bilinear transcoders, against forward passes written out.
"""

import json
import sys
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from bilens.base.errors import ArgumentError, ConfigError, FileError, NotFiniteError, ShapeError
from bilens.features import Dictionary, QuadraticLatents, read_transcoder

D, F = 5, 15
RUN = {
    "point": ["mlp-in", 7], "target": None, "expansion": 3, "lr": 1e-4, "in_batch": 32,
    "out_batch": 4096, "n_buffers": None, "n_batches": 256, "d_model": D, "n_ctx": 256, "k": 4,
    "val_steps": 100, "dead_thresh": 2, "normalize": None, "init_scale": 1.0,
    "bilinear_encoder": False, "encoder_bias": False, "token_lookup": False, "decoder_decay": 0.0,
    "normalize_decoder": True, "tag": None, "kwargs": {},
}  # fmt: skip


def written(path, config, tensors):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file({name: t.contiguous() for name, t in tensors.items()}, path / "model.safetensors")
    return path


def sparse(make, bilinear=False, bias=False):
    """Tensors of an autoencoder as they are published."""
    rows = F * (1 + bilinear)
    made = {
        "w_enc.weight": make.randn(rows, D),
        "w_dec.weight": make.randn(D, F),
        "b_dec": make.randn(D),
    }
    return made | ({"w_enc.bias": make.randn(rows)} if bias else {})


def kept(latents, k):
    """The k largest, negative ones as well, everything else zero."""
    limit = latents.sort(dim=-1).values[..., -k, None]
    return latents * (latents >= limit)


@pytest.mark.parametrize("bias", [False, True])
def test_a_published_autoencoder(bias, make, close, tmp_path):
    t = sparse(make, bias=bias)
    D_ = Dictionary.load(written(tmp_path, RUN | {"encoder_bias": bias, "k": 13}, t))
    x = make.randn(9, D)
    latents = (x - t["b_dec"]) @ t["w_enc.weight"].mT + t.get("w_enc.bias", 0)
    truth = kept(latents, 13)
    assert bool((truth < 0).any())
    close(D_.encode(x), truth)
    close(D_(x), truth @ t["w_dec.weight"].mT + t["b_dec"])
    assert (D_.hook, D_.architecture, D_.k) == ("layers.7.mlp.input", "signed_topk", 13)
    D_.save(tmp_path / "again")
    assert torch.equal(Dictionary.load(tmp_path / "again")(x), D_(x))


@pytest.mark.parametrize("bias", [False, True])
def test_an_autoencoder_with_a_bilinear_encoder(bias, make, close, tmp_path, refuses):
    t = sparse(make, bilinear=True, bias=bias)
    path = written(tmp_path, RUN | {"encoder_bias": bias, "bilinear_encoder": True}, t)
    made, x = QuadraticLatents.load(path), make.randn(9, D)
    both = (x - t["b_dec"]) @ t["w_enc.weight"].mT + t.get("w_enc.bias", 0)
    left, right = both[:, :F], both[:, F:]
    truth = kept(left * right, 4)
    close(made.encode(x), truth)
    close(made.decode(made.encode(x)), truth @ t["w_dec.weight"].mT + t["b_dec"])
    T = made.tensor([3, 11])
    close(T(T.read(x)), (left * right)[:, [3, 11]])
    refuses(
        ConfigError,
        lambda: Dictionary.load(path),
        "bilinear_encoder must be false for a Dictionary; got true",
        "QuadraticLatents.load",
    )


@pytest.mark.parametrize(
    ("kind", "biased", "down"),
    [("vanilla", False, None), ("mixed", False, 1), ("combined", False, None), ("biased", True, 0)],
)
def test_a_bilinear_autoencoder(kind, biased, down, make, close, tmp_path, refuses):
    width = {None: 2, 1: 1, 0: 2}[down]
    config = {"layer": 18, "d_model": D, "expansion": 3, "bottleneck": down or None, "alpha": 1.0}
    config |= {"beta": 0.0, "kind": kind, "tags": [], "kwargs": {}}
    left, right, mixed = make.randn(F, D), make.randn(F, D), make.randn(width * D, F)
    b, c = (make.randn(F), make.randn(F)) if biased else (torch.zeros(F), torch.zeros(F))
    end = ".weight" if biased else ""
    t = {f"left{end}": left, f"right{end}": right}
    t |= {"left.bias": b, "right.bias": c} if biased else {}
    t |= {"down": mixed} if kind in ("mixed", "combined") else {}
    made, x = QuadraticLatents.load(written(tmp_path, config, t)), make.randn(9, D)
    at = x / x.square().sum(1, keepdim=True).sqrt()
    truth = (at @ left.mT + b) * (at @ right.mT + c)
    close(made.encode(x), truth)
    T = made.tensor([0, 7])
    close(T(T.read(at)), truth[:, [0, 7]])
    assert max(tensor.numel() for tensor in T.factors().values()) <= 2 * (D + 1)
    assert made.hook == "layers.18.input"
    if "down" in t:
        close(made.decode(truth), truth @ mixed.mT)
        close(made.tensor()(at), truth @ mixed.mT)
    else:
        refuses(ArgumentError, made.tensor, "be asked for some latents")
        refuses(ArgumentError, lambda: made.decode(truth), "latents that are mixed")
    refuses(ArgumentError, lambda: made.tensor([F]), f"from 0 to {F - 1}; got")
    refuses(ShapeError, lambda: made.encode(make.randn(2, 4)), "be given (..., 5)")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"normalize": 3.0}, "normalize must be null; got 3.0"),
        ({"token_lookup": True}, "token_lookup must be false; got true"),
        ({"sparsity": 3}, "must have known keys only; got sparsity"),
        ({"encoder_bias": "no"}, 'encoder_bias must be true or false; got "no"'),
        ({"k": 0}, "k must be a whole number, at least 1; got 0"),
        ({"point": "mlp-in"}, 'point must be a name and a layer, ["mlp-in", 7] say'),
        ({"point": [["a"], 7]}, 'say; got [["a"], 7]'),
        ({"point": ["mlp-in", -1]}, 'say; got ["mlp-in", -1]'),
        ({"target": ["mlp-out", 7]}, "target must be null, or the point itself"),
        ({"kind": "silu"}, "kind must be one of vanilla, ordered"),
    ],
    ids=["normalize", "lookup", "unknown", "bias", "k", "point", "name", "layer", "target", "kind"],
)
@pytest.mark.bad_input
def test_configs_that_are_not_understood(change, text, make, tmp_path, refuses):
    path = written(tmp_path, RUN | change, sparse(make))
    load = QuadraticLatents.load if "kind" in change else Dictionary.load
    refuses(ConfigError, lambda: load(path), str(path / "config.json"), text)


@pytest.mark.bad_input
def test_weights_that_do_not_fit(make, tmp_path, refuses):
    whole = sparse(make)
    for change, got in (
        ({"b_dec": make.randn(4)}, "got b_dec (4,)"),
        ({"b_enc": make.randn(F)}, "b_enc (15,)"),
        ({"b_dec": make.randn(D).float()}, "be of one dtype"),
    ):
        path = written(tmp_path, RUN, whole | change)
        refuses(FileError, lambda path=path: Dictionary.load(path), got)
    path = written(tmp_path, RUN, whole | {"b_dec": make.randn(D) / 0})
    refuses(NotFiniteError, lambda: Dictionary.load(path), "b_dec must be finite")
    path = written(tmp_path, RUN, whole)
    refuses(ConfigError, lambda: QuadraticLatents.load(path), "Dictionary.load reads them")
    for load in (QuadraticLatents.load, read_transcoder):
        refuses(ArgumentError, lambda load=load: load(3), "path must be a f")
    config = {"kind": "mixed", "layer": 1, "d_model": 5, "expansion": 3}
    for change in ({"bottleneck": "2"}, {"expansion": 0}, {"layer": -1}):
        path = written(tmp_path, config | change, {})
        refuses(ConfigError, lambda path=path: QuadraticLatents.load(path), next(iter(change)))


# Bilinear transcoders


@dataclass
class Config:
    n_inputs: int = 4
    bias: bool = True


@pytest.fixture
def elsewhere(monkeypatch):
    """The class that their files name, in a module of that name, while a file is written."""
    package, module = ModuleType("utils"), ModuleType("utils.bilinear")
    made = type("Config", (Config,), {"__module__": "utils.bilinear", "__qualname__": "Config"})
    package.bilinear, module.Config = module, made
    monkeypatch.setitem(sys.modules, "utils", package)
    monkeypatch.setitem(sys.modules, "utils.bilinear", module)
    return made


@pytest.mark.parametrize("out", ["head", "down"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_bilinear_transcoder(out, bias, elsewhere, make, close, tmp_path, monkeypatch):
    names = ("left", "right", out)
    w = {n: make.randn(6, 9) if n == out else make.randn(9, 6) for n in names}
    b = {n: make.randn(len(w[n])) if bias else torch.zeros(len(w[n])).double() for n in names}
    state = {f"{n}.weight": w[n] for n in names}
    state |= {f"{n}.bias": b[n] for n in names} if bias else {}
    saved = {"model_state_dict": state, "config": elsewhere(), "mse_losses": [1.0], "layer_idx": 3}
    torch.save(saved | {"optimizer_state_dict": {"state": {0: {"m": w[out]}}}}, tmp_path / "t.pt")
    save_file(state, tmp_path / "t.safetensors")
    monkeypatch.undo()
    assert "utils.bilinear" not in sys.modules

    def forward(x):
        hidden = (x @ w["left"].mT + b["left"]) * (x @ w["right"].mT + b["right"])
        return hidden @ w[out].mT + b[out]

    x, stats = make.randn(7, 6), [(make.randn(6), make.randn(6).abs() + 1) for _ in range(2)]
    (m, s), (n, r) = stats
    for name in ("t.pt", "t.safetensors"):
        T = read_transcoder(tmp_path / name)
        close(T(T.read(x)), forward(x))
        T = read_transcoder(tmp_path / name, inputs=(m, s), outputs=(n, r))
        close(T(T.read(x)), forward((x - m) / s) * r + n)


class Other:
    pass


@pytest.mark.bad_input
def test_transcoders_that_cannot_be_read(make, tmp_path, refuses):
    good = {"left.weight": make.randn(9, 6), "right.weight": make.randn(9, 6)}
    good["head.weight"] = make.randn(6, 9)
    file = tmp_path / "t.pt"
    for state, text in (
        ({**good, "gate.weight": make.randn(9, 6)}, "got gate.weight too"),
        ({"left.weight": good["left.weight"]}, "no right.weight, no head.weight"),
        ({**good, "right.weight": make.randn(8, 6)}, "be two factors (h, d) and one (o, h)"),
        ({"model_state_dict": good, "config": Other()}, "hold weights alone; got a pickle that"),
    ):
        torch.save(state, file)
        refuses(FileError, lambda: read_transcoder(file), str(file), text)
    torch.save(good, file)
    ones = torch.ones(6)
    refuses(ShapeError, lambda: read_transcoder(file, (ones, ones[:5])), "be two of (6,)")
    for odd in (3, (1, 2), (ones,), (ones, ones, ones), "ab", torch.ones(2, 6)):
        for side in ("inputs", "outputs"):
            call = partial(read_transcoder, file, **{side: odd})
            refuses(ArgumentError, call, f"({side}=) must be two tensors, mean and deviation")
    refuses(NotFiniteError, lambda: read_transcoder(file, (ones, 0 * ones)), "inputs=")

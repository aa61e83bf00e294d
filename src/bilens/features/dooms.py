"""Sparse autoencoders as T. Dooms publishes them: config.json and model.safetensors, in a folder
``7-mlp-in-x8-k30``.

    encode(x) = the k largest of W_enc (x − b_dec) + b_enc, negative ones among them
    decode(a) = W_dec a + b_dec

config.json is ``vars(SAEConfig)``: what is about a run is kept, what would change the mathematics
and is not understood is refused by name.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from bilens.base.errors import ArgumentError, ConfigError, FileError
from bilens.base.numerics import is_whole
from bilens.base.reading import read_json_object
from bilens.base.weights import load_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PLACES = {"mlp-in": "layers.{}.mlp.input", "mlp-out": "layers.{}.mlp.output"}
SHAPE = ("point", "target", "d_model", "expansion", "k", "bilinear_encoder", "encoder_bias")
# Of a run, and of how it was trained.
RECIPE = {
    "dead_thresh", "decoder_decay", "in_batch", "init_scale", "kwargs", "lr", "n_batches",
    "n_buffers", "n_ctx", "normalize_decoder", "out_batch", "tag", "val_steps",
}  # fmt: skip
# What the published code does not do in its forward pass, or does with more than a dictionary.
ONLY: dict[str, tuple[Any, ...]] = {"normalize": (None,), "token_lookup": (False,)}


def require_path(path: object, must: str) -> None:
    """Raise ArgumentError for what is no path."""
    if not isinstance(path, str | Path):
        raise ArgumentError("path", must=must, got=repr(path))


def is_one(folder: Path) -> bool:
    """Whether the folder holds files of these names."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read(folder: Path) -> dict[str, Any]:
    """What a Dictionary is made of, by its fields' names. Errors: FileError, ConfigError."""
    config = known(folder)
    if config.get("bilinear_encoder"):
        todo = "Its latents are quadratic: features.QuadraticLatents.load reads them."
        must = "be false for a Dictionary"
        raise ConfigError(f"{folder / CONFIG}: bilinear_encoder", must=must, got="true", todo=todo)
    tensors = weights(folder, config)
    place, target = place_of(config["point"]), config.get("target")
    to = place if target is None else place_of(target)
    W_enc, b_dec = tensors["w_enc.weight"].mT.contiguous(), tensors["b_dec"]
    b_enc = tensors.get("w_enc.bias", W_enc.new_zeros(W_enc.shape[1]))
    if to != place:
        must = "be null, or the point itself: b_dec is taken off what is read"
        raise ConfigError(f"{folder / CONFIG}: target", must=must, got=json.dumps(target))
    return {
        "W_enc": W_enc,
        "W_dec": tensors["w_dec.weight"].mT.contiguous(),
        "b_enc": b_enc,
        "b_dec": b_dec,
        "architecture": "signed_topk",
        "k": config["k"],
        "hook": place,
        "centred": True,
        "meta": {"metadata": {name: config[name] for name in config if name not in SHAPE}},
    }


def place_of(point: Any) -> str:
    """A point, [name, layer], as bilens calls it where it has it."""
    name, layer = str(point[0]).replace("_", "-"), point[1]
    return PLACES.get(name, f"layers.{{}}.{name}").format(layer)


def known(folder: Path) -> dict[str, Any]:
    """config.json, once every key of it is understood."""
    file = folder / CONFIG
    config, who = read_json_object(file), str(file)
    if unknown := sorted(set(config) - set(SHAPE) - RECIPE - set(ONLY)):
        todo = "Remove from the file what does not change what the dictionary computes."
        raise ConfigError(who, must="have known keys only", got=", ".join(unknown), todo=todo)
    for name, allowed in ONLY.items():
        if name in config and not any(config[name] is value for value in allowed):
            must = f"be {' or '.join(map(json.dumps, allowed))}"
            raise ConfigError(f"{who}: {name}", must=must, got=json.dumps(config[name]))
    for name in ("bilinear_encoder", "encoder_bias"):
        if not isinstance(config.get(name, False), bool):
            got = json.dumps(config[name])
            raise ConfigError(f"{who}: {name}", must="be true or false", got=got)
    require_counts(file, config, ("d_model", "expansion", "k"))
    for name in ("point", *(("target",) if config.get("target") is not None else ())):
        point = config.get(name)
        place, layer = point if isinstance(point, list) and len(point) == 2 else ("", -1)
        if not isinstance(place, str) or not is_whole(layer) or layer < 0:
            must = 'be a name and a layer, ["mlp-in", 7] say'
            raise ConfigError(f"{who}: {name}", must=must, got=json.dumps(point))
    return config


def require_counts(
    file: Path, config: dict[str, Any], names: Iterable[str], least: int = 1
) -> None:
    """Raise ConfigError unless these are whole numbers, none less than ``least``."""
    for name in names:
        if not is_whole(config.get(name)) or config[name] < least:
            must, got = f"be a whole number, at least {least}", json.dumps(config.get(name))
            raise ConfigError(f"{file}: {name}", must=must, got=got)


def weights(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors, in the sizes that config.json says."""
    found, d = load_weights(folder / WEIGHTS), config["d_model"]
    latents = config["expansion"] * d
    rows = latents * (2 if config.get("bilinear_encoder") else 1)
    shapes = {"w_enc.weight": (rows, d), "w_dec.weight": (d, latents), "b_dec": (d,)}
    if config.get("encoder_bias"):
        shapes["w_enc.bias"] = (rows,)
    require_shapes(folder, found, shapes)
    return found


def require_shapes(
    folder: Path, found: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Raise FileError unless the weights are those, in those sizes and of one dtype."""
    got = {name: tuple(t.shape) for name, t in found.items()}
    if got != shapes:
        names = sorted(got.keys() ^ shapes.keys()) or [n for n in shapes if got[n] != shapes[n]]
        told = ", ".join(f"{name} {got.get(name, 'missing')}" for name in names)
        must = f"hold {', '.join(f'{n} {s}' for n, s in shapes.items())}, as {CONFIG} says"
        raise FileError(str(folder / WEIGHTS), must=must, got=told)
    if len(dtypes := {t.dtype for t in found.values()}) > 1:
        got_dtypes = ", ".join(sorted(map(str, dtypes)))
        raise FileError(str(folder / WEIGHTS), must="be of one dtype", got=got_dtypes)

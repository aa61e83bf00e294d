"""Latents that are products of two readings: those of bilinear autoencoders, and of autoencoders
with a bilinear encoder.

    a_f(x) = (l_f · x + b_f) (r_f · x + c_f)

Each is a third-order tensor of rank one, and all together are factors: nothing of size f × f is
made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, affine, require_factors
from bilens.base.errors import ArgumentError, ConfigError
from bilens.base.numerics import is_whole, require_finite
from bilens.base.reading import naming, read_json_object
from bilens.base.records import Record
from bilens.base.weights import load_weights
from bilens.features import dooms
from bilens.features.latents import require_features, require_kinds, require_rows, signed_topk

# Bilinear autoencoders whose latents are plain products, by the kind in config.json.
KINDS = ("vanilla", "ordered", "mixed", "combined", "biased")
KEYS = {
    "alpha", "architectures", "beta", "bottleneck", "d_model", "dtype", "expansion", "kind",
    "kwargs", "layer", "model_type", "n_batches", "n_buffers", "n_ctx", "tags", "torch_dtype",
    "transformers_version",
}  # fmt: skip


@dataclass(frozen=True, repr=False, eq=False)
class QuadraticLatents(Record):
    """f latents, each a product of two readings of ``hook``. Errors: ShapeError for factors that
    do not fit together; ArgumentError for a ``k`` that is no count of them.

    Fields:
        left, right, left_bias, right_bias: what is read; no bias: None.
        out: what the latents are mixed into: a bilinear autoencoder's bottleneck, an autoencoder's
            decoder; None where there is none.
        base: what is added to that.
        k: latents kept a row, the largest, negative ones among them; None: all.
        unit: whether x is divided by its length first, as bilinear autoencoders do: a scale that is
            given, as a norm's is.
        hook: the place that is read.
        meta: everything else of config.json.

    >>> latents = bilens.features.QuadraticLatents(torch.randn(5, 8), torch.randn(5, 8))
    >>> latents.left.shape
    torch.Size([5, 8])
    """

    left: Float[Tensor, "f d"]
    right: Float[Tensor, "f d"]
    left_bias: Float[Tensor, " f"] | None = None
    right_bias: Float[Tensor, " f"] | None = None
    out: Float[Tensor, "m f"] | None = None
    base: Float[Tensor, " m"] | None = None
    k: int | None = None
    unit: bool = False
    hook: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_factors("QuadraticLatents", left=(self.left, (None, None)))
        f, d = self.left.shape
        mixed = None if self.out is None else len(self.out)
        shapes = {"right": (f, d), "out": (mixed, f), "base": (mixed,)}
        factors = {name: (t, shapes.get(name, (f,))) for name, t in _tensors(self).items()}
        require_factors("QuadraticLatents", "", **factors | {"left": (self.left, (f, d))})
        if self.base is not None and self.out is None:
            must = "come with an out, to which it is added"
            raise ArgumentError("QuadraticLatents.base", must=must, got="none")
        if self.k is not None and not (is_whole(self.k) and 1 <= self.k <= f):
            must = f"be a whole number from 1 to {f}, or None"
            raise ArgumentError("QuadraticLatents.k", must=must, got=repr(self.k))
        kinds = {"unit": (self.unit, bool), "hook": (self.hook, str), "meta": (self.meta, dict)}
        require_kinds("QuadraticLatents", **kinds)

    @property
    def n_latents(self) -> int:
        return len(self.left)

    def encode(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b f"]:
        """The latents of x. Cost: 2 d f operations a row. Errors: ShapeError for another width,
        dtype or device than the factors'; NotFiniteError, for latents that are larger than their
        dtype holds too.
        """
        require_rows("QuadraticLatents.encode", x, self.left.shape[1], self.left)
        if self.unit:
            length = x.norm(dim=-1, keepdim=True)
            x = x / torch.where(length > 0, length, 1)
        linear = torch.nn.functional.linear
        a = linear(x, self.left, self.left_bias) * linear(x, self.right, self.right_bias)
        require_finite("QuadraticLatents.encode", latents=a)
        return a if self.k is None else signed_topk(a, self.k)

    def decode(self, a: Float[Tensor, "*b f"]) -> Float[Tensor, "*b m"]:
        """What latents are mixed into. Errors: ArgumentError where nothing mixes them; ShapeError;
        NotFiniteError.
        """
        if self.out is None:
            raise ArgumentError(
                "QuadraticLatents.decode", must="be asked of latents that are mixed", got="none"
            )
        require_rows("QuadraticLatents.decode", a, self.n_latents, self.left)
        return torch.nn.functional.linear(a, self.out, self.base)

    def tensor(self, latents: Sequence[int] | None = None) -> CP:
        """The ``latents`` as one tensor, a slice each; None: what all of them, active or not, are
        mixed into, but for the base. Over (1, x) where there are biases; of x at length one where
        ``unit``. Memory: views, and n² numbers for n latents.

        Errors: ArgumentError for a latent that is not there, and for all of them where nothing
        mixes them.
        """
        if latents is None:
            if self.out is None:
                must = "be asked for some latents: of all of them it would take f² numbers"
                raise ArgumentError("QuadraticLatents.tensor", must=must, got="all")
            return affine(self.out, self.left, self.right, None, self.left_bias, self.right_bias)
        chosen = require_features(latents, self.n_latents)
        rows = torch.as_tensor(chosen, device=self.left.device)
        eye = torch.eye(len(rows), dtype=self.left.dtype, device=self.left.device)
        biases = (None if b is None else b[rows] for b in (self.left_bias, self.right_bias))
        return affine(eye, self.left[rows], self.right[rows], None, *biases)

    @classmethod
    def load(cls, path: str | Path) -> "QuadraticLatents":
        """Read a folder of a bilinear autoencoder ({kind}-l{layer}-x{expansion}-…) or of a sparse
        autoencoder with a bilinear encoder, config.json and model.safetensors.

        Errors: FileError, ConfigError by name for a kind or a key that is not understood;
        NotFiniteError.
        """
        dooms.require_path(path, "be a folder of config.json and model.safetensors")
        folder = Path(path)
        config = read_json_object(folder / dooms.CONFIG)
        fields = _autoencoder(folder) if "kind" in config else _encoder(folder)
        with naming(folder / dooms.CONFIG):
            made = cls(**fields)
        require_finite(f"{folder / dooms.WEIGHTS}", **_tensors(made))
        return made

    def __repr__(self) -> str:
        at, width = self.hook or "?", self.left.shape[1]
        return f"<QuadraticLatents: {self.n_latents} of {at}, width {width}>"


def _tensors(latents: QuadraticLatents) -> dict[str, Tensor]:
    names = ("left", "right", "left_bias", "right_bias", "out", "base")
    return {name: t for name in names if (t := getattr(latents, name)) is not None}


def _autoencoder(folder: Path) -> dict[str, Any]:
    """The fields of a bilinear autoencoder."""
    file = folder / dooms.CONFIG
    config = read_json_object(file)
    if config["kind"] not in KINDS:
        must, got = f"be one of {', '.join(KINDS)}", repr(config["kind"])
        raise ConfigError(f"{file}: kind", must=must, got=got)
    if unknown := sorted(set(config) - KEYS):
        raise ConfigError(str(file), must="have known keys only", got=", ".join(unknown))
    wide = ("bottleneck",) if config.get("bottleneck") is not None else ()
    dooms.require_counts(file, config, ("d_model", "expansion", *wide))
    dooms.require_counts(file, config, ("layer",), least=0)
    found = load_weights(folder / dooms.WEIGHTS)
    d = config["d_model"]
    f = d * config["expansion"]
    ends = (".weight", ".bias") if "left.weight" in found else ("",)
    shapes = {
        f"{side}{end}": (f,) if end == ".bias" else (f, d)
        for side in ("left", "right")
        for end in ends
    }
    if "down" in found:
        shapes["down"] = (d * (config.get("bottleneck") or 2), f)
    dooms.require_shapes(folder, found, shapes)
    weight, bias = ends[0], "left.bias" in found
    return {
        "left": found[f"left{weight}"],
        "right": found[f"right{weight}"],
        "left_bias": found["left.bias"] if bias else None,
        "right_bias": found["right.bias"] if bias else None,
        "out": found.get("down"),
        "unit": True,
        "hook": f"layers.{config['layer']}.input",
        "meta": {name: config[name] for name in config if name not in ("d_model", "layer")},
    }


def _encoder(folder: Path) -> dict[str, Any]:
    """The fields of a sparse autoencoder with a bilinear encoder: what it takes off x goes into the
    biases.
    """
    config = dooms.known(folder)
    if not config.get("bilinear_encoder"):
        todo = "Its latents are linear: features.Dictionary.load reads them."
        raise ConfigError(
            f"{folder / dooms.CONFIG}: bilinear_encoder", must="be true", got="false", todo=todo
        )
    found = dooms.weights(folder, config)
    left, right = found["w_enc.weight"].chunk(2)
    biases = found.get("w_enc.bias", left.new_zeros(2 * len(left))).chunk(2)
    left_bias, right_bias = (
        bias - side @ found["b_dec"] for side, bias in zip((left, right), biases, strict=True)
    )
    return {
        "left": left,
        "right": right,
        "left_bias": left_bias,
        "right_bias": right_bias,
        "out": found["w_dec.weight"],
        "base": found["b_dec"],
        "k": config["k"],
        "hook": dooms.place_of(config["point"]),
        "meta": {name: config[name] for name in config if name not in dooms.SHAPE},
    }

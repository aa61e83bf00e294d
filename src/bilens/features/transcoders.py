"""Bilinear transcoders: y = H [(L x + b) ⊙ (R x + c)] + e, trained in the place of an MLP."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, affine
from bilens.base.errors import ArgumentError, FileError, ShapeError
from bilens.base.numerics import require_finite, working_dtype
from bilens.base.pickles import PICKLES, read_pickles
from bilens.base.weights import load_weights
from bilens.features.dooms import require_path

Scale = tuple[Float[Tensor, " d"], Float[Tensor, " d"]]
OUTS = ("head", "down")
# The one class beside weights in such files, by the names that it was saved under. A stand-in takes
# its place, which holds what it is given and does nothing.
CONFIGS = ("utils.bilinear.Config", "bilinear.Config", "__main__.Config")


class _Kept:
    """What was saved beside the weights."""


def read_transcoder(
    path: str | Path, inputs: Scale | None = None, outputs: Scale | None = None
) -> CP:
    """The bilinear transcoder in a file of torch or safetensors as an exact tensor: ``left``,
    ``right`` and ``head`` or ``down``, with biases or without, whatever other wrappers are around.

    ``inputs``, ``outputs``: mean and deviation by feature, where it was trained on x less its mean
    over its deviation, and to give y in that way too; they are folded in. The published
    hnn_transcoders were, each batch by its own, and their files hold neither: without these two the
    tensor is of normalised inputs and outputs.

    The tensor stands for a layer in ``expand(replacements=)``. Nothing in a pickle is run. Errors:
    FileError for a file that is damaged, needs more than weights or holds other names;
    ArgumentError for a scale that is no two tensors; ShapeError; NotFiniteError.

    >>> from tempfile import mkdtemp
    >>> from safetensors.torch import save_file
    >>> file = mkdtemp() + "/coder.safetensors"
    >>> weights = {"left.weight": torch.ones(4, 3), "right.weight": torch.ones(4, 3)}
    >>> save_file(weights | {"down.weight": torch.ones(3, 4)}, file)
    >>> bilens.features.read_transcoder(file).shape
    (3, 3, 3)
    """
    require_path(path, "be a file of weights")
    (left, b), (right, c), (head, e) = _factors(Path(path))
    if inputs is not None:
        (left, b), (right, c) = _read(left, b, inputs), _read(right, c, inputs)
    if outputs is not None:
        mean, deviation = _scale("outputs", outputs, head, len(head))
        e = mean if e is None else e * deviation + mean
        head = head * deviation[:, None]
    return affine(head, left, right, e, b, c)


def _factors(file: Path) -> list[tuple[Tensor, Tensor | None]]:
    """left, right and what mixes them, each with its bias."""
    found = _weights(file)
    out = next((name for name in OUTS if f"{name}.weight" in found), OUTS[0])
    names = [f"{name}.weight" for name in ("left", "right", out)]
    biases = [f"{name}.bias" for name in ("left", "right", out)]
    wrong = [f"no {name}" for name in names if name not in found]
    wrong += [f"{name} too" for name in sorted(found.keys() - set(names + biases))]
    if wrong:
        must = "hold left, right and head or down, their weights and biases"
        raise FileError(str(file), must=must, got=", ".join(wrong))
    left, right, head = (found[name] for name in names)
    if left.ndim != 2 or left.shape != right.shape or head.ndim != 2 or head.shape[1] != len(left):
        got = ", ".join(f"{name} {tuple(found[name].shape)}" for name in names)
        raise FileError(str(file), must="be two factors (h, d) and one (o, h)", got=got)
    require_finite(str(file), **{name.replace(".", " "): t for name, t in found.items()})
    return [(found[name], found.get(bias)) for name, bias in zip(names, biases, strict=True)]


def _weights(file: Path) -> Mapping[str, Tensor]:
    if file.suffix in PICKLES:
        with torch.serialization.safe_globals([(_Kept, name) for name in CONFIGS]):
            found = read_pickles([file]).weights
    else:
        found = load_weights(file)
    dtype = working_dtype(next(iter(found.values())).dtype) if found else torch.float32
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def _read(side: Tensor, bias: Tensor | None, inputs: Scale) -> tuple[Tensor, Tensor]:
    """A factor of (x − mean) / deviation as one of x, with its bias."""
    mean, deviation = _scale("inputs", inputs, side, side.shape[1])
    side = side / deviation
    return side, (0 if bias is None else bias) - side @ mean


def _scale(who: str, scale: Scale, like: Tensor, size: int) -> Scale:
    pair = isinstance(scale, tuple | list) and len(scale) == 2
    if not pair or not all(isinstance(one, Tensor) for one in scale):
        must = "be two tensors, mean and deviation"
        raise ArgumentError(f"read_transcoder({who}=)", must=must, got=repr(scale))
    mean, deviation = (one.to(like) for one in scale)
    if mean.shape != (size,) or deviation.shape != (size,):
        got = f"{tuple(mean.shape)} and {tuple(deviation.shape)}"
        raise ShapeError(f"read_transcoder({who}=)", must=f"be two of ({size},)", got=got)
    require_finite(f"read_transcoder({who}=)", mean=mean, inverse=1 / deviation)
    return mean, deviation

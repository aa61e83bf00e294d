"""Which latents of a dictionary are active, and what is done to an input before it is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.errors import ArgumentError, ConfigError, ShapeError
from bilens.base.numerics import (
    dtype_name,
    holds_several,
    is_number,
    is_whole,
    require_finite,
    working_dtype,
)
from bilens.base.records import Record

LONGEST = torch.finfo(torch.float64).max  # of lengths


def require_features(features: int | Sequence[int] | Int[Tensor, " n"], size: int) -> list[int]:
    """The numbers of features, of one or several. Errors: ArgumentError unless each is one of
    0 … size − 1, and there is one.
    """
    chosen: list[Any] = [features] if is_whole(features) else _listed(features)
    wrong = [f for f in chosen if not is_whole(f) or not 0 <= f < size]
    if wrong or not chosen:
        raise ArgumentError(
            "feature",
            must=f"be a whole number from 0 to {size - 1}",
            got=wrong[0] if wrong else "none",
        )
    return [int(f) for f in chosen]


def _listed(features: object) -> list[Any]:
    """Several, one by one. Errors: ArgumentError for what is none."""
    if isinstance(features, Tensor):
        return features.flatten().tolist()
    if not holds_several(features):
        raise ArgumentError("feature", must="be whole numbers, or one", got=repr(features))
    return list(features)


KINDS = {bool: "be True or False", str: "be a text", dict: "be a dict"}


def require_kinds(who: str, **fields: tuple[object, type]) -> None:
    """Raise ArgumentError unless each field, of ``who``, is of the type beside it."""
    for name, (value, kind) in fields.items():
        if not isinstance(value, kind):
            raise ArgumentError(f"{who}.{name}", must=KINDS[kind], got=repr(value))


def names_of(who: str, names: Any, size: int) -> tuple[str, ...]:
    """The names of all features, or of none. Errors: ArgumentError."""
    given = tuple(names) if holds_several(names) else None
    if given is None or not all(isinstance(name, str) for name in given):
        must = f"name all {size} features, or be empty"
        raise ArgumentError(who, must=must, got=type(names).__name__ if given is None else given)
    if given and len(given) != size:
        raise ArgumentError(who, must=f"name all {size} features", got=len(given))
    return given


def halves_raised(given: Any, dtype: torch.dtype) -> Any:
    """Half types in the working ``dtype``, in which they are exact; all else as it is."""
    half = isinstance(given, Tensor) and working_dtype(given.dtype) != given.dtype
    return given.to(dtype) if half else given


def require_rows(who: str, given: object, size: int, like: Tensor) -> None:
    """Raise ShapeError unless ``given`` is (..., size) in the dtype and on the device of ``like``;
    NotFiniteError for NaN: a row with one in it would be the largest of a batch, and empty all
    others. One pass over it.
    """
    if not isinstance(given, Tensor):
        raise ShapeError(who, must=f"be given a tensor (..., {size})", got=type(given).__name__)
    if given.ndim == 0 or given.shape[-1] != size:
        raise ShapeError(who, must=f"be given (..., {size})", got=tuple(given.shape))
    if (given.dtype, given.device) != (like.dtype, like.device):
        must = f"be given {dtype_name(like.dtype)} on {like.device} like its weights"
        got = f"{dtype_name(given.dtype)} on {given.device}"
        raise ShapeError(who, must=must, got=got, todo="Use .to(...) on either.")
    require_finite(who, x=given)


@dataclass(frozen=True)
class Pursuit(Record):
    """Where matching pursuit stops, by SAELens's names.

    Fields:
        residual_threshold: once what is left is shorter than that; 0: never for that.
        max_iterations: after so many latents; None: as many as the input is wide.
        stop_on_duplicate_support: once a latent is chosen that was active already.

    >>> bilens.features.Pursuit(max_iterations=10).residual_threshold
    0.01
    """

    residual_threshold: float | int = 1e-2
    max_iterations: int | None = None
    stop_on_duplicate_support: bool = True

    def __post_init__(self) -> None:
        steps = self.max_iterations
        if steps is not None and (not is_whole(steps) or steps < 1):
            must = "be a whole number, at least 1, or None"
            raise ConfigError("Pursuit.max_iterations", must=must, got=steps)
        threshold = self.residual_threshold
        if not is_number(threshold) or not 0 <= threshold <= LONGEST:
            must = "be a length, at least 0"
            raise ConfigError("Pursuit.residual_threshold", must=must, got=repr(threshold))
        settles = self.stop_on_duplicate_support
        if not isinstance(settles, bool):
            who = "Pursuit.stop_on_duplicate_support"
            raise ConfigError(who, must="be true or false", got=repr(settles))

    def __call__(
        self, x: Float[Tensor, "*b d"], rows: Float[Tensor, "f d"]
    ) -> Float[Tensor, "*b f"]:
        """Greedy: the row that x has most of, times how much it has of it, is taken off x, again
        and again.

        Cost: d f operations a step and row of x; memory rows of x × f.
        """
        left = x.reshape(-1, x.shape[-1])
        found, going = left.new_zeros(len(left), len(rows)), left.new_ones(len(left)) > 0
        for _ in range(self.max_iterations or x.shape[-1]):
            value, best = (left @ rows.mT).relu().max(-1)
            step, before = torch.where(going, value, 0)[:, None], found != 0
            found = found.scatter_add(1, best[:, None], step)
            left = left - step * rows[best]
            if self.stop_on_duplicate_support:
                going = going & ((found != 0) != before).any(1)
            if self.residual_threshold > 0:
                going = going & (left.norm(dim=-1) >= self.residual_threshold)
            if not bool(going.any()):
                break
        return found.reshape(*x.shape[:-1], len(rows))


def topk(pre: Float[Tensor, "*b f"], k: int) -> Float[Tensor, "*b f"]:
    """The k largest along the last axis where positive, and zeros."""
    return signed_topk(pre, k).relu()


def signed_topk(pre: Float[Tensor, "*b f"], k: int) -> Float[Tensor, "*b f"]:
    """The k largest along the last axis, negative ones among them, and zeros."""
    return _only(pre, pre.topk(k, dim=-1, sorted=False).indices)


def abs_topk(pre: Float[Tensor, "*b f"], k: int) -> Float[Tensor, "*b f"]:
    """The k largest in absolute value along the last axis, with their signs, and zeros."""
    return _only(pre, pre.abs().topk(k, dim=-1, sorted=False).indices)


def batch_topk(pre: Float[Tensor, "*b f"], k: int) -> Float[Tensor, "*b f"]:
    """The k largest a row on average, over all rows together, where positive, and zeros."""
    return topk(pre.flatten(), k * pre[..., 0].numel()).view_as(pre)


TOPK: dict[str, Callable[[Tensor, int], Tensor]] = {
    "topk": topk,
    "abstopk": abs_topk,
    "signed_topk": signed_topk,
    "batchtopk": batch_topk,
}
"""What architectures with a ``k`` keep."""


def _only(pre: Float[Tensor, "*b f"], places: Tensor) -> Float[Tensor, "*b f"]:
    return torch.zeros_like(pre).scatter(-1, places, pre.gather(-1, places))


class Normed(NamedTuple):
    """An input as a dictionary reads it, ``read``; what it decodes is then ``decoded`` · factor +
    shift.
    """

    read: Float[Tensor, "*b d"]
    factor: Float[Tensor, "*b 1"]
    shift: Float[Tensor, "*b 1"]


LAYER_NORM_EPS = 1e-5  # SAELens's, added to the standard deviation


def constant_norm(x: Float[Tensor, "*b d"]) -> Normed:
    """x at length √d; a row of zeros as it is."""
    length = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
    factor = torch.where(length > 0, length, 1)
    return Normed(x / factor, factor, torch.zeros_like(factor))


def layer_norm(x: Float[Tensor, "*b d"]) -> Normed:
    """x less its mean, over its standard deviation (of d − 1) and a little more; SAELens multiplies
    by the deviation alone on the way back.
    """
    mean = x.mean(dim=-1, keepdim=True)
    deviation = (x - mean).std(dim=-1, keepdim=True)
    return Normed((x - mean) / (deviation + LAYER_NORM_EPS), deviation, mean)


NORMS: dict[str, Callable[[Tensor], Normed]] = {
    "constant_norm_rescale": constant_norm,
    "layer_norm": layer_norm,
}
"""What depends on the input of what SAELens calls normalize_activations."""

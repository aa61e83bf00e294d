"""Normalisations of the residual stream, each N(x) = σ(x) P x + c: a scale of its own input, a
linear map, a constant.

Given the scale σ a norm is affine, and paths go through it: ``linear`` is P, ``transposed`` Pᵀ,
``shift`` c. Learned scales in its place are linear as they are: σ is 1 and nothing is given
(``normalises``). For half types σ is made and kept in float32: float16 squares overflow from 256
on, and σ itself does where x is tiny.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bilens.base.errors import ConfigError
from bilens.base.numerics import working_dtype


class RMSNorm(nn.Module):
    """N(x) = w ⊙ x · σ(x) with σ(x) = (mean x² + eps)^-½. In float32 for half types and in float64
    for float64.

    >>> norm = bilens.nn.RMSNorm(128)
    >>> torch.allclose(norm(x), norm.scale(x) * norm.linear(x), atol=1e-6)
    True
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def scale(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 1"]:
        """σ(x), in float32 or better: what paths through this norm hold fixed."""
        x = x.to(working_dtype(x.dtype))
        return (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    @property
    def gain(self) -> Float[Tensor, " d"]:
        """What each dimension is multiplied with."""
        return self.weight

    def linear(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x * self.gain

    transposed = linear
    shift = None
    centred = False  # whether it takes the mean out of what it reads
    normalises = True  # whether σ depends on what it reads


class UnitOffsetRMSNorm(RMSNorm):
    """RMSNorm whose gain is 1 + weight, as in Gemma: a weight of a half type then keeps its digits.
    All of it in float32 or better.

    >>> bilens.nn.UnitOffsetRMSNorm(8).weight.sum().item()
    0.0
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__(d_model, eps)
        nn.init.zeros_(self.weight)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        work = x.to(working_dtype(x.dtype))
        return (work * self.scale(x) * self.gain).to(x.dtype)

    @property
    def gain(self) -> Float[Tensor, " d"]:
        return 1 + self.weight.to(working_dtype(self.weight.dtype))


class LayerNorm(nn.Module):
    """N(x) = w ⊙ (x − mean x) · σ(x) + b with σ(x) = (var x + eps)^-½.

    >>> norm = bilens.nn.LayerNorm(8)
    >>> y = torch.randn(2, 8)
    >>> torch.allclose(norm(y), norm.scale(y) * norm.linear(y), atol=1e-6)
    True
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def scale(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 1"]:
        """σ(x), in float32 or better: what paths through this norm hold fixed; b is a constant."""
        x = x.to(working_dtype(x.dtype))
        return (x.var(-1, correction=0, keepdim=True) + self.eps).rsqrt()

    @property
    def gain(self) -> Float[Tensor, " d"]:
        """What each dimension is multiplied with."""
        return self.weight

    def linear(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return (x - x.mean(-1, keepdim=True)) * self.weight

    def transposed(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        x = x * self.weight
        return x - x.mean(-1, keepdim=True)

    centred = True
    normalises = True

    @property
    def shift(self) -> Float[Tensor, " d"]:
        return self.bias


class NoNorm(nn.Module):
    """N(x) = x: no norm at all.

    >>> torch.equal(bilens.nn.NoNorm()(x), x)
    True
    """

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x

    def scale(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 1"]:
        return torch.ones_like(x[..., :1], dtype=working_dtype(x.dtype))

    def linear(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x

    transposed = linear
    shift = None
    centred = False
    normalises = False


class Scales(nn.Module):
    """N(x) = w ⊙ x in place of a norm: w learned, ``size`` numbers, one a channel, or one for all
    where there is no size. It folds into what reads it.

    >>> scales = bilens.nn.Scales(128)
    >>> torch.equal(scales(x), x * scales.weight)
    True
    """

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x * self.weight

    @property
    def gain(self) -> Float[Tensor, "*d"]:
        """What each dimension is multiplied with."""
        return self.weight

    def scale(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 1"]:
        return torch.ones_like(x[..., :1], dtype=working_dtype(x.dtype))

    def linear(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x * self.weight

    transposed = linear
    shift = None
    centred = False
    normalises = False


Number = float | Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class Rescaled:
    """g N(f x), for a norm N and two numbers: what N reads of x / f, times g. Given σ(f x) it is
    affine as N is.

    >>> half = bilens.nn.Rescaled(bilens.nn.NoNorm(), 0.5)
    >>> torch.equal(half(x), x / 2)
    True
    """

    norm: "Norm"
    before: Number  # f
    after: Number = 1.0  # g

    def __call__(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.after * self.norm(self.before * x)

    def scale(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 1"]:
        return self.norm.scale(self.before * x)

    def linear(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.after * self.norm.linear(self.before * x)

    def transposed(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.before * self.norm.transposed(self.after * x)

    @property
    def shift(self) -> Float[Tensor, " d"] | None:
        shift = self.norm.shift
        return None if shift is None else self.after * shift

    @property
    def centred(self) -> bool:
        return self.norm.centred

    @property
    def normalises(self) -> bool:
        return normalises(self.norm)


def rescaled(norm: "Norm", before: Number = 1.0, after: Number = 1.0) -> "Norm":
    """``Rescaled``, or ``norm`` itself where both numbers are 1.

    >>> norm = bilens.nn.NoNorm()
    >>> bilens.nn.rescaled(norm) is norm
    True
    """
    numbers = (before, after)
    same = all(isinstance(number, float) and number == 1 for number in numbers)
    return norm if same else Rescaled(norm, *numbers)


def own_norm(norm: "Norm") -> "Norm":
    """The norm that a model has, without the numbers of ``Rescaled``.

    >>> norm = bilens.nn.NoNorm()
    >>> bilens.nn.own_norm(bilens.nn.Rescaled(norm, 0.5)) is norm
    True
    """
    return norm.norm if isinstance(norm, Rescaled) else norm


@runtime_checkable
class Norm(Protocol):
    """What all norms are, a person's own too: N(x) = σ(x) P x + c.

    >>> isinstance(bilens.nn.RMSNorm(8), bilens.nn.Norm)
    True
    """

    @property
    def centred(self) -> bool:
        """Whether it takes the mean out of what it reads."""
        ...

    @property
    def shift(self) -> Float[Tensor, " d"] | None:
        """c, where there is one."""
        ...

    def __call__(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]: ...

    def scale(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 1"]:
        """σ(x)."""
        ...

    def linear(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """P x."""
        ...

    def transposed(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Pᵀ x."""
        ...


def normalises(norm: Norm) -> bool:
    """Whether the σ of a norm depends on what it reads, so that a pass fixes it. A norm of one's
    own may say so by its ``normalises``; without, it does.

    >>> bilens.nn.normalises(bilens.nn.RMSNorm(8)), bilens.nn.normalises(bilens.nn.NoNorm())
    (True, False)
    """
    return bool(getattr(norm, "normalises", True))


BuiltNorm = RMSNorm | LayerNorm | Scales | NoNorm
NORMS = ("rms", "rms_unit_offset", "layer", "channel", "scalar", "none")
LINEAR_NORMS = ("channel", "scalar", "none")  # by which nothing of a pass is held fixed


def make_norm(kind: str, d_model: int, eps: float) -> BuiltNorm:
    """A norm by name. Errors: ConfigError for an unknown one.

    >>> type(bilens.nn.make_norm("rms", 8, 1e-6)).__name__
    'RMSNorm'
    """
    match kind:
        case "rms":
            return RMSNorm(d_model, eps)
        case "rms_unit_offset":
            return UnitOffsetRMSNorm(d_model, eps)
        case "layer":
            return LayerNorm(d_model, eps)
        case "channel":
            return Scales(d_model)
        case "scalar":
            return Scales()
        case "none":
            return NoNorm()
    raise ConfigError("norm", must=f"be one of {', '.join(NORMS)}", got=repr(kind))

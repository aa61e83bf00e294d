"""The MLPs of a transformer block, with Llama's module names: bilinear, gated, and plain."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens.algebra import CP, affine
from bilens.base.errors import ConfigError, NotExactError
from bilens.nn.activations import ACTIVATIONS


class Side(NamedTuple):
    """Hidden features W x + b, linear in what the layer reads."""

    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"] | None = None

    @classmethod
    def of(cls, linear: nn.Linear) -> "Side":
        return cls(linear.weight, linear.bias)

    @classmethod
    def ones(cls, units: int, like: Float[Tensor, "k d"]) -> "Side":
        """Features that are 1 whatever is read."""
        return cls(like.new_zeros(units, like.shape[1]), like.new_ones(units))

    def beside(self, other: "Side") -> "Side":
        """The features of both."""
        biases = [
            side.weight.new_zeros(len(side.weight)) if side.bias is None else side.bias
            for side in (self, other)
        ]
        biased = self.bias is not None or other.bias is not None
        weight = torch.cat([self.weight, other.weight])
        return Side(weight, torch.cat(biases) if biased else None)


class Routed(NamedTuple):
    """What a layer writes, given its gates: out [gates ∘ ∏ sides], of degree 1 or 2 in what
    it reads.
    """

    out: Float[Tensor, "d k"]
    sides: tuple[Side, ...]
    gates: Float[Tensor, "*b k"]

    def open(self, out: Float[Tensor, "d k"] | Float[Tensor, " d"], *sides: Side) -> "Routed":
        """With further units whose gate is 1."""
        more = out.reshape(len(self.out), -1)
        ones = self.gates.new_ones(*self.gates.shape[:-1], more.shape[1])
        beside = tuple(side.beside(other) for side, other in zip(self.sides, sides, strict=True))
        return Routed(torch.cat([self.out, more], 1), beside, torch.cat([self.gates, ones], -1))


class GatedMLP(nn.Module):
    """m(x) = D [act(L x) ⊙ (R x)] with L = gate_proj, R = up_proj, D = down_proj (SwiGLU for
    ``act="silu"``).

    ``act="linear"`` is the bilinear MLP. Source: Shazeer, arXiv:2002.05202, equations 5 and 6.
    """

    def __init__(self, d_model: int, d_hidden: int, bias: bool = False, act: str = "silu") -> None:
        super().__init__()
        self.act = _known(act)
        self.gate_proj = nn.Linear(d_model, d_hidden, bias=bias)
        self.up_proj = nn.Linear(d_model, d_hidden, bias=bias)
        self.down_proj = nn.Linear(d_hidden, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.down_proj(ACTIVATIONS[self.act](self.gate_proj(x)) * self.up_proj(x))

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """What reads the residual stream."""
        return self.gate_proj, self.up_proj

    @property
    def writers(self) -> tuple[nn.Linear, ...]:
        """What writes to it."""
        return (self.down_proj,)

    def routed(self, x: Float[Tensor, "*b d"]) -> Routed:
        """What it writes where it reads ``x``, quadratic given its gates s: D [s ⊙ a ⊙ b] + act(0)
        D b, with a = L x, b = R x and biases in them. Views of the weights where it has no biases.
        """
        act, down, up = ACTIVATIONS[self.act], self.down_proj, Side.of(self.up_proj)
        gates = act.gate(self.gate_proj(x))
        made = Routed(down.weight, (Side.of(self.gate_proj), up), gates)
        if act.at_zero:
            made = made.open(act.at_zero * down.weight, Side.ones(len(up.weight), up.weight), up)
        if down.bias is not None:
            made = made.open(down.bias, Side.ones(1, up.weight), Side.ones(1, up.weight))
        return made

    def tensor(self) -> CP:
        """This very layer as a tensor: a view of the weights, gradients flow. Over (1, x) where it
        has biases.

        Errors: NotExactError unless ``act`` is linear.
        """
        if self.act != "linear":
            raise _not_exact("GatedMLP", self.act, "linear")
        return affine(
            self.down_proj.weight, self.gate_proj.weight, self.up_proj.weight,
            self.down_proj.bias, self.gate_proj.bias, self.up_proj.bias,
        )  # fmt: skip


class BilinearMLP(GatedMLP):
    """m(x) = D [(L x) ⊙ (R x)]: a gated MLP whose gate is the identity, and therefore exactly a
    tensor.
    """

    def __init__(self, d_model: int, d_hidden: int, bias: bool = False) -> None:
        super().__init__(d_model, d_hidden, bias, act="linear")


class MLP(nn.Module):
    """m(x) = D act(U x): the standard MLP, to compare with. ``act="square"`` is exactly a tensor;
    the others are not.
    """

    def __init__(self, d_model: int, d_hidden: int, bias: bool = False, act: str = "relu") -> None:
        super().__init__()
        self.act = _known(act)
        self.up_proj = nn.Linear(d_model, d_hidden, bias=bias)
        self.down_proj = nn.Linear(d_hidden, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.down_proj(ACTIVATIONS[self.act](self.up_proj(x)))

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """What reads the residual stream."""
        return (self.up_proj,)

    @property
    def writers(self) -> tuple[nn.Linear, ...]:
        """What writes to it."""
        return (self.down_proj,)

    def routed(self, x: Float[Tensor, "*b d"]) -> Routed:
        """What it writes where it reads ``x``, linear given its gates s: D [s ⊙ a] + act(0) D 1,
        with a = U x and biases in it. Views of the weights where it has no biases.
        """
        act, down, up = ACTIVATIONS[self.act], self.down_proj, self.up_proj
        made = Routed(down.weight, (Side.of(up),), act.gate(up(x)))
        constant = down.bias
        if act.at_zero:
            constant = act.at_zero * down.weight.sum(1) + (0.0 if constant is None else constant)
        return made if constant is None else made.open(constant, Side.ones(1, up.weight))

    def tensor(self) -> CP:
        """The layer as a tensor with left = right, where ``act`` is square. Errors: NotExactError
        for any other.
        """
        if self.act != "square":
            raise _not_exact("MLP", self.act, "square")
        up = self.up_proj
        return affine(
            self.down_proj.weight, up.weight, up.weight, self.down_proj.bias, up.bias, up.bias
        )


def _known(act: str) -> str:
    if act not in ACTIVATIONS:
        raise ConfigError("act", must=f"be one of {', '.join(ACTIVATIONS)}", got=repr(act))
    return act


def _not_exact(layer: str, act: str, exact: str) -> NotExactError:
    return NotExactError(
        f"{layer}.tensor()",
        must=f'be asked of a layer with act="{exact}"',
        got=f'act="{act}", whose output is not quadratic in its input',
        todo="Train with BilinearMLP, or read it given its gates, as circuits do.",
    )

"""The MLPs of a transformer block, with Llama's module names: bilinear, gated, and plain."""

from jaxtyping import Float
from torch import Tensor, nn

from bilens.algebra import CP, affine
from bilens.base.errors import NotExactError
from bilens.base.keys import OneOf, require
from bilens.nn.activations import ACTIVATIONS
from bilens.nn.units import Hidden


class GatedMLP(nn.Module):
    """m(x) = D [act(L x) ⊙ (R x)] with L = gate_proj, R = up_proj, D = down_proj (SwiGLU for
    ``act="silu"``).

    ``act="linear"`` is the bilinear MLP. Source: Shazeer, arXiv:2002.05202, equations 5 and 6.

    >>> layer = bilens.nn.GatedMLP(8, 16)
    >>> layer(torch.randn(3, 8)).shape
    torch.Size([3, 8])
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

    def hidden(self) -> Hidden:
        """Its hidden units: views of the weights."""
        down, gate, up = self.down_proj, self.gate_proj, self.up_proj
        return Hidden(self.act, down.weight, gate.weight, gate.bias, up.weight, up.bias, down.bias)

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

    >>> layer = bilens.nn.BilinearMLP(128, 64)
    >>> torch.allclose(layer.tensor()(x), layer(x), atol=1e-6)
    True
    """

    def __init__(self, d_model: int, d_hidden: int, bias: bool = False) -> None:
        super().__init__(d_model, d_hidden, bias, act="linear")


class MLP(nn.Module):
    """m(x) = D act(U x): the standard MLP, to compare with. ``act="square"`` is exactly a tensor;
    the others are not.

    >>> layer = bilens.nn.MLP(8, 16, act="square")
    >>> layer.tensor().shape
    (8, 8, 8)
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

    def hidden(self) -> Hidden:
        """Its hidden units: views of the weights."""
        down, up = self.down_proj, self.up_proj
        return Hidden(self.act, down.weight, up.weight, up.bias, None, None, down.bias)

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
    require("act", act, OneOf(tuple(ACTIVATIONS)))
    return act


def _not_exact(layer: str, act: str, exact: str) -> NotExactError:
    return NotExactError(
        f"{layer}.tensor()",
        must=f'be asked of a layer with act="{exact}"',
        got=f'act="{act}", whose output is not quadratic in its input',
        todo="Read it given its gates, as circuits do, or take bilens.approximate(layer, …).",
    )

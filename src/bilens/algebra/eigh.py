"""``torch.linalg.eigh`` with the gradient that repeated eigenvalues have.

With M = Vᵀ ∂f/∂V and g = ∂f/∂λ the gradient by Q is V S Vᵀ with S_aa = g_a and S_ab = ½ (M_ab −
M_ba) / (λ_b − λ_a). Where λ_a and λ_b are equal, f has a gradient only if it does not see which
basis of their span it was given. Then M is symmetric there, and S_ab is the limit of 0 / 0: 0
where f depends on the span alone (g is the same on all of it), and M_ab / 2λ where it depends on
Σ λ v vᵀ (g_a = M_aa / 2λ, but for what is the same on all). So is p M_ab / 2λ for λ^p. Anything
else that f may be is refused, as is an f that looks inside: where M is not symmetric there is no
gradient. In the null space, λ = 0, only g is known: right where weights' own rows keep off it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra.eigen import degenerate_blocks
from bilens.base.errors import ArgumentError, NotExactError
from bilens.base.numerics import eigh

# eigenvalues within eps^CLOSE of the largest count as equal: closer, rounding is most of the
# difference
CLOSE = 2 / 3


def symmetric_eigh(
    matrix: Float[Tensor, "*b i i"],
) -> tuple[Float[Tensor, "*b i"], Float[Tensor, "*b i i"]]:
    """Eigenvalues, smallest first, and eigenvectors as columns. Errors: ArgumentError where LAPACK
    gives up.
    """
    return _Eigh.apply(matrix)  # type: ignore[return-value]


class _Eigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix):
        try:
            values, vectors = eigh(matrix)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise ArgumentError("eigh", must="converge", got=str(error)) from error
        ctx.save_for_backward(values, vectors)
        ctx.set_materialize_grads(False)
        return values, vectors

    @staticmethod
    def backward(ctx, *slopes):
        by_values, by_vectors = slopes
        values, vectors = ctx.saved_tensors
        by_values = torch.zeros_like(values) if by_values is None else by_values
        inner = torch.diag_embed(by_values)
        if by_vectors is not None:
            inner = inner + _coupling(values, by_values, vectors.mT @ by_vectors)
        return vectors @ inner @ vectors.mT


def _coupling(
    values: Float[Tensor, "*b i"], by_values: Float[Tensor, "*b i"], turn: Float[Tensor, "*b i i"]
) -> Float[Tensor, "*b i i"]:
    """S off its diagonal."""
    eps, largest = torch.finfo(values.dtype).eps, values.abs().amax(-1, keepdim=True)
    near = eps**CLOSE * largest
    number = degenerate_blocks(values, (near / 2).expand_as(values))
    same = number[..., None] == number[..., None, :]
    skew, apart = (turn - turn.mT) / 2, values[..., None, :] - values[..., None]
    noise = eps**0.5 * (turn.abs().amax((-2, -1)) + (by_values.abs() * largest).amax(-1))
    if bool((skew.abs() * same > noise[..., None, None]).any()):
        todo = (
            "Ask for functions of whole blocks (see .degenerate): projectors, Σ λ v vᵀ, or values"
            " alone."
        )
        must = "depend on the span of equal eigenvalues alone"
        raise NotExactError(
            "a gradient through eigenvectors",
            must=must,
            got="a function that looks inside",
            todo=todo,
        )
    outside = torch.where(same, 0.0, skew / torch.where(same, 1.0, apart))
    shared = same.sum(-1) > 1
    if not bool((shared & (values.abs() > near)).any()):
        return outside
    inside = torch.zeros_like(turn)
    flat = (
        tensor.reshape(-1, *tensor.shape[values.ndim - 1 :])
        for tensor in (inside, values, by_values, turn, number)
    )
    for into, lam, g, m, blocks in zip(*flat, strict=True):
        for block in blocks.unique():
            at = (blocks == block).nonzero()[:, 0]
            mean = lam[at].mean()
            if len(at) > 1 and float(mean.abs()) > float(eps**CLOSE * lam.abs().max()):
                within = _within(mean, g[at], m[at][:, at], eps)
                into[at[:, None], at] = within - torch.diag(within.diagonal())
    return outside + inside


def _within(
    value: Float[Tensor, ""], g: Float[Tensor, " m"], turn: Float[Tensor, "m m"], eps: float
) -> Float[Tensor, "m m"]:
    """S in a block of equal eigenvalues, from what tells how f depends on them."""
    turn = (turn + turn.mT) / 2
    along, noise = turn.diagonal(), eps**0.5 * float(g.abs().max() + turn.abs().max() / value.abs())
    weighted = along / (2 * value)
    if (
        float((turn - torch.diag(along)).abs().max() / value.abs()) <= noise
        or float((g - weighted).abs().max()) <= noise
    ):
        return turn / (2 * value)
    if _flat(g) <= noise:
        return torch.zeros_like(turn)
    if _flat(g - weighted) <= noise:
        return turn / (2 * value)
    spread, seen = along - along.mean(), g - g.mean()
    share = (spread * seen).sum() / spread.square().sum()
    if len(g) > 2 and _flat(g - share * along) <= noise:
        return share * turn
    must, todo = (
        "depend on equal eigenvalues through one Σ λ^p v vᵀ",
        "Take gradients of its parts one by one.",
    )
    raise NotExactError(
        "a gradient through eigenpairs", must=must, got="another function of a block", todo=todo
    )


def _flat(x: Float[Tensor, " m"]) -> float:
    """How far entries are from being one number."""
    return float(x.max() - x.min())

"""What symmetric parts and symmetric matrices are measured and told by, each written once.

T(x, x) sees of T only its symmetric part S. For two CPs, units h of one and h' of the other,

    ⟨S, S'⟩ = Σ_hh' (DᵀD')_hh' K_hh'        K = ½ [(L L'ᵀ)∘(R R'ᵀ) + (L R'ᵀ)∘(R L'ᵀ)]

which is ½ (⟨T, T'⟩ + ⟨T, swap T'⟩) without doubling the rank; K is ``unit_products``. For a
quadratic form, DᵀD' is the product of the units' weights.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.numerics import eigh, near_one, scaled


def unit_products(
    one: tuple[Float[Tensor, "*#b h i"], Float[Tensor, "*#b h j"]],
    two: tuple[Float[Tensor, "*#b h2 i"], Float[Tensor, "*#b h2 j"]],
    symmetric: bool = True,
) -> Float[Tensor, "*#b h h2"]:
    """⟨l_h ⊗ r_h, l'_h' ⊗ r'_h'⟩ of the units' two vectors, or of the symmetric parts of these.

    ``one`` and ``two`` are (left, right). The symmetric part needs i = j. Cost O(h h' (i + j)),
    twice that where ``symmetric``, or one and a half times for units with themselves.

    >>> a, b = torch.eye(2), torch.eye(2)
    >>> bilens.algebra.unit_products((a, b), (a, b))
    tensor([[1., 0.],
            [0., 1.]])
    """
    (left, right), (other_left, other_right) = one, two
    straight = (left @ other_left.mT) * (right @ other_right.mT)
    if not symmetric:
        return straight
    crossed = left @ other_right.mT
    same = left is other_left and right is other_right
    return 0.5 * (straight + crossed * (crossed.mT if same else right @ other_left.mT))


class Support(NamedTuple):
    """Eigenpairs of a positive semidefinite matrix, smallest first; values that are only rounding
    are 0.

    >>> found = bilens.algebra.support(torch.diag(torch.tensor([4.0, 1.0, 0.0])))
    >>> found.values
    tensor([0., 1., 4.])
    """

    values: Float[Tensor, " n"]
    vectors: Float[Tensor, "n n"]

    @property
    def rank(self) -> int:
        return int((self.values > 0).sum())

    def power(self, exponent: float) -> Float[Tensor, "n n"]:
        """V λ^exponent Vᵀ, zero off the support: −1 is the pseudo-inverse."""
        there = self.values > 0
        powers = torch.where(there, self.values, 1.0) ** exponent
        return (self.vectors * torch.where(there, powers, 0.0)) @ self.vectors.mT


def support(matrix: Float[Tensor, "n n"], tol: float = 0.0) -> Support:
    """The support of a positive semidefinite matrix: eigenvalues of at most ``tol`` times the
    largest are taken to be rounding, as negative ones are. One eigh, O(n³).

    >>> bilens.algebra.support(torch.diag(torch.tensor([4.0, 1.0, 0.0]))).vectors.shape
    torch.Size([3, 3])
    """
    near, power = near_one(matrix)
    values, vectors = eigh(near)
    there = values > tol * values[-1:].clamp(min=0)
    return Support(torch.where(there, scaled(values, power), 0.0), vectors)


def symmetric_root(
    matrix: Float[Tensor, "n n"], tol: float = 0.0, *, inverse: bool = False
) -> Float[Tensor, "n n"]:
    """The symmetric W with W W = G for a positive semidefinite G, or its pseudo-inverse.

    Since W is symmetric, G = Wᵀ W = W Wᵀ. ``tol`` and cost: as for ``support``.

    >>> bilens.algebra.symmetric_root(torch.diag(torch.tensor([4.0, 9.0])))
    tensor([[2., 0.],
            [0., 3.]])
    """
    return support(matrix, tol).power(-0.5 if inverse else 0.5)


def signs(vectors: Float[Tensor, "*b k i"], tie: float = 0.0) -> Float[Tensor, "*b k 1"]:
    """±1 that makes the largest entry of each row positive: eigenvectors have no sign of their own.

    Of entries within ``tie`` of the largest (relative to it) the first decides. No gradient.

    >>> bilens.algebra.signs(torch.tensor([[1.0, -3.0], [2.0, 1.0]]))
    tensor([[-1.],
            [ 1.]])
    """
    sizes = vectors.detach().abs()
    largest = (sizes >= (1 - tie) * sizes.amax(-1, keepdim=True)).int()
    deciding = vectors.detach().gather(-1, largest.argmax(-1, keepdim=True))
    return torch.where(deciding < 0, -1.0, 1.0).to(vectors.dtype)

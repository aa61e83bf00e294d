"""A matrix kept as a product of two: the second-order form."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.errors import ShapeError
from bilens.base.numerics import (
    broadcasts,
    dtype_name,
    is_whole,
    peak,
    powers,
    require_count,
    require_finite,
    require_floating,
    require_tensor,
    restored,
    root,
    scalar,
    scaled,
    working_dtype,
)
from bilens.base.records import Record


@dataclass(frozen=True, repr=False, eq=False)
class Factored(Record):
    """The matrix ``a @ b``, never multiplied out unless asked: a (..., l, m), b (..., m, r).
    Leading dims broadcast.

    The verbs are those of TransformerLens's ``FactoredMatrix``, with one difference that is written
    down there in a comment and here in the name: ``svd()`` returns V, whose columns are the right
    singular vectors, not Vh.
    """

    a: Float[Tensor, "*#b l m"]
    b: Float[Tensor, "*#b m r"]

    def __post_init__(self) -> None:
        for name, factor in (("a", self.a), ("b", self.b)):
            require_tensor(f"Factored.{name}", factor)
            require_floating(f"Factored.{name}", factor.dtype)
        shapes = f"{tuple(self.a.shape)}, {tuple(self.b.shape)}"
        if self.a.ndim < 2 or self.b.ndim < 2 or self.a.shape[-1] != self.b.shape[-2]:
            raise ShapeError("Factored", must="get a (..., l, m) and b (..., m, r)", got=shapes)
        if not broadcasts(self.a.shape[:-2], self.b.shape[:-2]):
            raise ShapeError("Factored", must="get batch dims that broadcast", got=shapes)
        if self.a.dtype != self.b.dtype or self.a.device != self.b.device:
            raise ShapeError(
                "Factored",
                must="get two factors of one dtype and device",
                got=", ".join(f"{dtype_name(one.dtype)} on {one.device}" for one in self.pair),
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., l, r): the shape of the product."""
        batch = torch.broadcast_shapes(self.a.shape[:-2], self.b.shape[:-2])
        return (*batch, self.ldim, self.rdim)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.a.dtype

    @property
    def device(self) -> torch.device:
        return self.a.device

    @property
    def ldim(self) -> int:
        return self.a.shape[-2]

    @property
    def mdim(self) -> int:
        """The inner size: an upper bound on the rank."""
        return self.a.shape[-1]

    @property
    def rdim(self) -> int:
        return self.b.shape[-1]

    def factors(self) -> dict[str, Tensor]:
        """Both factors, by name."""
        return {"a": self.a, "b": self.b}

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        return self.a, self.b

    @property
    def AB(self) -> Float[Tensor, "*b l r"]:
        """The product, as ``dense()``."""
        return self.dense()

    @property
    def BA(self) -> Float[Tensor, "*b m m"]:
        """b @ a, where l = r: the small matrix with the same non-zero eigenvalues."""
        if self.ldim != self.rdim:
            raise ShapeError("Factored.BA", must="come from a square product", got=self.shape)
        return self.b @ self.a

    @property
    def T(self) -> "Factored":
        return Factored(self.b.mT, self.a.mT)

    @property
    def U(self) -> Tensor:
        return self.svd()[0]

    @property
    def S(self) -> Tensor:
        return self.svd()[1]

    @property
    def V(self) -> Tensor:
        return self.svd()[2]

    @property
    def eigenvalues(self) -> Tensor:
        """The m eigenvalues of the product that can be non-zero (complex), from the small ``BA``.
        Cost O(l m² + m³).
        """
        require_finite("Factored.eigenvalues", a=self.a, b=self.b)
        near, power = self.near_one()
        values = torch.view_as_real(torch.linalg.eigvals(near.BA))
        return torch.view_as_complex(
            restored("Factored.eigenvalues", values, power[..., None, None], near.dtype)
        )

    def dense(self) -> Float[Tensor, "*b l r"]:
        """The product as a plain matrix."""
        return self.a @ self.b

    def svd(self) -> tuple[Float[Tensor, "*b l m"], Float[Tensor, "*b m"], Float[Tensor, "*b r m"]]:
        """U, S, V with a @ b = U diag(S) Vᵀ, at most m of each. QR of both factors, then an m × m
        SVD: O((l + r) m² + m³).

        Half types are computed in float32. V is (..., r, m): its columns are the right singular
        vectors. Errors: NotFiniteError; RangeError where the dtype does not hold the largest value
        of a matrix.
        """
        require_finite("Factored.svd", a=self.a, b=self.b)
        near, power = self.near_one()
        qa, ra = torch.linalg.qr(near.a)
        qb, rb = torch.linalg.qr(near.b.mT)
        u, s, vh = torch.linalg.svd(ra @ rb.mT, full_matrices=False)
        return qa @ u, restored("Factored.svd", s, power[..., None], s.dtype), qb @ vh.mT

    def norm(self) -> Float[Tensor, "*b"]:
        """The Frobenius norm from two m × m Grams, without an SVD: O((l + r) m²). Its gradient at
        zero is 0.

        Computed in float32 for half types, and given in the dtype. Errors: NotFiniteError;
        RangeError.
        """
        require_finite("Factored.norm", a=self.a, b=self.b)
        near, power = self.near_one()
        gram = (near.a.mT @ near.a) * (near.b @ near.b.mT)
        return restored("Factored.norm", root(gram.sum((-2, -1))), power, self.dtype)

    def near_one(self) -> "tuple[Factored, Int[Tensor, '*b']]":
        """Each column of a and row of b near one in the product, and the power of two taken out of
        each matrix.
        """
        work = self.to(working_dtype(self.dtype))
        columns, rows = powers(peak(work.a, -2)), powers(peak(work.b, -1))
        middle = (columns + rows).masked_fill(
            (peak(work.a, -2) == 0) | (peak(work.b, -1) == 0), -(2**40)
        )
        power = middle.amax(-1) if self.mdim else middle.sum(-1)
        power = power.masked_fill(power <= -(2**40), 0)
        # at most to one: a column that acts is there anyway
        shift = torch.minimum(rows - power[..., None], -columns)
        return Factored(
            scaled(work.a, shift[..., None, :]), scaled(work.b, -rows[..., None])
        ), power

    def trace(self) -> Float[Tensor, "*b"]:
        """Σ_i (a b)_ii, in O(l m). Errors: ShapeError unless square."""
        if self.ldim != self.rdim:
            raise ShapeError("Factored.trace", must="be asked of a square product", got=self.shape)
        return (self.a * self.b.mT).sum((-2, -1))

    def make_even(self) -> "Factored":
        """The same product with the singular values shared out evenly: U √S and √S Vᵀ."""
        u, s, v = self.svd()
        even = root(s)
        return Factored(u * even[..., None, :], even[..., :, None] * v.mT)

    def collapse_l(self) -> Float[Tensor, "*b m r"]:
        """A matrix with the same right singular structure and norm, m × r: S Vᵀ."""
        _, s, v = self.svd()
        return s[..., :, None] * v.mT

    def collapse_r(self) -> Float[Tensor, "*b l m"]:
        """A matrix with the same left singular structure and norm, l × m: U S."""
        u, s, _ = self.svd()
        return u * s[..., None, :]

    def unsqueeze(self, dim: int) -> "Factored":
        """Add a leading dim of size 1 at ``dim`` (counted among the leading dims)."""
        if not is_whole(dim) or not 0 <= dim <= self.ndim - 2:
            most = f", at most {self.ndim - 2}" if is_whole(dim) and dim > 0 else ""
            must = f"name a leading dim by a number ≥ 0{most}"
            raise ShapeError("Factored.unsqueeze", must=must, got=repr(dim))
        return Factored(self.a.unsqueeze(dim), self.b.unsqueeze(dim))

    def get_corner(self, k: int = 3) -> Float[Tensor, "*b k k"]:
        """The first k rows and columns of the product, for a quick look."""
        require_count("k", k, 0)
        return self.a[..., :k, :] @ self.b[..., :, :k]

    def __matmul__(self, other: "Tensor | Factored") -> "Tensor | Factored":
        """With a vector: a vector. With a matrix or a Factored: a Factored, with the smaller inner
        size kept.
        """
        self._require_meets("@", other, self.rdim, -2)
        if isinstance(other, Factored):
            middle = self.b @ other.a
            return (
                Factored(self.a @ middle, other.b)
                if self.mdim > other.mdim
                else Factored(self.a, middle @ other.b)
            )
        if other.ndim == 1:
            return (self.a @ (self.b @ other)[..., None])[..., 0]
        return Factored(self.a, self.b @ other)

    def __rmatmul__(self, other: Tensor) -> "Tensor | Factored":
        self._require_meets("other @", other, self.ldim, -1)
        if other.ndim == 1:
            return ((other @ self.a)[..., None, :] @ self.b)[..., 0, :]
        return Factored(other @ self.a, self.b)

    def _require_meets(self, who: str, other: object, size: int, dim: int) -> None:
        """Raise ShapeError unless ``other`` is a vector or a matrix with ``size`` along ``dim``, of
        one dtype and device.
        """
        if not isinstance(other, Tensor | Factored):
            raise ShapeError(
                f"Factored {who}", must="be with a tensor or a Factored", got=type(other).__name__
            )
        dim = dim if other.ndim > 1 else -1
        if (
            other.ndim == 0
            or other.shape[dim] != size
            or not broadcasts(self.shape[:-2], other.shape[:-2])
        ):
            must = f"meet {size} entries, batch dims that broadcast"
            raise ShapeError(f"Factored {who}", must=must, got=tuple(other.shape))
        if other.dtype != self.dtype or other.device != self.device:
            must, got = (f"{dtype_name(one.dtype)} on {one.device}" for one in (self, other))
            raise ShapeError(f"Factored {who}", must=f"be with {must}", got=got)

    def __mul__(self, factor: float | int | Tensor) -> "Factored":
        return Factored(self.a * scalar("Factored", factor, self.a), self.b)

    def __rmul__(self, factor: float | int | Tensor) -> "Factored":
        return self * factor

    def __neg__(self) -> "Factored":
        return self * -1.0

    def __repr__(self) -> str:
        where = f"dtype={dtype_name(self.dtype)}, device={self.device}"
        return f"Factored(shape={self.shape}, mdim={self.mdim}, {where})"

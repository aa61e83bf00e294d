"""A matrix kept as a product of two: the second-order form."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import matmul
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra.guests import answered
from bilens.algebra.indexing import split_index
from bilens.base.errors import BroadcastError, IndexingError, ShapeError, SizeError
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
    square_shares,
    working_dtype,
)
from bilens.base.records import Record
from bilens.base.results import Tabled
from bilens.base.tables import Columns


@dataclass(frozen=True, repr=False, eq=False)
class Factored(Record, Tabled):
    """The matrix ``a @ b``, never multiplied out unless asked: a (..., l, m), b (..., m, r).
    Leading dims broadcast.

    The verbs and names are those of TransformerLens's ``FactoredMatrix``, errors included, so that
    what is written for one works with the other. torch's functions take it where it has a verb for
    them: ``torch.matmul(x, F)``, ``torch.linalg.norm(F)``, ``torch.trace(F)``.

    Where it differs:
        ``a``, ``b``: the factors as given; ``A``, ``B`` have all leading dims.
        ``svd()`` is worked out at each call, never kept: weights change in place.
        ``F[index]`` takes rows and columns one by one, beside tensors among the leading dims too.
        ``get_corner`` leaves leading dims whole.
        ``v @ F`` is a vector (..., r), as in its newer releases.
        Eigenvalues of half types are those of ``b @ a`` in float32, not of one rounded before.
        Factors are tensors: what only behaves like one answers ``F @`` with its own operator.

    >>> F = bilens.Factored(torch.ones(512, 8), torch.ones(8, 512))
    >>> F[:4, -1]
    Factored(shape=(4, 1), mdim=8, dtype=float32, device=cpu)
    >>> (F @ F).AB.shape
    torch.Size([512, 512])

    Columns of ``to_frame()``, a row for each singular value of each matrix, the largest first:
    ``of``: the number of the matrix, where there are leading dims; ``component``; ``singular
    value``; ``share``: its square over the sum of the squares. Cost of ``svd()``.
    """

    a: Float[Tensor, "*#b l m"]
    b: Float[Tensor, "*#b m r"]

    def __post_init__(self) -> None:
        for name, factor in (("a", self.a), ("b", self.b)):
            require_tensor(f"Factored.{name}", factor)
            require_floating(f"Factored.{name}", factor.dtype)
        shapes = f"{tuple(self.a.shape)}, {tuple(self.b.shape)}"
        must = "get a (..., l, m) and b (..., m, r)"
        if self.a.ndim < 2 or self.b.ndim < 2:
            raise ShapeError("Factored", must=must, got=shapes)
        if self.a.shape[-1] != self.b.shape[-2]:
            todo = "They must match on the inner dimension."
            raise SizeError("Factored", must=must, got=shapes, todo=todo)
        if not broadcasts(self.a.shape[:-2], self.b.shape[:-2]):
            must = "get leading dims that broadcast"
            raise BroadcastError("Factored", must=must, got=f"a mismatch of {shapes}")
        if self.a.dtype != self.b.dtype or self.a.device != self.b.device:
            raise ShapeError(
                "Factored",
                must="get two factors of one dtype and device",
                got=", ".join(
                    f"{dtype_name(one.dtype)} on {one.device}" for one in (self.a, self.b)
                ),
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., l, r): the shape of the product."""
        return (*self._leading, self.ldim, self.rdim)

    @property
    def _leading(self) -> torch.Size:
        return torch.broadcast_shapes(self.a.shape[:-2], self.b.shape[:-2])

    @property
    def has_leading_dims(self) -> bool:
        return self.ndim > 2

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
    def A(self) -> Float[Tensor, "*b l m"]:
        """``a`` with all leading dims, without a copy."""
        return self.a.expand(*self._leading, -1, -1)

    @property
    def B(self) -> Float[Tensor, "*b m r"]:
        """``b`` with all leading dims, without a copy."""
        return self.b.expand(*self._leading, -1, -1)

    @property
    def pair(self) -> tuple[Float[Tensor, "*b l m"], Float[Tensor, "*b m r"]]:
        """``A`` and ``B``."""
        return self.A, self.B

    @property
    def AB(self) -> Float[Tensor, "*b l r"]:
        """The product, as ``dense()``."""
        return self.dense()

    @property
    def BA(self) -> Float[Tensor, "*b m m"]:
        """b @ a, where l = r: the small matrix with the same non-zero eigenvalues."""
        if self.ldim != self.rdim:
            raise SizeError("Factored.BA", must="come from a square product", got=self.shape)
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
    def Vh(self) -> Tensor:
        """``V``, for what is written for TransformerLens, where this name holds V (..., r, m), not
        its transpose. Warns so; in new code say ``V``, or ``V.mT`` for the rows.
        """
        told = "Factored.Vh is V, as in TransformerLens; say .V, or .V.mT for the rows"
        warnings.warn(told, DeprecationWarning, stacklevel=2)
        return self.V

    @property
    def eigenvalues(self) -> Tensor:
        """The m eigenvalues of the product that can be non-zero (complex), from the small ``BA``;
        as a rule in the order in which torch gives those, where scales are not far apart. Cost
        O(l m² + m³).
        """
        require_finite("Factored.eigenvalues", a=self.a, b=self.b)
        near, power = self.near_one()
        # near.BA is BA between 2^-rows and 2^rows, which torch's order would not outlast: they are
        # taken off as far as no entry can leave the range
        rows = powers(peak(self.b, -1))[..., None]
        rows = (rows - rows[..., :1, :]).clamp(-32, 32)
        values = torch.linalg.eigvals(scaled(scaled(near.BA, rows), -rows.mT))
        parts, power = torch.view_as_real(values), power[..., None, None]
        return torch.view_as_complex(restored("Factored.eigenvalues", parts, power, near.dtype))

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

        Worked in float64, where what cancels leaves √1e-16 of what cancelled and not √1e-7, and
        given in the dtype. Errors: NotFiniteError; RangeError.
        """
        require_finite("Factored.norm", a=self.a, b=self.b)
        near, power = self.to(torch.float64).near_one()
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
        """Σ_i (a b)_ii, in O(l m). Errors: SizeError unless square."""
        if self.ldim != self.rdim:
            raise SizeError("Factored.trace", must="be asked of a square product", got=self.shape)
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
        return Factored(self.A.unsqueeze(dim), self.B.unsqueeze(dim))

    def get_corner(self, k: int = 3) -> Float[Tensor, "*b k k"]:
        """The first k rows and columns of the product, for a quick look."""
        require_count("k", k, 0)
        return self.a[..., :k, :] @ self.b[..., :, :k]

    def __getitem__(self, index: object) -> "Factored":
        """``AB[index]``, still factored, with two differences: an int for a row or a column keeps a
        dim of size 1, and rows and columns are taken one by one, not in pairs.

        Leading dims are indexed as torch does: ints, slices, None, tensors and lists of ints,
        masks; one ellipsis may stand anywhere. Cost: that of torch's indexing of both factors.
        Errors: IndexingError.
        """
        lead, rows, columns = split_index(index, self.shape)
        try:
            a, b = self.A[lead][..., rows, :], self.B[lead][..., columns]
        except (IndexError, ValueError, RuntimeError) as error:
            raise IndexingError("Factored[index]", must=f"fit {self.shape}", got=error) from error
        return Factored(a, b)

    def __matmul__(self, other: object) -> "Tensor | Factored":
        """With a vector: a vector. With a matrix or a Factored: a Factored, of the smallest inner
        size that there is: m, r, or that of ``other``.
        """
        if _is_guest(other):
            return NotImplemented
        self._require_meets("@", other, self.rdim, -2)
        if isinstance(other, Factored):
            return _chained(self.a, self.b, other.a, other.b)
        assert isinstance(other, Tensor)
        if other.ndim == 1:
            return (self.a @ (self.b @ other)[..., None])[..., 0]
        return _chained(self.a, self.b, other)

    def __rmatmul__(self, other: object) -> "Tensor | Factored":
        """As ``@``, from the left."""
        self._require_meets("other @", other, self.ldim, -1)
        assert isinstance(other, Tensor)
        if other.ndim == 1:
            return ((other @ self.a)[..., None, :] @ self.b)[..., 0, :]
        return _chained(other, self.a, self.b)

    def _require_meets(self, who: str, other: object, size: int, dim: int) -> None:
        """Raise ShapeError unless ``other`` is a vector or a matrix with ``size`` along ``dim``, of
        one dtype and device.
        """
        if not isinstance(other, Tensor | Factored):
            raise ShapeError(
                f"Factored {who}", must="be with a tensor or a Factored", got=type(other).__name__
            )
        dim, got = dim if other.ndim > 1 else -1, tuple(other.shape)
        must = f"meet {size} entries, batch dims that broadcast"
        if other.ndim == 0 or other.shape[dim] != size:
            raise SizeError(f"Factored {who}", must=must, got=got)
        if not broadcasts(self.shape[:-2], other.shape[:-2]):
            raise BroadcastError(f"Factored {who}", must=must, got=got)
        if other.dtype != self.dtype or other.device != self.device:
            must, got = (f"{dtype_name(one.dtype)} on {one.device}" for one in (self, other))
            raise ShapeError(f"Factored {who}", must=f"be with {must}", got=got)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable,
        types: Sequence[type],
        args: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """torch's functions by the verbs here; others of torch's guests go first."""
        if not all(issubclass(kind, (Tensor, Factored)) for kind in types):
            return NotImplemented
        return answered(function, args, options or {})

    __array_ufunc__ = None  # numpy's operators leave a Factored to its own

    def __mul__(self, factor: float | int | Tensor) -> "Factored":
        return Factored(self.a * scalar("Factored", factor, self.a), self.b)

    def __rmul__(self, factor: float | int | Tensor) -> "Factored":
        return self * factor

    def __neg__(self) -> "Factored":
        return self * -1.0

    def summary(self) -> str:
        size = " × ".join(map(str, self.shape))
        return f"{size} in factors of inner size {self.mdim}, {dtype_name(self.dtype)}"

    def _table(self) -> Columns:
        spectra = self.detach().svd()[1]
        rows: list[dict[str, Any]] = []
        flat = spectra.double().flatten(0, -2) if self.has_leading_dims else spectra.double()[None]
        for n, values in enumerate(flat):
            shares = square_shares(values).tolist()
            of = {"of": n} if self.has_leading_dims else {}
            rows += [
                of | {"component": k, "singular value": value, "share": share}
                for k, (value, share) in enumerate(zip(values.tolist(), shares, strict=True))
            ]
        names = ("of", "component", "singular value", "share")
        return Columns(names if self.has_leading_dims else names[1:], rows)

    def __repr__(self) -> str:
        where = f"dtype={dtype_name(self.dtype)}, device={self.device}"
        return f"Factored(shape={self.shape}, mdim={self.mdim}, {where})"


def _chained(*factors: Tensor) -> Factored:
    """Their product, cut in two where it is narrowest, and multiplied out from there."""
    inner = [factor.shape[-1] for factor in factors[:-1]]
    cut = inner.index(min(inner)) + 1
    left = reduce(lambda right, factor: factor @ right, reversed(factors[:cut]))
    return Factored(left, reduce(matmul, factors[cut:]))


def _is_guest(other: object) -> bool:
    """Whether ``other`` answers ``F @ other`` by an operator of its own. numpy's would not."""
    foreign = not isinstance(other, Tensor | Factored) and not hasattr(other, "__array__")
    return foreign and hasattr(other, "__rmatmul__")

"""What every third-order form can do; the forms say how."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra.factored import Factored
from bilens.algebra.quadratic import QuadraticForm
from bilens.base.axes import MODES, Mode
from bilens.base.errors import ArgumentError, ShapeError, TooLargeError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import (
    GIB,
    broadcasts,
    dtype_name,
    require_count,
    require_finite,
    require_floating,
    require_tensor,
    require_values,
    restored,
    root,
    working_dtype,
)
from bilens.base.records import Record

# √(45 eps): what rounding leaves of a norm whose terms cancel, relative to the terms
CANCELLED = 1e-7
# Powers of two that a factor may lie from one where six of them are multiplied, and what lies below
# is to stay in range.
REACH = {torch.float64: 60, torch.float32: 12, torch.bfloat16: 12, torch.float16: 2}
Form = TypeVar("Form", bound="ThirdOrder")  # not Self: beartype checks methods one by one


class ThirdOrder(Record, ABC):
    """A tensor T[o, i, j] in some form. Frozen; every verb makes a new value; gradients flow
    through the factors.

    Verbs act on T as it stands: ``symmetrise()`` first where the symmetric part is meant. Only
    ``dense()`` makes the cube.

    ``affine``: whether both inputs are over (1, x), the constant coordinate first, as of a layer
    with biases. Every verb keeps track of it. Source: Sharkey, arXiv:2305.03452, section 3
    (bilinear layers as third-order tensors).

    >>> isinstance(T, bilens.algebra.ThirdOrder), T.shape
    (True, (128, 128, 128))
    >>> T.contract(out=torch.eye(128)[0]).shape
    (128, 128)
    """

    affine: bool

    # How each form does it.

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(o, i, j)."""

    @abstractmethod
    def _any(self) -> Tensor:
        """One of the tensors, for dtype and device."""

    @abstractmethod
    def _apply(
        self, x: Float[Tensor, "*#b i"], y: Float[Tensor, "*#b j"]
    ) -> Float[Tensor, "*b o"]: ...

    @abstractmethod
    def _contract(self, mode: Mode, u: Float[Tensor, "*b s"]) -> Factored: ...

    @abstractmethod
    def _cube(self) -> Float[Tensor, "o i j"]: ...

    @abstractmethod
    def interaction(self, u: Float[Tensor, "*b o"]) -> QuadraticForm:
        """Q_u, the symmetric interaction matrix of output direction ``u``: u·T(x) = xᵀ Q_u x,
        factored.

        Q_u = Σ_o u_o S_o with S the symmetric part of T. Leading batch dims of ``u`` become those
        of the form. Cost (CP): o·h per direction. Errors: ShapeError where left and right are
        different spaces.
        """

    @abstractmethod
    def map(
        self: Form,
        *,
        out: Float[Tensor, "o2 o"] | None = None,
        left: Float[Tensor, "i2 i"] | None = None,
        right: Float[Tensor, "j2 j"] | None = None,
    ) -> Form:
        """Change of basis: T'[a, b, c] = Σ M_ao N_bi P_cj T_oij with each map (new, old); modes not
        named stay.

        T' is over (1, x) where T is and the maps of left and right keep the constant to itself, as
        ``homogeneous_map(…).mT`` does: their first columns are (1, 0, 0, …).
        """

    @abstractmethod
    def swap(self: Form) -> Form:
        """T with left and right exchanged: T'[o, j, i] = T[o, i, j]."""

    @abstractmethod
    def quadratic(self: Form) -> Form:
        """What is quadratic in x, as a tensor over x: views of T's factors; T itself where it is
        not over (1, x).
        """

    @abstractmethod
    def traces(self) -> Float[Tensor, " o"]:
        """Σ_i T_oii, one for each output; left and right are one space."""

    @abstractmethod
    def inner_near_one(self, other: "ThirdOrder", *, symmetric: bool = False) -> Float[Tensor, ""]:
        """``inner`` of tensors that are near one, worked in float64 whatever the dtype."""

    @abstractmethod
    def grams_near_one(
        self, modes: Sequence[Mode], *, symmetric: bool, dtype: torch.dtype
    ) -> list[Float[Tensor, "_ _"]]:
        """``gram`` of a tensor that is near one, for each of the modes."""

    @abstractmethod
    def near_one(self: Form, dtype: torch.dtype | None = None) -> tuple[Form, int]:
        """The tensor over a power of two, and the power: factors whose squares and products stay in
        range of ``dtype``.

        ``dtype``: of the work that follows; T itself and 0 where its factors are in reach already.
        None: always near one.
        """

    @abstractmethod
    def scaled(self: Form, power: int) -> Form:
        """T · 2^power, shared out among the factors."""

    @abstractmethod
    def terms_by_output(self) -> Float[Tensor, " o"]:
        """How large the terms are that add up to each slice, before they cancel: what rounding goes
        by. Of a tensor near one; in float64, without gradients."""

    @abstractmethod
    def outputs_near_one(self: Form) -> Form:
        """A tensor near one with each output over a power of two of its own, where figures are for
        outputs one by one.
        """

    @abstractmethod
    def _plus(self: Form, other: Any) -> Form: ...

    @abstractmethod
    def __mul__(self: Form, factor: float | int | Tensor) -> Form: ...

    # What follows from that, the same for all.

    def terms(self) -> float:
        """How large the terms are that add up to T, before they cancel."""
        return float(self.terms_by_output().norm())

    @property
    def dtype(self) -> torch.dtype:
        return self._any().dtype

    @property
    def device(self) -> torch.device:
        return self._any().device

    def __call__(
        self, x: Float[Tensor, "*#b i"], y: Float[Tensor, "*#b j"] | None = None
    ) -> Float[Tensor, "*b o"]:
        """T(x, y)_o = Σ_ij T_oij x_i y_j; ``T(x)`` is T(x, x). Leading dims broadcast. CP: h (o + i
        + j) per input.
        """
        if y is None:
            self.require_one_space("a call with one input")
            y = x
        for name, vector, size in (
            ("left input", x, self.shape[1]),
            ("right input", y, self.shape[2]),
        ):
            self.require_fits(name, vector, size)
        if not broadcasts(x.shape[:-1], y.shape[:-1]):
            got = f"{tuple(x.shape)}, {tuple(y.shape)}"
            raise ShapeError(
                "left and right input", must="have leading dims that broadcast", got=got
            )
        return self._apply(x, y)

    def read(self, x: Float[Tensor, "*b x"]) -> Float[Tensor, "*b i"]:
        """What T is over, from x: (1, x) where T is ``affine``, x itself where not. So T(T.read(x))
        is the layer on x.

        An x that has the constant already is taken as it is. Errors: ShapeError, also for one of
        that width whose first number is not 1.
        """
        self.require_one_space("read")
        lacking = self.affine and isinstance(x, Tensor) and _off_by_one(x, self.shape[1])
        x = homogeneous(x) if lacking else x
        self._require_size("read", x, self.shape[1])
        if self.affine and not lacking:
            require_constant("read", x[..., 0])
        return x

    def contract(
        self,
        *,
        out: Float[Tensor, "*b o"] | None = None,
        left: Float[Tensor, "*b i"] | None = None,
        right: Float[Tensor, "*b j"] | None = None,
    ) -> Factored:
        """Feed one mode a vector: ``out=u`` gives M_ij, ``left=x`` gives M_oj, ``right=y`` gives
        M_oi, each factored.

        Leading batch dims broadcast. The matrix of ``out=u`` is not symmetrised: ``interaction(u)``
        is. Errors: ArgumentError unless exactly one mode is fed.
        """
        given: tuple[tuple[Mode, Tensor | None], ...] = (
            ("out", out),
            ("left", left),
            ("right", right),
        )
        fed: dict[Mode, Tensor] = {mode: u for mode, u in given if u is not None}
        if len(fed) != 1:
            raise ArgumentError(
                "contract",
                must="be given exactly one of out=, left=, right=",
                got=f"{sorted(fed) or 'none'}",
            )
        ((mode, u),) = fed.items()
        self.require_fits(f"contract({mode}=)", u, self.shape[MODES.index(mode)])
        return self._contract(mode, u)

    def symmetrise(self: Form) -> Form:
        """The symmetric part S_oij = ½ (T_oij + T_oji), which is all that acts when both inputs are
        the same x.

        CP: the rank doubles. Errors: ShapeError where left and right are different spaces.
        """
        self.require_one_space("symmetrise")
        return (self + self.swap()) * 0.5

    def inner(self, other: "ThirdOrder", *, symmetric: bool = False) -> Float[Tensor, ""]:
        """⟨T, S⟩ = Σ T_oij S_oij, for any two forms of the same shape; with ``symmetric``, of the
        symmetric parts of both.

        Summed in float64, where terms of both signs cancel without harm, and given in T's dtype
        (half types: float32). The scale of the factors does not matter: it is taken out before
        anything is multiplied. CP with CP: O(h h' (o + i + j)) time, half of that with itself;
        memory O(block (block + o + i + j)) over the factors for blocks of hidden units, O(h h')
        where gradients are kept. Of two tensors as functions on data: ``Gaussian.of``.
        """
        self.require_like("inner", other, ThirdOrder)
        if symmetric:
            self.require_one_space("inner(symmetric=True)")
        one, power = self.checked("inner")
        two, more = (one, power) if other is self else other.checked("inner")
        found = one.inner_near_one(two, symmetric=symmetric)
        dtype = working_dtype(self.dtype)
        return restored(
            "inner", found, power + more, dtype, lambda: CANCELLED**2 * one.terms() * two.terms()
        )

    def norm(self) -> Float[Tensor, ""]:
        """‖T‖, the root of the summed squares of all entries.

        Cost of one ``inner``. Its gradient at T = 0 is 0. Errors: NotFiniteError; RangeError where
        T's dtype does not hold the norm.
        """
        near, power = self.checked("norm")
        length, dtype = root(near.inner_near_one(near)), working_dtype(self.dtype)
        return restored("norm", length, power, dtype, lambda: CANCELLED * near.terms())

    def similarity(self, other: "ThirdOrder") -> Float[Tensor, ""]:
        """⟨T, S⟩ / (‖T‖ ‖S‖) in [-1, 1].

        Errors: ArgumentError where one of the two is zero, or nothing but the rounding of terms
        that cancel.
        """
        self.require_like("similarity", other, ThirdOrder)
        one, two = (tensor.checked("similarity")[0] for tensor in (self, other))
        lengths = [root(tensor.inner_near_one(tensor)) for tensor in (one, two)]
        for tensor, length in zip((one, two), lengths, strict=True):
            if tensor.vanishes(float(length.detach())):
                must = "compare two tensors that are not zero"
                raise ArgumentError("similarity", must=must, got="a norm of 0")
        found = one.inner_near_one(two) / lengths[0] / lengths[1]
        return found.clamp(-1, 1).to(working_dtype(self.dtype))

    def vanishes(self, length: float) -> bool:
        """Whether a norm of this tensor, which is near one, is none: 0, NaN, or what rounding
        leaves of terms that cancel.
        """
        return not length > CANCELLED * self.terms()

    def gram(
        self, mode: Mode, *, symmetric: bool = False, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "s s"]:
        """The Gram of one unfolding, e.g. ``"out"``: G_oo' = Σ_ij T_oij T_o'ij; with ``symmetric``,
        of the symmetric part.

        Worked in ``dtype``; None is T's own, and float32 for float16 and bfloat16. CP: O(h² (o + i
        + j)) time, up to three times that for the symmetric part, whose rank is never doubled;
        memory O(s² + block (block + o + i + j)) over the factors for blocks of hidden units, h²
        where gradients are kept. Errors: ArgumentError for an unknown mode; ShapeError for
        ``symmetric`` where left and right are different spaces; NotFiniteError; RangeError where
        ``dtype`` does not hold the squares.
        """
        require_mode(mode)
        return self._grams((mode,), symmetric, dtype)[0]

    def grams(
        self, *, symmetric: bool = False, dtype: torch.dtype | None = None
    ) -> dict[Mode, Float[Tensor, "_ _"]]:
        """``gram`` of all three modes. For a CP this takes two thirds of the time of one after
        another, as they share the products of its factors.

        >>> grams = T.grams(symmetric=True)
        >>> bool(torch.equal(grams["left"], grams["right"]))
        True
        """
        if symmetric:
            out, inputs = self._grams(("out", "left"), symmetric, dtype)
            return {"out": out, "left": inputs, "right": inputs}
        return dict(zip(MODES, self._grams(MODES, symmetric, dtype), strict=True))

    def _grams(
        self, modes: Sequence[Mode], symmetric: bool, dtype: torch.dtype | None
    ) -> list[Float[Tensor, "_ _"]]:
        if symmetric:
            self.require_one_space("gram(symmetric=True)")
        given = working_dtype(self.dtype) if dtype is None else dtype
        require_floating("gram(dtype=)", given)
        require_finite("gram", **self.factors())
        near, power = self.near_one(working_dtype(given))
        grams = near.grams_near_one(modes, symmetric=symmetric, dtype=working_dtype(given))
        return [restored("gram", gram, 2 * power, given) for gram in grams]

    def factors(self) -> dict[str, Tensor]:
        """The tensors that T is made of, by name."""
        held = vars(self)
        return {name: value for name, value in held.items() if isinstance(value, Tensor)}

    def checked(self, who: str) -> "tuple[ThirdOrder, int]":
        """The tensor over a power of two and the power, as for work in float64, its factors found
        finite.
        """
        require_finite(who, **self.factors())
        return self.near_one(torch.float64)

    def dense(self, max_bytes: int = GIB) -> Float[Tensor, "o i j"]:
        """The whole cube, the truth for small tests: o·i·j numbers.

        Errors: TooLargeError where it would take more than ``max_bytes`` (1 GiB unless raised by
        hand); RangeError.
        """
        require_count("max_bytes", max_bytes, 0)
        o, i, j = self.shape
        needed = o * i * j * self._any().element_size()
        if needed > max_bytes:
            raise TooLargeError(
                "dense()",
                must=f"stay below max_bytes = {max_bytes:,}",
                got=f"{o} × {i} × {j} {dtype_name(self.dtype)} = {needed:,} bytes",
                todo="Every other verb works without the cube; pass max_bytes= to make it all the"
                " same.",
            )
        require_values("dense()", self._any())
        if 0 in self.shape:
            return self._any().new_zeros(self.shape)
        near, power = self.near_one(self.dtype)
        if near is self:
            return self._cube()
        eps = torch.finfo(near.dtype).eps
        return restored("dense()", near._cube(), power, self.dtype, lambda: eps * near.terms())

    def __add__(self: Form, other: Form) -> Form:
        """T + S, of one form and shape. CP: the ranks add up; Tucker: the cores stand
        block-diagonal.
        """
        self.require_like(f"{type(self).__name__} + other", other, type(self))
        return self._plus(other)

    def __rmul__(self: Form, factor: float | int | Tensor) -> Form:
        return self * factor

    def __neg__(self: Form) -> Form:
        return self * -1.0

    def __sub__(self: Form, other: Form) -> Form:
        # what is none is refused there
        return self + (-other if isinstance(other, ThirdOrder) else other)

    def __repr__(self) -> str:
        what = f"shape={self.shape}{', affine' * self.affine}"
        where = f"dtype={dtype_name(self.dtype)}, device={self.device}"
        return f"{type(self).__name__}({what}, {where})"

    # Checks.

    def require_one_space(self, who: str) -> None:
        """Raise ShapeError unless left and right are of one size."""
        if self.shape[1] != self.shape[2]:
            raise ShapeError(
                who,
                must="have left and right of one size",
                got=self.shape,
                todo="Give both inputs, or map one.",
            )

    def require_fits(self, who: str, vector: Tensor, size: int) -> None:
        """Raise ShapeError unless ``vector`` ends in ``size`` and is of the dtype and on the device
        of T.
        """
        self._require_size(who, vector, size)
        if vector.dtype != self.dtype or vector.device != self.device:
            raise ShapeError(
                who,
                must=f"be {_place(self._any())} like T",
                got=_place(vector),
                todo="Use .to(...) on either.",
            )

    def _require_size(self, who: str, vector: Tensor, size: int) -> None:
        if not isinstance(vector, Tensor):
            raise ShapeError(who, must="be a torch tensor", got=type(vector).__name__)
        if vector.ndim == 0 or vector.shape[-1] != size:
            raise ShapeError(
                who,
                must=f"end in {size} (T is {self.shape})",
                got=tuple(vector.shape),
                todo=self._hint(vector, size),
            )

    def _hint(self, vector: Tensor, size: int) -> str:
        if not _off_by_one(vector, size):
            return ""
        if self.affine:
            return "T is over (1, x), of a layer with biases: pass T.read(x) or homogeneous(x)."
        return "A tensor over (1, x) says so: CP(..., affine=True)."

    def require_like(self, who: str, other: object, form: type["ThirdOrder"]) -> None:
        """Raise unless ``other`` is of that form and of T's shape, dtype and device."""
        if not isinstance(other, form):
            raise ArgumentError(
                who,
                must=f"join two tensors of the same form ({form.__name__})",
                got=type(other).__name__,
            )
        if other.shape != self.shape:
            raise ShapeError(who, must=f"join two tensors of shape {self.shape}", got=other.shape)
        if other.affine != self.affine:
            must = f"join two tensors over {_over(self.affine)}"
            todo = "Make both with the affine= that is true of them."
            raise ShapeError(who, must=must, got=f"one over {_over(other.affine)}", todo=todo)
        if other.dtype != self.dtype or other.device != self.device:
            raise ShapeError(
                who,
                must=f"join two tensors that are {_place(self._any())}",
                got=_place(other._any()),
            )


def require_factors(
    who: str, todo: str = "", **factors: tuple[Tensor, tuple[int | None, ...]]
) -> None:
    """Check each factor against (tensor, expected shape with None for free sizes), and one dtype
    and device for all.

    ``todo``: what to do about a shape that does not fit.

    >>> bilens.algebra.require_factors("CP", out=(torch.ones(2, 3), (None, 3)))
    """
    for name, (factor, _) in factors.items():
        require_tensor(f"{who}.{name}", factor)
    first = next(iter(factors.values()))[0]
    require_floating(f"{who}.{next(iter(factors))}", first.dtype)
    for name, (factor, expected) in factors.items():
        fits = factor.ndim == len(expected) and all(
            e is None or e == n for e, n in zip(expected, factor.shape, strict=True)
        )
        if not fits:
            wanted = "(" + ", ".join("any" if e is None else str(e) for e in expected) + ")"
            raise ShapeError(
                f"{who}.{name}", must=f"be {wanted}", got=tuple(factor.shape), todo=todo
            )
        if factor.dtype != first.dtype or factor.device != first.device:
            raise ShapeError(
                f"{who}.{name}",
                must=f"be {_place(first)} like the first factor",
                got=_place(factor),
            )


def require_affine(who: str, tensor: "ThirdOrder") -> None:
    """Raise unless ``affine`` is True or False, and True only of inputs that have a constant."""
    if not isinstance(tensor.affine, bool):
        got = repr(tensor.affine)
        raise ArgumentError(f"{who}.affine", must="be True or False", got=got)
    if tensor.affine and 0 in tensor.shape[1:]:
        must = "have a constant coordinate in both inputs"
        raise ShapeError(f"{who}(affine=True)", must=must, got=tensor.shape)


def homogeneous(x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b i1"]:
    """x̃ = (1, x): what a layer with biases is a tensor over. Errors: ShapeError for what is no
    tensor of inputs.

    >>> bilens.homogeneous(torch.tensor([5.0, 6.0]))
    tensor([1., 5., 6.])
    """
    require_tensor("homogeneous", x)
    if not x.ndim:
        raise ShapeError("homogeneous", must="be given inputs (..., i)", got=())
    return torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)


def require_constant(who: str, first: Tensor) -> None:
    """Raise ShapeError unless the ``first`` of each x̃ = (1, x) is 1."""
    if not first.is_meta and bool((first.detach() != 1).any()):
        must, todo = "be (1, x), its first number 1, or x", "Pass x, or homogeneous(x)."
        raise ShapeError(who, must=must, got="another number", todo=todo)


def keeps_constant(*maps: Tensor | None) -> bool:
    """Whether maps (new, old) take (1, x) to (1, …): their first column is (1, 0, 0, …)."""
    return all(matrix is None or _is_first(matrix.detach()[:, 0]) for matrix in maps)


def _is_first(column: Float[Tensor, " n"]) -> bool:
    if column.is_meta or not len(column):
        return False
    return bool(column[0] == 1) and not bool(column[1:].any())


def _over(affine: bool) -> str:
    return "(1, x)" if affine else "x"


def shared_out(power: int) -> tuple[int, int, int]:
    """A power of two for each of three factors, as even as can be."""
    return power - 2 * (power // 3), power // 3, power // 3


def require_mode(mode: str) -> None:
    """Raise ArgumentError unless ``mode`` is out, left or right."""
    require("mode", mode, OneOf(MODES), ArgumentError)


def require_maps(tensor: "ThirdOrder", **maps: Tensor | None) -> None:
    """Raise ShapeError unless every given map is (new, old) with old the size of its mode."""
    for (mode, matrix), size in zip(maps.items(), tensor.shape, strict=True):
        if matrix is not None and not isinstance(matrix, Tensor):
            raise ShapeError(f"map({mode}=)", must="be a torch tensor", got=type(matrix).__name__)
        if matrix is not None and (matrix.ndim != 2 or matrix.shape[1] != size):
            raise ShapeError(f"map({mode}=)", must=f"be (new, {size})", got=tuple(matrix.shape))
        if matrix is not None and (matrix.dtype != tensor.dtype or matrix.device != tensor.device):
            raise ShapeError(
                f"map({mode}=)", must=f"be {_place(tensor._any())} like T", got=_place(matrix)
            )


def _place(tensor: Tensor) -> str:
    return f"{dtype_name(tensor.dtype)} on {tensor.device}"


def _off_by_one(vector: Tensor, size: int) -> bool:
    return vector.ndim > 0 and vector.shape[-1] == size - 1

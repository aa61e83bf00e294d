"""What every third-order form can do; the forms say how."""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra.factored import Factored
from bilens.algebra.quadratic import QuadraticForm
from bilens.base.axes import MODES, Mode
from bilens.base.errors import ArgumentError, ShapeError, TooLargeError
from bilens.base.numerics import dtype_name, require_floating, working_dtype
from bilens.base.records import Record

GIB = 2**30
Form = TypeVar("Form", bound="ThirdOrder")  # not Self: beartype checks methods one by one


class ThirdOrder(Record, ABC):
    """A tensor T[o, i, j] in some form. Frozen; every verb makes a new value; gradients flow through the factors.

    Verbs act on T as it stands: ``symmetrise()`` first where the symmetric part is meant. Only ``dense()`` makes the cube.
    Source: Sharkey, arXiv:2305.03452, section 3 (bilinear layers as third-order tensors).
    """

    # How each form does it.

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(o, i, j)."""

    @abstractmethod
    def _any(self) -> Tensor:
        """One of the tensors, for dtype and device."""

    @abstractmethod
    def _apply(self, x: Float[Tensor, "*#b i"], y: Float[Tensor, "*#b j"]) -> Float[Tensor, "*b o"]: ...

    @abstractmethod
    def _contract(self, mode: Mode, u: Float[Tensor, "*b s"]) -> Factored: ...

    @abstractmethod
    def _cube(self) -> Float[Tensor, "o i j"]: ...

    @abstractmethod
    def interaction(self, u: Float[Tensor, "*b o"]) -> QuadraticForm:
        """Q_u, the symmetric interaction matrix of output direction ``u``: u·T(x) = xᵀ Q_u x, factored.

        Q_u = Σ_o u_o S_o with S the symmetric part of T. Leading batch dims of ``u`` become those of the form.
        Cost (CP): o·h per direction. Errors: ShapeError where left and right are different spaces.
        """

    @abstractmethod
    def map(
        self: Form,
        *,
        out: Float[Tensor, "o2 o"] | None = None,
        left: Float[Tensor, "i2 i"] | None = None,
        right: Float[Tensor, "j2 j"] | None = None,
    ) -> Form:
        """Change of basis: T'[a, b, c] = Σ M_ao N_bi P_cj T_oij with each map (new, old); modes not named stay."""

    @abstractmethod
    def swap(self: Form) -> Form:
        """T with left and right exchanged: T'[o, j, i] = T[o, i, j]."""

    @abstractmethod
    def _inner(self, other: "ThirdOrder") -> Float[Tensor, ""]: ...

    @abstractmethod
    def gram(self, mode: Mode) -> Float[Tensor, "s s"]:
        """The Gram of one unfolding, e.g. ``"out"``: G_oo' = Σ_ij T_oij T_o'ij. float16 and bfloat16 work in float32.

        CP: O(h² (o + i + j)) time and O(h²) memory.
        """

    @abstractmethod
    def _plus(self: Form, other: Any) -> Form: ...

    @abstractmethod
    def __mul__(self: Form, factor: float | int | Tensor) -> Form: ...

    # What follows from that, the same for all.

    @property
    def dtype(self) -> torch.dtype:
        return self._any().dtype

    @property
    def device(self) -> torch.device:
        return self._any().device

    def __call__(self, x: Float[Tensor, "*#b i"], y: Float[Tensor, "*#b j"] | None = None) -> Float[Tensor, "*b o"]:
        """T(x, y)_o = Σ_ij T_oij x_i y_j; ``T(x)`` is T(x, x). Leading dims broadcast. CP: h (o + i + j) per input."""
        if y is None:
            self._require_one_space("a call with one input")
            y = x
        for name, vector, size in (("left input", x, self.shape[1]), ("right input", y, self.shape[2])):
            self.require_fits(name, vector, size)
        return self._apply(x, y)

    def contract(
        self,
        *,
        out: Float[Tensor, "*b o"] | None = None,
        left: Float[Tensor, "*b i"] | None = None,
        right: Float[Tensor, "*b j"] | None = None,
    ) -> Factored:
        """Feed one mode a vector: ``out=u`` gives M_ij, ``left=x`` gives M_oj, ``right=y`` gives M_oi, each factored.

        Leading batch dims broadcast. The matrix of ``out=u`` is not symmetrised: ``interaction(u)`` is.
        Errors: ArgumentError unless exactly one mode is fed.
        """
        given: tuple[tuple[Mode, Tensor | None], ...] = (("out", out), ("left", left), ("right", right))
        fed: dict[Mode, Tensor] = {mode: u for mode, u in given if u is not None}
        if len(fed) != 1:
            raise ArgumentError(
                "contract", must="be given exactly one of out=, left=, right=", got=f"{sorted(fed) or 'none'}"
            )
        ((mode, u),) = fed.items()
        self.require_fits(f"contract({mode}=)", u, self.shape[MODES.index(mode)])
        return self._contract(mode, u)

    def symmetrise(self: Form) -> Form:
        """The symmetric part S_oij = ½ (T_oij + T_oji), which is all that acts when both inputs are the same x.

        CP: the rank doubles. Errors: ShapeError where left and right are different spaces.
        """
        self._require_one_space("symmetrise")
        return (self + self.swap()) * 0.5

    def inner(self, other: "ThirdOrder") -> Float[Tensor, ""]:
        """⟨T, S⟩ = Σ T_oij S_oij, for any two forms of the same shape.

        Summed in float64, where terms of both signs cancel without harm, and given in T's dtype (half types: float32).
        CP with CP: O(h h' (o + i + j)) time, O(h h') memory and float64 copies of the factors.
        """
        self._require_like("inner", other, ThirdOrder)
        return self._exact_inner(other).to(working_dtype(self.dtype))

    def norm(self) -> Float[Tensor, ""]:
        """‖T‖, the root of the summed squares of all entries; cost of one ``inner``. Its gradient at T = 0 is NaN."""
        return self._exact_inner(self).clamp(min=0).sqrt().to(working_dtype(self.dtype))

    def similarity(self, other: "ThirdOrder") -> Float[Tensor, ""]:
        """⟨T, S⟩ / (‖T‖ ‖S‖) in [-1, 1]. Errors: ArgumentError where one of the two is zero."""
        self._require_like("similarity", other, ThirdOrder)
        squares = self._exact_inner(self), other._exact_inner(other)
        if min(float(square.detach()) for square in squares) <= 0:
            raise ArgumentError("similarity", must="compare two tensors that are not zero", got="a norm of 0")
        found = self._exact_inner(other) / squares[0].sqrt() / squares[1].sqrt()
        return found.clamp(-1, 1).to(working_dtype(self.dtype))

    def _exact_inner(self, other: "ThirdOrder") -> Float[Tensor, ""]:
        return self.to(torch.float64)._inner(other.to(torch.float64))

    def dense(self, max_bytes: int = GIB) -> Float[Tensor, "o i j"]:
        """The whole cube, the truth for small tests: o·i·j numbers.

        Errors: TooLargeError where it would take more than ``max_bytes`` (1 GiB unless raised by hand).
        """
        o, i, j = self.shape
        needed = o * i * j * self._any().element_size()
        if needed > max_bytes:
            raise TooLargeError(
                "dense()",
                must=f"stay below max_bytes = {max_bytes:,}",
                got=f"{o} × {i} × {j} {dtype_name(self.dtype)} = {needed:,} bytes",
                todo="Every other verb works without the cube; pass max_bytes= to make it all the same.",
            )
        return self._cube()

    def __add__(self: Form, other: Form) -> Form:
        """T + S, of one form and shape. CP: the ranks add up; Tucker: the cores stand block-diagonal."""
        self._require_like(f"{type(self).__name__} + other", other, type(self))
        return self._plus(other)

    def __rmul__(self: Form, factor: float | int | Tensor) -> Form:
        return self * factor

    def __neg__(self: Form) -> Form:
        return self * -1.0

    def __sub__(self: Form, other: Form) -> Form:
        return self + (-other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={dtype_name(self.dtype)}, device={self.device})"

    # Checks.

    def _require_one_space(self, who: str) -> None:
        if self.shape[1] != self.shape[2]:
            raise ShapeError(
                who, must="have left and right of one size", got=self.shape, todo="Give both inputs, or map one."
            )

    def require_fits(self, who: str, vector: Tensor, size: int) -> None:
        """Raise ShapeError unless ``vector`` ends in ``size`` and is of the dtype and on the device of T."""
        if vector.ndim == 0 or vector.shape[-1] != size:
            hint = "A layer with biases is a tensor over (1, x): pass homogeneous(x)." if _off_by_one(vector, size) else ""
            raise ShapeError(who, must=f"end in {size} (T is {self.shape})", got=tuple(vector.shape), todo=hint)
        if vector.dtype != self.dtype or vector.device != self.device:
            raise ShapeError(
                who, must=f"be {_place(self._any())} like T", got=_place(vector), todo="Use .to(...) on either."
            )

    def _require_like(self, who: str, other: object, form: type["ThirdOrder"]) -> None:
        if not isinstance(other, form):
            raise ArgumentError(who, must=f"join two tensors of the same form ({form.__name__})", got=type(other).__name__)
        if other.shape != self.shape:
            raise ShapeError(who, must=f"join two tensors of shape {self.shape}", got=other.shape)
        if other.dtype != self.dtype or other.device != self.device:
            raise ShapeError(who, must=f"join two tensors that are {_place(self._any())}", got=_place(other._any()))


def require_factors(who: str, **factors: tuple[Tensor, tuple[int | None, ...]]) -> None:
    """Check each factor against (tensor, expected shape with None for free sizes), and one dtype and device for all."""
    for name, (factor, _) in factors.items():
        if not isinstance(factor, Tensor):
            raise ShapeError(f"{who}.{name}", must="be a torch tensor", got=type(factor).__name__)
    first = next(iter(factors.values()))[0]
    require_floating(f"{who}.{next(iter(factors))}", first.dtype)
    for name, (factor, expected) in factors.items():
        fits = factor.ndim == len(expected) and all(e is None or e == n for e, n in zip(expected, factor.shape, strict=True))
        if not fits:
            wanted = "(" + ", ".join("any" if e is None else str(e) for e in expected) + ")"
            raise ShapeError(f"{who}.{name}", must=f"be {wanted}", got=tuple(factor.shape))
        if factor.dtype != first.dtype or factor.device != first.device:
            raise ShapeError(f"{who}.{name}", must=f"be {_place(first)} like the first factor", got=_place(factor))


def require_mode(mode: str) -> None:
    """Raise ArgumentError unless ``mode`` is out, left or right."""
    if mode not in MODES:
        raise ArgumentError("mode", must=f"be one of {MODES}", got=repr(mode))


def require_maps(tensor: "ThirdOrder", **maps: Tensor | None) -> None:
    """Raise ShapeError unless every given map is (new, old) with old the size of its mode."""
    for (mode, matrix), size in zip(maps.items(), tensor.shape, strict=True):
        if matrix is not None and (matrix.ndim != 2 or matrix.shape[1] != size):
            raise ShapeError(f"map({mode}=)", must=f"be (new, {size})", got=tuple(matrix.shape))
        if matrix is not None and (matrix.dtype != tensor.dtype or matrix.device != tensor.device):
            raise ShapeError(f"map({mode}=)", must=f"be {_place(tensor._any())} like T", got=_place(matrix))


def _place(tensor: Tensor) -> str:
    return f"{dtype_name(tensor.dtype)} on {tensor.device}"


def _off_by_one(vector: Tensor, size: int) -> bool:
    return vector.ndim > 0 and vector.shape[-1] == size - 1

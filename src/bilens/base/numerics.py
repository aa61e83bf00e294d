"""Tolerances by dtype, the dtype that spectra are computed in, and the finiteness check."""

import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.errors import ArgumentError, NotFiniteError, RangeError, ShapeError, SizeError

LARGEST = float(torch.finfo(torch.float64).max)  # of a finite number
GIB = 2**30  # what a result or a block may take, unless asked for more
# Relative to the largest term: what an exact identity may miss by, through rounding alone. Half
# types keep 8 and 11 bits, so a sum of products is good to about 2^-6 and 2^-9.
TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
}


def tolerance(dtype: torch.dtype) -> float:
    """The relative error below which an identity holds "exactly" in ``dtype``."""
    require_floating("tolerance", dtype)
    return TOLERANCE[dtype]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that eigenproblems and Grams of ``dtype`` are computed in: half types go up to
    float32.
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def eigh(matrix: Float[Tensor, "*b i i"]) -> tuple[Float[Tensor, "*b i"], Float[Tensor, "*b i i"]]:
    """``torch.linalg.eigh``, as exact on a GPU as on a CPU: eigenvalues, smallest first, and
    eigenvectors as columns.

    A GPU's own leaves 3e-5 of the largest in float32, in residuals and in right angles, where
    LAPACK leaves 1e-6; a second one, in the basis that the first found, leaves as little. Cost:
    O(i³), there three times. Errors: torch's LinAlgError.
    """
    values, vectors = torch.linalg.eigh(matrix)
    exact = matrix.is_cpu or matrix.dtype == torch.float64
    return (values, vectors) if exact else eigh_near(matrix, vectors.detach())


def eigh_near(
    matrix: Float[Tensor, "*b i i"], vectors: Float[Tensor, "*b i i"]
) -> tuple[Float[Tensor, "*b i"], Float[Tensor, "*b i i"]]:
    """``eigh``, from ``vectors`` that are nearly the eigenvectors."""
    basis = torch.linalg.qr(vectors).Q
    inner = basis.mT @ matrix @ basis
    values, turns = torch.linalg.eigh((inner + inner.mT) / 2)
    return values, basis @ turns


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float64`` -> ``"float64"``."""
    return str(dtype).removeprefix("torch.")


def require_floating(who: str, dtype: torch.dtype) -> None:
    """Raise ShapeError unless ``dtype`` is a real floating type that bilens knows."""
    if dtype not in TOLERANCE:
        names = ", ".join(dtype_name(known) for known in TOLERANCE)
        raise ShapeError(who, must=f"have a real floating dtype ({names})", got=dtype_name(dtype))


def is_whole(value: object) -> bool:
    """Whether ``value`` is a whole number, numpy's included; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def holds_several(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether things can be had of ``value`` one after another. A text is one thing, and so is a
    tensor or an array without a dimension, which has no first entry.
    """
    single = isinstance(value, str) or getattr(value, "ndim", 1) == 0
    return isinstance(value, Iterable) and not single


def scalar(who: str, factor: float | int | Tensor, like: Tensor) -> Tensor:
    """``factor``, a number or a tensor of one entry, in the dtype and on the device of ``like``.
    Errors: SizeError where it has more entries.
    """
    try:
        factor = torch.as_tensor(factor, dtype=like.dtype, device=like.device)
    # a text, a list of lists, a complex number, one beyond the range of a float
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ArgumentError(
            f"{who} * factor", must="be given a number", got=repr(factor)
        ) from error
    if factor.numel() != 1:
        raise SizeError(f"{who} * factor", must="be given a scalar", got=tuple(factor.shape))
    return factor.reshape(())


def as_given(value: Any) -> Tensor:
    """A tensor as it is; numbers and lists as one on the CPU, whatever torch's default is."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")


def standard_normal(
    *shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Standard normal numbers where their generator is: the same whatever torch's defaults are."""
    return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)


def near_one(factor: Tensor) -> tuple[Tensor, int]:
    """A tensor over the power of two above its largest entry, which rounds nothing; and the power
    (0 for zeros).

    Squares and products of what is near one stay in range, whatever the scale of the weights: it is
    taken out once, where weights come in, and put back with ``scaled`` where a figure has it.
    Gradients flow.
    """
    largest = float(peak(factor))
    if not 0 < largest < math.inf:
        return factor, 0
    power = math.frexp(largest)[1]
    return scaled(factor, -power), power


def powers(largest: Tensor) -> Tensor:
    """The power of two above each of ``largest`` (absolute values), 0 where that is zero or not
    finite.
    """
    exponent = torch.frexp(largest.detach().double()).exponent.to(torch.int64)
    return exponent.masked_fill((largest == 0) | ~torch.isfinite(largest), 0)


def within(sizes: Tensor, reach: int) -> bool:
    """Whether all of ``sizes`` (absolute values) have ``powers`` from -``reach`` to ``reach``."""
    if sizes.numel():
        least, most = (float(end) for end in torch.aminmax(sizes.detach()))
        if 2.0 ** (-reach - 1) <= least and most < 2.0**reach:  # a tenth of the time of all powers
            return True
    return bool((powers(sizes).abs() <= reach).all())


def peak(factor: Tensor, dim: int | None = None) -> Tensor:
    """max |factor| along ``dim``, or of all, 0 over nothing; without gradients."""
    factor = factor.detach()
    if (factor.numel() if dim is None else factor.shape[dim]) == 0:
        return factor.sum(dim)
    # Without a copy, and ten times as fast as torch's own norm of order infinity. aminmax, in one
    # pass, copies what is not contiguous, and takes longer than the two along a dimension.
    if dim is None and factor.is_contiguous():
        least, most = torch.aminmax(factor)
    else:
        dims = () if dim is None else dim
        least, most = factor.amin(dims), factor.amax(dims)
    return torch.maximum(most, -least)


def scaled(values: Tensor, power: int | Tensor) -> Tensor:
    """``values`` · 2^power, in steps that stay in range of the dtype. Exact but where the result
    leaves the range.
    """
    most = int(math.log2(torch.finfo(values.dtype).max)) - 1
    if isinstance(power, Tensor):  # a power for each row
        while bool(power.any()):
            step = power.clamp(-most, most)
            values, power = values * _two_to(step).to(values.dtype), power - step
        return values
    while power:
        step = max(-most, min(most, power))
        values, power = values * 2.0**step, power - step
    return values


def _two_to(power: Tensor) -> Tensor:
    """2^power in float64, exactly, for −1022 ≤ power ≤ 1023: written into the exponent's bits."""
    return ((power.to(torch.int64) + 1023) << 52).view(torch.float64)


def restored(
    who: str,
    values: Tensor,
    power: int | Tensor,
    dtype: torch.dtype,
    rounding: Callable[[], float] = float,
) -> Tensor:
    """``values`` · 2^power in ``dtype``: where the scale that ``near_one`` took out is put back
    into a figure.

    Values up to ``rounding()`` are what is left of terms that cancel, and may fall below the range.
    Errors: RangeError where the largest of them is too large or too small for ``dtype``.
    """
    found = scaled(values, power).to(dtype)
    before, after = float(peak(values)), float(peak(found))
    fits = torch.finfo(dtype).tiny <= after < math.inf
    if before > 0 and not fits and before > rounding():
        larger = int(as_given(power).max())
        size = round((math.log2(before) + larger) * math.log10(2)) if before < math.inf else "inf"
        wider = (
            ""
            if dtype == torch.float64
            else "Use .to(torch.float64), or multiply the tensor by a number. "
        )
        todo = f"{wider}Relative figures do not depend on the scale."
        raise RangeError(
            who, must=f"lie in the range of {dtype_name(dtype)}", got=f"about 1e{size}", todo=todo
        )
    return found


def restored_float(who: str, value: float, power: int) -> float:
    """``restored`` for a plain number, in float64."""
    return float(
        restored(who, torch.tensor(value, dtype=torch.float64, device="cpu"), power, torch.float64)
    )


def square_share(part: float, whole: float) -> float:
    """part² / whole², whatever the scale of both; 0 where all is zero."""
    return (part / whole) ** 2 if whole else 0.0


def square_shares(values: Tensor) -> Tensor:
    """Of the sum of all squares, whatever their scale; 0 where all are zero."""
    squares = near_one(values)[0].square()
    whole = squares.sum()
    return squares / whole if whole else squares


def root(squares: Tensor) -> Tensor:
    """√squares where they are sums of squares: 0 at and below 0, where the gradient is 0 too; a NaN
    stays one.

    What cancels may leave a square a little below zero; and √ itself has no derivative at 0, which
    makes a NaN of every gradient behind it, even where the chain rule multiplies by nothing.
    """
    none = squares <= 0
    return torch.where(none, 1.0, squares).sqrt().masked_fill(none, 0.0)


def nonnegative(value: float) -> float:
    """``value``, 0 where rounding left it below; a NaN stays one, which ``max(0.0, value)`` would
    hide.
    """
    return 0.0 if value < 0 else value


def require_count(name: str, value: object, least: int = 1) -> None:
    """Raise ArgumentError unless ``value`` is a whole number of at least ``least``; True and False
    are none.
    """
    if not is_whole(value) or value < least:  # type: ignore[operator]
        raise ArgumentError(name, must=f"be a whole number ≥ {least}", got=repr(value))


def require_share(name: str, value: object, must: str = "in [0, 1)") -> None:
    """Raise ArgumentError unless ``value`` is a number in [0, 1)."""
    if not is_number(value) or not 0 <= value < 1:  # type: ignore[operator]
        raise ArgumentError(name, must=f"be {must}", got=value if is_number(value) else repr(value))


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a real number, numpy's included; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def broadcasts(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    """Whether two batch shapes fit."""
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(two), strict=False))


def require_seed(name: str, value: object) -> None:
    """Raise ArgumentError unless ``value`` is a whole number that a generator takes."""
    if not is_whole(value) or not -(2**63) <= value < 2**63:  # type: ignore[operator]
        raise ArgumentError(name, must="be a whole number", got=repr(value))


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that begins from a seed, which may be a whole number of numpy."""
    return torch.Generator(device).manual_seed(int(seed))


def require_tensor(who: str, value: object) -> None:
    """Raise ShapeError unless ``value`` is a tensor that is laid out entry by entry."""
    if not isinstance(value, Tensor):
        todo = "Pass its .weight." if isinstance(getattr(value, "weight", None), Tensor) else ""
        raise ShapeError(who, must="be a torch tensor", got=type(value).__name__, todo=todo)
    if value.layout != torch.strided:
        name = str(value.layout).removeprefix("torch.")
        raise ShapeError(who, must="be a dense tensor", got=name, todo="Pass .to_dense() of it.")


def require_values(who: str, tensor: Tensor) -> None:
    """Raise ShapeError for a tensor on the meta device, which has a shape and no values."""
    if tensor.is_meta:
        raise ShapeError(
            who, must="hold values", got="a meta tensor", todo="Load the weights first."
        )


def require_finite(who: str, **tensors: Tensor) -> None:
    """Raise NotFiniteError naming the first of ``tensors`` with a NaN or infinite entry. One pass
    over each.
    """
    for name, tensor in tensors.items():
        require_tensor(f"{who}.{name}" if who else name, tensor)
        require_values(f"{who}.{name}" if who else name, tensor)
        if _all_finite(tensor.detach()):
            continue
        bad = int((~torch.isfinite(tensor.detach())).sum())
        if bad:
            raise NotFiniteError(
                f"{who}.{name}" if who else name,
                must="be finite",
                got=f"{bad} NaN or infinite of {tensor.numel()} entries",
                todo="A diverged training run or a damaged file; load an earlier checkpoint.",
            )


def _all_finite(tensor: Tensor) -> bool:
    """Whether the largest entry is finite, which a NaN is not either: no copy as large as the
    tensor.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor.numel() == 0 or not tensor.is_complex()
    return math.isfinite(float(peak(tensor)))


def relative_error(got: Tensor, truth: Tensor) -> float:
    """max |got - truth| / max |truth| in float64, absolute where the truth is zero: what
    ``tolerance`` bounds.
    """
    got, truth = got.detach().double(), truth.detach().double()
    if truth.numel() == 0:
        return 0.0
    worst, scale = float((got - truth).abs().max()), float(truth.abs().max())
    return worst / scale if scale > 0 else worst

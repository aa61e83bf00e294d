"""Tolerances by dtype, the dtype that spectra are computed in, and the finiteness check."""

from numbers import Integral

import torch
from torch import Tensor

from bilens.base.errors import NotFiniteError, ShapeError

# Relative to the largest term: what an exact identity may miss by, through rounding alone. Half types keep 8 and 11
# bits, so a sum of products is good to about 2^-6 and 2^-9.
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
    """The dtype that eigenproblems and Grams of ``dtype`` are computed in: half types go up to float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


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


def scalar(who: str, factor: float | int | Tensor, like: Tensor) -> Tensor:
    """``factor`` as a number of the dtype and device of ``like``. Errors: ShapeError where it is a vector or more."""
    factor = torch.as_tensor(factor, dtype=like.dtype, device=like.device)
    if factor.ndim:
        raise ShapeError(f"{who} * factor", must="be given a scalar", got=tuple(factor.shape))
    return factor


def require_finite(who: str, **tensors: Tensor) -> None:
    """Raise NotFiniteError naming the first of ``tensors`` with a NaN or infinite entry. One pass over each."""
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor.detach())).sum())
        if bad:
            raise NotFiniteError(
                f"{who}.{name}" if who else name,
                must="be finite",
                got=f"{bad} NaN or infinite of {tensor.numel()} entries",
                todo="A diverged training run or a damaged file; load an earlier checkpoint.",
            )


def relative_error(got: Tensor, truth: Tensor) -> float:
    """max |got - truth| / max |truth| in float64, absolute where the truth is zero: what ``tolerance`` bounds."""
    got, truth = got.detach().double(), truth.detach().double()
    if truth.numel() == 0:
        return 0.0
    worst, scale = float((got - truth).abs().max()), float(truth.abs().max())
    return worst / scale if scale > 0 else worst

"""HOSVD from mode Grams: the singular spectra of a layer's three modes, without the cube."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, Dense, ThirdOrder, Tucker
from bilens.algebra.third import GIB
from bilens.base.axes import MODES, Mode
from bilens.base.errors import ArgumentError
from bilens.base.numerics import dtype_name, is_whole, require_finite
from bilens.base.results import Result


@dataclass(frozen=True, repr=False, eq=False)
class HOSVD(Result):
    """T ≈ core ×_out U_o ×_left U_l ×_right U_r with orthonormal bases, each mode's best first.

    Fields:
        spectrum: all singular values of each mode's unfolding, largest first.
        bases: the kept singular vectors of each mode, as columns (size, kept).
        core: T in those bases, still factored; ``tucker`` multiplies it out.
        discarded: per mode, the root of the summed squares of the singular values left out.
        error: ‖T − T̂‖ / ‖T‖, computed from inner products and not from the spectra.
        noise: per mode, the singular value below which a Gram in this precision holds only rounding.
        norm: ‖T‖.  computed_in: the dtype of the work.
    """

    spectrum: dict[str, Float[Tensor, " s"]]
    bases: dict[str, Float[Tensor, "s r"]]
    core: CP | Dense | Tucker
    discarded: dict[str, float]
    error: float
    noise: dict[str, float]
    norm: float
    computed_in: str

    @property
    def ranks(self) -> tuple[int, int, int]:
        """The kept rank of each mode: out, left, right."""
        return self.core.shape

    @property
    def tucker(self) -> Tucker:
        """The decomposition with its core multiplied out, a·b·c numbers. TooLargeError above 1 GiB: set max_rank."""
        return Tucker(self.core.dense(max_bytes=GIB), **self.bases)

    @property
    def bound(self) -> float:
        """The classical bound on ``error``: the root of all modes' discarded squares, over ‖T‖."""
        return sum(value**2 for value in self.discarded.values()) ** 0.5 / self.norm if self.norm else 0.0

    def summary(self) -> str:
        kept = ", ".join(f"{mode} {r} of {len(self.spectrum[mode])}" for mode, r in zip(MODES, self.ranks, strict=True))
        return f"kept {kept}; relative error {self.error:.3g} (bound {self.bound:.3g}), in {self.computed_in}"

    def rows(self) -> list[dict[str, Any]]:
        total = self.norm**2 or 1.0
        return [
            {
                "mode": mode,
                "component": n,
                "singular value": value,
                "share of ‖T‖²": value**2 / total,
                "kept": n < self.bases[mode].shape[1],
                "above noise": value > self.noise[mode],
            }
            for mode in MODES
            for n, value in enumerate(self.spectrum[mode].tolist())
        ]

    def figure(self) -> dict[str, Any]:
        dashes = {"out": "solid", "left": "solid", "right": "dot"}  # left and right coincide where T is symmetric
        lines = [
            {"type": "scatter", "mode": "lines", "name": mode, "line": {"dash": dashes[mode]},
             "y": values[values > self.noise[mode]].tolist()}
            for mode, values in self.spectrum.items()
        ]  # fmt: skip
        axis = {"title": {"text": "singular value"}, "type": "log", "exponentformat": "power", "dtick": 1}
        return {"data": lines, "layout": {"xaxis": {"title": {"text": "component"}}, "yaxis": axis}}


def hosvd(
    tensor: CP | Dense | Tucker,
    max_rank: int | Sequence[int] | None = None,
    cutoff: float | None = None,
) -> HOSVD:
    """The higher-order SVD, truncated to ``max_rank`` per mode and to singular values above ``cutoff`` times the largest.

    The eigenvectors of each mode's Gram are that mode's singular vectors, the roots of its eigenvalues the singular
    values; T in these bases is the core. A Gram squares the condition number, so the work is done in float64 whatever
    T's dtype is (the result's tensors stay float64); ``noise`` says what rounding leaves unreadable.

    T is taken as it stands: ``hosvd(T.symmetrise())`` where only x ⊗ x acts.
    Cost for a CP: O(h² (o + i + j) + o³ + i³ + j³) time, O(h² + i²) memory.
    Errors: NotFiniteError; ArgumentError for a ``max_rank`` below 1 or a ``cutoff`` outside [0, 1).
    Source: De Lathauwer et al. 2000; for bilinear layers Pearce et al., arXiv:2410.08417, appendix.
    """
    ranks = _ranks(max_rank)
    if cutoff is not None and not 0 <= cutoff < 1:
        raise ArgumentError("cutoff", must="be in [0, 1), relative to the largest singular value", got=cutoff)
    work = tensor.to(torch.float64).detach()
    require_finite("hosvd", **vars(work))
    spectrum: dict[str, Tensor] = {}
    bases: dict[str, Tensor] = {}
    for mode, rank in zip(MODES, ranks, strict=True):
        spectrum[mode], vectors = _singular(work, mode)
        kept = _kept(spectrum[mode], rank, cutoff)
        bases[mode] = vectors[:, :kept]
    norm = float(work.norm())
    return HOSVD(
        spectrum=spectrum,
        bases=bases,
        core=cast(CP | Dense | Tucker, work.map(**{mode: basis.mT for mode, basis in bases.items()})),
        discarded={mode: float(spectrum[mode][bases[mode].shape[1] :].square().sum().sqrt()) for mode in MODES},
        error=_missed(work, bases) / norm if norm else 0.0,
        noise={
            mode: float(values[0]) * (len(values) * torch.finfo(torch.float64).eps) ** 0.5
            for mode, values in spectrum.items()
        },
        norm=norm,
        computed_in=dtype_name(work.dtype),
    )


def _singular(tensor: ThirdOrder, mode: Mode) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(tensor.gram(mode))
    return values.flip(0).clamp(min=0).sqrt(), vectors.flip(1)


def _missed(tensor: ThirdOrder, bases: dict[str, Tensor]) -> float:
    """‖T − T̂‖ with T̂ the projection on ``bases``, free of the cancellation in ‖T‖² − ‖T̂‖².

    T − P_o P_l P_r T = (1−P_o) T + P_o (1−P_l) T + P_o P_l (1−P_r) T, and the three pieces are orthogonal.
    """
    missed, rest = 0.0, tensor
    for mode, basis in bases.items():
        inside = basis @ basis.mT
        if basis.shape[0] != basis.shape[1]:
            outside = torch.eye(len(inside), dtype=inside.dtype, device=inside.device) - inside
            missed += float(rest.map(**{mode: outside}).norm()) ** 2
            rest = rest.map(**{mode: inside})
    return missed**0.5


def _kept(values: Tensor, rank: int | None, cutoff: float | None) -> int:
    kept = len(values) if cutoff is None else int((values > cutoff * values[0]).sum())
    return max(1, kept if rank is None else min(kept, rank))


def _ranks(max_rank: int | Sequence[int] | None) -> tuple[int | None, ...]:
    ranks = tuple(max_rank) if isinstance(max_rank, Sequence) else (max_rank,) * 3
    if len(ranks) != 3 or any(rank is not None and (not is_whole(rank) or rank < 1) for rank in ranks):
        raise ArgumentError("max_rank", must="be a whole number ≥ 1, or three (out, left, right)", got=max_rank)
    return ranks

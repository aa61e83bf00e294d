"""The SVD of a layer's outputs: output directions, each with the matrix that the inputs meet in,
none like another.

Unfolded along the outputs, T is an o × i·j matrix; its SVD is T = Σ_k σ_k u_k ⊗ M_k, with
orthonormal u_k and M_k. As u_k·T is the interaction matrix of direction u_k, M_k = Q_{u_k} / σ_k:
only the o × o side is ever decomposed, and all M_k together are T with its outputs turned, a tensor
of as many outputs as there are components.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, Dense, QuadraticForm, Tucker, signs
from bilens.base.numerics import dtype_name, restored_float, scaled, square_share
from bilens.base.results import Result
from bilens.decompose.unfoldings.drawn import spectrum_layout, spectrum_line
from bilens.decompose.unfoldings.unfolding import (
    ALL,
    Precision,
    at_most,
    box,
    box_norm,
    in_basis,
    kept,
    left_out,
    norm_of,
    require_cutoff,
    require_rank,
    require_tensor,
    rescaled,
    unfolding,
)


@dataclass(frozen=True, repr=False, eq=False)
class SVD(Result):
    """T ≈ Σ_k σ_k u_k ⊗ M_k with orthonormal output directions u_k and orthonormal matrices M_k,
    best first.

    Fields:
        values: σ_k of the components kept, all above ``noise``.
        directions: row k is u_k, its largest entry positive: what ``eigen`` takes as directions.
        tensor: (k, i, j), still factored: its k-th slice is M_k; where ``symmetric``, the symmetric
            part of the slice.
        spectrum: all o singular values.
        discarded: the root of the summed squares of those left out.
        error: ‖T − T̂‖ / ‖T‖, from inner products and not from the spectrum; never above what the
            spectrum allows.
        noise: the singular value below which this precision leaves only rounding.
        norm: ‖T‖; 0, as ``error``, where T is zero as far as can be told.
        symmetric: whether all this is of T's symmetric part.
        precision, computed_in: how the spectrum was found, and the dtype of the work.

    Columns, a row for each component: ``component``: its place, ``singular value``; ``share of
    ‖T‖²``: its square over ‖T‖²; whether it is ``kept``, and ``above noise``.

    >>> found = bilens.decompose.svd(T, max_rank=4)
    >>> found.values.shape, found.directions.shape
    (torch.Size([4]), torch.Size([4, 128]))
    """

    values: Float[Tensor, " k"]
    directions: Float[Tensor, "k o"]
    tensor: CP | Dense | Tucker
    spectrum: Float[Tensor, " o"]
    discarded: float
    error: float
    noise: float
    norm: float
    symmetric: bool
    precision: str
    computed_in: str

    @property
    def matrices(self) -> QuadraticForm:
        """All M_k as quadratic forms (k, i, i), factored: M_k(x) = u_k·T(x) / σ_k. ShapeError where
        left and right differ.

        Their symmetric parts, where the SVD is not of the ``symmetric`` part.
        """
        return self.tensor.interaction(
            torch.eye(len(self.values), dtype=self.tensor.dtype, device=self.tensor.device)
        )

    def summary(self) -> str:
        what = "the symmetric part's outputs" if self.symmetric else "the outputs"
        return (
            f"{len(self.values)} of {len(self.spectrum)} components of {what}, {self.precision}; "
            f"relative error {self.error:.3g}, noise below {self.noise:.3g}"
        )

    def columns(self) -> tuple[str, ...]:
        return "component", "singular value", "share of ‖T‖²", "kept", "above noise"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "component": n,
                "singular value": value,
                "share of ‖T‖²": square_share(value, self.norm),
                "kept": n < len(self.values),
                "above noise": value > self.noise,
            }
            for n, value in enumerate(self.spectrum.tolist())
        ]

    def figure(self) -> dict[str, Any]:
        """The singular values above the noise; those kept are to the left of the dotted line."""
        heard = self.spectrum[self.spectrum > self.noise]
        kept, count = len(self.values), len(self.spectrum)
        title = f"Singular values: {kept} of {count} kept, relative error {self.error:.3g}"
        line = spectrum_line("out", heard, self.norm)
        return {"data": [line], "layout": spectrum_layout(title, [kept])}


@torch.no_grad()
def svd(
    tensor: CP | Dense | Tucker,
    max_rank: int | None = None,
    cutoff: float | None = None,
    *,
    symmetric: bool = True,
    precision: Precision = "float64",
) -> SVD:
    """The SVD over outputs, truncated to ``max_rank`` components and to σ above ``cutoff`` times
    the largest.

    ``symmetric`` is the default here, as for every verb that speaks of interaction matrices: where
    both inputs are the same x only the symmetric part acts, and the M_k are then orthonormal as
    functions' matrices. False takes T as it stands, left and right of any sizes. A component at or
    below ``noise`` has no M_k, so none is kept; a zero tensor has no component.
    ``precision``: as for ``hosvd``.

    Cost for a CP: O(h² (o + i + j) + o³), once more for the error where anything is left out;
    memory h (o + i + j). Errors: as ``hosvd``. Source: the note's tensor with its outputs turned;
    for trained layers Pearce et al., arXiv:2410.08417, section 3.

    >>> found = bilens.decompose.svd(T, max_rank=4)
    >>> bool((found.values.diff() <= 0).all())  # largest first
    True
    """
    require_rank(max_rank)
    require_cutoff(cutoff)
    require_tensor("svd", tensor, symmetric, precision)
    tensor, power = rescaled(tensor, precision)
    found = unfolding(tensor, "out", symmetric, precision)
    rank = min(kept(found.values, max_rank, cutoff), int((found.values > found.noise).sum()))
    whole, dtype = in_basis(tensor, {"out": found}), found.vectors.dtype
    turn = signs(found.vectors[:, :rank].mT)
    values, norm = found.values[:rank], norm_of(tensor, found, symmetric, precision)
    rest = box_norm(whole, slice(rank, None), ALL, ALL, symmetric, precision)
    size = restored_float("‖T‖", norm, power)
    return SVD(
        values=scaled(values.double(), power),
        directions=found.vectors[:, :rank].mT * turn,
        tensor=box(whole, slice(rank)).to(dtype).map(out=torch.diag(turn[:, 0] / values)),
        spectrum=scaled(found.values.double(), power),
        discarded=math.ldexp(left_out(found, rank), power),
        error=min(1.0, rest / norm, at_most(found, rank) / norm) if norm else 0.0,
        noise=math.ldexp(found.noise, power),
        norm=size,
        symmetric=symmetric,
        precision=precision,
        computed_in=dtype_name(dtype),
    )

"""HOSVD: the singular spectra of a layer's three modes, without the cube. How they are found:
``unfoldings.unfolding``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, Dense, Tucker
from bilens.base.axes import MODES
from bilens.base.errors import ArgumentError
from bilens.base.numerics import (
    GIB,
    dtype_name,
    is_whole,
    require_count,
    restored_float,
    scaled,
    square_share,
)
from bilens.base.results import ANSWER_ROWS, Result
from bilens.decompose.spectra.weighted import fitted, whitened
from bilens.decompose.unfoldings.drawn import spectrum_layout, spectrum_line
from bilens.decompose.unfoldings.iteration import iterated
from bilens.decompose.unfoldings.unfolding import (
    Precision,
    at_most,
    box,
    kept,
    left_out,
    norm_of,
    require_cutoff,
    require_tensor,
    rescaled,
    unfoldings,
)
from bilens.measure import Gaussian


@dataclass(frozen=True, repr=False, eq=False)
class HOSVD(Result):
    """T ≈ core ×_out U_o ×_left U_l ×_right U_r with orthonormal bases, each mode's best first.

    Fields:
        spectrum: all singular values of each mode's unfolding, largest first.
        bases: the kept singular vectors of each mode, as columns (size, kept).
        core: T in those bases, still factored; ``tucker`` multiplies it out, and symmetrises it
            where ``symmetric``.
        discarded: per mode, the root of the summed squares of the singular values left out.
        error: ‖T − T̂‖ / ‖T‖, computed from inner products and not from the spectra; where terms
            cancel so far that rounding would raise it above ``bound``, that.
        bound: what ``error`` is at most, from the spectra: all modes' discarded squares, with the
            noise in them.
        noise: per mode, the singular value below which this precision leaves only rounding.
        norm: ‖T‖; 0, as ``error`` and ``bound``, where T is zero as far as can be told.
        symmetric: whether all this is of T's symmetric part.
        precision, computed_in: how the spectra were found, and the dtype of the work.  weighted:
            whether by a data measure.
        affine: whether T̂ is over (1, x), as T.
        sweeps: how many sweeps of orthogonal iteration went into the bases.

    Columns, a row for each component of each mode: ``mode``, ``component``: its place, ``singular
    value``; ``share of ‖T‖²``: its square over ‖T‖², adding up to 1 in each mode; whether it is
    ``kept``, and ``above noise``.

    >>> found = bilens.decompose.hosvd(T, max_rank=8)
    >>> found.bases["out"].shape, found.error <= found.bound + 1e-6
    (torch.Size([128, 8]), True)
    """

    spectrum: dict[str, Float[Tensor, " s"]]
    bases: dict[str, Float[Tensor, "s r"]]
    core: CP | Dense | Tucker
    discarded: dict[str, float]
    error: float
    bound: float
    noise: dict[str, float]
    norm: float
    symmetric: bool
    precision: str
    weighted: bool
    computed_in: str
    affine: bool = False
    sweeps: int = 0

    @property
    def ranks(self) -> tuple[int, int, int]:
        """The kept rank of each mode: out, left, right."""
        return self.core.shape

    @property
    def tucker(self) -> Tucker:
        """The decomposition with its core multiplied out, a·b·c numbers. TooLargeError above 1 GiB:
        set max_rank.
        """
        core = self.core.dense(max_bytes=GIB)
        return Tucker(
            (core + core.mT) / 2 if self.symmetric else core, **self.bases, affine=self.affine
        )

    def summary(self) -> str:
        ranks = ", ".join(
            f"{mode} {r} of {len(self.spectrum[mode])}"
            for mode, r in zip(MODES, self.ranks, strict=True)
        )
        over = "over z = Σ^-½ (x − μ): " if self.weighted else ""
        if not self.norm:
            noise = max(self.noise.values())
            return f"{over}zero, or below the noise of {noise:.3g}; in {self.computed_in}"
        error = f"relative error {self.error:.3g} (bound {self.bound:.3g})"
        swept = f", after sweeps: {self.sweeps}" if self.sweeps else ""
        return f"{over}kept {ranks}; {error}{swept}, in {self.computed_in}"

    def columns(self) -> tuple[str, ...]:
        return "mode", "component", "singular value", "share of ‖T‖²", "kept", "above noise"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "mode": mode,
                "component": n,
                "singular value": value,
                "share of ‖T‖²": square_share(value, self.norm),
                "kept": n < self.bases[mode].shape[1],
                "above noise": value > self.noise[mode],
            }
            for mode in MODES
            for n, value in enumerate(self.spectrum[mode].tolist())
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """What the first components of every mode hold of ‖T‖²."""
        squares = {
            mode: [square_share(value, self.norm) for value in values.tolist()]
            for mode, values in self.spectrum.items()
        }
        return [
            {"component": n}
            | {
                f"{mode}: share of ‖T‖²": share[n] if n < len(share) else None
                for mode, share in squares.items()
            }
            for n in range(min(count, max(map(len, squares.values()))))
        ]

    def figure(self) -> dict[str, Any]:
        """The singular values above the noise; those kept are to the left of the dotted lines."""
        # left and right coincide where T is symmetric
        dashes = {"out": "solid", "left": "solid", "right": "dot"}
        lines = [
            spectrum_line(mode, values[values > self.noise[mode]], self.norm, dash=dashes[mode])
            for mode, values in self.spectrum.items()
        ]
        ranks = ", ".join(f"{mode} {r}" for mode, r in zip(MODES, self.ranks, strict=True))
        title = f"Singular values: kept {ranks}; relative error {self.error:.3g}"
        return {"data": lines, "layout": spectrum_layout(title, sorted(set(self.ranks)))}


@torch.no_grad()
def hosvd(
    tensor: CP | Dense | Tucker,
    max_rank: int | Sequence[int] | None = None,
    cutoff: float | None = None,
    *,
    symmetric: bool = False,
    precision: Precision = "float64",
    measure: Gaussian | Float[Tensor, "m _"] | None = None,
    sweeps: int = 0,
) -> HOSVD:
    """The higher-order SVD, truncated to ``max_rank`` per mode and to singular values above
    ``cutoff`` times the largest.

    Each mode's singular vectors are its basis; T in these bases is the core. T is taken as it
    stands. ``symmetric`` takes the symmetric part, all that acts where both inputs are the same x:
    left and right are then one mode with one rank.

    ``precision``: "float64" (the default; what it costs beside float32 is a factor of two) finds
    the spectra from Grams in float64 whatever T's dtype is; singular values below ``noise`` ≈ √(n
    eps) σ₁ are rounding. "float32": from Grams in float32, for large layers on devices slow in
    float64. "orthogonal": without Grams, where small singular values matter: noise ≈ n eps σ₁.
    Bases and core are of the dtype of the work, spectra in float64.

    ``measure``: a Gaussian or activations; then all of this is of T over z = Σ^-½ (x − μ) on both
    inputs, the part of the layer that is quadratic in z, where directions weigh as much as inputs
    vary along them; input bases are in z.

    ``sweeps``: at most so many sweeps of higher-order orthogonal iteration over the truncated
    bases, each mode's in turn the best beside the others. A sweep that does not lower ``error``
    ends them and is not taken, so that it is never larger than without. The spectra stay those of
    T. Each costs about what the HOSVD does.

    >>> cube = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))
    >>> cube = bilens.Dense(cube)
    >>> plain, swept = (bilens.decompose.hosvd(cube, 2, sweeps=n) for n in (0, 3))
    >>> swept.error < plain.error
    True

    Cost for a CP: Grams O(h² (o + i + j)) and their eigenvectors O(o³ + i³ + j³), once more the
    first where anything is truncated, for the error; memory that of the turned factors, h (o + i +
    j), and O(o² + i² + j²). "orthogonal": O(o i h² + o j h² + i j h²) (with (2h)² for the inputs of
    a symmetric part), sizes above h counting as h, and O(h²) memory: for small layers. Errors:
    NotFiniteError; RangeError where float64 does not hold ‖T‖; ShapeError for an empty mode, or a
    symmetric part where left and right differ; ArgumentError for a ``max_rank`` below 1 (or of its
    own for left and right of a symmetric part), a ``cutoff`` outside [0, 1) or an unknown
    ``precision``. Source: De Lathauwer et al. 2000, SIAM J. Matrix
    Anal. Appl. 21, 1253 (HOSVD) and 1324 (sweeps: algorithm 4.2); for bilinear layers Pearce et
    al., arXiv:2410.08417, appendix.
    """
    wanted = _ranks(max_rank, symmetric)
    require_cutoff(cutoff)
    require_count("sweeps", sweeps, 0)
    require_tensor("hosvd", tensor, symmetric, precision)
    tensor, power = rescaled(tensor, precision)
    affine = tensor.affine and measure is None
    if measure is not None:
        tensor.require_one_space("hosvd(measure=)")
        tensor, more = whitened(tensor, fitted(measure, tensor)[0])
        power += more
    tensor, more = rescaled(tensor, precision)
    modes = MODES[:2] if symmetric else MODES
    found = dict(zip(modes, unfoldings(tensor, modes, symmetric, precision), strict=True))
    found.setdefault("right", found["left"])
    a, b, c = (
        kept(found[mode].values, rank, cutoff) for mode, rank in zip(MODES, wanted, strict=True)
    )
    ranks = dict(zip(MODES, (a, b, c), strict=True))
    swept = iterated(tensor, found, (a, b, c), symmetric, precision, sweeps)
    whole, dtype = swept.whole, found["out"].vectors.dtype
    norm = norm_of(tensor, found["out"], symmetric, precision)
    bound = (
        min(1.0, math.hypot(*(at_most(found[mode], rank) for mode, rank in ranks.items())) / norm)
        if norm
        else 0.0
    )
    power += more
    core = whole if (a, b, c) == whole.shape else _copied(box(whole, slice(a), slice(b), slice(c)))
    core, size = core.to(dtype), restored_float("‖T‖", norm, power)
    return HOSVD(
        spectrum={mode: scaled(one.values.double(), power) for mode, one in found.items()},
        bases={mode: swept.found[mode].vectors[:, :rank] for mode, rank in ranks.items()},
        core=core.scaled(power) if power else core,
        discarded={
            mode: math.ldexp(left_out(found[mode], rank), power) for mode, rank in ranks.items()
        },
        error=min(swept.missed / norm, bound) if norm else 0.0,
        bound=bound,
        noise={mode: math.ldexp(one.noise, power) for mode, one in found.items()},
        norm=size,
        symmetric=symmetric,
        precision=precision,
        weighted=measure is not None,
        computed_in=dtype_name(dtype),
        affine=affine,
        sweeps=swept.sweeps,
    )


def _ranks(max_rank: int | Sequence[int] | None, symmetric: bool) -> tuple[int | None, ...]:
    ranks: tuple[int | None, ...] = (
        tuple(max_rank) if isinstance(max_rank, Sequence) else (max_rank,) * 3
    )
    if len(ranks) != 3 or any(
        rank is not None and (not is_whole(rank) or rank < 1) for rank in ranks
    ):
        raise ArgumentError(
            "max_rank",
            must="be a whole number ≥ 1, or three (out, left, right)",
            got=repr(max_rank),
        )
    if symmetric and ranks[1] != ranks[2]:
        raise ArgumentError(
            "max_rank", must="be the same for left and right of a symmetric part", got=max_rank
        )
    return ranks


def _copied(core: CP | Dense | Tucker) -> CP | Dense | Tucker:
    """The core with memory of its own: a view would keep the whole turned tensor."""
    return replace(core, **{name: factor.clone() for name, factor in core.factors().items()})

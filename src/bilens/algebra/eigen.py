"""Eigenpairs as a result: values, vectors, what was left out, how far each can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.base.charts import MARKER, REFERENCE, counted, curve, signed, titled
from bilens.base.errors import ArgumentError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import is_whole, peak, powers, restored, root, scaled, square_share
from bilens.base.results import ANSWER_ROWS, Result

Which = Literal["magnitude", "top", "bottom"]
LINES = 10  # spectra in one figure
WHICH: tuple[Which, ...] = ("magnitude", "top", "bottom")


@dataclass(frozen=True, repr=False, eq=False)
class Eigen(Result):
    """Eigenpairs of symmetric interaction matrices Q, best first: Q ≈ Σ_k λ_k v_k v_kᵀ.

    Fields:
        values: λ, ordered by ``which``.
        vectors: row k is v_k, of unit length, its largest entry positive.
        residuals: ‖Q v − λ v‖, measured on the factors. Some true eigenvalue lies within it of λ.
        converged: whether the residual is below ``tol`` times ``largest``: whether each pair is
            right.
        complete: whether none is missing before the last kept one, as far as ``known`` says.
        blocks: pairs with the same number are degenerate: closer than their error bounds. Only
            their span has meaning.
        cut: whether the last kept pair is degenerate with one that was left out.
        spectrum: all eigenvalues in the same order; those found, where ``method`` is lanczos.
        discarded: ‖Q − Σ kept‖, the Frobenius norm of what was left out: from ``spectrum``, or,
            where ``method`` is lanczos, as √(‖Q‖² − Σλ²): a difference, which is rounding where
            it is below about 10⁻³ of ‖Q‖ in float32, 10⁻⁷ in float64.
        norm: ‖Q‖, from the factors and not from the eigenvalues.
        largest: ‖Q‖₂, the largest |λ| of the whole spectrum; where ``method`` is lanczos, the
            largest that was seen.
        labels: names of the leading dim's entries (classes, directions), or none.
        which, method, computed_in: how the pairs were chosen, found, and in which dtype.
        known: how ``complete`` is known: from the whole spectrum, by a random probe and with which
            chance, or by inertia.

    Columns, a row for each pair: ``of``: the label of the matrix, or its number; ``k``: the pair's
    place by ``which``; ``value``: λ; ``residual``, ``converged`` and ``complete`` as above;
    ``block``: pairs of one number are degenerate; ``share of ‖Q‖²``: λ² over ‖Q‖².

    >>> pairs = bilens.decompose.eigen(T, model.lm_head.weight[:2].detach(), k=4)
    >>> pairs.values.shape, pairs.vectors.shape
    (torch.Size([2, 4]), torch.Size([2, 4, 128]))
    >>> bool(pairs.converged.all())
    True
    """

    values: Float[Tensor, "*b k"]
    vectors: Float[Tensor, "*b k i"]
    residuals: Float[Tensor, "*b k"]
    converged: Bool[Tensor, "*b k"]
    complete: Bool[Tensor, "*b"]
    blocks: Int[Tensor, "*b k"]
    cut: Bool[Tensor, "*b"]
    spectrum: Float[Tensor, "*b s"]
    discarded: Float[Tensor, "*b"]
    norm: Float[Tensor, "*b"]
    largest: Float[Tensor, "*b"]
    labels: tuple[str, ...]
    which: str
    method: str
    known: str
    computed_in: str

    @property
    def error(self) -> Float[Tensor, "*b"]:
        """‖Q − Σ kept‖ / ‖Q‖, 0 for a zero matrix, NaN where ‖Q‖ was not asked for."""
        none = self.norm == 0
        return (self.discarded / torch.where(none, 1.0, self.norm)).masked_fill(none, 0.0)

    @property
    def effective_rank(self) -> Float[Tensor, "*b"]:
        """(Σ|λ|)² / Σλ² over the whole spectrum: 1 for a single direction, n for n equal ones, 0
        for a zero matrix.

        Errors: ArgumentError where only a part of the spectrum was computed.
        """
        if self.spectrum.shape[-1] < self.vectors.shape[-1]:
            must, todo = "be asked of a whole spectrum", "Ask eigen with solver=Dense()."
            raise ArgumentError(
                "effective_rank", must=must, got=f"{self.spectrum.shape[-1]} eigenvalues", todo=todo
            )
        size = torch.where(self.largest == 0, 1.0, self.largest)[..., None].detach()
        shares = self.spectrum / size  # near one: squares stay in range
        noise = eigen_noise(getattr(torch, self.computed_in), self.vectors.shape[-1])
        # |λ| has no slope there but rounding's
        shares = shares.masked_fill(shares.detach().abs() <= noise, 0.0)
        squares = shares.square().sum(-1)
        none = squares == 0
        return (shares.abs().sum(-1).square() / torch.where(none, 1.0, squares)).masked_fill(
            none, 0.0
        )

    @property
    def degenerate(self) -> list[Any]:
        """The degenerate blocks of two and more, as tuples of positions, nested by batch dims."""
        return _groups(self.blocks)

    def labelled(self, labels: Sequence[str]) -> "Eigen":
        """The same with a name for each entry of the leading dim: a class, a direction.

        Errors: ArgumentError unless ``labels`` names all of them.
        """
        require_labels(labels, len(self.values))
        return replace(self, labels=tuple(labels))

    def summary(self) -> str:
        batch = self.values.shape[:-1]
        pairs = (
            f"{math.prod(batch)} × {self.values.shape[-1]}" if batch else str(self.values.shape[-1])
        )
        worst = float(self.error.detach().max()) if self.error.numel() else 0.0
        left_out = (
            "what is left out was not measured"
            if math.isnan(worst)
            else f"left out at most {worst:.3g} of the norm"
        )
        size, how = self.vectors.shape[-1], f"{self.method} in {self.computed_in}"
        return (
            f"{pairs} eigenpairs by {self.which} of size {size}, {how}; "
            f"{left_out}; {int((~self.converged).sum())} not converged; {self._whole()}"
        )

    def columns(self) -> tuple[str, ...]:
        return "of", "k", "value", "residual", "converged", "complete", "block", "share of ‖Q‖²"

    def _whole(self) -> str:
        missing = int((~self.complete).sum())
        return (
            f"complete ({self.known})"
            if not missing
            else f"{missing} of {self.complete.numel()} perhaps not complete"
        )

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "of": self._label(n),
                "k": k,
                "value": float(flat.values[k]),
                "residual": float(flat.residuals[k]),
                "converged": bool(flat.converged[k]),
                "complete": bool(flat.complete),
                "block": int(flat.blocks[k]),
                "share of ‖Q‖²": square_share(float(flat.values[k]), float(flat.norm)),
            }
            for n, flat in enumerate(self._flat())
            for k in range(flat.values.shape[-1])
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The eigenpairs of largest |λ|, of all matrices."""
        rows = sorted(self.rows(), key=lambda row: -abs(row["value"]))[:count]
        told = ("of", "k", "value", "share of ‖Q‖²", "converged", "block")
        single = not self.cut.ndim
        return [{key: row[key] for key in told[single:]} for row in rows]

    def figure(self) -> dict[str, Any]:
        """All eigenvalues that are known from the highest to the lowest, large where the pair was
        kept. Of many matrices the ``LINES`` of largest norm.
        """
        flat = self._flat()
        chosen = sorted(range(len(flat)), key=lambda n: -float(flat[n].norm))[:LINES]
        traces = [self._line(n, flat[n], len(flat) == 1) for n in sorted(chosen)]
        of = f" of {len(chosen)} of {len(flat)} matrices" if len(chosen) < len(flat) else ""
        kept = f"{self.values.shape[-1]} of {self.vectors.shape[-1]} kept"
        title = f"Eigenvalues{of}: {kept}{self._left_out()}"
        whole = counted(self.spectrum.shape[-1])
        layout = titled(title, "rank, from the highest to the lowest", "λ", xaxis=whole)
        return {"data": traces, "layout": layout | {"showlegend": len(flat) > 1}}

    def _line(self, n: int, flat: "Eigen", alone: bool) -> dict[str, Any]:
        """The spectrum of one matrix, coloured by sign where it is the only one."""
        spectrum, count = flat.spectrum.tolist(), flat.values.shape[-1]
        order = sorted(range(len(spectrum)), key=lambda k: -spectrum[k])
        values = [spectrum[k] for k in order]
        norm = float(flat.norm)
        hover = {
            "λ": values,
            "k": [k if k < count else None for k in order],
            "share of ‖Q‖²": [square_share(value, norm) for value in values],
        }
        trace = curve(self._label(n), list(range(len(values))), values, hover=hover, width=1)
        marks: dict[str, Any] = {"size": [MARKER if k < count else MARKER / 2 for k in order]}
        if alone:
            marks["color"] = signed(values)
            trace["line"]["color"] = REFERENCE
        return trace | {"marker": marks}

    def _left_out(self) -> str:
        """How much the kept pairs leave of the norm, at most; nothing where it was not measured."""
        worst = float(self.error.detach().max()) if self.error.numel() else 0.0
        return "" if math.isnan(worst) else f", at most {worst:.2g} of the norm left out"

    def _label(self, n: int) -> str:
        return self.labels[n] if n < len(self.labels) else str(n)

    def _flat(self) -> list["Eigen"]:
        """One result per matrix, batch dims flattened, in row-major order."""
        depth = self.cut.ndim
        held = {field.name: getattr(self, field.name) for field in fields(Eigen)}
        flat = {
            name: tensor.detach().reshape(-1, *tensor.shape[depth:])
            for name, tensor in held.items()
            if isinstance(tensor, Tensor)
        }
        parts = (
            {name: tensor[n] for name, tensor in flat.items()} for n in range(self.cut.numel())
        )
        whole = cast("Eigen", self)
        return [replace(whole, **part, labels=()) for part in parts]


Pairs = TypeVar("Pairs", bound=Eigen)


def require_which(which: str) -> None:
    """Raise ArgumentError unless ``which`` is magnitude, top or bottom.

    >>> bilens.algebra.require_which("top")
    """
    require("which", which, OneOf(WHICH), ArgumentError)


def require_labels(labels: Sequence[str], count: int) -> None:
    """Raise ArgumentError unless ``labels`` holds ``count`` names, or none at all."""
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise ArgumentError("labels", must="be a sequence of names", got=repr(labels))
    if labels and len(labels) != count:
        raise ArgumentError("labels", must=f"name all {count} directions", got=len(labels))


def require_count(k: int | None) -> None:
    """Raise ArgumentError unless ``k`` is None or a whole number of at least 1.

    >>> bilens.algebra.require_count(8)
    """
    if k is not None and (not is_whole(k) or k < 1):
        raise ArgumentError("k", must="be a whole number ≥ 1, or None for all", got=repr(k))


def best_first(values: Float[Tensor, "*b i"], which: Which) -> Int[Tensor, "*b i"]:
    """The order of ``values`` by ``which``."""
    return preference(values, which).argsort(dim=-1, descending=True, stable=True)


def preference(values: Float[Tensor, "*b"], which: Which) -> Float[Tensor, "*b"]:
    """What makes one eigenvalue come before another: larger is better.

    >>> bilens.algebra.preference(torch.tensor([-3.0, 2.0]), "magnitude")
    tensor([3., 2.])
    """
    return {"magnitude": values.abs(), "top": values, "bottom": -values}[which]


def degenerate_blocks(
    spectrum: Float[Tensor, "*b i"], bound: Float[Tensor, "*b i"]
) -> Int[Tensor, "*b i"]:
    """Number the chains of eigenvalues whose neighbours lie closer than the sum of their error
    bounds.

    Weyl: an eigenvalue moves by no more than the perturbation's norm, so closer ones cannot be told
    apart.

    >>> spectrum = torch.tensor([3.0, 3.0, 1.0])
    >>> bilens.algebra.degenerate_blocks(spectrum, torch.full((3,), 1e-6))
    tensor([1, 1, 0])
    """
    order = spectrum.argsort(dim=-1)
    value, reach = spectrum.gather(-1, order), bound.gather(-1, order)
    apart = value.diff(dim=-1) > reach[..., 1:] + reach[..., :-1]
    number = torch.cat([torch.zeros_like(order[..., :1]), apart.cumsum(-1)], dim=-1)
    return torch.zeros_like(order).scatter(-1, order, number)


def at_scale(found: Pairs, power: Int[Tensor, "*b"]) -> Pairs:
    """Eigenpairs of 2^power Q from those of Q, in float64 where their own dtype does not hold them.

    Errors: RangeError where float64 does not either.

    >>> pairs = bilens.decompose.eigen(T, torch.eye(128)[:1], k=2)
    >>> twice = bilens.algebra.at_scale(pairs, torch.ones(1, dtype=torch.int64))
    >>> torch.allclose(twice.values, 2 * pairs.values)
    True
    """
    if not bool(power.any()):
        return found
    figures = "values", "residuals", "spectrum", "discarded", "norm", "largest"
    reached = (powers(found.largest) + power)[found.largest > 0]
    kind = torch.finfo(found.values.dtype)
    # what is a rounding error of the largest is to stay in range too
    spare = round(-math.log2(kind.eps))
    low, high = math.log2(kind.tiny) + spare, math.log2(kind.max) - 2
    fits = reached.numel() == 0 or (int(reached.min()) >= low and int(reached.max()) <= high)
    dtype = found.values.dtype if fits else torch.float64

    for size, by in zip(
        found.largest.flatten().double(), power.expand(found.largest.shape).flatten(), strict=True
    ):
        restored("eigenvalues", size, by, torch.float64)
    return replace(
        found, **{name: _times(getattr(found, name).to(dtype), power) for name in figures}
    )


def _times(values: Float[Tensor, "*values"], power: Int[Tensor, "*b"]) -> Float[Tensor, "*values"]:
    """Each row of ``values`` times its own power of two."""
    return scaled(values, power.reshape(power.shape + (1,) * (values.ndim - power.ndim)))


def _groups(blocks: Tensor) -> list[Any]:
    if blocks.ndim > 1:
        return [_groups(row) for row in blocks]
    members: dict[int, list[int]] = {}
    for position, number in enumerate(blocks.tolist()):
        members.setdefault(number, []).append(position)
    return [tuple(group) for group in members.values() if len(group) > 1]


def eigen_noise(dtype: torch.dtype, size: int) -> float:
    """How far rounding alone moves eigenvalues, over the largest: a few ulps growing as √size (a
    heuristic: LAPACK promises a modest polynomial in the size and delivers about its root).

    >>> bilens.algebra.eigen_noise(torch.float32, 128) < 1e-5
    True
    """
    return 4 * torch.finfo(dtype).eps * size**0.5


def length(values: Float[Tensor, "*b i"]) -> Float[Tensor, "*b"]:
    """√Σ λ², whatever the scale."""
    size = peak(values, -1)
    size = torch.where(size == 0, 1.0, size)
    return size * root((values / size[..., None]).square().sum(-1))

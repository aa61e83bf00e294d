"""Eigenpairs as a result: values, vectors, what was left out, how far each can be trusted."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole
from bilens.base.results import Result

Which = Literal["magnitude", "top", "bottom"]
WHICH: tuple[Which, ...] = ("magnitude", "top", "bottom")


@dataclass(frozen=True, repr=False, eq=False)
class Eigen(Result):
    """Eigenpairs of symmetric interaction matrices Q, best first: Q ≈ Σ_k λ_k v_k v_kᵀ.

    Fields:
        values: λ, ordered by ``which``.
        vectors: row k is v_k, of unit length, its largest entry positive.
        residuals: ‖Q v − λ v‖, measured on the factors. Some true eigenvalue lies within it of λ.
        converged: whether the residual is below ``tol`` times the largest |λ|.
        blocks: pairs with the same number are degenerate: closer than their error bounds. Only their span has meaning.
        cut: whether the last kept pair is degenerate with one that was left out.
        spectrum: all eigenvalues in the same order; those found, where ``method`` is lanczos.
        discarded: ‖Q − Σ kept‖, the Frobenius norm of what was left out: from ``spectrum``, or as √(‖Q‖² − Σλ²).
        norm: ‖Q‖, from the factors and not from the eigenvalues.
        labels: names of the leading dim's entries (classes, directions), or none.
        which, method, computed_in: how the pairs were chosen, found, and in which dtype.
    """

    values: Float[Tensor, "*b k"]
    vectors: Float[Tensor, "*b k i"]
    residuals: Float[Tensor, "*b k"]
    converged: Bool[Tensor, "*b k"]
    blocks: Int[Tensor, "*b k"]
    cut: Bool[Tensor, "*b"]
    spectrum: Float[Tensor, "*b s"]
    discarded: Float[Tensor, "*b"]
    norm: Float[Tensor, "*b"]
    labels: tuple[str, ...]
    which: str
    method: str
    computed_in: str

    @property
    def error(self) -> Float[Tensor, "*b"]:
        """‖Q − Σ kept‖ / ‖Q‖, 0 for a zero matrix, NaN where ‖Q‖ was not asked for."""
        return torch.where(self.norm == 0, torch.zeros_like(self.norm), self.discarded / self.norm)

    @property
    def effective_rank(self) -> Float[Tensor, "*b"]:
        """(Σ|λ|)² / Σλ² over the whole spectrum: 1 for a single direction, n for n equal ones, 0 for a zero matrix.

        Errors: ArgumentError where only a part of the spectrum was computed.
        """
        if self.spectrum.shape[-1] < self.vectors.shape[-1]:
            must, todo = "be asked of a whole spectrum", 'Ask eigen for method="dense".'
            raise ArgumentError("effective_rank", must=must, got=f"{self.spectrum.shape[-1]} eigenvalues", todo=todo)
        squares = self.spectrum.square().sum(-1)
        return torch.where(squares > 0, self.spectrum.abs().sum(-1).square() / squares, torch.zeros_like(squares))

    @property
    def degenerate(self) -> list[Any]:
        """The degenerate blocks of two and more, as tuples of positions; nested by the batch dims."""
        return _groups(self.blocks)

    def summary(self) -> str:
        batch = self.values.shape[:-1]
        pairs = f"{math.prod(batch)} × {self.values.shape[-1]}" if batch else str(self.values.shape[-1])
        worst = float(self.error.detach().max()) if self.error.numel() else 0.0
        left_out = "what is left out was not measured" if math.isnan(worst) else f"left out at most {worst:.3g} of the norm"
        return (
            f"{pairs} eigenpairs by {self.which} of size {self.vectors.shape[-1]}, {self.method} in {self.computed_in}; "
            f"{left_out}; {int((~self.converged).sum())} not converged"
        )

    def columns(self) -> tuple[str, ...]:
        return "of", "k", "value", "residual", "converged", "block", "share of ‖Q‖²"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "of": self._label(n),
                "k": k,
                "value": float(flat.values[k]),
                "residual": float(flat.residuals[k]),
                "converged": bool(flat.converged[k]),
                "block": int(flat.blocks[k]),
                "share of ‖Q‖²": float(flat.values[k] ** 2 / flat.norm**2) if float(flat.norm) else 0.0,
            }
            for n, flat in enumerate(self._flat())
            for k in range(flat.values.shape[-1])
        ]

    def figure(self) -> dict[str, Any]:
        traces = [
            {"type": "scatter", "mode": "lines+markers", "name": self._label(n), "y": flat.spectrum.tolist()}
            for n, flat in enumerate(self._flat())
        ]
        layout = {"xaxis": {"title": {"text": f"eigenvalue, by {self.which}"}}, "yaxis": {"title": {"text": "λ"}}}
        return {"data": traces, "layout": layout}

    def _label(self, n: int) -> str:
        return self.labels[n] if n < len(self.labels) else str(n)

    def _flat(self) -> list["Eigen"]:
        """One result per matrix, batch dims flattened, in row-major order."""
        depth = self.cut.ndim
        tensors = (self.values, self.vectors, self.residuals, self.converged, self.blocks, self.cut, self.spectrum,
                   self.discarded, self.norm)  # fmt: skip
        flat = [tensor.detach().reshape(-1, *tensor.shape[depth:]) for tensor in tensors]
        names = [field.name for field in fields(self)][: len(flat)]
        parts = ({name: tensor[n] for name, tensor in zip(names, flat, strict=True)} for n in range(self.cut.numel()))
        return [replace(self, **part, labels=()) for part in parts]


def require_which(which: str) -> None:
    """Raise ArgumentError unless ``which`` is magnitude, top or bottom."""
    if which not in WHICH:
        raise ArgumentError("which", must=f"be one of {WHICH}", got=repr(which))


def require_count(k: int | None) -> None:
    """Raise ArgumentError unless ``k`` is None or a whole number of at least 1."""
    if k is not None and (not is_whole(k) or k < 1):
        raise ArgumentError("k", must="be a whole number ≥ 1, or None for all", got=repr(k))


def best_first(values: Float[Tensor, "*b i"], which: Which) -> Int[Tensor, "*b i"]:
    """The order of ``values`` by ``which``."""
    return preference(values, which).argsort(dim=-1, descending=True, stable=True)


def preference(values: Float[Tensor, "*b"], which: Which) -> Float[Tensor, "*b"]:
    """What makes one eigenvalue come before another: larger is better."""
    return {"magnitude": values.abs(), "top": values, "bottom": -values}[which]


def degenerate_blocks(spectrum: Float[Tensor, "*b i"], bound: Float[Tensor, "*b i"]) -> Int[Tensor, "*b i"]:
    """Number the chains of eigenvalues whose neighbours lie closer than the sum of their error bounds.

    Weyl: an eigenvalue moves by no more than the perturbation's norm, so closer ones cannot be told apart.
    """
    order = spectrum.argsort(dim=-1)
    value, reach = spectrum.gather(-1, order), bound.gather(-1, order)
    apart = value.diff(dim=-1) > reach[..., 1:] + reach[..., :-1]
    number = torch.cat([torch.zeros_like(order[..., :1]), apart.cumsum(-1)], dim=-1)
    return torch.zeros_like(order).scatter(-1, order, number)


def _groups(blocks: Tensor) -> list[Any]:
    if blocks.ndim > 1:
        return [_groups(row) for row in blocks]
    members: dict[int, list[int]] = {}
    for position, number in enumerate(blocks.tolist()):
        members.setdefault(number, []).append(position)
    return [tuple(group) for group in members.values() if len(group) > 1]

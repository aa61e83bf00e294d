"""A quadratic form from shared factors: the interaction matrix of an output direction, never formed
unless asked.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.algebra.eigen import (
    Eigen,
    Which,
    at_scale,
    best_first,
    degenerate_blocks,
    eigen_noise,
    length,
    require_count,
    require_which,
)
from bilens.algebra.eigh import symmetric_eigh
from bilens.algebra.symmetric import signs, unit_products
from bilens.algebra.units import cosines, products
from bilens.base.charts import mapped, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import (
    broadcasts,
    dtype_name,
    peak,
    powers,
    require_finite,
    require_floating,
    require_tensor,
    require_values,
    restored,
    root,
    scalar,
    scaled,
    tolerance,
    working_dtype,
)
from bilens.base.records import Record
from bilens.base.results import Result, Tabled
from bilens.base.tables import Columns
from bilens.base.words import counting

WHOLE = "dense: the whole spectrum"  # how it is known that no eigenvalue is missing
# powers of two that a factor may lie from one: four are multiplied
REACH = {torch.float64: 120, torch.float32: 20}
LEAST = -(2**40)  # below every power of two
DRAWN_GATES = 8
BLOCK = 1024  # hidden units whose Gram with all others is held at once


@dataclass(frozen=True, repr=False, eq=False)
class QuadraticForm(Record, Tabled):
    """Q(x) = xᵀ Q x = Σ_h w_h (l_h·x)(r_h·x), that is Q = ½ (Lᵀ W R + Rᵀ W L) with W = diag(w):
    symmetric always.

    Fields: ``weights`` (..., h), ``left`` and ``right`` (..., h, i). Batch dims broadcast, so the
    interaction matrices of many directions share one L and one R and differ in their weights alone.
    Rank at most 2h.

    Columns of ``to_frame()``, a row for each hidden unit of each form, the largest first: ``of``:
    the number of the form, where there are several; ``unit``: that of the unit; ``value``: w_h
    ‖l_h‖ ‖r_h‖, which no rescaling of the unit changes; ``cosine`` of l_h and r_h, ±1 for a square.

    >>> Q = T.interaction(torch.eye(128)[0])
    >>> torch.allclose(Q(x), T(x)[:, 0], atol=1e-5)
    True
    >>> Q.shape
    (128, 128)
    """

    weights: Float[Tensor, "*#b h"]
    left: Float[Tensor, "*#b h i"]
    right: Float[Tensor, "*#b h i"]

    def __post_init__(self) -> None:
        for name, factor in vars(self).items():
            require_tensor(f"QuadraticForm.{name}", factor)
        require_floating("QuadraticForm.weights", self.weights.dtype)
        fits = (
            self.weights.ndim >= 1
            and self.left.ndim >= 2
            and self.left.shape[-2:] == self.right.shape[-2:]
        )
        if not fits or self.weights.shape[-1] != self.left.shape[-2]:
            got = ", ".join(str(tuple(t.shape)) for t in (self.weights, self.left, self.right))
            raise ShapeError(
                "QuadraticForm",
                must="get weights (..., h), left (..., h, i), right (..., h, i)",
                got=got,
            )
        batches = self.weights.shape[:-1], self.left.shape[:-2], self.right.shape[:-2]
        if not all(broadcasts(one, two) for one, two in itertools.combinations(batches, 2)):
            got = ", ".join(map(str, map(tuple, batches)))
            raise ShapeError("QuadraticForm", must="get batch dims that broadcast", got=got)
        if len({(t.dtype, t.device) for t in (self.weights, self.left, self.right)}) > 1:
            raise ShapeError(
                "QuadraticForm",
                must="get three factors of one dtype and device",
                got="different ones",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., i, i)."""
        batch = torch.broadcast_shapes(
            self.weights.shape[:-1], self.left.shape[:-2], self.right.shape[:-2]
        )
        return (*batch, self.left.shape[-1], self.left.shape[-1])

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.dtype

    @property
    def device(self) -> torch.device:
        return self.weights.device

    def __call__(self, x: Float[Tensor, "*c i"]) -> Float[Tensor, "*bc"]:
        """xᵀ Q x. Batch dims of form and x broadcast: n forms on x of (b, 1, i) give (b, n). Cost 2
        h i per input.
        """
        self._require_fits(x)
        return (self.weights * _rows(self.left, x) * _rows(self.right, x)).sum(-1)

    def __matmul__(self, x: Float[Tensor, "*c i"]) -> Float[Tensor, "*bc i"]:
        """Q x, from the factors: 4 h i multiply-adds, Q never formed."""
        self._require_fits(x)
        onto_left, onto_right = (
            self.weights * _rows(self.right, x),
            self.weights * _rows(self.left, x),
        )
        return 0.5 * (_combine(onto_left, self.left) + _combine(onto_right, self.right))

    @property
    def tracked(self) -> bool:
        """Whether gradients flow through it here and now."""
        return torch.is_grad_enabled() and any(
            t.requires_grad for t in (self.weights, self.left, self.right)
        )

    def times_rows(self, vectors: Float[Tensor, "*b k i"]) -> Float[Tensor, "*b k i"]:
        """Q v for every row v of each form's own block of vectors: four GEMMs."""
        weights = self.weights[..., None, :]
        onto_left, onto_right = (
            weights * (vectors @ self.right.mT),
            weights * (vectors @ self.left.mT),
        )
        return 0.5 * (onto_left @ self.left + onto_right @ self.right)

    def __add__(self, other: "QuadraticForm") -> "QuadraticForm":
        if not isinstance(other, QuadraticForm):
            must = "be given another QuadraticForm"
            raise ArgumentError("QuadraticForm + other", must=must, got=type(other).__name__)
        if not broadcasts(self.shape[:-2], other.shape[:-2]):
            must = f"join forms whose batch dims broadcast with {self.shape[:-2]}"
            raise ShapeError("QuadraticForm + other", must=must, got=other.shape[:-2])
        if self.shape[-1] != other.shape[-1]:
            raise ShapeError(
                "QuadraticForm + other",
                must=f"join forms over {self.shape[-1]} inputs",
                got=other.shape,
            )
        _require_place("QuadraticForm + other", other.weights, self.weights)
        pairs = [
            (self.weights[..., None], other.weights[..., None]),
            (self.left, other.left),
            (self.right, other.right),
        ]
        weights, left, right = (_stack(a, b) for a, b in pairs)
        return QuadraticForm(weights[..., 0], left, right)

    def __mul__(self, factor: float | int | Tensor) -> "QuadraticForm":
        return type(self)(
            self.weights * scalar("QuadraticForm", factor, self.weights), self.left, self.right
        )

    def __rmul__(self, factor: float | int | Tensor) -> "QuadraticForm":
        return self * factor

    def __neg__(self) -> "QuadraticForm":
        return self * -1.0

    def __sub__(self, other: "QuadraticForm") -> "QuadraticForm":
        return self + (-other)

    def map(self, matrix: Float[Tensor, "i2 i"]) -> "QuadraticForm":
        """M Q Mᵀ with M (new, old): the form on new coordinates, or on the span of M's rows."""
        require_tensor("QuadraticForm.map", matrix)
        if matrix.ndim != 2 or matrix.shape[1] != self.shape[-1]:
            raise ShapeError(
                "QuadraticForm.map",
                must=f"be given (new, {self.shape[-1]})",
                got=tuple(matrix.shape),
            )
        _require_place("QuadraticForm.map", matrix, self.weights)
        return QuadraticForm(self.weights, self.left @ matrix.mT, self.right @ matrix.mT)

    def dense(self) -> Float[Tensor, "*b i i"]:
        """Q itself: i² numbers per form, in 2 h i² operations."""
        half = (self.left * self.weights[..., None]).mT @ self.right
        return 0.5 * (half + half.mT)

    def norm(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "*b"]:
        """‖Q‖ (Frobenius) from h × h Grams: ‖Q‖² = ½ wᵀ [(L Lᵀ)∘(R Rᵀ) + (L Rᵀ)∘(R Lᵀ)] w.

        Cost O(h² i), once for all forms that share their factors; memory O(h · ``BLOCK``). Products
        are made in ``dtype`` and summed in float64; in float32 what cancels in Q leaves about √1e-7
        of the norm of what cancelled.
        """
        require_values("QuadraticForm.weights", self.weights)
        form, power = self.near_one()
        left, right = form.left.to(dtype), form.right.to(dtype)
        weights = form.weights.double()
        squares = weights.new_zeros(self.shape[:-2])
        # G is symmetric: a block with itself, twice with later ones
        for start in range(0, left.shape[-2], BLOCK):
            block = slice(start, start + BLOCK)
            units = left[..., block, :], right[..., block, :]
            gram = unit_products(units, (left[..., start:, :], right[..., start:, :]))
            twice = weights[..., start:] * 2
            twice[..., : gram.shape[-2]] *= 0.5
            along = (weights[..., None, block] @ gram.double())[..., 0, :]
            squares = squares + (along * twice).sum(-1)
        return restored("norm", root(squares), power, working_dtype(self.dtype))

    def rows(self, chosen: Int[Tensor, " r"] | Bool[Tensor, " n"] | slice) -> "QuadraticForm":
        """Some of n forms; what they share stays shared. Errors: ShapeError for a form without
        batch dims.
        """
        if len(self.shape) < 3:
            raise ShapeError("QuadraticForm.rows", must="be one of n forms", got=self.shape)

        def some(part: Tensor, own: int) -> Tensor:
            whole = part.ndim - own == len(self.shape) - 2 and len(part) == self.shape[0]
            return part[chosen] if whole else part

        weights, left, right = some(self.weights, 1), some(self.left, 2), some(self.right, 2)
        return QuadraticForm(weights, left, right)

    def trace(self) -> Float[Tensor, "*b"]:
        """tr Q = Σ_h w_h (l_h · r_h), in h i."""
        return (self.weights * (self.left * self.right).sum(-1)).sum(-1)

    def eigh(
        self, k: int | None = None, which: Which = "magnitude", tol: float | None = None
    ) -> Eigen:
        """At most ``k`` eigenpairs (all for None), by ``which``: the dense method, differentiable.

        Half types are computed in float32, and the result says so. ``tol`` is the relative residual
        that counts as converged (default: the tolerance of the dtype). Cost per form O(h i² + i³)
        time and O(i²) memory; where 2h < i and magnitude is asked, the problem is first reduced to
        the row space of [L; R], at O(h² i + h³).

        Errors: NotFiniteError for NaN or infinite factors; ArgumentError for a wrong ``k`` or
        ``which``; ShapeError for a form without inputs.
        """
        require_which(which)
        require_count(k)
        if self.shape[-1] == 0:
            raise ShapeError("QuadraticForm", must="have no empty mode", got=self.shape)
        form = self.to(working_dtype(self.dtype))
        require_finite("QuadraticForm", weights=form.weights, left=form.left, right=form.right)
        form, power = form.near_one()
        size, hidden = form.shape[-1], form.left.shape[-2]
        k = size if k is None else min(k, size)
        tol = tolerance(form.dtype) if tol is None else tol
        # QR has no gradient at lost rank
        reduced = which == "magnitude" and k <= 2 * hidden < size and not form.tracked
        values, vectors = _eigh_small(form) if reduced else symmetric_eigh(form.dense())
        order = best_first(values, which)
        spectrum, vectors = values.gather(-1, order), _take_rows(vectors, order[..., :k])
        vectors = vectors * signs(vectors)
        values = spectrum[..., :k]
        with torch.no_grad():
            residuals = (form.times_rows(vectors) - values[..., None] * vectors).norm(dim=-1)
        # off the row space λ is exactly 0
        spectrum = torch.nn.functional.pad(spectrum, (0, size - spectrum.shape[-1]))
        largest = spectrum.detach().abs().amax(-1, keepdim=True)
        bound = eigen_noise(form.dtype, size) * largest.expand_as(spectrum).clone()
        bound[..., :k] = torch.maximum(bound[..., :k], residuals)
        blocks = degenerate_blocks(spectrum.detach(), bound)
        found = Eigen(
            values=values,
            vectors=vectors,
            residuals=residuals,
            converged=residuals <= tol * largest.clamp(min=torch.finfo(form.dtype).tiny),
            complete=torch.ones(spectrum.shape[:-1], dtype=torch.bool, device=form.device),
            blocks=blocks[..., :k],
            cut=(blocks[..., k:] == blocks[..., k - 1 : k]).any(-1),
            spectrum=spectrum,
            discarded=root(spectrum[..., k:].square().sum(-1)),
            norm=form.norm().expand(spectrum.shape[:-1]),
            largest=largest[..., 0],
            labels=(),
            which=which,
            method="dense",
            known=WHOLE,
            computed_in=dtype_name(form.dtype),
        )
        return at_scale(found, power)

    def near_one(self) -> "tuple[QuadraticForm, Int[Tensor, '*b']]":
        """The form over a power of two, and the power: what is multiplied in it stays in range,
        whatever its scale.

        Each unit's two vectors give theirs to its weight. Itself and 0 where its factors are in
        reach already.
        """
        sizes = [powers(peak(factor, -1)) for factor in (self.left, self.right)]
        own = powers(self.weights.abs())
        reach = REACH[working_dtype(self.dtype)]
        if all(
            bool((size.abs() <= reach).all()) for size in (*sizes, powers(peak(self.weights, -1)))
        ):
            return self, torch.zeros(self.shape[:-2], dtype=torch.int64, device=self.device)
        shared = sizes[0] + sizes[1]
        there = (
            self.weights.detach().ne(0)
            & self.left.detach().ne(0).any(-1)
            & self.right.detach().ne(0).any(-1)
        )
        power = (own + shared).masked_fill(~there, LEAST).amax(-1)
        power = power.masked_fill(power == LEAST, 0)
        left, right = (
            scaled(factor, -size[..., None])
            for factor, size in zip((self.left, self.right), sizes, strict=True)
        )
        return QuadraticForm(scaled(self.weights, shared - power[..., None]), left, right), power

    def gates(self, k: int | None = None) -> "Gates":
        """Q as at most ``k`` products of two linear forms (soft ANDs) plus a rest, exactly.

        λ (v·x)² − μ (w·x)² = (a·x)(b·x) with a = √λ v + √μ w and b = √λ v − √μ w pairs the largest
        positive with the largest negative eigenvalue, and so on down. With all pairs taken (None)
        the rest is definite. Cost: one ``eigh``. Errors: ShapeError for a batch of forms; as
        ``eigh``.
        """
        if len(self.shape) > 2:
            raise ShapeError(
                "gates",
                must="be asked of one form",
                got=f"a batch {self.shape[:-2]}",
                todo="Index one direction.",
            )
        require_count(k)
        form = self.to(working_dtype(self.dtype))
        pairs = form.eigh()
        computed_in, form = pairs.computed_in, form.to(pairs.values.dtype)
        noise = eigen_noise(getattr(torch, computed_in), form.shape[-1]) * float(pairs.largest)
        order = pairs.values.argsort(descending=True)
        values, vectors = pairs.values[order], pairs.vectors[order].to(form.dtype)
        count = min(int((values > noise).sum()), int((values < -noise).sum()), k or form.shape[-1])
        positive, negative = values[:count], -values.flip(0)[:count]
        v = positive.sqrt()[:, None] * vectors[:count]
        w = negative.sqrt()[:, None] * vectors.flip(0)[:count]
        products = QuadraticForm(torch.ones_like(positive), v + w, v - w)
        return Gates(
            a=v + w,
            b=v - w,
            positive=positive,
            negative=negative,
            rest=form - products,
            discarded=length(values[count : len(values) - count]),
            norm=pairs.norm.to(form.dtype),
            computed_in=computed_in,
        )

    def summary(self) -> str:
        many = f"{math.prod(self.shape[:-2])} forms" if len(self.shape) > 2 else "a form"
        units, size = self.left.shape[-2:]
        return f"{many} of {units} units over {size} inputs, {dtype_name(self.dtype)}"

    def _table(self) -> Columns:
        require_values("QuadraticForm.weights", self.weights)
        batch = self.shape[:-2]
        rows: list[dict[str, Any]] = []
        for n, index in enumerate(itertools.product(*map(range, batch))):
            weights, left, right = (
                factor.detach().expand(*batch, *factor.shape[factor.ndim - own :])[index]
                for factor, own in ((self.weights, 1), (self.left, 2), (self.right, 2))
            )
            lengths, power = products(left, right, weights[:, None])
            sizes, alike = scaled(lengths, power) * weights.sign(), cosines(left, right)
            values = sizes.tolist()
            of = {"of": n} if batch else {}
            rows += [
                of | {"unit": h, "value": values[h], "cosine": alike[h]} for h in range(len(values))
            ]
        rows.sort(key=lambda row: -abs(row["value"]))
        names = ("of", "unit", "value", "cosine")
        return Columns(names if batch else names[1:], rows)

    def __repr__(self) -> str:
        hidden, dtype = self.left.shape[-2], dtype_name(self.dtype)
        return f"QuadraticForm(shape={self.shape}, hidden={hidden}, dtype={dtype})"

    def _require_fits(self, x: Tensor) -> None:
        require_tensor("QuadraticForm's input", x)
        if x.ndim == 0 or x.shape[-1] != self.shape[-1]:
            raise ShapeError(
                "QuadraticForm's input", must=f"end in {self.shape[-1]}", got=tuple(x.shape)
            )
        if not broadcasts(self.shape[:-2], x.shape[:-1]):
            must = f"have leading dims that broadcast with {self.shape[:-2]}"
            raise ShapeError("QuadraticForm's input", must=must, got=tuple(x.shape[:-1]))
        _require_place("QuadraticForm's input", x, self.weights)


@dataclass(frozen=True, repr=False, eq=False)
class Gates(Result):
    """Q(x) = Σ_k (a_k·x)(b_k·x) + rest(x), exactly; strongest gate first.

    Fields: ``a``, ``b`` (k, i); ``positive``, ``negative``: the λ and μ > 0 that made each gate;
    ``rest``: the form that the gates leave; ``discarded``: its Frobenius norm, from the eigenvalues
    not taken; ``norm``: ‖Q‖; ``computed_in``: the dtype of the work.

    Columns: ``gate``: its number; ``λ`` and ``μ``: the eigenvalues of either sign that made it;
    ``share of ‖Q‖²``: (λ² + μ²) over ‖Q‖².

    >>> gates = T.interaction(torch.eye(128)[0]).gates(2)
    >>> gates.a.shape, gates.b.shape
    (torch.Size([2, 128]), torch.Size([2, 128]))
    """

    a: Float[Tensor, "k i"]
    b: Float[Tensor, "k i"]
    positive: Float[Tensor, " k"]
    negative: Float[Tensor, " k"]
    rest: QuadraticForm
    discarded: Float[Tensor, ""]
    norm: Float[Tensor, ""]
    computed_in: str

    @property
    def share(self) -> Float[Tensor, " k"]:
        """The part of ‖Q‖² in each gate: (λ² + μ²) / ‖Q‖²; parts add up with the rest's to 1."""
        whole = torch.where(self.norm == 0, 1.0, self.norm)
        return (self.positive / whole).square() + (self.negative / whole).square()

    def __call__(self, x: Float[Tensor, "*c i"]) -> Float[Tensor, "*c k"]:
        """The value of each gate, (a·x)(b·x)."""
        return (x @ self.a.mT) * (x @ self.b.mT)

    def summary(self) -> str:
        left = self._left_out()
        gates = (
            f"{counting(len(self.positive), 'gates')} over {counting(self.a.shape[-1], 'inputs')}"
        )
        return f"{gates}, in {self.computed_in}; the rest holds {left:.3g} of the norm"

    def columns(self) -> tuple[str, ...]:
        return "gate", "λ", "μ", "share of ‖Q‖²"

    def rows(self) -> list[dict[str, Any]]:
        columns = zip(
            self.positive.tolist(), self.negative.tolist(), self.share.tolist(), strict=True
        )
        return [
            {"gate": n, "λ": p, "μ": m, "share of ‖Q‖²": share}
            for n, (p, m, share) in enumerate(columns)
        ]

    def figure(self) -> dict[str, Any]:
        """What both sides of each gate read: a row for a and one for b, the inputs across."""
        sides, names = [], []
        shown = list(zip(self.a.tolist(), self.b.tolist(), self.share.tolist(), strict=True))
        for n, (a, b, share) in enumerate(shown[:DRAWN_GATES]):
            sides += [a, b]
            names += [f"gate {n} · a ({share:.1%} of ‖Q‖²)", "b"]
        left = self._left_out()
        more = f", the first {DRAWN_GATES}" if len(shown) > DRAWN_GATES else ""
        title = f"{len(shown)} products (a·x)(b·x){more}; the rest holds {left:.3g} of the norm"
        inputs = [str(n) for n in range(self.a.shape[-1])]
        return mapped(sides, inputs, names, "weight", titled(title, "input", ""))

    def _left_out(self) -> float:
        norm = float(self.norm.detach())
        return float(self.discarded.detach()) / norm if norm else 0.0


def _require_place(who: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.dtype != like.dtype or tensor.device != like.device:
        wanted, got = (f"{dtype_name(t.dtype)} on {t.device}" for t in (like, tensor))
        raise ShapeError(
            who, must=f"be {wanted} like the form", got=got, todo="Use .to(...) on either."
        )


def _rows(factor: Float[Tensor, "*b h i"], x: Float[Tensor, "*c i"]) -> Float[Tensor, "*bc h"]:
    return x @ factor.mT if factor.ndim == 2 else (factor @ x[..., None])[..., 0]


def _combine(
    weights: Float[Tensor, "*c h"], factor: Float[Tensor, "*b h i"]
) -> Float[Tensor, "*bc i"]:
    return weights @ factor if factor.ndim == 2 else (weights[..., None, :] @ factor)[..., 0, :]


def _stack(a: Float[Tensor, "*a h i"], b: Float[Tensor, "*b h2 i"]) -> Float[Tensor, "*ab h3 i"]:
    """Join along the hidden axis, batch dims broadcast."""
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return torch.cat([part.expand(*batch, *part.shape[-2:]) for part in (a, b)], dim=-2)


def _take_rows(vectors: Float[Tensor, "*b i n"], order: Tensor) -> Float[Tensor, "*b k i"]:
    rows = vectors.mT
    return rows.gather(-2, order[..., None].expand(*order.shape, rows.shape[-1]))


def _eigh_small(form: QuadraticForm) -> tuple[Tensor, Tensor]:
    """Eigenpairs within the row space of [L; R], where all non-zero ones live: 2h × 2h."""
    basis, _ = torch.linalg.qr(_stack(form.left, form.right).mT)  # (..., i, 2h)
    small = QuadraticForm(form.weights, form.left @ basis, form.right @ basis)
    values, vectors = symmetric_eigh(small.dense())
    return values, basis @ vectors

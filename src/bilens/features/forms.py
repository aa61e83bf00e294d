"""One output feature as a quadratic form over input features: pairs, eigenvectors, gates, each as
features.

Over x the feature's quadratic part is xᵀ Q x, with Q from the layer's own factors. Over the
dictionary, where x = base + Σ a_f w_f, it is W Q Wᵀ. Everything is kept over x, d × d at most, and
read through W: a unit of a_f adds v·w_f to what an eigenvector or one side of a gate reads, v·x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import Eigen, Gates, QuadraticForm, Which, require_count
from bilens.base.charts import DRAWN, mapped, ranked, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import near_one, require_finite, scaled
from bilens.base.results import ANSWER_ROWS, SHOWN_ROWS, Result
from bilens.base.words import counting, narrowed
from bilens.decompose import PairKind, top_pairs
from bilens.features.cofiring import Cofiring, FiringPairs, pairs_on
from bilens.features.latents import halves_raised, require_rows
from bilens.features.pairs import FeaturePairs, feature_name, feature_pairs, told_as

TOLD = 3  # features that a direction is told by in one line
CELL_TEXT = 12  # characters of a name in a cell
MEMBERS = 8  # features that a direction is told by, unless asked for more


@dataclass(frozen=True, repr=False, eq=False)
class Readings(Result):
    """Directions of x told as features: of each, those of largest cosine |v·w_f| / ‖v‖ ‖w_f‖,
    largest first.

    ``names`` of the directions, ``indices`` of the features, ``coefficients`` v·w_f: what one unit
    of a_f adds to v·x, and the ``cosines``. All other features' cosines are no larger.

    Columns: ``direction``, ``feature``, and of the two the ``coefficient`` and the ``cosine``.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> made = bilens.features.interactions(T1, outputs=out, inputs=D)
    >>> found = made.of(17).eigen(k=2).readings
    >>> found.indices.shape[0]
    2
    """

    names: tuple[str, ...]
    features: tuple[str, ...]
    indices: Int[Tensor, "n m"]
    coefficients: Float[Tensor, "n m"]
    cosines: Float[Tensor, "n m"]

    def summary(self) -> str:
        nearest = counting(self.indices.shape[1], "nearest features")
        return f"{counting(len(self.names), 'directions')}, each by its {nearest}"

    def columns(self) -> tuple[str, ...]:
        return "direction", "feature", "coefficient", "cosine"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "direction": name,
                "feature": feature_name(self.features, f),
                "coefficient": c,
                "cosine": cosine,
            }
            for name, *columns in zip(
                self.names,
                self.indices.tolist(),
                self.coefficients.tolist(),
                self.cosines.tolist(),
                strict=True,
            )
            for f, c, cosine in zip(*columns, strict=True)
        ]

    def figure(self) -> dict[str, Any]:
        """A row for each direction: its nearest features, coloured by their cosines."""
        return _read_as("Directions as features", self, self.names, self.cosines, "cosine")


@dataclass(frozen=True, repr=False, eq=False)
class FeatureEigen(Result):
    """Eigenvectors of a feature's form over x, and each as features: xᵀQx = Σ_k λ_k (v_k·x)².

    Columns, a row for each feature that an eigenvector is told by: ``k``: its place by |λ|; ``λ``;
    ``share of ‖Q‖²``: λ² over ‖Q‖²; the ``feature``; its ``coefficient`` v·w_f: what a unit of it
    adds to v·x; and its ``cosine`` with v.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> made = bilens.features.interactions(T1, outputs=out, inputs=D)
    >>> found = made.of(17).eigen(k=2)
    >>> found.eigen.values.shape
    torch.Size([2])
    """

    of: str
    eigen: Eigen
    readings: Readings

    def summary(self) -> str:
        return f"{self.of}: {self.eigen.summary()}"

    def columns(self) -> tuple[str, ...]:
        return ("k", "λ", "share of ‖Q‖²", *COLUMNS)

    def rows(self) -> list[dict[str, Any]]:
        members = self.readings.indices.shape[1]
        lines = iter(self.readings.rows())
        values = zip(self.eigen.values.tolist(), self.eigen.rows(), strict=True)
        return [
            {"k": k, "λ": value, "share of ‖Q‖²": row["share of ‖Q‖²"]}
            | {key: line[key] for key in COLUMNS}
            for k, (value, row) in enumerate(values)
            for line in (next(lines) for _ in range(members))
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The eigenpairs, largest first, each with the features nearest to it."""
        pairs = zip(self.eigen.values.tolist(), self.eigen.rows(), strict=True)
        rows = [
            {"λ": value, "share of ‖Q‖²": row["share of ‖Q‖²"]}
            | {"read as": _told(self.readings, n, TOLD)}
            for n, (value, row) in enumerate(pairs)
        ]
        return rows[:count]

    def figure(self) -> dict[str, Any]:
        """A bar for each eigenvalue, called by the features nearest to its vector."""
        rows = self.answer(DRAWN)
        values, told = [row["λ"] for row in rows], [row["read as"] for row in rows]
        share = {"share of ‖Q‖²": [row["share of ‖Q‖²"] for row in rows]}
        whole = [_told(self.readings, n) for n in range(len(rows))]
        hover = share | {"read as": whole}
        return ranked(told, values, "λ", f"Eigenvalues of {self.of}", hover=hover)


COLUMNS = ("feature", "coefficient", "cosine")


@dataclass(frozen=True, repr=False, eq=False)
class FeatureGates(Result):
    """Soft ANDs: xᵀQx = Σ_k (a_k·x)(b_k·x) + rest(x), with both sides of each as features.

    ``weight_share``: the part of ‖Q‖² in each gate. ``data_share``: of the variance of xᵀQx over
    the activations given, Cov[gate, xᵀQx] / Var[xᵀQx] (with the rest's these add up to 1, and one
    may be negative); nothing where none were given.

    Columns: ``gate``: its number; ``a`` and ``b``: its sides as features, each with its
    coefficient; ``share of ‖Q‖²`` and ``share of variance``: ``weight_share`` and ``data_share``.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> made = bilens.features.interactions(T1, outputs=out, inputs=D)
    >>> made.of(17).gates(2).gates.a.shape
    torch.Size([2, 128])
    """

    of: str
    gates: Gates
    a: Readings
    b: Readings
    weight_share: Float[Tensor, " k"]
    data_share: Float[Tensor, " k"] | None

    def summary(self) -> str:
        told = f"{self.of}: {self.gates.summary()}"
        if self.data_share is None:
            return told
        return f"{told}; together {self.data_share.sum().item():.3g} of the variance on the data"

    def columns(self) -> tuple[str, ...]:
        return "gate", "a", "b", "share of ‖Q‖²", "share of variance"

    def rows(self) -> list[dict[str, Any]]:
        shares = self.weight_share.tolist()
        on_data = [None] * len(shares) if self.data_share is None else self.data_share.tolist()
        return [
            {
                "gate": n,
                "a": _told(self.a, n),
                "b": _told(self.b, n),
                "share of ‖Q‖²": share,
                "share of variance": data,
            }
            for n, (share, data) in enumerate(zip(shares, on_data, strict=True))
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The gates, strongest first, each side by its nearest features."""
        told = [
            {"a": _told(self.a, n, TOLD), "b": _told(self.b, n, TOLD)}
            for n in range(len(self.weight_share))
        ]
        return [row | short for row, short in zip(self.rows(), told, strict=True)][:count]

    def figure(self) -> dict[str, Any]:
        """What both sides of each gate read: a row for a and one for b, the nearest features."""
        count = min(len(self.weight_share), DRAWN // 2)
        shares = self.weight_share.tolist()[:count]
        names = [
            name
            for n, share in enumerate(shares)
            for name in (f"gate {n} · a ({share:.1%} of ‖Q‖²)", "b")
        ]
        both = Readings(
            names=tuple(names),
            features=self.a.features,
            indices=_alternating(self.a.indices[:count], self.b.indices[:count]),
            coefficients=_alternating(self.a.coefficients[:count], self.b.coefficients[:count]),
            cosines=_alternating(self.a.cosines[:count], self.b.cosines[:count]),
        )
        title = f"Gates of {self.of}: {sum(shares):.1%} of ‖Q‖²"
        if self.data_share is not None:
            title += f", {self.data_share.sum().item():.1%} of the variance"
        return _read_as(title, both, names, both.coefficients, "coefficient")


def _told(readings: Readings, n: int, members: int | None = None) -> str:
    """A direction by its nearest features, each with its coefficient."""
    terms = zip(
        readings.coefficients[n, :members].tolist(),
        readings.indices[n, :members].tolist(),
        strict=True,
    )
    return " ".join(f"{c:+.3g} {told_as(readings.features, f)}" for c, f in terms)


def _alternating(one: Tensor, two: Tensor) -> Tensor:
    """Rows of two in turn."""
    return torch.stack([one, two], 1).flatten(0, 1)


def _read_as(
    title: str, readings: Readings, names: Sequence[str], values: Tensor, unit: str
) -> dict[str, Any]:
    """A row for each direction, its nearest features from left to right, named in their cells."""
    texts = [
        [narrowed(told_as(readings.features, f), CELL_TEXT) for f in row]
        for row in readings.indices.tolist()
    ]
    ranks = [str(n + 1) for n in range(values.shape[1])]
    layout = titled(title, "feature, nearest first", "")
    return mapped(values.tolist(), ranks, names, unit, layout, texts=texts)


@dataclass(frozen=True, repr=False, eq=False)
class FeatureForm(Result):
    """How one output feature is made of pairs of input features: pre = constant + Σ_f linear_f a_f
    + Σ_fg Q_fg a_f a_g.

    That is without what the dictionary leaves of x (``Interactions.explain`` has it). Fields: the
    output ``feature`` and its name ``of``; ``form``: its quadratic part over x, factored;
    ``writes`` (f, i): what a unit of each input feature adds to x; ``constant`` and ``linear``;
    ``names`` of the input features, or nothing.

    Columns, of the largest pairs as ``top`` has them: the features ``f`` and ``g``; ``kind``:
    "self" for a square, else "cross"; ``Q_fg``: the entry of the symmetric matrix;
    ``coefficient``: what multiplies a_f a_g, both orders together.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> made = bilens.features.interactions(T1, outputs=out, inputs=D)
    >>> made.of(17).of, made.of(17).linear.shape
    ('output 17', torch.Size([1024]))
    """

    feature: int
    of: str
    form: QuadraticForm
    writes: Float[Tensor, "f i"]
    constant: Float[Tensor, ""]
    linear: Float[Tensor, " f"]
    names: tuple[str, ...]

    @cached_property
    def quadratic(self) -> QuadraticForm:
        """The interaction matrix over input features, (f, f), factored. Cost 2 h i f once; memory 2
        h f.
        """
        return self.form.map(self.writes)

    def __call__(self, a: Float[Tensor, "*b f"]) -> Float[Tensor, "*b"]:
        """The pre-activation where x is exactly what the latents ``a`` write. Half types are raised
        to the form's dtype, in which they are exact. Cost i (f + 2 h) a row. Errors: ShapeError;
        NotFiniteError.
        """
        a = halves_raised(a, self.linear.dtype)
        require_rows("FeatureForm", a, len(self.linear), self.linear)
        return self.constant + a @ self.linear + self.form(a @ self.writes)

    def top(self, k: int = 20, kind: PairKind = "all") -> FeaturePairs:
        """The ``k`` pairs of largest |coefficient|, exactly; ``kind``: "cross" or "self" for those
        alone.

        A cross pair's coefficient of a_f a_g is the sum of both orders, 2 Q_fg; a
        self-interaction's of a_f² is Q_ff. Cost h i² + f i² + f² i / 2 at most; the f × f matrix is
        never whole. Errors: ArgumentError, NotFiniteError.
        """
        found = top_pairs(self.form, self.writes, k, kind)
        return feature_pairs(found, self.of, kind, self.names)

    def top_on(self, together: Cofiring, k: int = 20, kind: PairKind = "all") -> FiringPairs:
        """The ``k`` pairs whose terms are largest on a text, by the mean of |coefficient × a_f ×
        a_g| over its tokens, exactly; ``together``: ``cofiring(model, D, texts)``.

        Cost, of the n latents that fire there: h i² + n i² + n² i, and a digest of all writes.
        Errors: ArgumentError for what was gathered of latents that write otherwise.
        """
        return pairs_on(self.form, self.writes, together, k, kind, self.of, self.names)

    @property
    def selves(self) -> Float[Tensor, " f"]:
        """Q_ff of every input feature: what multiplies a_f². Cost h i² + f i²."""
        return ((self.writes @ self.form.dense()) * self.writes).sum(-1)

    def eigen(self, k: int = 8, which: Which = "magnitude", members: int = MEMBERS) -> FeatureEigen:
        """The first ``k`` eigenvectors over x, each with the ``members`` features nearest to it.
        Cost of one ``eigh``.
        """
        found = self.form.eigh(k, which)
        return FeatureEigen(self.of, found, self.read(found.vectors, members))

    def gates(
        self,
        k: int | None = 8,
        activations: Float[Tensor, "n i"] | None = None,
        members: int = MEMBERS,
    ) -> FeatureGates:
        """At most ``k`` soft ANDs with the share of the form each holds, and of its variance over
        ``activations`` (of x).

        Cost: one ``eigh``; n h i for activations. Errors: ArgumentError where the form does not
        vary over them; ShapeError; NotFiniteError.
        """
        gates = self.form.gates(k)
        shares = None if activations is None else self._data_shares(gates, activations)
        a, b = (self.read(side, members) for side in (gates.a, gates.b))
        return FeatureGates(self.of, gates, a, b, gates.share, shares)

    def _data_shares(self, gates: Gates, x: Tensor) -> Float[Tensor, " k"]:
        if x.ndim != 2 or x.shape[1] != self.form.shape[-1] or len(x) < 2:
            raise ShapeError(
                "activations", must=f"be (n, {self.form.shape[-1]}) with n ≥ 2", got=tuple(x.shape)
            )
        require_finite("", activations=x)
        x = x.double()
        whole = self.form.to(torch.float64)(x)
        whole, power = near_one(whole - whole.mean())  # squares of what is tiny would vanish
        variance = whole.square().sum()
        if not bool(variance > 0):
            raise ArgumentError(
                "activations", must=f"make {self.of} vary", got="the same value for all"
            )
        parts = scaled(gates.to(torch.float64)(x), -power)
        return (parts.mT @ whole / variance).to(gates.a)

    def read(self, directions: Float[Tensor, "n i"], members: int = MEMBERS) -> Readings:
        """Directions of x by their nearest features (by cosine with what features write). Cost n f
        i.
        """
        require_count(members)
        if (
            not isinstance(directions, Tensor)
            or directions.ndim != 2
            or directions.shape[1] != self.writes.shape[1]
        ):
            got = (
                tuple(directions.shape)
                if isinstance(directions, Tensor)
                else type(directions).__name__
            )
            raise ShapeError("directions", must=f"be a tensor (n, {self.writes.shape[1]})", got=got)
        require_finite("", directions=directions)
        writes = self.writes.to(directions.dtype)
        coefficients = directions @ writes.mT
        one, two = near_one(directions)[0], near_one(writes)[0]
        lengths = one.norm(dim=1)[:, None] * two.norm(dim=1)
        cosines = torch.where(lengths > 0, one @ two.mT / lengths, torch.zeros_like(lengths))
        best = cosines.abs().topk(min(members, len(writes)), dim=1).indices
        names = tuple(str(n) for n in range(len(directions)))
        return Readings(
            names, self.names, best, coefficients.gather(1, best), cosines.gather(1, best)
        )

    def summary(self) -> str:
        pairs = f"pairs of {len(self.writes):,} input features"
        return f"{self.of} over {pairs}; constant {self.constant.item():.4g}"

    def columns(self) -> tuple[str, ...]:
        return "f", "g", "kind", "Q_fg", "coefficient"

    def rows(self) -> list[dict[str, Any]]:
        return self.top(SHOWN_ROWS).rows()

    def figure(self) -> dict[str, Any]:
        return self.top(SHOWN_ROWS).figure()

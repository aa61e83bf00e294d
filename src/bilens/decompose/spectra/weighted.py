"""Spectra under a data measure: which eigenvectors matter where inputs really are.

With x = μ + Σ^½ z and z standard normal, the quadratic part of xᵀQx in z is Σ^½ Q Σ^½. Its
eigenpairs (λ, w) read x along v = Σ^-½ w, of unit variance, and with P the projector onto the
support of Σ and c = μ − Pμ, which does not vary (the constant of (1, x) is part of it),

    xᵀQx = Σ λ (v·x)² + 2 cᵀQPx + cᵀQc

    Var[xᵀQx] = 2 tr(QΣQΣ) + 4 μᵀQΣQμ
    Cov[λ (v·x)², xᵀQx] = λ [2 vᵀΣQΣv + 4 (v·μ)(vᵀΣQμ)]

The covariance of a term with the whole over the variance of the whole is its **share of variance**.
Shares of all plain eigenpairs add up to 1; those of all weighted ones (whose terms are
uncorrelated) do with the share of what is linear, 2 cᵀQPx. Off its support a measure is blind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import Eigen, Form, QuadraticForm, ThirdOrder, at_scale
from bilens.base.charts import BELOW, counted, curve, titled
from bilens.base.errors import ShapeError
from bilens.base.numerics import near_one, require_finite, restored, scaled
from bilens.base.records import Record
from bilens.base.results import ANSWER_ROWS
from bilens.measure import Gaussian

BLOCK = 2**24  # numbers held at once while terms are averaged over activations


LINEAR = 1e-6  # of the variance: less is rounding
ON_DATA = ("λ E[(v·x)²]", "± s.e.", "share of variance")


@dataclass(frozen=True, repr=False, eq=False)
class OnData(Record):
    """What each term λ (v·x)² is on the data: ``mean`` λ E[(v·x)²], with its ``standard_error``
    where it was averaged over activations, taken as independent (NaN where it is a closed form);
    ``share`` of the variance of the whole.

    >>> found = bilens.decompose.eigen(T, model.lm_head.weight[:2].detach(), k=4, measure=x)
    >>> found.data.share.shape
    torch.Size([2, 4])
    """

    mean: Float[Tensor, "n k"]
    standard_error: Float[Tensor, "n k"]
    share: Float[Tensor, "n k"]

    def at_scale(self, power: Int[Tensor, " n"]) -> "OnData":
        """The same of forms times 2^power. Errors: RangeError."""
        mean, error = (
            restored("means on the data", x, power[:, None], torch.float64)
            for x in (self.mean, self.standard_error)
        )
        return OnData(mean, error, self.share)


@dataclass(frozen=True, repr=False, eq=False)
class WeightedEigen(Eigen):
    """Eigenpairs of Σ^½ Q Σ^½, λ the standard deviation a term gives, but for √2. Beside them the
    plain ones.

    Row k of ``vectors`` is v_k = Σ^-½ w_k, which reads x with unit variance; it is not of unit
    length, and not orthogonal to the others. ``norm``, ``discarded``, ``residuals`` are those of
    Σ^½ Q Σ^½.

    Fields:
        plain: the eigenpairs of Q itself, as many.
        data, plain_data: what the terms of each are on the data.
        total_mean, total_variance: of xᵀQx, on the same data.
        linear_share: of its variance, beside the weighted pairs: the products of what varies with
            what does not, such as the constant of (1, x). 0 where the mean lies in the support.
        rank: of Σ: the number of directions that inputs vary in.
        count: the activations that terms were averaged over, 0 for the closed form under the
            Gaussian.

    Columns, beside those of ``Eigen`` (``of``, ``k``, ``value``, ``residual``, ``converged``,
    ``complete``, ``block``, ``share of ‖Q‖²``): ``spectrum``: "data-weighted" or "plain"; ``λ
    E[(v·x)²]``: the mean of the pair's term on the data, with its standard error ``± s.e.``; and
    its ``share of variance``: of that of xᵀQx.

    >>> found = bilens.decompose.eigen(T, model.lm_head.weight[:2].detach(), k=4, measure=x)
    >>> type(found).__name__, found.values.shape
    ('WeightedEigen', torch.Size([2, 4]))
    """

    plain: Eigen
    data: OnData
    plain_data: OnData
    total_mean: Float[Tensor, " n"]
    total_variance: Float[Tensor, " n"]
    linear_share: Float[Tensor, " n"]
    rank: int
    count: int

    def labelled(self, labels: Sequence[str]) -> "WeightedEigen":
        """The same with names, the plain pairs too."""
        plain = self.plain.labelled(labels)
        return replace(self, labels=plain.labels, plain=plain)

    def summary(self) -> str:
        size = self.vectors.shape[-1]
        how = (
            f"averaged over {self.count:,} activations"
            if self.count
            else "in closed form under a Gaussian"
        )
        blind = "" if self.rank == size else f" (blind to {size - self.rank} directions)"
        rank = f"Σ of rank {self.rank} of {size}{blind}"
        apart = max(self.linear_share.tolist(), key=abs, default=0.0)
        linear = f"; beside them what is linear, up to {apart:.3g} of the variance"
        linear = linear if abs(apart) > LINEAR else ""
        return f"data-weighted, {rank}, terms {how}{linear}; {super().summary()}"

    def columns(self) -> tuple[str, ...]:
        return ("spectrum", *super().columns(), *ON_DATA)

    def rows(self) -> list[dict[str, Any]]:
        weighted = [
            {"spectrum": "data-weighted"} | row
            for row in self._with_data(self, self.data, super().rows())
        ]
        return weighted + [
            {"spectrum": "plain"} | row
            for row in self._with_data(self.plain, self.plain_data, self.plain.rows())
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The terms that most of the variance is of, data-weighted ones first."""
        rows = [row for row in self.rows() if row["spectrum"] == "data-weighted"]
        rows.sort(key=lambda row: -abs(row["share of variance"]))
        told = ("of", "k", "value", *ON_DATA)
        return [{key: row[key] for key in told} for row in rows[:count]]

    def figure(self) -> dict[str, Any]:
        ranks = list(range(self.values.shape[-1]))
        kinds = (("data-weighted", self.data.share), ("plain", self.plain_data.share))
        lines = [
            self._share_line(f"{self._label(n)}, {name}", ranks, share[n].tolist())
            for name, share in kinds
            for n in range(len(share))
        ]
        title = "Variance of xᵀQx on the data, by eigenvector"
        axes = (f"eigenvector, by {self.which}", "share of variance")
        layout = titled(title, *axes, xaxis=counted(len(ranks)))
        return {"data": lines, "layout": layout | (BELOW if len(lines) > 4 else {})}

    def _share_line(self, name: str, ranks: list[int], shares: list[float]) -> dict[str, Any]:
        return curve(name, ranks, shares, hover={"k": ranks, "share of variance": shares})

    def _with_data(
        self, pairs: Eigen, data: OnData, rows: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        flat = zip(
            data.mean.flatten().tolist(),
            data.standard_error.flatten().tolist(),
            data.share.flatten().tolist(),
            strict=True,
        )
        found = zip(rows, flat, strict=True)
        return [row | dict(zip(ON_DATA, figures, strict=True)) for row, figures in found]


def fitted(
    measure: Gaussian | Float[Tensor, "m _"], tensor: ThirdOrder
) -> tuple[Gaussian, Float[Tensor, "m i"] | None]:
    """The Gaussian of a measure over what ``tensor`` reads, and the activations it was fitted to,
    where these were given.

    A measure over x serves a layer over (1, x). Errors: ShapeError; NotFiniteError.
    """
    if isinstance(measure, Gaussian):
        return measure.over(tensor), None
    size = tensor.shape[1]
    fits = (size, size - 1) if tensor.affine else (size,)
    if not isinstance(measure, Tensor) or measure.ndim != 2 or measure.shape[1] not in fits:
        got = tuple(measure.shape) if isinstance(measure, Tensor) else type(measure).__name__
        raise ShapeError("measure", must=f"be a Gaussian or activations (m, {size})", got=got)
    require_finite("measure", activations=measure)
    activations = measure.to(tensor.device)
    return Gaussian.from_batches([activations]).over(tensor), tensor.read(activations)


def measure_near_one(
    measure: Gaussian, activations: Float[Tensor, "m i"] | None
) -> tuple[Gaussian, Float[Tensor, "m i"] | None, int]:
    """The measure, and the activations, of inputs over a power of two, and the power."""
    mean, _, power = measure.near_one("cheapest")
    if power == 0:
        return measure, activations, 0
    near = Gaussian(mean, scaled(measure.cov.double(), -2 * power), measure.count)
    return near, None if activations is None else scaled(activations.double(), -power), power


def whitened(tensor: Form, measure: Gaussian) -> tuple[Form, int]:
    """T over z on both inputs, Σ^½ on left and right, over a power of two; and the power. The mean
    has no part in it.
    """
    root, power = near_one(measure.root)
    root = root.to(tensor.device, tensor.dtype)
    return tensor.map(left=root, right=root), 2 * power


@torch.no_grad()
def weigh(
    tensor: ThirdOrder,
    directions: Float[Tensor, "n o"],
    plain: Eigen,
    white: Eigen,
    measure: Gaussian,
    activations: Float[Tensor, "m i"] | None,
    power: Int[Tensor, " n"],
    more: int,
) -> WeightedEigen:
    """Eigenpairs of T and of T over z, with what their terms are on the data, each times 2^power of
    its direction; the data is that of inputs over 2^more.

    Cost under the Gaussian: two products with Q per eigenpair; over activations m (i k + h o) per
    direction.
    """
    form, on_data = tensor.interaction(directions), power + 2 * more
    vectors = (white.vectors.double() @ measure.inverse_root.to(tensor.device)).to(white.vectors)
    if activations is None:
        law = _Law(form, measure)
        mean, variance = law.mean, 2 * white.norm.double().square() + 4 * law.along_mean
        linear = law.linear(variance)
        data, plain_data = (
            law.terms(pairs.values, v, variance)
            for pairs, v in ((white, vectors), (plain, plain.vectors))
        )
    else:
        x = activations.to(tensor.device, tensor.dtype)
        outputs = (tensor(x) @ directions.mT).double()
        mean, variance = outputs.mean(0), outputs.var(0)
        beside = 2 * x.double() @ _beside(form, measure).mT
        linear = _over(_covariance(beside, outputs)[:, None], variance)[:, 0]
        data, plain_data = (
            _averaged(x, outputs, pairs.values, v)
            for pairs, v in ((white, vectors), (plain, plain.vectors))
        )
    own: dict[str, Any] = {field.name: getattr(white, field.name) for field in fields(Eigen)} | {
        "vectors": restored("eigenvectors", vectors, -more, vectors.dtype)
    }
    found = WeightedEigen(
        **own,
        plain=at_scale(plain, power),
        data=data.at_scale(on_data),
        plain_data=plain_data.at_scale(on_data),
        total_mean=restored("means on the data", mean, on_data, torch.float64),
        total_variance=restored("variances on the data", variance, 2 * on_data, torch.float64),
        linear_share=linear,
        rank=measure.rank,
        count=0 if activations is None else len(activations),
    )
    return at_scale(found, on_data)


class _Law:
    """What xᵀQx is under a Gaussian, in closed form and in float64."""

    def __init__(self, form: QuadraticForm, measure: Gaussian) -> None:
        self.form, self.measure, self.mu, self.cov = (
            form.to(torch.float64),
            measure,
            measure.mean.to(form.device).double(),
            measure.cov.to(form.device).double(),
        )
        form = self.form
        self.q_mu = form @ self.mu  # Q μ, (n, i)
        trace = (form.weights * ((form.left @ self.cov) * form.right).sum(-1)).sum(-1)
        self.mean = trace + self.q_mu @ self.mu
        self.along_mean = ((self.q_mu @ self.cov) * self.q_mu).sum(-1)  # μᵀQΣQμ

    def linear(self, variance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The share of 2 cᵀQPx."""
        y = _beside(self.form, self.measure)
        return _over(4 * ((y @ self.cov) * self.q_mu).sum(-1, keepdim=True), variance)[:, 0]

    def terms(self, values: Tensor, vectors: Tensor, variance: Float[Tensor, " n"]) -> OnData:
        """Mean and share of each λ (v·x)²."""
        v, scale = vectors.double(), values.double()
        y = v @ self.cov  # Σ v
        q_y = self.form.times_rows(y)
        at_mean = v @ self.mu
        shared = scale * (2 * (y * q_y).sum(-1) + 4 * at_mean * (y * self.q_mu[:, None]).sum(-1))
        mean = scale * ((y * v).sum(-1) + at_mean.square())
        return OnData(mean, torch.full_like(mean, torch.nan), _over(shared, variance))


def _beside(form: QuadraticForm, measure: Gaussian) -> Float[Tensor, "n i"]:
    """Q c, with c what of the mean lies where nothing varies."""
    mean = measure.mean.double()
    seen = measure.root @ (measure.inverse_root @ mean)
    return (form @ (mean - seen).to(form.device, form.dtype)).double()


def _covariance(one: Float[Tensor, "m n"], two: Float[Tensor, "m n"]) -> Float[Tensor, " n"]:
    return ((one - one.mean(0)) * (two - two.mean(0))).sum(0) / (len(one) - 1)


def _averaged(
    x: Float[Tensor, "m i"], outputs: Float[Tensor, "m n"], values: Tensor, vectors: Tensor
) -> OnData:
    """The same from activations, with standard errors."""
    parts = []
    step = max(1, BLOCK // (len(x) * values.shape[1]))
    for rows in torch.arange(len(values), device=values.device).split(step):
        # (n, k, m)
        terms = values[rows, :, None].double() * (vectors[rows] @ x.mT).double().square()
        mean = terms.mean(-1)
        whole = (outputs[:, rows] - outputs[:, rows].mean(0)).mT[:, None]
        shared = ((terms - mean[..., None]) * whole).sum(-1) / (len(x) - 1)
        variance = whole.square().sum(-1)[:, 0] / (len(x) - 1)
        parts.append(OnData(mean, terms.std(-1) / len(x) ** 0.5, _over(shared, variance)))
    return OnData(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(OnData))
    )


def _over(shared: Float[Tensor, "n k"], variance: Float[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """Shares; 0 where nothing varies."""
    return torch.where(variance[:, None] == 0, torch.zeros_like(shared), shared / variance[:, None])

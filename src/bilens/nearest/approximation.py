"""The nearest tensor of an MLP: how near, where it misses, and on which tokens."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens.algebra import CP
from bilens.base.charts import POSITIVE, REFERENCE, curve, logarithmic, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import (
    is_number,
    require_finite,
    require_floating,
    require_share,
    require_tensor,
    working_dtype,
)
from bilens.base.results import ANSWER_ROWS, Result
from bilens.measure import Estimate, Gaussian
from bilens.nearest.degrees import TOLD, Degrees, degree_spectrum, require_measure
from bilens.nearest.fits import by_output, by_units, pieces
from bilens.nearest.quadratic import Moments, Polynomials, as_tensor, closed, sides
from bilens.nn import Hidden

Fit = Literal["closed", "units", "output"]
Data = Tensor | Sequence[Tensor]
ROUNDED = 1e-24  # of the squares of what is written: less is no movement but rounding
HELD_OUT = 5  # of the samples one in so many is kept from the fit, and measured on


@dataclass(frozen=True, repr=False, eq=False)
class Approximation(Result):
    """An MLP's nearest polynomial of degree 2, as an exact tensor of its own.

    Fields:
        tensor: the polynomial, a CP over (1, x): the layer's hidden units, then the linear part; in
            the layer's dtype (half types: float32).
        hidden: the layer that it stands for, its weights as they were.
        measure: what inputs are like.
        fit: "closed", "units" or "output".
        quadrature: the error of the averages under the Gaussian, relative; 0 for closed forms.
        units: the share of each unit's variance on the data that its polynomial does not have; NaN
            without data, and where the output was fitted.
        tokens: each sample's ‖f(x) − T(x)‖² over the sum of ‖f(x) − mean‖², so that they add up to
            the unexplained share; empty without data.
        unexplained: their sum, with its standard error (samples taken to be independent); None
            without data.

    Columns, a row for each hidden unit: ``unit``, ``unexplained``: its entry of ``units``.

    >>> gelu = bilens.nn.MLP(8, 16, act="gelu")
    >>> g = bilens.Gaussian(torch.zeros(8), torch.eye(8))
    >>> near = bilens.approximate(gelu, g, data=torch.randn(200, 8))
    >>> near.tensor.shape, near.unexplained.count
    ((8, 9, 9), 200)
    """

    tensor: CP
    hidden: Hidden
    measure: Gaussian
    fit: str
    quadrature: float
    units: Float[Tensor, " h"]
    tokens: Float[Tensor, " n"]
    unexplained: Estimate | None

    @property
    def degrees(self) -> Degrees:
        """The layer's shares of E‖f‖² by Hermite degree under the measure. Computed when asked."""
        return degree_spectrum(self.hidden, self.measure)

    @torch.no_grad()
    def error(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b d"]:
        """f(x) − T(x): what the layer writes beside its nearest tensor, in the dtype of ``x``.

        Errors: ShapeError for ``x`` of another width.
        """
        require_tensor("error", x)
        width = self.hidden.weight.shape[1]
        if not x.ndim or x.shape[-1] != width:
            raise ShapeError("error", must=f"be given {width} inputs", got=tuple(x.shape))
        hidden, tensor = self.hidden.to(x.dtype), self.tensor.to(x.dtype)
        return hidden.write(hidden(x)) - tensor(tensor.read(x))

    def tail(self, share: float = 0.01) -> float:
        """How much of the error the worst ``share`` of the samples carry: as much as ``share``
        itself where all miss alike; of a sample that is among them in part, that part. Errors:
        ArgumentError without data, and for a ``share`` outside [0, 1].
        """
        if not len(self.tokens):
            raise ArgumentError("tail", must="be asked of one with data", got="none")
        if not (is_number(share) and share == 1):
            require_share("share", share, "in [0, 1]")
        whole, part = divmod(share * len(self.tokens), 1)
        total = float(self.tokens.sum())
        worst = self.tokens.sort(descending=True).values
        carried = float(worst[: int(whole)].sum())
        if part:
            carried += part * float(worst[int(whole)])
        return carried / total if total else share

    def summary(self) -> str:
        d, h = self.hidden.out.shape
        gated = "gated" if self.hidden.gated else "plain"
        head = f"nearest tensor of {h} {gated} {self.hidden.act} units to {d}, fit {self.fit}"
        if self.quadrature > TOLD and self.fit != "units":
            head += f", averages by a rule that is off by {self.quadrature:.1g}"
        if self.unexplained is None:
            return f"{head}; without data to say how near"
        value, error = float(self.unexplained.value), float(self.unexplained.error)
        told = f"{head}; unexplained {value:.4g} ± {error:.1g} of the variance on"
        return (
            f"{told} {self.unexplained.count:,} samples; the worst 1 % of them carry "
            f"{100 * self.tail():.0f} % of it"
        )

    def columns(self) -> tuple[str, ...]:
        return "unit", "unexplained"

    def rows(self) -> list[dict[str, Any]]:
        return [{"unit": n, "unexplained": value} for n, value in enumerate(self.units.tolist())]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The units of which the polynomial has least."""
        rows = [row for row in self.rows() if not math.isnan(row["unexplained"])]
        return sorted(rows, key=lambda row: -row["unexplained"])[:count]

    def figure(self) -> dict[str, Any]:
        """How much of the error the worst samples carry, the worst first, and dashed how much it
        were if all missed alike.
        """
        carried = self.tokens.sort(descending=True).values.cumsum(0)
        total = float(carried[-1]) if len(carried) else 1.0
        count = len(carried)
        worst = [(n + 1) / count for n in range(count)]
        shares = (carried / (total or 1.0)).tolist()
        hover = {"share of the samples": worst, "share of the error": shares}
        line = curve("worst first", worst, shares, hover=hover, mode="lines", color=POSITIVE)
        alike = curve("all alike", worst, worst, mode="lines", dash="dash", color=REFERENCE)
        far = "without data" if self.unexplained is None else f"{float(self.unexplained.value):.3g}"
        title = f"Error of the nearest tensor, unexplained {far}: who carries it"
        layout = titled(title, "share of the samples, worst first", "share of the error")
        layout["xaxis"] |= logarithmic("share of the samples, worst first")
        layout["yaxis"]["range"] = [0, 1]
        return {"data": [line, alike], "layout": layout}


@torch.no_grad()
def approximate(
    layer: nn.Module, measure: Gaussian, fit: Fit = "closed", data: Data | None = None
) -> Approximation:
    """The nearest polynomial of degree 2 of any MLP, as a CP over (1, x) of its own hidden units
    beside a linear part.

    "closed"   the best under the Gaussian ``measure``, from weights and two moments alone
    "units"    each unit's own best (1, a, b, a b, a²) by least squares on ``data``
    "output"   the closed form's pairs, with output, linear part and constant refitted on ``data``

    ``data``: activations (n, i) that the layer reads, or batches of them. How near it comes is
    measured on them; of a fit by least squares on every fifth sample, which the fit does not see.
    The layer stays as it is, and what the tensor misses is ``error(x)``.

    Work is in float64. Cost: "closed" O(h i (i + d)), memory a copy of the weights and the tensor;
    "units" O(n h i); "output" O(n (h + i)²) and O((h + i)³), memory O((h + i)²). Errors:
    ArgumentError for what is no MLP of bilens, another ``fit``, or no data where they are needed;
    ShapeError for a measure or data of another width; NotFiniteError.

    >>> gelu = bilens.nn.MLP(8, 16, act="gelu")
    >>> g = bilens.Gaussian(torch.zeros(8), torch.eye(8))
    >>> near = bilens.approximate(gelu, g)
    >>> near.tensor.shape  # over (1, x)
    (8, 9, 9)
    """
    hidden, measure = _asked(layer, measure, fit)
    moments = Moments.of(hidden, measure)
    units, quadrature = closed(hidden, moments)
    learnt, seen = _parted(data, hidden, fit)
    exact = hidden.to(torch.float64) if seen else hidden
    if fit == "units":
        units = by_units(exact, moments, ((x, torch.ones_like(x[:, 0])) for x in learnt))
    if fit == "output":
        tensor = by_output(exact, moments, units, learnt).to(hidden.out.dtype)
    else:
        tensor = as_tensor(hidden, moments, units)
    require_finite("approximate", tensor=tensor.out)
    missing = torch.full_like(moments.mean_a, torch.nan)
    tokens, unexplained = moments.mean_a.new_zeros(0), None
    if seen:
        tokens, unexplained = _missed(exact, tensor.to(torch.float64), seen)
        if fit != "output":
            missing = _by_unit(exact, moments, units, seen)
    return Approximation(tensor, hidden, measure, fit, quadrature, missing, tokens, unexplained)


def _asked(layer: object, measure: object, fit: object) -> tuple[Hidden, Gaussian]:
    if not isinstance(layer, nn.Module) or not hasattr(layer, "hidden"):
        todo = "Pass model.model.layers[0].mlp, say; of experts one, mlp.experts[0]."
        got = type(layer).__name__
        raise ArgumentError("approximate", must="be given an MLP", got=got, todo=todo)
    require("fit", fit, OneOf(get_args(Fit)), ArgumentError)
    hidden: Hidden = layer.hidden().detach().clone()  # type: ignore[operator]
    measure = require_measure(hidden, measure)
    hidden = hidden.to(working_dtype(hidden.out.dtype))
    require_finite("approximate", out=hidden.out, weight=hidden.weight)
    return hidden, measure.to(hidden.out.device)


def _parted(
    data: Data | None, hidden: Hidden, fit: str
) -> tuple[list[Float[Tensor, "_ i"]], list[Float[Tensor, "_ i"]]]:
    """The samples that are fitted, and those that are measured on."""
    if data is None:
        if fit != "closed":
            raise ArgumentError("data", must=f'be given for fit="{fit}"', got="None")
        return [], []
    if not isinstance(data, Tensor | Sequence):
        todo = "They are gone over more than once."
        got = type(data).__name__
        raise ArgumentError("data", must="be a tensor or a list of them", got=got, todo=todo)
    batches = [_batch(batch, hidden) for batch in ([data] if isinstance(data, Tensor) else data)]
    if sum(map(len, batches)) < 2 * HELD_OUT:
        must = f"hold at least {2 * HELD_OUT} samples"
        raise ArgumentError("data", must=must, got=sum(map(len, batches)))
    if fit == "closed":
        return [], batches
    numbers = torch.arange(sum(map(len, batches)), device="cpu").split(list(map(len, batches)))
    kept = [number % HELD_OUT == HELD_OUT - 1 for number in numbers]
    fitted = [batch[~rows] for batch, rows in zip(batches, kept, strict=True)]
    return fitted, [batch[rows] for batch, rows in zip(batches, kept, strict=True)]


def _batch(batch: object, hidden: Hidden) -> Float[Tensor, "n i"]:
    width = hidden.weight.shape[1]
    if not isinstance(batch, Tensor) or batch.ndim != 2 or batch.shape[1] != width:
        got = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
        raise ShapeError("data", must=f"be activations (n, {width})", got=got)
    require_floating("data", batch.dtype)
    require_finite("", data=batch)
    return batch.detach().to(hidden.out.device)


def _missed(
    hidden: Hidden, tensor: CP, batches: Iterable[Float[Tensor, "_ i"]]
) -> tuple[Float[Tensor, " n"], Estimate]:
    """Each sample's squared error over the sum of squared deviations, and their sum as a ratio of
    averages, whose standard error is by the delta method.
    """
    writes, errors = [], []
    for x in pieces(batches, tensor.left.shape[0]):
        writes.append(hidden.write(hidden(x)))
        errors.append((writes[-1] - tensor(tensor.read(x))).square().sum(-1))
    write, error = torch.cat(writes), torch.cat(errors)
    spread = (write - write.mean(0)).square().sum(-1)
    total = spread.sum()
    if not bool(total > ROUNDED * write.square().sum()):
        raise ArgumentError("data", must="move what the layer writes", got="one output for all")
    share = error.sum() / total
    off = (error - share * spread).std() * len(error) ** 0.5 / total
    return error / total, Estimate(share, off, len(error))


def _by_unit(
    hidden: Hidden, moments: Moments, units: Polynomials, batches: Iterable[Float[Tensor, "_ i"]]
) -> Float[Tensor, " h"]:
    """The share of each unit's variance that its polynomial does not have; NaN where it does not
    move.
    """
    squares = moments.mean_a.new_zeros(3, len(moments.mean_a))
    count, first = 0, None
    for x in pieces(batches, 4 * len(moments.mean_a)):
        value = hidden(x)
        missed = value - units(*sides(hidden, moments, x))
        # about where it is, so that no digits are lost to a large mean: of one that does not move,
        # exactly
        first = value[0] if first is None and len(value) else first
        value = value if first is None else value - first
        squares += torch.stack([missed.square().sum(0), value.square().sum(0), value.sum(0)])
        count += len(x)
    spread = squares[1] - squares[2].square() / count
    return torch.where(spread > 0, squares[0] / spread, torch.nan)

"""How well the first eigenvectors of a latent's form predict it, on real tokens.

A latent is pre(x) = constant + slope·x + xᵀQx, the first two from MLP biases and offset and kept
whole (a layer without biases has no slope). Rank k keeps Σ_m≤k λ_m (v_m·x)² of the rest, largest
|λ| first. What is reported is Pearson's correlation of that with the latent's true activation, over
the tokens where it is active. Source: Pearce et al., arXiv:2410.08417, section 5 and figure 9.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.algebra import CP
from bilens.base.charts import POSITIVE, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import holds_several, is_number, is_whole, nonnegative, require_finite
from bilens.base.results import ANSWER_ROWS, Result
from bilens.base.words import counting
from bilens.decompose import Auto, eigen
from bilens.features.dictionary import Dictionary
from bilens.features.interactions import raised, read_by, require_layer
from bilens.features.latents import halves_raised, names_of, require_features, require_rows

NUMBERS = 2**24  # held at once for a block of latents on all tokens
LEAST = 20  # active tokens below which a correlation says little, unless asked otherwise


@dataclass(frozen=True, repr=False, eq=False)
class LowRank(Result):
    """Correlation of each latent's rank-k approximation with its activation, over the tokens where
    it is active.

    Fields: ``features`` (m,), their ``ranks`` and ``correlation`` (m, rank), between ``low`` and
    ``high`` (Fisher's interval at ``level``, tokens taken as independent; text is not, so true
    intervals are wider); ``active`` (m,): tokens it is active on, of ``tokens``. Left out, and
    named: ``dead`` latents, active nowhere; ``rare`` ones, active on fewer than
    ``least`` or with one value on all. ``threshold``: of ``share``. ``complete`` (m,): whether none
    of a latent's first eigenvectors is missing, as far as ``decompose.eigen`` knows.

    Columns, a row for each latent and rank: ``latent``; ``active on``: how many tokens; ``rank``:
    the eigenvectors kept; their ``correlation`` with the activation, between ``low`` and ``high``.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> x, kept = torch.randn(2048, 128), range(99)
    >>> found = bilens.features.low_rank(T1, out, x, ranks=(1, 2), features=kept, least=4)
    >>> found.ranks
    (1, 2)
    """

    features: Int[Tensor, " m"]
    names: tuple[str, ...]
    ranks: tuple[int, ...]
    correlation: Float[Tensor, "m rank"]
    low: Float[Tensor, "m rank"]
    high: Float[Tensor, "m rank"]
    active: Int[Tensor, " m"]
    tokens: int
    dead: tuple[int, ...]
    rare: tuple[int, ...]
    least: int
    threshold: float
    level: float
    complete: Bool[Tensor, " m"]

    @property
    def share(self) -> list[dict[str, Any]]:
        """By rank: the share of latents above ``threshold``, with Wilson's interval, latents taken
        as drawn at random.
        """
        return [self._share(n, rank) for n, rank in enumerate(self.ranks)]

    def _share(self, n: int, rank: int) -> dict[str, Any]:
        count, z = len(self.features), _z(self.level)
        p = float((self.correlation[:, n] > self.threshold).double().mean())
        scale = 1 + z**2 / count
        middle, half = (
            p + z**2 / (2 * count),
            z * (p * (1 - p) / count + z**2 / (4 * count**2)) ** 0.5,
        )
        median = float(self.correlation[:, n].double().quantile(0.5))  # of two, their mean
        return {
            "rank": rank,
            "share": p,
            "low": nonnegative((middle - half) / scale),
            "high": (middle + half) / scale,
            "median": median,
        }

    def summary(self) -> str:
        shares = ", ".join(
            f"rank {one['rank']}: {one['share']:.0%} [{one['low']:.0%}, {one['high']:.0%}]"
            for one in self.share
        )
        left_out = f"{len(self.dead)} dead and {len(self.rare)} rare latents left out"
        latents = f"{counting(len(self.features), 'latents')} on {self.tokens:,} tokens"
        missing = int((~self.complete).sum())
        doubt = f"; eigenvectors of {missing} latents perhaps not complete" if missing else ""
        return f"{latents}, correlation above {self.threshold}: {shares}; {left_out}{doubt}"

    def columns(self) -> tuple[str, ...]:
        return "latent", "active on", "rank", "correlation", "low", "high"

    def rows(self) -> list[dict[str, Any]]:
        columns = zip(
            self.features.tolist(), self.active.tolist(),
            self.correlation.tolist(), self.low.tolist(), self.high.tolist(),
            strict=True,
        )  # fmt: skip
        return [
            {
                "latent": self.names[f] if self.names else f,
                "active on": n,
                "rank": rank,
                "correlation": r,
                "low": a,
                "high": b,
            }
            for f, n, *values in columns
            for rank, r, a, b in zip(self.ranks, *values, strict=True)
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """By rank: the share of latents whose correlation is above the threshold, its interval, and
        the median correlation.
        """
        named = {"share": f"share above {self.threshold:g}", "median": "median correlation"}
        return [{named.get(key, key): value for key, value in row.items()} for row in self.share][
            :count
        ]

    def figure(self) -> dict[str, Any]:
        """The spread of the correlations over latents, by rank."""
        columns = zip(self.ranks, self.correlation.mT.tolist(), strict=True)
        boxes = [
            {"type": "box", "name": str(rank), "y": column, "marker": {"color": POSITIVE}}
            for rank, column in columns
        ]
        title = f"{counting(len(self.features), 'latents')} by their first eigenvectors alone"
        layout = titled(title, "eigenvectors kept", "correlation with the true activation")
        layout["xaxis"]["type"] = "category"
        layout["yaxis"]["range"] = [-1, 1]
        return {"data": boxes, "layout": layout | {"showlegend": False}}


@torch.no_grad()
def low_rank(
    T: CP,
    outputs: Dictionary,
    x: Float[Tensor, "n i"],
    ranks: Sequence[int] = (1, 2, 4, 8),
    features: Sequence[int] | Int[Tensor, " m"] | None = None,
    *,
    least: int = LEAST,
    threshold: float = 0.75,
    level: float = 0.95,
    names: Sequence[str] = (),
) -> LowRank:
    """How well the first eigenvectors alone predict latents of ``outputs`` on the layer's real
    inputs ``x``.

    ``T`` is over x, or over (1, x). The truth is ``outputs.encode`` of what the layer writes.
    ``features``: these latents alone. Eigenvectors of all latents are found in lock step by
    ``decompose.eigen``. Cost: that of ``eigen`` for m directions; n h (i + o) + n f o for the
    truth; n m k i. Memory n f, and a block of n k. Half types are raised to float32, in which they
    are exact. Errors: ShapeError for inputs or a dictionary of another width, dtype or device;
    ArgumentError for a T that is no CP, for outputs that are no dictionary of what a layer writes,
    for wrong ranks, features or figures, and where no latent is active on enough tokens;
    NotFiniteError.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> x = torch.randn(2048, 128)  # what the layer reads, a row a token
    >>> found = bilens.features.low_rank(T1, out, x, ranks=(1,), features=range(99), least=4)
    >>> found.tokens
    2048
    """
    ranks = _increasing(ranks)
    _require_figures(least, threshold, level)
    T, outputs, x = _given(T, outputs, x)
    names = names_of("names", names, outputs.n_latents)
    reads, _ = read_by("low_rank(outputs)", outputs, T)
    width = x.shape[1]
    chosen = _chosen(features, len(reads))
    truth = outputs.encode(T(T.read(x)))[:, chosen]
    on = truth != 0
    counts = on.sum(0)
    highest, lowest = (
        truth.masked_fill(~on, -torch.inf).amax(0),
        truth.masked_fill(~on, torch.inf).amin(0),
    )
    kept = (counts >= least) & (highest > lowest)
    dead, rare = (
        tuple(chosen[mask.cpu()].tolist()) for mask in (counts == 0, (counts > 0) & ~kept)
    )
    if not bool(kept.any()):
        got = f"{len(dead)} active nowhere and {len(rare)} too rarely, of {len(chosen)}"
        todo = f"Give more tokens than {len(x)}, or a dictionary that is alive here."
        raise ArgumentError(
            "outputs", must=f"have a latent that is active on {least} tokens", got=got, todo=todo
        )
    chosen, truth, on, counts = chosen[kept.cpu()], truth[:, kept], on[:, kept], counts[kept]
    found = eigen(T.quadratic(), reads[chosen], k=max(ranks), solver=Auto(norm=False))
    seen = T.map(out=reads[chosen])
    slopes = seen.split().linear if T.affine else x.new_zeros(len(chosen), width)
    block = max(1, NUMBERS // (len(x) * found.values.shape[1]))
    parts = [
        _correlations(x, found.values[b], found.vectors[b], slopes[b], truth[:, b], on[:, b], ranks)
        for b in (slice(start, start + block) for start in range(0, len(chosen), block))
    ]
    r = torch.cat(parts).cpu()
    low, high = _fisher(r, counts.cpu(), level)
    return LowRank(
        features=chosen,
        names=names,
        ranks=ranks,
        correlation=r,
        low=low,
        high=high,
        active=counts.cpu(),
        tokens=len(x),
        dead=dead,
        rare=rare,
        least=least,
        threshold=threshold,
        level=level,
        complete=found.complete.cpu(),
    )


def _given(T: CP, outputs: Dictionary, x: Tensor) -> tuple[CP, Dictionary, Tensor]:
    """The layer, the dictionary and the inputs in one dtype, once they are such."""
    require_layer("low_rank(T)", T)
    if not isinstance(outputs, Dictionary):
        must = "be a Dictionary, whose activations are the truth"
        raise ArgumentError("low_rank(outputs)", must=must, got=type(outputs).__name__)
    T, outputs = raised(T, outputs)
    x, width = halves_raised(x, T.dtype), T.shape[1] - T.affine
    if not isinstance(x, Tensor) or x.ndim != 2 or not len(x) or x.shape[1] != width:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError("x", must=f"be (n, {width}) with n ≥ 1", got=got)
    require_rows("low_rank", x, width, T.out)
    require_finite("low_rank", out=T.out, left=T.left, right=T.right)
    return T, outputs, x


def _increasing(ranks: Any) -> tuple[int, ...]:
    """The ranks. Errors: ArgumentError unless they are whole numbers that increase."""
    given = tuple(ranks) if holds_several(ranks) else ()
    wrong = not given or any(not is_whole(k) or k < 1 for k in given)
    if wrong or list(given) != sorted(set(given)):
        raise ArgumentError("ranks", must="be whole numbers ≥ 1 that increase", got=repr(ranks))
    return given


def _require_figures(least: object, threshold: object, level: object) -> None:
    """Raise ArgumentError for a figure that the shares or the intervals cannot be of."""
    if not is_whole(least) or least < 4:  # type: ignore[operator]
        must = "be a whole number ≥ 4, as Fisher's interval needs"
        raise ArgumentError("least", must=must, got=repr(least))
    if not is_number(threshold) or not -1 <= threshold < 1:  # type: ignore[operator]
        must = "be a correlation, at least -1 and below 1"
        raise ArgumentError("threshold", must=must, got=repr(threshold))
    if not is_number(level) or not 0 < level < 1:  # type: ignore[operator]
        raise ArgumentError("level", must="lie between 0 and 1", got=repr(level))


def _chosen(features: Any, size: int) -> Int[Tensor, " m"]:
    """The latents, all by default, each once: a share counts them. Errors: ArgumentError."""
    if features is None:
        return torch.arange(size, device="cpu")
    chosen = require_features(features, size)
    if len(set(chosen)) < len(chosen):
        again = next(f for f in chosen if chosen.count(f) > 1)
        raise ArgumentError("features", must="name a latent once", got=f"{again} twice")
    return torch.tensor(chosen, device="cpu")


def _correlations(
    x: Tensor,
    values: Tensor,
    vectors: Tensor,
    slopes: Tensor,
    truth: Tensor,
    on: Tensor,
    ranks: tuple[int, ...],
) -> Float[Tensor, "m rank"]:
    """Pearson's r over each latent's active tokens of slope·x + Σ_m≤k λ_m (v_m·x)² with its
    activation; 0 for a constant.
    """
    terms = torch.einsum("ni,mki->nmk", x, vectors).square() * values
    kept = [min(rank, terms.shape[-1]) - 1 for rank in ranks]
    guess = terms.double().cumsum(-1)[..., kept] + (x @ slopes.mT).double()[..., None]
    mask, count = on.double()[..., None], on.sum(0).double()[:, None]
    one, two = guess, truth.double()[..., None]
    one, two = ((side - (side * mask).sum(0) / count) * mask for side in (one, two))
    lengths = one.norm(dim=0) * two.norm(dim=0)
    return torch.where(lengths > 0, (one * two).sum(0) / lengths, torch.zeros_like(lengths)).clamp(
        -1, 1
    )


def _fisher(r: Float[Tensor, "m k"], n: Int[Tensor, " m"], level: float) -> tuple[Tensor, Tensor]:
    """tanh(atanh r ± z / √(n − 3))."""
    middle, half = (
        r.clamp(-1 + 1e-15, 1 - 1e-15).atanh(),
        _z(level) / (n - 3).double().sqrt()[:, None],
    )
    return (middle - half).tanh(), (middle + half).tanh()


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)

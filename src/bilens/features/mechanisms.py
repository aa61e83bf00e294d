"""Mechanisms shared by many features: one basis for all, turned until the layer's tensor has few
terms in it.

HOSVD keeps the out directions u_a and the input directions v_b that hold most of the symmetric part
S:

    S ≈ Σ_a Σ_bc g_abc u_a ⊗ v_b ⊗ v_c
    S(x) ≈ Σ_a Σ_{b ≤ c} (2 − δ_bc) g_abc (v_b·x)(v_c·x) u_a      a term for each b ≤ c

Its directions are those of most norm, not those of fewest terms, but their spans are all that
matters to the error: within them the bases may be turned, u by any orthogonal A and v by any
orthogonal B, at no cost. The terms of one basis are orthogonal, so term (a, b, c) holds the part
s_abc = (2 − δ_bc) g_abc² / ‖S‖² of the layer and the parts add up.

**The criterion** is Σ s² over the terms, as large as possible: quartimax (Carroll 1953) for a core
tensor, with each unordered pair counted once, so that a product of two directions is one term and
no worse than a square. The effective number of terms is (Σ s)² / Σ s².

**The steps.** With K = ∂f/∂G = 4 w∘G³ (f = Σ w G⁴, w = 2 off the diagonal of b, c and 1 on it) a
small turn exp(t X) of out by a skew X raises f by t ⟨skew(K G_outᵀ), X⟩, and one of the inputs, who
turn twice, by t ⟨2 skew(K G_inᵀ), X⟩. Conjugate gradients (Polak-Ribière) on both at once, each
step along exp(t X) by a search that takes only steps that raise f: monotone. There are local
maxima: several seeded starts, the HOSVD basis itself the first.

**Does it mean anything?** Any core looks sparser after such a turn. The same number of terms, from
the same turns and starts, of random cores with the same Grams of all modes (Gaussian, scaled mode
by mode) is what comes of the turning alone.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, Dense, ThirdOrder, Tucker, signs, symmetric_root
from bilens.base.charts import BELOW, POSITIVE, REFERENCE, curve, logarithmic, titled
from bilens.base.errors import ArgumentError, TooLargeError
from bilens.base.numerics import GIB, is_number, is_whole, require_seed, seeded, standard_normal
from bilens.base.results import Result
from bilens.decompose import hosvd

# singular values below this part of the largest are no directions of the layer (HOSVD's noise is
# 1e-7)
ROUNDING = 1e-6
ARMIJO = 1e-3  # of the promised rise: the least that a step must bring
MATCHED = 1e-8  # relative, of the random cores' Grams
ROUNDED = 1e-14  # of the largest eigenvalue of a Gram: below that is rounding
SCALINGS = 500  # of a random core at most
SHOWN = 1000  # terms in rows()


@dataclass(frozen=True, repr=False, eq=False)
class Mechanisms(Result):
    """S ≈ Σ core[a, b, c] out[:, a] ⊗ in[:, b] ⊗ in[:, c] with orthonormal bases, turned so that
    few terms hold much.

    Fields:
        bases: "out" (o, a) and "in" (i, b), columns of most norm first, the largest entry of each
            positive.
        core: S in these bases, symmetric in its last two axes.
        norm: ‖S‖.  error: ‖S − Ŝ‖ / ‖S‖ of the truncation; turning adds none.
        before, after: the part of ‖S‖² in the 1, 2, … largest terms, in the HOSVD basis and in the
            turned one.
        random_before, random_after: the same of random cores with the same Grams, turned by the
            same steps, a row each.
        mismatch: how far the worst Gram of a random core is from the layer's, relative.
        history: the criterion, Σ s² over (Σ s)², after each step of the start that ended highest.
        criteria: where each start ended; ``steady``: whether each one's last step gained less than
            ``tol``.

    Columns, a row for each of the largest terms: ``term``: its rank; ``out``: the output direction
    that it writes; ``in`` and ``and in``: the input directions that it multiplies; ``value``: the
    factor of u_a (v_b·x)(v_c·x) in the layer's output; ``share of ‖S‖²``.

    >>> A = bilens.CP(torch.eye(3), torch.eye(3), torch.eye(3))
    >>> found = bilens.features.mechanisms(A, max_rank=3, starts=2, draws=1, steps=20)
    >>> found.core.shape
    torch.Size([3, 3, 3])
    """

    bases: dict[str, Float[Tensor, "s r"]]
    core: Float[Tensor, "a b b"]
    norm: float
    error: float
    before: Float[Tensor, " n"]
    after: Float[Tensor, " n"]
    random_before: Float[Tensor, "d n"]
    random_after: Float[Tensor, "d n"]
    mismatch: float
    history: Float[Tensor, " steps"]
    criteria: tuple[float, ...]
    steady: tuple[bool, ...]

    @property
    def tucker(self) -> Tucker:
        """The layer's symmetric part in this basis."""
        return Tucker(self.core, self.bases["out"], self.bases["in"], self.bases["in"])

    @property
    def converged(self) -> bool:
        """Whether the start that ended highest had come to rest."""
        return self.steady[self.criteria.index(max(self.criteria))]

    @property
    def effective_terms(self) -> float:
        """(Σ s)² / Σ s²: as many terms as this, were they all equal."""
        return 1 / max(self.criteria) if max(self.criteria) else 0.0

    def carried(self, count: int) -> dict[str, float]:
        """The part of ‖S‖² in the ``count`` largest terms, before and after the turn, beside the
        random cores' mean and spread (standard deviation over draws; NaN for fewer than two). All
        terms where there are fewer."""
        at = min(count, len(self.after)) - 1
        if not is_whole(count) or at < 0:
            raise ArgumentError(
                "count", must="be a whole number ≥ 1, of a core that is not empty", got=repr(count)
            )
        found = {"before": float(self.before[at]), "after": float(self.after[at])}
        for name, draws in (
            ("random before", self.random_before),
            ("random after", self.random_after),
        ):
            spread = float(draws[:, at].std()) if len(draws) > 1 else float("nan")
            found |= {name: float(draws[:, at].mean()), f"{name}, spread": spread}
        return found

    def summary(self) -> str:
        a, b = self.core.shape[:2]
        parts = [
            f"{n}: {self.carried(n)['after']:.3g}"
            for n in (1, 10, 100, 1000)
            if n <= len(self.after)
        ]
        beside = [
            f"{self.carried(n)['random after']:.3g}"
            for n in (1, 10, 100, 1000)
            if n <= len(self.after)
        ]
        null = f" (random: {', '.join(beside)})" if len(self.random_after) else ""
        state = "" if self.converged else "; not converged"
        what = f"{a} out and {b} input directions, relative error {self.error:.3g}"
        return f"{what}; part of ‖S‖² in the largest terms {', '.join(parts)}{null}{state}"

    def columns(self) -> tuple[str, ...]:
        return "term", "out", "in", "and in", "value", "share of ‖S‖²"

    def rows(self) -> list[dict[str, Any]]:
        """The largest terms: value is the factor of u_a (v_b·x)(v_c·x) in the layer's output."""
        relative = self.core / (self.norm or 1.0)
        value, order, (a, b, c) = _terms(relative)
        kept = order[:SHOWN]
        columns = (each[kept].tolist() for each in (a, b, c, value * self.norm))
        shares = _shares(relative)[kept].tolist()
        return [
            {
                "term": n,
                "out": out,
                "in": one,
                "and in": two,
                "value": factor,
                "share of ‖S‖²": share,
            }
            for n, (out, one, two, factor, share) in enumerate(zip(*columns, shares, strict=True))
        ]

    def figure(self) -> dict[str, Any]:
        counts = sorted(
            {round(1.25**n) for n in range(100) if round(1.25**n) <= len(self.after)}
            | {len(self.after)}
        )
        at = torch.tensor([count - 1 for count in counts if count], device="cpu")
        solid = [
            ("layer, turned", self.after, "solid", POSITIVE),
            ("layer, HOSVD basis", self.before, "dot", POSITIVE),
        ]
        if len(self.random_after):
            solid += [
                ("random, turned (mean)", self.random_after.mean(0), "solid", REFERENCE),
                ("random, HOSVD basis (mean)", self.random_before.mean(0), "dot", REFERENCE),
            ]
        shown = [count for count in counts if count]
        lines = []
        for name, values, dash, color in solid:
            shares = values[at].tolist()
            hover = {"largest terms": shown, "share of ‖S‖²": shares}
            lines.append(
                curve(name, shown, shares, hover=hover, mode="lines", dash=dash, color=color)
            )
        title = "What the largest terms hold of the layer"
        layout = titled(title, "largest terms", "share of ‖S‖²", xaxis=logarithmic("largest terms"))
        return {"data": lines, "layout": layout | BELOW}


@torch.no_grad()
def mechanisms(
    tensor: CP | Dense | Tucker,
    max_rank: int | tuple[int, int] = 32,
    *,
    seed: int = 0,
    starts: int = 8,
    draws: int = 4,
    steps: int = 200,
    tol: float = 1e-5,
    max_bytes: int = GIB,
) -> Mechanisms:
    """One basis for all outputs and one for both inputs, in which ``tensor``'s symmetric part has
    as few terms as can be.

    ``max_rank``: directions kept by HOSVD, of out and of the inputs (one number: both). ``starts``:
    the HOSVD basis and seeded random turns of it; the one that ends highest is kept. ``draws``:
    random cores to compare with, each with the same starts. A start ends when a step gains less
    than ``tol`` of the criterion, or after ``steps``.

    In features' place, hand over ``interactions(...)``'s tensor: then the bases are combinations of
    features.

    Where it helps and where not: a layer made of few products in orthogonal directions comes back
    to the last digit, given starts enough (there are many local maxima: see ``criteria``), and a
    Gaussian one gives what the random cores give. What counts is what a layer has over the random
    cores, not what it gained by the turn: the two-layer model in the box gains several times its
    HOSVD basis' largest terms, and so do its random cores and a layer of random weights. Terms must
    be of orthogonal directions: products that share directions at an angle, of which superposition
    has many, do not come apart in any such basis. Terms of one size may turn into each other
    freely, as degenerate eigenvectors do.

    Cost: that of ``hosvd``; the core's a·b² float64 numbers and some copies of them, the only dense
    array; per step some six products O(a b² (a + b)), times starts · (1 + draws) · steps. Errors:
    TooLargeError for a core above ``max_bytes``; ArgumentError; ShapeError; NotFiniteError. Source:
    Carroll 1953 (quartimax); De Lathauwer et al. 2000 (HOSVD); the turn of a core: Kiers 1998
    (orthomax of Tucker).

    >>> A = bilens.CP(torch.eye(3), torch.eye(3), torch.eye(3))
    >>> found = bilens.features.mechanisms(A, max_rank=3, starts=2, draws=1, steps=20)
    >>> sorted(found.bases)
    ['in', 'out']
    """
    if not isinstance(tensor, ThirdOrder):
        raise ArgumentError(
            "mechanisms", must="be given a tensor: CP, Dense, Tucker", got=type(tensor).__name__
        )
    ranks = max_rank if isinstance(max_rank, tuple) else (max_rank, max_rank)
    if len(ranks) != 2 or not all(is_whole(rank) and rank >= 1 for rank in ranks):
        raise ArgumentError(
            "max_rank", must="be a whole number ≥ 1, or two (out, inputs)", got=repr(max_rank)
        )
    for name, value, least in (
        ("starts", starts, 1),
        ("draws", draws, 0),
        ("steps", steps, 1),
        ("seed", seed, 0),
        ("max_bytes", max_bytes, 0),
    ):
        if not is_whole(value) or value < least:
            raise ArgumentError(name, must=f"be a whole number ≥ {least}", got=repr(value))
    require_seed("seed", seed)
    if not is_number(tol) or not 0 <= tol < 1:
        raise ArgumentError("tol", must="be in [0, 1)", got=repr(tol))
    a, b = (min(rank, size) for rank, size in zip(ranks, tensor.shape, strict=False))
    if a * b * b * 8 > max_bytes:
        todo = "Set a smaller max_rank, or raise max_bytes."
        raise TooLargeError(
            "mechanisms",
            must=f"make a core of at most {max_bytes:,} bytes",
            got=f"{a * b * b * 8:,}",
            todo=todo,
        )
    found = hosvd(tensor, (a, b, b), ROUNDING, symmetric=True)
    whole = found.tucker.core.double() / (found.norm or 1.0)  # all that follows knows no scale
    turn, history, criteria, steady = _best(whole, starts, steps, tol, seed)
    generator = seeded(seed)
    random = [_alike(whole, generator) for _ in range(draws)]
    turned = [_best(draw, starts, steps, tol, seed)[0].core for draw, _ in random]
    out, inputs = found.bases["out"].double() @ turn.out, found.bases["left"].double() @ turn.inputs
    core, out, inputs = _ordered(turn.core, out, inputs)
    return Mechanisms(
        bases={"out": out, "in": inputs},
        core=core * found.norm,
        norm=found.norm,
        error=found.error,
        before=_cumulated(whole),
        after=_cumulated(core),
        random_before=_stacked([_cumulated(draw) for draw, _ in random], core),
        random_after=_stacked([_cumulated(draw) for draw in turned], core),
        mismatch=max((off for _, off in random), default=0.0),
        history=history,
        criteria=criteria,
        steady=steady,
    )


@dataclass(frozen=True)
class _Turn:
    """A core in a turned basis, and the turns that made it: columns are the new directions in the
    old ones.
    """

    core: Float[Tensor, "a b b"]
    out: Float[Tensor, "a a"]
    inputs: Float[Tensor, "b b"]

    def then(
        self, out: Float[Tensor, "a a"] | None = None, inputs: Float[Tensor, "b b"] | None = None
    ) -> "_Turn":
        core, whole_out, whole_in = self.core, self.out, self.inputs
        if out is not None:
            core, whole_out = torch.tensordot(out, core, 1), whole_out @ out.mT
        if inputs is not None:
            core, whole_in = inputs @ core @ inputs.mT, whole_in @ inputs.mT
        return _Turn(core, whole_out, whole_in)


def _best(
    core: Float[Tensor, "a b b"], starts: int, steps: int, tol: float, seed: int
) -> tuple[_Turn, Float[Tensor, " steps"], tuple[float, ...], tuple[bool, ...]]:
    """The turn that ended highest, its history, and where all ended."""
    generator = seeded(seed)
    # the criterion is then Σ s² / (Σ s)², and steps know no scale
    whole = core / (core.norm() or 1.0)
    begin = _Turn(
        whole, *(torch.eye(size, dtype=core.dtype, device=core.device) for size in core.shape[:2])
    )
    ends = []
    for start in range(starts):
        first = (
            begin
            if start == 0
            else begin.then(*(_orthogonal(size, generator, core) for size in core.shape[:2]))
        )
        ends.append(_climbed(first, steps, tol))
    best, history, _ = max(ends, key=lambda end: float(end[1][-1]))
    out, inputs = _polar(best.out), _polar(best.inputs)  # many products of turns drift
    exact = _Turn(torch.tensordot(out.mT, inputs.mT @ core @ inputs, 1), out, inputs)
    return exact, history, tuple(float(end[1][-1]) for end in ends), tuple(end[2] for end in ends)


def _climbed(turn: _Turn, steps: int, tol: float) -> tuple[_Turn, Float[Tensor, " n"], bool]:
    """Conjugate gradients over both turns: the last turn, the criterion after each step, whether
    the steps came to rest.
    """
    history, length, slope, along = [_criterion(turn.core)], math.inf, _skews(turn.core), None
    for _ in range(steps):
        along = slope if along is None or _dot(along, slope) <= 0 else along
        stepped, length = _searched(turn, along, _dot(along, slope), length)
        if stepped is None and along is not slope:
            along, length = None, math.inf
            continue
        gain = 0.0 if stepped is None else _criterion(stepped.core) - history[-1]
        turn = stepped or turn
        history.append(_criterion(turn.core))
        new = _skews(turn.core)
        if gain <= tol * history[-1] and along is slope:
            return turn, torch.tensor(history, dtype=torch.float64, device="cpu"), True
        square = _dot(slope, slope)
        ratio = (
            max(0.0, (_dot(new, new) - _dot(new, slope)) / square)
            if square and gain > tol * history[-1]
            else 0.0
        )
        slope, along = (
            new,
            (new[0] + ratio * along[0], new[1] + ratio * along[1]) if ratio else None,
        )
    return turn, torch.tensor(history, dtype=torch.float64, device="cpu"), False


def _searched(
    turn: _Turn, along: tuple[Tensor, Tensor], rise: float, length: float
) -> tuple[_Turn | None, float]:
    """A step that raises the criterion by at least a part of what its slope promises (Armijo), and
    what to try next.

    A step that falls short is followed by the top of the parabola through what is known, within
    [0.1, 0.5] of it.
    """
    before, fastest = (
        _criterion(turn.core),
        max(float(torch.linalg.matrix_norm(one, 2)) for one in along),
    )
    length = min(length, 1.0 / fastest) if fastest else 0.0  # at most a radian or so
    while fastest * length > 1e-9:
        tried = turn.then(*(torch.matrix_exp(length * one) for one in along))
        gain = _criterion(tried.core) - before
        if gain > 0 and gain >= ARMIJO * rise * length:
            return tried, 2 * length
        bend = rise * length - gain
        length *= min(max(0.5 * rise * length / bend, 0.1), 0.5) if bend > 0 else 0.5
    return None, length


def _skews(core: Float[Tensor, "a b b"]) -> tuple[Float[Tensor, "a a"], Float[Tensor, "b b"]]:
    """The slopes of the criterion along turns of out and of the inputs."""
    slope = _slope(core)
    # both are symmetric in the inputs
    out, inputs = slope.flatten(1) @ core.flatten(1).mT, 2 * (slope @ core).sum(0)
    return (out - out.mT) / 2, (inputs - inputs.mT) / 2


def _dot(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> float:
    return float((one[0] * two[0]).sum() + (one[1] * two[1]).sum())


def _weights(core: Float[Tensor, "a b b"]) -> Float[Tensor, "b b"]:
    """How often an unordered pair stands in the core: twice, and once on the diagonal."""
    return 2.0 - torch.eye(core.shape[1], dtype=core.dtype, device=core.device)


def _criterion(core: Float[Tensor, "a b b"]) -> float:
    """Σ s² over the terms of a core of norm 1: an off-diagonal term's s is 2 g², and it stands
    there twice.
    """
    return float((_weights(core) * core.square().square()).sum())


def _slope(core: Float[Tensor, "a b b"]) -> Float[Tensor, "a b b"]:
    return 4 * _weights(core) * core**3


def _polar(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The orthogonal matrix nearest to this one."""
    left, _, right = torch.linalg.svd(matrix)
    return left @ right


def _orthogonal(size: int, generator: torch.Generator, like: Tensor) -> Float[Tensor, "s s"]:
    basis, upper = torch.linalg.qr(
        standard_normal(size, size, generator=generator, dtype=like.dtype)
    )
    return (basis * upper.diagonal().sign()).to(like.device)  # Haar: without the signs it is not


def _alike(
    core: Float[Tensor, "a b b"], generator: torch.Generator
) -> tuple[Float[Tensor, "a b b"], float]:
    """A Gaussian core, symmetric as the given one, scaled until the Grams of its modes are those;
    and how far off they end.

    For the Gram H of a mode and its target G, M = G^½ (G^½ H G^½)^-½ G^½ has M H M = G. The inputs
    are turned by √M on each side at a time: both sides change the one Gram.
    """
    draw = standard_normal(*core.shape, generator=generator, dtype=core.dtype).to(core.device)
    draw = (draw + draw.mT) / 2
    out, inputs = _grams(core)
    roots, off = (symmetric_root(out), symmetric_root(inputs)), float("inf")
    for _ in range(SCALINGS):
        draw = torch.tensordot(_scaling(_grams(draw)[0], roots[0]), draw, 1)
        side = symmetric_root(_scaling(_grams(draw)[1], roots[1]))
        draw = side @ draw @ side
        off = max(
            float((one - two).norm() / (two.norm() or 1.0))
            for one, two in zip(_grams(draw), (out, inputs), strict=True)
        )
        if off <= MATCHED:
            break
    return draw, off


def _grams(core: Float[Tensor, "a b b"]) -> tuple[Float[Tensor, "a a"], Float[Tensor, "b b"]]:
    return core.flatten(1) @ core.flatten(1).mT, (core @ core).sum(0)


def _scaling(gram: Float[Tensor, "n n"], root: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return root @ symmetric_root(root @ gram @ root, ROUNDED, inverse=True) @ root


def _ordered(
    core: Float[Tensor, "a b b"], out: Float[Tensor, "o a"], inputs: Float[Tensor, "i b"]
) -> tuple[Float[Tensor, "a b b"], Float[Tensor, "o a"], Float[Tensor, "i b"]]:
    """Directions of most norm first, the largest entry of each positive."""
    rows, columns = (core.square().sum(dims).argsort(descending=True) for dims in ((1, 2), (0, 2)))
    out, inputs, core = out[:, rows], inputs[:, columns], core[rows][:, columns][:, :, columns]
    sign_out, sign_in = (signs(basis.mT)[:, 0] for basis in (out, inputs))
    return (
        core * sign_out[:, None, None] * sign_in[:, None] * sign_in,
        out * sign_out,
        inputs * sign_in,
    )


def _shares(core: Float[Tensor, "a b b"]) -> Float[Tensor, " n"]:
    """The squared norm of each term (a, b ≤ c)."""
    one, two = torch.triu_indices(*core.shape[1:], device=core.device)
    return (_weights(core) * core.square())[:, one, two].flatten()


def _terms(core: Float[Tensor, "a b b"]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Each term's factor of (v_b·x)(v_c·x), the order by squared norm, and the places (a, b, c)."""
    one, two = torch.triu_indices(*core.shape[1:], device=core.device)
    out = torch.arange(len(core), device=core.device).repeat_interleave(len(one))
    places = out, one.repeat(len(core)), two.repeat(len(core))
    return (_weights(core) * core)[places], _shares(core).argsort(descending=True), places


def _cumulated(core: Float[Tensor, "a b b"]) -> Float[Tensor, " n"]:
    return _shares(core).sort(descending=True).values.cumsum(0)


def _stacked(rows: list[Tensor], core: Float[Tensor, "a b b"]) -> Float[Tensor, "d n"]:
    return (
        torch.stack(rows)
        if rows
        else core.new_zeros(0, core.shape[0] * core.shape[1] * (core.shape[1] + 1) // 2)
    )

"""A head without softmax: its scores are products of what it reads, as its values are, so that what
it writes is a polynomial of the stream and nothing need be given.

    y_t = out · Σ_s w_ts ∏_i (q^i_t · k^i_s) v_s      q^i_t = Rot_t (σ_t (W x̂_t + b)), and k^i_s so

With two scores it has degree 5: two legs where it stands, three where it looks. Each leg is
contracted in the head's own d_head dimensions. Of the scores that are held as the pass had them,
w has the values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.nn import rotate
from bilens.wiring.kinds import Product

VALUE = "v"


@dataclass(frozen=True, eq=False)
class Scale:
    """What a norm over queries, or over keys, multiplies them with at each position, as the pass
    fixed it. ``given`` names it.

    >>> bilens.wiring.Scale(torch.ones(8, 1), "σ q1 L0H0").values.shape
    torch.Size([8, 1])
    """

    values: Float[Tensor, "t 1"]
    given: str


@dataclass(frozen=True, eq=False)
class Scored(Product):
    """What a head writes whose scores come apart: a product of queries, keys and values.

    The legs of ``form`` are a query and a key for each of ``scores``, by name ("1", "2"), and the
    values. ``turn``: cos and sin by which queries and keys are turned at each position.
    ``weights``: what multiplies the scores, 0 where the head does not look; ``held`` names a score
    that is in it. ``looked``: the pattern of the pass, of both signs. ``scales``: of each leg,
    where it has a norm.

    >>> legs = tuple(bilens.nn.Leg(torch.eye(4)) for _ in range(3))
    >>> form, source = bilens.wiring.Form(legs, torch.eye(4)), bilens.wiring.Source("L0H0", "head")
    >>> head = bilens.wiring.Scored(source, form, torch.ones(2, 2).tril(), ("1",))
    >>> head.degree, head.names
    (3, ('q1', 'k1', 'v'))
    """

    weights: Float[Tensor, "t s"]
    scores: tuple[str, ...]
    turn: tuple[Float[Tensor, "t r"], Float[Tensor, "t r"]] | None = None
    looked: Float[Tensor, "t s"] | None = None
    held: str = ""
    scales: tuple[Scale | None, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*(f"{side}{score}" for score in self.scores for side in "qk"), VALUE)

    @property
    def looks(self) -> bool:
        return True

    @property
    def patterns(self) -> tuple[Float[Tensor, "t s"], ...]:
        own = not self.form.legs[-1].of
        return (self.looked,) if own and self.looked is not None else ()

    def may_stand(self, t: int, at: Sequence[int]) -> bool:
        return len(at) == self.degree and at[-1] <= t and tuple(at) == self.at(t, at[-1])

    def at(self, t: int, s: int) -> tuple[int, ...]:
        """Where its legs stand where it looks from t to s."""
        return (*((t, s) * len(self.scores)), s)

    def stands(self, t: int, reads: Sequence[bool]) -> Iterator[tuple[range, ...]]:
        seen = self.weights[t].nonzero()
        there = range(int(seen.max()) + 1 if len(seen) else 0)
        here = range(t, t + 1)
        yield (*((here, there) * len(self.scores)), there)

    def feature(
        self, leg: int, read: Float[Tensor, "n d"], t: int, at: range
    ) -> Float[Tensor, "n k"]:
        return self._turned(leg, read @ self.form.legs[leg].weight.mT, at)

    def constant(
        self, leg: int, constant: Float[Tensor, " k"], t: int, at: range
    ) -> Float[Tensor, "n k"]:
        return self._turned(leg, constant.expand(len(at), -1), at)

    def joined(
        self, features: Sequence[Float[Tensor, "*#n _"]], t: int, at: Sequence[range]
    ) -> Float[Tensor, "*n k"]:
        scores = [self._score(features[n], features[n + 1]) for n in self._queries]
        return self._weight(t, at) * reduce(torch.mul, scores) * features[-1]

    def partial(
        self,
        leg: int,
        features: Sequence[Float[Tensor, " _"]],
        hidden: Float[Tensor, " k"],
        t: int,
        at: Sequence[range],
    ) -> Float[Tensor, " d"]:
        last, own = self.degree - 1, leg - leg % 2
        scores = [
            self._score(features[n], features[n + 1])
            for n in self._queries
            if n != own or leg == last
        ]
        weight = reduce(torch.mul, scores, self._weight(t, at))  # (1, 1)
        if leg == last:
            pulled = weight * hidden
        else:
            beside = features[own + 1 if leg == own else own]
            pulled = weight * (hidden @ features[-1]) * beside
        return self._turned(leg, pulled, at[leg], back=True)[0] @ self.form.legs[leg].weight

    def fixed(self, t: int, at: Sequence[int]) -> list[str]:
        held = [f"{self.held}[{t},{at[-1]}]"] if self.held else []
        scales = [
            f"{scale.given}@{s}"
            for scale, s in zip(self.scales, at, strict=False)
            if scale is not None
        ]
        return [*held, *scales, *self._gates(t)]

    def size(self, features: Sequence[Float[Tensor, "t k"]]) -> float:
        sides = [side.abs() for side in features]
        if self.scales:
            scaled = zip(sides, self.scales, strict=True)
            sides = [side if scale is None else scale.values.abs() * side for side, scale in scaled]
        written = self._written(sides, self.weights.abs(), torch.abs)
        return float(written.abs().max()) if written.numel() else 0.0

    def product(self, features: Sequence[Float[Tensor, "t k"]]) -> Float[Tensor, "t d"]:
        everywhere = range(len(self.weights))
        sides = [self._turned(n, side, everywhere) for n, side in enumerate(features)]
        return self._written(sides, self.weights, lambda given: given)

    @property
    def _queries(self) -> range:
        """The places of the queries among the legs."""
        return range(0, 2 * len(self.scores), 2)

    @staticmethod
    def _score(query: Float[Tensor, "*n k"], key: Float[Tensor, "*m k"]) -> Float[Tensor, "*p 1"]:
        return (query * key).sum(-1, keepdim=True)

    def _weight(self, t: int, at: Sequence[range]) -> Float[Tensor, "n 1"]:
        return self.weights[t, at[-1].start : at[-1].stop, None]

    def _turned(
        self, leg: int, made: Float[Tensor, "n k"], at: range, back: bool = False
    ) -> Float[Tensor, "n k"]:
        """Features of a leg where they stand, scaled and turned; ``back``: by the transpose."""
        where = slice(at.start, at.stop)
        scale = self.scales[leg] if self.scales else None
        if scale is not None:
            made = scale.values[where] * made
        if self.turn is None or leg == self.degree - 1:
            return made
        cos, sin = (angle[where, None] for angle in self.turn)
        return rotate(made[:, None], cos, -sin if back else sin)[:, 0]

    def _written(
        self,
        sides: Sequence[Float[Tensor, "t k"]],
        weights: Float[Tensor, "t s"],
        fixed: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "t d"]:
        scores = (sides[n] @ sides[n + 1].mT for n in self._queries)
        hidden = reduce(torch.mul, scores, weights) @ sides[-1]
        hidden = hidden if self.gate is None else hidden * fixed(self.gate.values)
        return hidden @ fixed(self.form.out).mT

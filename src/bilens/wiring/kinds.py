"""What a part of a model writes: multilinear in what it reads given what a pass fixed, or an end.

    y_t = out · gate_t ∘ ∏_i (Σ_s mixⁱ_ts (W_i x̂_s + b_i))        elementwise over hidden features

A head has one leg, mixed by its pattern (degree 1); a bilinear layer has two (degree 2). A gated
layer has a gate, an expert is gated by its router, a convolution is mixed by a kernel that no pass
fixes. They differ in these fields and nowhere else. A head without softmax has its scores as legs
too: the other kind of product, ``wiring.scored``.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import CP
from bilens.base.records import Record
from bilens.nn import Leg


@dataclass(frozen=True)
class Source(Record):
    """Who writes: ``name`` ("L0H3", "mlp0", "embed") and, in words, its ``kind``.

    ``layer`` is −1 for what stands before all layers. ``part`` is its place among the wiring's
    parts, −1 for what the model writes first; a recording fills it in.

    >>> wiring = model.wiring()
    >>> wiring.leaves[0].name, wiring.leaves[0].kind
    ('embed', 'embedding')
    """

    name: str
    kind: str
    layer: int = -1
    part: int = -1


EMBEDDING, POSITION, BIAS = "embedding", "position embedding", "bias"
HEAD, BILINEAR, OPAQUE = "attention head", "bilinear layer", "opaque layer"
GATED = "layer given its gates"
AGAIN = "what the stream began as"
FIRST = "head on values of the first layer"
NEAREST, MISSED = "nearest tensor", "error of what stands for the layer"
LATENT, SKIP = "latent of a transcoder", "skip of a transcoder"


@dataclass(frozen=True, eq=False)
class Form:
    """The weights of a write: y = out · ∏_i (W_i x̂_i + b_i), elementwise over hidden features.

    >>> leg = bilens.nn.Leg(torch.eye(3))
    >>> bilens.wiring.Form((leg, leg), torch.eye(3)).out.shape
    torch.Size([3, 3])
    """

    legs: tuple[Leg, ...]
    out: Float[Tensor, "d k"]

    @property
    def degree(self) -> int:
        return len(self.legs)

    @classmethod
    def of(cls, tensor: CP) -> "Form":
        """A third-order tensor over x̂, or over (1, x̂), whose first column is then the bias."""
        sides = (tensor.left, tensor.right)
        legs = (Leg(side[:, 1:], side[:, 0]) if tensor.affine else Leg(side) for side in sides)
        return cls(tuple(legs), tensor.out)

    def detach(self) -> "Form":
        """The same form cut off from autograd."""
        return self._over(Tensor.detach)

    def double(self) -> "Form":
        """The same form in float64."""
        return self._over(Tensor.double)

    def behind(self, linear: Callable[[Leg], Tensor]) -> "Form":
        """The linear part over what stands before norms: ``linear`` is the weight of a leg behind
        the transposed map of its own.
        """
        legs = (replace(leg, weight=linear(leg), bias=None) for leg in self.legs)
        return Form(tuple(legs), self.out)

    def _over(self, change: Callable[[Tensor], Tensor]) -> "Form":
        legs = (
            Leg(change(leg.weight), None if leg.bias is None else change(leg.bias), leg.of)
            for leg in self.legs
        )
        return Form(tuple(legs), change(self.out))


@dataclass(frozen=True, eq=False)
class Mix:
    """How much of each position s is read at t. ``given`` names it where the pass fixed it, as a
    pattern; a kernel of the weights is nothing given.

    >>> bilens.wiring.Mix(torch.eye(8)).given
    ''
    """

    values: Float[Tensor, "t s"]
    given: str = ""

    @cached_property
    def causal(self) -> bool:
        """Whether nothing later than t is read at t."""
        return not bool(self.values.triu(1).any())

    def seen(self, t: int) -> range:
        """The positions that may be read at t."""
        return range(t + 1 if self.causal else self.values.shape[1])


@dataclass(frozen=True, eq=False)
class Gate:
    """A factor of each hidden feature, or of all of them, that the pass fixed, at each position
    where its source writes. ``given`` names it, and each where it is a product of several.

    >>> bilens.wiring.Gate(torch.ones(8, 1), ("router mlp0@0",) * 8).values.shape
    torch.Size([8, 1])
    """

    values: Float[Tensor, "n k"] | Float[Tensor, "n 1"]
    given: tuple[str, ...]

    def times(self, other: "Gate") -> "Gate":
        """Both together."""
        return Gate(self.values * other.values, (*self.given, *other.given))


@dataclass(frozen=True, eq=False)
class Product(ABC):
    """What ``source`` writes given a pass, as a product of what its legs make of what they read:
    ``form`` has their weights and ``gate`` is a factor of what they make together.

    A leg stands at a position, which is that of the write or one that it looks at. ``names`` tells
    the legs apart where their order does not. ``value`` and ``rows`` as in ``Multilinear``. A leg
    that is ``of`` another part reads what that one reads, before this one and through its norm;
    of two legs both do, or none.

    >>> issubclass(bilens.wiring.Multilinear, bilens.wiring.Product)
    True
    """

    source: Source
    form: Form

    gate: Gate | None = field(default=None, kw_only=True)
    value: Float[Tensor, "t d"] | None = field(default=None, kw_only=True)
    rows: Int[Tensor, " n"] | None = field(default=None, kw_only=True)

    @property
    def degree(self) -> int:
        return self.form.degree

    @property
    def names(self) -> tuple[str, ...]:
        """Of its legs; empty where a leg has no name."""
        return ()

    @property
    @abstractmethod
    def looks(self) -> bool:
        """Whether any leg reads other positions than its own."""

    @property
    @abstractmethod
    def patterns(self) -> tuple[Float[Tensor, "t s"], ...]:
        """How much of each position was read at each in the pass, where it looks: of each leg that
        differs in it. None of one that is ``of`` another part: its pattern is another write's.
        """

    @abstractmethod
    def may_stand(self, t: int, at: Sequence[int]) -> bool:
        """Whether its legs may stand at ``at`` in what is written at t."""

    @abstractmethod
    def stands(self, t: int, reads: Sequence[bool]) -> Iterator[tuple[range, ...]]:
        """Where its legs may stand together in what is written at t: a range for each leg, of as
        many places as the others' or of one. ``reads``: which legs read the stream; the others
        stand on their constants.
        """

    @abstractmethod
    def feature(
        self, leg: int, read: Float[Tensor, "n d"], t: int, at: range
    ) -> Float[Tensor, "n k"]:
        """What a leg that stands at ``at`` makes of what is read there, its constant apart: of
        several things read at one place, or of one at each.
        """

    @abstractmethod
    def constant(
        self, leg: int, constant: Float[Tensor, " k"], t: int, at: range
    ) -> Float[Tensor, "n k"]:
        """What a leg makes of its constant there."""

    @abstractmethod
    def joined(
        self, features: Sequence[Float[Tensor, "*#n _"]], t: int, at: Sequence[range]
    ) -> Float[Tensor, "*n k"]:
        """The hidden features at t, gate apart, of what its legs make."""

    @abstractmethod
    def partial(
        self,
        leg: int,
        features: Sequence[Float[Tensor, " _"]],
        hidden: Float[Tensor, " k"],
        t: int,
        at: Sequence[range],
    ) -> Float[Tensor, " d"]:
        """From a functional on the hidden features at t to one on what a leg reads, the features of
        the others being ``features`` (its own is not looked at).
        """

    @abstractmethod
    def fixed(self, t: int, at: Sequence[int]) -> list[str]:
        """The names of what the pass fixed of what is written at t, where its legs stand at ``at``:
        patterns, gates, scales.
        """

    @abstractmethod
    def size(self, features: Sequence[Float[Tensor, "t k"]]) -> float:
        """How large what is added up may be where these are the features of its legs: of a
        multilinear write at the position where that is most.
        """

    @abstractmethod
    def product(self, features: Sequence[Float[Tensor, "t k"]]) -> Float[Tensor, "t d"]:
        """What it writes where these are the features of its legs at each position."""

    def says(
        self, x: Float[Tensor, "t d"], shared: Float[Tensor, "t d"] | None = None
    ) -> tuple[Float[Tensor, "t d"], float]:
        """What the weights say is written where ``x`` is read, and the size of what is added up.
        ``shared``: what legs that are ``of`` another part read.
        """
        given = x if shared is None else shared
        features = [leg(given if leg.of else x) for leg in self.form.legs]
        return self.product(features), self.size(features)

    def reading(
        self,
        reads: Sequence[Float[Tensor, "t d"]],
        shared: Sequence[Float[Tensor, "t d"]] = (),
    ) -> Float[Tensor, "t d"]:
        """What its weights write where the legs of its part read these, or ``shared`` where they
        are ``of`` another: patterns, gates and scales as they are.
        """
        legs = self.form.legs
        own = self._by_leg(reads)
        other = self._by_leg(shared) if shared else own
        read = [two if leg.of else one for leg, one, two in zip(legs, own, other, strict=True)]
        return self.product([leg(x) for leg, x in zip(legs, read, strict=True)])

    def _by_leg(self, reads: Sequence[Float[Tensor, "t d"]]) -> Sequence[Float[Tensor, "t d"]]:
        """What each leg reads, of what those of the part do: all read the last without names."""
        return reads if self.names else [reads[-1]] * self.degree

    def down(self, q: Float[Tensor, "*b d"], t: int) -> Float[Tensor, "*b k"]:
        """From functionals on what is written at t to ones on the hidden features."""
        return self._gated(q @ self.form.out, t)

    def up(self, hidden: Float[Tensor, "*b k"], t: int) -> Float[Tensor, "*b d"]:
        """What hidden features write at t."""
        return self._gated(hidden, t) @ self.form.out.mT

    def _gated(self, hidden: Float[Tensor, "*b k"], t: int) -> Float[Tensor, "*b k"]:
        """Hidden features by the gate at t; nothing where nothing is written."""
        row = self._row_of.get(t, t if self.rows is None else None)
        if row is None:
            return torch.zeros_like(hidden)
        return hidden if self.gate is None else hidden * self.gate.values[row]

    def _gates(self, t: int) -> list[str]:
        """The names of the gate at t."""
        return [] if self.gate is None else [f"{name}@{t}" for name in self.gate.given]

    @property
    def _at(self) -> slice | Int[Tensor, " n"]:
        """The positions at which it writes, as an index."""
        return slice(None) if self.rows is None else self.rows

    @cached_property
    def _row_of(self) -> dict[int, int]:
        """Where the gate has a position, of those in ``rows``."""
        return {} if self.rows is None else {t: n for n, t in enumerate(self.rows.tolist())}


@dataclass(frozen=True, eq=False)
class Multilinear(Product):
    """What ``source`` writes given a pass: ``form`` on what is read, mixed leg by leg and gated.

    ``mixes`` has an entry for each leg, None where it reads its own position, or is empty.
    ``value`` is what it wrote in the pass, where that can be had apart from the part's other
    writes; one write alone is what the part writes. ``rows``: the positions at which it writes, in
    order, where that is not all of them; its gate is then of these.

    >>> write = bilens.circuits.record(model, prompt).products["mlp0"]
    >>> write.degree, write.source.name
    (2, 'mlp0')
    """

    mixes: tuple[Mix | None, ...] = ()

    @property
    def looks(self) -> bool:
        return any(mix is not None for mix in self.mixes)

    @property
    def patterns(self) -> tuple[Float[Tensor, "t s"], ...]:
        legs = zip(self.mixes, self.form.legs, strict=False)
        mixes = (mix for mix, leg in legs if mix is not None and mix.given and not leg.of)
        return tuple({mix.given: mix.values for mix in mixes}.values())

    def may_stand(self, t: int, at: Sequence[int]) -> bool:
        seen = (s in self.seen(leg, t) for leg, s in enumerate(at))
        return len(at) == self.degree and all(seen)

    def mix(self, leg: int) -> Mix | None:
        return self.mixes[leg] if self.mixes else None

    def weight(self, leg: int, t: int, s: int) -> Float[Tensor, ""] | float:
        """How much of position s the leg reads at t."""
        mix = self.mix(leg)
        return float(s == t) if mix is None else mix.values[t, s]

    def mass(self, leg: int, t: int) -> Float[Tensor, ""] | float:
        """How often the leg's constant is read at t: Σ_s mix_ts."""
        mix = self.mix(leg)
        return 1.0 if mix is None else mix.values[t].sum()

    def seen(self, leg: int, t: int) -> range:
        """The positions that the leg may read at t."""
        mix = self.mix(leg)
        return range(t, t + 1) if mix is None else mix.seen(t)

    def stands(self, t: int, reads: Sequence[bool]) -> Iterator[tuple[range, ...]]:
        here = range(t, t + 1)  # a constant is read once, however often its leg looks
        seen = (self.seen(leg, t) if read else here for leg, read in enumerate(reads))
        for chosen in itertools.product(*seen):
            yield tuple(range(s, s + 1) for s in chosen)

    def feature(
        self, leg: int, read: Float[Tensor, "n d"], t: int, at: range
    ) -> Float[Tensor, "n k"]:
        made = read @ self.form.legs[leg].weight.mT
        return self.weight(leg, t, at[0]) * made if self.looks else made

    def constant(
        self, leg: int, constant: Float[Tensor, " k"], t: int, at: range
    ) -> Float[Tensor, "n k"]:
        return (self.mass(leg, t) * constant)[None]

    def joined(
        self, features: Sequence[Float[Tensor, "*#n _"]], t: int, at: Sequence[range]
    ) -> Float[Tensor, "*n k"]:
        return reduce(torch.mul, features)

    def partial(
        self,
        leg: int,
        features: Sequence[Float[Tensor, " _"]],
        hidden: Float[Tensor, " k"],
        t: int,
        at: Sequence[range],
    ) -> Float[Tensor, " d"]:
        beside = [side for n, side in enumerate(features) if n != leg]
        made = reduce(torch.mul, beside, hidden) @ self.form.legs[leg].weight
        return self.weight(leg, t, at[leg][0]) * made if self.looks else made

    def fixed(self, t: int, at: Sequence[int]) -> list[str]:
        mixed = [
            f"{mix.given}[{t},{s}]"
            for mix, s in zip(self.mixes, at, strict=False)
            if mix is not None and mix.given
        ]
        return [*mixed, *self._gates(t)]

    def size(self, features: Sequence[Float[Tensor, "t k"]]) -> float:
        sizes = self._hidden([side.abs() for side in features], torch.abs)
        weights = self.form.out.abs()
        most = (sizes @ weights.sum(0)).argmax() if sizes.numel() else None
        return 0.0 if most is None else float((weights @ sizes[most]).max())

    def product(self, features: Sequence[Float[Tensor, "t k"]]) -> Float[Tensor, "t d"]:
        hidden = self._hidden(features, lambda given: given)
        if self.rows is None:
            return hidden @ self.form.out.mT
        written = hidden.new_zeros(len(features[0]), len(self.form.out))
        written[self.rows] = hidden @ self.form.out.mT
        return written

    def _hidden(
        self, features: Sequence[Float[Tensor, "t k"]], fixed: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "n k"]:
        """The product of the legs' features where it writes, mixed and gated by ``fixed`` of what
        the pass fixed.
        """
        sides = []
        for n, side in enumerate(features):
            mix = self.mix(n)
            here = side[self._at] if mix is None else fixed(mix.values[self._at]) @ side
            sides.append(here)
        hidden = reduce(torch.mul, sides)
        return hidden if self.gate is None else hidden * fixed(self.gate.values)


@dataclass(frozen=True, eq=False)
class Constant:
    """What ``source`` writes whatever is read: a bias. An end.

    >>> source = bilens.wiring.Source("bias", bilens.wiring.BIAS)
    >>> bilens.wiring.Constant(source, torch.zeros(8, 128)).value.shape
    torch.Size([8, 128])
    """

    source: Source
    value: Float[Tensor, "t d"]


@dataclass(frozen=True, eq=False)
class Opaque:
    """What ``source`` writes, not taken apart. An end. ``value`` and ``rows`` as in
    ``Multilinear``.

    >>> source = bilens.wiring.Source("mlp0", bilens.wiring.OPAQUE, layer=0)
    >>> bilens.wiring.Opaque(source).source.name
    'mlp0'
    """

    source: Source
    value: Float[Tensor, "t d"] | None = None
    rows: Int[Tensor, " n"] | None = None


Write = Product | Constant | Opaque


def quadratic(form: Form) -> CP:
    """A form of degree 2 as a third-order tensor over what is read, its biases left out.

    >>> leg = bilens.nn.Leg(torch.eye(3))
    >>> bilens.wiring.quadratic(bilens.wiring.Form((leg, leg), torch.eye(3))).shape
    (3, 3, 3)
    """
    left, right = form.legs
    return CP(form.out, left.weight, right.weight)

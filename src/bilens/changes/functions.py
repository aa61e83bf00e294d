"""What stands at one place of every checkpoint, as functions whose inner products can be had.

    of weights alone    all inputs count the same: ⟨S, S'⟩ of tensors, ⟨W, W'⟩ of matrices, and of
                        a layer that is no tensor E⟨f(x), f'(x)⟩ over standard normal x
    on data             E⟨f(x), f'(x)⟩ over what the place reads

None of them sees a gauge: a layer's units permuted or rescaled, a head's queries and keys, or
values and outputs, in another basis.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, lifted
from bilens.base.errors import ArgumentError
from bilens.base.numerics import standard_normal
from bilens.changes.reads import Counts, Read, Vectors
from bilens.nn import Leg

SAMPLES = 1024  # of what a layer that is no tensor reads
BLOCKS = 64  # runs of neighbours, for standard errors
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Functions(ABC):
    """One place in every checkpoint, and in words what it is."""

    name: str
    kind: str

    sampled = False  # whether inner products are averages over samples, and have an error

    @abstractmethod
    def seen(self, measure: Read | None) -> Sequence[Any]:
        """Each checkpoint's function under the measure, ready for ``inner``."""

    @abstractmethod
    def inner(self, one: Any, two: Any) -> Float[Tensor, " b"]:
        """Their inner product; in parts, one for each block of samples, where it is sampled."""

    @torch.no_grad()
    def products(self, pairs: Pairs, measure: Read | None = None) -> Float[Tensor, "b p"]:
        """Inner products of pairs of checkpoints, over blocks of samples that add up."""
        seen = self.seen(measure)
        return torch.stack([self.inner(seen[a], seen[b]) for a, b in pairs], 1)


@dataclass(frozen=True, eq=False)
class Tensors(Functions):
    """Layers that are tensors: only their symmetric parts act, and count."""

    tensors: Sequence[CP]
    onto_outputs: bool = False  # whether its outputs are the model's own

    def seen(self, measure: Read | None) -> Sequence[Any]:
        if measure is None:
            return self.tensors
        gaussian = _vectors(measure).gaussian
        return [gaussian.of(tensor).hermite("cheapest") for tensor in self.tensors]

    def inner(self, one: Any, two: Any) -> Float[Tensor, " b"]:
        product = one.inner(two, symmetric=True) if isinstance(one, CP) else one.inner(two)
        return product.double()[None]


@dataclass(frozen=True, eq=False)
class Maps(Functions):
    """Matrices: y = out (W x + b), or W x + b alone."""

    legs: Sequence[Leg]
    outs: Sequence[Float[Tensor, "o k"]] = ()

    def seen(self, measure: Read | None) -> Sequence[Any]:
        outs: Sequence[Any] = self.outs or [None] * len(self.legs)
        return [(out, _columns(leg, measure)) for out, leg in zip(outs, self.legs, strict=True)]

    def inner(self, one: Any, two: Any) -> Float[Tensor, " b"]:
        (out, columns), (other, others) = one, two
        if out is None:
            return (columns * others).sum()[None]
        return ((out.mT @ other) * (columns @ others.mT)).sum()[None]


@dataclass(frozen=True, eq=False)
class Tables(Functions):
    """A row for each entry that is read, as embeddings are."""

    tables: Sequence[Float[Tensor, "n d"]]

    def seen(self, measure: Read | None) -> Sequence[Any]:
        if measure is None:
            return self.tables
        if not isinstance(measure, Counts):
            raise _wrong(measure)
        return [table * measure.shares.sqrt()[:, None] for table in self.tables]

    def inner(self, one: Any, two: Any) -> Float[Tensor, " b"]:
        return (one * two).sum()[None]


@dataclass(frozen=True, eq=False)
class Scores(Functions):
    """Scores q · k of what a query and what a key reads, the two independent.

    ``turning``: how many of their first dimensions turn by position. Dimensions p and p + turning/2
    turn together, and a score at offset δ is then

        Σ_p cos(δ θ_p) (q_1 k_1 + q_2 k_2) + sin(δ θ_p) (q_1 k_2 − q_2 k_1)     of the pairs p
        + Σ q k                                                                 of those that stay

    so over all offsets alike the products of two heads' scores are half those of the cosines' and
    the sines' factors: no offset is singled out.
    """

    queries: Sequence[Leg]
    keys: Sequence[Leg]
    turning: int

    def seen(self, measure: Read | None) -> Sequence[Any]:
        return [
            tuple(self._by_kind(_columns(leg, measure)) for leg in both)
            for both in zip(self.queries, self.keys, strict=True)
        ]

    def inner(self, one: Any, two: Any) -> Float[Tensor, " b"]:
        (pairs_q, still_q), (pairs_k, still_k) = (
            [a @ b.mT for a, b in zip(*both, strict=True)] for both in zip(one, two, strict=True)
        )
        q, k = pairs_q, pairs_k  # (p, 2, 2): of the two dimensions of a pair
        cosine = (q * k).sum()
        sine = (q[:, [0, 0, 1, 1], [0, 1, 0, 1]] * k[:, [1, 1, 0, 0], [1, 0, 1, 0]]).sum(0)
        sine = sine @ sine.new_tensor([1.0, -1.0, -1.0, 1.0])
        return (0.5 * (cosine + sine) + (still_q * still_k).sum())[None]

    def _by_kind(self, columns: Float[Tensor, "k i"]) -> tuple[Tensor, Tensor]:
        """The pairs that turn together (p, 2, i), and the dimensions that stay."""
        first, second = columns[: self.turning].chunk(2) if self.turning else (columns[:0],) * 2
        return torch.stack([first, second], 1), columns[self.turning :]


@dataclass(frozen=True, eq=False)
class Modules(Functions):
    """Layers that are no tensors: known by what they write for samples of what is read."""

    layers: Sequence[Callable[[Tensor], Tensor]]
    width: int

    sampled = True

    def seen(self, measure: Read | None) -> Sequence[Any]:
        x = self._normal if measure is None else _vectors(measure).rows
        return [layer(x).double() / len(x) ** 0.5 for layer in self.layers]

    def inner(self, one: Any, two: Any) -> Float[Tensor, " b"]:
        products = (one * two).sum(-1)
        blocks = products.tensor_split(min(BLOCKS, len(products)))
        return torch.stack([block.sum() for block in blocks])

    @cached_property
    def _normal(self) -> Float[Tensor, "n i"]:
        generator = torch.Generator().manual_seed(0)
        return standard_normal(SAMPLES, self.width, generator=generator)


def _columns(leg: Leg, measure: Read | None) -> Float[Tensor, "k z"]:
    """W and b such that inner products of what is given are averages over what is read: with x = μ
    + C z, of W C and W μ + b.
    """
    if measure is None:
        return leg.weight if leg.bias is None else lifted(leg.weight, leg.bias)
    read = _vectors(measure)
    return lifted(leg.weight @ read.root, leg(read.mean))


def _vectors(measure: Read) -> Vectors:
    if not isinstance(measure, Vectors):
        raise _wrong(measure)
    return measure


def _wrong(measure: object) -> ArgumentError:
    return ArgumentError("measure", must="be of what is read", got=type(measure).__name__)

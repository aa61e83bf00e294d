"""How often the latents of a dictionary fire together on text, and what their pairs then make.

A pair's term in an output feature is c_fg a_f a_g (c = Q_ff, or 2 Q_fg for f ≠ g). Over the tokens
of a text

    Σ_t |c_fg a_tf a_tg| = |c_fg| M_fg,    M = Σ_t |a_t| |a_t|ᵀ

so that one pass over the text, which gathers M, ranks the pairs of every output feature.
"""

from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.algebra import QuadraticForm
from bilens.base.charts import ranked
from bilens.base.chunks import fingerprint
from bilens.base.errors import ArgumentError, TooLargeError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import GIB, is_whole, require_count
from bilens.base.results import SHOWN_ROWS, Result
from bilens.decompose import PairKind
from bilens.features.dictionary import Dictionary
from bilens.features.latents import require_features
from bilens.features.pairs import feature_name
from bilens.features.texts import Tap, Texts, noted
from bilens.wiring import Expandable

LEAST = 20  # tokens on which a pair fires, below which its ratio to chance says little
BLOCK = 512  # latents whose pairs with all others are ranked at once
BYTES = 12  # of a pair: a float64 and an int32


@dataclass(frozen=True, repr=False, eq=False)
class Cofiring(Result):
    """How often latents fire together.

    Fields:
        place: what the dictionary reads.  size: how many latents it has.
        where: the latent on whose tokens this is, "latent 17 of mlp1.output"; "" where on all.
        texts, tokens: how many texts were read, and how many such tokens are in them.
        latents: those that fire at all, by number.
        mass: Σ |a_f a_g| over all tokens, of each two of these.
        counts: on how many tokens both fire; on the diagonal, each alone.
        written: a digest of what all latents write, by which they are known again; "" in files from
            before there was one.
        note: what is to be said of a dictionary that names another model.

    Columns of ``to_frame()``, the pairs that fire together most beyond chance, of those that do so
    on ``LEAST`` tokens or more: "f", "g"; "both", "f fires" and "g fires": tokens; "times chance":
    both, over what it would be were they independent.
    """

    place: str
    where: str
    size: int
    texts: int
    tokens: int
    latents: Int[Tensor, " n"]
    mass: Float[Tensor, "n n"]
    counts: Int[Tensor, "n n"]
    written: str = ""
    note: str = ""

    def summary(self) -> str:
        dead = self.size - len(self.latents)
        what = f"{len(self.latents)} of {self.size:,} latents of {self.place}"
        on = f"{self.tokens:,} tokens{_where(self.where)}"
        return f"{what} fire on {on} ({dead} never){noted(self.note)}"

    def columns(self) -> tuple[str, ...]:
        return "f", "g", "times chance", "both", "f fires", "g fires"

    def rows(self) -> list[dict[str, Any]]:
        alone = self.counts.diagonal().double()
        chance = alone[:, None] * alone / max(self.tokens, 1)
        lift = (self.counts / chance).triu(1) * (self.counts >= LEAST)
        top = lift.flatten().topk(min(SHOWN_ROWS, lift.numel()))
        found = [divmod(n, len(alone)) for n in top.indices[top.values > 0].tolist()]
        return [
            {
                "f": int(self.latents[f]),
                "g": int(self.latents[g]),
                "times chance": float(lift[f, g]),
                "both": int(self.counts[f, g]),
                "f fires": int(alone[f]),
                "g fires": int(alone[g]),
            }
            for f, g in found
        ]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()
        labels = [f"{row['f']} · {row['g']}" for row in rows]
        hover = {name: [row[name] for row in rows] for name in ("both", "f fires", "g fires")}
        values = [row["times chance"] for row in rows]
        title = f"latents of {self.place} that fire together"
        return ranked(labels, values, "times chance", title, hover=hover)


def _where(latent: str) -> str:
    return f" where {latent} fires" if latent else ""


@dataclass(frozen=True, repr=False, eq=False)
class FiringPairs(Result):
    """The terms of one output feature over pairs of input features that are largest on a text: by
    the mean of |coefficient × a_f × a_g| over all its tokens, largest first.

    Fields: ``indices``, pairs f ≤ g, each once. ``coefficients``: what multiplies a_f a_g, both
    orders summed. ``means``: of |coefficient × a_f × a_g|; ``total``: their sum over all pairs of
    this ``kind``. ``together``: on how many of ``tokens`` both fire. ``note``: what is to be said
    of a dictionary that names another model.

    Columns of ``to_frame()``: "f", "g": the latents; "kind": "cross", or "self" for a latent's own
    square; "mean |term|"; "share" of the total; "both fire": tokens; "coefficient": by which
    ``top`` ranks, blue where it adds. What all other pairs make is the total less what is listed.
    """

    of: str
    kind: str
    indices: Int[Tensor, "n 2"]
    coefficients: Float[Tensor, " n"]
    means: Float[Tensor, " n"]
    together: Int[Tensor, " n"]
    total: float
    tokens: int
    where: str
    names: tuple[str, ...]
    note: str = ""

    @property
    def rest(self) -> float:
        """The mean |term| of all pairs that are not listed, together."""
        return max(0.0, self.total - float(self.means.sum()))

    def summary(self) -> str:
        listed = 1 - self.rest / self.total if self.total else 0.0
        kind = "pairs" if self.kind == "all" else f"{self.kind} pairs"
        what = f"{len(self.means)} {kind} hold {listed:.0%} of Σ |term|"
        on = f"{self.tokens:,} tokens{_where(self.where)}"
        return f"{self.of}: {what} on {on}{noted(self.note)}"

    def columns(self) -> tuple[str, ...]:
        return "f", "g", "kind", "mean |term|", "share", "both fire", "coefficient"

    def rows(self) -> list[dict[str, Any]]:
        columns = (self.indices, self.means, self.together, self.coefficients)
        return [
            {
                "f": feature_name(self.names, f),
                "g": feature_name(self.names, g),
                "kind": "self" if f == g else "cross",
                "mean |term|": mean,
                "share": mean / self.total,
                "both fire": both,
                "coefficient": c,
            }
            for (f, g), mean, both, c in zip(*(each.tolist() for each in columns), strict=True)
        ]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()
        hover = {name: [row[name] for row in rows] for name in self.columns()[4:]}
        labels = [f"{row['f']} · {row['g']}" for row in rows]
        values = (self.means * self.coefficients.sign()).tolist()
        axis = "mean |coefficient a_f a_g|, with the coefficient's sign"
        title = f"{self.of}: pairs by what they make on text{_where(self.where)}"
        return ranked(labels, values, axis, title, hover=hover)


@torch.no_grad()
def cofiring(
    model: Expandable,
    dictionary: Dictionary,
    texts: Any,
    *,
    where: tuple[Dictionary, int] | None = None,
    at: str | None = None,
    max_bytes: int = GIB,
) -> Cofiring:
    """How often the latents of ``dictionary`` fire together on ``texts`` (as ``examples`` takes
    them), in one pass: what ``FeatureForm.top_on`` ranks the pairs of any output feature by.

    ``where``: another dictionary and one of its latents: then of the tokens on which that one fires
    alone, which tells the pairs that make it from those that are always there.

    Memory: 12 bytes for each two latents, and one text. Cost: a forward pass as far as the place
    (two with ``where``), and t f² for the f latents that fire on each text of t tokens. Errors:
    those of ``examples``; TooLargeError above ``max_bytes``.

    >>> texts, T1 = ["They went to play in the park."], model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> together = bilens.features.cofiring(model, D, texts)
    >>> made = bilens.features.interactions(T1, outputs=out, inputs=D)
    >>> pairs = made.of(938).top_on(together, 10)
    """
    require_count("max_bytes", max_bytes)
    tap = Tap.of(model, dictionary, at)
    mask = None if where is None else _Where.of(model, where)
    size = dictionary.n_latents
    if BYTES * size**2 > max_bytes:
        must = f"have pairs that take at most {max_bytes:,} bytes"
        got = f"{size:,} latents, {BYTES * size**2:,} bytes"
        raise TooLargeError("cofiring", must=must, got=got, todo="Raise max_bytes.")
    mass = torch.zeros(size, size, dtype=torch.float64, device="cpu")
    counts = torch.zeros(size, size, dtype=torch.int32, device="cpu")
    read = tokens = 0
    for ids in Texts.of(texts).ids(tap.model):
        a = tap.latents(ids)
        a = (a if mask is None else a[mask.fires(ids)]).cpu()
        read, tokens = read + 1, tokens + len(a)
        active = a.any(0).nonzero()[:, 0]
        one = a[:, active].abs().double()
        block = (active[:, None], active)
        mass[block] += one.mT @ one
        on = (one != 0).double()
        counts[block] += (on.mT @ on).int()
    alive = counts.diagonal().nonzero()[:, 0]
    block = (alive[:, None], alive)
    return Cofiring(
        place=tap.read.name,
        where="" if mask is None else mask.name,
        size=size,
        texts=read,
        tokens=tokens,
        latents=alive,
        mass=mass[block],
        counts=counts[block],
        written=_digest(dictionary.writes),
        note=_notes(tap, mask),
    )


def _notes(tap: Tap, mask: "_Where | None") -> str:
    """What to say of either dictionary, once."""
    notes = (tap.note, "" if mask is None else mask.tap.note)
    return "; ".join(dict.fromkeys(filter(None, notes)))


def _digest(writes: Float[Tensor, "f i"]) -> str:
    """Of what latents write, in float32: the same for a dictionary that was raised from a half
    type, or was put in another dtype for a model's sake.
    """
    return fingerprint(writes=writes.float())


@dataclass(frozen=True)
class _Where:
    """The tokens on which one latent fires."""

    tap: Tap
    latent: int

    @classmethod
    def of(cls, model: Expandable, where: Any) -> "_Where":
        if not isinstance(where, tuple) or len(where) != 2:
            must = "be a dictionary and one of its latents, (D, 17), or None"
            raise ArgumentError("where", must=must, got=type(where).__name__)
        dictionary, latent = where
        tap = Tap.of(model, dictionary)
        if not is_whole(latent):
            must = "name one of the dictionary's latents"
            raise ArgumentError("where", must=must, got=repr(latent))
        (latent,) = require_features(latent, dictionary.n_latents)
        return cls(tap, latent)

    @property
    def name(self) -> str:
        return f"latent {self.latent} of {self.tap.read.name}"

    def fires(self, ids: Int[Tensor, "1 t"]) -> Bool[Tensor, " t"]:
        return self.tap.latents(ids)[:, self.latent] != 0


@torch.no_grad()
def pairs_on(
    form: QuadraticForm,
    writes: Float[Tensor, "f i"],
    together: Cofiring,
    k: int,
    kind: PairKind,
    of: str,
    names: tuple[str, ...],
) -> FiringPairs:
    """The pairs of rows ``writes`` whose terms in ``form`` are largest on the text. Cost h i² and,
    of the n latents that fire, n i² + n² i.
    """
    require_count("k", k)
    require("kind", kind, OneOf(get_args(PairKind)), ArgumentError)
    _require_of(together, writes)
    rows = writes[together.latents].double()
    images = rows @ form.to(torch.float64).dense()
    best, total = _largest(images, rows, together, k, kind)
    places = best[:, 2:].long()
    return FiringPairs(
        of=of,
        kind=kind,
        indices=together.latents[places],
        coefficients=best[:, 1],
        means=best[:, 0],
        together=together.counts[places[:, 0], places[:, 1]].long(),
        total=total,
        tokens=together.tokens,
        where=together.where,
        names=names,
        note=together.note,
    )


def _require_of(together: Cofiring, writes: Float[Tensor, "f i"]) -> None:
    """Raise ArgumentError unless this was gathered of latents that write just that."""
    must = f"be what cofiring() gave of the {len(writes):,} input latents"
    if not isinstance(together, Cofiring):
        raise ArgumentError("together", must=must, got=type(together).__name__)
    if together.size != len(writes):
        raise ArgumentError("together", must=must, got=f"{together.size:,} latents")
    if together.written and together.written != _digest(writes):
        got = f"others, of {together.place}"
        raise ArgumentError("together", must=must, got=got)


def _largest(
    images: Float[Tensor, "n i"],
    rows: Float[Tensor, "n i"],
    together: Cofiring,
    k: int,
    kind: PairKind,
) -> tuple[Float[Tensor, "m 4"], float]:
    """Of the ``k`` pairs of largest mean |term| that mean, the coefficient, and both places among
    the latents that fire; and the sum of the means over all pairs. A block of latents at a time.
    """
    total, best = 0.0, torch.zeros(0, 4, dtype=torch.float64, device="cpu")
    for start in range(0, len(rows), BLOCK):
        end = start + BLOCK
        coefficients = _coefficients(images[start:end] @ rows[start:].mT, kind)
        means = coefficients.abs() * together.mass[start:end, start:] / max(together.tokens, 1)
        total += float(means.sum())
        top = means.flatten().topk(min(k, means.numel()))
        f, g = top.indices // means.shape[1], top.indices % means.shape[1]
        found = [top.values, coefficients[f, g], (f + start).double(), (g + start).double()]
        best = torch.cat([best, torch.stack(found, 1)])
        best = best[best[:, 0].argsort(descending=True, stable=True)[:k]]
    return best[best[:, 0] > 0], total


def _coefficients(block: Float[Tensor, "a b"], kind: PairKind) -> Float[Tensor, "a b"]:
    """What multiplies a_f a_g, each pair once: a row's own square first, then those after it."""
    diagonal = block.diagonal().diag_embed() if kind != "cross" else 0
    square = torch.zeros_like(block)
    square[:, : len(block)] += diagonal
    return square if kind == "self" else square + 2 * block.triu(1)

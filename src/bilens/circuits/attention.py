"""One attention score as pairs of sources.

Given the norms' scales an attention score is bilinear in the residual stream, exactly as a bilinear
layer is:

    score_ts = q_t · k_s / √d_head     q_t = Rot_t (x̂_t W_Q + b_Q)     k_s = Rot_s (x̂_s W_K + b_K)
             = Σ_ab score(a at t, b at s)

over all that x̂_t and x̂_s are sums of, and the constant "1". A head without softmax has two scores,
each q_t · k_s, and reads c score¹_ts score²_ts of a position.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import mapped, ranked, titled
from bilens.base.errors import ArgumentError
from bilens.base.numerics import as_given, is_whole
from bilens.base.results import Result
from bilens.circuits.heads import attention_part, head_gain, projections, score_scale
from bilens.circuits.paths import ONE, text
from bilens.circuits.recording import Recording, record
from bilens.circuits.replaced import Replaced, read_by, take_apart
from bilens.circuits.understood import require_scores
from bilens.nn import rotate
from bilens.wiring import (
    Expandable,
    Heads,
    Sparse,
    explains,
    hear_each,
    require_expandable,
)


@dataclass(frozen=True, repr=False, eq=False)
class AttentionScores(Result):
    """The score of ``head`` from position ``query`` to ``key``, before the softmax: Σ ``values`` =
    ``total`` = ``forward``. ``score``: which of a head's scores it is.

    values: row a, column b: what ``query_sources[a]`` wrote at the query times what
    ``key_sources[b]`` wrote at the key; "1" is the constant of biases and of the norm. ``forward``
    is the model's own score. ``given``: the norm scales held fixed. ``tokens`` names the two
    positions.

    Columns, the largest pair first: ``query source`` and ``key source`` wrote what is multiplied;
    ``value``: what the pair adds to the score; ``share``: of the total; shares of opposite sign
    cancel.

    >>> found = bilens.circuits.attention_scores(model, prompt, 1, 3, 7, 6)
    >>> found.head, found.query, found.key
    ('L1H3', 7, 6)
    >>> found.error < 1e-4
    True
    """

    head: str
    query: int
    key: int
    tokens: tuple[str, str]
    query_sources: tuple[str, ...]
    key_sources: tuple[str, ...]
    values: Float[Tensor, "q k"]
    forward: float
    given: tuple[str, ...]
    score: int = 1

    @property
    def total(self) -> float:
        """Σ pairs, added up in float64."""
        return float(self.values.double().sum())

    @property
    def error(self) -> float:
        """|total − forward|: rounding, or a fault of bilens."""
        return abs(self.total - self.forward)

    def summary(self) -> str:
        held = f"given {', '.join(self.given)}" if self.given else "nothing given: exact outright"
        query, key = (f"{name} at {n}" for name, n in self._ends)
        found = f"{self.values.numel()} pairs = {self.total:.6g}"
        checked = f"forward {self.forward:.6g}, error {self.error:.1e}"
        return f"{self.head} from {query} to {key}: {found} ({checked}); {held}"

    @property
    def _ends(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return (self.tokens[0], self.query), (self.tokens[1], self.key)

    def columns(self) -> tuple[str, ...]:
        return "query source", "key source", "value", "share"

    def rows(self) -> list[dict[str, Any]]:
        total, columns = self.total, len(self.key_sources)
        flat = self.values.flatten().tolist()
        return [
            {
                "query source": self.query_sources[n // columns],
                "key source": self.key_sources[n % columns],
                "value": flat[n],
                "share": flat[n] / total if total else 0.0,
            }
            for n in sorted(range(len(flat)), key=lambda n: -abs(flat[n]))
        ]

    def figure(self) -> dict[str, Any]:
        query, key = (f"{name} at {n}" for name, n in self._ends)
        title = f"{self.head} from {query} to {key}: score {self.total:.4g}"
        layout = titled(title, f"what stands at the key, {key}", f"at the query, {query}")
        values = self.values.tolist()
        return mapped(values, self.key_sources, self.query_sources, "adds to the score", layout)


@dataclass(frozen=True, repr=False, eq=False)
class ScoreProduct(Result):
    """What a head without softmax reads of position ``key`` at ``query``: ``scale`` times the
    product of both its scores, ``first`` and ``second``, each with its own pairs. It may be
    negative.

    Columns, the largest first: what wrote the queries and keys that are multiplied (``query 1``,
    ``key 1``, ``query 2``, ``key 2``); ``value``, what the four together add to the pattern;
    ``share``: of the total; shares of opposite sign cancel. The ``listed`` largest of all, found
    without making the others; ``rest`` is the sum of these.

    >>> ScoreProduct = bilens.circuits.ScoreProduct
    >>> ScoreProduct.columns.__name__
    'columns'
    """

    first: AttentionScores
    second: AttentionScores
    scale: float
    forward: float
    listed: int

    @property
    def total(self) -> float:
        """scale · Σ pairs · Σ pairs."""
        return self.scale * self.first.total * self.second.total

    @property
    def error(self) -> float:
        """|total − forward|: rounding, or a fault of bilens."""
        return abs(self.total - self.forward)

    @property
    def rest(self) -> float:
        """What all products that are not listed add up to."""
        return self.total - sum(row["value"] for row in self.rows())

    def summary(self) -> str:
        one, two = self.first, self.second
        place = f"{one.head} from {one.tokens[0]} at {one.query} to {one.tokens[1]} at {one.key}"
        made = f"{self.scale:.4g} × {one.total:.6g} × {two.total:.6g} = {self.total:.6g}"
        checked = f"forward {self.forward:.6g}, error {self.error:.1e}"
        count = one.values.numel() * two.values.numel()
        shown = f"{min(self.listed, count)} of {count:,} products, the rest {self.rest:.4g}"
        held = f"given {', '.join(self.given)}" if self.given else "nothing given: exact outright"
        return f"{place}: {made} ({checked}); {shown}; {held}"

    @property
    def given(self) -> tuple[str, ...]:
        """All that both scores hold fixed."""
        return tuple(dict.fromkeys((*self.first.given, *self.second.given)))

    def columns(self) -> tuple[str, ...]:
        return "query 1", "key 1", "query 2", "key 2", "value", "share"

    def rows(self) -> list[dict[str, Any]]:
        total = self.total
        names = self.columns()
        made = []
        for one, other, value in self._largest:
            ends = (one["query source"], one["key source"])
            ends += (other["query source"], other["key source"])
            share = value / total if total else 0.0
            made.append(dict(zip(names, (*ends, value, share), strict=True)))
        return made

    @cached_property
    def _largest(self) -> list[tuple[dict[str, Any], dict[str, Any], float]]:
        """The largest products of one pair of each score."""
        firsts, seconds = self.first.rows()[: self.listed], self.second.rows()[: self.listed]
        products = [
            (one, other, self.scale * one["value"] * other["value"])
            for n, one in enumerate(firsts)
            for other in seconds[: self.listed // (n + 1)]  # with more before it, there are larger
        ]
        return heapq.nsmallest(self.listed, products, key=lambda item: -abs(item[2]))

    def figure(self) -> dict[str, Any]:
        rows = self.rows()
        names = [
            f"({row['query 1']} · {row['key 1']}) ({row['query 2']} · {row['key 2']})"
            for row in rows
        ]
        title = f"{self.first.head}: pattern {self.total:.4g}"
        values = [row["value"] for row in rows]
        return ranked(names, values, "adds to the pattern", title, rest={"all others": self.rest})


@explains
@torch.no_grad()
def attention_scores(
    model: Expandable,
    inputs: Any,
    layer: int,
    head: int,
    query: int,
    key: int,
    *,
    score: int = 1,
    dictionaries: Mapping[str, Sparse] | None = None,
) -> AttentionScores:
    """Why a head looks from ``query`` to ``key``: its score before the softmax as an exact sum over
    pairs of sources. Of a head with two scores, the one numbered ``score``, without the scale of
    their product (``attention_product`` says what both make together).

    One source is what a part wrote at the query, the other what a part wrote at the key; the
    constant "1" comes from biases and LayerNorm's shift. RoPE's turns and the scale d_head^-½ are
    included; scales of norms (of queries and keys too) are those of the pass. Negative positions
    count from the end. ``dictionaries``: one by the place "attn1.input" that the layer reads takes
    apart what is read there, after the norm, into the latents active at the query and at the key
    ("f17"), the dictionary's base and its error, in place of sources.

    Cost: a pass in parts, a forward pass, and O(n d d_head + n² d_head) for n
    sources. Errors: ArgumentError for inputs, layer, head or positions that are not there, for a
    key after the query, and for a layer whose patterns its scores do not make. Source:
    Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (the QK circuit).

    >>> found = bilens.circuits.attention_scores(model, prompt, layer=1, head=3, query=7, key=6)
    >>> found.values.shape  # sources of the query, sources of the key
    torch.Size([6, 6])
    """
    looked = _Look.of(model, inputs, (layer, head), (query, key), dictionaries)
    return looked.scores(score)


@explains
@torch.no_grad()
def attention_product(
    model: Expandable,
    inputs: Any,
    layer: int,
    head: int,
    query: int,
    key: int,
    *,
    k: int = 20,
    dictionaries: Mapping[str, Sparse] | None = None,
) -> ScoreProduct:
    """What a head without softmax reads of ``key`` at ``query``: the product of its two scores,
    each an exact sum of pairs, and the ``k`` largest products of a pair of one with a pair of the
    other.

    Positions, dictionaries and what is given are as in ``attention_scores``. The n⁴ products are
    never made. Errors: ArgumentError as there, and for a head with a softmax.
    Source: arXiv:2605.15183.

        >>> sizes = dict(vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
        >>> config = bilens.TransformerConfig(**sizes, attention="bilinear", norm="none")
        >>> polynomial = bilens.Transformer(config)
        >>> found = bilens.circuits.attention_product(polynomial, [3, 1, 4], 0, 1, query=2, key=0)
        >>> found.error < 1e-6
        True
    """
    looked = _Look.of(model, inputs, (layer, head), (query, key), dictionaries)
    module = looked.part.module
    if module.kind == "softmax":
        must, todo = "have two scores", "Ask attention_scores."
        raise ArgumentError(looked.part.heads[head], must=must, got="a softmax of one", todo=todo)
    if not is_whole(k) or k < 1:
        raise ArgumentError("k", must="be a whole number ≥ 1", got=repr(k))
    pattern = float(looked.found.patterns(looked.n)[head, looked.query, looked.key])
    one, two = looked.scores(1), looked.scores(2)
    made = module.scale * one.forward * two.forward
    divided = pattern / made if module.normalised and made else 1.0
    if divided != 1.0:
        held = (*one.given, f"sum of scores {one.head}@{one.query}")
        one = replace(one, given=held)
    return ScoreProduct(one, two, module.scale * divided, pattern, k)


@dataclass(frozen=True, eq=False)
class _Look:
    """A head of part ``n`` of a recorded pass that looks from ``query`` to ``key``; ``apart``: what
    the part reads by a dictionary.
    """

    found: Recording
    n: int
    head: int
    query: int
    key: int
    apart: Replaced | None

    @classmethod
    def of(
        cls,
        model: Expandable,
        inputs: Any,
        which: tuple[int, int],
        ends: tuple[int, int],
        dictionaries: Mapping[str, Sparse] | None,
    ) -> "_Look":
        require_expandable(model)
        n, part = attention_part(model.wiring(), *which)
        found = record(model, inputs)
        part = _heads(found, n)
        read = part.norm(found.streams[n])
        require_scores(part, read, found.patterns(n))
        query, key = (
            found.position(at, name) for name, at in zip(("query", "key"), ends, strict=True)
        )
        _require_seen(part, query, key)
        width = found.wiring.readout.shape[1]
        dictionary = read_by(dictionaries, found.wiring.parts, n, width)
        apart = None if dictionary is None else take_apart(part.name, dictionary, read)
        return cls(found, n, which[1], query, key, apart)

    @property
    def part(self) -> Heads:
        return _heads(self.found, self.n)

    def scores(self, score: int) -> AttentionScores:
        """One of its scores as pairs."""
        part, (query, key), ends = self.part, projections(self.part, score), (self.query, self.key)
        queries, keys = self.side(query, self.query), self.side(key, self.key)
        asked, looked_at = (self.sources(at) for at in ends)
        return AttentionScores(
            head=part.heads[self.head],
            query=self.query,
            key=self.key,
            tokens=(self.found.names[self.query], self.found.names[self.key]),
            query_sources=asked + (ONE,) * (len(queries) - len(asked)),
            key_sources=looked_at + (ONE,) * (len(keys) - len(looked_at)),
            values=_gated(part, (queries @ keys.mT) * score_scale(part)),
            forward=self.forward(query, key),
            given=self.given(score),
            score=score,
        )

    def forward(self, query: str, key: str) -> float:
        """The score between what these two projections make in the model's own forward pass."""
        module = self.part.module
        group = self.head // (module.n_heads // module.n_kv)
        queries = self.measured[query][self.head, self.query]
        keys = self.measured[key][group, self.key]
        if module.kind == "softmax":
            return float(module.scored(queries[None], keys[None]))
        return float(queries @ keys)

    @cached_property
    def measured(self) -> dict[str, Float[Tensor, "head t d_head"]]:
        """Queries and keys, turned, as the model's own modules make them in a forward pass."""
        found, module, made = self.found, self.part.module, {}
        names = list(dict.fromkeys(chain(*module.score_projections)))
        ends = [(module.qk_norm(name) or getattr(module, name), "output") for name in names]
        heard = hear_each(ends, lambda: found.run.model.outputs(found.inputs))
        turn = self.part.turn(found.length, heard[0].dtype)
        for name, x in zip(names, heard, strict=True):
            x = (
                x if x.ndim == 4 else x.unflatten(-1, (-1, module.d_head)).transpose(1, 2)
            )  # a norm hears heads, a projection not
            made[name] = (x if turn is None else rotate(x, *turn))[0]
        return made

    def sources(self, position: int) -> tuple[str, ...]:
        """The names of what the part reads at ``position``."""
        if self.apart is not None:
            return tuple(map(text, self.apart.at(self.part.heads[self.head], position)[1]))
        return tuple(self.found.sources[i].name for i in self.found.written(self.n, position)[1])

    def read(self, position: int) -> Float[Tensor, "source d"]:
        """What they are, after the norm."""
        if self.apart is not None:
            return self.apart.at(self.part.heads[self.head], position)[0]
        found = self.found
        return found.linear(self.n, found.written(self.n, position)[0], position)

    def given(self, score: int) -> tuple[str, ...]:
        """What the score holds fixed."""
        head, query, key = self.part.heads[self.head], self.query, self.key
        if self.apart is not None:
            held = [f"latents {self.part.name}.input@{at}" for at in (query, key)]
        else:
            held = [*self.found.scale_held(self.n, query), *self.found.scale_held(self.n, key)]
        if self.part.module.softcap is not None:
            held.append(f"soft-cap {head}[{query},{key}]")
        if self.part.module.q_norm is not None:
            number = "" if self.part.module.kind == "softmax" else score
            held += [f"σ {head}.q{number}@{query}", f"σ {head}.k{number}@{key}"]
        return tuple(dict.fromkeys(held))

    def side(self, name: str, position: int) -> Float[Tensor, "source d_head"]:
        """The turned query or key from the projection ``name`` at ``position``, source by source,
        and last what the constant gives.
        """
        part, found, head = self.part, self.found, self.head
        module, weights = part.module, part.module.per_head(name)[head]
        parts = self.read(position) @ weights
        shift = None if self.apart is not None else part.norm.shift  # a dictionary has it in itself
        if shift is not None or getattr(module, name).bias is not None:
            constant = module.bias_per_head(name)[head]
            constant = constant if shift is None else constant + shift @ weights
            parts = torch.cat([parts, constant[None]])
        if module.q_norm is not None:
            read = part.norm(found.streams[self.n][position])
            heads = read @ module.per_head(name) + module.bias_per_head(name)
            scales = module.qk_scale(name, heads[:, None])
            parts = parts * as_given(scales).to(parts).expand(len(heads), 1, 1)[head]
            parts = parts * head_gain(part, name, head)
        turn = part.turn(found.length, parts.dtype)
        return (
            parts
            if turn is None
            else rotate(parts[:, None], *(angle[0, :, position, None] for angle in turn))[:, 0]
        )


def _gated(part: Heads, values: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
    """Pairs by what the soft-cap leaves of their sum."""
    return values * part.module.cap_gate(values.sum())


def _require_seen(part: Heads, query: int, key: int) -> None:
    """Raise ArgumentError unless the heads of ``part`` look from ``query`` to ``key`` at all."""
    if key > query:
        todo = "Heads look back only."
        raise ArgumentError("key", must=f"be no later than query = {query}", got=key, todo=todo)
    window = part.module.window
    if window is not None and key <= query - window:
        todo = f"The heads of {part.name} look {window} positions back, their own included."
        first = max(query - window + 1, 0)
        raise ArgumentError("key", must=f"be {first} … {query}", got=key, todo=todo)


def _heads(found: Recording, n: int) -> Heads:
    heads = found.wiring.parts[n].attention
    assert heads is not None
    return heads

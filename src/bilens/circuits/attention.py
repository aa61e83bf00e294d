"""Heads: one attention score as pairs of sources; what a head's weights alone look for, write, and
do.

Given the norms' scales an attention score is bilinear in the residual stream, exactly as a bilinear
layer is:

    score_ts = q_t · k_s / √d_head     q_t = Rot_t (x̂_t W_Q + b_Q)     k_s = Rot_s (x̂_s W_K + b_K)
             = Σ_ab score(a at t, b at s)

over all that x̂_t and x̂_s are sums of, and the constant "1". A head without softmax has two scores,
each q_t · k_s, and reads c score¹_ts score²_ts of a position.

Rot_tᵀ Rot_s = Rot_(s−t), so the weights alone say it for every pair of tokens at a given offset s −
t.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.algebra import Factored
from bilens.base.charts import mapped, ranked, titled
from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole
from bilens.base.results import ANSWER_ROWS, Result
from bilens.circuits.paths import ONE, text
from bilens.circuits.recording import Recording, record
from bilens.circuits.replaced import Replaced, read_by, take_apart
from bilens.circuits.understood import require_ends, require_scores, require_weights
from bilens.nn import rotate
from bilens.wiring import (
    Expandable,
    Heads,
    Sparse,
    Wiring,
    explained,
    explains,
    hear_each,
    require_expandable,
)

MOST_TOKENS = 2**20  # of random texts: drawn before any of them is read


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


@dataclass(frozen=True, repr=False, eq=False)
class HeadScores(Result):
    """What each head does, in a few numbers (see ``head_scores``); ``tokens`` are the texts they
    were measured on.

    Columns: ``head``; ``copying``: 1 where W_OV gives back what it reads, −1 where it takes it
    away; ``previous token`` and ``induction``: its mean attention to the token before, and to what
    stood after the same token earlier, from 0 to 1. Where any head goes without softmax these are
    shares of the sizes of all that is looked at, from −1 to 1, and ``taken away`` is the mean share
    that is below 0.

    >>> found = bilens.circuits.head_scores(model)
    >>> found.heads[:2], found.induction.shape
    (('L0H0', 'L0H1'), torch.Size([8]))
    """

    heads: tuple[str, ...]
    copying: Float[Tensor, " n"]
    previous: Float[Tensor, " n"]
    induction: Float[Tensor, " n"]
    negative: Float[Tensor, " n"]
    tokens: Int[Tensor, "text t"]

    def summary(self) -> str:
        best = [
            f"{name} {self.heads[int(values.argmax())]} ({float(values.max()):.2f})"
            for name, values in self._columns
        ]
        texts, length = self.tokens.shape
        read = f"{texts} × {length} random tokens"
        return f"{len(self.heads)} heads on {read}; most {', most '.join(best)}"

    def columns(self) -> tuple[str, ...]:
        return ("head", *(name for name, _ in self._columns))

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"head": head} | {name: float(values[n]) for name, values in self._columns}
            for n, head in enumerate(self.heads)
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The heads that do most of any of the three."""
        return sorted(self.rows(), key=self._most)[:count]

    def _most(self, row: dict[str, Any]) -> float:
        return -max(abs(row[name]) for name, _ in self._columns)

    def figure(self) -> dict[str, Any]:
        """A row for each head, those that do most on top."""
        rows = self.answer(len(self.heads))
        names = [name for name, _ in self._columns]
        values = [[row[name] for name in names] for row in rows]
        texts, length = self.tokens.shape
        title = f"What heads do, on {texts} × {length} random tokens"
        down = [row["head"] for row in rows]
        return mapped(values, names, down, "score", titled(title, "", "head"), end=1.0)

    @property
    def _columns(self) -> tuple[tuple[str, Tensor], ...]:
        found = (
            ("copying", self.copying),
            ("previous token", self.previous),
            ("induction", self.induction),
        )
        signed = bool(self.negative.any())
        return (*found, ("taken away", self.negative)) if signed else found


class Weights(NamedTuple):
    """The weights of one of a head's scores over the residual stream in the row-vector convention,
    x W: its norms' weights and LayerNorm's centring are in them, their scales are not.
    """

    w_q: Float[Tensor, "d d_head"]
    w_k: Float[Tensor, "d d_head"]


def head_weights(part: Heads, head: int, score: int = 1) -> Weights:
    """The weights of one score of a head of an attention layer. Gradients flow."""
    sides = projections(part, score)
    w_q, w_k = (part.norm.transposed(part.module.per_head(name)[head].mT).mT for name in sides)
    return Weights(
        *(w * _gain(part, name, head) for w, name in zip((w_q, w_k), sides, strict=True))
    )


def _gain(part: Heads, name: str, head: int) -> Float[Tensor, "1 d_head"] | float:
    """What a norm over the queries or keys of one head multiplies each dimension with."""
    gain = part.module.qk_gain(name)
    return gain[head] if isinstance(gain, Tensor) else gain


def attentions(wiring: Wiring) -> list[tuple[int, Heads]]:
    """The parts with queries and keys, after their places. Errors: ArgumentError without any."""
    found = [
        (n, part.attention) for n, part in enumerate(wiring.parts) if part.attention is not None
    ]
    if not found:
        raise ArgumentError("model", must="have attention heads", got="none")
    return found


def attention_part(wiring: Wiring, layer: int, head: int) -> tuple[int, Heads]:
    """The attention of ``layer``, after its place among the parts. Errors: ArgumentError for a
    layer or head not there.
    """
    layers = {heads.layer: (n, heads) for n, heads in attentions(wiring)}
    if not is_whole(layer) or layer not in layers:
        raise ArgumentError(
            "layer", must=f"be one with heads: {', '.join(map(str, layers))}", got=layer
        )
    n, part = layers[layer]
    if not is_whole(head) or not 0 <= head < part.module.n_heads:
        raise ArgumentError("head", must=f"be 0 … {part.module.n_heads - 1}", got=head)
    return n, part


def projections(part: Heads, score: int) -> tuple[str, str]:
    """What makes the queries and keys of a score, counted from 1. Errors: ArgumentError for one
    that its heads do not have.
    """
    pairs = part.module.score_projections
    if not is_whole(score) or not 1 <= score <= len(pairs):
        listed = " or ".join(map(str, range(1, len(pairs) + 1)))
        raise ArgumentError("score", must=f"be {listed} of {part.name}", got=repr(score))
    return pairs[score - 1]


def score_scale(part: Heads) -> float:
    """What a score is multiplied with by itself; of two, their product is."""
    return part.module.scale if part.module.kind == "softmax" else 1.0


def score_form(
    part: Heads, queries: Float[Tensor, "q d_head"], keys: Float[Tensor, "k d_head"], offset: int
) -> Factored:
    """Queries and keys, not yet turned, as their scores where the key stands at query +
    ``offset``.
    """
    if part.rotary is not None:
        at = [torch.tensor([[position]], device=queries.device) for position in (0, offset)]
        queries, keys = (
            rotate(x[:, None], *(angle[0] for angle in part.rotary(position, x.dtype)))[:, 0]
            for x, position in zip((queries, keys), at, strict=True)
        )
    return Factored(queries * score_scale(part), keys.mT)


def require_offset(offset: int) -> None:
    """Raise ArgumentError unless ``offset`` is one at which a causal head can look."""
    if not is_whole(offset) or offset > 0:
        raise ArgumentError(
            "offset", must="be 0, −1, −2, …: key position − query position", got=offset
        )


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
            parts = parts * torch.as_tensor(scales).expand(len(heads), 1, 1)[head]
            parts = parts * _gain(part, name, head)
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


@explains
def qk_circuit(
    model: Expandable, layer: int, head: int, offset: int = 0, score: int = 1
) -> Factored:
    """W_E W_Q Rot(offset) W_Kᵀ W_Eᵀ / √d_head: query token × key token, the key standing at query +
    ``offset``. Of a head with two scores, the one numbered ``score``, without a scale.

    The score of a head that reads embeddings alone. Norm weights are in it, norm scales are left at
    1: with a norm, multiply by σ at the query and σ at the key. Biases are left out. Without RoPE
    the offset changes nothing; with it, cos and sin are made in float32 as everywhere, so that
    Rot_tᵀ Rot_s is Rot_(s−t) to 1e-7. Gradients flow. Of a half-precision model the factors are in
    float32, over its half weights (see ``wiring.explained``). Cost O(vocab d d_head); the
    vocab × vocab matrix is never made. Errors: ArgumentError for a layer, head or offset that is
    not there, and for parts that do not do what their weights say. Source: Elhage et al. 2021.

    >>> bilens.circuits.qk_circuit(model, 0, 1, offset=-1).shape  # query tokens, key tokens
    (1024, 1024)
    """
    require_expandable(model)
    require_offset(offset)
    model = explained(model)
    wiring = model.wiring()
    _, part = attention_part(wiring, layer, head)
    require_weights(wiring, [part])
    require_ends(model, wiring)
    weights, embed = head_weights(part, head, score), model.leaf_weights()["embed"]
    return score_form(part, embed @ weights.w_q, embed @ weights.w_k, offset)


@explains
def ov_circuit(model: Expandable, layer: int, head: int) -> Factored:
    """W_E W_V W_O W_U: input token (rows) × output token (columns), as in TransformerLens.

    What looking at a token adds to each logit, by values of the first layer too where they are
    mixed in ("L1H0" and "L1H0.first" of ``virtual`` together). Norm weights, the readout's too, are
    in it and norm scales are left at 1; biases are left out. Gradients flow. Of a half-precision
    model the factors are in float32, over its half weights. Cost O(vocab d d_head); the vocab ×
    vocab matrix is never made. Errors: ArgumentError for a layer or head that is not there, and for
    parts that do not do what their weights say. Source: Elhage et al. 2021.

    >>> bilens.circuits.ov_circuit(model, 0, 1).shape  # tokens in, tokens out
    (1024, 1024)
    """
    require_expandable(model)
    model = explained(model)
    wiring = model.wiring()
    n, part = attention_part(wiring, layer, head)
    require_weights(wiring, [part])
    require_ends(model, wiring)
    forms = wiring.parts[n].forms()
    own = [wiring.over_stream(n, forms[each.sources[head]]) for each in part.values]
    w_v = torch.stack([form.legs[0].weight for form in own]).sum(0)
    readout = wiring.norm.transposed(wiring.readout)
    return Factored(model.leaf_weights()["embed"] @ w_v.mT, (readout @ own[0].out).mT)


@explains
@torch.no_grad()
def head_scores(model: Expandable, block: int = 16, texts: int = 4, seed: int = 0) -> HeadScores:
    """What each head does, in three numbers:

        copying          Re Σ λ / Σ |λ| over the eigenvalues λ of its OV circuit W_E W_V W_O W_U, in
                         [−1, 1]: 1 where looking at a token raises that token's own logit, in all
                         directions. From a d_head × d_head product.
        previous token   mean over t ≥ 1 of A[t, t − 1]
        induction        mean over t ≥ block of A[t, t − block + 1]: attention to the token after
                         the last occurrence

    A head without softmax looks as much as it likes, and with either sign: its A is then the share
    of a row's Σ |A|, and a fourth number, ``negative``, is the mean share of what is below 0.

    The patterns A are those on ``texts`` texts of ``block`` random tokens said twice, drawn by
    ``seed``, without repetition within a block where the vocabulary allows. (TransformerLens's
    induction stripe also counts the last token of the first block, which has no earlier
    occurrence.) Cost: ``texts`` passes in parts, and O(vocab d d_head) for each head. Errors:
    ArgumentError for a model without heads, and for a text beyond its context. Source: Elhage et
    al. 2021 (copying); Olsson et al. 2022, arXiv:2209.11895 (induction).

    >>> found = bilens.circuits.head_scores(model, texts=1)
    >>> found.copying.shape, found.previous.shape
    (torch.Size([8]), torch.Size([8]))
    """
    require_expandable(model)
    model = explained(model)
    for name, value, least in (("block", block, 2), ("texts", texts, 1), ("seed", seed, 0)):
        if not is_whole(value) or value < least:
            raise ArgumentError(name, must=f"be a whole number ≥ {least}", got=repr(value))
    if block * texts > MOST_TOKENS or seed >= 2**63:
        must = f"ask for at most {MOST_TOKENS:,} tokens, by a seed below 2⁶³"
        raise ArgumentError("head_scores", must=must, got=f"{block * texts:,}, by {seed}")
    wiring = model.wiring()
    layers = [heads for _, heads in attentions(wiring)]
    tokens = _said_twice(len(model.leaf_weights()["embed"]), block, texts, seed)
    patterns = torch.stack([_shares(_patterns(record(model, text))) for text in tokens])
    copying = [
        _copying(ov_circuit(model, part.layer, head))
        for part in layers
        for head in range(part.module.n_heads)
    ]
    return HeadScores(
        heads=tuple(name for part in layers for name in part.heads),
        copying=torch.tensor(copying, dtype=torch.float64),
        previous=_stripe(patterns, 1, 1),
        induction=_stripe(patterns, block - 1, block),
        negative=patterns.clamp(max=0).abs().sum(-1).double().mean((0, 2)).cpu(),
        tokens=tokens,
    )


def _heads(found: Recording, n: int) -> Heads:
    heads = found.wiring.parts[n].attention
    assert heads is not None
    return heads


def _patterns(found: Recording) -> Float[Tensor, "head t s"]:
    """Those of all heads of a pass."""
    return torch.cat([found.patterns(n) for n, _ in attentions(found.wiring)])


def _shares(patterns: Float[Tensor, "head t s"]) -> Float[Tensor, "head t s"]:
    """What of the sizes of a row each position has: a softmax's very weights."""
    sizes = patterns.abs().sum(-1, keepdim=True)
    return torch.where(sizes > 0, patterns / sizes, patterns)


def _copying(ov: Factored) -> float:
    values = ov.eigenvalues
    size = float(values.abs().sum())
    return float(values.real.sum()) / size if size else 0.0


def _stripe(
    patterns: Float[Tensor, "text head t s"], back: int, start: int
) -> Float[Tensor, " head"]:
    """Mean attention from t to t − ``back`` over t ≥ ``start``."""
    found = patterns.diagonal(-back, dim1=-2, dim2=-1)  # its entry n is t = n + back
    return found[..., start - back :].double().mean((0, 2)).cpu()


def _said_twice(vocabulary: int, block: int, texts: int, seed: int) -> Int[Tensor, "text t"]:
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-block // vocabulary)
    drawn = [
        torch.cat([torch.randperm(vocabulary, generator=generator) for _ in range(rounds)])[:block]
        for _ in range(texts)
    ]
    return torch.stack(drawn).repeat(1, 2)

"""How strongly each part reads what each earlier part writes, from the weights alone, beside
chance.

A part writes along G_w and reads along G_r, two d × d Grams: for a head that writes W_OV and reads
through W,

    ‖W_OV W‖² = ⟨G_w, G_r⟩     G_w = W_OVᵀ W_OV     G_r = W Wᵀ
    ‖W_OV‖² = tr G_w           ‖W‖² = tr G_r

and the same for the symmetric tensor S of a bilinear layer, with G_w = Gram_out(S) and G_r =
Gram_in(S) where one of its two inputs is the first part and the other is anything. So strength² =
⟨G_w, G_r⟩ / (tr G_w tr G_r).

By chance: turn what is written by a random rotation Q, all weights else as they are. E[Q G Qᵀ] =
(tr G / d) 1, so E[strength²] = 1/d. (Factors of independent random entries give the same: E‖AB‖² =
‖A‖² ‖B‖² / d.)

Both inputs of a layer: strength² = Σ_o tr(S_o G S_o G) / (‖S‖² t²), with G = G_w, t = tr G and u =
tr G². By rotation the second moments of G' = Q G Qᵀ are

    E[G'_ij G'_kl] = α δ_ij δ_kl + β (δ_ik δ_jl + δ_il δ_jk)
    t² = α d² + 2 β d     u = α d + β d (d + 1)
    β = (d u − t²) / (d (d − 1) (d + 2))     α + β = (d t² + (d − 2) u) / (d (d − 1) (d + 2))
    E[Σ_o tr(S_o G' S_o G')] = (α + β) ‖S‖² + β Σ_o (tr S_o)²
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import symmetric_root
from bilens.base.charts import mapped, titled
from bilens.base.numerics import require_finite
from bilens.base.results import ANSWER_ROWS, Result
from bilens.circuits.heads import head_weights
from bilens.circuits.understood import require_weights
from bilens.wiring import (
    Expandable,
    Form,
    Heads,
    Wiring,
    explained,
    explains,
    quadratic,
    require_expandable,
)

ONE_INPUT, BOTH_INPUTS = "one input", "both inputs"
BLOCK = 192  # hidden units at a time: their products with all others stay in cache
_Row = tuple[str, str, str, float, float]  # first, second, kind, strength, by chance


@dataclass(frozen=True, repr=False, eq=False)
class Composition(Result):
    """A row for each ordered pair of parts and each way in: ``strength`` = ‖composed‖ / (‖first‖
    ‖second‖), and ``random``, its root mean square by chance. ``kinds``: "Q", "K", "V", "one
    input", "both inputs". Layers whose weights alone are no
    tensor (``opaque``: their gates are those of a pass) are left out.

    Columns: ``first`` writes and ``second`` reads it; ``kind``: its way in; ``strength`` and
    ``random`` as above; ``ratio``: the one over the other, 1 for chance.

    >>> found = bilens.circuits.composition(model)
    >>> found.first[0], found.second[0], found.kinds[0]
    ('L0H0', 'mlp0', 'one input')
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    kinds: tuple[str, ...]
    strength: Float[Tensor, " n"]
    random: Float[Tensor, " n"]
    opaque: tuple[str, ...]

    @property
    def ratio(self) -> Float[Tensor, " n"]:
        """How many times stronger than by chance."""
        return self.strength / self.random

    def summary(self) -> str:
        left_out = f"; left out, no tensor by weights alone: {', '.join(self.opaque)}"
        opaque = left_out if self.opaque else ""
        if not len(self.strength):
            return f"no part reads another{opaque}"
        n = int(self.ratio.argmax())
        pair = f"{self.first[n]} → {self.second[n]} {self.kinds[n]}"
        best = f"{pair}, {float(self.ratio[n]):.2f} times chance"
        return f"{len(self.strength)} compositions; the strongest: {best}{opaque}"

    def columns(self) -> tuple[str, ...]:
        return "first", "second", "kind", "strength", "random", "ratio"

    def rows(self) -> list[dict[str, Any]]:
        columns = zip(
            self.first,
            self.second,
            self.kinds,
            self.strength.tolist(),
            self.random.tolist(),
            strict=True,
        )
        return [
            {"first": first, "second": second, "kind": kind, "strength": strength, "random": random,
             "ratio": strength / random}
            for first, second, kind, strength, random in columns
        ]  # fmt: skip

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The compositions that are furthest above chance."""
        return sorted(self.rows(), key=lambda row: -row["ratio"])[:count]

    def figure(self) -> dict[str, Any]:
        """The ratio to chance: the first part by the second and its way in. White is as by chance,
        blue more, orange less.
        """
        ways = [f"{second} {kind}" for second, kind in zip(self.second, self.kinds, strict=True)]
        down, across = list(dict.fromkeys(self.first)), list(dict.fromkeys(ways))
        z: list[list[float | None]] = [[None] * len(across) for _ in down]
        for first, way, ratio in zip(self.first, ways, self.ratio.tolist(), strict=True):
            z[down.index(first)][across.index(way)] = math.log2(ratio) if ratio > 0 else None
        layout = titled("Composition: strength over its value by chance", "read by", "written by")
        return mapped(z, across, down, "log₂ of the ratio to chance", layout)


class _Piece(NamedTuple):
    """Sources of one part and of one shape: W of G_w = Wᵀ W and of G_r = W Wᵀ, all of trace 1.

    ``sites``: the part whose reading each of ``readers`` has. ``product`` is the form of a bilinear
    layer and ``size`` the ‖S‖ of its symmetric part; ``linear``: whether they are of degree 1.
    """

    sites: tuple[int, ...]
    names: tuple[str, ...]
    writers: Float[Tensor, "source m d"]
    readers: dict[str, Float[Tensor, "source d m"]]
    product: Form | None = None
    size: float = 0.0
    linear: bool = False


@explains
@torch.no_grad()
def composition(model: Expandable) -> Composition:
    """Every ordered pair of parts, the second reading what the first writes, each beside its value
    by chance.

    head → head     Q, K, V: ‖W_OV W_QK‖, ‖W_OV W_QKᵀ‖, ‖W_OV W_OV'‖, as TransformerLens's
                    composition scores; of a second score "Q2", "K2" beside "Q1", "K1"
    head → layer    "one input": S(W_OV ·, ·), and "both inputs": S(W_OV ·, W_OV ·), over ‖W_OV‖²
                    ‖S‖
    layer → head    Q, K, V: S written, read by W_QK, W_QKᵀ, W_OV
    layer → layer   "one input": S'(S(·, ·), ·)

    each over the product of the two Frobenius norms, with W_OV = W_V W_O, W_QK = W_Q W_Kᵀ over the
    residual stream and S the symmetric part of the layer's tensor. Norm weights and centring of
    what reads are in the weights (as after ``folded()``), norm scales, RoPE's turns and biases are
    not. ``random`` is √(1/d), and for both inputs (see the top of this file) √[((α + β) ‖S‖² + β
    Σ_o (tr S_o)²)] / (t ‖S‖), which says what the spectrum of W_OV alone makes likely.

    In float64. Cost: O(h² d + d³) for each layer, O(heads² d d_head²) for each pair of parts and
    O(h² d_head) for a head on both inputs; memory O(d²) for each part, O(h²). A part that is zero
    composes with strength 0. Errors: ArgumentError for what is no model, and for parts that do not
    do what their weights say. Source: Elhage et al. 2021 (composition of heads).

    >>> found = bilens.circuits.composition(model)
    >>> set(found.kinds) >= {"Q", "K", "V"}
    True
    """
    require_expandable(model)
    wiring = explained(model).wiring()
    require_weights(wiring, wiring.parts)
    parts = [_pieces(wiring, n) for n in range(len(wiring.parts))]
    rows: list[_Row] = []
    for second in itertools.chain(*parts):
        both = _BothInputs.of(second)
        heard = [_read_by(wiring, n) for n in second.sites]
        for m, first in ((m, first) for m, firsts in enumerate(parts) for first in firsts):
            rows += _between(first, second, [m in read for read in heard])
            if both is not None and first.linear and m in heard[0]:
                rows += both.rows(first)
    columns = list(zip(*rows, strict=True)) or [()] * 5
    return Composition(
        first=columns[0],
        second=columns[1],
        kinds=columns[2],
        strength=torch.tensor(columns[3], dtype=torch.float64, device="cpu"),
        random=torch.tensor(columns[4], dtype=torch.float64, device="cpu"),
        opaque=tuple(
            part.name for part, pieces in zip(wiring.parts, parts, strict=True) if not pieces
        ),
    )


def _read_by(wiring: Wiring, n: int) -> range:
    """The parts that part n reads."""
    return range(n - wiring.parts[n].beside) if wiring.accumulates else range(max(n - 1, 0), n)


def _between(first: _Piece, second: _Piece, heard: Sequence[bool]) -> list[_Row]:
    """By each of the second's ways in, of those by which the first is ``heard``."""
    chance = first.writers.shape[-1] ** -0.5
    rows = []
    for kind, readers in itertools.compress(second.readers.items(), heard):
        composed = torch.einsum("amd,bdn->abmn", first.writers, readers)
        strengths = composed.flatten(2).norm(dim=-1)
        for (a, one), (b, other) in itertools.product(
            enumerate(first.names), enumerate(second.names)
        ):
            rows.append((one, other, kind, float(strengths[a, b]), chance))
    return rows


class _BothInputs:
    """One bilinear layer fed twice with the same: what all heads before it need is made once."""

    @classmethod
    def of(cls, piece: _Piece) -> "_BothInputs | None":
        return None if piece.product is None else cls(piece.names[0], piece.product, piece.size)

    def __init__(self, name: str, form: Form, size: float) -> None:
        left, right = (leg.weight for leg in form.legs)
        self.name, self.left, self.right, self.total = name, left, right, size
        self.blocks = _blocks(form.out.mT @ form.out)
        traces = float((form.out @ (left * right).sum(1)).square().sum())
        self.traces = traces / self.total**2 if self.total else 0.0

    def rows(self, first: _Piece) -> list[_Row]:
        """Heads on both inputs of the layer, by strength and by chance."""
        made, flat = [], first.writers.flatten(0, 1)
        width = first.writers.shape[1]
        sides = ((side @ flat.mT).split(width, 1) for side in (self.left, self.right))
        for name, writer, left, right in zip(first.names, first.writers, *sides, strict=True):
            strength = _symmetric_norm(left, right, self.blocks) / self.total if self.total else 0.0
            chance = _chance_on_both(writer, self.traces)
            made.append((name, self.name, BOTH_INPUTS, strength, chance))
        return made


def _chance_on_both(writer: Float[Tensor, "m d"], traces: float) -> float:
    """√E[strength²] for G = Wᵀ W of trace 1 and ``traces`` = Σ_o (tr S_o)² / ‖S‖²."""
    d = writer.shape[-1]
    if d == 1:
        return 1.0
    u = float((writer @ writer.mT).square().sum())
    t = float(writer.square().sum())  # 1, or 0 where the head is zero
    below = d * (d - 1) * (d + 2)
    square = (d * t**2 + (d - 2) * u + (d * u - t**2) * traces) / below
    return square**0.5 if t else 1.0 / d


def _blocks(gram: Float[Tensor, "h h"]) -> list[Float[Tensor, "_ _"]]:
    """The rows of a symmetric matrix a block at a time, from the diagonal on. A sum over pairs of
    units is twice that of these: what is beside the diagonal counts twice, the squares on it once.
    """
    blocks = []
    for start in range(0, len(gram), BLOCK):
        block = gram[start : start + BLOCK, start:].clone()
        block[:, : len(block)] *= 0.5
        blocks.append(block)
    return blocks


def _symmetric_norm(
    left: Float[Tensor, "h i"],
    right: Float[Tensor, "h i"],
    blocks: Sequence[Float[Tensor, "_ _"]],
) -> float:
    """‖S‖ of the symmetric part, with the ``_blocks`` of DᵀD given: ½ Σ DᵀD ∘ [(L Lᵀ)∘(R Rᵀ) + (L
    Rᵀ)∘(R Lᵀ)].

    A block of units at a time, against itself and all after it. Two GEMMs give all four products.
    """
    total = 0.0
    for start, block in zip(range(0, len(left), BLOCK), blocks, strict=True):
        own, n = slice(start, start + BLOCK), len(block)
        rows = torch.cat([left[own], right[own]])
        by_left, by_right = rows @ left[start:].mT, rows @ right[start:].mT
        products = by_left[:n].mul_(by_right[n:]).addcmul_(by_right[:n], by_left[n:])
        total += float(products.flatten() @ block.flatten())
    return max(total, 0.0) ** 0.5


def _pieces(wiring: Wiring, n: int) -> list[_Piece]:
    """What a part's sources write and read, over the stream and in float64."""
    part = wiring.parts[n]
    forms = {name: wiring.over_stream(n, form.double()) for name, form in part.forms().items()}
    if not forms or any(form.degree > 1 for form in forms.values()):
        return [_product(wiring, n, name, form) for name, form in forms.items()]
    by_site: dict[int, dict[str, Form]] = defaultdict(dict)
    for name, form in forms.items():
        by_site[wiring.reader(n, form.legs[0])][name] = form
    scores = {} if part.attention is None else _scored(part.attention)
    # what shares another's reading looks by the scores of a write that does not
    return [_linear(m, scores if m == n else {}, those) for m, those in by_site.items()]


def _linear(n: int, scores: dict[str, Tensor], forms: dict[str, Form]) -> _Piece:
    """Heads, and whatever else is W_V W_O given what mixes it."""
    w_v = torch.stack([form.legs[0].weight.mT for form in forms.values()])
    w_o = torch.stack([form.out.mT for form in forms.values()])
    require_finite(", ".join(forms), w_v=w_v, w_o=w_o)
    thin_v, thin_o = torch.linalg.qr(w_v)[1], torch.linalg.qr(w_o.mT)[1]  # ‖W X‖ = ‖R X‖
    readers = scores | {"V": w_v @ thin_o.mT}
    scaled = {kind: _scaled(w) for kind, w in readers.items()}
    sites = (n,) * len(scaled)
    return _Piece(sites, tuple(forms), _scaled(thin_v @ w_o), scaled, linear=True)


def _scored(heads: Heads) -> dict[str, Float[Tensor, "head d m"]]:
    """What the queries and the keys of each score read, by leg."""
    readers = {}
    for score, (query, key) in enumerate(zip(heads.legs[0:-1:2], heads.legs[1::2], strict=True), 1):
        weights = [head_weights(heads, head, score) for head in range(heads.module.n_heads)]
        w_q, w_k = (torch.stack([w[n] for w in weights]).double() for n in (0, 1))
        require_finite(heads.name, w_q=w_q, w_k=w_k)
        thin_q, thin_k = torch.linalg.qr(w_q)[1], torch.linalg.qr(w_k)[1]
        readers |= {query: w_q @ thin_k.mT, key: w_k @ thin_q.mT}
    return readers


def _product(wiring: Wiring, n: int, name: str, form: Form) -> _Piece:
    """A bilinear layer by its symmetric part; a longer product leg by leg."""
    sites = tuple(wiring.reader(n, leg) for leg in form.legs)
    if form.degree == 2:
        grams = quadratic(form).grams(symmetric=True)
        writer, reader = (symmetric_root(grams[mode])[None] for mode in ("out", "left"))
        size = float(grams["out"].trace()) ** 0.5
        readers = {ONE_INPUT: _scaled(reader)}
        return _Piece(sites[:1], (name,), _scaled(writer), readers, form, size)
    hidden = [leg.weight @ leg.weight.mT for leg in form.legs]
    written = form.out.mT @ form.out
    readers = {}
    for m, leg in enumerate(form.legs):
        others = math.prod(hidden[:m] + hidden[m + 1 :], start=written)
        readers[f"input {m + 1}"] = _scaled(
            symmetric_root(leg.weight.mT @ others @ leg.weight)[None]
        )
    writer = symmetric_root(form.out @ math.prod(hidden) @ form.out.mT)[None]
    return _Piece(sites, (name,), _scaled(writer), readers)


def _scaled(factors: Float[Tensor, "part a b"]) -> Float[Tensor, "part a b"]:
    """Each of norm 1; zeros stay zero."""
    norms = factors.flatten(1).norm(dim=1)[:, None, None]
    return torch.where(norms > 0, factors / norms, factors)

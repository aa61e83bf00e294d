"""How strongly each part reads what each earlier part writes, from the weights alone, beside
chance.

A part writes along G_w and reads along G_r, two d × d Grams: for a head that writes W_OV and reads
through W,

    ‖W_OV W‖² = ⟨G_w, G_r⟩     G_w = W_OVᵀ W_OV     G_r = W Wᵀ     ‖W_OV‖² = tr G_w     ‖W‖² = tr
                               G_r

and the same for the symmetric tensor S of a bilinear layer, with G_w = Gram_out(S) and G_r =
Gram_in(S) where one of its two inputs is the first part and the other is anything. So strength² =
⟨G_w, G_r⟩ / (tr G_w tr G_r).

By chance: turn what is written by a random rotation Q, all weights else as they are. E[Q G Qᵀ] =
(tr G / d) 1, so E[strength²] = 1/d. (Factors of independent random entries give the same: E‖AB‖² =
‖A‖² ‖B‖² / d.)

Both inputs of a layer: strength² = Σ_o tr(S_o G S_o G) / (‖S‖² t²), with G = G_w, t = tr G and u =
tr G². By rotation the second moments of G' = Q G Qᵀ are

    E[G'_ij G'_kl] = α δ_ij δ_kl + β (δ_ik δ_jl + δ_il δ_jk)     t² = α d² + 2 β d     u = α d + β d
                                                                 (d + 1)
    β = (d u − t²) / (d (d − 1) (d + 2))     α + β = (d t² + (d − 2) u) / (d (d − 1) (d + 2))
    E[Σ_o tr(S_o G' S_o G')] = (α + β) ‖S‖² + β Σ_o (tr S_o)²
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP
from bilens.base.charts import DIVERGING
from bilens.base.results import Result
from bilens.circuits.attention import head_weights
from bilens.circuits.understood import require_weights
from bilens.circuits.virtual import quadratic
from bilens.nn.expandable import Expandable, Heads, Layer, explained, explains, require_expandable

ONE_INPUT, BOTH_INPUTS = "one input", "both inputs"


@dataclass(frozen=True, repr=False, eq=False)
class Composition(Result):
    """A row for each ordered pair of parts and each way in: ``strength`` = ‖composed‖ / (‖first‖
    ‖second‖), and ``random``, its root mean square by chance. ``kinds``: "Q", "K", "V", "one
    input", "both inputs". ``opaque`` layers are left out."""

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
        opaque = f"; left out as opaque: {', '.join(self.opaque)}" if self.opaque else ""
        if not len(self.strength):
            return f"no part reads another{opaque}"
        n = int(self.ratio.argmax())
        best = f"{self.first[n]} → {self.second[n]} {self.kinds[n]}, {float(self.ratio[n]):.2f} times chance"
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

    def figure(self) -> dict[str, Any]:
        """The ratio to chance: the first part by the second and its way in."""
        ways = [f"{second} {kind}" for second, kind in zip(self.second, self.kinds, strict=True)]
        down, across = list(dict.fromkeys(self.first)), list(dict.fromkeys(ways))
        z: list[list[float | None]] = [[None] * len(across) for _ in down]
        for first, way, ratio in zip(self.first, ways, self.ratio.tolist(), strict=True):
            z[down.index(first)][across.index(way)] = ratio
        cells = {
            "type": "heatmap",
            "x": across,
            "y": down,
            "z": z,
            "colorscale": DIVERGING,
            "zmid": 1,
        }
        layout = {
            "title": {"text": "composition, times chance"},
            "xaxis": {"title": {"text": "read by"}},
        }
        return {
            "data": [cells],
            "layout": layout
            | {"yaxis": {"title": {"text": "written by"}, "autorange": "reversed"}},
        }


class _Part(NamedTuple):
    """What one part of the wiring writes and reads: W of G_w = Wᵀ W and of G_r = W Wᵀ, both scaled
    to trace 1.

    ``layer`` is S of a bilinear layer, as T: S = ½ (T + its swap).
    """

    names: tuple[str, ...]
    writers: Float[Tensor, "part m d"]
    readers: dict[str, Float[Tensor, "part d m"]]
    layer: CP | None


@explains
@torch.no_grad()
def composition(model: Expandable) -> Composition:
    """Every ordered pair of parts, the second reading what the first writes, each beside its value
    by chance.

    head → head     Q, K, V: ‖W_OV W_QK‖, ‖W_OV W_QKᵀ‖, ‖W_OV W_OV'‖, as TransformerLens's
                    composition scores
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
    """
    require_expandable(model)
    wiring = explained(model).wiring()
    require_weights(wiring, wiring.parts)
    parts = [_heads(part) if isinstance(part, Heads) else _layer(part) for part in wiring.parts]
    rows: list[tuple[str, str, str, float, float]] = []
    for n, second in enumerate(parts):
        for first in parts[:n] if wiring.accumulates else parts[max(n - 1, 0) : n]:
            if first is not None and second is not None:
                rows += _between(first, second)
    columns = list(zip(*rows, strict=True)) or [()] * 5
    return Composition(
        first=columns[0],
        second=columns[1],
        kinds=columns[2],
        strength=torch.tensor(columns[3], dtype=torch.float64),
        random=torch.tensor(columns[4], dtype=torch.float64),
        opaque=tuple(
            part.name for part, found in zip(wiring.parts, parts, strict=True) if found is None
        ),
    )


def _between(first: _Part, second: _Part) -> list[tuple[str, str, str, float, float]]:
    chance = first.writers.shape[-1] ** -0.5
    found = []
    for kind, readers in second.readers.items():
        strengths = torch.einsum("amd,bdn->abmn", first.writers, readers).flatten(2).norm(dim=-1)
        for a, b in torch.cartesian_prod(
            torch.arange(len(first.names)), torch.arange(len(second.names))
        ).tolist():
            found.append((first.names[a], second.names[b], kind, float(strengths[a, b]), chance))
    if second.layer is not None and first.layer is None:
        found += _on_both_inputs(first, second.names[0], second.layer)
    return found


def _on_both_inputs(
    first: _Part, second: str, layer: CP
) -> list[tuple[str, str, str, float, float]]:
    """Heads on both inputs of a layer, by strength and by chance."""
    gram, total = layer.out.mT @ layer.out, _symmetric_norm(layer, layer.out.mT @ layer.out)
    traces = float((layer.out @ (layer.left * layer.right).sum(1)).square().sum())
    found = []
    for name, writer in zip(first.names, first.writers, strict=True):
        written = layer.map(left=writer, right=writer)
        strength = _symmetric_norm(written, gram) / total if total else 0.0
        share = traces / total**2 if total else 0.0
        found.append((name, second, BOTH_INPUTS, strength, _chance_on_both(writer, share)))
    return found


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


def _symmetric_norm(tensor: CP, gram: Float[Tensor, "h h"]) -> float:
    """‖S‖ of the symmetric part, with DᵀD given: ½ Σ DᵀD ∘ [(L Lᵀ)∘(R Rᵀ) + (L Rᵀ)∘(R Lᵀ)]."""
    cross = tensor.left @ tensor.right.mT
    inputs = (tensor.left @ tensor.left.mT) * (tensor.right @ tensor.right.mT) + cross * cross.mT
    return float((0.5 * (gram * inputs).sum()).clamp(min=0).sqrt())


def _heads(part: Heads) -> _Part:
    weights = [head_weights(part, head) for head in range(part.module.n_heads)]
    w_q, w_k, w_v, w_o = (torch.stack(matrices).double() for matrices in zip(*weights, strict=True))
    # ‖W X‖ = ‖R X‖, R of d_head columns
    thin_q, thin_k, thin_v = (torch.linalg.qr(w)[1] for w in (w_q, w_k, w_v))
    thin_o = torch.linalg.qr(w_o.mT)[1]
    readers = {"Q": w_q @ thin_k.mT, "K": w_k @ thin_q.mT, "V": w_v @ thin_o.mT}
    return _Part(
        part.heads, _scaled(thin_v @ w_o), {kind: _scaled(w) for kind, w in readers.items()}, None
    )


def _layer(part: Layer) -> _Part | None:
    tensor = quadratic(part)
    if tensor is None:
        return None
    tensor = tensor.to(torch.float64)
    symmetric = tensor.symmetrise()
    writer, reader = (_root(symmetric.gram(mode))[None] for mode in ("out", "left"))
    return _Part((part.name,), _scaled(writer), {ONE_INPUT: _scaled(reader)}, tensor)


def _root(gram: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The symmetric root: G = W W, which is Wᵀ W and W Wᵀ."""
    values, vectors = torch.linalg.eigh(gram)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def _scaled(factors: Float[Tensor, "part a b"]) -> Float[Tensor, "part a b"]:
    """Each of norm 1; zeros stay zero."""
    norms = factors.flatten(1).norm(dim=1)[:, None, None]
    return torch.where(norms > 0, factors / norms, factors)

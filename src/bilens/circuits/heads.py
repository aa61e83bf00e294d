"""What a head's weights alone look for and write: its QK and OV circuits.

Rot_tᵀ Rot_s = Rot_(s−t), so they say a score for every pair of tokens at a given offset s − t.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import Factored
from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole
from bilens.circuits.understood import require_ends, require_weights
from bilens.nn import rotate
from bilens.wiring import (
    Expandable,
    Heads,
    Wiring,
    explained,
    explains,
    require_expandable,
)


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
        *(w * head_gain(part, name, head) for w, name in zip((w_q, w_k), sides, strict=True))
    )


def head_gain(part: Heads, name: str, head: int) -> Float[Tensor, "1 d_head"] | float:
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

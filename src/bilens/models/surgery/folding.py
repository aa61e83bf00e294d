"""Folding: norm weights, and LayerNorm's centring, moved into what reads and writes the residual
stream.

RMSNorm's weight w multiplies what is read, so W (w ⊙ x) = (W diag w) x. LayerNorm's bias b becomes
a bias W b of each reader. Its centring is linear and the same for every reader, so it is moved to
the writers: once all that is written has mean zero, x − mean x = x and var x = mean x², and
LayerNorm without weights is RMSNorm. Learned scales in place of norms fold and are gone.
"""

import copy

import torch
from torch import Tensor, nn

from bilens.models.transformer.blocks import Body
from bilens.models.transformer.config import TransformerConfig
from bilens.nn import LINEAR_NORMS, BuiltNorm, LayerNorm, NoNorm, RMSNorm


def folded_config(config: TransformerConfig) -> TransformerConfig:
    """The configuration after folding: untied, with biases and RMSNorm in place of LayerNorm."""
    made = copy.deepcopy(config)
    layered = config.norm == "layer"
    made.folded, made.tie_word_embeddings = True, False
    made.norm, last = (_left_of(kind, config) for kind in (config.norm, config.last_norm))
    made.final_norm = None if last == made.norm else last
    made.attention_bias |= layered
    made.mlp_bias |= layered
    made.head_bias |= config.last_norm == "layer"
    return made


def _left_of(norm: str, config: TransformerConfig) -> str:
    """The kind of norm that is left when its weights are folded. LayerNorms stay where not all
    norms are: what they centre is read as it is by others.
    """
    if norm in LINEAR_NORMS:
        return "none"
    return "layer" if norm == "layer" and not _is_centred(config) else "rms"


def _is_centred(config: TransformerConfig) -> bool:
    return config.norm == config.last_norm == "layer"


def padded(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` under the names ``wanted``: biases that are new are zero."""
    return {
        name: weights[name] if name in weights else torch.zeros_like(value)
        for name, value in wanted.items()
    }


@torch.no_grad()
def fold(old: Body, new: Body, head: nn.Linear) -> None:
    """Fold the norms of ``old`` into the readers of ``new``, a copy of it by ``folded_config``, and
    into its ``head``.
    """
    for before, after in zip(old.modules(), new.modules(), strict=True):
        if isinstance(before, RMSNorm) and isinstance(after, RMSNorm):
            after.weight.copy_(before.gain)  # those over what is written, over queries and keys
    for before, after in zip(old.blocks, new.blocks, strict=True):
        if after.self_attn is not None:
            _fold(before.input_layernorm, after.input_layernorm, *after.self_attn.readers)
        if after.mlp is not None:
            norms = before.post_attention_layernorm, after.post_attention_layernorm
            _fold(*norms, *after.mlp.readers)
    _fold(old.norm, new.norm, head)
    if old.norm.centred and not new.norm.centred:
        _centre_writers(new)


def _fold(norm: BuiltNorm, target: BuiltNorm, *readers: nn.Linear) -> None:
    """Move the weight and bias of ``norm`` into ``readers``, and leave ``target`` with weight
    one.
    """
    if isinstance(norm, NoNorm):
        return
    for reader in readers:
        if norm.shift is not None:
            reader.bias.add_(reader.weight @ norm.shift.to(reader.weight))
        reader.weight.mul_(norm.gain)
    if not isinstance(target, NoNorm):
        target.weight.fill_(1)
    if isinstance(target, LayerNorm):
        target.bias.zero_()


def _centre_writers(body: Body) -> None:
    """Take the mean over the residual stream out of all that is written to it."""
    embeddings = [part for part in body.children() if isinstance(part, nn.Embedding)]
    for embedding in embeddings:
        embedding.weight.sub_(embedding.weight.mean(1, keepdim=True))
    parts = [part for block in body.blocks for part in (block.self_attn, block.mlp) if part]
    for writer in (writer for part in parts for writer in part.writers):
        writer.weight.sub_(writer.weight.mean(0, keepdim=True))
        if writer.bias is not None:
            writer.bias.sub_(writer.bias.mean())

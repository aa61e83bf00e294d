"""Folding: norm weights, and LayerNorm's centring, moved into what reads and writes the residual stream.

RMSNorm's weight w multiplies what is read, so W (w ⊙ x) = (W diag w) x. LayerNorm's bias b becomes a bias W b of each
reader. Its centring is linear and the same for every reader, so it is moved to the writers: once all that is written has
mean zero, x − mean x = x and var x = mean x², and LayerNorm without weights is RMSNorm.
"""

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bilens.nn import GatedMLP, LayerNorm, NoNorm, RMSNorm

if TYPE_CHECKING:
    from bilens.models.transformer import Transformer

Norm = RMSNorm | LayerNorm | NoNorm


@torch.no_grad()
def folded(model: "Transformer") -> "Transformer":
    """A new model with the same logits whose norms have weight one; LayerNorm's have become RMSNorms.

    ``config.folded`` remembers it. Embeddings that were tied are tied no more. Cost: one copy of the weights.
    """
    config = copy.deepcopy(model.config)
    layered = config.norm == "layer"
    config.folded, config.tie_word_embeddings = True, False
    config.norm = "rms" if layered else config.norm
    config.attention_bias |= layered
    config.mlp_bias |= layered
    config.head_bias |= layered
    made = type(model)(config)
    nn.Module.to(made, model.device, model.dtype)
    made.load_state_dict(_padded(model, made), strict=True)
    made.tokenizer = model.tokenizer
    for old, new in zip(model.blocks, made.blocks, strict=True):
        if new.self_attn is not None:
            _fold(old.input_layernorm, new.input_layernorm, new.self_attn.q_proj, new.self_attn.k_proj, new.self_attn.v_proj)
        if new.mlp is not None:
            readers = [new.mlp.gate_proj, new.mlp.up_proj] if isinstance(new.mlp, GatedMLP) else [new.mlp.up_proj]
            _fold(old.post_attention_layernorm, new.post_attention_layernorm, *readers)
    _fold(model.model.norm, made.model.norm, made.lm_head)
    if layered:
        _centre_writers(made)
    return made.train(model.training)


def _padded(model: "Transformer", made: "Transformer") -> dict[str, Tensor]:
    """The weights of ``model`` under the names of ``made``: new biases are zero, norms that lost theirs are as made."""
    weights, names = model.state_dict(), made.state_dict()
    return {name: weights[name] if name in weights else torch.zeros_like(value) for name, value in names.items()}


def _fold(norm: Norm, target: Norm, *readers: nn.Linear) -> None:
    """Move the weight and bias of ``norm`` into ``readers``, and leave ``target`` with weight one."""
    if isinstance(norm, NoNorm) or isinstance(target, NoNorm):
        return
    for reader in readers:
        if isinstance(norm, LayerNorm):
            reader.bias.add_(reader.weight @ norm.bias)
        reader.weight.mul_(norm.weight)
    target.weight.fill_(1)


def _centre_writers(model: "Transformer") -> None:
    """Take the mean over the residual stream out of all that is written to it."""
    body = model.model
    for embedding in (
        (body.embed_tokens, body.embed_positions) if model.config.positions == "learned" else (body.embed_tokens,)
    ):
        embedding.weight.sub_(embedding.weight.mean(1, keepdim=True))
    writers = [block.self_attn.o_proj for block in model.blocks if block.self_attn is not None]
    writers += [block.mlp.down_proj for block in model.blocks if block.mlp is not None]
    for writer in writers:
        writer.weight.sub_(writer.weight.mean(0, keepdim=True))
        if writer.bias is not None:
            writer.bias.sub_(writer.bias.mean())

"""Whether a model of transformers does what its weights and its configuration say."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from bilens.base.errors import ArgumentError
from bilens.base.numerics import working_dtype
from bilens.models.activations import evaluating
from bilens.models.transformer import Transformer

TOKENS = 8
# More than rounding: 4e-7 in float32 and .03 in bfloat16 are what 30 layers of SmolLM2 have of it.
FAR, FAR_IN_HALF = 1e-2, 1e-1


@torch.no_grad()
def require_alike(model: PreTrainedModel, made: Transformer) -> None:
    """Raise ArgumentError where ``model`` has other logits than ``made``, which has its weights and
    its configuration: hooks act on it, a module or a forward pass is not its class's, or its
    configuration was changed since. On 8 tokens, so what shows on longer texts alone is not seen.
    Cost: a forward pass of each.
    """
    length = min(TOKENS, made.config.max_position_embeddings)
    ids = (torch.arange(length, device=model.device) * 7919 % made.config.vocab_size)[None]
    theirs, ours = _logits(model, ids), _logits(made, ids)
    far = float((ours - theirs).norm() / theirs.norm().clamp(min=torch.finfo(theirs.dtype).tiny))
    half = working_dtype(made.dtype) != made.dtype
    if not far <= (FAR_IN_HALF if half else FAR):
        must = "be given a model that does what its weights and configuration say"
        todo = "Remove hooks and patches; a configuration is read when a model is made."
        got = f"other logits, by {far:.1%} of them"
        raise ArgumentError("from_transformers", must=must, got=got, todo=todo)


def _logits(model: PreTrainedModel, ids: Int[Tensor, "1 t"]) -> Float[Tensor, "1 t v"]:
    """In float64 and in evaluation mode."""
    try:
        with evaluating(model):
            return model(ids, use_cache=False).logits.double()
    except Exception as error:  # of whatever is patched in
        must = "be given a model that runs"
        raise ArgumentError("from_transformers", must=must, got=error) from error

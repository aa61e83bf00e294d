"""What attention masks and caches mean: as in transformers, so that a mask made for a Llama does
the same here.
"""

from dataclasses import fields

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from bilens.base.errors import ArgumentError, ShapeError
from bilens.nn import Mask

OLD = "past_key_values"
# what outputs call a cache: "past_key_values" before transformers 5.24
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else OLD


def attention_mask(
    given: Tensor | None,
    queries: tuple[int, int],
    heads: int,
    device: torch.device,
    cache: Cache | None = None,
    position_ids: Int[Tensor, "b t"] | None = None,
    window: int | None = None,
) -> Mask | None:
    """Where queries (batch, t) may look, ``window`` positions back; None is plain causal, which
    layers narrow to their own window.

    ``given``, by its dims: (batch, s) is true at real tokens, and what they see stays causal;
    (batch or 1, head or 1, t or 1, s) is the whole truth: where a query may look if boolean, what
    is added to its scores if floating. Without it and without a cache, ``position_ids`` that jump
    tell packed texts apart, which do not see one another.
    Errors: ShapeError for any other shape or dtype.
    """
    seen, keys = _extent(cache, queries[1])
    if given is not None and given.ndim == 4:
        _require_whole(given, (queries[0], heads, queries[1], keys))
        return given.to(device)
    static = cache is not None and cache.is_compileable
    packs = _packs(position_ids, queries[0]) if given is None and cache is None else None
    if given is not None:
        _require_tokens(given, queries, seen, keys)
        given = None if not static and _nothing_hidden(given) else given.to(device, torch.bool)
    if given is None and packs is None and not static:
        return None
    at = torch.arange(queries[1], device=device) + seen
    there = torch.arange(keys, device=device)
    may = there <= at[:, None]
    if window is not None:
        may = may & (there > at[:, None] - window)
    may = may[None, None]
    if given is not None:  # what a static cache has not seen yet is hidden
        may = may & nn.functional.pad(given, (0, keys - given.shape[1]))[:, None, None]
    return may if packs is None else may & (packs[:, None, :, None] == packs[:, None, None])


def one_cache(cache: object, past_key_values: object) -> Cache | None:
    """The cache that is passed, by whichever name. Errors: ArgumentError for two, for what is no
    cache, and for one that does not keep every position.
    """
    if cache is not None and past_key_values is not None:
        raise ArgumentError("cache", must="be given once", got=f"{OLD} too")
    given = past_key_values if cache is None else cache
    if given is None:
        return None
    todo = "Pass DynamicCache() or StaticCache(config, max_cache_len=…)."
    if not isinstance(given, Cache):
        must = "be a transformers Cache"
        raise ArgumentError("cache", must=must, got=type(given).__name__, todo=todo)
    if any(given.is_sliding):
        must = "keep every position: no layer has a sliding window"
        raise ArgumentError("cache", must=must, got="one that slides", todo=todo)
    return given


def seen_by(cache: Cache | None) -> int | Tensor:
    """How many positions ``cache`` holds; a static cache tells by a tensor, to be compiled."""
    return 0 if cache is None else cache.get_seq_length()


def _extent(cache: Cache | None, queries: int) -> tuple[int | Tensor, int]:
    """How many positions came before, and how many keys the queries will meet."""
    seen = seen_by(cache)
    if cache is None or not cache.is_compileable:
        return seen, int(seen) + queries
    return seen, cache.get_mask_sizes(queries, 0)[0]


def _nothing_hidden(mask: Tensor) -> bool:
    """Whether ``mask`` is all true; where that would break a compiled graph, it is not asked."""
    return not torch.compiler.is_compiling() and bool(mask.all())


def _packs(positions: Tensor | None, batch: int) -> Int[Tensor, "b t"] | None:
    """The number of the text that each token of a packed row belongs to; None for one text a
    row.
    """
    if positions is None:
        return None
    steps = torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1)
    packs = (steps != 1).cumsum(-1).expand(batch, -1)
    return packs if torch.compiler.is_compiling() or bool(packs.any()) else None


def _require_tokens(mask: Tensor, queries: tuple[int, int], seen: int | Tensor, keys: int) -> None:
    """A mask of real tokens: all that the cache holds, and the new ones."""
    fewest = seen + queries[1] if isinstance(seen, int) else queries[1]
    fits = mask.ndim == 2 and mask.shape[0] == queries[0] and fewest <= mask.shape[1] <= keys
    if not fits:
        must = f"be ({queries[0]}, {fewest}), or (batch, head, query, key)"
        raise ShapeError("attention_mask", must=must, got=tuple(mask.shape))


def _require_whole(mask: Tensor, shape: tuple[int, int, int, int]) -> None:
    """A mask that says all: of ``shape`` but for dims of 1, and boolean or additive."""
    free = zip(mask.shape[:3], shape[:3], strict=True)
    if mask.shape[3] != shape[3] or any(have not in (1, want) for have, want in free):
        raise ShapeError("attention_mask", must=f"be {shape}, or 1 there", got=tuple(mask.shape))
    if mask.dtype != torch.bool and not mask.is_floating_point():
        must = "be boolean (True may look) or floating (added to scores) where it has 4 dims"
        raise ShapeError("attention_mask", must=must, got=mask.dtype)

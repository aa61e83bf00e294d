"""Where heads look: the attention patterns of one pass, which every path through a head holds
fixed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import Tile, mapped, tiled, titled
from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole
from bilens.base.results import ANSWER_ROWS, Result
from bilens.base.words import counting
from bilens.circuits.paths import placed
from bilens.circuits.recording import Recording, record
from bilens.wiring import Expandable, explains

TILES = 16  # heads drawn side by side


@dataclass(frozen=True, repr=False, eq=False)
class AttentionPatterns(Result):
    """Attention of ``heads``, from each position to all that it looks at: ``weights`` (head, query,
    key), which add up to 1 over the keys where a head's scores go through a softmax.

    ``layers`` has the layer of each head and ``tokens`` the name of each position.

    Columns, a row for each pair of positions that a head may look between: ``layer``, ``head``;
    ``query`` and ``key``: the position that looks, and the one that it looks at; ``query token``
    and ``key token``: what stands there; ``weight``: how much of the key is read.

    What print and notebooks show has a row for each head, those on top that look where few do:
    ``elsewhere``: its weight on keys that are neither its own position, nor the one before, nor the
    first one, averaged over the queries; ``itself``, ``token before`` and ``first token``: on
    those; and its ``strongest look`` elsewhere.

    >>> bilens.circuits.attention_patterns(model, prompt).weights.shape  # head, query, key
    torch.Size([8, 8, 8])
    """

    heads: tuple[str, ...]
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    weights: Float[Tensor, "head t s"]

    def summary(self) -> str:
        read = " ".join(self.tokens)
        who = f"{len(self.heads)} heads" if len(self.heads) > 1 else "".join(self.heads)
        return f"attention of {who} on {counting(len(self.tokens), 'tokens')}: {read}"

    def columns(self) -> tuple[str, ...]:
        return "layer", "head", "query", "key", "query token", "key token", "weight"

    def rows(self) -> list[dict[str, Any]]:
        tokens, length = self.tokens, len(self.tokens)
        last = [length if self._looks_ahead else query + 1 for query in range(length)]
        return [
            {
                "layer": layer,
                "head": head,
                "query": query,
                "key": key,
                "query token": tokens[query],
                "key token": tokens[key],
                "weight": weight,
            }
            for layer, head, pattern in zip(
                self.layers, self.heads, self.weights.tolist(), strict=True
            )
            for query, line in enumerate(pattern)
            for key, weight in enumerate(line[: last[query]])
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """A row for each head, those that look neither near nor at the first token on top."""
        own, before, first, elsewhere = self._parts
        length = len(self.tokens)
        rows = [
            {
                "head": head,
                "elsewhere": float(pattern[elsewhere].sum()) / length,
                "itself": float(pattern[own].sum()) / length,
                "token before": float(pattern[before].sum()) / length,
                "first token": float(pattern[first].sum()) / length,
                "strongest look": self._strongest(pattern, elsewhere),
            }
            for head, pattern in zip(self.heads, self.weights, strict=True)
        ]
        return sorted(rows, key=lambda row: -row["elsewhere"])[:count]

    def figure(self) -> dict[str, Any]:
        """A heat map for each head, of many those that look neither near nor at the first token."""
        names = [placed(n, self.tokens) for n in range(len(self.tokens))]
        looks, at = "key: the token looked at", "query: the token that looks"
        if len(self.heads) == 1:
            layout = titled(f"Attention of {self.heads[0]}", looks, at)
            end = 1.0 if self._are_shares else None
            seen, shares = self._seen(0), self._are_shares
            return mapped(seen, names, names, "weight", layout, strength=shares, end=end)
        chosen = [row["head"] for row in self.answer(TILES)]
        tiles = [
            Tile(head, self._seen(n), names, names)
            for n, head in enumerate(self.heads)
            if head in chosen
        ]
        of = "" if len(tiles) == len(self.heads) else f" of {len(self.heads)}"
        layout = titled(f"Attention of {len(tiles)}{of} heads", looks, at)
        return tiled(tiles, "weight", layout, strength=self._are_shares)

    def _seen(self, n: int) -> list[list[float | None]]:
        """The pattern of a head, nothing where it cannot look."""
        ahead = self._looks_ahead
        return [
            [weight if ahead or key <= query else None for key, weight in enumerate(line)]
            for query, line in enumerate(self.weights[n].tolist())
        ]

    @property
    def _looks_ahead(self) -> bool:
        return bool(self.weights.triu(1).any())

    @property
    def _are_shares(self) -> bool:
        """Whether weights go from 0 to 1; those of heads without softmax may have either sign."""
        return bool((self.weights >= 0).all() and (self.weights <= 1).all())

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The keys apart, for every query: its own, the one before, the first, all others."""
        places = torch.arange(len(self.tokens), device=self.weights.device)
        offset = places - places[:, None]
        own, before = offset == 0, offset == -1
        first = (places == 0).expand_as(offset) & ~own & ~before
        return own, before, first, ~(own | before | first)

    def _strongest(self, pattern: Float[Tensor, "t s"], elsewhere: Tensor) -> str:
        """From which token to which it looks most, of those ``elsewhere``."""
        if not bool(pattern[elsewhere].any()):
            return ""
        best = int(pattern.abs().masked_fill(~elsewhere, 0.0).argmax())
        query, key = divmod(best, len(self.tokens))
        weight = float(pattern[query, key])
        return f"{placed(query, self.tokens)} → {placed(key, self.tokens)}: {weight:.2f}"


@explains
@torch.no_grad()
def attention_patterns(
    model: Expandable, inputs: Any, layer: int | None = None, head: int | None = None
) -> AttentionPatterns:
    """Where each head looks on one input: of all layers, of one ``layer``, or of one ``head`` of
    it.

    The patterns are those that paths are given ("A L0H3@7"): ``attention_scores`` says what makes
    one entry, before the softmax. Of attention with two patterns a head, both, the second as
    "L0H3 (2)". A head's patterns are those of the pass in which the model is explained, in float32
    for a half-precision model. Cost: a pass in parts. Errors: ArgumentError for inputs, a layer or
    a head that is not there.

        >>> model = bilens.load("tinystories-1l")
        >>> bilens.circuits.attention_patterns(model, "Once upon a time").heads[:2]
        ('L0H0', 'L0H1')
    """
    recording = record(model, inputs)
    found = _patterns(recording)
    if not found:
        raise ArgumentError("model", must="have attention heads", got="none")
    layers = list(dict.fromkeys(where for _, where, _ in found))
    if layer is not None and (not is_whole(layer) or layer not in layers):
        must = f"be one with heads: {', '.join(map(str, layers))}"
        raise ArgumentError("layer", must=must, got=repr(layer))
    if head is not None and layer is None:
        raise ArgumentError("head", must="come with the layer that it is of", got="none")
    chosen = [one for one in found if layer is None or one[1] == layer]
    if head is not None:
        chosen = _of_head(chosen, head)
    names, numbers, weights = zip(*chosen, strict=True)
    return AttentionPatterns(names, numbers, recording.names, torch.stack(weights))


Pattern = tuple[str, int, Tensor]  # a head, its layer, its weights


def _patterns(recording: Recording) -> list[Pattern]:
    """What the pass fixed of where sources look, in order."""
    found = []
    for name, product in recording.products.items():
        for n, values in enumerate(product.patterns):
            label = f"{name} ({n + 1})" if n else name
            found.append((label, product.source.layer, values))
    return found


def _of_head(found: list[Pattern], head: int) -> list[Pattern]:
    """The patterns of one head, of those of a layer. Errors: ArgumentError for one not there."""
    names = list(dict.fromkeys(name.partition(" ")[0] for name, _, _ in found))
    if not is_whole(head) or not 0 <= head < len(names):
        raise ArgumentError("head", must=f"be 0 … {len(names) - 1}", got=repr(head))
    return [one for one in found if one[0].partition(" ")[0] == names[head]]

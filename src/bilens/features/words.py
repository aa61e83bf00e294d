"""Latents told by tokens: those that they answer, and those that they write for."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.numerics import working_dtype
from bilens.base.records import Record
from bilens.features.texts import Tap
from bilens.wiring import Expandable

LEFT, RIGHT = 28, 12  # characters of a passage: a table of examples then fits in 100 columns
TRIED = 2048  # tokens of the vocabulary
BLOCK = 1024  # of them at once


@dataclass(frozen=True, repr=False, eq=False)
class Words(Record):
    """Tokens as they are shown, each with a number, largest first; what it is, whoever has them
    says.

    >>> texts = ["Once upon a time there was a little girl."]
    >>> found = bilens.features.examples(model, D, texts, 560).latents[0]
    >>> len(found.promotes.tokens) == len(found.promotes.values)
    True
    """

    tokens: tuple[str, ...]
    values: Float[Tensor, " n"]

    def __str__(self) -> str:
        return " ".join(self.tokens) or "nothing"

    def shares(self) -> str:
        """The tokens with their numbers as shares: "␣girl 43 %"."""
        each = zip(self.tokens, self.values.tolist(), strict=True)
        return " · ".join(f"{token} {share:.0%}" for token, share in each) or "nothing"

    def first(self, count: int) -> "Words":
        """The first of them."""
        return Words(self.tokens[:count], self.values[:count])


def passage(tokens: Sequence[str], at: int) -> str:
    """The token ``at`` in «», and around it whole tokens of at most ``LEFT`` and ``RIGHT``
    characters.
    """
    left = _fitting(tokens[:at][::-1], LEFT)[::-1]
    return "".join([*left, f"«{tokens[at]}»", *_fitting(tokens[at + 1 :], RIGHT)])


def _fitting(tokens: Sequence[str], room: int) -> list[str]:
    """The first tokens, as many as there is room for."""
    lengths = accumulate(map(len, tokens))
    return [token for token, length in zip(tokens, lengths, strict=True) if length <= room]


def largest(model: Expandable, values: Float[Tensor, " out"], count: int) -> Words:
    """The ``count`` outputs of largest value."""
    top = values.topk(min(count, len(values)))
    return Words(tuple(model.output_names(top.indices)), top.values.cpu())


def shares(model: Expandable, mass: Float[Tensor, " out"], count: int) -> Words:
    """The ``count`` outputs that hold most of ``mass``, each with its share; none that hold none
    of it.
    """
    total = float(mass.sum())
    return largest(model, mass / (total or 1.0), min(count, int(mass.count_nonzero())))


def answered(tap: Tap, latents: Sequence[int], first: Int[Tensor, ""], count: int) -> list[Words]:
    """The tokens that each latent answers most where they stand behind the token ``first``, a text
    of two, with its pre-activation there. Of the first ``TRIED`` tokens of the vocabulary, which
    are its commonest as tokenizers are learnt.

    Cost: a forward pass as far as the place for each of these tokens. Memory: ``BLOCK`` of them by
    latents.
    """
    coder, size = tap.dictionary, min(TRIED, len(tap.wiring.readout))
    reads, offset = coder.reads[latents], coder.offset[latents]
    best = Leaders.none(len(latents), count, reads)
    for second in torch.arange(size, device=first.device).split(BLOCK):
        x = tap.heard(torch.stack([first.expand_as(second), second], 1))[1::2]
        pre = coder.normed(x).read @ reads.mT + offset
        best = best.with_(pre.mT, second.expand(len(latents), -1))
    names = tap.model.output_names
    return [
        Words(tuple(names(tokens)), values.cpu())
        for tokens, values in zip(best.tokens, best.values, strict=True)
    ]


class Leaders(NamedTuple):
    """For each of some latents the tokens of largest values so far."""

    values: Float[Tensor, "m k"]
    tokens: Int[Tensor, "m k"]

    @classmethod
    def none(cls, latents: int, count: int, like: Tensor) -> "Leaders":
        """Places for ``count`` tokens each, at −∞."""
        values = like.new_full((latents, count), -torch.inf)
        return cls(values, torch.zeros_like(values, dtype=torch.int64))

    def with_(self, values: Float[Tensor, "m n"], tokens: Int[Tensor, "m n"]) -> "Leaders":
        """These and others, as many as there were."""
        values = torch.cat([self.values, values], 1)
        tokens = torch.cat([self.tokens, tokens], 1)
        top = values.topk(self.values.shape[1], dim=1)
        return Leaders(top.values, tokens.gather(1, top.indices))


def written(
    tap: Tap, latents: Sequence[int], activations: Float[Tensor, " m"]
) -> Float[Tensor, "m out"]:
    """What each latent, as active as that, adds to each output on the straight path to the readout,
    at the norm's scale 1, in standard deviations over all outputs.

    At what a part reads, that is what the part writes more for base + a w than for the base alone;
    a head looks at its own position, and has values of its own alone.
    """
    coder, wiring = tap.dictionary, tap.wiring
    delta = activations[:, None].to(coder.writes) * coder.writes[latents]
    if tap.write.side == "input":
        base = coder.base.to(wiring.readout)
        delta = _through(tap, base + delta.to(base)) - _through(tap, base[None])
    work = working_dtype(wiring.readout.dtype)
    scores = wiring.norm.linear(delta.to(work)) @ wiring.readout.to(work).mT
    deviation = scores.std(1, keepdim=True)
    scores = scores - scores.mean(1, keepdim=True)
    return scores / torch.where(deviation > 0, deviation, 1)


def _through(tap: Tap, x: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """What the part writes for each row, as a text of its own where it looks at others."""
    part = tap.wiring.parts[tap.write.part].sharing(torch.zeros_like(x[:1]))
    return torch.cat([part.run(row) for row in x.split(1)]) if part.looks else part.run(x)

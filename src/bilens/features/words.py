"""Latents told by tokens: those that they answer, and those that they write for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.numerics import working_dtype
from bilens.base.records import Record
from bilens.features.texts import Tap
from bilens.wiring import Expandable

TRIED = 8192  # tokens of the vocabulary
BLOCK = 1024  # of them at once


@dataclass(frozen=True, repr=False, eq=False)
class Words(Record):
    """Tokens as they are shown, each with a number, largest first; what it is, whoever has them
    says.
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

    Cost: a forward pass as far as the place for each of these tokens.
    """
    coder, tokens = tap.dictionary, torch.arange(min(TRIED, len(tap.wiring.readout)))
    reads, offset = coder.reads[latents], coder.offset[latents]
    pre = []
    for second in tokens.to(first.device).split(BLOCK):
        x = tap.heard(torch.stack([first.expand_as(second), second], 1))[1::2]
        pre.append(coder.normed(x).read @ reads.mT + offset)
    return [largest(tap.model, column, count) for column in torch.cat(pre).mT]


def written(tap: Tap, latent: int, activation: float) -> Float[Tensor, " out"]:
    """What the latent adds to each output on the straight path to the readout, at the norm's scale
    1, in standard deviations over all outputs.

    At what a part reads, that is what the part writes more for base + a w than for the base alone;
    a head looks at its own position.
    """
    coder, wiring = tap.dictionary, tap.wiring
    delta = activation * coder.writes[latent]
    if tap.write.side == "input":
        part = wiring.parts[tap.write.part]
        with_it, alone = ((coder.base + more).to(wiring.readout) for more in (delta, 0 * delta))
        delta = (part.run(with_it[None]) - part.run(alone[None]))[0]
    work = working_dtype(wiring.readout.dtype)
    scores = wiring.readout.to(work) @ wiring.norm.linear(delta.to(work))
    deviation = float(scores.std()) or 1.0
    return (scores - scores.mean()) / deviation

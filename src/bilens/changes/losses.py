"""Losses of several checkpoints on the same tokens or images, and their differences, paired."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.records import Record

RUNS = 64  # of neighbours: tokens of one text are not independent, runs of them nearly are


@dataclass(frozen=True, repr=False, eq=False)
class Losses(Record):
    """The mean loss of each of n checkpoints in nats per ``unit`` ("token", "image"), over
    ``count`` of them, with its standard error; the ``differences`` from each to the next, and from
    the first to the last (``whole``).

    A difference is of the same items on both sides, so its error is that of the pairs, mostly far
    below those of the two losses.

    >>> tiny = bilens.Transformer(bilens.TransformerConfig(vocab_size=50, hidden_size=16))
    >>> ids = [torch.randint(50, (2, 16))]
    >>> bilens.diff(tiny, tiny, data=ids).loss.unit
    'token'
    """

    unit: str
    count: int
    means: Float[Tensor, " n"]
    errors: Float[Tensor, " n"]
    differences: Float[Tensor, " s"]
    difference_errors: Float[Tensor, " s"]
    whole: float
    whole_error: float

    @property
    def told(self) -> str:
        """The first, the last and their difference in words."""
        first, last = (float(self.means[n]) for n in (0, -1))
        change = f"{self.whole:+.4f} ± {self.whole_error:.4f} nats per {self.unit}"
        return f"{first:.4f} → {last:.4f} ({change}, {self.count:,} {self.unit}s)"


def losses_of(losses: Float[Tensor, "n items"], unit: str) -> Losses:
    """Those of every token or image, in order."""
    means, errors = mean_and_error(losses)
    differences, theirs = mean_and_error(losses[1:] - losses[:-1])
    whole, error = mean_and_error((losses[-1] - losses[0])[None])
    count = losses.shape[1]
    found = (means, errors, differences, theirs, float(whole), float(error))
    return Losses(unit, count, *found)


def mean_and_error(values: Float[Tensor, "n items"]) -> tuple[Tensor, Tensor]:
    """Means over the items, and their standard errors, from the means of 64 runs of neighbours; NaN
    for a single item.
    """
    runs = values.tensor_split(min(RUNS, values.shape[1]), 1)
    sums = torch.stack([run.sum(1) for run in runs], 1)
    counts = torch.tensor([run.shape[1] for run in runs], device="cpu").to(sums)
    mean = values.mean(1)
    number = len(runs)
    if number == 1:
        return mean, torch.full_like(mean, torch.nan)
    off = (sums - counts * mean[:, None]).square().sum(1) * number / (number - 1)
    return mean, off.sqrt() / values.shape[1]

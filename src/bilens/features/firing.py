"""All latents of a dictionary on some texts: how often each fires, how strongly, and on what."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from bilens.base.charts import POSITIVE, curve, titled
from bilens.base.errors import ArgumentError
from bilens.base.keys import OneOf, require
from bilens.base.results import Result
from bilens.base.words import counting
from bilens.features.dictionary import Dictionary
from bilens.features.texts import Tap, Texts, noted, told_of
from bilens.features.words import Leaders, Words, answered, largest, passage, written
from bilens.wiring import Expandable

BEFORE, AFTER = 12, 6  # tokens held around the one that a latent is most active on
STRONGEST = 16  # tokens of strongest firing, by which a latent is told
NAMES = 3
BLOCK = 256  # latents whose outputs are held at once
By = Literal["count", "mean", "largest"]


@dataclass(frozen=True, repr=False, eq=False)
class Firing(Result):
    """How often each latent of a dictionary fires, how strongly, and by which tokens it is told.

    Fields, an entry for each latent (``latents``, in the order in which they are ranked):
        counts: on how many of ``tokens`` it fires.
        means, largest: its mean and largest activation there (absolute values).
        at: the tokens of its 16 strongest firings, each with its share of their activation.
        passages: where it is most active: that token in «», and those around it; "" where never.
        answers, promotes: as ``examples`` has them, from the weights.
        source, note: what the text is called, where it has a name; what is to be said of a
            dictionary that names another model.

    Columns of ``to_frame()``: "latent"; "fires on": the share of tokens; "mean", "largest"; "at",
    "passage", "answers", "writes for".
    """

    place: str
    texts: int
    tokens: int
    by: str
    latents: Int[Tensor, " f"]
    counts: Int[Tensor, " f"]
    means: Float[Tensor, " f"]
    largest: Float[Tensor, " f"]
    at: tuple[Words, ...]
    passages: tuple[str, ...]
    answers: tuple[Words, ...]
    promotes: tuple[Words, ...]
    source: str = ""
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What each latent is called, by its number: "17 ␣time ␣Mom"; the tokens it fires on most
        strongly.
        """
        words = dict(zip(self.latents.tolist(), self.at, strict=True))
        named = (f"{n} {' '.join(words[n].tokens[:2])}" for n in range(len(words)))
        return tuple(map(str.rstrip, named))

    def summary(self) -> str:
        dead = int((self.counts == 0).sum())
        active = float(self.counts.sum()) / max(self.tokens, 1)
        text = told_of(self.tokens, self.source)
        what = f"{counting(len(self.latents), 'latents')} of {self.place} on {text}"
        ranked = f"{active:.3g} fire on each, {dead:,} never; ranked by {self.by}"
        return f"{what}: {ranked}{noted(self.note)}"

    def columns(self) -> tuple[str, ...]:
        return (
            "latent", "fires on", "mean", "largest", "at", "passage", "answers", "writes for",
        )  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        numbers = (self.latents, self.counts, self.means, self.largest)
        words = (self.at, self.passages, self.answers, self.promotes)
        entries = zip(*(each.tolist() for each in numbers), *words, strict=True)
        return [
            {
                "latent": latent,
                "fires on": count / self.tokens,
                "mean": mean,
                "largest": most,
                "at": at.shares(),
                "passage": passage,
                "answers": str(answers),
                "writes for": str(promotes),
            }
            for latent, count, mean, most, at, passage, answers, promotes in entries
        ]

    def figure(self) -> dict[str, Any]:
        alive = self.counts > 0
        names = [name for n, name in enumerate(self.passages) if alive[n]]
        share = (self.counts[alive] / self.tokens).tolist()
        mean = self.means[alive].tolist()
        hover = {
            "latent": self.latents[alive].tolist(),
            "fires on": share,
            "mean": mean,
            "most active": names,
        }
        title = f"latents of {self.place} on {self.tokens:,} tokens"
        axes = ("share of tokens it fires on (logarithmic)", "mean activation there")
        layout = titled(title, *axes, xaxis={"type": "log"})
        points = curve("", share, mean, hover=hover, mode="markers")
        points |= {"marker": {"color": POSITIVE, "opacity": 0.6}}
        return {"data": [points], "layout": layout}


@torch.no_grad()
def firing(
    model: Expandable,
    dictionary: Dictionary,
    texts: Any,
    *,
    by: By = "count",
    at: str | None = None,
) -> Firing:
    """How often each latent of ``dictionary`` fires on ``texts`` (as ``examples`` takes them), how
    strongly, and on what; most often first, or by its "mean" or "largest" activation.

    Memory: some 50 numbers a latent, and one text's latents. Cost: a forward pass as far as the
    place for each text, and for the names those of ``examples``. Errors: those of ``examples``.

    >>> texts = ["Once upon a time there was a little girl."]
    >>> found = bilens.features.firing(model, D, texts, by="largest")
    """
    texts = Texts.of(texts)
    require("by", by, OneOf(get_args(By)), ArgumentError)
    tap = Tap.of(model, dictionary, at)
    seen = _Seen(dictionary.n_latents)
    for ids in texts.ids(tap.model):
        seen.see(ids[0].cpu(), tap.latents(ids).cpu())
    key = {"count": seen.counts, "mean": seen.means, "largest": seen.largest}[by]
    order = key.argsort(descending=True, stable=True)
    chosen = order.tolist()
    active = torch.where(seen.means > 0, seen.means, 1)[order]
    first = torch.tensor(seen.first, device=tap.wiring.readout.device)
    return Firing(
        place=tap.read.name,
        texts=seen.texts,
        tokens=seen.tokens,
        by=by,
        latents=order,
        counts=seen.counts[order],
        means=seen.means[order],
        largest=seen.largest[order],
        at=tuple(seen.told(tap.model, latent) for latent in chosen),
        passages=tuple(seen.passage(tap.model, latent) for latent in chosen),
        answers=tuple(answered(tap, chosen, first, NAMES)),
        promotes=tuple(
            largest(tap.model, scores, NAMES)
            for start in range(0, len(chosen), BLOCK)
            for scores in written(tap, chosen[start : start + BLOCK], active[start : start + BLOCK])
        ),
        source=texts.name,
        note=tap.note,
    )


class _Seen:
    """What is kept of every latent while texts go by."""

    def __init__(self, size: int) -> None:
        self.texts = self.tokens = self.first = 0
        self.counts = torch.zeros(size, dtype=torch.int64, device="cpu")
        self.sums = torch.zeros(size, dtype=torch.float64, device="cpu")
        self.strongest = Leaders.none(size, STRONGEST, self.sums)
        self.windows = torch.full((size, BEFORE + 1 + AFTER), -1, device="cpu")

    @property
    def means(self) -> Float[Tensor, " f"]:
        return self.sums / self.counts.clamp(min=1)

    @property
    def largest(self) -> Float[Tensor, " f"]:
        return self.strongest.values[:, 0].clamp(min=0)

    def see(self, ids: Int[Tensor, " t"], a: Float[Tensor, "t f"]) -> None:
        if not self.texts:
            self.first = int(ids[0])
        self.texts, self.tokens = self.texts + 1, self.tokens + len(ids)
        a = a.abs().double()
        self.counts += (a != 0).sum(0)
        self.sums += a.sum(0)
        largest, places = a.max(0)
        new = (largest > self.largest).nonzero()[:, 0]
        around = pad(ids, (BEFORE, AFTER), value=-1).unfold(0, BEFORE + 1 + AFTER, 1)
        self.windows[new] = around[places[new]]
        top = a.topk(min(STRONGEST, len(a)), dim=0)
        self.strongest = self.strongest.with_(top.values.mT, ids[top.indices].mT)

    def told(self, model: Expandable, latent: int) -> Words:
        """The tokens of its strongest firings."""
        values, tokens = (each[latent] for each in self.strongest)
        mass: dict[int, float] = {}
        for token, value in zip(tokens.tolist(), values.tolist(), strict=True):
            if value > 0:
                mass[token] = mass.get(token, 0.0) + value
        ranked = sorted(mass, key=lambda token: -mass[token])[:NAMES]
        shares = [mass[token] / sum(mass.values()) for token in ranked]
        return Words(tuple(model.output_names(ranked)), torch.tensor(shares, device="cpu"))

    def passage(self, model: Expandable, latent: int) -> str:
        """Where it is most active."""
        window = self.windows[latent]
        if window[BEFORE] < 0:
            return ""
        before = int((window[:BEFORE] >= 0).sum())
        return passage(model.output_names(window[window >= 0]), before)

"""On what text a latent of a dictionary fires, and what the model predicts there without it.

Texts are gone through once, as far as the dictionary's place, and of each latent are kept the k
texts of largest activation, a pool of tokens drawn at random from those it fires on (each gets a
random key, and the largest keys stay), counts, and its activation by token. The few texts that are
shown are then run once more as they are, and once without the latent.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from math import frexp
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.charts import NEGATIVE, POSITIVE, hovered, titled
from bilens.base.errors import ArgumentError
from bilens.base.numerics import require_count, require_seed, seeded
from bilens.base.records import Record
from bilens.base.results import ANSWER_ROWS, Result
from bilens.base.words import counting, isolated, printable
from bilens.features.dictionary import Dictionary
from bilens.features.latents import require_features
from bilens.features.texts import Tap, Texts, noted, told_of
from bilens.features.words import Words, answered, largest, passage, shares, written
from bilens.wiring import Expandable

BEFORE, AFTER = 24, 8  # tokens of an example around the one that it is about
POOL = 16  # tokens drawn at random for each that is shown: their quantiles say which to show
BINS = 64  # of a histogram, at most
NAMES = 5  # tokens that a latent is told by
TOLD = 3  # those of them in one line


@dataclass(frozen=True, repr=False, eq=False)
class Example(Record):
    """A token that a latent fires on, with what stands around it.

    Fields:
        kind: "top": the token of a text at which the latent is most active. "random": drawn from
            all tokens that it fires on.
        text, position: which text, counted from 0 (a text that is longer than the model's context
            is several), and where in it.
        begin: where in the text the tokens that are shown begin.
        tokens, activations: those tokens, and how active the latent is at each.
        next: the token that follows; None at the end of a text.
        p, p_without: the model's probability of that token, as it is and without the latent at any
            token of the text.

    >>> texts = ["Once upon a time there was a little girl."]
    >>> found = bilens.features.examples(model, D, texts, 560, k=1)
    >>> found.latents[0].examples[0].kind
    'top'
    """

    kind: str
    text: int
    position: int
    begin: int
    tokens: tuple[str, ...]
    activations: Float[Tensor, " w"]
    next: str | None
    p: float | None
    p_without: float | None

    @property
    def at(self) -> int:
        """Where among the tokens shown the one is that this is about."""
        return self.position - self.begin

    @property
    def activation(self) -> float:
        """How active the latent is there."""
        return float(self.activations[self.at])

    @property
    def passage(self) -> str:
        """The token in «» and what stands around it, as one short line."""
        return passage(self.tokens, self.at)


@dataclass(frozen=True, repr=False, eq=False)
class InContext(Record):
    """One latent on some texts.

    Fields:
        feature: its number.
        count, mean, largest: on how many tokens it fires, and its mean and largest activation
            there; by absolute value, where activations have signs.
        edges, counts: the histogram of those activations, all of them.
        examples: the top ones, largest first, then the random ones, from large to small: one from
            each of as many equal parts of the activations.
        at, before, after: the tokens that most of its activation falls on, those one before and
            those one after, each with its share of the activation.
        answers: the tokens that it answers most as the second of two, behind the token that the
            first of the texts begins with; its pre-activation there.
        promotes, demotes: the outputs that it writes most for and most against on the straight path
            to the readout, in standard deviations over all outputs. What it adds to what a part
            reads goes through that part first, at its mean activation beside the decoder's bias.

    >>> texts = ["Once upon a time there was a little girl."]
    >>> found = bilens.features.examples(model, D, texts, 560).latents[0]
    >>> found.feature, found.count > 0
    (560, True)
    """

    feature: int
    count: int
    mean: float
    largest: float
    edges: Float[Tensor, " edge"]
    counts: Int[Tensor, " bin"]
    examples: tuple[Example, ...]
    at: Words
    before: Words
    after: Words
    answers: Words
    promotes: Words
    demotes: Words


@dataclass(frozen=True, repr=False, eq=False)
class Examples(Result):
    """On what text latents fire: each in ``latents``, with its examples.

    ``place``: what the dictionary reads. ``changed``: what is changed where a latent is taken out.
    ``tokens``: how many were read, of ``texts`` texts; ``source``: what these are called, where
    they have a name. ``note``: what is to be said of a dictionary that names another model.

    Columns of ``to_frame()``, a row an example: "latent" (where there are several); "kind": "top"
    or "random"; "activation"; "passage": the token in «» and those around it; "next": the token
    that follows; "p" of it and "p without" the latent; "text" and "position": where that is.

    >>> texts = ["Once upon a time there was a little girl."]
    >>> bilens.features.examples(model, D, texts, 560, k=1).tokens
    10
    """

    place: str
    changed: str
    texts: int
    tokens: int
    latents: tuple[InContext, ...]
    source: str = ""
    note: str = ""

    def of(self, feature: int) -> "Examples":
        """One latent alone. Errors: ArgumentError for one that was not asked for."""
        chosen = tuple(latent for latent in self.latents if latent.feature == feature)
        if not chosen:
            known = ", ".join(str(latent.feature) for latent in self.latents)
            raise ArgumentError("feature", must=f"be among {known}", got=repr(feature))
        return replace(self, latents=chosen)

    @property
    def top(self) -> tuple[Example, ...]:
        """The texts of largest activation, latent by latent."""
        return self._kind("top")

    @property
    def random(self) -> tuple[Example, ...]:
        """Those drawn at random."""
        return self._kind("random")

    def summary(self) -> str:
        if len(self.latents) == 1:
            return self._told(self.latents[0])
        silent = [str(latent.feature) for latent in self.latents if not latent.count]
        never = f"; never fired: {', '.join(silent)}" if silent else ""
        text = told_of(self.tokens, self.source)
        what = f"{counting(len(self.latents), 'latents')} of {self.place} on {text}"
        return what + never + noted(self.note)

    def columns(self) -> tuple[str, ...]:
        columns = (
            "kind", "activation", "passage", "next", "p", "p without", "text", "position",
        )  # fmt: skip
        return columns if len(self.latents) == 1 else ("latent", *columns)

    def rows(self) -> list[dict[str, Any]]:
        return [
            self._row(latent, example) for latent in self.latents for example in latent.examples
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The examples of one latent; of several a row each, with its first example."""
        if len(self.latents) == 1:
            return super().answer(count)
        return [self._first(latent) for latent in self.latents[:count]]

    def figure(self) -> dict[str, Any]:
        bars = [_histogram(latent) for latent in self.latents if latent.count]
        title = f"{self._name(self.latents[0])}: {self._share(self.latents[0])}"
        if len(self.latents) > 1:
            title = f"latents of {self.place} on {self.tokens:,} tokens"
        more = {"barmode": "overlay", "bargap": 0, "showlegend": len(bars) > 1}
        axes = ("activation, where it fires", "tokens (logarithmic)")
        layout = titled(title, *axes, yaxis={"type": "log", "dtick": 1}, **more)
        return {"data": bars, "layout": layout}

    def _repr_html_(self) -> str:
        return "".join(self._html(latent) for latent in self.latents)

    def _kind(self, kind: str) -> tuple[Example, ...]:
        every = (example for latent in self.latents for example in latent.examples)
        return tuple(example for example in every if example.kind == kind)

    def _row(self, latent: InContext, example: Example) -> dict[str, Any]:
        which = {} if len(self.latents) == 1 else {"latent": latent.feature}
        return which | {
            "kind": example.kind,
            "activation": example.activation,
            "passage": example.passage,
            "next": example.next or "",
            "p": example.p,
            "p without": example.p_without,
            "text": example.text,
            "position": example.position,
        }

    def _first(self, latent: InContext) -> dict[str, Any]:
        first = latent.examples[0] if latent.count else None
        return {
            "latent": latent.feature,
            "fires on": f"{latent.count / self.tokens:.2%}",
            "largest": latent.largest,
            "at": " ".join(latent.at.tokens[:TOLD]),
            "passage": "never" if first is None else first.passage,
            "answers": str(latent.answers.first(TOLD)),
            "writes for": str(latent.promotes.first(TOLD)),
        }

    def _name(self, latent: InContext) -> str:
        return f"latent {latent.feature} of {self.place}"

    def _share(self, latent: InContext) -> str:
        text = told_of(self.tokens, self.source)
        if not latent.count:
            return f"never fired in {text}"
        return f"fires on {latent.count / self.tokens:.2%} of {text}"

    def _told(self, latent: InContext) -> str:
        begun = f"{self._name(latent)} {self._share(latent)}"
        answers, promotes = (words.first(TOLD) for words in (latent.answers, latent.promotes))
        weights = f"by weights it answers {answers} and writes for {promotes}{noted(self.note)}"
        if not latent.count:
            return f"{begun}; {weights}"
        return f"{begun}, at {latent.at.first(TOLD).shares()}; {_effect(latent)}; {weights}"

    def _html(self, latent: InContext) -> str:
        head = f"<p><b>{isolated(self._name(latent))}</b> {isolated(self._share(latent))}"
        lines = "".join(f"<li>{isolated(line)}</li>" for line in self._facts(latent))
        return f"{head}</p><ul>{lines}</ul>{_bars(latent)}{_lines(latent)}"

    def _facts(self, latent: InContext) -> list[str]:
        weights = [
            f"by weights: answers {latent.answers}",
            f"by weights: writes for {latent.promotes}; against {latent.demotes}",
        ]
        if not latent.count:
            return weights
        return [
            f"at {latent.at.shares()}",
            f"after {latent.before.shares()}",
            f"before {latent.after.shares()}",
            *weights,
            f"mean {latent.mean:.3g}, largest {latent.largest:.3g}; {_effect(latent)}",
            f"without it: taken off {self.changed}",
        ]


class _Firing(NamedTuple):
    """A token that a latent fires on. The largest ``key`` stays, and of equals the first text."""

    key: float
    before: int  # −text
    position: int
    value: float
    ids: Tensor

    @property
    def text(self) -> int:
        return -self.before

    @property
    def passage(self) -> tuple[int, ...]:
        """The tokens up to it that are shown."""
        return tuple(self.ids[max(0, self.position - BEFORE) : self.position + 1].tolist())


class _Histogram:
    """Counts of positive numbers in at most ``BINS`` equal bins from 0 to a power of two, which
    doubles where it is reached: the same whatever the order.
    """

    def __init__(self) -> None:
        self.counts, self.limit = torch.zeros(BINS, dtype=torch.int64, device="cpu"), 0.0

    def add(self, values: Float[Tensor, " n"]) -> None:
        highest = float(values.max())
        if not self.limit:
            self.limit = 2.0 ** (frexp(highest)[1] - 1)
        while highest >= self.limit:
            halves = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat([halves, torch.zeros_like(halves)])
            self.limit *= 2
        places = (values.double() / self.limit * BINS).long()
        self.counts += torch.bincount(places, minlength=BINS)

    @property
    def filled(self) -> tuple[Float[Tensor, " edge"], Int[Tensor, " bin"]]:
        """Edges and counts, as far as there are any."""
        used = int(self.counts.nonzero().max()) + 1 if self.limit else 0
        return torch.arange(used + 1, device="cpu").double() * self.limit / BINS, self.counts[:used]


class _Seen:
    """What is kept of one latent while texts go by."""

    def __init__(self, feature: int, k: int, seed: int, vocabulary: int) -> None:
        self.feature, self.k, self.count, self.total = feature, k, 0, 0.0
        self.top: list[_Firing] = []
        self.pool: list[_Firing] = []
        self.histogram = _Histogram()
        self.generator = seeded(seed + feature)
        self.mass = torch.zeros(
            3, vocabulary, dtype=torch.float64, device="cpu"
        )  # before, at, after

    def see(self, text: int, ids: Int[Tensor, " t"], a: Float[Tensor, " t"]) -> None:
        fired = a.nonzero()[:, 0]
        if not len(fired):
            return
        values = a[fired].abs()
        self.count += len(fired)
        self.total += float(values.double().sum())
        self.histogram.add(values)
        for step in range(-1, 2):
            there = (fired + step >= 0) & (fired + step < len(ids))
            tokens = ids[fired[there] + step]
            self.mass[step + 1].index_add_(0, tokens, values[there].double())
        at = int(fired[values.argmax()])
        best = _Firing(float(a[at].abs()), -text, at, float(a[at]), ids)
        _keep(self.top, self.k, best)
        keys = torch.rand(len(fired), generator=self.generator, dtype=torch.float64, device="cpu")
        for n, key in enumerate(keys.tolist()):
            at = int(fired[n])
            _push(self.pool, self.k * POOL, _Firing(key, -text, at, float(a[at]), ids))

    def chosen(self) -> list[tuple[str, _Firing]]:
        """The top ones, largest first; then of each of k equal parts of the pool, by activation,
        one at random, and no passage twice.
        """
        pool = sorted(self.pool, key=lambda firing: -abs(firing.value))
        size = min(self.k, len(pool))
        random: dict[tuple[int, ...], _Firing] = {}
        for n in range(size):
            part = pool[len(pool) * n // size : len(pool) * (n + 1) // size]
            new = [firing for firing in part if firing.passage not in random]
            random |= {firing.passage: firing for firing in sorted(new, reverse=True)[:1]}
        top = sorted(self.top, reverse=True)
        return [("top", one) for one in top] + [("random", one) for one in random.values()]


def _keep(heap: list[_Firing], size: int, firing: _Firing) -> None:
    """Hold the ``size`` largest of all that come, and of one passage the largest."""
    full = len(heap) == size
    if full and firing < heap[0]:
        return
    same = [n for n, one in enumerate(heap) if one.passage == firing.passage]
    if not same:
        _push(heap, size, firing)
    elif heap[same[0]] < firing:
        heap[same[0]] = firing
        heapq.heapify(heap)


def _push(heap: list[_Firing], size: int, firing: _Firing) -> None:
    """Hold the ``size`` largest of all that come."""
    if len(heap) < size:
        heapq.heappush(heap, firing)
    else:
        heapq.heappushpop(heap, firing)


@torch.no_grad()
def examples(
    model: Expandable,
    dictionary: Dictionary,
    texts: Any,
    feature: int | Sequence[int] | Int[Tensor, " n"],
    *,
    k: int = 10,
    at: str | None = None,
    seed: int = 0,
) -> Examples:
    """On what text a latent of ``dictionary`` fires, or several, and what ``model`` predicts there
    without it.

    ``texts``: strings, Prompts or token ids, any number of them; the name of a text, as ``--data``
    takes it ("topics", a file, a folder, a dataset), of which the held-out documents are read; or
    ``Texts(…, tokens=100_000)``, which says how much. ``k``: how many examples: the texts of
    largest activation, and as many tokens drawn at random (by ``seed``) from all that it fires on,
    one from each of k equal parts of its activations. ``at``: the place that the dictionary reads,
    where it does not name it: "mlp1.input".

    Without a latent: a_t w, its activation times its decoder row, is taken off what passes the
    dictionary's place at every token of the text, and all that comes after reacts; what the
    dictionary misses of x stays. At "mlp1.output" that is the stream after the layer; at
    "mlp1.input" what this layer alone reads, after its norm, and the stream beside it stays; of a
    transcoder it is what the layer writes.

    A latent that never fires has no examples, and is told by its weights alone. Memory: k examples
    (and 16 k tokens of the pool) a latent with their texts, and one text's latents, t × f. Cost: a
    forward pass as far as the place for each text, and two for each that is shown. Errors:
    ArgumentError for a latent, a place or texts that are not there; ShapeError for a dictionary of
    another width; NotFiniteError.

    >>> model = bilens.load("tinystories-2l")
    >>> D = bilens.features.Dictionary.load("tinystories-2l/mlp1.input")
    >>> texts = ["Once upon a time there was a little girl."]
    >>> bilens.features.examples(model, D, texts, 560).tokens
    10
    """
    require_count("k", k)
    require_seed("seed", seed)
    tap, texts = Tap.of(model, dictionary, at), Texts.of(texts)
    chosen = require_features(feature, dictionary.n_latents)
    vocabulary = len(tap.wiring.readout)
    seen = [_Seen(latent, k, seed, vocabulary) for latent in chosen]
    first, number, tokens = torch.tensor(0, device="cpu"), 0, 0
    for number, ids in enumerate(texts.ids(tap.model), 1):
        first = ids[0, 0] if number == 1 else first
        text, a = ids[0].cpu(), tap.latents(ids).cpu()
        tokens += len(a)
        for one in seen:
            one.see(number - 1, text, a[:, one.feature])
    answers = answered(tap, chosen, first, NAMES)
    latents = tuple(_in_context(tap, *each) for each in zip(seen, answers, strict=True))
    place, note = tap.read.name, tap.note
    return Examples(place, tap.changed, number, tokens, latents, texts.name, note)


def _in_context(tap: Tap, seen: _Seen, answers: Words) -> InContext:
    mean = seen.total / seen.count if seen.count else 0.0
    (scores,) = written(
        tap, [seen.feature], torch.tensor([mean or 1.0], dtype=torch.float64, device="cpu")
    )
    before, at, after = (shares(tap.model, mass, NAMES) for mass in seen.mass)
    edges, counts = seen.histogram.filled
    return InContext(
        feature=seen.feature,
        count=seen.count,
        mean=mean,
        largest=max((firing.key for firing in seen.top), default=0.0),
        edges=edges,
        counts=counts,
        examples=_shown(tap, seen.feature, seen.chosen()),
        at=at,
        before=before,
        after=after,
        answers=answers,
        promotes=largest(tap.model, scores, NAMES),
        demotes=largest(tap.model, -scores, NAMES),
    )


def _shown(tap: Tap, feature: int, chosen: Sequence[tuple[str, _Firing]]) -> tuple[Example, ...]:
    """What is chosen, with the model's probabilities: two passes for each text, however many of its
    tokens are shown.
    """
    texts: dict[int, list[int]] = {}
    for n, (_, firing) in enumerate(chosen):
        texts.setdefault(firing.text, []).append(n)
    made: dict[int, Example] = {}
    for numbers in texts.values():
        ids = chosen[numbers[0]][1].ids[None].to(tap.wiring.readout.device)
        outputs, latents = tap.outputs(ids)
        passes = (outputs, tap.without(ids, feature))
        for n in numbers:
            made[n] = _example(tap.model, *chosen[n], latents[:, feature].cpu(), passes)
    return tuple(made[n] for n in range(len(chosen)))


def _example(
    model: Expandable,
    kind: str,
    firing: _Firing,
    activations: Float[Tensor, " t"],
    passes: tuple[Float[Tensor, "t out"], Float[Tensor, "t out"]],
) -> Example:
    at = firing.position
    begin = max(0, at - BEFORE)
    shown = slice(begin, at + AFTER + 1)
    last = at + 1 == len(activations)
    following = None if last else int(firing.ids[at + 1])
    p, without = (_probability(outputs[at], following) for outputs in passes)
    return Example(
        kind=kind,
        text=firing.text,
        position=at,
        begin=begin,
        tokens=tuple(model.input_names(firing.ids[None, shown])),
        activations=activations[shown],
        next=None if following is None else model.output_names([following])[0],
        p=p,
        p_without=without,
    )


def _probability(logits: Float[Tensor, " out"], token: int | None) -> float | None:
    return None if token is None else float(logits.double().softmax(-1)[token])


def _effect(latent: InContext) -> str:
    """What p of the next token is with and without it, in the geometric mean over the top
    examples.
    """
    pairs = [(one.p, one.p_without) for one in latent.examples if one.kind == "top"]
    known = torch.tensor(
        [pair for pair in pairs if None not in pair], dtype=torch.float64, device="cpu"
    )
    if not len(known):
        return "no token follows its top examples"
    p, without = known.clamp(min=1e-300).log().mean(0).exp().tolist()
    where = f"in its top {len(known)} texts" if len(known) > 1 else "in its top text"
    return f"p of the next token {where} {p:.3g}, without it {without:.3g}"


def _histogram(latent: InContext) -> dict[str, Any]:
    low, high = latent.edges[:-1], latent.edges[1:]
    bins = [f"{a:.3g} to {b:.3g}" for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    bars = {
        "type": "bar",
        "name": f"latent {latent.feature}",
        "x": ((low + high) / 2).tolist(),
        "y": latent.counts.tolist(),
        "width": (high - low).tolist(),
        "opacity": 0.8,
    }
    return bars | hovered({"activation": bins, "tokens": latent.counts.tolist()})


BAR = "display:inline-block;width:5px;margin-right:1px;vertical-align:bottom"


def _bars(latent: InContext) -> str:
    """The histogram as a few small bars, in logarithms."""
    if not latent.count:
        return ""
    heights = latent.counts.double().log1p()
    heights = (40 * heights / heights.max()).tolist()
    bars = "".join(
        f'<span style="{BAR};height:{height:.0f}px;background:{POSITIVE}"></span>'
        for height in heights
    )
    label = f"tokens (in logarithms) by activation, 0 to {float(latent.edges[-1]):.3g}"
    return f'<p><span style="line-height:0">{bars}</span> {label}</p>'


def _lines(latent: InContext) -> str:
    head = "<tr><th>kind</th><th>activation</th><th>text</th><th>next</th><th>p</th>"
    rows = "".join(_line(example, latent.largest) for example in latent.examples)
    return f"<table>{head}<th>without it</th></tr>{rows}</table>" if rows else ""


def _line(example: Example, largest: float) -> str:
    tokens = "".join(
        _token(name, activation, largest, n == example.at)
        for n, (name, activation) in enumerate(
            zip(example.tokens, example.activations.tolist(), strict=True)
        )
    )
    p, without = ("" if one is None else f"{one:.3g}" for one in (example.p, example.p_without))
    following = isolated(example.next or "")
    return (
        f"<tr><td>{example.kind}</td><td>{example.activation:.3g}</td>"
        f'<td style="text-align:left">{tokens}</td>'
        f"<td>{following}</td><td>{p}</td><td>{without}</td></tr>"
    )


def _token(name: str, activation: float, largest: float, marked: bool) -> str:
    """A token on blue as strong as the latent is active on it, orange where it is negative."""
    share = min(1.0, abs(activation) / largest) if largest else 0.0
    colour = POSITIVE if activation > 0 else NEGATIVE
    style = f"background:{colour}{round(200 * share):02x}" if share else ""
    style += ";border-bottom:2px solid" if marked else ""
    return f'<span title="{activation:.3g}" style="{style}">{escape(printable(name))}</span><wbr>'

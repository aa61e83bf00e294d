"""The latents of each dictionary: how often they fire and on what; of the strongest, or of those
that were asked for, their texts, the spectrum of the layer that writes them, and the pairs that
make them.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from bilens import features
from bilens.features import Dictionary, Example, Examples, Firing, InContext, Texts, Words
from bilens.models import Transformer
from bilens.report.layers import tensor_layers
from bilens.report.packing import rounded
from bilens.report.page import result
from bilens.report.view import Block, Query, View, is_language_model, loaded, sentence
from bilens.report.views.spectra import SHOWN, Told, layer_section
from bilens.wiring import short_name

CARDS = 4  # latents with their texts
EACH = 8  # examples of one
TOKENS = 20_000
DIGITS = 3  # of activations
SHARE, DEVIATIONS = "share of its activation", "standard deviations over all outputs"
SPECTRUM = (
    "What this layer writes for {of}, before its activation function and without its bias: xᵀ Q x "
    "of what it reads. An eigenvector of positive λ adds whichever way the stream lies along it, "
    "one of negative λ takes away. {said}"
)
NONE = (
    "No dictionary was given. bilens report MODEL --dictionary FOLDER --data TEXT shows how often "
    "each latent fires and on what, the text that it fires on, and the pairs that make it."
)


class _Shown:
    """One dictionary on a text; what several parts of the page need is computed once."""

    def __init__(self, model: Transformer, query: Query, number: int, title: str) -> None:
        self.model, self.query = model, query
        self.coder, self.title = query.dictionaries[number], title
        self.asked = tuple(dict.fromkeys(query.features)) if number == 0 else ()
        named = query.named[number] if query.named else ""
        self.loaded = f"bilens.features.Dictionary.load({named!r})" if named else "dictionary"

    @property
    def texts(self) -> Texts:
        return Texts(self.query.source, TOKENS)

    @cached_property
    def firing(self) -> Firing:
        return features.firing(self.model, self.coder, self.texts)

    @cached_property
    def examples(self) -> Examples:
        """The latents that were asked for, or fire most strongly, with their texts."""
        order = self.firing.largest.argsort(descending=True)[:CARDS]
        latents = list(self.asked) or self.firing.latents[order].tolist()
        return features.examples(self.model, self.coder, self.texts, latents, k=EACH)

    @property
    def cards(self) -> list[str]:
        """What each of these is called."""
        return [f"latent {n}" for n in self.asked] or [f"no. {n + 1}" for n in range(CARDS)]

    @property
    def _given(self) -> str:
        """What the room is asked with, in a line of Python."""
        texts = f"bilens.features.Texts({self.query.source!r}, {TOKENS})"
        return f"{loaded(self.query)}, {self.loaded}, {texts}"

    def ranking(self) -> dict[str, Any]:
        found = self.firing
        text = f"A point for each latent that fires. {sentence(found.summary())}"
        python = f"bilens.features.firing({self._given})"
        return result(found, text, f"Latents of {self.coder.hook}", python)

    def card(self, n: int) -> dict[str, Any]:
        """The n-th latent: on what it fires, and the next token with and without it."""
        latent = self.examples.latents[n]
        found = self.examples.of(latent.feature)
        spoken = f"Activations of latent {latent.feature}"
        python = f"bilens.features.examples({self._given}, {latent.feature}, k={EACH})"
        drawn = result(found, sentence(found.summary()), spoken, python)
        return drawn | {
            "largest": latent.largest,
            "words": [_words(*one) for one in _said(latent)],
            "examples": [_example(one) for one in latent.examples],
        }

    def spectrum(self, n: int) -> dict[str, Any]:
        """What the layer looks for to make the n-th latent of what it writes."""
        model, name = self.query.exact(self.model), _layer(self.coder)
        latent = self.examples.latents[n].feature
        tensor = f"{loaded(self.query)}.wiring().layers[{name!r}].module.tensor()"
        row = f"{self.loaded}.reads[{latent}][None]"
        python = f"bilens.decompose.eigen({tensor}, {row}, k={SHOWN})"
        told = Told(f"latent {latent}", SPECTRUM, python)
        return layer_section(model, name, self.coder.reads[latent].detach(), told)

    def pairs(self, reader: "_Shown", n: int) -> dict[str, Any]:
        """Which latents of what the layer reads make the n-th latent of what it writes."""
        module: Any = self.model.wiring().layers[_layer(reader.coder)].module
        latent = self.examples.latents[n].feature
        T = module.tensor().detach()
        coders = (one.coder.beside(T) for one in (self, reader))
        forms = features.interactions(T, *coders, in_names=reader.firing.names)
        found = forms.of(latent).top(20)
        text = f"Which pairs make latent {latent}, by weights. {sentence(found.summary())}"
        return result(found, text, f"Pairs that make latent {latent}")


def _build(model: Transformer, query: Query) -> list[Block]:
    if not query.dictionaries:
        return [Block("missing", "Features", lambda: {"text": NONE})]
    every = [_Shown(model, query, n, title) for n, title in enumerate(_titles(query))]
    return [block for shown in every for block in _of(shown, every)]


def _titles(query: Query) -> list[str]:
    """What each dictionary is called: by its place, and where several are of one place, by its name
    or its number too.
    """
    places = [short_name(coder.hook) for coder in query.dictionaries]
    named = query.named or tuple(f"no. {n + 1} of those given" for n in range(len(places)))
    return [
        place if places.count(place) == 1 else f"{place} ({name})"
        for place, name in zip(places, named, strict=True)
    ]


def _of(shown: _Shown, every: Sequence[_Shown]) -> list[Block]:
    called, writes = shown.title, short_name(shown.coder.hook).endswith(".output")
    layer = _layer(shown.coder)
    blocks = [Block("chart", f"Features of {called}", shown.ranking)]
    for n, card in enumerate(shown.cards):
        blocks.append(Block("feature", f"Features of {called}: {card}", partial(shown.card, n)))
        if writes and layer in tensor_layers(shown.model):
            title = f"Spectrum of {card} of {called}"
            blocks.append(Block("layer", title, partial(shown.spectrum, n)))
        for reader in every if writes else ():
            reads = short_name(reader.coder.hook)
            if reads == f"{layer}.input" and _multiplied(shown.coder, reader.coder):
                among = f" in {reader.title}" if reader.title != reads else ""
                title = f"What makes {card} of {called}{among}"
                blocks.append(Block("chart", title, partial(shown.pairs, reader, n)))
    return blocks


def _multiplied(coder: Dictionary, reader: Dictionary) -> bool:
    """Whether a latent of ``coder`` is a sum over pairs of what ``reader`` writes: ``interactions``
    takes them.
    """
    plain = coder.normalisation == reader.normalisation == "none" and coder.pursuit is None
    return plain and "transcoder" not in reader.architecture


def _said(latent: InContext) -> list[tuple[str, str, Words]]:
    """What is told of a latent in tokens: its name, what the numbers are, and these."""
    return [
        ("fires at", SHARE, latent.at),
        ("one before", SHARE, latent.before),
        ("one after", SHARE, latent.after),
        ("answers", "pre-activation", latent.answers),
        ("writes for", DEVIATIONS, latent.promotes),
        ("writes against", DEVIATIONS, latent.demotes),
    ]


def _words(name: str, unit: str, words: Words) -> dict[str, Any]:
    values = [rounded(value, DIGITS) for value in words.values.tolist()]
    return {"name": name, "unit": unit, "tokens": list(words.tokens), "values": values}


def _example(one: Example) -> dict[str, Any]:
    """A passage: its tokens with their activations, and what p of the token that follows is."""
    return {
        "kind": one.kind,
        "text": one.text,
        "position": one.position,
        "tokens": list(one.tokens),
        "activations": [rounded(value, DIGITS) for value in one.activations.tolist()],
        "at": one.at,
        "next": one.next,
        "p": one.p,
        "p_without": one.p_without,
    }


def _layer(coder: Dictionary) -> str:
    return short_name(coder.hook).rpartition(".")[0]


VIEW = View("features", is_language_model, _build)

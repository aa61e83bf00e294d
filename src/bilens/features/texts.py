"""Texts, one after another, run through a model as far as the place that a dictionary reads."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.documents import pieces, split_documents
from bilens.base.errors import ArgumentError, FileError
from bilens.base.numerics import require_count, working_dtype
from bilens.base.progress import Progress, require_progress
from bilens.features.dictionary import ELSEWHERE, Dictionary
from bilens.features.saelens import is_transcoder
from bilens.wiring import (
    Expandable,
    Place,
    Prompt,
    Reader,
    Wiring,
    Worded,
    eager,
    find_place,
    hooked,
    known_place,
    require_expandable,
)

NUMBERS = 2**26  # latents that are held at once: 256 MiB in float32


@dataclass(frozen=True, eq=False)
class Texts:
    """What text is read, and how much of it.

    source: strings, ``Prompt``s, token ids (t,) or (b, t), or what a tokenizer returns: a list or
    any other iterable of them, which is gone through once. Or the name of a text, as ``--data``
    takes it ("topics", a file, a folder, a Hugging Face dataset): its held-out documents.
    tokens: how many are read at most; None: all.
    progress: told of the tokens read so far, of ``tokens``, or of the texts where they are counted.

    >>> texts = bilens.features.Texts(["Once upon a time"], tokens=1000)
    >>> texts.tokens
    1000
    """

    source: Any
    tokens: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None:
            require_count("Texts.tokens", self.tokens)
        require_progress("Texts.progress", self.progress)

    @classmethod
    def of(cls, texts: Any) -> "Texts":
        """``texts`` itself, or all of them."""
        return texts if isinstance(texts, Texts) else cls(texts)

    @property
    def name(self) -> str:
        """What the source is called, where it is one that has a name."""
        return str(self.source) if isinstance(self.source, str | Path) else ""

    def ids(self, model: Expandable) -> Iterator[Int[Tensor, "1 _"]]:
        """The token ids of each text, cut where the model's context ends. Errors: ArgumentError
        where there are none, and for one that cannot be read, by its number.
        """
        read = 0
        for number, text in enumerate(_each(self.source)):
            for ids in _contexts(model, text, number):
                ids = ids if self.tokens is None else ids[:, : self.tokens - read]
                read += ids.shape[1]
                yield ids
                if read == self.tokens:
                    self._tell(number + 1, read)
                    return
            self._tell(number + 1, read)
        if not read:
            raise ArgumentError("texts", must="hold at least one text", got="none")

    def _tell(self, count: int, read: int) -> None:
        if self.progress is None:
            return
        if self.tokens is not None:
            self.progress(read, self.tokens, what="tokens")
        elif isinstance(self.source, Sized):
            self.progress(count, len(self.source), what="texts")


def told_of(tokens: int, source: str) -> str:
    """How much text was read, and what it is called."""
    return f"{tokens:,} tokens" + (f" of {source}" if source else "")


def noted(note: str) -> str:
    """What is added to a summary where there is something to be said of what was asked."""
    return f"; {note}" if note else ""


def _each(source: Any) -> Iterator[Any]:
    """The texts of a source, one by one."""
    match source:
        case str() | Path():
            yield from _documents(str(source))
        case Prompt():
            yield source
        case Tensor() | Mapping():
            yield from _rows(source)
        case Iterable():
            for text in source:
                yield from _rows(text)
        case _:
            must = "be a list of texts, or the name of a source of them"
            raise ArgumentError("texts", must=must, got=type(source).__name__)


def _documents(source: str) -> Iterator[str]:
    try:
        documents = split_documents(source).valid
    except FileError as error:
        todo = error.todo or "To read this very text, give it in a list: [text]."
        raise FileError(error.who, must=error.must, got=error.got, todo=todo) from error
    for document in documents:
        yield from pieces(document)


def _rows(text: Any) -> Iterator[Any]:
    """A batch of texts row by row; a single one as it is."""
    ids = text.get("input_ids") if isinstance(text, Mapping) else text
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        yield text
    elif ids is text:
        yield from ids
    else:
        for n in range(len(ids)):
            yield {key: value[n] for key, value in text.items()}


def _contexts(model: Expandable, text: Any, number: int) -> list[Int[Tensor, "1 _"]]:
    who = f"texts[{number}]"
    words = text.text if isinstance(text, Prompt) else text
    if isinstance(words, str) and not words:
        raise ArgumentError(who, must="hold at least one token", got="an empty text")
    try:
        return model.contexts(text) if isinstance(model, Reader) else [model.read(text)]
    except ArgumentError as error:
        raise type(error)(
            f"{who}: {error.who}", must=error.must, got=error.got, todo=error.todo
        ) from error


class _HeardError(Exception):
    """A pass has come as far as it was asked for."""


@dataclass(frozen=True, eq=False)
class Tap:
    """A dictionary at its place in a model: what its latents are on a text, and what the model says
    without one of them.
    """

    model: Expandable
    dictionary: Dictionary
    wiring: Wiring
    read: Place
    write: Place

    @classmethod
    def of(cls, model: Expandable, dictionary: Dictionary, at: str | None = None) -> "Tap":
        """The dictionary at the place ``at``, or at the one that it names.

        Errors: ArgumentError for a model that reads no text, for a place that is not there or not
        the dictionary's, and for a transcoder to a place before it; ShapeError for a dictionary of
        another width.
        """
        require_expandable(model)
        if not isinstance(model, Worded):
            must = "be a language model"
            raise ArgumentError("model", must=must, got=type(model).__name__)
        if not isinstance(dictionary, Dictionary):
            must, got = "be a Dictionary", type(dictionary).__name__
            raise ArgumentError("dictionary", must=must, got=got)
        model = eager(model)
        wiring = model.wiring()
        read = _read_place(dictionary, at, wiring)
        write = _write_place(dictionary, read, wiring)
        if (write.part, write.side == "output") < (read.part, read.side == "output"):
            must, got = (
                "write no place before the one that it reads",
                f"{read.name} to {write.name}",
            )
            raise ArgumentError("dictionary", must=must, got=got)
        width = wiring.readout.shape[1]
        for side in ("input", "output"):
            dictionary.require_fits("dictionary", width=width, side=side)
        like = wiring.readout
        dictionary = dictionary.to(like.device, working_dtype(like.dtype))
        return cls(model, dictionary, wiring, read, write)

    @property
    def note(self) -> str:
        """What to say of a dictionary that names another model."""
        return self.dictionary.stranger_to(self.model)

    @property
    def changed(self) -> str:
        """What changes where a latent is taken out, in words."""
        name = self.wiring.parts[self.write.part].name
        if self.write.side == "output":
            return f"what {name} writes, and with it all that reads the stream after it"
        return f"what {name} reads, after its norm; the stream beside it stays"

    def latents(self, ids: Int[Tensor, "1 t"]) -> Float[Tensor, "t f"]:
        """How active each latent is at each token."""
        return self._encoded(self.heard(ids))

    def heard(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "n d"]:
        """What the place holds at each token, text after text, half types in float32. The pass ends
        there.
        """
        rows = self._heard(ids)
        if len(rows) != ids.numel():  # a model that reads one text at a time
            rows = torch.cat([self._heard(text[None]) for text in ids])
        return rows

    def _heard(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "_ d"]:
        kept: list[Tensor] = []

        def stop(x: Tensor) -> None:
            kept.append(x)
            raise _HeardError

        with hooked(self._module(self.read), self.read.side, stop), suppress(_HeardError):
            self.model.outputs(ids)
        if not kept:
            must, got = "call the modules that its wiring names", f"no call of {self.read.name}"
            raise ArgumentError("the model's forward pass", must=must, got=got)
        return self._rows(kept[0])

    def outputs(self, ids: Int[Tensor, "1 t"]) -> tuple[Float[Tensor, "t out"], Tensor]:
        """The model's own outputs, and the latents (t, f) of the same pass."""
        kept: list[Tensor] = []
        with hooked(self._module(self.read), self.read.side, kept.append):
            outputs = self.model.outputs(ids)
        return outputs, self._encoded(self._rows(kept[0]))

    def without(self, ids: Int[Tensor, "1 t"], latent: int) -> Float[Tensor, "t out"]:
        """The outputs where a_t w, what the latent writes at each token t, is taken off what passes
        the place, and everything after it reacts. What the dictionary misses stays.
        """
        contribution: list[Tensor] = []

        def hear(x: Tensor) -> None:
            contribution.append(self._contribution(self._rows(x), latent))

        def less(x: Tensor) -> Tensor:
            if self.read == self.write:
                hear(x)
            return (x - contribution.pop().view(x.shape)).to(x)

        with ExitStack() as stack:
            if self.read != self.write:
                stack.enter_context(hooked(self._module(self.read), self.read.side, hear))
            stack.enter_context(hooked(self._module(self.write), self.write.side, less))
            return self.model.outputs(ids)

    def _contribution(self, rows: Float[Tensor, "t d"], latent: int) -> Float[Tensor, "t d"]:
        """What the latent adds to what is decoded, its normalisation undone."""
        coder = self.dictionary
        written = self._encoded(rows)[:, latent, None] * coder.writes[latent]
        return written if is_transcoder(coder.architecture) else written * coder.normed(rows).factor

    def _encoded(self, rows: Float[Tensor, "t d"]) -> Float[Tensor, "t f"]:
        count = max(1, NUMBERS // self.dictionary.n_latents)
        return torch.cat([self.dictionary.encode(block) for block in rows.split(count)])

    def _rows(self, x: Tensor) -> Float[Tensor, "t d"]:
        """What was heard, half types in float32, which rounds nothing."""
        rows = x.detach().reshape(-1, x.shape[-1])
        return rows.to(working_dtype(rows.dtype))

    def _module(self, place: Place) -> Any:
        return self.wiring.parts[place.part].passes(place.side)


def _read_place(dictionary: Dictionary, at: str | None, wiring: Wiring) -> Place:
    """Where the dictionary reads: ``at``, or the place that it names itself."""
    hook, own = dictionary.hook, known_place(dictionary.hook, wiring.parts)
    if at is None:
        if own is not None:
            return own
        must = f"name a place of the model that it reads, {wiring.parts[-1].name}.input say"
        raise ArgumentError("dictionary.hook", must=must, got=repr(hook), todo="Give it as at=.")
    given = find_place(at, wiring.parts)
    if own is not None and own != given:
        must = f"be {own.name}, the place of the dictionary"
        raise ArgumentError("at", must=must, got=given.name, todo=ELSEWHERE)
    return given


def _write_place(dictionary: Dictionary, read: Place, wiring: Wiring) -> Place:
    """Where it writes: what it reads, or of a transcoder what the layer that reads it writes."""
    if not is_transcoder(dictionary.architecture):
        return read
    layer = wiring.parts[read.part].name
    own = known_place(dictionary.hook_out, wiring.parts)
    return own or find_place(f"{layer}.output", wiring.parts)

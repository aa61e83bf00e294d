"""What circuits need of a model: what it writes first, its parts in order, and its readout.

A model says how it is wired and circuits do the rest, so that a classifier expands as a transformer
does. In a residual stream every part reads the sum of all earlier writes; without one it reads what
the part before it wrote, alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from bilens.base.errors import ArgumentError
from bilens.nn import Norm, soft_cap
from bilens.wiring.kinds import Form, Leg, Source
from bilens.wiring.parts import Part


@dataclass(frozen=True)
class Prompt:
    """A text, and whether the tokenizer puts its own special tokens around it: what
    ``tokenizer(text)`` does.

    A plain string is read with them, as people run a model; ``Prompt(text, special_tokens=False)``
    is read without.

    >>> given = bilens.circuits.Prompt(prompt, special_tokens=False)
    >>> bilens.expand(model, given, target, max_terms=10).prompt[:4]
    'Once'
    """

    text: str
    special_tokens: bool = True


@dataclass(frozen=True, eq=False)
class Wiring:
    """How a model is put together. ``readout`` (out, d) and ``readout_bias`` make the outputs of
    what ``norm`` reads, and where there is a ``soft_cap`` c, c tanh(z/c) of each output z.
    ``times``: how many times the sum of what is written so far a model's own stream is, before all
    parts and after each of them; once where it is empty.

    >>> wiring = model.wiring()
    >>> wiring.readout.shape, len(wiring.parts)
    (torch.Size([1024, 128]), 4)
    """

    leaves: tuple[Source, ...]  # what is written first: "embed", "pos", …
    parts: tuple[Part, ...]
    norm: Norm
    readout: Float[Tensor, "out d"]
    readout_bias: Float[Tensor, " out"] | None = None
    accumulates: bool = True  # a residual stream
    soft_cap: float | None = None
    times: tuple[float | Tensor, ...] = ()

    def outputs(self, stream: Float[Tensor, "*b d"]) -> Float[Tensor, "*b out"]:
        """What the readout makes of the stream after the last part."""
        before = self.before_cap(stream)
        return before if self.soft_cap is None else soft_cap(before, self.soft_cap)

    def before_cap(self, stream: Float[Tensor, "*b d"]) -> Float[Tensor, "*b out"]:
        """The same before the soft-cap."""
        return linear(self.norm(stream), self.readout, self.readout_bias)

    def ending(self, place: int, stream: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The sum of what is written by a place, 0 before all parts, as the readout reads it where
        the model ends there: of the size that its own stream has.
        """
        return stream * (self.times[place] / self.times[-1]) if self.times else stream

    @cached_property
    def places(self) -> dict[str, int]:
        """The places of its parts, by name."""
        return {part.name: n for n, part in enumerate(self.parts)}

    def reader(self, part: int, leg: Leg) -> int:
        """The part whose reading a leg of part ``part`` has: that one, or the one it is ``of``."""
        return self.places[leg.of] if leg.of else part

    def over_stream(self, part: int, form: Form) -> Form:
        """A form of part ``part`` over the stream, behind the norms that its legs read through,
        their scales and all constants apart.
        """

        def linear(leg: Leg) -> Tensor:
            return self.parts[self.reader(part, leg)].norm.transposed(leg.weight)

        return form.behind(linear)

    @property
    def layers(self) -> dict[str, Part]:
        """Whatever has hidden units, by name: MLPs, and experts one by one ("mlp1.expert3")."""
        single = chain.from_iterable(part.experts or (part,) for part in self.parts)
        return {part.name: part for part in single if part.hidden() is not None}


@runtime_checkable
class Expandable(Protocol):
    """A model whose outputs can be written as sums of paths.

    >>> isinstance(model, bilens.wiring.Expandable)
    True
    """

    def wiring(self) -> Wiring:
        """Its parts, in the order in which they write."""
        ...

    def read(self, inputs: Any) -> Tensor:
        """What a person passes, as the model takes it: token ids (1, t), or one image (1, i).
        Errors say what is wrong.
        """
        ...

    def leaves(self, inputs: Tensor) -> dict[str, Float[Tensor, "t d"]]:
        """What ``wiring().leaves`` write for ``inputs`` (of ``read``), position by position."""
        ...

    def leaf_weights(self) -> dict[str, Float[Tensor, "n d"]]:
        """What each leaf can write, a row for each of its entries: W_E by token, W_pos by position.
        Gradients flow.
        """
        ...

    def outputs(self, inputs: Tensor) -> Float[Tensor, "t out"]:
        """The model's own forward pass: the outputs at every position."""
        ...

    def output_index(self, name: str | int) -> int:
        """The output of that name: a token, a class. Errors: ArgumentError where there is none."""
        ...

    def output_names(self, indices: Int[Tensor, " n"] | Sequence[int]) -> list[str]:
        """Names of outputs, to be read by people."""
        ...

    def input_names(self, inputs: Tensor) -> list[str]:
        """Names of the positions of ``inputs``: their tokens."""
        ...


@runtime_checkable
class Worded(Protocol):
    """A model that reads text: what it read can be written out.

    >>> isinstance(model, bilens.wiring.Worded)
    True
    """

    def text(self, inputs: Tensor) -> str:
        """What a person wrote to get ``inputs`` (of ``read``): special tokens left out."""
        ...


@runtime_checkable
class Reader(Worded, Protocol):
    """A model that reads texts of any length, in pieces that its context holds.

    >>> isinstance(model, bilens.wiring.Reader)
    True
    """

    def contexts(self, inputs: Any) -> list[Int[Tensor, "1 _"]]:
        """``inputs`` as ``read`` gives them, piece by piece."""
        ...


def model_name(model: object) -> str:
    """What a model is called: the last part of the folder, or of the name on the hub, that it was
    read from; "" for one that does not say.

    >>> bilens.wiring.model_name(bilens.load("tinystories-2l"))
    'tinystories-2l'
    """
    source = getattr(model, "name_or_path", "")
    if not isinstance(source, str) or not source:
        return ""
    path = Path(source)
    return (path.resolve() if path.exists() else path).name


@runtime_checkable
class Sparse(Protocol):
    """A sparse dictionary, as circuits need it: x̂ = encode(x̂) @ writes + base + what it
    misses.

    >>> isinstance(D, bilens.wiring.Sparse)
    True
    """

    @property
    def writes(self) -> Float[Tensor, "f d"]:
        """What each latent adds where it is 1: decoder rows."""
        ...

    @property
    def base(self) -> Float[Tensor, " d"]:
        """What is there with no latent active: the decoder's bias."""
        ...

    def encode(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b f"]:
        """How active each latent is, zero for most."""
        ...


@runtime_checkable
class Undone(Protocol):
    """What a normalised reconstruction is multiplied with and what is added to it, by row."""

    @property
    def factor(self) -> Float[Tensor, "*b 1"]: ...

    @property
    def shift(self) -> Float[Tensor, "*b 1"]: ...


@runtime_checkable
class Normalised(Sparse, Protocol):
    """A dictionary that may read its input normalised: x̂ = (encode(x̂) @ writes + base) · factor +
    shift + what it misses, unless its ``normalisation`` is "none".

    >>> isinstance(D, bilens.wiring.Normalised)
    True
    """

    @property
    def normalisation(self) -> str:
        """What is done to the input first."""
        ...

    def normed(self, x: Float[Tensor, "*b d"]) -> Undone:
        """How that is undone."""
        ...


@runtime_checkable
class Transcoder(Sparse, Protocol):
    """A dictionary of what a layer writes, encoded from what it reads: y = encode(x) @ writes +
    base + what it misses, with encode(x) = x · readsᵀ + offset wherever it is not zero. One that
    has a ``W_skip`` (d, d) adds x W_skip.

    >>> isinstance(D, bilens.wiring.Transcoder)
    True
    """

    @property
    def reads(self) -> Float[Tensor, "f d"]:
        """The direction that each latent reads."""
        ...

    @property
    def offset(self) -> Float[Tensor, " f"]:
        """What is added to what it reads."""
        ...


def require_expandable(model: object) -> None:
    """Raise ArgumentError unless ``model`` is one that circuits can read.

    >>> bilens.wiring.require_expandable(model)
    """
    if not isinstance(model, Expandable):
        must = "be a bilens model, or satisfy wiring.Expandable"
        raise ArgumentError(
            "model", must=must, got=type(model).__name__, todo="Load it with bilens.load."
        )

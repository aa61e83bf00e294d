"""What a part reads or writes, taken apart another way: sources that add up to it, the error being
one.

    x̂_t = Σ_f a_tf w_f + b + ε_t     a = encode(x̂), w_f = writes[f], b = base, ε what x̂ has
                                      beside

That is a dictionary's way. The sum is x̂ by construction, whatever the dictionary is worth, so a
bilinear layer's write T(x̂, x̂) is the sum over unordered pairs of these. x̂ is what the layer
reads after its norm, and each of the sources is an end: nothing before it is asked.

What a layer writes comes apart in other words in ``circuits.replacements``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import require_finite, working_dtype
from bilens.base.records import Record
from bilens.circuits.paths import BASE, ERROR, Latent, Node
from bilens.wiring import (
    Normalised,
    Part,
    Product,
    Sparse,
    Write,
    explained,
    find_place,
    known_place,
)

S = TypeVar("S", bound=Sparse)


@dataclass(frozen=True, eq=False)
class Replaced:
    """What a part read in one pass, as its dictionary has it: ``activations`` @ ``writes`` +
    ``base`` + ``error``. ``constant``: whether the base is the same at every position.
    """

    activations: Float[Tensor, "t f"]
    writes: Float[Tensor, "f d"]
    base: Float[Tensor, "t d"]
    error: Float[Tensor, "t d"]
    constant: bool = True

    def at(self, reader: str, t: int) -> tuple[Float[Tensor, "n d"], list[Node]]:
        """What the source ``reader`` reads at ``t``: active latents, base, error, and their
        names.
        """
        active = self.activations[t].nonzero()[:, 0]
        latents = self.activations[t, active, None] * self.writes[active]
        vectors = torch.cat([latents, self.base[t, None], self.error[t, None]])
        return vectors, [Latent(reader, t, what) for what in (*active.tolist(), BASE, ERROR)]


def in_full(coder: S) -> S:
    """A dictionary that encodes in float32 where its weights are half types, as models are
    explained: one that is a record or a module; any other encodes in its own dtype.
    """
    dtype = working_dtype(coder.writes.dtype)
    if not isinstance(coder, Record) or dtype == coder.writes.dtype:
        return explained(coder)
    return coder.to(dtype)


def take_apart(part: str, dictionary: Sparse, read: Float[Tensor, "t d"]) -> Replaced:
    """What ``part`` reads, by ``dictionary``, which encodes in its own dtype, half types in
    float32; all else is in that of ``read``. The scale of one that normalises first is given, as
    its active latents are.

    Cost: the encoder and the decoder once, O(t f d); memory t × f. Errors: NotFiniteError for
    latents that are not finite.
    """
    dictionary = in_full(dictionary)
    writes, base = dictionary.writes.detach(), dictionary.base.detach()
    activations = dictionary.encode(read.to(writes)).detach().to(read)
    writes, base = writes.to(read), base.to(read).expand(len(read), -1)
    scaled = isinstance(dictionary, Normalised) and dictionary.normalisation != "none"
    if isinstance(dictionary, Normalised) and scaled:
        undone = dictionary.normed(read)
        activations, base = activations * undone.factor, base * undone.factor + undone.shift
    error = read - activations @ writes - base
    require_finite(f"the dictionary at {part}.input", latents=activations, error=error)
    return Replaced(activations, writes, base, error, not scaled)


def read_by(
    dictionaries: Mapping[str, Sparse] | None, parts: Sequence[Part], part: int, width: int
) -> Sparse | None:
    """The dictionary of what an attention layer reads, where there is one. Errors as ``placed``,
    and for the place of another part.
    """
    found = _named(dictionaries, parts, width)
    for place in (place for other, (place, _) in found.items() if other != part):
        must = f"be {parts[part].name}.input, which the head reads"
        raise ArgumentError("a dictionary's place", must=must, got=place)
    return found[part][1] if part in found else None


def placed(
    dictionaries: Mapping[str, Sparse] | None, parts: Sequence[Part], width: int
) -> dict[int, Sparse]:
    """Dictionaries by the part that reads their place.

    Errors: ArgumentError for a place that is not the input of a layer, a place given twice, a
    dictionary made for another place, a transcoder; ShapeError for another width than the model's.
    """
    found = _named(dictionaries, parts, width)
    for part, (place, _) in found.items():
        if parts[part].looks:
            must = "be the input of a layer, mlp0.input say"
            raise ArgumentError("a dictionary's place", must=must, got=place)
    return {part: dictionary for part, (_, dictionary) in found.items()}


def _named(
    dictionaries: Mapping[str, Sparse] | None, parts: Sequence[Part], width: int
) -> dict[int, tuple[str, Sparse]]:
    """Dictionaries of what parts read, by part, and their places."""
    found: dict[int, tuple[str, Sparse]] = {}
    if dictionaries is not None and not isinstance(dictionaries, Mapping):
        must = "map places to dictionaries, or be None"
        raise ArgumentError("dictionaries", must=must, got=type(dictionaries).__name__)
    for text, dictionary in (dictionaries or {}).items():
        part, side, place = find_place(text, parts)
        who = "a dictionary's place"
        if side != "input":
            must = "be the input of a layer, mlp0.input say"
            raise ArgumentError(who, must=must, got=place)
        if part in found:
            raise ArgumentError("dictionaries", must="name a place once", got=f"{place} twice")
        _require_fitting(f"the dictionary at {place}", dictionary, place, parts, width)
        found[part] = (place, dictionary)
    return found


def require_short(part: Part, writes: Sequence[Write]) -> None:
    """Raise ArgumentError unless something that ``part`` writes is a product of what it reads, of
    two at most. What stands for a layer has an error beside it, which is no product.
    """
    who, place = "a dictionary's place", f"{part.name}.input"
    degrees = [write.degree for write in writes if isinstance(write, Product)]
    if not degrees:
        todo = f"{part.name} is a source of its own: nothing that it reads is."
        must = "be before a layer that comes apart"
        raise ArgumentError(who, must=must, got=f"{place}: opaque", todo=todo)
    if max(degrees) > 2:
        must = "be before a layer of degree 1 or 2"
        raise ArgumentError(who, must=must, got=f"{place}, of degree {max(degrees)}")


def _require_fitting(
    who: str, dictionary: Sparse, place: str, parts: Sequence[Part], width: int
) -> None:
    if not isinstance(dictionary, Sparse):
        raise ArgumentError(who, must="have encode, writes and base", got=type(dictionary).__name__)
    hook, hook_out, kind = (
        getattr(dictionary, name, "") for name in ("hook", "hook_out", "architecture")
    )
    if hook and not is_called(place, hook, parts):  # a dictionary of a person's own may not say
        todo = (
            "If that is the same place by another name, dataclasses.replace(dictionary, hook=...)."
        )
        raise ArgumentError(who, must=f"read {place}", got=hook, todo=todo)
    if "transcoder" in kind or (hook_out and not is_called(place, hook_out, parts)):
        got = f"a {kind or 'dictionary'} to {hook_out or 'another place'}"
        raise ArgumentError(
            who,
            must="write what it reads",
            got=got,
            todo="Give a transcoder as replacements={...}: it stands for a layer.",
        )
    widths = {"d_in": getattr(dictionary, "d_in", width), "writes": dictionary.writes.shape[-1]}
    if set(widths.values()) != {width}:
        got = ", ".join(f"{name} {size}" for name, size in widths.items())
        raise ShapeError(who, must=f"be of the model's width {width}", got=got)


def is_called(place: str, hook: str, parts: Sequence[Part]) -> bool:
    """Whether ``hook``, as a dictionary names where it was made, is the place."""
    known = known_place(hook, parts)
    return known is not None and known.name == place

"""What a family of checkpoints says of itself: which config.json it claims, what that means here,
and which of its weights are which of bilens's.

A new family is a file of its own beside this one, and its name in ``families.FAMILIES``. What can
be said by weights is said by weights: a factor on an embedding, on scores or on what a part writes,
norms that store w − 1, the sign or the order in which rotary positions turn. What cannot (a norm's
kind, biases, positions) is a field of the configuration that ``config`` gives.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from bilens.base.weights import alone

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
KINDS = ("weight", "bias")  # the parameters of a module


def unchanged(tensor: Tensor) -> Tensor:
    """The tensor itself."""
    return tensor


@dataclass(frozen=True)
class Weight:
    """One module of the files, and what it is here; its weight and its bias follow.

    ``theirs``: its name in the files, None for one that they leave out and that is one everywhere.
    ``ours``: the modules it becomes; of several the rows lie one below the other, in this order.
    Those that a model does not have are passed over. ``{layer}`` in a name is every layer's number.
    ``blocks``: in so many equal parts, each of which holds its rows of every module (head by head,
    where queries, keys and values are fused like that). ``transposed``: (in, out) in the files.
    ``change``: what makes each part bilens's, once it is apart; it keeps the shape.
    """

    theirs: str | None
    ours: tuple[str, ...]
    blocks: int = 1
    transposed: bool = False
    change: Callable[[Tensor], Tensor] = unchanged


@dataclass(frozen=True)
class Family:
    """A family: declared once, in a file of its own.

    ``kinds``: the model_type of its config.json; ``claims`` tells where there is none. ``config``:
    the configuration here of a config.json and the shapes of the weights beside it; it refuses by
    name what it does not understand. ``weights``: given that configuration, the modules that have
    another name or form in the files than here. ``derived``: how the names of those end that files
    hold although they follow from config.json. ``sizes`` and ``depth``: the keys of config.json
    that some weight has as a dimension, and the number of layers: none may ask for more than the
    files hold. ``stock``: the configuration of a class of transformers for one of here, with the
    weights of the same names; or, in words, what of it that class does not have.
    """

    kinds: tuple[str, ...]
    config: Callable[[dict[str, Any], Shapes], PreTrainedConfig]
    weights: Callable[[Any], Sequence[Weight]] = lambda config: ()
    claims: Callable[[dict[str, Any]], bool] = lambda raw: False
    derived: tuple[str, ...] = ()
    sizes: tuple[str, ...] = (
        "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads",
        "num_key_value_heads", "head_dim",
    )  # fmt: skip
    depth: str = "num_hidden_layers"
    stock: Callable[[Any], PreTrainedConfig | str] | None = None


@dataclass(frozen=True)
class Pairing:
    """One parameter of the files (None: not there) and those it becomes, by name and shape."""

    theirs: str | None
    ours: dict[str, Shape]
    weight: Weight

    @property
    def shape(self) -> Shape:
        """What the files hold."""
        shapes = [*self.ours.values()]
        whole = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        return whole[::-1] if self.weight.transposed else whole

    def split(self, whole: Tensor) -> dict[str, Tensor]:
        """bilens's parameters from that of the files, each with memory of its own: its rows of
        ``whole`` where they lie together there as they are, else a copy.
        """
        rows = whole.T if self.weight.transposed and whole.ndim == 2 else whole
        blocks = self.weight.blocks
        sizes = [shape[0] // blocks for shape in self.ours.values()]
        parts = rows.unflatten(0, (blocks, -1)).split(sizes, dim=1)
        return {
            name: alone(self.weight.change(part.flatten(0, 1)))
            for name, part in zip(self.ours, parts, strict=True)
        }


def paired(weights: Sequence[Weight], own: Shapes, layers: int) -> list[Pairing]:
    """Every parameter of a model of shapes ``own`` with that of the files: as ``weights`` says, and
    the others by the same name.
    """
    found = [pairing for weight in weights for pairing in _pairings(weight, own, layers)]
    told = {name for pairing in found for name in pairing.ours}
    same = [name for name in own if name not in told]
    return found + [Pairing(name, {name: own[name]}, Weight(name, (name,))) for name in same]


def renamed(pairings: Sequence[Pairing], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights ``found`` in files under bilens's names; those that kept theirs are not copied.
    One that is not there is left out.
    """
    like = next(iter(found.values()))
    made: dict[str, Tensor] = {}
    for pairing in pairings:
        if pairing.theirs is None:
            made |= pairing.split(torch.ones(pairing.shape, dtype=like.dtype))
        elif pairing.theirs in pairing.ours and pairing.theirs in found:
            made[pairing.theirs] = found[pairing.theirs]
        elif pairing.theirs in found:
            made |= pairing.split(found[pairing.theirs])
    return made


def _pairings(weight: Weight, own: Shapes, layers: int) -> Iterator[Pairing]:
    each = range(layers) if any("{layer}" in name for name in weight.ours) else range(1)
    for layer in each:
        for kind in KINDS:
            names = [f"{module.format(layer=layer)}.{kind}" for module in weight.ours]
            ours = {name: own[name] for name in names if name in own}
            if ours:
                theirs = weight.theirs and f"{weight.theirs.format(layer=layer)}.{kind}"
                yield Pairing(theirs, ours, weight)

"""What a family of checkpoints says of itself: which config.json it claims, what that means here,
and which of its weights are which of bilens's.

A new family is a file of its own beside this one, and its name in ``families.FAMILIES``. What can
be said by weights is said by weights: a factor on an embedding, on scores or on what a part writes,
norms that store w − 1, the sign or the order in which rotary positions turn. What cannot (a norm's
kind, biases, positions) is a field of the configuration that ``config`` gives.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from bilens.base.errors import ConfigError, FileError
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

    ``theirs``: its name in the files, None for one that they leave out, which is one everywhere
    and its bias zero.
    ``ours``: the modules it becomes; of several the rows lie one below the other, in this order.
    Those that a model does not have are passed over. ``{layer}`` in a name is every layer's number,
    ``{expert}`` every expert's.
    ``blocks``: in so many equal parts, each of which holds its rows of every module (head by head,
    where queries, keys and values are fused like that). ``transposed``: (in, out) in the files.
    ``change``: what makes each part bilens's, once it is apart; it keeps the shape. ``biased``:
    whether the files have its bias, where the model here has one; else it is zero. ``weight`` and
    ``bias``: the names of the two, "{theirs}" standing for the module's. ``shape``: that of the
    weight in the files, where it is another with as many numbers.

    >>> bilens.models.Weight("wte", ("model.embed_tokens",)).ours
    ('model.embed_tokens',)
    """

    theirs: str | None
    ours: tuple[str, ...]
    blocks: int = 1
    transposed: bool = False
    change: Callable[[Tensor], Tensor] = unchanged
    biased: bool = True
    weight: str = "{theirs}.weight"
    bias: str = "{theirs}.bias"
    shape: Shape | None = None

    def named(self, kind: str, numbers: Mapping[str, int]) -> str | None:
        """The name in the files of its weight, or of its bias, in a layer; None where it is not
        there.
        """
        if self.theirs is None or (kind == "bias" and not self.biased):
            return None
        name = self.weight if kind == "weight" else self.bias
        return name.replace("{theirs}", self.theirs).format(**numbers)


@dataclass(frozen=True)
class Family:
    """A family: declared once, in a file of its own. ``name``: what people call it where it has no
    model_type.

    ``kinds``: the model_type of its config.json; ``claims`` tells where there is none, and
    ``recognises`` by the names of the weights where there is no config.json at all. ``config``:
    the configuration here of a config.json and the shapes of the weights beside it; it refuses by
    name what it does not understand. ``weights``: given that configuration, the modules that have
    another name or form in the files than here. ``derived``: how the names of those end that files
    hold although they follow from config.json. ``sizes``, ``depth`` and ``experts``: the keys of
    config.json that some weight has as a dimension, the number of layers, and that of the experts
    in each: none may ask for more than the files hold. ``base``: what the names of all weights but
    the readout's begin with, where the files may leave it out. ``stock``: the configuration of a
    class of transformers for one of here, with the weights of the same names; or, in words, what of
    it that class does not have. ``fold``: what makes fewer weights of all that the files hold,
    where several are one here (running averages, say); all else speaks of what it gives.
    ``renamed``: whether transformers holds weights in memory under other names than files do;
    ``unread``: by model_type, keys that a model in memory may have and its class does not read.
    """

    kinds: tuple[str, ...]
    config: Callable[[dict[str, Any], Shapes], PreTrainedConfig]
    weights: Callable[[Any], Sequence[Weight]] = lambda config: ()
    claims: Callable[[dict[str, Any]], bool] = lambda raw: False
    recognises: Callable[[Collection[str]], bool] = lambda names: False
    derived: tuple[str, ...] = ()
    sizes: tuple[str, ...] = (
        "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads",
        "num_key_value_heads", "head_dim",
    )  # fmt: skip
    depth: str = "num_hidden_layers"
    experts: str = "num_local_experts"
    base: str = "model."
    stock: Callable[[Any], PreTrainedConfig | str] | None = None
    name: str = ""
    fold: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    renamed: bool = False
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
        if self.weight.shape is not None:
            return self.weight.shape
        whole = shapes[0]
        if len(shapes) > 1:
            whole = (sum(shape[0] for shape in shapes), *whole[1:])
        return whole[::-1] if self.weight.transposed else whole

    @property
    def is_same(self) -> bool:
        """Whether it is the same in the files, by name and by value."""
        as_it_is = self.weight.change is unchanged and not self.weight.transposed
        return self.theirs in self.ours and as_it_is

    def without(self, base: str) -> "Pairing":
        """The same of files whose names do not begin with ``base``."""
        return self if self.theirs is None else replace(self, theirs=self.theirs.removeprefix(base))

    def left_out(self, dtype: torch.dtype) -> Tensor:
        """A parameter that files leave out: weights of one, biases of zero."""
        value = 0.0 if all(name.endswith(".bias") for name in self.ours) else 1.0
        return torch.full(self.shape, value, dtype=dtype, device="cpu")

    def split(self, whole: Tensor) -> dict[str, Tensor]:
        """bilens's parameters from that of the files, each with memory of its own: its rows of
        ``whole`` where they lie together there as they are, else a copy.
        """
        rows = whole.T if self.weight.transposed and whole.ndim == 2 else whole
        if len(self.ours) == 1:
            return {
                name: alone(self.weight.change(rows).reshape(shape))
                for name, shape in self.ours.items()
            }
        blocks = self.weight.blocks
        sizes = [shape[0] // blocks for shape in self.ours.values()]
        parts = rows.unflatten(0, (blocks, -1)).split(sizes, dim=1)
        return {
            name: alone(self.weight.change(part.flatten(0, 1)))
            for name, part in zip(self.ours, parts, strict=True)
        }


def matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    """The rows and columns of the matrix ``name``. Errors: FileError where it is not there."""
    shape = shapes.get(name, ())
    if len(shape) != 2:
        must = "be in the checkpoint, a matrix"
        raise FileError(name, must=must, got=shape or "nothing")
    return shape[0], shape[1]


def layers_in(shapes: Shapes, template: str) -> int:
    """How many layers have the weight ``template``, "{layer}" standing for their number."""
    names = (template.format(layer=n) for n in range(len(shapes)))
    return sum(1 for _ in takewhile(shapes.__contains__, names))


def require_sizes(given: Mapping[str, Any], found: Mapping[str, int], who: str = "") -> None:
    """Raise ConfigError for the first size that a configuration gives otherwise than the weights
    have it.
    """
    for key, size in found.items():
        if given.get(key) not in (None, size):
            must = f"be {size}, as the weights beside it"
            raise ConfigError(f"{who}{key}", must=must, got=repr(given[key]))


def head_width(width: int, heads: int) -> int:
    """The width of each of so many heads. Errors: ConfigError where they do not divide it."""
    if width % heads:
        raise ConfigError("n_head", must=f"divide the width {width}", got=heads)
    return width // heads


def told(given: Mapping[str, Any], key: str) -> Any:
    """What a configuration says of ``key``. Errors: ConfigError where it says nothing, as the
    weights do not.
    """
    if key not in given:
        todo = f'Say config={{"{key}": …}}, or put the config.json of the run beside it.'
        raise ConfigError(key, must="be given: no weight holds it", got="nothing", todo=todo)
    return given[key]


def paired(weights: Sequence[Weight], own: Shapes) -> list[Pairing]:
    """Every parameter of a model of shapes ``own`` with that of the files: as ``weights`` says, and
    the others by the same name.
    """
    modules = {name.rpartition(".")[0] for name in own}
    found = [pairing for weight in weights for pairing in _pairings(weight, own, modules)]
    paired_here = {name for pairing in found for name in pairing.ours}
    same = [name for name in own if name not in paired_here]
    return found + [Pairing(name, {name: own[name]}, Weight(name, (name,))) for name in same]


def renamed(pairings: Sequence[Pairing], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights ``found`` in files under bilens's names; those that kept theirs are not copied.
    One that is not there is left out.
    """
    like = next(iter(found.values()))
    made: dict[str, Tensor] = {}
    read: set[str] = set()
    for pairing in pairings:
        if pairing.theirs is None:
            made |= pairing.split(pairing.left_out(like.dtype))
        elif pairing.theirs in found:
            whole = found[pairing.theirs]
            if pairing.theirs in read:  # two modules here are one in the files
                whole = whole.clone()
            read.add(pairing.theirs)
            made |= {pairing.theirs: whole} if pairing.is_same else pairing.split(whole)
    return made


def _pairings(weight: Weight, own: Shapes, modules: Iterable[str]) -> Iterator[Pairing]:
    for numbers in numbers_in(weight.ours, modules):
        for kind in KINDS:
            names = [f"{module.format(**numbers)}.{kind}" for module in weight.ours]
            ours = {name: own[name] for name in names if name in own}
            if ours:
                one = weight if kind == "weight" else replace(weight, shape=None)
                yield Pairing(weight.named(kind, numbers), ours, one)


def numbers_in(templates: Sequence[str], modules: Iterable[str]) -> list[dict[str, int]]:
    """The numbers of layers and experts at which some of ``templates`` names one of ``modules``, in
    order.
    """
    found = set()
    for template in templates:
        named = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template))
        matches = (re.fullmatch(named, module) for module in modules)
        found |= {
            tuple((key, int(n)) for key, n in match.groupdict().items())
            for match in matches
            if match
        }
    return [dict(numbers) for numbers in sorted(found)]

"""A model whose files were looked at and whose weights are still in them: all of it, some of its
modules, or one part alone with its norm folded.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GenerationConfig

from bilens.base.errors import ArgumentError
from bilens.base.numerics import require_finite, working_dtype
from bilens.base.reading import naming, read_json_object
from bilens.base.weights import Held, Mapped
from bilens.models.carry import EMBED, HEAD, filled, is_tied, settle_tying
from bilens.models.config import require_tokens
from bilens.models.families import Pairing, renamed
from bilens.models.tokenizing import read_tokenizer
from bilens.models.transformer import Transformer
from bilens.nn import NoNorm, Norm, own_norm
from bilens.wiring import Part, Wiring

GENERATION = "generation_config.json"
NUMBERS = 2**18  # of a weight that are changed at a time: 1 MiB in float32


@dataclass(frozen=True, eq=False)
class Opened:
    """A model of ``folder`` without weights (they are on the device "meta"), and the weights by the
    names of the files, memory-mapped; ``pairings`` says which become which.

    >>> opened = bilens.models.open_model("tinystories-2l")
    >>> opened.folder.name
    'tinystories-2l'
    """

    folder: Path
    model: Any
    pairings: Sequence[Pairing]
    weights: Mapped | Held
    tokenizer: Any = None  # where they do not lie in the folder
    generation: GenerationConfig | None = None

    def whole(self) -> Any:
        """The model with all its weights, in evaluation mode, and what lies beside them.

        Every weight is read once, to see that it is finite, and its memory given back.
        """
        self.filled()
        return self._beside()

    def filled(self) -> Any:
        """The model with all its weights. Errors: NotFiniteError."""
        model = filled(self.model, renamed(self.pairings, self.weights))
        self._require_finite(model.state_dict())
        return model

    def only(self, *modules: str) -> Any:
        """The model with the weights of the modules of these names alone, and what lies beside
        them; all others stay without memory.
        """
        self.read(*modules)
        return self._beside()

    def read(self, *modules: str) -> None:
        """Give the modules of these names their weights, still mapped."""
        inside = tuple(f"{module}." for module in modules)
        asked = {name for name in self.model.state_dict() if name.startswith(inside)}
        tied = is_tied(self.model.config) and not asked.isdisjoint((EMBED, HEAD))
        names = asked | {EMBED, HEAD} if tied else asked
        chosen = [one for one in self.pairings if not names.isdisjoint(one.ours)]
        weights = renamed(chosen, self.weights)
        if tied:
            settle_tying(self.model.config, weights)
        made = {name: value for name, value in weights.items() if name in asked}
        self.model.load_state_dict(made, strict=False, assign=True)
        self._require_finite(asked)

    def _require_finite(self, names: Collection[str]) -> None:
        with naming(self.folder):
            for name, value in self.model.named_parameters():
                if name in names:
                    require_finite("", **{name: value})
                    self.weights.let_go()

    def _beside(self) -> Any:
        """The model with its tokenizer, and how it generates text."""
        model = self.model.eval()
        if self.tokenizer is not None:
            model.tokenizer, model.generation_config = self.tokenizer, self.generation
        elif isinstance(model, Transformer):
            model.generation_config = _generation(self.folder, model)
            model.tokenizer = read_tokenizer(self.folder, model.config.vocab_size)
        return model


def read_part(opened: Opened, name: str) -> nn.Module:
    """One part of a model, in evaluation mode: its own weights alone, from the files that hold
    them, with the norm through which it reads folded into what reads.

    ``name``: as in paths, "mlp12", "attn12", "mlp3.expert5", or that of its module,
    "layers.12.mlp", "layers.12.self_attn", "lm_head", "embed_tokens" (with "model." or without).

    A norm N(x) = σ(x) P x + c is affine given its scale σ. Readers W, b become W P and b + W c, so
    that the part of σ(x) x is what the model's own part gives of N(x). P is the norm's weight and,
    of a LayerNorm, its centring; c is a LayerNorm's bias. The scale is all that remains. lm_head
    reads through the final norm, an embedding through none. RoPE's turns are no part of an
    attention layer: it is given them. Nor are a norm over what a part writes (Gemma 2, OLMo 2), a
    scale of embeddings or a cap of logits.

    Half types become float32, which holds products of their weights exactly, as in ``folded()``.
    Of other types, weights that nothing is folded into stay mapped. Memory: the part in that type,
    and a few MiB at a time. Errors: ArgumentError for a part that is not there; NotFiniteError.

    >>> opened = bilens.models.open_model("tinystories-2l")
    >>> bilens.models.read_part(opened, "layers.1.mlp").tensor().shape
    (128, 128, 128)
    """
    found = _find(opened.model, name)
    opened.read(*found.paths)
    return _folded(found, opened.weights.let_go).eval()


@dataclass(frozen=True, eq=False)
class _Found:
    """A module of a model, the norm through which its ``readers`` read, and the names of both."""

    module: nn.Module
    norm: Norm
    readers: tuple[nn.Module, ...]
    paths: tuple[str, ...]


def _find(model: Any, name: str) -> _Found:
    """The part of that name. Errors: ArgumentError where there is none."""
    wiring = model.wiring()
    paths = {module: path for path, module in model.named_modules()}
    parts = {part.name: part for part in _every_part(wiring)}
    parts |= {paths[part.module]: part for part in _every_part(wiring)}
    ends = dict(_ends(wiring, paths))
    for asked in (name, f"model.{name}"):
        if asked in parts:
            part = parts[asked]
            readers = getattr(part.module, "readers", ())
            return _found(part.module, own_norm(part.norm), readers, paths)
        if asked in ends:
            module = ends[asked]
            reads = getattr(module, "weight", None) is wiring.readout
            read = (module,) if reads and isinstance(module, nn.Linear) else ()
            return _found(module, own_norm(wiring.norm), read, paths)
    names = _shortened(part.name for part in _every_part(wiring))
    must = f"be one of {', '.join((*names, *ends))}"
    raise ArgumentError("part", must=must, got=repr(name))


def _every_part(wiring: Wiring) -> Iterator[Part]:
    return chain.from_iterable((part, *part.experts) for part in wiring.parts)


def _ends(wiring: Wiring, paths: dict[nn.Module, str]) -> Iterator[tuple[str, nn.Module]]:
    """What is written first and what reads last, by name."""
    inside = tuple(f"{paths[part.module]}." for part in wiring.parts)
    for module, path in paths.items():
        if isinstance(module, nn.Linear | nn.Embedding) and not path.startswith(inside):
            yield path, module


def _found(
    module: nn.Module, norm: Norm, readers: Iterable[nn.Module], paths: dict[nn.Module, str]
) -> _Found:
    reads = tuple(readers)
    own: tuple[str, ...] = ()
    if reads and isinstance(norm, nn.Module) and not isinstance(norm, NoNorm):
        own = (paths[norm],)
    return _Found(module, norm, reads, (paths[module], *own))


def _shortened(names: Iterable[str]) -> Iterator[str]:
    """Names that differ by their numbers alone, as the first and the last of them."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    for kind in kinds.values():
        yield kind[0] if len(kind) == 1 else f"{kind[0]} … {kind[-1]}"


@torch.no_grad()
def _folded(found: _Found, let_go: Callable[[], None]) -> nn.Module:
    """The module with its norm folded into its readers, block by block; ``let_go`` of what a block
    read of the files.
    """
    norm, readers = found.norm, found.readers
    for module in list(found.module.modules()):
        folds = module in readers and not isinstance(norm, NoNorm)
        weight = getattr(module, "weight", None)
        if folds and norm.shift is not None:
            assert isinstance(module, nn.Linear)
            module.bias = _moved(module, norm.shift)
        for name, value in list(module.named_parameters(recurse=False)):
            fold = norm.transposed if folds and value is weight else None
            made = _changed(value, fold, let_go)
            setattr(module, name, nn.Parameter(made, value.requires_grad))
    return found.module


def _moved(reader: nn.Linear, shift: Tensor) -> nn.Parameter:
    """b + W c."""
    work = working_dtype(reader.weight.dtype)
    read = torch.cat([rows.to(work) @ shift.to(work) for rows in _blocks(reader.weight)])
    return nn.Parameter(read if reader.bias is None else reader.bias + read)


def _changed(
    value: Tensor, change: Callable[[Tensor], Tensor] | None, let_go: Callable[[], None]
) -> Tensor:
    """``change`` of every row in the type that is worked in; the very tensor where nothing is."""
    work = working_dtype(value.dtype)
    if change is None and value.dtype == work:
        return value
    made, start = torch.empty(value.shape, dtype=work, device="cpu"), 0
    for rows in _blocks(value):
        full = rows.to(work)
        made[start : start + len(rows)] = full if change is None else change(full)
        start += len(rows)
        let_go()
    return made


def _blocks(value: Float[Tensor, "n *d"]) -> Sequence[Float[Tensor, "_ *d"]]:
    """The rows of a weight, a few MiB at a time."""
    return value.detach().split(max(1, NUMBERS * len(value) // max(1, value.numel())))


def _generation(folder: Path, model: Transformer) -> GenerationConfig:
    """How the folder says text is generated; what the configuration gives where it does not say."""
    file = folder / GENERATION
    if not file.exists():
        return model.generation_config
    raw = read_json_object(file)
    with naming(file):
        found = GenerationConfig.from_dict(raw)
        require_tokens(found, model.config.vocab_size)
    return found

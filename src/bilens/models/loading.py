"""``bilens.load``: any model bilens knows, from its folder, with every file checked before a weight
is used.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from bilens.base.errors import ArgumentError, ConfigError, FileError
from bilens.base.keys import OneOf
from bilens.base.numerics import is_whole, require_values, working_dtype
from bilens.base.pickles import PICKLES, Pickled, read_pickles
from bilens.base.reading import naming, read_json_object, to_reach_the_hub
from bilens.base.weights import weight_names
from bilens.models.alike import require_alike
from bilens.models.carry import EMBED, HEAD, carry, common_dtype, copied, is_tied, sketched
from bilens.models.checkpoint import Checkpoint, files_of, held_checkpoint, open_checkpoint
from bilens.models.classifier import Classifier, ClassifierConfig
from bilens.models.families import FAMILIES, NAMES, Family, Pairing, paired
from bilens.models.gguf import GGUF, read_gguf, require_read
from bilens.models.keys import require_metadata
from bilens.models.opening import Opened, read_part
from bilens.models.transformer import Transformer, TransformerConfig

BOX = Path(__file__).parent / "box"
CONFIG, SAFETENSORS = "config.json", ".safetensors"
OF_LAYERS = ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
CHECKPOINTS = "checkpoints"  # a folder of weights, below that of their config.json
PICKLED = ("pytorch_model*.bin",)
FETCHED = (
    "*.json",
    "*.safetensors",
    "tokenizer*",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "*.jinja",
)
MODELS: dict[type[PreTrainedConfig], type[PreTrainedModel]] = {
    ClassifierConfig: Classifier,
    TransformerConfig: Transformer,
}


def load(
    path: str | Path,
    part: str | None = None,
    family: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Any:
    """The model in folder ``path``, or of that name on the Hugging Face hub, in evaluation mode,
    with its ``.tokenizer``; or one ``part`` of it.

    It may be one in the box ("tinystories-1l", "tinystories-2l" and its twins with other MLPs,
    "tinystories-2l-gelu" and "tinystories-2l-swiglu"), any bilens model, one of a family of
    transformers (Llama, GPT-2, Pythia, Gemma and others: docs/families.md), or one of tdooms'
    bilinear language models; config.json tells which. The weights stay as they are in the files.
    Where they are of several types all get the one that holds each exactly, with a warning; a model
    tied in name whose two matrices differ is not tied, with a warning, as in transformers. Stop
    tokens and sampling come from generation_config.json.

    ``path`` may also be a file of weights, safetensors or a state dict of ``torch.save``, with a
    config.json beside it or a configuration inside. ``family``: how it is written down, where its
    configuration does not tell: one of ``models.families.NAMES``. ``config``: keys of its
    configuration that no file holds. (Weights under names of your own:
    ``models.from_state_dict``.) Of a pickle nothing but weights is read, and nothing in it is run.
    A GGUF file (with ``bilens[gguf]``) is dequantised by transformers' reader, which
    ``model.config.folds`` says.

    ``part``: that layer alone, as ``models.read_part`` gives it: "layers.12.mlp" or "mlp12",
    "layers.12.self_attn" or "attn12", an expert "mlp3.expert5", "lm_head", "model.embed_tokens".

    Memory: weights stay in the files, which are memory-mapped, until they are used; a copy is made
    of those of another type or order than here. While the model is in use its files must not be cut
    short or written over in place (see ``base.weights.Mapped``); replacing them is harmless.
    Errors: FileError where the folder, config.json, the weights, the tokenizer or
    generation_config.json are missing, damaged, a pickle that needs more than weights, or do not
    fit one another; ConfigError for a model type, key or value bilens does not know; NotFiniteError
    for NaN or infinite weights; ArgumentError for a part or a family that is not there.

    >>> model = bilens.load("tinystories-2l")
    >>> type(bilens.load("tinystories-2l", part="layers.1.mlp")).__name__
    'GatedMLP'
    """
    opened = open_model(path, family, config)
    with hushed():
        if part is not None:
            return read_part(opened, part)
        made = opened.whole()
    made.name_or_path = str(path)  # as transformers has it
    return made


def from_transformers(model: PreTrainedModel) -> Transformer:
    """A bilens model with the very weights of one of transformers that is in memory, of any family
    in docs/families.md, with its tokenizer if it carries one, in evaluation mode.

    Memory: a copy of the weights; mixtures of experts and GPT-NeoX, whose files are written
    otherwise than they are held, go through a temporary folder. Both run 8 tokens. Errors: those of
    ``load``; ArgumentError for what is no model of transformers with a readout, for one on "meta",
    and for one whose logits are not those of its weights and configuration: with hooks that act,
    with modules exchanged, or with a configuration that was changed after it was made. Up to 1 % of
    the logits, 10 % in half types, is not told from rounding.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> config = GPT2Config(n_layer=1, n_embd=16, n_head=2, bos_token_id=0, eos_token_id=0)
    >>> theirs = GPT2LMHeadModel(config)
    >>> type(bilens.models.from_transformers(theirs)).__name__
    'Transformer'
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        must = "be given a model of transformers with a readout, as AutoModelForCausalLM makes it"
        raise ArgumentError("from_transformers", must=must, got=type(model).__name__)
    for name, weight in model.named_parameters():
        require_values(name, weight)
    raw = json.loads(model.config.to_json_string(use_diff=False))
    if raw.get("model_type") not in NAMES:
        kinds = OneOf(tuple(sorted(kind for one in FAMILIES for kind in one.kinds)))
        must = kinds.must(raw.get("model_type"))
        raise ConfigError("model_type", must=must, got=repr(raw.get("model_type")))
    kind, where = NAMES[raw["model_type"]], Path(model.name_or_path or type(model).__name__)
    for key in kind.unread.get(raw["model_type"], ()):
        raw.pop(key, None)
    made = _in_memory(kind, raw, model, where).filled()
    made = carry(model, made).eval()
    require_alike(model, made)
    return made


def _in_memory(
    kind: Family,
    raw: dict[str, Any],
    model: PreTrainedModel,
    where: Path,
    weights: Callable[[PreTrainedModel], Mapping[str, Tensor]] = copied,
) -> Opened:
    """A model of transformers by its ``weights``; through a temporary folder where they are held
    under other names than files have.
    """
    if not (kind.renamed or raw.get("num_local_experts") or raw.get("num_experts")):
        checkpoint = held_checkpoint([where], weights(model), kind.derived)
        return _assembled(kind, raw, checkpoint, where, where)
    with hushed(), tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        checkpoint = _Files.of(Path(folder)).checkpoint(kind)
        return _assembled(kind, raw, checkpoint, where, where)


def open_model(
    path: str | Path, family: str | None = None, config: Mapping[str, Any] | None = None
) -> Opened:
    """The model of ``path``, every file looked at and no weight read. Errors: those of ``load``,
    but for what the weights' values are and for the files beside them.

    >>> opened = bilens.models.open_model("tinystories-2l")
    >>> opened.model.device
    device(type='meta')
    """
    place = _place(path)
    if place.suffix == GGUF and place.is_file():
        return _open_gguf(place)
    files = _Files.of(place)
    raw = files.config(config or {})
    kind = _family(raw, files) if family is None else _named(family, raw, files)
    checkpoint, file = files.checkpoint(kind), files.about
    _require_sizes(kind, raw, checkpoint, file)
    return _assembled(kind, raw, checkpoint, file, files.folder)


def _assembled(
    kind: Family, raw: dict[str, Any], checkpoint: Checkpoint, file: Path, folder: Path
) -> Opened:
    """The model that ``raw`` says, which stands in ``file``, and which weights become which."""
    with hushed(), naming(file):
        require_metadata(raw)
        made: Any = kind.config(raw, checkpoint.shapes)
        model = sketched(MODELS[type(made)], made)  # shapes alone: nothing is allocated
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    pairings = paired(kind.weights(made), own)
    if not any(name.startswith(kind.base) for name in checkpoint.shapes):
        pairings = [pairing.without(kind.base) for pairing in pairings]
    _require_shapes(pairings, made, checkpoint)
    weights = checkpoint.mapped(common_dtype(checkpoint.dtypes))
    return Opened(folder, model, pairings, weights)


def _open_gguf(file: Path) -> Opened:
    """A GGUF file, dequantised; its tokenizer, and in words what it was, are on the model."""
    with hushed():
        stock, tokenizer, kinds = read_gguf(file)
    raw = json.loads(stock.config.to_json_string(use_diff=False)) | {"quantization_config": None}
    raw.pop("feed_forward_length", None)  # of GPT-2, which the reader leaves there under this name
    kind = _family(raw, _Files(file, [file], None))
    opened = _in_memory(kind, raw, stock, file, lambda made: made.state_dict())
    require_read(file, raw["model_type"], opened.model.config)
    opened.model.config.folds = kinds or None
    return replace(opened, tokenizer=tokenizer, generation=stock.generation_config)


@dataclass(frozen=True)
class _Files:
    """The files of a model: its weights, and what was pickled with them."""

    place: Path
    weights: list[Path]
    pickled: Pickled | None

    @classmethod
    def of(cls, place: Path) -> "_Files":
        """Those of a folder, or one file. Errors: FileError where they hold no weights."""
        files = files_of(place)
        return cls(place, files, read_pickles(files) if files[0].suffix in PICKLES else None)

    @property
    def folder(self) -> Path:
        return self.place.parent if self.place.is_file() else self.place

    @property
    def about(self) -> Path:
        """The file that says what the model is."""
        above = [self.folder.parent] if self.folder.name == CHECKPOINTS else []
        files = (folder / CONFIG for folder in (self.folder, *above))
        return next((file for file in files if file.exists()), self.weights[0])

    def config(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What config.json says, or else what was pickled, and what is ``given`` beside; empty
        where neither is there.
        """
        if self.about.name == CONFIG:
            return read_json_object(self.about) | dict(given)
        return ({} if self.pickled is None else self.pickled.about) | dict(given)

    def checkpoint(self, family: Family) -> Checkpoint:
        if self.pickled is None:
            found = open_checkpoint(self.weights, family.derived)
        else:
            found = held_checkpoint(self.weights, self.pickled.weights, family.derived)
        if family.fold is None:
            return found
        whole = found.mapped(working_dtype(common_dtype(found.dtypes)))
        return held_checkpoint(self.weights, family.fold(whole))

    def names(self) -> set[str]:
        """Of all weights."""
        if self.pickled is not None:
            return {*self.pickled.weights}
        return {name for file in self.weights for name in weight_names(file)}


def boxed() -> list[str]:
    """The names of the models that ship with the package."""
    return (
        sorted(folder.name for folder in BOX.iterdir() if folder.is_dir()) if BOX.is_dir() else []
    )


@contextmanager
def hushed() -> Iterator[None]:
    """Without transformers' progress bars for reading and writing weights.

    >>> with bilens.models.hushed(): model = bilens.load("tinystories-1l")
    """
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _place(path: str | Path) -> Path:
    """The folder or file of that name; a folder that the hub gave."""
    if not isinstance(path, str | Path):
        must, got = "be a model's folder, file or name", type(path).__name__
        raise ArgumentError("path", must=must, got=got)
    place = Path(path)
    if place.is_dir() or (place.is_file() and place.suffix in (SAFETENSORS, GGUF, *PICKLES)):
        return place
    if path in boxed():
        return BOX / str(path)
    got = "a file" if place.exists() else "nothing there"
    if place.exists() or isinstance(path, Path) or str(path).count("/") != 1:
        must = f"be a model folder, or one in the box ({', '.join(boxed())})"
        raise FileError(str(path), must=must, got=got)
    try:
        folder = Path(snapshot_download(path, allow_patterns=list(FETCHED)))
        if not any(folder.glob(f"*{SAFETENSORS}")):
            folder = Path(snapshot_download(path, allow_patterns=[*FETCHED, *PICKLED]))
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        todo = to_reach_the_hub()
        asked = "was not asked" if todo else f"did not give it ({type(error).__name__})"
        reason = f"{got}, and the Hugging Face hub {asked}"
        raise FileError(str(path), must="be a model folder", got=reason, todo=todo) from error


def _named(family: str, raw: dict[str, Any], files: _Files) -> Family:
    """The family of that name, which is then the model_type. Errors: ArgumentError where there is
    none; ConfigError where the configuration says another.
    """
    if family not in NAMES:
        raise ArgumentError("family", must=OneOf(tuple(NAMES)).must(family), got=repr(family))
    said, kinds = raw.get("model_type"), NAMES[family].kinds
    if said and said not in kinds:
        must, todo = f"be that of {family}", "Leave family= out, or mend the file."
        raise ConfigError(f"{files.about}: model_type", must=must, got=repr(said), todo=todo)
    if family in kinds:
        raw["model_type"] = family
    return NAMES[family]


def _family(raw: dict[str, Any], files: _Files) -> Family:
    """How these files are written down, as their configuration says, or their names alone."""
    file, kind = files.about, raw.get("model_type")
    for family in FAMILIES:
        if kind in family.kinds or family.claims(raw):
            return family
    names = files.names()
    for family in FAMILIES:
        if kind is None and family.recognises(names):
            return family
    if not raw:
        todo = "Name the folder that training wrote, or say config= and family=."
        raise FileError(str(files.place), must=f"hold a {CONFIG}", got="none", todo=todo)
    known = sorted(kind for family in FAMILIES for kind in family.kinds)
    raise ConfigError(f"{file}: model_type", must=f"be one of {', '.join(known)}", got=repr(kind))


def _require_sizes(family: Family, raw: dict[str, Any], checkpoint: Checkpoint, file: Path) -> None:
    """Raise ConfigError where config.json asks for more than the files hold, before anything of
    that size is made.
    """
    sizes = [key for key in family.sizes if key not in OF_LAYERS or raw.get(family.depth) != 0]
    most = {**dict.fromkeys(sizes, checkpoint.longest), family.depth: len(checkpoint.shapes)}
    for key, limit in most.items():
        value: Any = raw.get(key)
        if is_whole(value) and value > limit:
            must = f"be at most {limit}, as the weights beside it"
            raise ConfigError(f"{file}: {key}", must=must, got=value)
    layers: Any = raw.get(family.depth)
    experts: Any = raw.get(family.experts)
    weights = len(checkpoint.shapes)
    if is_whole(layers) and is_whole(experts) and layers * experts > weights:
        must = (
            f"be at most {weights // layers} in each of {layers} layers, as the weights beside it"
        )
        raise ConfigError(f"{file}: {family.experts}", must=must, got=experts)


def _require_shapes(pairings: Sequence[Pairing], config: Any, checkpoint: Checkpoint) -> None:
    """Raise FileError for the first weight that is missing, left over or of another shape."""
    wanted = {one.theirs: one.shape for one in pairings if one.theirs is not None}
    if is_tied(config):
        tied = {one.theirs for one in pairings if {EMBED, HEAD} & one.ours.keys()}
        if tied & checkpoint.shapes.keys():  # either stands for both
            wanted = {
                name: wanted[name] for name in wanted.keys() - (tied - checkpoint.shapes.keys())
            }
    for name in sorted(wanted.keys() | checkpoint.shapes.keys()):
        got = checkpoint.shapes.get(name)
        if wanted.get(name) == got:
            continue
        must = "not be there"
        if name in wanted:
            must = f"have shape {wanted[name]}, as {CONFIG} says"
        raise FileError(checkpoint.place(name), must=must, got=got or "nothing")

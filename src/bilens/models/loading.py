"""``bilens.load``: any model bilens knows, from its folder, with every file checked before a weight
is used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from bilens.base.errors import ConfigError, FileError
from bilens.base.numerics import is_whole, require_finite
from bilens.base.reading import naming, read_json_object
from bilens.models.carry import EMBED, HEAD, filled, sketched
from bilens.models.checkpoint import Checkpoint, open_checkpoint
from bilens.models.classifier import Classifier, ClassifierConfig
from bilens.models.config import require_tokens
from bilens.models.families.dooms import (
    config_from_dooms,
    is_dooms,
    shapes_of_dooms,
    weights_from_dooms,
)
from bilens.models.families.llama import FAMILY, config_from_llama
from bilens.models.keys import require_metadata
from bilens.models.tokenizing import read_tokenizer
from bilens.models.transformer import Transformer, TransformerConfig

BOX = Path(__file__).parent / "box"
CONFIG, GENERATION = "config.json", "generation_config.json"
FETCHED = (
    "*.json",
    "*.safetensors",
    "tokenizer*",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "*.jinja",
)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """One way of writing a model down: what claims a config.json, and how it becomes bilens's
    names.

    ``config``: of a config.json and the shapes of the weights. ``shapes``: what the files must
    hold, by their own names, given bilens's; ``weights``: theirs under bilens's names.
    """

    model: type[PreTrainedModel]
    config: Callable[[dict[str, Any], Shapes], PreTrainedConfig]
    shapes: Callable[[Shapes, Any], Shapes] = lambda wanted, config: wanted
    weights: Callable[[dict[str, Tensor], Any], dict[str, Tensor]] = lambda found, config: found


def _own_config(
    kind: type[PreTrainedConfig], raw: dict[str, Any], shapes: Shapes
) -> PreTrainedConfig:
    return kind.from_dict(dict(raw))


def _llama_config(raw: dict[str, Any], shapes: Shapes) -> PreTrainedConfig:
    return config_from_llama(CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw)))


FAMILIES: dict[str, Family] = {
    ClassifierConfig.model_type: Family(Classifier, partial(_own_config, ClassifierConfig)),
    TransformerConfig.model_type: Family(Transformer, partial(_own_config, TransformerConfig)),
    **dict.fromkeys(FAMILY, Family(Transformer, _llama_config)),
}
DOOMS = Family(Transformer, config_from_dooms, shapes_of_dooms, weights_from_dooms)
# Sizes that some weight has as a dimension: none may be above the longest there is, or it would be
# allocated for nothing.
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "head_dim", "d_model", "d_hidden", "n_head",
)  # fmt: skip
DEPTHS = ("num_hidden_layers", "n_layer")


def load(path: str | Path) -> Any:
    """The model in folder ``path``, or of that name on the Hugging Face hub, in evaluation mode,
    with its ``.tokenizer``.

    It may be one in the box ("tinystories-1l", "tinystories-2l"), any bilens model, a Llama-family
    model (Llama, Mistral, Qwen2, Qwen3), or one of tdooms' bilinear language models; config.json
    tells which. The weights stay as they are in the files. Where they are of several types all get
    the one that holds each exactly, with a warning; a model tied in name whose two matrices differ
    is not tied, with a warning, as in transformers. Stop tokens and sampling come from
    generation_config.json. Memory: the files' size; twice for fused weights. Errors: FileError
    where the folder, config.json, the weights, the tokenizer or generation_config.json are missing,
    damaged, a pickle, or do not fit one another; ConfigError for a model type, key or value bilens
    does not know; NotFiniteError for NaN or infinite weights.
    """
    folder = _folder(path)
    file = folder / CONFIG
    raw = _read_config(file)
    family = _family(raw, file)
    checkpoint = open_checkpoint(folder)
    _require_sizes(raw, checkpoint, file)
    with hushed():
        with naming(file):
            require_metadata(raw)
            config = family.config(raw, checkpoint.shapes)
        model = _read(family, config, checkpoint, file).eval()
        with naming(folder):
            require_finite("", **dict(model.named_parameters()))
        if isinstance(model, Transformer):
            model.generation_config = _generation(folder, model)
            model.tokenizer = read_tokenizer(folder, model.config.vocab_size)
    return model


def boxed() -> list[str]:
    """The names of the models that ship with the package."""
    return (
        sorted(folder.name for folder in BOX.iterdir() if folder.is_dir()) if BOX.is_dir() else []
    )


@contextmanager
def hushed() -> Iterator[None]:
    """Without transformers' progress bars for reading and writing weights."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if folder.is_dir():
        return folder
    if path in boxed():
        return BOX / str(path)
    got = "a file" if folder.exists() else "nothing there"
    if folder.exists() or isinstance(path, Path) or str(path).count("/") != 1:
        raise FileError(
            str(path), must=f"be a model folder, or one in the box ({', '.join(boxed())})", got=got
        )
    try:
        return Path(snapshot_download(path, allow_patterns=list(FETCHED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = f"{got}, and the Hugging Face hub did not give it ({type(error).__name__})"
        raise FileError(str(path), must="be a model folder", got=reason) from error


def _read_config(file: Path) -> dict[str, Any]:
    if not file.exists():
        todo = "Name the folder that training wrote."
        raise FileError(str(file.parent), must=f"hold a {file.name}", got="none", todo=todo)
    return read_json_object(file)


def _family(raw: dict[str, Any], file: Path) -> Family:
    """How this folder is written down."""
    if is_dooms(raw):
        return DOOMS
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        must = f"be one of {', '.join(sorted(FAMILIES))}"
        raise ConfigError(f"{file}: model_type", must=must, got=repr(kind))
    return FAMILIES[kind]


def _require_sizes(raw: dict[str, Any], checkpoint: Checkpoint, file: Path) -> None:
    """Raise ConfigError where config.json asks for more than the files hold, before anything of
    that size is made.
    """
    for keys, most in ((SIZES, checkpoint.longest), (DEPTHS, len(checkpoint.shapes))):
        for key in keys:
            value: Any = raw.get(key)
            if is_whole(value) and value > most:
                must = f"be at most {most}, as the weights beside it"
                raise ConfigError(f"{file}: {key}", must=must, got=value)


def _read(family: Family, config: Any, checkpoint: Checkpoint, file: Path) -> Any:
    """The model of ``config`` with the weights in ``checkpoint``. Errors: FileError for the first
    that does not fit.
    """
    with naming(file):
        model = sketched(family.model, config)  # shapes alone: nothing is allocated
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wanted = dict(family.shapes(own, config))
    if getattr(config, "tie_word_embeddings", False) and {EMBED, HEAD} & checkpoint.shapes.keys():
        for name in {EMBED, HEAD} - checkpoint.shapes.keys():
            wanted.pop(name, None)
    for name in sorted(wanted.keys() | checkpoint.shapes.keys()):
        got = checkpoint.shapes.get(name)
        if wanted.get(name) != got:
            must = (
                f"have shape {wanted[name]}, as {CONFIG} says" if name in wanted else "not be there"
            )
            raise FileError(checkpoint.place(name), must=must, got=got or "nothing")
    return filled(model, family.weights(checkpoint.read(), config))


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

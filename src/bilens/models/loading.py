"""``bilens.load``: any model bilens knows, from its folder, with every file checked before a weight is used."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from bilens.base.errors import ConfigError, FileError
from bilens.base.numerics import require_finite
from bilens.models.classifier import Classifier
from bilens.models.dooms import config_from_dooms, is_dooms, weights_from_dooms
from bilens.models.llama import FAMILY, config_from_llama
from bilens.models.transformer import Transformer

MODELS: dict[str, type[PreTrainedModel]] = {"bilens_classifier": Classifier, "bilens_transformer": Transformer}
PICKLES = ("pytorch_model.bin", "model.pt", "model.pth", "model.bin")
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
BOX = Path(__file__).parent / "box"


def load(path: str | Path) -> Any:
    """The model in folder ``path``, or of that name on the Hugging Face hub, in evaluation mode, with its ``.tokenizer``.

    It may be one in the box ("tinystories-1l", "tinystories-2l"), any bilens model, a Llama-family model (Llama, Mistral,
    Qwen2, Qwen3), or one of tdooms' bilinear language models; config.json tells which.
    Errors: FileError where the folder, config.json or the weights are missing, damaged, a pickle, or do not fit one another;
    ConfigError for a model type, key or value bilens does not know; NotFiniteError for NaN or infinite weights.
    """
    folder = _folder(path)
    raw = _read_json(folder / "config.json")
    _require_safetensors(folder)
    with hushed():
        model = _reader(folder, raw)(folder, raw).eval()
    require_finite("", **dict(model.named_parameters()))
    if isinstance(model, Transformer):
        model.tokenizer = _tokenizer(folder, model)
    return model


def boxed() -> list[str]:
    """The names of the models that ship with the package."""
    return sorted(folder.name for folder in BOX.iterdir() if folder.is_dir()) if BOX.is_dir() else []


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
        raise FileError(str(path), must=f"be a model folder, or one in the box ({', '.join(boxed())})", got=got)
    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "tokenizer*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = f"{got}, and the Hugging Face hub did not give it ({type(error).__name__})"
        raise FileError(str(path), must="be a model folder", got=reason) from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileError(
            str(file.parent), must=f"hold a {file.name}", got="none", todo="Name the folder that training wrote."
        )
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FileError(str(file), must="be readable JSON", got=str(error)) from error
    if not isinstance(raw, dict):
        raise FileError(str(file), must="be a JSON object", got=type(raw).__name__)
    return raw


def _require_safetensors(folder: Path) -> None:
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return
    for name in PICKLES:
        if (folder / name).is_file():
            convert = (
                f"python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('{folder / name}', "
                f"weights_only=True), '{folder / WEIGHTS}')\""
            )
            got, todo = "a pickle, which can run code", f"Convert: {convert}"
            raise FileError(str(folder / name), must="be safetensors", got=got, todo=todo)
    raise FileError(str(folder), must=f"hold {WEIGHTS}", got="none")


def _reader(folder: Path, raw: dict[str, Any]) -> Callable[[Path, dict[str, Any]], PreTrainedModel]:
    """Which of the three ways this folder is read."""
    kind = str(raw.get("model_type"))
    if is_dooms(raw):
        return _read_dooms
    if kind in FAMILY:
        return _read_llama
    if kind in MODELS:
        return _read_own
    known = ", ".join(sorted((*MODELS, *FAMILY)))
    raise ConfigError(f"{folder / 'config.json'}: model_type", must=f"be one of {known}", got=repr(kind))


def _read_own(folder: Path, raw: dict[str, Any]) -> PreTrainedModel:
    model_class = MODELS[raw["model_type"]]
    assert model_class.config_class is not None
    try:
        config = model_class.config_class.from_dict(raw)
    except ConfigError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(str(folder / "config.json"), must="hold usable values", got=str(error)) from error
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in model_class(config).state_dict().items()}
    if getattr(config, "tie_word_embeddings", False):
        wanted.pop("lm_head.weight", None)
    found = _shapes(folder / WEIGHTS)
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            must = f"have shape {wanted[key]}, as config.json says" if key in wanted else "not be there"
            raise FileError(f"{folder / WEIGHTS}: {key}", must=must, got=found.get(key, "nothing"))
    return model_class.from_pretrained(folder, config=config, local_files_only=True, dtype="auto")


def _read_llama(folder: Path, raw: dict[str, Any]) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config_from_llama(config)  # refuses before a weight is read
    files = [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        files = [folder / name for name in sorted(set(_read_json(folder / INDEX).get("weight_map", {}).values()))]
    for file in files:
        _shapes(file)
    given: dict[str, Any] = {"local_files_only": True, "dtype": "auto", "output_loading_info": True}
    reader: Any = AutoModelForCausalLM
    try:
        model, info = reader.from_pretrained(folder, config=config, **given)
    except (RuntimeError, OSError) as error:
        raise FileError(str(folder), must="hold weights that fit its config.json", got=str(error).splitlines()[0]) from error
    wrong = sorted([*info["missing_keys"], *info["unexpected_keys"], *(key[0] for key in info["mismatched_keys"])])
    if wrong:
        raise FileError(
            str(folder), must="hold the weights its config names", got=f"{wrong[0]} missing, left over or misshapen"
        )
    return Transformer.from_llama(model)


def _read_dooms(folder: Path, raw: dict[str, Any]) -> PreTrainedModel:
    shapes = _shapes(folder / WEIGHTS)
    if "transformer.wte.weight" not in shapes:
        raise FileError(f"{folder / WEIGHTS}: transformer.wte.weight", must="be in the checkpoint", got="nothing")
    config = config_from_dooms(raw, vocab_size=shapes["transformer.wte.weight"][0])
    weights = weights_from_dooms(load_file(folder / WEIGHTS), config)
    model = Transformer(config).to(weights["lm_head.weight"].dtype)  # type: ignore[arg-type]
    model.load_state_dict(weights)
    return model


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}
    except (SafetensorError, OSError) as error:
        raise FileError(str(file), must="be an undamaged safetensors file", got=str(error)) from error


def _tokenizer(folder: Path, model: Transformer) -> Any:
    """The folder's tokenizer, or None. Errors: FileError where it knows more tokens than the model has embeddings."""
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception on a damaged file
        raise FileError(str(folder / "tokenizer.json"), must="be a readable tokenizer", got=str(error)) from error
    if len(tokenizer) > model.config.vocab_size:
        must = f"know at most the model's {model.config.vocab_size} tokens"
        raise FileError(
            str(folder / "tokenizer.json"), must=must, got=len(tokenizer), todo="Use the tokenizer it was trained with."
        )
    return tokenizer

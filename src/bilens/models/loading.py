"""``bilens.load``: any model bilens knows, from its folder, with every file checked before a weight is used."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from bilens.base.errors import ConfigError, FileError
from bilens.base.numerics import require_finite
from bilens.models.classifier import Classifier

MODELS: dict[str, type[PreTrainedModel]] = {"bilens_classifier": Classifier}
PICKLES = ("pytorch_model.bin", "model.pt", "model.pth", "model.bin")


def load(path: str | Path) -> Any:
    """The model in folder ``path``, in evaluation mode.

    Errors: FileError where the folder, config.json or model.safetensors is missing, damaged, or a pickle;
    ConfigError for a model type or key bilens does not know; NotFiniteError for NaN or infinite weights.
    """
    folder = Path(path)
    model_class, config = _read_config(folder)
    weights = _find_weights(folder)
    _require_same_keys(weights, model_class, config)
    model = model_class.from_pretrained(folder, config=config, local_files_only=True, dtype="auto").eval()
    require_finite("", **dict(model.named_parameters()))
    return model


def _read_config(folder: Path) -> tuple[type[PreTrainedModel], Any]:
    file = folder / "config.json"
    if not folder.is_dir():
        raise FileError(str(folder), must="be a model folder", got="nothing there" if not folder.exists() else "a file")
    if not file.is_file():
        raise FileError(str(folder), must="hold a config.json", got="none", todo="Name the folder that training wrote.")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FileError(str(file), must="be readable JSON", got=str(error)) from error
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind not in MODELS:
        raise ConfigError(f"{file}: model_type", must=f"be one of {', '.join(sorted(MODELS))}", got=repr(kind))
    model_class = MODELS[kind]
    assert model_class.config_class is not None
    return model_class, model_class.config_class.from_dict(raw)


def _find_weights(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    if weights.is_file():
        return weights
    for name in PICKLES:
        if (folder / name).is_file():
            convert = (
                f"python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('{folder / name}', "
                f"weights_only=True), '{weights}')\""
            )
            raise FileError(
                str(folder / name), must="be safetensors", got="a pickle, which can run code", todo=f"Convert: {convert}"
            )
    raise FileError(str(folder), must="hold model.safetensors", got="none")


def _require_same_keys(weights: Path, model_class: type[PreTrainedModel], config: Any) -> None:
    try:
        with safe_open(weights, framework="pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise FileError(str(weights), must="be an undamaged safetensors file", got=str(error)) from error
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in model_class(config).state_dict().items()}
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            must = f"have shape {wanted[key]}, as config.json says" if key in wanted else "not be there"
            raise FileError(f"{weights}: {key}", must=must, got=found.get(key, "nothing"))

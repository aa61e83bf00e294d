"""Weights that ``torch.save`` wrote, read without running what else may be in the file."""

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilens.base.errors import FileError
from bilens.base.reading import require_file

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# what else Trainer pickles
NO_WEIGHTS = ("optimizer", "rng_state", "scaler", "scheduler", "training_args")
# where training scripts put the weights, and what they are of
NESTED = ("model_state_dict", "state_dict", "model", "module")
ABOUT = ("config", "model_config", "cfg", "args", "hparams", "hyper_parameters")
# what torch.compile and wrappers put before each name
PREFIXES = ("_orig_mod.", "module.", "target_model.")
# a decomposition of the weights of a model, beside them: of param-decomp
TARGET, DECOMPOSED = "target_model.", ("_components.", "ci_fn.")


@dataclass(frozen=True)
class Pickled:
    """``weights`` by name, and the configuration that was saved ``about`` them."""

    weights: dict[str, Tensor]
    about: dict[str, Any]


def pickles_in(folder: Path) -> list[Path]:
    """The files of a folder that hold pickled weights: shards of one model, or the first."""
    files = sorted(file for file in folder.iterdir() if file.suffix in PICKLES and file.is_file())
    named = [file for file in files if not file.name.startswith(NO_WEIGHTS)]
    return [file for file in named if file.name.startswith("pytorch_model")] or named[:1]


def read_pickles(files: Sequence[Path]) -> Pickled:
    """What ``torch.save`` wrote to ``files``: a state dict, or one inside {"model": …}, its names
    without what wrappers put before them; of a model saved with a decomposition of its weights, the
    model alone. Weights saved on a GPU come to the CPU.

    Nothing in a file is run: ``weights_only`` of torch. Memory: mapped where the format allows.
    Errors: FileError for a file that is missing or damaged, needs more than weights, or holds none,
    and for a weight in two files.
    """
    weights: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    for file in files:
        whole = _read(file)
        found = _state(whole)
        if not found:
            raise FileError(str(file), must="hold a dictionary of weights", got=_told(whole))
        for name in sorted(found.keys() & weights.keys()):
            raise FileError(f"{file}: {name}", must="be in one file", got="another of it")
        weights |= found
        about |= _about(whole)
    return Pickled(_apart(_bare(weights)), about)


def _read(file: Path) -> Any:
    require_file(file)
    safe: Mapping[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            return torch.load(file, mmap=True, **safe)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            return torch.load(file, **safe)
    except Exception as error:  # of a damaged file it raises whatever it meets
        needs = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and needs:
            todo = "Load it where it was made, and save model.state_dict() alone."
            got = f"a pickle that needs {needs[1]}"
            raise FileError(str(file), must="hold weights alone", got=got, todo=todo) from error
        must, got = "be an undamaged file of torch.save", str(error).partition("\n")[0]
        raise FileError(str(file), must=must, got=got) from error


def _state(whole: object) -> dict[str, Tensor]:
    """The weights of a state dict, wherever they are in it."""
    for inner in _dictionaries(whole):
        found = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
        if found and all(isinstance(name, str) for name in found):
            return found
    return {}


def _dictionaries(whole: object) -> Iterator[Mapping[Any, Any]]:
    """It and those under the names that training scripts use, the innermost first."""
    if isinstance(whole, Mapping):
        for name in NESTED:
            yield from _dictionaries(whole.get(name))
        yield whole


def _about(whole: object) -> dict[str, Any]:
    if not isinstance(whole, Mapping):
        return {}
    named = [whole[name] for name in ABOUT if isinstance(whole.get(name), Mapping)]
    return {str(key): value for key, value in named[0].items()} if named else {}


def _bare(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    target = {name: value for name, value in weights.items() if name.startswith(TARGET)}
    if target and all(name.startswith(DECOMPOSED) for name in weights.keys() - target.keys()):
        weights = target
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            return _bare({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own: what was one tensor under two names is two."""
    seen: set[int] = set()
    made = {}
    for name, value in weights.items():
        at = value.untyped_storage().data_ptr() if value.layout == torch.strided else 0
        made[name] = value.clone() if at in seen else value
        seen |= {at} - {0}
    return made


def _told(whole: object) -> str:
    if isinstance(whole, Mapping):
        return f"a dictionary of {', '.join(map(str, list(whole)[:5])) or 'nothing'}"
    return f"a {type(whole).__name__}"

"""Writing a model with all that belongs to it into a new folder, which is whole or not there."""

import shutil
from pathlib import Path
from uuid import uuid4

import torch
from transformers import PreTrainedModel

from bilens.base.errors import BilensError, FileError
from bilens.base.files import require_new_folder
from bilens.models import load
from bilens.training.run import save_model
from bilens.training.tokenizer import save_tokenizer


def export(model: PreTrainedModel, output: Path) -> None:
    """Write ``model``, its tokenizer and its generation settings to ``output``, once they have been read back the same.

    The folder is made beside ``output`` and renamed: on any failure nothing stays. Errors: FileError for a folder in use or
    one that cannot be written, and where what was written is not what ``model`` is. Memory: the model twice.
    """
    require_new_folder(output)
    made = output.absolute().parent / f".{output.name}.{uuid4().hex[:8]}"
    try:
        save_model(model, made)
        tokenizer = getattr(model, "tokenizer", None)
        if tokenizer is not None:
            save_tokenizer(tokenizer, made)
        _require_same(model, load(made), made)
        made.replace(output)  # over an empty folder too
    except BilensError as error:  # names the folder that was asked for, which is where it would have been
        who = error.who.replace(str(made), str(output))
        raise type(error)(who, must=error.must, got=error.got, todo=error.todo) from error
    except (OSError, ValueError) as error:  # transformers refuses some generation settings with a ValueError
        raise FileError(str(output), must="be a folder this model can be written to", got=error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _require_same(model: PreTrainedModel, back: PreTrainedModel, folder: Path) -> None:
    written = back.state_dict()
    for name, value in model.state_dict().items():
        if name not in written or not torch.equal(value.cpu(), written[name]):
            raise FileError(f"{folder}: {name}", must="be read back as it was written", got="something else")

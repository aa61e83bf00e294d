"""Writing a model with all that belongs to it into a new folder, which is whole or not there."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from bilens.base.errors import BilensError, FileError
from bilens.base.files import new_folder, saved_together
from bilens.models import load
from bilens.training.run import save_model
from bilens.training.tokenizer import save_tokenizer


def export(model: PreTrainedModel, output: Path) -> None:
    """Write ``model``, its tokenizer and its generation settings to ``output``, once they have been
    read back the same.

    The files are made in a temporary folder and renamed: on any failure nothing stays. Errors:
    FileError for a folder in use or one that cannot be written, and where what was written is not
    what ``model`` is. Memory: the model twice.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp()) / "model"
    >>> bilens.training.export(model, folder)
    >>> sorted(file.name for file in folder.iterdir())[:2]
    ['config.json', 'generation_config.json']
    """
    with new_folder(output), saved_together(output, "config.json") as made:
        try:
            save_model(model, made)
            tokenizer = getattr(model, "tokenizer", None)
            if tokenizer is not None:
                save_tokenizer(tokenizer, made)
            _require_same(model, load(made), made)
        # names the folder that was asked for, which is where it would have been
        except BilensError as error:
            who = error.who.replace(str(made), str(output))
            raise type(error)(who, must=error.must, got=error.got, todo=error.todo) from error
        except ValueError as error:  # transformers refuses some generation settings with one
            raise FileError(
                str(output), must="be a folder this model can be written to", got=error
            ) from error


def _require_same(model: PreTrainedModel, back: PreTrainedModel, folder: Path) -> None:
    written = back.state_dict()
    for name, value in model.state_dict().items():
        if name not in written or not torch.equal(value.cpu(), written[name]):
            raise FileError(
                f"{folder}: {name}", must="be read back as it was written", got="something else"
            )

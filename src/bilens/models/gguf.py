"""GGUF files, by transformers' own reader: dequantised, and what the reader passes over refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging
from transformers.utils.import_utils import is_gguf_available
from transformers.utils.quantization_config import GgufConfig

from bilens.base.errors import FileError
from bilens.base.reading import require_file

GGUF = ".gguf"
# The reader takes no notice of these, though they change the function.
PASSED_OVER = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
SCALING = ".rope.scaling.type"
EXACT = ("F32", "F16", "BF16", "F64")


def read_gguf(file: Path) -> tuple[PreTrainedModel, Any, list[str]]:
    """The model of a GGUF file as transformers has it, its tokenizer, and in words what the weights
    were dequantised from.

    Errors: FileError without the package ``gguf``, for a file that is damaged, of an architecture
    that the reader does not have, with weights missing, or with stretched positions, which the
    reader passes over.
    """
    if not is_gguf_available():
        todo = "pip install 'bilens[gguf]'"
        raise FileError(str(file), must="be read with the package gguf", got="none", todo=todo)
    require_file(file)
    kinds = _kinds(file)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is said below
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(gguf_file=file.name, dequantize=True),
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # of a damaged file it raises whatever it meets
        must = "be a GGUF file that transformers reads"
        raise FileError(str(file), must=must, got=str(error).partition("\n")[0]) from error
    finally:
        logging.set_verbosity(verbosity)
    stock, told = loaded
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        lost = sorted(map(str, told.get(key) or ()))
        if lost:
            raise FileError(f"{file}: {lost[0]}", must="be read", got=key.replace("_", " "))
    return stock, tokenizer, kinds


def _kinds(file: Path) -> list[str]:
    """How many tensors are of which quantised type. Errors: FileError for what would be passed
    over.
    """
    from gguf import GGUFReader  # an extra

    try:
        reader = GGUFReader(file)
    except Exception as error:
        raise FileError(str(file), must="be an undamaged GGUF file", got=error) from error
    names = {tensor.name for tensor in reader.tensors}
    scaled = [name for name in reader.fields if name.endswith(SCALING)]
    scaled = [name for name in scaled if reader.fields[name].contents() != "none"]
    for name in (*scaled, *(name for name in PASSED_OVER if name in names)):
        todo = "Load the safetensors of the same model."
        got = "stretched positions, which transformers' reader passes over"
        raise FileError(f"{file}: {name}", must="not be there", got=got, todo=todo)
    counts = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    quantised = {kind: count for kind, count in counts.items() if kind not in EXACT}
    return [f"dequantised: {count} tensors of {kind}" for kind, count in sorted(quantised.items())]

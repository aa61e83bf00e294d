"""GGUF files, by transformers' own reader: dequantised, and what the reader passes over refused."""

import math
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)
from transformers.utils import logging
from transformers.utils.import_utils import is_gguf_available
from transformers.utils.quantization_config import GgufConfig

from bilens.base.errors import FileError
from bilens.base.keys import MOST, Allowed, Anything, Keys, each
from bilens.base.reading import require_file
from bilens.models.transformer import TransformerConfig
from bilens.models.transformer.rope import FULL, PARTIAL, SLIDING, THETA

GGUF = ".gguf"
# The reader takes no notice of these, though they change the function.
PASSED_OVER = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
SCALING = ".rope.scaling.type"
EXACT = ("F32", "F16", "BF16", "F64")
TODO = "Load the safetensors of the same model."
# Keys without which the reader takes a default of its own, or leaves weights in another order.
NEEDED = (
    "attention.head_count_kv",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
)


@dataclass(frozen=True)
class _Made(Allowed):
    """What the model has that the reader made, or ``others`` that mean it too."""

    value: Any
    others: Container[Any] = ()
    todo: str = TODO

    def allows(self, value: Any) -> bool:
        if isinstance(value, float) and isinstance(self.value, int | float):
            # the file's is of float32
            return math.isclose(value, self.value, rel_tol=1e-6) or value in self.others
        return value == self.value or value in self.others

    def must(self, value: Any) -> str:
        return f"be {self.value!r}, as transformers' reader has it"


def read_gguf(file: Path) -> tuple[PreTrainedModel, Any, list[str]]:
    """The model of a GGUF file as transformers has it, its tokenizer, and in words what the weights
    were dequantised from.

    Errors: FileError without the package ``gguf``, for a file that is damaged, of an architecture
    that the reader does not have, with weights missing, or with weights or stretched positions that
    the reader passes over.
    """
    if not is_gguf_available():
        todo = "pip install 'bilens[gguf]'"
        raise FileError(str(file), must="be read with the package gguf", got="none", todo=todo)
    require_file(file)
    reader = _reader(file)
    kinds = _kinds(file, reader)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is said below
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(gguf_file=file.name, dequantize=True),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
    except Exception as error:  # of a damaged file it raises whatever it meets
        must = "be a GGUF file that transformers reads"
        raise FileError(str(file), must=must, got=str(error).partition("\n")[0]) from error
    finally:
        logging.set_verbosity(verbosity)
    stock, told = loaded
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        # of a size that is another: its name, and both sizes
        lost = sorted(name if isinstance(name, str) else name[0] for name in told.get(key) or ())
        if lost:
            raise FileError(f"{file}: {lost[0]}", must="be read", got=key.replace("_", " "))
    _require_all(file, reader, stock)
    stock._weight_conversions = None  # it is written as any other, not as it was read
    return stock, tokenizer, kinds


def require_read(file: Path, model_type: str, config: TransformerConfig) -> None:
    """Raise FileError for the first key of ``file`` that says of the model what ``config`` does not
    have, as the reader made it of a file of ``model_type``; and for one that nobody knows.
    """
    fields = _reader(file).fields
    kind = f"{fields['general.architecture'].contents()}."
    given = {
        name.removeprefix(kind): field.contents()
        for name, field in fields.items()
        if name.startswith(kind)
    }
    read = GGUF_CONFIG_MAPPING[model_type.removesuffix("_text")]
    for key in NEEDED:
        if read.get(key) and key not in given:
            raise FileError(f"{file}: {kind}{key}", must="be there", got="nothing", todo=TODO)
    # whatever a table does not hold against the model is read
    known = each((key for key, name in read.items() if name), Anything()) | _has(config)
    Keys(known, "be a key bilens understands", TODO, FileError).check(
        _unsaid(config) | given, f"{file}: {kind}"
    )


def _unsaid(config: TransformerConfig) -> dict[str, Any]:
    """What a file means that does not say it."""
    width = config.head_dim or 1
    scale = {"attention.scale": width**-0.5}
    turns = {"rope.freq_base": THETA, "rope.dimension_count": width}
    return scale | turns if config.positions == "rope" else scale


def _has(config: TransformerConfig) -> dict[str, Allowed]:
    """By key, what ``config`` has; 0 often stands for nothing."""
    width, context = config.head_dim or 1, config.max_position_embeddings
    looks = [window is not None for window in config.sliding_windows or ()]
    windows = [window for window in config.sliding_windows or () if window]
    every = range(len(looks) + 2)  # of how many layers one looks at all: 0 for none of them
    alike = [n for n in every if looks == [not n or (at + 1) % n > 0 for at in range(len(looks))]]
    experts = config.num_local_experts
    made = {
        **each(("attention.key_length", "attention.value_length"), _Made(width)),
        "attention.scale": _Made(config.score_scale(0) or width**-0.5, (0,)),
        "attention.causal": _Made(True),
        "attention.sliding_window": _Made(
            windows[0] if windows else 0, () if windows else range(context, MOST)
        ),
        "attention.sliding_window_pattern": _Made(looks, alike),
        "attn_logit_softcapping": _Made(config.attn_logit_softcapping or 0),
        "final_logit_softcapping": _Made(config.final_logit_softcapping or 0),
        "use_parallel_residual": _Made(config.parallel_residual),
        "vocab_size": _Made(config.vocab_size),
        "expert_count": _Made(experts),
        "expert_used_count": _Made(config.num_experts_per_tok if experts else 0),
        "expert_feed_forward_length": _Made(config.intermediate_size if experts else 0),
        "expert_weights_norm": _Made(config.norm_topk_prob),
        "expert_weights_scale": _Made(1, (0,)),
        "tensor_data_layout": Anything(),
    }
    return made | _turns(config) if config.positions == "rope" else made


def _turns(config: TransformerConfig) -> dict[str, Allowed]:
    """The same of RoPE, which the reader never stretches."""
    ropes = config.ropes
    full, local = ropes.get(FULL, {}), ropes.get(SLIDING, ropes.get(FULL, {}))
    turning = int((config.head_dim or 1) * full.get(PARTIAL, 1))
    return {
        "rope.dimension_count": _Made(turning),
        "rope.freq_base": _Made(full.get("rope_theta")),
        "rope.freq_base_swa": _Made(local.get("rope_theta")),
        **each(("rope.scaling.factor", "rope.scale_linear"), _Made(1, (0,))),
        "rope.scaling.type": _Made("none"),
        "rope.scaling.attn_factor": _Made(1),
        **each(("rope.scaling.original_context_length", "rope.scaling.finetuned"), Anything()),
    }


def _require_all(file: Path, reader: Any, stock: PreTrainedModel) -> None:
    """Raise FileError for the first weight of ``file`` that became none of ``stock``."""
    kind = reader.fields["general.architecture"].contents()
    read = get_gguf_hf_weights_map(stock, TENSOR_PROCESSORS.get(kind, TensorProcessor)(config={}))
    for tensor in reader.tensors:
        if tensor.name not in read and tensor.name.removesuffix(".weight") not in read:
            got = "one that transformers' reader passes over"
            raise FileError(f"{file}: {tensor.name}", must="be of the model", got=got, todo=TODO)


def _reader(file: Path) -> Any:
    """The file, of which tensors are mapped. Errors: FileError for a damaged one."""
    from gguf import GGUFReader  # an extra

    try:
        return GGUFReader(file)
    except Exception as error:
        raise FileError(str(file), must="be an undamaged GGUF file", got=error) from error


def _kinds(file: Path, reader: Any) -> list[str]:
    """How many tensors are of which quantised type. Errors: FileError for what would be passed
    over.
    """
    names = {tensor.name for tensor in reader.tensors}
    scaled = [name for name in reader.fields if name.endswith(SCALING)]
    scaled = [name for name in scaled if reader.fields[name].contents() != "none"]
    for name in (*scaled, *(name for name in PASSED_OVER if name in names)):
        got = "stretched positions, which transformers' reader passes over"
        raise FileError(f"{file}: {name}", must="not be there", got=got, todo=TODO)
    counts = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    quantised = {kind: count for kind, count in counts.items() if kind not in EXACT}
    return [f"dequantised: {count} tensors of {kind}" for kind, count in sorted(quantised.items())]

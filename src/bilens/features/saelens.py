"""SAELens's folders: cfg.json and sae_weights.safetensors, read and written without it.

What would change the mathematics and is not understood is refused by name; what is about a run or a
model is kept. What is linear is folded on reading, exactly: rescale_acts_by_decoder_norm (top-k
of pre·‖W_dec‖, decoded by rows of norm 1, is the top-k of an encoder scaled by these norms; half
types come out in float32, as the product does not fit in them), a batchtopk run's one threshold
(its latents' thresholds are all that), a scaling_factor of ones (nothing), and the scaling or
whitening of inputs in a checkpoint of a run, whose numbers lie beside it. Where they do not,
SAELens reads its inputs as they are, and so is it here, which a warning says.
"""

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bilens.base.errors import ArgumentError, ConfigError, FileError
from bilens.base.files import atomic_write
from bilens.base.numerics import (
    TOLERANCE,
    dtype_name,
    is_number,
    is_whole,
    near_one,
    scaled,
    working_dtype,
)
from bilens.base.reading import naming, read_json_object
from bilens.base.weights import load_weights
from bilens.features.latents import NORMS, Pursuit

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
INFINITE = float("inf")
VERSION = "6.0.0"  # of the layout written; SAELens takes a folder without one for its older layout

_PLAIN = ("W_enc", "W_dec", "b_enc", "b_dec")
TENSORS: dict[str, tuple[str, ...]] = {
    "standard": _PLAIN,
    "topk": _PLAIN,
    "batchtopk": _PLAIN,
    "abstopk": _PLAIN,
    "signed_topk": _PLAIN,
    "matching_pursuit": ("W_enc", "W_dec", "b_dec"),
    "jumprelu": (*_PLAIN, "threshold"),
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "r_mag", "b_mag"),
    "transcoder": _PLAIN,
    "skip_transcoder": (*_PLAIN, "W_skip"),
    "jumprelu_transcoder": (*_PLAIN, "threshold"),
    "jumprelu_skip_transcoder": (*_PLAIN, "threshold", "W_skip"),
}
"""The architectures, by SAELens's names, and the tensors of each; signed_topk is none of its, and
is opened here alone.
"""
TIED = ("matching_pursuit",)  # W_enc is W_dec transposed, and does not lie in the file

# runs in progress; finished ones lie there as jumprelu
BATCHED = ("batchtopk", "matryoshka_batchtopk")

# Of where a dictionary comes from: in version 6 these lie in "metadata", where any key may; before,
# beside the others.
PROVENANCE = {
    "context_size", "dataset_path", "dataset_trust_remote_code", "exclude_special_tokens",
    "hf_hook_name", "hf_hook_name_out", "hook_layer", "hook_layer_out", "hook_name",
    "hook_name_out", "model_class_name", "model_from_pretrained_kwargs", "model_name",
    "neuronpedia_id", "prepend_bos", "sae_lens_training_version", "sae_lens_version",
    "seqpos_slice",
}  # fmt: skip
# How it was trained, which a training checkpoint says beside its shape.
RECIPE = {
    "aux_loss_coefficient", "decoder_init_norm", "jumprelu_bandwidth", "jumprelu_init_threshold",
    "jumprelu_sparsity_loss_mode", "jumprelu_ste_to_input", "jumprelu_tanh_scale", "l0_coefficient",
    "l0_warm_up_steps", "l1_coefficient", "l1_warm_up_steps", "lp_norm", "matryoshka_widths",
    "pre_act_loss_coefficient", "target_l0", "topk_threshold_lr", "use_matryoshka_aux_loss",
    "use_sparse_activations",
}  # fmt: skip
# What SAELens's runners say of a run beside all that, in folders of every version: it changes
# nothing that is computed.
RUNNER = {
    "act_store_device", "activations_mixing_fraction", "adam_beta1", "adam_beta2", "autocast",
    "autocast_lm", "b_dec_init_method", "cached_activations_path", "checkpoint_path", "compile_llm",
    "compile_sae", "dead_feature_estimation_method", "dead_feature_threshold",
    "dead_feature_window", "decoder_heuristic_init", "decoder_heuristic_init_norm",
    "decoder_orthogonal_init", "disable_concat_sequences", "eval_batch_size_prompts",
    "eval_every_n_wandb_logs", "expansion_factor", "feature_reinit_scale",
    "feature_sampling_method", "feature_sampling_window", "finetuning_method", "finetuning_tokens",
    "from_pretrained_path", "ghost_grads", "hook_eval", "init_encoder_as_decoder_transpose",
    "is_dataset_tokenized", "llm_compilation_mode", "llm_device", "log_activations_store_to_wandb",
    "log_final_model_to_wandb", "log_optimizer_state_to_wandb", "log_to_wandb",
    "log_weights_to_wandb", "logger", "lr", "lr_decay_steps", "lr_end", "lr_scheduler_name",
    "lr_warm_up_steps", "model_kwargs", "mse_loss_normalization", "n_batches_for_norm_estimate",
    "n_batches_in_buffer", "n_checkpoints", "n_eval_batches", "n_restart_cycles", "noise_scale",
    "noise_std", "normalize_sae_decoder", "output_path", "prefetch_llm_batches", "resample_batches",
    "resume", "resume_from_checkpoint", "run_name", "sae_compilation_mode", "save_final_checkpoint",
    "scale_sparsity_penalty_by_decoder_norm", "seed", "sequence_separator_token",
    "store_batch_size", "store_batch_size_prompts", "streaming", "tokens_per_buffer",
    "total_training_tokens", "train_batch_size", "train_batch_size_tokens", "training_tokens",
    "use_cached_activations", "use_chat_formatting", "use_ghost_grads", "verbose", "wandb_entity",
    "wandb_id", "wandb_log_frequency", "wandb_project",
}  # fmt: skip
DEFAULT_K = 100  # SAELens's, of a topk dictionary that does not say
KEEPS_K = ("topk", "abstopk", "signed_topk")  # so many a row
SHAPE = {
    "architecture",
    "d_in",
    "d_out",
    "d_sae",
    "device",
    "dtype",
    "apply_b_dec_to_input",
    "k",
    "metadata",
}
# Of a pursuit, and of no other.
STOPS = {"residual_threshold", "max_iterations", "stop_on_duplicate_support"}
LINEAR = ("expected_average_only_in", "covariance_whitening")
# Keys that may hold nothing but these values: any other makes other mathematics.
ONLY: dict[str, tuple[Any, ...]] = {
    # but for the linear ones, and those that are a Dictionary's normalisation
    "normalize_activations": ("none", None, False, True, *LINEAR, *NORMS),
    "reshape_activations": ("none", None, "hook_z"),  # heads side by side, which changes no number
    "hook_head_index": (None,),
    "hook_head_index_out": (None,),
    # a factor that is not one is refused with the tensors
    "finetuning_scaling_factor": (False, None, True),
    "activation_fn_kwargs": (None, {}),
    "rescale_acts_by_decoder_norm": (False, True),
    "apply_b_dec_to_input": (True, False),
    "activation_fn": ("relu",),
}
OLD_NAMES: dict[str, str] = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}


def is_transcoder(architecture: str) -> bool:
    """Whether it writes another place than it reads."""
    return architecture.endswith("transcoder")


def write(folder: Path, tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    """Write both files: whole beside their places first, then each over its own, cfg.json last."""
    kept = {
        name: (t.mT if name == "W_skip" else t).detach().cpu().contiguous().clone()
        for name, t in tensors.items()
        if not (name == "W_enc" and fields["architecture"] in TIED)
    }
    try:
        text = json.dumps(_config(kept, fields), indent=2)
    except (TypeError, ValueError) as error:
        raise ArgumentError("Dictionary.meta", must="hold what JSON can", got=str(error)) from error
    _require_kept(json.loads(text), fields)
    with atomic_write(folder / CONFIG) as config, atomic_write(folder / WEIGHTS) as weights:
        config.write_text(text, encoding="utf-8")
        try:
            save_file(kept, weights, metadata={"format": "pt"})
        except SafetensorError as error:
            raise FileError(str(folder / WEIGHTS), must="be writable", got=str(error)) from error


def read(folder: Path) -> dict[str, Any]:
    """What a Dictionary is made of, by its fields' names. Errors: as ``Dictionary.load``."""
    config = _known(folder, _modern(_read_config(folder / CONFIG)))
    tensors = _read_weights(folder / WEIGHTS, config["dtype"])
    if config["architecture"] in BATCHED:
        _settle(config, tensors)
    if config["architecture"] in TIED and "W_dec" in tensors:
        _tie(config, tensors)
    _require_tensors(folder, config, tensors)
    if config.pop("rescale_acts_by_decoder_norm", False):
        _rescale(folder, tensors)
    if config.get("normalize_activations") in (True, *LINEAR):
        _unscale(folder, config, tensors)
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].mT.contiguous()
    with naming(folder / CONFIG):
        return {"b_enc": None, **tensors, **_fields(config)}


def _require_kept(written: dict[str, Any], fields: dict[str, Any]) -> None:
    """Raise ArgumentError for a ``meta`` that whoever reads cfg.json would not understand, or by
    which it would be another dictionary's.
    """
    if own := sorted((SHAPE | STOPS) - {"metadata"} & set(fields["meta"])):
        must = "hold what no field does"
        raise ArgumentError("Dictionary.meta", must=must, got=", ".join(own))
    try:
        again = _fields(_known(Path(), _modern(written)))
    except ConfigError as error:
        who = f"Dictionary.meta, read as {error.who},"
        raise ArgumentError(who, must=error.must, got=error.got) from error
    for name in ("normalisation", "centred", "hook", "pursuit"):
        if again[name] != fields[name]:
            must = f"say no other {name} than {fields[name]!r}"
            raise ArgumentError("Dictionary.meta", must=must, got=repr(again[name]))


def _config(tensors: dict[str, Tensor], fields: dict[str, Any]) -> dict[str, Any]:
    """cfg.json, as SAELens 6 lays it out."""
    kind, meta, norm = fields["architecture"], fields["meta"], fields["normalisation"]
    if norm == "none":  # a scaling that was not folded is no normalisation
        norm = meta.get("normalize_activations", norm)
    (d_sae, d_out), d_in = tensors["W_dec"].shape, tensors["b_dec"].shape[0]
    d_in = tensors["W_enc"].shape[0] if "W_enc" in tensors else d_in
    metadata: dict[str, Any] = {
        "sae_lens_version": VERSION,
        **meta.get("metadata", {}),
        "hook_name": fields["hook"],
    }
    if not _is_modern({"metadata": metadata}):  # it is about to be
        metadata["sae_lens_version"] = VERSION
    if is_transcoder(kind):
        metadata["hook_name_out"] = fields["hook_out"]
    if kind == "batchtopk":
        metadata |= {
            "training_architecture": kind,
            "training_architecture_details": {"k": fields["k"]},
        }
    return {
        **{name: value for name, value in meta.items() if name != "metadata"},
        "architecture": "jumprelu" if kind == "batchtopk" else kind,
        "d_in": d_in,
        "d_sae": d_sae,
        **({"d_out": d_out} if is_transcoder(kind) else {}),
        **({"k": fields["k"], "rescale_acts_by_decoder_norm": False} if kind in KEEPS_K else {}),
        **({} if fields["pursuit"] is None else asdict(fields["pursuit"])),
        "dtype": dtype_name(tensors["W_dec"].dtype),
        "device": "cpu",
        "apply_b_dec_to_input": fields["centred"],
        "normalize_activations": norm,
        "reshape_activations": meta.get("reshape_activations", "none"),
        "metadata": metadata,
    }


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Dictionary that are no tensors; what no field holds goes to ``meta``."""
    kind, metadata = config["architecture"], dict(config["metadata"])
    place = metadata.pop("hook_name", None) or ""
    place_out = (metadata.pop("hook_name_out", None) or "") if is_transcoder(kind) else ""
    kept = {name: config[name] for name in config if name not in SHAPE | STOPS and name not in ONLY}
    norm, reshaped = config.get("normalize_activations"), config.get("reshape_activations")
    if norm in (True, *LINEAR):
        kept["normalize_activations"] = LINEAR[0] if norm is True else norm
    if reshaped == "hook_z":
        kept["reshape_activations"] = reshaped
    return {
        "architecture": kind,
        "k": config.get("k") if kind in KEEPS_K else None,
        "normalisation": norm if norm in NORMS else "none",
        "pursuit": Pursuit(**_picked(config, STOPS)) if kind in TIED else None,
        "hook": place,
        "hook_out": place_out,
        # as SAELens does where it is not said
        "centred": config.get("apply_b_dec_to_input", not is_transcoder(kind)),
        "meta": {**kept, "metadata": metadata},
    }


def _picked(config: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: config[name] for name in sorted(names & set(config))}


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        todo = f"A dictionary is a folder of {CONFIG} and {WEIGHTS}."
        raise FileError(str(path), must="be there", got="no such file", todo=todo)
    config = read_json_object(path)
    if not isinstance(config.get("metadata", {}), dict):
        raise FileError(
            f"{path}: metadata", must="be an object", got=type(config["metadata"]).__name__
        )
    return config


def _read_weights(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors in the dtype of cfg.json, as SAELens casts them."""
    if not path.is_file():
        raise FileError(
            str(path),
            must="be there",
            got="no such file",
            todo=f"A dictionary is {CONFIG} and {WEIGHTS}.",
        )
    tensors = {name: tensor.to(dtype) for name, tensor in load_weights(path).items()}
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        factor = tensors.get(name)
        if factor is not None and bool((factor == 1).all()):
            del tensors[name]
    return tensors


def _is_modern(config: dict[str, Any]) -> bool:
    """Whether it is laid out as SAELens does since version 6."""
    version = str(
        config.get("sae_lens_version") or config.get("metadata", {}).get("sae_lens_version") or "0"
    )
    return version.split(".")[0].isdigit() and int(version.split(".")[0]) >= 6


def _modern(config: dict[str, Any]) -> dict[str, Any]:
    """A cfg.json of SAELens before 6, where a place lay beside the sizes, in the layout of 6."""
    if _is_modern(config):
        return config
    lying: dict[str, Any] = {**config.pop("metadata", {}), **config}
    flat: dict[str, Any] = {OLD_NAMES.get(name, name): value for name, value in lying.items()}
    kwargs = flat.pop("activation_fn_kwargs", None) or {}
    # SAELens's top-k ends in a relu; without k it never ran
    if flat.get("activation_fn") == "topk":
        flat |= {"architecture": "topk", "k": None, "activation_fn": "relu"}
    if isinstance(kwargs, dict) and "k" in kwargs:
        k = kwargs.pop("k")  # of a top-k alone
        flat |= {"k": k} if flat.get("architecture") == "topk" else {}
    if kwargs:
        flat["activation_fn_kwargs"] = kwargs
    if "hook_z" in str(flat.get("hook_name")):
        flat.setdefault("reshape_activations", "hook_z")
    metadata = {name: flat.pop(name) for name in sorted(PROVENANCE & set(flat))}
    return {
        "architecture": "standard",
        **flat,
        "metadata": {**metadata, "sae_lens_version": VERSION},
    }


def _known(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """``config`` once every key of it is understood, its dtype as torch's."""
    who = str(folder / CONFIG)
    kind = config.get("architecture")
    if not isinstance(kind, str) or kind not in (*TENSORS, *BATCHED):
        raise ConfigError(
            f"{who}: architecture", must=f"be one of {', '.join(TENSORS)}", got=repr(kind)
        )
    metadata = config.setdefault("metadata", {})
    if kind in KEEPS_K:
        config = {"k": DEFAULT_K} | config
    known = SHAPE | RECIPE | RUNNER | PROVENANCE | set(ONLY) | (STOPS if kind in TIED else set())
    if unknown := sorted(set(config) - known):
        raise ConfigError(
            who,
            must="have known keys only",
            got=", ".join(unknown),
            todo="Remove from the file what does not change what the dictionary computes.",
        )
    if config.get("rescale_acts_by_decoder_norm") and kind not in (*KEEPS_K, *BATCHED):
        raise ConfigError(
            f"{who}: rescale_acts_by_decoder_norm", must=f"be false for {kind}", got="true"
        )
    for name, allowed in ONLY.items():
        written = [json.dumps(value) for value in allowed]  # in Python 0 is False, there it is not
        for value in (json.dumps(place[name]) for place in (config, metadata) if name in place):
            if value not in written:
                raise ConfigError(f"{who}: {name}", must=f"be {' or '.join(written)}", got=value)
    for name in ("d_in", "d_sae", *(("d_out",) if is_transcoder(kind) else ())):
        if not is_whole(config.get(name)):
            raise ConfigError(
                f"{who}: {name}", must="be a whole number", got=json.dumps(config.get(name))
            )
    for name in ("hook_name", "hook_name_out"):
        if not isinstance(metadata.get(name) or "", str):
            raise ConfigError(f"{who}: {name}", must="be a text", got=json.dumps(metadata[name]))
    dtypes = {dtype_name(dtype): dtype for dtype in TOLERANCE}
    named = str(config.get("dtype", "float32")).removeprefix("torch.")
    if named not in dtypes:
        raise ConfigError(f"{who}: dtype", must=f"be one of {', '.join(dtypes)}", got=named)
    return {**config, "dtype": dtypes[named]}


def _settle(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """A batchtopk run as the jumprelu dictionary it ends as: every latent's threshold is the run's
    one.
    """
    config["architecture"] = "jumprelu"
    if "b_enc" in tensors and "topk_threshold" in tensors and tensors["topk_threshold"].ndim == 0:
        tensors["threshold"] = torch.ones_like(tensors["b_enc"]) * tensors.pop("topk_threshold")


def _tie(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """The encoder that does not lie in the file; and SAELens adds b_dec only where it took it
    off.
    """
    tensors["W_enc"] = tensors["W_dec"].mT
    if not config.get("apply_b_dec_to_input", True) and "b_dec" in tensors:
        tensors["b_dec"] = torch.zeros_like(tensors["b_dec"])


def _unscale(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Fold z = (x − m) A, which a run's inputs went through, and x̂ = ẑ A⁻¹ + m: in float64, rounded
    once.

    Without the file of the run that holds them the dictionary is as SAELens reads it, of z.
    """
    said = _said(folder, config["normalize_activations"])
    if said is None:
        told = f"{folder}: it was trained on inputs that were scaled first, by what the folder"
        warnings.warn(f"{told} does not hold: as in SAELens it is read unscaled", stacklevel=5)
        return
    kind = config["architecture"]
    if kind in TIED or is_transcoder(kind):
        must = f"lie beside no {kind}, into whose weights it does not fold"
        raise ConfigError(str(folder / SCALER), must=must, got="one")
    m, there, back = _scaling(folder, said, tensors["W_enc"].shape[0])
    dtype = working_dtype(tensors["W_dec"].dtype)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    exact["W_enc"] = there @ exact["W_enc"]
    if not config.get("apply_b_dec_to_input", True):
        moved = m @ exact["W_enc"]
        shifts = {"b_enc": moved, "b_gate": moved}
        if "r_mag" in exact:
            shifts["b_mag"] = moved * exact["r_mag"].exp()
        exact |= {name: exact[name] - by for name, by in shifts.items() if name in exact}
    exact |= {"W_dec": exact["W_dec"] @ back, "b_dec": exact["b_dec"] @ back + m}
    tensors |= {name: tensor.to(dtype) for name, tensor in exact.items()}
    config["normalize_activations"] = "none"


def _said(folder: Path, kind: object) -> dict[str, Any] | None:
    """What the file of a run says of its scaling of that ``kind``; None where it holds none.
    Errors: FileError.
    """
    file = folder / SCALER
    if not file.exists():
        return None
    said = read_json_object(file)
    if unknown := sorted(set(said) - {"scaling_factor", "has_whitening"}):
        raise FileError(str(file), must="have known keys only", got=", ".join(unknown))
    white = said.get("has_whitening") or False
    if not isinstance(white, bool):
        must, got = "be true or false", json.dumps(white)
        raise FileError(f"{file}: has_whitening", must=must, got=got)
    factor = said.get("scaling_factor")
    if factor is not None and (not is_number(factor) or not 0 < factor < INFINITE):
        must = "be a number above 0"
        raise FileError(f"{file}: scaling_factor", must=must, got=json.dumps(factor))
    there = white if kind == LINEAR[1] else white or factor is not None
    return said if there else None


def _scaling(folder: Path, said: dict[str, Any], d: int) -> tuple[Tensor, Tensor, Tensor]:
    """m, A and A⁻¹ of a run, in float64: x is scaled by a factor, then whitened."""
    factor = said.get("scaling_factor")
    factor = 1.0 if factor is None else float(factor)
    m, there = (
        torch.zeros(d, dtype=torch.float64, device="cpu"),
        torch.eye(d, dtype=torch.float64, device="cpu"),
    )
    back = there
    if said.get("has_whitening"):
        found = {name: t.double() for name, t in load_weights(folder / WHITENING).items()}
        shapes = {"mean": (d,), "matrix": (d, d), "inverse_matrix": (d, d)}
        got = {name: tuple(t.shape) for name, t in found.items()}
        if got != shapes:
            raise FileError(str(folder / WHITENING), must=f"hold {shapes}", got=got)
        m, there, back = found["mean"], found["matrix"], found["inverse_matrix"]
    return m / factor, there * factor, back / factor


def _rescale(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fold the norms of W_dec's rows into the encoder, rounding once: in float64, then to what
    holds the product.
    """
    dtype = working_dtype(tensors["W_dec"].dtype)
    decoder, power = near_one(tensors["W_dec"].double())
    norms = decoder.norm(dim=-1)
    if not bool((norms > 0).all()):
        raise FileError(
            str(folder / WEIGHTS),
            must="have no zero row in W_dec where rescale_acts_by_decoder_norm is true",
            got=f"{int((~(norms > 0)).sum())} such rows",
        )
    folded = {name: scaled(tensors[name].double() * norms, power) for name in ("W_enc", "b_enc")}
    tensors |= {name: tensor.to(dtype) for name, tensor in (tensors | folded).items()}
    tensors["W_dec"] = (decoder / norms[:, None]).to(dtype)


def _require_tensors(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise FileError unless the tensors are those of the architecture, in the sizes that cfg.json
    says.
    """
    kind, who = config["architecture"], str(folder / WEIGHTS)
    missing, extra = (
        sorted(set(TENSORS[kind]) - set(tensors)),
        sorted(set(tensors) - set(TENSORS[kind])),
    )
    if missing or extra:
        got = "; ".join(
            f"{what} {', '.join(names)}"
            for what, names in (("no", missing), ("also", extra))
            if names
        )
        raise FileError(
            who, must=f"hold {', '.join(TENSORS[kind])}, as {CONFIG} says {kind}", got=got
        )
    d_in, latents = config["d_in"], config["d_sae"]
    d_out = config["d_out"] if is_transcoder(kind) else d_in
    shapes = {
        "W_enc": (d_in, latents),
        "W_dec": (latents, d_out),
        "b_dec": (d_out,),
        "W_skip": (d_out, d_in),
    }
    for name in TENSORS[kind]:
        got, shape = tuple(tensors[name].shape), shapes.get(name, (latents,))
        if got != shape:
            raise FileError(f"{who}: {name}", must=f"be {shape}, as {CONFIG} says", got=got)

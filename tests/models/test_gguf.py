"""GGUF files, written with the package's own writer: the weights are its dequantised ones."""

from functools import partial

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf.quants import dequantize, quantize
from transformers import (
    AutoModelForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.utils.quantization_config import GgufConfig

import bilens
from bilens.base.errors import ConfigError, FileError
from bilens.models import from_transformers
from bilens.models.families import NAMES
from bilens.models.gguf import require_read

D, HEADS, GROUPS, HIDDEN, LAYERS, V = 64, 4, 2, 96, 2, 64
KIND = gguf.GGMLQuantizationType.Q8_0
BLOCK = {
    "attn_norm": (D,), "ffn_norm": (D,), "attn_q": (D, D), "attn_k": (D // 2, D),
    "attn_v": (D // 2, D), "attn_output": (D, D), "ffn_gate": (HIDDEN, D), "ffn_up": (HIDDEN, D),
    "ffn_down": (D, HIDDEN),
}  # fmt: skip


KEYS = {
    "context_length": 32, "embedding_length": D, "block_count": LAYERS,
    "feed_forward_length": HIDDEN, "attention.head_count": HEADS, "attention.head_count_kv": GROUPS,
    "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e4,
    "rope.dimension_count": D // HEADS, "vocab_size": V,
}  # fmt: skip


def written(file, kind, keys, tensors):
    """A file of that kind with these keys, weights (and how they are quantised) and 64 tokens."""
    writer = gguf.GGUFWriter(str(file), kind)
    writer.add_name("tiny")
    adds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    adds |= {str: writer.add_string, list: writer.add_array}
    for key, value in keys.items():
        adds[type(value)](f"{kind}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(c) for c in range(33, 33 + V - 3)]
    writer.add_token_list(["<s>", "</s>", *letters, '!"'])
    writer.add_token_types([3, 3] + [1] * (V - 2))
    writer.add_token_merges(['! "'])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(1)
    for name, (value, quantised) in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(value), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(file, keys=None, without=(), beside=()):
    """A tiny Llama with quantised matrices; the weights that went in, by name."""
    drawn = np.random.default_rng(0)
    shapes = {"token_embd": (V, D), "output": (V, D), "output_norm": (D,)}
    shapes |= {f"blk.{n}.{name}": shape for n in range(LAYERS) for name, shape in BLOCK.items()}
    shapes |= dict.fromkeys(beside, (D,))
    made, tensors = {}, {}
    for name, shape in shapes.items():
        made[name] = drawn.standard_normal(shape).astype(np.float32) / 4 + (len(shape) == 1)
        whole = len(shape) == 1
        tensors[f"{name}.weight"] = (
            (made[name], None) if whole else (quantize(made[name], KIND), KIND)
        )
    tensors = {name: given for name, given in tensors.items() if name not in without}
    said = {key: value for key, value in {**KEYS, **(keys or {})}.items() if key not in without}
    written(file, "llama", said, tensors)
    return made


@torch.no_grad()
def test_a_gguf_file_is_dequantised_and_says_so(tmp_path, close):
    given = write(tmp_path / "tiny.gguf")
    model, ids = bilens.load(tmp_path / "tiny.gguf"), torch.arange(2, 11)[None]
    truth = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32,
        quantization_config=GgufConfig(gguf_file="tiny.gguf", dequantize=True),
    )  # fmt: skip
    close(model(ids).logits, truth(ids).logits, tol=1e-6)
    for name, ours in (("token_embd", model.W_E), ("blk.1.ffn_up", model.W_in[1].T)):
        rounded = dequantize(quantize(given[name], KIND), KIND)
        assert torch.equal(ours, torch.from_numpy(rounded))
    assert model.config.folds == ["dequantised: 16 tensors of Q8_0"]
    assert model.tokenizer("#$%")["input_ids"] == [4, 5, 6]
    assert bilens.expand(model, "#$%").opaque == ()
    model.save_pretrained(tmp_path / "out")
    assert bilens.load(tmp_path / "out").config.folds == model.config.folds


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"keys": {"rope.scaling.type": "linear"}}, "scaling.type must not be there; got stretch"),
        ({"keys": {"attention.sliding_window": 4}}, "llama.attention.sliding_window must be 0,"),
        ({"keys": {"feed_forward_length": 64}}, "proj.weight must be read; got mismatched keys"),
        ({"without": ["blk.1.ffn_up.weight"]}, "up_proj.weight must be read; got missing keys"),
        ({"beside": ["blk.2.attn_norm"]}, "blk.2.attn_norm.weight must be of the model; got one"),
        (b"junk" * 9, "must be an undamaged GGUF file"),
        (None, "must be a model folder"),
    ],
    ids=["stretched", "window", "sizes", "missing", "layers", "junk", "not there"],
)  # fmt: skip
def test_what_would_be_passed_over_is_refused(how, says, tmp_path, refuses):
    file = tmp_path / "tiny.gguf"
    if isinstance(how, bytes):
        file.write_bytes(how)
    elif how is not None:
        write(file, **how)
    refuses(FileError, lambda: bilens.load(file), says)


SMALL = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
SMALL_STABLE = {key: value for key, value in SMALL.items() if "rms" not in key}
SAID = {**KEYS, "embedding_length": 32, "feed_forward_length": 48, "rope.dimension_count": 8}
WINDOWS = {"head_dim": 256, "sliding_window": 5}
LOOKS = {"attention.key_length": 256, "attention.sliding_window": 5, "rope.dimension_count": 256}
EXPERTS = {
    "head_dim": 16, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 768,
    "norm_topk_prob": True,
}  # fmt: skip
KINDS = {  # the class and its configuration, and what a file of it says
    "gpt2": (
        "GPT2", {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
                 "eos_token_id": 1},
        {"embedding_length": 32, "block_count": 2, "feed_forward_length": 128,
         "attention.head_count": 4, "attention.layer_norm_epsilon": 1e-5},
    ),
    "qwen3moe": (
        "Qwen3Moe", {**SMALL, **EXPERTS},
        {**SAID, "attention.key_length": 16, "rope.dimension_count": 16, "expert_count": 2,
         "expert_used_count": 1, "expert_feed_forward_length": 768},
    ),
    "gemma2": ("Gemma2", {**SMALL, **WINDOWS}, {**SAID, **LOOKS, "attn_logit_softcapping": 50.0}),
    "llama": ("Llama", SMALL, SAID),
    "phi3": ("Phi3", SMALL, SAID),
    "stablelm": ("StableLm", SMALL_STABLE, {
        **{key: value for key, value in SAID.items() if "rms" not in key},
        "attention.layer_norm_epsilon": 1e-5, "rope.dimension_count": 2,
    }),
    "gemma3": (
        "Gemma3Text", {**SMALL, **WINDOWS, "num_hidden_layers": 6},
        {**SAID, **LOOKS, "block_count": 6, "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4,
         "attention.sliding_window_pattern": 6},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("llama", {"rope.scaling.factor": 4.0}, "rope.scaling.factor must be 1, as transformers'"),
        ("llama", {"rope.scale_linear": 4.0}, "llama.rope.scale_linear must be 1,"),
        ("llama", {"attention.scale": 0.5}, "llama.attention.scale must be 0.35"),
        ("llama", {"attention.causal": False}, "llama.attention.causal must be True,"),
        ("llama", {"expert_count": 8}, "llama.expert_count must be 0,"),
        ("llama", {"logit_scale": 2.0}, "llama.logit_scale must be a key bilens understands; got"),
        ("llama", {"attention.head_count_kv": None}, "attention.head_count_kv must be there; got"),
        ("stablelm", {"attention.layer_norm_epsilon": None}, "norm_epsilon must be there; got"),
        ("stablelm", {"rope.freq_base": 1e6}, "stablelm.rope.freq_base must be 10000.0,"),
        ("stablelm", {"rope.dimension_count": None}, "rope.dimension_count must be 2,"),
        ("phi3", {"rope.dimension_count": 4}, "phi3.rope.dimension_count must be 8,"),
        ("gpt2", {"vocab_size": V + 1}, "gpt2.vocab_size must be 64,"),
        ("qwen3moe", {"expert_weights_norm": False}, "expert_weights_norm must be True,"),
        ("gemma2", {"attention.key_length": 128}, "gemma2.attention.key_length must be 256,"),
        ("gemma2", {"final_logit_softcapping": 3.0}, "final_logit_softcapping must be 30"),
        ("gemma3", {"attention.sliding_window_pattern": 3}, "window_pattern must be [True, True"),
        ("gemma3", {"rope.freq_base_swa": 1e6}, "gemma3.rope.freq_base_swa must be 10000"),
    ],
)
def test_keys_that_say_more_than_the_reader_reads_are_refused(
    kind, changes, says, tmp_path, refuses
):
    name, given, said = KINDS[kind]
    stock = getattr(transformers, f"{name}Config")(**given)
    config = NAMES[stock.model_type].config(stock.to_dict(), {})
    written(tmp_path / "a.gguf", kind, said, {})
    require_read(tmp_path / "a.gguf", stock.model_type, config)
    changed = {key: value for key, value in {**said, **changes}.items() if value is not None}
    written(tmp_path / "b.gguf", kind, changed, {})
    call = partial(require_read, tmp_path / "b.gguf", stock.model_type, config)
    refuses(FileError, call, says)


def test_scores_that_no_key_scales_are_refused(tmp_path, refuses):
    """Of Gemma 2 the reader takes 256^-½, whatever the heads; llama.cpp that of their width."""
    given = {**SMALL, **WINDOWS, "head_dim": 128}
    config = NAMES["gemma2"].config(transformers.Gemma2Config(**given).to_dict(), {})
    narrow = {"attention.key_length": 128, "rope.dimension_count": 128}
    written(tmp_path / "a.gguf", "gemma2", {**KINDS["gemma2"][2], **narrow}, {})
    says = "gemma2.attention.scale must be 0.0625,"
    refuses(FileError, lambda: require_read(tmp_path / "a.gguf", "gemma2", config), says)


def tensors_of(stock, kind):
    """The weights of a model as llama.cpp writes them, by its names for them."""
    (arch,) = [arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == kind]
    names, made = gguf.get_tensor_name_map(arch, stock.config.num_hidden_layers), {}
    for name, weight in stock.state_dict().items():
        module, _, last = name.rpartition(".")
        value = weight.numpy() + (kind.startswith("gemma") and name.endswith("norm.weight"))
        if last.endswith("_proj"):  # experts, in one
            at = f"blk.{name.split('.')[2]}.ffn"
            parts = np.split(value, 2, 1) if last == "gate_up_proj" else [value]
            sides = ("gate", "up") if last == "gate_up_proj" else ("down",)
            made |= {
                f"{at}_{side}_exps.weight": part for side, part in zip(sides, parts, strict=True)
            }
        elif not (stock.config.tie_word_embeddings and name.startswith("lm_head")):
            turned = kind == "gpt2" and value.ndim == 2 and ".h." in name
            made[f"{names.get_name(module)}.{last}"] = value.T if turned else value
    return {name: (value, None) for name, value in made.items()}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "qwen3moe", "gemma2"])
def test_files_of_other_kinds_have_the_logits_of_the_model_they_were_made_of(kind, tmp_path, close):
    name, given, said = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**given)
    stock = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for weight in stock.parameters():
        weight.add_(torch.randn_like(weight) / 8)
    written(tmp_path / "a.gguf", kind, said, tensors_of(stock, kind))
    ids = torch.arange(2, 22)[None]
    close(bilens.load(tmp_path / "a.gguf")(ids).logits, stock(ids).logits, tol=1e-5)


@torch.no_grad()
def test_a_model_in_memory(close, refuses):
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1}
    stock = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).eval()
    model, ids = from_transformers(stock), torch.arange(5)[None]
    close(model(ids).logits, stock(ids).logits, tol=1e-6)
    model.W_E.add_(1)  # the weights are its own
    assert not torch.equal(model.W_E, stock.model.embed_tokens.weight)
    other = GPTJForCausalLM(GPTJConfig(vocab_size=9, n_embd=8, n_layer=1, n_head=2, rotary_dim=2))
    refuses(ConfigError, lambda: from_transformers(other), "model_type must be one of")

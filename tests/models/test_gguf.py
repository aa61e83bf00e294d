"""GGUF files, written with the package's own writer: the weights are its dequantised ones."""

import gguf
import numpy as np
import pytest
import torch
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

D, HEADS, GROUPS, HIDDEN, LAYERS, V = 64, 4, 2, 96, 2, 64
KIND = gguf.GGMLQuantizationType.Q8_0
BLOCK = {
    "attn_norm": (D,), "ffn_norm": (D,), "attn_q": (D, D), "attn_k": (D // 2, D),
    "attn_v": (D // 2, D), "attn_output": (D, D), "ffn_gate": (HIDDEN, D), "ffn_up": (HIDDEN, D),
    "ffn_down": (D, HIDDEN),
}  # fmt: skip


def write(file, scaling=None, without=None):
    """A tiny Llama with quantised matrices; the weights that went in, by name."""
    writer, drawn = gguf.GGUFWriter(str(file), "llama"), np.random.default_rng(0)
    writer.add_name("tiny")
    writer.add_context_length(32)
    writer.add_embedding_length(D)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(D // HEADS)
    writer.add_vocab_size(V)
    if scaling:
        writer.add_string("llama.rope.scaling.type", scaling)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(c) for c in range(33, 33 + V - 3)]
    writer.add_token_list(["<s>", "</s>", *letters, '!"'])
    writer.add_token_types([3, 3] + [1] * (V - 2))
    writer.add_token_merges(['! "'])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd": (V, D), "output": (V, D), "output_norm": (D,)}
    shapes |= {f"blk.{n}.{name}": shape for n in range(LAYERS) for name, shape in BLOCK.items()}
    made = {}
    for name, shape in shapes.items():
        made[name] = drawn.standard_normal(shape).astype(np.float32) / 4 + (len(shape) == 1)
        if name == without:
            continue
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", made[name])
        else:
            writer.add_tensor(f"{name}.weight", quantize(made[name], KIND), raw_dtype=KIND)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
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
        ({"scaling": "linear"}, "llama.rope.scaling.type must not be there; got stretched"),
        ({"without": "blk.1.ffn_up"}, "up_proj.weight must be read; got missing keys"),
        (b"junk" * 9, "must be an undamaged GGUF file"),
        (None, "must be a model folder"),
    ],
    ids=["stretched", "missing", "junk", "not there"],
)
def test_what_would_be_passed_over_is_refused(how, says, tmp_path, refuses):
    file = tmp_path / "tiny.gguf"
    if isinstance(how, bytes):
        file.write_bytes(how)
    elif how is not None:
        write(file, **how)
    refuses(FileError, lambda: bilens.load(file), says)


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

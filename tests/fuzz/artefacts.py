"""Small sound files and folders of every kind that bilens reads, made once and copied for each
case.
"""

import gzip
import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

import bilens
from bilens.decompose import Chunks, eigen, hosvd, joint, svd, top_entries
from bilens.features import Dictionary
from bilens.training import load_tokenizer, train_tokenizer

TEXT = "Once upon a time there was a little girl. She liked the sun.\n<|endoftext|>\n" * 40
RECIPE = """steps = 20
batch_size = 4
learning_rate = 1e-3
seed = 0

[model]
hidden_size = 16
num_attention_heads = 2
"""
SIZES = {
    "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 32, "initializer_range": 0.3,
}  # fmt: skip


def tensor(outputs: int = 3, size: int = 6, hidden: int = 5) -> bilens.CP:
    generator = torch.Generator().manual_seed(0)
    shapes = (outputs, hidden), (hidden, size), (hidden, size)
    return bilens.CP(*(torch.randn(shape, generator=generator) for shape in shapes))


def bilens_model(folder: Path) -> None:
    torch.manual_seed(0)
    model = bilens.Transformer(bilens.TransformerConfig(vocab_size=300, **SIZES))
    model.save_pretrained(folder)
    train_tokenizer("topics", 260, folder / "made")
    for file in (folder / "made").iterdir():
        shutil.move(file, folder / file.name)
    (folder / "made").rmdir()


def llama_model(folder: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=300, num_key_value_heads=1, **SIZES)).save_pretrained(
        folder
    )


def sharded_model(folder: Path) -> None:
    llama_model(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for name, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / name, metadata={"format": "pt"})
    owners = {key: name for name, keys in parts.items() for key in keys}
    index = {"metadata": {"total_size": 1}, "weight_map": owners}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def dooms_model(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "transformer.wte.weight": (40, 16), "lm_head.weight": (40, 16),
        "transformer.h.0.attn.qkv.weight": (48, 16),
        "transformer.h.0.attn.o.weight": (16, 16), "transformer.h.0.mlp.w.weight": (24, 16),
        "transformer.h.0.mlp.p.weight": (16, 12),
    }  # fmt: skip
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    config = {"bias": False, "bilinear": True, "d_hidden": 12, "d_model": 16, "gate": None,
    "n_ctx": 32, "n_head": 2,
              "n_layer": 1, "tokenizer": "ts-4096"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def classifier(folder: Path) -> None:
    torch.manual_seed(0)
    bilens.Classifier(bilens.ClassifierConfig(hidden_size=16)).save_pretrained(folder)


def dictionary(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (16, 24), "W_dec": (24, 16), "b_enc": (24,), "b_dec": (16,)}
    Dictionary(
        **{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()},
        hook="layers.0.mlp.input",
    ).save(folder)


def results(folder: Path) -> None:
    T, symmetric = tensor(), tensor().symmetrise()
    model = bilens.Transformer(bilens.TransformerConfig(vocab_size=40, **SIZES)).eval()
    ids = torch.tensor([1, 2, 3])
    found = {
        "eigen": eigen(T, k=2), "hosvd": hosvd(T, max_rank=2), "svd": svd(T, max_rank=2),
        "joint": joint(T),
        "entries": top_entries(symmetric, 4), "gates": T.interaction(torch.ones(3)).gates(2),
        "expansion": bilens.expand(model, ids, 5),
        "weighted": eigen(T, k=2, measure=torch.randn(30, 6)),
        "knockout": bilens.circuits.knockout(model, ids, "mlp0", 5),
        "composition": bilens.circuits.composition(model),
    }  # fmt: skip
    for name, result in found.items():
        result.save(folder / f"{name}.safetensors")


def tokenizer(folder: Path) -> None:
    train_tokenizer("topics", 260, folder / "tokenizer")
    load_tokenizer(folder / "tokenizer")


def texts(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text(TEXT)
    (folder / "b.xz").write_bytes(lzma.compress(TEXT.encode()))


def images(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        pixels = rng.integers(0, 255, (count, 6, 6), dtype=np.uint8)
        labels = rng.integers(0, 3, count, dtype=np.uint8)
        for name, array in (
            (f"{part}-images-idx3-ubyte.gz", pixels),
            (f"{part}-labels-idx1-ubyte.gz", labels),
        ):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(
                n.to_bytes(4, "big") for n in array.shape
            )
            (folder / name).write_bytes(gzip.compress(header + array.tobytes()))


def recipe(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(RECIPE)


def chunks(folder: Path) -> None:
    eigen(tensor(), k=2, chunks=Chunks(2, folder=folder / "chunks"))


ARTEFACTS: dict[str, Callable[[Path], None]] = {
    "bilens": bilens_model, "llama": llama_model, "sharded": sharded_model, "dooms": dooms_model,
    "classifier": classifier, "dictionary": dictionary, "results": results, "tokenizer": tokenizer,
    "texts": texts,
    "images": images, "recipe": recipe, "chunks": chunks,
}  # fmt: skip


def make_all(root: Path) -> None:
    """A folder of each kind under ``root``."""
    for name, make in ARTEFACTS.items():
        (root / name).mkdir(parents=True)
        make(root / name)

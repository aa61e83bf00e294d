"""What a large model costs to open, one of its layers to load, and to explain: peak memory, each in
a process of its own.

    python -m benchmarks.size make FOLDER [--layers 32]     random weights of Llama-3-8B's shapes
    python -m benchmarks.size open FOLDER                   all of the model
    python -m benchmarks.size part FOLDER                   one MLP, with its norm folded
    python -m benchmarks.size decompose FOLDER              until the layer's tensor is there
    python -m benchmarks.size writes FOLDER                 expand(detail="writes") of 8 tokens
    python -m benchmarks.size pairs FOLDER                  expand(detail="pairs") of 8 tokens
    python -m benchmarks.size approximate FOLDER            the nearest tensor of one MLP
    python -m benchmarks.size moments FOLDER                of what one MLP reads

Memory is the peak of what the process holds, mapped pages of files among it, over that after the
imports; for expand it is all of it. A row each goes to benchmarks/results/size.jsonl.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import bilens
import bilens.training  # what a command imports
from benchmarks.record import record

RESULTS = Path(__file__).parent / "results" / "size.jsonl"
WIDTH, HIDDEN, KEYS, TOKENS = 4096, 14336, 1024, 128256
LAYER = 1
SHARD = 2.5e9  # bytes
READ = 8  # tokens
HEARD = 64  # tokens that an MLP is approximated on, with a ridge: a CPU takes its time


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("what", choices=("make", *WHAT))
    options.add_argument("folder", type=Path)
    options.add_argument("--layers", type=int, default=32)
    given = options.parse_args()
    if given.what == "make":
        make(given.folder, given.layers)
        return
    size = sum(file.stat().st_size for file in given.folder.glob("*.safetensors"))
    before, start = peak(), time.perf_counter()
    own = WHAT[given.what](given.folder)
    seconds, above = time.perf_counter() - start, peak() - before
    figures = {"GiB on disk": size / 2**30, "GiB above imports": above / 2**30}
    figures |= {"GiB in all": peak() / 2**30, "over the size on disk": above / size}
    if own:
        figures["over its own size"] = above / own
    record(
        RESULTS,
        what=given.what,
        layers=len(bilens.models.open_model(given.folder).model.model.layers),
        seconds=round(seconds, 1),
        **{name: round(value, 3) for name, value in figures.items()},
    )


def opened(folder: Path) -> int:
    bilens.load(folder)
    return 0


def part(folder: Path) -> int:
    bilens.load(folder, part=f"mlp{LAYER}")
    return 3 * WIDTH * HIDDEN * 2


def tensor(folder: Path) -> int:
    """As ``bilens decompose FOLDER --layer 1``, up to where its work begins."""
    only = bilens.models.open_model(folder).only(f"model.layers.{LAYER}.mlp")
    mlp = only.model.layers[LAYER].mlp
    bilens.CP(mlp.down_proj.weight, mlp.gate_proj.weight, mlp.up_proj.weight)
    return 3 * WIDTH * HIDDEN * 2


def expand(detail: Any) -> Callable[[Path], int]:
    def run(folder: Path) -> int:
        found = bilens.expand(bilens.load(folder), torch.arange(READ) + 100, detail=detail)
        print(found.summary())
        return 0

    return run


def approximate(folder: Path) -> int:
    model = bilens.load(folder)
    ids = torch.randint(0, TOKENS, (HEARD // 64, 64), generator=torch.Generator().manual_seed(0))
    ((_, x),) = bilens.models.mlp_inputs(model, ids.split(8), [LAYER])
    print(
        bilens.approximate(model.model.layers[LAYER].mlp, bilens.Gaussian.from_batches(x), data=x)
    )
    return 0


def moments(folder: Path) -> int:
    model = bilens.load(folder)
    ids = torch.randint(0, TOKENS, (1, HEARD), generator=torch.Generator().manual_seed(0)).numpy()
    with tempfile.TemporaryDirectory() as place:
        chunks = bilens.decompose.Chunks(folder=Path(place) / "moments")
        bilens.training.gather_moments(model, ids, [f"mlp{LAYER}.input"], chunks)
    return 0


WHAT = {
    "open": opened, "part": part, "decompose": tensor, "writes": expand("writes"),
    "pairs": expand("pairs"), "approximate": approximate, "moments": moments,
}  # fmt: skip


def peak() -> int:
    """Bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def make(folder: Path, layers: int) -> None:
    """The model's files, shard by shard."""
    folder.mkdir(parents=True, exist_ok=True)
    shard: dict[str, Tensor] = {}
    where: dict[str, str] = {}
    for name, weight in weights(layers):
        shard[name] = weight
        if sum(each.nbytes for each in shard.values()) > SHARD or name == "lm_head.weight":
            file = f"model-{len(set(where.values())) + 1:05}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            where |= dict.fromkeys(shard, file)
            shard = {}
    index = json.dumps({"metadata": {}, "weight_map": where})
    (folder / "model.safetensors.index.json").write_text(index)
    config = {
        "model_type": "llama", "vocab_size": TOKENS, "hidden_size": WIDTH,
        "intermediate_size": HIDDEN, "num_hidden_layers": layers, "num_attention_heads": 32,
        "num_key_value_heads": 8, "hidden_act": "silu", "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def weights(layers: int) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) * 0.02).bfloat16()

    yield "model.embed_tokens.weight", normal(TOKENS, WIDTH)
    for n in range(layers):
        for name, rows in (("q", WIDTH), ("k", KEYS), ("v", KEYS), ("o", WIDTH)):
            yield f"model.layers.{n}.self_attn.{name}_proj.weight", normal(rows, WIDTH)
        for name in ("gate", "up"):
            yield f"model.layers.{n}.mlp.{name}_proj.weight", normal(HIDDEN, WIDTH)
        yield f"model.layers.{n}.mlp.down_proj.weight", normal(WIDTH, HIDDEN)
        for norm in ("input", "post_attention"):
            yield f"model.layers.{n}.{norm}_layernorm.weight", 1 + normal(WIDTH)
    yield "model.norm.weight", 1 + normal(WIDTH)
    yield "lm_head.weight", normal(TOKENS, WIDTH)


if __name__ == "__main__":
    main()

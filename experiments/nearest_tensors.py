"""How bilinear are the MLPs of a language model? Every layer's nearest tensor, by each fit.

    python -m experiments.nearest_tensors MODEL --data FILE … [--other FILE …] [--tokens 8192]

MODEL: a folder that ``bilens.load`` reads. For every layer, over the texts of --data: the degree
spectrum under the Gaussian of what it reads, and the share of its output's variance that the
nearest tensor does not have, by the closed form, by units and with the output refitted (the last
two on four fifths of the tokens, all measured on the rest), how much of the error the worst 1 % of
tokens carry and which tokens these are, the same closed form on --other texts, and what replacing
this layer alone by its closed form costs in nats. A row a layer goes to
experiments/results/nearest_tensors.jsonl as it is done.
"""

import argparse
import lzma
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import bilens
from benchmarks.record import record
from bilens.nearest import Approximation
from bilens.wiring import hooked

RESULTS = Path(__file__).parent / "results" / "nearest_tensors.jsonl"
LENGTH = 512  # tokens a text
LOSS = 1024  # tokens of each kind on which the loss is taken
WORST = 3  # tokens that are named


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("--data", nargs="+", type=Path, required=True)
    options.add_argument("--other", nargs="*", type=Path, default=[])
    options.add_argument("--tokens", type=int, default=8_192)
    given = options.parse_args()
    model = bilens.load(given.model).eval()
    ids = torch.cat([texts(model, file, given.tokens // len(given.data)) for file in given.data])
    held = {f.name: texts(model, f, LOSS, skip=given.tokens) for f in (*given.data, *given.other)}
    read = streams(model, ids)
    beside = {file.name: streams(model, held[file.name]) for file in given.other}
    before = {name: loss(model, rows) for name, rows in held.items()}
    print({name: round(value, 3) for name, value in before.items()})
    for n in range(model.config.num_hidden_layers):
        row = layer(model, n, read[n], ids, {name: x[n] for name, x in beside.items()})
        after = {name: costs(model, n, row["closed"], rows) for name, rows in held.items()}
        figures = (
            row
            | {"closed": told(row["closed"])}
            | {"nats": {name: round(after[name] - before[name], 4) for name in held}}
        )
        name = Path(given.model).name
        record(RESULTS, what="nearest tensors", model=name, tokens=given.tokens, **figures)


def texts(model: Any, file: Path, tokens: int, skip: int = 0) -> Tensor:
    """Rows of LENGTH tokens of a file, as they follow one another."""
    raw = lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()
    piece = raw[: 8 * (tokens + skip)].decode(errors="ignore")
    ids = model.tokenizer(piece, return_tensors="pt", verbose=False)["input_ids"][0]
    return ids[skip : skip + tokens // LENGTH * LENGTH].reshape(-1, LENGTH)


@torch.no_grad()
def streams(model: Any, ids: Tensor) -> list[Tensor]:
    """What every MLP reads at every token, a row each."""
    layers: list[list[Tensor]] = [[] for _ in model.model.layers]
    with ExitStack() as stack:
        for kept, block in zip(layers, model.model.layers, strict=True):
            stack.enter_context(hooked(block.mlp, "input", keep(kept)))
        for rows in ids.split(4):
            model(rows, use_cache=False, logits_to_keep=1)
    return [torch.cat(kept) for kept in layers]


def keep(kept: list[Tensor]) -> Any:
    return lambda x: kept.append(x.flatten(0, 1).clone())


def layer(model: Any, n: int, x: Tensor, ids: Tensor, others: dict[str, Tensor]) -> dict[str, Any]:
    """One layer's figures."""
    mlp, began = model.model.layers[n].mlp, time.perf_counter()
    measure = bilens.Gaussian.from_batches([x])
    closed = bilens.approximate(mlp, measure, data=x)
    seconds = time.perf_counter() - began
    shares = closed.degrees.shares.tolist()
    worst = closed.tokens.topk(WORST)
    flat = ids.flatten()
    return {
        "layer": n,
        "degrees": [round(share, 4) for share in shares],
        "closed": closed,
        "units": told(bilens.approximate(mlp, measure, "units", x)),
        "output": told(bilens.approximate(mlp, measure, "output", x)),
        "worst tokens": [
            {
                "token": model.tokenizer.decode([int(flat[at])]),
                "position": at % LENGTH,
                "share": round(value, 4),
            }
            for value, at in zip(worst.values.tolist(), worst.indices.tolist(), strict=True)
        ],
        "other texts": {
            name: told(bilens.approximate(mlp, measure, data=rows)) for name, rows in others.items()
        },
        "seconds": round(seconds, 1),
    }


def told(found: Approximation) -> list[float]:
    """The unexplained share, its standard error, and what the worst 1 % of tokens carry of it."""
    assert found.unexplained is not None
    figures = float(found.unexplained.value), float(found.unexplained.error), found.tail()
    return [round(figure, 4) for figure in figures]


class Near(nn.Module):
    """A layer as its nearest tensor."""

    def __init__(self, found: Approximation) -> None:
        super().__init__()
        self.tensor = found.tensor.to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return self.tensor(self.tensor.read(x))


@contextmanager
def replaced(block: Any, layer: nn.Module) -> Iterator[None]:
    own = block.mlp
    block.mlp = layer
    try:
        yield
    finally:
        block.mlp = own


def costs(model: Any, n: int, found: Approximation, ids: Tensor) -> float:
    with replaced(model.model.layers[n], Near(found)):
        return loss(model, ids)


@torch.no_grad()
def loss(model: Any, ids: Tensor) -> float:
    """Nats a token."""
    found = []
    for rows in ids.split(2):
        logits = model(rows, use_cache=False).logits[:, :-1]
        found.append(functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    return float(torch.stack(found).mean())


if __name__ == "__main__":
    main()

"""Small language models whose MLPs are no tensors, with their nearest tensors in place.

    python -m experiments.gates MODEL … --data FOLDER --other FOLDER [--pairs WORK]

For each model: what all MLPs replaced at once cost in nats a token, on held-out text of the kind
that it was trained on and on another: by the best linear map, and by the nearest tensor in closed
form, with each unit fitted, and with the output refitted. Each is fitted to what the layers read in
the model as it is, on TOKENS of its training text; "in turn" to what they read once those before
are replaced, output refitted.

With --pairs also: does a pair that is read from the nearest tensor of the last MLP predict an
intervention on the MLP itself? The rule and the seven checks are those of ``case_study``, with
dictionaries that are trained here (into WORK, where they are kept): candidates are read from the
nearest tensor, and every intervention, firing and share is that of the real MLP. Beside it how the
2 × 2 interaction in the MLP's own output compares with the one that the tensor says.

Rows go to experiments/results/gates.jsonl.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bilens
from benchmarks.record import record
from bilens.features import Dictionary, DictionaryRecipe
from bilens.models import activations, mlp_inputs
from bilens.nearest import Approximation
from bilens.training import Blocks, evaluate_text, load_text
from experiments.case_study.__main__ import counted
from experiments.case_study.confirm import Verdict, confirm
from experiments.case_study.study import Pair, Study, Text, candidates, random_pairs, read, study_of
from experiments.nearest_tensors import Near, replaced

RESULTS = Path(__file__).parent / "results" / "gates.jsonl"
TOKENS = 32_768  # of training text, that replacements are fitted to
HELD, BATCH = 200, 32  # held-out blocks of each kind, blocks at a time
LEARNT = 1_500  # blocks of training text that dictionaries learn from
RECIPE = DictionaryRecipe(steps=600, k=30)
FITS = ("closed", "units", "output")
CANDIDATES, TRIED = 200, 300  # pairs, and positions at which their interactions are compared


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("models", nargs="+")
    options.add_argument("--data", required=True)
    options.add_argument("--other", required=True)
    options.add_argument("--pairs", type=Path)
    given = options.parse_args()
    for name in given.models:
        model, began = bilens.load(name).eval(), time.perf_counter()
        length = model.config.max_position_embeddings
        data = load_text(given.data, model.tokenizer, length)
        other = load_text(given.other, model.tokenizer, length).valid
        held = {"same kind": _first(data.valid, HELD), "another kind": _first(other, HELD)}
        figures = costs(model, data.train[: TOKENS // length]["input_ids"], held)
        about = {"model": Path(name).name, "act": model.config.hidden_act}
        about |= {"gated": model.config.gated, "tokens": TOKENS}
        seconds = round(time.perf_counter() - began)
        record(RESULTS, what="all MLPs replaced", **about, **figures, seconds=seconds)
        if given.pairs is not None:
            work = given.pairs / Path(name).name
            record(RESULTS, what="pairs", **about, **pairs(model, data.train, data.valid, work))


def _first(blocks: Blocks, count: int) -> Blocks:
    return Blocks(blocks.tokens[:count], blocks.bytes)


def costs(model: Any, ids: Tensor, held: dict[str, Blocks]) -> dict[str, Any]:
    """The loss as it is, and what each way of replacing all MLPs adds to it, by text."""
    numbers = range(model.config.num_hidden_layers)
    ways: dict[str, list[Any]] = {name: [] for name in ("linear", *FITS)}
    unexplained: dict[str, list[float]] = {fit: [] for fit in FITS}
    degrees: list[list[float]] = []
    for n, x in mlp_inputs(model, ids.split(BATCH), numbers):
        mlp, measure = model.blocks[n].mlp, bilens.Gaussian.from_batches(x)
        ways["linear"].append(linear(mlp, torch.cat(x)))
        near = {fit: bilens.approximate(mlp, measure, fit, x) for fit in FITS}
        for fit, found in near.items():
            ways[fit].append(Near(found))
            unexplained[fit].append(_share(found))
        degrees.append([round(share, 4) for share in near["closed"].degrees.shares.tolist()])
    ways["in turn"] = in_turn(model, ids)
    base = {name: evaluate_text(model, blocks)["loss"] for name, blocks in held.items()}
    added = {}
    for way, layers in ways.items():
        with ExitStack() as stack:
            for block, layer in zip(model.blocks, layers, strict=True):
                stack.enter_context(replaced(block, layer))
            after = {name: evaluate_text(model, blocks)["loss"] for name, blocks in held.items()}
        added[way] = {name: round(after[name] - base[name], 4) for name in held}
    loss = {name: round(value, 4) for name, value in base.items()}
    return {"loss": loss, "degrees": degrees, "unexplained": unexplained, "nats": added}


def in_turn(model: Any, ids: Tensor) -> list[nn.Module]:
    """Each layer's nearest tensor on what it reads once those before it are replaced."""
    made: list[nn.Module] = []
    with ExitStack() as stack:
        for n, block in enumerate(model.blocks):
            x = list(activations(model, ids.split(BATCH), f"mlp{n}.input"))
            measure = bilens.Gaussian.from_batches(x)
            made.append(Near(bilens.approximate(block.mlp, measure, "output", x)))
            stack.enter_context(replaced(block, made[-1]))
    return made


def _share(found: Approximation) -> float:
    assert found.unexplained is not None
    return round(float(found.unexplained.value), 5)


@torch.no_grad()
def linear(mlp: nn.Module, x: Tensor) -> nn.Linear:
    """The best linear map with a constant, by least squares on what the layer reads."""
    ones = torch.cat([torch.ones_like(x[:, :1]), x], 1).double()
    weights = torch.linalg.lstsq(ones, mlp(x).double()).solution.float()
    made = nn.Linear(x.shape[1], weights.shape[1])
    made.bias.copy_(weights[0])
    made.weight.copy_(weights[1:].mT)
    return made


@torch.no_grad()
def pairs(model: Any, train: Blocks, valid: Blocks, work: Path) -> dict[str, Any]:
    """What becomes of pairs that are read from the nearest tensor of the last MLP."""
    layer = model.config.num_hidden_layers - 1
    inputs, outputs = (
        dictionary(model, train, f"mlp{layer}.{side}", work) for side in ("input", "output")
    )
    mlp = model.blocks[layer].mlp
    x = list(
        activations(model, train[: TOKENS // 256]["input_ids"].split(BATCH), f"mlp{layer}.input")
    )
    near = bilens.approximate(mlp, bilens.Gaussian.from_batches(x), "output", x)
    tensor = near.tensor.to(torch.float32)
    said = study_of(model, layer, inputs, outputs, tensor)
    real = replace(said, tensor=mlp)  # all that is done to the model is done to its own MLP
    text = read(model, real, layer, valid[: 3 * HELD]["input_ids"])
    found = candidates(said, CANDIDATES)
    verdicts = [confirm(real, text, pair) for pair in found]
    null = [confirm(real, text, pair) for pair in random_pairs(said, found, seed=0)]
    return {
        "held-out tokens": text.ids.numel(),
        "unexplained": _share(near),
        **counted(verdicts),
        "random": {"occurring": sum(v.checks["occurs"] for v in null)} | counted(null),
        "confirmed": [[v.pair.out, v.pair.f, v.pair.g] for v in verdicts if v.passed],
        "in the MLP": compared_all(said, mlp, text, verdicts),
        "in the MLP, random": compared_all(said, mlp, text, null),
    }


def compared_all(
    said: Study, mlp: nn.Module, text: Text, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Over the pairs that occur together: how the interactions that the tensor says go with those
    of the MLP.
    """
    there = [one.pair for one in verdicts if one.checks["occurs"]]
    crossed = torch.tensor([compared(said, mlp, text, pair) for pair in there])
    return {
        "pairs": len(there),
        "correlation": round(float(torch.corrcoef(crossed.mT)[0, 1]), 4),
        "same sign": round(float((crossed.prod(1) > 0).double().mean()), 4),
        "ratio": round(float((crossed[:, 1] / crossed[:, 0]).median()), 4),
    }


def compared(said: Study, mlp: nn.Module, text: Text, pair: Pair) -> list[float]:
    """The 2 × 2 interaction of a pair in the output latent's pre-activation, meant over positions
    with both: what the tensor says (its coefficient × a_f a_g), and the real MLP's.
    """
    at = (text.reads[:, pair.f] & text.reads[:, pair.g]).nonzero()[:TRIED, 0]
    x, w = text.x[at], said.inputs.writes
    a = said.inputs.encode(x)
    f, g = a[:, pair.f, None] * w[pair.f], a[:, pair.g, None] * w[pair.g]
    reader = said.outputs.reads[pair.out]
    made = (mlp(x) - mlp(x - f) - mlp(x - g) + mlp(x - f - g)) @ reader
    predicted = pair.coefficient * a[:, pair.f] * a[:, pair.g]
    return [float(predicted.mean()), float(made.mean())]


def dictionary(model: Any, train: Blocks, place: str, work: Path) -> Dictionary:
    """A dictionary of ``place``, learned from training text, or the one that is there."""
    folder = work / place
    if not (folder / "cfg.json").is_file():
        ids = train[:LEARNT]["input_ids"]
        rows = torch.cat(list(activations(model, ids.split(BATCH), place)))
        Dictionary.train(shuffled(rows), RECIPE, place).save(folder)
    return Dictionary.load(folder)


def shuffled(rows: Tensor) -> Iterator[Tensor]:
    """Batches without end, in an order that never changes."""
    draw = torch.Generator().manual_seed(RECIPE.seed)
    while True:
        order = torch.randperm(len(rows), generator=draw)
        for at in order.split(RECIPE.batch_size):
            yield rows[at]


if __name__ == "__main__":
    main()

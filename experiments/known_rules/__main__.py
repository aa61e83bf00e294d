"""Known rules, read from a model's weights alone and scored.

    python -m experiments.known_rules FOLDER [--second DIR]

FOLDER: a two-QK model's weights at each of its training steps (step_500.safetensors …
model_final.pt) with config.json and rules.json. No data are read: prompts are the rules' own
tokens. For every step, how many rules the whole polynomial has, and the sum of the paths that read
those tokens alone; of the last one the direct path, what is left without every source and every
edge (which is exactly the sum of the paths that do not go through it), and a null: the same weights
in random order. Some minutes on two cores. ``--second``: as well, a model and its softmax twin on a
language of our own, trained into DIR where they are not there: a quarter of an hour.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import bilens
from benchmarks.record import record
from bilens.training import RuleScores, Truth, evaluate_rules, read_truth, score_rules
from experiments.known_rules.polynomial import Paths, Polynomial
from experiments.known_rules.second import trained

RESULTS = Path(__file__).parent.parent / "results" / "known_rules.jsonl"
STEPS = (500, 1000, 2000, 5000, 10000, 20000)
FINAL = "model_final.pt"
SEEDS = 3


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    options.add_argument("--second", type=Path)
    given = options.parse_args()
    began, truth = time.perf_counter(), read_truth(given.folder / "rules.json")
    for name in (*(f"step_{n}.safetensors" for n in STEPS), FINAL):
        polynomial = Polynomial(bilens.load(given.folder / name).eval())
        for kind, paths in (("all", Paths()), ("their own tokens", own_tokens(truth))):
            told(name, kind, scored(polynomial, paths, truth))
    final = Polynomial(bilens.load(given.folder / FINAL).eval())
    for kind, paths in kinds(final):
        told(FINAL, kind, scored(final, paths, truth))
    for seed in range(SEEDS):
        null = Polynomial(shuffled(bilens.load(given.folder / FINAL).eval(), seed))
        told(FINAL, f"weights in random order, seed {seed}", scored(null, Paths(), truth))
    record(RESULTS, what="known rules, seconds", seconds=round(time.perf_counter() - began, 1))
    if given.second is not None:
        second(given.second)


def second(folder: Path) -> None:
    """The case of our own: every checkpoint of both models."""
    runs = trained(folder)
    truth = read_truth(folder / "rules.json")
    for kind, run in runs.items():
        saved = (run / "checkpoints").iterdir()
        for step in sorted(saved, key=lambda one: int(one.name.split("-")[1])):
            told(f"own {kind}, {step.name}", "all", evaluate_rules(bilens.load(step), truth))


def own_tokens(truth: Truth) -> Paths:
    """The paths that read neither the beginning nor fillers."""
    begin = () if truth.begin is None else (truth.begin,)
    return Paths(absent=frozenset((*truth.fillers, *begin)))


def kinds(polynomial: Polynomial) -> Iterator[tuple[str, Paths]]:
    """The direct path, the paths that do not go through a source, or through an edge."""
    edges = [edge for edges in polynomial.edges().values() for edge in edges]
    direct = [edge for edge in edges if edge.endswith("→logits") and edge != "embed→logits"]
    yield "direct", Paths().without(*direct)
    for source in polynomial.sources[1:]:
        yield f"without {source}", Paths().without(*polynomial.edges()[source])
    heads = [edge for source in ("L0H0", "L1H0") for edge in polynomial.edges()[source]]
    yield "without both heads", Paths().without(*heads)
    for edge in edges:
        yield f"without {edge}", Paths().without(edge)
    keys = ("L0H0→L1H0.k1", "L0H0→L1H0.k2")
    yield f"without {' and '.join(keys)}", Paths().without(*keys)
    others = [f"L0H0→{to}" for to in ("L1H0.q1", "L1H0.q2", "L1H0.v", "mlp1", "logits")]
    yield "L0H0 into keys and mlp0 alone", Paths().without(*others)


def scored(polynomial: Polynomial, paths: Paths, truth: Truth) -> RuleScores:
    return score_rules(lambda ids: polynomial(ids, paths), truth)


@torch.no_grad()
def shuffled(model: Any, seed: int) -> Any:
    """``model`` with the entries of every weight in random order."""
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        order = torch.randperm(weight.numel(), generator=draw)
        weight.copy_(weight.flatten()[order].view_as(weight))
    return model


def told(model: str, paths: str, scores: RuleScores) -> None:
    """One row of results."""
    rules = {row["rule"]: [row["right"], row["of"], round(row["nats"], 4)] for row in scores.rows()}
    record(RESULTS, what="known rules", model=model, paths=paths, **rules)


if __name__ == "__main__":
    main()

"""Do the terms of an expansion rank true knock-out effects? The two-layer model in the box, prompts
from its own data.

    python -m experiments.faithfulness --data FILE [--prompts 60] [--tokens 24] \
        [--max-terms 10000] [--seed 0]

Target: the model's first prediction less its second, at the last position of each prompt. For every
head and MLP:

    effect    what the target loses when the component writes zero at every position, and everything
              downstream reacts
    write     the term of its write at the last position (direct logit attribution)
    reach     the sum of the full paths that reach the target through it: write again, less what is
              in the remainder
    removed   the sum of all full paths with the component anywhere in their tree, at any position:
              what ``ablate`` takes out, patterns and norm scales as they were
    through   the sum of the |terms| of the same paths

All but the last have a sign. Ranks are compared within each prompt (Spearman) with the effect, and
magnitudes with |effect|; then averaged over prompts, with a bootstrap interval over prompts.
``whole`` is the share of Σ |term| in paths that the budget did not take apart to the end, in which
a component may hide. Rows go to experiments/results/faithfulness.jsonl.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bilens
from benchmarks.record import record
from bilens.circuits import Expansion, expand, knockout, paths

RESULTS = Path(__file__).parent / "results" / "faithfulness.jsonl"
MODEL = "tinystories-2l"
RESAMPLES = 10_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", required=True)
    options.add_argument("--prompts", type=int, default=60)
    options.add_argument("--tokens", type=int, default=24)
    options.add_argument("--max-terms", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    model, start = bilens.load(MODEL).double().eval(), time.perf_counter()
    texts = prompts(model, Path(given.data), given.prompts, given.tokens, given.seed)
    measured = [one_prompt(model, ids, given.max_terms) for ids in texts]
    found = correlations(measured, given.seed)
    figures = {
        "model": MODEL,
        "prompts": len(texts),
        "tokens": given.tokens,
        "max_terms": given.max_terms,
        "seed": given.seed,
        "seconds": round(time.perf_counter() - start),
        "spearman": found,
        "mean |remainder| / target": round(
            float(np.mean([row["remainder"] for row in measured])), 3
        ),
        "mean whole": round(float(np.mean([row["whole"] for row in measured])), 3),
        "components": table(components(model), measured),
    }
    record(RESULTS, what="terms against knock-outs", **figures)
    show(figures)


def prompts(model: Any, file: Path, count: int, tokens: int, seed: int) -> list[torch.Tensor]:
    """``count`` stories of the file, drawn by ``seed``, each cut to its first ``tokens`` tokens."""
    stories = [story.strip() for story in file.read_text(encoding="utf-8").split("<|endoftext|>")]
    order = np.random.default_rng(seed).permutation(len(stories))
    found: list[torch.Tensor] = []
    for n in order:
        ids = model.tokenizer(stories[n], add_special_tokens=False)["input_ids"]
        if len(ids) >= tokens and model.tokenizer.unk_token_id not in ids:
            found.append(torch.tensor(ids[:tokens]))
        if len(found) == count:
            break
    return found


def components(model: Any) -> list[str]:
    """Every head and MLP, in the order in which they write."""
    return [name for part in model.wiring().parts for name in getattr(part, "heads", (part.name,))]


def one_prompt(model: Any, ids: torch.Tensor, max_terms: int) -> dict[str, Any]:
    """The figures of every component, each an array in the order of ``components``."""
    names = components(model)
    first, second = model.outputs(ids[None])[-1].topk(2).indices.tolist()
    target = (first, second)
    effects = [knockout(model, ids, [name], target, with_="zero").effect for name in names]
    full = expand(model, ids, target, max_terms=max_terms)
    sums = {
        "write": groups(expand(model, ids, target, detail="writes")),
        "reach": groups(full),
        "removed": passing(full, lambda value: value),
        "through": passing(full, abs),
    }
    sizes = [(abs(term.value), term.order is None) for term in full.terms]
    return {
        "effect": np.array(effects),
        **{
            what: np.array([values.get(name, 0.0) for name in names])
            for what, values in sums.items()
        },
        "remainder": abs(full.remainder) / abs(full.total),
        "whole": sum(size for size, whole in sizes if whole) / sum(size for size, _ in sizes),
    }


def groups(found: Expansion) -> dict[str, float]:
    grouped = found.by("component")
    return dict(zip(grouped.names, grouped.values, strict=True))


def passing(found: Expansion, of: Callable[[float], float]) -> dict[str, float]:
    """Σ of(term) over the paths that pass through a component, once for each path however often it
    does.
    """
    sums: dict[str, float] = {}
    for term in found.terms:
        steps = (node for node in paths.walk(term.tree) if isinstance(node, Apply | Write))
        for name in {node.source for node in steps}:
            sums[name] = sums.get(name, 0.0) + of(term.value)
    return sums


def correlations(measured: list[dict[str, Any]], seed: int) -> dict[str, list[float]]:
    """Mean rank correlation over prompts, and the ends of its 95 % interval."""
    sides = {what: (what, lambda x: x) for what in ("write", "reach", "removed")}
    sides |= {f"|{what}|": (what, abs) for what in ("write", "reach", "removed", "through")}
    found = {}
    for name, (what, of) in sides.items():
        each = np.array([spearman(of(row[what]), of(row["effect"])) for row in measured])
        found[name] = [round(float(value), 3) for value in (each.mean(), *interval(each, seed))]
    return found


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """The correlation of ranks (no ties: these are real numbers of a model)."""
    first, second = (values.argsort().argsort().astype(float) for values in (x, y))
    return float(np.corrcoef(first, second)[0, 1])


def interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The bootstrap's 95 % interval of the mean: prompts drawn again with replacement."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high)


def table(names: list[str], measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over prompts of |effect|, |write|, |removed| and through, component by component."""
    columns = {
        what: np.mean([abs(row[what]) for row in measured], axis=0)
        for what in ("effect", "write", "removed", "through")
    }
    return {
        name: {what: round(float(column[n]), 3) for what, column in columns.items()}
        for n, name in enumerate(names)
    }


def show(figures: dict[str, Any]) -> None:
    heads = " ".join(f"{name:>9}" for name in ("|effect|", "|write|", "|removed|", "through"))
    print(f"\n{'component':<10} {heads}   means over {figures['prompts']} prompts")
    for name, row in figures["components"].items():
        print(
            f"{name:<10} {row['effect']:>9.3f} {row['write']:>9.3f} "
            f"{row['removed']:>9.3f} {row['through']:>9.3f}"
        )
    print(
        "\nrank correlation with the effect (magnitudes: with |effect|) within a prompt, "
        "mean [95 % interval]"
    )
    for name, (mean, low, high) in figures["spearman"].items():
        print(f"{name:<20} {mean:6.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()

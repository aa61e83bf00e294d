"""Expansions: the pair matrices of every MLP against one forward pass, best-first search by time
and memory, a SwiGLU model against its bilinear twin, and the first two of models of heads without
softmax.

    python -m benchmarks.expansion [--only pairs|terms|memory|gated|polynomial] [--runs 7]

Random weights, one target, agreement with the forward pass checked in the same run. Rows go to
benchmarks/results/expansion.jsonl.
"""

import argparse
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import bilens
from benchmarks.record import record
from bilens.circuits import Expansion, expand, pairs
from bilens.circuits import record as record_pass

RESULTS = Path(__file__).parent / "results" / "expansion.jsonl"
LARGE: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
VOCABULARY = 5000
TARGET = (1, 2)
BUDGETS = (1_000, 10_000, 30_000)
CUTOFF = 0.0  # so that the budget alone ends the search


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", choices=["pairs", "terms", "memory", "gated", "polynomial"])
    options.add_argument("--runs", type=int, default=7)
    given = options.parse_args()
    measures = {
        "pairs": lambda runs: pair_matrices(runs, LARGE),
        "terms": lambda runs: best_first(runs, SMALL),
        "memory": memory,
        "gated": gated,
        "polynomial": polynomial,
    }
    for name, measure in measures.items():
        if given.only in (None, name):
            measure(given.runs)


def make(
    shape: dict[str, Any], length: int, act: str = "linear"
) -> tuple[bilens.Transformer, torch.Tensor]:
    """A model with random weights, as it is before training, and a text of random tokens."""
    torch.manual_seed(0)
    usual = {"norm": "rms", "hidden_act": act, "max_position_embeddings": 256}
    config = bilens.TransformerConfig(vocab_size=VOCABULARY, **usual | shape)
    return bilens.Transformer(config).eval(), torch.randint(0, VOCABULARY, (length,))


def polynomial(runs: int) -> None:
    """Of models in which nothing normalises, from an initial scale at which heads matter."""
    kind = {"attention": "bilinear", "norm": "none", "initializer_range": 0.05}
    pair_matrices(runs, LARGE | kind | {"initializer_range": 0.02}, "scores")
    best_first(runs, SMALL | kind)
    for max_terms in BUDGETS[:2]:
        memory_of(max_terms, SMALL | kind)


def pair_matrices(runs: int, shape: dict[str, Any], given: str | None = None) -> None:
    """All MLPs' pair matrices at the last of 128 tokens, in units of a forward pass over the same
    tokens; of heads without softmax, these scores ``given``.
    """
    model, text = make(shape, 128)
    sides = {
        "forward": lambda: forward(model, text),
        "pairs": lambda: pairs(model, record_pass(model, text, given=given), TARGET),
    }
    seconds = interleaved(sides, runs)
    require_agreement(model, text)
    taken_apart = expand(model, text, TARGET, detail="pairs", max_terms=None)
    record(
        RESULTS,
        what="pair matrices of all MLPs",
        shape=shape,
        given=given,
        tokens=len(text),
        milliseconds={name: round(1e3 * value) for name, value in seconds.items()},
        ratio=round(seconds["pairs"] / seconds["forward"], 2),
        **relative(taken_apart),
    )


def require_agreement(model: bilens.Transformer, text: torch.Tensor) -> None:
    """Every matrix adds up to what its layer writes towards the target."""
    whole = expand(model, text, TARGET, detail="writes", cutoff=CUTOFF)
    written = {term.path: term.value for term in whole.terms}
    for matrix in pairs(model, text, TARGET).matrices:
        off = abs(float(matrix.values.double().sum()) - written[matrix.layer])
        if off > 1e-5 * max(map(abs, written.values())):
            raise SystemExit(f"The pairs of {matrix.layer} are off by {off:.1e}.")


def best_first(runs: int, shape: dict[str, Any], max_terms: int = 10_000) -> None:
    """The search for the largest paths of a four-layer model over 64 tokens."""
    model, text = make(shape, 64)
    found = expand(model, text, TARGET, max_terms=max_terms, cutoff=CUTOFF)
    seconds = interleaved(
        {"expand": lambda: expand(model, text, TARGET, max_terms=max_terms, cutoff=CUTOFF)},
        min(runs, 3),
    )
    record(
        RESULTS,
        what="best-first",
        shape=shape,
        tokens=len(text),
        max_terms=max_terms,
        seconds=round(seconds["expand"], 2),
        **figures(found),
    )


def memory(_: int) -> None:
    """What a search adds to the peak memory of a process, for budgets that meet ever more
    candidates.
    """
    for max_terms in BUDGETS:
        memory_of(max_terms, SMALL)


def memory_of(max_terms: int, shape: dict[str, Any]) -> None:
    # a peak never comes down again: one process for each
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        found = process.submit(peak, max_terms, shape).result()
    record(
        RESULTS,
        what="memory of best-first",
        shape=shape,
        tokens=64,
        max_terms=max_terms,
        **found,
    )


def gated(runs: int, max_terms: int = 1000) -> None:
    """A model whose layers are given their gates, in units of the same one without gates."""
    bilinear, text = make(LARGE, 64)
    swiglu, _ = make(LARGE, 64, "silu")
    sides = {
        name: functools.partial(expand, model, text, TARGET, max_terms=max_terms)
        for name, model in (("bilinear", bilinear), ("SwiGLU", swiglu))
    }
    found = sides["SwiGLU"]()
    seconds = interleaved(sides, runs)
    record(
        RESULTS,
        what="SwiGLU given its gates, against bilinear",
        shape=LARGE,
        tokens=len(text),
        max_terms=max_terms,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        ratio=round(seconds["SwiGLU"] / seconds["bilinear"], 2),
        **figures(found),
    )


def peak(max_terms: int, shape: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: MiB at the peak, on top of what there is after an expansion that is
    not searched.
    """
    model, text = make(shape, 64)
    expand(model, text, TARGET, detail="writes")
    before = mebibytes("VmRSS")
    found = expand(model, text, TARGET, max_terms=max_terms, cutoff=CUTOFF)
    return {"MiB": round(mebibytes("VmHWM") - before, 1), **figures(found)}


def mebibytes(what: str) -> float:
    """This process's memory now ("VmRSS") or at its peak ("VmHWM"), by Linux's own books: rusage
    would give a new process the peak of the one that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:"))


def figures(found: Expansion) -> dict[str, Any]:
    """How many paths were met, how much of the target the kept ones are, and how far the sum is
    off.
    """
    kept = sum(term.value for term in found.terms)
    return {
        "terms": len(found.terms),
        "candidates": len(found.terms) + found.left_out,
        "kept share": round(kept / found.total, 4),
        **relative(found),
    }


def relative(found: Expansion) -> dict[str, float]:
    """The error in units of the largest term and of the forward value. Above 1e-5 of the larger of
    them the run is void: the more terms, the smaller each of them, and the sum stays as it was."""
    scales = {
        "error / largest term": max(abs(term.value) for term in found.terms),
        "error / forward": abs(found.forward),
    }
    if found.error > 1e-5 * max(scales.values()):
        raise SystemExit(
            f"Terms and remainder are off by {found.error:.1e} of {found.forward:.3g}."
        )
    return {name: float(f"{found.error / scale:.1e}") for name, scale in scales.items()}


@torch.no_grad()
def forward(model: bilens.Transformer, text: torch.Tensor) -> torch.Tensor:
    return model(text[None], use_cache=False).logits


def interleaved(sides: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Median seconds of each side, taken in turn after one run to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(runs + 1):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            if run:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()

"""Similarity of two image models behind embeddings of their own, against a peer's method.

    python -m benchmarks.similarity [--sizes PIXELS D HIDDEN]

The peer maps the measure through the embeddings of each pair, E Σ E'ᵀ, and sums Isserlis' pairings
over hidden units, in float64: what the field's similarity by moments does, a pair at a time. bilens
is given both models as tensors over pixels, and a measure that nothing has been asked of yet.
Beside it, the same with the check that is made by default and with one of 4096 samples, which the
peer has none of. The best of 15 runs in turn. Rows go to benchmarks/results/similarity.jsonl.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.record import record
from bilens.algebra import CP
from bilens.decompose import similarity
from bilens.measure import Gaussian

RESULTS = Path(__file__).parent / "results" / "similarity.jsonl"
RUNS = 15


class Model(NamedTuple):
    """logits = out ((left E x) ∘ (right E x))."""

    embed: Tensor
    left: Tensor
    right: Tensor
    out: Tensor

    def tensor(self) -> CP:
        return CP(self.out, self.left @ self.embed, self.right @ self.embed)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", nargs=3, type=int, default=(784, 128, 128))
    pixels, d, hidden = options.parse_args().sizes
    torch.manual_seed(0)
    models = [model(pixels, d, hidden) for _ in range(2)]
    x = torch.randn(4 * pixels, pixels, dtype=torch.float64) @ weights(pixels, pixels) + 0.3
    measure = Gaussian.from_batches([x])
    tensors = [one.tensor() for one in models]
    solvers = {
        "bilens": lambda given: float(similarity(tensors, given, samples=0).matrix[0, 1]),
        "peer": lambda given: by_pairings(models, given),
        "bilens, checked": lambda given: float(similarity(tensors, given).matrix[0, 1]),
        "bilens, 4096": lambda given: float(similarity(tensors, given, samples=4096).matrix[0, 1]),
    }
    runs = [{name: timed(solve, measure) for name, solve in solvers.items()} for _ in range(RUNS)]
    seconds = {name: min(run[name][0] for run in runs) for name in solvers}
    found = {name: value for name, (_, value) in runs[0].items()}
    record(
        RESULTS,
        what="similarity behind embeddings, float64",
        pixels=pixels,
        d=d,
        hidden=hidden,
        seconds={name: round(value, 4) for name, value in seconds.items()},
        ratio=round(seconds["bilens"] / seconds["peer"], 2),
        ratio_checked=round(seconds["bilens, checked"] / seconds["peer"], 2),
        ratio_4096=round(seconds["bilens, 4096"] / seconds["peer"], 2),
        samples=similarity(tensors, measure).check.count,
        error=abs(found["bilens"] - found["peer"]),
    )


def model(pixels: int, d: int, hidden: int, classes: int = 10) -> Model:
    sizes = (d, pixels), (hidden, d), (hidden, d), (classes, hidden)
    return Model(*(weights(*size) for size in sizes))


def weights(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64) / columns**0.5


def by_pairings(models: list[Model], measure: Gaussian) -> float:
    products = [
        _product(models[a], models[b], measure.mean, measure.cov)
        for a, b in ((0, 1), (0, 0), (1, 1))
    ]
    return float(products[0] / (products[1] * products[2]).sqrt())


def _product(one: Model, two: Model, mean: Tensor, cov: Tensor) -> Tensor:
    """E⟨T(x), T'(x)⟩, with a = L x, b = R x, c = L' x, e = R' x."""
    a, b = one.left @ (one.embed @ mean), one.right @ (one.embed @ mean)
    c, e = two.left @ (two.embed @ mean), two.right @ (two.embed @ mean)
    own = [each.embed @ cov @ each.embed.mT for each in (one, two)]
    ab, ce = (((n.left @ m) * n.right).sum(1) for n, m in zip((one, two), own, strict=True))
    across = one.embed @ cov @ two.embed.mT
    ac, ae = one.left @ across @ two.left.mT, one.left @ across @ two.right.mT
    bc, be = one.right @ across @ two.left.mT, one.right @ across @ two.right.mT
    moments = (a * b + ab).outer(c * e + ce) + ac * be + ae * bc
    moments += ac * b.outer(e) + ae * b.outer(c) + bc * a.outer(e) + be * a.outer(c)
    return ((one.out.mT @ two.out) * moments).sum()


def timed(solve: Callable[[Gaussian], float], measure: Gaussian) -> tuple[float, float]:
    """Seconds with a measure that keeps nothing yet, and what came of it."""
    fresh = Gaussian(measure.mean, measure.cov, measure.count)
    start = time.perf_counter()
    found = solve(fresh)
    return time.perf_counter() - start, found


if __name__ == "__main__":
    main()

"""The nearest tensor of one large layer from weights and two moments: time, and memory above the
weights.

    python -m benchmarks.nearest [--width 4096] [--hidden 14336]

Random weights and a random covariance. A row goes to benchmarks/results/nearest.jsonl.
"""

import argparse
import resource
import time
from pathlib import Path

import torch

import bilens
from benchmarks.record import record
from bilens.nn import GatedMLP

RESULTS = Path(__file__).parent / "results" / "nearest.jsonl"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--width", type=int, default=4096)
    options.add_argument("--hidden", type=int, default=14336)
    given = options.parse_args()
    torch.manual_seed(0)
    layer = GatedMLP(given.width, given.hidden)
    turn = torch.randn(given.width, given.width) / given.width**0.5
    measure = bilens.Gaussian(torch.zeros(given.width), turn @ turn.mT)
    del turn
    before, start = peak(), time.perf_counter()
    found = bilens.approximate(layer, measure)
    seconds = time.perf_counter() - start
    record(
        RESULTS,
        what="nearest tensor, closed form",
        width=given.width,
        hidden=given.hidden,
        seconds=round(seconds, 1),
        **{"GiB above the weights": round(peak() - before, 2), "rank": found.tensor.left.shape[0]},
    )


def peak() -> float:
    """GiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()

"""Is there one sparse basis for a whole layer? The MLPs of the two-layer model in the box, and a
random layer of their size.

    python -m experiments.mechanisms [--rank 32]

The share of ‖S‖² that the largest terms of the core carry, in the HOSVD basis and after the
sparsest turn found, beside random cores with the same mode Grams that were turned by the same
optimiser. Rows go to experiments/results/mechanisms.jsonl.
"""

import argparse
import time
from pathlib import Path

import torch

import bilens
from benchmarks.record import record
from bilens.features import mechanisms

RESULTS = Path(__file__).parent / "results" / "mechanisms.jsonl"
COUNTS = (10, 100, 1000)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rank", type=int, default=32)
    given = options.parse_args()
    model = bilens.load("tinystories-2l")
    layers = {f"mlp{n}": block.mlp.tensor().detach() for n, block in enumerate(model.blocks)}
    draw = torch.Generator().manual_seed(0)
    random = [
        torch.randn(factor.shape, generator=draw) for factor in layers["mlp0"].factors().values()
    ]
    for name, tensor in {**layers, "random": bilens.CP(*random)}.items():
        start = time.perf_counter()
        found = mechanisms(tensor, given.rank, starts=4, draws=4, steps=300)
        record(
            RESULTS,
            layer=name,
            rank=given.rank,
            error=round(found.error, 3),
            carried={count: found.carried(count) for count in COUNTS},
            converged=found.converged,
            seconds=round(time.perf_counter() - start),
        )


if __name__ == "__main__":
    main()

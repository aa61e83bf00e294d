"""Composition of all parts of a model against the obvious way: every head mapped into both inputs
of a layer, and the norm of what comes out.

    python -m benchmarks.composition [--layers 12] [--pairs 6]

d_model 768, 12 heads, h 3072, random weights, float64. The obvious way is timed on ``--pairs`` of
its pairs of a head and a layer, and counted for all of them. Rows go to
benchmarks/results/composition.jsonl.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch

import bilens
from benchmarks.record import record
from bilens.circuits import composition
from bilens.circuits.composition import BOTH_INPUTS

RESULTS = Path(__file__).parent / "results" / "composition.jsonl"
WIDTH, HEADS, HIDDEN = 768, 12, 3072


@torch.no_grad()
def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--layers", type=int, default=12)
    options.add_argument("--pairs", type=int, default=6)
    given = options.parse_args()
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=512,
        num_hidden_layers=given.layers,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
    )
    model = bilens.Transformer(config).eval()
    start = time.perf_counter()
    found = composition(model)
    seconds = time.perf_counter() - start
    strengths = zip(found.first, found.second, found.kinds, found.strength.tolist(), strict=True)
    both = [(one, two, strength) for one, two, kind, strength in strengths if kind == BOTH_INPUTS]
    some = list(itertools.islice(both, 0, len(both), max(1, len(both) // given.pairs)))
    start = time.perf_counter()
    obvious = [strength(model, first, second) for first, second, _ in some]
    a_pair = (time.perf_counter() - start) / len(some)
    record(
        RESULTS,
        what="composition",
        layers=given.layers,
        seconds=round(seconds, 1),
        pairs_on_both_inputs=len(both),
        obvious_seconds_a_pair=round(a_pair, 2),
        ratio_to_the_obvious=round(seconds / (a_pair * len(both)), 3),
        error=max(abs(one - two[2]) for one, two in zip(obvious, some, strict=True)),
    )


def strength(model: bilens.Transformer, first: str, second: str) -> float:
    """‖S(W_OV ·, W_OV ·)‖ / (‖S‖ ‖W_OV‖²), by the verbs of tensors, W_OV by its thin factors."""
    layer = bilens.circuits.virtual(model, f"{second}(x, x)")
    head = bilens.circuits.virtual(model, f"{first}(x)")
    thin = torch.linalg.qr(head.B.mT)[1] @ head.A.mT
    mapped = layer.map(left=thin, right=thin)
    whole, part = (one.inner(one, symmetric=True).sqrt() for one in (layer, mapped))
    return float(part / whole / head.norm() ** 2)


if __name__ == "__main__":
    main()

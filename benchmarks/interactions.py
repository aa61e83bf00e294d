"""The largest pairs of one feature's interaction matrix against the peer's way: project the matrix,
then take the top.

    python -m benchmarks.interactions [--threads N]

d 1024, h 4096, 8,192 latents each side, float32, the 100 largest pairs. The peer forms Q (d × d), D
Q Dᵀ (8192 × 8192) by one einsum and takes its largest coefficients f ≤ g. Both sides in the same
run, alternately, and the answers compared; seconds are the best of three, with processor seconds
beside them for machines that are shared. Rows go to benchmarks/results/interactions.jsonl.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.eigen import peak, weights
from benchmarks.record import record
from bilens.features.interactions import Interactions, interactions
from bilens.features.pairs import FeaturePairs

RESULTS = Path(__file__).parent / "results" / "interactions.jsonl"
D, H, F, K, REPEATS = 1024, 4096, 8192, 100, 3


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(options.parse_args().threads)
    for kind in ("Gaussian", "decaying"):
        compare(kind)


@torch.no_grad()
def compare(kind: str) -> None:
    layer = in_feature_space(kind)
    layer.of(0).form.dense()  # the first product of a process is slower
    before = peak()
    found = layer.of(0).top(K)
    grown = peak() - before
    times: dict[str, list[tuple[float, float]]] = {"bilens": [], "peer": []}
    error = 0.0
    for feature in range(1, REPEATS + 1):
        found, taken = clock(lambda f=feature: layer.of(f).top(K))
        times["bilens"].append(taken)
        (sizes, pairs), taken = clock(lambda f=feature: projected(layer, f))
        times["peer"].append(taken)
        error = max(error, agreement(found, sizes, pairs))
    wall, processor = (
        {who: round(min(t[n] for t in each), 3) for who, each in times.items()} for n in (0, 1)
    )
    record(
        RESULTS,
        what=f"top {K} pairs of one feature",
        weights=kind,
        d=D,
        h=H,
        latents=F,
        seconds=wall,
        processor_seconds=processor,
        ratio=round(wall["peer"] / wall["bilens"], 2),
        processor_ratio=round(processor["peer"] / processor["bilens"], 2),
        computed=found.searched / found.size,
        complete=found.complete,
        error=error,
        peak_above_weights_GiB=round(grown / 2**20, 3),
    )


def in_feature_space(kind: str) -> Interactions:
    g = torch.Generator().manual_seed(2)
    reads, writes = (
        torch.nn.functional.normalize(torch.randn(F, D, generator=g), dim=1) for _ in range(2)
    )
    return interactions(weights(kind, D, H), reads, writes)


def projected(layer: Interactions, feature: int) -> tuple[Tensor, Tensor]:
    """The peer's way: the sizes and pairs of the largest coefficients, f ≤ g: the entries of
    D Q Dᵀ, those beside the diagonal twice.
    """
    half = layer.layer.left.mT @ (
        (layer.reads[feature] @ layer.layer.out)[:, None] * layer.layer.right
    )
    matrix = torch.einsum("fi,ij,gj->fg", layer.writes, 0.5 * (half + half.mT), layer.writes)
    matrix.diagonal().mul_(0.5)
    sizes, at = matrix.abs_().triu_().flatten().topk(K)
    sizes = 2 * sizes
    return sizes, torch.stack([at // F, at % F], 1)


def agreement(found: FeaturePairs, sizes: Tensor, pairs: Tensor) -> float:
    """The largest difference of the sizes, over the largest, where the pairs are the same but for
    ties within it.
    """
    scale = float(sizes[0])
    error = float((found.coefficients.abs() - sizes.double()).abs().max()) / scale
    assert found.complete
    assert error < 1e-5, error
    above = float(sizes[-1]) + 2e-5 * scale
    one, two = (
        {tuple(pair) for pair in listed[values.abs() > above].tolist()}
        for listed, values in ((found.indices, found.coefficients), (pairs, sizes))
    )
    assert one <= {tuple(pair) for pair in pairs.tolist()}
    assert two <= {tuple(pair) for pair in found.indices.tolist()}
    return error


def clock(call: Callable[[], object]) -> tuple:
    """What ``call`` gives, with its wall seconds and processor seconds."""
    before, wall = processor(), time.perf_counter()
    result = call()
    return result, (time.perf_counter() - wall, processor() - before)


def processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

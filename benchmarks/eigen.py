"""Spectra from the factors against the peer's way: form each interaction matrix, symmetrise, ``torch.linalg.eigh``.

    python -m benchmarks.eigen [--large]

Top 16 by magnitude for many directions, on Gaussian weights and on weights whose spectrum decays as a trained layer's does;
the dense side is timed on a few directions in the same run, and eigenvalues compared there. ``--large``: d 4096, h 14336.
Rows go to benchmarks/results/eigen.jsonl.
"""

import argparse
import resource
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.record import record
from bilens.algebra import CP
from bilens.decompose import eigen

RESULTS = Path(__file__).parent / "results" / "eigen.jsonl"
K = 16
DECAY = 0.7  # singular values of L and R fall as n^-DECAY


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--large", action="store_true")
    given = options.parse_args()
    if given.large:
        compare("decaying", 4096, 14336, 64, dense=2)
    else:
        compare("Gaussian", 1024, 4096, 256, dense=4)
        compare("decaying", 1024, 4096, 256, dense=4)


@torch.no_grad()
def compare(kind: str, d: int, h: int, directions: int, dense: int) -> None:
    tensor, u = weights(kind, d, h), torch.randn(directions, d, generator=torch.Generator().manual_seed(1))
    before = peak()
    start = time.perf_counter()
    found = eigen(tensor, u, k=K, method="lanczos")
    lanczos = (time.perf_counter() - start) / directions
    grown = peak() - before
    start = time.perf_counter()
    truth = [torch.linalg.eigvalsh(matrix(tensor, one)) if d > 2048 else torch.linalg.eigh(matrix(tensor, one))[0]
             for one in u[:dense]]  # fmt: skip
    peer = (time.perf_counter() - start) / dense
    errors = [off(values, mine) for values, mine in zip(truth, found.values, strict=False)]
    assert max(errors) < 1e-5, errors
    record(
        RESULTS,
        what="top 16 by magnitude",
        weights=kind,
        d=d,
        h=h,
        directions=directions,
        seconds_per_direction={"lanczos": round(lanczos, 4), "dense": round(peer, 4)},
        ratio=round(peer / lanczos, 2),
        error=max(errors),
        converged=bool(found.converged.all()),
        peak_above_weights_GiB=round(grown / 2**20, 2),
    )


def weights(kind: str, d: int, h: int) -> CP:
    g = torch.Generator().manual_seed(0)
    left, right, out = (torch.randn(shape, generator=g) for shape in ((h, d), (h, d), (d, h)))
    if kind == "decaying":
        scale = torch.arange(1, d + 1, dtype=torch.float32) ** -DECAY
        left, right = (side * scale for side in (left, right))
        turn = torch.linalg.qr(torch.randn(d, d, generator=g)).Q
        left, right = left @ turn, right @ turn
    return CP(out / h**0.5, left / d**0.5, right / d**0.5)


def matrix(tensor: CP, u: Tensor) -> Tensor:
    """The peer's way to one interaction matrix."""
    half = tensor.left.mT @ ((u @ tensor.out)[:, None] * tensor.right)
    return 0.5 * (half + half.mT)


def off(truth: Tensor, found: Tensor) -> float:
    """The largest difference of the top eigenvalues, over the largest."""
    order = truth.abs().argsort(descending=True)[: len(found)]
    return float((truth[order].sort().values - found.sort().values).abs().max() / truth.abs().max())


def peak() -> int:
    """Peak resident memory of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()

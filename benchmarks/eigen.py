"""Spectra from the factors against the peer's way: form each interaction matrix, symmetrise,
``torch.linalg.eigh``.

    python -m benchmarks.eigen [--large | --model]

Top 16 by magnitude for many directions, on Gaussian weights and on weights whose spectrum decays as
a trained layer's does; the dense side is timed on a few directions in the same run, and eigenvalues
compared there. ``--large``: d 4096, h 14336, where ‖Q‖ (what is left out) costs more than the
pairs, so that it is timed by itself. ``--model``: the two methods of
``eigen`` over a grid of sizes, and which of them "auto" takes. Rows go to
benchmarks/results/eigen.jsonl.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.record import record
from bilens.algebra import CP
from bilens.decompose import Auto, Dense, Lanczos, eigen

RESULTS = Path(__file__).parent / "results" / "eigen.jsonl"
K = 16
D, H, DIRECTIONS, DENSE = 1024, 4096, 256, 4
DECAY = 0.7  # singular values of L and R fall as n^-DECAY


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--large", action="store_true")
    options.add_argument("--model", action="store_true")
    given = options.parse_args()
    if given.model:
        for d, h in ((256, 1024), (512, 512), (512, 2048), (1024, 1024), (1024, 4096)):
            for k in (4, 16, 64):
                choice(d, h, k)
    elif given.large:
        compare("decaying", 4096, 14336, 64, dense=2, norm=False)
    else:
        for kind in ("Gaussian", "decaying"):
            compare(kind, D, H, DIRECTIONS, DENSE)


@torch.no_grad()
def compare(kind: str, d: int, h: int, directions: int, dense: int, norm: bool = True) -> None:
    tensor, u = (
        weights(kind, d, h),
        torch.randn(directions, d, generator=torch.Generator().manual_seed(1)),
    )
    before = reset_peak()
    start = time.perf_counter()
    found = eigen(tensor, u, k=K, solver=Lanczos(norm=norm))
    lanczos = (time.perf_counter() - start) / directions
    grown = peak() - before
    start = time.perf_counter()
    norms = tensor.interaction(u).norm(tensor.dtype)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    truth = [torch.linalg.eigh(matrix(tensor, one))[0] for one in u[:dense]]
    peer = (time.perf_counter() - start) / dense
    few = u[:dense]
    certified = timed(lambda: eigen(tensor, few, k=K, solver=Lanczos(norm=False, certify=True)))
    probed = timed(lambda: eigen(tensor, few, k=K, solver=Lanczos(norm=False)))
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
        complete=bool(found.complete.all()),
        seconds_to_certify_a_direction=round((certified - probed) / dense, 4),
        with_norms=norm,
        seconds_of_norms=round(whole, 2),
        largest_error=round(
            float((1 - found.values.square().sum(-1) / norms.square()).clamp(min=0).sqrt().max()), 3
        ),
        error=max(errors),
        converged=bool(found.converged.all()),
        peak_above_weights_GiB=round(grown / 2**20, 2),
    )


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.no_grad()
def choice(d: int, h: int, k: int) -> None:
    """Both methods on both kinds of weights, and what "auto" takes: a row."""
    u = torch.randn(64, d, generator=torch.Generator().manual_seed(1))
    seconds = {}
    for kind in ("Gaussian", "decaying"):
        tensor = weights(kind, d, h)
        for solver, n in ((Lanczos(norm=False), 64), (Dense(), 4)):
            start = time.perf_counter()
            found = eigen(tensor, u[:n], k=k, solver=solver)
            seconds[f"{found.method}, {kind}"] = round((time.perf_counter() - start) / n, 5)
    taken = eigen(weights("Gaussian", d, h), u[:1], k=k, solver=Auto(norm=False)).method
    record(RESULTS, what="methods", d=d, h=h, k=k, seconds_per_direction=seconds, auto=taken)


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


def reset_peak() -> int:
    """Forget the peak so far (Linux): what is resident now, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


if __name__ == "__main__":
    main()

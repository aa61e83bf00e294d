"""HOSVD from the factors against tensorly's on the dense cube, spectra compared in the same run;
and of one large layer.

    python -m benchmarks.hosvd [--large | --measured D H]

tensorly decomposes the cube, which is handed to it ready made, with either backend; n_iter_max=0 is
the plain HOSVD, whose singular values are the norms of the core's slices. Beside it the cube's own
Grams by hand, float32. ``--large``: d 4096, h 14336 with a decaying spectrum, the symmetric part
cut to 64 directions a mode, in a process of its own, with seconds and the peak of memory above the
weights; ``--measured``: the same at another size. Rows go to benchmarks/results/hosvd.jsonl.
"""

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tensorly
import torch
from tensorly.decomposition import partial_tucker
from torch import Tensor

from benchmarks.eigen import peak, weights
from benchmarks.record import record
from bilens.base.axes import MODES
from bilens.decompose import hosvd

RESULTS = Path(__file__).parent / "results" / "hosvd.jsonl"
D, H, KEPT = 256, 1024, 64
RUNS = 5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--large", action="store_true")
    options.add_argument("--measured", nargs=2, type=int, metavar=("D", "H"))
    given = options.parse_args()
    if given.large or given.measured:
        d, h = given.measured or (4096, 14336)
        measured(d, h)
    else:
        for kind in ("Gaussian", "decaying"):
            compare(kind, D, H)


@torch.no_grad()
def compare(kind: str, d: int, h: int) -> None:
    tensor = weights(kind, d, h)
    cube = tensor.dense()
    hosvd(tensor)  # warm
    mine = min(seconds(lambda: hosvd(tensor))[0] for _ in range(RUNS))
    found = hosvd(tensor)
    peers, errors = {}, {}
    for name, solve in PEERS.items():
        peers[name], core = seconds(lambda solve=solve: solve(cube))
        errors[name] = off(found.spectrum, core)
    assert max(errors.values()) < 1e-4, errors
    record(
        RESULTS,
        what="HOSVD, all modes, nothing cut off",
        weights=kind,
        d=d,
        h=h,
        seconds={
            "bilens": round(mine, 4),
            **{name: round(value, 3) for name, value in peers.items()},
        },
        ratio={name: round(value / mine, 1) for name, value in peers.items()},
        error=errors,
    )


def by_tensorly(cube: Tensor, backend: str) -> Tensor:
    with warnings.catch_warnings(action="ignore"), tensorly.backend_context(backend):
        given = cube if backend == "pytorch" else cube.numpy()
        return torch.as_tensor(partial_tucker(given, cube.shape, n_iter_max=0)[0][0])


def by_grams(cube: Tensor) -> Tensor:
    for n in range(3):
        unfolded = cube.movedim(n, 0).flatten(1)
        vectors = torch.linalg.eigh(unfolded @ unfolded.mT).eigenvectors.flip(1)
        cube = (vectors.mT @ unfolded).reshape(cube.movedim(n, 0).shape).movedim(0, n)
    return cube


PEERS = {
    "tensorly, numpy": partial(by_tensorly, backend="numpy"),
    "tensorly, pytorch": partial(by_tensorly, backend="pytorch"),
    "Grams of the cube": by_grams,
}


@torch.no_grad()
def measured(d: int, h: int) -> None:
    tensor = weights("decaying", d, h)
    before = resident()
    taken, found = seconds(lambda: hosvd(tensor, KEPT, symmetric=True))
    record(
        RESULTS,
        what=f"HOSVD of the symmetric part, {KEPT} kept a mode",
        d=d,
        h=h,
        seconds=round(taken, 1),
        peak_above_weights_GiB=round((peak() * 1024 - before) / 2**30, 2),
        peak_GiB=round(peak() / 2**20, 2),
        weights_GiB=round(sum(factor.nbytes for factor in tensor.factors().values()) / 2**30, 2),
        summary=found.summary(),
    )


def off(spectrum: dict[str, Tensor], core: Tensor) -> float:
    """The largest difference of the singular values of any mode, over the mode's largest."""
    slices = {mode: core.movedim(n, 0).flatten(1).norm(dim=1) for n, mode in enumerate(MODES)}
    return max(
        float((values - slices[mode]).abs().max() / values[0]) for mode, values in spectrum.items()
    )


def resident() -> int:
    """Resident memory of this process now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    done = work()
    return time.perf_counter() - start, done


if __name__ == "__main__":
    main()

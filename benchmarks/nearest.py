"""The nearest tensor of one large layer from weights and two moments: time, and memory above the
weights; and beside the dense way.

    python -m benchmarks.nearest [--width 4096] [--hidden 14336]
    python -m benchmarks.nearest --dense [--width 512] [--hidden 2048]

Random weights and a random covariance. With --dense: a plain gelu MLP with biases under N(0, 1), as
in arXiv:2502.01032, whose quadratic coefficients are an array (d, d, d) there, here made by one
einsum over the hidden units; Gauss–Hermite's rule gives the averages. Both ways in one run, with
the memory that each takes above the weights at most, and how far their coefficients lie apart. A
row goes to benchmarks/results/nearest.jsonl.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu

import bilens
from benchmarks.record import record
from bilens.nn import MLP, GatedMLP

RESULTS = Path(__file__).parent / "results" / "nearest.jsonl"
NODES = 201


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--width", type=int)
    options.add_argument("--hidden", type=int)
    options.add_argument("--dense", action="store_true")
    given = options.parse_args()
    torch.manual_seed(0)
    if given.dense:
        beside_dense(given.width or 512, given.hidden or 2048)
    else:
        large(given.width or 4096, given.hidden or 14336)


def large(width: int, hidden: int) -> None:
    layer = GatedMLP(width, hidden)
    turn = torch.randn(width, width) / width**0.5
    measure = bilens.Gaussian(torch.zeros(width), turn @ turn.mT)
    del turn
    before, start = peak(), time.perf_counter()
    found = bilens.approximate(layer, measure)
    seconds = time.perf_counter() - start
    record(
        RESULTS,
        what="nearest tensor, closed form",
        width=width,
        hidden=hidden,
        seconds=round(seconds, 1),
        **{"GiB above the weights": round(peak() - before, 2), "rank": found.tensor.left.shape[0]},
    )


@torch.no_grad()
def beside_dense(width: int, hidden: int) -> None:
    layer = MLP(width, hidden, bias=True, act="gelu")
    for weight in layer.parameters():
        weight.normal_(std=1.5 / weight.shape[-1] ** 0.5)
    measure = bilens.Gaussian(torch.zeros(width), torch.eye(width))
    bilens.approximate(MLP(8, 8), bilens.Gaussian(torch.zeros(8), torch.eye(8)))  # loads all code
    found, ours, seconds = taken(lambda: bilens.approximate(layer, measure))
    (constant, linear, cube), dense, dense_seconds = taken(lambda: dense_way(layer))
    mine = found.tensor.split()
    off = max(apart(constant, mine.constant), apart(linear, mine.linear))
    size = float(cube.abs().max())
    for n, matrix in enumerate(cube):
        own = mine.quadratic.interaction(torch.eye(width)[n]).dense()
        off = max(off, float((matrix - own).abs().max()) / size)
    record(
        RESULTS,
        what="nearest tensor of a plain gelu MLP under N(0, 1), beside the dense way",
        width=width,
        hidden=hidden,
        **{
            "MiB, factors": round(ours, 1),
            "MiB, dense": round(dense, 1),
            "MiB, the dense array alone": round(cube.nbytes / 2**20, 1),
            "ratio": round(dense / ours, 1) if ours else None,
            "coefficients apart": float(f"{off:.2g}"),
        },
        seconds=[round(seconds, 2), round(dense_seconds, 2)],
    )


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, in parts of the largest entry."""
    return float((one - other).abs().max() / one.abs().max())


def dense_way(layer: MLP) -> tuple[Tensor, Tensor, Tensor]:
    """Constant, linear and quadratic coefficients in x of the best polynomial of degree 2."""
    g, bias, out = layer.up_proj.weight, layer.up_proj.bias, layer.down_proj.weight
    z, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(NODES))
    weights = weights / weights.sum()
    var = g.double().square().sum(1)
    act = gelu(bias.double()[:, None] + var.sqrt()[:, None] * z)
    e0 = act @ weights
    e1 = act @ (weights * z) / var.sqrt()
    curve = act @ (weights * (z.square() - 1)) / var / 2  # ½ E_2, by Stein
    constant = out @ (e0 - curve * var).float() + layer.down_proj.bias
    linear = (out * e1.float()) @ g
    return constant, linear, torch.einsum("oh,hi,hj->oij", out * curve.float(), g, g)


def taken(make: Callable[[], Any]) -> tuple[Any, float, float]:
    """What is made, the MiB that it took at most, and the seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from what is held
    before, start = status("VmRSS"), time.perf_counter()
    made = make()
    return made, (status("VmHWM") - before) / 2**10, time.perf_counter() - start


def status(name: str) -> int:
    """KiB of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def peak() -> float:
    """GiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()

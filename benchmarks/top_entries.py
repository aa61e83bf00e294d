"""The largest entries by search against brute force by blocks: each output's slice as one product,
and a running top k.

    python -m benchmarks.top_entries [--full]

On the boxed model's W_U · T · (W_E, W_E), 1024³ entries, and on Gaussian factors, where no bound
excludes much. Brute force is timed in float32 and float64 through the factors as they are; for the
boxed model also in float32 through the small matrices E Q_o Eᵀ that only someone who knows of the
model's width can write down. There it is timed on every 32nd output and scaled, and the answers
compared on those; ``--full``: compared on all. Rows go to benchmarks/results/top_entries.jsonl.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bilens
from benchmarks.record import record
from bilens.algebra import CP
from bilens.decompose import TopEntries, top_entries

RESULTS = Path(__file__).parent / "results" / "top_entries.jsonl"
MODEL, ROUNDS = "tinystories-2l", 3
SHAPES = [
    (512, 512, 256),
    (512, 512, 64),
    (256, 256, 1024),
    (256, 1024, 256),
    (64, 2048, 512),
    (512, 128, 1024),
    (256, 64, 4096),
]  # o, i = j, h


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--full", action="store_true")
    given = options.parse_args()
    boxed(given.full)
    for o, d, h in SHAPES:
        gaussian(o, d, h)


@torch.no_grad()
def boxed(full: bool) -> None:
    rules = bilens.circuits.virtual(bilens.load(MODEL), "W_U mlp0(embed, embed)").detach()
    assert isinstance(rules, CP)
    few, single = torch.arange(0, len(rules.out), 32), rules.to(torch.float32)
    slices = {
        "float32": plain(single),
        "float64": plain(rules),
        "float32 through d": narrow(single),
    }
    for k, symmetric in ((20, False), (20, True), (100, False)):
        found, seconds, brute = race(
            lambda k=k, symmetric=symmetric: top_entries(rules, k, symmetric=symmetric),
            {
                name: partial(blocks, rows, rules.shape[1], few, k, symmetric)
                for name, rows in slices.items()
            },
        )
        compared = torch.arange(len(rules.out)) if full else few
        here = found if full else top_entries(rules, k, rows=few, symmetric=symmetric)
        error = compare(here, *blocks(plain(rules), rules.shape[1], compared, k, symmetric))
        scaled = {name: time * len(rules.out) / len(few) for name, time in brute.items()}
        report(
            "boxed",
            rules,
            k,
            found,
            seconds,
            scaled,
            error,
            symmetric=symmetric,
            outputs_compared=len(compared),
        )


@torch.no_grad()
def gaussian(o: int, d: int, h: int, k: int = 20) -> None:
    g = torch.Generator().manual_seed(0)
    tensor = CP(*(torch.randn(shape, generator=g) for shape in ((o, h), (h, d), (h, d))))
    work = {name: tensor.to(getattr(torch, name)) for name in ("float32", "float64")}
    found, seconds, brute = race(
        lambda: top_entries(tensor, k),
        {
            name: partial(blocks, plain(form), d, torch.arange(o), k, False)
            for name, form in work.items()
        },
    )
    report(
        "Gaussian",
        tensor,
        k,
        found,
        seconds,
        brute,
        compare(found, *blocks(plain(work["float64"]), d, torch.arange(o), k, False)),
    )


def report(
    weights: str,
    tensor: CP,
    k: int,
    found: TopEntries,
    seconds: float,
    brute: dict[str, float],
    error: float,
    **more: Any,
) -> None:
    record(
        RESULTS,
        what="largest entries",
        weights=weights,
        shape=tensor.shape,
        rank=tensor.rank,
        k=k,
        **more,
        seconds=round(seconds, 3),
        brute_force_seconds={name: round(time, 2) for name, time in brute.items()},
        ratio={name: round(time / seconds, 2) for name, time in brute.items()},
        computed=round(found.looked_at / found.size, 5),
        error=error,
        complete=found.complete,
    )


def plain(tensor: CP) -> Callable[[int], Tensor]:
    """The slice of an output from the factors as they are."""
    return lambda o: (tensor.left * tensor.out[o][:, None]).mT @ tensor.right


def narrow(tensor: CP) -> Callable[[int], Tensor]:
    """The slice of an output as E Q_o Eᵀ, with the spans of left and right found beforehand and not
    timed.
    """
    (u, e), (v, f) = (span(side) for side in (tensor.left, tensor.right))
    return lambda o: e @ ((u * tensor.out[o][:, None]).mT @ v) @ f.mT


def span(side: Tensor) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(side.double(), full_matrices=False)
    rank = int((s > 1e-6 * s[0]).sum())
    return (u[:, :rank] * s[:rank]).to(side.dtype), vh[:rank].mT.to(side.dtype)


def blocks(
    slice_of: Callable[[int], Tensor], i: int, outputs: Tensor, k: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Entries (o, i, j) and their values. A slice is looked at twice only where it holds a larger
    one.
    """
    below = torch.ones(i, i, dtype=torch.bool).tril(-1) if symmetric else None
    values, entries, threshold = torch.zeros(0), torch.zeros(0, 3, dtype=torch.int64), -1.0
    for o in outputs.tolist():
        block = slice_of(o)
        if below is not None:
            block = block.masked_fill_(below, 0).mul_(2)  # of a symmetric slice: both orders,
            block.diagonal().mul_(0.5)  # and a square once
        least, most = torch.aminmax(block)
        if max(float(most), -float(least)) <= threshold:
            continue
        best = block.abs().flatten().topk(k).indices
        found = torch.stack(
            [torch.full_like(best, o), best // block.shape[1], best % block.shape[1]], 1
        )
        values = torch.cat([values.to(block.dtype), block.flatten()[best]])
        order = values.abs().argsort(descending=True)[:k]
        values, entries = values[order], torch.cat([entries, found])[order]
        threshold = float(values[-1].abs())
    return entries, values


def race(
    search: Callable[[], TopEntries], brute: dict[str, Callable[[], object]]
) -> tuple[TopEntries, float, dict[str, float]]:
    """What the search finds, and the least of the seconds that it and each of ``brute`` took, in
    turn.
    """
    times = {name: [] for name in brute}
    seconds, found = [], search()
    for _ in range(ROUNDS):
        seconds.append(clock(search))
        for name, call in brute.items():
            times[name].append(clock(call))
    return found, min(seconds), {name: min(each) for name, each in times.items()}


def clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(found: TopEntries, entries: Tensor, values: Tensor) -> float:
    """The largest difference of the values, over the largest, where they and the entries agree."""
    scale = float(values[0].abs())
    error = float((found.values.abs() - values.abs()).abs().max()) / scale
    assert found.complete
    assert error < 1e-12, error
    above = float(values[-1].abs()) + 1e-12 * scale  # ties for the last place may fall either way
    one, two = ({tuple(row) for row in rows[sizes.abs() > above].tolist()}
                for rows, sizes in ((found.indices, found.values), (entries, values)))  # fmt: skip
    assert one == two, one ^ two
    return error


if __name__ == "__main__":
    main()

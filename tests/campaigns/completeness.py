"""``python -m tests.campaigns.completeness [seeds] [first] [largest]``: spectra that iterations
miss values of, against dense ones.

Rings, lattices, circulants, mod-p layers, ±2⁻ⁿ, planted multiplicities to 8, low rank and Gaussian
forms, n 40 to ``largest`` (1000), in float64 and float32, each end of the spectrum, several k. A
value is wrong where it is further from LAPACK's of the same place than 1e-10 (float32: 1e-5) of
the largest, and than twice the norm of the residuals and rounding leave undecided. Wrong values of
a spectrum that is called complete and converged are counted and told.
"""

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from bilens.algebra import CP
from bilens.algebra.eigen import Which, eigen_noise, preference
from bilens.decompose import Lanczos, eigen

DTYPES = {torch.float64: 1e-10, torch.float32: 1e-5}
NUMBERS = (1, 2, 4, 7, 16, 20)
FEWER = (1, 7, 20)  # above n 500, where a dense spectrum takes long
SEVERAL = 8  # the largest multiplicity


def ring(n: int, *jumps: tuple[int, float]) -> CP:
    """Σ w x_a x_(a+jump): every eigenvalue but the outermost comes twice."""
    eye = torch.eye(n, dtype=torch.float64)
    return CP(torch.ones(1, n).double(), eye, sum(w * eye.roll(jump, 1) for jump, w in jumps))


def lattice(rows: int, columns: int) -> CP:
    """A torus: eigenvalues four and eight times."""
    n = rows * columns
    eye = torch.eye(n, dtype=torch.float64).reshape(n, rows, columns)
    near = (eye.roll(1, 1) + eye.roll(1, 2)).reshape(n, n)
    return CP(torch.ones(1, n).double(), eye.reshape(n, n), near)


def circulant(n: int, draw: torch.Generator) -> CP:
    entries = torch.randn(n, generator=draw, dtype=torch.float64)
    shift = (torch.arange(n)[:, None] - torch.arange(n)) % n
    return CP(torch.ones(1, n).double(), torch.eye(n).double(), entries[shift])


def modular(p: int) -> CP:
    """Addition mod p of two one-hot inputs, as one unit a pair: outputs and two Fourier waves."""
    first, second = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    hot = torch.eye(p, dtype=torch.float64)
    none = torch.zeros(p * p, p, dtype=torch.float64)
    out = hot[(first + second) % p].mT
    waves = torch.stack([torch.cos(2 * torch.pi * k * torch.arange(p) / p) for k in (1, 3)])
    return CP(
        torch.cat([out[:2], waves.double() @ out]),
        torch.cat([hot[first], none], 1),
        torch.cat([none, hot[second]], 1),
    )


def turned(spectra: Tensor, draw: torch.Generator) -> CP:
    """The forms with these eigenvalues, a row each, in one random basis."""
    n = spectra.shape[1]
    basis = torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64)).Q
    return CP(spectra, basis, basis)


def planted(n: int, draw: torch.Generator) -> Tensor:
    """Random spectra in which values come once in the first row, and 2, 3, … 8 times below it."""
    rows = torch.randn(SEVERAL, n, generator=draw, dtype=torch.float64).sort(-1, True).values
    for times, row in enumerate(rows, 1):
        anywhere = torch.randint(0, n - SEVERAL, (4,), generator=draw).tolist()
        for at in (*anywhere, int(torch.randint(0, 12, (1,), generator=draw))):
            row[at : at + times] = row[at].clone()
    return rows


def forms(seed: int, largest: int) -> Iterator[tuple[str, CP]]:
    draw = torch.Generator().manual_seed(seed)
    for n in (n for n in (40, 120, 300, 500, 1000) if n <= largest):
        yield f"ring {n}", ring(n, (1, 1.0))
        yield f"two rings {n}", ring(n, (1, 1.0), (3, 0.5))
        yield f"circulant {n}", circulant(n, draw)
        yield f"multiplicities {n}", turned(planted(n, draw), draw)
        low = torch.zeros(3, n, dtype=torch.float64)
        low[:, :10] = torch.randn(3, 10, generator=draw, dtype=torch.float64).abs()
        yield f"rank 10 of {n}", turned(low, draw)
    for rows, columns in ((8, 8), (12, 20), (16, 25), (25, 40)):
        if rows * columns <= largest:
            yield f"lattice {rows}x{columns}", lattice(rows, columns)
    for p in (p for p in (31, 59, 113) if 2 * p <= largest):
        yield f"mod {p}", modular(p)
    for n, times in itertools.product((40, 100), (1, 2)):
        powers = (-1.0) ** torch.arange(n) * 2.0 ** -(torch.arange(n).double() // times)
        yield f"±2⁻ⁿ {n}, by {times}", turned(powers[None], draw)
    sizes = (4, 300), (300, 200), (300, 200)
    out, left, right = (torch.randn(size, generator=draw, dtype=torch.float64) for size in sizes)
    yield "gaussian", CP(out, left, right)


def checked(name: str, tensor: CP, dtype: torch.dtype) -> Counter[str]:
    """How many spectra were asked for, called complete, and called so with a wrong value."""
    tensor, figures = tensor.to(dtype), Counter[str]()
    outputs = torch.eye(tensor.shape[0], dtype=torch.float64)
    truth = torch.linalg.eigvalsh(tensor.to(torch.float64).interaction(outputs).dense())
    largest = truth.abs().amax(-1, keepdim=True)
    numbers = NUMBERS if truth.shape[-1] <= 500 else FEWER
    for which, k in itertools.product(get_args(Which), numbers):
        pairs = eigen(tensor, k=k, which=which, solver=Lanczos(norm=False))
        best = preference(truth, which).sort(-1, True).values[:, :k]
        off = (preference(pairs.values.double(), which) - best).abs() / largest
        undecided = 2 * pairs.residuals.double().norm(dim=-1, keepdim=True) / largest
        noise = eigen_noise(dtype, truth.shape[-1]) + DTYPES[dtype] / 50
        wrong = (off > (undecided + noise).clamp(min=DTYPES[dtype])).any(-1)
        good = pairs.complete & pairs.converged.all(-1)
        figures += Counter(
            spectra=len(wrong), complete=int(good.sum()), wrong=int((wrong & good).sum())
        )
        if bool((wrong & good).any()):
            print(f"WRONG: {name}, {dtype}, {which} {k}: off by {float(off[good].max()):.3g}")
    return figures


def main(seeds: int = 3, first: int = 0, largest: int = 1000) -> int:
    total, began = Counter[str](), time.monotonic()
    for seed in range(first, first + seeds):
        for (name, tensor), dtype in itertools.product(forms(seed, largest), DTYPES):
            figures = checked(name, tensor, dtype)
            total += figures
            told = ", ".join(f"{figures[key]} {key}" for key in ("spectra", "complete", "wrong"))
            print(f"seed {seed}: {name}, {str(dtype)[6:]}: {told}", flush=True)
    told = ", ".join(f"{total[key]} {key}" for key in ("spectra", "complete", "wrong"))
    print(f"{told}; {time.monotonic() - began:.0f} s")
    return int(total["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

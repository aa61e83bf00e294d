"""No eigenvalue is missing from what is called complete: symmetric layers, repeated and decaying
eigenvalues; numpy.
"""

from functools import partial

import numpy as np
import pytest
import torch

from bilens.algebra import CP, Eigen
from bilens.base.errors import TooLargeError
from bilens.decompose import Chunks, Dense, Lanczos, eigen
from bilens.decompose.spectra import inertia, probe
from bilens.decompose.spectra.lanczos import lanczos
from bilens.decompose.spectra.product import Product

F64 = torch.float64


def ring(n):
    """y = Σ x_j x_j+1 on a ring: every eigenvalue but two is there twice."""
    eye = torch.eye(n, dtype=F64)
    return CP(torch.ones(1, n, dtype=F64), eye, eye.roll(1, 1))


def lattice(a, b):
    eye = torch.eye(a * b, dtype=F64).reshape(a * b, a, b)
    beside = eye.roll(1, 1) + eye.roll(1, 2)
    return CP(torch.ones(1, a * b, dtype=F64), eye.flatten(1), beside.flatten(1))


def modular(p):
    """One-hot a + b = c mod p, read by two waves."""
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    left, right, out = (
        torch.zeros(s, dtype=F64) for s in ((p * p, 2 * p), (p * p, 2 * p), (p, p * p))
    )
    at = torch.arange(p * p)
    left[at, a], right[at, p + b], out[(a + b) % p, at] = 1, 1, 1
    waves = torch.stack(
        [torch.cos(2 * torch.pi * f * torch.arange(p, dtype=F64) / p) for f in (1, 3)]
    )
    return CP(waves @ out, left, right)


def diagonal(rows):
    n = rows.shape[1]
    turn = torch.linalg.qr(
        torch.randn(n, n, generator=torch.Generator().manual_seed(2), dtype=F64)
    ).Q
    return CP(rows, turn, turn)


def planted(n):
    """Gaussian eigenvalues with one of multiplicity m among the largest, m = 1 … 8, a row each."""
    rows = (
        torch.randn(8, n, generator=torch.Generator().manual_seed(n), dtype=F64)
        .sort(descending=True)
        .values
    )
    for m, row in enumerate(rows, start=1):
        row[m : 2 * m] = row[m].clone()
    return diagonal(rows)


def decaying(n=40):
    return diagonal(torch.tensor([[(-1.0) ** i * 2.0**-i for i in range(n)]], dtype=F64))


def low(n=60):
    """Ten positive eigenvalues, the others zero: the lowest are the null space."""
    values = torch.rand(2, 10, generator=torch.Generator().manual_seed(3), dtype=F64) + 0.1
    return diagonal(torch.nn.functional.pad(values, (0, n - 10)))


LAYERS = {
    "ring": lambda: ring(120), "lattice": lambda: lattice(8, 8), "modular": lambda: modular(31),
    "planted": lambda: planted(60), "decaying": decaying, "low rank": low,
}  # fmt: skip
ORDER = {"top": lambda x: -x, "bottom": lambda x: x, "magnitude": lambda x: -abs(x)}


def truth(tensor, which, k):
    forms = tensor.to(F64).interaction(torch.eye(tensor.shape[0], dtype=F64)).dense().numpy()
    spectra = np.linalg.eigvalsh(forms)
    order = np.argsort(ORDER[which](spectra), axis=-1, kind="stable")[:, :k]
    return ORDER[which](np.take_along_axis(spectra, order, -1)), abs(spectra).max(-1, keepdims=True)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("dtype", "tol"), [(F64, 1e-10), (torch.float32, 1e-5)])
def test_what_is_called_complete_is(layer, dtype, tol):
    tensor = LAYERS[layer]().to(dtype)
    for which in ORDER:
        for k in (4, 13):
            found = eigen(tensor, k=k, which=which, solver=Lanczos(norm=False))
            expected, size = truth(tensor, which, k)
            right = (abs(ORDER[which](found.values.double().numpy()) - expected) <= tol * size).all(
                -1
            )
            said = (found.complete & found.converged.all(-1)).numpy()
            assert (right | ~said).all(), (which, k)
            assert said.mean() > 0.8
            assert found.known.startswith("probed: ")


def test_a_repeated_eigenvalue_is_found_as_often_as_it_is_there():
    found = eigen(ring(300), k=4, which="top", solver=Lanczos())
    angles = 2 * np.pi * np.array([0, 1, 1, 2]) / 300
    assert found.values[0].numpy() == pytest.approx(np.cos(angles), abs=1e-10)
    assert (bool(found.complete), bool(found.cut), found.degenerate) == (True, True, [[(1, 2)]])


@pytest.mark.parametrize("seed", range(5))
def test_no_small_eigenvalue_is_skipped(seed):
    turn = torch.linalg.qr(
        torch.randn(40, 40, generator=torch.Generator().manual_seed(seed), dtype=F64)
    ).Q
    values = torch.tensor([[(-1.0) ** i * 2.0**-i for i in range(40)]], dtype=F64)
    found = eigen(CP(values, turn, turn), k=20, which="bottom", solver=Lanczos())
    assert found.values[0].tolist() == pytest.approx(
        [-(2.0 ** -(2 * i + 1)) for i in range(20)], abs=5e-11
    )
    assert found.complete.all()
    assert found.converged.all()


def test_bottom_of_a_low_rank_form_is_no_false_alarm():
    for solver in (Lanczos(), Dense()):
        found = eigen(low(), k=4, which="bottom", solver=solver)
        assert found.converged.all()
        assert found.complete.all()
        assert found.largest.tolist() == pytest.approx(
            eigen(low(), k=1, solver=Dense()).values[:, 0].tolist()
        )


@pytest.mark.parametrize("which", ORDER)
@pytest.mark.parametrize("layer", ["ring", "planted", "low rank"])
def test_a_certificate_finds_what_a_blind_probe_missed(layer, which, monkeypatch):
    tensor = LAYERS[layer]()
    monkeypatch.setattr(
        "bilens.decompose.spectra.lanczos.unseen",
        lambda product, *_: torch.ones(len(product), dtype=torch.bool),
    )
    found = eigen(tensor, k=6, which=which, solver=Lanczos(certify=True))
    expected, size = truth(tensor, which, 6)
    assert (abs(ORDER[which](found.values.numpy()) - expected) <= 1e-10 * size).all()
    assert found.complete.all()
    assert found.known == inertia.CERTIFIED
    assert "certified by inertia" in found.summary()


def test_the_count_of_eigenvalues_beyond_a_shift(make):
    matrix = make.randn(30, 30)
    matrix = matrix + matrix.mT
    # 2 × 2 pivots
    matrix[:6, :6] = torch.tensor([[0.0, 1], [1, 0]]).double().kron(torch.eye(3).double())
    spectrum = torch.linalg.eigvalsh(matrix)
    for shift in (0.3, 2.0, 5.0):
        assert inertia.beyond(matrix, shift, "top") == int((spectrum > shift).sum())
        assert inertia.beyond(matrix, shift, "bottom") == int((spectrum < -shift).sum())
        assert inertia.beyond(matrix, shift, "magnitude") == int((spectrum.abs() > shift).sum())


def test_the_chance_is_no_smaller_than_how_often_it_happens():
    """An eigenvalue 1 above 59 of (−1, .9): how often of 2,000 a probe of chance .3 misses it."""
    values = torch.linspace(-1, 0.9, 60, dtype=F64)
    values[-1] = 1.0
    tensor = CP(values.expand(2000, 60), torch.eye(60, dtype=F64), torch.eye(60, dtype=F64))
    form = tensor.interaction(torch.eye(2000, dtype=F64))
    held = probe.Held(torch.zeros(2000, 1, 60, dtype=F64), torch.full((2000,), 0.99, dtype=F64))
    clear = probe.unseen(Product.of(form), held, "top", 0.3, 200, torch.Generator().manual_seed(0))
    assert 0.01 < clear.double().mean() <= 0.3


def test_results_say_it_and_keep_it(tmp_path, make):
    found = eigen(ring(60), k=3, solver=Lanczos())
    assert found.rows()[0]["complete"] is True
    found.save(tmp_path / "e")
    loaded = Eigen.load(tmp_path / "e")
    assert (loaded.known, loaded.complete.tolist(), loaded.summary()) == (
        found.known,
        [True],
        found.summary(),
    )
    assert "complete (dense: the whole spectrum)" in eigen(make.cp(), k=2).summary()


def test_what_did_not_converge_is_not_complete(monkeypatch):
    short = partial(lanczos, max_steps=5)
    monkeypatch.setattr("bilens.decompose.spectra.solvers.lanczos", short)
    found = eigen(ring(120), k=8, solver=Lanczos())
    assert not found.complete.any()
    assert "1 of 1 perhaps not complete" in found.summary()


def test_a_certificate_that_does_not_fit_is_refused(refuses):
    certified, chunks = Lanczos(certify=True), Chunks(max_bytes=1000)
    refuses(
        TooLargeError,
        lambda: eigen(ring(120), k=2, solver=certified, chunks=chunks),
        "Lanczos(certify=True) must fit in 1,000 bytes",
        "Chunks(max_bytes=)",
    )

"""The share beyond the top eigenvectors: against dense eigenvalues, its gradient against the dense one."""

import sys

import pytest
import torch

from bilens.algebra import CP
from bilens.base.errors import ArgumentError
from bilens.decompose import tail


def nearly_low_rank(size, rank, small, seed=0):
    """Three outputs over ``size`` inputs: ``rank`` symmetric terms each of order one, the rest ``small``."""
    g = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64)).Q
    out = torch.randn(3, size, generator=g, dtype=torch.float64)
    out = out.sign() * (1 + out.abs())
    out[:, rank:] *= small
    return CP(out, left, left)


def share(tensor, k):
    found = tail(tensor, k)
    return found.beyond / found.total


def dense_tail(cube, k):
    values = torch.linalg.eigvalsh((cube + cube.mT) / 2).square().sort(-1, descending=True).values
    return values[:, k:].sum(-1) / values.sum(-1)


def test_it_is_the_dense_tail_where_there_is_a_gap():
    tensor = nearly_low_rank(30, 4, 1e-3)
    assert torch.allclose(share(tensor, 4), dense_tail(tensor.dense(), 4), rtol=1e-4)


def test_it_is_never_below_the_dense_tail():
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        tensor = CP(*(torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((2, 9), (9, 20), (9, 20))))
        for k in (1, 3, 20):
            assert (share(tensor, k) >= dense_tail(tensor.dense(), k) - 1e-12).all()


def test_its_gradient_is_that_of_the_dense_tail(monkeypatch):
    monkeypatch.setattr(sys.modules[tail.__module__], "ROUNDS", 4)
    tensor = nearly_low_rank(12, 3, 1e-3)
    gradients = []
    for measure in (lambda t: share(t, 3).sum(), lambda t: dense_tail(t.dense(), 3).sum()):
        left = tensor.left.clone().requires_grad_()
        measure(CP(tensor.out, left, tensor.right)).backward()
        gradients.append(left.grad)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-3 * gradients[1].abs().max())


def test_all_kept_leaves_nothing():
    tensor = nearly_low_rank(8, 3, 0.5)
    assert share(tensor, 8).abs().max() < 1e-12


@pytest.mark.parametrize("k", [0, 9])
def test_a_wrong_k_is_refused(refuses, k):
    refuses(ArgumentError, lambda: tail(nearly_low_rank(8, 3, 0.5), k), "k must be 1 … 8")

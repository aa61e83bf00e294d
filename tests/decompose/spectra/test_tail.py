"""The share beyond the top eigenvectors: against dense eigenvalues, its gradient against the dense
one.
"""

import sys

import pytest
import torch

from bilens.algebra import CP
from bilens.base.errors import ArgumentError
from bilens.decompose import tail


def nearly_low_rank(size, rank, small, seed=0):
    """Three outputs over ``size`` inputs: ``rank`` symmetric terms each of order one, the rest
    ``small``.
    """
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
        tensor = CP(
            *(
                torch.randn(shape, generator=g, dtype=torch.float64)
                for shape in ((2, 9), (9, 20), (9, 20))
            )
        )
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


@pytest.mark.parametrize("figure", ["beyond", "total", "share", "penalty"])
def test_an_output_that_is_zero_spoils_no_gradient(figure, monkeypatch):
    """Against central differences of the dense tail, the first output being zero: it has gradient
    0.
    """
    monkeypatch.setattr(sys.modules[tail.__module__], "ROUNDS", 8)
    tensor = nearly_low_rank(6, 2, 1e-2)
    out = torch.ones(3, 6, dtype=torch.float64) * tensor.out
    out[0] = 0
    start = out.clone().requires_grad_()
    getattr(tail(CP(start, tensor.left, tensor.right), 2), figure).sum().backward()
    assert bool(torch.isfinite(start.grad).all())
    assert float(start.grad[0].abs().max()) == 0
    held = dense_figures(out, tensor)["total"]

    def value(at):
        figures = dense_figures(at, tensor)
        return float(
            (figures["beyond"][1:] / held[1:] if figure == "penalty" else figures[figure][1:]).sum()
        )

    step = 1e-6
    for place in ((1, 0), (1, 4), (2, 5)):
        moved = torch.zeros_like(out)
        moved[place] = step
        slope = (value(out + moved) - value(out - moved)) / (2 * step)
        assert float(start.grad[place]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def dense_figures(out, tensor):
    squares = (
        torch.linalg.eigvalsh(CP(out, tensor.left, tensor.right).dense())
        .square()
        .sort(-1, descending=True)
        .values
    )
    beyond, total = squares[:, 2:].sum(-1), squares.sum(-1)
    return {"beyond": beyond, "total": total, "share": beyond / total.clamp(min=1e-300)}


def test_all_kept_leaves_nothing():
    tensor = nearly_low_rank(8, 3, 0.5)
    assert share(tensor, 8).abs().max() < 1e-12


@pytest.mark.parametrize("k", [0, 9])
def test_a_wrong_k_is_refused(refuses, k):
    refuses(ArgumentError, lambda: tail(nearly_low_rank(8, 3, 0.5), k), "k must be 1 … 8")


def test_it_is_a_result(tmp_path):
    tensor = nearly_low_rank(30, 4, 1e-3)
    found = tail(tensor, 2)
    truth = dense_tail(tensor.dense(), 2)
    assert found.to_frame()["share"].tolist() == pytest.approx(truth.tolist(), rel=1e-2)
    assert [row["output"] for row in found.answer()] == truth.argsort(descending=True).tolist()
    assert f"{float(truth.max()):.2g}" in found.summary()
    found.save(tmp_path / "tail")
    again = type(found).load(tmp_path / "tail")
    assert (again.k, again.rows()) == (2, found.rows())
    assert found.plot().data


def test_it_says_so_of_nothing_and_of_zeros():
    none = CP(torch.zeros(0, 3), torch.ones(3, 4), torch.ones(3, 4))
    assert (tail(none, 2).rows(), tail(none, 2).figure()["data"][0]["x"]) == ([], [])
    assert "no outputs" in tail(none, 2).summary()
    assert [row["share"] for row in tail(CP(torch.zeros(2, 3), *none.inputs), 2).rows()] == [0, 0]

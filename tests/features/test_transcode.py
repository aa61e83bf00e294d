"""Replacements from weights alone: what they miss, against samples and dense arrays."""

import pytest
import torch

import bilens
from bilens import CP, Gaussian
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.features import Transcoding, transcode


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def layer(affine: bool = False, o: int = 4, h: int = 6, i: int = 5) -> CP:
    wide = i + affine
    return CP(drawn(o, h), drawn(h, wide, seed=1), drawn(h, wide, seed=2), affine)


def measured(i: int = 5, mean: float = 1.0) -> Gaussian:
    root = drawn(i, i, seed=3)
    return Gaussian(mean * drawn(i, seed=4), root @ root.mT / i)


def moments(measure: Gaussian, epsilon: float, affine: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of (1, x), or x, with the variance added."""
    i = len(measure.mean)
    cov = measure.cov + epsilon * measure.cov.trace() / i * torch.eye(i, dtype=torch.float64)
    if not affine:
        return measure.mean, cov
    wide = torch.zeros(i + 1, i + 1, dtype=torch.float64)
    wide[1:, 1:] = cov
    return torch.cat([torch.ones(1, dtype=torch.float64), measure.mean]), wide


def expected(one: torch.Tensor, mean: torch.Tensor, cov: torch.Tensor) -> float:
    """E‖T(x)‖² of a dense T by Isserlis' sum over pairs, about the mean, written out."""
    s = (one + one.mT) / 2
    constant = torch.einsum("oij,i,j->o", s, mean, mean) + torch.einsum("oij,ij->o", s, cov)
    slope = 2 * torch.einsum("oij,i->oj", s, mean)
    twice = torch.einsum("oij,okl,ik,jl->", s, s, cov, cov)
    return float(constant.square().sum() + ((slope @ cov) * slope).sum() + 2 * twice)


@pytest.mark.parametrize("affine", [False, True])
def test_what_is_missed_is_exact(affine):
    T, measure = layer(affine), measured()
    found = transcode(T, measure, units=3, l1=1e-3, steps=60)
    one, two = T.dense(), found.tensor.dense()
    for n, epsilon in enumerate(found.epsilons):
        mean, cov = moments(measure, epsilon, affine)
        whole, other = expected(one, mean, cov), expected(two, mean, cov)
        off = expected(one - two, mean, cov)
        assert float(found.missed[n]) == pytest.approx(off / whole, rel=1e-9)
        alike = (whole + other - off) / 2 / (whole * other) ** 0.5
        assert float(found.similarity[n]) == pytest.approx(alike, rel=1e-9)
    assert found.error == float(found.missed[0]) > 0
    if affine:
        whole = measure.homogeneous()  # that of (1, x) may be given too
        assert torch.equal(transcode(T, whole, 3, 1e-3, steps=60).missed, found.missed)


@pytest.mark.parametrize("affine", [False, True])
def test_the_jacobian_is_that_of_autograd(affine):
    T, measure = layer(affine), measured()
    found = transcode(T, measure, units=3, steps=20)
    x = measure.sample(4000, seed=1)

    def slopes(tensor: CP) -> torch.Tensor:
        by_x = torch.func.vmap(torch.func.jacrev(lambda y: tensor(tensor.read(y[None])[0])))(x)
        return by_x.square().sum((1, 2)).mean()

    off = CP(
        torch.cat([T.out, -found.tensor.out], 1),
        torch.cat([T.left, found.tensor.left]),
        torch.cat([T.right, found.tensor.right]),
        affine,
    )
    assert float(found.jacobian[0]) == pytest.approx(float(slopes(off) / slopes(T)), rel=0.1)


def test_all_units_miss_nothing():
    T = layer()
    found = transcode(T, measured(), units=6, steps=50)
    assert found.error < 1e-20
    assert torch.allclose(found.tensor.symmetrise().dense(), T.symmetrise().dense(), atol=1e-8)
    assert found.note == ""


def test_more_steps_miss_less_than_rounding():
    """The start is what T rounds to in the metric of second moments; the measure has fourth."""
    T, measure = layer(), measured()
    start, end = (transcode(T, measure, units=3, steps=steps) for steps in (0, 600))
    assert end.error < 0.8 * start.error
    assert float(end.course[-1]) == pytest.approx(end.error, rel=1e-6)


def test_planted_zeros_are_found():
    """A sparse tensor, written with twice as many dense units, comes back sparse."""
    generator = torch.Generator().manual_seed(0)
    o, d, h = 6, 10, 4

    def sparse(*shape: int) -> torch.Tensor:
        there = torch.rand(*shape, generator=generator) < 0.2
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * there

    out, left, right = sparse(o, h) + torch.eye(o, h), sparse(h, d), sparse(h, d)
    left[range(h), range(h)], right[range(h), range(4, 4 + h)] = 1.0, 1.0
    both = torch.cat([left + right, left - right])
    dense = CP(torch.cat([out, -out], 1) / 4, both, both)
    found = transcode(dense, measured(d, 0.2), units=8, l1=0.01, steps=600)
    assert found.error < 0.02
    assert found.zeros > 0.5
    assert found.units < 8
    assert transcode(dense, measured(d, 0.2), units=8, steps=5).zeros < 0.2
    assert transcode(dense, measured(d, 0.2), units=8, l1=10.0, steps=200).units == 0


def test_what_the_data_do_not_see_is_said():
    """Two inputs that never vary: T there is lost, and only the wider measures tell."""
    T = CP(
        torch.eye(2), torch.tensor([[1.0, 0, 0], [0, 0, 9]]), torch.tensor([[0.0, 1, 0], [0, 0, 9]])
    )
    measure = Gaussian(torch.zeros(3), torch.diag(torch.tensor([1.0, 1.0, 0.0])))
    found = transcode(T, measure, units=1, steps=50)
    assert found.error < 1e-12
    assert float(found.similarity[-1]) < 0.5
    assert "off the data's support the two are different" in found.summary()


def test_scales_of_weights_and_inputs_change_nothing():
    T, measure = layer(), measured()
    plain = transcode(T, measure, units=3, l1=1e-3, steps=40)
    moved = Gaussian(measure.mean * 2.0**40, measure.cov * 2.0**80)
    far = transcode(CP(T.out * 2.0**-90, T.left, T.right), moved, units=3, l1=1e-3, steps=40)
    assert far.error == pytest.approx(plain.error, rel=1e-6)
    assert far.zeros == plain.zeros


def test_it_stands_for_a_layer(refuses):
    model = bilens.load("tinystories-1l")
    T = model.blocks[0].mlp.tensor()
    width = T.shape[0]
    measure = Gaussian(torch.zeros(width), torch.eye(width))
    found = transcode(T, measure, units=4, steps=2)
    ex = bilens.expand(model, "Once upon a", replacements={"mlp0": found.tensor})
    assert ex.error < 1e-4
    assert "mlp0.error" in {source.name for source in ex.sources}
    assert found.tensor.dtype == T.dtype
    assert not found.tensor.out.requires_grad


def test_it_is_saved_drawn_and_told(tmp_path):
    steps = []
    found = transcode(
        layer(), measured(), 3, l1=1e-3, steps=100,
        progress=lambda done, of, figures, what: steps.append((done, of, what)),
    )  # fmt: skip
    assert steps == [(50, 100, "steps"), (100, 100, "steps")]
    assert len(found.course) == 3
    found.save(tmp_path / "found")
    again = Transcoding.load(tmp_path / "found")
    assert torch.equal(again.tensor.out, found.tensor.out)
    assert again.rows() == found.rows()
    assert [row["added variance"] for row in found.rows()] == [0.0, 0.01, 1.0]
    assert found.figure()["data"]


@pytest.mark.bad_input
def test_bad_input_is_refused(refuses):
    T, measure = layer(), measured()
    for change, kind, text in (
        ({"T": T.dense()}, ArgumentError, "transcode: T must be a CP"),
        ({"measure": torch.eye(5)}, ArgumentError, "measure must be a Gaussian"),
        ({"units": 0}, ArgumentError, "units must be"),
        ({"units": 2.5}, ArgumentError, "units must be"),
        ({"steps": -1}, ArgumentError, "steps must be"),
        ({"l1": -1.0}, ArgumentError, "l1 must be a finite number ≥ 0"),
        ({"l1": float("nan")}, ArgumentError, "l1 must be a finite number ≥ 0"),
        ({"progress": 3}, ArgumentError, "progress must be a function"),
        ({"seed": 2**70}, ArgumentError, "seed must be"),
        ({"measure": measured(7)}, ShapeError, "measure must be over the layer's 5 inputs"),
        ({"T": CP(T.out * torch.nan, T.left, T.right)}, NotFiniteError, "out"),
        ({"T": CP(T.out * 0, T.left, T.right)}, ArgumentError, "more than zero under the measure"),
        ({"T": CP(T.out, T.left, T.right[:, :3])}, ShapeError, "left and right of one size"),
    ):
        given = {"T": T, "measure": measure, "units": 3, "steps": 1} | change
        refuses(kind, lambda given=given: transcode(**given), text)

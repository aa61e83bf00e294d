"""Every figure at every scale: what is relative does not change, what is absolute goes with the
scale or is refused.

The same verb on the same factors at scale one is the truth; the scales are powers of two, which
round nothing, so figures agree to the last few digits.
"""

import math
from dataclasses import replace

import pytest
import torch

from bilens.algebra import CP, Factored, Tucker, canonical
from bilens.base.errors import RangeError
from bilens.decompose import eigen, hosvd, joint, similarity, svd, tail, top_entries
from bilens.measure import Gaussian, Samples

# By dtype: powers of two near 1e±30 and, float64 alone, 1e±200.
SCALES = [(torch.float32, 100), (torch.float32, -100), (torch.float64, 664), (torch.float64, -664)]
ids = [f"{str(dtype)[6:]} 2^{power}" for dtype, power in SCALES]
everywhere = pytest.mark.parametrize(("dtype", "power"), SCALES, ids=ids)
Q = torch.float64


def tensors(maker, dtype):
    make = maker(seed=1, dtype=dtype)
    return {"cp": make.cp(4, 5, h=9), "tucker": make.tucker(4, 5), "dense": make.dense(4, 5)}


def some(maker, dtype, power):
    """A CP at every scale, the other forms at one: they share all but how their own factors are
    rescaled.
    """
    forms = tensors(maker, dtype)
    return forms.values() if (dtype, power) == SCALES[-1] else [forms["cp"]]


def times(tensor, power):
    """The tensor at 2^power, all in its first factor."""
    name = next(iter(vars(tensor)))
    return replace(tensor, **{name: vars(tensor)[name] * 2.0**power})


def apart(tensor, power):
    """The same tensor, its factors far from one another in scale."""
    match tensor:
        case CP(out, left, right):
            return CP(out * 2.0**power, left * 2.0**-power, right)
        case Tucker(core, out, left, right):
            return Tucker(core * 2.0**power, out * 2.0**-power, left, right)
    return tensor


def cross_units(T, power):
    """The same units, each at a split of scale of its own: no common power of a factor helps."""
    signs = 2.0 ** (power * torch.tensor([1, -1, 0] * T.rank)[: T.rank]).to(T.dtype)
    return CP(T.out * signs, T.left / signs[:, None], T.right)


RELATIVE = {
    "similarity": lambda T, S: [T.similarity(S)],
    "similarity under a measure": lambda T, S: [
        measure().of(T).similarity(measure().of(S), centred=True)
    ],
    "hosvd": lambda T, S: [
        (h := hosvd(T, 2)).error,
        h.bound,
        *(row["share of ‖T‖²"] for row in h.rows()),
    ],
    "hosvd, float32": lambda T, S: [hosvd(T, 2, precision="float32").error],
    "hosvd, orthogonal": lambda T, S: [hosvd(T, 2, precision="orthogonal").error],
    "hosvd under a measure": lambda T, S: [hosvd(T, 2, measure=measure()).error],
    "svd": lambda T, S: [
        (s := svd(T, 2)).error,
        *(row["share of ‖T‖²"] for row in s.rows()),
        *s.tensor.dense().flatten(),
    ],
    "joint": lambda T, S: [
        (j := joint(T, 2)).error,
        j.effective_rank,
        *j.captured,
        *j.held,
        *j.gram_share,
        *j.held_by,
    ],
    "shares in tables and hovers": lambda T, S: [
        *hosvd(T, 2).tucker.to_frame()["share"],
        *T.contract(out=torch.ones(4).to(T.dtype)).to_frame()["share"],
        *eigen(T, k=2).to_frame()["share of ‖Q‖²"],
        *(float(row[3]) for line in eigen(T, k=2).figure()["data"] for row in line["customdata"]),
    ],
    "tail": lambda T, S: [*tail(T, 2).share],
    "round": lambda T, S: [(r := rounded(T)).error, r.rank, r.exact, r.floor],
    "decompose.similarity": lambda T, S: [*similarity([cp(T), cp(S)], samples=64).matrix[0]],
    "decompose.similarity under a measure": lambda T, S: [
        *(s := similarity([cp(T), cp(S)], measure(), samples=64)).matrix[0],
        *s.shares.flatten(),
        s.z,
    ],
}
# Degree 1 in T, and degree 2.
ABSOLUTE = {
    "norm": (1, lambda T: [T.norm()]),
    "norm under a measure": (1, lambda T: [measure().of(T).norm()]),
    "inner": (2, lambda T: [T.inner(T.swap())]),
    "gram": (2, lambda T: [*T.gram("left").flatten()]),
    "grams": (2, lambda T: [*T.grams()["right"].flatten()]),
    "gram, symmetric": (2, lambda T: [*T.gram("out", symmetric=True).flatten()]),
    "dense": (1, lambda T: [*T.dense().flatten()]),
    "hermite": (
        1,
        lambda T: [
            *(h := measure().of(T).hermite()).mean,
            *h.slope.flatten(),
            *h.quadratic.dense().flatten(),
        ],
    ),
    "hosvd": (
        1,
        lambda T: [
            (h := hosvd(T, 2)).norm,
            *h.spectrum["left"],
            *h.discarded.values(),
            *h.noise.values(),
        ],
    ),
    "hosvd's tucker": (1, lambda T: [*hosvd(T, 2).tucker.dense().flatten()]),
    "svd": (1, lambda T: [(s := svd(T, 2)).norm, *s.values, *s.spectrum, s.discarded, s.noise]),
    "joint": (1, lambda T: [(j := joint(T, 2)).norm, *j.spectrum, j.discarded, j.noise]),
    "tail": (2, lambda T: [*tail(T, 2).total, *tail(T, 2).beyond]),
    "round": (1, lambda T: [rounded(T).norm, *rounded(T).cp.dense().flatten()]),
    "top_entries": (
        1,
        lambda T: [*top_entries(cp(T), 9).values, top_entries(cp(T), 9, budget=3).certificate],
    ),
    "canonical": (1, lambda T: [*canonical(cp(T)).dense().flatten()]),
    "on samples": (2, lambda T: [(e := (f := Samples(samples()).of(T)).inner(f)).value, e.error]),
    "decompose.similarity": (1, lambda T: [*similarity([cp(T)], measure(), samples=0).norms]),
    "the CP of a Factored": (1, lambda T: [(F := T.contract(out=one(T))).norm(), *F.svd()[1][:5]]),
}


def one(T):
    return torch.ones(T.shape[0], dtype=T.dtype)


def cp(T):
    """A CP of the same entries, where T is none."""
    if isinstance(T, CP):
        return T
    o, i, j = T.shape
    cube, eye = T.dense(), torch.eye(o * i, dtype=T.dtype)
    return CP(
        eye.reshape(o, i, o * i).sum(1), eye.reshape(o, i, o * i).sum(0).mT, cube.reshape(o * i, j)
    )


def rounded(T):
    return cp(T).round(1)


def samples():
    return torch.randn(40, 5, generator=torch.Generator().manual_seed(3), dtype=Q)


def measure(power=0):
    return Gaussian.from_batches([(samples() + 0.5) * 2.0**power])


def same(got, truth, power=0, tol=1e-9):
    got, truth = (
        torch.tensor([float(value) for value in values], dtype=Q) for values in (got, truth)
    )
    truth = truth * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)
    size = float(truth.abs().max())
    assert bool(torch.isfinite(got).all())
    assert float((got / size - truth / size).abs().max()) <= tol, (got, truth)


def tol(dtype):
    return 1e-9 if dtype == torch.float64 else 1e-4


@everywhere
@pytest.mark.parametrize("verb", RELATIVE)
def test_what_is_relative_does_not_change(verb, dtype, power, maker):
    for T in some(maker, dtype, power):
        S = T + T.swap() * 0.3
        truth = RELATIVE[verb](T, S)
        for moved, other in (
            (times(T, power), S),
            (times(apart(T, -power), power), times(S, power)),
        ):
            same(RELATIVE[verb](moved, other), truth, tol=tol(dtype))


@everywhere
@pytest.mark.parametrize("verb", ABSOLUTE)
def test_what_is_absolute_goes_with_the_scale_or_is_refused(verb, dtype, power, maker):
    degree, call = ABSOLUTE[verb]
    for T in some(maker, dtype, power):
        truth = call(T)
        same(call(apart(T, power)), truth, tol=tol(dtype))
        held = torch.finfo(truth[0].dtype if isinstance(truth[0], torch.Tensor) else Q).max
        if degree * abs(power) + 20 < math.log2(held):
            same(call(times(T, power)), truth, degree * power, tol(dtype))
        else:
            with pytest.raises(
                RangeError, match=r"must (lie|have strengths) in the range of float(64|32); got"
            ):
                call(times(T, power))


@pytest.mark.parametrize("power", [600, -600])
def test_units_at_splits_of_their_own(power, maker):
    T = tensors(maker, Q)["cp"]
    moved = cross_units(T, power)
    for verb, call in RELATIVE.items():
        if verb != "round":  # its floor goes by lengths, which are the same; its rank and error too
            same(call(moved, T), call(T, T), tol=1e-6)
    for _, call in ABSOLUTE.values():
        same(call(moved), call(T))


@pytest.mark.parametrize("power", [300, -300, 60, -60])
def test_a_measure_of_any_scale(power, maker):
    """x at 2^power: T(x) goes with the square of that; similarities and shares stay."""
    for T in tensors(maker, Q).values():
        S, near, far = T + T.swap() * 0.3, measure(), measure(power)
        same([far.of(T).norm()], [near.of(T).norm()], 2 * power)
        same([far.of(T).similarity(far.of(S))], [near.of(T).similarity(near.of(S))])
        same(
            hosvd(T, 2, measure=far).spectrum["out"],
            hosvd(T, 2, measure=near).spectrum["out"],
            2 * power,
        )
    T = tensors(maker, Q)["cp"]
    x = samples() * 2.0**power
    one, two = (similarity([T, T.symmetrise() + T], y, samples=64) for y in (samples(), x))
    same(two.matrix.flatten(), one.matrix.flatten())
    same(two.empirical.errors.flatten(), one.empirical.errors.flatten())
    same(two.norms, one.norms, 2 * power)
    assert far.rank == near.rank
    for given, there in ((near, far), (samples(), x)):
        if abs(power) == 300:  # the variance is at 2^1200
            with pytest.raises(RangeError, match="on the data"):
                eigen(T, k=2, measure=there)
            continue
        one, two = (eigen(T, k=2, measure=y) for y in (given, there))
        for name in ("data", "plain_data"):
            before, after = getattr(one, name), getattr(two, name)
            same(after.share.flatten(), before.share.flatten())
            same(after.mean.flatten(), before.mean.flatten(), 2 * power)
        same(two.values.flatten(), one.values.flatten(), 2 * power)
        same(two.vectors.flatten(), one.vectors.flatten(), -power)
        same(two.plain.values.flatten(), one.plain.values.flatten())
    same(far.ridge(0.1).cov.flatten(), near.ridge(0.1).cov.flatten(), 2 * power)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_what_cancels_is_nothing_at_any_scale(dtype, maker):
    """T − T, and what is at right angles: what rounding leaves falls below the range."""
    make = maker(0, dtype)
    for n in range(20):
        T = make.cp(1, 1, h=3) if n % 2 else make.cp(2, 3, h=4)
        T = T * (1.0 if dtype == torch.float16 else 1e-13)
        cut, turned = T - T, T - T.swap()
        top = float(T.dense().abs().max())
        assert float(cut.dense().abs().max()) <= 2e-3 * top
        assert float((T * 1e-10 - T * 1e-10).norm()) <= 1e-17
        assert abs(float(turned.inner(T + T.swap()))) <= 1e-6 * float(T.norm()) ** 2


@pytest.mark.parametrize("power", [600, -600])
def test_outputs_far_apart_keep_their_own_figures(power, maker):
    """One output at 2^power beside others at one: its share is its own."""
    for T in tensors(maker, Q).values():
        rows = torch.eye(4, dtype=Q)
        rows[1, 1] = 2.0**power
        moved = T.map(out=rows)
        same(tail(moved, 2).share, tail(T, 2).share)
        basis = joint(moved, 2).directions
        inside = T.symmetrise().map(left=basis, right=basis)
        truth = [
            float(part.norm() / whole.norm()) ** 2
            for part, whole in zip(inside.dense(), T.symmetrise().dense(), strict=True)
        ]
        same(joint(moved, 2).captured, truth, tol=1e-6)


def test_a_norm_that_its_dtype_does_not_hold_is_refused(maker, refuses):
    T = tensors(maker, torch.float32)["cp"]
    for power, size in ((100, "1e9"), (-100, "1e-8")):
        far = CP(T.out * 2.0**power, T.left * 2.0**power, T.right * 2.0**power)
        refuses(
            RangeError,
            far.norm,
            "norm must lie in the range of float32; got about " + size,
            "Use .to(torch.float64)",
        )
        assert float(far.to(Q).norm()) == pytest.approx(
            float(T.to(Q).norm()) * 2.0 ** (3 * power), rel=1e-12
        )
        assert hosvd(far, 2, precision="float32").error == pytest.approx(
            hosvd(T, 2).error, rel=1e-4
        )
        assert rounded(far).error == pytest.approx(rounded(T).error, rel=1e-9)
        assert float(far.similarity(T)) == pytest.approx(1, abs=1e-6)
        same(tail(far, 2).beyond, tail(T, 2).beyond, 6 * power, 1e-4)


def test_a_measure_whose_squares_no_dtype_holds_is_refused(refuses):
    for power in (-700, 700):
        refuses(
            RangeError,
            lambda power=power: measure(power),
            "the covariance of batch 0 must lie in the range of float64",
        )


@pytest.mark.parametrize("power", [664, -664])
def test_factored_at_every_scale(power, make):
    F = make.factored(5, 3, 5, (2,))
    far = Factored(F.a * 2.0**power, F.b)
    split = Factored(F.a * 2.0**power, F.b * 2.0**-power)
    for name in ("norm", "svd"):
        call = lambda F, name=name: F.norm() if name == "norm" else F.svd()[1].flatten()  # noqa: E731
        same(call(far), call(F), power)
        same(call(split), call(F))
    same(split.eigenvalues.abs().flatten(), F.eigenvalues.abs().flatten())
    batch = Factored(F.a * torch.tensor([2.0**power, 1.0], dtype=Q)[:, None, None], F.b)
    same(batch.norm()[1:], F.norm()[1:])


def test_gradients_go_with_the_scale(maker):
    """d‖T‖/dD at any scale is that at scale one, and so through a unit that is at rest at zero."""
    T = tensors(maker, Q)["cp"]
    for still in (False, True):
        left = T.left.clone()
        left[0] *= 0.0 if still else 1.0
        grads = []
        for power in (0, 400):
            factors = [
                f.clone().requires_grad_()
                for f in (T.out * 2.0**power, left, T.right * 2.0**-power)
            ]
            CP(*factors).norm().backward()
            grads.append(
                [float(factors[0].grad.norm()) * 2.0**power, float(factors[1].grad[0].norm())]
            )
        assert grads[1] == pytest.approx(grads[0], rel=1e-12)
        assert grads[0][1] > 0

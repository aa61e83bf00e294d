"""Bad inputs at every public door of algebra and decompose: one clear line each, never a traceback
from below.

Rows are kinds of bad input, columns the doors; a door may refuse by any of bilens's errors, in the
house grammar.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bilens.algebra import (
    CP,
    Dense,
    Factored,
    Tucker,
    affine,
    canonical,
)
from bilens.base.errors import ArgumentError, BilensError, NotFiniteError, ShapeError
from bilens.decompose import Lanczos, eigen, hosvd, joint, similarity, svd, tail, top_entries
from bilens.measure import Gaussian, Samples

pytestmark = pytest.mark.bad_input


def refused(call) -> str:
    """The one line that ``call`` is refused with."""
    with pytest.raises(BilensError) as caught:
        call()
    text = str(caught.value)
    assert " must " in text
    assert "; got " in text
    assert "\n" not in text
    assert len(text) < 600
    return text


def gaussian(size=4):
    return Gaussian(torch.zeros(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64))


# What takes a tensor and reports figures of it.
DOORS = {
    "norm": lambda T: T.norm(),
    "norm under a measure": lambda T: gaussian().of(T).norm(),
    "inner": lambda T: T.inner(T),
    "similarity": lambda T: T.similarity(T),
    "gram": lambda T: T.gram("out"),
    "grams": lambda T: [*T.grams().values()],
    "hermite": lambda T: gaussian().of(T).hermite(),
    "norm on samples": lambda T: Samples(torch.ones(5, 4, dtype=torch.float64)).of(T).norm(),
    "round": lambda T: T.round(2),
    "canonical": canonical,
    "eigen": lambda T: eigen(T, k=2),
    "eigen(lanczos)": lambda T: eigen(T, k=2, solver=Lanczos()),
    "eigen(measure)": lambda T: eigen(T, k=2, measure=gaussian()),
    "hosvd": lambda T: hosvd(T, 2),
    "hosvd(measure)": lambda T: hosvd(T, 2, measure=gaussian()),
    "svd": lambda T: svd(T, 2),
    "joint": lambda T: joint(T, 2),
    "tail": lambda T: tail(T, 2),
    "top_entries": lambda T: top_entries(T, 2),
    "decompose.similarity": lambda T: similarity([T, T]),
}
SPECTRA = (
    "canonical", "eigen", "eigen(lanczos)", "hosvd", "svd", "joint", "top_entries",
    "decompose.similarity",
)  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_figure_of_what_is_not_finite(door, bad, make):
    T = make.cp(3, 4)
    for factor in ("out", "left", "right"):
        values = getattr(T, factor).clone()
        values[1, 1] = bad
        broken = replace(T, **{factor: values})
        assert f"{factor} must be finite" in refused(lambda broken=broken: DOORS[door](broken))


@pytest.mark.parametrize("door", SPECTRA)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0)], ids=str)
def test_no_figure_of_an_empty_mode(door, shape, make):
    assert "empty mode" in refused(lambda: DOORS[door](make.cp(*shape)))


def test_verbs_on_empty_modes_are_zero(make):
    """Sums over nothing: they are no spectra, and need no refusal."""
    for T in (make.cp(0, 4), make.cp(3, 0), make.cp(h=0), make.dense(0, 4)):
        assert float(T.norm()) == float(T.inner(T)) == 0
        assert T.dense().shape == T.shape
        assert T.gram("left").shape == (T.shape[1],) * 2
    found = make.cp(0, 4).round(2)
    assert (found.rank, found.error) == (0, 0)


@pytest.mark.parametrize("door", [*SPECTRA, "tail"])
@pytest.mark.parametrize(
    "given",
    [None, 3, "T", [[1.0]], torch.ones(3, 4, 4), nn.Linear(2, 2)],
    ids=lambda v: type(v).__name__,
)
def test_no_tensor_at_all(door, given):
    refused(lambda: DOORS[door](given))


def test_other_forms_where_only_a_cp_will_do(make):
    assert "got Dense. Of a cube:" in refused(lambda: top_entries(make.dense(), 2))
    assert "got Tucker" in refused(lambda: top_entries(make.tucker(), 2))
    assert "got Dense" in refused(lambda: canonical(make.dense()))
    assert "got Dense" in refused(lambda: similarity([make.dense()]))
    assert "one matrix" in refused(lambda: top_entries(make.factored(batch=(2,)), 2))


def lists(tensor: Tensor) -> object:
    return tensor.tolist()


def layers(tensor: Tensor) -> object:
    return nn.Linear(tensor.shape[1], tensor.shape[0])


BROKEN = {
    "lists": (lists, "must be a torch tensor; got list"),
    "layers": (layers, "must be a torch tensor; got Linear. Pass its .weight."),
    "nothing": (lambda t: None, "must be a torch tensor; got NoneType"),
    "sparse": (Tensor.to_sparse, "must be a dense tensor; got sparse_coo. Pass .to_dense() of it."),
    "whole numbers": (lambda t: t.long(), "must have a real floating dtype"),
    "complex": (lambda t: t.to(torch.complex128), "must have a real floating dtype"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_factors_of_the_wrong_kind(name, make):
    change, text = BROKEN[name]
    for T in (make.cp(), make.tucker(), make.dense(), make.factored()):
        for field, factor in T.factors().items():
            if name == "layers" and factor.ndim != 2:
                continue
            line = refused(
                lambda T=T, field=field, factor=factor: type(T)(**vars(T) | {field: change(factor)})
            )
            assert f"{type(T).__name__}.{field} must" in line
            # of one factor alone: not like the first
            assert text in line or name in ("whole numbers", "complex")


def test_tensors_for_factors(make):
    refused(lambda: Tucker(make.dense(), make.randn(3, 3), make.randn(4, 4), make.randn(4, 4)))
    refused(lambda: Dense(make.dense()))
    refused(lambda: Factored(make.factored(), make.randn(4, 2)))
    refused(lambda: Dense([[[1.0]]]))


@pytest.mark.parametrize(
    ("shapes", "hint"),
    [
        (((7, 4), (7, 4), (3, 7)), "They fit as CP(out=third, left=first, right=second)."),
        (((7, 4), (3, 7), (7, 4)), "They fit as CP(out=second, left=first, right=third)."),
        (
            ((7, 3), (7, 4), (7, 4)),
            "out is (o, h), as the weight of a linear layer lies: pass its .mT.",
        ),
        (
            ((3, 7), (4, 7), (4, 7)),
            "left and right are (h, i), as the weights of linear layers lie: pass their .mT.",
        ),
        (((3, 7), (5, 4), (6, 4)), ""),
    ],
)
def test_the_order_that_would_fit_is_named(shapes, hint, make):
    text = refused(lambda: CP(*(make.randn(*shape) for shape in shapes)))
    assert text.endswith(hint or ").")


def test_batches_of_a_factored_broadcast(make):
    shapes = "(3, 5, 2), (2, 2, 4)"
    text = f"Factored must get leading dims that broadcast; got a mismatch of {shapes}."
    assert refused(lambda: Factored(make.randn(3, 5, 2), make.randn(2, 2, 4))) == text
    assert Factored(make.randn(3, 1, 5, 2), make.randn(2, 2, 4)).shape == (3, 2, 5, 4)


WHOLE = (True, False, -1, 0, 1.5, "2", math.nan, [2])


@pytest.mark.parametrize("value", WHOLE, ids=repr)
@pytest.mark.parametrize(
    ("door", "call"),
    {
        "hosvd": lambda T, v: hosvd(T, v),
        "svd": lambda T, v: svd(T, v),
        "joint": lambda T, v: joint(T, v),
        "round": lambda T, v: T.round(v),
        "tail": lambda T, v: tail(T, v),
        "top_entries": lambda T, v: top_entries(T, v),
        "budget": lambda T, v: top_entries(T, 2, budget=v),
        "top_entries(max_bytes)": lambda T, v: top_entries(T, 2, max_bytes=v),
        "sample": lambda T, v: gaussian().sample(v),
        "samples": lambda T, v: (
            similarity([T], samples=v) if v is not False and v != 0 else refuse_zero()
        ),
    }.items(),
)
def test_counts(door, call, value, make):
    refused(lambda: call(make.cp(), value))


def refuse_zero():
    return similarity([CP(*[torch.ones(2, 2)] * 3)], samples=False)


SHARES = (-0.1, 1.0, math.nan, math.inf, "0.1", True, [0.1])


@pytest.mark.parametrize("value", SHARES, ids=repr)
def test_shares(value, make):
    T = make.cp()
    for call in (hosvd, svd):
        refused(lambda call=call: call(T, cutoff=value))
    refused(lambda: T.round(cutoff=value))
    refused(lambda: joint(T, shares=(value,)))
    if not isinstance(value, list):
        refused(lambda: joint(T, shares=value))
    if value != 1.0 or isinstance(value, bool):
        refused(lambda: gaussian().ridge(value))


@pytest.mark.parametrize(
    "call",
    [
        lambda T, m: T(3),
        lambda T, m: T("x"),
        lambda T, m: T([1.0] * 4),
        lambda T, m: T(m.randn(4), 3),
        lambda T, m: T(m.randn(2, 4), m.randn(3, 4)),
        lambda T, m: T.interaction(3),
        lambda T, m: T.interaction([1.0, 2.0, 3.0]),
        lambda T, m: T.contract(out="x"),
        lambda T, m: T.contract(left=[1.0] * 4),
        lambda T, m: T.map(out=3),
        lambda T, m: T.map(left=[[1.0] * 4]),
        lambda T, m: T * "2",
        lambda T, m: T * None,
        lambda T, m: T * 1j,
        lambda T, m: T * m.randn(2),
        lambda T, m: T + 3,
        lambda T, m: T - None,
        lambda T, m: T.inner(3),
        lambda T, m: gaussian(7).of(T),
        lambda T, m: gaussian().of(T).inner(3),
        lambda T, m: gaussian().of(T).inner(T),
        lambda T, m: gaussian().of(T).similarity(gaussian().ridge(1).of(T)),
        lambda T, m: T.similarity(None),
        lambda T, m: gaussian().of(None),
        lambda T, m: T.gram(0),
        lambda T, m: T.gram("out", dtype="float32"),
        lambda T, m: T.gram("out", dtype=torch.int64),
        lambda T, m: T.dense("all"),
        lambda T, m: T.dense(-1),
        lambda T, m: T.dense(True),
        lambda T, m: T.to("float128"),
        lambda T, m: T.to("mars"),
        lambda T, m: T.to("int64"),
        lambda T, m: T.to(3.5),
        lambda T, m: T.to(None),
        lambda T, m: hosvd(T, precision=64),
        lambda T, m: hosvd(T, measure="data"),
        lambda T, m: hosvd(T, (1, 2)),
        lambda T, m: hosvd(T, "123"),
        lambda T, m: Samples(m.randn(5, 4)).of(T).inner(3),
        lambda T, m: Samples(m.randn(5, 4)).of(3),
        lambda T, m: Samples(m.randn(5, 7)).of(T),
    ],
)
def test_arguments_of_the_wrong_kind(call, form_name, make):
    refused(lambda: call(make.form(form_name), make))


@pytest.mark.parametrize(
    "call",
    [
        lambda T, m: T.round(),
        lambda T, m: T.round(2, seed="x"),
        lambda T, m: T.round(2, seed=True),
        lambda T, m: m.cp(3, 4, 5).round(2, symmetric=True),
        lambda T, m: canonical(m.cp(3, 4, 5)),
        lambda T, m: joint(T, labels=("a",)),
        lambda T, m: joint(T, labels=3),
        lambda T, m: joint(m.cp(3, 4, 5)),
        lambda T, m: tail(m.cp(3, 4, 5), 2),
        lambda T, m: tail(T, 9),
        lambda T, m: top_entries(T, 2, rows=["a"]),
        lambda T, m: top_entries(T, 2, rows=[True]),
        lambda T, m: top_entries(T, 2, rows=3),
        lambda T, m: top_entries(T, 2, names=3),
        lambda T, m: top_entries(T, 2, names={"out": 3}),
        lambda T, m: top_entries(T, 2, symmetric="yes"),
        lambda T, m: top_entries(m.cp(3, 4, 5), 2, symmetric=True),
        lambda T, m: similarity("ab"),
        lambda T, m: similarity(T),
        lambda T, m: similarity([]),
        lambda T, m: similarity([T], names=3),
        lambda T, m: similarity([T], names=("a", "b")),
        lambda T, m: similarity([T], "data"),
        lambda T, m: similarity([T], m.randn(3, 9)),
        lambda T, m: similarity([T], m.randn(9, 4) * math.nan),
        lambda T, m: similarity([T], centred=True),
        lambda T, m: similarity([T], seed="x"),
        lambda T, m: similarity([T, T - T]),
        lambda T, m: similarity([T, T - T.swap()]),
        lambda T, m: similarity([T.to(torch.float32), m.cp(3, 5)]),
        lambda T, m: (T - T.swap()).symmetrise().similarity(T),
        lambda T, m: m.cp(3, 4, 5).split(),
        lambda T, m: T.read(m.randn(3)),
        lambda T, m: affine(m.randn(3, 4), m.randn(4, 2), m.randn(4, 2), out_bias=m.randn(7)),
        lambda T, m: affine(m.randn(3, 4), m.randn(4, 2), m.randn(4, 2), left_bias=m.randn(7)),
        lambda T, m: affine(m.randn(3, 4), m.randn(4, 2), m.randn(4, 2), right_bias=3),
    ],
)
def test_arguments_of_the_verbs_of_a_cp(call, make):
    refused(lambda: call(make.cp(), make))


@pytest.mark.parametrize(
    "call",
    [
        lambda m: Gaussian(3, m.randn(2, 2)),
        lambda m: Gaussian(m.randn(2), [[1.0, 0.0], [0.0, 1.0]]),
        lambda m: Gaussian(m.randn(0), m.randn(0, 0)),
        lambda m: Gaussian(m.randn(2), torch.eye(2).double() * math.nan),
        lambda m: Gaussian(m.randn(2), -torch.eye(2).double()),
        lambda m: Gaussian(m.randn(2), m.randn(2, 2)),
        lambda m: Gaussian(m.randn(2), torch.eye(2).double(), True),
        lambda m: Gaussian(m.randn(2), torch.eye(2).double(), -1),
        lambda m: Gaussian.from_batches(m.randn(5, 4)),
        lambda m: Gaussian.from_batches(3),
        lambda m: Gaussian.from_batches([]),
        lambda m: Gaussian.from_batches([3]),
        lambda m: Gaussian.from_batches([m.randn(5, 0)]),
        lambda m: Gaussian.from_batches([m.randn(1, 4)]),
        lambda m: Gaussian.from_batches([m.randn(5, 4).long()]),
        lambda m: Gaussian.from_batches([m.randn(5, 4), m.randn(5, 3)]),
        lambda m: Gaussian.from_batches([m.randn(5, 4) * math.inf]),
        lambda m: Gaussian.from_batches([m.randn(5, 4).to("meta")]),
        lambda m: Samples(3),
        lambda m: Samples(m.randn(5, 4) * math.nan),
        lambda m: Samples(m.randn(1, 4)),
        lambda m: gaussian().merge(3),
        lambda m: gaussian().merge(gaussian()),
        lambda m: gaussian().map(3),
        lambda m: gaussian().map(m.randn(2, 7)),
        lambda m: gaussian().map(m.randn(2, 4) * math.nan),
        lambda m: gaussian().sample(3, "x"),
        lambda m: gaussian().sample(3, True),
        lambda m: gaussian().over(m.cp(3, 9)),
        lambda m: gaussian().over(5),
        lambda m: gaussian().over("x"),
        lambda m: m.factored().trace(),
        lambda m: m.factored() @ 3,
        lambda m: m.factored() @ m.randn(7),
        lambda m: m.factored() @ m.randn(7, 2),
        lambda m: m.factored() @ m.factored(7),
        lambda m: m.factored() @ m.randn(4).float(),
        lambda m: m.factored(batch=(2,)) @ m.randn(3, 4, 2),
        lambda m: m.randn(7) @ m.factored(),
        lambda m: m.factored() * "x",
        lambda m: m.factored().unsqueeze(7),
        lambda m: m.factored().unsqueeze("x"),
        lambda m: m.factored().get_corner(-1),
        lambda m: m.factored().get_corner(True),
        lambda m: (m.factored() * math.nan).svd(),
        lambda m: (m.factored() * math.nan).norm(),
        lambda m: (m.factored(4) * math.inf).eigenvalues,
        lambda m: (m.factored() * math.nan).make_even(),
    ],
)
def test_measures_and_matrices(call, make):
    refused(lambda: call(make))


def test_dtypes_and_devices_by_name(make):
    T = make.cp()
    assert T.to("float32").dtype == T.to(torch.float32).dtype == torch.float32
    assert T.to("cpu", "bfloat16").dtype == torch.bfloat16
    assert (
        'dtypes and devices that are here, like torch.float32, "float32" or "cpu"; got \'mars\''
        in refused(lambda: T.to("mars"))
    )


def test_a_meta_measure_is_for_loading_alone(make):
    there = gaussian().to("meta")
    assert "Gaussian.cov must hold values" in refused(lambda: there.of(make.cp()).norm())


@pytest.mark.parametrize("door", DOORS)
def test_no_figure_without_values(door, make):
    """A tensor on the meta device has a shape alone: it may be made, and no figure is reported of
    it.
    """
    there = make.cp(3, 4).to("meta")
    assert there.shape == (3, 4, 4)
    assert "must hold values; got a meta tensor. Load the weights first." in refused(
        lambda: DOORS[door](there)
    )
    assert "dense() must hold values" in refused(there.dense)


def test_errors_are_of_their_kinds(make, refuses):
    refuses(NotFiniteError, lambda: (make.cp() * math.nan).norm(), "norm.out must be finite")
    refuses(
        ShapeError,
        lambda: canonical(make.cp(3, 0)),
        "canonical must be given a tensor with no empty mode",
    )
    refuses(ArgumentError, lambda: tail(3, 2), "tail must be given a tensor; got int")
    refuses(
        ShapeError, lambda: make.cp().interaction(3), "interaction must be a torch tensor; got int"
    )

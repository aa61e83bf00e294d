"""A layer in feature space: every part against dense float64 arithmetic, and its pairs against the
whole matrix.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bilens.algebra import CP, QuadraticForm, affine
from bilens.base.charts import DIVERGING
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.decompose import top_pairs
from bilens.features import Dictionary
from bilens.features.interactions import PARTS, Interactions, interactions

O, I, H, F_OUT, F_IN, N = 5, 6, 9, 11, 13, 7  # noqa: E741


def dictionary(make, width, latents, centred=True, side="input", **more):
    return Dictionary(
        W_enc=make.randn(width, latents),
        W_dec=make.randn(latents, width),
        b_enc=make.randn(latents),
        b_dec=make.randn(width),
        hook=f"layers.0.mlp.{side}",
        centred=centred,
        **more,
    )


def layer(make, biased):
    return affine(
        make.randn(O, H),
        make.randn(H, I),
        make.randn(H, I),
        *(map(make.randn, (O, H, H)) if biased else ()),
    )


@pytest.fixture(params=[False, True], ids=["no biases", "biases"])
def both(request, make):
    """A layer between two dictionaries, with and without biases."""
    T = layer(make, request.param)
    out, into = dictionary(make, O, F_OUT, side="output"), dictionary(make, I, F_IN)
    return T, out, into, interactions(T, out, into)


def whole(T, x):
    return torch.cat([torch.ones_like(x[:, :1]), x], 1) if T.shape[1] > x.shape[1] else x


def truth(T, out, x):
    """The latents' pre-activations, by the layer's own arithmetic."""
    x = whole(T, x)
    m = torch.einsum("oh,nh,nh->no", T.out, x @ T.left.mT, x @ T.right.mT)
    return (m - out.b_dec) @ out.W_enc + out.b_enc


def test_the_parts_sum_to_the_true_pre_activation(both, make, close):
    T, out, _, found = both
    x = make.randn(N, I)
    explained = found.explain(range(F_OUT), x)
    close(explained.total, truth(T, out, x), scale=float(explained.parts.abs().max()))
    close(explained.truth, out.pre(T(whole(T, x))))
    assert explained.error < 1e-12
    assert len(explained.rows()) == N * F_OUT
    assert explained.parts.shape == (N, F_OUT, len(PARTS))


def test_in_float32_to_1e5_of_the_largest_term(both, make):
    _, _, _, found = both
    explained = found.to(torch.float32).explain(range(F_OUT), make.randn(N, I).float())
    assert explained.parts.dtype == torch.float32
    assert explained.error < 1e-5


def test_each_part_is_what_its_name_says(both, make, cube, close):
    """By the cube: constant, linear, a_f², a_f a_g and the three parts with the reconstruction's
    error.
    """
    T, out, into, found = both
    x = make.randn(N, I)
    a = into.encode(x)
    e = x - a @ into.W_dec - into.b_dec
    S = torch.einsum("fo,oij->fij", out.W_enc.mT, cube(T))
    S = (S + S.mT) / 2
    zero = whole(T, torch.zeros(1, I, dtype=x.dtype))[0, : T.shape[1] - I]
    base = torch.cat([zero, into.b_dec])
    pad = lambda y: torch.cat([torch.zeros_like(y[:, : T.shape[1] - I]), y], 1)  # noqa: E731
    W, e, y = pad(into.W_dec), pad(e), pad(a @ into.W_dec)

    def of(left, right):
        return torch.einsum("oij,ni,nj->no", S, left.expand(N, -1), right.expand(N, -1))

    own = torch.einsum("oij,fi,fj,nf->no", S, W, W, a.square())
    expected = (
        of(base, base) + out.offset,
        2 * of(base, y),
        own,
        of(y, y) - own,
        2 * of(base, e),
        2 * of(y, e),
        of(e, e),
    )
    parts = found.explain(range(F_OUT), x).parts
    for n, part in enumerate(expected):
        close(parts[..., n], part, scale=float(parts.abs().max()))


def test_the_tensor_and_its_blocks_agree_with_the_cube(both, make, cube, close):
    T, out, into, found = both
    a = make.randn(N, F_IN)
    exact = truth(T, out, a @ into.W_dec + into.b_dec)
    close(found.tensor(torch.cat([torch.ones(N, 1, dtype=a.dtype), a], 1)), exact)
    close(found.constant + a @ found.linear.dense().mT + found.quadratic(a), exact)
    assert found.tensor.rank <= T.rank + 1
    for o in (0, F_OUT - 1):
        form = found.of(o)
        close(form(a), exact[:, o])
        close(form.constant, found.constant[o])
        close(form.linear, found.linear.dense()[o])
        matrix = cube(found.quadratic)[o]
        close(form.quadratic.dense(), (matrix + matrix.mT) / 2)
        close(form.selves, matrix.diagonal())


def test_rows_are_dictionaries_without_constants(make, cube, close):
    T, reads, writes = make.cp(O, I, h=H), make.randn(F_OUT, O), make.randn(F_IN, I)
    found, a = interactions(T, reads, writes), make.randn(N, F_IN)
    assert float(found.constant.abs().max()) == 0
    close(cube(found.quadratic), torch.einsum("ao,oij,fi,gj->afg", reads, cube(T), writes, writes))
    explained = found.explain(3, a @ writes, a)
    close(explained.total, explained.truth)
    close(explained.parts[..., 4:], torch.zeros_like(explained.parts[..., 4:]))


@pytest.mark.bad_input
def test_a_feature_is_any_whole_number(make, close):
    found = interactions(make.cp(O, I, h=H), make.randn(F_OUT, O), make.randn(F_IN, I))
    a = make.randn(N, F_IN)
    x = a @ found.writes
    close(found.explain(np.int64(3), x, a).parts, found.explain([3], x, a).parts)


KINDS = {"all": lambda n: n, "cross": lambda n: n.triu(1), "self": lambda n: n.diagonal().diag()}


def brute(form, kind, k):
    """The k largest of the whole matrix: sizes, by float64."""
    matrix = form.form.to(torch.float64).map(form.writes.double()).dense()
    mask = KINDS[kind](torch.ones_like(matrix)).triu().bool()
    # of the monomials: both orders of a pair together
    coefficients = 2 * matrix - matrix.diagonal().diag()
    return matrix, coefficients[mask].abs().sort(descending=True).values[:k]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 20, 10_000])
def test_top_pairs_are_those_of_the_whole_matrix(both, kind, k):
    form = both[3].of(4)
    matrix, sizes = brute(form, kind, k)
    found = form.top(k, kind)
    assert found.complete
    assert len(found.values) == len(sizes)
    assert float((found.coefficients.abs() - sizes).abs().max()) < 1e-12 * float(sizes[0])
    assert float((found.values - matrix[tuple(found.indices.mT)]).abs().max()) < 1e-12 * float(
        sizes[0]
    )
    f, g = found.indices.mT
    assert bool((f <= g).all())
    assert len({tuple(pair) for pair in found.indices.tolist()}) == len(sizes)
    double = torch.where(f == g, 1.0, 2.0)
    assert torch.equal(found.coefficients, double * found.values)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.0, 1.5])
@pytest.mark.parametrize(("kind", "k"), [("all", 50), ("cross", 50), ("cross", 3000)])
def test_top_pairs_over_many_blocks(maker, monkeypatch, coarse, dtype, spread, kind, k):
    """In blocks, with and without a first look in bfloat16, and with features whose norms differ by
    orders.
    """
    monkeypatch.setattr("bilens.decompose.entries.top_pairs.coarse_pays", lambda *_: coarse)
    monkeypatch.setattr("bilens.decompose.entries.top_pairs.BLOCK", 32)
    make = maker(seed=3, dtype=dtype)
    writes = make.randn(300, 24) * torch.exp(spread * make.randn(300, 1))
    form = interactions(make.cp(O, 24, h=40), make.randn(2, O), writes).of(1)
    matrix, sizes = brute(form, kind, k)
    found = form.top(k, kind)
    assert found.complete
    assert float((found.coefficients.abs() - sizes).abs().max()) < 1e-12 * float(sizes[0])
    assert float((found.values - matrix[tuple(found.indices.mT)]).abs().max()) < 1e-12 * float(
        sizes[0]
    )
    if spread and k == 50:
        assert found.searched < found.size  # bounds end the search early


def test_a_product_goes_before_a_square_of_its_entry(make):
    """a₀² of coefficient 3 and a₀ a₁ of coefficient 4, whose entry is 2: what acts decides."""
    matrix = torch.tensor([[3.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
    form = QuadraticForm(
        torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64), matrix
    )
    found = top_pairs(form, torch.eye(2, dtype=torch.float64), 1)
    assert found.indices.tolist() == [[0, 1]]
    assert found.values.tolist() == [4.0]
    assert found.certificate == pytest.approx(3.0, rel=1e-9)
    assert found.looked_at == found.size == 3


@pytest.mark.parametrize(
    ("dtype", "power"),
    [(torch.float32, 2.0**-100), (torch.float32, 2.0**100), (torch.float64, 2.0**-600)],
)
def test_pairs_know_no_scale(maker, dtype, power):
    make = maker(seed=5, dtype=dtype)
    form, writes = make.quadratic(8, 5), make.randn(30, 8)
    plain = top_pairs(form, writes, 6)
    moved = top_pairs(QuadraticForm(form.weights * power, form.left, form.right), writes, 6)
    assert torch.equal(moved.indices, plain.indices)
    assert torch.equal(moved.values, plain.values * power)
    assert moved.certificate == plain.certificate * power


def test_what_bfloat16_rounds_down_is_found(monkeypatch):
    """Q_fg = w_f0 w_g0 with all w_f0 rounded down to 1, the largest searched last: w_f2 alone sets
    the order.
    """
    monkeypatch.setattr("bilens.decompose.entries.top_pairs.coarse_pays", lambda *_: True)
    monkeypatch.setattr("bilens.decompose.entries.top_pairs.BLOCK", 32)
    at = torch.linspace(0, 1, 96, dtype=torch.float64)
    zero = torch.zeros_like(at)
    writes = torch.stack([1 + 2**-8 * (0.3 + 0.6 * at), zero, 1 - at / 2, zero], 1)
    form = QuadraticForm(
        *(t.double() for t in (torch.ones(2), torch.eye(4)[[0, 2]], torch.eye(4)[[0, 3]]))
    )
    found = top_pairs(form, writes, 20)
    assert found.complete
    assert int(found.indices.min()) > 80


def test_the_pairs_are_never_a_whole_matrix(maker, monkeypatch):
    monkeypatch.setattr("bilens.decompose.entries.top_pairs.BLOCK", 32)
    largest, make = [], maker(dtype=torch.float32)

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            largest.extend(
                leaf.untyped_storage().nbytes()
                for leaf in tree_leaves(made)
                if torch.is_tensor(leaf)
            )
            return made

    layer = interactions(make.cp(8, 16, h=20), make.randn(2000, 8), make.randn(2000, 16))
    with Sizes():
        layer.of(3).top(20)
        layer.explain([0, 1], make.randn(4, 16), make.randn(4, 2000))
    assert max(largest) < 2000**2 * 4 / 8


def test_a_layer_of_zeros_and_one_of_few_pairs(make):
    zero = interactions(
        CP(*(0 * t for t in make.cp(O, I, h=H).factors().values())),
        make.randn(2, O),
        make.randn(F_IN, I),
    )
    assert float(zero.of(0).top(5).values.abs().max()) == 0
    few = CP(
        make.randn(1, 1),
        torch.eye(I, dtype=torch.float64)[:1],
        torch.eye(I, dtype=torch.float64)[1:2],
    )
    found = (
        interactions(few, torch.ones(1, 1, dtype=torch.float64), torch.eye(I, dtype=torch.float64))
        .of(0)
        .top(3)
    )
    assert found.indices[0].tolist() == [0, 1]
    assert float(found.values[1:].abs().max()) == 0


def test_eigenvectors_and_gates_are_told_as_features(both, make, close):
    _, _, into, found = both
    form, x = found.of(2), make.randn(400, I)
    spectrum = form.eigen(3, members=4)
    readings = spectrum.readings
    close(
        readings.coefficients, (spectrum.eigen.vectors @ into.W_dec.mT).gather(1, readings.indices)
    )
    cosines = torch.nn.functional.cosine_similarity(
        spectrum.eigen.vectors[:, None], into.W_dec[None], dim=-1
    )
    close(readings.cosines.abs(), cosines.abs().topk(4).values)
    gates = form.gates(None, x)
    y = form.form(x)
    rest = gates.gates.rest(x)
    cov = lambda one: float(((one - one.mean()) * (y - y.mean())).mean() / y.var(correction=0))  # noqa: E731
    assert float(gates.data_share.sum()) + cov(rest) == pytest.approx(1, abs=1e-10)
    assert float(gates.data_share[0]) == pytest.approx(cov(gates.gates(x)[:, 0]), abs=1e-10)
    assert gates.rows()[0]["a"]
    assert form.gates(2).data_share is None
    assert len(spectrum.rows()) == 12


def test_top_entries_over_the_whole_dictionary(both, cube):
    found = both[3]
    dense = cube(found.quadratic)
    dense = dense + dense.mT
    dense.diagonal(dim1=1, dim2=2).mul_(0.5)
    sizes = dense.abs()[torch.ones_like(dense).triu().bool()].sort(descending=True).values[:15]
    entries = found.top_entries(15)
    assert entries.complete
    assert float((entries.values.abs() - sizes).abs().max()) < 1e-12 * float(sizes[0])
    o, f, g = entries.indices[0].tolist()
    assert found.of(o).top(1).indices[0].tolist() == [f, g]


def test_results_are_tables_pictures_and_files(make, close, tmp_path):
    T, names = layer(make, True), [f"w{n}" for n in range(F_IN)]
    found = interactions(
        T,
        dictionary(make, O, F_OUT, side="output"),
        dictionary(make, I, F_IN),
        in_names=names,
        out_names=[f"o{n}" for n in range(F_OUT)],
    )
    form, x = found.of(1), make.randn(30, I)
    for result in (
        form,
        form.top(3),
        form.eigen(2),
        form.eigen(2).readings,
        form.gates(2, x),
        found.explain([0, 2], x),
    ):
        result.save(tmp_path / "result")
        again = type(result).load(tmp_path / "result")
        assert again.rows() == result.rows()
        assert len(result.to_frame()) == len(result.rows())
        assert result.plot().data
        assert result.summary()
    assert {row["f"] for row in form.top(5).rows()} <= set(names)
    assert form.of == "output o1"
    found.save(tmp_path / "whole")
    again = Interactions.load(tmp_path / "whole")
    close(again.explain(0, x).parts, found.explain(0, x).parts)


@pytest.mark.bad_input
def test_bad_input(both, make, refuses):
    T, out, into, found = both
    x = make.randn(N, I)
    nan = T.out.clone().fill_(float("nan"))
    wide = dictionary(make, I + 3, F_IN)
    wide_out = dataclasses.replace(wide, hook="")
    refuses(
        ShapeError, lambda: interactions(T, out, wide), f"write the {I} of x", f"({F_IN}, {I + 3})"
    )
    refuses(ShapeError, lambda: interactions(T, wide_out, into), f"read {O}")
    refuses(ShapeError, lambda: interactions(T, out, into.to(torch.float32)), "float64", "float32")
    refuses(NotFiniteError, lambda: interactions(dataclasses.replace(T, out=nan), out, into), "NaN")
    refuses(
        NotFiniteError,
        lambda: interactions(T, out, dataclasses.replace(into, W_dec=into.W_dec / 0)),
        "writes",
    )
    refuses(
        NotFiniteError,
        lambda: interactions(T, dataclasses.replace(out, b_enc=out.b_enc / 0), into),
        "offset",
    )
    refuses(
        ArgumentError, lambda: interactions(T, out, into, in_names=["one"]), "in_names", str(F_IN)
    )
    for f in (F_OUT, -1, 1.5, True):
        refuses(ArgumentError, lambda f=f: found.of(f), f"0 to {F_OUT - 1}", str(f))
    refuses(ArgumentError, lambda: found.explain([], x), "none")
    refuses(ShapeError, lambda: found.explain(0, make.randn(N, I + 2)), f"(n, {I})")
    refuses(NotFiniteError, lambda: found.explain(0, x / 0), "x")
    refuses(ShapeError, lambda: found.explain(0, x, make.randn(N, 2)), str(F_IN))
    refuses(ArgumentError, lambda: interactions(T, out, into.W_dec).explain(0, x), "explain(a=)")
    refuses(ArgumentError, lambda: found.of(0).top(0), "k")
    refuses(ArgumentError, lambda: found.of(0).top(3, "selves"), "all, cross, self")
    refuses(ArgumentError, lambda: found.of(0).gates(2, torch.zeros(5, I, dtype=x.dtype)), "vary")
    refuses(ShapeError, lambda: found.of(0).gates(2, make.randn(5, I + 1)), "activations")


def test_colours_mean_the_same_as_everywhere(both):
    """Blue adds, orange takes away, white is zero."""
    (heat,) = both[3].of(2).eigen(3).readings.figure()["data"]
    assert (heat["zmin"], heat["colorscale"]) == (-heat["zmax"], DIVERGING)


def swapped(one, hook):
    return dataclasses.replace(one, hook=hook)


@pytest.mark.bad_input
def test_dictionaries_of_the_other_side_are_refused(make, refuses):
    """Of the side of a layer, and of two different layers; without a hook they are taken."""
    T, out, into = layer(make, False), dictionary(make, O, F_OUT), dictionary(make, I, F_IN)
    reads, writes = "layers.0.mlp.input", "layers.0.mlp.output"
    cases = [
        (swapped(out, reads), into, "interactions(outputs) must be of what a layer writes"),
        (swapped(out, "mlp0.input"), into, "got a dictionary of mlp0.input"),
        (swapped(out, writes), swapped(into, writes), "interactions(inputs) must be of what a lay"),
        (swapped(out, writes), swapped(into, "mlp1.input"), "must read mlp0.input, as the outputs"),
    ]
    for first, second, told in cases:
        refuses(ArgumentError, lambda a=first, b=second: interactions(T, a, b), told)
    for first, second in (("", ""), (writes, ""), ("", reads), ("blocks.0.hook_mlp_out", reads)):
        interactions(T, swapped(out, first), swapped(into, second))
    interactions(T, out.reads, into.writes)


@pytest.mark.bad_input
@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_is_no_input(make, refuses, skip):
    """What it writes is not what the layer reads, whatever it skips."""
    T, out = make.cp(O, I, h=H), make.randn(F_OUT, O)
    more = {"W_skip": make.randn(I, I)} if skip else {}
    kind = f"{'skip_' * skip}transcoder"
    hook = "layers.0.mlp.input"
    coder = Dictionary(
        make.randn(I, F_IN), make.randn(F_IN, I), make.randn(F_IN), make.randn(I), **more,
        architecture=kind, hook=hook, hook_out="layers.0.mlp.output",
    )  # fmt: skip
    told = f"write what it reads; got a {kind} to layers.0.mlp.output"
    refuses(ArgumentError, lambda: interactions(T, out, coder), told)


@pytest.mark.bad_input
def test_a_form_refuses_what_no_latents_are(both, make, refuses, close):
    form = both[3].of(2)
    a = make.randn(N, F_IN)
    refuses(NotFiniteError, lambda: form(a / 0), "FeatureForm.x must be finite")
    refuses(ShapeError, lambda: form(a.float()), "be given float64 on cpu", "got float32")
    refuses(ShapeError, lambda: form(a[:, :3]), f"be given (..., {F_IN}); got ({N}, 3)")
    refuses(ShapeError, lambda: form(a.tolist()), "got list")
    half = a.half()
    close(form(half), form(half.double()))


@pytest.mark.filterwarnings("error")
def test_nothing_warns_of_gradients(both, make):
    """torch does, where a tensor that has some is made a number: once in a process, if not asked
    for always.
    """
    T, out, into, _ = both
    layer = dataclasses.replace(T, out=T.out.requires_grad_())
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        found, x = interactions(layer, out, into), make.randn(30, I)
        form = found.of(2)
        for result in (form, form.gates(2, x), form.eigen(2), found.explain([1], x), form.top(3)):
            assert repr(result)
            assert result.figure()["data"]
            assert len(result.to_frame())
    finally:
        torch.set_warn_always(always)


@pytest.mark.bad_input
@pytest.mark.parametrize("odd", [3, "abc", [1] * F_IN, None], ids=str)
def test_what_names_no_features_is_refused(both, refuses, odd):
    T, out, into, _ = both
    refuses(ArgumentError, lambda: interactions(T, out, into, in_names=odd), "in_names must name")

"""Similarities against dense cosines, the moments of the data and plain averages; a check that can
fail.
"""

import dataclasses
import math
import sys

import pytest
import torch
from torch import einsum

from bilens.algebra import CP, affine, homogeneous, unit_products
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.decompose import Similarities, similarity
from bilens.decompose.similarity import OWN_SEED
from bilens.measure import Gaussian, hermite


@pytest.fixture
def layers(make):
    base = make.cp(3, 4, h=6)
    return {"a": base, "near": base + 0.3 * make.cp(3, 4, h=2), "other": make.cp(3, 4, h=5)}


@pytest.fixture
def measure(make):
    basis = make.randn(4, 4)
    return Gaussian(make.randn(4), basis @ basis.mT)


def cosines(products):
    scale = products.diagonal().sqrt()
    return products / scale.outer(scale)


def test_of_the_weights_are_cosines_of_symmetric_parts(layers, cube, close):
    found = similarity(layers)
    flat = torch.stack([((cube(T) + cube(T).mT) / 2).flatten() for T in layers.values()])
    close(found.matrix, cosines(flat @ flat.mT), scale=1.0)
    close(found.norms, flat.norm(dim=1))
    assert (found.names, found.measure, found.shares.tolist()) == (
        ("a", "near", "other"),
        "of the weights",
        [[1.0]] * 3,
    )
    assert found.checked


@pytest.mark.parametrize("centred", [False, True])
def test_on_gaussian_data_are_those_of_the_verbs(centred, layers, measure, close):
    found = similarity(layers, measure, centred=centred)
    pairs = [
        [measure.of(one).similarity(measure.of(two), centred=centred) for two in layers.values()]
        for one in layers.values()
    ]
    close(found.matrix, torch.stack([torch.stack(row) for row in pairs]), scale=1.0)
    assert found.checked
    close(found.shares.sum(1), torch.ones(3).double())


def test_behind_embeddings_is_that_of_the_embedded_measure(make, close):
    embeds = make.randn(2, 3, 40)
    behind = [make.cp(2, 3, h=4) for _ in embeds]
    whole = [T.map(left=E.mT, right=E.mT) for T, E in zip(behind, embeds, strict=True)]
    measure = Gaussian.from_batches([make.randn(90, 40) + 1.0])
    joint = measure.map(embeds.flatten(0, 1))
    alone = [
        T.map(left=place.mT, right=place.mT)
        for T, place in zip(behind, torch.eye(6).double().split(3), strict=True)
    ]
    found, truth = similarity(whole, measure, samples=0), similarity(alone, joint, samples=0)
    close(found.matrix, truth.matrix, scale=1.0)
    close(found.norms, truth.norms)
    close(found.shares, truth.shares, scale=1.0)


def test_a_gauge_is_no_difference(layers, make, measure, close):
    T = layers["a"]
    a, b, order = make.randn(6), make.randn(6), torch.randperm(6, generator=make.generator)
    same = CP(
        (T.out / (a * b))[:, order], (b[:, None] * T.right)[order], (a[:, None] * T.left)[order]
    )
    for data in (None, measure):
        close(similarity([T, same], data).matrix, torch.ones(2, 2).double())


def test_one_layer_alone(layers):
    found = similarity([layers["a"]])
    assert found.matrix.tolist() == [[pytest.approx(1)]]
    assert found.names == ("0",)


@pytest.mark.parametrize("centred", [False, True])
def test_on_activations_both_are_given(centred, layers, make, close):
    """Skewed inputs: the Gaussian of their moments, and the plain average, are two different
    things.
    """
    x = make.randn(500, 4).exp() - 1
    found = similarity(layers, x, centred=centred)
    outputs = torch.stack([einsum("oij,ni,nj->no", T.dense(), x, x) for T in layers.values()])
    outputs = outputs - (outputs.mean(1, keepdim=True) if centred else 0)
    close(found.empirical.matrix, cosines(einsum("ano,bno->ab", outputs, outputs)), scale=1.0)
    close(
        found.matrix,
        similarity(layers, Gaussian.from_batches([x]), centred=centred).matrix,
        scale=1.0,
    )
    assert found.measure == "on Gaussian data fitted to 500 activations"
    assert (found.empirical.count, found.empirical.source, found.check.source) == (
        500,
        "the activations",
        "the Gaussian",
    )
    assert float((found.matrix - found.empirical.matrix).abs().max()) > 0.01


def test_standard_errors_on_activations_are_those_of_repeated_draws(layers, make):
    """400 draws of 2,000 activations: their spread is the error the jackknife states. Loose: the
    spread is known to 4 %, and the average of 15 errors to about as much."""
    x = make.randn(400, 2000, 4)
    outputs = [T(x) for T in layers.values()]
    products = torch.stack(
        [torch.stack([(a * b).sum(-1).mean(-1) for b in outputs], -1) for a in outputs], -2
    )
    scale = products.diagonal(dim1=1, dim2=2).sqrt()
    spread = (products / (scale[:, :, None] * scale[:, None, :])).std(0)
    stated = torch.stack(
        [similarity(layers, x[n], samples=0).empirical.errors for n in range(15)]
    ).mean(0)
    off_diagonal = ~torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(stated[off_diagonal], spread[off_diagonal], rtol=0.15, atol=0)
    assert float(stated.diagonal().max()) < 1e-9


def test_standard_errors_know_that_neighbours_are_alike(layers, make):
    """Each activation eight times over is no more data: the error stays, where one for independent
    samples would shrink.
    """
    x = make.randn(512, 4)
    once, eight = (
        similarity(layers, data, samples=0).empirical for data in (x, x.repeat_interleave(8, 0))
    )
    torch.testing.assert_close(eight.errors, once.errors, rtol=1e-6, atol=1e-12)


def test_the_check_is_the_monte_carlo_it_says(layers, measure, close):
    found = similarity(layers, measure, samples=640, seed=5)
    generator = torch.Generator().manual_seed(5 ^ OWN_SEED)
    noise = torch.randn(640, 4, generator=generator)
    x = measure.mean + (noise @ torch.linalg.cholesky(measure.cov).float().mT).double()
    x = x.unflatten(0, (64, 10))
    outputs = torch.stack([T(x) for T in layers.values()])
    blocks = einsum("anso,bnso->nab", outputs, outputs) / 10 / found.norms.outer(found.norms)
    close(found.check.matrix, blocks.mean(0))
    # the jackknife of an average is the error of the blocks' averages
    close(found.check.errors, blocks.std(0) / 8)
    assert found.z == pytest.approx(
        float(((blocks.mean(0) - found.matrix).abs() / found.check.errors).max()), rel=1e-6
    )


@pytest.mark.parametrize("data", [False, True], ids=["weights", "gaussian"])
def test_the_check_fails_where_a_closed_form_is_wrong(data, layers, measure, monkeypatch):
    """As if every norm and product forgot a term: the swapped one."""
    forgot = lambda one, two, symmetric: 0.5 * unit_products(one, two, False)  # noqa: E731
    monkeypatch.setattr("bilens.algebra.cp.unit_products", forgot)
    found = similarity(layers, measure if data else None, samples=20_000)
    monkeypatch.undo()
    assert not found.checked
    assert "not confirmed" in found.summary()


@pytest.fixture
def wide(make):
    """Two layers behind embeddings of 200 inputs, whose units read two directions that are alike,
    and data with a mean.
    """
    layers = []
    for embed in make.randn(2, 80, 200) / 200**0.5:
        left, other = make.randn(2, 100, 80)
        layers.append(CP(make.randn(16, 100), left @ embed, (0.8 * left + 0.6 * other) @ embed))
    return layers, Gaussian.from_batches([make.randn(500, 200) + 1.0])


UNIT_PRODUCTS = ("bilens.algebra.cp.unit_products",)
GIVEN = ("bilens.measure.gaussian.hermite",)  # as the whole measure is given to the formulas
HERMITE = (*GIVEN, "bilens.decompose.similarity.hermite")
BROKEN = {
    "the swapped term forgotten": (
        UNIT_PRODUCTS,
        lambda one, two, symmetric: 0.5 * unit_products(one, two, False),
    ),
    "not symmetrised": (
        UNIT_PRODUCTS,
        lambda one, two, symmetric: unit_products(one, two, False),
    ),
    "twice as much": (
        UNIT_PRODUCTS,
        lambda one, two, symmetric: 2 * unit_products(one, two, symmetric),
    ),
    "a sign of the swapped term": (
        UNIT_PRODUCTS,
        lambda one, two, symmetric: (
            unit_products(one, two, False) - unit_products(one, two, symmetric)
        ),
    ),
    "no 2 of the quadratic part": (
        HERMITE,
        lambda *given: altered(hermite(*given), quadratic=lambda part: part * 0.5**0.5),
    ),
    "a thousandth of the quadratic part": (
        HERMITE,
        lambda *given: altered(hermite(*given), quadratic=lambda part: part * 1.001),
    ),
    "no linear part": (
        HERMITE,
        lambda *given: altered(hermite(*given), slope=lambda part: part * 0.0),
    ),
    "the linear part of both inputs as one": (
        HERMITE,
        lambda *given: altered(hermite(*given), slope=lambda part: part * 0.5),
    ),
    "Σ in place of its root": (
        GIVEN,
        lambda tensor, onto: hermite(tensor, torch.cat([onto[:1], onto[1:].mT @ onto[1:]])),
    ),
    "half of the root is lost": (
        GIVEN,
        lambda tensor, onto: hermite(tensor, onto[: len(onto) // 2 + 1]),
    ),
    "a wrong root for both": (
        ("bilens.measure.gaussian.Gaussian.factor",),
        property(lambda measure: 1.02 * measure._triangle),
    ),
}


def altered(parts, **changes):
    return dataclasses.replace(
        parts, **{name: change(getattr(parts, name)) for name, change in changes.items()}
    )


@pytest.mark.parametrize(("places", "wrong"), BROKEN.values(), ids=BROKEN)
def test_the_check_by_default_finds_a_wrong_closed_form(places, wrong, wide, monkeypatch):
    layers, measure = wide
    right = similarity(layers, measure)
    assert (right.check.count, right.checked) == (96, True)
    assert float(right.check.errors.max()) < 0.1
    for place in places:
        # by its module, as the package's own ``similarity`` is the function
        path, name = place.rsplit(".", 1)
        owner = Gaussian if name == "factor" else sys.modules[path]
        monkeypatch.setattr(owner, name, wrong)
    found = similarity(layers, Gaussian(measure.mean, measure.cov))
    monkeypatch.undo()
    assert not found.checked
    assert "not confirmed" in found.summary()


@pytest.mark.parametrize("wrong", [0.5, 0.999, 1.001, 2.0])
@pytest.mark.parametrize("centred", [None, False, True], ids=["weights", "all", "centred"])
def test_a_formula_that_is_wrong_for_one_layer_shows(centred, wrong, wide, monkeypatch):
    """Where its norm and its products with others are wrong, and where a product alone is."""
    layers, measure = wide
    given = (layers,) if centred is None else (layers, measure)
    right = similarity(*given, centred=bool(centred))
    assert right.check.formula_error < 1e-14
    assert right.checked

    def product(one, two, symmetric):
        same = one[0] is two[0]
        return unit_products(one, two, symmetric) * (1 if same else wrong)

    monkeypatch.setattr("bilens.algebra.cp.unit_products", product)
    found = similarity(*given, centred=bool(centred))
    monkeypatch.undo()
    assert found.check.formula_error > 1e-7
    assert not found.checked


def test_few_samples_stand_where_they_settle_it_and_many_where_not(wide, layers, make):
    """One direction that is all of the variance, nearly: fourth powers of one number."""
    assert similarity(*wide).check.count == 96
    long = Gaussian(torch.zeros(4).double(), torch.diag(make.randn(4) ** 2 * 1e-4))
    long.cov[0, 0] = 1.0
    found = similarity(layers, long)
    assert found.checked
    assert 1000 < found.check.count <= 4096
    assert float(similarity(layers, long, samples=96).check.errors.max()) > 0.1
    still = similarity(*wide, samples=96)
    assert torch.equal(still.check.matrix, similarity(*wide).check.matrix)


def test_how_often_few_samples_do(wide):
    """That 96 samples say too much by chance is as rare as of a normal average, nearly: three
    entries, of which one in 370 each is off by three standard errors.
    """
    counts = [similarity(*wide, seed=seed).check.count for seed in range(30)]
    assert counts.count(96) > 20
    assert counts.count(4096) <= 3


def test_weights_of_the_same_seed_are_not_the_samples():
    """Layers that read along the very numbers that a generator of seed 0 draws first."""
    torch.manual_seed(0)
    rows = torch.randn(128, 40)
    T = CP(torch.randn(8, 128), rows, rows)
    measure = Gaussian(torch.zeros(40), torch.eye(40))
    assert similarity([T], measure, samples=128).z < 4


def test_the_check_seldom_fails_by_chance(layers, measure):
    """Averages of quartics are not quite normal: 6 seeds, all pass, and z is of the size that it
    should be.
    """
    zs = [similarity(layers, measure, samples=512, seed=seed).z for seed in range(6)]
    assert max(zs) <= 5
    assert 0.5 < sum(zs) / len(zs) < 2.5


def test_reproducible_by_seed_and_can_be_left_out(layers, measure):
    one, two, other = (similarity(layers, measure, samples=300, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.check.matrix, two.check.matrix)
    assert not torch.equal(one.check.matrix, other.check.matrix)
    none = similarity(layers, measure, samples=0)
    assert (none.check, none.checked) == (None, False)
    assert "no check" in none.summary()


def test_biases_and_means_are_included(make, measure):
    layers = [
        affine(make.randn(3, 5), make.randn(5, 4), make.randn(5, 4), make.randn(3), make.randn(5))
        for _ in range(2)
    ]
    found, x = similarity(layers, measure), measure.sample(2000)
    whole = similarity(layers, homogeneous(x), samples=0)
    assert bool(
        ((found.matrix - whole.empirical.matrix).abs() <= 5 * whole.empirical.errors + 1e-12).all()
    )
    assert torch.equal(similarity(layers, x, samples=0).empirical.matrix, whole.empirical.matrix)
    assert (found.rank, found.size) == (4, 4)
    assert found.checked


def test_a_constant_makes_all_alike_and_centred_does_not(make, measure):
    layers = [
        affine(make.randn(3, 5), make.randn(5, 4), make.randn(5, 4), 1e4 * torch.ones(3).double())
        for _ in range(2)
    ]
    found = similarity(layers, measure)
    assert float(found.matrix[0, 1]) > 0.99
    assert bool((found.shares[:, 0] > 0.99).all())
    assert abs(float(similarity(layers, measure, centred=True).matrix[0, 1])) < 0.8


def test_a_rank_deficient_measure_is_said(layers, make):
    found = similarity(layers, make.randn(3, 4))
    assert (found.rank, found.size) == (2, 4)
    assert "blind off a support of 2 of 4 dimensions" in found.summary()
    assert "blind" not in similarity(layers, make.randn(30, 4)).summary()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_narrow_and_strided_layers_count_with_the_digits_they_have(dtype, maker, measure, close):
    make = maker(0, dtype)
    layers = [
        CP(make.randn(5, 3).mT, make.randn(4, 5).mT, make.randn(5, 8)[:, ::2]) for _ in range(2)
    ]
    assert not any(factor.is_contiguous() for factor in layers[0].factors().values())
    for data in (None, measure):
        close(
            similarity(layers, data, samples=0).matrix,
            similarity([T.to(torch.float64) for T in layers], data, samples=0).matrix,
        )
    assert similarity(layers, make.randn(20, 4)).empirical.matrix.dtype == torch.float64


def test_rows_summary_and_figure(layers, measure, make):
    found = similarity(list(layers.values()), measure, names=["one", "two", "three"])
    rows = found.rows()
    assert [(row["layer"], row["with"]) for row in rows][:3] == [
        ("one", "one"),
        ("one", "two"),
        ("one", "three"),
    ]
    assert set(rows[0]) == {
        "layer",
        "with",
        "similarity",
        "Monte Carlo",
        "Monte Carlo, standard error",
    }
    assert "on activations, standard error" in similarity(layers, make.randn(9, 4)).rows()[0]
    assert found.summary().startswith("3 × 3 similarities on Gaussian data; Monte Carlo ")
    (heat,) = found.figure()["data"]
    assert (heat["type"], len(heat["z"])) == ("heatmap", 3)
    assert found.figure()["layout"]["xaxis"]["ticktext"] == ["one", "two", "three"]
    assert all(row["layer"] != row["with"] for row in found.answer())
    assert found.plot().data[0].type == "heatmap"


def test_saves_with_its_samples(layers, make, tmp_path):
    found = similarity(layers, make.randn(9, 4))
    found.save(tmp_path / "s")
    loaded = Similarities.load(tmp_path / "s")
    assert torch.equal(loaded.empirical.errors, found.empirical.errors)
    assert (loaded.z, loaded.summary()) == (found.z, found.summary())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "call", "text"),
    [
        (
            ArgumentError,
            lambda a, g: similarity([]),
            "layers must be at least one, each with a name of its own; got 0 layers",
        ),
        (
            ArgumentError,
            lambda a, g: similarity(a),
            "layers must be a sequence of tensors, or a mapping from names; got CP.",
        ),
        (
            ArgumentError,
            lambda a, g: similarity([a, a], names=["x"]),
            "got 2 layers, names ('x',).",
        ),
        (
            ArgumentError,
            lambda a, g: similarity([a, a], names=["x", "x"]),
            "got 2 layers, names ('x', 'x').",
        ),
        (
            ArgumentError,
            lambda a, g: similarity({"x": a}, names=["x"]),
            "names must be given once; got a mapping and names.",
        ),
        (
            ArgumentError,
            lambda a, g: similarity({"x": a, "y": "T"}),
            "layer y must be a CP; got str. Pass layer.tensor().",
        ),
        (
            ShapeError,
            lambda a, g: similarity([a, a.map(out=torch.ones(2, 3).double())]),
            "layer 1 must be (3, 4, 4) on cpu",
        ),
        (
            ShapeError,
            lambda a, g: similarity([a.map(left=torch.ones(2, 4).double())]),
            "layer 0 must have left and right of",
        ),
        (
            ArgumentError,
            lambda a, g: similarity({"x": a, "dead": a * 0.0}),
            "layer dead must not be zero; got a norm of 0",
        ),
        (
            ArgumentError,
            lambda a, g: similarity({"skew": a - a.swap()}),
            "layer skew must not be zero; got a norm of ",
        ),
        (
            ArgumentError,
            lambda a, g: similarity({"skew": a - a.swap()}, g),
            "layer skew must not be zero under the measure",
        ),
        (
            ArgumentError,
            lambda a, g: similarity({"hidden": hidden()}, blind()),
            "layer hidden must not be zero under the measure",
        ),
        (
            NotFiniteError,
            lambda a, g: similarity({"x": a * math.nan}),
            "layer x.out must be finite",
        ),
        (
            ShapeError,
            lambda a, g: similarity([a], g.map(torch.ones(2, 4).double())),
            "measure must be over the layer's 4 inputs",
        ),
        (
            ShapeError,
            lambda a, g: similarity([a], torch.ones(5, 6).double()),
            "activations must be (n, 4), n ≥ 2",
        ),
        (ShapeError, lambda a, g: similarity([a], torch.ones(1, 4).double()), "got (1, 4)"),
        (
            ShapeError,
            lambda a, g: similarity([a], torch.ones(9, 4).int()),
            "activations must have a real floating dtype",
        ),
        (
            NotFiniteError,
            lambda a, g: similarity([a], torch.ones(9, 4).double() / 0),
            "activations must be finite",
        ),
        (
            ArgumentError,
            lambda a, g: similarity({"x": a, "and": cross()}, one_hot()),
            "layer and must not be zero on the activ",
        ),
        (
            ArgumentError,
            lambda a, g: similarity([a], centred=True),
            "centred must be asked under a measure; got none.",
        ),
        (
            ArgumentError,
            lambda a, g: similarity([a], samples=1),
            "samples must be a whole number ≥ 2, or 0 for no check; got 1",
        ),
        (ArgumentError, lambda a, g: similarity([a], samples=-4), "got -4"),
        (
            ArgumentError,
            lambda a, g: similarity([a], samples=0).z,
            "z must be asked where a check was made; got samples=0.",
        ),
    ],
)
def test_refuses(kind, call, text, layers, measure, refuses):
    refuses(kind, lambda: call(layers["a"], measure), text)


@pytest.mark.parametrize("seed", range(8))
def test_what_rounding_leaves_of_nothing_is_no_layer(seed, maker, refuses):
    """Skew tensors, and layers off the support of the data: norms of 1e-8 and 1e-16 of what
    cancelled, of no direction.
    """
    make = maker(seed)
    skew, basis = make.cp(), torch.linalg.qr(make.randn(4, 4))[0]
    skew = skew - skew.swap()
    measure = Gaussian(basis[0], basis[:2].mT @ basis[:2])
    off = CP(make.randn(3, 5), make.randn(5, 2) @ basis[2:], make.randn(5, 2) @ basis[2:])
    for layer, data in ((skew, None), (skew, measure), (off, measure)):
        refuses(
            ArgumentError,
            lambda layer=layer, data=data: similarity([layer], data),
            "layer 0 must not be zero",
        )
    tiny = off + make.cp() * 1e-6
    assert similarity([tiny, tiny * 2.0], measure).checked


def blind():
    return Gaussian(
        torch.zeros(4).double(), torch.diag(torch.tensor([1.0, 2.0, 0.0, 0.0]).double())
    )


def one_hot():
    return torch.eye(4).double().repeat(5, 1)


def cross():
    return CP(torch.ones(3, 1).double(), torch.eye(4).double()[:1], torch.eye(4).double()[1:2])


def hidden():
    row = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).double()
    return CP(torch.ones(3, 1).double(), row, row)


@pytest.mark.parametrize("size", [1.0, 1e-120, 1e120], ids=["one", "tiny", "huge"])
@pytest.mark.parametrize("spread", [0.0, 1.0], ids=["a point", "a cloud"])
def test_what_a_measure_sees_nothing_of_has_no_similarity(spread, size, form_name, make, refuses):
    """A skew tensor is no function of x; what cancels leaves rounding, which points anywhere."""
    basis = make.randn(4, 4)
    measure = Gaussian(make.randn(4) * size, spread * size**2 * basis @ basis.mT)
    T, g = make.form(form_name, 3, 4), measure.of(make.form(form_name, 3, 4))
    words = (
        "similarity must compare two tensors that are not zero under the measure; got a norm of 0."
    )
    for nothing in (T - T.swap(), T + (-1.0 * T), 0.0 * T):
        f = measure.of(nothing)
        refuses(ArgumentError, lambda f=f: f.similarity(g), words)
        refuses(ArgumentError, lambda f=f: g.similarity(f), words)
    assert abs(float(measure.of(T).similarity(g))) <= 1


def test_a_layer_that_one_block_alone_excites_has_an_unknown_error(make):
    x = torch.cat([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]).expand(127, 2)]).double()
    once, often = (
        CP(torch.ones(1, 1).double(), row, row) for row in torch.eye(2).double()[:, None]
    )
    found = similarity([once, often, once + often], x + 0.0, samples=0).empirical
    assert torch.isfinite(found.matrix).all()
    assert not found.errors.isnan().any()
    assert found.errors[0, 2] == math.inf
    assert math.isfinite(found.errors[1, 2])


def test_a_difference_of_rounding_is_no_failure(layers, measure):
    """Where every sample gives the same, the standard error is 0, and so is what counts as off."""
    still = Gaussian(measure.mean, torch.zeros(4, 4).double())
    found = similarity(layers, still)
    assert (found.rank, found.checked, found.z) == (0, True, 0.0)
    wrong = dataclasses.replace(found, matrix=found.matrix * 0.99)
    assert not wrong.checked


def test_no_cosine_above_one(maker):
    """Layers that are each other's multiples: rounding alone takes many of these quotients above
    one.
    """
    above = 0
    for seed in range(30):
        one = maker(seed=seed).cp(2, 3, h=3)
        two = one * 3.7
        matrix = similarity([one, two], samples=0).matrix
        assert float(matrix.max()) <= 1
        assert float(one.similarity(two)) <= 1
        assert float(one.similarity(-two)) >= -1
        assert float((matrix - 1).abs().max()) < 1e-14
        parts = [
            float(a.symmetrise().inner(b.symmetrise()))
            for a, b in ((one, two), (one, one), (two, two))
        ]
        above += parts[0] / (parts[1] ** 0.5 * parts[2] ** 0.5) > 1
    assert above  # the clamp is needed

"""Nearest tensors against least squares on samples, dense formulas, and the layers themselves."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import bilens
from bilens import Gaussian, approximate
from bilens.base.errors import ArgumentError, NotFiniteError, ShapeError
from bilens.decompose import eigen
from bilens.models.activations import activations
from bilens.nearest import Approximation, degree_spectrum, tensor_by_units
from bilens.nn import MLP, GatedMLP

INPUTS, UNITS = 6, 14


def layer(kind, act, bias=True, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    made = kind(INPUTS, UNITS, bias, act)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_().mul_(0.6)
    return made.to(dtype)


def measure(seed=0):
    draw = torch.Generator().manual_seed(seed)
    turn = torch.randn(INPUTS, INPUTS, generator=draw, dtype=torch.float64) / 2
    cov = turn @ turn.mT + 0.1 * torch.eye(INPUTS).double()
    return Gaussian(0.5 * torch.randn(INPUTS, generator=draw, dtype=torch.float64), cov)


def unexplained_by_least_squares(module, x):
    """All polynomials of degree 2 in x, dense."""
    with torch.no_grad():
        value = module(x)
    rows, columns = torch.triu_indices(INPUTS, INPUTS)
    features = torch.cat([torch.ones_like(x[:, :1]), x, x[:, rows] * x[:, columns]], 1)
    rest = value - features @ torch.linalg.lstsq(features, value).solution
    return float(rest.square().sum() / (value - value.mean(0)).square().sum())


CASES = [
    (GatedMLP, "silu"),
    (GatedMLP, "gelu"),
    (GatedMLP, "relu"),
    (MLP, "relu"),
    (MLP, "gelu"),
    (GatedMLP, "sigmoid"),
    (MLP, "tanh"),
]


@pytest.mark.parametrize(("kind", "act"), CASES)
def test_the_closed_form_is_as_near_as_least_squares(kind, act):
    module, given = layer(kind, act), measure()
    x = given.sample(100_000, 1)
    found = approximate(module, given, data=x)
    assert found.unexplained is not None
    truth = unexplained_by_least_squares(module, x)
    assert float(found.unexplained.value) == pytest.approx(truth, abs=0.002)
    assert truth > 0.01  # there is something to miss


@pytest.mark.parametrize("act", ["relu", "gelu", "silu"])
def test_a_plain_layer_on_standard_inputs_has_the_dense_coefficients(act):
    """½ Σ_h D_oh E[act″(a_h)] g_h g_hᵀ, E[act″] by scipy, as a cube."""
    module = layer(MLP, act)
    standard = Gaussian(torch.zeros(INPUTS).double(), torch.eye(INPUTS).double())
    found = approximate(module, standard).tensor
    z = np.linspace(-12, 12, 400_001)
    curve = []
    for row, bias in zip(module.up_proj.weight.tolist(), module.up_proj.bias.tolist(), strict=True):
        s = math.sqrt(sum(w * w for w in row))
        with torch.no_grad():
            value = bilens.nn.ACTIVATIONS[act](torch.tensor(bias + s * z)).numpy()
        curve.append(np.trapezoid(value * (z**2 - 1) * stats.norm.pdf(z), z) / s**2)
    weight, out = module.up_proj.weight.detach(), module.down_proj.weight.detach()
    truth = torch.einsum("oh,hi,hj->oij", out * torch.tensor(curve) / 2, weight, weight)
    cube = found.dense()[:, 1:, 1:]
    assert float((cube + cube.mT - 2 * truth).abs().max()) < 1e-6


@pytest.mark.parametrize(("kind", "act"), [(GatedMLP, "linear"), (MLP, "square"), (MLP, "linear")])
@pytest.mark.parametrize("bias", [True, False])
def test_what_is_quadratic_is_its_own_nearest(kind, act, bias):
    module, given = layer(kind, act, bias), measure()
    x = given.sample(50)
    for fit, data in (("closed", None), ("units", x), ("output", given.sample(2000, 3))):
        found = approximate(module, given, fit, data)
        with torch.no_grad():
            size = float(module(x).abs().max())
            assert float((found.tensor(found.tensor.read(x)) - module(x)).abs().max()) < 1e-6 * size
        assert float(found.error(x).abs().max()) < 1e-6 * size


@pytest.mark.parametrize(("kind", "act"), [(GatedMLP, "silu"), (MLP, "gelu")])
def test_units_are_fitted_by_least_squares(kind, act):
    """Unit by unit with numpy, on the samples that the fit sees; measured on the others."""
    module, given = layer(kind, act), measure()
    x = given.sample(1000, 2)
    found = approximate(module, given, "units", x)
    kept = torch.arange(1000) % 5 == 4
    hidden = module.hidden().detach()
    truth, shares = [], []
    for unit in range(UNITS):
        a = x @ hidden.weight[unit] + hidden.weight_bias[unit]
        b = None if hidden.up is None else x @ hidden.up[unit] + hidden.up_bias[unit]
        columns = [torch.ones_like(a), a, a * a] + ([] if b is None else [b, a * b])
        features, value = torch.stack(columns, 1).numpy(), hidden(x)[:, unit].numpy()
        weights = np.linalg.lstsq(features[~kept], value[~kept], rcond=None)[0]
        truth.append(features @ weights)
        rest = value[kept] - truth[-1][kept]
        shares.append((rest**2).sum() / ((value[kept] - value[kept].mean()) ** 2).sum())
    says = torch.tensor(np.stack(truth, 1)) @ hidden.out.mT + hidden.bias
    off = (found.tensor(found.tensor.read(x)) - says).abs().max()
    assert float(off) < 1e-6 * float(says.abs().max())
    assert found.units.tolist() == pytest.approx(shares, rel=1e-5)
    with torch.no_grad():
        error = (module(x) - says)[kept].square().sum(-1)
        spread = (module(x)[kept] - module(x)[kept].mean(0)).square().sum()
    assert found.tokens.tolist() == pytest.approx((error / spread).tolist(), rel=1e-4, abs=1e-12)
    assert float(found.unexplained.value) == pytest.approx(float(error.sum() / spread), rel=1e-6)


@torch.no_grad()
def test_samples_count_by_their_weights_and_processes_add_up():
    """Of whole weights, as if each sample were there so many times."""
    module, given = layer(GatedMLP, "silu"), measure()
    x, times = given.sample(400, 2), torch.arange(400) % 4
    batches = list(zip(x.split(90), times.double().split(90), strict=True))
    found = tensor_by_units(module.hidden(), given, batches)
    repeated = x.repeat_interleave(times, 0)
    weighed = tensor_by_units(module.hidden(), given, [(repeated, torch.ones(len(repeated)))])
    half = [(x, weights / 2) for x, weights in batches]
    shared = tensor_by_units(module.hidden(), given, half, lambda own: 2 * own)
    for other in (weighed, shared):
        for name, factor in other.factors().items():
            torch.testing.assert_close(factor, found.factors()[name], atol=1e-7, rtol=1e-7)
    alike = tensor_by_units(module.hidden(), given, [(x, torch.ones(400))])
    assert float((alike.right - found.right).abs().max()) > 1e-3


def test_the_output_is_fitted_by_least_squares():
    module, given = layer(GatedMLP, "silu"), measure()
    x = given.sample(2000, 2)
    near, found = approximate(module, given), approximate(module, given, "output", x)
    kept = torch.arange(2000) % 5 == 4
    size = INPUTS + 1
    ones = torch.cat([torch.ones(2000, 1).double(), x], 1)
    pairs = (ones @ near.tensor.left[:-size].mT) * (ones @ near.tensor.right[:-size].mT)
    features = torch.cat([pairs, ones], 1)
    with torch.no_grad():
        value = module(x)
    weights = torch.linalg.lstsq(features[~kept], value[~kept]).solution
    off = (found.tensor(found.tensor.read(x)) - features @ weights).abs().max()
    assert float(off) < 1e-5 * float(value.abs().max())
    assert bool(found.units.isnan().all())


@pytest.mark.parametrize(("kind", "act"), CASES)
def test_degrees_add_up_and_say_what_is_unexplained(kind, act):
    module, given = layer(kind, act), measure()
    found = degree_spectrum(module.hidden(), given)
    x = given.sample(200_000, 5)
    with torch.no_grad():
        squares = module(x).square().sum(-1)
    noise = 6 * (float(squares.std() / len(x) ** 0.5) + float(found.error))
    assert float(found.powers.sum()) == pytest.approx(float(squares.mean()), abs=noise)
    truth = unexplained_by_least_squares(module, x)
    assert float(found.unexplained) == pytest.approx(truth, rel=0.15)
    assert found.shares[:-1].min() >= 0


def test_the_third_degree_is_that_of_the_cubic():
    """a² b = He_2(a) b + b for a, b standard and independent: degrees 3 and 1, powers 2 and 1."""
    module = GatedMLP(2, 1, act="square").double()
    with torch.no_grad():
        module.gate_proj.weight.copy_(torch.tensor([[1.0, 0.0]]))
        module.up_proj.weight.copy_(torch.tensor([[0.0, 1.0]]))
        module.down_proj.weight.copy_(torch.tensor([[1.0], [0.0]]))
    found = degree_spectrum(module.hidden(), Gaussian(torch.zeros(2), torch.eye(2)))
    assert found.powers[:5].tolist() == pytest.approx([0, 1, 0, 2, 0], abs=1e-12)
    assert float(found.powers[5]) < 5 * float(found.error)


def test_what_a_layer_becomes_later_is_another_layer(refuses):
    of = model("silu")
    near = replaced(of)
    with torch.no_grad():
        of.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-12
    refuses(
        ArgumentError,
        lambda: bilens.expand(of, [1, 2], 3, replacements={"mlp0": near}),
        "must be of this very layer",
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tensor_is_in_the_layers_dtype(dtype):
    module, given = layer(GatedMLP, "silu", dtype=dtype), measure()
    found = approximate(module, given)
    assert found.tensor.dtype == torch.float32
    truth = approximate(module.double(), given).tensor
    x = given.sample(20)
    says = truth(truth.read(x))
    off = found.tensor(found.tensor.read(x.float())).double() - says
    assert float(off.abs().max()) < 1e-5 * float(says.abs().max())


@pytest.mark.bad_input  # by the signature, which says int
def test_degrees_take_a_seed_of_numpy():
    hidden = layer(MLP, "gelu").hidden()
    one, two = (degree_spectrum(hidden, measure(), seed) for seed in (np.int64(3), 3))
    assert torch.equal(one.powers, two.powers)


def test_heavy_tails_are_seen():
    module, given = layer(GatedMLP, "silu"), measure()
    x = given.sample(1000, 4)
    plain = approximate(module, given, data=x).tail()
    x[10] *= 20
    found = approximate(module, given, data=x)
    assert int(found.tokens.argmax()) == 10
    assert found.tail() > 0.9 > plain
    assert "the worst 1 % of them carry" in found.summary()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "words", "how"),
    [
        (ArgumentError, "must be given an MLP; got Linear", {"layer": torch.nn.Linear(2, 2)}),
        (ArgumentError, "measure must be a Gaussian; got int", {"measure": 3}),
        (ArgumentError, "fit must be one of closed, units, output", {"fit": "best"}),
        (ArgumentError, 'data must be given for fit="units"', {"fit": "units"}),
        (ArgumentError, "data must hold at least 10 samples; got 3", {"data": torch.ones(3, 6)}),
        (ArgumentError, "data must be a tensor or a list", {"data": iter([torch.ones(99, 6)])}),
        (ArgumentError, "one output for all", {"data": torch.ones(30, 6)}),
        (ShapeError, "data must be activations (n, 6); got (30, 4)", {"data": torch.ones(30, 4)}),
        (ShapeError, "over the 6 inputs", {"measure": Gaussian(torch.zeros(4), torch.eye(4))}),
        (NotFiniteError, "data", {"data": torch.full((30, 6), torch.nan)}),
    ],
)
def test_what_cannot_be_is_refused(refuses, kind, words, how):
    given = {"layer": layer(GatedMLP, "silu"), "measure": measure()} | how
    refuses(kind, lambda: approximate(**given), words)


@pytest.mark.bad_input
@pytest.mark.parametrize("share", [True, "x", torch.ones(3), torch.ones(0), np.ones(2)])
def test_a_share_that_is_no_number_is_refused(share, refuses):
    near = approximate(layer(MLP, "gelu"), measure(), data=measure().sample(50))
    refuses(ArgumentError, lambda: near.tail(share), "share must be in [0, 1]")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("kind", "words", "how"),
    [
        (ArgumentError, "must be given hidden units; got GatedMLP. Pass layer.hidden().", "layer"),
        (ArgumentError, "measure must be a Gaussian; got int", "measure"),
        (ShapeError, "over the 6 inputs; got 4", "width"),
        (ArgumentError, "seed must be a whole number; got 'a'", "seed"),
    ],
)
def test_degrees_of_what_has_none_are_refused(refuses, kind, words, how):
    given = {"hidden": layer(GatedMLP, "silu").hidden(), "measure": measure()}
    given |= {
        "layer": {"hidden": layer(GatedMLP, "silu")},
        "measure": {"measure": 3},
        "width": {"measure": Gaussian(torch.zeros(4), torch.eye(4))},
        "seed": {"seed": "a"},
    }[how]
    refuses(kind, lambda: degree_spectrum(**given), words)


@pytest.mark.bad_input
@pytest.mark.parametrize("x", [torch.ones(3, 4), torch.ones(3, 7), torch.tensor(1.0), "x"])
def test_an_error_is_at_inputs_of_the_layer(refuses, x):
    found = approximate(layer(GatedMLP, "silu"), measure())
    refuses(ShapeError, lambda: found.error(x), "error must be")


def model(act, gated=True, dtype=torch.float64):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act=act,
        gated=gated,
        mlp_bias=True,
        initializer_range=0.5,
    )
    return bilens.Transformer(config).to(dtype).eval()


def replaced(of, place="mlp0", fit="closed"):
    ids = torch.randint(0, 11, (16, 16), generator=torch.Generator().manual_seed(1))
    x = torch.cat(list(activations(of, [ids], f"{place}.input")))
    mlp = of.model.layers[int(place[-1])].mlp
    return approximate(mlp, Gaussian.from_batches([x]), fit, x)


@pytest.mark.parametrize(("act", "gated"), [("silu", True), ("relu", False), ("linear", True)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sums_stay_exact_with_layers_replaced(act, gated, dtype):
    of = model(act, gated, dtype)
    places = ("mlp0", "mlp1") if act != "linear" else ()
    given = {place: replaced(of, place) for place in places}
    ex = bilens.expand(of, [1, 4, 2], 3, replacements=given, max_terms=400)
    logit = float(of(torch.tensor([[1, 4, 2]])).logits[0, -1, 3])
    largest = max(abs(term.value) for term in ex.terms)
    assert abs(ex.total - logit) < (1e-12 if dtype == torch.float64 else 1e-5) * max(largest, 1.0)
    assert not any(name.startswith("gates") for name in ex.given)
    assert ex.opaque == tuple(f"{place}.error" for place in places)
    errors = [term for term in ex.terms if term.path == "mlp1.error"]
    assert len(errors) == len(places[1:])


def test_a_pair_is_what_the_nearest_tensor_says_of_it():
    of = model("silu")
    near = replaced(of, "mlp1")
    ex = bilens.expand(of, [1, 4], 3, detail="pairs", replacements={"mlp1": near}, cutoff=0)
    kept = {}
    of.model.layers[1].post_attention_layernorm.register_forward_hook(
        lambda module, given, out: kept.update(stream=given[0][0, -1], read=out[0, -1])
    )
    of.model.norm.register_forward_hook(
        lambda module, given, out: kept.update(scale=out[0, -1] / given[0][0, -1])
    )
    of(torch.tensor([[1, 4]]))
    q = of.lm_head.weight[3] * kept["scale"]
    x = of.model.embed_tokens.weight[4] * (kept["read"] / kept["stream"])
    x = torch.cat([x.new_zeros(1), x])
    says = float(q @ near.tensor(x))
    (term,) = [term for term in ex.terms if term.path == "mlp1(embed, embed)"]
    assert term.value == pytest.approx(says, rel=1e-10)


def test_the_result_feeds_every_verb_and_is_saved(tmp_path):
    found = replaced(model("silu"))
    assert eigen(found.tensor, k=2).values.shape == (8, 2)
    found.save(tmp_path / "near.safetensors")
    back = Approximation.load(tmp_path / "near.safetensors")
    assert back.summary() == found.summary()
    assert bilens.expand(model("silu"), [1, 2], 3, replacements={"mlp0": back}).error < 1e-12
    assert len(found.to_frame()) == 12
    assert found.plot().data
    assert found.degrees.plot().data


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("mlp5", False, "replacements must name layers (mlp0, mlp1); got 'mlp5'"),
        ("attn0", False, "replacements must name layers (mlp0, mlp1); got 'attn0'"),
        ("mlp1", False, "the replacement of mlp1 must be of this very layer; got another's"),
        (
            "mlp0",
            True,
            "the replacement of mlp0 must be what approximate() gave, a CP, a bilinear layer",
        ),
    ],
)
def test_replacements_that_cannot_be_are_refused(refuses, name, other, words):
    of = model("silu")
    given = {name: 3 if other else replaced(of)}
    refuses(ArgumentError, lambda: bilens.expand(of, [1, 2], 3, replacements=given), words)


def test_nothing_of_a_cube_is_made():
    """Counted in numbers held: far below i³ and h²."""
    wide, hidden = 96, 512
    module = GatedMLP(wide, hidden).double()
    given = Gaussian(torch.zeros(wide).double(), torch.eye(wide).double())
    found = approximate(module, given)
    sizes = [t.numel() for t in found.tensor.factors().values()]
    assert max(sizes) < 2 * (hidden + wide + 1) * (wide + 1) < wide**3
    assert list(itertools.chain(found.tensor.shape)) == [wide, wide + 1, wide + 1]


def test_the_tail_of_errors_that_are_alike_is_its_share():
    layer = bilens.nn.MLP(1, 1, act="relu").double()
    with torch.no_grad():
        layer.up_proj.weight.fill_(1.0)
        layer.down_proj.weight.fill_(1.0)
    x = torch.tensor([[1.0], [-1.0]]).double().repeat(5, 1)
    near = bilens.approximate(layer, Gaussian(torch.zeros(1), torch.eye(1)), data=x)
    shares = [0.0, 0.01, 0.25, 1.0]
    assert [near.tail(share) for share in shares] == pytest.approx(shares)
    uneven = replace(near, tokens=torch.tensor([3.0, 1.0, 0.0, 0.0]).double())
    assert [uneven.tail(n) for n in (0.25, 0.5, 0.125)] == pytest.approx([0.75, 1.0, 0.375])
    for share in (-0.1, 1.1, math.nan, "a"):
        with pytest.raises(ArgumentError, match="share must be in"):
            near.tail(share)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_every_fifth_sample_is_kept_apart_however_they_are_cut(size):
    torch.manual_seed(0)
    layer, x = bilens.nn.MLP(4, 6, act="gelu").double(), torch.randn(200, 4).double()
    measure = Gaussian.from_batches([x])
    whole = bilens.approximate(layer, measure, "units", x)
    cut = bilens.approximate(layer, measure, "units", list(x.split(size)))
    assert whole.unexplained.count == cut.unexplained.count == 40
    torch.testing.assert_close(cut.tokens, whole.tokens, atol=1e-9, rtol=1e-6)


def test_shares_by_degree_say_how_far_they_may_be_off():
    """Of one tanh unit under N(0, 1), against a rule of 400 nodes."""
    layer = bilens.nn.MLP(1, 1, act="tanh").double()
    with torch.no_grad():
        layer.up_proj.weight.fill_(1.0)
        layer.down_proj.weight.fill_(1.0)
    found = bilens.approximate(layer, Gaussian(torch.zeros(1), torch.eye(1))).degrees
    z, w = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(180))
    w = w / w.sum()
    truth = float((torch.tanh(z) * z * w).sum() ** 2 / (torch.tanh(z).square() * w).sum())
    row = found.rows()[1]
    assert row["standard error"] > 0
    assert abs(row["share"] - truth) < 4 * row["standard error"]
    assert found.quadrature < 1e-6
    with torch.no_grad():
        layer.up_proj.weight.fill_(1000.0)
    near = bilens.approximate(layer, Gaussian(torch.zeros(1), torch.eye(1)))
    assert near.degrees.quadrature > 1e-4
    for steep in (near, near.degrees):
        assert "by a rule that is off by" in steep.summary()
    fitted = bilens.approximate(layer, near.measure, "units", torch.randn(50, 1))
    assert "by a rule" not in fitted.summary()  # which is by none


@pytest.mark.parametrize("act", ["relu", "silu"])
def test_a_unit_that_reads_off_the_support_has_no_slope(act):
    """Its variance is 0, of which rounding leaves something or nothing: a slope of millions."""
    generator = torch.Generator().manual_seed(0)
    mix, other = (torch.randn(6, 3, generator=generator).double() for _ in range(2))
    off = torch.linalg.qr(torch.cat([mix, other], 1)).Q[:, 3:].mT
    for plain in (True, False):
        layer = (MLP if plain else GatedMLP)(6, 3, act=act).double()
        with torch.no_grad():
            (layer.up_proj if plain else layer.gate_proj).weight.copy_(off)
        found = approximate(layer, Gaussian(torch.zeros(6).double(), mix @ mix.mT))
        assert float(found.tensor.norm()) < 1e-9


def test_a_unit_that_does_not_move_has_no_share():
    """A relu that is off at every sample, and not under the Gaussian."""
    layer = MLP(4, 8, act="relu", bias=True).double()
    with torch.no_grad():
        layer.up_proj.bias.copy_(torch.linspace(-9, 9, 8))
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(1)).double().clamp(-1, 1)
    wide = Gaussian(torch.zeros(4).double(), 30 * torch.eye(4).double())
    shares = approximate(layer, wide, data=[x[:0], x]).units
    dead = (x @ layer.up_proj.weight.mT + layer.up_proj.bias <= 0).all(0)
    assert shares.isnan().tolist() == dead.tolist()
    assert 2 < int(dead.sum()) < 6


def test_degrees_of_nothing_are_0():
    layer, g = GatedMLP(4, 3, act="silu").double(), Gaussian(torch.ones(4), torch.zeros(4, 4))
    still = approximate(layer, g).degrees
    assert (float(still.shares[0]), float(still.unexplained)) == (1.0, 0.0)
    with torch.no_grad():
        layer.down_proj.weight.zero_()
    nothing = approximate(layer, g).degrees
    assert not nothing.shares.any()
    assert not nothing.to_frame()[["share", "standard error"]].to_numpy().any()

"""What changed between checkpoints, against dense cubes, sampling, and changes that are known."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from transformers import MistralConfig, MistralForCausalLM

import bilens
from bilens.base.errors import ArgumentError, FileError, ShapeError
from bilens.changes import Diff
from bilens.changes.functions import Maps, Modules, Scores, Tables, Tensors
from bilens.changes.reads import Counts, Vectors
from bilens.changes.turning import mean_angle, turned
from bilens.features import Dictionary
from bilens.measure import Gaussian
from bilens.nn import Leg, rotate

TINY = {
    "vocab_size": 30, "hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 16,
}  # fmt: skip
IDS = torch.arange(120).reshape(10, 12) ** 2 * 7 % 30  # some tokens more often than others


def language(seed=0, **changes):
    """A tiny model in float64, its norms other than 1."""
    torch.manual_seed(seed)
    model = bilens.Transformer(
        bilens.TransformerConfig(**TINY | {"initializer_range": 0.3} | changes)
    )
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:
            nn.init.uniform_(weight, 0.5, 1.5)
    return model.double().eval()


def classifier(seed=0, **changes):
    torch.manual_seed(seed)
    config = {"input_shape": [2, 3], "hidden_size": 7, "id2label": dict(enumerate("abcd"))}
    return bilens.Classifier(bilens.ClassifierConfig(**config | changes)).double().eval()


def changed(model, change):
    """A copy of ``model`` in which ``change`` has been made."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        change(other)
    return other


def by_place(found):
    return {row["place"]: row for row in found.rows()}


def cosine(one, two):
    one, two = one.detach(), two.detach()
    return float((one * two).sum() / one.norm() / two.norm())


# Which changed, and by how much.


@pytest.mark.parametrize(
    "more",
    [{}, {"num_hidden_layers": 2, "residual": True, "bias": True}],
    ids=["one layer", "two, residual, biases"],
)
def test_the_class_whose_row_changed_is_named(more):
    A = classifier(**more)
    B = changed(A, lambda model: model.head.weight[2].mul_(-1.5).add_(0.3))
    for data in (None, (torch.rand(40, 2, 3, dtype=torch.float64), torch.arange(40) % 4)):
        found = bilens.diff(A, B, data=data)
        classes = found.items[0].to_frame().set_index("class")["change"]
        assert classes.idxmax() == "c"
        assert (classes.drop("c") == 0).all()


def test_a_classifier_against_the_dense_symmetrised_cube(cube):
    A, B = classifier(bias=True, residual=True), classifier(1, bias=True, residual=True)
    S, R = ((c + c.mT) / 2 for c in (cube(model.tensor()) for model in (A, B)))
    row = by_place(bilens.diff(A, B))["whole"]
    assert row["similarity"] == pytest.approx(cosine(S, R), abs=1e-12)
    mean = ((S.norm() ** 2 + R.norm() ** 2) / 2) ** 0.5
    assert row["change"] == pytest.approx(float((S - R).norm() / mean), abs=1e-12)
    assert row["growth"] == pytest.approx(float(R.norm() / S.norm()), rel=1e-12)
    each = bilens.diff(A, B).items[0].to_frame().set_index("class")["similarity"]
    assert each["b"] == pytest.approx(cosine(S[1], R[1]), abs=1e-12)


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_layers_and_heads_against_dense_weights(norm, cube):
    both = [language(seed, norm=norm, attention_bias=True, mlp_bias=True) for seed in (0, 1)]
    found = by_place(bilens.diff(*both))
    cubes, values = [], []
    for model in both:
        block, centre = model.model.layers[1], torch.eye(8).double()
        if norm == "layer":
            centre = centre - 1 / 8
        mlp, attention = block.post_attention_layernorm, block.input_layernorm
        onto = torch.eye(9, dtype=torch.float64)
        onto[1:, 1:] = mlp.weight[:, None] * centre  # N(x) = σ P x + c, on (1, σ x)
        onto[1:, 0] = 0 if norm == "rms" else mlp.bias
        T = torch.einsum("oij,ik,jl->okl", cube(block.mlp.tensor()), onto, onto)
        cubes.append((T + T.mT) / 2)
        shift = torch.zeros(8).double() if norm == "rms" else attention.bias
        W_V, b_V = block.self_attn.v_proj.weight[4:], block.self_attn.v_proj.bias[4:]
        reads = torch.cat([(W_V @ shift + b_V)[:, None], W_V * attention.weight @ centre], 1)
        values.append(block.self_attn.o_proj.weight[:, 4:] @ reads)
    assert found["mlp1"]["similarity"] == pytest.approx(cosine(*cubes), abs=1e-12)
    assert found["L1H1 OV"]["similarity"] == pytest.approx(cosine(*values), abs=1e-12)
    rows = [model.model.embed_tokens.weight for model in both]
    assert found["embed"]["similarity"] == pytest.approx(cosine(*rows), abs=1e-12)


def test_scores_of_turning_heads_are_held_against_one_another_over_all_offsets(make):
    """An average over many offsets, and random vectors, of the scores themselves."""
    turning, width, n = 4, 6, 4000
    both = [(make.randn(6, width), make.randn(6, width)) for _ in range(2)]
    place = Scores("", "", *([Leg(w) for w in side] for side in zip(*both, strict=True)), turning)
    got = place.products([(0, 1), (0, 0)])[0]
    turns = (
        torch.arange(n, dtype=torch.float64)[:, None, None] * torch.tensor([1.1, 0.37] * 2).double()
    ).expand(n, 6, 4)
    forms = [rotate(q.mT.expand(n, -1, -1), turns.cos(), turns.sin()) @ k for q, k in both]
    total = torch.stack([(forms[0] * forms[1]).sum(), (forms[0] ** 2).sum()])
    scale = float(got[1])
    assert got.tolist() == pytest.approx((total / n).tolist(), abs=2e-3 * scale)


# Gauges.


def _gauge(model):
    """Other weights of the same functions."""
    for block in model.model.layers:
        mlp, heads, order = block.mlp, block.self_attn, torch.randperm(10)
        a, b = torch.rand(2, 10, 1, dtype=torch.float64) + 0.5
        left, right = mlp.gate_proj.weight[order] * a, mlp.up_proj.weight[order] * b
        mlp.gate_proj.weight.copy_(right)
        mlp.up_proj.weight.copy_(left)
        mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order] / (a * b).mT)
        turn = torch.randn(4, 4, dtype=torch.float64)
        heads.v_proj.weight[:4] = turn @ heads.v_proj.weight[:4]
        heads.o_proj.weight[:, :4] = heads.o_proj.weight[:, :4] @ turn.inverse()
        angle = torch.tensor(0.7, dtype=torch.float64)  # of dimensions 0 and 2, which turn together
        for side in (heads.q_proj, heads.k_proj):
            first, second = side.weight[0].clone(), side.weight[2].clone()
            side.weight[0] = angle.cos() * first - angle.sin() * second
            side.weight[2] = angle.sin() * first + angle.cos() * second
        scale = torch.rand(8, dtype=torch.float64) + 0.5  # between the norm and what reads it
        block.post_attention_layernorm.weight.mul_(scale)
        for side in (mlp.gate_proj, mlp.up_proj):
            side.weight.div_(scale)


def test_gauges_are_no_change():
    A = language()
    B = changed(A, _gauge)
    assert not torch.equal(A.W_Q, B.W_Q)
    assert not torch.equal(A.W_out, B.W_out)
    found = bilens.diff(A, B, data=IDS)
    for row in found.rows():
        assert (row["change"], row["similarity"]) == (0, pytest.approx(1, abs=1e-12)), row
        assert min(row["by weights"], row["at ε = 1"]) == pytest.approx(1, abs=1e-12)
    assert found.turned[~found.turned.isnan()].tolist() == pytest.approx([0, 0], abs=1e-5)
    assert found.loss.whole == pytest.approx(0, abs=1e-12)
    assert found.warnings == ()


def test_units_of_a_layer_that_is_no_tensor_may_be_permuted():
    A = language(hidden_act="silu")

    def permute(model):
        mlp, order = model.model.layers[0].mlp, torch.randperm(10)
        for side in (mlp.gate_proj, mlp.up_proj):
            side.weight.copy_(side.weight[order])
        mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order])
        model.model.layers[1].mlp.down_proj.weight[0].neg_()

    found = bilens.diff(A, changed(A, permute), data=IDS)
    rows = by_place(found)
    assert rows["mlp0"]["change"] == 0
    assert rows["mlp0"]["±"] == pytest.approx(0, abs=1e-9)
    assert rows["mlp1"]["change"] > 0.1 > rows["mlp1"]["±"] > 0
    assert rows["embed"]["±"] is None
    assert "mlp0, mlp1: compared by what is written" in found.warnings[-1]
    assert found.angles == {}


def test_a_norms_shift_may_lie_in_the_biases_of_what_reads_it():
    A = language(hidden_act="silu", norm="layer", mlp_bias=True, num_hidden_layers=1)

    def move(model):
        block = model.model.layers[0]
        shift = block.post_attention_layernorm.bias
        for side in (block.mlp.gate_proj, block.mlp.up_proj):
            side.bias += side.weight @ shift
        shift.zero_()

    assert by_place(bilens.diff(A, changed(A, move)))["mlp0"]["change"] == 0


@pytest.mark.parametrize("data", [None, IDS])
@pytest.mark.parametrize(
    "given",
    [
        {"norm": "layer"},
        {"attention_bias": True, "mlp_bias": True, "head_bias": True},
        {"norm": "layer", "gated": False, "hidden_act": "square", "mlp_bias": True},
        {"attention": "bilinear", "attention_bias": True, "hidden_act": "silu", "mlp_bias": True},
    ],
)
def test_biases_that_training_has_moved_from_zero_are_compared(given, data):
    """As a model at its start has them: the figures are those of biases next to 0."""

    def biases(times, model):
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.mul_(times)

    after = language(**given)
    zero, near = (changed(after, lambda model, t=t: biases(t, model)) for t in (0.0, 1e-9))
    found, truth = (bilens.diff(before, after, data=data) for before in (zero, near))
    assert found.places == truth.places
    torch.testing.assert_close(found.change, truth.change, atol=1e-6, rtol=1e-6)
    assert float(found.change.max()) > 0.05
    assert bilens.diff([zero, near, after], data=data).summary()


@pytest.mark.parametrize(
    "given",
    [
        {"norm": "layer", "attention_bias": True, "mlp_bias": True, "head_bias": True},
        {"attention": "bilinear", "attention_bias": True, "hidden_act": "silu", "mlp_bias": True},
        {"norm_placement": "post", "positions": "learned"},
        {"num_local_experts": 3, "value_mix": True, "residual_mix": True},
    ],
)
def test_every_weight_that_the_outputs_hear_is_of_a_place(given):
    model = language(**given)
    said = model(input_ids=IDS).logits
    for name, _ in model.named_parameters():
        other = changed(model, lambda one, name=name: one.get_parameter(name).mul_(1.5))
        moved = not torch.allclose(other(input_ids=IDS).logits, said, atol=1e-9)
        assert (float(bilens.diff(model, other).change.max()) > 1e-7) == moved, name


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_every_weight_that_the_classes_hear_is_of_a_place(layers, residual):
    model = classifier(num_hidden_layers=layers, residual=residual, bias=True)
    x, labels = torch.rand(20, 6, dtype=torch.float64), torch.arange(20) % 4
    for name, _ in model.named_parameters():
        other = changed(model, lambda one, name=name: one.get_parameter(name).mul_(1.5))
        for data in (None, (x, labels)):
            assert float(bilens.diff(model, other, data=data).change.amax(0)[-1]) > 1e-7, name


@pytest.mark.parametrize("data", [None, IDS])
def test_what_attention_writes_always_is_a_place(data):
    A, B = (language(seed, attention_bias=True) for seed in (0, 1))
    found = by_place(bilens.diff(A, B, data=data))
    one, two = (model.blocks[1].self_attn.o_proj.bias for model in (A, B))
    row = found["attn1.bias"]
    assert row["kind"] == "bias"
    assert row["similarity"] == pytest.approx(cosine(one, two))
    assert row["growth"] == pytest.approx(float((two.norm() / one.norm()).detach()))
    assert "attn0.bias" not in by_place(bilens.diff(language(), language(1)))


def test_the_straight_path_of_a_classifier_has_its_biases():
    given = {"num_hidden_layers": 2, "residual": True, "bias": True}
    A, B = (classifier(seed, **given) for seed in (0, 1))
    x = torch.rand(4000, 6, dtype=torch.float64)
    found = by_place(bilens.diff(A, B, data=(x, torch.zeros(4000, dtype=torch.int64))))
    straight = [model.head(model.embed(x)) for model in (A, B)]
    assert found["direct"]["similarity"] == pytest.approx(cosine(*straight), rel=1e-3)


@pytest.mark.parametrize("name", ["k_proj", "k2_proj"])
def test_each_score_of_a_product_is_a_place(name):
    model = language(attention="bilinear", attention_bias=True, positions="none")
    label = "QK2" if "2" in name else "QK"
    for change in (
        lambda other: getattr(other.blocks[1].self_attn, name).weight[:4].mul_(-3).add_(1),
        lambda other: getattr(other.blocks[1].self_attn, name).bias[:4].add_(1),  # no softmax
    ):
        found = by_place(bilens.diff(model, changed(model, change)))
        moved = {place for place, row in found.items() if row["change"] > 1e-9}
        assert moved == {f"L1H0 {label}"}
    squared = by_place(bilens.diff(*(language(seed, attention="squared") for seed in (0, 1))))
    assert "L0H1 QK" in squared
    assert "L0H1 QK2" not in squared


@pytest.mark.parametrize("positions", ["none", "rope"])
def test_a_bias_of_all_keys_counts_where_keys_turn_alone(positions):
    A = language(positions=positions, attention_bias=True, num_hidden_layers=1)
    B = changed(A, lambda model: model.model.layers[0].self_attn.k_proj.bias.add_(1))
    found = bilens.diff(A, B, data=IDS)
    unseen = positions == "none"
    assert (by_place(found)["L0H0 QK"]["change"] == 0) == unseen
    assert (abs(found.loss.whole) < 1e-12) == unseen


# On data.


@pytest.fixture
def read(make):
    """What is read: a Gaussian with a mean, and rows of it."""
    mix = make.randn(5, 5)
    gaussian = Gaussian(make.randn(5), mix @ mix.mT)
    return Vectors(gaussian, gaussian.sample(1024))


def _places(make):
    """Two functions of each kind, and the same as functions of samples x (and of y, of scores)."""
    T = [make.cp(3, 5, h=4), make.cp(3, 5, h=6)]
    affine = [bilens.CP(t.out, make.randn(t.rank, 6), make.randn(t.rank, 6), True) for t in T]
    legs = [Leg(make.randn(2, 5), make.randn(2)) for _ in range(4)]
    outs = [make.randn(3, 2) for _ in range(2)]
    return {
        "tensors": (Tensors("", "", T), [lambda x, y, t=t: t(x) for t in T]),
        "affine": (Tensors("", "", affine), [lambda x, y, t=t: t(t.read(x)) for t in affine]),
        "maps": (
            Maps("", "", legs[:2], outs),
            [lambda x, y, n=n: legs[n](x) @ outs[n].mT for n in range(2)],
        ),
        "scores": (
            Scores("", "", legs[:2], legs[2:], 0),
            [lambda x, y, n=n: (legs[n](x) * legs[n + 2](y)).sum(1)[:, None] for n in range(2)],
        ),
    }


@pytest.mark.parametrize("kind", ["tensors", "affine", "maps", "scores"])
@pytest.mark.parametrize("eps", [0.0, 1.0])
def test_products_on_data_are_averages_over_samples(make, read, kind, eps):
    place, (f, g) = _places(make)[kind]
    measure = read.ridge(eps)
    got = float(place.products([(0, 1)], measure)[0, 0])
    x, y = (measure.gaussian.sample(40_000, seed) for seed in (1, 2))
    products = (f(x, y) * g(x, y)).sum(1)
    assert abs(got - float(products.mean())) < 5 * float(products.std()) / len(x) ** 0.5


def test_ridges_add_the_same_variance_to_rows_and_gaussian(read):
    more = read.ridge(1.0)
    spread = float(read.gaussian.cov.diagonal().mean())
    added = more.gaussian.cov - read.gaussian.cov
    assert torch.allclose(added, spread * torch.eye(5, dtype=torch.float64))
    assert float((more.rows - read.rows).square().mean()) == pytest.approx(spread, rel=0.1)


def test_a_layer_that_is_no_tensor_within_its_errors(make, read):
    weights = [make.randn(3, 5) for _ in range(2)]
    f, g = (lambda x, w=w: torch.tanh(x @ w.mT) for w in weights)
    got = Modules("", "", [f, g], 5).products([(0, 1)])
    x = torch.randn(40_000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    error = float(got[:, 0].std()) * len(got) ** 0.5
    assert abs(float(got.sum()) - float((f(x) * g(x)).sum(1).mean())) < 5 * error
    on_rows = Modules("", "", [f, g], 5).products([(0, 1)], read)
    assert float(on_rows.sum()) == pytest.approx(float((f(read.rows) * g(read.rows)).sum(1).mean()))


def test_embeddings_on_data_count_as_often_as_they_are_read(make):
    tables, ids = [make.randn(4, 3) for _ in range(2)], torch.tensor([0, 0, 2, 3])
    place = Tables("", "", tables)
    got = place.products([(0, 1)], Counts(torch.bincount(ids) / 4.0))
    assert float(got) == pytest.approx(float((tables[0][ids] * tables[1][ids]).sum(1).mean()))


def test_what_layers_read_is_pooled_over_the_checkpoints():
    A, B = language(), language(1)
    found = by_place(bilens.diff(A, B, data=IDS))
    read = []
    for model in (A, B):
        hidden = model(IDS, output_hidden_states=True).hidden_states[0]  # what attn0 reads
        norm = model.model.layers[0].input_layernorm
        read.append((hidden * norm.scale(hidden)).detach().flatten(0, 1))
    moment = torch.cat(read).mT @ torch.cat(read) / (2 * IDS.numel())
    maps = []
    for model in (A, B):
        part = model.model.layers[0]
        W_V = part.self_attn.v_proj.weight[:4] * part.input_layernorm.weight
        maps.append((part.self_attn.o_proj.weight[:, :4] @ W_V).detach())
    inner = lambda one, two: float(((one @ moment) * two).sum())  # noqa: E731
    truth = inner(*maps) / math.sqrt(inner(maps[0], maps[0]) * inner(maps[1], maps[1]))
    rows = [model.model.embed_tokens.weight[IDS] for model in (A, B)]
    assert found["embed"]["similarity"] == pytest.approx(cosine(*rows), abs=1e-12)
    # covariances are over n − 1
    assert found["L0H0 OV"]["similarity"] == pytest.approx(truth, rel=0.01)


def test_a_layer_that_differs_off_the_data_alone_is_warned_of():
    torch.manual_seed(0)
    A = classifier()
    images = torch.rand(60, 2, 3, dtype=torch.float64)
    images[..., 2] = 0  # two pixels that the data never light

    def off(model):
        model.embed.weight[:, [2, 5]] += 3

    B = changed(A, off)
    found = bilens.diff(A, B, data=(images, torch.arange(60) % 4))
    row = by_place(found)["whole"]
    assert row["similarity"] == pytest.approx(1, abs=1e-9)
    assert row["change"] == 0
    assert row["at ε = 1"] < 0.9
    assert "whole: similarity 1.00 on the data, but" in found.warnings[0]
    assert found.loss.whole == pytest.approx(0, abs=1e-9)


def test_losses_are_the_models_own_and_differences_are_paired():
    A, B = language(), language(1)
    found = bilens.diff(A, B, data=IDS)
    loss, tokens = found.loss, found.items[0].to_frame()
    truth = [model(IDS, labels=IDS).loss.item() for model in (A, B)]
    assert loss.means.tolist() == pytest.approx(truth, rel=1e-12)
    assert loss.whole == pytest.approx(truth[1] - truth[0], rel=1e-10)
    assert (loss.unit, loss.count) == ("token", 110)
    each = []
    for model in (A, B):
        logits = model(IDS).logits[:, :-1].flatten(0, 1)
        each.append(nn.functional.cross_entropy(logits, IDS[:, 1:].flatten(), reduction="none"))
    runs = torch.stack([run.sum() for run in (each[1] - each[0]).tensor_split(64)]).detach()
    sizes = torch.tensor([len(run) for run in each[0].tensor_split(64)])
    off = runs - sizes * (truth[1] - truth[0])
    error = float((off.square().sum() * 64 / 63).sqrt()) / 110
    assert loss.whole_error == pytest.approx(error, rel=1e-5)
    assert tokens["contribution"].sum() == pytest.approx(loss.whole, rel=1e-6)
    assert tokens["times"].sum() == 110


def test_padding_is_no_text():
    A, B = language(num_hidden_layers=1), language(1, num_hidden_layers=1)
    mask = torch.ones_like(IDS)
    mask[3, :4] = 0
    padded = bilens.diff(A, B, data={"input_ids": IDS, "attention_mask": mask})
    alone = bilens.diff(A, B, data=[IDS[:3], IDS[3:4, 4:], IDS[4:]])
    assert padded.loss.means.tolist() == pytest.approx(alone.loss.means.tolist(), rel=1e-6)
    for one, two in zip(padded.rows(), alone.rows(), strict=True):
        assert one["similarity"] == pytest.approx(two["similarity"], rel=1e-6)


def test_tokens_by_weights_are_ranked_by_what_they_write():
    A = language()
    B = changed(A, lambda model: model.model.embed_tokens.weight[17].mul_(-1))
    first = bilens.diff(A, B).items[0].rows()[0]
    assert (first["token"], first["similarity"]) == ("17", pytest.approx(-1))
    assert (first["change"], first["embedding"]) == (pytest.approx(2), pytest.approx(2))
    assert first["unembedding"] == 0
    both, direct = (A, language(1)), []
    for model in both:
        direct.append(model.W_E[5] * model.model.norm.weight @ model.W_U)
    rows = bilens.diff(*both).items[0].to_frame().set_index("token")
    assert rows.loc["5", "similarity"] == pytest.approx(cosine(*direct))
    assert rows.loc["5", "size"] == pytest.approx((direct[1].norm() / direct[0].norm()).item())


# Features.


def test_features_by_firing_and_by_weights(make, cube):
    A, B = language(), language(1)
    D = Dictionary(make.randn(8, 5), make.randn(5, 8), make.randn(5), make.randn(8))
    given = {"layers.1.mlp.input": D}
    found = bilens.diff(A, B, data=IDS, dictionaries=given).items[1].to_frame().set_index("feature")
    reads = [next(iter(bilens.models.activations(model, [IDS], "mlp1.input"))) for model in (A, B)]
    before, after = map(D.encode, reads)
    moved = (after - before)[:, 3].square().mean().sqrt() * D.W_dec[3].norm()
    row = found.loc["mlp1.input.f3"]
    assert row["moved"] == pytest.approx(float(moved))
    assert row["fires after"] == pytest.approx(float((after[:, 3] > 0).double().mean()))
    weights = bilens.diff(A, B, dictionaries=given).items[1].to_frame().set_index("feature")
    cubes = [cube(model.model.layers[1].mlp.tensor()) for model in (A, B)]
    slices = [torch.einsum("oij,i->oj", (c + c.mT) / 2, D.W_dec[3]) for c in cubes]
    assert weights.loc["mlp1.input.f3", "similarity"] == pytest.approx(cosine(*slices))
    outside = bilens.diff(A, B, dictionaries={"mlp1.output": D}).items[1].to_frame()
    slices = [torch.einsum("oij,o->ij", (c + c.mT) / 2, D.reads[3]) for c in cubes]
    got = outside.set_index("feature").loc["mlp1.output.f3", "similarity"]
    assert got == pytest.approx(cosine(*slices))


# Eigenvectors.


def test_eigenvectors_turn_by_the_angle_they_are_turned_by():
    """A classifier whose pixels 0 and 1 are turned by 30° has all its eigenvectors turned so far
    in that plane; here two classes have their only eigenvector in it."""
    A = classifier(input_shape=[3], hidden_size=2, id2label={0: "a", 1: "b"})
    with torch.no_grad():
        A.embed.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        for side in (A.layers[0].w1, A.layers[0].w2):
            side.weight.copy_(torch.eye(2))
        A.head.weight.copy_(torch.diag(torch.tensor([2.0, 3.0])))
    angle = math.radians(30)
    turn = torch.tensor(
        [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0]],
        dtype=torch.float64,
    )
    B = changed(A, lambda model: model.embed.weight.copy_(turn))
    found = bilens.diff(A, B)
    assert by_place(found)["whole"]["turned (°)"] == pytest.approx(30, abs=1e-9)
    assert found.angles["whole"].labels == ("a", "b")


def test_the_mean_angle_is_weighed_by_squared_eigenvalues():
    values, basis = torch.tensor([[5.0, 3.0, 1.0]]).double(), torch.eye(3).double()
    turn, angle = torch.eye(3).double(), 0.3
    turn[[0, 2], [0, 2]] = math.cos(angle)
    turn[0, 2], turn[2, 0] = math.sin(angle), -math.sin(angle)
    one, two = bilens.CP(values, basis, basis), bilens.CP(values, turn, turn)
    found = mean_angle(turned(one, two))
    assert found == pytest.approx(math.degrees(angle) * (25 + 1) / (25 + 9 + 1))


# Series, folders, and what cannot be.


@pytest.fixture
def series(tmp_path):
    """A run's folder, with checkpoints by step: 2, 4, 10 and 20, moving fast up to 10."""
    A, B = classifier(), classifier(1)
    for step, share in ((2, 0.0), (4, 0.4), (10, 0.9), (20, 1.0)):
        made = changed(A, lambda model, s=share: model.embed.weight.lerp_(B.embed.weight, s))
        made.save_pretrained(tmp_path / "run" / "checkpoints" / f"checkpoint-{step}")
    return tmp_path / "run"


def test_a_series_has_a_curve_and_its_phases(series):
    data = (torch.rand(40, 2, 3), torch.arange(40) % 4)
    found = bilens.diff(series, data=data)
    assert found.steps == (2, 4, 10, 20)
    assert found.numbered
    assert found.checkpoints == tuple(f"checkpoint-{n}" for n in found.steps)
    pairs = [bilens.diff(series / "checkpoints" / name, series / "checkpoints/checkpoint-20")
             for name in found.checkpoints[:3]]  # fmt: skip
    by_weights = bilens.diff(series)
    truth = [by_place(pair)["whole"]["similarity"] for pair in pairs]
    assert by_weights.to_last[0].tolist() == pytest.approx([*truth, 1])
    moved = [abs(b - a) for a, b in zip([*truth], [*truth[1:], 1], strict=True)]
    rates = [m / s for m, s in zip(moved, (2, 6, 10), strict=True)]
    fast = [n for n, rate in enumerate(rates) if rate > sum(moved) / 18]
    assert fast == [0, 1]
    assert moved[0] < sum(moved) / 3  # per step it is fast, and not by itself
    (phase,) = [one for one in by_weights.phases if one.curve == "similarity to the last"]
    assert (phase.first, phase.last) == (0, 2)
    assert phase.share == pytest.approx(sum(moved[:2]) / sum(moved))
    assert phase.steps == pytest.approx(8 / 18)
    assert found.loss.differences.sum() == pytest.approx(found.loss.whole)
    assert found.rows()[1]["phase"]
    assert found.whole.checkpoints == ("checkpoint-2", "checkpoint-20")


def test_results_are_saved_shown_and_drawn(series, tmp_path):
    for found in (bilens.diff(series), bilens.diff(language(), language(1), data=IDS[:2])):
        found.save(tmp_path / "x")
        again = type(found).load(tmp_path / "x")
        assert again.rows() == found.rows()
        assert repr(again) == repr(found)
        whole = found if isinstance(found, Diff) else found.whole
        assert whole.items[0].summary() in repr(found)
        assert "<table" in found._repr_html_()
        assert found.plot().layout.title.text
        assert tuple(found.to_frame()) == found.columns()


def test_a_place_that_is_zero_has_no_similarity():
    A = language()
    B = changed(A, lambda model: model.model.layers[0].mlp.down_proj.weight.zero_())
    row = by_place(bilens.diff(B, A, data=IDS))["mlp0"]
    assert row["change"] == pytest.approx(2**0.5)
    assert math.isnan(row["similarity"])
    assert row["turned (°)"] is None


def coder_of(make, d=8, **more):
    f = 5
    fields = {"hook": "layers.1.mlp.input"} | more
    return Dictionary(make.randn(d, f), make.randn(f, d), make.randn(f), make.randn(d), **fields)


def test_half_dictionaries_and_transcoders_by_firing(make):
    """In what the models are read in, in which a half type is exact."""
    A, B = language(), language(1)
    D = coder_of(make, architecture="transcoder", hook_out="layers.1.mlp.output")
    D = D.to(torch.bfloat16)
    reads = [next(iter(bilens.models.activations(model, [IDS], "mlp1.input"))) for model in (A, B)]
    W_enc, b_enc, W_dec = D.W_enc.double(), D.b_enc.double(), D.W_dec.double()
    before, after = ((x.double() @ W_enc + b_enc).relu() for x in reads)
    moved = (after - before).square().mean(0).sqrt() * W_dec.norm(dim=1)
    found = bilens.diff(A, B, data=IDS, dictionaries={"mlp1.input": D}).items[1]
    found = found.to_frame().set_index("feature")
    for f in range(5):
        assert found.loc[f"mlp1.input.f{f}", "moved"] == pytest.approx(float(moved[f]), rel=1e-9)


@pytest.mark.bad_input
@pytest.mark.parametrize("data", [None, IDS], ids=["by weights", "on data"])
def test_dictionaries_of_something_else_are_refused(data, make, refuses):
    A, B = language(), language(1)
    both = {"architecture": "transcoder", "hook_out": "layers.1.mlp.output"}
    cases = [
        ({"mlp1.input": coder_of(make, 7)}, ShapeError, "read mlp1.input of width 8; got"),
        ({"mlp0.input": coder_of(make)}, ArgumentError, "the dictionary at mlp0.input must read"),
        ({"mlp1.input": 3}, ArgumentError, "at mlp1.input must be a Dictionary; got int."),
        ([coder_of(make)], ArgumentError, "dictionaries must map places to dictionaries"),
    ]
    if data is None:
        told = "write what it reads, by weights; got a transcoder. With data= its latents"
        cases.append(({"mlp1.input": coder_of(make, **both)}, ArgumentError, told))
    for given, kind, text in cases:
        call = lambda given=given: bilens.diff(A, B, data=data, dictionaries=given)  # noqa: E731
        refuses(kind, call, text)
    named = {"mlp0.input": coder_of(make, hook="blocks.0.ln2.hook_normalized")}
    assert bilens.diff(A, B, data=data, dictionaries=named).items[1].place == "mlp0.input"


@pytest.mark.bad_input
def test_what_cannot_be_compared(refuses, tmp_path):
    A = language()
    A.save_pretrained(tmp_path / "a")
    classifier().save_pretrained(tmp_path / "c")
    for name, more in (("b", {"hidden_size": 16}), ("v", {"vocab_size": 31})):
        other = language(1, **more)
        nn.init.constant_(other.lm_head.weight, math.nan)  # would be refused where it is read
        other.save_pretrained(tmp_path / name)
    cases = (
        ("b", "checkpoint b must have hidden_size 8 as a has; got 16"),
        ("v", "checkpoint v must have vocab_size 30 as a has; got 31"),
        ("c", "checkpoint c must be a Transformer as a is; got a Classifier"),
    )
    for name, says in cases:
        refuses(ArgumentError, lambda n=name: bilens.diff(tmp_path / "a", tmp_path / n), says)
    torch.nn.init.constant_(A.lm_head.weight, math.nan)
    A.save_pretrained(tmp_path / "nan")
    both = [tmp_path / name for name in ("a", "nan")]
    refuses(FileError, lambda: bilens.diff(*both, data="no.txt"), "no.txt must be")
    D = Dictionary.load("tinystories-2l/mlp1.input")
    both = [classifier(), classifier()]
    leave = "dictionaries must be left out for classifiers"
    refuses(ArgumentError, lambda: bilens.diff(*both, dictionaries={"mlp0.input": D}), leave)
    twice = {"mlp0.input": D, "layers.0.mlp.input": D}
    one = "dictionaries must be one for each place"
    refuses(ArgumentError, lambda: bilens.diff(A, language(), dictionaries=twice), one)
    two = "must be given two checkpoints or more"
    refuses(ArgumentError, lambda: bilens.diff(A), two)
    refuses(ArgumentError, lambda: bilens.diff([]), two)
    refuses(ArgumentError, lambda: bilens.diff(tmp_path / "a"), two)
    refuses(FileError, lambda: bilens.diff(A, tmp_path / "none"), "nothing there")
    refuses(ArgumentError, lambda: bilens.diff(A, 3), "must be bilens models, folders")
    refuses(ArgumentError, lambda: bilens.diff(A, A, data=3), "data must be a source")
    refuses(ArgumentError, lambda: bilens.diff(A, A, data=IDS[:, :1]), "a text of two tokens")


def test_other_words_are_refused():
    A, B = bilens.load("tinystories-2l"), bilens.load("tinystories-2l")
    B.tokenizer = copy.deepcopy(A.tokenizer)
    B.tokenizer.add_tokens(["<new>"])
    with pytest.raises(ArgumentError, match="checkpoint B must have the vocabulary of A"):
        bilens.diff(A, B)


def test_a_model_in_training_is_compared_as_it_evaluates():
    A = classifier(input_noise=5.0).train()
    data = (torch.rand(20, 2, 3, dtype=torch.float64), torch.arange(20) % 4)
    assert bilens.diff(A, copy.deepcopy(A), data=data).loss.whole == 0
    assert A.training


def test_what_did_not_change_is_not_said_to_have_changed():
    model = bilens.load("tinystories-2l")
    found = bilens.diff(model, model)
    assert "no change by weights" in found.summary()
    assert "changed most" not in repr(found)
    assert [items.summary() for items in found.items] == ["tokens, by change: none"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rope_theta": 100.0}, "rope_parameters is"),
        ({"rms_norm_eps": 0.5}, "rms_norm_eps is 1e-06 in the first and 0.5 in the second"),
        ({"sliding_window": 3}, "sliding_windows is"),
    ],
)
def test_configurations_that_differ_are_said(given, says):
    """The same weights are another function by them, which no place shows."""
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1}
    models = []
    for more in ({}, given):
        torch.manual_seed(0)
        config = MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, **more)
        models.append(bilens.models.from_transformers(MistralForCausalLM(config)))
    found = bilens.diff(*models)
    assert says in " ".join(found.warnings)
    assert "no change of places by weights" in found.summary()
    assert says in repr(found)
    same = bilens.diff(models[0], models[0])
    assert same.unseen == ()


def test_sizes_that_norms_divide_out_are_said():
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1}
    config = bilens.TransformerConfig(**sizes, num_attention_heads=2, qk_norm=True)
    model = bilens.Transformer(config)
    assert "queries and keys are normed" in " ".join(bilens.diff(model, model).warnings)
    config = bilens.TransformerConfig(**sizes, num_attention_heads=2, norm_placement="both")
    model = bilens.Transformer(config)
    assert "what parts write is normed" in " ".join(bilens.diff(model, model).warnings)


def test_a_dictionary_of_another_model_is_told(make):
    A, B = language(), language(1)
    A.name_or_path, B.name_or_path = "run/checkpoints/checkpoint-1", "run"
    D = Dictionary(make.randn(8, 5), make.randn(5, 8), make.randn(5), make.randn(8))
    for name, told in (("gpt2-small", True), ("run", False), ("", False)):
        made = dataclasses.replace(D, meta={"metadata": {"model_name": name}} if name else {})
        warnings = bilens.diff(A, B, dictionaries={"mlp0.input": made}).warnings
        assert told == any("mlp0.input: the dictionary says that it was" in w for w in warnings)

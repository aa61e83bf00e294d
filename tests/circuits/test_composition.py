"""Composition strengths: against dense products by TransformerLens's formula, and chance against
Monte Carlo.
"""

import math

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError, NotFiniteError
from bilens.circuits import Composition, composition

D = 6


def transformer(seed=0, **changes):
    fields = {
        "vocab_size": 9,
        "hidden_size": D,
        "intermediate_size": 5,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "norm": "none",
        "max_position_embeddings": 7,
    }
    model = bilens.Transformer(bilens.TransformerConfig(**fields | changes)).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    return model.eval().requires_grad_(False)


def reading(model, module):
    """A norm as the matrix x ↦ x @ this."""
    eye = torch.eye(D, dtype=torch.float64)
    if model.config.norm == "none":
        return eye
    return (eye - 1 / D if model.config.norm == "layer" else eye) * module.weight


def head(model, layer, head):
    n, block = reading(model, model.blocks[layer].input_layernorm), model.blocks[layer].self_attn
    q, k = n @ model.W_Q[layer, head], n @ model.W_K[layer, head]
    if block.q_norm is not None:
        q, k = q * block.q_norm.weight, k * block.k_norm.weight
    return n @ model.W_V[layer, head] @ model.W_O[layer, head], q @ k.T


def head_of(model, layer):
    w_q, w_k, w_v, w_o = (
        matrices[layer, 0] for matrices in (model.W_Q, model.W_K, model.W_V, model.W_O)
    )
    return w_v @ w_o, w_q @ w_k.T


def mlp(model, layer):
    block = model.blocks[layer]
    n = reading(model, block.post_attention_layernorm)
    gate, up = block.mlp.gate_proj.weight @ n.T, block.mlp.up_proj.weight @ n.T
    cube = torch.einsum("oh,hi,hj->oij", block.mlp.down_proj.weight, gate, up)
    return (cube + cube.mT) / 2


def strengths(found: Composition):
    return {(row["first"], row["second"], row["kind"]): row["strength"] for row in found.rows()}


KINDS = [
    {},
    {"norm": "rms", "qk_norm": True},
    {"norm": "layer", "attention_bias": True, "mlp_bias": True},
]


@pytest.mark.parametrize("changes", KINDS)
def test_every_pair_against_dense_products(changes):
    model = transformer(**changes)
    found = strengths(composition(model))
    expected = {}
    for a in (0, 1):
        ov, _ = head(model, 0, a)
        for b in (0, 1):
            # TransformerLens: left = OV, right = QK, QKᵀ, OV; ‖left @ right‖ / ‖left‖ / ‖right‖
            ov2, qk = head(model, 1, b)
            for kind, right in (("Q", qk), ("K", qk.T), ("V", ov2)):
                expected[f"L0H{a}", f"L1H{b}", kind] = (
                    (ov @ right).norm() / ov.norm() / right.norm()
                )
    for layer, a, n in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]:
        (ov, _), S = head(model, layer, a), mlp(model, n)
        one = torch.einsum("oij,ai->oaj", S, ov)
        both = torch.einsum("oij,ai,bj->oab", S, ov, ov)
        expected[f"L{layer}H{a}", f"mlp{n}", "one input"] = one.norm() / ov.norm() / S.norm()
        expected[f"L{layer}H{a}", f"mlp{n}", "both inputs"] = (
            both.norm() / ov.norm() ** 2 / S.norm()
        )
    S, T = mlp(model, 0), mlp(model, 1)
    for b in (0, 1):
        ov, qk = head(model, 1, b)
        for kind, right in (("Q", qk), ("K", qk.T), ("V", ov)):
            written = torch.einsum("oij,od->dij", S, right)
            expected["mlp0", f"L1H{b}", kind] = written.norm() / S.norm() / right.norm()
    expected["mlp0", "mlp1", "one input"] = (
        torch.einsum("abj,bcd->acdj", T.mT, S).norm() / S.norm() / T.norm()
    )
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(float(value), rel=1e-10), key


def test_norms_count_as_folded():
    """The same numbers from the model whose norm weights are folded into what reads them."""
    model = transformer(norm="rms")
    folded = strengths(composition(model.folded()))
    for key, value in strengths(composition(model)).items():
        assert folded[key] == pytest.approx(value, rel=1e-10)


def rotations(count, d, g):
    """Random orthogonal matrices, Haar: QR with the signs of R's diagonal taken out."""
    q, r = torch.linalg.qr(torch.randn(count, d, d, generator=g, dtype=torch.float64))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]


def agrees(squares, expected):
    """A mean within five of its standard errors, which are small."""
    error = float(squares.std() / len(squares) ** 0.5)
    assert error < 0.02 * expected**2
    assert abs(float(squares.mean()) - expected**2) < 5 * error


@pytest.mark.parametrize(("seed", "head_dim"), [(0, 4), (1, 1), (2, 6)])
def test_chance_is_the_mean_over_rotations(seed, head_dim):
    """What a head writes turned at random, 40,000 times: each formula at the top of the file."""
    model = transformer(
        seed, head_dim=head_dim * 2 if head_dim == 1 else head_dim, num_hidden_layers=2
    )
    if head_dim == 1:
        for block in model.blocks:  # heads of rank one
            block.self_attn.v_proj.weight[1:] = 0
    rows = {
        (row["first"], row["second"], row["kind"]): row["random"]
        for row in composition(model).rows()
    }
    ov, _ = head(model, 0, 1)
    _, qk = head(model, 1, 0)
    S, turns = mlp(model, 1), rotations(40_000, D, torch.Generator().manual_seed(seed))
    turned = ov @ turns
    agrees(
        (turned @ qk).square().sum((1, 2)) / (ov.norm() * qk.norm()) ** 2, rows["L0H1", "L1H0", "Q"]
    )
    one = torch.einsum("nai,oij->noaj", turned, S)
    agrees(
        one.square().sum((1, 2, 3)) / (ov.norm() * S.norm()) ** 2, rows["L0H1", "mlp1", "one input"]
    )
    both = torch.einsum("noaj,nbj->noab", one, turned)
    agrees(
        both.square().sum((1, 2, 3)) / (ov.norm() ** 2 * S.norm()) ** 2,
        rows["L0H1", "mlp1", "both inputs"],
    )
    written = torch.einsum("oij,nod->ndij", mlp(model, 0), turns)
    composed = torch.einsum("pbj,nbik->npikj", S.mT, written).square().sum((1, 2, 3, 4))
    agrees(composed / (mlp(model, 0).norm() * S.norm()) ** 2, rows["mlp0", "mlp1", "one input"])


def test_traces_count_by_chance_on_both_inputs():
    """A layer of squares Σ_i x_i²: S_o = 1, whose value by chance is all in β Σ (tr S_o)²; here ‖M
    Mᵀ‖ / (‖M‖² √d).
    """
    model = transformer(intermediate_size=D, hidden_act="square", gated=False, num_hidden_layers=1)
    block = model.blocks[0]
    block.mlp.up_proj.weight.copy_(torch.eye(D, dtype=torch.float64))
    block.mlp.down_proj.weight.zero_()
    block.mlp.down_proj.weight[0] = 1
    ov, _ = head(model, 0, 0)
    row = next(row for row in composition(model).rows() if row["kind"] == "both inputs")
    exact = float((ov @ ov.T).norm() / (ov.norm() ** 2 * D**0.5))
    assert row["strength"] == pytest.approx(exact, rel=1e-10)
    assert row["random"] == pytest.approx(exact, rel=1e-10)  # no rotation changes it


def test_chance_for_random_entries_is_the_same():
    """E‖AB‖² = ‖A‖²‖B‖²/d for independent entries: untrained heads lie about 1, as widely as
    rotations spread them.
    """
    model = transformer(hidden_size=64, head_dim=16, intermediate_size=40)
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g))
    (ov, _), (_, qk) = (head_of(model, layer) for layer in (0, 1))
    turned = ov @ rotations(300, 64, g) @ qk
    spread = float((turned.norm(dim=(1, 2)) / (ov.norm() * qk.norm()) * 64**0.5).std())
    found = composition(model)
    heads = torch.tensor(
        [
            kind in ("Q", "K", "V") and first[0] == "L"
            for first, kind in zip(found.first, found.kinds, strict=True)
        ]
    )
    ratio = found.ratio[heads]
    assert len(ratio) == 12
    assert spread < 0.1
    assert float((ratio - 1).abs().max()) < 4 * spread  # of 12 draws, once in 1,300 tries


def test_rows_table_and_figure(tmp_path):
    found = composition(transformer())
    frame = found.to_frame()
    assert list(frame.columns) == ["first", "second", "kind", "strength", "random", "ratio"]
    assert len(frame) == 12 + 12 + 6 + 1
    assert bool(((frame["strength"] >= 0) & (frame["strength"] <= 1)).all())
    assert found.first[int(found.ratio.argmax())] in found.summary()
    figure = found.figure()
    cells, layout = figure["data"][0], figure["layout"]
    across, down = (layout[axis]["ticktext"] for axis in ("xaxis", "yaxis"))
    column, line = across.index("L1H1 K"), down.index("L0H0")
    row = frame[
        (frame["first"] == "L0H0") & (frame["second"] == "L1H1") & (frame["kind"] == "K")
    ].iloc[0]
    assert cells["z"][line][column] == pytest.approx(math.log2(row["ratio"]))
    assert cells["z"][down.index("L1H0")][across.index("mlp0 one input")] is None
    ratios = [row["ratio"] for row in found.answer(99)]
    assert ratios == sorted(ratios, reverse=True)
    shown = found.plot().data[0]
    assert [colour for _, colour in shown.colorscale] == ["#D55E00", "#ffffff", "#0072B2"]
    assert shown.zmin == -shown.zmax  # white is chance
    found.save(tmp_path / "c.safetensors")
    assert Composition.load(tmp_path / "c.safetensors").rows() == found.rows()


def test_models_with_less_in_them():
    opaque = composition(transformer(hidden_act="silu"))
    assert opaque.opaque == ("mlp0", "mlp1")
    assert len(opaque.strength) == 12
    assert "left out, no tensor by weights alone: mlp0, mlp1" in opaque.summary()
    single = composition(transformer(num_hidden_layers=1, intermediate_size=0))
    assert single.rows() == []
    assert single.summary() == "no part reads another"
    assert len(composition(transformer(num_attention_heads=0, num_key_value_heads=0)).rows()) == 1
    config = bilens.ClassifierConfig(
        input_shape=[4], hidden_size=3, num_hidden_layers=3, id2label={0: "a", 1: "b"}
    )
    pairs = [(row["first"], row["second"]) for row in composition(bilens.Classifier(config)).rows()]
    assert pairs == [("mlp0", "mlp1"), ("mlp1", "mlp2")]


def test_a_part_that_is_zero():
    model = transformer()
    model.blocks[0].self_attn.o_proj.weight.zero_()
    found = composition(model)
    assert all(row["strength"] == 0 for row in found.rows() if row["first"].startswith("L0"))
    assert bool(torch.isfinite(found.ratio).all())


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["o_proj", "v_proj", "q_proj", "k_proj"])
def test_weights_that_are_not_finite_are_refused(refuses, name):
    model = transformer()
    getattr(model.blocks[1].self_attn, name).weight[0, 0] = torch.inf
    refuses(NotFiniteError, lambda: composition(model), "must be finite")


@pytest.mark.bad_input
def test_other_things_than_models_are_refused(refuses):
    refuses(
        ArgumentError, lambda: composition(torch.nn.Linear(2, 2)), "model must be a bilens model"
    )

"""Rules from the weights: against the whole cube of a small model."""

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError, NotExactError
from bilens.circuits import Rules, rules
from tests.latents_made import VOCABULARY, small_model


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def cube(model):
    """W_U diag(norm) m(diag(norm) W_E, diag(norm) W_E), made symmetric."""
    with torch.no_grad():
        mlp, embed = (
            model.blocks[0].mlp,
            model.W_E * model.blocks[0].post_attention_layernorm.weight,
        )
        left, right = embed @ mlp.gate_proj.weight.mT, embed @ mlp.up_proj.weight.mT
        readout = (model.W_U.mT * model.model.norm.weight) @ mlp.down_proj.weight
        whole = torch.einsum("oh,ih,jh->oij", readout, left, right)
        return (whole + whole.mT) / 2


def test_token_pair_rules_are_those_of_the_cube(model, cube):
    found = rules(model, k=12)
    sums = {
        (i, j, o): float(cube[o, i, j] + cube[o, j, i] if i != j else cube[o, i, i])
        for o in range(VOCABULARY)
        for i in range(VOCABULARY)
        for j in range(i, VOCABULARY)
    }
    best = sorted(sums, key=lambda rule: -abs(sums[rule]))[:12]
    rms = float((2 * cube).square().mean().sqrt())
    rows = found.rows()
    assert [(int(r["token"]), int(r["and token"]), int(r["→ next"])) for r in rows] == best
    assert [r["value"] for r in rows] == pytest.approx([sums[rule] for rule in best])
    assert [r["× RMS"] for r in rows] == pytest.approx([sums[rule] / rms for rule in best])
    with torch.no_grad():
        direct = (model.W_U.mT * model.model.norm.weight) @ model.W_E.mT
    assert found.direct == pytest.approx(float(direct.abs().max()))
    assert found.path == "W_U mlp0(embed, embed)"


def test_skip_rules_of_a_head(model):
    """What it writes and where it looks, as matrices."""
    with torch.no_grad():
        block = model.blocks[1]
        embed = model.W_E * block.input_layernorm.weight
        value = embed @ model.W_V[1, 1] @ model.W_O[1, 1]
        written = value @ (model.W_U * model.model.norm.weight[:, None])
    found = rules(model, "W_U L1H1(embed)", k=3)
    top = written.abs().flatten().topk(3).indices
    assert [(int(r["token"]), int(r["→ next"])) for r in found.rows()] == [
        divmod(int(n), VOCABULARY) for n in top
    ]
    assert found.scale == pytest.approx(float(written.square().mean().sqrt()))
    scores = rules(model, "L1H1.QK(embed, embed)", k=2)
    with torch.no_grad():
        qk = (embed @ model.W_Q[1, 1]) @ (embed @ model.W_K[1, 1]).mT / 6**0.5
    top = qk.abs().flatten().topk(2).indices
    assert [(int(r["query"]), int(r["key"])) for r in scores.rows()] == [
        divmod(int(n), VOCABULARY) for n in top
    ]
    assert scores.direct is None


PATHS = {
    "W_U mlp1(embed, L0H1)": {"token": str, "and token": str, "→ next": str},
    "W_U mlp1(x, embed)": {"token": int, "and token": str, "→ next": str},
    "mlp0(embed, embed)": {"token": str, "and token": str, "→ written": int},
    "L1H0(embed)": {"token": str, "→ written": int},
    "L1H0.QK(mlp0(embed, embed), x)": {"key": int, "query": str, "and query": str},
    "L1H0.QK(embed, mlp0(embed, embed))": {"query": str, "key": str, "and key": str},
}


@pytest.mark.parametrize(("path", "columns"), PATHS.items(), ids=PATHS)
def test_columns_say_what_is_read_and_written(model, path, columns, tmp_path):
    """Tokens by name, dimensions of the stream by number."""
    found = rules(model, path, k=2)
    found.save(tmp_path / "rules")
    found = Rules.load(tmp_path / "rules")
    assert tuple(found.to_frame().columns) == found.columns() == (*columns, "value", "× RMS")
    row = found.rows()[0]
    assert {name: type(row[name]) for name in columns} == columns
    assert found.figure()["data"][0]["x"] == [row["value"] for row in found.rows()]
    found.plot()


def test_tokens_are_seen():
    found = rules(bilens.load("tinystories-2l"), "W_U L0H3(embed)", k=3)
    first = found.rows()[0]
    shown = f"{first['token']} → {first['→ next']}"
    assert "␣" in shown
    assert shown in found.figure()["data"][0]["customdata"][0]


@pytest.mark.parametrize("name", ["tinystories-2l-gelu", "tinystories-2l-swiglu"])
def test_without_a_bilinear_layer_they_are_the_first_heads(name):
    """A path that nobody wrote is none to be refused."""
    model = bilens.load(name)
    found = rules(model, k=3)
    assert found.path == "W_U L0H0(embed)"
    assert found.rows() == rules(model, found.path, k=3).rows()


def test_what_has_no_rules(refuses, model):
    gelu = bilens.load("tinystories-2l-gelu")
    path = "W_U mlp0(embed, embed)"
    refuses(NotExactError, lambda: rules(gelu, path), f"the path '{path}' must")
    refuses(ArgumentError, lambda: rules(model, "W_U mlp7(embed, embed)"), "must be made of what")
    refuses(ArgumentError, lambda: rules(model, k=0), "k must be a whole number ≥ 1")


@pytest.mark.bad_input
@pytest.mark.parametrize("path", [None, 0, False, [], torch.ones(2), torch.ones(0)])
def test_a_path_that_is_no_text_is_refused(path, refuses):
    """What counts as false was taken for the path that is asked for by default."""
    refuses(ArgumentError, lambda: rules(small_model(), path), "a path must be a text")

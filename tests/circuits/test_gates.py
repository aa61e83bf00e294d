"""Layers that are no tensor, exact given their gates: held against the forward pass, against the
gradient of the model with its gates held fixed, and against the definitions of the activations.
"""

import itertools

import pytest
import torch

import bilens
from bilens.base.errors import NotFiniteError
from bilens.circuits import graph, knockout, pairs
from bilens.nn import ACTIVATIONS
from tests.circuits.transformers_made import tiny

IDS, TARGET = [1, 4, 2], 3
ZERO = {"sigmoid": 0.5}  # act(0), where it is not 0


@pytest.mark.parametrize(("act", "gated"), itertools.product(sorted(ACTIVATIONS), (True, False)))
@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
@pytest.mark.parametrize("bias", [True, False], ids=["biases", "bare"])
def test_the_paths_add_up_to_the_forward_pass(act, gated, norm, bias):
    for layers, dtype, tol in ((0, torch.float64, 1e-10), (1, torch.float32, 1e-5),
                               (2, torch.float64, 1e-10), (3, torch.float64, 1e-10)):  # fmt: skip
        model = tiny(act, gated, norm, bias, layers, dtype)
        ex = bilens.expand(model, IDS, TARGET, max_terms=120)
        logit = float(model(torch.tensor([IDS])).logits[0, -1, TARGET])
        largest = max([1.0, *(abs(term.value) for term in ex.terms)])
        assert abs(ex.total - logit) <= tol * largest, layers
        assert ex.opaque == ()
        exact = act == ("linear" if gated else "square")
        held = any(name.startswith("gates ") for name in ex.given)
        assert held == (layers > 0 and not exact)
        assert ("gates" in ex.summary()) == held


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_gates_and_constants_make_the_function(act):
    a = torch.cat([torch.linspace(-30, 30, 601), torch.tensor([0.0, 1e-9, -1e-9])]).double()
    made = ACTIVATIONS[act].gate(a) * a + ACTIVATIONS[act].at_zero
    assert torch.equal(torch.isfinite(made), torch.ones_like(made, dtype=torch.bool))
    assert float((made - ACTIVATIONS[act](a)).abs().max()) < 1e-13 * 900
    assert ACTIVATIONS[act].at_zero == ZERO.get(act, 0.0)
    h = 1e-5  # the limit at 0 is the slope from above, where there is one
    slope = (ACTIVATIONS[act](torch.tensor(h).double()) - ACTIVATIONS[act].at_zero) / h
    if act != "relu":  # whose gate at 0 is that of the left
        assert float(ACTIVATIONS[act].gate(torch.zeros(()).double())) == pytest.approx(
            float(slope), abs=1e-4
        )


@pytest.mark.parametrize(("gated", "of"), [(True, "mlp0(embed, embed)"), (False, "mlp0(embed)")])
def test_a_term_is_the_layer_with_its_gates_held(gated, of):
    """By the definition of silu: D [σ(a) ⊙ (G x) ⊙ (U x)] on the embedding alone, given σ(a)."""
    model = tiny("silu", gated, bias=False, layers=1)
    ex = bilens.expand(model, IDS, TARGET, max_terms=None, cutoff=0)
    block, ids = model.model.layers[0], torch.tensor([IDS])
    stream = {}
    handle = block.post_attention_layernorm.register_forward_hook(
        lambda module, given, out: stream.update(before=given[0][0, -1], after=out[0, -1])
    )
    model(ids)
    handle.remove()
    norm, mlp = block.post_attention_layernorm, block.mlp
    x = model.model.embed_tokens.weight[IDS[-1]] * norm.weight
    x = x * (stream["before"].square().mean() + norm.eps).rsqrt()
    first = mlp.gate_proj if gated else mlp.up_proj
    gate = torch.sigmoid(first(stream["after"]))
    hidden = gate * first(x) * (mlp.up_proj(x) if gated else 1.0)
    final = stream["before"] + mlp(stream["after"])
    q = model.lm_head.weight[TARGET] * model.model.norm.weight
    q = q * (final.square().mean() + model.model.norm.eps).rsqrt()
    term = next(term for term in ex.terms if term.path == of)
    assert term.value == pytest.approx(float(q @ mlp.down_proj(hidden)), rel=1e-12)
    assert "gates mlp0@2" in term.given
    assert term.order == (2 if gated else 1)


@pytest.mark.parametrize(("act", "gated"), [("silu", True), ("gelu", False), ("sigmoid", True)])
def test_hidden_units_add_up_and_are_what_they_write(act, gated):
    model = tiny(act, gated, layers=2)
    ex = bilens.expand(model, IDS, TARGET)
    groups = ex.by("unit")
    assert sum(groups.values) == pytest.approx(ex.forward, rel=1e-12)
    assert groups.names[-1] == "remainder"
    assert abs(groups.values[-1]) < 1e-12 * max(map(abs, groups.values))
    # the unit that carries most, taken out of the last layer: its own write by hand
    mlp, kept = model.model.layers[1].mlp, {}
    handle = mlp.down_proj.register_forward_pre_hook(
        lambda module, given: kept.update(hidden=given[0][0, -1])
    )
    final = model.model.norm.register_forward_pre_hook(
        lambda module, given: kept.update(final=given[0][0, -1])
    )
    model(torch.tensor([IDS]))
    handle.remove()
    final.remove()
    q = model.lm_head.weight[TARGET] * model.model.norm.weight
    q = q * (kept["final"].square().mean() + model.model.norm.eps).rsqrt()
    writes = (q @ mlp.down_proj.weight) * kept["hidden"]
    rows = {name.split()[0]: value for name, value in zip(groups.names, groups.values, strict=True)}
    for n, value in enumerate(writes.tolist()):
        halves = [rows.get(f"mlp1.u{n}", 0.0), rows.get(f"mlp1.u{n + 10}", 0.0)]
        got = sum(halves) if act in ZERO else halves[0]
        assert got == pytest.approx(value, rel=1e-9, abs=1e-12)
    signs = {name.split()[1] for name in groups.names if name.startswith("mlp")}
    assert signs <= ({"(++)", "(+-)", "(-+)", "(--)"} if gated else {"(+)", "(-)"})


@pytest.mark.parametrize(("act", "gated"), [("silu", True), ("relu", False)])
def test_the_other_verbs_take_gated_layers(act, gated):
    model = tiny(act, gated)
    ex = bilens.expand(model, IDS, TARGET)
    assert {node["feature_type"] for node in graph(ex)["nodes"]} >= {"layer given its gates"}
    found = pairs(model, IDS, TARGET)
    assert [matrix.layer for matrix in found.matrices] == (["mlp0", "mlp1"] if gated else [])
    assert found.given == (("gates mlp0@2", "gates mlp1@2") if gated else ())
    assert ("given gates mlp0@2" in found.summary()) == gated
    removal = knockout(model, IDS, "mlp0", TARGET)
    with torch.no_grad():
        mlp = model.model.layers[0].mlp
        handle = mlp.register_forward_hook(lambda module, given, out: torch.zeros_like(out))
        truth = float(model(torch.tensor([IDS])).logits[0, -1, TARGET])
        handle.remove()
    assert removal.after == pytest.approx(truth, rel=1e-12)


def test_gates_that_are_not_finite_are_refused(refuses):
    model = tiny("silu", True, bias=False)
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[0] = torch.inf
    refuses(NotFiniteError, lambda: bilens.expand(model, IDS, TARGET), "finite")

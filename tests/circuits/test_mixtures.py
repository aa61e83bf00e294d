"""Mixtures of experts, exact given gates and the router's weights: held against the forward pass,
and against the terms written out from the weights.
"""

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError, NotExactError
from bilens.circuits import attention_scores, composition, graph, knockout, pairs, units, virtual
from bilens.circuits.paths import parse, walk
from bilens.features import Dictionary
from tests.circuits.transformers_made import tiny

IDS, TARGET, E = [1, 4, 2, 4], 3, 4


def build(act="silu", gated=True, norm="rms", bias=False, **more):
    return tiny(act, gated, norm, bias, **{"intermediate_size": 5, "num_local_experts": E} | more)


def read_by(model, n):
    """What the n-th MLP reads in the model's own forward pass, and its shares."""
    block, seen = model.model.layers[n], []
    handle = block.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    model(torch.tensor([IDS]))
    handle.remove()
    return seen[0].detach(), block.mlp.shares(seen[0].detach())


@pytest.mark.parametrize(
    ("act", "gated", "norm", "bias"),
    [
        ("silu", True, "rms", False),
        ("linear", True, "layer", True),
        ("gelu", False, "none", False),
        ("sigmoid", True, "layer", True),
        ("relu", False, "rms", True),
    ],
)
def test_the_paths_add_up_to_the_forward_pass(act, gated, norm, bias):
    for layers, dtype, tol in ((1, torch.float32, 1e-5), (2, torch.float64, 1e-10),
                               (3, torch.float64, 1e-10)):  # fmt: skip
        model = build(act, gated, norm, bias, layers=layers, dtype=dtype, norm_topk_prob=bias)
        ex = bilens.expand(model, IDS, TARGET, max_terms=100)
        logit = model(torch.tensor([IDS])).logits[0, -1, TARGET].item()
        largest = max([1.0, *(abs(term.value) for term in ex.terms)])
        assert abs(ex.total - logit) <= tol * largest, layers
        assert ex.opaque == ()
        for term in ex.terms:
            assert term.component == "bias" or parse(term.path, 3) == term.tree
            for node in walk(term.tree):
                if getattr(node, "source", "").startswith("mlp") and hasattr(node, "inputs"):
                    assert f"router {node.source}@{node.t}" in term.given
                    held = f"gates {node.source}@{node.t}" in term.given
                    assert held == (act != "linear")
        weighed = any(name.startswith("router ") for name in ex.given)
        assert ("weights of experts" in ex.summary()) == weighed


@pytest.mark.parametrize("normalised", [True, False], ids=["normalised", "as they are"])
def test_an_expert_writes_what_its_weights_say(normalised):
    """q · r_e D_e [σ(a) ⊙ (G_e x) ⊙ (U_e x)] on the embedding alone, where a token is routed to it;
    nothing where none is.
    """
    model = build(layers=1, norm_topk_prob=normalised)
    block, ids = model.model.layers[0], torch.tensor(IDS)
    mlp, norm = block.mlp, block.post_attention_layernorm
    kept = {}
    handle = norm.register_forward_pre_hook(lambda _, given: kept.update(stream=given[0][0]))
    model(ids[None])
    handle.remove()
    stream = kept["stream"].detach()
    scale = (stream.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    read, x = stream * scale * norm.weight, model.W_E[ids] * scale * norm.weight
    p = (read @ mlp.gate.weight.mT).softmax(-1)
    chosen = p.sort(-1, descending=True).indices[:, :2]
    total = p.gather(-1, chosen).sum(-1) if normalised else torch.ones(len(ids))
    final = stream + mlp(read)
    q = model.lm_head.weight[TARGET] * (final.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    for t in range(len(ids)):
        ex = bilens.expand(model, IDS, TARGET, t, max_terms=None, cutoff=0)
        terms = {term.path: term.value for term in ex.terms}
        written = {term.component for term in ex.terms if term.component.startswith("mlp")}
        assert written == {f"mlp0.expert{e}" for e in chosen[t].tolist()}
        for e in chosen[t].tolist():
            one = mlp.experts[e]
            gates = torch.sigmoid(one.gate_proj(read[t]))
            says = one.down_proj(gates * one.gate_proj(x[t]) * one.up_proj(x[t]))
            value = (p[t, e] / total[t] * (q[t] @ says)).item()
            assert terms[f"mlp0.expert{e}(embed, embed)"] == pytest.approx(value, rel=1e-11)


def test_hidden_units_pairs_and_graph():
    model = build()
    ex = bilens.expand(model, IDS, TARGET, max_terms=99)
    groups = ex.by("unit")
    assert abs(groups.values[-1]) < 1e-12 * max(map(abs, groups.values))
    x, shares = read_by(model, 1)
    e, row = next((e, share) for e, share in enumerate(shares) if 3 in share.rows)
    at = row.rows.tolist().index(3)
    one, q = model.model.layers[1].mlp.experts[e], []
    handle = model.model.norm.register_forward_pre_hook(lambda _, given: q.append(given[0][0, 3]))
    model(torch.tensor([IDS]))
    handle.remove()
    pull = model.W_U[:, TARGET] * (q[0].square().mean() + 1e-6).rsqrt()
    hidden = torch.nn.functional.silu(one.gate_proj(x[3])) * one.up_proj(x[3]) * row.weights[at]
    rows = {name.split()[0]: value for name, value in zip(groups.names, groups.values, strict=True)}
    for n, value in enumerate((hidden * (pull @ one.down_proj.weight)).tolist()):
        assert rows[f"mlp1.expert{e}.u{n}"] == pytest.approx(value, rel=1e-9)
    term = next(term for term in ex.terms if term.path.count("mlp") == 2)
    carried = units(model, IDS, term, TARGET)
    for layer in carried.layers:
        total = sum(float(one.values.sum()) for one in carried.of(layer).units)
        assert total == pytest.approx(term.value, rel=1e-9)
    found = pairs(model, IDS, TARGET)
    writes = {t.path: t.value for t in bilens.expand(model, IDS, TARGET, detail="writes").terms}
    assert {matrix.layer for matrix in found.matrices} == {
        f"mlp{n}.expert{e}" for n in (0, 1) for e, share in enumerate(read_by(model, n)[1])
        if 3 in share.rows
    }  # fmt: skip
    for matrix in found.matrices:
        assert float(matrix.values.sum()) == pytest.approx(writes[matrix.layer])
        assert f"router {matrix.layer}@3" in found.given
    made = graph(ex)
    into = [link["weight"] for link in made["links"] if link["target"] == "target"]
    assert sum(into) == pytest.approx(sum(term.value for term in ex.terms))
    score = attention_scores(model, IDS, 1, 0, 3, 1)
    assert score.forward == pytest.approx(float(score.values.sum()), abs=1e-12)


@pytest.mark.parametrize("what", ["mlp0", *(f"mlp0.expert{e}" for e in range(E))])
@pytest.mark.parametrize("way", ["zero", "mean"])
def test_knockout(what, way):
    """One expert's write replaced, or that of all, the router's weights as they were."""
    model = build()
    mlp, experts = model.model.layers[0].mlp, range(E) if what == "mlp0" else [int(what[-1])]
    found = knockout(model, IDS, what, TARGET, with_=way, at=[1, 3])
    x, shares = read_by(model, 0)
    each = x.new_zeros(E, *x.shape)
    for e, (rows, weights) in enumerate(shares):
        each[e, rows] = weights[:, None] * mlp.experts[e](x[rows])
    for e in experts:
        each[e, [1, 3]] = each[e].mean(0) if way == "mean" else 0.0
    handle = mlp.register_forward_hook(lambda *_: each.sum(0)[None])
    truth = model(torch.tensor([IDS])).logits[0, -1, TARGET].item()
    handle.remove()
    assert found.after == pytest.approx(truth, abs=1e-12)


def test_a_dictionary_and_nearest_tensors_take_experts_apart():
    model = build("silu")
    mlp = model.model.layers[1].mlp
    torch.manual_seed(1)
    dictionary = Dictionary(
        W_enc=torch.randn(6, 8), W_dec=torch.randn(8, 6), b_enc=torch.zeros(8), b_dec=torch.ones(6)
    )
    ex = bilens.expand(model, IDS, TARGET, max_terms=99,
                       dictionaries={"mlp1.input": dictionary})  # fmt: skip
    assert ex.error < 1e-12
    assert any("latents mlp1.input@3" in term.given for term in ex.terms)
    ids = torch.randint(0, 9, (9, 20), generator=torch.Generator().manual_seed(0))
    x = torch.cat(list(bilens.models.activations(model, [ids], "mlp1.input")))
    _, shares = read_by(model, 1)
    here = [e for e, share in enumerate(shares) if 3 in share.rows]
    near = {
        f"mlp1.expert{e}": bilens.approximate(mlp.experts[e], bilens.Gaussian.from_batches([read]))
        for e, read in enumerate(mlp.reads(x))
        if e in here
    }
    ex = bilens.expand(model, IDS, TARGET, replacements=near, max_terms=99)
    assert ex.error < 1e-12
    assert set(ex.opaque) == {f"{name}.error" for name in near}
    (seen, rows), e = (read_by(model, 1)[0][3], shares[here[0]]), here[0]
    weight = rows.weights[rows.rows.tolist().index(3)]
    final = bilens.expand(model, IDS, bilens.circuits.At(model.W_U[:, 3], "mlp1.output"), 3,
                          replacements=near, detail="writes")  # fmt: skip
    missed = {term.path: term.value for term in final.terms}[f"mlp1.expert{e}.error"]
    error = near[f"mlp1.expert{e}"].error(seen)
    assert missed == pytest.approx((weight * (model.W_U[:, 3] @ error)).item(), rel=1e-9)


def test_what_is_not_there_is_refused_by_name(refuses):
    model = build("linear")
    measure = bilens.Gaussian(torch.zeros(6), torch.eye(6))
    mlp = model.model.layers[0].mlp
    near = bilens.approximate(mlp.experts[0], measure)
    for name in ("mlp0", "mlp0.expert9"):
        refuses(
            ArgumentError,
            lambda name=name: bilens.expand(model, IDS, replacements={name: near}),
            "name layers (mlp0.expert0, ",
        )
    refuses(ArgumentError, lambda: bilens.approximate(mlp, measure), "mlp.experts[0]")
    refuses(ArgumentError, lambda: knockout(model, IDS, "mlp0.expert9"), "mlp0.expert3")
    assert composition(model).opaque == ("mlp0", "mlp1")
    for name in ("mlp0", "mlp0.expert1"):
        refuses(NotExactError, lambda name=name: virtual(model, f"{name}(x, x)"), f"got {name},")
    shares = read_by(model, 0)[1]
    away = next(e for e, share in enumerate(shares) if 3 not in share.rows)
    path = f"mlp0.expert{away}(embed, embed)"
    refuses(ArgumentError, lambda: units(model, IDS, path, TARGET), "reach the target, as embed")
    here = next(term.path for term in bilens.expand(model, IDS).terms if "mlp1" in term.path)
    path = f"{here.partition('(')[0]}({path}, embed)"
    refuses(ArgumentError, lambda: units(model, IDS, path, TARGET), "read what it reads at 3")
    e = next(e for e, share in enumerate(shares) if len(share.rows))
    forward = mlp.experts[e].forward
    mlp.experts[e].forward = lambda x: 1.5 * forward(x)
    refuses(ArgumentError, lambda: bilens.expand(model, IDS), f"mlp0.expert{e} of mlp0 must do")


def test_half_precision_is_explained_in_full():
    model = build(dtype=torch.bfloat16, bias=True)
    ex = bilens.expand(model, IDS, TARGET, max_terms=99)
    assert ex.error < 1e-5 * max(abs(term.value) for term in ex.terms)
    assert ex.as_run is not None

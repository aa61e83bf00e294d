"""Kinds of part that no room of bilens knows: a fixed-kernel convolution, gated experts, a product
of three. Made here alone, and understood by all of circuits.
"""

import sys
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import bilens
from bilens import circuits
from bilens.base.errors import ArgumentError
from bilens.circuits.paths import Apply, parse
from bilens.nn import NoNorm, RMSNorm
from bilens.wiring import (
    BILINEAR,
    Form,
    Gate,
    Leg,
    Mix,
    Multilinear,
    Part,
    Source,
)
from tests.circuits.models_made import D, Handmade

H = 5


class Conv(nn.Module):
    """y_t = W (½ x_t + ¼ x_t−1), whatever x is."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(D, D) / D**0.5)

    def kernel(self, length: int) -> Tensor:
        eye = torch.eye(length, dtype=self.w.dtype)
        return 0.5 * eye + 0.25 * eye.roll(1, 0).tril()

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel(x.shape[-2]) @ x @ self.w.mT


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(D, H), nn.Linear(D, H, bias=False)
        self.out = nn.Linear(H, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.left(x) * self.right(x))


class Experts(nn.Module):
    """Two bilinear experts, weighed by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, 2)
        self.experts = nn.ModuleList([Expert(), Expert()])

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        return sum(weights[..., n, None] * e(x) for n, e in enumerate(self.experts))


class Triple(nn.Module):
    """y = D (A x ⊙ (B x + b) ⊙ C x)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = (nn.Linear(D, H, bias=False) for _ in "ac")
        self.b = nn.Linear(D, H)
        self.out = nn.Linear(H, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x) * self.b(x) * self.c(x))


@dataclass(frozen=True, eq=False)
class ConvPart(Part):
    looks = True

    def forms(self):
        w = self.module.w
        return {self.name: Form((Leg(torch.eye(D).to(w)),), w)}

    def writes(self, x):
        mix = Mix(self.module.kernel(len(x)))
        source = Source(self.name, "convolution", self.layer)
        return [Multilinear(source, self.forms()[self.name], (mix,))]


@dataclass(frozen=True, eq=False)
class ExpertsPart(Part):
    def forms(self):
        return {
            f"{self.name}.e{n}": Form(
                (Leg(e.left.weight, e.left.bias), Leg(e.right.weight)), e.out.weight
            )
            for n, e in enumerate(self.module.experts)
        }

    def writes(self, x):
        weights = self.module.router(x).softmax(-1)
        made = []
        for n, (name, form) in enumerate(self.forms().items()):
            gate = Gate(weights[:, n, None], (f"router {name}",))
            value = gate.values * self.module.experts[n](x)
            made.append(
                Multilinear(Source(name, BILINEAR, self.layer), form, gate=gate, value=value)
            )
        return made


@dataclass(frozen=True, eq=False)
class TriplePart(Part):
    def forms(self):
        m = self.module
        legs = (Leg(m.a.weight), Leg(m.b.weight, m.b.bias), Leg(m.c.weight))
        return {self.name: Form(legs, m.out.weight)}

    def writes(self, x):
        source = Source(self.name, "product of three", self.layer)
        return [Multilinear(source, self.forms()[self.name])]


def build(norm: type[nn.Module] = NoNorm) -> Handmade:
    parts = [
        (ConvPart, "conv0", Conv()),
        (ExpertsPart, "moe0", Experts()),
        (TriplePart, "cubic0", Triple()),
    ]
    return Handmade(parts, norm)


@pytest.fixture(params=[NoNorm, RMSNorm], ids=["no norm", "norms"])
def model(request):
    torch.manual_seed(0)
    return build(request.param).double().eval()


IDS = [3, 1]


@pytest.mark.parametrize("detail", ["writes", "pairs", "paths"])
@pytest.mark.parametrize("max_terms", [40, 1500])
def test_the_paths_add_up_to_the_forward_pass(model, detail, max_terms):
    ex = bilens.expand(model, IDS, target=2, detail=detail, max_terms=max_terms, cutoff=0)
    assert ex.forward == pytest.approx(float(model.outputs(model.read(IDS))[-1, 2]), abs=1e-14)
    assert abs(ex.total - ex.forward) < 1e-12
    assert not ex.opaque
    for term in ex.terms:
        if term.component != "bias":
            assert parse(term.path, 1) == term.tree


def test_a_term_is_what_its_product_is(model):
    """cubic0(conv0, 1, embed) from the weights, written out."""
    ex = bilens.expand(model, IDS, target=2, max_terms=1500, cutoff=0)
    x, writes = model.embed(torch.tensor(IDS)), {}
    for name, norm, block in zip(("conv0", "moe0"), model.norms, model.blocks, strict=False):
        writes[name] = block(norm(x))
        x = x + writes[name]
    norm, m = model.norms[2], model.blocks[2]
    scale = norm.scale(x)[-1]
    read = {"embed": model.embed(torch.tensor(IDS))[-1] * scale}
    final = x + m(norm(x))
    q = (model.head.weight[2] * model.norms[3].scale(final)[-1]) @ m.out.weight
    says = q @ (m.a.weight @ read["embed"] * m.b.bias * (m.c.weight @ read["embed"]))
    terms = {term.path: term for term in ex.terms}
    assert terms["cubic0(embed, 1, embed)"].value == pytest.approx(float(says), abs=1e-14)
    assert terms["cubic0(embed, 1, embed)"].order == 2
    looked = terms["conv0@0→1(embed)"]
    pull = model.head.weight[2] * model.norms[3].scale(final)[-1]
    before = (
        model.embed(torch.tensor(IDS))[0] * model.norms[0].scale(model.embed(torch.tensor(IDS)))[0]
    )
    assert looked.value == pytest.approx(
        float(pull @ (0.25 * model.blocks[0].w @ before)), abs=1e-14
    )
    conv = [one for one in looked.given if "conv" in one]
    assert conv == ([] if isinstance(model.norms[0], NoNorm) else ["σ conv0@0"])


def test_a_gate_is_given_by_name(model):
    ex = bilens.expand(model, IDS, target=2, max_terms=1500, cutoff=0)
    gated = [term for term in ex.terms if term.component == "moe0.e1"]
    assert gated
    assert all("router moe0.e1@1" in term.given for term in gated)


def test_by_graph_and_pairs(model):
    ex = bilens.expand(model, IDS, target=2, max_terms=1500, cutoff=0)
    groups = ex.by("component")
    assert set(groups.names) >= {"conv0", "moe0.e0", "moe0.e1", "cubic0", "embed", "remainder"}
    assert sum(groups.values) == pytest.approx(ex.total)
    made = circuits.graph(ex)
    kinds = {node["feature_type"] for node in made["nodes"]}
    assert {"convolution", "product of three", BILINEAR} <= kinds
    into = [link["weight"] for link in made["links"] if link["target"] == "target"]
    assert sum(into) == pytest.approx(sum(term.value for term in ex.terms))
    found = circuits.pairs(model, IDS, target=2)
    assert {matrix.layer for matrix in found.matrices} == {"moe0.e0", "moe0.e1"}
    writes = {t.path: t.value for t in bilens.expand(model, IDS, target=2, detail="writes").terms}
    for matrix in found.matrices:
        assert float(matrix.values.sum()) == pytest.approx(writes[matrix.layer])


@pytest.mark.parametrize("what", ["conv0", "moe0.e1", "moe0", "cubic0"])
def test_knockout(model, what):
    found = circuits.knockout(model, IDS, what, target=2, with_="zero")
    n = {"conv0": 0, "moe0": 1, "moe0.e1": 1, "cubic0": 2}[what]
    if what == "moe0.e1":
        model.blocks[1].experts[1].forward = lambda x: torch.zeros_like(x)
    else:
        model.blocks[n].forward = lambda x: torch.zeros_like(x)
    assert found.after == pytest.approx(float(model.outputs(model.read(IDS))[-1, 2]), abs=1e-14)
    assert found.after != found.before


@pytest.mark.parametrize("block", [2, 256])
def test_composition_and_virtual(block, monkeypatch):
    """Hidden units in one tile, and in several."""
    monkeypatch.setattr(sys.modules["bilens.circuits.composition"], "BLOCK", block)
    torch.manual_seed(0)
    model = build().double().eval()
    found = circuits.composition(model)
    rows = {(row["first"], row["second"], row["kind"]): row["strength"] for row in found.rows()}
    conv, (one, _), cubic = model.blocks[0], model.blocks[1].experts, model.blocks[2]
    left, right, out = one.left.weight, one.right.weight, one.out.weight
    S = torch.einsum("oh,hi,hj->oij", out, left, right)
    S = (S + S.mT) / 2
    w = conv.w / conv.w.norm()
    assert rows["conv0", "moe0.e0", "one input"] == pytest.approx(
        float(torch.einsum("oij,ik->okj", S, w).norm() / S.norm())
    )
    assert rows["conv0", "moe0.e0", "both inputs"] == pytest.approx(
        float(torch.einsum("oij,ik,jl->okl", S, w, w).norm() / S.norm())
    )
    C = torch.einsum(
        "oh,hi,hj,hk->oijk", cubic.out.weight, cubic.a.weight, cubic.b.weight, cubic.c.weight
    )
    assert rows["conv0", "cubic0", "input 2"] == pytest.approx(
        float(torch.einsum("oijk,jl->oilk", C, w).norm() / C.norm())
    )
    assert rows["moe0.e0", "cubic0", "input 3"] == pytest.approx(
        float(torch.einsum("oijk,kab->oijab", C, S).norm() / (C.norm() * S.norm()))
    )
    T = circuits.virtual(model, "moe0.e0(embed, conv0(embed))")
    E = model.embed.weight
    assert torch.allclose(T.dense(), torch.einsum("oij,ai,bj->oab", 2 * S, E, E @ conv.w.mT))


def test_a_part_that_does_not_do_what_it_says_is_refused_by_name(model, refuses):
    model.blocks[2].forward = lambda x: 1.5 * Triple.forward(model.blocks[2], x)
    refuses(ArgumentError, lambda: bilens.expand(model, IDS), "cubic0 must do", "a difference of")
    refuses(ArgumentError, lambda: circuits.composition(model), "cubic0 must do", "a difference of")


def test_writes_that_do_not_add_up_are_refused(model, refuses):
    router = model.blocks[1].router
    model.blocks[1].forward = lambda x: Experts.forward(model.blocks[1], x) + router.bias[0]
    refuses(
        ArgumentError, lambda: bilens.expand(model, IDS), "moe0 must do", "the sum of its writes"
    )


def test_nested_products_are_nary(model):
    ex = bilens.expand(model, IDS, target=2, max_terms=1500, cutoff=0)
    cubic = [t.tree for t in ex.terms if isinstance(t.tree, Apply) and t.tree.source == "cubic0"]
    assert cubic
    assert {len(tree.inputs) for tree in cubic} == {3}

"""Heads without softmax, whose scores come apart as their values do: a model made here alone, of
two layers of them with a bilinear layer between, and its polynomial written out.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import bilens
from bilens import circuits
from bilens.circuits.paths import parse
from bilens.nn import NoNorm, RMSNorm, Rotary, rotate
from bilens.wiring import (
    BILINEAR,
    HEAD,
    Form,
    Leg,
    Multilinear,
    Part,
    Scale,
    Scored,
    Source,
)
from tests.circuits.models_made import D, Handmade

K, H = 4, 5
NAMES = ("q1", "k1", "q2", "k2", "v")


class TwoQK(nn.Module):
    """One head: y_t = c Σ_s≤t (q¹·k¹)(q²·k²) v_s W_O, turned by positions where it is asked."""

    def __init__(self, bias: bool, turns: bool, norms: bool) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Linear(D, K, bias=bias) for _ in NAMES)
        for side in self.sides:
            nn.init.normal_(side.weight, std=D**-0.5)
        self.out = nn.Linear(K, D, bias=False)
        self.rotary, self.norms, self.c = (Rotary(K) if turns else None), norms, 1.0 / K

    def by_name(self, x: Tensor) -> dict[str, Tensor]:
        found = {name: side(x) for name, side in zip(NAMES, self.sides, strict=True)}
        for name in NAMES[:-1]:
            found[name] = found[name] * self.scale(found[name])
            if self.rotary is not None:
                cos, sin = self.rotary(torch.arange(len(x))[None], x.dtype)
                found[name] = rotate(found[name], cos[0, 0], sin[0, 0])
        return found

    def scale(self, side: Tensor) -> Tensor:
        if not self.norms:
            return torch.ones_like(side[:, :1])
        return side.square().mean(-1, keepdim=True).rsqrt()

    def pattern(self, x: Tensor) -> Tensor:
        by = self.by_name(x)
        return self.c * ((by["q1"] @ by["k1"].mT) * (by["q2"] @ by["k2"].mT)).tril()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pattern(x) @ self.by_name(x)["v"])


class Square(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(D, H), nn.Linear(D, H, bias=False)
        self.out = nn.Linear(H, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x) * self.b(x))


@dataclass(frozen=True, eq=False)
class TwoQKPart(Part):
    looks = True

    def forms(self):
        return {}

    def writes(self, x):
        module, name = self.module, f"L{self.layer}H0"
        form = Form(tuple(Leg(s.weight, s.bias) for s in module.sides), module.out.weight)
        turn, scales = None, ()
        if module.rotary is not None:
            turn = tuple(a[0, 0] for a in module.rotary(torch.arange(len(x))[None], x.dtype))
        if module.norms:
            sides = zip(NAMES[:-1], module.sides, strict=False)
            made = (Scale(module.scale(s(x)).detach(), f"σ {n} {name}") for n, s in sides)
            scales = (*made, None)
        weights = torch.full((len(x), len(x)), module.c, dtype=x.dtype).tril()
        source = Source(name, HEAD, self.layer)
        looked = module.pattern(x)
        return [Scored(source, form.detach(), weights, ("1", "2"), turn, looked, scales=scales)]


@dataclass(frozen=True, eq=False)
class SquarePart(Part):
    def forms(self):
        m = self.module
        return {self.name: Form((Leg(m.a.weight, m.a.bias), Leg(m.b.weight)), m.out.weight)}

    def writes(self, x):
        form = self.forms()[self.name].detach()
        return [Multilinear(Source(self.name, BILINEAR, self.layer), form)]


IDS = [3, 1, 6]


def build(bias=False, turns=False, norms=False, norm=NoNorm) -> Handmade:
    torch.manual_seed(0)
    first, last = (TwoQK(bias, turns, norms) for _ in range(2))
    parts = [
        (TwoQKPart, "attn0", first),
        (SquarePart, "mlp0", Square()),
        (TwoQKPart, "attn1", last),
    ]
    return Handmade(parts, norm, head_bias=False).double().eval()


@pytest.mark.parametrize("max_terms", [60, 500])
@pytest.mark.parametrize("detail", ["writes", "pairs", "paths"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("turns", [False, True])
def test_the_paths_add_up_with_nothing_given(turns, bias, detail, max_terms):
    model = build(turns=turns, bias=bias)
    ex = bilens.expand(model, IDS, target=2, detail=detail, max_terms=max_terms, cutoff=0)
    assert ex.forward == pytest.approx(float(model.outputs(model.read(IDS))[-1, 2]), rel=1e-12)
    assert ex.error < 1e-10 * max(abs(term.value) for term in ex.terms)
    assert ex.given == ()
    assert not ex.opaque
    for term in ex.terms:
        assert parse(term.path, 2) == term.tree


def test_a_term_is_what_its_legs_give():
    """L1H0 looking from 2 to 0 with five other things on its legs, from the weights written out."""
    model = build(turns=True)
    first, square, last = model.blocks
    nn.init.zeros_(first.out.weight)  # fewer paths
    ex = bilens.expand(model, IDS, target=2, max_terms=20_000, cutoff=1e-12)
    e = model.embed(torch.tensor(IDS)).detach()
    feats = (square.a.weight @ e[2]) * (square.b.weight @ e[2])
    on = {"q1": e[2], "k1": e[0], "q2": square.out(feats), "k2": e[0], "v": e[0]}
    turn = [a[0, 0] for a in last.rotary(torch.arange(3)[None], e.dtype)]
    made = {}
    for name, side in zip(NAMES, last.sides, strict=True):
        at = 2 if name[0] == "q" else 0
        made[name] = side.weight @ on[name]
        if name != "v":
            made[name] = rotate(made[name][None], *(a[at : at + 1] for a in turn))[0]
    score = (made["q1"] @ made["k1"]) * (made["q2"] @ made["k2"]) * last.c
    value = score * (model.head.weight[2] @ (last.out.weight @ made["v"]))
    path = "L1H0@0→2(q1: embed, k1: embed, q2: mlp0(embed, embed), k2: embed, v: embed)"
    terms = {term.path: term for term in ex.terms}
    assert terms[path].value == pytest.approx(float(value), rel=1e-10)
    assert terms[path].order == 6


def test_every_path_of_one_head_is_met_once():
    """All leaves on all legs: (three positions) × 2⁵ ways to read embed or the constant."""
    model = build(bias=True)
    for block in model.blocks[1:]:
        nn.init.zeros_(block.out.weight)
    ex = bilens.expand(model, IDS, target=2, max_terms=None, cutoff=1e-14)
    heads = [term for term in ex.terms if term.component == "L0H0"]
    assert len({term.path for term in heads}) == len(heads) == 3 * 2**5


@pytest.mark.parametrize("norm", [NoNorm, RMSNorm])
def test_what_a_norm_fixes_is_named(norm):
    model = build(turns=True, norms=True, norm=norm)
    nn.init.zeros_(model.blocks[2].out.weight)
    ex = bilens.expand(model, IDS, target=2, max_terms=None, cutoff=1e-12)
    assert ex.error < 1e-10 * max(abs(term.value) for term in ex.terms)
    terms = {term.path: term for term in ex.terms}
    path = "L0H0@1→2(q1: embed, k1: embed, q2: embed, k2: embed, v: embed)"
    scales = [f"σ {leg} L0H0@{at}" for leg, at in zip(NAMES, (2, 1, 2, 1), strict=False)]
    stream = [] if norm is NoNorm else ["σ attn0@2", "σ attn0@1", "σ final@2"]
    assert sorted(terms[path].given) == sorted([*scales, *stream])


def test_groups_and_graph():
    model = build(turns=True)
    ex = bilens.expand(model, IDS, target=2, max_terms=800, cutoff=0)
    for by in ("component", "position", "order", "layer"):
        assert sum(ex.by(by).values) == pytest.approx(ex.total)
    made = circuits.graph(ex)
    into = [link["weight"] for link in made["links"] if link["target"] == "target"]
    assert sum(into) == pytest.approx(sum(term.value for term in ex.terms))

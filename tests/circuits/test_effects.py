"""Effects of everything at once are those of each knock-out alone."""

import math
import sys

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import Effects, effects, expand, knockout

PROMPT = "Once upon a time there was a little"
TARGET = (" girl", " boy")


def build(kind):
    torch.manual_seed(0)
    more = {
        "bilinear": {"norm": "layer", "attention_bias": True, "mlp_bias": True},
        "gated": {"hidden_act": "silu", "num_key_value_heads": 1},
        "experts": {"hidden_act": "silu", "num_local_experts": 4, "num_experts_per_tok": 2},
    }[kind]
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=4,
        num_hidden_layers=3,
        num_attention_heads=2,
        head_dim=4,
        initializer_range=0.5,
        **more,
    )
    return bilens.Transformer(config).double().eval().requires_grad_(False)


IDS = torch.tensor([1, 4, 2, 7, 3])


@pytest.mark.parametrize("kind", ["bilinear", "gated", "experts"])
@pytest.mark.parametrize("tokens", [5, 4096])
def test_each_is_what_it_is_alone(kind, tokens, monkeypatch):
    """In batches of one pass, and of all."""
    monkeypatch.setattr(sys.modules["bilens.circuits.rerun"], "TOKENS", tokens)
    model = build(kind)
    found = effects(model, IDS, 3, pairs=6)
    names = [knockout.what[0] for knockout in found.knockouts]
    assert len(set(names)) == len(names)
    assert {"L0H0", "L2H1", "attn1", "mlp0", "mlp2"} <= set(names)
    assert found.kinds.count("pair") == (0 if kind == "experts" else 6)
    assert found.kinds.count("expert") == (12 if kind == "experts" else 0)
    for name, one in list(zip(names, found.knockouts, strict=True))[::4]:
        for removal, alone in zip(
            one.removals, knockout(model, IDS, name, 3).removals, strict=True
        ):
            assert removal.after == pytest.approx(alone.after, abs=1e-12)
            assert removal.direct == pytest.approx(alone.direct, abs=1e-12)
    sizes = [abs(one.effect) for one in found.knockouts]
    assert sizes == sorted(sizes, reverse=True)


def test_each_way_has_its_own_verdict():
    """The second way's column is of its own effect and direct terms."""
    found = effects(bilens.load("tinystories-2l-swiglu").double(), PROMPT, TARGET, what=["attn0"])
    (row,) = found.to_frame().to_dict("records")
    zero, mean = row["the attribution"], row["the attribution, mean"]
    assert (zero, mean) == ("reversed", "confirmed")
    assert row["effect"] * row["direct"] < 0 < row["effect, mean"] * row["direct, mean"]


def test_the_pairs_tried_are_the_largest_terms():
    model = build("bilinear")
    terms = expand(model, IDS, 3, detail="pairs", cutoff=0, max_terms=None).terms
    pairs = [term for term in terms if term.component.startswith("mlp") and "(" in term.path]
    direct = {
        knockout.what[0]: knockout.direct
        for kind, knockout in zip(*_parts(effects(model, IDS, 3, pairs=7)), strict=True)
        if kind == "pair"
    }
    assert sorted(direct) == sorted(term.path for term in pairs[:7])
    for term in pairs[:7]:
        assert direct[term.path] == pytest.approx(term.value, rel=1e-10)


def _parts(found):
    return found.kinds, found.knockouts


def test_a_newcomer_finds_what_matters(tmp_path):
    """The components of the largest effects, of which the largest direct term is not one."""
    found = effects(bilens.load("tinystories-2l"), PROMPT, TARGET, with_="zero")
    parts = [row["what"] for row in found.rows() if row["kind"] != "pair"]
    assert {"mlp1", "attn1", "L0H1"} <= set(parts[:4])
    assert "L1H3" not in parts[:6]
    assert str(found).splitlines()[1].split()[0] == found.rows()[0]["what"].split()[0]
    found.save(tmp_path / "e.safetensors")
    assert Effects.load(tmp_path / "e.safetensors").rows() == found.rows()
    assert found.top(3).rows() == found.rows()[:3]
    bars, marks = found.plot().data
    assert list(marks.x) == [row["direct"] for row in found.rows()[:20]]
    assert list(bars.x) == [row["effect"] for row in found.rows()[:20]]


def test_what_is_asked_for_alone():
    model = build("gated")
    found = effects(model, IDS, 3, what=["L0H1", "L0H1→mlp1", 2, "mlp1(mlp0, mlp0)"])
    kinds = dict(zip((one.what[0] for one in found.knockouts), found.kinds, strict=True))
    assert kinds == {
        "L0H1": "head",
        "L0H1→mlp1": "edge",
        "@2": "embedding",
        "mlp1(mlp0, mlp0)": "pair",
    }
    assert found.before == pytest.approx(float(model(IDS[None]).logits[0, -1, 3]), rel=1e-12)


def test_a_pass_begins_where_it_first_differs(monkeypatch):
    """What is taken out last costs the last part alone."""
    model = build("bilinear")
    seen = []
    part_type = type(model.wiring().parts[0])
    run = part_type.run
    monkeypatch.setattr(part_type, "run", lambda self, x: seen.append(self.name) or run(self, x))
    effects(model, IDS, 3, what=["mlp2"])
    assert seen == ["attn0", "attn1", "attn2"]  # the recording's own


def test_a_position_does_not_change_the_kind():
    alone = {"mlp1": "layer", "attn1": "layer", "L1H0": "head", "mlp1(mlp0, mlp0)": "pair"}
    alone |= {"embed": "embedding", "L0H1→mlp1": "edge"}
    found = effects(build("gated"), IDS, 3, what=[f"{name}@2" for name in alone])
    kinds = {one.what[0]: kind for one, kind in zip(found.knockouts, found.kinds, strict=True)}
    assert kinds == {f"{name}@2": kind for name, kind in alone.items()}
    for what, kind in (("mlp1", "layer"), ("mlp1.expert0", "expert")):
        (found,) = effects(build("experts"), IDS, 3, what=[f"{what}@2"]).kinds
        assert found == kind


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"pairs": -1}, "pairs must be a whole number"),
        ({"pairs": 2.5}, "pairs must be a whole number"),
        ({"what": ["L7H7"]}, "what must be among embed"),
        ({"pairs": math.nan}, "pairs must be a whole number"),
        ({"what": []}, "what must name at least one"),
        ({"what": 3}, "what must be a list of what to take out, each alone; got 3"),
        ({"what": "L0H1"}, "what must be a list of what to take out, each alone; got 'L0H1'"),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_tried_is_refused(refuses, given, text):
    refuses(ArgumentError, lambda: effects(build("gated"), IDS, 3, **given), text)


@pytest.mark.bad_input
@pytest.mark.parametrize("k", [-1, 1.5, "a", True, math.nan, None])
def test_a_number_of_rows_is_a_whole_number(refuses, k):
    """A negative one would drop the smallest, unsaid."""
    model = build("gated")
    for found in (effects(model, IDS, 3, what=["L0H1"]), bilens.expand(model, IDS, 3)):
        refuses(ArgumentError, lambda found=found: found.top(k), "k must be a whole number ≥ 0")
        assert "\n" not in found.top(0).summary()
        assert found.top(0).plot() is not None

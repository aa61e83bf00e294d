"""A path by the hidden units of a layer on it: held against the path evaluated by hand, from the
model's weights, with all but one unit of the layer taken out.
"""

import pytest
import torch

import bilens
from bilens import circuits
from bilens.base.errors import ArgumentError
from bilens.circuits import record, units
from bilens.circuits.paths import Write, walk
from bilens.nn import ACTIVATIONS

IDS, TARGET = [1, 4, 2], 3
HIDDEN = 10


def build(act, gated, bias=False):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=4,
        hidden_act=act,
        gated=gated,
        mlp_bias=bias,
        initializer_range=0.5,
    )
    model = bilens.Transformer(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


class ByHand:
    """The value of a path of a model without biases, the ``which``-th time that it goes through
    ``layer`` by hidden unit ``k`` alone.
    """

    def __init__(self, model):
        self.model, self.record = model, record(model, IDS)

    @torch.no_grad()
    def value(self, tree, layer="", which=0, k=0):
        self.layer, self.which, self.k, self.met = layer, which, k, 0
        final = self.model.model.norm
        written = self.vector(tree) * final.weight * self.record.scales[-1][-1]
        return float(self.model.lm_head.weight[TARGET] @ written)

    def vector(self, node):
        if isinstance(node, Write):
            assert node.source == "embed"
            return self.model.model.embed_tokens.weight[IDS[node.t]]
        part = self.record.source(node.source).part
        block = self.model.model.layers[part // 2]
        if node.source.startswith("L"):
            (child,), (s,) = node.inputs, node.at
            head = int(node.source[-1])
            norm, rows = block.input_layernorm, slice(4 * head, 4 * head + 4)
            x = self.vector(child) * norm.weight * self.record.scales[part][s]
            weight = block.self_attn.o_proj.weight[:, rows] @ block.self_attn.v_proj.weight[rows]
            return self.record.patterns(part)[head, node.t, s] * (weight @ x)
        mine = node.source == self.layer and self.met == self.which
        self.met += node.source == self.layer
        return self.layer_writes(block, part, node, mine)

    def layer_writes(self, block, part, node, mine):
        norm, mlp = block.post_attention_layernorm, block.mlp
        scale = self.record.scales[part][node.t] * norm.weight
        read = self.record.streams[part][node.t] * scale
        act, gated = self.model.config.hidden_act, self.model.config.gated
        first = mlp.gate_proj if gated else mlp.up_proj
        a = first(read)
        x, *other = [self.vector(child) * scale for child in node.inputs]
        if len(node.inputs) == 1:
            hidden = ACTIVATIONS[act](a) / a * first(x)
        else:
            (y,) = other
            second = mlp.up_proj if gated else first
            hidden = first(x) * second(y) + (first(y) * second(x))
            hidden = hidden / 2 if node.inputs[0] == node.inputs[1] else hidden
            hidden = hidden * (ACTIVATIONS[act](a) / a if gated and act != "linear" else 1)
        if mine:
            hidden = hidden * (torch.arange(HIDDEN) == self.k)
        return mlp.down_proj(hidden)


@pytest.mark.parametrize(
    ("act", "gated"), [("silu", True), ("linear", True), ("gelu", False), ("square", False)]
)
def test_units_are_what_the_path_is_by_hand(act, gated):
    model = build(act, gated)
    ex = bilens.expand(model, IDS, TARGET, max_terms=400, cutoff=0)
    hand = ByHand(model)
    several = both = 0
    through = [
        t for t in ex.terms if t.order is not None and "mlp1(" in t.path and "mlp0" in t.path
    ][:4]
    twice = [t for t in ex.terms if t.order is not None and t.path.count("mlp0") > 1][:3]
    for term in dict.fromkeys([*through, *twice]):
        found = units(model, IDS, term, TARGET)
        assert found.value == pytest.approx(term.value, rel=1e-10)
        assert hand.value(term.tree) == pytest.approx(term.value, rel=1e-10)
        for layer in found.layers:
            rows = found.of(layer).units
            times = [n for n in walk(term.tree) if getattr(n, "source", "") == layer]
            several += layer == "mlp0" and len(times) > 1
            both += len(found.layers) > 1
            assert [row.layer for row in rows] == [
                f"{layer}@{t}" for t in sorted({n.t for n in times})
            ]
            carried = torch.stack([row.values for row in rows]).sum(0)
            assert float(carried.sum()) == pytest.approx(term.value, rel=1e-10)
            truth = [
                sum(hand.value(term.tree, layer, n, k) for n in range(len(times))) / len(times)
                for k in range(HIDDEN)
            ]
            size = max(map(abs, truth))
            assert carried.tolist() == pytest.approx(truth, abs=1e-10 * size)
    assert both  # some go through mlp1 and mlp0
    assert (several > 0) == (act != "gelu")  # some through mlp0 several times


def test_a_path_by_its_text_with_biases_signs_and_whole_writes():
    model = build("sigmoid", True, bias=True)
    ex = bilens.expand(model, IDS, TARGET, detail="pairs")
    for term in ex.terms:
        if term.path.startswith("mlp"):
            found = units(model, IDS, f" W_U · {term.path}", TARGET)
            size = max(abs(row["value"]) for row in found.rows())
            total = sum(row["value"] for row in found.rows())
            assert total == pytest.approx(term.value, abs=1e-10 * size)
    # a whole write is what by("unit") says of it, unit by unit, signs and all
    truth = dict(
        zip(*(getattr(ex.by("unit"), field) for field in ("names", "values")), strict=True)
    )
    for row in units(model, IDS, "mlp1", TARGET).rows():
        assert truth[row["unit"].replace("@2", "")] == pytest.approx(row["value"], rel=1e-12)
    assert "mlp1 = " in repr(units(model, IDS, "mlp1", TARGET))
    assert len(units(model, IDS, "mlp1", TARGET).figure()["data"][0]["x"]) == 21


def test_dictionaries_and_nearest_tensors_too():
    model = build("silu", True)
    torch.manual_seed(1)
    there = {"mlp1.input": Latents(torch.randn(7, 6).double())}
    x = torch.cat(list(bilens.models.activations(model, [[IDS] * 4], "mlp0.input")))
    near = bilens.approximate(model.model.layers[0].mlp, bilens.Gaussian.from_batches([x]))
    for given in ({"dictionaries": there}, {"replacements": {"mlp0": near}}):
        ex = bilens.expand(model, IDS, TARGET, **given)
        for term in [term for term in ex.terms if "mlp" in term.path][:8]:
            if term.path == "mlp0.error" or not {"mlp0(", "mlp1("} & set(_heads(term.path)):
                continue
            found = units(model, IDS, term, TARGET, **given)
            size = max(float(one.values.abs().max()) for one in found.units)
            for layer in found.layers:
                total = sum(float(one.values.sum()) for one in found.of(layer).units)
                assert total == pytest.approx(term.value, abs=1e-10 * size)


def _heads(path):
    return [name for name in ("mlp0(", "mlp1(") if name in path]


class Latents:
    """A dictionary of a person's own."""

    def __init__(self, writes):
        self.writes, self.base = writes, writes.new_zeros(6)

    def encode(self, x):
        return torch.relu(x @ self.writes.mT)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("path", "said"),
    [
        (7, "the path must be a term of an expansion, or its path; got int"),
        ("mlp1(", "the path 'mlp1(' must have a leaf"),
        ("embed", "the path must go through a layer with hidden units; got 'embed'"),
        ("L0H0@1→2(embed)", "the path must go through a layer with hidden units"),
        ("1", "must reach the target, as embed, L0H0, L0H1, mlp0, L1H0, L1H1, mlp1 do; got '1'"),
        ("mlp7(embed, embed)", "must reach the target"),
        ("mlp0(embed)", "must say what mlp0 reads, 2 of them; got 'mlp0(embed)'"),
        ("mlp0(mlp1, embed)", "must let mlp0 read what it reads at 2; got 'mlp1'"),
        ("mlp1(embed(x), embed)", "must go through what comes apart; got 'embed'"),
        ("L1H0@5→2(mlp0)", "must let L1H0 look where it does; got 'L1H0@5→2(mlp0)'"),
        ("mlp1(f3, embed)", "must let mlp1 read what it reads at 2; got 'f3'"),
    ],
    ids=[f"path {n}" for n in range(11)],
)
def test_what_is_no_path_of_the_pass_is_one_line(refuses, path, said):
    refuses(ArgumentError, lambda: units(build("silu", True), IDS, path, TARGET), said)


def test_a_layer_that_the_path_does_not_go_through(refuses):
    found = units(build("silu", True), IDS, "mlp1(mlp0, embed)", TARGET)
    assert found.layers == ("mlp1", "mlp0")
    refuses(ArgumentError, lambda: found.of("mlp3"), "layer must be one of mlp1, mlp0; got 'mlp3'")


@pytest.mark.parametrize(
    ("target", "unit"),
    [
        (3, " (logits)"),
        ((3, 7), " (logits)"),
        ({3: 2.0}, " (logits)"),
        (torch.ones(9, dtype=torch.float64), ""),
        (circuits.At(torch.ones(6, dtype=torch.float64), "mlp1.output"), ""),
    ],
    ids=["output", "pair", "weights", "direction", "inside"],
)
def test_axes_say_the_unit_where_it_is_known(target, unit):
    """Outputs are logits, of a classifier too; a direction that is given has no unit."""
    model = build("linear", True)
    ex = bilens.expand(model, IDS, target)
    found = [ex, ex.by("component"), ex.by("unit"), circuits.starts(ex)]
    found.append(circuits.units(model, IDS, "mlp1", target))
    if not isinstance(target, circuits.At):
        found.append(circuits.knockout(model, IDS, "mlp1", target))
    said = [one.figure()["layout"]["xaxis"]["title"]["text"] for one in found]
    bent = circuits.quadratic_lens(model, IDS, "mlp1", target)
    per = " (logits per squared unit)" if unit else ""
    assert bent.figure()["layout"]["xaxis"]["title"]["text"] == f"curvature{per}"
    if not isinstance(target, circuits.At):
        for one in (circuits.pairs(model, IDS, target), circuits.lens(model, IDS, target)):
            said.append(one.figure()["data"][0]["colorbar"]["title"]["text"])
        effects = circuits.effects(model, IDS, target, what=["mlp1"]).figure()
        axis, _, way = effects["layout"]["xaxis"]["title"]["text"].partition(",")
        assert way == " zero in its place"
        said.append(axis)
    assert [one for one in said if not one.endswith(unit) or ("logits" in one) != bool(unit)] == []


def test_the_readout_may_stand_in_front():
    model = build("silu", True)
    whole = units(model, IDS, "mlp1", TARGET).rows()
    for path in ("W_U mlp1", "W_U · mlp1"):
        assert units(model, IDS, path, TARGET).rows() == whole


@pytest.mark.bad_input
def test_the_constant_of_a_target_goes_through_no_layer(refuses):
    model = build("silu", True)
    model.lm_head.bias = torch.nn.Parameter(torch.ones(9, dtype=torch.float64))
    assert "1" in {term.path for term in bilens.expand(model, IDS, TARGET).terms}
    said = "the path must go through a layer with hidden units; got '1'"
    refuses(ArgumentError, lambda: units(model, IDS, "1", TARGET), said)

"""Knock-outs against a model built without the component, and what they say of the terms."""

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import At, Knockout, Removal, expand, knockout


def build(norm="rms", layers=2, **given):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=6,
        intermediate_size=4,
        num_hidden_layers=layers,
        num_attention_heads=2,
        head_dim=4,
        norm=norm,
        initializer_range=0.5,
        **given,
    )
    return bilens.Transformer(config).double().eval().requires_grad_(False)


TOKENS = torch.tensor([1, 4, 2, 7])


def by_hand(model, name):
    """The model with the component's own weights set to zero."""
    with torch.no_grad():
        if name.startswith("mlp"):
            model.blocks[int(name[3:])].mlp.down_proj.weight.zero_()
        elif name.startswith("attn"):
            model.blocks[int(name[4:])].self_attn.o_proj.weight.zero_()
        else:
            head = int(name[3:])
            model.blocks[int(name[1])].self_attn.o_proj.weight[:, 4 * head : 4 * head + 4].zero_()
    return float(model(TOKENS[None]).logits[0, -1, 3])


@pytest.mark.parametrize("name", ["L0H1", "L1H0", "mlp0", "mlp1", "attn0"])
def test_a_knock_out_is_the_model_without_the_component(name):
    found = knockout(build(), TOKENS, name, 3, with_="zero")
    assert found.before == pytest.approx(float(build()(TOKENS[None]).logits[0, -1, 3]), rel=1e-12)
    assert found.after == pytest.approx(by_hand(build(), name), rel=1e-10)
    assert found.effect == found.before - found.after


def test_the_sum_and_the_model_agree_where_nothing_downstream_reacts():
    """The last layer of a model without norms: what its term says is what happens."""
    model = build("none", attention_bias=True)
    terms = {term.path: term.value for term in expand(model, TOKENS, 3, detail="writes").terms}
    found = knockout(model, TOKENS, "mlp1", 3)
    assert found.effect == pytest.approx(terms["mlp1"], rel=1e-10)
    assert found.direct == pytest.approx(terms["mlp1"], rel=1e-10)
    mean = knockout(model, TOKENS, "mlp1", 3, with_="mean")
    assert mean.effect == pytest.approx(mean.direct, rel=1e-10)
    assert mean.effect != pytest.approx(found.effect)


def test_only_the_positions_named_are_touched():
    model = build()
    assert knockout(model, TOKENS, "mlp1", 3, at=[0, 1, 2]).effect == pytest.approx(0, abs=1e-12)
    everywhere, last = (knockout(model, TOKENS, "mlp1", 3, at=at).after for at in (None, [-1]))
    assert everywhere == pytest.approx(last, rel=1e-10)
    assert knockout(model, TOKENS, "L0H0", 3, at=[0]).after != pytest.approx(
        knockout(model, TOKENS, "L0H0", 3).after
    )


def test_the_model_is_left_as_it_was():
    model = build()
    before = model(TOKENS[None]).logits
    knockout(model, TOKENS, ["L0H0", "mlp1"], 3)
    assert torch.equal(model(TOKENS[None]).logits, before)


def test_layers_of_a_classifier_can_be_taken_out():
    torch.manual_seed(0)
    config = bilens.ClassifierConfig(
        input_shape=[4], hidden_size=5, num_hidden_layers=2, residual=True, id2label={0: "a"}
    )
    model = bilens.Classifier(config).double()
    image = torch.ones(4, dtype=torch.float64)
    found = knockout(model, image, ["mlp0", "mlp1"], "a")
    assert found.after == pytest.approx(float(model.head(model.embed(image))[0]), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"writes": "L7H0"}, "writes must be among L0H0, L0H1, mlp0, L1H0, L1H1, mlp1; got 'L7H0'"),
        ({"writes": "embed"}, "writes must be among"),
        ({"writes": []}, "writes must name at least one component"),
        ({"with_": "noise"}, "with_ must be one of zero, mean"),
        ({"at": [4]}, "at must hold positions -4 … 3; got 4"),
        ({"at": 9}, "at must hold positions -4 … 3; got 9"),
        ({"at": 1.5}, "at must be positions, or one; got 1.5"),
        ({"writes": None}, "writes must name components"),
        ({"writes": [3]}, "writes must name components"),
        ({"target": At(torch.zeros(6), "mlp0.input")}, "target must be over the outputs"),
        (
            {"inputs": TOKENS[:1], "with_": "mean"},
            'with_="mean" must have positions to take a mean over; got one',
        ),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_taken_out_is_refused(refuses, change, text):
    given = {"inputs": TOKENS, "writes": "mlp0", "target": 3} | change
    refuses(ArgumentError, lambda: knockout(build(), **given), text)


@pytest.mark.parametrize("name", ["L0H1", "L1H0", "mlp0", "mlp1"])
def test_the_mean_is_that_of_the_components_own_writes(name):
    """The whole pass by hand, layer by layer, with one write replaced by its mean."""
    model = build("none", positions="none")
    hidden = torch.ones(4, 4).triu(1).bool()
    x = model.W_E[TOKENS]
    for n, mlp in enumerate(block.mlp for block in model.blocks):
        scores = (x @ model.W_Q[n]) @ (x @ model.W_K[n]).mT / 2
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        written = list(pattern @ (x @ model.W_V[n]) @ model.W_O[n])
        for head in (0, 1):
            mean = written[head].mean(0)
            x = x + (mean if name == f"L{n}H{head}" else written[head])
        out = ((x @ mlp.gate_proj.weight.T) * (x @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
        x = x + (out.mean(0) if name == f"mlp{n}" else out)
    truth = float(x[-1] @ model.W_U[:, 3])
    assert knockout(model, TOKENS, name, 3, with_="mean").after == pytest.approx(truth, rel=1e-10)


def test_both_ways_are_tried_side_by_side():
    model = build()
    both = knockout(model, TOKENS, "L0H1", 3)
    assert [removal.replaced_by for removal in both.removals] == ["zero", "mean"]
    for removal in both.removals:
        alone = knockout(model, TOKENS, "L0H1", 3, with_=removal.replaced_by)
        assert len(alone.removals) == 1
        assert (alone.after, alone.direct) == (removal.after, removal.direct)
    assert (both.after, both.effect, both.direct) == (
        both.removals[0].after,
        both.removals[0].effect,
        both.removals[0].direct,
    )
    single = knockout(model, TOKENS[:1], "L0H1", 3)
    assert [removal.replaced_by for removal in single.removals] == ["zero"]
    rows = both.rows()
    assert [row["replaced by"] for row in rows] == ["zero", "mean"]
    assert all(row["before"] - row["after"] == row["effect"] for row in rows)


@pytest.mark.parametrize(
    ("effect", "direct", "verdict"),
    [
        (1.0, 1.0, "confirms"),
        (1.0, 1.99, "confirms"),
        (-1.99, -1.0, "confirms"),
        (1.0, 2.01, "differs in size"),
        (2.01, 1.0, "differs in size"),
        (0.001, 1.0, "differs in size"),
        (0.0, 1.0, "differs in size"),
        (1.0, 0.0, "differs in size"),
        (-0.1, 0.142, "contradicts in sign"),
        (1.0, -0.011, "contradicts in sign"),
        (1.0, -0.009, "differs in size"),  # no sign to speak of
        (0.0, 0.0, "confirms"),
        (1e-12, -1e-12, "confirms"),  # both are rounding
    ],
)
def test_what_the_intervention_says_of_the_terms(effect, direct, verdict):
    removal = Removal("zero", effect, 0.0, direct, 1e-10)
    assert removal.effect == effect
    assert removal.verdict == verdict


def made():
    removals = (Removal("zero", 2.0, 2.5, 0.25, 1e-10), Removal("mean", 2.0, 1.75, 0.25, 1e-10))
    return Knockout("'a' − 'b'", 3, ("L1H3",), removals)


def test_a_knock_out_says_in_words_what_it_found(tmp_path):
    found = made()
    assert found.summary() == (
        "'a' − 'b' at 3 without L1H3, 2 before: "
        "2.5 with zero in place, effect -0.5, direct terms 0.25: contradicts in sign; "
        "1.75 with mean in place, effect 0.25, direct terms 0.25: confirms"
    )
    assert [row["the attribution"] for row in found.rows()] == ["contradicts in sign", "confirms"]
    assert found.verdict == "contradicts in sign"
    found.save(tmp_path / "k.safetensors")
    assert Knockout.load(tmp_path / "k.safetensors").rows() == found.rows()
    figure = found.plot()
    assert [(bars.name, bars.x, bars.y) for bars in figure.data] == [
        ("effect of taking out", ("zero", "mean"), (-0.5, 0.25)),
        ("direct terms", ("zero", "mean"), (0.25, 0.25)),
    ]
    assert (figure.layout.barmode, figure.layout.yaxis.title.text) == ("group", "of 'a' − 'b'")


def test_the_readmes_head_is_contradicted():
    model = bilens.load("tinystories-2l")
    prompt = "Once upon a time there was a little"
    found = knockout(model, prompt, "L1H3", (" girl", " boy"))
    assert found.direct > 0
    assert found.effect < 0
    assert found.verdict == "contradicts in sign"


@pytest.mark.bad_input
def test_a_hook_that_changes_nothing_is_an_error(refuses):
    """A forward that goes around the module, and one that throws away what the module writes."""

    def around(x, turn=None, mask=None, cache=None, patterns=False):
        z, pattern = attention._look(*attention._project(x, turn), mask)
        return torch.nn.functional.linear(
            z.transpose(1, 2).flatten(2), attention.o_proj.weight
        ), pattern

    model = build()
    attention = model.blocks[1].self_attn
    attention.forward = around
    expand(model, TOKENS, 3)  # which is as good as before
    refuses(
        ArgumentError,
        lambda: knockout(model, TOKENS, "L1H0", 3),
        "without L1H0 must change; got no call of it",
    )

    model = build()
    mlp = model.blocks[1].mlp
    copied = torch.nn.Sequential(mlp)
    model.blocks[1].forward = lambda x, **attend: via(
        model.blocks[1], copied[0].forward, x, **attend
    )
    refuses(
        ArgumentError,
        lambda: knockout(model, TOKENS, "mlp1", 3),
        "without mlp1 must change; got no call of it",
    )
    model.blocks[1].forward = lambda x, **attend: via(model.blocks[1], ignoring(mlp), x, **attend)
    refuses(
        ArgumentError,
        lambda: knockout(model, TOKENS, "mlp1", 3),
        "must change; got the same outputs to the bit",
    )


def ignoring(mlp):
    def write(x):
        mlp(x)
        return mlp.forward(x)

    return write


def via(block, mlp, x, **attend):
    written, pattern = block.self_attn(block.input_layernorm(x), **attend)
    x = x + written
    return x + mlp(block.post_attention_layernorm(x)), pattern


def test_equal_outputs_of_a_pair_are_nothing_to_lose():
    found = knockout(build(), TOKENS, "mlp1", (3, 3))
    assert (found.before, found.after, found.direct, found.verdict) == (0, 0, 0, "confirms")

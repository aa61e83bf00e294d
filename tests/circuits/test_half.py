"""Half-precision models are explained in float32, where their weights are exact; what they say as
they are stands beside.
"""

import threading
import types

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import (
    At,
    Expansion,
    attention_scores,
    composition,
    expand,
    head_scores,
    knockout,
    ov_circuit,
    pairs,
    qk_circuit,
    record,
    virtual,
)

IDS = torch.tensor([1, 4, 2, 7])
HALVES = (torch.float16, torch.bfloat16)


def built(dtype, scale=1.0, **given):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9,
        hidden_size=8,
        intermediate_size=6,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
        **{"positions": "learned"} | given,
    )
    model = bilens.Transformer(config).eval()
    with torch.no_grad():
        for norm in (
            module for module in model.modules() if type(module).__name__.endswith("Norm")
        ):
            norm.weight.normal_()
    model = model.to(dtype)
    with torch.no_grad():
        # a coordinate of the stream whose square a half type cannot hold
        model.model.embed_tokens.weight[:, 3] *= scale
    return model


def in_float64(model):
    """The same weights, exactly, in another model."""
    made = bilens.Transformer(model.config).double().eval()
    made.load_state_dict({name: weight.double() for name, weight in model.state_dict().items()})
    return made


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [1.0, 800.0])
def test_the_value_is_that_of_the_weights_and_the_half_pass_is_said_beside_it(
    dtype, scale, tmp_path
):
    model = built(dtype, scale)
    ex, truth = expand(model, IDS, (3, 5)), expand(in_float64(model), IDS, (3, 5))
    assert ex.forward == pytest.approx(truth.forward, rel=1e-5, abs=1e-5)
    assert ex.total == pytest.approx(truth.forward, rel=1e-5, abs=1e-5)
    values = {term.path: term.value for term in truth.terms}
    assert all(
        term.value == pytest.approx(values[term.path], rel=1e-3, abs=1e-4) for term in ex.terms[:20]
    )
    logits = model(IDS[None]).logits[0, -1].detach().double()
    assert ex.as_run == float(logits[3] - logits[5])
    assert f"as run in half precision {ex.as_run:.6g}" in ex.summary()
    assert (truth.as_run, "as run" in truth.summary()) == (None, False)
    assert model.dtype is dtype
    ex.save(tmp_path / "ex.safetensors")
    assert Expansion.load(tmp_path / "ex.safetensors").top(3).as_run == ex.as_run


@pytest.mark.parametrize("dtype", HALVES)
def test_every_question_is_answered_in_float32(dtype):
    model = built(dtype)
    exact = in_float64(model)
    at = At(torch.arange(8.0), "mlp1.input")
    for ask in (
        lambda model: expand(model, IDS, at).forward,
        lambda model: expand(model, IDS, At(torch.arange(8.0), "mlp0.output")).total,
        lambda model: knockout(model, IDS, "L0H1", 3).after,
        lambda model: attention_scores(model, IDS, 1, 0, -1, 1).forward,
        lambda model: attention_scores(model, IDS, 1, 0, -1, 1).total,
        lambda model: sum(row["value"] for row in pairs(model, IDS, 3).rows()),
        lambda model: float(head_scores(model, block=3).induction[1]),
    ):
        assert ask(model) == pytest.approx(ask(exact), rel=2e-5, abs=1e-5)
    heard = []
    with model.blocks[1].mlp.register_forward_pre_hook(
        lambda _, given: heard.append(given[0][0, -1])
    ):
        model(IDS[None])
    assert expand(model, IDS, at).as_run == pytest.approx(
        float(heard[0].double() @ at.direction.double()), rel=1e-5
    )


def test_a_classifier_in_half_precision():
    torch.manual_seed(0)
    config = bilens.ClassifierConfig(
        input_shape=[4], hidden_size=5, num_hidden_layers=2, residual=True, id2label={0: "a"}
    )
    model = bilens.Classifier(config).half()
    image = torch.rand(4)
    ex = expand(model, image, "a")
    assert ex.forward == pytest.approx(
        float(bilens.Classifier.float(model)(image[None]).logits[0, 0]), rel=1e-5
    )
    assert ex.as_run is not None


WEIGHTS_ALONE = {
    "qk_circuit": lambda model: qk_circuit(model, 1, 0, -2).dense(),
    "ov_circuit": lambda model: ov_circuit(model, 1, 1).dense(),
    "virtual": lambda model: virtual(model, "W_U mlp1(embed, L0H1)").dense(),
    "virtual QK": lambda model: virtual(model, "L1H1[-1].QK(embed, L0H0)").dense(),
    "composition": lambda model: composition(model).strength,
}


@pytest.mark.parametrize("kind", ["rope", "learned"])
@pytest.mark.parametrize("verb", WEIGHTS_ALONE)
@pytest.mark.parametrize("dtype", HALVES)
def test_of_the_weights_alone_factors_are_in_float32(dtype, verb, kind):
    model, ask = (
        built(dtype, positions=kind, norm="rms" if kind == "rope" else "layer"),
        WEIGHTS_ALONE[verb],
    )
    got, truth = ask(model), ask(in_float64(model))
    assert got.dtype == (torch.float64 if verb.startswith(("virtual", "comp")) else torch.float32)
    assert torch.allclose(got.double(), truth, rtol=0, atol=2e-6 * float(truth.abs().max()))
    if verb != "composition":
        got.square().sum().backward()
        assert float(model.W_E.grad.abs().sum()) > 0


def hung(model, how):
    """A model with something of a person's own on it, which holds on to its half weights."""
    mlp = model.blocks[0].mlp
    if how == "the model's forward":
        before = model.forward
        model.forward = lambda *given, **named: before(*given, **named)
    elif how == "a part's forward":
        inner = mlp.forward
        mlp.forward = lambda x: inner(x)
    elif how == "a hook":
        mlp.register_forward_hook(lambda module, given, found: model.blocks[1].mlp(given[0]))
    else:
        mlp.lock = threading.Lock()
    return model


ALL = WEIGHTS_ALONE | {
    "expand": lambda model: expand(model, IDS, 3),
    "expand an input": lambda model: expand(
        model=model, inputs=IDS, target=At(torch.arange(8.0), "mlp1.input")
    ),
    "knockout": lambda model: knockout(model, IDS, "L0H1", 3),
    "pairs": lambda model: pairs(model, IDS, 3),
    "attention_scores": lambda model: attention_scores(model, IDS, 1, 0, -1, 1),
    "head_scores": lambda model: head_scores(model, block=3),
    "record": lambda model: record(model, IDS),
}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("the model's forward", "the forward of Transformer must be its class's own, or a method"),
        ("a part's forward", "the forward of GatedMLP must be its class's own, or a method"),
        ("a hook", "the model must run in float32 over its half-precision weights; got "),
        ("a lock", "the model must be one that can be copied, to be read in float32"),
    ],
    ids=["model", "part", "hook", "lock"],
)
def test_what_holds_on_to_half_weights_is_refused_in_one_line(how, says, refuses):
    model = hung(built(torch.bfloat16), how)
    for name, ask in ALL.items():
        if how == "a hook" and name in ("qk_circuit", "ov_circuit", "virtual", "virtual QK"):
            ask(model)  # which never run that part
        else:
            refuses(ArgumentError, lambda ask=ask: ask(model), says, "Ask of model.float()")


def test_a_method_goes_along_into_the_copy():
    model, plain = built(torch.bfloat16), expand(built(torch.bfloat16), IDS, 3)
    mlp = model.blocks[0].mlp
    mlp.forward = types.MethodType(type(mlp).forward, mlp)
    assert expand(model, IDS, 3).total == plain.total
    inner = mlp.forward
    mlp.forward = lambda x: inner(x)
    assert expand(model.float(), IDS, 3).total == plain.total

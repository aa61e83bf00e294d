"""Half-precision models are explained in float32, where their weights are exact; what they say as
they are stands beside.
"""

import pytest
import torch

import bilens
from bilens.circuits import At, Expansion, attention_scores, expand, head_scores, knockout, pairs

IDS = torch.tensor([1, 4, 2, 7])
HALVES = (torch.float16, torch.bfloat16)


def built(dtype, scale=1.0):
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=9, hidden_size=8, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2,
        positions="learned", initializer_range=0.5,
    )  # fmt: skip
    model = bilens.Transformer(config).to(dtype).eval()
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

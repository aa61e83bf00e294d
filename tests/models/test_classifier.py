"""The classifier is the tensor it says it is: at every depth, with and without residual and
biases.
"""

import itertools

import pytest
import torch

from bilens import Classifier, ClassifierConfig, NotExactError
from bilens.base.errors import ArgumentError, ConfigError, ShapeError
from bilens.checks import truncate

KINDS = list(itertools.product((1, 2, 3), (False, True), (False, True)))


def build(depth=1, residual=False, bias=False, shape=(3, 4), width=9, classes=5):
    torch.manual_seed(depth)
    config = ClassifierConfig(
        input_shape=shape,
        hidden_size=width,
        num_hidden_layers=depth,
        residual=residual,
        bias=bias,
        num_labels=classes,
    )
    return Classifier(config).double().eval()


@pytest.fixture(
    params=KINDS, ids=lambda kind: f"{kind[0]} layers, residual {kind[1]}, bias {kind[2]}"
)
def model(request):
    return build(*request.param)


@pytest.fixture
def pixels(make):
    return make.randn(6, 3, 4)


def test_layers_add_up_to_the_forward_pass(model, pixels, close):
    """x_{l+1} = [x_l +] T_l(x_l), with the head on the last: rebuilt from tensors and linear maps
    alone.
    """
    config, last = model.config, model.config.num_hidden_layers - 1
    x = model.embed(pixels.flatten(1))
    for layer in range(last):
        x = config.residual * x + model.tensor(layer)(model.inputs(pixels, layer))
    logits = model.tensor(last)(model.inputs(pixels, last)) + config.residual * (
        x @ model.head.weight.T
    )
    logits = logits if model.head.bias is None else logits + model.head.bias
    close(logits, model(pixels).logits)


def test_one_layer_is_one_tensor(model, pixels, close):
    if model.config.num_hidden_layers == 1:
        close(model.tensor()(model.inputs(pixels)), model(pixels).logits)
        return
    with pytest.raises(
        NotExactError, match=r"layers, whose logits have degree \d+\. Read it layer by layer"
    ):
        model.tensor()


def test_the_parts_of_a_biased_model(pixels, close):
    model = build(1, residual=True, bias=True)
    found, x = model.tensor().split(), pixels.flatten(1)
    close(found.constant, model(torch.zeros_like(pixels)).logits[0])
    jacobian = torch.func.jacrev(lambda x: model(x[None]).logits[0])(torch.zeros_like(x[0]))
    close(found.linear, jacobian)
    close(found(x), model(pixels).logits)


def test_gradients_reach_every_parameter_through_the_tensor(pixels):
    model = build(1, residual=True, bias=True)
    model.tensor()(model.inputs(pixels)).square().sum().backward()
    through_tensor = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model(pixels).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(through_tensor[name], parameter.grad)


def test_noise_is_for_training_alone(pixels):
    model = build()
    model.config.input_noise = 0.5
    torch.testing.assert_close(model(pixels).logits, model(pixels).logits, rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(pixels).logits, model(pixels).logits)


def test_loss_is_cross_entropy_in_nats(pixels):
    model, labels = build(), torch.arange(6) % 5
    output = model(pixels, labels=labels)
    torch.testing.assert_close(
        output.loss, -output.logits.log_softmax(-1)[torch.arange(6), labels].mean()
    )


def test_flat_and_shaped_pixels_are_the_same(pixels):
    model = build()
    assert torch.equal(model(pixels).logits, model(pixels.flatten(1)).logits)


@pytest.mark.parametrize("kept", [slice(None), slice(0, 4)], ids=["all", "some"])
def test_loss_over_the_labels_that_count(pixels, kept):
    model, labels = build(2), torch.full((6,), -100)
    labels[kept] = torch.arange(6)[kept] % 5
    log = model(pixels).logits.log_softmax(-1)
    parts = torch.stack([-log[n, labels[n]] for n in range(6) if labels[n] >= 0])
    torch.testing.assert_close(model(pixels, labels=labels).loss, parts.mean())
    torch.testing.assert_close(
        model(pixels, labels=labels.to(torch.int32), num_items_in_batch=11).loss, parts.sum() / 11
    )


def test_hidden_states_are_the_stream(model, pixels, close):
    streams = model(pixels, output_hidden_states=True).hidden_states
    assert len(streams) == model.config.num_hidden_layers + 1
    assert torch.equal(model.head(streams[-1]), model(pixels).logits)
    for layer, (before, after) in enumerate(itertools.pairwise(streams)):
        w = model.layers[layer]
        close(after, model.config.residual * before + w.w1(before) * w.w2(before))
    logits, hidden = model(pixels, output_hidden_states=True, return_dict=False)
    assert torch.equal(logits, model(pixels).logits)
    assert len(hidden) == len(streams)
    assert model(pixels).hidden_states is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(pixels, reentrant):
    model, passes = build(3, residual=True).train(), []

    def gradients():
        model.zero_grad()
        model(pixels, labels=torch.arange(6) % 5).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients()
    model.layers[1].register_forward_pre_hook(lambda *_: passes.append(1))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], rtol=0, atol=0)
    assert len(passes) == 2


@pytest.mark.bad_input  # checks of shapes are no graph
def test_compile_has_one_graph(pixels):
    model = build(2, residual=True)
    run = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        run(pixels, labels=torch.arange(6) % 5).loss, model(pixels, labels=torch.arange(6) % 5).loss
    )
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2), (torch.float32, 1e-5)]
)
def test_a_model_takes_pixels_of_any_floating_dtype(pixels, close, dtype, tol):
    model = build(2, bias=True).to(dtype)
    truth = build(2, bias=True)
    truth.load_state_dict(model.state_dict())
    for given in (pixels, pixels.float(), pixels.bfloat16()):
        got = model(given, labels=torch.arange(6) % 5)
        wanted = truth(given.to(dtype), labels=torch.arange(6) % 5)
        assert got.logits.dtype == dtype
        assert got.loss.dtype == torch.float32
        close(got.logits, wanted.logits, tol=tol)
        close(got.loss, wanted.loss, tol=tol)


def test_keeping_all_eigenvectors_is_the_model_itself(model, pixels):
    found = truncate(model, pixels, model(pixels).logits.argmax(-1), kept=(1, 2))
    assert found.full == found.zero[-1] == 1.0
    assert found.kept[:2] == (1, 2)
    assert len(found.to_frame()) == len(found.kept)


def test_truncation_drops_the_smallest_terms():
    """A diagonal model by hand: class c is 2 x_c² + 1 x_{c+1}², so one eigenvector per class leaves
    2 x_c².
    """
    model = build(1, shape=(3,), width=3, classes=3)
    with torch.no_grad():
        for linear in (model.embed, model.layers[0].w1, model.layers[0].w2):
            linear.weight.copy_(torch.eye(3))
        model.head.weight.copy_(2 * torch.eye(3) + torch.eye(3).roll(1, 1))
    # class 0: 2 + 1.69 = 3.69 > class 1: 3.38, but 2 < 3.38
    pixels = torch.tensor([[1.0, 1.3, 0.0]]).double()
    found = truncate(model, pixels, torch.tensor([0]), kept=(1,))
    assert (found.full, found.zero) == (1.0, (0.0, 1.0))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hiden_size": 8}, "ClassifierConfig.hiden_size must be a key it knows"),
        ({"hidden_size": 0}, "hidden_size must be a whole number ≥ 1; got 0"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers must be a whole number ≥ 1; got 1.5"),
        ({"input_shape": [0, 3]}, "input_shape must be whole numbers ≥ 1"),
        ({"input_shape": 5}, "input_shape must be whole numbers ≥ 1; got 5"),
        ({"residual": "yes"}, "residual must be true or false; got 'yes'"),
        ({"hidden_size": True}, "hidden_size must be a whole number ≥ 1; got True"),
        ({"hidden_size": 10**12}, "hidden_size must be 1 … 2147483647"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label must name the classes 0, 1, 2, …; got [0, 2]"),
        ({"input_noise": float("nan")}, "input_noise must be a finite number ≥ 0; got nan"),
    ],
)
def test_a_config_refuses_what_it_does_not_understand(refuses, change, text):
    refuses(ConfigError, lambda: ClassifierConfig(**change), text)


@pytest.mark.bad_input
def test_wrong_calls(refuses):
    model = build(2)
    refuses(
        ShapeError,
        lambda: model(torch.zeros(2, 4, 3).double()),
        "pixel_values must be (batch, 3, 4) or (batch, 12)",
    )
    refuses(ArgumentError, lambda: model.tensor(2), "layer must be 0 … 1; got 2")
    x = torch.zeros(2, 12).double()
    refuses(
        ShapeError,
        lambda: model(x.to(torch.uint8)),
        "pixel_values must be floating; got torch.uint8. Scale them",
    )
    refuses(
        ArgumentError,
        lambda: model(x, lables=x),
        "Classifier.forward: lables must be an argument it knows",
        "labels?",
    )
    refuses(
        ArgumentError,
        lambda: model(x, output_attentions=True),
        "output_attentions must be an argument it knows",
    )
    refuses(
        ArgumentError,
        lambda: model(x, output_hidden_states=2),
        "output_hidden_states must be true or false; got 2",
    )
    refuses(
        ShapeError,
        lambda: model(x, labels=torch.zeros(2, 5)),
        "labels must be (2,), one for each image; got (2, 5)",
    )
    refuses(
        ShapeError,
        lambda: model(x, labels=torch.zeros(3).long()),
        "labels must be (2,), one for each image; got (3,)",
    )
    refuses(
        ShapeError,
        lambda: model(x, labels=torch.zeros(2)),
        "labels must be whole numbers; got torch.float32",
    )
    refuses(
        ArgumentError, lambda: model(x, labels=torch.tensor([0, 5])), "labels must be 0 … 4; got 5"
    )

"""Layers: the tensor is the layer exactly, biases and all; gradients reach the parameters; the rest
is refused in words.
"""

import pytest
import torch
from torch.func import hessian

from bilens.algebra import homogeneous
from bilens.base.errors import ConfigError, NotExactError
from bilens.nn import MLP, Bilinear, BilinearMLP, GatedMLP
from bilens.nn.mlp import ACTIVATIONS

EXACT = {
    "Bilinear": lambda bias: Bilinear(4, 3, bias),
    "BilinearMLP": lambda bias: BilinearMLP(4, 7, bias),
    "GatedMLP linear": lambda bias: GatedMLP(4, 7, bias, act="linear"),
    "MLP square": lambda bias: MLP(4, 7, bias, act="square"),
}


@pytest.fixture(params=[False, True], ids=["bare", "biased"])
def bias(request):
    return request.param


@pytest.fixture(params=EXACT)
def layer(request, bias, make):
    return filled(EXACT[request.param](bias), make)


def filled(layer, make):
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(make.randn(*parameter.shape))
    return layer


def over(x, bias):
    return homogeneous(x) if bias else x


def test_tensor_is_the_layer(layer, bias, make, close):
    for shape in ((4,), (5, 4), (2, 3, 4)):
        x = make.randn(*shape)
        close(layer.tensor()(over(x, bias)), layer(x))


def test_float32_too(layer, bias, make, close):
    x = make.randn(5, 4).float()
    layer.float()
    close(layer.tensor()(over(x, bias)), layer(x))


def test_hessian_is_twice_the_interaction_matrix(layer, bias, make, close):
    out = layer.tensor().shape[0]
    u, x = make.randn(out), make.randn(4)
    quadratic = layer.tensor().interaction(u).dense()[int(bias) :, int(bias) :]
    close(hessian(lambda x: layer(x) @ u)(x), 2 * quadratic)


def test_gradients_reach_every_parameter_as_through_the_layer(layer, bias, make, close):
    x = make.randn(5, 4)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    through = torch.autograd.grad(layer(x).square().sum(), parameters)
    got = torch.autograd.grad(layer.tensor()(over(x, bias)).square().sum(), parameters)
    for name, one, other in zip(names, got, through, strict=True):
        assert float(other.abs().max()) > 0, name
        close(one, other)


def test_tensor_is_a_view_of_the_weights(make, close):
    layer = filled(BilinearMLP(4, 7), make)
    tensor = layer.tensor()
    assert tensor.out is layer.down_proj.weight
    assert (tensor.left is layer.gate_proj.weight, tensor.right is layer.up_proj.weight) == (
        True,
        True,
    )
    x = make.randn(5, 4)
    with torch.no_grad():
        layer.up_proj.weight.mul_(2)
    close(tensor(x), layer(x))


def test_the_notes_layer_is_the_product_of_two_projections(make, close):
    layer, x = filled(Bilinear(4, 3), make), make.randn(5, 4)
    b = torch.einsum("ij,ik->ijk", layer.w1.weight, layer.w2.weight)
    close(layer(x), torch.einsum("bj,ijk,bk->bi", x, b, x))
    close(layer.tensor().dense(), b)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_are_torchs(act, make, close):
    x = make.randn(5, 4)
    truth = {
        "linear": lambda v: v,
        "relu": torch.relu,
        "relu2": lambda v: torch.relu(v) ** 2,
        "square": lambda v: v * v,
        "gelu": torch.nn.GELU(),
        "gelu_pytorch_tanh": torch.nn.GELU("tanh"),
        "silu": lambda v: v * torch.sigmoid(v),
        "sigmoid": lambda v: 1 / (1 + torch.exp(-v)),
        "quick_gelu": lambda v: v / (1 + torch.exp(-1.702 * v)),
        "tanh": lambda v: (torch.exp(v) - torch.exp(-v)) / (torch.exp(v) + torch.exp(-v)),
    }[act]
    gated, plain = filled(GatedMLP(4, 7, True, act), make), filled(MLP(4, 7, True, act), make)
    close(gated(x), gated.down_proj(truth(gated.gate_proj(x)) * gated.up_proj(x)))
    close(plain(x), plain.down_proj(truth(plain.up_proj(x))))


@pytest.mark.parametrize("act", sorted(set(ACTIVATIONS) - {"linear", "square"}))
@pytest.mark.parametrize(("kind", "exact"), [(GatedMLP, "linear"), (MLP, "square")])
def test_a_nonlinear_layer_has_no_exact_tensor(kind, exact, act, refuses):
    refuses(
        NotExactError,
        kind(4, 7, act=act).tensor,
        f'{kind.__name__}.tensor() must be asked of a layer with act="{exact}"; got act="{act}"',
        "Read it given its gates, as circuits do, or take bilens.approximate(layer, …).",
    )


@pytest.mark.parametrize(
    "layer", [MLP(4, 7, act="linear"), GatedMLP(4, 7, act="square")], ids=lambda layer: layer.act
)
def test_what_is_a_polynomial_is_not_called_something_else(layer):
    with pytest.raises(NotExactError) as caught:
        layer.tensor()
    assert "no polynomial" not in str(caught.value)


@pytest.mark.parametrize("kind", [GatedMLP, MLP])
def test_unknown_activation(kind, refuses):
    refuses(
        ConfigError,
        lambda: kind(4, 7, act="swish"),
        "act must be one of linear, relu,",
        "got 'swish'.",
    )


@torch.no_grad()
def test_biases_are_not_dropped(make):
    """The peer's fault: a tensor without the biases is off by as much as the output."""
    layer, x = filled(BilinearMLP(4, 7, bias=True), make), make.randn(50, 4)
    bare = BilinearMLP(4, 7).double()
    bare.load_state_dict(
        {name: value for name, value in layer.state_dict().items() if name.endswith("weight")}
    )
    off = (bare.tensor()(x) - layer(x)).norm() / layer(x).norm()
    assert float(off) > 0.1
    assert float((layer.tensor()(homogeneous(x)) - layer(x)).norm() / layer(x).norm()) < 1e-12

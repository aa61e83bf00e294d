"""Elementwise functions of an MLP, each as what it gives and as a gate on what it is given.

act(a) = s(a) · a + act(0): s is the gate, in the limit act′(0) at 0. Where s is held as a pass had
it, the layer is linear in a. silu has s = σ(a), gelu Φ(a), relu 1[a > 0].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """``function`` gives act(a), ``gate`` gives s(a) = (act(a) − act(0)) / a, and ``at_zero``
    is act(0).

    >>> gelu = bilens.nn.ACTIVATIONS["gelu"]
    >>> a = torch.tensor([2.0])
    >>> torch.allclose(gelu.gate(a) * a, gelu.function(a))
    True
    """

    function: Elementwise
    gate: Elementwise
    at_zero: float = 0.0

    def __call__(self, a: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.function(a)


def _relu2(a: Tensor) -> Tensor:
    return functional.relu(a).square()


def _gelu_tanh(a: Tensor) -> Tensor:
    return functional.gelu(a, approximate="tanh")


def _gelu_tanh_gate(a: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))


def _quick_gelu_gate(a: Tensor) -> Tensor:
    return torch.sigmoid(1.702 * a)


def _step(a: Tensor) -> Tensor:
    return (a > 0).to(a)


def _tanh_gate(a: Tensor) -> Tensor:
    nonzero = torch.where(a == 0, torch.ones_like(a), a)
    return torch.where(a == 0, torch.ones_like(a), torch.tanh(nonzero) / nonzero)


def _sigmoid_gate(a: Tensor) -> Tensor:
    return 0.25 * _tanh_gate(a / 2)  # σ(a) = ½ + ½ tanh(a / 2)


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda a: a, torch.ones_like),
    "relu": Activation(functional.relu, _step),
    "relu2": Activation(_relu2, functional.relu),
    "square": Activation(torch.square, lambda a: a),
    "gelu": Activation(functional.gelu, torch.special.ndtr),
    "gelu_pytorch_tanh": Activation(_gelu_tanh, _gelu_tanh_gate),
    "quick_gelu": Activation(lambda a: a * _quick_gelu_gate(a), _quick_gelu_gate),
    "silu": Activation(functional.silu, torch.sigmoid),
    "sigmoid": Activation(torch.sigmoid, _sigmoid_gate, at_zero=0.5),
    "tanh": Activation(torch.tanh, _tanh_gate),
}

"""The note's bilinear layer."""

from jaxtyping import Float
from torch import Tensor, eye, nn

from bilens.algebra import CP, affine


class Bilinear(nn.Module):
    """g(x) = (W1 x + b1) ⊙ (W2 x + b2): no elementwise nonlinearity, so linear operations and one
    third-order tensor.

    B_ijk = W1_ij W2_ik and g(x) = x ·12 B ·21 x. Source: Sharkey, arXiv:2305.03452, section 2.

    >>> layer = bilens.nn.Bilinear(4, 6)
    >>> torch.allclose(layer.tensor()(x[:, :4]), layer(x[:, :4]), atol=1e-6)
    True
    """

    def __init__(self, d_in: int, d_out: int, bias: bool = False) -> None:
        super().__init__()
        self.w1 = nn.Linear(d_in, d_out, bias=bias)
        self.w2 = nn.Linear(d_in, d_out, bias=bias)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return self.w1(x) * self.w2(x)

    def tensor(self) -> CP:
        """This very layer as a tensor: a view of the weights, gradients flow. Over (1, x) where it
        has biases.
        """
        identity = eye(
            self.w1.out_features, dtype=self.w1.weight.dtype, device=self.w1.weight.device
        )
        return affine(identity, self.w1.weight, self.w2.weight, None, self.w1.bias, self.w2.bias)

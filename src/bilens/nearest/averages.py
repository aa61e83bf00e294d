"""Averages of an activation and of its derivatives where what it is given is normal.

    E_n = E[act⁽ⁿ⁾(a)] = E[act(a) He_n(z)] / σⁿ        a = m + σ z, z standard normal

(Stein's lemma, n times). linear and square have closed forms as polynomials, relu and relu² by
truncated moments, gelu by convolution of Gaussians; the others are integrated by Gauss and
Hermite's rule, and a finer rule says how well. Where σ is small, of such quotients rounding is
left: there act⁽ⁿ⁾ itself is averaged.
"""

import functools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.nn import ACTIVATIONS

# the first is ample for smooth functions over a few units of their own width
RULES = (201, 401, 801)
GOOD = 1e-10
NARROW, FEW = 0.1, 21  # of a spread; nodes that are ample for the derivatives there
CHUNK = 2**22  # values of an activation at once


class Averages(NamedTuple):
    """``values``: E_0 … E_n by unit; ``error``: how far a finer rule is from them, over the
    largest E[act(a) He_n(z)], and 0 for closed forms.
    """

    values: Float[Tensor, "n h"]
    error: float


def averages(
    act: str, mean: Float[Tensor, " h"], spread: Float[Tensor, " h"], highest: int
) -> Averages:
    """E_0 … E_highest for a = mean + spread · z, in float64. Where ``spread`` is 0 nothing is known
    of a slope, and E_1 … are 0. Cost: h · nodes.
    """
    seen = spread > 0
    sigma = torch.where(seen, spread, torch.ones_like(spread))
    if act in CLOSED:
        values, error = CLOSED[act](mean, sigma, highest), 0.0
    else:
        made, error = _integrated(act, mean, sigma, highest)
        values = made / sigma ** torch.arange(highest + 1, device=sigma.device)[:, None]
        narrow = sigma < NARROW
        values[:, narrow] = _by_derivatives(act, mean[narrow], sigma[narrow], highest)
    at_mean = ACTIVATIONS[act](mean)
    values = torch.where(seen, values, torch.zeros_like(values))
    values[0] = torch.where(seen, values[0], at_mean)
    return Averages(values, error)


def hermite_values(z: Float[Tensor, "*b"], highest: int) -> Float[Tensor, "n *b"]:
    """He_0 … He_highest, the polynomials of the statistician: He_{n+1} = z He_n − n He_{n−1}."""
    values = [torch.ones_like(z), z]
    for n in range(1, highest):
        values.append(z * values[n] - n * values[n - 1])
    return torch.stack(values[: highest + 1])


@functools.cache
def rule(nodes: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Nodes and weights for averages over a standard normal: the eigenvalues of the Jacobi matrix,
    and the squares of its eigenvectors' first entries. Source: Golub and Welsch 1969.
    """
    beside = torch.arange(1, nodes, dtype=torch.float64, device="cpu").sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return values, vectors[0].square()


def _integrated(
    act: str, mean: Tensor, sigma: Tensor, highest: int
) -> tuple[Float[Tensor, "n h"], float]:
    """E[act(a) He_n(z)] by ever finer rules, until two agree, and how far the last two are
    apart.
    """
    made, error = _by_rule(act, mean, sigma, highest, RULES[0]), math.inf
    for nodes in RULES[1:]:
        coarse, made = made, _by_rule(act, mean, sigma, highest, nodes)
        largest = float(made.abs().max()) if made.numel() else 0.0
        error = float((coarse - made).abs().max()) / largest if largest else 0.0
        if error <= GOOD:
            break
    return made, error


def _by_rule(act: str, mean: Tensor, sigma: Tensor, highest: int, nodes: int) -> Tensor:
    """E[act(a) He_n(z)], a chunk of units at a time."""
    z, weights = (part.to(mean.device) for part in rule(nodes))
    weighted = weights * hermite_values(z, highest)
    step = max(1, CHUNK // nodes)
    return torch.cat(
        [
            weighted @ ACTIVATIONS[act](m + s * z[:, None])
            for m, s in zip(mean.split(step), sigma.split(step), strict=True)
        ],
        dim=1,
    )


def _by_derivatives(act: str, mean: Tensor, sigma: Tensor, highest: int) -> Tensor:
    """E[act⁽ⁿ⁾(a)] of a smooth activation over narrow spreads, a chunk of units at a time."""
    z, weights = (part.to(mean.device) for part in rule(FEW))
    step = max(1, CHUNK // FEW // 2**highest)
    made = [
        weights @ _derivatives(act, m + s * z[:, None], highest)
        for m, s in zip(mean.split(step), sigma.split(step), strict=True)
    ]
    return torch.cat(made, dim=1)


@torch.inference_mode(False)
@torch.enable_grad()
def _derivatives(act: str, a: Float[Tensor, "*b"], highest: int) -> Float[Tensor, "n *b"]:
    """act(a), act′(a) … of an activation that is smooth and no polynomial."""
    a = a.detach().clone().requires_grad_()  # a clone: of one made in inference mode too
    found = [ACTIVATIONS[act](a)]
    for _ in range(highest):
        found += torch.autograd.grad(found[-1].sum(), a, create_graph=True)
    return torch.stack(found).detach()


def _density(t: Tensor) -> Tensor:
    return torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi)


def _linear(mean: Tensor, sigma: Tensor, highest: int) -> Tensor:
    none = torch.zeros_like(mean)
    return torch.stack([mean, torch.ones_like(mean), *[none] * highest][: highest + 1])


def _square(mean: Tensor, sigma: Tensor, highest: int) -> Tensor:
    """a² has the slope 2 a."""
    square = mean.square() + sigma.square()
    return torch.cat([square[None], 2 * _linear(mean, sigma, highest)])[: highest + 1]


def _relu(mean: Tensor, sigma: Tensor, highest: int) -> Tensor:
    """E_{n+2} = E[δ⁽ⁿ⁾(a)] = (−1)ⁿ He_n(t) φ(t) / σ^{n+1}, t = m / σ."""
    t = mean / sigma
    above, density = torch.special.ndtr(t), _density(t)
    found = [mean * above + sigma * density, above]
    signs = hermite_values(-t, max(highest - 2, 1))
    found += [signs[n] * density / sigma ** (n + 1) for n in range(highest - 1)]
    return torch.stack(found[: highest + 1])


def _relu2(mean: Tensor, sigma: Tensor, highest: int) -> Tensor:
    """relu² has the slope 2 relu."""
    t = mean / sigma
    above, density = torch.special.ndtr(t), _density(t)
    square = (mean.square() + sigma.square()) * above + mean * sigma * density
    return torch.cat([square[None], 2 * _relu(mean, sigma, max(highest - 1, 0))])[: highest + 1]


def _gelu(mean: Tensor, sigma: Tensor, highest: int) -> Tensor:
    """(aΦ)⁽ⁿ⁾ = a Φ⁽ⁿ⁾ + n Φ⁽ⁿ⁻¹⁾, E[a Φ⁽ⁿ⁾] = m E[Φ⁽ⁿ⁾] + σ² E[Φ⁽ⁿ⁺¹⁾], and E[Φ(a)] = Φ(m / √(1 +
    σ²)) is differentiated in m.
    """
    wide = (1 + sigma.square()).sqrt()
    t = mean / wide
    signs, density = hermite_values(-t, highest + 1), _density(t)
    phi = [torch.special.ndtr(t)]
    phi += [signs[n] * density / wide ** (n + 1) for n in range(highest + 1)]
    found = [mean * phi[0] + sigma.square() * phi[1]]
    for n in range(1, highest + 1):
        found.append(mean * phi[n] + sigma.square() * phi[n + 1] + n * phi[n - 1])
    return torch.stack(found)


CLOSED = {"linear": _linear, "square": _square, "relu": _relu, "relu2": _relu2, "gelu": _gelu}

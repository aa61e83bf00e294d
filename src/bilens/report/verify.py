"""Every identity bilens claims, checked on one model's own weights."""

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, parts
from bilens.base.numerics import dtype_name, relative_error, tolerance
from bilens.base.results import Result
from bilens.decompose import eigen, hosvd
from bilens.models import Classifier, hushed, load

INPUTS = 64


@dataclass(frozen=True)
class Check:
    """One identity: ``got`` and ``truth`` come by different ways and must agree."""

    identity: str
    got: Tensor
    truth: Tensor


@dataclass(frozen=True, repr=False, eq=False)
class Verification(Result):
    """What was checked, how far it missed (relative to the largest term), and what it was allowed to miss by."""

    identities: tuple[str, ...]
    dtypes: tuple[str, ...]
    errors: tuple[float, ...]
    tolerances: tuple[float, ...]

    @property
    def holds(self) -> tuple[bool, ...]:
        """Per identity; a NaN error does not hold."""
        return tuple(error <= allowed for error, allowed in zip(self.errors, self.tolerances, strict=True))

    @property
    def passed(self) -> bool:
        """Whether every identity holds."""
        return all(self.holds)

    def summary(self) -> str:
        worst = next((error for error in self.errors if error != error), max(self.errors))  # a NaN is the worst
        return f"{sum(self.holds)} of {len(self.holds)} identities hold; largest error {worst:.2e}"

    def rows(self) -> list[dict[str, Any]]:
        columns = zip(self.identities, self.dtypes, self.errors, self.tolerances, self.holds, strict=True)
        return [
            {"identity": name, "dtype": dtype, "error": error, "allowed": allowed, "holds": holds}
            for name, dtype, error, allowed, holds in columns
        ]

    def figure(self) -> dict[str, Any]:
        bars = {
            "type": "bar",
            "orientation": "h",
            "y": list(self.identities),
            "x": [max(error, 1e-20) for error in self.errors],
        }
        return {"data": [bars], "layout": {"xaxis": {"type": "log", "title": {"text": "relative error"}}}}


def verify(model: Classifier, seed: int = 0) -> Verification:
    """Check, on ``model``'s own weights, every identity bilens claims about it; nothing is trained or changed.

    All in float64 at 1e-10, the forward pass in float32 at 1e-5 too. Each identity compares two different ways: the
    module's forward or autograd on one side, factors and spectra on the other. Cost: one HOSVD and one full
    eigendecomposition per layer.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(INPUTS, model.config.input_size, generator=generator, dtype=torch.float64)
    exact = copy.deepcopy(model).cpu().double().eval()
    single = copy.deepcopy(model).cpu().float().eval()
    checks = [*_forward(single, pixels.float()), *_forward(exact, pixels), _reloaded(exact, pixels)]
    for layer in range(model.config.num_hidden_layers):
        checks += _layer(exact, layer, pixels, generator)
    return Verification(
        identities=tuple(check.identity for check in checks),
        dtypes=tuple(dtype_name(check.got.dtype) for check in checks),
        errors=tuple(relative_error(check.got, check.truth) for check in checks),
        tolerances=tuple(tolerance(check.got.dtype) for check in checks),
    )


@torch.no_grad()
def _forward(model: Classifier, pixels: Float[Tensor, "b i"]) -> Iterator[Check]:
    truth = model(pixels).logits
    if model.config.num_hidden_layers == 1:
        yield Check("T(x, x) = logits, whole model", model.tensor()(model.inputs(pixels)), truth)
    for layer in range(model.config.num_hidden_layers):
        got = model.tensor(layer)(model.inputs(pixels, layer))
        yield Check(
            f"T(x, x) = what the layer writes, layer {layer}", got, _write(model, layer, _read(model, layer, pixels))
        )


@torch.no_grad()
def _reloaded(model: Classifier, pixels: Float[Tensor, "b i"]) -> Check:
    with hushed(), tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return Check("save, load: the same logits", load(folder)(pixels).logits, model(pixels).logits)


def _layer(model: Classifier, layer: int, pixels: Float[Tensor, "b i"], generator: torch.Generator) -> list[Check]:
    where = f", layer {layer}"
    x, tensor = model.inputs(pixels, layer), model.tensor(layer).detach()
    symmetric = tensor.symmetrise()
    u = torch.randn(tensor.shape[0], generator=generator, dtype=torch.float64)
    form = tensor.interaction(u)
    checks = [
        Check("S(x, x) = T(x, x), symmetric part" + where, symmetric(x), tensor(x)),
        Check("xᵀ Q_u x = u · T(x, x)" + where, form(x), tensor(x) @ u),
        Check("2 Q_u = Hessian by autograd" + where, *_hessian(model, layer, pixels, u, generator)),
        Check("gauge: permuted, rescaled, swapped units give the same S" + where, *_gauge(tensor, generator)),
    ]
    if model.config.bias:
        checks.append(Check("constant + linear + quadratic = T" + where, parts(tensor)(x[:, 1:]), tensor(x)))
    return checks + _spectra(tensor, symmetric, x, where) + _gates(form, x, where)


def _spectra(tensor: CP, symmetric: CP, x: Tensor, where: str) -> list[Check]:
    pairs = eigen(tensor, k=None)
    sums = (((x @ pairs.vectors.mT) ** 2) * pairs.values[:, None]).sum(-1).T
    unit = torch.eye(x.shape[1], dtype=x.dtype).expand(len(pairs.values), -1, -1)
    modes = hosvd(symmetric, max_rank=8)
    squares = torch.stack([values.square().sum() for values in modes.spectrum.values()])
    norm = symmetric.norm()
    kept = torch.as_tensor((modes.error * modes.norm) ** 2, dtype=x.dtype) + modes.core.norm() ** 2
    return [
        Check("Σ λ (v·x)² = T(x, x)" + where, sums, tensor(x)),
        Check("eigenvectors orthonormal" + where, pairs.vectors @ pairs.vectors.mT, unit),
        Check("Σ λ² = ‖Q‖², from the factors" + where, pairs.values.square().sum(-1), pairs.norm**2),
        Check("Σ ‖Q_o‖² = ‖S‖²" + where, (pairs.norm**2).sum(), norm**2),
        Check("HOSVD: Σ σ² = ‖S‖² in each mode" + where, squares, (norm**2).expand(3)),
        Check("HOSVD: kept² + discarded² = ‖S‖² (8 per mode)" + where, kept, norm**2),
    ]


def _gates(form: Any, x: Tensor, where: str) -> list[Check]:
    gates = form.gates(8)
    squares = (gates.positive.square() + gates.negative.square()).sum() + gates.rest.norm().square()
    return [
        Check("gates + rest = Q_u" + where, gates(x).sum(-1) + gates.rest(x), form(x)),
        Check("gates: Σ (λ² + μ²) + ‖rest‖² = ‖Q‖²" + where, squares, form.norm().square()),
    ]


def _gauge(tensor: CP, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """⟨S, S'⟩ / ‖S‖² and ‖S'‖² / ‖S‖² for S' on S's gauge orbit, and ones: together, that S' is S."""
    order = torch.randperm(tensor.rank, generator=generator)
    a, b = (torch.rand(2, tensor.rank, generator=generator, dtype=tensor.dtype) + 0.5)[..., None].unbind()
    moved = CP((tensor.out / (a * b).T)[:, order], (tensor.right * b)[order], (tensor.left * a)[order])
    there, here = moved.symmetrise(), tensor.symmetrise()
    square = here.inner(here)
    found = torch.stack([there.inner(here), there.inner(there)]) / torch.where(square > 0, square, 1)
    return found, torch.stack([square, square]) / torch.where(square > 0, square, 1)


def _hessian(model: Classifier, layer: int, pixels: Tensor, u: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """2 Q_u v, and the second derivative of u · layer(x) along v by autograd, for one random v."""
    x = _read(model, layer, pixels)[0].detach()
    v = torch.randn(len(x), generator=generator, dtype=x.dtype)
    truth = torch.func.jvp(torch.func.grad(lambda x: _write(model, layer, x[None])[0] @ u), (x,), (v,))[1]
    padded = torch.nn.functional.pad(v, (int(model.config.bias), 0))
    product = 2 * (model.tensor(layer).interaction(u) @ padded)
    return product[int(model.config.bias) :].detach(), truth


def _read(model: Classifier, layer: int, pixels: Tensor) -> Tensor:
    """What the layer reads, without the constant coordinate."""
    x = model.inputs(pixels, layer)
    return x[:, 1:] if model.config.bias else x


def _write(model: Classifier, layer: int, x: Tensor) -> Tensor:
    """What the layer writes, by its own modules: pixels through the embedding, the last through the head's weight."""
    written = model.layers[layer](model.embed(x) if layer == 0 else x)
    return written @ model.head.weight.T if layer == model.config.num_hidden_layers - 1 else written

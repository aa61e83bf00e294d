"""What a layer looks for, towards a direction of what it writes: the eigenvectors and gates of its
quadratic form, as tokens.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, QuadraticForm
from bilens.base.charts import mapped, titled
from bilens.base.numerics import eigh, working_dtype
from bilens.decompose import top_entries
from bilens.models import Transformer
from bilens.report.packing import rounded

LAYERS = 2  # the last ones, that are looked into
VECTORS = 8  # of one
GATES = 3
TOKENS = 5  # on each side of a vector
# of the stream, and numbers of W_E, up to which every answer takes layers apart
WIDEST, EMBEDDED = 1024, 20_000_000
WORDS = 4096  # of a vocabulary, up to which all pairs of tokens are looked at
MAPPED = 16  # tokens of a map
DIGITS = 3


def tensor_layers(model: Transformer) -> list[str]:
    """The layers that are tensors."""
    config = model.config
    exact = config.is_exact and config.intermediate_size and not config.num_local_experts
    return list(model.wiring().layers) if exact else []


def looked_into(model: Transformer) -> list[str]:
    """The layers that a page takes apart."""
    return tensor_layers(model)[-LAYERS:]


def layer_tensor(model: Transformer, name: str) -> CP:
    """The tensor of one of these, over (1, x) where it has biases."""
    return model.wiring().layers[name].module.tensor().detach()  # type: ignore[operator]


def towards(model: Transformer, target: int, versus: int | None) -> tuple[str, Float[Tensor, " d"]]:
    """A target, or the difference of two, by name and as a direction of the stream that the readout
    reads, up to the final norm's scale.
    """
    wiring = model.wiring()
    name, row = model.output_names([target])[0], wiring.readout[target].detach()
    if versus is not None:
        name = f"{name} − {model.output_names([versus])[0]}"
        row = row - wiring.readout[versus].detach()
    return name, wiring.norm.transposed(row[None])[0].detach().to(row)


@torch.no_grad()
def answer_layers(
    model: Transformer, target: int, versus: int | None
) -> list[dict[str, Any]] | None:
    """Of each of the last layers what it looks for towards the target. None where they are no
    tensors, or too wide to be taken apart for every answer.
    """
    names = looked_into(model)
    config = model.config
    numbers = config.vocab_size * config.hidden_size
    if not names or config.hidden_size > WIDEST or numbers > EMBEDDED:
        return None
    _, direction = towards(model, target, versus)
    return [layer_as_tokens(model, name, direction) for name in names]


@torch.no_grad()
def layer_as_tokens(
    model: Transformer, name: str, direction: Float[Tensor, " d"]
) -> dict[str, Any]:
    """A layer's strongest eigenvectors towards ``direction`` of what it writes: the tokens that lie
    most along each, to either side.

    How far a token lies is what it gives where the stream is its embedding alone, the layer's norm
    and its scale included.
    """
    words = _Words(model, name)
    values, vectors = _strongest_first(words.form(direction), VECTORS)
    told = [
        {"value": rounded(value, DIGITS + 1)} | words.along(vector)
        for value, vector in zip(values.tolist(), vectors, strict=True)
    ]
    return {"layer": name, "vectors": told}


@torch.no_grad()
def gates_as_tokens(
    model: Transformer, name: str, direction: Float[Tensor, " d"]
) -> list[dict[str, Any]]:
    """The products of two linear forms that a layer's form towards ``direction`` is made of, the
    strongest first, and the tokens that lie most along each form.
    """
    words = _Words(model, name)
    gates = words.form(direction).gates(GATES)
    pairs = zip(gates.share.tolist(), gates.a, gates.b, strict=True)
    return [
        {"share": rounded(share, DIGITS), "a": words.along(a), "b": words.along(b)}
        for share, a, b in pairs
    ]


@torch.no_grad()
def token_map(
    model: Transformer, name: str, direction: Float[Tensor, " d"], of: str
) -> dict[str, Any] | None:
    """The pairs of tokens that a layer multiplies most strongly towards a direction, as a triangle:
    both orders of a pair summed, tokens in the order of the leading eigenvector. None for a large
    vocabulary.
    """
    if model.config.vocab_size > WORDS:
        return None
    words = _Words(model, name)
    form = words.form(direction)
    leading = words.rows @ _strongest_first(form, 1)[1][0]
    chosen = sorted(words.strongest(direction), key=leading.tolist().__getitem__)
    rows, names = words.rows[chosen], model.output_names(chosen)
    both = 2 * rows @ (form @ rows).mT
    both.diagonal().mul_(0.5)  # a token with itself is one product
    values = [
        [rounded(value, DIGITS) if k <= n else None for k, value in enumerate(row)]
        for n, row in enumerate(both.tolist())
    ]
    layout = titled(f"Pairs of tokens that {name} multiplies towards {of}", "token", "and token")
    return mapped(values, names, names, "value, both orders", layout)


def _strongest_first(
    form: QuadraticForm, count: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k i"]]:
    """The eigenpairs of largest |λ|."""
    values, vectors = eigh(form.dense())
    order = values.abs().argsort(descending=True)[:count]
    return values[order], vectors.mT[order]


class _Words:
    """A layer, and what it reads of each token where the stream is its embedding alone."""

    def __init__(self, model: Transformer, name: str) -> None:
        self.model = model
        norm = model.wiring().layers[name].norm
        read = norm(model.leaf_weights()["embed"]).detach()
        read = read.to(working_dtype(read.dtype))
        self.tensor = layer_tensor(model, name).to(read.dtype)
        constants = self.tensor.shape[-1] - read.shape[1]  # one of a layer with biases
        ones = read.new_ones(len(read), constants)
        self.rows = torch.cat([ones, read], 1)

    def form(self, direction: Float[Tensor, " d"]) -> QuadraticForm:
        """What the layer writes along a direction."""
        return self.tensor.interaction(direction.to(self.rows))

    def strongest(self, direction: Float[Tensor, " d"]) -> list[int]:
        """The tokens of the largest pairs, until there are enough."""
        over_tokens = self.tensor.map(
            out=direction.to(self.rows)[None], left=self.rows, right=self.rows
        )
        pairs = top_entries(over_tokens, MAPPED * MAPPED, symmetric=True).indices[:, 1:]
        return list(dict.fromkeys(pairs.flatten().tolist()))[:MAPPED]

    def along(self, vector: Float[Tensor, " i"]) -> dict[str, Any]:
        """The tokens that lie farthest to either side."""
        given = self.rows @ vector.to(self.rows)
        return {"plus": self._first(given), "minus": self._first(-given, -1)}

    def _first(self, given: Float[Tensor, " v"], sign: int = 1) -> dict[str, Any]:
        most = given.topk(min(TOKENS, len(given)))
        kept = int((most.values > 0).sum())
        names = self.model.output_names(most.indices[:kept])
        values = [rounded(sign * value, DIGITS) for value in most.values[:kept].tolist()]
        return {"tokens": names, "values": values}

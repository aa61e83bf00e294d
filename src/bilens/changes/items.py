"""Which classes, tokens and features changed most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, unit_products
from bilens.base.charts import DRAWN, ranked
from bilens.base.errors import ArgumentError
from bilens.base.numerics import root
from bilens.base.results import Result
from bilens.changes.data import Passed
from bilens.changes.likeness import changed, cosine
from bilens.changes.places import Model, full, quadratic, tensor_of, through
from bilens.features import Dictionary
from bilens.models import Classifier, Transformer, activations
from bilens.nn import Leg
from bilens.wiring import Part, explained, find_place

TOKEN, CLASS, FEATURE = "token", "class", "feature"
TOP = 5  # that are named in one line


@dataclass(frozen=True, repr=False, eq=False)
class Items(Result):
    """Classes, tokens or features by how much they changed, largest first.

    Fields: ``of`` what they are, "token", "class" or "feature"; ``names``; ``headings`` of the
    columns of ``values``, by the first of which they are ranked; ``signed``: whether that one says
    more or less, or only how much.

    Columns, as far as they are there:
        contribution: what the item adds to the change of the mean loss, in nats; all add up to it.
        loss change, ±: the mean change of the loss where it is what was to be predicted, and its
            standard error, which takes the places to be independent.
        times: how often it was to be predicted.  loss before, loss after: at these places.
        change, similarity, size: of a class, its matrix Q_c in the last layer; of a token, the
            logits that it writes by the direct path W_U W_E; of a feature, the matrix by which the
            layer reads or writes it. As of layers: ‖A − B‖ over the root mean square of both sizes;
            a cosine; the size after over that before.
        embedding, unembedding: the change of a token's rows of W_E and W_U.
        moved: of a feature, the root mean square of (activation after − before) ‖what it writes‖.
        mean before, mean after, fires before, fires after: of its activations on the data.

    >>> tiny = bilens.Transformer(bilens.TransformerConfig(vocab_size=50, hidden_size=16))
    >>> change = bilens.diff(tiny, tiny)
    >>> [items.of for items in change.items]
    ['token']
    """

    of: str
    names: tuple[str, ...]
    headings: tuple[str, ...]
    values: Float[Tensor, "n c"]
    signed: bool

    def summary(self) -> str:
        sign = "+" if self.signed else ""
        first = list(zip(self.names, self.values[:, 0].tolist(), strict=True))[:TOP]
        top = ", ".join(f"{name} {value:{sign}.3g}" for name, value in first if value)
        return f"{self.plural}, by {self.headings[0]}: {top or 'none'}"

    def columns(self) -> tuple[str, ...]:
        return (self.of, *self.headings)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {self.of: name} | dict(zip(self.headings, row, strict=True))
            for name, row in zip(self.names, self.values.tolist(), strict=True)
        ]

    def figure(self) -> dict[str, Any]:
        first = self.values[:DRAWN].mT.tolist()
        hover = dict(zip(self.headings[1:], first[1:], strict=True))
        axis = "what it adds to the change of the loss, nats" if self.signed else self.headings[0]
        title = f"{self.plural} that changed most, by {self.headings[0]}"
        return ranked(self.names[:DRAWN], first[0], axis, title, hover=hover)

    @property
    def plural(self) -> str:
        """What they are: "classes", "tokens" or "features"."""
        return f"{self.of}es" if self.of == CLASS else f"{self.of}s"

    @property
    def place(self) -> str:
        """Where features are: "mlp1.input"; "" of classes and tokens."""
        return self.names[0].rpartition(".")[0] if self.of == FEATURE else ""


def items(
    models: Sequence[Model], passed: Passed | None, dictionaries: Mapping[str, Dictionary]
) -> tuple[Items, ...]:
    """What changed most between two checkpoints: classes or tokens, and features where there are
    dictionaries.
    """
    if isinstance(models[0], Classifier):
        return (_classes(models, passed),)  # type: ignore[arg-type]
    named: Any = models
    made = _tokens(named) if passed is None else _predicted(named, passed)
    return (made, *(_features(named, passed, *one) for one in dictionaries.items()))


@torch.no_grad()
def _classes(models: Sequence[Classifier], passed: Passed | None) -> Items:
    last = models[0].config.num_hidden_layers - 1
    one, two = (tensor_of(model, last or None) for model in models)
    columns = _compared(*(_by_output(a, b) for a, b in ((one, one), (two, two), (one, two))))
    names = models[0].config.labels
    if passed is not None:
        columns = _of_losses(passed, len(names)) | columns
    return _ranked(CLASS, list(names), columns, passed is not None)


def _by_output(one: CP, two: CP) -> Float[Tensor, " o"]:
    """⟨S_o, S'_o⟩ of each output."""
    return ((one.out @ unit_products(one.inputs, two.inputs)) * two.out).sum(1)


@torch.no_grad()
def _predicted(models: Sequence[Transformer], passed: Passed) -> Items:
    """Tokens that were predicted."""
    columns = _of_losses(passed, models[0].config.vocab_size)
    there = columns["times"].nonzero()[:, 0]
    names = _named(models).output_names(there)
    return _ranked(TOKEN, names, {name: value[there] for name, value in columns.items()}, True)


def _of_losses(passed: Passed, size: int) -> dict[str, Tensor]:
    """How the loss changed where each item was to be predicted."""
    change = passed.losses[1] - passed.losses[0]

    def total(values: Tensor) -> Tensor:
        return torch.zeros(size, dtype=torch.float64, device="cpu").index_add_(
            0, passed.predicted, values
        )

    times = total(torch.ones_like(change))
    counted = times.clamp(min=1)
    mean = total(change) / counted
    spread = total((change - mean[passed.predicted]).square()) / (counted - 1)
    return {
        "contribution": total(change) / len(change),
        "loss change": mean,
        "±": (spread / counted).sqrt(),  # NaN of one alone
        "times": times,
        "loss before": total(passed.losses[0]) / counted,
        "loss after": total(passed.losses[1]) / counted,
    }


@torch.no_grad()
def _tokens(models: Sequence[Transformer]) -> Items:
    """All tokens by what they write to the logits directly, given the norm's scale."""
    written, read = zip(*map(_ends, models), strict=True)
    grams = {(a, b): read[a].mT @ read[b] for a, b in ((0, 0), (1, 1), (0, 1))}
    products = (((written[a] @ gram) * written[b]).sum(1) for (a, b), gram in grams.items())
    columns = _compared(*products)
    for name, (one, two) in (("embedding", written), ("unembedding", read)):
        squares = (one.square().sum(1), two.square().sum(1), (one * two).sum(1))
        columns[name] = changed(*squares)
    return _ranked(TOKEN, _named(models).output_names(range(len(written[0]))), columns, False)


def _ends(model: Transformer) -> tuple[Float[Tensor, "v d"], Float[Tensor, "v d"]]:
    """W_E, and W_U with the final norm in it."""
    read = explained(model)
    wiring = read.wiring()
    return full(read.W_E), through(wiring.norm, Leg(wiring.readout)).weight


@torch.no_grad()
def _features(
    models: Sequence[Transformer], passed: Passed | None, place: str, dictionary: Dictionary
) -> Items:
    at = find_place(place, models[0].wiring().parts).name
    names = [f"{at}.f{n}" for n in range(dictionary.n_latents)]
    if passed is None:
        return _ranked(FEATURE, names, _by_weights(models, at, dictionary), False)
    return _ranked(FEATURE, names, _by_firing(models, passed, at, dictionary), False)


def _by_firing(
    models: Sequence[Transformer], passed: Passed, place: str, dictionary: Dictionary
) -> dict[str, Tensor]:
    """How a dictionary's latents fire in both checkpoints, token by token, encoded in the dtype of
    what they read.
    """
    size = dictionary.n_latents
    sums = torch.zeros(5, size, dtype=torch.float64, device="cpu")
    count = 0
    both = (activations(model, passed.batches, place) for model in models)
    for pair in zip(*both, strict=True):
        dictionary = dictionary.to(pair[0].device, pair[0].dtype)
        before, after = (full(dictionary.encode(x.to(dictionary.W_enc))) for x in pair)
        sums += torch.stack([
            (after - before).square().sum(0), before.sum(0), after.sum(0),
            (before != 0).sum(0), (after != 0).sum(0),
        ])  # fmt: skip
        count += len(before)
    moved, *means = sums / count
    lengths = full(dictionary.writes).norm(dim=1)
    names = ("mean before", "mean after", "fires before", "fires after")
    return {"moved": moved.sqrt() * lengths} | dict(zip(names, means, strict=True))


def _by_weights(
    models: Sequence[Transformer], place: str, dictionary: Dictionary
) -> dict[str, Tensor]:
    """How the layer of ``place`` reads each latent, S(d, ·) along what it writes; or writes it,
    u · S along what it reads.
    """
    part, _, side = place.rpartition(".")
    parts = [explained(model).wiring() for model in models]
    tensors = [_layer_of(wiring.layers.get(part), place) for wiring in parts]
    if side == "output":
        reads = full(dictionary.reads)
        one, two = (tensor.map(out=reads) for tensor in tensors)
        return _compared(*(_by_output(a, b) for a, b in ((one, one), (two, two), (one, two))))
    writes = full(dictionary.writes)
    one, two = tensors
    return _compared(*(_by_input(a, b, writes) for a, b in ((one, one), (two, two), (one, two))))


def _by_input(one: CP, two: CP, rows: Float[Tensor, "f i"]) -> Float[Tensor, " f"]:
    """⟨S(d, ·), S'(d, ·)⟩ of each row d: S(d, ·) = ½ Σ_h out_h (l_h·d r_h + r_h·d l_h)."""
    outs = one.out.mT @ two.out
    total = rows.new_zeros(len(rows))
    for read, kept in ((one.left, one.right), (one.right, one.left)):
        for other_read, other_kept in ((two.left, two.right), (two.right, two.left)):
            inner = outs * (kept @ other_kept.mT)
            total += ((rows @ read.mT @ inner) * (rows @ other_read.mT)).sum(1) / 4
    return total


def _layer_of(part: Part | None, place: str) -> CP:
    form = None if part is None else quadratic(part)
    if form is None:
        todo = "With data= its latents are compared by how they fire."
        must = "be read or written by a layer that is a tensor"
        raise ArgumentError(f"dictionary of {place}", must=must, got="none", todo=todo)
    left, right = form.legs
    return CP(full(form.out), full(left.weight), full(right.weight))


def _compared(square: Tensor, other: Tensor, product: Tensor) -> dict[str, Tensor]:
    alike = {
        "change": changed(square, other, product),
        "similarity": cosine(square, other, product),
    }
    return alike | {"size": root(other) / root(square)}


def _ranked(of: str, names: Sequence[str], columns: dict[str, Tensor], signed: bool) -> Items:
    values = torch.stack(list(columns.values()), 1).double().cpu()
    order = values[:, 0].nan_to_num().abs().argsort(descending=True, stable=True)
    sorted_names = tuple(str(names[n]) for n in order.tolist())
    return Items(of, sorted_names, tuple(columns), values[order], signed)


def _named(models: Sequence[Transformer]) -> Transformer:
    """The one that knows its tokens' names."""
    return next((model for model in models if model.tokenizer is not None), models[0])

"""The places of a model that are compared: embeddings, heads, layers and the readout.

The linear part of a norm is in what reads through it, so that weights moved between the two are no
change: everything is a function of σ(x) x, the stream by the norm's scale.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens.algebra import CP, affine, constant
from bilens.base.numerics import as_given
from bilens.changes.functions import Functions, Maps, Modules, Scores, Tables, Tensors
from bilens.models import Classifier, Transformer
from bilens.nn import Leg, NoNorm, Norm, own_norm
from bilens.wiring import Form, Heads, Part, Wiring, explained

UNEMBED, WHOLE = "unembed", "whole"
MODULES = "no tensor, so by what it writes"
Model = Classifier | Transformer


def listened(wiring: Wiring) -> dict[str, tuple[nn.Module, Norm]]:
    """Where what each part reads passes by before its norm, or after a norm that is none, and the
    norm; and what the readout reads.
    """
    places = {part.name: (_before(part), part.norm) for part in wiring.parts}
    return places | {UNEMBED: (wiring.norm, wiring.norm)}  # type: ignore[dict-item]


class Group(NamedTuple):
    """The places that read the same: ``reads`` is its name, or that of what they stand for."""

    reads: str
    places: Sequence[Functions]


def groups(models: Sequence[Model]) -> tuple[int, Iterator[Group]]:
    """How many groups of places there are in ``models``, which are of one shape, and the groups in
    the order in which they compute; in float64, made one after another.
    """
    first = models[0]
    if isinstance(first, Classifier):
        layers = first.config.num_hidden_layers
        return layers, _of_classifiers(models, layers)  # type: ignore[arg-type]
    wiring = first.wiring()
    found = _of_transformers(models)  # type: ignore[arg-type]
    shared = sum(bool(part.shares) for part in wiring.parts)
    return len(wiring.leaves) + len(wiring.parts) + shared + 1, found


def _of_classifiers(models: Sequence[Classifier], layers: int) -> Iterator[Group]:
    """The layers as tensors, the first over pixels and the last onto classes; of a model of one
    layer the whole of it.
    """
    if layers == 1:
        kind = "class × pixel × pixel"
        yield Group("mlp0", [Tensors(WHOLE, kind, [tensor_of(one) for one in models], True)])
        return
    for n in range(layers):
        tensors = [tensor_of(model, n) for model in models]
        places: list[Functions] = [Tensors(f"mlp{n}", "layer", tensors, n == layers - 1)]
        if n == 0 and models[0].config.residual:
            places.append(Maps("direct", "head × embedding", [*map(_direct, models)]))
        yield Group(f"mlp{n}", places)


@torch.no_grad()
def _direct(model: Classifier) -> Leg:
    """The logits where no layer writes anything."""
    head, embed = full(model.head.weight), model.embed
    bias = full(model.head.bias) + head @ full(embed.bias) if model.config.bias else None
    return Leg(head @ full(embed.weight), bias)


def _of_transformers(models: Sequence[Transformer]) -> Iterator[Group]:
    read = [explained(model) for model in models]
    for name in read[0].leaf_weights():
        tables = [full(model.leaf_weights()[name]) for model in read]
        yield Group(name, [Tables(name, "embedding", tables)])
    wirings = [model.wiring() for model in read]
    for n, parts in enumerate(zip(*(wiring.parts for wiring in wirings), strict=True)):
        yield Group(parts[0].name, _of_parts(parts, wirings[0].readout.shape[1]))
        if parts[0].shares:
            yield Group(parts[0].shares, [*_of_first(wirings, n)])
    legs = [through(one.norm, Leg(one.readout, one.readout_bias)) for one in wirings]
    yield Group(UNEMBED, [Maps(UNEMBED, "unembedding", legs)])


def _of_parts(parts: Sequence[Part], width: int) -> Sequence[Functions]:
    """One part of every model."""
    name, heads = parts[0].name, [part.attention for part in parts]
    if heads[0] is not None:
        known = [one for one in heads if one is not None]
        return [*_of_heads(parts, known), *_always(known)]
    tensors = [tensor for tensor in map(_exact, parts) if tensor is not None]
    if len(tensors) == len(parts):
        return [Tensors(name, "layer", tensors)]
    return [Modules(name, MODULES, [partial(_run, part) for part in parts], width)]


def _of_heads(parts: Sequence[Part], heads: Sequence[Heads]) -> Iterator[Functions]:
    forms = [part.forms() for part in parts]
    for n, name in enumerate(heads[0].heads):
        legs = [
            through(part.norm, form[name].legs[0]) for part, form in zip(parts, forms, strict=True)
        ]
        outs = [full(form[name].out) for form in forms]
        yield Maps(f"{name} OV", "head", legs, outs)
        for label, pair in zip(("QK", "QK2"), _scores(heads[0]), strict=False):
            queries, keys = ([_asks(one, side, n) for one in heads] for side in pair)
            yield Scores(f"{name} {label}", "head", queries, keys, _turning(heads[0]))


def _always(heads: Sequence[Heads]) -> Iterator[Functions]:
    """What an attention layer writes whatever it reads, where there is such: b (0 x + 1)."""
    biases = [full(one.module.o_proj.bias) for one in heads if one.module.o_proj.bias is not None]
    legs = [Leg(b.new_zeros(1, heads[0].module.o_proj.out_features), b.new_ones(1)) for b in biases]
    if biases:
        yield Maps(f"{heads[0].name}.bias", "bias", legs, [bias[:, None] for bias in biases])


def _of_first(wirings: Sequence[Wiring], n: int) -> Iterator[Functions]:
    """What the heads of part ``n`` write of values of the first layer, which reads them."""
    forms = [wiring.parts[n].forms() for wiring in wirings]
    for name in (name for name, form in forms[0].items() if form.legs[0].of):
        legs = []
        for wiring, form in zip(wirings, forms, strict=True):
            norm = wiring.parts[wiring.reader(n, form[name].legs[0])].norm
            legs.append(through(norm, form[name].legs[0]))
        yield Maps(f"{name} OV", "head", legs, [full(form[name].out) for form in forms])


def _scores(part: Heads) -> Sequence[tuple[str, str]]:
    """The projections of each score of a head: of a squared one once."""
    return [*dict.fromkeys(part.module.score_projections)]


def _asks(part: Heads, name: str, head: int) -> Leg:
    """What a head's queries or keys read, norms over them but for their scale; the scale of scores,
    or of their product, is with the first queries.

    A key's bias gives every key the same score unless keys turn, and a softmax does not see it.
    """
    module = part.module
    weight, bias = module.per_head(name)[head].mT, module.bias_per_head(name)[head]
    plain = name == "k_proj" and part.rotary is None and module.kind == "softmax"
    leg = through(part.norm, Leg(weight, None if plain else bias), shifted=not plain)
    gain, scale = module.qk_gain(name), module.scale if name == "q_proj" else 1.0
    times = scale * (full(gain[head]).mT if isinstance(gain, Tensor) else 1.0)
    turned = None if leg.bias is None else leg.bias * as_given(times).flatten().to(leg.bias)
    return Leg(leg.weight * times, turned)


def _turning(part: Heads) -> int:
    return 0 if part.rotary is None else 2 * len(part.rotary.inv_freq)


def through(norm: Norm, leg: Leg, shifted: bool = True) -> Leg:
    """W N(x) + b as a function of σ(x) x: W P, and b + W c; in float64. A bias of zeros is one too:
    another checkpoint has others there.
    """
    weight, shift = leg.weight.detach().double(), norm.shift
    bias = None if leg.bias is None else leg.bias.detach().double()
    if shifted and shift is not None:
        moved = weight @ shift.detach().double()
        bias = moved if bias is None else bias + moved
    return Leg(full(norm.transposed(weight)), None if bias is None else bias.cpu())


def full(weight: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Weights as they are compared: in float64, on the CPU."""
    return weight.detach().double().cpu()


def _exact(part: Part) -> CP | None:
    """A layer's tensor over σ(x) x, or (1, σ(x) x); None where it has none."""
    form = quadratic(part)
    return None if form is None else _folded(part.norm, form)


def quadratic(part: Part) -> Form | None:
    """The weights of a layer that is a tensor over what it reads; None of other parts."""
    return next((form for form in part.forms().values() if form.degree == 2), None)


def _folded(norm: Norm, form: Form) -> CP:
    left, right = (through(norm, leg) for leg in form.legs)
    biases = {"left_bias": left.bias, "right_bias": right.bias}
    return affine(full(form.out), left.weight, right.weight, **biases).detach()


@torch.no_grad()
def tensor_of(model: Classifier, layer: int | None = None) -> CP:
    """That of a layer, or of all of a model of one layer, as it is compared. The head's bias is
    with the last, which alone the head reads where there is no residual connection.
    """
    config, tensor = model.config, model.tensor(layer).detach().to(torch.float64).to("cpu")
    last = layer == config.num_hidden_layers - 1
    if not last or config.residual or not config.bias:
        return tensor
    return tensor + constant(full(model.head.bias), tensor.shape[1])


@torch.no_grad()
def _run(part: Part, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """What a part writes where the stream by its norm's scale is ``z``."""
    x = part.norm.linear(z.to(next(part.module.parameters())))
    return part.run(x if part.norm.shift is None else x + part.norm.shift).cpu()


def _before(part: Part) -> nn.Module:
    norm = own_norm(part.norm)
    return (
        norm
        if isinstance(norm, nn.Module) and not isinstance(norm, NoNorm)
        else part.passes("input")
    )


def before_norm(norm: Norm) -> Callable[[Tensor], Tensor]:
    """σ(x) x of what stands before a norm."""
    return lambda x: x * norm.scale(x)

"""Conversion: a transformer whose MLPs are bilinear in place of another's, layer after layer, by
least squares.

A layer keeps the pairs (L x̃) ⊙ (R x̃) of its nearest quadratic under the Gaussian of what it now
reads (``nearest``), over x̃ = (1, x). Its output, linear part and constant are fitted so that the
stream after it comes near to the *original's*: each layer mends what those before it missed. A
token's squared error counts by one over the size (root mean square) of the original's stream there.
By one, the few tokens of massive activations would be all that is fitted; by one over its square
they would be lost, and heads lean on them. And of what was missed before, a layer is to mend at
most as much as the original's writes there: a token whose massive activation was missed once would
else be all that the layers after it are fitted to.

The linear part is i further hidden units whose gate is the constant 1, so what comes out is a plain
bilinear MLP with biases.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from bilens.base.errors import ArgumentError
from bilens.base.numerics import require_finite, working_dtype
from bilens.base.records import Record
from bilens.measure import Gaussian
from bilens.models.carry import carry
from bilens.models.transformer import Transformer, TransformerConfig
from bilens.models.transformer.blocks import Block
from bilens.nearest import NormalEquations, approximate, pair_features

TOKENS = 2048  # at a time
PIECE = 128  # tokens of a text that is fitted: what first tokens do is learned from as many texts
RIDGES = (1e-5, 1e-2, 0.3, 3.0)
Total = Callable[[Tensor], Tensor]
Given = Callable[[Block], dict[str, Any]]  # what a block is called with, beside the stream


@dataclass(frozen=True, repr=False, eq=False)
class ConvertedLayer(Record):
    """The weights of a bilinear MLP fitted to another, and how near it comes.

    ``ridge``: of those tried, from .3 on and downhill, the one of least ``loss``: nats a token on
    texts apart, with the layers up to this one bilinear and those after it the original's.
    ``missed``: there, the share of the squares of what was to be written, tokens weighed; a few
    tokens may make all of it.

    >>> gated = bilens.load("tinystories-2l-swiglu")
    >>> made = bilens.models.bilinear_frame(gated)
    >>> ids = torch.randint(1024, (2, 64))
    >>> next(bilens.models.converted_layers(gated, made, ids, ids)).gate.shape[1]
    128
    """

    gate: Float[Tensor, "k i"]
    gate_bias: Float[Tensor, " k"]
    up: Float[Tensor, "k i"]
    up_bias: Float[Tensor, " k"]
    down: Float[Tensor, "d k"]
    down_bias: Float[Tensor, " d"]
    ridge: float
    missed: float
    loss: float

    @torch.no_grad()
    def put(self, block: Block) -> None:
        """Make these the weights of the MLP of ``block``."""
        for name in ("gate", "up", "down"):
            linear: nn.Linear = getattr(block.mlp, f"{name}_proj")
            linear.weight.copy_(getattr(self, name))
            linear.bias.copy_(getattr(self, f"{name}_bias"))


Fitted = Callable[[float], ConvertedLayer]  # by a ridge


def bilinear_config(config: TransformerConfig) -> TransformerConfig:
    """The configuration after conversion: hidden units for the linear part, and biases."""
    made = copy.deepcopy(config)
    made.hidden_act, made.gated, made.mlp_bias = "linear", True, True
    made.intermediate_size = config.intermediate_size + config.hidden_size
    return made


@torch.no_grad()
def bilinear_frame(model: Transformer) -> Transformer:
    """A model with the weights of ``model`` but for its MLPs, which are bilinear and write
    nothing yet. Half types become float32.

    Errors: ArgumentError for a model without MLPs, with experts, with norms over what MLPs write,
    with a stream that is scaled or mixed, or bilinear already.

    >>> gated = bilens.load("tinystories-2l-swiglu")
    >>> made = bilens.models.bilinear_frame(gated)
    >>> type(made.blocks[0].mlp).__name__
    'GatedMLP'
    """
    if not model.config.intermediate_size:
        raise ArgumentError("the model", must="have MLPs to convert", got="none")
    if model.config.num_local_experts:
        got = "a mixture of experts in each layer"
        raise ArgumentError("the model", must="have one MLP a layer to convert", got=got)
    if model.config.norm_placement != "pre":
        got = "norms over what MLPs write"
        raise ArgumentError("the model", must="have norms over what is read alone", got=got)
    if not model.config.is_sum:
        got = "a stream that is scaled or mixed"
        raise ArgumentError("the model", must="add what its parts write", got=got)
    if model.config.hidden_act == "linear" and model.config.gated:
        raise ArgumentError("the model", must="have MLPs that are not bilinear", got="bilinear")
    made = type(model)(bilinear_config(model.config))
    nn.Module.to(made, model.device, working_dtype(model.dtype))
    own = {name: value for name, value in model.state_dict().items() if ".mlp." not in name}
    made.load_state_dict(own, strict=False)
    for block in made.blocks:
        assert block.mlp is not None
        for linear in (*block.mlp.readers, *block.mlp.writers):
            linear.weight.zero_()
            linear.bias.zero_()
    return carry(model, made)


@torch.no_grad()
def converted_layers(
    model: Transformer,
    made: Transformer,
    texts: Int[Tensor, "n t"],
    others: Int[Tensor, "m t"],
    begin: int = 0,
    total: Total = lambda own: own,
) -> Iterator[ConvertedLayer]:
    """Put bilinear MLPs into ``made``, a ``bilinear_frame`` of ``model``, from layer ``begin`` on;
    each is yielded when it stands.

    ``texts`` are fitted, in pieces of 128 tokens; on ``others`` the ridge is chosen and all figures
    are measured. ``total`` sums a tensor over the processes that share the work, each with its own
    ``texts``. Cost a layer: two forward passes of it over the texts, O(n t (h + i)²), and the
    layers after it over ``others`` for three ridges. Memory: the streams of both models at every
    token, and O((h + i)²).

    >>> gated = bilens.load("tinystories-2l-swiglu")
    >>> made = bilens.models.bilinear_frame(gated)
    >>> ids = torch.randint(1024, (2, 64))
    >>> len(list(bilens.models.converted_layers(gated, made, ids, ids)))
    2
    """
    dtype = working_dtype(model.dtype)
    if dtype != model.dtype:
        model = copy.deepcopy(model)
        nn.Module.to(model, dtype=dtype)
    own, apart = _Streams(model, _pieces(texts)), _Streams(model, others)
    for n, (old, new) in enumerate(zip(model.blocks, made.blocks, strict=True)):
        for streams in (own, apart):
            streams.attend(old, new)
        layer = None
        if n >= begin:
            fitted = _fitted(old, new, own, apart, total)
            layer = _downhill(partial(apart.tried, model, n + 1, new, fitted))
            layer.put(new)
        for streams in (own, apart):
            streams.ours = streams.after(new)
        if layer is not None:
            yield layer


def _pieces(texts: Int[Tensor, "n t"]) -> Int[Tensor, "m p"]:
    """Texts cut into short ones; what is left over of each is not used."""
    length = min(PIECE, texts.shape[1])
    return texts.unfold(1, length, length).flatten(0, 1)


class _Streams:
    """The residual stream of the same texts in two models, up to some layer."""

    def __init__(self, model: Transformer, ids: Int[Tensor, "n t"]) -> None:
        self.ids = ids.split(max(1, TOKENS // ids.shape[1]))
        begun = [model.begin(batch.to(model.device)) for batch in self.ids]
        self.given = [given for _, given in begun]
        self.theirs = [x for x, _ in begun]
        self.ours = self.reads = self.written = list(self.theirs)

    def attend(self, old: Block, new: Block) -> None:
        """Past ``old`` in the first model, and past the heads of ``new`` in the second."""
        both = list(zip(self.theirs, self.ours, self.given, strict=True))
        before = self.ours
        middle = [old.attended(x, **given(old))[0] for x, _, given in both]
        theirs = self.theirs if old.parallel else middle
        assert old.mlp is not None
        self.written = [old.mlp(old.post_attention_layernorm(x)) for x in theirs]
        self.theirs = [x + y for x, y in zip(middle, self.written, strict=True)]
        self.ours = [new.attended(x, **given(new))[0] for _, x, given in both]
        self.reads = before if new.parallel else self.ours

    def after(self, new: Block) -> list[Float[Tensor, "b t d"]]:
        """The second stream past the MLP of ``new``."""
        assert new.mlp is not None
        written = (new.mlp(new.post_attention_layernorm(x)) for x in self.reads)
        return [x + y for x, y in zip(self.ours, written, strict=True)]

    def tried(
        self, model: Transformer, n: int, new: Block, fitted: Fitted, ridge: float
    ) -> ConvertedLayer:
        """The layer ``fitted`` by ``ridge``, with the loss where the second model has it as its
        last, and the first goes on from layer ``n``.
        """
        layer = fitted(ridge)
        layer.put(new)
        return replace(layer, loss=self.loss(model, n, self.after(new)))

    def read(self, new: Block) -> list[Float[Tensor, "_ i"]]:
        """What the MLP of ``new`` reads."""
        return [new.post_attention_layernorm(x).flatten(0, 1) for x in self.reads]

    def due(self) -> list[Float[Tensor, "_ d"]]:
        """What an MLP is to write: what the original's does, and of what is missing so far at most
        as much.
        """
        found = []
        for theirs, ours, written in zip(self.theirs, self.ours, self.written, strict=True):
            own, missing = written.flatten(0, 1), (theirs - ours - written).flatten(0, 1)
            most = own.norm(dim=1) / missing.norm(dim=1).clamp(min=torch.finfo(own.dtype).tiny)
            found.append(own + missing * most.clamp(max=1)[:, None])
        return found

    def weights(self) -> list[Float[Tensor, " _"]]:
        """What each token's squared error counts."""
        squares = (theirs.flatten(0, 1).double().square().mean(1) for theirs in self.theirs)
        return [square.clamp(min=torch.finfo(square.dtype).tiny).rsqrt() for square in squares]

    def loss(self, model: Transformer, n: int, stream: Sequence[Tensor]) -> float:
        """Nats a token where the first model goes on from layer ``n`` with ``stream``."""
        nats, count = 0.0, 0
        for x, given, batch in zip(stream, self.given, self.ids, strict=True):
            for block in model.blocks[n:]:
                x = _after(block, x, given)
            logits = model.end(x)[:, :-1].flatten(0, 1)
            labels = batch[:, 1:].flatten().to(logits.device)
            nats += float(functional.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
        return nats / count


def _after(block: Block, x: Float[Tensor, "b t d"], given: Given) -> Float[Tensor, "b t d"]:
    """The stream after a block."""
    after = block(x, **given(block))[0]
    assert after is not None
    return after


def _loss(layer: ConvertedLayer) -> float:
    """What is least; one that is not a number is no choice."""
    return layer.loss if math.isfinite(layer.loss) else math.inf


def _downhill(tried: Callable[[float], ConvertedLayer]) -> ConvertedLayer:
    """The layer of least loss by ridges from the third on, downwards or else upwards, for as long
    as the loss falls, and the sums allow it.
    """
    at = len(RIDGES) // 2
    best = first = tried(RIDGES[at])
    for ridges in (RIDGES[:at][::-1], RIDGES[at + 1 :]):
        for ridge in ridges if best is first else ():
            try:
                layer = tried(ridge)
            except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
                break  # rounding of the sums is above so small a ridge
            if _loss(layer) >= _loss(best):
                break
            best = layer
    return best


def _fitted(old: Block, new: Block, own: _Streams, apart: _Streams, total: Total) -> Fitted:
    """The MLP of ``new`` by least squares, from the pairs of ``old``'s and near its own output, for
    a ridge.
    """
    assert old.mlp is not None
    read = own.read(new)
    tensor = approximate(old.mlp, _measure(read, total)).tensor.to(torch.float64)
    size = tensor.shape[1]
    left, right = tensor.left[:-size], tensor.right[:-size]
    summed = _sums(left, right, own, new)
    sums = NormalEquations(total(summed.gram), total(summed.target), total(summed.square))
    seen, dtype = _sums(left, right, apart, new), read[0].dtype

    def by(ridge: float) -> ConvertedLayer:
        weights = sums.solved(ridge, near=tensor.out.mT)
        require_finite("conversion", weights=weights)
        return _layer(left, right, weights, ridge, seen.missed(weights)).to(dtype)

    return by


def _measure(read: Sequence[Float[Tensor, "_ i"]], total: Total) -> Gaussian:
    """Mean and covariance over all processes."""
    count = total(torch.tensor(sum(map(len, read)), device=read[0].device))
    mean = total(torch.stack([x.double().sum(0) for x in read]).sum(0)) / count
    scatter = mean.new_zeros(len(mean), len(mean))
    for x in read:
        centred = x.double() - mean
        scatter.addmm_(centred.mT, centred)
    return Gaussian(mean, total(scatter) / (count - 1), int(count))


def _sums(
    left: Float[Tensor, "h i1"], right: Float[Tensor, "h i1"], streams: _Streams, new: Block
) -> NormalEquations:
    """Of what the MLP of ``new`` reads, and what it is to write: pairs as the model will multiply
    them.
    """
    due = streams.due()
    left, right = left.to(due[0].dtype), right.to(due[0].dtype)
    roots = (weights.sqrt()[:, None].to(left.dtype) for weights in streams.weights())
    samples = (
        (root * pair_features(left, right, x), root * y)
        for x, y, root in zip(streams.read(new), due, roots, strict=True)
    )
    number = len(left) + left.shape[1]
    return NormalEquations.summed(samples, number, due[0].shape[1], left.device)


def _layer(
    left: Float[Tensor, "h i1"],
    right: Float[Tensor, "h i1"],
    weights: Float[Tensor, "p d"],
    ridge: float,
    missed: float,
) -> ConvertedLayer:
    """The pairs, and beside them a unit for each input whose gate is 1."""
    h, i = len(left), left.shape[1] - 1
    eye, zero = torch.eye(i).to(left), left.new_zeros(i)
    return ConvertedLayer(
        gate=torch.cat([left[:, 1:], torch.zeros_like(eye)]),
        gate_bias=torch.cat([left[:, 0], zero + 1]),
        up=torch.cat([right[:, 1:], eye]),
        up_bias=torch.cat([right[:, 0], zero]),
        down=torch.cat([weights[:h], weights[h + 1 :]]).mT.contiguous(),
        down_bias=weights[h].clone(),
        ridge=ridge,
        missed=missed,
        loss=float("nan"),
    )

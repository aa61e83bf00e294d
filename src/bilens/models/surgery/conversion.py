"""Conversion: a transformer whose MLPs are bilinear in place of another's, layer after layer, by
least squares.

A layer keeps the pairs (L x̃) ⊙ (R x̃) of its nearest quadratic on what it now reads, unit by unit
(``nearest``), over x̃ = (1, x). Its output, linear part and constant are fitted so that the stream
after it comes near to the *original's*: each layer mends what those before it missed. A token's
squared error counts by one over the size (root mean square) of the original's stream there. By one,
the few tokens of massive activations would be all that is fitted; by one over its square they would
be lost, and heads lean on them. (A unit's few numbers cannot have both, and are for the others: by
one over the square.) And of what was missed before, a layer is to mend at most as much as the
original's writes there: a token whose massive activation was missed once would else be all that the
layers after it are fitted to.

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

from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import require_finite, working_dtype
from bilens.base.records import Record
from bilens.measure import Gaussian
from bilens.models.carry import carry
from bilens.models.transformer import Transformer, TransformerConfig
from bilens.models.transformer.blocks import Block
from bilens.nearest import NormalEquations, tensor_by_units
from bilens.nn import MLP, GatedMLP, Hidden

TOKENS = 2048  # at a time
UNITS = 16_384  # tokens that the few numbers of a unit are fitted to
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
    made = carry(model, made)
    made.name_or_path = ""  # it is another model
    return made


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
    ``texts``. Cost a layer: a forward pass of it in each model over the texts, O(n t (h + i)²),
    and the layers after it over ``others`` for three ridges. Memory: the streams of both models and
    h + i hidden units at every token, and O((h + i)²). Errors: ShapeError for what is no texts of
    two tokens or more.

    >>> gated = bilens.load("tinystories-2l-swiglu")
    >>> made = bilens.models.bilinear_frame(gated)
    >>> ids = torch.randint(1024, (2, 64))
    >>> len(list(bilens.models.converted_layers(gated, made, ids, ids)))
    2
    """
    for name, ids in (("texts", texts), ("others", others)):
        if ids.ndim != 2 or not len(ids) or ids.shape[1] < 2:
            must, got = "be (texts, tokens), of two tokens or more", tuple(ids.shape)
            raise ShapeError(name, must=must, got=got)
    dtype = working_dtype(model.dtype)
    if dtype != model.dtype:
        model = copy.deepcopy(model)
        nn.Module.to(model, dtype=dtype)
    own, apart = both = _Streams(model, _pieces(texts)), _Streams(model, others)
    for n, (old, new) in enumerate(zip(model.blocks, made.blocks, strict=True)):
        for streams in both:
            streams.attend(old, new)
        layer = None
        if n >= begin:
            layer = _nearest(old, own.read(new), own.weights(), total)
            layer.put(new)
        for streams in both:
            streams.meet(new)
        if layer is not None:
            fitted = partial(_fitted, layer, own.sums(total), apart.sums())
            layer = _downhill(partial(apart.tried, model, n + 1, new, fitted))
            layer.put(new)
        for streams in both:
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
        self.ours = self.reads = self.written = self.units = list(self.theirs)

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

    def read(self, new: Block) -> list[Float[Tensor, "b t i"]]:
        """What the MLP of ``new`` reads."""
        return [new.post_attention_layernorm(x) for x in self.reads]

    def meet(self, new: Block) -> None:
        """Keep what the hidden units of ``new`` make of what it reads: its pairs, and beside them
        what is read itself.
        """
        assert isinstance(new.mlp, GatedMLP)
        pairs = _pairs(new.mlp.hidden())
        self.units = [torch.cat([pairs(x), x], -1) for x in self.read(new)]

    def after(self, new: Block) -> list[Float[Tensor, "b t d"]]:
        """The second stream past the MLP of ``new``, whose units are kept."""
        assert isinstance(new.mlp, GatedMLP)
        written = map(new.mlp.hidden().write, self.units)
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

    def sums(self, total: Total = lambda own: own) -> NormalEquations:
        """Of the units and the constant 1, and what they are to write."""
        due = self.due()
        roots = (weights.sqrt()[:, None].to(due[0].dtype) for weights in self.weights())
        samples = (
            (root * functional.pad(units.flatten(0, 1), (0, 1), value=1.0), root * y)
            for units, y, root in zip(self.units, due, roots, strict=True)
        )
        number = self.units[0].shape[-1] + 1
        own = NormalEquations.summed(samples, number, due[0].shape[1], due[0].device)
        return NormalEquations(total(own.gram), total(own.target), total(own.square))

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


def _measure(read: Sequence[Float[Tensor, "_ i"]], total: Total) -> Gaussian:
    """Mean and covariance over all processes."""
    count = total(torch.tensor(sum(map(len, read)), device=read[0].device))
    mean = total(torch.stack([x.double().sum(0) for x in read]).sum(0)) / count
    scatter = mean.new_zeros(len(mean), len(mean))
    for x in read:
        centred = x.double() - mean
        scatter.addmm_(centred.mT, centred)
    return Gaussian(mean, total(scatter) / (count - 1), int(count))


def _nearest(
    old: Block,
    read: Sequence[Float[Tensor, "b t i"]],
    weights: Sequence[Float[Tensor, " _"]],
    total: Total,
) -> ConvertedLayer:
    """The nearest quadratic of an MLP on what it reads, unit by unit: its pairs, and beside them a
    unit for each input whose gate is 1.
    """
    assert isinstance(old.mlp, GatedMLP | MLP)
    some = slice(None, None, max(1, len(read) * TOKENS // UNITS))
    few = [(x.flatten(0, 1), w.square()) for x, w in zip(read[some], weights[some], strict=True)]
    measure = _measure([x for x, _ in few], total)
    tensor = tensor_by_units(old.mlp.hidden(), measure, few, total)
    size = tensor.shape[1]
    left, right = tensor.left[:-size], tensor.right[:-size]
    pairs, constant, linear = tensor.out.split([len(left), 1, size - 1], 1)
    eye, zero = torch.eye(size - 1, dtype=left.dtype, device=left.device), left.new_zeros(size - 1)
    return ConvertedLayer(
        gate=torch.cat([left[:, 1:], torch.zeros_like(eye)]),
        gate_bias=torch.cat([left[:, 0], zero + 1]),
        up=torch.cat([right[:, 1:], eye]),
        up_bias=torch.cat([right[:, 0], zero]),
        down=torch.cat([pairs, linear], 1),
        down_bias=constant[:, 0].clone(),
        ridge=math.inf,
        missed=math.nan,
        loss=math.nan,
    )


def _pairs(hidden: Hidden) -> Hidden:
    """The units of which the gate is not 1."""
    number = len(hidden.weight) - hidden.weight.shape[1]
    legs = {name: getattr(hidden, name) for name in ("weight", "weight_bias", "up", "up_bias")}
    kept = {name: leg[:number] for name, leg in legs.items()}
    return replace(hidden, out=hidden.out[:, :number], **kept)


def _fitted(
    nearest: ConvertedLayer, sums: NormalEquations, apart: NormalEquations, ridge: float
) -> ConvertedLayer:
    """The output of its units by least squares, near its own."""
    own = torch.cat([nearest.down, nearest.down_bias[:, None]], 1).mT
    weights = sums.solved(ridge, near=own.to(sums.gram))
    require_finite("conversion", weights=weights)
    down, bias = weights.to(nearest.down.dtype).mT.split([len(weights) - 1, 1], 1)
    return replace(
        nearest, down=down.contiguous(), down_bias=bias[:, 0].clone(),
        ridge=ridge, missed=apart.missed(weights),
    )  # fmt: skip

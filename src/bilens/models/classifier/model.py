"""An image classifier whose every layer is bilinear: embed → n bilinear layers (residual or not) →
head.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils.generic import can_return_tuple

from bilens.algebra import CP, constant, homogeneous, homogeneous_map, lifted, linear
from bilens.base.errors import ArgumentError, NotExactError, ShapeError
from bilens.base.numerics import as_given, is_whole
from bilens.models.arguments import IGNORED, cross_entropy, require_known, switch, whole_numbers
from bilens.models.classifier.config import ClassifierConfig
from bilens.nn import Bilinear, BilinearMLP, NoNorm
from bilens.wiring import BIAS, EMBEDDING, Layer, Source, Wiring


class Classifier(PreTrainedModel):
    """logits = head(x_n) with x_0 = embed(pixels) and x_{l+1} = [x_l +] (w1 x_l) ⊙ (w2 x_l), or
    [x_l +] D ((L x_l) ⊙ (R x_l)) where the configuration has an intermediate size.

    One layer is one tensor, class × pixel × pixel (``tensor()``); deeper models are read layer by
    layer (``tensor(l)``).

    >>> classifier = bilens.Classifier(bilens.ClassifierConfig(num_labels=10))
    >>> classifier(torch.rand(2, 64)).logits.shape
    torch.Size([2, 10])
    >>> classifier.tensor().shape  # class, pixel, pixel
    (10, 64, 64)
    """

    config_class = ClassifierConfig
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # the loss is the mean over the batch it is given
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embed = nn.Linear(config.input_size, width, bias=config.bias)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.num_hidden_layers))
        self.head = nn.Linear(width, len(config.labels), bias=config.bias)
        self.gradient_checkpointing = False  # transformers sets it
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Float[Tensor, "b *shape"],
        labels: Int[Tensor, " b"] | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unknown: Any,
    ) -> ImageClassifierOutputWithNoAttention:
        """Logits (b, class), and the cross-entropy in nats where ``labels`` are given (−100:
        ignored).

        The loss is the mean over the batch, or the sum over ``num_items_in_batch``. Pixels are
        taken to the model's dtype. ``output_hidden_states``: the embedded image, and what follows
        each layer. Errors: ShapeError for pixels and labels that do not fit, ArgumentError for a
        label or an argument that is not known.
        """
        require_known(self, unknown)
        hidden = switch(
            "output_hidden_states", output_hidden_states, self.config.output_hidden_states
        )
        pixels = self._pixels(pixel_values)
        if self.training and self.config.input_noise:
            pixels = pixels + self.config.input_noise * torch.randn_like(pixels)
        streams = []
        for x in self._streams(pixels):
            streams = [*streams, x] if hidden else [x]  # all held only where asked for
        logits = self.head(streams[-1])
        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else _loss(logits, labels, num_items_in_batch),
            logits=logits,
            hidden_states=tuple(streams) if hidden else None,
        )

    def tensor(self, layer: int | None = None) -> CP:
        """The model, or one of its layers, as an exact tensor over ``inputs(pixel_values, layer)``.
        Gradients flow.

        Without ``layer``: the whole one-layer model, class × pixel × pixel, with embedding,
        residual, head and biases in it. With ``layer``: what that layer writes, its residual
        connection apart; the first reads pixels through the embedding, the last writes logits
        through the head.

        Errors: NotExactError for the whole of a deeper model (its logits have degree 2^n: no
        third-order tensor); ArgumentError for a layer that is not there.
        """
        if layer is None:
            return self._whole()
        self._require_layer(layer)
        tensor = self._composed(layer)
        last = layer == self.config.num_hidden_layers - 1
        return tensor.map(out=self.head.weight) if last else tensor

    @torch.no_grad()
    def inputs(
        self, pixel_values: Float[Tensor, "b *shape"], layer: int | None = None
    ) -> Float[Tensor, "b i"]:
        """The vectors that ``tensor(layer)`` is over: pixels or the residual stream, with the 1 in
        front where needed.
        """
        x = self._pixels(pixel_values)
        if layer is None:
            return homogeneous(x) if self._is_affine else x
        self._require_layer(layer)
        if layer > 0:
            x = self.embed(x)
            for before in list(self.layers)[:layer]:
                x = self._step(before, x)
        return homogeneous(x) if self.config.bias else x

    # What circuits see (wiring.Expandable).

    def wiring(self) -> Wiring:
        """The embedding of the image, then layer after layer; the head reads the last, or with
        ``residual`` all of them.
        """
        none = NoNorm()
        parts = [Layer(f"mlp{n}", n, none, layer) for n, layer in enumerate(self.layers)]
        leaves = [Source("embed", EMBEDDING)]
        if self.config.bias:
            leaves.append(Source("embed.bias", BIAS))
        readout = (self.head.weight, self.head.bias)
        return Wiring(tuple(leaves), tuple(parts), none, *readout, self.config.residual)

    def read(self, inputs: Float[Tensor, "*shape"]) -> Float[Tensor, "1 i"]:
        """One image, in its shape or flat, with or without a batch dim of one. Errors: ShapeError
        for anything else.
        """
        pixels = as_given(inputs).to(self.device, self.dtype)
        shapes = (tuple(self.config.input_shape), (self.config.input_size,))
        flat = self._pixels(pixels[None] if tuple(pixels.shape) in shapes else pixels)
        if len(flat) != 1:
            raise ShapeError("inputs", must="be one image", got=f"{len(flat)} images")
        return flat

    @torch.no_grad()
    def leaves(self, inputs: Float[Tensor, "1 i"]) -> dict[str, Float[Tensor, "1 d"]]:
        """The embedded image, and the embedding's bias apart from it."""
        found = {"embed": inputs @ self.embed.weight.mT}
        return found | {"embed.bias": self.embed.bias[None]} if self.config.bias else found

    def leaf_weights(self) -> dict[str, Float[Tensor, "n d"]]:
        """The embedding of each pixel, and the embedding's bias."""
        found = {"embed": self.embed.weight.mT}
        return found | {"embed.bias": self.embed.bias[None]} if self.config.bias else found

    @torch.no_grad()
    def outputs(self, inputs: Float[Tensor, "1 i"]) -> Float[Tensor, "1 classes"]:
        """The logits, by ``forward`` in evaluation."""
        return self.head([*self._streams(inputs)][-1])

    def output_index(self, name: str | int) -> int:
        """A class by its name, or by its number."""
        if isinstance(name, str) and name in self.config.labels:
            return self.config.labels.index(name)
        if not isinstance(name, str) and is_whole(name) and 0 <= name < len(self.config.labels):
            return int(name)
        raise ArgumentError(
            "target",
            must=f"be one of {', '.join(self.config.labels)}, or its number",
            got=repr(name),
        )

    def output_names(self, indices: Int[Tensor, " n"] | Sequence[int]) -> list[str]:
        """The names of classes."""
        return [self.config.labels[int(index)] for index in indices]

    def input_names(self, inputs: Float[Tensor, "1 i"]) -> list[str]:
        """An image has one position."""
        return ["image"]

    @property
    def _is_affine(self) -> bool:
        return self.config.bias or self.config.residual

    def _streams(self, pixels: Tensor) -> Iterator[Tensor]:
        """The embedded image, and what follows each layer."""
        x = self.embed(pixels)
        yield x
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(self._step, layer, x)
            else:
                x = self._step(layer, x)
            yield x

    def _step(self, layer: nn.Module, x: Tensor) -> Tensor:
        return x + layer(x) if self.config.residual else layer(x)

    def _pixels(self, pixel_values: Tensor) -> Tensor:
        shape = tuple(pixel_values.shape[1:])
        if shape not in (tuple(self.config.input_shape), (self.config.input_size,)):
            sizes = ", ".join(map(str, self.config.input_shape))
            must = f"be (batch, {sizes}) or (batch, {self.config.input_size})"
            raise ShapeError("pixel_values", must=must, got=tuple(pixel_values.shape))
        if not pixel_values.is_floating_point():
            todo = "Scale them as in training: images / 255.0 as a rule."
            raise ShapeError("pixel_values", must="be floating", got=pixel_values.dtype, todo=todo)
        return pixel_values.flatten(1).to(self.embed.weight.dtype)

    def _composed(self, layer: int) -> CP:
        """The layer's own tensor, reading pixels where it is the first."""
        module = self.layers[layer]
        assert isinstance(module, Bilinear | BilinearMLP)
        tensor = module.tensor()
        if layer > 0:
            return tensor
        embed = (
            homogeneous_map(self.embed.weight, self.embed.bias)
            if self.config.bias
            else self.embed.weight
        )
        return tensor.map(left=embed.mT, right=embed.mT)  # maps are (new, old): pixels by width

    def _whole(self) -> CP:
        layers = self.config.num_hidden_layers
        if layers > 1:
            raise NotExactError(
                "Classifier.tensor()",
                must="be asked of a model with one layer",
                got=f"{layers} layers, whose logits have degree {2**layers}",
                todo="Read it layer by layer: tensor(0), tensor(1), …",
            )
        tensor = self._composed(0).map(out=self.head.weight)
        if not self._is_affine:
            return tensor
        # the skip is linear: it needs the constant coordinate even without biases
        if not self.config.bias:
            tensor = CP(tensor.out, *map(lifted, tensor.inputs), affine=True)
        offset = self.head.bias
        if self.config.residual:
            tensor = tensor + linear(self.head.weight @ self.embed.weight)
            if self.config.bias:
                offset = offset + self.head.weight @ self.embed.bias
        return tensor + constant(offset, tensor.shape[1]) if self.config.bias else tensor

    def _require_layer(self, layer: int) -> None:
        if not 0 <= layer < self.config.num_hidden_layers:
            raise ArgumentError(
                "layer", must=f"be 0 … {self.config.num_hidden_layers - 1}", got=layer
            )


def _layer(config: ClassifierConfig) -> Bilinear | BilinearMLP:
    width, products = config.hidden_size, config.intermediate_size
    if products:
        return BilinearMLP(width, products, config.bias)
    return Bilinear(width, width, config.bias)


def _loss(logits: Float[Tensor, "b classes"], labels: Tensor, items: Tensor | int | None) -> Tensor:
    """The cross-entropy of whole-number labels, one an image."""
    if labels.shape != logits.shape[:1]:
        must = f"be ({len(logits)},), one for each image"
        raise ShapeError("labels", must=must, got=tuple(labels.shape))
    return cross_entropy(logits, whole_numbers("labels", labels, logits.shape[1], IGNORED), items)


AutoConfig.register(ClassifierConfig.model_type, ClassifierConfig)
AutoModelForImageClassification.register(ClassifierConfig, Classifier)

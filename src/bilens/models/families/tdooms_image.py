"""Image classifiers of tdooms (bilinear-decomposition): both sides of a layer are one matrix, and
only layers have biases.

Their state dicts come without a configuration: the sizes are those of the weights, and a key that
nobody gives has the value that their code gives it.
"""

from collections.abc import Collection
from typing import Any

from bilens.base.keys import Allowed, Anything, Flag, each
from bilens.models.classifier.config import ClassifierConfig
from bilens.models.families.family import Family, Shapes, Weight, matrix
from bilens.models.keys import understood

EMBED, HEAD, FIRST = "embed.weight", "head.weight", "blocks.0.weight"
IMAGES = {
    784: (28, 28),
    3072: (3, 32, 32),
    1024: (32, 32),
}  # the shapes of images of so many pixels
OWN: dict[str, Allowed] = {
    **each(("residual", "bias"), Flag()),
    # sizes, which the weights have too, and how it was trained
    **each(("d_hidden", "n_layer", "d_input", "d_output"), Anything()),
    **each(("lr", "wd", "epochs", "batch_size", "seed", "device"), Anything()),
}


def recognises(names: Collection[str]) -> bool:
    """Whether weights of these names are such a model's."""
    return {EMBED, HEAD, FIRST} <= set(names)


def config(raw: dict[str, Any], shapes: Shapes) -> ClassifierConfig:
    """The bilens configuration. Errors: ConfigError naming the first key that is not understood."""
    understood(OWN).check(raw)
    layers = sum(name.startswith("blocks.") and name.endswith(".weight") for name in shapes)
    return ClassifierConfig(
        num_hidden_layers=layers,
        residual=raw.get("residual", False),
        bias="blocks.0.bias" in shapes,
        **ends(shapes),
    )


def ends(shapes: Shapes) -> dict[str, Any]:
    """What the embedding and the readout say of the sizes. Errors: FileError without them."""
    (width, pixels), (classes, _) = matrix(shapes, EMBED), matrix(shapes, HEAD)
    return {
        "input_shape": IMAGES.get(pixels, (pixels,)),
        "hidden_size": width,
        "num_labels": classes,
    }


def weights(config: ClassifierConfig) -> tuple[Weight, ...]:
    """Left and right lie one below the other."""
    return (
        Weight("embed", ("embed",), biased=False),
        Weight("blocks.{layer}", ("layers.{layer}.w1", "layers.{layer}.w2")),
        Weight("head", ("head",), biased=False),
    )


TDOOMS_IMAGE = Family(
    kinds=(), name="tdooms-image", config=config, weights=weights, recognises=recognises, base=""
)

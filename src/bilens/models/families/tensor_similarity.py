"""Classifiers of tensor-similarity: x becomes (1 − s) x + s (D (L x ⊙ R x) + b), with one number s
that their files do not hold.

Nothing normalises, so y_l = x_l / (1 − s)^l is a stream that layers add to: what they read is
multiplied by (1 − s)^l, what they write by s / (1 − s)^(l + 1), and the readout by (1 − s)^n. For
s = 1 there is no residual connection.
"""

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor

from bilens.base.errors import ConfigError
from bilens.base.keys import Number, require
from bilens.models.classifier.config import ClassifierConfig
from bilens.models.families.family import Family, Shapes, Weight
from bilens.models.families.tdooms_image import EMBED, HEAD, ends
from bilens.models.keys import understood

LEFT, BIAS = "body.0.l.weight", "body.0.d.bias"
SCALE = Number(above=0)
OWN = {"scale": SCALE}


def recognises(names: Collection[str]) -> bool:
    """Whether weights of these names are such a model's."""
    return {EMBED, HEAD, LEFT} <= set(names)


def config(raw: dict[str, Any], shapes: Shapes) -> ClassifierConfig:
    """The bilens configuration. Errors: ConfigError where nobody says what s is."""
    if "scale" not in raw:
        todo = 'Say config={"scale": 1.0}: 1 is no residual connection.'
        raise ConfigError("scale", must="be given: no file holds it", got="nothing", todo=todo)
    understood(OWN).check(raw)
    require("scale", raw["scale"], SCALE)
    return ClassifierConfig(
        num_hidden_layers=sum(name.endswith(".l.weight") for name in shapes),
        intermediate_size=shapes[LEFT][0],
        residual=raw["scale"] != 1,
        lerp=float(raw["scale"]),
        bias=BIAS in shapes,
        **ends(shapes),
    )


def weights(config: ClassifierConfig) -> tuple[Weight, ...]:
    """Each layer by its own factors."""
    assert config.lerp is not None
    s, layers = config.lerp, config.num_hidden_layers
    keep = 1 - s if config.residual else 1.0
    found = [
        Weight("embed", ("embed",), biased=False),
        Weight("head", ("head",), biased=False, change=times(keep**layers)),
    ]
    for n in range(layers):
        read, write = times(keep**n), times(s / keep ** (n + 1))
        theirs, ours = f"body.{n}", f"layers.{n}"
        found += [
            Weight(f"{theirs}.l", (f"{ours}.gate_proj",), biased=False, change=read),
            Weight(f"{theirs}.r", (f"{ours}.up_proj",), biased=False, change=read),
            Weight(f"{theirs}.d", (f"{ours}.down_proj",), change=write),
        ]
    return tuple(found)


def times(factor: float) -> Callable[[Tensor], Tensor]:
    """A tensor times a number."""
    return lambda tensor: tensor * factor


TENSOR_SIMILARITY = Family(
    kinds=(),
    name="tensor-similarity",
    config=config,
    weights=weights,
    recognises=recognises,
    base="",
)

"""What an image classifier is."""

from collections.abc import Sequence
from math import prod
from typing import Any

from transformers import PreTrainedConfig

from bilens.base.errors import ConfigError
from bilens.base.keys import Flag, Keys, Maybe, Number, each
from bilens.base.numerics import is_whole
from bilens.models.config import SIZE, SIZE_OR_NONE, require_known_keys

FIELDS = Keys(
    {
        **each(("hidden_size", "num_hidden_layers"), SIZE),
        "intermediate_size": SIZE_OR_NONE,
        "lerp": Maybe(Number(above=0)),
        **each(("residual", "bias"), Flag()),
        "input_noise": Number(least=0),
    }
)


class ClassifierConfig(PreTrainedConfig):
    """What a classifier is: ``input_shape`` in pixels, width, depth, whether layers add to what
    they read, biases. ``intermediate_size``: how many products a layer makes, which a further
    matrix brings to the width; 0 where they are what it writes.

    ``lerp`` s: the model was made of files in which x becomes (1 − s) x + s f(x), and its weights
    were scaled so that it is a sum (None: they are as in the files).

    ``input_noise`` is the standard deviation of Gaussian noise added to inputs in training mode
    alone. Errors: ConfigError for an unknown key or an impossible value.

    >>> bilens.ClassifierConfig(num_labels=10, hidden_size=32).num_hidden_layers
    1
    """

    model_type = "bilens_classifier"

    input_shape: Sequence[int] = (8, 8)
    hidden_size: int = 512
    num_hidden_layers: int = 1
    intermediate_size: int = 0
    residual: bool = False
    lerp: float | None = None
    bias: bool = False
    input_noise: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        require_known_keys(self, kwargs)
        FIELDS.check_fields(self, "ClassifierConfig.")
        shape = list(self.input_shape) if isinstance(self.input_shape, Sequence) else []
        if not shape or not all(is_whole(n) and n > 0 for n in shape):
            raise ConfigError(
                "ClassifierConfig.input_shape", must="be whole numbers ≥ 1", got=self.input_shape
            )
        self.input_shape = shape
        super().__post_init__(**kwargs)
        if sorted(self.id2label or ()) != list(range(len(self.id2label or ()))):
            raise ConfigError(
                "ClassifierConfig.id2label",
                must="name the classes 0, 1, 2, …",
                got=sorted(self.id2label or ()),
            )

    @property
    def input_size(self) -> int:
        """The number of pixels."""
        return prod(self.input_shape)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        names: dict[int, str] = self.id2label  # type: ignore[assignment]
        return tuple(str(names[n]) for n in range(len(names)))

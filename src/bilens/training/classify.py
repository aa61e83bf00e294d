"""Training an image classifier: two recipes, one call."""

from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction, set_seed

from bilens.base.fields import setting
from bilens.base.keys import MOST, Anything, Flag, Keys, Number, OneOf, Whole, each, require
from bilens.decompose import tail
from bilens.models import Classifier, ClassifierConfig
from bilens.training.images import ImageData, Images, load_images, require_fits
from bilens.training.run import Lesson, Run
from bilens.training.schedule import Schedule, require_room

TAIL_EVERY = 4  # steps
TAIL_FROM, TAIL_WHOLE = 0.3, 0.6  # of the run
FIELDS = Keys(
    {
        **each(("input_noise", "tail_penalty"), Number(least=0)),
        **each(("residual", "bias"), Flag()),
        **each(("kept", "hidden_size", "num_hidden_layers"), Whole(1, MOST)),
    }
)


@dataclass(frozen=True)
class ImageRecipe:
    """All that decides a classifier but the data. Sizes in units, ``learning_rate`` and
    ``weight_decay`` as AdamW's,
    ``input_noise`` as a standard deviation on pixels in [0, 1].

    ``tail_penalty``: that many times the share of each class's ‖Q‖² beyond its ``kept`` top
    eigenvectors is added to the training loss (``decompose.tail`` of the last layer, meant over
    classes), so that ``kept`` of them come to suffice. It sets in at 30 % of the run and is whole
    at 60 %: from the start it would settle on directions found too early.

    >>> bilens.training.ImageRecipe(hidden_size=64, steps=300).kept
    10
    """

    hidden_size: int = setting(512, "Hidden size.")
    num_hidden_layers: int = setting(1, "Bilinear layers.")
    residual: bool = setting(False, "Layers add to what they read.")
    bias: bool = setting(False, "Biases everywhere.")
    steps: int = setting(2640, "Optimiser steps.")
    batch_size: int = setting(500, "Images per step.")
    learning_rate: float = setting(2e-3, "Peak learning rate of AdamW.")
    weight_decay: float = setting(0.3, "Weight decay of AdamW.")
    input_noise: float = setting(0.3, "Standard deviation of noise on pixels in [0, 1].")
    tail_penalty: float = setting(20.0, "Weight of a class's share beyond its top eigenvectors.")
    kept: int = setting(10, "How many eigenvectors per class are free of that penalty.")
    seed: int = setting(0, "Seed of every random choice.", min=0, max=2**32 - 1)

    def __post_init__(self) -> None:
        self.schedule()  # refuses what no run could follow
        FIELDS.check_fields(self)

    def schedule(self) -> Schedule:
        """How long and how hard to train."""
        return Schedule(
            self.steps, self.batch_size, self.learning_rate, self.weight_decay, self.seed
        )


RECIPES = {
    "interpretable": ImageRecipe(),
    "accuracy": ImageRecipe(
        steps=3300, learning_rate=2e-3, weight_decay=0.1, input_noise=0.2, tail_penalty=0.0
    ),
}


def recipe(name: str = "interpretable", **changes: Any) -> ImageRecipe:
    """A named recipe with some fields changed; None leaves a field as it is. Errors: ConfigError
    for an unknown name.

    >>> bilens.training.recipe("accuracy", steps=100).weight_decay
    0.1
    """
    require("recipe", name, OneOf(tuple(RECIPES)))
    known = each((field.name for field in fields(ImageRecipe)), Anything())
    Keys(known, must="be a field of ImageRecipe").check(changes, "recipe.")
    given = {field: value for field, value in changes.items() if value is not None}
    return replace(RECIPES[name], **given)


def train_classifier(
    source: str,
    output: str | Path,
    how: ImageRecipe,
    *,
    resume: bool = False,
    save_every: int | None = None,
    keep_all: bool = False,
    quiet: bool = False,
) -> Classifier:
    """Train a classifier on ``source`` (see ``load_images``) into folder ``output``, and return it.

    With ``resume`` a run that was killed goes on from its last complete checkpoint to the same
    final weights (on the same machine and threads). Test accuracy and the recipe end up in
    training.json. ``save_every``: steps between checkpoints, a tenth of the run where it is None; a
    resumed run keeps its own. ``keep_all``: every checkpoint stays, not the last two alone.

    >>> from tempfile import mkdtemp
    >>> how = bilens.training.recipe(hidden_size=8, steps=2, batch_size=50)
    >>> folder = mkdtemp() + "/digits"
    >>> classifier = bilens.training.train_classifier("digits", folder, how, quiet=True)
    >>> classifier.tensor().shape
    (10, 64, 64)
    """
    output, data = Path(output), load_images(source)
    about = {"data": data.name, "content": data.content(), "recipe": asdict(how)}
    set_seed(how.seed)
    require_room(
        lambda n: Classifier(configure(data, replace(how, num_hidden_layers=n))),
        how.num_hidden_layers,
    )
    # before the folder is claimed: a recipe that cannot be built leaves nothing
    model = Classifier(configure(data, how))
    penalty = partial(tail_penalty, how) if how.tail_penalty else None
    lesson, schedule = Lesson(data.train, data.valid, _accuracy, penalty), how.schedule()
    schedule = replace(schedule, keep_all=keep_all)
    with Run.claim(output, about, resume, save_every, schedule.interval) as run:
        run.train(model, lesson, schedule, quiet)
        run.finish({part: evaluate(model, getattr(data, part)) for part in ("valid", "test")})
    return model


def tail_penalty(how: ImageRecipe, model: Classifier, step: int) -> Tensor | None:
    """What a training step adds to its loss; None for nothing. It costs as much as the step, so it
    is taken at every fourth, four times as heavy."""
    weight = min(1.0, (step / how.steps - TAIL_FROM) / (TAIL_WHOLE - TAIL_FROM))
    if weight <= 0 or step % TAIL_EVERY:
        return None
    last = model.config.num_hidden_layers - 1
    tensor = model.tensor(last or None)  # what truncate looks at
    share = tail(tensor, min(how.kept, tensor.shape[1])).penalty.to(tensor.dtype)
    return TAIL_EVERY * weight * how.tail_penalty * share.mean()


def configure(data: ImageData, how: ImageRecipe) -> ClassifierConfig:
    """The model that ``how`` asks for, sized to ``data``."""
    return ClassifierConfig(
        input_shape=list(data.shape),
        hidden_size=how.hidden_size,
        num_hidden_layers=how.num_hidden_layers,
        residual=how.residual,
        bias=how.bias,
        input_noise=how.input_noise,
        id2label=dict(enumerate(data.classes)),
    )


@torch.no_grad()
def evaluate(model: Classifier, images: Images, batch_size: int = 2048) -> dict[str, float]:
    """Accuracy (fraction), loss (nats per image) and the number of images.

    >>> classifier = bilens.Classifier(bilens.ClassifierConfig(num_labels=10, hidden_size=16))
    >>> images = bilens.training.load_images("digits").test
    >>> sorted(bilens.training.evaluate(classifier, images))
    ['accuracy', 'images', 'loss']
    """
    right, loss = 0, 0.0
    for n in range(0, len(images), batch_size):
        batch = images[n : n + batch_size]
        found = model(
            batch["pixel_values"].to(model.device, model.dtype), batch["labels"].to(model.device)
        )
        assert found.loss is not None
        loss += float(found.loss) * len(batch["labels"])
        right += int((found.logits.argmax(-1).cpu() == batch["labels"]).sum())
    return {"accuracy": right / len(images), "loss": loss / len(images), "images": len(images)}


def load_images_for(model: Classifier, source: str) -> ImageData:
    """``load_images``, for questions to ``model``. Errors: ArgumentError where its images do not
    fit the model.

    >>> classifier = bilens.Classifier(bilens.ClassifierConfig(num_labels=10, hidden_size=16))
    >>> bilens.training.load_images_for(classifier, "digits").name
    'digits'
    """
    data = load_images(source)
    require_fits(data, tuple(model.config.input_shape), len(model.config.labels))
    return data


def evaluate_on(model: Classifier, source: str) -> dict[str, float]:
    """``evaluate`` on the test part of ``source``. Errors: ArgumentError where its images do not
    fit the model.

    >>> classifier = bilens.Classifier(bilens.ClassifierConfig(num_labels=10, hidden_size=16))
    >>> bilens.training.evaluate_on(classifier, "digits")["images"]
    360
    """
    return evaluate(model, load_images_for(model, source).test)


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The fraction of right classes, for Trainer."""
    right = np.asarray(prediction.predictions).argmax(-1) == prediction.label_ids
    return {"accuracy": float(right.mean())}

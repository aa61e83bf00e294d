"""How well a classifier does with only the top eigenvectors of each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.charts import LINES, POSITIVE, REFERENCE, Line, curve, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import require_count
from bilens.base.results import Result
from bilens.base.words import counting
from bilens.decompose import eigen
from bilens.models import Classifier


@dataclass(frozen=True, repr=False, eq=False)
class Truncation(Result):
    """Accuracy when each class keeps its k eigenvectors of largest |λ|, for several k.

    Fields: ``kept`` (k of each column), ``zero``: the other terms λ (v·x)² left out; ``mean``: the
    other terms replaced by their mean over the same images (a constant per class); ``full``: the
    model itself; ``images``: how many were counted. Accuracies are fractions in [0, 1].

    Columns: ``eigenvectors``: how many each class keeps; ``accuracy`` with the rest left out; and
    ``accuracy, rest at its mean``.

    >>> digits = bilens.training.load_images("digits").test
    >>> classifier = bilens.Classifier(bilens.ClassifierConfig(num_labels=10, hidden_size=16))
    >>> bilens.checks.truncate(classifier, digits.pixel_values, digits.labels, kept=(1, 2)).kept
    (1, 2, 64)
    """

    kept: tuple[int, ...]
    zero: tuple[float, ...]
    mean: tuple[float, ...]
    full: float
    images: int

    def summary(self) -> str:
        best = next(
            (
                k
                for k, accuracy in zip(self.kept, self.zero, strict=True)
                if accuracy >= self.full - 0.001
            ),
            None,
        )
        enough = (
            f"{counting(best, 'eigenvectors')} per class {'keeps' if best == 1 else 'keep'} it "
            "within 0.1 point"
            if best
            else "no k tried keeps it within 0.1 point"
        )
        return f"full accuracy {self.full:.4f} on {counting(self.images, 'images')}; {enough}"

    def rows(self) -> list[dict[str, Any]]:
        columns = zip(self.kept, self.zero, self.mean, strict=True)
        return [
            {"eigenvectors": k, "accuracy": zero, "accuracy, rest at its mean": mean}
            for k, zero, mean in columns
        ]

    def figure(self) -> dict[str, Any]:
        kept = list(self.kept)

        def line(
            name: str, values: Sequence[float], mode: str, **style: Unpack[Line]
        ) -> dict[str, Any]:
            points = [100 * value for value in values]
            hover = {"eigenvectors kept": kept, "accuracy, %": points}
            return curve(name, kept, points, hover=hover, mode=mode, **style)

        full = [self.full] * len(kept)
        lines = [
            line("rest left out", self.zero, "lines+markers", color=POSITIVE),
            line("rest at its mean", self.mean, "lines+markers", color=LINES[1], dash="dot"),
            line("whole model", full, "lines", color=REFERENCE, dash="dash"),
        ]
        title = f"Accuracy from the top eigenvectors alone, on {counting(self.images, 'images')}"
        layout = titled(title, "eigenvectors kept per class", "accuracy, %")
        layout["xaxis"] |= {"type": "log", "tickvals": kept}
        return {"data": lines, "layout": layout}


@torch.no_grad()
def truncate(
    model: Classifier,
    pixel_values: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"],
    kept: Sequence[int] = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100),
) -> Truncation:
    """Accuracy of ``model`` with only the top eigenvectors of each class in its last layer.

    logits_k = logits − Σ_{m ≥ k} λ_m (v_m · x)²: what is left out is left out of the true forward
    pass, so the residual stream and biases of deeper models stay whole. Cost: one full
    eigendecomposition per class, b·i² per class. Errors: ArgumentError for no images, for a label
    that is no class, and for what is no number of eigenvectors; ShapeError for other than one label
    an image.

    >>> digits = bilens.training.load_images("digits").test
    >>> classifier = bilens.Classifier(bilens.ClassifierConfig(num_labels=10, hidden_size=16))
    >>> found = bilens.checks.truncate(classifier, digits.pixel_values, digits.labels, kept=(5,))
    >>> found.images
    360
    """
    last = None if model.config.num_hidden_layers == 1 else model.config.num_hidden_layers - 1
    for k in kept:
        require_count("kept", k)
    if not len(pixel_values):
        raise ArgumentError("truncate", must="be given images", got="none")
    if labels.shape != (len(pixel_values),):
        must = f"be ({len(pixel_values)},), one for each image"
        raise ShapeError("labels", must=must, got=tuple(labels.shape))
    classes = len(model.config.labels)
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ArgumentError("labels", must=f"be 0 … {classes - 1}", got=outside[0].item())
    pixel_values, labels = pixel_values.to(model.device), labels.to(model.device)
    inputs, tensor = model.inputs(pixel_values, last), model.tensor(last)
    logits = model(pixel_values).logits
    pairs = eigen(tensor, k=None)
    kept = [k for k in kept if k < pairs.values.shape[-1]] + [pairs.values.shape[-1]]
    zero, mean = (pairs.values.new_empty(len(kept), *logits.shape) for _ in range(2))
    for c in range(logits.shape[1]):
        terms = (inputs.to(pairs.vectors) @ pairs.vectors[c].T).square() * pairs.values[c]
        for n, k in enumerate(kept):
            rest = terms[:, k:].sum(-1)
            zero[n, :, c] = logits[:, c] - rest
            mean[n, :, c] = zero[n, :, c] + rest.mean()
    return Truncation(
        kept=tuple(kept),
        zero=tuple(_accuracy(scores, labels) for scores in zero),
        mean=tuple(_accuracy(scores, labels) for scores in mean),
        full=_accuracy(logits, labels),
        images=len(labels),
    )


def _accuracy(scores: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> float:
    return float((scores.argmax(-1) == labels).double().mean())

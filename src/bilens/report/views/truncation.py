"""How many eigenvectors of each class are enough."""

from functools import partial
from typing import Any

from bilens.checks import truncate
from bilens.models import Classifier
from bilens.report.page import result
from bilens.report.view import Block, Query, View, is_classifier, loaded, sentence


def _build(model: Classifier, query: Query) -> list[Block]:
    return [Block("chart", "How many eigenvectors are enough", partial(_enough, model, query))]


def _enough(model: Classifier, query: Query) -> dict[str, Any]:
    images = query.tested_on().test
    truncated = truncate(model, images.pixel_values, images.labels)
    text = (
        "Each class keeps its eigenvectors of largest |λ|; the other terms λ (v·x)² are left out, "
        f"or held at their mean over the same images. {sentence(truncated.summary())}"
    )
    of = f"{loaded(query)}, images.pixel_values, images.labels"
    spoken = "Accuracy against the number of eigenvectors kept per class"
    return result(truncated, text, spoken, f"bilens.checks.truncate({of})")


VIEW = View("truncation", is_classifier, _build)

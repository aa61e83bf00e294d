"""The page of a classifier: what each class looks for, and how much of it is enough."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bilens.algebra import Eigen
from bilens.checks import truncate
from bilens.decompose import eigen, hosvd
from bilens.models import Classifier
from bilens.report.page import COLOURS, Section, chart, exactness, recipe, result, section
from bilens.report.pictures import picture
from bilens.training import ImageData, evaluate

SHOWN = 4  # eigenvectors of each sign, and gates, in pictures
ROUNDING = 1e-6  # of the largest |λ|, in float32
BARS = 20  # eigenvalues of each sign in a spectrum


@dataclass(frozen=True)
class Subject:
    """What the page is about."""

    model: Classifier
    data: ImageData
    about: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.model.config.input_shape)

    @property
    def last(self) -> int | None:
        """The layer that writes the logits; None where the whole model is one tensor."""
        depth = self.model.config.num_hidden_layers
        return None if depth == 1 else depth - 1


def classifier_sections(model: Classifier, data: ImageData, about: dict[str, Any]) -> list[Section]:
    """All about a classifier; the test part of ``data`` is used."""
    subject = Subject(model.eval(), data, about)
    return [
        section("model", "The model", partial(_model, subject)),
        section("exactness", "Exactness", partial(exactness, subject.model)),
        section("classes", "What each class looks for", partial(_classes, subject)),
        section("chart", "How many eigenvectors are enough", partial(_enough, subject)),
        section("chart", "How many directions the whole layer uses", partial(_directions, subject)),
        section("gates", "Gates: products of two linear forms", partial(_gates, subject)),
    ]


def _model(subject: Subject) -> dict[str, Any]:
    config, figures = subject.model.config, evaluate(subject.model, subject.data.test)
    write = "x + (w1 x) ⊙ (w2 x)" if config.residual else "(w1 x) ⊙ (w2 x)"
    facts = {
        "Kind": f"bilinear classifier: embed → {config.num_hidden_layers} × [ {write} ] → head",
        "Input": f"{' × '.join(map(str, config.input_shape))} pixels in [0, 1]",
        "Width": str(config.hidden_size),
        "Classes": ", ".join(config.labels),
        "Biases": "yes, kept as a constant coordinate" if config.bias else "none",
        "Parameters": f"{sum(p.numel() for p in subject.model.parameters()):,}",
        "Data": f"{subject.data.name}, {figures['images']:,} test images",
    }
    keys = (
        "steps",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "input_noise",
        "tail_penalty",
        "kept",
        "seed",
    )
    headline = f"{100 * figures['accuracy']:.2f} %"
    beside = f"test accuracy, loss {figures['loss']:.4f} nats per image"
    return {"headline": headline, "beside": beside, "facts": facts | recipe(subject.about, keys)}


def _classes(subject: Subject) -> dict[str, Any]:
    tensor = subject.model.tensor(subject.last).detach()
    pairs = eigen(tensor, k=None, labels=subject.model.config.labels)
    ranks = pairs.effective_rank.tolist()
    cards = [_card(subject, pairs, n, rank) for n, rank in enumerate(ranks)]
    return {
        "cards": cards,
        "mean_rank": sum(ranks) / len(ranks),
        "pictured": subject.last is None,
        "size": tensor.shape[1],
    }


def _card(subject: Subject, pairs: Eigen, n: int, rank: float) -> dict[str, Any]:
    label, order = pairs.labels[n], pairs.values[n].argsort(descending=True)
    values, vectors = pairs.values[n][order], pairs.vectors[n][order]
    # eigenvalues below it have no direction of their own
    noise = ROUNDING * float(values.abs().max())
    up = [m for m in range(len(values)) if values[m] > noise][:SHOWN]
    down = [m for m in reversed(range(len(values))) if values[m] < -noise][:SHOWN]
    rows = {
        sign: [
            _shown(
                subject,
                f"{sign.lower()} eigenvector of class {label}",
                vectors[m],
                f"λ = {values[m]:.3g}",
            )
            for m in which
        ]
        for sign, which in {"Positive": up, "Negative": down}.items()
        if subject.last is None
    }
    # positions in the order of magnitude
    blocks = [m for block in pairs.degenerate[n] for m in block]
    degenerate = f"{len(blocks)} of {len(values)} eigenvalues are degenerate" if blocks else ""
    if blocks:
        degenerate += f", all with |λ| ≤ {pairs.values[n][blocks].abs().max():.1g}: only their span has meaning."
    return {
        "label": label,
        "rank": rank,
        "chart": _spectrum(label, values),
        "rows": rows,
        "degenerate": degenerate,
    }


def _spectrum(label: str, values: Tensor) -> dict[str, Any]:
    """Both ends of a class's spectrum, largest first, as a small bar chart."""
    count = min(BARS, (len(values) + 1) // 2)
    ends = sorted({*range(count), *range(len(values) - count, len(values))})
    bars = {
        "type": "bar",
        "y": values[ends].tolist(),
        "customdata": ends,
        "hovertemplate": "eigenvalue %{customdata}: %{y:.4g}<extra></extra>",
        "marker": {"color": [COLOURS[0] if values[end] > 0 else COLOURS[1] for end in ends]},
    }
    spoken = f"Spectrum of class {label}: the {count} largest eigenvalues, from {values[0]:.3g} down, and the {count} smallest"
    spoken += f", down to {values[-1]:.3g}"
    return chart(
        {
            "data": [bars],
            "layout": {"xaxis": {"visible": False}, "yaxis": {"title": {"text": "λ"}}},
        },
        spoken,
        170,
    )


def _shown(subject: Subject, what: str, vector: Tensor, caption: str) -> dict[str, str]:
    """A vector over pixels, or over (1, pixels), as a picture with its words."""
    size = subject.model.config.input_size
    if len(vector) > size:
        caption += f", constant {vector[0]:.2g}"
    return {
        "src": picture(vector[-size:], subject.image_shape),
        "alt": f"{what}, {caption}",
        "caption": caption,
    }


def _enough(subject: Subject) -> dict[str, Any]:
    images = subject.data.test
    found = truncate(subject.model, images.pixel_values, images.labels)
    text = (
        "Each class keeps its eigenvectors of largest |λ|; the other terms λ (v·x)² are left out, or held at their mean "
        f"over the same images. {found.summary()[:1].upper()}{found.summary()[1:]}."
    )
    return result(found, text, "Accuracy against the number of eigenvectors kept per class")


def _directions(subject: Subject) -> dict[str, Any]:
    found = hosvd(subject.model.tensor(subject.last).detach(), symmetric=True)
    text = (
        "Singular values of the layer's symmetric tensor in each mode (HOSVD), computed from its factors in float64; the "
        "cube was never made. Left and right are the same, as only the symmetric part acts. "
        f"{found.summary()[:1].upper()}{found.summary()[1:]}."
    )
    return result(found, text, "Singular values of the out, left and right modes")


def _gates(subject: Subject) -> dict[str, Any]:
    if subject.last is not None:
        return {
            "cards": [],
            "note": "This model's last layer reads the residual stream, whose directions are no pictures.",
        }
    tensor = subject.model.tensor().detach()
    cards = []
    for n, label in enumerate(subject.model.config.labels):
        gates = tensor.interaction(torch.eye(tensor.shape[0], dtype=tensor.dtype)[n]).gates(2)
        pairs = [
            [
                _shown(subject, f"gate {g + 1} of class {label}, {side}", vector[g], side)
                for side, vector in (("a", gates.a), ("b", gates.b))
            ]
            for g in range(len(gates.a))
        ]
        cards.append({"label": label, "gates": zip(pairs, gates.share.tolist(), strict=True)})
    return {"cards": cards, "note": ""}

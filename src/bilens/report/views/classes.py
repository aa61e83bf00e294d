"""What each class of a classifier looks for: the ends of its spectrum, with their eigenvectors."""

from functools import partial
from typing import Any

from torch import Tensor

from bilens.algebra import Eigen
from bilens.base.charts import HIDE_NAME, signed
from bilens.decompose import eigen
from bilens.models import Classifier
from bilens.report.page import chart
from bilens.report.pictures import shown
from bilens.report.view import Block, Query, View, is_classifier, last_layer, tensor_line

SHOWN = 4  # eigenvectors of each sign, in pictures
ROUNDING = 1e-6  # of the largest |λ|, in float32
BARS = 20  # eigenvalues of each sign in a spectrum


def _build(model: Classifier, query: Query) -> list[Block]:
    return [Block("classes", "What each class looks for", partial(_classes, model, query))]


def _classes(model: Classifier, query: Query) -> dict[str, Any]:
    tensor = model.tensor(last_layer(model)).detach()
    pairs = eigen(tensor, k=None).labelled(model.config.labels)
    ranks = pairs.effective_rank.tolist()
    return {
        "cards": [_card(model, pairs, n, rank) for n, rank in enumerate(ranks)],
        "mean_rank": sum(ranks) / len(ranks),
        "pictured": last_layer(model) is None,
        "size": tensor.shape[1],
        "python": f"bilens.decompose.eigen({tensor_line(model, query)}, k=None)",
    }


def _card(model: Classifier, pairs: Eigen, n: int, rank: float) -> dict[str, Any]:
    order = pairs.values[n].argsort(descending=True)
    values, vectors = pairs.values[n][order], pairs.vectors[n][order]
    pictured = last_layer(model) is None
    return {
        "label": pairs.labels[n],
        "rank": rank,
        "chart": _spectrum(pairs.labels[n], values),
        "rows": _pictures(model, pairs.labels[n], values, vectors) if pictured else {},
        "degenerate": _degenerate(pairs, n),
    }


def _pictures(
    model: Classifier, label: str, values: Tensor, vectors: Tensor
) -> dict[str, list[dict[str, str]]]:
    """The eigenvectors at both ends of a spectrum, by sign."""
    # eigenvalues below it have no direction of their own
    noise = ROUNDING * float(values.abs().max())
    up = [m for m in range(len(values)) if values[m] > noise][:SHOWN]
    down = [m for m in reversed(range(len(values))) if values[m] < -noise][:SHOWN]
    shape = model.config.input_shape
    return {
        sign: [
            shown(
                vectors[m], shape, f"{sign.lower()} eigenvector of class {label}", _value(values[m])
            )
            for m in which
        ]
        for sign, which in (("Positive", up), ("Negative", down))
    }


def _value(value: Tensor) -> str:
    return f"λ = {value:.3g}"


def _degenerate(pairs: Eigen, n: int) -> str:
    """Which eigenvectors of a class have no direction of their own, if any."""
    # positions in the order of magnitude
    blocks = [m for block in pairs.degenerate[n] for m in block]
    if not blocks:
        return ""
    values = pairs.values[n]
    return (
        f"{len(blocks)} of {len(values)} eigenvalues are degenerate, all with "
        f"|λ| ≤ {values[blocks].abs().max():.1g}: only their span has meaning."
    )


def _spectrum(label: str, values: Tensor) -> dict[str, Any]:
    """Both ends of a class's spectrum, largest first, as a small bar chart."""
    count = min(BARS, (len(values) + 1) // 2)
    ends = sorted({*range(count), *range(len(values) - count, len(values))})
    sizes = values[ends].tolist()
    bars = {
        "type": "bar",
        "y": sizes,
        "customdata": ends,
        "hovertemplate": f"eigenvalue %{{customdata}}: %{{y:.4g}}{HIDE_NAME}",
        "marker": {"color": signed(sizes)},
    }
    layout = {"xaxis": {"visible": False}, "yaxis": {"title": {"text": "λ"}}}
    spoken = (
        f"Spectrum of class {label}: the {count} largest eigenvalues, from {values[0]:.3g} down, "
        f"and the {count} smallest, down to {values[-1]:.3g}"
    )
    return chart({"data": [bars], "layout": layout}, spoken, 170)


VIEW = View("classes", is_classifier, _build)

"""One self-contained page about one model: opens from file://, needs no network."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, select_autoescape
from plotly.offline import get_plotlyjs
from torch import Tensor

from bilens.algebra import Eigen
from bilens.base.files import write_text
from bilens.base.results import Result
from bilens.decompose import eigen, hosvd
from bilens.models import Classifier, truncate
from bilens.report.pictures import picture
from bilens.report.verify import verify
from bilens.training import ImageData, evaluate

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#661100", "#6A3D9A")
SHOWN = 4  # eigenvectors of each sign, and gates, in pictures
ROUNDING = 1e-6  # of the largest |λ|, in float32
BARS = 20  # eigenvalues of each sign in a spectrum


@dataclass(frozen=True)
class Section:
    """One part of the page: the name of its template block and what that needs, or the error it died of."""

    kind: str
    title: str
    content: dict[str, Any]
    error: str = ""


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


@dataclass(frozen=True)
class Page:
    """A page that was written, and which of its parts could not be made, with their errors."""

    path: Path
    broken: tuple[str, ...]


def write_page(model: Classifier, data: ImageData, folder: str | Path, about: dict[str, Any] | None = None) -> Page:
    """Write ``folder``/index.html. A part that fails shows its error; the page survives, and the answer names it.

    ``about`` is what training.json says of the run, if anything. The test part of ``data`` is used. The page carries
    plotly's library (4.8 MB); everything else is some hundred kB.
    """
    subject = Subject(model.eval(), data, about or {})
    sections = [
        _section("model", "The model", _model, subject),
        _section("exactness", "Exactness", _exactness, subject),
        _section("classes", "What each class looks for", _classes, subject),
        _section("chart", "How many eigenvectors are enough", _enough, subject),
        _section("chart", "How many directions the whole layer uses", _directions, subject),
        _section("gates", "Gates: products of two linear forms", _gates, subject),
    ]
    environment = Environment(loader=PackageLoader("bilens.report"), autoescape=select_autoescape(), trim_blocks=True)
    html = environment.get_template("page.html").render(sections=sections, plotly=get_plotlyjs(), version=version("bilens"))
    path = Path(folder) / "index.html"
    write_text(path, html)
    return Page(path, tuple(f"{section.title}: {section.error}" for section in sections if section.kind == "broken"))


def _section(kind: str, title: str, build: Callable[[Subject], dict[str, Any]], subject: Subject) -> Section:
    try:
        return Section(kind, title, build(subject))
    except Exception as error:
        return Section("broken", title, {}, f"{type(error).__name__}: {error}")


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
    recipe = subject.about.get("recipe", {})
    if recipe:
        keys = ("steps", "batch_size", "learning_rate", "weight_decay", "input_noise", "tail_penalty", "kept", "seed")
        facts["Training"] = ", ".join(f"{key.replace('_', ' ')} {recipe[key]}" for key in keys if key in recipe)
    return {"accuracy": figures["accuracy"], "loss": figures["loss"], "facts": facts}


def _exactness(subject: Subject) -> dict[str, Any]:
    checks = verify(subject.model)
    return {"rows": checks.rows(), "summary": checks.summary(), "passed": checks.passed}


def _classes(subject: Subject) -> dict[str, Any]:
    tensor = subject.model.tensor(subject.last).detach()
    pairs = eigen(tensor, k=None, labels=subject.model.config.labels)
    ranks = pairs.effective_rank.tolist()
    cards = [_card(subject, pairs, n, rank) for n, rank in enumerate(ranks)]
    return {"cards": cards, "mean_rank": sum(ranks) / len(ranks), "pictured": subject.last is None, "size": tensor.shape[1]}


def _card(subject: Subject, pairs: Eigen, n: int, rank: float) -> dict[str, Any]:
    label, order = pairs.labels[n], pairs.values[n].argsort(descending=True)
    values, vectors = pairs.values[n][order], pairs.vectors[n][order]
    noise = ROUNDING * float(values.abs().max())  # eigenvalues below it have no direction of their own
    up = [m for m in range(len(values)) if values[m] > noise][:SHOWN]
    down = [m for m in reversed(range(len(values))) if values[m] < -noise][:SHOWN]
    rows = {
        sign: [
            _shown(subject, f"{sign.lower()} eigenvector of class {label}", vectors[m], f"λ = {values[m]:.3g}")
            for m in which
        ]
        for sign, which in {"Positive": up, "Negative": down}.items()
        if subject.last is None
    }
    blocks = [m for block in pairs.degenerate[n] for m in block]  # positions in the order of magnitude
    degenerate = f"{len(blocks)} of {len(values)} eigenvalues are degenerate" if blocks else ""
    if blocks:
        degenerate += f", all with |λ| ≤ {pairs.values[n][blocks].abs().max():.1g}: only their span has meaning."
    return {"label": label, "rank": rank, "chart": _spectrum(label, values), "rows": rows, "degenerate": degenerate}


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
    spoken = (
        f"Spectrum of class {label}: the {count} largest eigenvalues, from {values[0]:.3g} down, and the {count} smallest"
    )
    spoken += f", down to {values[-1]:.3g}"
    return _chart({"data": [bars], "layout": {"xaxis": {"visible": False}, "yaxis": {"title": {"text": "λ"}}}}, spoken, 170)


def _shown(subject: Subject, what: str, vector: Tensor, caption: str) -> dict[str, str]:
    """A vector over pixels, or over (1, pixels), as a picture with its words."""
    size = subject.model.config.input_size
    if len(vector) > size:
        caption += f", constant {vector[0]:.2g}"
    return {"src": picture(vector[-size:], subject.image_shape), "alt": f"{what}, {caption}", "caption": caption}


def _enough(subject: Subject) -> dict[str, Any]:
    images = subject.data.test
    found = truncate(subject.model, images.pixel_values, images.labels)
    text = (
        "Each class keeps its eigenvectors of largest |λ|; the other terms λ (v·x)² are left out, or held at their mean "
        f"over the same images. {found.summary()[:1].upper()}{found.summary()[1:]}."
    )
    return _result(found, text, "Accuracy against the number of eigenvectors kept per class")


def _directions(subject: Subject) -> dict[str, Any]:
    found = hosvd(subject.model.tensor(subject.last).detach().symmetrise())
    text = (
        "Singular values of the layer's symmetric tensor in each mode (HOSVD), computed from its factors in float64; the "
        "cube was never made. Left and right are the same, as only the symmetric part acts. "
        f"{found.summary()[:1].upper()}{found.summary()[1:]}."
    )
    return _result(found, text, "Singular values of the out, left and right modes")


def _gates(subject: Subject) -> dict[str, Any]:
    if subject.last is not None:
        return {"cards": [], "note": "This model's last layer reads the residual stream, whose directions are no pictures."}
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


def _result(result: Result, text: str, spoken: str) -> dict[str, Any]:
    return {"text": text, "chart": _chart(result.figure(), f"{spoken}. {result.summary()}", 340), "rows": result.rows()}


def _chart(figure: dict[str, Any], spoken: str, height: int) -> dict[str, Any]:
    """A figure in the page's style, as JSON that is safe inside a script element, with its words for who cannot see it."""
    style = {
        "height": height,
        "margin": {"l": 55, "r": 10, "t": 10, "b": 45 if height > 200 else 10},
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "colorway": list(COLOURS),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": 1.12},
        "xaxis": {"gridcolor": "#e5e5e5"},
        "yaxis": {"gridcolor": "#e5e5e5", "zerolinecolor": "#999"},
    }
    layout = figure["layout"]
    merged = style | {
        key: style[key] | value if key in style and isinstance(value, dict) else value for key, value in layout.items()
    }
    text = json.dumps({"data": figure["data"], "layout": merged}).replace("<", "\\u003c")
    return {"json": text, "spoken": spoken, "height": height}

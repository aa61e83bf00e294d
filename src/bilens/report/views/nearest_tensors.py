"""How near to bilinear the MLPs of a language model are, and on which tokens they are not."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.charts import HIDE_NAME, PALETTE
from bilens.measure import Gaussian
from bilens.models import Transformer, mlp_inputs
from bilens.nearest import Approximation, approximate
from bilens.report.page import chart
from bilens.report.view import Block, Query, View, is_language_model, loaded
from bilens.training import HeldOut

TITLE = "MLPs that are no tensors: how near to bilinear they are"
NO_TEXT = (
    "How near depends on what the MLPs read, so it takes a text: "
    "bilens report MODEL -o DIR --data FOLDER, or a text file."
)
OF_EXPERTS = (
    "Each expert has a nearest tensor of its own, on the tokens that are routed to it: "
    "bilens approximate MODEL --data FOLDER."
)
PYTHON = (
    "model = %s; x = next(bilens.models.mlp_inputs(model, batches, [0]))[1]; "
    "bilens.approximate(model.model.blocks[0].mlp, bilens.Gaussian.from_batches(x), data=x)"
)
BATCH = 8  # texts at a time
SAMPLES = 2  # for each feature of a refitted output; with fewer the fit is not made
WORST = 5  # tokens of a layer that are shown in their text
KINDS = 3  # tokens of the vocabulary that are named for a layer
BEFORE, AFTER = 10, 3  # tokens shown around one
RUNGS = {
    "closed": "closed form",
    "units": "each unit by least squares",
    "output": "output by least squares",
}
FIRST = "first of a text"
ABOVE = {"y": 1.02, "yanchor": "bottom"}  # a legend of several lines grows away from the bars
TICKS = [0.0001 * step * 10**n for n in range(7) for step in (1, 2, 5)]  # % on a log axis


@dataclass(frozen=True)
class Rung:
    """What one fit leaves unexplained, and how much of that the worst 1 % of tokens carry."""

    unexplained: float
    error: float
    tail: float

    @classmethod
    def of(cls, found: Approximation) -> "Rung":
        assert found.unexplained is not None
        share = found.unexplained
        return cls(float(share.value), float(share.error), found.tail())


@dataclass(frozen=True)
class Layer:
    """The figures of one MLP. ``degrees``: shares of its output's variance from degree 1 on, what
    is beyond last. ``tokens``: what each token carries of the closed form's error.
    """

    number: int
    degrees: tuple[float, ...]
    rungs: Mapping[str, Rung]
    tokens: Float[Tensor, " n"]


def _fits(model: object) -> bool:
    return is_language_model(model) and not model.config.is_exact  # type: ignore


def _build(model: Transformer, query: Query) -> list[Block]:
    return [Block("nearest", TITLE, partial(_nearest, model, query))]


def _nearest(model: Transformer, query: Query) -> dict[str, Any]:
    text = query.text
    if model.config.num_local_experts:
        return {"note": OF_EXPERTS, "measured": None}
    if text is None:
        return {"note": NO_TEXT, "measured": None}
    return {"note": "", "measured": _measured(model, text), "python": PYTHON % loaded(query)}


def _measured(model: Transformer, text: HeldOut) -> dict[str, Any]:
    layers = list(_layers(model, text.ids))
    return {
        "text": _told(model, text),
        "degrees": _degrees(layers),
        "rungs": _rungs(layers),
        "rows": [_row(layer) for layer in layers],
        "columns": list(RUNGS.values()),
        "refitted": all("output" in layer.rungs for layer in layers),
        "tokens": [_carriers(model, layer, text.ids) for layer in layers],
        "open": max(range(len(layers)), key=lambda n: layers[n].rungs["closed"].tail),
    }


def _told(model: Transformer, text: HeldOut) -> str:
    act, kind = model.config.hidden_act, "gated" if model.config.gated else "plain"
    return (
        f"Each {kind} {act} MLP beside the polynomial of degree 2 that is nearest to it, which is "
        f"a tensor, on {text.ids.numel():,} held-out tokens of {text.name}."
    )


def _layers(model: Transformer, ids: Int[Tensor, "n t"]) -> Iterator[Layer]:
    """Every MLP's figures. The model runs over the texts once for all of them."""
    numbers = [n for n, block in enumerate(model.model.blocks) if block.mlp is not None]
    for n, x in mlp_inputs(model, ids.split(BATCH), numbers):
        yield _layer(model.model.blocks[n].mlp, n, x)


def _layer(mlp: Any, n: int, x: list[Float[Tensor, "_ d"]]) -> Layer:
    measure = Gaussian.from_batches(x)
    closed = approximate(mlp, measure, data=x)
    powers = closed.degrees.powers[1:]
    rungs = {"closed": Rung.of(closed), "units": Rung.of(approximate(mlp, measure, "units", x))}
    features = closed.tensor.left.shape[0]
    if sum(map(len, x)) >= SAMPLES * features:
        rungs["output"] = Rung.of(approximate(mlp, measure, "output", x))
    shares = tuple((powers / powers.sum()).tolist())
    return Layer(n, shares, rungs, closed.tokens / closed.tokens.sum().clamp(min=1e-300))


def _degrees(layers: Sequence[Layer]) -> dict[str, Any]:
    """The degree spectra as stacked bars, a bar a layer."""
    names = [*(f"degree {n}" for n in range(1, len(layers[0].degrees))), "beyond"]
    bars = [
        {
            "type": "bar",
            "name": name,
            "x": [str(layer.number) for layer in layers],
            "y": [100 * layer.degrees[n] for layer in layers],
            "marker": {"color": _shade(n)},
            "hovertemplate": f"layer %{{x}}, {name}: %{{y:.2f}} %{HIDE_NAME}",
        }
        for n, name in enumerate(names)
    ]
    y = {"title": {"text": "% of the variance"}, "range": [0, 100]}
    layout = {"barmode": "stack", "xaxis": _by_layer(), "yaxis": y}
    layout |= {"legend": ABOVE | {"traceorder": "normal"}}
    mean = [sum(layer.degrees[n] for layer in layers) / len(layers) for n in range(len(names))]
    shares = ", ".join(f"{name} {100 * s:.1f} %" for name, s in zip(names, mean, strict=True))
    return chart({"data": bars, "layout": layout}, f"Degree spectra by layer. Mean: {shares}", 320)


def _shade(n: int) -> str:
    """What a tensor has in blues, what it has not in oranges, darker by degree."""
    return (PALETTE[5], PALETTE[0], PALETTE[4], PALETTE[1], PALETTE[8])[n]


def _rungs(layers: Sequence[Layer]) -> dict[str, Any]:
    """What each fit leaves unexplained by layer, with two standard errors to either side."""
    lines = []
    for fit, name in RUNGS.items():
        there = [layer for layer in layers if fit in layer.rungs]
        found = [layer.rungs[fit] for layer in there]
        line = {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [str(layer.number) for layer in there],
            "y": [100 * rung.unexplained for rung in found],
            "error_y": {"type": "data", "array": [200 * rung.error for rung in found]},
            "hovertemplate": f"layer %{{x}}, {name}: %{{y:.3g}} %{HIDE_NAME}",
        }
        lines += [line] if there else []
    y = {"title": {"text": "% of the variance"}, "type": "log", "tickvals": TICKS}
    layout = {"xaxis": _by_layer(), "yaxis": y, "legend": ABOVE}
    return chart({"data": lines, "layout": layout}, "Unexplained share by layer and fit", 320)


def _by_layer() -> dict[str, Any]:
    return {"title": {"text": "layer"}, "type": "category"}


def _row(layer: Layer) -> dict[str, Any]:
    found = [layer.rungs.get(fit) for fit in RUNGS]
    return {"layer": layer.number, "rungs": [asdict(rung) if rung else None for rung in found]}


def _carriers(model: Transformer, layer: Layer, ids: Int[Tensor, "n t"]) -> dict[str, Any]:
    """The tokens that carry a layer's error: each that carries most, and by kind."""
    worst = layer.tokens.topk(min(WORST, len(layer.tokens)))
    length, single = ids.shape[1], zip(worst.values.tolist(), worst.indices.tolist(), strict=True)
    return {
        "layer": layer.number,
        "tail": layer.rungs["closed"].tail,
        "kinds": _kinds(model, layer.tokens, ids),
        "worst": [_context(model, share, ids[at // length], at % length) for share, at in single],
    }


def _kinds(
    model: Transformer, tokens: Float[Tensor, " n"], ids: Int[Tensor, "n t"]
) -> list[dict[str, Any]]:
    """Which kinds of token carry most: the first of a text, or a token of the vocabulary."""
    kinds = ids.clone()
    kinds[:, 0] = -1
    size = model.config.vocab_size
    carried = torch.zeros(size + 1, dtype=tokens.dtype, device="cpu")
    carried.index_add_(0, kinds.flatten() + 1, tokens.to("cpu"))
    counts = Counter(kinds.flatten().tolist())
    largest = carried.topk(min(KINDS, len(counts)))
    return [
        {
            "name": model.output_names([n - 1])[0] if n else FIRST,
            "share": share,
            "count": counts[n - 1],
        }
        for share, n in zip(largest.values.tolist(), largest.indices.tolist(), strict=True)
    ]


def _context(model: Transformer, share: float, text: Int[Tensor, " t"], at: int) -> dict[str, Any]:
    """A token of a text between those before and after it."""
    names = model.output_names(text[max(0, at - BEFORE) : at + AFTER + 1])
    own = min(at, BEFORE)
    return {
        "share": share,
        "position": at,
        "before": "".join(names[:own]),
        "token": names[own],
        "after": "".join(names[own + 1 :]),
    }


VIEW = View("nearest_tensors", _fits, _build)

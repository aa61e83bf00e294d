"""The gates of each class: products of two linear forms."""

from functools import partial
from typing import Any

import torch

from bilens.models import Classifier
from bilens.report.pictures import shown
from bilens.report.view import Block, Query, View, is_classifier, last_layer, tensor_line

COUNT = 2  # of each class
NO_PICTURES = "This model's last layer reads the residual stream, whose directions are no pictures."


def _build(model: Classifier, query: Query) -> list[Block]:
    return [Block("gates", "Gates: products of two linear forms", partial(_gates, model, query))]


def _gates(model: Classifier, query: Query) -> dict[str, Any]:
    if last_layer(model) is not None:
        return {"cards": [], "note": NO_PICTURES}
    cards = [_card(model, n, label) for n, label in enumerate(model.config.labels)]
    form = f"{tensor_line(model, query)}.interaction(torch.eye({len(cards)})[0])"
    return {"cards": cards, "note": "", "python": f"{form}.gates({COUNT})  # of the first class"}


def _card(model: Classifier, n: int, label: str) -> dict[str, Any]:
    tensor = model.tensor().detach()
    shape = model.config.input_shape
    gates = tensor.interaction(
        torch.eye(tensor.shape[0], dtype=tensor.dtype, device="cpu")[n]
    ).gates(COUNT)
    pairs = [
        {
            side: shown(vector[g], shape, f"gate {g + 1} of class {label}, {side}", side)
            for side, vector in (("a", gates.a), ("b", gates.b))
        }
        for g in range(len(gates.a))
    ]
    shares = gates.share.tolist()
    told = [{"share": share} | pair for share, pair in zip(shares, pairs, strict=True)]
    return {"label": label, "gates": told}


VIEW = View("gates", is_classifier, _build)

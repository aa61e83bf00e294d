"""The pairs of what each bilinear layer reads, at the last token of the last prompt."""

from functools import partial
from typing import Any

from bilens.circuits import pairs
from bilens.models import Transformer
from bilens.report.page import result
from bilens.report.view import Block, Query, View, is_language_model, prompt_text, sentence
from bilens.wiring import Prompt


def _fits(model: object) -> bool:
    return is_language_model(model) and bool(model.config.intermediate_size)  # type: ignore


def _build(model: Transformer, query: Query) -> list[Block]:
    last = query.prompts[-1]
    title = f"Pairs behind the last token of {prompt_text(last)!r}"
    return [Block("chart", title, partial(_pairs, model, last))]


def _pairs(model: Transformer, prompt: str | Prompt) -> dict[str, Any]:
    matrices = pairs(model, prompt)
    text = (
        "Each bilinear layer at the last position, over pairs of what it reads. Blue adds, orange "
        f"takes away. {sentence(matrices.summary())}"
    )
    return result(matrices, text, "Pair matrices of the bilinear layers")


VIEW = View("pair_matrices", _fits, _build)

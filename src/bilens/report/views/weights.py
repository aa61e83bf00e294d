"""What the weights of a language model say, whatever it reads: which parts compose."""

from functools import partial
from typing import Any

from bilens import circuits
from bilens.models import Transformer
from bilens.report.page import result
from bilens.report.view import Block, Query, View, is_language_model, loaded, missing, sentence

PARTS = 64  # up to which all pairs of parts are compared


def _build(model: Transformer, query: Query) -> list[Block]:
    return [_composition(model, query)]


def _composition(model: Transformer, query: Query) -> Block:
    title = "Which parts read which"
    if len(_heads(model)) + model.config.num_hidden_layers <= PARTS:
        return Block("chart", title, partial(_composed, model, query))
    return missing(title, "The composition", _line(query))


def _line(query: Query) -> str:
    return f"bilens.circuits.composition({loaded(query)})"


def _heads(model: Transformer) -> list[str]:
    config = model.config
    return [
        f"L{layer}H{head}"
        for layer in range(config.num_hidden_layers)
        for head in range(config.num_attention_heads or 0)
    ]


def _composed(model: Transformer, query: Query) -> dict[str, Any]:
    found = circuits.composition(model)
    text = (
        "How strongly each part reads what another writes, from the weights alone, beside what "
        f"chance makes likely. {sentence(found.summary())}"
    )
    return result(found, text, "Composition of the parts", _line(query))


VIEW = View("weights", is_language_model, _build)

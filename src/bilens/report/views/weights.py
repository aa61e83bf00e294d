"""What the weights of a language model say, whatever it reads: which parts compose, which rules
are strongest.
"""

from functools import partial
from typing import Any

from bilens import circuits
from bilens.models import Transformer
from bilens.report.page import result
from bilens.report.view import Block, Query, View, is_language_model, sentence

WORDS = 4096  # of a vocabulary, up to which rules over all pairs of tokens are searched
PARTS = 64  # up to which all pairs of parts are compared
MISSING = "{what} of a model this large takes long: {line}"


def _build(model: Transformer, query: Query) -> list[Block]:
    return [_composition(model, query), *_rules(model, query)]


def _composition(model: Transformer, query: Query) -> Block:
    title = "Which parts read which"
    if len(_heads(model)) + model.config.num_hidden_layers <= PARTS:
        return Block("chart", title, partial(_composed, model))
    line = f"bilens.circuits.composition({_loaded(query)})"
    return _missing(title, "The composition", line)


def _rules(model: Transformer, query: Query) -> list[Block]:
    """The strongest rules of the first layer, and of one head what it writes and where it looks."""
    if model.config.vocab_size > WORDS:
        line = f"bilens.circuits.rules({_loaded(query)})"
        return [_missing("Strongest rules", "A search over all pairs of tokens", line)]
    return [
        Block(
            "chart", f"Strongest rules: {path or 'the first layer'}", partial(_ruled, model, path)
        )
        for path in _paths(model)
    ]


def _paths(model: Transformer) -> list[str]:
    layers = [""] if model.config.is_exact and model.config.intermediate_size else []
    return [*layers, *(f"W_U {name}(embed)" for name in _heads(model)[:1])]


def _heads(model: Transformer) -> list[str]:
    config = model.config
    return [
        f"L{layer}H{head}"
        for layer in range(config.num_hidden_layers)
        for head in range(config.num_attention_heads or 0)
    ]


def _composed(model: Transformer) -> dict[str, Any]:
    found = circuits.composition(model)
    text = (
        "How strongly each part reads what another writes, from the weights alone, beside what "
        f"chance makes likely. {sentence(found.summary())}"
    )
    return result(found, text, "Composition of the parts")


def _ruled(model: Transformer, path: str) -> dict[str, Any]:
    found = circuits.rules(model, path)
    text = f"Which tokens write which next one, from the weights alone. {sentence(found.summary())}"
    return result(found, text, f"Strongest entries of {found.path}")


def _missing(title: str, what: str, line: str) -> Block:
    return Block("missing", title, lambda: {"text": MISSING.format(what=what, line=line)})


def _loaded(query: Query) -> str:
    return f"bilens.load({query.name!r})" if query.name else "model"


VIEW = View("weights", is_language_model, _build)

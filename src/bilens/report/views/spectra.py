"""What a layer of a language model looks for, towards what was asked: the spectrum of its quadratic
form, given the final norm, its eigenvectors and gates as tokens, and the pairs of tokens that it
multiplies.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.decompose import eigen
from bilens.models import Transformer
from bilens.report.answers import asked_of
from bilens.report.layers import (
    gates_as_tokens,
    layer_as_tokens,
    layer_tensor,
    looked_into,
    token_map,
    towards,
)
from bilens.report.page import chart, result
from bilens.report.view import Block, Query, View, is_language_model, loaded, sentence

SHOWN = 16  # eigenvalues that are named
MAP = 400  # pixels
NO_MAP = (
    "All pairs of a vocabulary this large take long: "
    "bilens.circuits.rules(model, 'W_U {}(embed, embed)')."
)
TEXT = (
    "What this layer writes towards {of}, straight to the readout: xᵀ Q x of what it reads, up to "
    "the final norm's scale. An eigenvector of positive λ adds whichever way the stream lies along "
    "it, one of negative λ takes away. {said}"
)
NO_TENSORS = (
    "This model's MLPs are no tensors, so their layers have no spectra of their own; those of "
    "their nearest tensors: bilens approximate MODEL --data FOLDER."
)


def _build(model: Transformer, query: Query) -> list[Block]:
    if not query.prompts or not model.config.intermediate_size:
        return []
    names = looked_into(model)
    if not names:
        return [Block("missing", "Layers", lambda: {"text": NO_TENSORS})]
    return [
        Block("layer", f"Spectrum of {name}", partial(_spectrum, model, query, name))
        for name in names
    ]


def _spectrum(model: Transformer, query: Query, name: str) -> dict[str, Any]:
    model = query.exact(model)
    with torch.no_grad():
        outputs = model.outputs(model.read(query.prompts[0]))[query.asked.position]
    goal = asked_of(model, outputs, query.asked)
    of, direction = towards(model, *goal)
    return layer_section(model, name, direction, Told(of, TEXT, _line(query, name, *goal)))


@dataclass(frozen=True)
class Told:
    """What is said of a layer's form: what it is ``of``, a ``text`` with places for {of} and for
    what the spectrum says ({said}), and the line of Python that gives the spectrum.
    """

    of: str
    text: str
    python: str


@torch.no_grad()
def layer_section(
    model: Transformer, name: str, direction: Float[Tensor, " d"], told: Told
) -> dict[str, Any]:
    """All that a section shows of a layer towards ``direction`` of what it writes."""
    tensor, of = layer_tensor(model, name), told.of
    found = eigen(tensor, direction[None].to(tensor.dtype), k=SHOWN).labelled([of])
    text = told.text.format(of=of, said=sentence(found.summary()))
    drawn = result(found, text, f"Eigenvalues of {name} towards {of}", told.python)
    pairs = token_map(model, name, direction, of)
    spoken = f"The strongest pairs of tokens of {name} towards {of}"
    return (
        drawn
        | layer_as_tokens(model, name, direction)
        | {
            "gates": gates_as_tokens(model, name, direction),
            "map": None if pairs is None else chart(pairs, spoken, MAP),
            "note": NO_MAP.format(name) if pairs is None else "",
        }
    )


def _line(query: Query, name: str, target: int, versus: int | None) -> str:
    less = "" if versus is None else f" - wiring.readout[{versus}]"
    tensor = f"wiring.layers[{name!r}].module.tensor()"
    row = f"wiring.norm.transposed((wiring.readout[{target}]{less})[None])"
    return (
        f"wiring = {loaded(query)}.double().wiring(); "
        f"bilens.decompose.eigen({tensor}, {row}, k={SHOWN})"
    )


VIEW = View("spectra", is_language_model, _build)

"""What a layer of a language model looks for, towards what was asked: the spectrum of its quadratic
form, given the final norm.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bilens.decompose import eigen
from bilens.models import Transformer
from bilens.report.answers import asked_of
from bilens.report.page import result
from bilens.report.view import Block, Query, View, is_language_model, sentence

SHOWN = 16  # eigenvectors
TEXT = (
    "What this layer writes towards {of}, straight to the readout: xᵀ Q x of what it reads, up to "
    "the final norm's scale. An eigenvector of positive λ adds whichever way the stream lies along "
    "it, one of negative λ takes away. {said}"
)


def _fits(model: object) -> bool:
    return is_language_model(model) and bool(_layers(model))  # type: ignore[arg-type]


def _build(model: Transformer, query: Query) -> list[Block]:
    if not query.prompts:
        return []
    return [
        Block("chart", f"Spectrum of {name}", partial(_spectrum, model, query, name))
        for name in _layers(model)[-2:]
    ]


def _layers(model: Transformer) -> list[str]:
    """The layers that are tensors."""
    exact_ones = model.config.is_exact and model.config.intermediate_size
    return list(model.wiring().layers) if exact_ones and not model.config.num_local_experts else []


def _spectrum(model: Transformer, query: Query, name: str) -> dict[str, Any]:
    model = query.exact(model)
    wiring = model.wiring()
    module: Any = wiring.layers[name].module
    of, row = _asked(model, query)
    towards = wiring.norm.transposed(row[None]).detach()
    found = eigen(module.tensor().detach(), towards.to(row), k=SHOWN).labelled([of])
    text = TEXT.format(of=of, said=sentence(found.summary()))
    return result(found, text, f"Eigenvalues of {name} towards {of}")


def _asked(model: Transformer, query: Query) -> tuple[str, Tensor]:
    """The target of the first prompt, by name and as a direction of the readout."""
    readout = model.wiring().readout
    with torch.no_grad():
        outputs = model.outputs(model.read(query.prompts[0]))[query.asked.position]
    target, versus = asked_of(model, outputs, query.asked)
    named, row = model.output_names([target])[0], readout[target].detach()
    if versus is None:
        return named, row
    return f"{named} − {model.output_names([versus])[0]}", row - readout[versus].detach()


VIEW = View("spectra", _fits, _build)

"""How many directions the whole layer of a classifier uses."""

from functools import partial
from typing import Any

from bilens.decompose import hosvd
from bilens.models import Classifier
from bilens.report.page import result
from bilens.report.view import Block, Query, View, is_classifier, last_layer, sentence, tensor_line


def _build(model: Classifier, query: Query) -> list[Block]:
    title = "How many directions the whole layer uses"
    return [Block("chart", title, partial(_spectra, model, query))]


def _spectra(model: Classifier, query: Query) -> dict[str, Any]:
    spectra = hosvd(model.tensor(last_layer(model)).detach(), symmetric=True)
    text = (
        "Singular values of the layer's symmetric tensor in each mode (HOSVD), computed from its "
        "factors in float64; the cube was never made. Left and right are the same, as only the "
        f"symmetric part acts. {sentence(spectra.summary())}"
    )
    python = f"bilens.decompose.hosvd({tensor_line(model, query)}, symmetric=True)"
    return result(spectra, text, "Singular values of the out, left and right modes", python)


VIEW = View("directions", is_classifier, _build)

"""What ``verify`` says of a model."""

from functools import partial
from typing import Any

from bilens.checks import verify
from bilens.models import Classifier, Transformer
from bilens.report.answers import EXACT
from bilens.report.view import Block, Query, View

MISSING = (
    "Every identity, in float64 on all of these weights, takes minutes: bilens verify {} checks "
    "them. What a prompt's paths add up to is held against the model's own pass above."
)


def _build(model: Classifier | Transformer, query: Query) -> list[Block]:
    if model.num_parameters() > EXACT:
        text = MISSING.format(query.name or "MODEL")
        return [Block("missing", "Exactness", lambda: {"text": text})]
    return [Block("exactness", "Exactness", partial(_identities, model))]


def _identities(model: Classifier | Transformer) -> dict[str, Any]:
    checks = verify(model)
    return {"rows": checks.rows(), "summary": checks.summary(), "passed": checks.passed}


VIEW = View("exactness", lambda model: True, _build)

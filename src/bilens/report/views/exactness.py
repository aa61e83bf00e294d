"""What ``verify`` says of a model."""

from functools import partial
from typing import Any

from bilens.checks import verify
from bilens.models import Classifier, Transformer
from bilens.report.view import Block, Query, View


def _build(model: Classifier | Transformer, query: Query) -> list[Block]:
    return [Block("exactness", "Exactness", partial(_identities, model))]


def _identities(model: Classifier | Transformer) -> dict[str, Any]:
    checks = verify(model)
    return {"rows": checks.rows(), "summary": checks.summary(), "passed": checks.passed}


VIEW = View("exactness", lambda model: True, _build)

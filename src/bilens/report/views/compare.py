"""What changed between this model and another of its kind."""

from functools import partial
from typing import Any

from bilens import changes
from bilens.models import Classifier, Transformer
from bilens.report.page import result
from bilens.report.view import Block, Query, View, loaded, sentence


def _build(model: Classifier | Transformer, query: Query) -> list[Block]:
    if query.against is None:
        return []
    title = f"Changed since {query.against}"
    return [Block("chart", title, partial(_changed, model, query))]


def _changed(model: Classifier | Transformer, query: Query) -> dict[str, Any]:
    found = changes.diff(query.against, model)
    assert isinstance(found, changes.Diff), "two checkpoints make no series"
    told = [found.summary(), *(one.summary() for one in found.items), *found.warnings]
    text = " ".join(map(sentence, told))
    python = f"bilens.diff({query.against!r}, {loaded(query)})"
    return result(found, text, "How much each place changed", python)


VIEW = View("compare", lambda model: True, _build)

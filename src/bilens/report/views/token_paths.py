"""A prompt whose tokens can be picked, and the paths that make what comes next, unfolded."""

import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from bilens.circuits import Expansion, Term, expand, paths
from bilens.models import Transformer
from bilens.report.view import Block, Query, View, is_language_model, prompt_text
from bilens.wiring import Prompt, is_half

TERMS = 400  # of each token's expansion
BRANCHES = 10  # shown under one node; the others are added up
PROMPT = 48  # tokens of a prompt that are shown


@dataclass(frozen=True)
class Branch:
    """One node of the unfolded tree: all paths that begin like ``label``, and what they add
    together.
    """

    label: str
    value: float
    width: float  # of its bar, in % of the largest
    paths: int
    below: tuple["Branch", ...]


def _build(model: Transformer, query: Query) -> list[Block]:
    return [
        Block("paths", f"Paths: {prompt_text(prompt)!r}", partial(_unfolded, model, prompt))
        for prompt in query.prompts
    ]


def _unfolded(model: Transformer, prompt: str | Prompt) -> dict[str, Any]:
    exact = copy.deepcopy(model).double()
    ids = exact.read(prompt)
    left_out = max(0, ids.shape[1] - PROMPT)
    ids = ids[:, :PROMPT]
    likely = exact.outputs(ids).softmax(-1).max(-1)
    tokens = []
    as_stored = model.outputs(ids) if is_half(model) else None
    for n, name in enumerate(exact.input_names(ids)):
        token = int(likely.indices[n])
        found = expand(exact, ids[:, : n + 1], token, max_terms=TERMS)
        if as_stored is not None:  # float64 has the weights exactly, not the rounding of each step
            found = replace(found, as_run=float(as_stored[n, token]))
        tokens.append(_token(n, name, found, float(likely.values[n])))
    note = f"The first {PROMPT} tokens of {PROMPT + left_out}." if left_out else ""
    return {"tokens": tokens, "note": note}


def _token(n: int, name: str, found: Expansion, probability: float) -> dict[str, Any]:
    top = max((abs(value) for value in found.by("component").values), default=0.0) or 1.0
    return {
        "name": name,
        "target": found.target,
        "probability": 100 * probability,
        "summary": found.summary(),
        "remainder": found.remainder,
        "left_out": found.left_out,
        "total": found.total,
        "branches": [asdict(branch) for branch in _branches(list(found.terms), 0, top)],
        "number": n,
    }


def _branches(terms: list[Term], depth: int, top: float) -> tuple[Branch, ...]:
    """``terms`` grouped by their first ``depth`` levels, the largest groups first."""
    groups: dict[paths.Node, list[Term]] = {}
    for term in terms:
        groups.setdefault(paths.cut(term.tree, depth), []).append(term)
    made = [_branch(group, depth, top) for group in groups.values()]
    made.sort(key=lambda branch: -abs(branch.value))
    shown, others = made[:BRANCHES], made[BRANCHES:]
    if others:
        value, count = (
            sum(branch.value for branch in others),
            sum(branch.paths for branch in others),
        )
        shown.append(Branch(f"{len(others)} more", value, 100 * abs(value) / top, count, ()))
    return tuple(shown)


def _branch(group: list[Term], depth: int, top: float) -> Branch:
    value = sum(term.value for term in group)
    width = min(100.0, 100 * abs(value) / top)
    if len(group) == 1:
        return Branch(group[0].path, value, width, 1, ())
    label = paths.text(paths.cut(group[0].tree, depth))
    return Branch(label, value, width, len(group), _branches(group, depth + 1, top))


VIEW = View("token_paths", is_language_model, _build)

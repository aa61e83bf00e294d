"""The page of a language model: pick a token of a prompt and unfold the paths that make what comes
next.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bilens.circuits import Expansion, Term, expand, pairs, paths
from bilens.models import Transformer
from bilens.nn.expandable import Prompt, is_half
from bilens.report.page import Section, exactness, recipe, result, section

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


def language_sections(
    model: Transformer, prompts: Sequence[str | Prompt], about: dict[str, Any]
) -> list[Section]:
    """All about a language model, and the paths of what it predicts after each token of
    ``prompts``.
    """
    model = model.eval()
    texts = [prompt.text if isinstance(prompt, Prompt) else prompt for prompt in prompts]
    shown = [
        section("paths", f"Paths: {text!r}", partial(_unfolded, model, prompt))
        for text, prompt in zip(texts, prompts, strict=True)
    ]
    ends = [
        section(
            "chart",
            f"Pairs behind the last token of {texts[-1]!r}",
            partial(_pairs, model, prompts[-1]),
        )
    ]
    return [
        section("model", "The model", partial(_model, model, about)),
        section("exactness", "Exactness", partial(exactness, model)),
        *shown,
        *(ends if model.config.intermediate_size else ()),
    ]


def _model(model: Transformer, about: dict[str, Any]) -> dict[str, Any]:
    config, valid = model.config, about.get("figures", {}).get("valid", {})
    mlp = f"act({config.hidden_act}), " + ("gated" if config.gated else "not gated")
    facts = {
        "Kind": f"transformer, {config.num_hidden_layers} layers of {config.num_attention_heads} heads",
        "MLP": "bilinear, exactly a tensor" if config.gated and config.is_exact else mlp,
        "Width": f"{config.hidden_size}, hidden {config.intermediate_size}",
        "Norm": {"rms": "RMSNorm", "layer": "LayerNorm", "none": "none"}[config.norm],
        "Positions": config.positions,
        "Context": f"{config.max_position_embeddings} tokens of {config.vocab_size}",
        "Parameters": f"{model.num_parameters():,}",
    }
    facts |= {"Data": str(about["data"])} if "data" in about else {}
    facts |= recipe(about, ("steps", "batch_size", "learning_rate", "weight_decay", "seed"))
    headline = f"{valid['loss']:.4f}" if valid else f"{model.num_parameters():,}"
    beside = (
        f"nats per held-out token, {valid['bits per byte']:.4f} bits per byte"
        if valid
        else "parameters"
    )
    return {"headline": headline, "beside": beside, "facts": facts}


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
        "branches": _branches(list(found.terms), 0, top),
        "number": n,
    }


def _branches(terms: list[Term], depth: int, top: float) -> tuple[Branch, ...]:
    """``terms`` grouped by their first ``depth`` levels, the largest groups first."""
    groups: dict[tuple, list[Term]] = {}
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


def _pairs(model: Transformer, prompt: str | Prompt) -> dict[str, Any]:
    found = pairs(model, prompt)
    says = found.summary()[:1].upper() + found.summary()[1:]
    text = f"Each bilinear layer at the last position, over pairs of what it reads. Blue adds, orange takes away. {says}."
    return result(found, text, "Pair matrices of the bilinear layers")

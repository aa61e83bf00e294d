"""What makes one logit, or the difference of two, as plain data: all that a page shows of a prompt.

Every number is one that ``circuits`` gives: the paths and what is left (``expand``), what happens
where something is taken out (``effects``, ``knockout``), where heads look, what the stream says,
and which pairs layers multiply. All of them are asked of one recording.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens import circuits
from bilens.base.errors import ArgumentError
from bilens.base.words import LINE_END, SPACE, TAB
from bilens.circuits import (
    AttentionPatterns,
    Effects,
    Expansion,
    Knockout,
    PairMatrix,
    Recording,
    Removal,
    attention_patterns,
    expand,
    record,
)
from bilens.models import Transformer, token_rows
from bilens.report.layers import answer_layers
from bilens.report.packing import packed, rounded
from bilens.wiring import BIAS, Prompt, Source, is_half

TERMS = 400  # of an answer
LIKELY = 10  # tokens
PAIRS = 20  # that are taken out
SUMMED = 9  # significant digits of what adds up to the total
MEASURED = 5  # of what stands alone
SHARE = 3  # of probabilities and weights
PAIRED = 48  # sources of a layer whose pairs are told one by one; a matrix of more none reads
PASSES = 5e10  # multiplications that taking things out may cost before only the largest are
EXACT = 50_000_000  # weights, up to which a model is explained in float64

Goal = int | tuple[int, int]  # an output, or one less another
Taken = tuple[str, Knockout]  # of what kind something was that was taken out, and what it cost
Written = str | Prompt | Sequence[int]  # a prompt as it was given


@dataclass(frozen=True)
class Asked:
    """One question about a prompt. ``effects``: whether components and pairs are taken out, one
    after another; ``without``: what is taken out together.
    """

    target: str | int | None = None
    versus: str | int | None = None
    position: int = -1
    max_terms: int = TERMS
    effects: bool = True
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.versus is not None and self.target is None:
            raise ArgumentError("versus", must="come with a target", got="no target")


def exact(model: Transformer) -> Transformer:
    """``model`` as a page explains it: in float64 up to 50 million weights; a larger one as it is,
    and a half-precision one too, which circuits explain in float32.
    """
    if is_half(model) or model.num_parameters() > EXACT:
        return model
    return model if model.dtype == torch.float64 else _doubled(model)


def answer(
    model: Transformer,
    prompt: Written | Recording,
    target: str | int | None = None,
    versus: str | int | None = None,
    position: int = -1,
    *,
    max_terms: int = TERMS,
    effects: bool = True,
    without: Sequence[str] = (),
    name: str = "",
) -> dict[str, Any]:
    """What makes ``target`` (less ``versus``) at ``position`` of a prompt, ready for JSON: tokens
    by name and id, the paths as one forest of shared nodes, what they leave out, what each source
    writes and what the target loses without it, attention patterns, what the stream says, and the
    pairs of the layers that write there.

    ``target`` is the likeliest token where it is None. ``effects``: take every head and layer out,
    and the pairs of largest direct value; of a large model, where that would take minutes, those
    that write most. ``without``: names as ``circuits.knockout`` takes them, to be taken out
    together. ``name``: of the model, for the lines of Python that give the same.

    What is left out says so: ``tried`` is of how many parts the effect is known, and of how many
    there are, where that is not all of them; ``others`` of a layer's pairs, how many sources are
    not among ``names`` and what all of their pairs add.

    Cost: two passes in parts for all of it, the search for paths, and for the effects a part of a
    pass each. Errors: those of ``expand`` and ``knockout``.

    >>> found = bilens.report.answer(model, prompt, effects=False)
    >>> left = found["total"] - sum(value for value, _ in found["terms"]) - found["remainder"]
    >>> abs(left) < 1e-6
    True
    """
    asked = Asked(target, versus, position, max_terms, effects, tuple(without))
    written = None if isinstance(prompt, Recording) else prompt
    return answered(model, record(model, prompt), asked, name, written)


@torch.no_grad()
def answered(
    model: Transformer,
    recording: Recording,
    asked: Asked,
    name: str = "",
    prompt: Written | None = None,
) -> dict[str, Any]:
    """The answer to one question about a recorded ``prompt``, as it was written; None: its ids."""
    position = recording.position(asked.position)
    logits = recording.outputs(position)
    chances = logits.softmax(-1)
    target, versus = asked_of(model, logits, asked)
    goal: Goal = target if versus is None else (target, versus)
    found = expand(model, recording, goal, position, max_terms=asked.max_terms)
    ids = recording.inputs[0].tolist()
    written = ids if prompt is None else prompt
    return {
        "prompt": recording.text,
        "tokens": [_token(*item) for item in zip(recording.names, ids, strict=True)],
        "position": position,
        "target": _named(model, target),
        "versus": None if versus is None else _named(model, versus),
        "value": rounded(found.forward, SUMMED),
        "probability": None if versus is not None else rounded(float(chances[target]), MEASURED),
        "likely": _likely(model, logits, chances),
        **_paths(found),
        **_by_source(model, recording, found, goal, asked),
        "patterns": _patterns(model, recording),
        "lens": _lens(model, recording, goal),
        "pairs": _pairs(model, recording, goal, position),
        "layers": answer_layers(model, target, versus),
        "knockout": _without(model, recording, goal, position, asked.without),
        **python_lines(found, name, model, written, (target, versus), asked.max_terms),
    }


def asked_of(
    model: Transformer, logits: Float[Tensor, " v"], asked: Asked
) -> tuple[int, int | None]:
    """The target among the outputs, the likeliest where none is named; and the contrast."""
    target = int(logits.argmax()) if asked.target is None else model.output_index(asked.target)
    return target, None if asked.versus is None else model.output_index(asked.versus)


def _doubled(model: Transformer) -> Transformer:
    made = Transformer(model.config).double()
    made.load_state_dict(model.state_dict())
    made.tokenizer = model.tokenizer
    return made.eval()


def _token(name: str, index: int) -> dict[str, Any]:
    return {"name": name, "id": index}


def _named(model: Transformer, index: int) -> dict[str, Any]:
    return _token(model.output_names([index])[0], index)


def _likely(
    model: Transformer, logits: Float[Tensor, " v"], chances: Float[Tensor, " v"]
) -> list[dict[str, Any]]:
    """The likeliest tokens, the first first."""
    best = chances.topk(min(LIKELY, len(chances))).indices.tolist()
    return [
        _token(name, index)
        | {
            "probability": rounded(float(chances[index]), MEASURED),
            "logit": rounded(float(logits[index]), MEASURED + 1),
        }
        for name, index in zip(model.output_names(best), best, strict=True)
    ]


def _paths(found: Expansion) -> dict[str, Any]:
    """The terms over shared nodes, and what they leave out: Σ terms + remainder = total."""
    woods = circuits.forest(found)
    values = [rounded(term.value, SUMMED) for term in found.terms]
    lit = circuits.starts(found)
    return {
        "terms": [list(pair) for pair in zip(values, woods.roots, strict=True)],
        "nodes": woods.nodes,
        "total": found.total,
        "remainder": found.remainder,
        "left_out": found.left_out,
        "error": rounded(found.error, SHARE),
        "as_run": found.as_run,
        "given": list(found.given),
        "held": found.held,
        "opaque": list(found.opaque),
        "summary": found.summary(),
        "total_said": f"{found.total:.6g}",
        "positions": [rounded(value, SUMMED) for value in lit.values],
        "elsewhere": rounded(lit.elsewhere, SUMMED),
    }


def _by_source(
    model: Transformer, recording: Recording, found: Expansion, goal: Goal, asked: Asked
) -> dict[str, Any]:
    """What each source writes to the target, and what the target loses without it; then whole
    layers and pairs, of which the same is said.
    """
    can = [source for source in found.sources if source.part >= 0 and source.kind != BIAS]
    taken = _taken_out(model, recording, found, goal, can) if asked.effects else {}
    kinds = {source.name: source for source in found.sources}
    sources = [
        {
            "name": name,
            "kind": kinds[name].kind if name in kinds else BIAS,
            "layer": kinds[name].layer if name in kinds else None,
            "label": name,
            "direct": rounded(value, SUMMED),
            **_loss(taken.get(name)),
        }
        for name, value in zip(*found.writes, strict=True)
    ]
    others = [_cut(name, *one) for name, one in taken.items() if name not in found.writes[0]]
    tried = sum(source.name in taken for source in can)
    partly = asked.effects and tried < len(can)
    return {"sources": sources, "cuts": others, "tried": [tried, len(can)] if partly else None}


def _taken_out(
    model: Transformer,
    recording: Recording,
    found: Expansion,
    goal: Goal,
    can: Sequence[Source],
) -> dict[str, Taken]:
    """Effects by what was taken out: of everything, or of what writes most where all of it would
    take too long.
    """
    costs = _costs(model, recording, can)
    layers = 2 * recording.length * model.num_parameters() * PAIRS
    if sum(costs.values()) + layers <= PASSES:
        told = circuits.effects(model, recording, goal, found.position, pairs=PAIRS)
    else:
        what = _most(found, costs)
        told = circuits.effects(model, recording, goal, found.position, what=what)
    return dict(_each(told))


def _costs(model: Transformer, recording: Recording, can: Sequence[Source]) -> dict[str, float]:
    """Multiplications that taking each source out costs, zero in its place and then its mean: of a
    pass what is downstream of it.
    """
    depth, whole = len(recording.wiring.parts), recording.length * model.num_parameters()
    return {source.name: 2 * whole * (depth - source.part) / depth for source in can}


def _most(found: Expansion, costs: Mapping[str, float]) -> list[str]:
    """The parts that write most to the target, as many as there is time for, and one at least."""
    rows = [row for row in zip(*found.writes, strict=True) if row[0] in costs]
    names = [name for name, _ in sorted(rows, key=lambda row: -abs(row[1]))]
    spent = accumulate(costs[name] for name in names)
    return names[: max(1, sum(cost <= PASSES for cost in spent))]


def _each(told: Effects) -> Iterator[tuple[str, Taken]]:
    for kind, one in zip(told.kinds, told.knockouts, strict=True):
        yield ", ".join(one.what), (kind, one)


def _loss(taken: Taken | None) -> dict[str, Any]:
    """What the target loses, where zero and where the mean stands in the place."""
    if taken is None:
        return _felt(None) | {"direct_mean": None} | _felt(None, "_mean")
    first, *others = taken[1].removals
    mean = others[0] if others else None
    direct = None if mean is None else rounded(mean.direct, MEASURED)
    return _felt(first) | {"direct_mean": direct} | _felt(mean, "_mean")


def _felt(one: Removal | None, way: str = "") -> dict[str, Any]:
    """What becomes of the target one way; nothing where it was not tried."""
    told = (None,) * 3 if one is None else (rounded(one.effect, MEASURED), one.verdict, one.why)
    return dict(zip((f"effect{way}", f"verdict{way}", f"why{way}"), told, strict=True))


def _cut(name: str, kind: str, one: Knockout) -> dict[str, Any]:
    direct = rounded(one.direct, MEASURED)
    named = {"name": name, "kind": kind, "layer": None, "label": name, "direct": direct}
    return named | _loss((kind, one))


def _patterns(model: Transformer, recording: Recording) -> dict[str, Any] | None:
    """Each head's weights: the rows of a lower triangle, one after another, packed."""
    if not any(one.patterns for one in recording.products.values()):
        return None
    found: AttentionPatterns = attention_patterns(model, recording)
    length = len(found.tokens)
    rows, columns = torch.tril_indices(length, length, device="cpu")
    return {"heads": list(found.heads), "weights": packed(found.weights[:, rows, columns])}


def _lens(model: Transformer, recording: Recording, goal: Goal) -> dict[str, Any]:
    found = circuits.lens(model, recording, goal)
    assert found.values is not None
    return {
        "places": list(found.places),
        "says": [list(said) for said in found.says],
        "probabilities": _table(found.probabilities, SHARE),
        "ranks": found.ranks.tolist(),
        "values": _table(found.values, MEASURED),
    }


def _pairs(
    model: Transformer, recording: Recording, goal: Goal, position: int
) -> list[dict[str, Any]]:
    """Of each layer the sums of both orders, a lower triangle by rows: of the sources that weigh
    most, and all pairs of the others together.
    """
    found = circuits.pairs(model, recording, goal, position)
    return [_triangle(matrix) for matrix in found.matrices]


def _triangle(matrix: PairMatrix) -> dict[str, Any]:
    values = matrix.values.mT
    weights = (values + values.mT.triu(1)).abs().sum(-1)
    chosen = weights.topk(min(PAIRED, len(weights))).indices.sort().values
    shown = values[chosen][:, chosen]
    made = {
        "layer": matrix.layer,
        "names": [matrix.sources[n] for n in chosen.tolist()],
        "values": [row[: n + 1] for n, row in enumerate(_table(shown, MEASURED))],
    }
    left = len(weights) - len(chosen)
    value = rounded(float(values.sum() - shown.sum()), MEASURED)
    return made | ({"others": {"count": left, "value": value}} if left else {})


def _table(values: Float[Tensor, "n m"], digits: int) -> list[list[float | None]]:
    return [[rounded(value, digits) for value in row] for row in values.tolist()]


def _without(
    model: Transformer, recording: Recording, goal: Goal, position: int, what: Sequence[str]
) -> dict[str, Any] | None:
    """What becomes of the target with all of ``what`` taken out."""
    if not what:
        return None
    found = circuits.knockout(model, recording, list(what), goal, position)
    return {
        "what": list(found.what),
        "before": rounded(found.before, SUMMED),
        "removals": [_removal(one) for one in found.removals],
        "summary": found.summary(),
    }


def _removal(one: Removal) -> dict[str, Any]:
    return {
        "replaced_by": one.replaced_by,
        "after": rounded(one.after, SUMMED),
        "effect": rounded(one.effect, MEASURED),
        "direct": rounded(one.direct, MEASURED),
        "verdict": one.verdict,
        "why": one.why,
    }


def python_lines(
    found: Expansion,
    name: str,
    model: Transformer,
    prompt: Written,
    goal: tuple[int, int | None],
    max_terms: int,
) -> dict[str, str]:
    """The lines of Python that give the same expansion, and all effects and pairs, of which a page
    may have the largest alone.
    """
    kind = ".double()" if model.dtype == torch.float64 else ""
    loaded = f"bilens.load({name!r}){kind}" if name else "model"
    target, versus = goal
    one = repr(_typed(model, target))
    what = one if versus is None else f"({one}, {_typed(model, versus)!r})"
    asked = f"{loaded}, {_said(prompt)}, {what}, position={found.position}"
    return {
        "python": f"ex = bilens.expand({asked}, max_terms={max_terms})",
        "python_effects": f"bilens.circuits.effects({asked})",
        "python_pairs": f"bilens.circuits.pairs({asked})",
    }


def _said(prompt: Written) -> str:
    """What was read, as Python has it: a text, a Prompt, or token ids."""
    if isinstance(prompt, str):
        return repr(prompt)
    if not isinstance(prompt, Prompt):
        return repr(token_rows(prompt).ids[0].tolist())
    if prompt.special_tokens:
        return repr(prompt.text)
    return f"bilens.circuits.Prompt({prompt.text!r}, special_tokens=False)"


def _typed(model: Transformer, index: int) -> str | int:
    """A token as a person writes it: its text, its name as shown, its id where neither is its."""
    shown = model.output_names([index])[0]
    text = shown.replace(SPACE, " ").replace(LINE_END, "\n").replace(TAB, "\t")
    return next((name for name in (text, shown) if _is(model, name, index)), index)


def _is(model: Transformer, name: str, index: int) -> bool:
    try:
        return model.output_index(name) == index
    except ArgumentError:
        return False

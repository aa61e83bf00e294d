"""Why " Paris" and not " London": one path of a real language model, by hidden unit and by reader.

    python -m experiments.france MODEL [--prompt "The capital of France is"] [--terms 2000]

MODEL: a folder that ``bilens.load`` reads, SmolLM2-135M say. Prints the largest paths of the
difference of the two logits, whole; then of the largest that goes through an MLP: the hidden units
of its first MLP that carry it, what each of them answers and writes in tokens (rows of gate_proj
and up_proj on W_E through the norm, columns of down_proj on W_U), and which heads and layers read
that MLP's write at that position, by what goes through them towards the difference. A row goes to
experiments/results/france.jsonl.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bilens
from benchmarks.record import record
from bilens.circuits import Term, units
from bilens.circuits import record as recorded
from bilens.circuits.paths import Apply, Node, Write, walk

RESULTS = Path(__file__).parent / "results" / "france.jsonl"
SHOWN, WORDS = 8, 5  # rows of a table, tokens of a direction


@torch.no_grad()
def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("--prompt", default="The capital of France is")
    options.add_argument("--answers", nargs=2, default=[" Paris", " London"])
    options.add_argument("--terms", type=int, default=2000)
    given = options.parse_args()
    model, target = bilens.load(given.model).eval(), tuple(given.answers)
    start = time.perf_counter()
    ex = bilens.expand(model, given.prompt, target, max_terms=given.terms)
    seconds = time.perf_counter() - start
    term = next(term for term in ex.terms if "mlp" in term.path)
    found = units(model, given.prompt, term, target)
    first = found.of(found.layers[-1])
    layer, _, position = first.units[0].layer.partition("@")
    carriers = first.rows()
    record(
        RESULTS,
        model=Path(given.model).name,
        prompt=given.prompt,
        target=ex.target,
        forward=round(ex.forward, 4),
        error=float(f"{ex.error:.1e}"),
        opaque=list(ex.opaque),
        terms=len(ex.terms),
        seconds=round(seconds, 1),
        largest=[[one.path, round(one.value, 4)] for one in ex.terms[:SHOWN]],
        carried=[term.path, round(term.value, 4)],
        makes=_makes(model, given.prompt, term, layer, int(position)),
        units=[_unit(model, row, int(layer[3:])) for row in carriers[:SHOWN]],
        spread=_spread(torch.tensor([row["value"] for row in carriers])),
        readers=readers(ex.terms, layer, int(position))[: 2 * SHOWN],
    )


def _unit(model: Any, row: dict[str, Any], layer: int) -> dict[str, Any]:
    """A hidden unit: what it carries, and its directions in tokens."""
    block = model.blocks[layer]
    number = int(row["unit"].partition(".u")[2].partition(" ")[0])
    embeddings = model.model.embed_tokens.weight * block.post_attention_layernorm.weight
    write = block.mlp.down_proj.weight[:, number] * model.model.norm.weight
    scores = {
        "gate": embeddings @ block.mlp.gate_proj.weight[number],
        "in": embeddings @ block.mlp.up_proj.weight[number],
        "writes": model.lm_head.weight @ write,
    }
    told = {name: _words(model, values) for name, values in scores.items()}
    return {"unit": row["unit"], "value": round(row["value"], 4)} | told


def _makes(
    model: Any, prompt: str, term: Term, layer: str, position: int
) -> dict[str, dict[str, list[str]]]:
    """What the layer's whole write there says in tokens, as it is and through the head of the path
    that looks at it, where one does.
    """
    run = recorded(model, prompt)
    write = run.writes[run.index[layer], position]
    unembed = model.lm_head.weight * model.model.norm.weight
    said = {"as it is": _words(model, unembed @ write)}
    for node in walk(term.tree):
        product = run.products[node.source] if isinstance(node, Apply) else None
        if product is not None and product.looks and _reads(node, layer, position):
            read = run.linear(product.source.part, write, position)
            moved = read @ product.form.legs[0].weight.mT @ product.form.out.mT
            said[f"through {product.source.name}"] = _words(model, unembed @ moved)
    return said


def _words(model: Any, scores: Tensor) -> dict[str, list[str]]:
    ends = {"+": scores.topk(WORDS).indices, "-": (-scores).topk(WORDS).indices}
    return {sign: model.output_names(at) for sign, at in ends.items()}


def _spread(values: Tensor) -> dict[str, Any]:
    """How many units carry it: the fewest that hold half and nine tenths of Σ |value|."""
    carried = values.abs().cumsum(0) / values.abs().sum()
    return {
        "units": len(values),
        "half": int((carried < 0.5).sum()) + 1,
        "nine tenths": int((carried < 0.9).sum()) + 1,
        "positive": round(float(values.clamp(min=0).sum()), 4),
        "negative": round(float(values.clamp(max=0).sum()), 4),
    }


def readers(terms: tuple[Term, ...], layer: str, position: int) -> list[list[Any]]:
    """What reads the write of ``layer`` at ``position``: the sum of the terms that go through both,
    and how many these are. A term that goes through several of them counts for each.
    """
    found: dict[str, list[float]] = {}
    for term in terms:
        names = {_name(node) for node in walk(term.tree) if _reads(node, layer, position)}
        names |= {"the target"} if _is(term.tree, layer, position) else set()
        for name in names:
            found.setdefault(name, []).append(term.value)
    rows = [[name, round(sum(values), 4), len(values)] for name, values in found.items()]
    return sorted(rows, key=lambda row: -abs(row[1]))


def _reads(node: Node, layer: str, position: int) -> bool:
    return isinstance(node, Apply) and any(_is(one, layer, position) for one in node.inputs)


def _is(node: Node, layer: str, position: int) -> bool:
    return isinstance(node, Write | Apply) and (node.source, node.t) == (layer, position)


def _name(node: Node) -> str:
    assert isinstance(node, Apply)
    at = f"{node.at[0]}→" if node.at else ""
    return f"{node.source}@{at}{node.t}"


if __name__ == "__main__":
    main()

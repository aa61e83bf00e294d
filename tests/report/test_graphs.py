"""What the page's tests of its graph compare with is what ``circuits.graph`` says.

``python -m tests.report.test_graphs`` writes it anew.
"""

import json
from pathlib import Path

import pytest

import bilens
from bilens.circuits import Expansion, forest, graph
from tests.examples import IDS, TARGET, dictionary, model

STORED = Path(__file__).parents[2] / "web" / "test" / "graphs.json"
TERMS = 60
DIGITS = 10


def cases():
    at = {"mlp1.input": dictionary()}
    return {
        "paths": bilens.expand(model(), IDS, TARGET, max_terms=TERMS),
        "latents": bilens.expand(model(), IDS, TARGET, max_terms=TERMS, dictionaries=at),
    }


def made():
    return {name: {"answer": answer(ex), "graph": graph(ex)} for name, ex in cases().items()}


def answer(ex: Expansion):
    """What the page reads of an answer to draw a graph."""
    woods = forest(ex)
    one, other = (str(index) for index in TARGET)
    return {
        "prompt": ex.prompt,
        "tokens": [{"name": name, "id": n} for name, n in zip(ex.inputs, IDS, strict=True)],
        "position": ex.position,
        "target": {"name": one, "id": TARGET[0]},
        "versus": {"name": other, "id": TARGET[1]},
        "terms": [[term.value, root] for term, root in zip(ex.terms, woods.roots, strict=True)],
        "nodes": woods.nodes,
        "sources": [{"name": s.name, "kind": s.kind, "layer": s.layer} for s in ex.sources],
        "total": ex.total,
        "remainder": ex.remainder,
        "left_out": ex.left_out,
        "error": ex.error,
        "given": list(ex.given),
    }


def numbers(value):
    """The numbers in nested data, and the data without them."""
    match value:
        case dict():
            found = {key: numbers(one) for key, one in value.items()}
            return [n for ns, _ in found.values() for n in ns], {
                k: w for k, (_, w) in found.items()
            }
        case list() | tuple():
            found = [numbers(one) for one in value]
            return [n for ns, _ in found for n in ns], [without for _, without in found]
        case float():
            return [value], float
    return [], value


@pytest.mark.parametrize("name", ["paths", "latents"])
def test_the_stored_graphs_are_those_of_python(name):
    stored, fresh = (numbers(data[name]) for data in (json.loads(STORED.read_text()), made()))
    assert stored[1] == fresh[1]
    assert stored[0] == pytest.approx(fresh[0], abs=1e-8)


def shortened(value):
    match value:
        case dict():
            return {key: shortened(one) for key, one in value.items()}
        case list() | tuple():
            return [shortened(one) for one in value]
        case float():
            return float(f"{value:.{DIGITS}g}")
    return value


if __name__ == "__main__":
    STORED.write_text(json.dumps(shortened(made()), separators=(",", ":")) + "\n")

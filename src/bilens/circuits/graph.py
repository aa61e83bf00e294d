"""An expansion as a graph in the shape of Neuronpedia's attribution graphs, with pair edges for bilinear layers."""

import re
from collections import defaultdict
from typing import Any

from bilens.circuits.expansion import Expansion
from bilens.circuits.paths import BASE, CONSTANT, ERROR, Tree, text

SCHEMA = 1
NUMBER = re.compile(r"\d+")
TARGET = "target"


def graph(expansion: Expansion, slug: str = "bilens", scan: str = "bilens") -> dict[str, Any]:
    """``expansion`` as nodes, links and pairs, ready for ``json.dump``.

    A node is what one component writes at one position, however many paths go through it. A link's ``weight`` is the value
    of all paths that go along it; the links into the target add up to the kept terms. A bilinear layer's node has
    ``pair_wise_contributors``: [left node, right node, value of the paths that multiply the two there]. A dictionary's
    latent has its number as ``feature``, and the layer of what reads it. What the expansion
    did not keep is ``metadata.remainder``. The layout of the file is Neuronpedia's: ``metadata``, ``qParams``, ``nodes``,
    ``links``; "E" is the layer of embeddings; ``ctx_idx`` the position.
    """
    build = _Build(expansion)
    for term in expansion.terms:
        build.path(term.tree, term.value)
    return {
        "metadata": {
            "schema_version": SCHEMA,
            "slug": slug,
            "scan": scan,
            "prompt": expansion.prompt,
            "prompt_tokens": list(expansion.inputs),
            "generator": {"name": "bilens"},
            "target": expansion.target,
            "total": expansion.total,
            "remainder": expansion.remainder,
            "error": expansion.error,
            "given": list(expansion.given),
        },
        "qParams": {"linkType": "both", "pinnedIds": [TARGET], "clickedId": TARGET, "supernodes": [], "sg_pos": ""},
        "nodes": build.nodes_with_pairs(),
        "links": [
            {"source": source, "target": target, "weight": weight} for (source, target), weight in build.links.items()
        ],
    }


class _Build:
    def __init__(self, expansion: Expansion) -> None:
        self.expansion = expansion
        self.nodes: dict[str, dict[str, Any]] = {}
        self.links: dict[tuple[str, str], float] = defaultdict(float)
        self.pairs: dict[str, dict[tuple[str, str], float]] = defaultdict(lambda: defaultdict(float))
        self.opaque = set(expansion.opaque)
        layers = max((term.layer for term in expansion.terms), default=0)
        self.node(TARGET, str(layers + 1), expansion.position, "logit", f"{expansion.target}", expansion.total)

    def node(self, name: str, layer: str, position: int, kind: str, label: str, value: float) -> str:
        """The node of that name, made where it is new; its value grows by that of the path."""
        found = self.nodes.setdefault(
            name,
            {
                "node_id": name, "jsNodeId": name, "feature": None, "layer": layer, "ctx_idx": position,
                "reverse_ctx_idx": len(self.expansion.inputs) - 1 - position, "run_idx": 0, "run_reverse_idx": 0,
                "feature_type": kind, "clerp": label, "influence": 0.0, "activation": None, "token_prob": 0.0,
                "is_target_logit": name == TARGET,
            },
        )  # fmt: skip
        found["influence"] += value
        return name

    def path(self, tree: Tree, value: float) -> None:
        """Add one path's value to every link along it."""
        self.links[self.below(tree, self.expansion.position, value), TARGET] += value

    def below(self, tree: Tree, position: int, value: float) -> str:
        """The node at the top of ``tree``, with all that is below it."""
        match tree:
            case ("write", name, t):
                return self.node(f"{name}@{t}", _layer(name), t, self.kind(name), name, value)
            case ("look", name, t, s, child):
                node = self.node(f"{name}@{t}", _layer(name), t, "attention head", name, value)
                self.links[self.below(child, s, value), node] += value
                return node
            case ("pair", name, t, left, right):
                node = self.node(f"{name}@{t}", _layer(name), t, "bilinear layer", name, value)
                ends = self.below(left, t, value), self.below(right, t, value)
                for end in set(ends):
                    self.links[end, node] += value
                self.pairs[node][min(ends), max(ends)] += value
                return node
            case ("latent", name, t, what):
                kind = {BASE: "bias", ERROR: "reconstruction error"}.get(what, "latent")
                node = self.node(f"{name}.{text(tree)}@{t}", _layer(name), t, kind, f"{text(tree)} at {name}.input", value)
                self.nodes[node]["feature"] = what if kind == "latent" else None
                return node
            case ("stream", part, s):
                return self.node(f"x{part}@{s}", "E", s, "residual stream", "all that is read", value)
        assert tree == CONSTANT
        return self.node(f"1@{position}", "E", position, "bias", "1", value)

    def kind(self, name: str) -> str:
        if name in self.opaque:
            return "opaque layer"
        if name.endswith(".bias"):
            return "bias"
        return "attention head" if "H" in name else "bilinear layer" if name.startswith("mlp") else "embedding"

    def nodes_with_pairs(self) -> list[dict[str, Any]]:
        found = []
        for name, node in self.nodes.items():
            triples = (
                [[left, right, value] for (left, right), value in self.pairs[name].items()] if name in self.pairs else []
            )
            node["influence"] = float(node["influence"]) if name != TARGET else self.expansion.total
            found.append(node | {"pair_wise_contributors": triples} if triples else node)
        return found


def _layer(name: str) -> str:
    """The layer a component is in, "E" for what stands before all of them."""
    number = NUMBER.search(name)
    return number.group() if number else "E"

"""An expansion as a graph in the shape of Neuronpedia's attribution graphs, with pair edges for
bilinear layers.
"""

import re
from collections import defaultdict
from typing import Any, NamedTuple

from bilens.base.errors import ArgumentError
from bilens.base.words import show_token
from bilens.circuits.expansion import Expansion
from bilens.circuits.paths import BASE, CONSTANT, ERROR, HEAD, LAYER, Tree, text

SCHEMA = 1
NUMBER = re.compile(r"\d+")
TARGET = "target"


def graph(expansion: Expansion, slug: str = "bilens", scan: str = "bilens") -> dict[str, Any]:
    """``expansion`` as nodes, links and pairs, ready for ``json.dump``.

    A node is what one component writes at one position, however many paths go through it, and its
    ``influence`` is the value of all of them. A link's ``weight`` is the value of all paths that go
    along it; the links into the target add up to the kept terms. A path counts once at each node
    and link, however often it passes there: as a tree it may read one write of an early layer
    through two later ones. A bilinear layer's node has ``pair_wise_contributors``: [left node,
    right node, value of the paths that multiply the two there]. A dictionary's latent has its
    number as ``feature``, and the layer of what reads it. What the expansion did not keep is
    ``metadata.remainder``.

    The layout of the file is Neuronpedia's: ``metadata``, ``qParams``, ``nodes``, ``links``; "E" is
    the layer of embeddings; ``ctx_idx`` the position. Labels (``clerp``) say at which position and
    token a node stands.
    """
    if not isinstance(expansion, Expansion):
        raise ArgumentError("graph", must="be given an Expansion", got=type(expansion).__name__)
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
        "qParams": {
            "linkType": "both",
            "pinnedIds": [TARGET],
            "clickedId": TARGET,
            "supernodes": [],
            "sg_pos": "",
        },
        "nodes": build.nodes_with_pairs(),
        "links": [
            {"source": source, "target": target, "weight": weight}
            for (source, target), weight in build.links.items()
        ],
    }


class _Build:
    """Nodes, links and pairs as paths are added to them: to each once, however often one path
    passes there.
    """

    def __init__(self, expansion: Expansion) -> None:
        self.expansion = expansion
        self.nodes: dict[str, dict[str, Any]] = {}
        self.links: dict[tuple[str, str], float] = defaultdict(float)
        self.pairs: dict[str, dict[tuple[str, str], float]] = defaultdict(
            lambda: defaultdict(float)
        )
        self.opaque = set(expansion.opaque)
        layers = max((term.layer for term in expansion.terms), default=0)
        self.node(TARGET, str(layers + 1), expansion.position, "logit", expansion.target)
        self.nodes[TARGET]["influence"] = expansion.total

    def path(self, tree: Tree, value: float) -> None:
        """Add one path's value to the nodes, links and pairs that it passes."""
        passed = _Passed({}, {})
        top = self.below(tree, self.expansion.position, passed)
        passed.links[top, TARGET] = None
        for name in {source: None for source, _ in passed.links}:
            self.nodes[name]["influence"] += value
        for link in passed.links:
            self.links[link] += value
        for node, left, right in passed.pairs:
            self.pairs[node][left, right] += value

    def below(self, tree: Tree, position: int, passed: "_Passed") -> str:
        """The node at the top of ``tree``; the links and pairs below it go to ``passed``."""
        match tree:
            case ("write", name, t):
                return self.node(f"{name}@{t}", _layer(name), t, self.kind(name), name)
            case ("look", name, t, s, child):
                node = self.node(f"{name}@{t}", _layer(name), t, "attention head", name)
                passed.links[self.below(child, s, passed), node] = None
                return node
            case ("pair", name, t, left, right):
                node = self.node(f"{name}@{t}", _layer(name), t, "bilinear layer", name)
                ends = self.below(left, t, passed), self.below(right, t, passed)
                for end in ends:
                    passed.links[end, node] = None
                passed.pairs[node, min(ends), max(ends)] = None
                return node
            case ("latent", name, t, what):
                kind = {BASE: "bias", ERROR: "reconstruction error"}.get(what, "latent")
                label = f"{text(tree)} of {name}.input"
                node = self.node(f"{name}.{text(tree)}@{t}", _layer(name), t, kind, label)
                self.nodes[node]["feature"] = what if kind == "latent" else None
                return node
            case ("stream", part, s):
                return self.node(f"x{part}@{s}", "E", s, "residual stream", "all that is read")
        assert tree == CONSTANT
        return self.node(f"1@{position}", "E", position, "bias", "1")

    def node(self, name: str, layer: str, position: int, kind: str, label: str) -> str:
        """The node of that name, made where it is new; its label says at which token of the input
        it stands.
        """
        if name not in self.nodes:
            inputs = self.expansion.inputs
            self.nodes[name] = {
                "node_id": name, "jsNodeId": name, "feature": None, "layer": layer, "ctx_idx": position,
                "reverse_ctx_idx": len(inputs) - 1 - position, "run_idx": 0, "run_reverse_idx": 0,
                "feature_type": kind, "clerp": f"{label} at {position} {show_token(inputs[position])}",
                "influence": 0.0, "activation": None, "token_prob": 0.0, "is_target_logit": name == TARGET,
            }  # fmt: skip
        return name

    def kind(self, name: str) -> str:
        if name in self.opaque:
            return "opaque layer"
        if name.endswith(".bias"):
            return "bias"
        if HEAD.fullmatch(name):
            return "attention head"
        return "bilinear layer" if LAYER.fullmatch(name) else "embedding"

    def nodes_with_pairs(self) -> list[dict[str, Any]]:
        found = []
        for name, node in self.nodes.items():
            pairs = self.pairs.get(name, {})
            triples = [[left, right, value] for (left, right), value in pairs.items()]
            found.append(node | {"pair_wise_contributors": triples} if triples else node)
        return found


class _Passed(NamedTuple):
    """The links (from, to) and the pairs (layer's node, left, right) that one path passes, in
    order, each once.
    """

    links: dict[tuple[str, str], None]
    pairs: dict[tuple[str, str, str], None]


def _layer(name: str) -> str:
    """The layer a component is in, "E" for what stands before all of them."""
    number = NUMBER.search(name)
    return number.group() if number else "E"

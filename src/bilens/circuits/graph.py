"""An expansion as a graph in the shape of Neuronpedia's attribution graphs, with pair edges for
bilinear layers.
"""

import itertools
from collections import defaultdict
from typing import Any, NamedTuple

from bilens.base.words import show_token
from bilens.circuits.expansion import Expansion, require_expansion
from bilens.circuits.paths import BASE, ERROR, Apply, Latent, Node, Stream, Write, stands, text

SCHEMA = 1
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

    >>> graph = bilens.circuits.graph(bilens.expand(model, prompt, target, max_terms=20))
    >>> sorted(graph)
    ['links', 'metadata', 'nodes', 'qParams']
    """
    require_expansion("graph", expansion)
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
        self.sources = {source.name: source for source in expansion.sources}
        layers = max((term.layer for term in expansion.terms), default=0)
        self.node(TARGET, str(layers + 1), expansion.position, "logit", expansion.target)
        self.nodes[TARGET]["influence"] = expansion.total

    def path(self, tree: Node, value: float) -> None:
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

    def below(self, tree: Node, position: int, passed: "_Passed") -> str:
        """The node at the top of ``tree``; the links and pairs below it go to ``passed``."""
        match tree:
            case Write(source, t):
                return self.component(source, t)
            case Apply(source, t, inputs):
                node = self.component(source, t)
                at = stands(tree)
                ends = [self.below(child, s, passed) for child, s in zip(inputs, at, strict=True)]
                for end in ends:
                    passed.links[end, node] = None
                for one, other in itertools.combinations(ends, 2):
                    passed.pairs[node, min(one, other), max(one, other)] = None
                return node
            case Latent(reader, t, what):
                kinds: dict[int | str, str] = {BASE: "bias", ERROR: "reconstruction error"}
                kind = kinds.get(what, "latent")
                label = f"{text(tree)} of {reader}.input"
                node = self.node(f"{reader}.{text(tree)}@{t}", self.layer(reader), t, kind, label)
                self.nodes[node]["feature"] = what if kind == "latent" else None
                return node
            case Stream(reader, s):
                name = f"x{self.sources[reader].part}@{s}"
                return self.node(name, "E", s, "residual stream", "all that is read")
        return self.node(f"1@{position}", "E", position, "bias", "1")

    def component(self, source: str, t: int) -> str:
        """The node of what one source writes at ``t``."""
        kind = self.sources[source].kind
        return self.node(f"{source}@{t}", self.layer(source), t, kind, source)

    def layer(self, source: str) -> str:
        """The layer a source is in, "E" for what stands before all of them."""
        layer = self.sources[source].layer
        return str(layer) if layer >= 0 else "E"

    def node(self, name: str, layer: str, position: int, kind: str, label: str) -> str:
        """The node of that name, made where it is new; its label says at which token of the input
        it stands.
        """
        if name not in self.nodes:
            inputs = self.expansion.inputs
            self.nodes[name] = {
                "node_id": name,
                "jsNodeId": name,
                "feature": None,
                "layer": layer,
                "ctx_idx": position,
                "reverse_ctx_idx": len(inputs) - 1 - position,
                "run_idx": 0,
                "run_reverse_idx": 0,
                "feature_type": kind,
                "clerp": f"{label} at {position} {show_token(inputs[position])}",
                "influence": 0.0,
                "activation": None,
                "token_prob": 0.0,
                "is_target_logit": name == TARGET,
            }
        return name

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

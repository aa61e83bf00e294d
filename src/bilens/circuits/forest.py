"""The paths of an expansion as plain data in which each node is written once, for pages and files:
as texts, a thousand paths of a deep model repeat what they share many times over.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bilens.circuits.expansion import Expansion, require_expansion
from bilens.circuits.paths import STREAM, Apply, Latent, Node, Stream, Write, children, text

CONSTANT = {"s": "1", "t": -1, "k": "one"}


class Forest(NamedTuple):
    """``roots``: the node that each term ends in, by its number in ``nodes``.

    A node is ``{"s": source, "t": position}``, with ``i``, the numbers of the nodes it is made of,
    and ``a``, where those stand, if it looks elsewhere than at its own position; ``legs``: what
    they are called, where their order does not tell. ``k`` says what else than a whole write it is:
    "apply" (it is made of its inputs), "stream" (all that ``s`` reads), "latent" (of a dictionary,
    ``l`` being which), "one" (the constant of biases).

    >>> ex = bilens.expand(model, prompt, target, max_terms=20)
    >>> woods = bilens.circuits.forest(ex)
    >>> woods.nodes[woods.roots[0]]["s"] == ex.terms[0].component
    True
    """

    roots: list[int]
    nodes: list[dict[str, Any]]


def forest(expansion: Expansion) -> Forest:
    """The trees of all terms, in their order, over one list of nodes; those below stand first.

    >>> len(bilens.circuits.forest(bilens.expand(model, prompt, target, max_terms=20)).roots)
    18
    """
    require_expansion("forest", expansion)
    planted: dict[Node, int] = {}
    nodes: list[dict[str, Any]] = []
    roots = [_plant(term.tree, planted, nodes) for term in expansion.terms]
    return Forest(roots, nodes)


def _plant(tree: Node, planted: dict[Node, int], nodes: list[dict[str, Any]]) -> int:
    """The number of ``tree``, which is written down where it is new."""
    known = planted.get(tree)
    if known is not None:
        return known
    below = [_plant(child, planted, nodes) for child in children(tree)]
    nodes.append(_plain(tree, below))
    planted[tree] = len(nodes) - 1
    return planted[tree]


def _plain(tree: Node, below: Sequence[int]) -> dict[str, Any]:
    match tree:
        case Write(source, t):
            return {"s": source, "t": t}
        case Apply(source, t, _, at, legs):
            looks = {"a": list(at)} if at else {}
            called = {"legs": list(legs)} if legs else {}
            return {"s": source, "t": t, "k": "apply", "i": list(below)} | looks | called
        case Stream(reader, t):
            return {"s": reader, "t": t, "k": "stream", "l": STREAM}
        case Latent(reader, t, _):
            return {"s": reader, "t": t, "k": "latent", "l": text(tree)}
    return dict(CONSTANT)

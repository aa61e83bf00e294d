"""What each token of the input gives, of an expansion: to light tokens by."""

import math
from collections.abc import Collection
from typing import NamedTuple

from bilens.circuits.expansion import Expansion, Term
from bilens.circuits.paths import Latent, Write, constant, walk
from bilens.wiring import EMBEDDING, POSITION


class Starts(NamedTuple):
    """``values``: what the paths give that start at each token; ``elsewhere``: all else. Together
    they are the expansion's total.

    >>> ex = bilens.expand(model, prompt, target)
    >>> given = bilens.circuits.starts(ex)
    >>> abs(sum(given.values) + given.elsewhere - ex.total) < 1e-9
    True
    """

    values: tuple[float, ...]
    elsewhere: float


def starts(expansion: Expansion) -> Starts:
    """What each token gives. A path that starts at several tokens is theirs in equal parts, which
    is a convention: their product is of them all.

    Elsewhere: paths that start at no token (biases), that are not taken apart to the end, and the
    remainder. A dictionary's latent counts at the token where it is active.

    >>> len(bilens.circuits.starts(bilens.expand(model, prompt, target)).values)
    8
    """
    kinds = {source.name: source.kind for source in expansion.sources}
    leaves = {name for name, kind in kinds.items() if kind in (EMBEDDING, POSITION)}
    values = [0.0] * len(expansion.inputs)
    for term in expansion.terms:
        places = _places(term, leaves)
        for place in places:
            values[place] += term.value / len(places)
    return Starts(tuple(values), expansion.total - math.fsum(values))


def _places(term: Term, leaves: Collection[str]) -> set[int]:
    """Where a path starts at a token; nowhere, if it is not taken apart to the end."""
    if term.order is None:
        return set()
    return {
        node.t
        for node in walk(term.tree)
        if isinstance(node, Latent) or (isinstance(node, Write) and node.source in leaves)
        if not constant(node)
    }

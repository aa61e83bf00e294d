"""What each token of the input gives, of an expansion: to light tokens by."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from bilens.base.charts import DRAWN, in_unit, ranked
from bilens.base.results import ANSWER_ROWS, Result
from bilens.base.words import counting
from bilens.circuits.expansion import Expansion, Term, require_expansion
from bilens.circuits.paths import Latent, Write, constant, placed, walk
from bilens.wiring import EMBEDDING, POSITION

ELSEWHERE = "elsewhere"


@dataclass(frozen=True, repr=False, eq=False)
class Starts(Result):
    """``values``: what the paths give that start at each token; ``elsewhere``: all else. Together
    they are the expansion's total. ``unit``: of both, logits, or "" for a direction.

    Columns: ``position`` and the ``token`` there; ``value``: what is given from there. The last row
    is what is given from elsewhere, which has no position.

    >>> ex = bilens.expand(model, prompt, target)
    >>> given = bilens.circuits.starts(ex)
    >>> abs(sum(given.values) + given.elsewhere - ex.total) < 1e-9
    True
    """

    values: tuple[float, ...]
    elsewhere: float
    tokens: tuple[str, ...]
    target: str
    position: int
    unit: str = ""

    @property
    def total(self) -> float:
        """What all of it gives: the expansion's total."""
        return math.fsum(self.values) + self.elsewhere

    def summary(self) -> str:
        return (
            f"{self.target} at {self.position}, {self.total:.6g}, by the token at which paths "
            f"start: {math.fsum(self.values):.6g} from {counting(len(self.values), 'tokens')}, "
            f"{self.elsewhere:.6g} from elsewhere"
        )

    def columns(self) -> tuple[str, ...]:
        return "position", "token", "value"

    def rows(self) -> list[dict[str, Any]]:
        given = zip(range(len(self.values)), self.tokens, self.values, strict=True)
        last = (None, ELSEWHERE, self.elsewhere)
        return [dict(zip(self.columns(), row, strict=True)) for row in (*given, last)]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The tokens that give most, all others together, and elsewhere: rows that add up to the
        total.
        """
        *rows, last = self.rows()
        rows.sort(key=lambda row: -abs(row["value"]))
        most = len(rows) if len(rows) < count else max(count - 2, 0)
        shown, others = rows[:most], rows[most:]
        value = math.fsum(row["value"] for row in others)
        named = {"position": None, "token": counting(len(others), "other tokens"), "value": value}
        return [*shown, *([named] if others else []), last]

    def figure(self) -> dict[str, Any]:
        """A bar for each of the tokens that give most, one for all others, and elsewhere."""
        rows = self.answer(DRAWN + 2)
        shown = [row for row in rows if row["position"] is not None]
        names = [placed(row["position"], self.tokens) for row in shown]
        rest = {row["token"]: row["value"] for row in rows[len(shown) :]}
        axis = in_unit("what the paths give that start there", self.unit)
        title = f"{self.target} at {placed(self.position, self.tokens)}, by token"
        return ranked(names, [row["value"] for row in shown], axis, title, rest=rest)


def starts(expansion: Expansion) -> Starts:
    """What each token gives. A path that starts at several tokens is theirs in equal parts, which
    is a convention: their product is of them all.

    Elsewhere: paths that start at no token (biases), that are not taken apart to the end, and the
    remainder. A dictionary's latent counts at the token where it is active.

    >>> len(bilens.circuits.starts(bilens.expand(model, prompt, target)).values)
    8
    """
    require_expansion("starts", expansion)
    kinds = {source.name: source.kind for source in expansion.sources}
    leaves = {name for name, kind in kinds.items() if kind in (EMBEDDING, POSITION)}
    values = [0.0] * len(expansion.inputs)
    for term in expansion.terms:
        places = _places(term, leaves)
        for place in places:
            values[place] += term.value / len(places)
    return Starts(
        values=tuple(values),
        elsewhere=expansion.total - math.fsum(values),
        tokens=expansion.inputs,
        target=expansion.target,
        position=expansion.position,
        unit=expansion.unit,
    )


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

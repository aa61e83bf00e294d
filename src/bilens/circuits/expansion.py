"""An output as an exact sum of paths: Σ terms + remainder = the forward pass.

How they are found: ``circuits.search``.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import DRAWN, in_unit, ranked
from bilens.base.errors import ArgumentError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import require_count
from bilens.base.records import Record
from bilens.base.results import ANSWER_ROWS, Result, Tabled
from bilens.base.tables import Columns
from bilens.base.words import counting, printable
from bilens.circuits import paths
from bilens.circuits.paths import Apply, Node, Write
from bilens.wiring import Source

By = Literal["component", "position", "order", "layer", "unit"]
# how what is given begins, and what it is called
FIXED = {
    "A ": "patterns",
    "first score ": "scores",
    "second score ": "scores",
    "sum of scores ": "sums of scores",
    "σ ": "norm scales",
    "gates ": "gates",
    "router ": "weights of experts",
    "latents ": "latents",
    "soft-cap@": "soft-caps",
}
HOVERED = 6  # of what is given, when a bar is pointed at
SAID = 3  # terms that a refusal names


@dataclass(frozen=True, repr=False, eq=False)
class Term(Tabled, Record):
    """One path and what it adds to the target.

    ``share`` is its part of the total (shares of opposite sign cancel). ``order`` is its degree in
    the embeddings (and in a dictionary's latents and error), None where it is not taken apart to
    the end. ``given``: the patterns, norm scales, gates and latents of the pass that it holds
    fixed. ``opaque``: it starts at a part that says nothing of its write, a source of its own.

    Its table has one row: ``path``, ``value``, ``share`` and ``order`` as above, and ``given``, the
    names of all that it holds fixed.

    >>> term = bilens.expand(model, prompt, target).terms[0]
    >>> term.path, term.order, term.component
    ('mlp0(embed, embed)', 2, 'mlp0')
    >>> term.latex
    '\\\\left( W_E t_{7} \\\\cdot_{12} B^{0} \\\\cdot_{21} W_E t_{7} \\\\right)'
    """

    tree: Node
    value: float
    share: float
    layer: int
    order: int | None
    given: tuple[str, ...]
    opaque: bool

    @property
    def path(self) -> str:
        """As it is read: ``mlp1(L0H3@5→9(embed), mlp0(embed, embed))``."""
        return paths.text(self.tree)

    @property
    def latex(self) -> str:
        """In the note's notation."""
        return paths.latex(self.tree)

    @property
    def component(self) -> str:
        """The residual write through which the path reaches the target."""
        return self.tree.source if isinstance(self.tree, Write | Apply) else "bias"

    def summary(self) -> str:
        held = f"; given {len(self.given)}" if self.given else ""
        return f"{self.value:+.4g} ({self.share:.1%}) by {self.path}{held}"

    def _table(self) -> Columns:
        row = {"path": self.path, "value": self.value, "share": self.share, "order": self.order}
        row["given"] = ", ".join(self.given)
        return Columns(tuple(row), [row])

    def __repr__(self) -> str:
        return f"<Term: {printable(self.summary())}>"


@dataclass(frozen=True, eq=False)
class Units(Record):
    """What a layer writes to a target, by hidden unit: ``values``, and ``sides``: the features that
    are multiplied, a row for each (the gated one first, as it is before the gate).
    """

    layer: str
    values: Float[Tensor, " k"]
    sides: Float[Tensor, "n k"]

    def named(self) -> Iterator[tuple[str, float]]:
        """Each unit that writes anything, with the signs of its sides: "mlp1.u17 (+-)"."""
        signs = ["".join("+" if a > 0 else "-" for a in unit) for unit in self.sides.T.tolist()]
        for n, value in enumerate(self.values.tolist()):
            if value:
                yield f"{self.layer}.u{n} ({signs[n]})", value


@dataclass(frozen=True, repr=False, eq=False)
class Groups(Result):
    """An expansion added up by one property of its terms, the largest group first. What was not
    kept is the last row, ``remainder``.

    Columns: the first is called as what it is added up by (component, position, order, layer or
    unit) and names the group. ``value``: the sum of the group's terms. ``share``: of the total;
    shares of opposite sign cancel. ``from``: the tokens at a group's positions, for groups by
    position. ``unit``: of the values, logits, or "" for a direction.

    >>> ex = bilens.expand(model, prompt, target)
    >>> ex.by("component").names[:2]
    ('mlp0', 'mlp1')
    """

    by: str
    names: tuple[str, ...]
    values: tuple[float, ...]
    target: str = ""
    tokens: tuple[str, ...] = ()
    unit: str = ""

    def summary(self) -> str:
        return (
            f"{counting(len(self.names), 'groups')} by {self.by}, {sum(self.values):.6g} together"
        )

    def columns(self) -> tuple[str, ...]:
        return (self.by, "value", "share", *(["from"] if self.tokens else []))

    def rows(self) -> list[dict[str, Any]]:
        total = sum(self.values)
        rows = [
            {self.by: name, "value": value, "share": value / total if total else 0.0}
            for name, value in zip(self.names, self.values, strict=True)
        ]
        for row, token in zip(rows, self.tokens, strict=False):
            row["from"] = token
        return rows

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The largest groups, all smaller ones together, and the remainder: rows that add up to the
        total.
        """
        *rows, last = self.rows()
        most = _beside_the_rest(len(rows), count)
        smaller = self._smaller(rows[most:])
        return [*rows[:most], *([smaller] if smaller else []), last]

    def _smaller(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Groups that are not shown, as one row."""
        if not rows:
            return {}
        value, share = (sum(row[name] for row in rows) for name in ("value", "share"))
        named = {self.by: f"{len(rows):,} smaller", "value": value, "share": share}
        return named | ({"from": ""} if self.tokens else {})

    def figure(self) -> dict[str, Any]:
        """A bar for each of the largest groups, one for all smaller ones, and the remainder."""
        shown = self.answer(DRAWN + 2)
        names = [f"{row[self.by]} {row.get('from', '')}".strip() for row in shown]
        left = 1 + (len(self.names) > len(shown))
        rest = {row[self.by]: row["value"] for row in shown[-left:]}
        shown, names = shown[:-left], names[:-left]
        title = f"{self.target or 'The target'} by {self.by}"
        share = {"share": [row["share"] for row in shown]}
        values = [row["value"] for row in shown]
        axis = in_unit("what it adds", self.unit)
        return ranked(names, values, axis, title, hover=share, rest=rest)


@dataclass(frozen=True, repr=False, eq=False)
class Expansion(Result):
    """A target as a sum of paths: ``total`` = Σ ``terms`` + ``remainder``, and ``forward`` is what
    the model itself says.

    Terms come largest first. ``remainder`` is the value of all paths that were met and not kept.
    ``opaque`` names parts that say nothing of what they write, which are not taken apart.
    ``position`` is where the target is; ``inputs`` names the positions, the special tokens that the
    tokenizer adds among them, and ``prompt`` is the text as it was written. ``writes``: what
    each source writes to the target, whole, and ``units`` the same by hidden unit, of layers.
    ``unit``: in what all values are, logits, or "" for a direction.

    A half-precision model is explained in float32, where its weights are exact: ``forward`` is that
    pass, and ``as_run`` what the model says as it is (None in full precision).

    Columns: ``path``, as ``ablate``, ``circuits.units`` and ``circuits.paths.parse`` read it.
    ``value``: what it adds to the target. ``share``: of the total; shares of opposite sign cancel.
    ``order``: how often it reads an embedding; empty where it is not taken apart to the end.
    ``from``: the tokens at which it starts. ``held fixed``: how many patterns, norm scales, gates
    and latents of this pass it is given. ``read as``: the path with its token beside each position.

    >>> ex = bilens.expand(model, prompt, target)
    >>> abs(ex.total - ex.forward) < 1e-4
    True
    >>> len(ex.top(20).terms)
    20
    """

    target: str
    position: int
    inputs: tuple[str, ...]
    terms: tuple[Term, ...]
    remainder: float
    forward: float
    left_out: int
    opaque: tuple[str, ...]
    sources: tuple[Source, ...] = ()
    prompt: str = ""
    as_run: float | None = None
    writes: tuple[tuple[str, ...], tuple[float, ...]] = ((), ())
    units: tuple[Units, ...] = ()
    unit: str = ""

    @property
    def total(self) -> float:
        """Σ terms + remainder, added up in float64."""
        return float(np.sum([term.value for term in self.terms])) + self.remainder

    @property
    def error(self) -> float:
        """|total − forward|: rounding, or a fault of bilens."""
        return abs(self.total - self.forward)

    @property
    def given(self) -> tuple[str, ...]:
        """All that the terms hold fixed together."""
        return tuple(
            dict.fromkeys(itertools.chain.from_iterable(term.given for term in self.terms))
        )

    @property
    def held(self) -> str:
        """How much is given, and of which kinds: "33 patterns, norm scales and gates"."""
        kinds = [
            told
            for begins, told in FIXED.items()
            if any(name.startswith(begins) for name in self.given)
        ]
        return counting(len(self.given), _listed(*dict.fromkeys(kinds))).strip()

    def summary(self) -> str:
        # of the paths that were not kept nothing is said
        bare = "nothing given in them" if self.left_out else "nothing given: exact outright"
        held = f"; given {self.held}" if self.given else f"; {bare}"
        opaque = f"; opaque: {', '.join(self.opaque)}" if self.opaque else ""
        half = "" if self.as_run is None else f", as run in half precision {self.as_run:.6g}"
        return (
            f"{self.target} at {self.position}: {counting(len(self.terms), 'terms')} "
            f"+ remainder {self.remainder:.6g} = {self.total:.6g} "
            f"(forward {self.forward:.6g}, error {self.error:.1e}{half}){held}{opaque}"
        )

    def columns(self) -> tuple[str, ...]:
        return "path", "value", "share", "order", "from", "held fixed", "read as"

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "path": f"W_U · {term.path}",
                "value": term.value,
                "share": term.share,
                "order": term.order,
                "from": self._tokens(term),
                "held fixed": len(term.given),
                "read as": self.read_as(term),
            }
            for term in self.terms
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The largest paths with their tokens, all smaller ones together, and the remainder: rows
        that add up to the total.
        """
        most = _beside_the_rest(len(self.terms), count)
        shown, others = self.terms[:most], self.terms[most:]
        rows = [(term.value, self.read_as(term)) for term in shown]
        rows += [(value, name) for name, value in self._left(others).items()]
        total = self.total
        return [
            {"value": value, "share": value / total if total else 0.0, "path": name}
            for value, name in rows
        ]

    def _left(self, others: Sequence[Term]) -> dict[str, float]:
        """What is not shown, by name."""
        smaller = {
            counting(len(others), "smaller paths"): float(np.sum([one.value for one in others]))
        }
        left = smaller if others else {}
        return left | {f"remainder: {counting(self.left_out, 'paths')} not kept": self.remainder}

    def read_as(self, term: Term) -> str:
        """The path of ``term`` with its token beside each position: ``L1H3@6 ␣a→7 ␣little(…)``."""
        return paths.text(term.tree, self.inputs)

    def figure(self) -> dict[str, Any]:
        """A bar for each of the largest paths, one for all smaller ones, and the remainder."""
        shown, others = self.terms[:DRAWN], self.terms[DRAWN:]
        hover = {
            "share": [f"{term.share:.2%}" for term in shown],
            "from": [self._tokens(term) for term in shown],
            "given": [_first(term.given) for term in shown],
            "path": [term.path for term in shown],
        }
        place = paths.placed(self.position, self.inputs)
        title = f"{self.target} at {place}: paths, {self.total:.4g} together"
        names, values = [self.read_as(term) for term in shown], [term.value for term in shown]
        axis = in_unit("what it adds", self.unit)
        return ranked(names, values, axis, title, hover=hover, rest=self._left(others))

    def top(self, k: int) -> "Expansion":
        """The ``k`` largest terms; the others go to the remainder. Errors: ArgumentError."""
        require_count("k", k, 0)
        kept, rest = self.terms[:k], self.terms[k:]
        remainder = self.remainder + float(np.sum([term.value for term in rest]))
        return replace(self, terms=kept, remainder=remainder, left_out=self.left_out + len(rest))

    def by(self, what: By) -> Groups:
        """The terms added up by component (the write that reaches the target), start position,
        order or layer. Largest first; last what was not kept.

        "unit": the layers' writes to the target by hidden unit, whole whatever terms were kept,
        with the sign of each side, the gate's first: "mlp1.u17 (+-)". Other writes are one each.
        ``circuits.units`` says which units carry one term.
        """
        require("by", what, OneOf(get_args(By)), ArgumentError)
        if what == "unit":
            return self._by_unit()
        found: dict[str, float] = {}
        for term in self.terms:
            name = self._group(term, what)
            found[name] = found.get(name, 0.0) + term.value
        names = sorted(found, key=lambda name: -abs(found[name]))
        values = [found[name] for name in names]
        tokens = (*map(self._tokens_of, names), "") if what == "position" else ()
        named, sums = (*names, "remainder"), (*values, self.remainder)
        return Groups(what, named, sums, self.target, tokens, self.unit)

    def _by_unit(self) -> Groups:
        layers = {units.layer for units in self.units}
        rows = dict(itertools.chain.from_iterable(units.named() for units in self.units))
        for component, value in zip(*self.writes, strict=True):
            if component not in layers:
                rows[component] = value
        names = sorted(rows, key=lambda name: -abs(rows[name]))
        rest = self.total - float(np.sum(list(rows.values())))
        values = [*(rows[name] for name in names), rest]
        named = (*names, "remainder")
        return Groups("unit", named, tuple(values), self.target, unit=self.unit)

    def ablate(self, removed: "Term | str | Iterable[Term | str]") -> float:
        """The target with these paths taken out of the sum, all else as it was: patterns and norm
        scales do not react.

        A path is a term, or its text. Terms do not overlap, and a path named twice is taken out
        once. One that was taken apart is no term any more; name the terms that it has become.
        ``circuits.knockout`` removes a component from the model itself; the two differ where
        patterns and norms then change. Errors: ArgumentError for what is no path, and for a path
        that is not among the terms.
        """
        terms = {term.path: term for term in self.terms}
        gone: dict[str, float] = {}
        for path in _named(removed):
            if path not in terms:
                raise ArgumentError(
                    "path", must="be among the expansion's terms", got=path, todo=self._apart(path)
                )
            gone[path] = terms[path].value
        return self.total - float(np.sum(list(gone.values())))

    def _apart(self, path: str) -> str:
        """Which terms begin like a path that is none itself."""
        begun = [term.path for term in self.terms if term.path.startswith((f"{path}(", f"{path}@"))]
        if not begun:
            return ""
        more = f" and {len(begun) - SAID} more" if len(begun) > SAID else ""
        return f"It was taken apart: {', '.join(begun[:SAID])}{more}."

    def _group(self, term: Term, what: By) -> str:
        match what:
            case "component":
                return term.component
            case "layer":
                return "embeddings" if term.layer < 0 else f"layer {term.layer}"
            case "order":
                return "not taken apart" if term.order is None else str(term.order)
        return ", ".join(map(str, paths.positions(term.tree))) or "none"

    def _tokens(self, term: Term) -> str:
        return " · ".join(self.inputs[n] for n in paths.positions(term.tree))

    def _tokens_of(self, group: str) -> str:
        """The tokens at the positions of a group."""
        return " · ".join(self.inputs[int(n)] for n in group.split(", ") if n.isdecimal())


def require_expansion(who: str, given: object) -> None:
    """Raise ArgumentError for what ``who`` was given, where that is no Expansion."""
    if not isinstance(given, Expansion):
        raise ArgumentError(who, must="be given an Expansion", got=type(given).__name__)


def _beside_the_rest(number: int, count: int) -> int:
    """How many of ``number`` rows fit into ``count``, beside what is left and the remainder."""
    return number if number < count else max(count - 2, 0)


def _first(names: Sequence[str]) -> str:
    """What a hover has room for."""
    more = f" and {len(names) - HOVERED} more" if len(names) > HOVERED else ""
    return (", ".join(names[:HOVERED]) + more) or "nothing"


def _listed(*words: str) -> str:
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + list(words[-1:]))


def _named(removed: Any) -> Iterator[str]:
    """The texts of one path or of several."""
    if isinstance(removed, Term | str):
        removed = [removed]
    if not isinstance(removed, Iterable) or isinstance(removed, Mapping | bytes | torch.Tensor):
        must = "be a term of the expansion, its path, or several of them"
        raise ArgumentError("ablate: what is taken out", must=must, got=type(removed).__name__)
    for item in removed:
        if not isinstance(item, Term | str):
            got = f"{type(item).__name__} among them"
            raise ArgumentError(
                "ablate: what is taken out",
                must="be terms of the expansion, or their paths",
                got=got,
            )
        yield item.path if isinstance(item, Term) else item.strip().removeprefix("W_U · ").strip()

"""Paths: how an output comes from embeddings, as one kind of tree, over inputs and over weights.

A node is a record of plain values, so that it compares, hashes and saves. Positions ``t`` are
``NOWHERE`` where no input is fixed (``virtual``). A path is written and read in one grammar:

    expression := "W_U" ["·"] path  |  name ["[" offset "]"] score "(" path "," path ")"  |  path
    score      := ".QK", of a head with two scores ".QK1" or ".QK2"
    path       := "1"  |  "x" ["." name]  |  latent  |  name [look] ["(" input {"," input} ")"]
    input      := [leg ":"] path            leg: as a head without softmax calls its legs, "q1"
    look       := "@" s {"," s} "→" t  |  "[" offset "]"        offset := 0 | -1 | -2 | …
    latent     := "f" number  |  "base"  |  "error"

"x" is all that is read there; "x.L0H0" all that L0H0 reads, where another part has its reading.
``parse(text(node), node's position)`` is the node itself.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn

from bilens.base.errors import ArgumentError
from bilens.base.records import Record

ONE = "1"  # the constant that biases multiply
STREAM = "x"
READOUT = "W_U"
SCORE = "QK"
NOWHERE = -1
QUERY = "q"  # how a leg is called that stands where its head does
BASE, ERROR = "base", "error"  # of a dictionary: its decoder's bias, and what it misses


class Node(Record):
    """One step of a path."""


@dataclass(frozen=True)
class Write(Node):
    """All that ``source`` writes at ``t``: a leaf, or not taken apart."""

    source: str
    t: int = NOWHERE


@dataclass(frozen=True)
class Apply(Node):
    """``source`` on ``inputs``: a head has one, a bilinear layer two, in both orders where they
    differ. ``at``: where the inputs stand, if the source looks elsewhere than at ``t``; with no
    position fixed, at which offset it looks. ``legs``: what each input is called, where the order
    does not tell: of a head without softmax "q1", "k1", …, "v". Its queries stand at ``t``.
    """

    source: str
    t: int
    inputs: tuple[Node, ...]
    at: tuple[int, ...] = ()
    legs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stream(Node):
    """Everything that the source ``reader`` reads at ``t``; the residual space where none reads."""

    reader: str = ""
    t: int = NOWHERE


@dataclass(frozen=True)
class Latent(Node):
    """What the source ``reader`` reads at ``t`` by a dictionary: a latent's number, BASE or
    ERROR.
    """

    reader: str
    t: int
    what: int | str


@dataclass(frozen=True)
class One(Node):
    """The constant that biases multiply."""


@dataclass(frozen=True)
class Score(Node):
    """The score of a head between what two paths give, at the query and, at ``offset``, the key.
    ``number``: which of its scores, from 1; 0 of a head that has one.
    """

    source: str
    query: Node
    key: Node
    offset: int = 0
    number: int = 0


def text(node: Node, tokens: Sequence[str] = ()) -> str:
    """A path as it is read: ``mlp1(L0H3@5→9(embed), mlp0(embed, embed))``.

    ``mlp1(f17, error)``: latent 17 of the dictionary at the layer's input, and what that misses.
    At 9, L0H3 looks at position 5 and reads the embedding there; other parts stand at the position
    of what reads them. With ``tokens``, the names of all positions, each position has its own
    beside it, ``L0H3@5 ␣sat→9 ␣mat(embed)``: for people, and no path that ``parse`` reads.
    """
    match node:
        case Write(source, _):
            return source
        case Apply(source, _, (child,)) if source == READOUT:
            return f"{READOUT} {text(child, tokens)}"
        case Apply(source, t, inputs, at, legs):
            below = [_read(child, source, tokens) for child in inputs]
            if legs:
                below = [f"{leg}: {child}" for leg, child in zip(legs, below, strict=True)]
                at = at[-1:]  # where the head looks
            return f"{source}{_look(t, at, tokens)}({', '.join(below)})"
        case Stream():
            return STREAM
        case Latent(_, _, what):
            return what if isinstance(what, str) else f"f{what}"
        case Score(source, query, key, offset, number):
            look, name = _look(NOWHERE, (offset,) if offset else ()), f"{SCORE}{number or ''}"
            return f"{source}{look}.{name}({text(query, tokens)}, {text(key, tokens)})"
    return ONE


def _read(node: Node, reader: str, tokens: Sequence[str]) -> str:
    """What ``reader`` reads; a stream by name where another part reads it."""
    other = isinstance(node, Stream) and node.reader not in ("", reader)
    return f"{STREAM}.{node.reader}" if other else text(node, tokens)  # type: ignore[attr-defined]


def _look(t: int, at: tuple[int, ...], tokens: Sequence[str] = ()) -> str:
    if not at:
        return ""
    if t == NOWHERE:
        return f"[{','.join(map(str, at))}]"
    return f"@{','.join(placed(n, tokens) for n in at)}→{placed(t, tokens)}"


def placed(position: int, tokens: Sequence[str]) -> str:
    """A position, with its token beside it where there is one."""
    return f"{position} {tokens[position]}" if 0 <= position < len(tokens) else str(position)


def latex(node: Node) -> str:
    """A path in the note's notation: B for a bilinear layer, A for a pattern, W_OV for a head."""
    match node:
        case Write("embed", t):
            return f"W_E t_{{{t}}}"
        case Write("pos", t):
            return rf"W_{{\mathrm{{pos}},{t}}}"
        case Write(source, t):
            return rf"\mathrm{{{_escaped(source)}}}_{{{t}}}"
        case Apply(source, t, (child,), at) if HEAD_NAME.fullmatch(source):
            pattern = rf"A^{{{_index(source)}}}_{{{t},{at[0]}}} " if at else ""
            return rf"{pattern}W_{{OV}}^{{{_index(source)}{_first(source)}}} {latex(child)}"
        case Apply(source, _, (left, right)):
            factor = "" if left == right else "2 "
            middle = rf"\cdot_{{12}} B^{{{_index(source)}}} \cdot_{{21}}"
            return rf"{factor}\left( {latex(left)} {middle} {latex(right)} \right)"
        case Apply(source, t, inputs, at, legs):
            look = f",{at[-1]}" if legs and at else ""
            below = ", ".join(map(latex, inputs))
            return rf"T^{{{_index(source)}}}_{{{t}{look}}}\left( {below} \right)"
        case Stream(_, t):
            return f"x_{{{t}}}"
        case Latent(reader, t, what):
            return _latex_latent(_index(reader), t, what)
    return ONE


def _latex_latent(layer: str, t: int, what: int | str) -> str:
    if what == BASE:
        return rf"b_{{\mathrm{{dec}}}}^{{{layer}}}"
    if what == ERROR:
        return rf"\varepsilon^{{{layer}}}_{{{t}}}"
    return rf"a^{{{layer}}}_{{{t},{what}}} w^{{{layer}}}_{{{what}}}"


# what else has one input is no W_OV: T, as a longer product
HEAD_NAME = re.compile(r"L\d+H\d+(\.first)?")


def _index(name: str) -> str:
    """The numbers in a name, as a superscript: "0,3" for L0H3."""
    return ",".join(re.findall(r"\d+", name)) or rf"\mathrm{{{_escaped(name)}}}"


def _first(head: str) -> str:
    """What tells W_V of the first layer from a head's own."""
    return r",\mathrm{first}" if head.endswith(".first") else ""


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")


# The tree.


def children(node: Node) -> tuple[Node, ...]:
    """The nodes right below."""
    if isinstance(node, Apply):
        return node.inputs
    return (node.query, node.key) if isinstance(node, Score) else ()


def walk(node: Node) -> Iterator[Node]:
    """The tree's nodes, each before those below it."""
    ahead = [node]
    while ahead:
        one = ahead.pop()
        yield one
        if below := children(one):
            ahead += below[::-1]


def stands(node: Apply) -> tuple[int, ...]:
    """Where each of its inputs stands."""
    return node.at or (node.t,) * len(node.inputs)


def position(node: Node, otherwise: int) -> int:
    """Where a node stands; the constant stands wherever it is read."""
    return getattr(node, "t", otherwise)


def cut(node: Node, depth: int) -> Node:
    """The tree to ``depth`` levels; what is below stands as the whole write of its source."""
    match node:
        case Apply(source, t, inputs):
            if not depth:
                return Write(source, t)
            return replace(node, inputs=tuple(cut(child, depth - 1) for child in inputs))
    return node


def order(nodes: Iterable[Node], ends: Collection[str], embeddings: Collection[str]) -> int | None:
    """The degree in the embedding of the inputs: how often a path reads one of ``embeddings``.

    ``nodes``: those of the path, as ``walk`` gives them. None where it is not taken apart to the
    ``ends``: the names of leaves and biases. A dictionary's latents and its error are read in the
    embedding's stead and count as it does; its base is a constant.
    """
    degree = 0
    for node in nodes:
        if isinstance(node, Write):
            if node.source not in ends:
                return None
            degree += node.source in embeddings
        elif isinstance(node, Stream):
            return None
        elif isinstance(node, Latent):
            degree += node.what != BASE
    return degree


def constant(node: Node) -> bool:
    """Whether it is the same whatever is read: the constant of biases, or a dictionary's base."""
    return isinstance(node, One) or (isinstance(node, Latent) and node.what == BASE)


def positions(node: Node) -> tuple[int, ...]:
    """The positions at which a path starts, in order."""
    starts = (one.t for one in walk(node) if isinstance(one, Write | Stream | Latent))
    return tuple(sorted(set(starts) - {NOWHERE}))


# From text to nodes.

TOKEN = re.compile(
    rf"\s*(?P<text>[A-Za-z_]\w*(?:\.(?!{SCORE}\d*\b)\w+)*|[-−]?\d+|[()\[\],.:·@→])", re.UNICODE
)
NAME = re.compile(r"[A-Za-z_]")
LATENT = re.compile(r"f(\d+)")
SCORES = re.compile(rf"{SCORE}([1-9]?)")
RESERVED = re.compile(rf"f\d+|{BASE}|{ERROR}|{STREAM}(\..+)?|{READOUT}|{SCORES.pattern}")


class _Token(NamedTuple):
    text: str
    at: int


def parse(expr: str, t: int = NOWHERE) -> Node:
    """The path written as ``expr``, read at position ``t``; over weights where no input is fixed.

    Errors: ArgumentError where it does not read, saying at which character.
    """
    return _Reader(expr).expression(t)


class _Reader:
    """Recursive descent, one method a rule of the grammar."""

    def __init__(self, expr: str) -> None:
        if not isinstance(expr, str):
            must = 'be a text like "W_U mlp0(embed, L0H3)"'
            raise ArgumentError("a path", must=must, got=type(expr).__name__)
        self.expr, self.n = expr, 0
        self.tokens = self.split()

    def split(self) -> list[_Token]:
        found, at, end = [], 0, len(self.expr.rstrip())
        while at < end:
            token = TOKEN.match(self.expr, at)
            if token is None:
                at += len(self.expr[at:]) - len(self.expr[at:].lstrip())
                self.refuse(
                    "be made of names, numbers and ( ) [ ] , . : @ →", _Token(self.expr[at], at)
                )
            found.append(_Token(token["text"], token.start("text")))
            at = token.end()
        return [*found, _Token("", end)]

    def expression(self, t: int) -> Node:
        if self.peek.text == READOUT:
            self.take()
            if self.peek.text == "·":
                self.take()
            found: Node = Apply(READOUT, NOWHERE, (self.path("", t),))
        else:
            found = self.path("", t, alone=True)
        if self.peek.text:
            self.refuse("end", self.peek)
        return found

    def path(self, reader: str, t: int, alone: bool = False) -> Node:
        """A path that ``reader`` reads at ``t``; by itself it may be a score."""
        token = self.take()
        name = token.text
        if name == ONE:
            return One()
        if not NAME.match(name) or name == READOUT or SCORES.fullmatch(name):
            self.refuse("have a leaf, a head like L0H3 or a layer like mlp0", token)
        if name == STREAM or (reader and name.startswith(f"{STREAM}.")):
            return Stream(name[2:] or reader, t)
        if reader and RESERVED.fullmatch(name):
            number = LATENT.fullmatch(name)
            return Latent(reader, t, int(number[1]) if number else name)
        return self.source(name, t, alone)

    def source(self, name: str, t: int, alone: bool) -> Node:
        at, to = self.look(t)
        if self.peek.text == ".":
            dot = self.take()
            if not alone:
                must = "have a score only by itself, not inside a path or below W_U"
                self.refuse(must, dot)
            token = self.take()
            score = SCORES.fullmatch(token.text)
            if score is None:
                self.refuse(f"have '{SCORE}', '{SCORE}1' or '{SCORE}2'", token)
            return Score(name, *self.two(name, to), at[0] if at else 0, int(score[1] or 0))
        if self.peek.text != "(":
            return Write(name, to) if not at else Apply(name, to, (Write("embed"),), at)
        if self.peek_leg:
            return self.by_leg(name, to, at)
        return Apply(name, to, self.inputs(name, to, at), at)

    def look(self, t: int) -> tuple[tuple[int, ...], int]:
        """Where a source looks, and where it stands."""
        if self.peek.text == "[":
            self.take()
            offset = self.number(
                r"0|[-−]\d+", "an offset 0, -1, -2, … (key position − query position)"
            )
            self.expect("]")
            return ((offset,) if offset else ()), t
        if self.peek.text != "@":
            return (), t
        self.take()
        at = [self.number(r"\d+", "a position")]
        while self.peek.text == ",":
            self.take()
            at.append(self.number(r"\d+", "a position"))
        self.expect("→")
        return tuple(at), self.number(r"\d+", "a position")

    def inputs(self, reader: str, t: int, at: tuple[int, ...]) -> tuple[Node, ...]:
        """One path or several, each read where ``at`` says."""
        stands = [t] if t == NOWHERE or not at else list(at)
        self.expect("(")
        made = [self.path(reader, stands[0])]
        while self.peek.text == ",":
            self.take()
            made.append(self.path(reader, stands[min(len(made), len(stands) - 1)]))
        self.expect(")")
        return tuple(made)

    def by_leg(self, name: str, t: int, at: tuple[int, ...]) -> Apply:
        """Paths by the names of the legs that read them: queries at t, others where it looks."""
        looks = at[0] if at else t
        legs, made, where = [], [], []
        while not made or self.peek.text == ",":
            self.take()
            leg = self.take()
            if not NAME.match(leg.text):
                self.refuse("name every leg, as q1: …", leg)
            self.expect(":")
            query = leg.text.startswith(QUERY) and t != NOWHERE
            legs.append(leg.text)
            where.append(t if query else looks)
            made.append(self.path(name, where[-1] if t != NOWHERE else t))
        self.expect(")")
        fixed = tuple(where) if t != NOWHERE else at
        return Apply(name, t, tuple(made), fixed, tuple(legs))

    def two(self, reader: str, t: int) -> tuple[Node, Node]:
        self.expect("(")
        left = self.path(reader, t)
        self.expect(",")
        right = self.path(reader, t)
        self.expect(")")
        return left, right

    def number(self, pattern: str, what: str) -> int:
        token = self.take()
        if not re.fullmatch(pattern, token.text):
            self.refuse(f"have {what}", token)
        return int(token.text.replace("−", "-"))

    @property
    def peek(self) -> _Token:
        return self.tokens[self.n]

    @property
    def peek_leg(self) -> bool:
        """Whether the next input is given by its leg."""
        return [token.text for token in self.tokens[self.n + 2 : self.n + 3]] == [":"]

    def take(self) -> _Token:
        token = self.peek
        self.n = min(self.n + 1, len(self.tokens) - 1)
        return token

    def expect(self, what: str) -> None:
        token = self.take()
        if token.text != what:
            self.refuse(f"have {what!r}", token)

    def refuse(self, must: str, token: _Token) -> NoReturn:
        got = repr(token.text) if token.text else "the end"
        raise ArgumentError(who(self.expr), must=f"{must} at character {token.at + 1}", got=got)


def who(expr: str) -> str:
    """A path, as a refusal names it."""
    return f"the path {expr!r}"

"""Circuits from the weights alone: a path, written out, as a matrix or a third-order tensor over what it starts from.

    expression := [ "W_U" ["·"] ] path  |  head ".QK" "(" path "," path ")"
    path       := leaf  |  head [ "(" path ")" ]  |  layer "(" path "," path ")"
    leaf       := "embed" | "pos" | …  (what the model writes first)  |  "x"  (the residual space itself)
    head       := "L" n "H" n [ "[" offset "]" ]        layer := "mlp" n        offset := 0 | -1 | -2 | …

Paths read as the terms of ``expand`` do, positions left out.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from bilens.algebra import CP, Factored
from bilens.base.errors import ArgumentError, NotExactError
from bilens.circuits.attention import (
    Weights,
    attention_part,
    head_weights,
    require_offset,
    score_form,
)
from bilens.circuits.paths import HEAD, LAYER
from bilens.circuits.understood import require_ends, require_weights
from bilens.nn.expandable import Expandable, Heads, Layer, explained, explains, require_expandable

TOKEN = re.compile(r"\s*([A-Za-z_]\w*(?:\.bias)?|[-−]?\d+|[()\[\],.·])")
RESIDUAL = "x"
READOUT = "W_U"


@explains
def virtual(model: Expandable, expr: str) -> CP | Factored:
    """The circuit ``expr`` of a model as an exact form, from its weights alone. No input is fixed, no big array is made.

    ``embed``               W_E, over the vocabulary (``pos``: learned positions; ``x``: the residual space as it is)
    ``L0H3(path)``          a head's W_V W_O on a path; ``L0H3`` alone reads embed; ``L1H0(L0H3)`` is a virtual head
    ``mlp0(path, path)``    a bilinear layer on two paths: order three
    ``W_U path``            on to the outputs, in front
    ``L1H2[-1].QK(q, k)``   the head's score between what path q gives at the query and path k at the key, RoPE's turn for
                            key position − query position = −1 included, and d_head^-½. Elsewhere an offset says at which
                            distance a head looks, which leaves W_V W_O as it is.

    Returns, for a path of degree 1, a ``Factored``: rows what is written (outputs, or the residual stream), columns the
    leaf; a score's rows are the query's leaf, its columns the key's. With a bilinear layer, a ``CP``: out what is written
    (of a score: the other path's leaf), left and right the leaves of the layer's two inputs.

    mlp0(a, b) of two different paths holds both orders: T(x, y) = 2 S(a x, b y), the value of that one term of ``expand``.
    mlp0(a, a) is S(a x, a y), symmetric: T(x, x) is the term of one input, 2 T(x, y) that of the same path started twice.
    A term of ``expand`` is this form's entry times what it was given: its patterns, and a norm's scale for each thing read.

    Weights and centring of norms are included and their scales left at 1. Biases are left out: these are paths without "1".
    In float64, in which products of low rank stay so (``top_entries`` lives on it). Gradients flow.
    Cost O(vocab d h) for the layer, O(vocab d d_head) for a head; memory that of the factors.

    Errors: ArgumentError where the expression does not read, saying at which character; for a part that the model does not
    have, that reads what is written after it, or that does not do what its weights say.
    NotExactError for a layer that is opaque, and for two bilinear layers in
    one expression: its order would be four or more, which is no CP over two inputs.
    Source: Elhage et al. 2021 (virtual heads); Sharkey, arXiv:2305.03452, section 3.

    >>> virtual(model, "W_U mlp0(embed, L0H3)")       # which pair (this token, token looked at) writes which token
    """
    require_expandable(model)
    return _Circuits(explained(model), expr).form(_Reader(expr).expression())


class _Leaf(NamedTuple):
    name: str
    at: int


class _Head(NamedTuple):
    layer: int
    head: int
    offset: int
    child: "_Node"
    at: int


class _Layer(NamedTuple):
    layer: int
    left: "_Node"
    right: "_Node"
    at: int


class _Readout(NamedTuple):
    child: "_Node"
    at: int


class _Score(NamedTuple):
    layer: int
    head: int
    offset: int
    query: "_Node"
    key: "_Node"
    at: int


_Node = _Leaf | _Head | _Layer


def _same(one: _Node, two: _Node) -> bool:
    """Whether two paths are the same, wherever they stand in the text."""
    match one, two:
        case (_Leaf(), _Leaf()):
            return one.name == two.name
        case (_Head(), _Head()):
            return one[:3] == two[:3] and _same(one.child, two.child)
    return False  # a layer inside a layer is refused


# From text to nodes.


class _Token(NamedTuple):
    text: str
    at: int


class _Reader:
    """Recursive descent, one method a rule of the grammar."""

    def __init__(self, expr: str) -> None:
        self.expr, self.tokens, self.n = expr, _tokens(expr), 0

    def expression(self) -> _Node | _Readout | _Score:
        first = self.peek
        if first.text == READOUT:
            self.take()
            if self.peek.text == "·":
                self.take()
            found: _Node | _Readout | _Score = _Readout(self.path(), first.at)
        else:
            found = self.path_or_score(alone=True)
        if self.peek.text:
            raise self.refuse("end", self.peek)
        return found

    def path(self) -> _Node:
        found = self.path_or_score(alone=False)
        assert not isinstance(found, _Score)
        return found

    def path_or_score(self, alone: bool) -> _Node | _Score:
        token = self.take()
        if found := HEAD.fullmatch(token.text):
            return self.head(int(found[1]), int(found[2]), token.at, alone)
        if found := LAYER.fullmatch(token.text):
            left, right = self.two()
            return _Layer(int(found[1]), left, right, token.at)
        if not re.match(r"[A-Za-z_]", token.text) or token.text in (READOUT, "QK"):
            raise self.refuse("have a leaf, a head like L0H3 or a layer like mlp0", token)
        return _Leaf(token.text, token.at)

    def head(self, layer: int, head: int, at: int, alone: bool) -> _Head | _Score:
        offset = self.offset() if self.peek.text == "[" else 0
        if self.peek.text == ".":
            dot = self.take()
            if not alone:
                raise self.refuse(
                    "have a score only by itself, not inside a path or below W_U", dot
                )
            self.expect("QK")
            return _Score(layer, head, offset, *self.two(), at)
        if self.peek.text != "(":
            return _Head(layer, head, offset, _Leaf("embed", at), at)
        self.expect("(")
        child = self.path()
        self.expect(")")
        return _Head(layer, head, offset, child, at)

    def offset(self) -> int:
        self.expect("[")
        token = self.take()
        if not re.fullmatch(r"0|[-−]\d+", token.text):
            raise self.refuse("have an offset 0, -1, -2, … (key position − query position)", token)
        self.expect("]")
        return int(token.text.replace("−", "-"))

    def two(self) -> tuple[_Node, _Node]:
        self.expect("(")
        left = self.path()
        self.expect(",")
        right = self.path()
        self.expect(")")
        return left, right

    @property
    def peek(self) -> _Token:
        return self.tokens[self.n]

    def take(self) -> _Token:
        token = self.peek
        self.n = min(self.n + 1, len(self.tokens) - 1)
        return token

    def expect(self, text: str) -> None:
        token = self.take()
        if token.text != text:
            raise self.refuse(f"have {text!r}", token)

    def refuse(self, must: str, token: _Token) -> ArgumentError:
        got = repr(token.text) if token.text else "the end"
        return ArgumentError(_who(self.expr), must=f"{must} at character {token.at + 1}", got=got)


def _tokens(expr: str) -> list[_Token]:
    if not isinstance(expr, str):
        raise ArgumentError(
            "a path", must='be a text like "W_U mlp0(embed, L0H3)"', got=type(expr).__name__
        )
    found, at = [], 0
    while expr[at:].strip():
        token = TOKEN.match(expr, at)
        if token is None:
            at += len(expr[at:]) - len(expr[at:].lstrip())
            must = f"be made of names, numbers and ( ) [ ] , . at character {at + 1}"
            raise ArgumentError(_who(expr), must=must, got=repr(expr[at]))
        found.append(_Token(token[1], token.start(1)))
        at = token.end()
    return [*found, _Token("", len(expr.rstrip()))]


def _who(expr: str) -> str:
    return f"the path {expr!r}"


# From nodes to forms.


class _Path(NamedTuple):
    """A path's form: a Factored leaf × residual, or a CP with out = residual; and where its last part stands (−1: a leaf,
    None: the residual space, which stands anywhere)."""

    form: Factored | CP
    part: int | None


class _Circuits:
    """The forms of one model's paths."""

    def __init__(self, model: Expandable, expr: str) -> None:
        self.wiring, self.expr = model.wiring(), expr
        require_weights(self.wiring, ())
        require_ends(model, self.wiring)
        self.leaves = {name: weights.double() for name, weights in model.leaf_weights().items()}
        self.parts = {part.name: n for n, part in enumerate(self.wiring.parts)}

    def form(self, node: _Node | _Readout | _Score) -> CP | Factored:
        match node:
            case _Score():
                return self.score(node)
            case _Readout():
                path = self.path(node.child)
                self.require_before(path, len(self.wiring.parts), READOUT, node.at)
                found = _onwards(
                    path.form, self.wiring.norm.transposed(self.wiring.readout.double()).mT
                )
            case _:
                found = self.path(node).form
        return found.T if isinstance(found, Factored) else found

    def path(self, node: _Node) -> _Path:
        match node:
            case _Leaf():
                return self.leaf(node)
            case _Head():
                n, _, weights = self.head(node)
                child = self.path(node.child)
                self.require_before(child, n, f"L{node.layer}H{node.head}", node.at)
                return _Path(_onwards(child.form, weights.ov), n)
            case _Layer():
                return self.layer(node)
        raise AssertionError(node)

    def leaf(self, node: _Leaf) -> _Path:
        identity = torch.eye(self.wiring.readout.shape[1]).to(
            self.wiring.readout.device, torch.float64
        )
        if node.name == RESIDUAL:
            return _Path(Factored(identity, identity), None)
        if node.name not in self.leaves:
            known = ", ".join([*self.leaves, RESIDUAL])
            must = f"start from one of {known} at character {node.at + 1}"
            raise ArgumentError(_who(self.expr), must=must, got=repr(node.name))
        return _Path(Factored(self.leaves[node.name], identity), -1)

    def head(self, node: _Head | _Score) -> tuple[int, Heads, Weights]:
        try:
            n, part = attention_part(self.wiring, node.layer, node.head)
        except ArgumentError as error:
            must = f"name a head of the model at character {node.at + 1}: its {error.who} must {error.must}"
            raise ArgumentError(
                _who(self.expr), must=must, got=f"L{node.layer}H{node.head}"
            ) from None
        require_offset(node.offset)
        require_weights(self.wiring, [part])
        return n, part, Weights(*(matrix.double() for matrix in head_weights(part, node.head)))

    def layer(self, node: _Layer) -> _Path:
        name = f"mlp{node.layer}"
        n = self.parts.get(name)
        if n is None:
            known = (
                ", ".join(part.name for part in self.wiring.parts if isinstance(part, Layer))
                or "none"
            )
            must = f"name a layer of the model ({known}) at character {node.at + 1}"
            raise ArgumentError(_who(self.expr), must=must, got=name)
        left, right = self.path(node.left), self.path(node.right)
        for path in (left, right):
            self.require_before(path, n, name, node.at)
            if isinstance(path.form, CP):
                raise self.too_high(f"a bilinear layer inside {name}, of degree 3 or more")
        part = self.wiring.parts[n]
        assert isinstance(part, Layer)
        require_weights(self.wiring, [part])
        tensor = quadratic(part)
        if tensor is None:
            todo = (
                f"Start from x after it, or expand() an input: {name} is then a source of its own."
            )
            raise NotExactError(
                _who(self.expr), must="go through bilinear layers", got=f"{name}, opaque", todo=todo
            )
        return _Path(_fed(tensor, left.form, right.form, _same(node.left, node.right)), n)

    def score(self, node: _Score) -> CP | Factored:
        n, part, weights = self.head(node)
        query, key = self.path(node.query), self.path(node.key)
        for path in (query, key):
            self.require_before(path, n, f"L{node.layer}H{node.head}", node.at)
        if isinstance(query.form, Factored) and isinstance(key.form, Factored):
            queries, keys = (
                query.form.a @ (query.form.b @ weights.w_q),
                key.form.a @ (key.form.b @ weights.w_k),
            )
            return score_form(part, queries, keys, node.offset)
        qk = score_form(part, weights.w_q, weights.w_k, node.offset)
        one, other = (query, key) if isinstance(query.form, CP) else (key, query)
        if isinstance(other.form, CP):
            raise self.too_high("a bilinear layer at the query and one at the key, of degree 4")
        return _onwards(_onwards(one.form, qk if one is query else qk.T), other.form.T)

    def require_before(self, path: _Path, reader: int, name: str, at: int) -> None:
        """Refuse a part that reads what is written after it, or what it does not read."""
        if path.part is None or (
            path.part < reader and (self.wiring.accumulates or path.part == reader - 1)
        ):
            return
        written = "the first writes" if path.part < 0 else self.wiring.parts[path.part].name
        must = f"let {name} at character {at + 1} read what it reads in the model"
        raise ArgumentError(
            _who(self.expr), must=must, got=written, todo="A part reads earlier parts only."
        )

    def too_high(self, got: str) -> NotExactError:
        todo = "Put x in place of one layer and read the two forms in turn, or expand() an input."
        return NotExactError(
            _who(self.expr), must="hold one bilinear layer (order three)", got=got, todo=todo
        )


def quadratic(part: Layer) -> CP | None:
    """A layer's quadratic part over the stream, in float64, its norm's weights and centring
    included; None where opaque.
    """
    tensor = part.tensor()
    if tensor is None:
        return None
    tensor = tensor.to(torch.float64)
    tensor = tensor.quadratic()  # without what biases give
    return CP(tensor.out, part.norm.transposed(tensor.left), part.norm.transposed(tensor.right))


def _onwards(form: Factored | CP, then: Tensor | Factored) -> Factored | CP:
    """What is written, read by ``then`` (x ↦ x @ then)."""
    if isinstance(form, Factored):
        return form @ then  # type: ignore[return-value]
    return CP(
        (form.out.mT @ then.a @ then.b if isinstance(then, Factored) else form.out.mT @ then).mT,
        form.left,
        form.right,
    )


def _fed(tensor: CP, left: Factored | CP, right: Factored | CP, same: bool) -> CP:
    """The layer on two paths, both orders: 2 S(left, right); S where they are one."""
    assert isinstance(left, Factored)
    assert isinstance(right, Factored)
    one, two = ((left.a @ (left.b @ side.mT)).mT for side in (tensor.left, tensor.right))
    three, four = ((right.a @ (right.b @ side.mT)).mT for side in (tensor.left, tensor.right))
    both = CP(
        torch.cat([tensor.out, tensor.out], 1), torch.cat([one, two]), torch.cat([four, three])
    )
    return both * 0.5 if same else both

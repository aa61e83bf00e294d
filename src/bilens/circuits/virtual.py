"""Circuits from the weights alone: a path, written out, as a matrix or a third-order tensor over
what it starts from. Paths are those of ``circuits.paths``, with no position in them.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, Factored
from bilens.base.errors import ArgumentError, NotExactError
from bilens.base.numerics import is_whole
from bilens.circuits.heads import head_weights, score_form
from bilens.circuits.paths import (
    NOWHERE,
    READOUT,
    STREAM,
    Apply,
    Node,
    One,
    Score,
    Stream,
    Write,
    parse,
    text,
    walk,
    who,
)
from bilens.circuits.understood import require_ends, require_weights
from bilens.wiring import (
    Expandable,
    Form,
    Heads,
    explained,
    explains,
    quadratic,
    require_expandable,
)

Row = int | Tensor  # of a leaf: its number, or (leaf,) weights of all


@dataclass(frozen=True, eq=False)
class HeadCircuit:
    """What a head without softmax writes where its key stands at one offset from its query, from
    the weights alone: of order six, and never made,

        scale · score¹[q1, k1] · score²[q2, k2] · values[out, v]

    ``scores``: rows the leaf of the query, columns that of the key, RoPE's turns included.
    ``values``: rows what is written, columns the leaf of the values. A leg in ``paired`` reads a
    bilinear layer, so that its score, or the values, are of order three: out what is on the other
    side, left and right the leaves of that layer's two inputs.

    >>> sizes = dict(vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    >>> config = bilens.TransformerConfig(**sizes, attention="bilinear", norm="none")
    >>> model, legs = bilens.Transformer(config), "q1: embed, k1: embed, q2: embed, k2: embed"
    >>> found = bilens.circuits.virtual(model, f"W_U L0H1[-1]({legs}, v: embed)")
    >>> found(q1=3, k1=1, q2=3, k2=1, v=1).shape  # token 1, read from the position after it, at 3
    torch.Size([9])
    """

    names: tuple[str, ...]
    scores: tuple[Factored | CP, ...]
    values: Factored | CP
    scale: float
    paired: tuple[str, ...] = ()

    def __call__(self, **on: Row | tuple[Row, Row]) -> Float[Tensor, " out"]:
        """What is written where each leg, by name, has one of its leaf's rows (a token) or a vector
        over them; one that reads a bilinear layer two of them, one for each input. O(leaf d_head),
        and O(leaf h) for such a leg. Errors: ArgumentError unless every leg has what it reads, a
        row that its leaf has or numbers for all of them.
        """
        if set(on) != set(self.names):
            must, got = f"give each of {', '.join(self.names)}", ", ".join(on) or "none"
            raise ArgumentError("legs", must=must, got=got)
        for name, rows in on.items():
            if isinstance(rows, tuple) != (name in self.paired):
                must = "have two rows" if name in self.paired else "have one row"
                raise ArgumentError(name, must=must, got=repr(rows))
        said = [on[name] for name in self.names]
        scores = zip(self.scores, said[0:-1:2], said[1::2], strict=True)
        made = math.prod((_score(*one) for one in scores), start=self.scale)
        return made * _written(self.values, said[-1])


@explains
def virtual(model: Expandable, expr: str) -> CP | Factored | HeadCircuit:
    """The circuit ``expr`` of a model as an exact form, from its weights alone. No input is fixed,
    no big array is made.

    ``embed``              W_E, over the vocabulary (``pos``: learned positions; ``x``: the
                           residual space as it is)
    ``L0H3(path)``         a head's W_V W_O on a path; ``L0H3`` alone reads embed; ``L1H0(L0H3)``
                           is a virtual head; ``L1H0.first(path)`` moves values of the first layer
    ``mlp0(path, path)``   a bilinear layer on two paths: order three
    ``W_U path``           on to the outputs, in front
    ``L1H2[-1].QK(q, k)``  the head's score between what path q gives at the query and path k at
                           the key, RoPE's turn for key position − query position = −1 included,
                           and d_head^-½. Of a head with two scores ``.QK1`` or ``.QK2``, without
                           a scale, which is their product's. Elsewhere an offset says at which
                           distance a head looks, which leaves W_V W_O as it is.

    ``L0H1[-1](q1: path, k1: path, q2: path, k2: path, v: path)``   a head without softmax by all
                           its legs; its single path alone is of its values, scores given

    Returns, for a path of degree 1, a ``Factored``: rows what is written (outputs, or the residual
    stream), columns the leaf; a score's rows are the query's leaf, its columns the key's. With a
    bilinear layer, a ``CP``: out what is written (of a score: the other path's leaf), left and
    right the leaves of the layer's two inputs. For a head by its legs, a ``HeadCircuit``.

    mlp0(a, b) of two different paths holds both orders: T(x, y) = 2 S(a x, b y), the value of that
    one term of ``expand``. mlp0(a, a) is S(a x, a y), symmetric: T(x, x) is the term of one input,
    2 T(x, y) that of the same path started twice. A term of ``expand`` is this form's entry times
    what it was given: its patterns, and a norm's scale for each thing read.

    Weights and centring of norms are included and their scales left at 1. Biases are left out:
    these are paths without "1". In float64, in which products of low rank stay so
    (``top_entries`` lives on it). Gradients flow. Cost O(vocab d h) for the layer, O(vocab d
    d_head) for a head; memory that of the factors.

    Errors: ArgumentError where the expression does not read, saying at which character; for a part
    that the model does not have, that reads what is written after it, or that does not do what its
    weights say. NotExactError for a layer that is no tensor by its weights alone, and for two
    bilinear layers in one expression: its order would be four or more, which is no CP over two
    inputs.
    Source: Elhage et al. 2021 (virtual heads); Sharkey, arXiv:2305.03452, section 3.

    >>> rules = bilens.circuits.virtual(model, "W_U mlp0(embed, L0H3)")
    >>> rules.shape  # which two tokens write which token
    (1024, 1024, 1024)
    """
    require_expandable(model)
    node = parse(expr)
    if any(getattr(one, "t", NOWHERE) != NOWHERE for one in walk(node)):
        todo = "L0H1[-1] says at which distance a head looks."
        must = "hold no position: no input is fixed"
        raise ArgumentError(who(expr), must=must, got=repr(expr), todo=todo)
    return _Circuits(explained(model), expr).form(node)


def entries_of(model: Expandable, expr: str) -> CP | Factored:
    """A circuit that has entries to rank: a matrix, or a tensor of order three. Errors:
    NotExactError for a head by all its legs.
    """
    form = virtual(model, expr)
    if isinstance(form, HeadCircuit):
        must, todo = "be of order two or three", "Ask for its scores and values one by one."
        raise NotExactError(who(expr), must=must, got="a head by all its legs", todo=todo)
    return form


class _Path(NamedTuple):
    """A path's form: a Factored leaf × residual, or a CP with out = residual; and where its last
    part stands (−1: a leaf, None: the residual space, which stands anywhere).
    """

    form: Factored | CP
    part: int | None


class _Circuits:
    """The forms of one model's paths."""

    def __init__(self, model: Expandable, expr: str) -> None:
        self.wiring, self.expr = model.wiring(), expr
        require_weights(self.wiring, ())
        require_ends(model, self.wiring)
        self.leaves = {name: weights.double() for name, weights in model.leaf_weights().items()}
        self.sources: dict[str, tuple[int, Form]] = {}
        for n, part in enumerate(self.wiring.parts):
            self.sources |= {name: (n, form) for name, form in part.forms().items()}

    def form(self, node: Node) -> CP | Factored | HeadCircuit:
        match node:
            case Score():
                return self.score(node)
            case Apply(legs=legs) if legs:
                return self.head(node, None)
            case Apply(source, _, (Apply(legs=legs) as child,)) if source == READOUT and legs:
                return self.head(
                    child, self.wiring.norm.transposed(self.wiring.readout.double()).mT
                )
            case Apply(source, _, (child,)) if source == READOUT:
                path = self.path(child)
                self.require_before(path, len(self.wiring.parts), READOUT)
                readout = self.wiring.norm.transposed(self.wiring.readout.double())
                made = _onwards(path.form, readout.mT)
            case _:
                made = self.path(node).form
        return made.T if isinstance(made, Factored) else made

    def path(self, node: Node) -> _Path:
        match node:
            case Stream():
                return _Path(Factored(self.identity, self.identity), None)
            case Write(source) if source in self.leaves:
                return _Path(Factored(self.leaves[source], self.identity), -1)
            case Write(source):
                return self.apply(Apply(source, NOWHERE, (Write("embed"),)))
            case Apply():
                return self.apply(node)
        raise self.refuse(
            "be made of what is read", "the constant" if node == One() else text(node)
        )

    @property
    def identity(self) -> Tensor:
        readout = self.wiring.readout
        return torch.eye(readout.shape[1], device="cpu").to(readout.device, torch.float64)

    def apply(self, node: Apply) -> _Path:
        n, form = self.weights(node.source)
        sites = [self.wiring.reader(n, leg) for leg in form.legs]
        if len(node.inputs) != form.degree:
            reads = ", ".join(["path"] * form.degree)
            raise self.refuse(f"say what is read, {node.source}({reads})", text(node))
        if form.degree > 2:
            raise self.too_high(f"{node.source}, of degree {form.degree}")
        paths = [self.path(child) for child in node.inputs]
        for path, site in zip(paths, sites, strict=True):
            self.require_before(path, site, node.source)
            if form.degree == 2 and isinstance(path.form, CP):
                raise self.too_high(f"a bilinear layer inside {node.source}, of degree 3 or more")
        require_weights(self.wiring, [self.wiring.parts[n]])
        if form.degree == 1:
            (leg,) = form.legs
            return _Path(_onwards(paths[0].form, Factored(leg.weight.mT, form.out.mT)), n)
        same = node.inputs[0] == node.inputs[1]
        return _Path(_fed(quadratic(form), paths[0].form, paths[1].form, same), n)

    def weights(self, source: str) -> tuple[int, Form]:
        """The part that has a source, and its form over the stream."""
        if source not in self.sources:
            self.require_known(source)
        n, form = self.sources[source]
        return n, self.wiring.over_stream(n, form.double())

    def require_known(self, source: str) -> None:
        if source in {*(part.name for part in self.wiring.parts), *self.wiring.layers}:
            todo = f"Start from x after it, or expand() an input, given {source}'s gates there."
            got = f"{source}, which weights alone do not make a tensor"
            must = "go through bilinear layers"
            raise NotExactError(who(self.expr), must=must, got=got, todo=todo)
        known = ", ".join([*self.leaves, STREAM, *self.sources])
        raise self.refuse(f"be made of what the model has ({known})", source)

    def head(self, node: Apply, then: Tensor | None) -> HeadCircuit:
        """A head by all its legs, and what reads it."""
        n, _ = self.weights(node.source)
        heads = self.wiring.parts[n].attention
        if heads is None or heads.module.kind == "softmax":
            raise self.refuse("have legs where a head goes without softmax", node.source)
        names = (*(leg.lower() for leg in heads.legs[:-1]), "v")
        if node.legs != names:
            raise self.refuse(f"name the legs {', '.join(names)}", ", ".join(node.legs))
        offset = node.at[0] if node.at else 0
        pairs = zip(node.inputs[0:-1:2], node.inputs[1::2], strict=True)
        scores = [
            self.score(Score(node.source, query, key, offset, number))
            for number, (query, key) in enumerate(pairs, 1)
        ]
        values = self.apply(Apply(node.source, NOWHERE, node.inputs[-1:])).form
        values = values if then is None else _onwards(values, then)
        values = values.T if isinstance(values, Factored) else values
        reads = zip(names, node.inputs, strict=True)
        paired = tuple(name for name, child in reads if isinstance(self.path(child).form, CP))
        return HeadCircuit(names, tuple(scores), values, heads.module.scale, paired)

    def score(self, node: Score) -> CP | Factored:
        n, _ = self.weights(node.source)
        heads = self.wiring.parts[n].attention
        if heads is None:
            raise self.refuse("ask a head for a score", node.source)
        require_weights(self.wiring, [heads])
        weights = head_weights(heads, heads.head(node.source), self.number(heads, node))
        w_q, w_k = weights.w_q.double(), weights.w_k.double()
        query, key = self.path(node.query), self.path(node.key)
        for path in (query, key):
            self.require_before(path, n, node.source)
        if isinstance(query.form, Factored) and isinstance(key.form, Factored):
            queries = query.form.a @ (query.form.b @ w_q)
            keys = key.form.a @ (key.form.b @ w_k)
            return score_form(heads, queries, keys, node.offset)
        return self.quadratic_score(heads, w_q, w_k, query, key, node.offset)

    def number(self, heads: Heads, node: Score) -> int:
        """Which of the head's scores is asked for."""
        count = len(heads.module.score_projections)
        if not node.number and len(set(heads.module.score_projections)) > 1:
            raise self.refuse(f"say which score of {node.source}, QK1 or QK2", "QK")
        if node.number > count:
            raise self.refuse(f"ask {node.source} for a score that it has", f"QK{node.number}")
        return node.number or 1

    def quadratic_score(
        self, heads: Heads, w_q: Tensor, w_k: Tensor, query: _Path, key: _Path, offset: int
    ) -> CP | Factored:
        """A score with a bilinear layer on one side."""
        qk = score_form(heads, w_q, w_k, offset)
        one, other = (query, key) if isinstance(query.form, CP) else (key, query)
        if isinstance(other.form, CP):
            raise self.too_high("a bilinear layer at the query and one at the key, of degree 4")
        return _onwards(_onwards(one.form, qk if one is query else qk.T), other.form.T)

    def require_before(self, path: _Path, reader: int, name: str) -> None:
        """Refuse a part that reads what is written after it, or what it does not read."""
        parts = self.wiring.parts
        follows = path.part is not None and path.part == reader - 1
        beside = parts[reader].beside if reader < len(parts) else 0
        reads = self.wiring.accumulates or follows
        if path.part is None or (path.part < reader - beside and reads):
            return
        written = "the first writes" if path.part < 0 else parts[path.part].name
        todo = "A part reads earlier parts only."
        must = f"let {name} read what it reads in the model"
        raise ArgumentError(who(self.expr), must=must, got=written, todo=todo)

    def refuse(self, must: str, got: str) -> ArgumentError:
        return ArgumentError(who(self.expr), must=must, got=repr(got))

    def too_high(self, got: str) -> NotExactError:
        todo = "Put x in place of one layer and read the two forms in turn, or expand() an input."
        must = "hold one bilinear layer (order three)"
        return NotExactError(who(self.expr), must=must, got=got, todo=todo)


def _rows(of: Float[Tensor, "leaf k"], on: Row) -> Float[Tensor, " k"]:
    """A row, or a sum of rows by their weights. Errors: ArgumentError for what is neither."""
    if isinstance(on, Tensor) and on.shape == of.shape[:1]:
        return on.to(of) @ of
    single = isinstance(on, Tensor) and not on.ndim and not on.is_floating_point()
    row = on.item() if single else on  # type: ignore[union-attr]
    if not is_whole(row) or not 0 <= row < len(of):  # type: ignore[operator]
        got = f"a tensor {tuple(on.shape)}" if isinstance(on, Tensor) and on.ndim else repr(row)
        must = f"be rows 0 … {len(of) - 1}, or tensors of as many weights"
        raise ArgumentError("legs", must=must, got=got)
    return of[int(row)]  # type: ignore[arg-type]


def _pair(tensor: CP, on: tuple[Row, Row]) -> Float[Tensor, " h"]:
    """What the hidden units of a layer make of its two inputs."""
    left, right = on
    return _rows(tensor.left.mT, left) * _rows(tensor.right.mT, right)


def _score(form: Factored | CP, query: Any, key: Any) -> Float[Tensor, ""]:
    """A score of what its legs read: a pair on the side of a layer."""
    if isinstance(form, Factored):
        return _rows(form.a, query) @ _rows(form.b.mT, key)
    pair, row = (query, key) if isinstance(query, tuple) else (key, query)
    return _rows(form.out, row) @ _pair(form, pair)


def _written(values: Factored | CP, on: Any) -> Float[Tensor, " out"]:
    """What the values write of what their leg reads."""
    if isinstance(values, Factored):
        return values.a @ _rows(values.b.mT, on)
    return values.out @ _pair(values, on)


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

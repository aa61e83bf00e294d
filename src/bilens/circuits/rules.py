"""The strongest rules of a model, from its weights alone: which tokens write which next one, or
where a head looks.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from bilens.algebra import CP, Factored
from bilens.base.charts import ranked
from bilens.base.errors import ArgumentError
from bilens.base.results import Result
from bilens.circuits.heads import attentions
from bilens.circuits.paths import (
    READOUT,
    STREAM,
    Apply,
    Node,
    Score,
    Stream,
    Write,
    children,
    parse,
)
from bilens.circuits.virtual import entries_of
from bilens.decompose import TopEntries, top_entries
from bilens.wiring import EMBEDDING, Expandable, Wiring, explains, require_expandable

DIRECT = "W_U {}"  # the path that every other is held against


@dataclass(frozen=True, repr=False, eq=False)
class Rules(Result):
    """The largest entries of a path from the weights, both orders of a pair of tokens summed,
    largest first.

    Fields: the ``path``; its ``entries``, with their certificate; what each of their modes is
    called (``columns_of``); ``scale``: the root mean square over all entries of that kind;
    ``direct``: the largest |entry| of the direct path from token to token, W_U embed, where the
    path ends in outputs; else None. Norms' scales are left at 1 in both.

    Columns of ``to_frame()``: "token" and "and token" (of a head "token" alone; of a score "query"
    and "key"), with "→ next" (or "→ written", a dimension of the stream); "value": what the pair
    adds, both orders summed; "× RMS": that over ``scale``; a Gaussian tensor's entries would reach
    5 or 6 of them.
    """

    path: str
    entries: TopEntries
    columns_of: tuple[str, ...]
    scale: float
    direct: float | None

    def summary(self) -> str:
        told = f"{self.path}: {self.entries.summary()}; RMS {self.scale:.3g}"
        return told if self.direct is None else f"{told}, largest direct {self.direct:.3g}"

    def columns(self) -> tuple[str, ...]:
        return (*self._order, "value", "× RMS")

    def rows(self) -> list[dict[str, Any]]:
        modes, measured = self.entries.modes, self.entries.measured
        called = dict(zip(self.columns_of, modes, strict=True))
        return [
            {name: row[called[name]] for name in self._order}
            | {"value": row[measured], "× RMS": row[measured] / (self.scale or 1.0)}
            for row in self.entries.rows()
        ]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()
        labels = [_written(tuple(str(row[name]) for name in self._order)) for row in rows]
        values = [row["value"] for row in rows]
        hover = {"× RMS": [row["× RMS"] for row in rows]}
        axis = "value, both orders summed" if self.entries.symmetric else "value"
        return ranked(labels, values, f"{axis}; RMS {self.scale:.3g}", self.path, hover=hover)

    @property
    def _order(self) -> tuple[str, ...]:
        """What is read before what is written; a query before its key."""
        first, *others = self.columns_of
        return (*others, first) if first.startswith("→") else self.columns_of


def _written(names: tuple[str, ...]) -> str:
    *read, last = names
    return f"{', '.join(read)} → {last}"


@explains
@torch.no_grad()
def rules(model: Expandable, path: str = "", k: int = 20) -> Rules:
    """The ``k`` largest entries of ``path`` (see ``virtual``), exactly, beside the root mean square
    of all: which two tokens write which next one.

    ``path``: by default "W_U mlp0(embed, embed)", of the first bilinear layer; of a model without
    one "W_U L0H0(embed)", of its first head. For a head "W_U L0H3(embed)" is what it writes of each
    token where it looks, and "L0H3[-1].QK(embed, embed)" where it looks, one position back
    (``head_paths`` lists both).

    Cost and errors: those of ``virtual`` and ``top_entries``; NotExactError where the layer is no
    tensor.

    >>> found = bilens.circuits.rules(bilens.load("tinystories-1l"))  # of the whole model
    """
    require_expandable(model)
    wiring = model.wiring()
    embed = next((leaf.name for leaf in wiring.leaves if leaf.kind == EMBEDDING), STREAM)
    if isinstance(path, str) and not path:
        path = f"{READOUT} {_first(wiring, embed)}"
    node = parse(path)
    form = entries_of(model, path)
    modes = _leaves(node, embed)
    if not isinstance(node, Score):  # which writes nothing
        modes = [READOUT if _is_readout(node) else STREAM, *modes]
    words = tuple(model.output_names(range(len(wiring.readout))))
    sizes = zip(_kinds(form), modes, form.shape, strict=True)
    named = {
        kind: words
        for kind, mode, size in sizes
        if mode in (READOUT, embed) and size == len(words) and mode != STREAM
    }
    entries = top_entries(form, k, names=named)
    orders = 2 if entries.symmetric else 1
    scale = orders * float(form.norm()) / math.sqrt(math.prod(form.shape))
    direct = None
    if _is_readout(node) and embed != STREAM:
        direct = float(top_entries(entries_of(model, DIRECT.format(embed)), 1).values.abs())
    return Rules(path, entries, _called(node, form), scale, direct)


def require_path(path: str) -> None:
    """Raise ArgumentError unless ``path`` reads, saying at which character: asked before a model is
    there.
    """
    parse(path)


def head_paths(model: Expandable, head: str) -> tuple[str, ...]:
    """The paths of the skip rules of a head, over tokens: what it writes of each where it looks (by
    values of the first layer too, where they are mixed in), and each of its scores, the key one
    position back. Errors: ArgumentError for no head of ``model``.

    >>> bilens.circuits.head_paths(model, "L0H3")
    ('W_U L0H3(embed)', 'L0H3[-1].QK(embed, embed)')
    """
    require_expandable(model)
    layers = {name: heads for _, heads in attentions(model.wiring()) for name in heads.heads}
    if head not in layers:
        must = f"be one of the model's, {', '.join(layers)}"
        raise ArgumentError("a head", must=must, got=repr(head))
    scores = dict.fromkeys(layers[head].module.score_projections)
    numbers = range(1, len(scores) + 1) if len(scores) > 1 else [""]
    number = layers[head].head(head)
    moved = (f"W_U {values.sources[number]}(embed)" for values in layers[head].values)
    return *moved, *(f"{head}[-1].QK{n}(embed, embed)" for n in numbers)


def _first(wiring: Wiring, embed: str) -> str:
    """The first bilinear layer on what it starts from, or the first head where there is none."""
    layers = [part for part in wiring.parts if not part.looks]
    tensors = [part.name for part in layers if part.name in part.forms()]
    heads = [head for part in wiring.parts if part.attention for head in part.attention.heads]
    if heads and not tensors:
        return f"{heads[0]}({embed})"
    layer = next(iter(tensors or [part.name for part in layers]), "mlp0")
    return f"{layer}({embed}, {embed})"


def _is_readout(node: Node) -> bool:
    return isinstance(node, Apply) and node.source == READOUT


def _leaves(node: Node, embed: str) -> list[str]:
    """What a path starts from, in the order of its form's modes."""
    if isinstance(node, Score):
        query, key = _leaves(node.query, embed), _leaves(node.key, embed)
        return [*key, *query] if len(query) > len(key) else [*query, *key]
    if isinstance(node, Stream):
        return [STREAM]
    if isinstance(node, Write):
        return [node.source if node.source == "pos" else embed]
    return [leaf for child in children(node) for leaf in _leaves(child, embed)]


def _kinds(form: CP | Factored) -> tuple[str, ...]:
    return ("out", "left", "right") if isinstance(form, CP) else ("row", "column")


def _called(node: Node, form: CP | Factored) -> tuple[str, ...]:
    """What the modes are called, in their order."""
    if isinstance(node, Score):
        if isinstance(form, Factored):
            return "query", "key"
        of_query = len(_leaves(node.query, "")) > 1
        return ("key", "query", "and query") if of_query else ("query", "key", "and key")
    written = "→ next" if _is_readout(node) else "→ written"
    return (written, "token", "and token") if isinstance(form, CP) else (written, "token")

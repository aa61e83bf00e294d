"""Every path of an output, the largest first: exact at every level of detail."""

import functools
import heapq
import itertools
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import torch

from bilens.base.errors import ArgumentError
from bilens.base.garbage import uncollected
from bilens.base.keys import OneOf, require
from bilens.base.numerics import is_whole
from bilens.circuits import paths
from bilens.circuits.engine import Engine
from bilens.circuits.expansion import Expansion, Term, Units
from bilens.circuits.paths import Apply, Latent, Node, One, Write
from bilens.circuits.recording import Recording, record
from bilens.circuits.replacements import Replacement
from bilens.circuits.targets import Goal, Target, resolve
from bilens.circuits.understood import require_sum
from bilens.wiring import BIAS, EMBEDDING, POSITION, Expandable, Sparse, explains

Detail = Literal["writes", "pairs", "paths"]
MISFITS = 32  # paths found too many to take apart, before the search is given up


@explains
@torch.no_grad()
def expand(
    model: Expandable,
    inputs: Any,
    target: Target = None,
    position: int = -1,
    *,
    detail: Detail = "paths",
    max_terms: int | None = 1000,
    cutoff: float | int = 1e-4,
    dictionaries: Mapping[str, Sparse] | None = None,
    replacements: Mapping[str, Replacement] | None = None,
    given: str | None = None,
) -> Expansion:
    """``target`` at ``position`` of one input as a sum of paths, exact at every step: Σ terms +
    remainder = forward.

    >>> ex = bilens.expand(model, prompt, (" girl", " boy"))
    >>> ex.terms[0].path
    'mlp0(embed, embed)'
    >>> round(ex.terms[0].value, 3), round(ex.forward, 3)
    (0.244, 0.611)

    ``inputs``: a text, token ids (t,), an image, or what ``circuits.record`` made of one.
    ``target``: an output by name or number (a token, a class), a pair of them (the one less the
    other), weights by output, a direction over all outputs (out,), ``circuits.At``: a direction
    inside the model, or None: the largest output.
    ``detail``:
        "writes"   by residual write: direct logit attribution
        "pairs"    one step further: layers by pairs of what they read, heads by source position and
                   source
        "paths"    all the way to embeddings and biases, the largest first, until there are
                   ``max_terms``; the residual writes are always there
    A path smaller than ``cutoff`` times Σ |residual write| is not kept but counted in the
    remainder. One whose parts would make more than ``max_terms`` stays whole (None: no limit; the
    number of paths doubles its exponent with each layer).

    ``dictionaries`` by place ("mlp1.input" or "layers.1.mlp.input"): what such a layer reads comes
    apart into the latents active there, the dictionary's base and its error, instead of into what
    the stream is a sum of: ``mlp1(f17, f305)``,
    ``mlp1(f17, error)``. These are ends; they add up to what is read, so the sum stays exact. A
    latent's own pre-activation, less its offset, is the target ``At(dictionary.reads[f], place)``.

    ``replacements`` by layer ("mlp0"): the layer comes apart as what stands for it, beside a source
    of its own for what that misses, ``mlp0.error``, so that the sum stays exact. Its nearest tensor
    (what ``bilens.approximate`` gave), a CP or a bilinear layer is quadratic with no gates given.
    Of a transcoder each latent that is active is a source ``mlp0.f17``, linear in what the layer
    reads given that it is active, beside ``mlp0.skip`` and ``mlp0.base``.

    Attention patterns, norm scales and the gates of layers that are no tensor are those of this
    pass: each term says which of them it holds fixed (``given``). A gated layer is then quadratic,
    D [s ⊙ (G x) ⊙ (U x)] with s = act(a) / a at a = G x, and a plain one linear, D [s ⊙ (U x)]. Of
    a mixture of experts each is a source ("mlp0.expert3"), times the router's weight, where tokens
    are routed to it; elsewhere it is on no path.

    Heads whose scores go through no softmax hold nothing fixed: a path through one says what each
    of its five legs reads, L1H0@3→5(q1: embed, k1: embed, q2: mlp0, k2: embed, v: embed): queries
    at 5, keys and values at 3. ``given`` holds scores of such heads as this pass has them, which
    makes paths fewer: "scores" (a path then goes through the values alone, as a softmax's), "first
    score" or "second score" (three legs).

    A head that mixes in values of the first layer is two sources by one pattern: L1H0 moves its own
    values, and L1H0.first those of what the first layer reads, through that layer's norm.

    Cost: a forward pass in parts, then O(h d + h n²) for each layer taken apart with n sources and
    O(n t d) for each head. Errors: ArgumentError for inputs, target, position, numbers or
    dictionaries that cannot be. Source: Elhage et al. 2021 for attention-only models; Sharkey,
    arXiv:2305.03452, section 3 for bilinear layers.
    """
    require("detail", detail, OneOf(get_args(Detail)), ArgumentError)
    if max_terms is not None and (not is_whole(max_terms) or max_terms < 1):
        raise ArgumentError("max_terms", must="be at least 1, or None", got=max_terms)
    if not isinstance(cutoff, Real) or isinstance(cutoff, bool) or not 0 <= cutoff < 1:
        raise ArgumentError(
            "cutoff", must="be in [0, 1), relative to the sum of all |residual writes|", got=cutoff
        )
    recording = record(model, inputs, dictionaries, replacements, given)
    goal = resolve(model, recording, target, position)
    search = _Search(recording, goal, max_terms, cutoff)
    with uncollected():
        if detail != "writes":
            search.deepen(once=detail == "pairs")
        return search.result()


class _Search:
    """Best-first: the largest path that comes apart is taken apart next."""

    def __init__(
        self, recording: Recording, goal: Goal, max_terms: int | None, cutoff: float | int
    ) -> None:
        self.recording, self.goal, self.engine = recording, goal, Engine(recording)
        self.ends = frozenset(
            source.name
            for source in recording.sources
            if source.kind in (EMBEDDING, POSITION, BIAS)
        )
        self.held = functools.cache(recording.scale_held)
        self.fixed = functools.cache(lambda name, *at: recording.products[name].fixed(*at))
        self.embeddings = frozenset(
            source.name for source in recording.sources if source.kind == EMBEDDING
        )
        self.remainder, self.left_out = 0.0, 0
        self.closed: list[tuple[float, Node]] = []
        self.open: list[tuple[float, int, float, Node]] = []
        self.count = itertools.count()
        values = [float(goal.q @ self.engine.vector(root)) for root in goal.roots]
        size = sum(map(abs, values)) + abs(goal.constant)
        require_sum(sum(values) + goal.constant, goal.forward, size, recording.writes.dtype)
        self.floor = cutoff * size
        self.limit = max_terms
        self.writes = {"bias": goal.constant} if goal.constant else {}
        self.units: list[Units] = []
        for value, root in zip(values, goal.roots, strict=True):
            self.whole(value, root)
        if goal.constant:
            self.closed.append((goal.constant, One()))
        for value, root in zip(values, goal.roots, strict=True):
            if abs(value) >= self.floor:
                self.push(value, root)
            else:
                self.remainder, self.left_out = self.remainder + value, self.left_out + 1

    def whole(self, value: float, root: Node) -> None:
        """Keep what a source writes to the target, and a layer's by hidden unit."""
        if isinstance(root, Write):
            self.writes[root.source] = value
            product = self.recording.products.get(root.source)
            if product is not None and not product.looks:
                values = self.engine.by_unit(root, self.goal.q)
                sides = self.engine.sides(product, root.t)
                self.units.append(Units(root.source, values, sides))

    def push(self, value: float, tree: Node) -> None:
        if self.engine.expandable(tree):
            heapq.heappush(self.open, (-abs(value), next(self.count), value, tree))
        else:
            self.closed.append((value, tree))

    @property
    def room(self) -> int:
        """How many terms there is room for beside those there are."""
        return 2**62 if self.limit is None else self.limit - len(self.closed) - len(self.open)

    def deepen(self, once: bool) -> None:
        """Take paths apart until none is left, or there is no room for what they are made of: then
        they stay whole.
        """
        waiting = self.open
        if once:
            waiting, self.open = self.open, []
        misfits = 0
        while waiting and self.room > 0 and misfits < MISFITS:
            _, _, value, tree = heapq.heappop(waiting)
            room = self.room - (len(waiting) if once else 0)
            found = self.engine.split(tree, self.goal.q, room + 1)
            large = np.flatnonzero(np.abs(found.values) >= self.floor)
            if len(large) > room:
                self.closed.append((value, tree))
                misfits += 1
                continue
            self.remainder += found.rest + float(found.values.sum() - found.values[large].sum())
            self.left_out += found.dropped + len(found.values) - len(large)
            add = self.close if once else self.push
            for value, n in zip(found.values[large].tolist(), large.tolist(), strict=True):
                add(value, found.node(n))
        if once:
            self.open = waiting

    def close(self, value: float, tree: Node) -> None:
        self.closed.append((value, tree))

    def result(self) -> Expansion:
        found = self.closed + [(value, tree) for _, _, value, tree in self.open]
        found.sort(key=lambda item: -abs(item[0]))
        total = float(np.sum([value for value, _ in found])) + self.remainder
        return Expansion(
            target=self.goal.name,
            position=self.goal.position,
            inputs=self.recording.names,
            terms=tuple(self.term(value, tree, total) for value, tree in found),
            remainder=self.remainder,
            forward=self.goal.forward,
            left_out=self.left_out,
            opaque=self.recording.opaque,
            sources=self.recording.sources,
            prompt=self.recording.text,
            as_run=self.goal.as_run,
            writes=(tuple(self.writes), tuple(self.writes.values())),
            units=tuple(self.units),
            unit=self.goal.unit,
        )

    def term(self, value: float, tree: Node, total: float) -> Term:
        record = self.recording
        top = record.source(tree.source).layer if isinstance(tree, Write | Apply) else -1
        nodes = tuple(paths.walk(tree))
        return Term(
            tree=tree,
            value=value,
            share=value / total if total else 0.0,
            layer=top,
            order=paths.order(nodes, self.ends, self.embeddings),
            given=self.given(tree, nodes),
            opaque=any(isinstance(one, Write) and one.source in record.opaque for one in nodes),
        )

    def given(self, tree: Node, nodes: Sequence[Node]) -> tuple[str, ...]:
        """Patterns A, gates and latents along a path, then norm scales σ, by part and position."""
        record, goal = self.recording, self.goal
        fixed: list[str] = []
        at_target = goal.part >= 0 and not isinstance(tree, One)
        read = [(goal.part, goal.position)] if at_target else []
        for node in nodes:
            if isinstance(node, Apply):
                product, stands = record.products[node.source], paths.stands(node)
                fixed += self.fixed(node.source, node.t, stands)
                for leg, (child, s) in enumerate(zip(node.inputs, stands, strict=True)):
                    if not paths.constant(child):
                        read.append((record.site(product, leg), s))
            elif isinstance(node, Latent):
                part = record.source(node.reader).part
                if not (paths.constant(node) and record.replaced[part].constant):
                    fixed.append(f"latents {record.wiring.parts[part].name}.input@{node.t}")
        for part, position in dict.fromkeys(read):
            fixed += self.held(part, position)
        return tuple(dict.fromkeys(fixed))

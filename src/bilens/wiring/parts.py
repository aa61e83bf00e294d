"""The parts of a model, each as a list of writes: what circuits ask, and all that they ask."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens.base.errors import ArgumentError, NotExactError
from bilens.base.numerics import as_given
from bilens.nn import (
    Attention,
    Experts,
    Hidden,
    Leg,
    NoNorm,
    Norm,
    Rescaled,
    Rotary,
    Share,
    causal_mask,
    normalises,
    own_norm,
    rescaled,
)
from bilens.wiring.kinds import (
    AGAIN,
    BIAS,
    BILINEAR,
    FIRST,
    GATED,
    HEAD,
    OPAQUE,
    Constant,
    Form,
    Gate,
    Mix,
    Multilinear,
    Opaque,
    Product,
    Source,
    Write,
)
from bilens.wiring.scored import Scale, Scored

# what may be held as a pass has it of heads whose scores come apart
SCORES, SCORE_NAMES = "scores", ("first score", "second score")


@dataclass(frozen=True, eq=False)
class Part(ABC):
    """A part reads the stream through ``norm``, and ``module`` makes what it writes.

    ``beside``: how many parts just before it write beside it: what they write it does not read.

    A new kind of part says what its writes are (``writes``), what their weights are (``forms``),
    and, where its module is not called with what it reads alone, how it runs.

    >>> [part.name for part in model.wiring().parts]
    ['attn0', 'mlp0', 'attn1', 'mlp1']
    """

    name: str  # "attn0", "mlp0"
    layer: int
    norm: Norm
    module: nn.Module
    beside: int = field(default=0, kw_only=True)

    legs = ("",)  # what reads, where some of it may read without an edge: of heads "Q", "K", "V"
    looks = False  # whether it reads other positions than its own
    batched = False  # whether ``run`` takes several inputs of one length at once, (*b, t, d)
    heard = True  # whether a module hears what it reads, and what it writes
    shares = ""  # the part before it whose reading some of its legs have in place of their own
    shared = None  # what that one read, once it is told by ``sharing``
    multiple = 1.0  # how many times it writes what is heard of it: what ``passes`` gives

    @abstractmethod
    def forms(self) -> dict[str, Form]:
        """The weights of its writes by source, in order. Empty where weights alone do not say what
        it writes: a gated layer's gates are those of a pass. Gradients flow.
        """

    @abstractmethod
    def writes(self, x: Float[Tensor, "t d"]) -> list[Write]:
        """What it writes given that it read ``x``: all of them add up to ``run(x)``."""

    def run(self, x: Float[Tensor, "*b t d"]) -> Float[Tensor, "*b t d"]:
        """Its own forward pass over one input; over several at once where it is ``batched``."""
        return self.module(x)

    def sharing(self, x: Float[Tensor, "*b t d"] | None) -> "Part":
        """The part where the one whose reading it ``shares`` read ``x``."""
        return self

    def passes(self, side: str) -> nn.Module:
        """The module whose input is what it reads, or whose output is what it writes."""
        return self.module

    @property
    def inner(self) -> "Part":
        """What it is before a norm over what it writes: itself where there is none."""
        return self

    def finished(
        self, made: Float[Tensor, "*b t d"], total: Float[Tensor, "*b t d"]
    ) -> Float[Tensor, "*b t d"]:
        """What becomes of ``made`` where ``total`` is all that ``inner`` wrote."""
        return made

    @property
    def experts(self) -> "tuple[Part, ...]":
        """The parts of which it is the sum, each weighed by a router."""
        return ()

    def over(self, change: "Callable[[Part], Part]") -> "Part":
        """What ``change`` makes of it; of its experts, where it has some."""
        return change(self)

    def whole(self, change: "Callable[[Part], Part]") -> "Part":
        """What ``change`` makes of all that is heard of it, a norm over what it writes included."""
        return change(self)

    @property
    def attention(self) -> "Heads | None":
        """Itself, where it has queries and keys."""
        return None

    def holding(self, scores: str) -> "Part":
        """The part with these scores held as a pass has them, of heads whose scores come apart:
        "scores": all, "first score" or "second score".
        """
        return self

    def hidden(self) -> Hidden | None:
        """Its hidden units, where it is an MLP."""
        return None


@dataclass(frozen=True)
class Values:
    """The values that heads move, by the source that writes them: ``share`` of those that
    ``module`` makes of what is read, all where it is None. ``of`` as of a leg.
    """

    sources: tuple[str, ...]
    kind: str
    module: Attention
    share: Float[Tensor, ""] | None = None
    of: str = ""

    def __call__(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b n t d_head"]:
        return self._shared(self.module.values(x))

    def forms(self, heads: Attention) -> Iterator[tuple[str, Form]]:
        """W_V W_O of each of ``heads``, and its bias b_V."""
        module, w_o = self.module, heads.per_head("o_proj")
        w_v = self._shared(module.v_proj.weight.unflatten(0, (module.n_kv, -1)))
        shared = [w_v[head * module.n_kv // module.n_heads] for head in range(module.n_heads)]
        b_v: Sequence[Tensor | None] = [None] * len(w_o)
        if module.v_proj.bias is not None:
            b_v = list(self._shared(module.bias_per_head("v_proj")))
        weights = zip(self.sources, shared, b_v, w_o, strict=True)  # views: of many heads no copies
        for name, v, bias, o in weights:
            yield name, Form((Leg(v, bias, self.of),), o.mT)

    def _shared(self, x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return x if self.share is None else self.share * x


@dataclass(frozen=True, eq=False)
class Heads(Part):
    """An attention layer: given its pattern each head is linear in what it reads where it looks.
    Without a softmax its scores come apart too, but for those that are ``held``.

    ``first``: the first layer, where its values are mixed in, (1 − λ) v + λ v⁰. A head then writes
    twice, by one pattern: "L1H0" its own values of what it reads, "L1H0.first" those of the first
    layer, of what that one reads.

    >>> part = model.wiring().parts[0]
    >>> type(part).__name__, part.name
    ('Heads', 'attn0')
    """

    module: Attention
    rotary: Rotary | None = None
    held: str = ""
    first: "Heads | None" = None
    shared: Tensor | None = None

    looks = True
    batched = True

    @property
    def heads(self) -> tuple[str, ...]:
        """ "L0H0", "L0H1", …"""
        return tuple(f"L{self.layer}H{head}" for head in range(self.module.n_heads))

    @property
    def attention(self) -> "Heads":
        return self

    @property
    def values(self) -> tuple[Values, ...]:
        """Its own, and those of the first layer where they are mixed in."""
        if self.first is None or self.module.value_mix is None:
            return (Values(self.heads, HEAD, self.module),)
        share = self.module.value_mix.weight
        sources = tuple(f"{name}.first" for name in self.heads)
        return (
            Values(self.heads, HEAD, self.module, 1 - share),
            Values(sources, FIRST, self.first.module, share, self.first.name),
        )

    @property
    def shares(self) -> str:  # type: ignore[override]
        return "" if self.first is None else self.first.name

    def sharing(self, x: Float[Tensor, "*b t d"] | None) -> Part:
        return replace(self, shared=x)

    def forms(self) -> dict[str, Form]:
        """A head's W_V W_O, and its bias b_V."""
        return dict(chain.from_iterable(values.forms(self.module) for values in self.values))

    def writes(self, x: Float[Tensor, "t d"]) -> list[Write]:
        asked = None if self.scores_given else _Asked.of(self, x)
        made: list[Write] = []
        for values in self.values:
            made += self._moved(values, x, asked)
        if self.module.o_proj.bias is not None:
            source = Source(f"{self.name}.bias", BIAS, self.layer)
            made.append(Constant(source, self.module.o_proj.bias.expand(len(x), -1)))
        return made

    def _moved(
        self, values: Values, x: Float[Tensor, "t d"], asked: "_Asked | None"
    ) -> Iterator[Write]:
        """What each head writes of some of its values."""
        v = values((self._told if values.of else x)[None])
        by_head, patterns = self.module.by_head(x[None], self.turn(len(x), x.dtype), values=v)
        forms = values.forms(self.module)
        each = zip(self.heads, forms, by_head[0], patterns[0], strict=True)
        for n, (head, (name, form), value, pattern) in enumerate(each):
            source, form = Source(name, values.kind, self.layer), form.detach()
            if asked is None:
                yield Multilinear(source, form, (Mix(pattern, f"A {head}"),), value=value)
            else:
                yield asked.write(n, source, form, value, pattern)

    @property
    def _told(self) -> Tensor:
        """What the first layer read."""
        if self.shared is None:
            must, todo = f"be told what {self.shares} read", "Ask part.sharing(x) in its place."
            raise ArgumentError(self.name, must=must, got="nothing", todo=todo)
        return self.shared

    @property
    def scores_given(self) -> bool:
        """Whether all of its scores are held as a pass has them."""
        return self.module.kind == "softmax" or self.held == SCORES

    def holding(self, scores: str) -> Part:
        return self if self.scores_given else replace(self, held=scores)

    def run(self, x: Float[Tensor, "*b t d"]) -> Float[Tensor, "*b t d"]:
        length, width = x.shape[-2:]
        turn, given = self.turn(length, x.dtype), {}
        if self.first is not None:
            told = self._told.reshape(-1, length, width)
            given["first_values"] = self.first.module.values(told)
        return self.module(x.reshape(-1, length, width), turn, **given)[0].view_as(x)

    @property
    def legs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.module.legs

    def by_head(
        self, reads: Sequence[Float[Tensor, "t d"]], shared: Float[Tensor, "t d"] | None = None
    ) -> dict[str, Float[Tensor, "t d"]]:
        """What each head writes where each of its ``legs`` reads something of its own; ``shared``:
        what values of the first layer are made of.
        """
        last, found = reads[-1], {}
        turn, by_leg = self.turn(len(last), last.dtype), [read[None] for read in reads]
        for values in self.values:
            v = values((shared if values.of and shared is not None else last)[None])
            made = self.module.by_head(last[None], turn, by_leg, v)[0][0]
            found |= zip(values.sources, made, strict=True)
        return found

    def head(self, source: str) -> int:
        """The number of the head that is ``source``, or writes it too."""
        return next(each.sources.index(source) for each in self.values if source in each.sources)

    def score(self, n: int, x: Float[Tensor, "t d"]) -> Float[Tensor, "head t s"]:
        """The n-th score of each head without softmax, before its scale, at all positions."""
        turn = self.turn(len(x), x.dtype)
        queries, keys = (
            self.module.repeated(self.module.side(name, x[None], turn)[0])
            for name in self.module.score_projections[n]
        )
        return queries @ keys.mT

    def qk_scales(self, x: Float[Tensor, "t d"]) -> dict[str, Float[Tensor, "head t 1"]]:
        """By what norms multiply queries and keys, by projection; nothing without norms."""
        found, module = {}, self.module
        for name in dict.fromkeys(chain(*module.score_projections)):
            if module.qk_norm(name) is not None:
                heads = x @ module.per_head(name) + module.bias_per_head(name)[:, None]
                scale = as_given(module.qk_scale(name, heads))
                found[name] = scale.expand(len(heads), -1, -1)
        return found

    def turn(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """cos and sin of positions 0 … length − 1."""
        if self.rotary is None:
            return None
        positions = torch.arange(length, device=self.module.q_proj.weight.device)
        return self.rotary(positions[None], dtype)


@dataclass(frozen=True)
class _Asked:
    """The scores of an attention layer without softmax where it read one input."""

    part: Heads
    turn: tuple[Tensor, Tensor] | None  # of each position
    free: tuple[int, ...]  # the scores that come apart
    scales: dict[str, Float[Tensor, "head t 1"]]  # of a norm, by projection
    fixed: Float[Tensor, "head t s"]  # what multiplies them
    total: Float[Tensor, "head t 1"] | None  # what products are divided by
    legs: dict[str, list[Leg]]  # queries and keys before they are scaled and turn, by projection

    @classmethod
    def of(cls, part: Heads, x: Float[Tensor, "t d"]) -> "_Asked":
        module, turn = part.module, part.turn(len(x), x.dtype)
        turns = None if turn is None else (turn[0][0, 0], turn[1][0, 0])
        free = tuple(n for n, name in enumerate(SCORE_NAMES) if name != part.held)
        seen = causal_mask(len(x), len(x), x.device, module.window).to(x)
        fixed, total = module.scale * seen.expand(module.n_heads, -1, -1), None
        if part.held or module.normalised:
            scores = [part.score(n, x) for n in range(len(SCORE_NAMES))]
            if module.normalised:
                products = (fixed * scores[0] * scores[1]).abs().sum(-1, keepdim=True)
                total = products.masked_fill(products == 0, 1)
            for n in set(range(len(scores))) - {*free}:
                fixed = fixed * scores[n]
        names = dict.fromkeys(name for n in free for name in module.score_projections[n])
        legs = {name: _legs(module, name) for name in names}
        return cls(part, turns, free, part.qk_scales(x), fixed, total, legs)

    def write(self, n: int, source: Source, value: Form, wrote: Tensor, pattern: Tensor) -> Scored:
        """What head ``n`` writes as ``source``, ``value`` being its W_V W_O."""
        module, name = self.part.module, self.part.heads[n]
        projections = [side for m in self.free for side in module.score_projections[m]]
        legs = tuple(self.legs[side][n] for side in projections)
        names = tuple(f"{side}{m + 1}" for m in self.free for side in "qk")
        scales = tuple(
            Scale(self.scales[side][n], f"σ {leg} {name}") if side in self.scales else None
            for side, leg in zip(projections, names, strict=True)
        )
        gate = None if self.total is None else Gate(1 / self.total[n], (f"sum of scores {name}",))
        held = f"{self.part.held} {name}" if self.part.held else ""
        return Scored(
            source, Form((*legs, *value.legs), value.out).detach(), self.fixed[n],
            tuple(str(m + 1) for m in self.free), self.turn, pattern, held,
            (*scales, None) if any(scales) else (), value=wrote, gate=gate,
        )  # fmt: skip


def _legs(module: Attention, name: str) -> list[Leg]:
    """Queries or keys of each head from the projection ``name``, by what their norm multiplies each
    dimension with.
    """
    weights, gain = module.per_head(name), module.qk_gain(name)
    if isinstance(gain, Tensor):  # (head, 1, d_head)
        weights = weights * gain
    if getattr(module, name).bias is None:
        return [Leg(weight.mT) for weight in weights]
    biases = module.bias_per_head(name)[:, None] * gain
    return [Leg(weight.mT, bias[0]) for weight, bias in zip(weights, biases, strict=True)]


@dataclass(frozen=True, eq=False)
class Layer(Part):
    """An MLP or a bilinear layer: quadratic where it has a tensor; given its gates quadratic where
    they are on one of two sides, and linear where there is one side; else opaque.

    >>> part = model.wiring().parts[1]
    >>> type(part).__name__, part.name
    ('Layer', 'mlp0')
    """

    batched = True

    def forms(self) -> dict[str, Form]:
        """The factors of its exact tensor."""
        try:
            return {self.name: Form.of(self.module.tensor())}  # type: ignore[operator]
        except NotExactError:
            return {}

    def writes(self, x: Float[Tensor, "t d"]) -> list[Write]:
        for form in self.forms().values():
            return [Multilinear(Source(self.name, BILINEAR, self.layer), form.detach())]
        hidden = self.hidden()
        if hidden is None:
            return [Opaque(Source(self.name, OPAQUE, self.layer))]
        out, legs, gates = hidden.routed(x)
        gate = Gate(gates, (f"gates {self.name}",))
        form = Form(legs, out).detach()
        return [Multilinear(Source(self.name, GATED, self.layer), form, gate=gate)]

    def hidden(self) -> Hidden | None:
        """Those that its module says it has."""
        asked = getattr(self.module, "hidden", None)
        return None if asked is None else asked()


@dataclass(frozen=True, eq=False)
class Mixture(Part):
    """A mixture of experts: each writes what it writes alone, times the router's weight, where
    tokens are routed to it.

    >>> issubclass(bilens.wiring.Mixture, bilens.wiring.Part)
    True
    """

    module: Experts
    each: tuple[Part, ...] = ()

    batched = True

    @classmethod
    def of(cls, name: str, layer: int, norm: Norm, module: Experts) -> "Mixture":
        """Of layers "mlp0.expert0", "mlp0.expert1", …"""
        experts = (
            Layer(f"{name}.expert{n}", layer, norm, expert) for n, expert in enumerate(module.mlps)
        )
        return cls(name, layer, norm, module, tuple(experts))

    @property
    def experts(self) -> tuple[Part, ...]:
        return self.each

    def over(self, change: Callable[[Part], Part]) -> Part:
        return replace(self, each=tuple(map(change, self.each)))

    def forms(self) -> dict[str, Form]:
        """None: the router's weights are those of a pass."""
        return {}

    def writes(self, x: Float[Tensor, "t d"]) -> list[Write]:
        made: list[Write] = []
        for expert, share in zip(self.experts, self.module.shares(x), strict=True):
            read = x[share.rows]
            for write in expert.writes(read):
                value = expert.run(read) if write.value is None else write.value
                weights = share.weights[:, None].to(value)
                gate = Gate(weights, (f"router {expert.name}",))
                whole = torch.zeros_like(x).index_copy_(0, share.rows, weights * value)
                made.append(_routed(write, gate, whole, share))
        return made


@dataclass(frozen=True, eq=False)
class Renormed(Part):
    """A part whose write goes through a norm of its own: given that norm's scale σ, each of its
    writes is what it was, times σ and by the norm's linear map. Where that norm is learned scales,
    or a number, nothing is given.

    >>> issubclass(bilens.wiring.Renormed, bilens.wiring.Part)
    True
    """

    part: Part
    out_norm: Norm

    @classmethod
    def of(cls, part: Part, out_norm: Norm | None) -> Part:
        """``part`` itself where there is no norm."""
        if out_norm is None:
            return part
        about = (part.name, part.layer, part.norm, part.module)
        return cls(*about, part, out_norm, beside=part.beside)

    @property
    def looks(self) -> bool:  # type: ignore[override]
        return self.part.looks

    @property
    def batched(self) -> bool:  # type: ignore[override]
        return self.part.batched

    @property
    def shares(self) -> str:  # type: ignore[override]
        return self.part.shares

    @property
    def shared(self) -> Tensor | None:  # type: ignore[override]
        return self.part.shared

    def sharing(self, x: Float[Tensor, "*b t d"] | None) -> Part:
        return replace(self, part=self.part.sharing(x))

    @property
    def inner(self) -> Part:
        return self.part if normalises(self.out_norm) else self

    def finished(
        self, made: Float[Tensor, "*b t d"], total: Float[Tensor, "*b t d"]
    ) -> Float[Tensor, "*b t d"]:
        return self._scaled(made, self.out_norm.scale(total)) if normalises(self.out_norm) else made

    @property
    def legs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.part.legs

    @property
    def experts(self) -> tuple[Part, ...]:
        return self.part.experts

    @property
    def attention(self) -> "Heads | None":
        return self.part.attention

    def over(self, change: Callable[[Part], Part]) -> Part:
        return replace(self, part=self.part.over(change))

    def whole(self, change: Callable[[Part], Part]) -> Part:
        norm = own_norm(self.out_norm)
        made = change(self.part if isinstance(norm, NoNorm) else Renormed.of(self.part, norm))
        times = rescaled(NoNorm(), after=self.multiple)
        return Renormed.of(made, None if isinstance(times, NoNorm) else times)

    @property
    def multiple(self) -> float | Tensor:  # type: ignore[override]
        return self.out_norm.after if isinstance(self.out_norm, Rescaled) else 1.0

    def holding(self, scores: str) -> Part:
        held = self.part.holding(scores)
        return self if held is self.part else replace(self, part=held)

    def hidden(self) -> Hidden | None:
        return self.part.hidden()

    def forms(self) -> dict[str, Form]:
        """Those of the part, by the linear map; the scale is that of a pass."""
        return {name: self._after(form) for name, form in self.part.forms().items()}

    def writes(self, x: Float[Tensor, "t d"]) -> list[Write]:
        scale = self.out_norm.scale(self.part.run(x))
        return [self._write(write, scale) for write in self.part.writes(x)]

    def run(self, x: Float[Tensor, "*b t d"]) -> Float[Tensor, "*b t d"]:
        return self.out_norm(self.part.run(x))

    def passes(self, side: str) -> nn.Module:
        norm = own_norm(self.out_norm)
        if side == "output" and isinstance(norm, nn.Module) and not isinstance(norm, NoNorm):
            return norm
        return self.part.passes(side)

    def _scaled(
        self, made: Float[Tensor, "*b t d"], scale: Float[Tensor, "*b t 1"]
    ) -> Float[Tensor, "*b t d"]:
        return (scale * self.out_norm.linear(made)).to(made)

    def _after(self, form: Form) -> Form:
        return replace(form, out=self.out_norm.linear(form.out.mT).mT)

    def _write(self, write: Write, scale: Float[Tensor, "t 1"]) -> Write:
        value = write.value
        if value is not None:
            value = self._scaled(value, scale)
        if not isinstance(write, Product):
            return replace(write, value=value)
        if not normalises(self.out_norm):
            return replace(write, form=self._after(write.form), value=value)
        at = scale if write.rows is None else scale[write.rows]
        gate = Gate(at.to(write.form.out), (f"σ out {self.name}",))
        gate = gate if write.gate is None else write.gate.times(gate)
        return replace(write, form=self._after(write.form), gate=gate, value=value)


@dataclass(frozen=True, eq=False)
class Again(Part):
    """What was written before the first layer, once more, ``factor`` times: a stream that is mixed
    with what it began as. It reads the leaves alone.

    >>> issubclass(bilens.wiring.Again, bilens.wiring.Part)
    True
    """

    factor: Float[Tensor, ""]
    width: int

    batched = True
    heard = False  # its module hears the whole stream, and writes the next

    def forms(self) -> dict[str, Form]:
        eye = torch.eye(self.width, dtype=self.factor.dtype, device=self.factor.device)
        return {self.name: Form((Leg(self.factor * eye),), eye)}

    def writes(self, x: Float[Tensor, "t d"]) -> list[Write]:
        form = self.forms()[self.name].detach()
        return [Multilinear(Source(self.name, AGAIN, self.layer), form)]

    def run(self, x: Float[Tensor, "*b t d"]) -> Float[Tensor, "*b t d"]:
        return self.factor * x


def _routed(write: Write, gate: Gate, value: Tensor, share: Share) -> Write:
    """An expert's write, by the router's weight."""
    if not isinstance(write, Product):
        return Opaque(write.source, value, share.rows)
    if write.rows is not None:
        gate = replace(gate, values=gate.values[write.rows])
    gates = gate if write.gate is None else write.gate.times(gate)
    rows = share.rows if write.rows is None else share.rows[write.rows]
    return replace(write, gate=gates, value=value, rows=rows)

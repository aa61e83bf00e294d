"""A layer in other words: sources that add up to what it writes, what they miss being one of them.

    y_t = T(x̂_t, x̂_t) + ε_t                                  a tensor: the layer's nearest one
                                                             (``bilens.approximate``), or one that
                                                             was trained, a bilinear transcoder
    y_t = Σ_f a_tf w_f + W_skip x̂_t + b + ε_t               a transcoder, a_tf = r_f x̂_t + o_f where
                                                             latent f is active at t

A transcoder gives what is heard of the layer, which is behind a norm over what that writes where
there is one; a tensor gives what the layer itself does, before that norm.

Which latents are active is held fixed as a pattern is; given that, each is linear in what the layer
reads, so that paths go on through the encoder. The sum is y by construction, whatever the
replacement is worth: ε is a source, "mlp3.error", and an end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens.algebra import CP
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import require_finite
from bilens.circuits.replaced import in_full, is_called
from bilens.nearest import Approximation
from bilens.nn import Leg
from bilens.wiring import (
    BIAS,
    BILINEAR,
    LATENT,
    MISSED,
    NEAREST,
    SKIP,
    Constant,
    Form,
    Gate,
    Multilinear,
    Opaque,
    Part,
    Source,
    Transcoder,
    Wiring,
    Write,
)

RENAME = (
    "If that is the same place by another name, "
    "dataclasses.replace(transcoder, hook=..., hook_out=...)."
)


@runtime_checkable
class Tensorial(Protocol):
    """A bilinear layer: what it writes is a third-order tensor of what it reads."""

    def tensor(self) -> CP:
        """That tensor, over x or over (1, x)."""
        ...


Replacement = Approximation | CP | Tensorial | Transcoder
"""What a layer can be given as."""


@dataclass(frozen=True, eq=False)
class Nearest(Part):
    """A layer as a tensor and what that misses, "mlp0.error": an end."""

    tensor: CP
    kind: str = NEAREST

    def forms(self) -> dict[str, Form]:
        return {self.name: Form.of(self.tensor)}

    def writes(self, x: Float[Tensor, "t d"]) -> list[Write]:
        says = self.tensor(self.tensor.read(x))
        (form,) = self.forms().values()
        near = Multilinear(Source(self.name, self.kind, self.layer), form, value=says)
        return [near, _missed(self, x, says)]


@dataclass(frozen=True, eq=False)
class Transcoded(Part):
    """A layer, ``own``, as a transcoder: each latent that is active somewhere ("mlp0.f17"), its
    skip ("mlp0.skip"), its decoder's bias ("mlp0.base") and what it misses ("mlp0.error"), an end.
    """

    transcoder: Transcoder
    own: Part

    def run(self, x: Float[Tensor, "*b t d"]) -> Float[Tensor, "*b t d"]:
        return self.own.run(x)

    def passes(self, side: str) -> nn.Module:
        return self.own.passes(side)

    def forms(self) -> dict[str, Form]:
        """None: which latents are active is a pass's."""
        return {}

    def writes(self, x: Float[Tensor, "t d"]) -> list[Write]:
        """Memory: a write (t, d) for each latent that is active anywhere."""
        coder = self.transcoder
        active = coder.encode(x.to(coder.writes)).detach() != 0
        base = coder.base.detach().to(x).expand(len(x), -1)
        made = [self._latent(x, f, active[:, f]) for f in active.any(0).nonzero()[:, 0].tolist()]
        made += self._skip(x)
        total = sum((write.value for write in made if write.value is not None), base)
        require_finite(f"the transcoder of {self.name}", writes=total)
        bias = Constant(Source(f"{self.name}.base", BIAS, self.layer), base)
        return [*made, bias, _missed(self, x, total)]

    def _latent(self, x: Float[Tensor, "t d"], f: int, active: Tensor) -> Multilinear:
        """Latent ``f`` where it is active: there its activation is what it reads, plus its
        offset.
        """
        coder, rows = self.transcoder, active.nonzero()[:, 0]
        reads, offset, writes = (
            rows_of[f : f + 1].detach().to(x)
            for rows_of in (coder.reads, coder.offset, coder.writes)
        )
        source = Source(f"{self.name}.f{f}", LATENT, self.layer)
        gate = Gate(x.new_ones(len(rows), 1), (f"latents {self.name}",))
        write = Multilinear(source, Form((Leg(reads, offset),), writes.mT), gate=gate, rows=rows)
        return replace(write, value=write.says(x)[0])

    def _skip(self, x: Float[Tensor, "t d"]) -> list[Multilinear]:
        """The linear map beside the latents, where there is one."""
        skip = getattr(self.transcoder, "W_skip", None)
        if skip is None:
            return []
        weight = skip.detach().to(x).mT
        form = Form((Leg(weight),), torch.eye(len(weight), dtype=x.dtype, device=x.device))
        source = Source(f"{self.name}.skip", SKIP, self.layer)
        return [Multilinear(source, form, value=x @ weight.mT)]


def with_replacements(wiring: Wiring, replacements: Mapping[str, Replacement] | None) -> Wiring:
    """The wiring whose layers named in ``replacements`` ("mlp0", "mlp1.expert3") are what these
    make of them.

    Errors: ArgumentError for a name that is no layer's, for what is no replacement, and for one of
    another layer; ShapeError for one of another width.
    """
    if replacements is not None and not isinstance(replacements, Mapping):
        must = "map layers to what approximate() gave or to transcoders, or be None"
        raise ArgumentError("replacements", must=must, got=type(replacements).__name__)
    given = dict(replacements or {})

    def changed(part: Part) -> Part:
        if part.looks or part.name not in given:
            return part
        return _replaced(part, given.pop(part.name), wiring)

    parts = tuple(
        part.whole(changed) if _is_heard(part, given.get(part.name)) else part.over(changed)
        for part in wiring.parts
    )
    if given:
        layers = ", ".join(wiring.layers)
        who, got = "replacements", ", ".join(map(repr, given))
        raise ArgumentError(who, must=f"name layers ({layers or 'there are none'})", got=got)
    return replace(wiring, parts=parts)


def _is_heard(part: Part, found: object) -> bool:
    """Whether it stands for what is heard of a layer, behind a norm over what that writes: as
    transcoders are trained. A tensor stands for the layer's own.
    """
    tensors = Approximation, CP, Tensorial
    return not part.experts and isinstance(found, Transcoder) and not isinstance(found, tensors)


def _replaced(part: Part, found: object, wiring: Wiring) -> Part:
    for kind, made in MADE:
        if isinstance(found, kind):
            return made(part, found, wiring)
    must = "be what approximate() gave, a CP, a bilinear layer or a transcoder"
    raise ArgumentError(_who(part), must=must, got=type(found).__name__)


def _approximated(part: Part, found: Approximation, wiring: Wiring) -> Part:
    own = part.hidden()
    if own is None or not found.hidden.same_as(own):
        todo = f"Call approximate() on the module of {part.name}."
        raise ArgumentError(_who(part), must="be of this very layer", got="another's", todo=todo)
    return _in_place(part, Nearest, found.tensor.to(own.out.dtype).to(own.out.device))


def _tensor(part: Part, found: CP, wiring: Wiring) -> Part:
    like, sizes = wiring.readout, found.shape
    width = like.shape[1]
    reads = width + found.affine
    if sizes != (width, reads, reads):
        must = f"write and read the model's width {width}"
        raise ShapeError(_who(part), must=must, got=f"a tensor {sizes}")
    tensor = found.detach().to(like.dtype).to(like.device)
    require_finite(_who(part), **tensor.factors())
    return _in_place(part, partial(Nearest, kind=BILINEAR), tensor)


def _layer(part: Part, found: Tensorial, wiring: Wiring) -> Part:
    return _tensor(part, found.tensor(), wiring)


def _transcoded(part: Part, found: Transcoder, wiring: Wiring) -> Part:
    who, width = _who(part), wiring.readout.shape[1]
    _require_places(part, found, wiring)
    widths = {"reads": found.reads.shape[-1], "writes": found.writes.shape[-1]}
    if set(widths.values()) != {width}:
        got = ", ".join(f"{name} {size}" for name, size in widths.items())
        raise ShapeError(who, must=f"be of the model's width {width}", got=got)
    return _in_place(part, partial(Transcoded, own=part), in_full(found))


MADE: tuple[tuple[type, Callable[[Part, Any, Wiring], Part]], ...] = (
    (Approximation, _approximated),  # which has a tensor too: before what is one
    (CP, _tensor),
    (Tensorial, _layer),
    (Transcoder, _transcoded),
)


def _require_places(part: Part, found: Transcoder, wiring: Wiring) -> None:
    """Raise ArgumentError for an autoencoder, and for a transcoder that names another layer."""
    hook, hook_out, kind = (
        getattr(found, name, "") for name in ("hook", "hook_out", "architecture")
    )
    norm = getattr(found, "normalisation", "none")
    if norm != "none":
        must = "be linear in what it reads where a latent is active"
        raise ArgumentError(_who(part), must=must, got=f"a {kind} with {norm}")
    if kind and "transcoder" not in kind:
        must = "be a transcoder: what writes a place that it does not read"
        todo = f'Give it as dictionaries={{"{part.name}.input": ...}}.'
        raise ArgumentError(_who(part), must=must, got=f"a {kind} autoencoder", todo=todo)
    for verb, name, place in (
        ("read", hook, f"{part.name}.input"),
        ("write", hook_out, f"{part.name}.output"),
    ):
        if name and not is_called(place, name, wiring.parts):
            raise ArgumentError(_who(part), must=f"{verb} {place}", got=name, todo=RENAME)


def _who(part: Part) -> str:
    return f"the replacement of {part.name}"


def _in_place(part: Part, made: Callable[..., Part], found: object) -> Part:
    return made(part.name, part.layer, part.norm, part.module, found, beside=part.beside)


def _missed(part: Part, x: Float[Tensor, "t d"], says: Float[Tensor, "t d"]) -> Opaque:
    source = Source(f"{part.name}.error", MISSED, part.layer)
    return Opaque(source, part.run(x) - says)

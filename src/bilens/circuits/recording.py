"""One forward pass taken apart: what every source wrote, and what was held fixed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP
from bilens.base.errors import ArgumentError
from bilens.base.numerics import is_whole, require_finite
from bilens.circuits.latents import Latents, placed, take_apart
from bilens.circuits.paths import Tree
from bilens.circuits.understood import require_heads, require_layer, require_norm, require_plain
from bilens.nn.expandable import (
    Expandable,
    Heads,
    Sparse,
    Wiring,
    Worded,
    eager,
    explained,
    explains,
    is_half,
    require_expandable,
)
from bilens.nn.norm import NoNorm

Kind = Literal["leaf", "head", "bias", "layer", "opaque"]


@dataclass(frozen=True)
class Source:
    """What one part of the model writes: ``part`` is its place among the wiring's parts (−1 for
    what stands first).
    """

    name: str
    kind: Kind
    part: int = -1
    head: int = 0
    layer: int = -1


class Head(NamedTuple):
    """A head given its pattern: Σ_s pattern_ts (x̂_s W_V + constant) W_O."""

    w_v: Float[Tensor, "d d_head"]
    w_o: Float[Tensor, "d_head d"]
    constant: Float[Tensor, " d_head"] | None  # its bias, and what the norm's constant gives
    pattern: Float[Tensor, "t s"]


class Pass(NamedTuple):
    """A model, and what it reads."""

    model: Expandable
    inputs: Tensor


@dataclass(frozen=True, eq=False)
class Recording:
    """A pass over one input: ``writes`` (source, t, d), each part's norm scale (t, 1) and attention
    patterns (head, t, s).

    ``reads[p]`` says which sources part p reads; the last entry is the readout's. Memory: sources ×
    t × d.

    ``run`` is the pass that was recorded, whose modules the wiring names: a half-precision model is
    recorded in float32, where its weights are exact, and ``as_run`` is then the pass as people run
    it (None in full precision).
    """

    run: Pass
    as_run: Pass | None
    wiring: Wiring
    inputs: Tensor
    text: str  # what was read, as a person wrote it
    names: tuple[str, ...]  # of the positions, special tokens among them
    sources: tuple[Source, ...]
    writes: Float[Tensor, "n t d"]
    reads: tuple[range, ...]
    scales: tuple[Float[Tensor, "t 1"], ...]
    patterns: dict[int, Float[Tensor, "head t s"]]
    tensors: dict[int, CP]  # of the layers that have one
    streams: tuple[Float[Tensor, "t d"], ...]
    latents: dict[int, Latents]  # of the layers that read through a dictionary

    @property
    def length(self) -> int:
        """The number of positions."""
        return self.writes.shape[1]

    @cached_property
    def index(self) -> dict[str, int]:
        """Sources by name."""
        return {source.name: n for n, source in enumerate(self.sources)}

    def position(self, n: int, who: str = "position", must: str = "be") -> int:
        """The n-th position, negative ones counted from the end. Errors: ArgumentError where there
        is none.
        """
        if not is_whole(n) or not -self.length <= n < self.length:
            raise ArgumentError(who, must=f"{must} {-self.length} … {self.length - 1}", got=n)
        return n % self.length

    def outputs(self, position: int) -> Float[Tensor, " out"]:
        """The outputs at ``position``, from this pass."""
        outputs = self.wiring.norm(self.streams[-1][position]) @ self.wiring.readout.mT
        return outputs if self.wiring.readout_bias is None else outputs + self.wiring.readout_bias

    def norm(self, part: int) -> Any:
        """The norm that part ``part`` reads through; the readout's for the last."""
        return self.wiring.parts[part].norm if part < len(self.wiring.parts) else self.wiring.norm

    def scale_held(self, part: int, position: int) -> tuple[str, ...]:
        """The name of the norm scale that reading there holds fixed; none where there is no norm."""
        if isinstance(self.norm(part), NoNorm):
            return ()
        name = self.wiring.parts[part].name if part < len(self.wiring.parts) else "final"
        return (f"σ {name}@{position}",)

    def linear(
        self, part: int, x: Float[Tensor, "*b d"], position: int | slice
    ) -> Float[Tensor, "*b d"]:
        """What of ``x``, written at ``position``, part ``part`` reads: the norm given its scale,
        its constant apart.
        """
        return self.scales[part][position] * self.norm(part).linear(x)

    def pull(self, part: int, q: Float[Tensor, "*b d"], position: int) -> Float[Tensor, "*b d"]:
        """The transpose of ``linear``: from a functional on what is read to one on the stream."""
        return self.scales[part][position] * self.norm(part).transposed(q)

    @cached_property
    def heads(self) -> dict[str, Head]:
        """The heads by name."""
        found = {}
        for n, part in enumerate(self.wiring.parts):
            if isinstance(part, Heads):
                w_v, w_o = (
                    part.module.per_head("v_proj").detach(),
                    part.module.per_head("o_proj").detach(),
                )
                constant = part.module.bias_per_head("v_proj").detach()
                shift = part.norm.shift
                if shift is not None:
                    constant = constant + shift.detach() @ w_v
                biased = shift is not None or part.module.v_proj.bias is not None
                for head, name in enumerate(part.heads):
                    found[name] = Head(
                        w_v[head],
                        w_o[head],
                        constant[head] if biased else None,
                        self.patterns[n][head],
                    )
        return found

    def inputs_of(self, part: int, position: int) -> tuple[Float[Tensor, "n d"], list[Tree]]:
        """All that a layer reads at ``position`` but the constant: what each source gives after the
        norm, and its name.
        """
        if part in self.latents:
            return self.latents[part].at(position)
        reads = self.reads[part]
        vectors = self.linear(part, self.writes[reads.start : reads.stop, position], position)
        return vectors, [("write", self.sources[n].name, position) for n in reads]

    def hidden(
        self, part: int, x: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n h"], Float[Tensor, "n h"]]:
        """Left and right hidden features of ``x``, which layer ``part`` reads (see ``linear``)."""
        tensor = self.tensors[part]
        own = tensor.shape[1] - x.shape[-1]  # 1 where the tensor is over (1, x̂)
        return x @ tensor.left[:, own:].mT, x @ tensor.right[:, own:].mT

    def hidden_constant(
        self, part: int
    ) -> tuple[Float[Tensor, "1 h"], Float[Tensor, "1 h"]] | None:
        """Hidden features of the constant that layer ``part`` reads, from its own biases and its
        norm's; None without.

        A dictionary takes apart what is read after the norm, whose constant is then in its sources.
        """
        tensor, shift = self.tensors[part], None if part in self.latents else self.norm(part).shift
        biased = tensor.shape[1] > self.writes.shape[2]
        if not biased and shift is None:
            return None
        sides = [
            side[:, :1].mT if biased else torch.zeros_like(side[:, :1].mT)
            for side in (tensor.left, tensor.right)
        ]
        if shift is not None:
            sides = [
                side + more
                for side, more in zip(sides, self.hidden(part, shift.detach()[None]), strict=True)
            ]
        return sides[0], sides[1]


@explains
@torch.no_grad()
def record(
    model: Expandable, inputs: Any, dictionaries: Mapping[str, Sparse] | None = None
) -> Recording:
    """Run ``model`` part by part on one input. Cost: two forward passes, and each head's write
    apart.

    A half-precision model is run in float32, over a copy of its weights (see
    ``nn.expandable.explained``).
    ``dictionaries`` by place ("mlp1.input") take apart what layers read there. Errors:
    ArgumentError where inputs, model or dictionaries are not what they must be, and for a part
    whose weights do not add up to its own forward pass (``circuits.understood``); NotFiniteError
    for a write that is not finite.
    """
    require_expandable(model)
    require_plain(model.wiring())
    run = _pass(explained(model), inputs)
    given, wiring = run.inputs, run.model.wiring()
    names = tuple(run.model.input_names(given))
    leaves = run.model.leaves(given)
    sources = [Source(name, "leaf") for name in wiring.leaves]
    writes = [leaves[name] for name in wiring.leaves]
    reads, scales, streams = [], [], [_sum(writes)]
    patterns: dict[int, Tensor] = {}
    tensors: dict[int, CP] = {}
    by_part, latents = placed(dictionaries, wiring.parts, wiring.readout.shape[1]), {}
    for n, part in enumerate(wiring.parts):
        reads.append(_reads(wiring, sources, n))
        scales.append(part.norm.scale(streams[-1]))
        require_norm(f"the norm of {part.name}", part.norm, streams[-1])
        read = part.norm(streams[-1])
        if isinstance(part, Heads):
            by_head, pattern = part.module.by_head(read[None], part.turn(len(read), read.dtype))
            patterns[n] = pattern[0]
            require_heads(part, read, by_head[0], pattern[0])
            sources += [
                Source(name, "head", n, head, part.layer) for head, name in enumerate(part.heads)
            ]
            writes += list(by_head[0])
            if part.module.o_proj.bias is not None:
                sources.append(Source(f"{part.name}.bias", "bias", n, layer=part.layer))
                writes.append(part.module.o_proj.bias.expand(len(read), -1))
        else:
            if (tensor := part.tensor()) is not None:
                tensors[n] = tensor.detach()
            if n in by_part:
                latents[n] = take_apart(part.name, by_part[n], read)
            sources.append(
                Source(part.name, "layer" if n in tensors else "opaque", n, layer=part.layer)
            )
            writes.append(part.module(read))
            require_layer(part, read, writes[-1])
        written = _sum(writes[reads[-1].stop :])
        streams.append(streams[-1] + written if wiring.accumulates else written)
    reads.append(_reads(wiring, sources, len(wiring.parts)))
    scales.append(wiring.norm.scale(streams[-1]))
    require_norm("the final norm", wiring.norm, streams[-1])
    stacked = torch.stack(writes).detach()
    require_finite("the forward pass", writes=stacked)
    return Recording(
        run=run,
        as_run=_pass(eager(model), inputs) if is_half(model) else None,
        wiring=wiring,
        inputs=given,
        text=run.model.text(given) if isinstance(run.model, Worded) else " ".join(names),
        names=names,
        sources=tuple(sources),
        writes=stacked,
        reads=tuple(reads),
        scales=tuple(scales),
        patterns=patterns,
        tensors=tensors,
        streams=tuple(streams),
        latents=latents,
    )


def _pass(model: Expandable, inputs: Any) -> Pass:
    return Pass(model, model.read(inputs))


def _reads(wiring: Wiring, sources: list[Source], part: int) -> range:
    """Which of the sources so far part ``part`` reads."""
    if wiring.accumulates or part == 0:
        return range(len(sources))
    return range(
        next(n for n, source in enumerate(sources) if source.part == part - 1), len(sources)
    )


def _sum(writes: list[Tensor]) -> Tensor:
    """The stream, added up in the order in which the model adds."""
    total = writes[0]
    for write in writes[1:]:
        total = total + write
    return total

"""What the stream says on its way: the readout after every part."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens.base.charts import in_unit, mapped, titled
from bilens.base.numerics import require_finite
from bilens.base.results import Result
from bilens.circuits.recording import Recording, record
from bilens.circuits.targets import Target, direction, unit_of
from bilens.wiring import Expandable, explains

AT_ONCE = 1 << 24  # outputs


@dataclass(frozen=True, repr=False, eq=False)
class Lens(Result):
    """The readout of the stream after every part ("embed": before all), at every position: what
    the model would say if it ended there. The last place is the model's own outputs.

    Columns of ``to_frame()``: ``after`` which part; ``position`` and the ``token`` there; what the
    stream ``says`` there, its likeliest output, and that output's ``probability``; ``rank``: at
    which place (1 is the first) the output stands that the model gives in the end; and, where a
    target was asked for, its ``value`` in ``unit``: logits, or "" for a direction. ``error``: how
    far what is read from the last stream is from the model's own outputs.
    """

    target: str
    places: tuple[str, ...]
    inputs: tuple[str, ...]
    says: tuple[tuple[str, ...], ...]
    probabilities: Float[Tensor, "place t"]
    ranks: Int[Tensor, "place t"]
    values: Float[Tensor, "place t"] | None
    error: float
    unit: str = ""

    def summary(self) -> str:
        of = f", and {self.target}" if self.target else ""
        settled = [self._settled_after(t) for t in range(len(self.inputs))]
        return (
            f"what the stream says after {len(self.places)} places at {len(self.inputs)} "
            f"positions{of}; at the last it is what the model says from {settled[-1]} on (the last "
            f"place is the model's own outputs; read from its stream they are {self.error:.1e} off)"
        )

    def _settled_after(self, t: int) -> str:
        """The place from which on the final output is the likeliest."""
        first = self.ranks[:, t].flip(0).cumprod(0).eq(1).sum()
        return self.places[len(self.places) - int(first)]

    def columns(self) -> tuple[str, ...]:
        more = ("value",) if self.values is not None else ()
        return "after", "position", "token", "says", "probability", "rank", *more

    def rows(self) -> list[dict[str, Any]]:
        return [
            self._row(n, t)
            for t in reversed(range(len(self.inputs)))
            for n in range(len(self.places))
        ]

    def _row(self, n: int, t: int) -> dict[str, Any]:
        made = {
            "after": self.places[n],
            "position": t,
            "token": self.inputs[t],
            "says": self.says[n][t],
            "probability": float(self.probabilities[n, t]),
            "rank": int(self.ranks[n, t]),
        }
        return made if self.values is None else made | {"value": float(self.values[n, t])}

    def figure(self) -> dict[str, Any]:
        across = [f"{t} {token}" for t, token in enumerate(self.inputs)]
        down = list(reversed(self.places))  # the last on top, as the stream goes up
        if self.values is None:
            cells, unit = self.probabilities.flip(0).tolist(), "probability of what it says"
        else:
            cells, unit = self.values.flip(0).tolist(), in_unit(self.target, self.unit)
        title = f"What the stream says: {self.target or 'the likeliest output'} after each part"
        layout = titled(title, "position and token", "after")
        made = mapped(cells, across, down, unit, layout, strength=self.values is None)
        text = [list(row) for row in reversed(self.says)]
        trace = made["data"][0] | {"text": text, "texttemplate": "%{text}"}
        return made | {"data": [trace]}


@explains
@torch.no_grad()
def lens(model: Expandable, inputs: Any, target: Target = None) -> Lens:
    """What the stream says after every part, at every position: the readout (its norm, a soft-cap)
    of what has been written so far.

    ``target``: an output, a pair of them or weights by output, as in ``expand``; its value is then
    given too. That a layer's stream "says" a token is a reading, not what the model does: only the
    last place is. The stream is of the size that it has there in the model, where parts make
    a x + b part(x) of it. Cost: two forward passes, and O(t d V) for each place. Memory: t × V, and
    that of 16 million outputs at a time.
    Errors: as ``expand``. Source: nostalgebraist 2020, "interpreting GPT: the logit lens".

    >>> import bilens
    >>> found = bilens.circuits.lens(bilens.load("tinystories-2l"), "Once upon a time there was a")
    >>> found.places
    ('embed', 'attn0', 'mlp0', 'attn1', 'mlp1')
    """
    recording = record(model, inputs)
    name, u = ("", None) if target is None else direction(model, recording, target)
    wiring, own = recording.wiring, recording.run.outputs
    require_finite("the readout", outputs=own)
    heard = _everywhere(recording, u)
    return Lens(
        target=name,
        places=(wiring.leaves[0].name, *(part.name for part in wiring.parts)),
        inputs=recording.names,
        says=tuple(tuple(model.output_names(outputs)) for outputs in heard.best),
        probabilities=heard.probability,
        ranks=heard.rank,
        values=heard.value,
        error=float((wiring.outputs(recording.totals[-1]) - own).abs().max()),
        unit="" if target is None else unit_of(target),
    )


class _Heard(NamedTuple):
    """Of the outputs at some places: the likeliest, its probability, where the final one stands
    among them (1 is the first), and the target where there is one.
    """

    best: Int[Tensor, "*n"]
    probability: Float[Tensor, "*n"]
    rank: Int[Tensor, "*n"]
    value: Float[Tensor, "*n"] | None


def _everywhere(recording: Recording, u: Float[Tensor, " out"] | None) -> _Heard:
    """What is heard after each place at each position, of many at once: the readout is the largest
    matrix of a model, and is gone through once for all that fit. At the last place it is the
    model's own outputs: of two that tie, a readout of its own may say the other.
    """
    wiring, own = recording.wiring, recording.run.outputs
    shape, final = (len(recording.totals), recording.length), own.argmax(-1, keepdim=True)
    ends = [wiring.ending(n, stream) for n, stream in enumerate(recording.totals)]
    streams = torch.cat(ends[:-1] or [ends[0][:0]])
    rows = max(1, AT_ONCE // len(wiring.readout))
    some = zip(streams.split(rows), final.repeat(shape[0] - 1, 1).split(rows), strict=True)
    heard = [_heard(wiring.outputs(stream), last, u) for stream, last in some]
    heard.append(_heard(own, final, u))
    best, probabilities, ranks, values = zip(*heard, strict=True)
    return _Heard(
        best=torch.cat(best).view(shape),
        probability=torch.cat(probabilities).view(shape),
        rank=torch.cat(ranks).view(shape),
        value=None if u is None else torch.cat(values).view(shape),
    )


def _heard(
    outputs: Float[Tensor, "n out"], final: Int[Tensor, "n 1"], u: Float[Tensor, " out"] | None
) -> _Heard:
    rank = 1 + (outputs > outputs.gather(-1, final)).sum(-1)
    value = None if u is None else outputs @ u
    largest = outputs.max(-1)
    probability = (largest.values - outputs.logsumexp(-1)).exp()
    return _Heard(largest.indices, probability, rank, value)

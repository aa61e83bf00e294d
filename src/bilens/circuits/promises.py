"""Whether a model of a person's own keeps the promises that circuits stand on, and which it
breaks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import ranked
from bilens.base.errors import ArgumentError, BilensError
from bilens.base.results import ANSWER_ROWS, Result
from bilens.circuits.understood import (
    patterns_of,
    require_ends,
    require_norm,
    require_plain,
    require_scores,
    require_sum,
    require_turns,
    require_writes,
)
from bilens.wiring import (
    Expandable,
    Part,
    Wiring,
    explained,
    explains,
    hear,
    require_expandable,
)

Asked = tuple[str, str, Callable[[], Any]]  # of whom, what is promised, and what raises if not


@dataclass(frozen=True, repr=False, eq=False)
class Promises(Result):
    """What was asked of each part of a model, and the error in words where a promise is broken
    (empty where it is kept).

    Columns: ``part``, ``promise``, whether it is ``kept``, and ``what is wrong``: the error.

    >>> bilens.circuits.promises(model, prompt).parts[:2]
    ('the weights', 'the ends')
    """

    parts: tuple[str, ...]
    promises: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether every promise is."""
        return not any(self.broken)

    def summary(self) -> str:
        lost = [
            f"{part}: {promise}"
            for part, promise, error in zip(self.parts, self.promises, self.broken, strict=True)
            if error
        ]
        said = f"broken: {'; '.join(lost)}" if lost else "all kept"
        return f"{len(self.parts)} promises of a model that circuits explain; {said}"

    def columns(self) -> tuple[str, ...]:
        return "part", "promise", "kept", "what is wrong"

    def rows(self) -> list[dict[str, Any]]:
        columns = zip(self.parts, self.promises, self.broken, strict=True)
        return [
            {"part": part, "promise": promise, "kept": not error, "what is wrong": error}
            for part, promise, error in columns
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """What is broken first."""
        return sorted(self.rows(), key=lambda row: row["kept"])[:count]

    def figure(self) -> dict[str, Any]:
        """A bar for each promise: to the right where it is kept, to the left where it is broken."""
        rows = self.answer(len(self.parts))
        names = [f"{row['part']}: {row['promise']}" for row in rows]
        values = [1.0 if row["kept"] else -1.0 for row in rows]
        wrong = {"what is wrong": [row["what is wrong"] or "nothing" for row in rows]}
        title = f"{len(rows)} promises of a model that circuits explain"
        return ranked(names, values, "kept (1) or broken (−1)", title, hover=wrong)


@explains
@torch.no_grad()
def promises(model: Expandable, inputs: Any) -> Promises:
    """Try on one input, part by part, all that circuits take for granted of ``model``.

    For whoever writes a part, a norm or a wiring of their own: ``expand`` refuses a model at the
    first promise that is broken, and this names them all. A norm is a scale of its input, a linear
    map and a constant, with the transpose that it says; a part's writes add up to its own forward
    pass, and each is what its weights say; patterns are the softmax, or the product, of the
    scores, and positions turn by their offset alone; the embedding and the readout do what their
    weights say; and parts, run one after another on the stream so far, give what the model gives.

    Cost: a forward pass in parts, and one for each part. Errors: ArgumentError for what is no model
    (``wiring.Expandable``), and for inputs that it does not take.

        >>> bilens.circuits.promises(bilens.load("tinystories-1l"), "Once upon a time").kept
        True
    """
    require_expandable(model)
    run = explained(model)
    ids = run.read(inputs)
    asked = list(_asked(run, run.wiring(), ids))
    return Promises(
        parts=tuple(who for who, _, _ in asked),
        promises=tuple(promise for _, promise, _ in asked),
        broken=tuple(_error(check) for _, _, check in asked),
    )


def _error(check: Callable[[], Any]) -> str:
    """What is wrong; nothing where the promise is kept."""
    try:
        check()
    except BilensError as error:
        return str(error)
    except Exception as error:  # of a person's own code
        return f"{type(error).__name__}: {error}"
    return ""


def _asked(model: Expandable, wiring: Wiring, ids: Tensor) -> Iterator[Asked]:
    yield "the weights", "are plain numbers", partial(require_plain, wiring)
    yield "the ends", "do what their weights say", partial(require_ends, model, wiring)
    leaves = model.leaves(ids)
    named = [leaf.name for leaf in wiring.leaves]
    yield "the leaves", "are those that the wiring names", partial(_require_named, named, leaves)
    totals = [torch.stack(list(leaves.values())).sum(0)]
    reads: dict[str, Tensor] = {}
    for plain in wiring.parts:
        stream = totals[-1 - plain.beside]
        reads[plain.name] = plain.norm(stream)
        part = plain.sharing(reads.get(plain.shares))
        yield from _of_part(model, part, stream, ids)
        written = part.run(reads[part.name])
        totals.append(totals[-1] + written if wiring.accumulates else written)
    yield "the final norm", "is σ(x) P x + c", partial(_norm, "the final norm", wiring, totals[-1])
    yield (
        "the model",
        "gives what its parts add up to",
        partial(_require_outputs, model, wiring, totals[-1], ids),
    )


def _of_part(
    model: Expandable, part: Part, stream: Float[Tensor, "t d"], ids: Tensor
) -> Iterator[Asked]:
    def written() -> None:
        require_writes(part, read, part.writes(read))

    def scored() -> None:
        assert heads is not None
        require_scores(heads, read, patterns_of(part.writes(read)))

    def turned() -> None:
        assert heads is not None
        require_turns(heads, read[:, : heads.module.d_head])

    read, heads = part.norm(stream), part.attention
    normed = partial(require_norm, f"the norm of {part.name}", part.norm, stream)
    yield part.name, "reads through a norm σ(x) P x + c", normed
    yield part.name, "writes what its weights say", written
    yield part.name, "is called by the model", partial(_require_called, model, part, ids)
    if heads is not None:
        made = "softmax" if heads.module.kind == "softmax" else "product"
        yield part.name, f"looks by the {made} of its scores", scored
        yield part.name, "turns by the offset of positions", turned


def _norm(who: str, wiring: Wiring, stream: Tensor) -> None:
    require_norm(who, wiring.norm, stream)


def _require_named(named: list[str], leaves: dict[str, Tensor]) -> None:
    if sorted(named) != sorted(leaves):
        must = f"be {', '.join(sorted(named))}, as wiring().leaves names them"
        raise ArgumentError("leaves()", must=must, got=", ".join(sorted(leaves)) or "none")


def _require_called(model: Expandable, part: Part, ids: Tensor) -> None:
    """What a part reads and writes is heard by its module."""
    hear(part.passes("output"), "output", lambda: model.outputs(ids))


def _require_outputs(model: Expandable, wiring: Wiring, stream: Tensor, ids: Tensor) -> None:
    """The parts, one after another, are the model's own forward pass."""
    says = wiring.outputs(stream[-1])
    does = model.outputs(ids)[-1]
    worst = int((says - does).abs().argmax())
    sizes = wiring.norm(stream[-1]).abs() @ wiring.readout.abs().mT
    size = float(sizes.max()) or 1.0
    require_sum(float(says[worst]), float(does[worst]), size, says.dtype)

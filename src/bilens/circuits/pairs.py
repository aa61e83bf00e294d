"""The pair matrix of each bilinear layer: which pairs of what it reads make the target,
directly.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import Tile, in_unit, tiled, titled
from bilens.base.records import Record
from bilens.base.results import Result
from bilens.circuits.engine import Engine
from bilens.circuits.paths import Write, text
from bilens.circuits.recording import record
from bilens.circuits.targets import Target, resolve
from bilens.wiring import Expandable, explains


@dataclass(frozen=True, eq=False)
class PairMatrix(Record):
    """One layer over ``sources``: ``values[a, b]`` with a ≤ b is the value of that pair, both its
    orders together, as a term of ``expand`` has it. Below the diagonal are zeros, so that Σ values
    is what the layer writes towards the target.

    >>> matrix = bilens.circuits.pairs(model, prompt, target).matrices[0]
    >>> matrix.layer, matrix.sources
    ('mlp0', ('embed', 'L0H0', 'L0H1', 'L0H2', 'L0H3'))
    """

    layer: str
    sources: tuple[str, ...]
    values: Float[Tensor, "n n"]


@dataclass(frozen=True, repr=False, eq=False)
class Pairs(Result):
    """The pair matrices of all layers that write to the target. ``opaque`` layers have none.
    ``given``: the gates that the values hold as they were ("gates mlp1@4").

    Columns, a row for each unordered pair, the largest first: ``layer``; ``left`` and ``right``:
    the two sources that it multiplies; ``value``: what their product adds to the target, both
    orders together, in ``unit``: logits, or "" for a direction.

    >>> found = bilens.circuits.pairs(model, prompt, target)
    >>> [matrix.layer for matrix in found.matrices]
    ['mlp0', 'mlp1']
    """

    target: str
    position: int
    matrices: tuple[PairMatrix, ...]
    opaque: tuple[str, ...]
    given: tuple[str, ...] = ()
    unit: str = ""

    def summary(self) -> str:
        opaque = f"; opaque: {', '.join(self.opaque)}" if self.opaque else ""
        totals = ", ".join(
            f"{matrix.layer} {float(matrix.values.sum()):.4g}" for matrix in self.matrices
        )
        given = f"; given {', '.join(self.given)}" if self.given else ""
        head = f"pairs towards {self.target} at {self.position}: {totals or 'no layer'}"
        return f"{head}{given}{opaque}"

    def columns(self) -> tuple[str, ...]:
        return "layer", "left", "right", "value"

    def rows(self) -> list[dict[str, Any]]:
        """Unordered pairs of all layers, largest first."""
        found = []
        for matrix in self.matrices:
            for a, b in torch.triu_indices(*matrix.values.shape, device="cpu").mT.tolist():
                pair = {
                    "layer": matrix.layer,
                    "left": matrix.sources[a],
                    "right": matrix.sources[b],
                }
                found.append(pair | {"value": float(matrix.values[a, b])})
        return sorted(found, key=lambda row: -abs(row["value"]))

    def figure(self) -> dict[str, Any]:
        """A triangle for each layer, in one scale of colours; a layer further up has more
        sources.
        """
        tiles = [
            Tile(
                f"{matrix.layer}: {float(matrix.values.sum()):.3g} together",
                _triangle(matrix),
                matrix.sources,
                matrix.sources,
            )
            for matrix in self.matrices
        ]
        title = f"Pairs towards {self.target} at {self.position}, both orders together"
        adds = in_unit("what it adds", self.unit)
        return tiled(tiles, adds, titled(title, "one source", "the other"))


def _triangle(matrix: PairMatrix) -> list[list[float | None]]:
    """Each pair once: below the diagonal is nothing."""
    return [
        [None if column < row else value for column, value in enumerate(line)]
        for row, line in enumerate(matrix.values.tolist())
    ]


@explains
@torch.no_grad()
def pairs(model: Expandable, inputs: Any, target: Target = None, position: int = -1) -> Pairs:
    """For each bilinear layer that writes to ``target`` (see ``expand``), the values of all pairs
    of what it reads.

    M = (L X)ᵀ Λ (R X), with X what each source wrote and Λ = diag(Dᵀ q), and a pair's value M_ab +
    M_ba: heads are one source each, summed over the positions they look at. Cost: a forward pass in
    parts, and O(h d n + h n²) for each layer with n sources.

    >>> found = bilens.circuits.pairs(model, prompt, target)
    >>> found.matrices[1].layer
    'mlp1'
    """
    recording = record(model, inputs)
    goal = resolve(model, recording, target, position, measured=False)
    engine, found, given = Engine(recording), [], []
    for name, product in recording.products.items():
        if product.degree == 2 and Write(name, goal.position) in goal.roots:
            values, nodes = engine.pair_matrix(name, goal.position, goal.q)
            found.append(PairMatrix(name, tuple(map(text, nodes)), values))
            if product.gate is not None:
                given += [f"{held}@{goal.position}" for held in product.gate.given]
    held, opaque = tuple(given), recording.opaque
    return Pairs(goal.name, goal.position, tuple(found), opaque, held, goal.unit)

"""What one layer makes of a small change of what it reads, and how it curves, in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.base.charts import DRAWN, in_unit, ranked
from bilens.base.errors import ArgumentError
from bilens.base.numerics import eigh, is_whole, near_one, require_finite
from bilens.base.results import Result
from bilens.circuits.recording import Recording, record
from bilens.circuits.targets import Target, resolve
from bilens.wiring import Expandable, Multilinear, explains

NAMES = 4  # tokens by which an end of a direction is named
BLOCK = 4096  # outputs at a time


@dataclass(frozen=True, repr=False, eq=False)
class QuadraticLens(Result):
    """A quadratic layer f at what it reads at one position, x̄, as it is heard in the outputs:

        W_U f(x̄ + ε) = W_U f(x̄) + W_U · 2 S(x̄, ·) ε + W_U · S(ε, ε)

    The Jacobian W_U · 2 S(x̄, ·) by its largest singular values: moving what is read by 1 along
    ``directions`` moves the outputs by so much (the root of Σ squares). And for the target u the
    Hessian 2 u · W_U S, which is the same wherever x̄ is, by its eigenvalues of largest size.

    Columns of ``to_frame()``: ``what``, "jacobian" or "hessian of" the target; the singular or
    eigen ``value``; ``share``, its square in Σ squares of all of them; ``here``, what x̄ has along
    the direction; ``reads`` and ``reads, minus``: the tokens whose embeddings lie farthest along
    the direction and against it, which is turned so that x̄ has more than nothing of it; ``adds``
    and ``takes``: the outputs that the move raises and lowers most (of the Jacobian). ``unit``: of
    the target, logits, or "" for a direction.
    """

    layer: str
    target: str
    position: int
    token: str
    values: Float[Tensor, " k"]
    shares: Float[Tensor, " k"]
    here: Float[Tensor, " k"]
    directions: Float[Tensor, "k i"]
    names: tuple[tuple[str, ...], ...]
    curved: int  # how many of the last are the Hessian's
    unit: str = ""

    def summary(self) -> str:
        jacobian = len(self.values) - self.curved
        kept, curve = float(self.shares[:jacobian].sum()), float(self.shares[jacobian:].sum())
        return (
            f"{self.layer} at {self.position} {self.token}: {jacobian} directions of its Jacobian "
            f"in the outputs ({kept:.0%} of Σ squares) and {self.curved} of the Hessian of "
            f"{self.target} ({curve:.0%}); norms, gates and a soft-cap as they are in this pass"
        )

    def columns(self) -> tuple[str, ...]:
        return "what", "value", "share", "here", "reads", "reads, minus", "adds", "takes"

    def rows(self) -> list[dict[str, Any]]:
        jacobian = len(self.values) - self.curved
        kinds = ["jacobian"] * jacobian + [f"hessian of {self.target}"] * self.curved
        values, shares, here = (x.tolist() for x in (self.values, self.shares, self.here))
        every = zip(kinds, values, shares, here, self.names, strict=True)
        return [dict(zip(self.columns(), (*of, *named), strict=True)) for *of, named in every]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()[-self.curved :][:DRAWN] if self.curved else self.rows()[:DRAWN]
        ends = [(row["reads"].split()[:2], row["reads, minus"].split()[:2]) for row in rows]
        names = [f"{' '.join(plus)} | {' '.join(minus)}" for plus, minus in ends]
        told = ("reads", "reads, minus", "share", "here", "adds", "takes")
        hover = {name: [row[name] for row in rows] for name in told}
        what = f"hessian of {self.target}" if self.curved else "jacobian"
        title = f"{what.capitalize()}, by {self.layer} at {self.position} {self.token}"
        bent = in_unit("curvature", self.unit and f"{self.unit} per squared unit")
        axis = bent if self.curved else "logits per unit"
        return ranked(names, [row["value"] for row in rows], axis, title, hover=hover)


@explains
@torch.no_grad()
def quadratic_lens(
    model: Expandable,
    inputs: Any,
    layer: str,
    target: Target = None,
    position: int = -1,
    *,
    k: int = 8,
) -> QuadraticLens:
    """How the outputs change where what ``layer`` ("mlp1") reads at ``position`` changes a little,
    and how it curves towards ``target``: what pairs of directions it multiplies there.

    x̂ is what the layer reads, after its norm; ``k`` directions of each are kept. Gated layers are
    taken given their gates, which makes both exact of the layer as the pass fixed it.
    Directions of which nothing but rounding is left are none: there are fewer, where the layer has
    fewer. ``target``, as in ``expand``; None is the likeliest output. Work is in float64. Cost: two
    forward passes, O(d h i + V d² + i³). Errors: ArgumentError for a layer that is not quadratic,
    and a target or position that is not there.

    >>> import bilens
    >>> model = bilens.load("tinystories-2l")
    >>> found = bilens.circuits.quadratic_lens(model, "Once upon a time", "mlp1", " there", k=3)
    >>> len(found.rows())
    6
    """
    if not is_whole(k) or k < 1:
        raise ArgumentError("k", must="be a whole number ≥ 1", got=k)
    recording = record(model, inputs)
    goal = resolve(model, recording, target, position, measured=False)
    product, t = _quadratic(recording, layer), goal.position
    left, right = product.form.legs
    n = recording.site(product, 0)
    read = recording.norm(n)(recording.streams[n][t])
    into = [leg.weight.double() for leg in (left, right)]
    eye = torch.eye(len(goal.q), dtype=read.dtype, device=read.device)
    gates = product.down(eye, t)  # what each hidden unit writes, by t
    held = [leg(read).double()[:, None] for leg in (left, right)]
    moves = gates.double() @ (held[1] * into[0] + held[0] * into[1])
    heard = _heard(recording, t)
    values, directions, shares = _singular(heard, moves, k)
    lam = product.down(goal.q, t).double()
    curve = (into[0] * lam[:, None]).mT @ into[1]
    bent, along, of_squares = _largest(curve + curve.mT, k)
    values, directions, bent, along, moves = (
        made.to(read) for made in (values, directions, bent, along, moves)
    )
    found = torch.cat([directions, along])
    here = found @ read
    found = found * torch.where(here < 0, -1.0, 1.0)[:, None].to(found)
    raised = [heard @ (moves @ v) for v in found[: len(values)]]
    return QuadraticLens(
        layer=layer,
        target=goal.name,
        position=t,
        token=recording.names[t],
        values=torch.cat([values, bent]),
        shares=torch.cat([shares, of_squares]).to(read),
        here=here.abs(),
        directions=found,
        names=tuple(_named(model, recording, n, found, raised)),
        curved=len(bent),
        unit=goal.unit,
    )


def _quadratic(recording: Recording, layer: str) -> Multilinear:
    """The layer's write. Errors: ArgumentError for one that is not quadratic at its position."""
    quadratic = {
        name: one
        for name, one in recording.products.items()
        if isinstance(one, Multilinear) and one.degree == 2 and not one.looks
    }
    if not isinstance(layer, str) or layer not in quadratic:
        listed = ", ".join(quadratic) or "none here"
        raise ArgumentError("layer", must=f"be quadratic in what it reads: {listed}", got=layer)
    return quadratic[layer]


def _heard(recording: Recording, t: int) -> Float[Tensor, "out d"]:
    """How the outputs hear what is written at t, the final norm's scale and a soft-cap held."""
    gate = recording.cap_gate(t)
    readout = recording.wiring.readout
    capped = gate[:, None] * readout if isinstance(gate, Tensor) else readout
    return recording.pull(len(recording.wiring.parts), capped, t)


def _singular(
    heard: Float[Tensor, "out d"], moves: Float[Tensor, "d i"], k: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k i"], Float[Tensor, " k"]]:
    """The largest singular values of heard · moves that are no rounding, the directions that are
    read, and the shares of Σ squares: by the triangle R of heard = Q R, as a Gram matrix has half
    the digits.
    """
    triangle = heard[:0].to(moves)
    for rows in heard.split(BLOCK):
        triangle = torch.linalg.qr(torch.cat([triangle, rows.to(moves)]), mode="r").R
    require_finite("the readout", outputs=triangle)
    _, values, directions = torch.linalg.svd(triangle @ moves, full_matrices=False)
    some = slice(min(k, _above(values, max(moves.shape))))
    return values[some], directions[some], _shares(values)[some]


def _above(sizes: Float[Tensor, " n"], terms: int) -> int:
    """How many of the sizes, largest first, are above what sums of so many terms round."""
    return int((sizes > terms * torch.finfo(sizes.dtype).eps * sizes[:1]).sum())


def _largest(
    matrix: Float[Tensor, "i i"], k: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k i"], Float[Tensor, " k"]]:
    """The eigenvalues of largest size that are no rounding, their vectors, and their shares of Σ
    squares.
    """
    values, vectors = eigh(matrix)
    order = values.abs().argsort(descending=True)
    order = order[: min(k, _above(values[order].abs(), len(matrix)))]
    return values[order], vectors[:, order].mT, _shares(values)[order]


def _shares(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """What of Σ squares each has, whatever their size: of zeros none has any."""
    squares = near_one(values)[0].square()
    return squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)


def _named(
    model: Expandable,
    recording: Recording,
    part: int,
    directions: Float[Tensor, "k i"],
    raised: Sequence[Float[Tensor, " out"]],
) -> list[tuple[str, ...]]:
    """The ends of each direction, and of what it raises, in names."""
    norm = recording.norm(part)
    leaf, *_ = model.leaf_weights().values()
    along = norm.linear(leaf.detach().to(directions)) @ directions.mT
    outputs = len(recording.wiring.readout)
    found = []
    for n, scores in enumerate(along.T):
        named = len(scores) == outputs
        reads = [_ends(scores, sign, model if named else None) for sign in (1, -1)]
        writes = (
            [_ends(raised[n], sign, model) for sign in (1, -1)] if n < len(raised) else ["", ""]
        )
        found.append((*reads, *writes))
    return found


def _ends(scores: Float[Tensor, " n"], sign: int, model: Expandable | None) -> str:
    """The names at one end; numbers where inputs have none."""
    best = (sign * scores).topk(min(NAMES, len(scores))).indices.tolist()
    return " ".join(map(str, best) if model is None else model.output_names(best))

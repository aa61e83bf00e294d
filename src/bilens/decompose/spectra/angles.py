"""Principal angles between the eigenspaces of two spectra, such as of two seeds, where a comparison
means something.

Eigenvectors of degenerate eigenvalues are arbitrary within their span, so spans are compared: the
j-th largest positive eigenvalue of one goes with the j-th of the other, negative ones likewise, and
pairs join into one block where either side holds them to be degenerate. How far a span can be
trusted is a matter of its gap δ, the distance from its eigenvalues to all others:

    sin θ(computed, true) ≤ ‖R‖ / δ                Davis and Kahan 1970, with R = Q V − V Λ the
                                                   residuals of the block
    ‖Q_A − Q_B‖ ≥ ½ δ ‖sin Θ‖                      Yu, Wang and Samworth 2015, theorem 2: what so
                                                   large an angle takes
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens.algebra import Eigen, Which, eigen_noise, preference
from bilens.base.charts import MARKER, POSITIVE, REFERENCE, curve, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import is_number
from bilens.base.results import ANSWER_ROWS, Result
from bilens.base.words import counting
from bilens.decompose.spectra.weighted import WeightedEigen

TURN = "largest angle (°)"


@dataclass(frozen=True, repr=False, eq=False)
class Angles(Result):
    """Blocks of two spectra, compared as subspaces; a row of each tensor per block.

    Fields:
        of: the direction (flattened batch) that the block is of. labels: names of the directions,
            or none.
        positions: of the block's eigenpairs in each of the two spectra.
        values: the mean eigenvalue of the block in each. size: how many eigenpairs it has.
        angles: of each block, its principal angles in radians, smallest first; none where it is not
            ``whole``.
        gap: the distance of its eigenvalues to all others, in each; at least this, where not all
            were computed.
        uncertainty: how far its span in both may be off by the residuals, in radians (π/2: by
            anything).
        whole: whether all of it was kept on both sides. A part of a degenerate block has no
            direction to compare.
        change: the least ‖Q_A − Q_B‖ that turns it so far. norm: ‖Q‖, the larger of the two; NaN
            where not measured.
        unmatched: eigenpairs of either side that have no counterpart on the other, since of another
            sign.
        tol: the uncertainty up to which an angle is ``trusted``.

    Columns, a row for each block: ``of``: the direction; ``pairs`` and ``with``: its eigenpairs in
    the one spectrum and in the other; ``value`` and ``other value``: the mean eigenvalue in each;
    ``largest angle (°)`` between the two spans; ``gap``: the smaller of the two; ``uncertainty
    (°)`` and ``trusted`` as above; ``least change of ‖Q‖``: ``change`` over ``norm``.

    >>> a = bilens.decompose.eigen(T, torch.eye(128)[:1], k=2)
    >>> float(bilens.decompose.angles(a, a).largest.max()) < 1e-3
    True
    """

    of: Int[Tensor, " m"]
    labels: tuple[str, ...]
    positions: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    values: Float[Tensor, "m 2"]
    size: Int[Tensor, " m"]
    angles: tuple[tuple[float, ...], ...]
    gap: Float[Tensor, "m 2"]
    uncertainty: Float[Tensor, " m"]
    whole: Bool[Tensor, " m"]
    change: Float[Tensor, " m"]
    norm: Float[Tensor, " m"]
    unmatched: int
    tol: float

    @property
    def trusted(self) -> Bool[Tensor, " m"]:
        """Whether a block is whole and its angles are good to ``tol``."""
        return self.whole & (self.uncertainty <= self.tol)

    @property
    def largest(self) -> Float[Tensor, " m"]:
        """The largest principal angle of each block, NaN where it is not whole."""
        return torch.tensor(
            [turned[-1] if turned else math.nan for turned in self.angles],
            dtype=torch.float64,
            device="cpu",
        )

    def summary(self) -> str:
        trusted = self.largest[self.trusted]
        worst = (
            f", turned {math.degrees(float(trusted.max())):.3g}° at most" if len(trusted) else ""
        )
        left = len(self.of) - len(trusted)
        sure = f"{len(trusted)} trusted to {self.tol:.3g} rad{worst}"
        return f"{counting(len(self.of), 'blocks')} of eigenpairs; {sure}; {left} not"

    def columns(self) -> tuple[str, ...]:
        return (
            "of",
            "pairs",
            "with",
            "value",
            "other value",
            "largest angle (°)",
            "gap",
            "uncertainty (°)",
            "trusted",
            "least change of ‖Q‖",
        )

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "of": self._label(int(self.of[n])),
                "pairs": " ".join(map(str, mine)),
                "with": " ".join(map(str, theirs)),
                "value": float(self.values[n, 0]),
                "other value": float(self.values[n, 1]),
                "largest angle (°)": math.degrees(float(self.largest[n])),
                "gap": float(self.gap[n].min()),
                "uncertainty (°)": math.degrees(float(self.uncertainty[n])),
                "trusted": bool(self.trusted[n]),
                "least change of ‖Q‖": float(self.change[n] / self.norm[n])
                if float(self.norm[n])
                else 0.0,
            }
            for n, (mine, theirs) in enumerate(self.positions)
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The blocks of which a comparison means something, those that turned most first."""
        rows = sorted(self.rows(), key=_turned_most)[:count]
        told = ("of", "pairs", "with", "largest angle (°)", "uncertainty (°)", "value", "trusted")
        return [{key: row[key] for key in told} for row in rows]

    def figure(self) -> dict[str, Any]:
        traces = []
        for trusted, name in ((True, "trusted"), (False, "not trusted")):
            rows = [row for row in self.rows() if row["trusted"] is trusted]
            sizes, turns = [abs(row["value"]) for row in rows], [row[TURN] for row in rows]
            hover = {
                "of": [row["of"] for row in rows],
                "pairs": [f"{row['pairs']} with {row['with']}" for row in rows],
                "λ": [row["value"] for row in rows],
                TURN: turns,
            }
            marks = curve(name, sizes, turns, hover=hover, mode="markers")
            marks["error_y"] = {"type": "data", "array": [row["uncertainty (°)"] for row in rows]}
            marks["marker"] = {"color": POSITIVE if trusted else REFERENCE, "size": MARKER}
            traces.append(marks)
        title = f"How far eigenspaces turned: {counting(len(self.of), 'blocks')} of eigenpairs"
        return {"data": traces, "layout": titled(title, "|λ|", TURN)}

    def _label(self, n: int) -> str:
        return self.labels[n] if n < len(self.labels) else str(n)


def _turned_most(row: dict[str, Any]) -> tuple[bool, float]:
    angle = row[TURN]
    return not row["trusted"], math.inf if math.isnan(angle) else -angle


@torch.no_grad()
def angles(A: Eigen, B: Eigen, *, tol: float = 1e-2) -> Angles:
    """Principal angles between the eigenspaces of ``A`` and of ``B``, direction by direction,
    blocks taken whole.

    Both must hold the same directions, number of pairs, inputs and order (``which``). Blocks that
    one of them holds only in part (its ``cut``, or a counterpart that fell to the other sign) are
    listed and not compared. An eigenvalue within rounding of zero counts as neither positive nor
    negative. Work is in float64; cost k² i per direction. Errors: ShapeError, ArgumentError where
    the two do not fit together or ``tol`` is no angle. Source: Björck and Golub 1973 for the
    angles: from cosines above 45°, from sines below.

    >>> a = bilens.decompose.eigen(T, torch.eye(128)[:1], k=2)
    >>> found = bilens.decompose.angles(a, a)
    >>> found.values.shape
    torch.Size([2, 2])
    """
    for given in (A, B):
        if not isinstance(given, Eigen):
            raise ArgumentError(
                "angles", must="be given two Eigen results", got=type(given).__name__
            )
        if isinstance(given, WeightedEigen):
            must = "compare spectra whose vectors are orthonormal"
            todo = "Those of a WeightedEigen are so under its measure only: compare its .plain."
            raise ArgumentError("angles", must=must, got="a WeightedEigen", todo=todo)
    if A.vectors.shape != B.vectors.shape:
        must = f"compare spectra of one shape (..., k, i): {tuple(A.vectors.shape)}"
        raise ShapeError(
            "angles",
            must=must,
            got=tuple(B.vectors.shape),
            todo="Ask both for the same directions and k.",
        )
    if A.which != B.which:
        raise ArgumentError("angles", must=f"compare two spectra by {A.which}", got=B.which)
    if not is_number(tol) or not 0 <= tol <= math.pi / 2:
        raise ArgumentError("tol", must="be an angle in radians, 0 … π/2", got=repr(tol))
    if A.values.numel() == 0:
        raise ShapeError("angles", must="compare at least one eigenpair", got=tuple(A.values.shape))
    flat = list(zip(A._flat(), B.to(A.values.device)._flat(), strict=True))
    found = [
        _compare(n, block, one, two)
        for n, (one, two) in enumerate(flat)
        for block in _blocks(one, two)
    ]
    return Angles(
        of=torch.tensor([block.of for block in found], dtype=torch.int64, device="cpu"),
        labels=A.labels or B.labels,
        positions=tuple((block.mine, block.theirs) for block in found),
        values=_column([block.values for block in found], 2),
        size=torch.tensor([len(block.mine) for block in found], dtype=torch.int64, device="cpu"),
        angles=tuple(block.angles for block in found),
        gap=_column([block.gap for block in found], 2),
        uncertainty=_column([block.uncertainty for block in found]),
        whole=torch.tensor([block.whole for block in found], dtype=torch.bool, device="cpu"),
        change=_column([block.change for block in found]),
        norm=_column([block.norm for block in found]),
        unmatched=A.values.numel() - sum(len(block.mine) for block in found),
        tol=tol,
    )


class _Block(NamedTuple):
    """Positions of one block in two spectra, and whether both hold it whole."""

    mine: tuple[int, ...]
    theirs: tuple[int, ...]
    whole: bool


class _Compared(NamedTuple):
    of: int
    mine: tuple[int, ...]
    theirs: tuple[int, ...]
    whole: bool
    values: list[float]
    angles: tuple[float, ...]
    gap: list[float]
    uncertainty: float
    change: float
    norm: float


def _compare(of: int, block: _Block, one: Eigen, two: Eigen) -> _Compared:
    sides = (one, list(block.mine)), (two, list(block.theirs))
    turned = _principal(*(side.vectors[at].double() for side, at in sides))
    gaps = [_gap(side, at) for side, at in sides]
    sines = float(turned.sin().norm())
    return _Compared(
        of=of,
        mine=block.mine,
        theirs=block.theirs,
        whole=block.whole,
        values=[float(side.values[at].mean()) for side, at in sides],
        angles=tuple(turned.tolist()) if block.whole else (),
        gap=gaps,
        uncertainty=min(math.pi / 2, sum(_uncertainty(side, at) for side, at in sides)),
        change=0.5 * max(gaps) * sines if block.whole and math.isfinite(max(gaps)) else 0.0,
        norm=float(torch.maximum(one.norm.double(), two.norm.double())),
    )


def _blocks(one: Eigen, two: Eigen) -> list[_Block]:
    """Pairs of positions, joined where either spectrum has them in one degenerate block."""
    pairs = [
        pair
        for mine, theirs in zip(_kinds(one), _kinds(two), strict=True)
        for pair in zip(mine, theirs, strict=False)
    ]
    numbers = [(int(one.blocks[a]), int(two.blocks[b])) for a, b in pairs]
    joined: list[list[int]] = []
    for n, (mine, theirs) in enumerate(numbers):
        near = [
            block
            for block in joined
            if any(mine == numbers[m][0] or theirs == numbers[m][1] for m in block)
        ]
        joined = [block for block in joined if block not in near] + [
            [m for block in near for m in block] + [n]
        ]
    broken = _broken(one, {a for a, _ in pairs}), _broken(two, {b for _, b in pairs})
    blocks = [
        _Block(
            tuple(pairs[m][0] for m in block),
            tuple(pairs[m][1] for m in block),
            not any(numbers[m][side] in broken[side] for m in block for side in (0, 1)),
        )
        for block in joined
    ]
    return sorted(blocks, key=lambda block: min(block.mine))


def _kinds(spectrum: Eigen) -> list[list[int]]:
    """Positions that may stand for each other: of one sign where large eigenvalues of either sign
    come first.
    """
    if spectrum.which != "magnitude":
        return [list(range(len(spectrum.values)))]
    floor, values = _floor(spectrum), spectrum.values.tolist()
    signs = [0 if abs(value) <= floor else 1 if value > 0 else -1 for value in values]
    return [[n for n, sign in enumerate(signs) if sign == kind] for kind in (1, -1, 0)]


def _broken(spectrum: Eigen, matched: set[int]) -> set[int]:
    """The numbers of blocks that are not whole: cut off, or with members that match nothing."""
    lost = {int(number) for n, number in enumerate(spectrum.blocks) if n not in matched}
    return lost | ({int(spectrum.blocks[-1])} if bool(spectrum.cut) else set())


def _floor(spectrum: Eigen) -> float:
    """How far rounding alone moves eigenvalues."""
    return eigen_noise(getattr(torch, spectrum.computed_in), spectrum.vectors.shape[-1]) * float(
        spectrum.largest
    )


def _gap(spectrum: Eigen, at: list[int]) -> float:
    """The distance from a block's eigenvalues to all others; to where others may lie, of those
    Lanczos did not look for.
    """
    outside = torch.ones(len(spectrum.spectrum), dtype=torch.bool, device="cpu")
    outside[at] = False
    inside, rest = spectrum.values[at].double(), spectrum.spectrum[outside].double()
    gap = float((inside[:, None] - rest).abs().min()) if len(rest) else math.inf
    if len(spectrum.spectrum) < spectrum.vectors.shape[-1]:
        which = cast(Which, spectrum.which)
        last = preference(spectrum.values[-1].double(), which)
        gap = min(gap, float((preference(inside, which) - last).min()))
    return gap


def _uncertainty(spectrum: Eigen, at: list[int]) -> float:
    if not bool(spectrum.complete):
        return math.pi / 2  # what is missing may belong to the block, or stand between
    floor = _floor(spectrum)
    residual = max(float(spectrum.residuals[at].norm()), floor)
    # the others are computed too
    apart = _gap(spectrum, at) - max(float(spectrum.residuals.max()), floor)
    return math.asin(residual / apart) if apart > residual else math.pi / 2


def _principal(one: Float[Tensor, "k i"], two: Float[Tensor, "k i"]) -> Float[Tensor, " k"]:
    """Angles between two spans with orthonormal rows, smallest first."""
    inner = one @ two.mT
    cosines = torch.linalg.svdvals(inner).clamp(0, 1)
    sines = torch.linalg.svdvals(two - inner.mT @ one).clamp(0, 1)[: len(cosines)].flip(0)
    return torch.where(cosines > 0.5**0.5, sines.asin(), cosines.acos())


def _column(entries: list[Any], width: int | None = None) -> Tensor:
    shape = (len(entries),) if width is None else (len(entries), width)
    return torch.tensor(entries, dtype=torch.float64, device="cpu").reshape(shape)

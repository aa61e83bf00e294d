"""A bilinear layer in feature space: how every output feature is made of pairs of input features,
nothing dropped.

A latent of the outputs is pre_o = reads_o · m(x) + offset_o. An input is x = base + Σ_f a_f w_f +
e, where e is what its dictionary leaves. With ã = (1, a) and W̃ of rows base, w_1, w_2, …, x = W̃ᵀ
ã + e, so that

    pre(x) = T'(ã, ã) + 2 S'(W̃ᵀ ã, e) + S'(e, e)
    T'_oab = Σ reads_ok T_kij W̃_ai W̃_bj + offset_o [a = b = 0]

exactly, with S' the symmetric part over x. T' is a CP of rank h + 1. Its blocks over ã are a
constant (0,0), a linear part (0,f) + (f,0) and the quadratic part (f,g). A layer with biases is a
tensor over x̃ = (1, x): then W̃ has rows (1, base) and (0, w_f), and e becomes (0, e). Source:
maths of feature construction, after Sharkey, arXiv:2305.03452, section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, Factored, constant
from bilens.base.charts import DRAWN, mapped, titled
from bilens.base.errors import ArgumentError, ShapeError
from bilens.base.numerics import dtype_name, peak, require_finite, working_dtype
from bilens.base.records import Record
from bilens.base.results import ANSWER_ROWS, Result
from bilens.base.words import counting
from bilens.decompose import TopEntries, top_entries
from bilens.features.dictionary import ELSEWHERE, Dictionary
from bilens.features.forms import FeatureForm
from bilens.features.latents import halves_raised, names_of, require_features
from bilens.features.pairs import feature_name

Rows = Dictionary | Tensor  # a dictionary, or its rows alone
PARTS = ("constant", "linear", "self", "cross", "error", "features × error", "error × error")
BLOCK = 512  # features whose own squares are held at once, h numbers each


@dataclass(frozen=True, repr=False, eq=False)
class Explanation(Result):
    """Pre-activations of output features on real inputs, each as a sum of parts: ``parts`` (n,
    feature, part).

    The parts are those of ``PARTS``: the constant; linear in the latents; their squares ("self");
    products of two ("cross"); and with what the dictionary leaves of x: alone with the base and
    biases ("error"), with the latents, with itself. ``truth`` (n, feature): the pre-activation from
    the layer itself. ``latents`` (n, feature): what the output dictionary makes of it (relu, top-k
    or a threshold), which is no sum of parts; None where outputs are rows.

    Columns, a row for each input and feature: ``input``, ``feature``; what each part adds:
    ``constant``, ``linear``, ``self``, ``cross``, ``error``, ``features × error``, ``error ×
    error``; their ``total``; ``pre-activation``: the layer's own; ``latent``, where there are such.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> made = bilens.features.interactions(T1, outputs=out, inputs=D)
    >>> found = made.explain([17], x)
    >>> found.parts.shape  # inputs, features, parts
    torch.Size([4, 1, 7])
    """

    features: tuple[int, ...]
    names: tuple[str, ...]
    parts: Float[Tensor, "n m p"]
    truth: Float[Tensor, "n m"]
    latents: Float[Tensor, "n m"] | None = None

    @property
    def total(self) -> Float[Tensor, "n m"]:
        """The sum of all parts."""
        return self.parts.sum(-1)

    @property
    def error(self) -> float:
        """The largest |total − truth|, over the largest part."""
        largest = float(peak(self.parts))
        return float(peak(self.total - self.truth)) / largest if largest else 0.0

    def summary(self) -> str:
        n, m, _ = self.parts.shape
        what = f"{counting(m, 'features')} on {counting(n, 'inputs')} in {len(PARTS)} parts"
        return f"{what}; they sum to the pre-activations, the layer's own but for {self.error:.2g}"

    def columns(self) -> tuple[str, ...]:
        latent = () if self.latents is None else ("latent",)
        return ("input", "feature", *PARTS, "total", "pre-activation", *latent)

    def rows(self) -> list[dict[str, Any]]:
        return [self._row(n, m) for n in range(len(self.parts)) for m in range(len(self.names))]

    def _row(self, n: int, m: int) -> dict[str, Any]:
        parts = self.parts[n, m].tolist()
        row = {"input": n, "feature": self.names[m]} | dict(zip(PARTS, parts, strict=True))
        row |= {"total": sum(parts), "pre-activation": self.truth[n, m].item()}
        return row if self.latents is None else row | {"latent": self.latents[n, m].item()}

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The largest pre-activations, each with its largest part."""
        return [
            {key: row[key] for key in ("input", "feature", "pre-activation")}
            | {"mostly": _mostly(row)}
            for row in self._largest_first()[:count]
        ]

    def figure(self) -> dict[str, Any]:
        """The parts of the largest pre-activations, a row for each input and feature."""
        rows = self._largest_first()
        shown = rows[:DRAWN]
        names = [f"{row['feature']} on input {row['input']}" for row in shown]
        columns = (*PARTS, "total")
        values = [[row[part] for part in columns] for row in shown]
        texts = [[f"{value:.2g}" for value in line] for line in values]
        more = f", the {len(shown)} largest of {len(rows)}" if len(rows) > len(shown) else ""
        layout = titled(f"Pre-activations by what makes them{more}", "part", "")
        return mapped(values, columns, names, "what it adds", layout, texts=texts)

    def _largest_first(self) -> list[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -abs(row["pre-activation"]))


def _mostly(row: dict[str, Any]) -> str:
    """The largest part of a pre-activation."""
    part = max(PARTS, key=lambda name: abs(row[name]))
    return f"{part} {row[part]:+.3g}"


@dataclass(frozen=True, repr=False, eq=False)
class Interactions(Record):
    """A layer between two dictionaries: output latents as a tensor over the input latents, kept in
    factors.

    Fields: ``layer``: the CP over x or (1, x). ``reads`` (f_out, o), ``offset`` (f_out,): pre =
    m(x) · readsᵀ + offset.
    ``writes`` (f_in, i), ``base`` (i,): x = base + a · writes + e. ``inputs``, ``outputs``: the
    dictionaries that encode x and what the layer writes, where there are such. ``out_names``,
    ``in_names``: of the features, or nothing.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> made = bilens.features.interactions(T1, outputs=out, inputs=D)
    >>> made.of(17).top(5).values.shape
    torch.Size([5])
    """

    layer: CP
    reads: Float[Tensor, "f_out o"]
    offset: Float[Tensor, " f_out"]
    writes: Float[Tensor, "f_in i"]
    base: Float[Tensor, " i"]
    inputs: Dictionary | None
    out_names: tuple[str, ...]
    in_names: tuple[str, ...]
    outputs: Dictionary | None = None

    def __post_init__(self) -> None:
        # files from before a CP said so itself hold layers over (1, x) that do not
        if not self.layer.affine and self.layer.shape[1] == self.writes.shape[1] + 1:
            object.__setattr__(self, "layer", replace(self.layer, affine=True))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(f_out, f_in, f_in)."""
        return len(self.reads), len(self.writes), len(self.writes)

    @property
    def biased(self) -> bool:
        """Whether the layer is a tensor over (1, x)."""
        return self.layer.affine

    @cached_property
    def tensor(self) -> CP:
        """The layer in feature space, over (1, a): a CP of rank h + 1. T'((1, a)) + the error's
        parts = pre(x).

        Cost h (o f_out + 2 i f_in) once; memory h (f_out + 2 f_in).
        """
        rows = torch.cat([self.base[None], self.writes])
        if self.biased:
            rows = torch.cat([torch.zeros_like(rows[:, :1]), rows], 1)
            rows[0, 0] = 1
        mapped = self.layer.map(out=self.reads, left=rows, right=rows)
        return replace(mapped, affine=True) + constant(self.offset, len(rows))

    @cached_property
    def constant(self) -> Float[Tensor, " f_out"]:
        """What output latents are where no input latent is active: reads · T(base, base) + offset,
        biases included.
        """
        left, right = self._hidden(self.base, True)
        return (left * right) @ self._out.mT + self.offset

    @cached_property
    def linear(self) -> Factored:
        """(f_out, f_in) in factors of rank h: 2 reads S(base, w_f)."""
        left, right = self._hidden(self.base, True)
        into_left, into_right = self._hidden(self.writes, False)
        return Factored(self._out, (into_right * left + into_left * right).mT)

    @cached_property
    def quadratic(self) -> CP:
        """T over pairs of input latents: reads_o T(w_f, w_g), a CP of rank h. Only its symmetric
        part acts.
        """
        left, right = self._hidden(self.writes, False)
        return CP(self._out, left.mT, right.mT)

    def of(self, feature: int) -> FeatureForm:
        """How output latent ``feature`` is made of pairs of input latents. Cost h (o + 2 i) + f_in
        i.

        Errors: ArgumentError for an index out of range; NotFiniteError.
        """
        (feature,) = self._require((feature,))
        form = self._over_x.interaction(self.reads[feature])
        left, right = self._hidden(self.base, True)
        weights = form.weights
        slope = (weights * right) @ form.left + (weights * left) @ form.right
        value = (weights * left * right).sum() + self.offset[feature]
        name = f"output {feature_name(self.out_names, feature)}"
        form = form.to(working_dtype(form.dtype))
        writes = self.writes.to(form.dtype)
        return FeatureForm(feature, name, form, writes, value, self.writes @ slope, self.in_names)

    def explain(
        self,
        features: int | Sequence[int],
        x: Float[Tensor, "n i"],
        a: Float[Tensor, "n f_in"] | None = None,
    ) -> Explanation:
        """The pre-activations of output ``features`` on inputs ``x``, in parts that sum to them
        exactly.

        The latents themselves stand beside them: the activation function is not a sum, and is not
        taken apart. Those of a batchtopk dictionary depend on all of ``x`` together. ``a``: the
        input latents, where they are not what ``inputs`` encodes. Half types are worked in float32.
        Cost per input h (2 i + o), o f_out for the latents and a few h m, and 2 h i + n h for each
        latent active on any. Memory n (h + f_out), and ``BLOCK`` h. Errors: ArgumentError for an
        index out of range, or no ``a`` where inputs are rows alone; ShapeError; NotFiniteError.
        """
        chosen = self._require(features)
        x, a = self._latents(x, a)
        left, right = self._hidden(self.base, True)
        ones = a @ self.writes
        (left_a, right_a), (left_e, right_e) = (
            self._hidden(ones, False),
            self._hidden(x - self.base - ones, False),
        )
        own = self._squares(a)
        hidden = (
            left * right, left * right_a + left_a * right, own, left_a * right_a - own,
            left * right_e + left_e * right, left_a * right_e + left_e * right_a, left_e * right_e,
        )  # fmt: skip
        out = (self.reads[chosen] @ self.layer.out).mT
        parts = torch.stack([(part @ out).expand(len(x), -1) for part in hidden], -1)
        parts[..., 0] += self.offset[chosen]
        return Explanation(
            features=tuple(chosen),
            names=tuple(feature_name(self.out_names, f) for f in chosen),
            parts=parts,
            truth=self.pre(x)[:, chosen],
            latents=None
            if self.outputs is None
            else self.outputs.encode(self._written(x))[:, chosen],
        )

    def pre(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b f_out"]:
        """The output latents' pre-activations, from the layer itself: reads · m(x) + offset."""
        return self._written(x) @ self.reads.mT + self.offset

    def top_entries(
        self, k: int = 20, budget: int | None = None, rows: Sequence[int] | None = None
    ) -> TopEntries:
        """The ``k`` largest over all output latents and unordered pairs of input latents: exact,
        with a certificate.

        Of the coefficients of a_f a_g, both orders of a cross pair summed, by which
        ``FeatureForm.top`` ranks too.
        ``budget`` and cost: see ``decompose.top_entries``.
        """
        names = {"out": self.out_names, "left": self.in_names, "right": self.in_names}
        given = {mode: of for mode, of in names.items() if of}
        return top_entries(self.quadratic, k, rows, given or None, symmetric=True, budget=budget)

    def _written(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """m(x): what the layer writes."""
        return self.layer(self.layer.read(x))

    @cached_property
    def _out(self) -> Float[Tensor, "f_out h"]:
        return self.reads @ self.layer.out

    @property
    def _over_x(self) -> CP:
        """The layer's quadratic part."""
        return self.layer.quadratic()

    def _hidden(
        self, x: Float[Tensor, "*b i"], one: bool
    ) -> tuple[Float[Tensor, "*b h"], Float[Tensor, "*b h"]]:
        """L x̃ and R x̃, the constant coordinate of x̃ being 1 or 0."""
        left, right = (x @ side.mT for side in self._over_x.inputs)
        return (
            (left + self.layer.left[:, 0], right + self.layer.right[:, 0])
            if one and self.biased
            else (left, right)
        )

    def _squares(self, a: Float[Tensor, "n f"]) -> Float[Tensor, "n h"]:
        """Σ_f a_f² (l_h · w_f)(r_h · w_f), a block of the active latents at a time."""
        active = a.ne(0).any(0).nonzero()[:, 0]
        total = a.new_zeros(len(a), self.layer.rank)
        for block in active.split(BLOCK):
            left, right = self._hidden(self.writes[block], False)
            total = total + a[:, block].square() @ (left * right)
        return total

    def _latents(
        self, x: Tensor, a: Tensor | None
    ) -> tuple[Float[Tensor, "n i"], Float[Tensor, "n f_in"]]:
        """Inputs and their latents, in the layer's dtype."""
        n_in, width = self.writes.shape
        x, a = (halves_raised(given, self.layer.dtype) for given in (x, a))
        if not isinstance(x, Tensor) or (a is not None and not isinstance(a, Tensor)):
            raise ShapeError(
                "explain", must=f"be given tensors: x (n, {width})", got=type(x).__name__
            )
        if x.ndim != 2 or x.shape[1] != width or x.dtype != self.layer.dtype:
            must = f"be (n, {width}) in {dtype_name(self.layer.dtype)}"
            raise ShapeError("x", must=must, got=f"{tuple(x.shape)} in {dtype_name(x.dtype)}")
        if a is None:
            if self.inputs is None:
                todo = "Pass a=, or a Dictionary to interactions."
                raise ArgumentError(
                    "explain(a=)", must="be given where the inputs are rows", got=None, todo=todo
                )
            a = self.inputs.encode(x)
        elif a.shape != (len(x), n_in) or a.dtype != x.dtype:
            must = f"be ({len(x)}, {n_in}) in {dtype_name(x.dtype)}"
            raise ShapeError(
                "explain(a=)", must=must, got=f"{tuple(a.shape)} in {dtype_name(a.dtype)}"
            )
        require_finite("explain", x=x, a=a)
        return x, a

    def _require(self, features: Any) -> list[int]:
        return require_features(features, len(self.reads))

    def __repr__(self) -> str:
        outputs, inputs, _ = self.shape
        pairs = f"{outputs} output features over pairs of {inputs}"
        return f"<Interactions: {pairs}, rank {self.layer.rank}>"


def interactions(
    T: CP,
    outputs: Dictionary | Float[Tensor, "f_out o"],
    inputs: Dictionary | Float[Tensor, "f_in i"],
    *,
    out_names: Sequence[str] = (),
    in_names: Sequence[str] = (),
) -> Interactions:
    """The layer ``T`` in feature space: its output latents over pairs of input latents, constants
    and biases included.

    ``T`` is over x, or over (1, x) for a layer with biases. ``outputs``: a dictionary of what the
    layer writes, or rows (f_out, o) that read it. ``inputs``: a dictionary of what the layer reads,
    or rows (f_in, i) that write it (base 0). Nothing is computed until it is asked for; half types
    are raised to float32, or to what T is in, in which they are exact. Errors: ShapeError for a
    dictionary of another width, dtype or device; ArgumentError for a T that is no CP, for sides
    that are neither dictionaries nor rows, for a dictionary whose hook names the other side of a
    layer, or another layer than the other's, for one that normalises what it reads, for outputs
    found by matching pursuit and inputs that are a transcoder, and for names that do not fit;
    NotFiniteError for NaN weights, in T or in a dictionary.

    >>> T1 = model.blocks[1].mlp.tensor().detach()
    >>> out = bilens.features.Dictionary.load("tinystories-2l/mlp1.output")
    >>> made = bilens.features.interactions(T1, outputs=out, inputs=D)
    >>> made.reads.shape, made.writes.shape
    (torch.Size([1024, 128]), torch.Size([1024, 128]))
    """
    require_layer("interactions(T)", T)
    for who, side in (("outputs", outputs), ("inputs", inputs)):
        if not isinstance(side, Dictionary | Tensor):
            must = "be a Dictionary, or a tensor of rows"
            raise ArgumentError(f"interactions({who})", must=must, got=type(side).__name__)
    T, outputs, inputs = raised(T, outputs, inputs)
    reads, offset = read_by("interactions(outputs)", outputs, T)
    if isinstance(inputs, Dictionary):
        inputs.require_linear("interactions(inputs)", reads=False)
        inputs.require_autoencoder("interactions(inputs)")
        inputs.require_side("interactions(inputs)", "input")
    _require_one_layer(outputs, inputs)
    writes = inputs.writes if isinstance(inputs, Dictionary) else inputs
    width = T.shape[1] - T.affine
    if writes.ndim != 2 or not len(writes) or writes.shape[1] != width:
        got = f"one of {tuple(writes.shape)}"
        raise ShapeError("interactions(inputs)", must=f"write the {width} of x", got=got)
    require_like("interactions(inputs)", writes, T)
    base = inputs.base if isinstance(inputs, Dictionary) else torch.zeros_like(writes[0])
    require_finite("interactions", out=T.out, left=T.left, right=T.right, writes=writes, base=base)
    encoder, made = (side if isinstance(side, Dictionary) else None for side in (inputs, outputs))
    return Interactions(
        layer=T,
        reads=reads,
        offset=offset,
        writes=writes,
        base=base,
        inputs=encoder,
        out_names=names_of("out_names", out_names, len(reads)),
        in_names=names_of("in_names", in_names, len(writes)),
        outputs=made,
    )


def require_layer(who: str, T: object) -> None:
    """Raise unless ``T`` is a CP whose inputs are both x, or both (1, x)."""
    if not isinstance(T, CP):
        raise ArgumentError(who, must="be a CP, as layer.tensor() gives it", got=type(T).__name__)
    if T.shape[1] != T.shape[2]:
        raise ShapeError(who, must="have left and right of one size", got=T.shape)


def raised(T: CP, *sides: Rows) -> tuple[Any, ...]:
    """T and what goes with it, half types in the dtype that T is worked in, where they are exact;
    all else, and T beside what is in another dtype, as it is.
    """
    work = working_dtype(T.dtype)
    sides = tuple(side.to(work) if _is_half(side) else side for side in sides)
    return T.to(work) if {_dtype(side) for side in sides} == {work} else T, *sides


def _is_half(side: Rows) -> bool:
    return working_dtype(_dtype(side)) != _dtype(side)


def _dtype(side: Rows) -> torch.dtype:
    return side.dtype if isinstance(side, Tensor) else side.W_enc.dtype


def read_by(
    who: str, outputs: Rows, T: CP
) -> tuple[Float[Tensor, "f_out o"], Float[Tensor, " f_out"]]:
    """What output latents read of what ``T`` writes, and their offsets. Errors: ArgumentError for a
    dictionary of what a layer reads, or of none that is linear; ShapeError; NotFiniteError.
    """
    if isinstance(outputs, Dictionary):
        outputs.require_linear(who)
        outputs.require_side(who, "output")
    reads = outputs.reads if isinstance(outputs, Dictionary) else outputs
    if reads.ndim != 2 or not len(reads) or reads.shape[1] != T.shape[0]:
        raise ShapeError(who, must=f"read {T.shape[0]}", got=f"one of {tuple(reads.shape)}")
    require_like(who, reads, T)
    offset = outputs.offset if isinstance(outputs, Dictionary) else torch.zeros_like(reads[:, 0])
    require_finite(who, reads=reads, offset=offset)
    return reads, offset


def _require_one_layer(outputs: Rows, inputs: Rows) -> None:
    """Raise ArgumentError for dictionaries that name what two different layers write and read."""
    if not (isinstance(outputs, Dictionary) and isinstance(inputs, Dictionary)):
        return
    writes, reads = outputs.place, inputs.place
    layer = writes.removesuffix(".output")
    if layer != writes and reads.endswith(".input") and reads != f"{layer}.input":
        must = f"read {layer}.input, as the outputs are of {writes}"
        raise ArgumentError("interactions(inputs)", must=must, got=reads, todo=ELSEWHERE)


def require_like(who: str, tensor: Tensor, T: CP) -> None:
    """Raise ShapeError unless ``tensor`` is of T's dtype and device."""
    if (tensor.dtype, tensor.device) != (T.dtype, T.device):
        must, got = (f"be {dtype_name(t.dtype)} on {t.device}" for t in (T, tensor))
        raise ShapeError(
            who, must=f"{must} like T", got=got.removeprefix("be "), todo="Use .to(...) on either."
        )

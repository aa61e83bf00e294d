"""A sparse dictionary: an autoencoder of one place in a model, or a transcoder from one place to
another.

In SAELens's convention of rows, with c = 1 where the dictionary is ``centred`` and 0 where not:

    pre(x)    = (x − c b_dec) W_enc + b_enc = x · readsᵀ + offset
    encode(x) = relu, top-k or a threshold, of pre(x)
    decode(a) = a · writes + base (+ x W_skip)

so that a latent is a direction that is read, a number that is added to it, and a direction that is
written. A gated dictionary's latent has magnitude relu(x̂ (W_enc exp(r_mag)) + b_mag) where its
gate x̂ W_enc + b_gate is open, for x̂ = x − c b_dec: what is read is then scaled by exp(r_mag), and
``offset`` is made of b_mag.

A dictionary with a ``normalisation`` does all that to σ(x) (x − μ(x)), and what it decodes is taken
back by σ and μ: given these two numbers of a row it is linear as any other is. One found by
matching pursuit has no pre(x): which latents it takes off x, and how much of each, is all it says.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bilens.algebra import CP, cosines, require_factors
from bilens.base.errors import ArgumentError, ConfigError, FileError, ShapeError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import is_whole, require_finite, working_dtype
from bilens.base.progress import Progress
from bilens.base.records import Record
from bilens.base.results import Tabled
from bilens.base.tables import Columns
from bilens.features import dooms, saelens
from bilens.features.latents import NORMS, TOPK, Normed, Pursuit, require_kinds, require_rows
from bilens.features.learn import DictionaryRecipe, learned
from bilens.features.saelens import TENSORS, TIED, is_transcoder
from bilens.wiring import model_name, short_name

ELSEWHERE = "Where it is of that place too, use dataclasses.replace(dictionary, hook=...)."
BOX = Path(__file__).parent / "box"
Side = Literal["input", "output"]  # of a layer
D = TypeVar("D", bound="Dictionary")  # not Self: beartype checks methods one by one


@dataclass(frozen=True, repr=False, eq=False)
class Dictionary(Record, Tabled):
    """f latents, each of which reads a direction of ``hook`` and writes one: an autoencoder, or a
    transcoder.

    Fields (tensors are named and shaped as in SAELens's files, but for W_skip, which lies there
    transposed):
        W_enc, W_dec, b_enc, b_dec: encoder and decoder. A gated dictionary has no b_enc.
        threshold: what a pre-activation must exceed, for jumprelu (a batchtopk dictionary is one
            once it is trained).
        b_gate, r_mag, b_mag: for gated.  W_skip: for skip transcoders.
        architecture: one of those in ``saelens.TENSORS``.
        k: latents kept a row (topk, by absolute value and with their sign abstopk, by value and
            with their sign signed_topk) or kept a row on average (batchtopk).
        hook: the place it reads ("layers.1.mlp.input").  hook_out: the place a transcoder writes;
            "" for autoencoders.
        centred: whether b_dec is taken off what is read (SAELens's apply_b_dec_to_input).
        normalisation: "none", "layer_norm" or "constant_norm_rescale": what is done to an input
            before it is read, and undone to what is decoded, transcoders' outputs apart.
        pursuit: where matching_pursuit stops; its W_enc is its W_dec transposed.
        meta: everything else of cfg.json.

    Columns of ``to_frame()``, a row for each latent: ``latent``: its number; ``reads`` and
    ``writes``: the lengths of its column of W_enc and of its row of W_dec; ``cosine`` of the two,
    empty where they are of different spaces; ``bias``: of b_enc, or b_mag of a gated one;
    ``threshold``, where there is one.

    >>> D.encode(x).shape, D.n_latents, D.hook
    (torch.Size([4, 1024]), 1024, 'layers.1.mlp.input')
    >>> same = D.decode(D.encode(x))
    """

    W_enc: Float[Tensor, "d_in f"]
    W_dec: Float[Tensor, "f d_out"]
    b_enc: Float[Tensor, " f"] | None
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " f"] | None = None
    b_gate: Float[Tensor, " f"] | None = None
    r_mag: Float[Tensor, " f"] | None = None
    b_mag: Float[Tensor, " f"] | None = None
    W_skip: Float[Tensor, "d_in d_out"] | None = None
    architecture: str = "standard"
    k: int | None = None
    hook: str = ""
    hook_out: str = ""
    centred: bool = False
    normalisation: str = "none"
    pursuit: Pursuit | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_factors("Dictionary", W_enc=(self.W_enc, (None, None)))
        require_plain(self)
        require_architecture(self)
        require_factors(
            "Dictionary",
            W_enc=(self.W_enc, (None, None)),
            W_dec=(self.W_dec, (self.n_latents, None)),
        )
        sizes = {
            "W_enc": (self.d_in, self.n_latents),
            "W_dec": (self.n_latents, self.d_out),
            "b_dec": (self.d_out,),
        }
        sizes["W_skip"] = (self.d_in, self.d_out)
        factors = {
            name: (t, sizes.get(name, (self.n_latents,))) for name, t in self.tensors.items()
        }
        require_factors("Dictionary", "", **factors)
        if self.architecture in TIED and not self.centred and bool(self.b_dec.any()):
            must = f"be zero for a {self.architecture} that is not centred, as SAELens has it"
            raise ArgumentError("Dictionary.b_dec", must=must, got="another")
        if self.hook_out not in ("", self.hook) and not is_transcoder(self.architecture):
            must = f"be empty, as {self.architecture} is an autoencoder"
            raise ArgumentError("Dictionary.hook_out", must=must, got=repr(self.hook_out))
        if not is_transcoder(self.architecture) and self.d_in != self.d_out:
            raise ShapeError(
                "Dictionary.W_dec",
                must=f"write the {self.d_in} that W_enc reads, "
                f"as {self.architecture} is an autoencoder",
                got=tuple(self.W_dec.shape),
                todo="Name a transcoder architecture.",
            )

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec.shape[1]

    @property
    def n_latents(self) -> int:
        """f, the dead ones counted."""
        return self.W_enc.shape[1]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors it has, by name."""
        names = (
            "W_enc",
            "W_dec",
            "b_enc",
            "b_dec",
            "threshold",
            "b_gate",
            "r_mag",
            "b_mag",
            "W_skip",
        )
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def reads(self) -> Float[Tensor, "f d_in"]:
        """Row f is the direction that latent f reads: pre(x) = x · readsᵀ + offset."""
        return (self.W_enc if self.r_mag is None else self.W_enc * self.r_mag.exp()).mT

    @property
    def offset(self) -> Float[Tensor, " f"]:
        """What is added to x · readsᵀ, the centring included."""
        bias = self._bias()
        return bias - self.reads @ self.b_dec if self.centred else bias

    @property
    def writes(self) -> Float[Tensor, "f d_out"]:
        """Row f is the direction that latent f writes."""
        return self.W_dec

    @property
    def base(self) -> Float[Tensor, " d_out"]:
        """What is written where no latent is active."""
        return self.b_dec

    def pre(self, x: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b f"]:
        """x · readsᵀ + offset, of x normalised where it is: what the activation function is applied
        to (of a gated dictionary, the magnitudes').

        Cost: d_in f operations a row. Errors: ShapeError where x is of another width, dtype or
        device; NotFiniteError; ArgumentError for a matching pursuit.
        """
        self._require("Dictionary.pre", x, self.d_in)
        if self.pursuit is not None:
            must = "be asked of a dictionary that reads all latents at once"
            raise ArgumentError("Dictionary.pre", must=must, got=f"a {self.architecture}")
        return self._read(x) @ self.reads.mT + self._bias()  # centred first, as SAELens rounds it

    def encode(self, x: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b f"]:
        """The latents of x, most of them zero. ``batchtopk`` keeps k a row on average over all rows
        given.

        Cost: ``pre``'s, and a pass over the latents. Errors: those of ``pre``; NotFiniteError too
        for latents that are larger than their dtype holds.
        """
        if self.pursuit is not None:
            self._require("Dictionary.encode", x, self.d_in)
            a = self.pursuit(self._read(x), self.writes)
        else:
            a = self._activated(x, self.pre(x))
        require_finite("Dictionary.encode", latents=a)
        return a

    def _activated(
        self, x: Float[Tensor, "*b d_in"], pre: Float[Tensor, "*b f"]
    ) -> Float[Tensor, "*b f"]:
        """The activation function of pre(x)."""
        if self.k is not None:
            return TOPK[self.architecture](pre, self.k)
        if self.b_gate is not None:
            return pre.relu() * (self._read(x) @ self.W_enc + self.b_gate > 0)
        return pre.relu() if self.threshold is None else pre.relu() * (pre > self.threshold)

    def decode(
        self, a: Float[Tensor, "*b f"], x: Float[Tensor, "*b d_in"] | None = None
    ) -> Float[Tensor, "*b d_out"]:
        """a · writes + base, normalisation undone, and x W_skip where there is one; ``x``, what
        ``a`` was encoded from, is needed for these two only.

        Errors: ShapeError where a is not of f latents; ArgumentError for a skip transcoder or a
        normalised autoencoder without ``x``.
        """
        self._require("Dictionary.decode", a, self.n_latents)
        written = a @ self.writes + self.base
        normed = self.normalisation != "none" and not is_transcoder(self.architecture)
        if self.W_skip is None and not normed:
            return written
        if x is None:
            what = f"a {self.architecture}" + f" with {self.normalisation}" * normed
            todo = "Its normalisation is undone with x." if normed else "Its W_skip reads x."
            raise ArgumentError("decode(x=)", must=f"be given for {what}", got=None, todo=todo)
        self._require("Dictionary.decode(x=)", x, self.d_in)
        if self.W_skip is not None:
            return written + x @ self.W_skip
        scale = self.normed(x)
        return written * scale.factor + scale.shift

    def normed(self, x: Float[Tensor, "*b d_in"]) -> Normed:
        """x as it is read, before the centring, and the numbers by which that is undone: 1 and 0
        without a normalisation.
        """
        if self.normalisation != "none":
            return NORMS[self.normalisation](x)
        ones = torch.ones_like(x[..., :1])
        return Normed(x, ones, torch.zeros_like(ones))

    def require_linear(self, who: str, reads: bool = True) -> None:
        """Raise ArgumentError unless decode(a) = a · writes + base and, where ``reads``, active
        latents are pre(x) = x · readsᵀ + offset.
        """
        told = self.architecture if reads and self.pursuit is not None else self.normalisation
        if told != "none":
            must = "be a dictionary that is linear where a latent is active"
            raise ArgumentError(who, must=must, got=f"one with {told}")

    def require_autoencoder(self, who: str) -> None:
        """Raise ArgumentError unless what it writes stands for what it reads."""
        if is_transcoder(self.architecture):
            got = f"a {self.architecture} to {self.hook_out or 'another place'}"
            raise ArgumentError(who, must="write what it reads", got=got)

    def require_side(self, who: str, side: Side) -> None:
        """Raise ArgumentError for a dictionary of the other ``side`` of a layer: of what one writes
        ("output") or reads ("input"). One that names no such place is taken.
        """
        _require_side_named(side)
        other = "input" if side == "output" else "output"
        if self.place.endswith(f".{other}"):
            must = f"be of what a layer {'writes' if side == 'output' else 'reads'}"
            raise ArgumentError(who, must=must, got=f"a dictionary of {self.place}", todo=ELSEWHERE)

    @property
    def model_name(self) -> str:
        """The model that it says it was made of, by SAELens's key of its metadata; "" for none."""
        metadata = self.meta.get("metadata")
        name = metadata.get("model_name") if isinstance(metadata, dict) else None
        return name if isinstance(name, str) else ""

    def stranger_to(self, model: object) -> str:
        """What to say where it names another model than ``model`` is called; else ""."""
        mine, other = self.model_name, model_name(model)
        if not mine or not other or Path(mine).name == other:
            return ""
        return f"the dictionary says that it was made of {mine}, and this model is {other}"

    @property
    def place(self) -> str:
        """``hook`` by its short name, "mlp1.input", where it has one; else as it is."""
        return short_name(self.hook)

    def __call__(self, x: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b d_out"]:
        """decode(encode(x), x): the reconstruction, or what a transcoder writes for x."""
        return self.decode(self.encode(x), x)

    def beside(self, layer: CP) -> "Dictionary":
        """The same where a layer's tensor is, in the dtype that this is worked in: its own, or
        float32 for a half type.

        >>> D.beside(T).W_enc.dtype == T.dtype
        True
        """
        return self.to(layer.device, working_dtype(layer.dtype))

    def require_fits(self, who: str, *, width: int, place: str = "", side: str = "input") -> None:
        """Refuse in one error a dictionary of another width or another hook than the model's
        ``place`` of ``width``.

        ``side``: whether what it reads ("input") or what it writes ("output") is to fit. A
        dictionary that names no hook, or a ``place`` that is not named, fits by its width alone.
        Errors: ShapeError for the width, else ArgumentError.
        """
        _require_side_named(side)
        writes = side == "output"
        mine = (self.hook_out if writes else "") or self.hook
        verb, size = ("write", self.d_out) if writes else ("read", self.d_in)
        elsewhere = bool(place and mine) and short_name(place) != short_name(mine)
        if size == width and not elsewhere:
            return
        renamed = (
            "Where that is the same place by another name, "
            "use dataclasses.replace(dictionary, hook=...)."
        )
        raise (ArgumentError if size == width else ShapeError)(
            who,
            must=f"{verb} {place or 'a place'} of width {width}",
            got=f"a dictionary of {mine or 'an unnamed hook'} of width {size}",
            todo=renamed if size == width else "",
        )

    @classmethod
    def train(
        cls: type[D],
        activations: Iterable[Float[Tensor, "n d"]],
        how: DictionaryRecipe | None = None,
        hook: str = "",
        progress: Progress | None = None,
    ) -> D:
        """A dictionary of what ``activations`` holds: batches of rows, one a step, as many as
        ``how.steps``.

        How it is learned: ``features.learn``. ``progress`` hears of each 50 steps (figures: loss,
        L0, dead). Cost of a step: 12 n d f operations; memory 4 n f numbers. Errors: ArgumentError
        where the batches end early; ConfigError for a ``k`` above the number of latents; ShapeError
        where they are not rows of one width and dtype; NotFiniteError for activations or weights
        that are not finite.
        """
        how = DictionaryRecipe() if how is None else how
        if not isinstance(how, DictionaryRecipe):
            must = "be a DictionaryRecipe, or None"
            raise ArgumentError("Dictionary.train(how=)", must=must, got=repr(how))
        require_kinds("Dictionary", hook=(hook, str))
        return cls(**learned(activations, how, progress), hook=hook)

    def save(self, path: str | Path) -> None:
        """Write the folder ``path`` in SAELens's format: cfg.json and sae_weights.safetensors, both
        or neither.

        ``batchtopk`` is written as jumprelu. Cost: one copy of the weights. Errors: FileError where
        it cannot be written; NotFiniteError for NaN weights; ArgumentError for a batchtopk
        dictionary that has no threshold yet, and for ``meta`` that would not be read again, or as
        something else.
        """
        dooms.require_path(path, "be a folder")
        require_finite("Dictionary", **self.tensors)
        if self.architecture == "batchtopk" and self.threshold is None:
            raise ArgumentError(
                "Dictionary.threshold",
                must="be set before a batchtopk dictionary is saved",
                got=None,
            )
        fields = {
            name: getattr(self, name)
            for name in (
                "architecture",
                "k",
                "hook",
                "hook_out",
                "centred",
                "normalisation",
                "pursuit",
                "meta",
            )
        }
        saelens.write(Path(path), self.tensors, fields)

    @classmethod
    def load(cls: type[D], path: str | Path) -> D:
        """Read a folder that ``save`` or SAELens wrote, or one of T. Dooms's (config.json and
        model.safetensors); what bilens would compute otherwise is refused.

        In the box: "tinystories-2l/mlp1.input" and "tinystories-2l/mlp1.output".

        Errors: FileError for a missing or damaged file and for tensors that lack or are too many;
        ConfigError, by name, for an architecture or a key of cfg.json that is not understood;
        NotFiniteError.
        """
        folder = _folder(path)
        theirs = dooms.is_one(folder) and not (folder / saelens.CONFIG).exists()
        fields = dooms.read(folder) if theirs else saelens.read(folder)
        try:
            made = cls(**fields)
        except ArgumentError as error:  # which speaks of fields, and knows no file
            raise FileError(
                f"{path}: {error.who}", must=error.must, got=error.got, todo=error.todo
            ) from error
        require_finite(f"{path}: Dictionary", **made.tensors)
        return made

    def _bias(self) -> Float[Tensor, " f"]:
        bias = self.b_enc if self.b_mag is None else self.b_mag
        return self.W_enc.new_zeros(self.n_latents) if bias is None else bias

    def _read(self, x: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b d_in"]:
        read = self.normed(x).read
        return read - self.b_dec if self.centred else read

    def _require(self, who: str, x: Tensor, size: int) -> None:
        require_rows(who, x, size, self.W_enc)

    def summary(self) -> str:
        at = self.hook or "?"
        if is_transcoder(self.architecture):
            at += f" -> {self.hook_out or '?'}"
        return f"{self.n_latents} {self.architecture} latents of {at}, width {self.d_in}"

    def _table(self) -> Columns:
        reads, writes = self.W_enc.detach().mT.double(), self.W_dec.detach().double()
        bias = self.b_mag if self.b_enc is None else self.b_enc
        columns: dict[str, list[Any]] = {
            "latent": list(range(self.n_latents)),
            "reads": reads.norm(dim=1).tolist(),
            "writes": writes.norm(dim=1).tolist(),
            "cosine": list(cosines(reads, writes)),
        }
        for name, held in (("bias", bias), ("threshold", self.threshold)):
            columns |= {} if held is None else {name: held.detach().double().tolist()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return Columns(tuple(columns), rows)

    def __repr__(self) -> str:
        return f"<Dictionary: {self.summary()}>"


def _require_side_named(side: object) -> None:
    require("side", side, OneOf(get_args(Side)), ArgumentError)


def _folder(path: str | Path) -> Path:
    """The folder of that name, or the one in the box."""
    dooms.require_path(path, "be a folder, or a dictionary in the box")
    inside = BOX / path
    return inside if not Path(path).exists() and inside.is_dir() else Path(path)


def require_plain(dictionary: Dictionary) -> None:
    """Raise unless there is a latent that reads something, and the fields that are no tensors are
    of their types.
    """
    if not dictionary.W_enc.numel():
        must, got = "read one number or more, for one latent or more", tuple(dictionary.W_enc.shape)
        raise ShapeError("Dictionary.W_enc", must=must, got=got)
    kinds = {"hook": str, "hook_out": str, "normalisation": str, "centred": bool, "meta": dict}
    fields = {name: (getattr(dictionary, name), kind) for name, kind in kinds.items()}
    require_kinds("Dictionary", **fields)
    require_kinds("Dictionary.meta", metadata=(dictionary.meta.get("metadata", {}), dict))


def require_architecture(dictionary: Dictionary) -> None:
    """Raise unless the architecture is known and has the tensors, the k and the centring that
    belong to it.
    """
    kind, k = dictionary.architecture, dictionary.k
    if not isinstance(kind, str) or kind not in TENSORS:
        raise ConfigError(
            "Dictionary.architecture", must=f"be one of {', '.join(TENSORS)}", got=repr(kind)
        )
    has, needs = set(dictionary.tensors), set(TENSORS[kind])
    if kind == "batchtopk":
        has.discard("threshold")  # known once it is trained
    wrong = [
        *(f"no {name}" for name in sorted(needs - has)),
        *(f"{name} too" for name in sorted(has - needs)),
    ]
    if wrong:
        raise ArgumentError(
            "Dictionary",
            must=f"have {', '.join(TENSORS[kind])}, as it is {kind}",
            got=", ".join(wrong),
        )
    if (kind in TOPK) != (k is not None):
        must = f"be given for {', '.join(TOPK)}, and for no other"
        raise ArgumentError("Dictionary.k", must=must, got=f"{k} for {kind}")
    if k is not None and not (is_whole(k) and 1 <= k <= dictionary.W_enc.shape[-1]):
        raise ArgumentError(
            "Dictionary.k", must=f"be a whole number from 1 to {dictionary.W_enc.shape[-1]}", got=k
        )
    if dictionary.normalisation not in ("none", *NORMS):
        must = f"be one of none, {', '.join(NORMS)}"
        raise ArgumentError("Dictionary.normalisation", must=must, got=dictionary.normalisation)
    pursuit = dictionary.pursuit
    if (kind in TIED) != (pursuit is not None) or not isinstance(pursuit, Pursuit | None):
        must = f"be given for {', '.join(TIED)}, and for no other"
        raise ArgumentError("Dictionary.pursuit", must=must, got=f"{pursuit} for {kind}")
    if kind in TIED and not torch.equal(dictionary.W_enc, dictionary.W_dec.mT):
        must = f"be W_dec transposed for a {kind}"
        raise ArgumentError("Dictionary.W_enc", must=must, got="another")
    if dictionary.centred and is_transcoder(kind):
        raise ArgumentError(
            "Dictionary.centred",
            must=f"be False for a {kind}: b_dec is of what it writes",
            got=True,
        )

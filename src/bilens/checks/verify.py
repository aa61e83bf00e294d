"""Every identity bilens claims, checked on one model's own weights."""

import copy
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bilens.algebra import CP
from bilens.base.charts import DRAWN, INK, NEGATIVE, POSITIVE, logarithmic, ranked
from bilens.base.errors import ArgumentError, NotExactError
from bilens.base.numerics import (
    dtype_name,
    relative_error,
    require_seed,
    seeded,
    standard_normal,
    tolerance,
)
from bilens.base.reading import read_json_object
from bilens.base.results import ANSWER_ROWS, Result
from bilens.base.words import printable, shortened
from bilens.checks.stock import stock
from bilens.circuits import Detail, expand
from bilens.decompose import eigen, hosvd
from bilens.models import Classifier, Transformer, TransformerConfig, hushed, load

INPUTS = 64
# where an error is as large as it may be
ALLOWED = {
    "type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper",
    "line": {"dash": "dot", "color": INK},
}  # fmt: skip
LOWEST = 1e-20  # drawn on an axis of powers of ten, where an error is zero
TOKENS = 8  # of the text whose logits are written as paths
M = TypeVar("M", Classifier, Transformer)
DIRECTIONS = 16  # of a transformer's layer, mixed at random from its outputs


@dataclass(frozen=True)
class Check:
    """One identity: ``got`` and ``truth`` come by different ways and must agree, to the tolerance
    of ``precision``.
    """

    identity: str
    got: Tensor
    truth: Tensor
    precision: torch.dtype | None = None  # None: that of ``got``


@dataclass(frozen=True, repr=False, eq=False)
class Verification(Result):
    """What was checked, how far it missed (relative to the largest term), and what it was allowed
    to miss by.

    ``skipped`` says in words what could not be checked, and why.

    Columns: ``identity``; ``dtype`` that it was checked in; ``error``; ``allowed``: what it may
    miss by; ``holds``.

    >>> classifier = bilens.Classifier(bilens.ClassifierConfig(num_labels=3, hidden_size=8))
    >>> bilens.verify(classifier).passed
    True
    """

    identities: tuple[str, ...]
    dtypes: tuple[str, ...]
    errors: tuple[float, ...]
    tolerances: tuple[float, ...]
    skipped: tuple[str, ...] = ()

    @property
    def holds(self) -> tuple[bool, ...]:
        """Per identity; a NaN error does not hold."""
        return tuple(
            error <= allowed for error, allowed in zip(self.errors, self.tolerances, strict=True)
        )

    @property
    def passed(self) -> bool:
        """Whether every identity holds."""
        return all(self.holds)

    def summary(self) -> str:
        # a NaN is the worst
        worst = next((error for error in self.errors if error != error), max(self.errors))
        skipped = f"; not checked: {'; '.join(self.skipped)}" if self.skipped else ""
        held = f"{sum(self.holds)} of {len(self.holds)} identities hold"
        return f"{held}; largest error {worst:.2e}{skipped}"

    def rows(self) -> list[dict[str, Any]]:
        columns = zip(
            self.identities, self.dtypes, self.errors, self.tolerances, self.holds, strict=True
        )
        return [
            {"identity": name, "dtype": dtype, "error": error, "allowed": allowed, "holds": holds}
            for name, dtype, error, allowed, holds in columns
        ]

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The identities that come nearest to what is allowed, or go beyond it, first."""
        return self._worst_first()[:count]

    def figure(self) -> dict[str, Any]:
        """The error of each identity over what it is allowed: blue where it holds, orange where it
        does not.
        """
        rows = self._worst_first()[:DRAWN]
        names = [f"{row['identity']} ({row['dtype']})" for row in rows]
        used = [max(row["error"] / row["allowed"], LOWEST) for row in rows]
        hover = {
            "error": [row["error"] for row in rows],
            "allowed": [row["allowed"] for row in rows],
        }
        axis, held = "error over what is allowed", sum(self.holds)
        title = f"{held} of {len(self.holds)} identities hold: the {len(rows)} nearest to failing"
        figure = ranked(names, used, axis, title, hover=hover)
        colours = [POSITIVE if row["holds"] else NEGATIVE for row in rows]
        figure["data"][0]["marker"] = {"color": colours}
        lowest = math.log10(min(used)) if used else 0.0
        figure["layout"]["xaxis"] = logarithmic(axis) | {"range": [lowest - 0.5, 0.5]}
        figure["layout"]["shapes"] = [ALLOWED]
        return figure

    def _worst_first(self) -> list[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: (row["holds"], -row["error"] / row["allowed"]))


def verify(
    model: Classifier | Transformer, seed: int = 0, against: str | Path | None = None
) -> Verification:
    """Check, on ``model``'s own weights, every identity bilens claims about it; nothing is trained
    or changed.

    All in float64 at 1e-10, the forward pass in float32 at 1e-5 too. Each identity compares two
    different ways: the module's forward or autograd on one side, factors, spectra and paths on the
    other. Cost: for each layer one HOSVD and a full eigendecomposition of every output of a
    classifier, of 16 directions of a transformer's layer.

    A transformer whose configuration is that of a Llama, Qwen2 or Qwen3 is also held against
    transformers' own class with the same weights: all else compares bilens with bilens. Where
    transformers has no such class, ``skipped`` says so. ``against``: the folder that the model was
    loaded from, of any family of transformers: its own class reads the same files then, in float32,
    and is what the logits are held against. Errors: ArgumentError for what is no model, for
    ``against`` with a classifier, and for a part that does not do what its weights say; FileError
    where ``against`` holds no config.json.

    >>> classifier = bilens.Classifier(bilens.ClassifierConfig(num_labels=3, hidden_size=8))
    >>> bilens.verify(classifier).identities[0]
    'T(x, x) = logits, whole model'
    """
    _require_model(model)
    require_seed("seed", seed)
    generator = seeded(seed)
    skipped: tuple[str, ...] = (
        "against a stock model: transformers has no class of bilinear classifiers",
    )
    if isinstance(model, Transformer):
        checks, skipped = _language(model, generator, against)
    elif against is not None:
        got = "a bilinear classifier, of which transformers has no class"
        raise ArgumentError("against", must="be asked of a transformer", got=got)
    else:
        checks = _classifier(model, generator)
    return Verification(
        identities=tuple(check.identity for check in checks),
        dtypes=tuple(dtype_name(check.got.dtype) for check in checks),
        errors=tuple(relative_error(check.got, check.truth) for check in checks),
        tolerances=tuple(tolerance(check.precision or check.got.dtype) for check in checks),
        skipped=skipped,
    )


def _require_model(model: object) -> None:
    if not isinstance(model, Classifier | Transformer):
        todo = "Pass the whole model: a tensor or a layer alone has no forward pass "
        todo += "to be held against."
        must = "be a bilens Classifier or Transformer"
        raise ArgumentError("verify: model", must=must, got=type(model).__name__, todo=todo)
    for name, module in model.named_modules():
        if "forward" in vars(module):
            todo = "Verify works on copies of the model, "
            todo += "and a forward bound to one object stays with it."
            who = f"{name}.forward" if name else "the model's forward"
            raise ArgumentError(
                who, must="be its class's own", got="one of the object's own", todo=todo
            )


@dataclass(frozen=True)
class _View:
    """A layer to be checked: its tensor, what it reads (without the constant), and what its own
    modules write of that.
    """

    where: str
    tensor: CP
    x: Float[Tensor, "b i"]
    write: Callable[[Tensor], Tensor]

    @property
    def inputs(self) -> Tensor:
        """What the tensor is over: x, or (1, x)."""
        return self.tensor.read(self.x)


def _classifier(model: Classifier, generator: torch.Generator) -> list[Check]:
    exact, single = _copies(model)
    pixels = torch.rand(
        INPUTS, model.config.input_size, generator=generator, dtype=torch.float64, device="cpu"
    )
    checks = [*_forward(single, pixels.float()), *_forward(exact, pixels), _reloaded(exact, pixels)]
    checks += _paths(exact, pixels[0], list(range(len(model.config.labels)))[:2])
    for layer in range(model.config.num_hidden_layers):
        checks += _layer(_pixel_view(exact, layer, pixels), generator)
    return checks


def _language(
    model: Transformer, generator: torch.Generator, folder: str | Path | None
) -> tuple[list[Check], tuple[str, ...]]:
    exact, single = _copies(model)
    config = exact.config
    length = min(TOKENS, config.max_position_embeddings)
    tokens = torch.randint(0, config.vocab_size, (length,), generator=generator, device="cpu")
    outputs = torch.randint(0, config.vocab_size, (2,), generator=generator, device="cpu").tolist()
    try:
        wiring = exact.wiring()
    except NotExactError as error:  # of a stream that a block drops
        return _rewritten(exact, tokens), (f"paths: {error}",)
    checks = _paths(single, tokens, outputs) + _paths(exact, tokens, outputs)
    checks += _rewritten(exact, tokens)
    width = config.hidden_size
    shape = (min(DIRECTIONS, width), width)
    mix = standard_normal(*shape, generator=generator) / width**0.5
    for part in wiring.parts:
        if part.name in wiring.layers and part.forms():
            tensor = part.module.tensor()  # type: ignore[operator]
            x = standard_normal(INPUTS, width, generator=generator)
            seen = tensor.detach().map(out=mix)
            view = _View(f", {part.name}", seen, x, partial(_mixed, part.module, mix))
            checks += [_written(view), *_layer(view, generator)]
    foreign = folder is not None and not _is_own(Path(folder))
    against = _files(single, str(folder), tokens) if foreign else _stock(exact, tokens)
    return (checks, (against,)) if isinstance(against, str) else ([against, *checks], ())


@torch.no_grad()
def _rewritten(model: Transformer, tokens: Tensor) -> list[Check]:
    """The model saved and loaded, and with its norms folded, against itself."""
    logits = model(tokens[None]).logits
    with hushed(), tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        back = load(folder).double()(tokens[None]).logits
    checks = [Check("save, load: the same logits", back, logits)]
    if {model.config.norm, model.config.last_norm} != {"none"} and not model.config.folded:
        folded = model.folded()(tokens[None]).logits
        checks.append(Check("folded norms: the same logits", folded, logits))
    return checks


def _written(view: _View) -> Check:
    """The layer's tensor against what its own modules write."""
    name = "T(x, x) = what the layer writes" + view.where
    return Check(name, view.tensor(view.inputs), view.write(view.x))


def _copies(model: M) -> tuple[M, M]:
    """The model in float64 and in float32, on the CPU and in evaluation."""
    exact, single = copy.deepcopy(model), copy.deepcopy(model)
    return exact.cpu().double().eval(), single.cpu().float().eval()


@torch.no_grad()
def _stock(model: Transformer, tokens: Tensor) -> Check | str:
    """The logits of transformers' own class with the same weights; in words, why there is none.

    Its norms go through float32 in a model of any dtype, so that the two agree as well as float32
    can.
    """
    made = stock(model)
    if isinstance(made, str):
        return f"against a stock model: {made}"
    name = f"logits = those of stock {type(made).__name__}, same weights"
    return Check(name, model(tokens[None]).logits, made(tokens[None]).logits, torch.float32)


@torch.no_grad()
def _files(model: Transformer, folder: str, tokens: Tensor) -> Check | str:
    """The logits of transformers' own class from the very files; in words, why it has none."""
    try:
        with hushed():
            made = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, attn_implementation="eager"
            )
    except Exception as error:  # transformers raises kinds of its own
        return f"against a stock model: transformers does not read {folder} ({_line(error)})"
    name = f"logits = those of stock {type(made).__name__}, the same files"
    return Check(name, model(tokens[None]).logits, made.eval()(tokens[None]).logits)


def _is_own(folder: Path) -> bool:
    """Whether the files are of bilens's own class, which would be held against itself."""
    kind = read_json_object(folder / "config.json").get("model_type")
    return kind == TransformerConfig.model_type


def _line(error: Exception) -> str:
    return shortened(printable(str(error).partition("\n")[0]) or type(error).__name__, 200)


def _mixed(module: nn.Module, mix: Tensor, x: Tensor) -> Tensor:
    """What an MLP writes, seen along a few directions."""
    return module(x) @ mix.mT


def _paths(model: Classifier | Transformer, inputs: Tensor, outputs: list[int]) -> list[Check]:
    """Σ terms + remainder against the model's forward pass, at each level of detail."""
    checks = []
    for detail in get_args(Detail):
        found = [expand(model, inputs, output, detail=detail, max_terms=300) for output in outputs]
        got, truth = ([getattr(one, name) for one in found] for name in ("total", "forward"))
        largest = max(abs(term.value) for one in found for term in one.terms)
        # errors are relative to the largest term
        scale = torch.tensor([largest], dtype=torch.float64, device="cpu")
        left, right = (
            torch.cat([torch.tensor(values, dtype=torch.float64, device="cpu"), scale]).to(
                model.dtype
            )
            for values in (got, truth)
        )
        checks.append(Check(f"Σ terms + remainder = logits, {detail}", left, right))
    return checks


@torch.no_grad()
def _forward(model: Classifier, pixels: Float[Tensor, "b i"]) -> Iterator[Check]:
    truth = model(pixels).logits
    if model.config.num_hidden_layers == 1:
        yield Check("T(x, x) = logits, whole model", model.tensor()(model.inputs(pixels)), truth)
    for layer in range(model.config.num_hidden_layers):
        view = _pixel_view(model, layer, pixels)
        yield _written(view)


@torch.no_grad()
def _reloaded(model: Classifier, pixels: Float[Tensor, "b i"]) -> Check:
    with hushed(), tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return Check(
            "save, load: the same logits", load(folder)(pixels).logits, model(pixels).logits
        )


def _pixel_view(model: Classifier, layer: int, pixels: Float[Tensor, "b i"]) -> _View:
    """A classifier's layer: the first reads pixels through the embedding, the last writes through
    the head's weight.
    """

    def write(x: Tensor) -> Tensor:
        written = model.layers[layer](model.embed(x) if layer == 0 else x)
        return (
            written @ model.head.weight.T
            if layer == model.config.num_hidden_layers - 1
            else written
        )

    x = model.inputs(pixels, layer)
    return _View(
        f", layer {layer}",
        model.tensor(layer).detach(),
        x[:, 1:] if model.config.bias else x,
        write,
    )


def _layer(view: _View, generator: torch.Generator) -> list[Check]:
    x, tensor, where = view.inputs, view.tensor, view.where
    symmetric = tensor.symmetrise()
    u = standard_normal(tensor.shape[0], generator=generator)
    form = tensor.interaction(u)
    checks = [
        Check("S(x, x) = T(x, x), symmetric part" + where, symmetric(x), tensor(x)),
        Check("xᵀ Q_u x = u · T(x, x)" + where, form(x), tensor(x) @ u),
        Check("2 Q_u = Hessian by autograd" + where, *_hessian(view, u, generator)),
        Check(
            "gauge: permuted, rescaled, swapped units give the same S" + where,
            *_gauge(tensor, generator),
        ),
    ]
    if tensor.affine:
        checks.append(
            Check("constant + linear + quadratic = T" + where, tensor.split()(view.x), tensor(x))
        )
    return checks + _spectra(tensor, symmetric, x, where) + _gates(form, x, where)


def _spectra(tensor: CP, symmetric: CP, x: Tensor, where: str) -> list[Check]:
    pairs = eigen(tensor, k=None)
    sums = (((x @ pairs.vectors.mT) ** 2) * pairs.values[:, None]).sum(-1).T
    unit = torch.eye(x.shape[1], dtype=x.dtype, device="cpu").expand(len(pairs.values), -1, -1)
    modes = hosvd(symmetric, max_rank=8)
    squares = torch.stack([values.square().sum() for values in modes.spectrum.values()])
    norm = symmetric.norm()
    kept = modes.core.norm() ** 2 + (modes.error * modes.norm) ** 2
    return [
        Check("Σ λ (v·x)² = T(x, x)" + where, sums, tensor(x)),
        Check("eigenvectors orthonormal" + where, pairs.vectors @ pairs.vectors.mT, unit),
        Check(
            "Σ λ² = ‖Q‖², from the factors" + where, pairs.values.square().sum(-1), pairs.norm**2
        ),
        Check("Σ ‖Q_o‖² = ‖S‖²" + where, (pairs.norm**2).sum(), norm**2),
        Check("HOSVD: Σ σ² = ‖S‖² in each mode" + where, squares, (norm**2).expand(3)),
        Check("HOSVD: kept² + discarded² = ‖S‖² (8 per mode)" + where, kept, norm**2),
    ]


def _gates(form: Any, x: Tensor, where: str) -> list[Check]:
    gates = form.gates(8)
    squares = (gates.positive.square() + gates.negative.square()).sum() + gates.rest.norm().square()
    return [
        Check("gates + rest = Q_u" + where, gates(x).sum(-1) + gates.rest(x), form(x)),
        Check("gates: Σ (λ² + μ²) + ‖rest‖² = ‖Q‖²" + where, squares, form.norm().square()),
    ]


def _gauge(tensor: CP, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """⟨S, S'⟩ / ‖S‖² and ‖S'‖² / ‖S‖² for S' on S's gauge orbit, and ones.

    Together they say that S' is S.
    """
    order = torch.randperm(tensor.rank, generator=generator, device="cpu")
    a, b = (
        torch.rand(2, tensor.rank, generator=generator, dtype=tensor.dtype, device="cpu") + 0.5
    )[..., None].unbind()
    moved = CP(
        (tensor.out / (a * b).T)[:, order],
        (tensor.right * b)[order],
        (tensor.left * a)[order],
        tensor.affine,
    )
    there, here = moved.symmetrise(), tensor.symmetrise()
    square = here.inner(here)
    found = torch.stack([there.inner(here), there.inner(there)]) / torch.where(
        square > 0, square, 1
    )
    return found, torch.stack([square, square]) / torch.where(square > 0, square, 1)


def _hessian(view: _View, u: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """2 Q_u v, and the second derivative of u · layer(x) along v by autograd, for one random v."""
    x = view.x[0].detach()
    v = standard_normal(len(x), generator=generator, dtype=x.dtype)
    truth = torch.func.jvp(torch.func.grad(lambda x: view.write(x[None])[0] @ u), (x,), (v,))[1]
    own = int(view.tensor.affine)  # the constant stands first
    product = 2 * (view.tensor.interaction(u) @ torch.nn.functional.pad(v, (own, 0)))
    return product[own:].detach(), truth.detach()

"""What circuits need of a model: its residual writes in order, each linear, quadratic or opaque
given what a pass fixed.

A model says how it is wired and circuits do the rest, so that a classifier expands as a transformer
does. In a residual stream every part reads the sum of all earlier writes; without one it reads what
the part before it wrote, alone.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilens.algebra import CP
from bilens.base.errors import ArgumentError, NotExactError
from bilens.base.numerics import working_dtype
from bilens.nn.attention import Attention, Rotary
from bilens.nn.norm import NoNorm, Norm

ONE = "1"  # the constant that biases multiply
M = TypeVar("M")
P = ParamSpec("P")
R = TypeVar("R")
TO_FLOAT = "Ask of model.float()."


@dataclass(frozen=True)
class Prompt:
    """A text, and whether the tokenizer puts its own special tokens around it: what
    ``tokenizer(text)`` does.

    A plain string is read with them, as people run a model; ``Prompt(text, special_tokens=False)``
    is read without.
    """

    text: str
    special_tokens: bool = True


@dataclass(frozen=True, eq=False)
class Heads:
    """An attention layer: given its patterns, each head is linear in what it reads at the positions
    it looks at.
    """

    name: str  # "attn0"
    layer: int
    norm: Norm
    module: Attention
    rotary: Rotary | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """ "L0H0", "L0H1", …"""
        return tuple(f"L{self.layer}H{head}" for head in range(self.module.n_heads))

    def turn(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """cos and sin of positions 0 … length − 1."""
        if self.rotary is None:
            return None
        return self.rotary(
            torch.arange(length, device=self.module.q_proj.weight.device)[None], dtype
        )


@dataclass(frozen=True, eq=False)
class Layer:
    """An MLP or a bilinear layer: quadratic where it has a tensor, and opaque where it has none."""

    name: str  # "mlp0"
    layer: int
    norm: Norm
    module: nn.Module

    def tensor(self) -> CP | None:
        """The exact tensor, over x̂ or (1, x̂); None for a layer that is opaque."""
        try:
            return self.module.tensor()  # type: ignore[operator]
        except NotExactError:
            return None


@dataclass(frozen=True, eq=False)
class Wiring:
    """How a model is put together. ``readout`` (out, d) and ``readout_bias`` make the outputs of
    what ``norm`` reads.
    """

    leaves: tuple[str, ...]  # what is written first: "embed", "pos", …
    parts: tuple[Heads | Layer, ...]
    norm: Norm
    readout: Float[Tensor, "out d"]
    readout_bias: Float[Tensor, " out"] | None = None
    accumulates: bool = True  # a residual stream


@runtime_checkable
class Expandable(Protocol):
    """A model whose outputs can be written as sums of paths."""

    def wiring(self) -> Wiring:
        """Its parts, in the order in which they write."""
        ...

    def read(self, inputs: Any) -> Tensor:
        """What a person passes, as the model takes it: token ids (1, t), or one image (1, i).
        Errors say what is wrong.
        """
        ...

    def leaves(self, inputs: Tensor) -> dict[str, Float[Tensor, "t d"]]:
        """What ``wiring().leaves`` write for ``inputs`` (of ``read``), position by position."""
        ...

    def leaf_weights(self) -> dict[str, Float[Tensor, "n d"]]:
        """What each leaf can write, a row for each of its entries: W_E by token, W_pos by position.
        Gradients flow.
        """
        ...

    def outputs(self, inputs: Tensor) -> Float[Tensor, "t out"]:
        """The model's own forward pass: the outputs at every position."""
        ...

    def output_index(self, name: str | int) -> int:
        """The output of that name: a token, a class. Errors: ArgumentError where there is none."""
        ...

    def output_names(self, indices: Int[Tensor, " n"] | Sequence[int]) -> list[str]:
        """Names of outputs, to be read by people."""
        ...

    def input_names(self, inputs: Tensor) -> list[str]:
        """Names of the positions of ``inputs``: their tokens."""
        ...


@runtime_checkable
class Worded(Protocol):
    """A model that reads text: what it read can be written out."""

    def text(self, inputs: Tensor) -> str:
        """What a person wrote to get ``inputs`` (of ``read``): special tokens left out."""
        ...


@runtime_checkable
class Sparse(Protocol):
    """A sparse dictionary, as circuits need it: x̂ = encode(x̂) @ writes + base + what it misses."""

    @property
    def writes(self) -> Float[Tensor, "f d"]:
        """What each latent adds where it is 1: decoder rows."""
        ...

    @property
    def base(self) -> Float[Tensor, " d"]:
        """What is there with no latent active: the decoder's bias."""
        ...

    def encode(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b f"]:
        """How active each latent is, zero for most."""
        ...


def require_expandable(model: object) -> None:
    """Raise ArgumentError unless ``model`` is one that circuits can read."""
    if not isinstance(model, Expandable):
        must = "be a bilens model, or satisfy nn.expandable.Expandable"
        raise ArgumentError(
            "model", must=must, got=type(model).__name__, todo="Load it with bilens.load."
        )


NO_NORM = NoNorm()


def eager(model: M) -> M:
    """``model`` run module by module, so that its hooks are heard.

    It itself; where it or a part of it is compiled, a copy of its modules over the very same
    weights.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile(model)
    compiled = any(getattr(module, "_compiled_call_impl", None) for module in _modules(model))
    return _over(model, lambda tensor: tensor) if compiled else model


def is_half(model: object) -> bool:
    """Whether any weight of ``model`` is in a half type."""
    return any(working_dtype(tensor.dtype) != tensor.dtype for tensor in _tensors(model))


def explained(model: M) -> M:
    """``model`` in the precision that it is explained in: itself, or a float32 copy of one whose
    weights are half types.

    Half-precision weights are exact in float32, so the copy is the very same function, without the
    rounding of each step. Gradients flow back to the half weights. Cost: a float32 copy of the
    weights, twice the memory of the half ones, for as long as the answer is worked out. Where many
    questions follow, ask them of ``model.float()``.
    """
    if not is_half(model):
        return eager(model)
    made = _over(model, _in_full)
    _require_own_weights(model, made)
    return made


def _require_own_weights(model: object, made: object) -> None:
    """Raise ArgumentError where a forward that a person put on a part was not copied: it runs the
    half weights still.
    """
    for module, copied in zip(_modules(model), _modules(made), strict=True):
        bound = vars(module).get("forward")
        if bound is not None and vars(copied).get("forward") is bound:
            who, must = f"the forward of {type(module).__name__}", "be its class's own, or a method"
            got = "a function of the object's own, over half-precision weights"
            raise ArgumentError(who, must=must, got=got, todo=TO_FLOAT)


def explains(verb: Callable[P, R]) -> Callable[P, R]:
    """A verb of a model (its first argument), with one ArgumentError where the float32 copy of a
    half-precision one cannot run: a hook, say, may hold on to the half weights.
    """

    @wraps(verb)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not is_half(args[0] if args else kwargs.get("model")):
                raise
            must = "run over a float32 copy of its half-precision weights"
            raise ArgumentError("the model", must=must, got=error, todo=TO_FLOAT) from error

    return told


def _in_full(tensor: Tensor) -> Tensor:
    """Half types in float32; everything else as it is."""
    return tensor.to(working_dtype(tensor.dtype))


def _over(model: M, change: Callable[[Tensor], Tensor]) -> M:
    """A copy of the modules of ``model``, not compiled, over ``change`` of its weights; what is
    shared stays shared.
    """
    model = getattr(model, "_orig_mod", model)
    memo: dict[int, Any] = {id(tensor): change(tensor) for tensor in _tensors(model)}
    tokenizer = getattr(model, "tokenizer", None)
    try:
        return copy.deepcopy(model, memo | {id(tokenizer): tokenizer})
    except Exception as error:  # of whatever somebody hung on it: a lock, an open file
        who, must = "the model", "be one that can be copied, to be read in float32 and not compiled"
        todo = f"{TO_FLOAT[:-1]}, not compiled."
        raise ArgumentError(who, must=must, got=error, todo=todo) from error


def _modules(model: object) -> Iterator[nn.Module]:
    model = getattr(model, "_orig_mod", model)  # of torch.compile(model)
    return model.modules() if isinstance(model, nn.Module) else iter(())


def _tensors(model: object) -> Iterator[Tensor]:
    if not isinstance(model, nn.Module):
        return iter(())
    return chain(model.parameters(), model.buffers())

"""The precision and the modules that a model is explained in.

A half-precision model is explained in float32, in which its weights are exact. Not by a copy of
them all, which would be twice the model: its modules give their weights in float32 when these are
asked for, part by part, and what a recording holds of them is views of the half weights.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from itertools import chain
from typing import Any, NamedTuple, ParamSpec, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from bilens.base.errors import ArgumentError
from bilens.base.numerics import GIB, working_dtype
from bilens.nn import Leg
from bilens.wiring.kinds import Form

M = TypeVar("M")
P = ParamSpec("P")
R = TypeVar("R")
TO_FLOAT = "Ask of model.float()."
ROOM = GIB  # what float32 weights that were asked for last may take, to be used again


def eager(model: M) -> M:
    """``model`` run module by module, so that its hooks are heard.

    It itself; where it or a part of it is compiled, a copy of its modules over the very same
    weights.

    >>> bilens.wiring.eager(model) is model
    True
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile(model)
    compiled = any(getattr(module, "_compiled_call_impl", None) for module in _modules(model))
    return _over(model, lambda tensor: tensor) if compiled else model


def is_half(model: object) -> bool:
    """Whether any weight of ``model`` is in a half type.

    >>> bilens.wiring.is_half(model)
    False
    """
    return any(
        working_dtype(tensor.dtype) != tensor.dtype
        for module in _modules(model)
        for held in (module._parameters, module._buffers)
        if not isinstance(held, _Full)
        for tensor in held.values()
        if tensor is not None
    )


def explained(model: M) -> M:
    """``model`` in the precision that it is explained in: itself, or modules over its half weights
    that give each in float32 where it is asked for.

    Half-precision weights are exact in float32, so they are the very same function, without the
    rounding of each step. Gradients flow back to the half weights. Memory: the float32 weights that
    are in use, and up to 1 GiB of those used last. Cost: every weight is cast each time that it is
    used, where that is not enough for all; where many questions follow and there is the memory, ask
    them of ``model.float()``.

    >>> bilens.wiring.explained(model) is model
    True
    """
    if not is_half(model):
        return eager(model)
    made = _over(model, lambda tensor: tensor)
    _require_own_weights(model, made)
    full = _InFull()
    for module in _modules(made):
        module._parameters = _Full(module._parameters, full)
        module._buffers = _Full(module._buffers, full)
        if type(module) is nn.Embedding and module.max_norm is None:
            half = dict.__getitem__(module._parameters, "weight")
            vars(module)["forward"] = partial(_rows_in_full, half, module.padding_idx)
    return made


def _rows_in_full(half: Tensor, padding: int | None, ids: Tensor) -> Tensor:
    """An embedding's rows in float32, and not the whole of its weights."""
    rows = nn.functional.embedding(ids, half, padding)
    return rows.to(working_dtype(rows.dtype))


@contextmanager
def held_in_half(model: object) -> Iterator[Callable[[Form], Form]]:
    """What makes forms whose weights were asked of ``model`` meanwhile hold views of its half
    weights in their place. They give them in float32 as before, whenever they are used.

    Of a model in full precision forms stay as they are.

    >>> with bilens.wiring.held_in_half(model) as held: same = held(model.wiring().parts[1])
    """
    found = (module._parameters for module in _modules(model))
    full = next((held.full for held in found if isinstance(held, _Full)), None)
    if full is None:
        yield lambda form: form
        return
    with full.held():
        yield full.narrow


class _View(NamedTuple):
    """A view of ``whole``, as ``as_strided`` makes it of its storage."""

    whole: Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int  # from where the whole begins

    def of(self, whole: Tensor) -> Tensor:
        """The same view of another tensor of the shape and strides."""
        return whole.as_strided(self.size, self.stride, whole.storage_offset() + self.offset)


class _InFull:
    """Half tensors in float32: the same one as long as anybody holds it, and the last ones used."""

    def __init__(self) -> None:
        self._alive: WeakValueDictionary[tuple[int, int, bool], Tensor] = WeakValueDictionary()
        self._sources: dict[int, Tensor] = {}  # by id, which is theirs while they are here
        self._last: OrderedDict[int, Tensor] = OrderedDict()
        self._bytes = 0  # of the last ones
        self._held: list[Tensor] | None = None

    def __call__(self, tensor: Tensor) -> Tensor:
        if working_dtype(tensor.dtype) == tensor.dtype:
            return tensor
        found = self._alive.get(_key(tensor))
        if found is None:
            found = tensor.to(working_dtype(tensor.dtype))
            self._alive[_key(tensor)], self._sources[id(tensor)] = found, tensor
        if self._held is not None:
            self._held.append(found)
        self._keep(found)
        return found

    def _keep(self, found: Tensor) -> None:
        """Hold on to it in place of what was used before, as far as there is room."""
        if id(found) not in self._last:
            self._last[id(found)] = found
            self._bytes += found.nbytes
        self._last.move_to_end(id(found))
        while self._bytes > ROOM:
            self._bytes -= self._last.popitem(last=False)[1].nbytes

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold on to all that is asked for meanwhile."""
        before, self._held = self._held, []
        try:
            yield
        finally:
            self._held = before

    def narrow(self, form: Form) -> Form:
        """The form over views of half weights."""
        legs = tuple(_HalfLeg(self.late(leg.weight), leg.bias, leg.of) for leg in form.legs)
        return _HalfForm(legs, self.late(form.out))

    def late(self, tensor: Tensor) -> Callable[[], Tensor]:
        """What gives ``tensor``: anew from half weights where it is a view of theirs in float32."""
        view = self._view(tensor)
        return (lambda: tensor) if view is None else (lambda: self._full_view(view))

    def _view(self, tensor: Tensor) -> _View | None:
        """What ``tensor`` is of half weights."""
        place = tensor.untyped_storage().data_ptr()
        for (source, *_), whole in list(self._alive.items()):
            half = self._sources[source]
            if whole.untyped_storage().data_ptr() == place and half.stride() == whole.stride():
                offset = int(tensor.storage_offset() - whole.storage_offset())
                return _View(half, tuple(tensor.shape), tensor.stride(), offset)
        return None

    def _full_view(self, view: _View) -> Tensor:
        """Of the whole in float32 where that is there; else of the half, and that in float32."""
        full = self._alive.get(_key(view.whole))
        if full is None:
            return view.of(view.whole.detach()).to(working_dtype(view.whole.dtype))
        self._keep(full)
        return view.of(full.detach())


def _key(tensor: Tensor) -> tuple[int, int, bool]:
    """What a half tensor is known by: itself, its values, and whether gradients flow to it."""
    version = 0 if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.requires_grad and torch.is_grad_enabled()


class _Full(dict[str, Any]):
    """The tensors of a module by name, each in float32 where it is asked for."""

    def __init__(self, held: dict[str, Any], full: _InFull) -> None:
        super().__init__(held)
        self.full = full

    def __getitem__(self, name: str) -> Tensor | None:
        held = super().__getitem__(name)
        return None if held is None else self.full(held)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401  the getter is this one

    def values(self) -> Any:
        return (self[name] for name in self)

    def items(self) -> Any:
        return ((name, self[name]) for name in self)


class _HalfLeg(Leg):
    """A leg whose weight is in float32 where it is asked for."""

    def __init__(self, weight: Callable[[], Tensor], bias: Tensor | None, of: str) -> None:
        object.__setattr__(self, "_weight", weight)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "of", of)

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            return self._weight()
        raise AttributeError(name)


class _HalfForm(Form):
    """A form whose weights are in float32 where they are asked for."""

    def __init__(self, legs: tuple[Leg, ...], out: Callable[[], Tensor]) -> None:
        object.__setattr__(self, "legs", legs)
        object.__setattr__(self, "_out", out)

    def __getattr__(self, name: str) -> Any:
        if name == "out":
            return self._out()
        raise AttributeError(name)


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
    """A verb of a model (its first argument), with one ArgumentError where a half-precision one
    cannot run in float32: a hook, say, may hold on to the half weights.

    >>> width = bilens.wiring.explains(lambda model: model.config.hidden_size)
    >>> width(model)
    128
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
            must = "run in float32 over its half-precision weights"
            raise ArgumentError("the model", must=must, got=error, todo=TO_FLOAT) from error

    return told


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

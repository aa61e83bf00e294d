"""Reading and changing what a module is given or gives, while a model runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from bilens.base.errors import ArgumentError


@dataclass(eq=False)
class Hook:
    """``act`` on what a module is given or gives, and what became of it: how often it was called,
    and how often it put something else in place of what it was told.

    >>> acted = bilens.wiring.Hook(lambda value: None)
    >>> acted.calls, acted.changed
    (0, 0)
    """

    act: Callable[[Tensor], Tensor | None]
    calls: int = 0
    changed: int = 0

    def told(self, x: Tensor) -> Tensor | None:
        """What is put in place of ``x``, in a pass of the context that set this hook."""
        if self not in _SET_HERE.get():
            return None
        self.calls += 1
        made = self.act(x)
        if made is not None:
            self.changed += not torch.equal(made, x)
        return made

    def before(self, _: nn.Module, given: tuple, named: dict[str, Any] | None = None) -> Any:
        """As torch calls it, with what a module is given."""
        # another thread's pass, while torch is halfway through adding or removing the hook
        if named is None:
            return None
        if given:
            made = self.told(given[0])
            return None if made is None else ((made, *given[1:]), named)
        name = next(iter(named))  # x = ... by name
        made = self.told(named[name])
        return None if made is None else (given, {**named, name: made})

    def after(self, _: nn.Module, given: tuple, out: Any) -> Any:
        """As torch calls it, with what a module gives."""
        if not isinstance(out, tuple):
            return self.told(out)
        made = self.told(out[0])
        return None if made is None else (made, *out[1:])


# The hooks of this thread, or of this asyncio task. Modules are shared, so another thread's passes
# run through a hook too: it looks here, and leaves alone every pass but those of the context that
# set it.
_SET_HERE: ContextVar[frozenset[Hook]] = ContextVar("hooks set here", default=frozenset())
# torch counts its hooks without one: two threads at once may get one number, and one hook is lost
_REGISTER = Lock()


@contextmanager
def hooked(module: nn.Module, side: str, act: Callable[[Tensor], Tensor | None]) -> Iterator[Hook]:
    """While it lasts, ``act`` is told of what ``module`` is given or gives, and may give back
    something in its place.

    It acts on the passes of the context that set it alone: those of the same thread, or of the same
    asyncio task and what that one starts. Other threads run through the same modules untouched. (So
    a layer recomputed in a backward pass on another thread, as checkpoints are on CUDA, is not
    acted on.) Modules compiled in place do not run their hooks: see
    ``wiring.eager``. Yields a ``Hook``, which counts.

    >>> double = lambda value: 2 * value
    >>> ids, mlp = torch.tensor([[1]]), model.blocks[0].mlp
    >>> with bilens.wiring.hooked(mlp, "output", double): logits = model(ids).logits
    >>> logits.shape
    torch.Size([1, 1, 1024])
    """
    hook = Hook(act)
    with _REGISTER:
        if side == "input":
            handle = module.register_forward_pre_hook(hook.before, with_kwargs=True)
        else:
            handle = module.register_forward_hook(hook.after)
    _SET_HERE.set(_SET_HERE.get() | {hook})
    try:
        yield hook
    finally:
        # not by a token: a generator may be closed in another context than the one it began in
        _SET_HERE.set(_SET_HERE.get() - {hook})
        with _REGISTER:
            handle.remove()


def hear(module: nn.Module, side: str, run: Callable[[], Any]) -> Tensor:
    """What ``module`` is given or gives in the pass that ``run`` makes.

    Errors: ArgumentError for a pass that does not call the module.

    >>> run = lambda: model(input_ids=torch.tensor([[1, 2, 3]]))
    >>> bilens.wiring.hear(model.blocks[0].mlp, "output", run).shape
    torch.Size([1, 3, 128])
    """
    (heard,) = hear_each([(module, side)], run)
    return heard


def hear_each(places: Sequence[tuple[nn.Module, str]], run: Callable[[], Any]) -> list[Tensor]:
    """What several modules are given or give in the one pass that ``run`` makes. Errors as
    in ``hear``.

    >>> run = lambda: model(input_ids=torch.tensor([[1, 2, 3]]))
    >>> places = [(block.mlp, "input") for block in model.blocks]
    >>> len(bilens.wiring.hear_each(places, run))
    2
    """
    heard: list[list[Tensor]] = [[] for _ in places]
    with ExitStack() as stack:
        for (module, side), kept in zip(places, heard, strict=True):
            stack.enter_context(hooked(module, side, kept.append))
        run()
    for (module, _), kept in zip(places, heard, strict=True):
        if not kept:
            must, got = "call the modules that its wiring names", type(module).__name__
            raise ArgumentError("the model's forward pass", must=must, got=f"no call of {got}")
    return [kept[0].detach() for kept in heard]

"""Whether a part of a model does what circuits read from its weights.

Circuits speak of W_Q, W_K, W_V and W_O, of a layer's tensor, and of what a norm says of itself. A
subclass, a hook, an adapter or a quantised layer may do something else, and what was then said
would be exact about another model. So a part's own forward pass is held against its weights: on
what it reads where a pass is recorded, on random vectors where weights are read alone. What agrees
is understood, however it was made.

A miss is relative to the sizes that were added up, not to the sum, which may cancel.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilens.base.errors import ArgumentError
from bilens.base.numerics import as_given, standard_normal, working_dtype
from bilens.nn import Norm, causal_mask, rotate
from bilens.wiring import Expandable, Heads, Part, Product, Wiring, Write

PROBES = 5  # random vectors, at as many positions, on which weights are tried
# A miss that is another function: rounding is amplified where patterns are sharp, and stays far
# below these.
MISS = {torch.float64: 1e-7, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
TODO = "Merge or remove what changes it (an override, a hook, an adapter), or load the plain model."


def require_plain(wiring: Wiring) -> None:
    """Raise ArgumentError unless the weights of every part are plain tensors of a floating dtype:
    not quantised ones.
    """
    _require_plain_weight("the readout", wiring.readout)
    for part in wiring.parts:
        for name, module in part.module.named_modules():
            weight = getattr(module, "weight", None)
            if weight is not None and not isinstance(weight, nn.Module):
                _require_plain_weight(f"{part.name}.{name}", weight)


def require_norm(who: str, norm: Norm, x: Float[Tensor, "t d"]) -> None:
    """Raise ArgumentError unless a norm is σ(x) P x + c, as it says of itself."""
    scale, linear, does = norm.scale(x), norm.linear(x), norm(x)
    says = scale * linear if norm.shift is None else scale * linear + norm.shift
    size = (scale * x).abs().max() + says.abs().max()
    _require_same(who, does, says, size, "its scale, linear map and shift")
    y = x.flip(0)
    there, back = (linear * y).sum(-1), (x * norm.transposed(y)).sum(-1)
    _require_same(
        who, there, back, (linear * y).abs().sum(-1).max(), "the transpose of its linear map"
    )


def require_writes(
    part: Part, read: Float[Tensor, "t d"], writes: Sequence[Write]
) -> list[Float[Tensor, "t d"]]:
    """What each of a part's writes wrote where it read ``read``, and what it shares is told.

    Errors: ArgumentError unless they add up to the part's own forward pass, and each is what its
    weights say. Cost: that pass, and the weights once.
    """
    does, made, sizes = part.run(read), [], [read.new_zeros(())]
    for write in writes:
        value = does if write.value is None and len(writes) == 1 else write.value
        if isinstance(write, Product):
            says, size = write.says(read, part.shared)
            value = says if value is None else value
            who = part.name if len(writes) == 1 else f"{write.source.name} of {part.name}"
            _require_same(who, value, says, size, "what its weights say of its writes")
            sizes.append(as_given(size))
        if value is None:
            must = "say what it wrote, as its part writes more than that"
            raise ArgumentError(f"{write.source.name} of {part.name}", must=must, got="no value")
        sizes.append(value.abs().max() if value.numel() else read.new_zeros(()))
        made.append(value)
    total = sum(made[1:], start=made[0])
    _require_same(part.name, does, total, max(map(float, sizes)), "the sum of its writes")
    return made


def patterns_of(writes: Iterable[Write]) -> Float[Tensor, "head t s"]:
    """The patterns by which writes are mixed, of those that are."""
    patterns = (write.patterns for write in writes if isinstance(write, Product))
    return torch.stack([found[0] for found in patterns if found])


def require_scores(
    part: Heads, read: Float[Tensor, "t d"], pattern: Float[Tensor, "head t s"]
) -> None:
    """Raise ArgumentError unless a layer's patterns are the softmax, or the product, of its scores
    by W_Q and W_K.
    """
    module = part.module
    pairs = zip(*dict.fromkeys(module.score_projections), strict=True)
    queries, keys = (torch.cat([_turned(part, read, name) for name in side], -1) for side in pairs)
    seen = causal_mask(len(read), len(read), read.device, module.window)
    says = module.pattern(module.scored(queries, keys), seen)
    soft = module.kind == "softmax"
    size = torch.ones((), device="cpu") if soft else pattern.abs().max()
    what = f"the {'softmax' if soft else 'product'} of scores by W_Q and W_K"
    _require_same(f"the patterns of {part.name}", pattern, says, size, what)


def require_turns(part: Heads, queries: Float[Tensor, "t d_head"]) -> None:
    """Raise ArgumentError unless positions turn queries and keys so that a score depends on their
    offset alone.

    Angles are made in float32, so this holds to 1e-7 and is held to no more than float32 can.
    """
    if part.rotary is None:
        return
    length, keys = len(queries), queries.flip(0)
    there = torch.arange(length, device=queries.device)
    at = [
        part.rotary(positions[None], queries.dtype)
        for positions in (there, torch.zeros_like(there), there - length + 1)
    ]
    q, q_0, k, k_back = (
        rotate(x, *(angle[0, 0] for angle in turn))
        for x, turn in ((queries, at[0]), (queries, at[1]), (keys, at[0]), (keys, at[2]))
    )
    does, says = k @ q[-1], k_back @ q_0[-1]
    size, who = (queries.norm(dim=-1).max() ** 2), f"the turns of {part.name}"
    if does.dtype == torch.float64:
        does, says = does.float(), says.float()
    _require_same(who, does, says, size, "rotations by the offset of key and query")


def require_sum(says: float, does: float, size: float, dtype: torch.dtype) -> None:
    """Raise ArgumentError unless what the parts of a model add up to is what the model gives.
    ``size``: Σ |parts|.
    """
    got = torch.tensor([[does, says]], dtype=torch.float64, device="cpu").to(dtype)
    what = "what its parts add up to"
    _require_same("the model", got[:, 0], got[:, 1], torch.tensor(size, device="cpu"), what)


@torch.no_grad()
def require_weights(wiring: Wiring, parts: Iterable[Part]) -> None:
    """Raise ArgumentError unless ``parts`` and the final norm do what their weights say, on a few
    random vectors.

    Cost: a pass of five positions through each.
    """
    require_plain(wiring)
    x = _random(wiring.readout, wiring.readout.shape[1])
    require_norm("the final norm", wiring.norm, x)
    for plain in parts:
        require_norm(f"the norm of {plain.name}", plain.norm, x)
        read, part = plain.norm(x), _telling(wiring, plain, x)
        writes = part.writes(read)
        require_writes(part, read, writes)
        heads = part.attention
        if heads is not None:
            require_scores(heads, read, patterns_of(writes))
            require_turns(heads, _random(wiring.readout, heads.module.d_head))


def _telling(wiring: Wiring, part: Part, x: Float[Tensor, "t d"]) -> Part:
    """The part where another, whose reading it shares, read something else than ``x``."""
    if not part.shares:
        return part
    return part.sharing(wiring.parts[wiring.places[part.shares]].norm(x.flip(0)))


@torch.no_grad()
def require_ends(model: Expandable, wiring: Wiring) -> None:
    """Raise ArgumentError unless the modules that hold the leaves' weights and the readout's do
    what these say.
    """
    if not isinstance(model, nn.Module):
        return
    leaves = model.leaf_weights()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        rows_of = hasattr(module, "embedding_dim")
        # leaves may be the rows of a weight times a number, which the model says
        same = (leaf for leaf, rows in leaves.items() if rows.shape == weight.shape)
        leaf = next(same, None) if rows_of else None
        if leaf is not None:
            n = torch.arange(min(PROBES, len(weight)), device=weight.device)
            _require_same(
                name, module(n), weight[n], weight[n].abs().max(), f"the weights of {leaf}"
            )
        elif weight is wiring.readout and not rows_of:
            x = _random(weight, weight.shape[1])
            says = nn.functional.linear(x, weight, wiring.readout_bias)
            _require_same(name, module(x), says, (x.abs() @ weight.abs().mT).max(), "the readout")


def _random(like: Tensor, width: int) -> Float[Tensor, "t d"]:
    """The same random vectors every time, of the dtype and device of ``like``."""
    generator = torch.Generator().manual_seed(0)
    return standard_normal(PROBES, width, generator=generator).to(like)


def _turned(part: Heads, read: Float[Tensor, "t d"], name: str) -> Float[Tensor, "head t d_head"]:
    """Queries or keys of every head from their weights, normed and turned."""
    module = part.module
    found = read @ module.per_head(name) + module.bias_per_head(name)[:, None]
    found = module.qk_scale(name, found) * module.qk_gain(name) * found
    turn = part.turn(len(read), read.dtype)
    return found if turn is None else rotate(found, *(angle[0] for angle in turn))


def _require_plain_weight(who: str, weight: object) -> None:
    if type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point():  # type: ignore[union-attr]
        return
    kind = type(weight).__name__
    got = f"a {kind} of {weight.dtype}" if isinstance(weight, Tensor) else f"a {kind}"
    todo = "Dequantise the model, or load it as it was before."
    raise ArgumentError(who, must="have a plain weight of a floating dtype", got=got, todo=todo)


def _require_same(who: str, does: Tensor, says: Tensor, size: Tensor | float, what: str) -> None:
    """What is not finite is told elsewhere, by name."""
    if does.numel() == 0:
        return
    work = working_dtype(does.dtype)
    off = float((does.to(work) - says.to(work)).abs().max()) / (float(size) or 1.0)
    if off <= MISS.get(does.dtype, 0.1) or not bool(torch.isfinite(does).all()):
        return
    must = f"do in its forward pass what circuits read: {what}"
    raise ArgumentError(who, must=must, got=f"a difference of {off:.2g} of its size", todo=TODO)

"""Weights of a model that bilens has no family for, under names and conventions that their owner
declares.

What can be said by weights is folded into them, and the model's configuration says so
(``folds``). Nothing is guessed: a name that is left over or missing is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bilens.base.errors import ArgumentError, ConfigError
from bilens.base.keys import Number, OneOf, require
from bilens.base.numerics import require_finite, working_dtype
from bilens.models.carry import EMBED, HEAD, common_dtype, filled, sketched
from bilens.models.families.family import Pairing, Weight, numbers_in, paired, renamed
from bilens.models.transformer import Transformer, TransformerConfig
from bilens.nn import LINEAR_NORMS

Turns = Literal["halves", "halves reversed", "pairs", "pairs reversed"]
LAYER = "model.layers.{layer}"
# what turns, and the norms over it
TURNED = ("q_proj", "k_proj", "q2_proj", "k2_proj")
TURNED_NORMS = ("q_norm", "k_norm", "q2_norm", "k2_norm")
NORMS = (f"{LAYER}.input_layernorm", f"{LAYER}.post_attention_layernorm", "model.norm")
Names = Mapping[str, str | Sequence[str]] | Sequence[Weight]


@dataclass(frozen=True)
class Conventions:
    """What weights mean where it is not what they mean here. Each is folded into them.

    ``rope``: which dimensions of a head turn together, p with p + d/2 ("halves", as in Llama) or 2p
    with 2p + 1 ("pairs", as in GPT-J), and whether by the angle or, "reversed", by minus it: then
    (x, y) becomes (x cos + y sin, −x sin + y cos).
    ``score_scale``: what q · k, or the product of two scores, is multiplied with (default: that of
    ``config``). ``write_scale``: what attention and MLPs write is multiplied with. ``lerp`` α: each
    part makes (1 − α) x + α part(x) of the stream x; exact while nothing normalises.
    ``channel_scales``: vectors that multiply what is read in place of a norm: their name, and that
    of the norm here.
    ``bare_norms``: norms have no weights. ``transposed``: matrices of linear maps are (in, out).

    >>> bilens.models.Conventions(rope="pairs", score_scale=1 / 64).write_scale
    1.0
    """

    rope: Turns = "halves"
    score_scale: float | None = None
    write_scale: float = 1.0
    lerp: float | None = None
    channel_scales: Mapping[str, str] = field(default_factory=dict)
    bare_norms: bool = False
    transposed: bool = False


LLAMA = Conventions()


@torch.no_grad()
def from_state_dict(
    weights: Mapping[str, Tensor],
    config: TransformerConfig,
    names: Names = (),
    conventions: Conventions = LLAMA,
) -> Transformer:
    """A bilens model of ``config`` with foreign ``weights``, in evaluation mode.

    ``names``: a module of theirs and the module here that it becomes, or several whose rows lie one
    below the other in it (fused queries, keys and values), "{layer}" and "{expert}" standing for
    every number; or ``Weight``s, which say more. A weight without an entry has the same name here:

        from_state_dict(
            torch.load("final.pt", map_location="cpu", weights_only=True),
            TransformerConfig(vocab_size=64, hidden_size=32, ...),
            names={
                "embed": "model.embed_tokens",
                "blocks.{layer}.qkv": [f"model.layers.{{layer}}.self_attn.{n}_proj" for n in "qkv"],
                "unembed": "lm_head",
            },
            conventions=Conventions(rope="pairs", score_scale=1 / 64),
        )

    Half types become float32 where something is folded into them, which holds products exactly.
    Memory: a copy of the weights. Errors: ConfigError for a weight that is missing, left over
    or of another shape, and for conventions that the configuration contradicts; ArgumentError for a
    convention that is not known; NotFiniteError.

    >>> config = bilens.TransformerConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)
    >>> weights = bilens.Transformer(config).state_dict()
    >>> type(bilens.models.from_state_dict(weights, config)).__name__
    'Transformer'
    """
    _require_possible(conventions, config)
    model = sketched(Transformer, _configured(config, conventions))
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    pairings = paired(_spec(names, conventions), own)
    if conventions.transposed:
        pairings = [_transposed(pairing, model) for pairing in pairings]
    scales = _scales(weights, conventions, own)
    _require_all(pairings, weights, {name for name, _ in scales}, config)
    found = renamed(pairings, {name: value.detach() for name, value in weights.items()})
    if config.tie_word_embeddings:
        found.setdefault(HEAD, found[EMBED])
    dtype = common_dtype({value.dtype for value in found.values()})
    if model.config.folds:
        dtype = working_dtype(dtype)
    made = {name: value.to(dtype, copy=True) for name, value in found.items()}
    for name, norm in scales:
        _read_by(made, model, norm, weights[name].to(dtype))
    _fold(made, model, conventions)
    require_finite("", **made)
    return filled(model, made).eval()


def _spec(names: Names, conventions: Conventions) -> list[Weight]:
    """Names as ``Weight``s."""
    bare = [Weight(None, (norm,)) for norm in NORMS] if conventions.bare_norms else []
    if not isinstance(names, Mapping):
        return [*bare, *names]
    each = ((theirs, (ours,) if isinstance(ours, str) else ours) for theirs, ours in names.items())
    return [*bare, *(Weight(theirs, tuple(ours)) for theirs, ours in each)]


def _transposed(pairing: Pairing, model: Transformer) -> Pairing:
    """The matrix of a linear map as (in, out) in the files; others as they are."""
    module = model.get_submodule(next(iter(pairing.ours)).rpartition(".")[0])
    if not isinstance(module, nn.Linear):
        return pairing
    return replace(pairing, weight=replace(pairing.weight, transposed=True))


def _require_possible(conventions: Conventions, config: TransformerConfig) -> None:
    require("conventions.rope", conventions.rope, OneOf(get_args(Turns)), ArgumentError)
    above, scales = (Number(above=0).allows, "above 0"), (config.may_scale, config.scale_sign)
    for key, (allows, what) in (("write_scale", above), ("score_scale", scales), ("lerp", above)):
        value = getattr(conventions, key)
        if value is not None and not allows(value):
            must = f"be {what}"
            raise ArgumentError(f"conventions.{key}", must=must, got=repr(value))
    bare = {config.norm, config.last_norm} <= {*LINEAR_NORMS}
    if conventions.lerp is not None and (not bare or conventions.lerp >= 1):
        must = "be below 1, and of a model without norms, which would undo it"
        raise ConfigError("conventions.lerp", must=must, got=f'{conventions.lerp}, "{config.norm}"')
    if conventions.write_scale != 1 and config.norm_placement != "pre":
        must = "be 1 where norms over what parts write would undo it"
        raise ConfigError("conventions.write_scale", must=must, got=conventions.write_scale)
    if conventions.lerp is not None and config.parallel_residual:
        must = "be of parts one after another"
        raise ConfigError("conventions.lerp", must=must, got="parallel_residual")
    if conventions.channel_scales and {config.norm, config.last_norm} != {"none"}:
        must = 'be in place of norms: norm="none"'
        raise ConfigError("conventions.channel_scales", must=must, got=repr(config.norm))


def _configured(config: TransformerConfig, conventions: Conventions) -> TransformerConfig:
    """``config`` with the scale of scores, and what is folded in words."""
    said = {
        f"RoPE turns {conventions.rope}": conventions.rope != "halves",
        f"what parts write times {conventions.write_scale:g}": conventions.write_scale != 1,
        f"each part makes (1 − α) x + α part(x), α = {conventions.lerp}": bool(conventions.lerp),
        "scales of channels in place of norms": bool(conventions.channel_scales),
    }
    made = TransformerConfig.from_dict(config.to_dict())
    made.folds = [words for words, there in said.items() if there] or None
    if conventions.score_scale is not None:
        made.attention_scale = conventions.score_scale
    if conventions.lerp is not None or conventions.channel_scales:
        made.tie_word_embeddings = False  # the readout is scaled, and the embedding is not
    return made


def _scales(
    weights: Mapping[str, Tensor], conventions: Conventions, own: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, str]]:
    """The names of vectors in place of norms, each with the norm here."""
    found = []
    for theirs, norm in conventions.channel_scales.items():
        for numbers in numbers_in([theirs], weights) or [{}]:
            found.append((theirs.format(**numbers), norm.format(**numbers)))
    for name, _ in found:
        if name not in weights:
            must = "be among the weights"
            raise ConfigError(f"conventions.channel_scales: {name}", must=must, got="nothing")
    return found


def _require_all(
    pairings: Sequence[Pairing],
    weights: Mapping[str, Tensor],
    beside: set[str],
    config: TransformerConfig,
) -> None:
    """Raise ConfigError for the first weight that is missing, left over or of another shape."""
    wanted = {one.theirs: one for one in pairings if one.theirs is not None}
    tied = {HEAD} if config.tie_word_embeddings else set()
    for name, one in wanted.items():
        if name not in weights and tied & one.ours.keys():
            continue
        got = tuple(weights[name].shape) if name in weights else "nothing"
        if got != one.shape:
            ours = " and ".join(one.ours)
            raise ConfigError(f"weights: {name}", must=f"be {one.shape}, for {ours}", got=got)
    for name in sorted(weights.keys() - wanted.keys() - beside):
        must, todo = "become something here", "Name it in names=, or leave it out of weights."
        raise ConfigError(f"weights: {name}", must=must, got="no such module", todo=todo)


def _read_by(made: dict[str, Tensor], model: Transformer, norm: str, scale: Tensor) -> None:
    """Fold ``scale``, which multiplies what is read in place of ``norm``, into what reads it."""
    if norm == "model.norm":
        readers = [HEAD]
    else:
        layer, _, kind = norm.rpartition(".")
        parts = {"input_layernorm": "self_attn", "post_attention_layernorm": "mlp"}
        if kind not in parts:
            must = "name a norm of the model here: model.layers.0.input_layernorm, say"
            raise ConfigError("conventions.channel_scales", must=must, got=repr(norm))
        part = f"{layer}.{parts[kind]}"
        paths = {inner: path for path, inner in model.named_modules()}
        readers = [f"{paths[reader]}.weight" for reader in _readers(model.get_submodule(part))]
    for reader in readers:
        made[reader] = made[reader] * scale


def _readers(part: nn.Module) -> tuple[nn.Linear, ...]:
    return part.readers  # type: ignore[return-value]


def _fold(made: dict[str, Tensor], model: Transformer, conventions: Conventions) -> None:
    """Everything else, in place of the weights that it changes."""
    for layer, block in enumerate(model.blocks):
        at, rotary = f"model.layers.{layer}", model.model.rotaries.get(block.rope)
        if conventions.rope != "halves" and rotary is not None and block.self_attn is not None:
            order = _order(block.self_attn.d_head, 2 * len(rotary.inv_freq), conventions.rope)
            for name in _of(made, at, (*TURNED, *TURNED_NORMS)):
                heads = made[name].unflatten(0, (-1, len(order)))
                made[name] = heads[:, order].flatten(0, 1)
        if conventions.write_scale != 1:
            for name in _of(made, at, ("o_proj", "down_proj")):
                made[name] = made[name] * conventions.write_scale
    if conventions.lerp is not None:
        _lerp(made, len(model.blocks), conventions.lerp)


def _of(made: Mapping[str, Tensor], at: str, modules: Sequence[str]) -> list[str]:
    """The names of the weights and biases of ``modules`` in a layer, experts' too."""
    inside = [name for name in made if name.startswith(f"{at}.")]
    return [name for name in inside if name.split(".")[-2] in modules]


def _order(width: int, turning: int, rope: Turns) -> Tensor:
    """A head's dimensions in the order in which p turns with p + turning/2, by the angle."""
    order = torch.arange(width, device="cpu")
    first, still = order[:turning], order[turning:]
    if rope.startswith("pairs"):
        first = torch.cat([first[::2], first[1::2]])
    if rope.endswith("reversed"):
        first = first.roll(turning // 2)
    return torch.cat([first, still])


def _lerp(made: dict[str, Tensor], layers: int, alpha: float) -> None:
    """(1 − α) x + α part(x) as a sum: y = x / (1 − α)^p after p parts."""
    keep, part = 1 - alpha, 0
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for module, readers, writer in (
            (f"{at}.self_attn", (*TURNED, "v_proj"), "o_proj"),
            (f"{at}.mlp", ("gate_proj", "up_proj", "gate"), "down_proj"),
        ):
            written = _of(made, module, (writer,))
            if not written:
                continue
            for name in _of(made, module, readers):
                if name.endswith(".weight"):
                    made[name] = made[name] * keep**part
            for name in written:
                made[name] = made[name] * (alpha / keep ** (part + 1))
            part += 1
    made[HEAD] = made[HEAD] * keep**part

"""Multi-head attention with grouped queries and rotary positions, under Llama's module names.

z_t = Σ_s A_ts v_s in every head. The pattern A is a softmax of scores, or a product of two scores
as they are: then z_t is a polynomial of what is read, and nothing need be held fixed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from bilens.base.errors import ArgumentError, ConfigError
from bilens.base.keys import OneOf, require
from bilens.base.numerics import working_dtype
from bilens.nn.norm import RMSNorm

# True where a query may look, or what is added to its scores: 0 there, −∞ elsewhere.
Mask = Bool[Tensor, "*#b t s"] | Float[Tensor, "*#b t s"]
# The projections that make the queries and keys of each score of a pattern.
_SCORE = ("q_proj", "k_proj")
_SCORES: dict[str, tuple[tuple[str, str], ...]] = {
    "softmax": (_SCORE,),
    "bilinear": (_SCORE, ("q2_proj", "k2_proj")),
    "squared": (_SCORE, _SCORE),
}
ATTENTIONS = tuple(_SCORES)
HIDDEN = -1e4  # a mask that adds no more than that hides: float16 ends at −65504


class Rotary(nn.Module):
    """RoPE as Llama's: dimension p turns with dimension p + d_head/2 by position · θ^(-2p/d_head).

    Angles are made in float32 whatever the model's dtype, as every Llama does, so that checkpoints
    mean the same here. ``inv_freq`` and ``scale`` may be given for the stretched kinds of RoPE;
    fewer frequencies than d_head/2 turn the first dimensions alone. ``stretch``: the length of text
    up to which these hold, and the frequencies at a greater one (as ROPE_INIT_FUNCTIONS of
    transformers have it; a text's length is its last position + 1). Source: Su et al.,
    arXiv:2104.09864.

    ``reverse``: by minus the angle, so that (x, y) becomes (x cos + y sin, −x sin + y cos).
    ``table``: a type that cosines and sines are rounded to, as some were trained with.

    >>> rotary = bilens.nn.Rotary(8)
    >>> rotary.inv_freq.shape
    torch.Size([4])
    """

    # A plain tensor, no buffer: .to(dtype), .half(), to_empty and whoever loads or shards a model
    # cast, empty or move buffers, and frequencies rounded to bfloat16 are another model's.
    inv_freq: Float[Tensor, " half"]

    def __init__(
        self,
        d_head: int,
        theta: float = 10000.0,
        inv_freq: Float[Tensor, " half"] | None = None,
        scale: float = 1.0,
        stretch: tuple[int, Callable[[int], Float[Tensor, " half"]]] | None = None,
        *,
        reverse: bool = False,
        table: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if d_head % 2:
            raise ConfigError("head_dim", must="be even for rotary positions", got=d_head)
        given = frequencies(d_head, theta) if inv_freq is None else inv_freq
        self.inv_freq = given.to(torch.promote_types(given.dtype, torch.float32))
        self.scale, self.stretch, self.reverse, self.table = scale, stretch, reverse, table

    @torch.no_grad()
    def forward(
        self, positions: Int[Tensor, "b t"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "b 1 t r"], Float[Tensor, "b 1 t r"]]:
        """cos and sin, (b, 1, t, r): one for all heads, of the r dimensions that turn."""
        inv_freq = self._beside(positions)
        if self.stretch is not None:
            short, at_length = self.stretch
            length = int(positions.max()) + 1
            if length > short:
                inv_freq = at_length(length).to(inv_freq)
        angles = positions[..., None].to(inv_freq.dtype) * inv_freq
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        cos, sin = angles.cos() * self.scale, angles.sin() * self.scale
        if self.table is not None:
            cos, sin = cos.to(self.table), sin.to(self.table)
        return cos.to(dtype), (-sin if self.reverse else sin).to(dtype)

    def _beside(self, positions: Tensor) -> Tensor:
        """The frequencies on the device of ``positions``, where they then stay; meta has no
        values.
        """
        moved = self.inv_freq.to(positions.device)
        if positions.device.type != "meta":
            self.inv_freq = moved
        return moved


def frequencies(d_head: int, theta: float) -> Float[Tensor, " half"]:
    """θ^(-2p/d_head) in float32, with values even where a model is first made without memory.

    >>> bilens.nn.frequencies(4, 10_000.0)
    tensor([1.0000, 0.0100])
    """
    steps = torch.arange(0, d_head, 2, dtype=torch.float32, device="cpu")
    return 1.0 / theta ** (steps / d_head)


def rotate(
    x: Float[Tensor, "*b t d"], cos: Float[Tensor, "*#b t r"], sin: Float[Tensor, "*#b t r"]
) -> Float[Tensor, "*b t d"]:
    """x turned by its position's angles: a linear map of x, given the position. Where there are
    angles for the first dimensions alone, the others stay.

    >>> cos, sin = torch.zeros(1, 2), torch.ones(1, 2)  # a quarter turn
    >>> bilens.nn.rotate(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), cos, sin)
    tensor([[-2.,  1.,  3.,  4.]])
    """
    turning, still = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turning.chunk(2, dim=-1)
    cos, sin = cos.chunk(2, dim=-1)[0], sin.chunk(2, dim=-1)[0]  # both halves have the same angles
    turned = (
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(second * cos, first, sin),
    )
    # three passes over memory; x cos + rotate_half(x) sin takes five
    return torch.cat((*turned, still), dim=-1)


@dataclass(frozen=True)
class Scores:
    """How scores come of queries and keys.

    ``scale``: what q · k is multiplied with, d_head^-½ where it is None; of a product of two
    scores, what their product is multiplied with, d_head^-1 where it is None. ``softcap`` c:
    c tanh(s/c) of each score s goes to the softmax. ``window``: how many positions back a query
    looks, its own included; all where it is None. ``norm``: makes a norm of queries, or of keys, of
    a width: of a head's, or with ``across`` of all heads together. ``normalised``: products are
    over the sum of their magnitudes at all positions that the query sees.

    >>> bilens.nn.Scores(softcap=50.0).window is None
    True
    """

    scale: float | None = None
    softcap: float | None = None
    window: int | None = None
    norm: Callable[[int], RMSNorm] | None = None
    across: bool = False
    normalised: bool = False


PLAIN = Scores()


class ValueMix(nn.Module):
    """(1 − λ) v + λ v⁰ of a layer's values and those of the first, λ = ``weight``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, v: Float[Tensor, "b n t d"], first: Float[Tensor, "b n t d"]
    ) -> Float[Tensor, "b n t d"]:
        return torch.lerp(v, first, self.weight)


class Attention(nn.Module):
    """Causal attention: z_t = Σ_s A_ts v_s per head, written to the residual stream through o_proj.

    ``kind``: how A_ts comes of scores, for all s ≤ t (0 elsewhere):

    - "softmax": a softmax over s of c q_t · k_s
    - "bilinear": c (q_t · k_s)(q2_t · k2_s), of two pairs of projections; it may be negative
    - "squared": c (q_t · k_s)²

    Without norms the last two make z_t of degree five in what is read, twice of x_t and three times
    of x_s. ``n_kv`` key-value heads serve ``n_heads`` query heads in groups. ``scores``: the scale
    c, and what else is done to queries, keys and scores; norms are over queries and keys before
    they turn. ``value_mix``: values are (1 − λ) v + λ v⁰ of a layer's own and those of the first.
    Errors: ConfigError for an unknown kind, groups that do not fit, and what a kind does
    not have. Source: Vaswani et al., arXiv:1706.03762; grouped queries: Ainslie et al.,
    arXiv:2305.13245; products of two scores: arXiv:2605.15183.

    >>> heads = bilens.nn.Attention(16, n_heads=4)
    >>> rotary = bilens.nn.Rotary(4)
    >>> heads.n_heads, heads.d_head
    (4, 4)
    >>> bilens.nn.Attention(16, n_heads=4, kind="bilinear").q2_proj.out_features
    16
    """

    q_norm: RMSNorm | None  # over queries, and over keys; of a second score q2_norm and k2_norm
    k_norm: RMSNorm | None

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv: int | None = None,
        d_head: int | None = None,
        *,
        bias: bool = False,
        out_bias: bool | None = None,
        scores: Scores = PLAIN,
        layer: int = 0,
        kind: str = "softmax",
        value_mix: bool = False,
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv, self.layer = n_heads, n_kv or n_heads, layer
        self.d_head, self.kind = d_head or d_model // n_heads, kind
        if self.n_heads % self.n_kv:
            raise ConfigError(
                "num_attention_heads",
                must=f"be a multiple of num_key_value_heads = {self.n_kv}",
                got=n_heads,
            )
        require_pattern(kind, scores)
        usual = self.d_head ** (-0.5 * len(_SCORES[kind]))
        self.scale = usual if scores.scale is None else scores.scale
        self.softcap, self.window, self.across = scores.softcap, scores.window, scores.across
        self.normalised = scores.normalised
        queries, keys = self.n_heads * self.d_head, self.n_kv * self.d_head
        self.q_proj = nn.Linear(d_model, queries, bias=bias)
        self.k_proj = nn.Linear(d_model, keys, bias=bias)
        self.v_proj = nn.Linear(d_model, keys, bias=bias)
        self.o_proj = nn.Linear(queries, d_model, bias=bias if out_bias is None else out_bias)
        if kind == "bilinear":
            self.q2_proj = nn.Linear(d_model, queries, bias=bias)
            self.k2_proj = nn.Linear(d_model, keys, bias=bias)
        self.value_mix = ValueMix() if value_mix else None
        for name in dict.fromkeys(chain(*self.score_projections)):
            width = getattr(self, name).out_features if self.across else self.d_head
            setattr(self, _norm_of(name), scores.norm and scores.norm(width))

    @property
    def score_projections(self) -> tuple[tuple[str, str], ...]:
        """The names of the projections that make the queries and the keys of each score: one pair
        for the softmax; two for a product, twice the same of a squared head.
        """
        return _SCORES[self.kind]

    @property
    def legs(self) -> tuple[str, ...]:
        """What reads: "Q", "K" and "V"; of two scores "Q1", "K1", "Q2", "K2" and "V"."""
        numbers = ("",) if self.kind == "softmax" else ("1", "2")
        return (*(f"{side}{n}" for n in numbers for side in "QK"), "V")

    @property
    def is_polynomial(self) -> bool:
        """Whether what it writes is a polynomial of what it reads: no softmax, no sum over which
        products are divided, no norm of queries and keys.
        """
        return self.kind != "softmax" and not self.normalised and self.q_norm is None

    @property
    def readers(self) -> tuple[nn.Linear, ...]:
        """What reads the residual stream."""
        names = dict.fromkeys((*chain(*self.score_projections), "v_proj"))
        return tuple(getattr(self, name) for name in names)

    @property
    def writers(self) -> tuple[nn.Linear, ...]:
        """What writes to it."""
        return (self.o_proj,)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        turn: tuple[Tensor, Tensor] | None = None,
        mask: Mask | None = None,
        cache: Any = None,
        patterns: bool = False,
        first_values: Float[Tensor, "b n t d_head"] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b h t s"] | None]:
        """What the layer writes, and its attention patterns where asked (the eager path; sdpa
        otherwise).

        ``turn``: cos and sin of ``Rotary``. ``mask``: True where a query may look, or what is added
        to the scores (0 or −∞ where they are products); None is plain causal. A query that may look
        nowhere reads zeros. ``cache``: keys and values of earlier positions, with transformers'
        ``update(keys, values, layer)``; the keys of two scores lie side by side in it.
        ``first_values``: ``values`` of the first layer, where they are mixed in.
        """
        q, k, v = self._project(x, turn)
        if self.value_mix is not None:
            v = self.value_mix(v, v if first_values is None else first_values)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        z, pattern = (
            self._look(q, k, v, mask) if patterns else (self._look_fast(q, k, v, mask), None)
        )
        return self.o_proj(z.transpose(1, 2).flatten(2)), pattern

    def by_head(
        self,
        x: Float[Tensor, "b t d"],
        turn: tuple[Tensor, Tensor] | None = None,
        reads: Sequence[Float[Tensor, "b t d"]] | None = None,
        values: Float[Tensor, "b n t d_head"] | None = None,
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b h t s"]]:
        """What each head writes, the layer's output bias apart, and its pattern: ``forward`` before
        heads are added up. ``reads``: what each of ``legs`` reads, where that is not all ``x``.
        ``values``: in the place of its own, which have none mixed in.
        """
        q, k, own = self._project(x, turn) if reads is None else self._projected(reads, turn)
        z, pattern = self._look(q, k, own if values is None else values, None)
        return z @ self.per_head("o_proj"), pattern

    def values(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b n t d_head"]:
        """The values of ``n_kv`` heads, before any are mixed in."""
        return self._heads(self.v_proj(x))

    def per_head(self, name: str) -> Float[Tensor, "head a b"]:
        """The weights of one projection for every query head, in the row-vector convention: W_Q,
        W_K, W_V (d, d_head) for "q_proj", "k_proj", "v_proj", W_Q2 and W_K2 for "q2_proj" and
        "k2_proj", W_O (d_head, d) for "o_proj". Grouped keys and values are repeated.
        """
        if name == "o_proj":
            return self.o_proj.weight.mT.unflatten(0, (self.n_heads, self.d_head))
        return self.repeated(getattr(self, name).weight.unflatten(0, (-1, self.d_head)).mT)

    def bias_per_head(self, name: str) -> Float[Tensor, "head d_head"]:
        """The bias of "q_proj", "k_proj", "v_proj", "q2_proj" or "k2_proj" for every query head;
        zeros where there is none.
        """
        projection = getattr(self, name)
        bias = (
            torch.zeros_like(projection.weight[:, 0])
            if projection.bias is None
            else projection.bias
        )
        return self.repeated(bias.unflatten(0, (-1, self.d_head)))

    def qk_scale(
        self, name: str, heads: Float[Tensor, "head t d_head"]
    ) -> Float[Tensor, "*head t 1"] | float:
        """The scale by which the norm over ``heads``, the queries or keys of every query head from
        the projection ``name``, takes them: one for each head, or for all. 1 without a norm.
        """
        norm = self.qk_norm(name)
        if norm is None:
            return 1.0
        # grouped keys are repeated, each as often: their mean square is that of the few
        return norm.scale(heads.transpose(0, 1).flatten(1) if self.across else heads)

    def qk_gain(self, name: str) -> Float[Tensor, "head 1 d_head"] | float:
        """What that norm multiplies each dimension of every query head with. 1 without a norm."""
        norm = self.qk_norm(name)
        if norm is None:
            return 1.0
        gain = norm.gain.unflatten(0, (-1, self.d_head))
        return self.repeated(gain)[:, None]

    def side(
        self,
        name: str,
        x: Float[Tensor, "b t d"],
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "b n t d_head"]:
        """The queries or keys that the projection ``name`` makes of ``x``, normed and turned: of
        ``n_heads`` heads, or of ``n_kv``.

        Given the norm's scale σ a head's are (x W + b) σ w Rot, linear in x: ``per_head``,
        ``bias_per_head``, ``qk_scale`` and ``qk_gain`` give these, ``rotate`` the turns.
        """
        heads = self._normed(getattr(self, name)(x), self.qk_norm(name))
        return heads if turn is None else rotate(heads, *turn)

    def scored(
        self, q: Float[Tensor, "*b t k"], k: Float[Tensor, "*b s k"]
    ) -> Float[Tensor, "*b t s"]:
        """What the softmax takes, or the product of both scores, of queries and keys that have
        turned: those of two scores lie side by side.
        """
        if self.kind == "softmax":
            scores = (q * self.scale) @ k.mT
            return scores if self.softcap is None else soft_cap(scores, self.softcap)
        pairs = zip(q.split(self.d_head, -1), k.split(self.d_head, -1), strict=True)
        scores = [queries @ keys.mT for queries, keys in pairs]
        return self.scale * scores[0] * scores[-1]  # of a squared head they are one

    def pattern(self, scored: Float[Tensor, "*b t s"], seen: Mask) -> Float[Tensor, "*b t s"]:
        """How much each query reads of each position, of what ``scored`` gives and where it looks.
        Zeros where it looks nowhere; products may be negative.
        """
        if self.kind == "softmax":
            return _masked_softmax(scored, seen)
        products = scored.masked_fill(~_visible(seen), 0)
        if not self.normalised:
            return products
        total = products.abs().sum(-1, keepdim=True)
        return products / total.masked_fill(total == 0, 1)

    def cap_gate(self, scores: Float[Tensor, "*b"]) -> Float[Tensor, "*b"] | float:
        """c tanh(s/c) / s: what the soft-cap leaves of each score. 1 without one."""
        return 1.0 if self.softcap is None else soft_cap_gate(scores, self.softcap)

    def qk_norm(self, name: str) -> RMSNorm | None:
        """The norm over the queries or keys from the projection ``name``, where there is one."""
        return getattr(self, _norm_of(name))

    def repeated(self, heads: Float[Tensor, "n *b"]) -> Float[Tensor, "head *b"]:
        """Those of ``n_kv`` heads for every query head: the very ones where each has its own."""
        many = self.n_heads // len(heads)
        return heads if many == 1 else heads.repeat_interleave(many, dim=0)

    def _heads(self, x: Float[Tensor, "b t hd"]) -> Float[Tensor, "b h t d"]:
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

    def _project(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values by head, the first two normed and turned, those of two scores
        side by side; of a squared head's equal scores one.
        """
        pairs = dict.fromkeys(self.score_projections)
        queries = [self.side(name, x, turn) for name, _ in pairs]
        keys = [self.side(name, x, turn) for _, name in pairs]
        return _beside(queries), _beside(keys), self.values(x)

    def _projected(
        self, reads: Sequence[Tensor], turn: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same where each leg reads something of its own."""
        names = chain(*self.score_projections)
        sides = [self.side(name, x, turn) for name, x in zip(names, reads, strict=False)]
        return _beside(sides[0::2]), _beside(sides[1::2]), self.values(reads[-1])

    def _normed(self, x: Float[Tensor, "b t hd"], norm: RMSNorm | None) -> Tensor:
        """By head, normed head by head or all together."""
        if norm is None:
            return self._heads(x)
        return self._heads(norm(x)) if self.across else norm(self._heads(x))

    def _look_fast(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if self.softcap is not None or self.kind != "softmax":
            return self._look(q, k, v, mask)[0]
        queries, keys = q.shape[2], k.shape[2]
        whole = self.window is None or keys <= self.window
        causal = mask is None and queries == keys and whole
        if mask is None and not causal and (queries > 1 or not whole):
            # sdpa's own causal mask starts at the first key, and a cache's queries do not
            mask = causal_mask(queries, keys, q.device, self.window)
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        grouped = self.n_kv != self.n_heads
        return functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=causal, scale=self.scale, enable_gqa=grouped
        )

    def _look(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        groups = self.n_heads // self.n_kv
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        if mask is None:
            mask = causal_mask(q.shape[2], k.shape[2], q.device, self.window)
        work = working_dtype(q.dtype)  # scores of half types may overflow, as in sdpa they do not
        pattern = self.pattern(self.scored(q.to(work), k.to(work)), mask).to(q.dtype)
        return pattern @ v, pattern


def causal_mask(
    queries: int, keys: int, device: torch.device, window: int | None = None
) -> Bool[Tensor, "t s"]:
    """True where key s is no later than query t, and among its last ``window`` positions; the
    queries are the last of the keys.

    >>> bilens.nn.causal_mask(2, 3, torch.device("cpu"))
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return seen if window is None else seen.triu(keys - queries - window + 1)


def soft_cap(x: Float[Tensor, "*b"], cap: float) -> Float[Tensor, "*b"]:
    """cap tanh(x/cap): between −cap and cap.

    >>> bilens.nn.soft_cap(torch.tensor([0.0, 1e6]), 30.0)
    tensor([ 0., 30.])
    """
    return cap * torch.tanh(x / cap)


def soft_cap_gate(x: Float[Tensor, "*b"], cap: float) -> Float[Tensor, "*b"]:
    """cap tanh(x/cap) / x, and 1 in the limit at 0: a soft-cap as a factor of what it is given.

    >>> bilens.nn.soft_cap_gate(torch.tensor([0.0, 1e6]), 30.0)
    tensor([1.0000e+00, 3.0000e-05])
    """
    inner = x / cap
    return torch.where(inner == 0, torch.ones_like(inner), torch.tanh(inner) / inner)


def require_pattern(kind: str, scores: Scores, who: str = "") -> None:
    """Raise ConfigError for an unknown kind of attention, and for scores that it does not have;
    ``who`` stands before their names.

    >>> bilens.nn.require_pattern("bilinear", bilens.nn.Scores(normalised=True))
    """
    require(f"{who}attention", kind, OneOf(ATTENTIONS))
    if kind == "softmax" and scores.normalised:
        must = "be false where a softmax normalises"
        raise ConfigError(f"{who}attention_normalised", must=must, got=True)
    if kind != "softmax" and scores.softcap is not None:
        must = f"be none of {kind} attention, which has no softmax"
        raise ConfigError(f"{who}attn_logit_softcapping", must=must, got=scores.softcap)
    if scores.scale is not None and not (math.isfinite(scores.scale) and scores.scale):
        must = "be a finite number other than 0"
        raise ConfigError(f"{who}attention_scale", must=must, got=scores.scale)


def _norm_of(name: str) -> str:
    """ "q_norm", say, for "q_proj"."""
    return f"{name.removesuffix('_proj')}_norm"


def _beside(heads: list[Float[Tensor, "b n t d_head"]]) -> Float[Tensor, "b n t k"]:
    return heads[0] if len(heads) == 1 else torch.cat(heads, dim=-1)


def _visible(mask: Mask) -> Bool[Tensor, "*#b t s"]:
    """A mask as where queries may look. Errors: ArgumentError for one that adds anything but 0 and
    what hides (−∞, or as low as masks are), which a product of scores does not have.
    """
    if mask.dtype == torch.bool:
        return mask
    seen = mask == 0
    if not torch.compiler.is_compiling() and mask.device.type == "cpu":
        other = mask[~seen & (mask > HIDDEN)]
        if other.numel():
            must = "be 0 or −∞ where patterns are products of scores"
            raise ArgumentError("attention_mask", must=must, got=float(other[0]))
    return seen


def _masked_softmax(scores: Float[Tensor, "*b t s"], mask: Mask) -> Float[Tensor, "*b t s"]:
    """Softmax over the keys that ``mask`` leaves, zeros where it leaves none (as sdpa does)."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
    scores = scores + mask
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    return scores.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)

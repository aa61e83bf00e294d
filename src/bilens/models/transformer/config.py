"""What a transformer is: Llama's fields, and the few that the toys and the other norms need."""

from typing import Any

from transformers import PreTrainedConfig

from bilens.base.errors import ConfigError
from bilens.base.keys import Flag, Keys, Maybe, Number, OneOf, Whole, Words, each
from bilens.models.config import SIZE, SIZE_OR_NONE, require_known_keys, require_tokens
from bilens.models.transformer.rope import FULL, PARTIAL, SLIDING, THETA, rope_parameters
from bilens.nn import ACTIVATIONS, ATTENTIONS, NORMS, Scores, require_pattern

POSITIONS = ("rope", "learned", "none")
PLACEMENTS = ("pre", "post", "both")
MOST_LAYERS = 10_000
MOST_EXPERTS = 10_000
FLAGS = (
    "gated", "attention_bias", "attention_out_bias", "mlp_bias", "head_bias", "qk_norm",
    "qk_norm_across_heads", "parallel_residual", "tie_word_embeddings", "folded", "use_cache",
    "norm_topk_prob", "attention_normalised", "rope_reversed", "rope_bfloat16", "residual_mix",
    "value_mix",
)  # fmt: skip
FIELDS = Keys(
    {
        **each(("vocab_size", "hidden_size", "max_position_embeddings"), SIZE),
        "num_hidden_layers": Whole(0, MOST_LAYERS),
        **each(("num_attention_heads", "num_key_value_heads", "intermediate_size"), SIZE_OR_NONE),
        **each(FLAGS, Flag()),
        "num_local_experts": Whole(0, MOST_EXPERTS),
        "num_experts_per_tok": Whole(1, MOST_EXPERTS),
        **each(("rms_norm_eps", "initializer_range", "router_aux_loss_coef"), Number(least=0)),
        "folds": Maybe(Words()),
        "norm": OneOf(tuple(NORMS)),
        "attention": OneOf(ATTENTIONS),
        "norm_placement": OneOf(PLACEMENTS),
        "final_norm": Maybe(OneOf(tuple(NORMS))),
        **each(("embedding_scale", "residual_scale", "write_scale"), Number(above=0)),
        **each(("attn_logit_softcapping", "final_logit_softcapping"), Maybe(Number(above=0))),
        "positions": OneOf(POSITIONS),
        "hidden_act": OneOf(tuple(ACTIVATIONS)),
    }
)
HEADS = Keys(each(("head_dim", "num_key_value_heads"), SIZE))
WINDOW = Maybe(SIZE)


class TransformerConfig(PreTrainedConfig):
    """What a transformer is. Fields are named as in LlamaConfig, plus:

    ``norm``: "rms", "rms_unit_offset" (Gemma's, times 1 + weight), "layer", learned scales in its
    place, one a "channel" or one "scalar", or "none", with ``rms_norm_eps`` as its eps;
    ``final_norm``: that over what lm_head reads, where it is another. ``norm_placement``: over what
    attention and MLPs read ("pre"), over what they write ("post"), or both.
    ``parallel_residual``: both parts of a block read the stream before it. ``residual_scale`` a,
    ``write_scale`` b: a part makes a x + b part(x) of the stream x (1 − α and α are a lerp).
    ``residual_mix``: before each block x becomes λ₀ x + λ₁ x⁰ of it and of what it was before the
    first; ``value_mix``: the values of heads are (1 − λ) v + λ v⁰ of theirs and those of the first
    layer; these numbers are learned.
    ``positions``: "rope", "learned" or "none". ``rope_parameters``: one for all layers, or those
    of "full_attention" and of "sliding_attention" apart. ``rope_reversed``: heads turn by minus the
    angle; ``rope_bfloat16``: cosines and sines are rounded to bfloat16. ``sliding_windows``: for
    each layer how many positions back its heads look, their own included; None where they look at
    all.
    ``attention``: the kind of pattern, "softmax", "bilinear" (a product of two scores) or "squared"
    (``nn.Attention`` says what each is); ``attention_normalised``: products are over the sum of
    their magnitudes. ``attention_scale``: what scores, or products of two, are multiplied with, one
    number or one a layer (default: head_dim^-½, or head_dim^-1). ``attn_logit_softcapping``,
    ``final_logit_softcapping``: c tanh(s/c) of scores, of logits. ``embedding_scale``: what token
    embeddings are multiplied with.
    ``gated``: act(L x) ⊙ (R x) if true, act(U x) if not; ``hidden_act="linear"`` with ``gated`` is
    bilinear.
    ``num_local_experts``: as many MLPs in each layer, of which each token goes through
    ``num_experts_per_tok``, weighed by a router (0: one MLP, for all); ``norm_topk_prob``: their
    weights add up to 1. ``router_aux_loss_coef``: how much the loss counts unequal shares of the
    experts, while training. (As in MixtralConfig and Qwen3MoeConfig; ``intermediate_size`` is that
    of one expert.)
    ``attention_out_bias``: a bias on o_proj (default: as ``attention_bias``). ``head_bias``: one on
    lm_head. ``qk_norm``: RMSNorm over each head's query and key, or over those of all heads
    together (``qk_norm_across_heads``). ``folded``: norm weights have been folded into what reads
    them; ``folds``: what else was folded into the weights, in words. Errors: ConfigError for an
    unknown key or an impossible value.

    >>> config = bilens.TransformerConfig(hidden_size=64, intermediate_size=128, norm="none")
    >>> config.norm, config.num_hidden_layers
    ('none', 2)
    """

    model_type = "bilens_transformer"
    _rope_type_labels = (FULL, SLIDING)  # transformers: parameters of RoPE may be under these
    # transformers adds to a list
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012

    vocab_size: int = 4096
    hidden_size: int = 128
    intermediate_size: int = 512
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "linear"
    gated: bool = True
    num_local_experts: int = 0
    num_experts_per_tok: int = 2
    norm_topk_prob: bool = True
    router_aux_loss_coef: float = 0.001
    norm: str = "rms"
    final_norm: str | None = None
    attention: str = "softmax"
    attention_normalised: bool = False
    positions: str = "rope"
    max_position_embeddings: int = 256
    rms_norm_eps: float = 1e-6
    rope_parameters: dict | None = None
    rope_reversed: bool = False
    rope_bfloat16: bool = False
    attention_bias: bool = False
    attention_out_bias: bool | None = None
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    qk_norm_across_heads: bool = False
    norm_placement: str = "pre"
    parallel_residual: bool = False
    residual_scale: float = 1.0
    write_scale: float = 1.0
    residual_mix: bool = False
    value_mix: bool = False
    sliding_windows: list | None = None
    attention_scale: float | list | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    embedding_scale: float = 1.0
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    use_cache: bool = True
    folded: bool = False
    folds: list | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # how older files say it
        scaling, theta = kwargs.pop("rope_scaling", None), kwargs.pop("rope_theta", None)
        require_known_keys(self, kwargs)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.attention_out_bias is None:
            self.attention_out_bias = self.attention_bias
        FIELDS.check_fields(self, "TransformerConfig.")
        require_tokens(self, self.vocab_size, "TransformerConfig.")
        self._check_heads()
        self._check_patterns()
        self._check_by_layer()
        self._check_experts()
        self._check_placement()
        self._check_stream()
        given = self.rope_parameters if scaling is None else scaling
        self.rope_parameters = rope_parameters(
            given, THETA if theta is None else theta, self.max_position_embeddings
        )
        self._check_turns()
        super().__post_init__(**kwargs)

    def _check_heads(self) -> None:
        heads, groups = self.num_attention_heads, self.num_key_value_heads or 0
        if not heads:
            return
        if self.head_dim is None:
            if self.hidden_size % heads:
                must = f"be a multiple of num_attention_heads = {heads}, or head_dim be given"
                _refuse("hidden_size", must, self.hidden_size)
            self.head_dim = self.hidden_size // heads
        HEADS.check_fields(self, "TransformerConfig.")
        if heads % groups:
            _refuse(
                "num_attention_heads", f"be a multiple of num_key_value_heads = {groups}", heads
            )
        if self.positions == "rope" and self.head_dim % 2:
            _refuse("head_dim", "be even for rotary positions", self.head_dim)

    def _check_patterns(self) -> None:
        """What a kind of attention does not have."""
        cap, normalised = self.attn_logit_softcapping, self.attention_normalised
        scores = Scores(softcap=cap, normalised=normalised)
        require_pattern(self.attention, scores, "TransformerConfig.")

    def _check_turns(self) -> None:
        """Some dimensions turn, and longrope's factors are one for each pair of them."""
        if self.positions != "rope" or not self.head_dim:
            return
        for rope in self.ropes.values():
            pairs = (int(self.head_dim * rope.get(PARTIAL, 1.0)) + 1) // 2
            if not pairs:
                must = f"turn some of {self.head_dim} dimensions"
                _refuse(f"rope_parameters.{PARTIAL}", must, rope[PARTIAL])
            for key in ("short_factor", "long_factor"):
                if len(rope.get(key, range(pairs))) != pairs:
                    must = f"hold one number for each of {pairs} pairs of dimensions"
                    _refuse(f"rope_parameters.{key}", must, len(rope[key]))

    def _check_by_layer(self) -> None:
        """Windows are one a layer; scales too, or one for all."""
        scales = self.attention_scale
        if isinstance(scales, int | float):
            scales = [scales] * self.num_hidden_layers
        for key, given, allows, what in (
            ("sliding_windows", self.sliding_windows, WINDOW.allows, "above 0"),
            ("attention_scale", scales, self.may_scale, self.scale_sign),
        ):
            if given is None:
                continue
            fits = isinstance(given, list | tuple) and len(given) == self.num_hidden_layers
            if not fits or not all(map(allows, given)):
                must = f"hold one for each of {self.num_hidden_layers} layers, {what}"
                _refuse(key, must, repr(getattr(self, key)))

    def _check_placement(self) -> None:
        if self.norm_placement == "pre":
            return
        if self.norm not in ("rms", "rms_unit_offset"):
            _refuse("norm_placement", 'be "pre" where norms are not of the RMS kind', "another")
        if self.attention_out_bias:
            _refuse("attention_out_bias", "be false where norms are over what is written", True)

    def _check_stream(self) -> None:
        if self.parallel_residual and self.residual_scale != 1:
            must = "be 1 where both parts of a block read the same stream"
            _refuse("residual_scale", must, self.residual_scale)
        if self.value_mix and not self.num_attention_heads:
            _refuse("value_mix", "be false where there are no heads", True)

    def _check_experts(self) -> None:
        experts = self.num_local_experts
        if experts and self.num_experts_per_tok > experts:
            must = f"be at most num_local_experts = {experts}"
            _refuse("num_experts_per_tok", must, self.num_experts_per_tok)
        if experts and not self.intermediate_size:
            _refuse("intermediate_size", "be at least 1 where there are experts", 0)

    def window(self, layer: int) -> int | None:
        """How many positions back the heads of a layer look; None for all."""
        return None if self.sliding_windows is None else self.sliding_windows[layer]

    @property
    def scale_sign(self) -> str:
        """In words, the numbers that ``may_scale``."""
        return "above 0" if self.attention == "softmax" else "other than 0"

    def may_scale(self, scale: Any) -> bool:
        """Whether scores may be multiplied with it: products of two by a negative number too."""
        signed = self.attention != "softmax"
        return Number().allows(scale) and (scale > 0 or (signed and scale != 0))

    def score_scale(self, layer: int) -> float | None:
        """What the scores of a layer are multiplied with; None for what is usual."""
        scale = self.attention_scale
        return scale[layer] if isinstance(scale, list | tuple) else scale

    def rope(self, layer: int) -> str:
        """Which of ``ropes`` turns the heads of a layer."""
        kind = FULL if self.window(layer) is None else SLIDING
        return kind if kind in self.ropes else next(iter(self.ropes))

    @property
    def context(self) -> int:
        """The longest text: dynamic RoPE stretches over ``factor`` times its first length."""
        kinds = self.ropes.values() if self.positions == "rope" else ()
        stretch = min([r["factor"] for r in kinds if r.get("rope_type") == "dynamic"], default=1)
        return int(self.max_position_embeddings * max(stretch, 1))

    @property
    def ropes(self) -> dict[str, dict[str, Any]]:
        """The parameters of RoPE by kind of layer; under one name where all have the same."""
        given = self.rope_parameters or {}
        return given if given.keys() & {FULL, SLIDING} else {FULL: given}

    @property
    def is_sum(self) -> bool:
        """Whether the stream is the sum of what parts write, and heads have values of their own."""
        scaled = self.residual_scale != 1 or self.write_scale != 1
        return not (scaled or self.residual_mix or self.value_mix)

    @property
    def last_norm(self) -> str:
        """The kind of norm over what lm_head reads."""
        return self.final_norm or self.norm

    @property
    def is_exact(self) -> bool:
        """Whether every MLP is exactly a tensor."""
        if self.intermediate_size == 0:
            return True
        exact = "linear" if self.gated else "square"
        return self.hidden_act == exact and not self.num_local_experts


def _refuse(key: str, must: str, got: object) -> None:
    raise ConfigError(f"TransformerConfig.{key}", must=must, got=got)

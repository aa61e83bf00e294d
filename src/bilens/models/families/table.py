"""What each family of transformers has, as a table for people: made from the files beside this one.

python -m bilens.models.families.table > docs/families.md
"""

from typing import Any

from transformers import CONFIG_MAPPING

from bilens.models.families import FAMILIES
from bilens.models.transformer import TransformerConfig

HEAD = """# Families

`bilens.load` opens folders of these kinds (`model_type` in config.json) with the very weights in
them, and its logits are those of `transformers`. What a checkpoint asks for beyond this is refused
by name. Everything that circuits say holds for all of them: sums, scores, knock-outs; a soft-cap, a
window, a gate and the scale of a norm are held as the pass had them, as patterns are. The columns
are those of each family's default configuration.

| model_type | norms | positions | MLP | beside |
|---|---|---|---|---|
"""
TAIL = """
Also, whose config.json has no `model_type`: the bilinear language models of tdooms; image
classifiers of tdooms and of tensor-similarity; and those whose patterns are products of two scores,
or squares of one:

| family | how | beside |
|---|---|---|
| bilinear-vpd | `load("runs/v16/model_final.pt")` | all its kinds of norms; decomposed models |
| Elriggs | `load(folder)` with its pytorch_model.bin | softmax too; mixed streams, values |
| melephant | `load("checkpoints/step_01000.pt")`, config.json above | a number for a norm |
| tensor_language | `load("xf2.pt", config={"n_ctx": 512})` | batch norms, running norms folded |
| tensor-similarity | `load("lm.pt", config={"n_head": 4, "n_ctx": 16, "scale": 0.5})` | lerp |

What no file says (the context, the number of heads, the share of a lerp) is asked for by name.
Where values of the first layer are mixed in, a head writes twice, its own as "L1H0" and those as
"L1H0.first": take out both to take out the head. And bilens's own models (`bilens_transformer`,
`bilens_classifier`).

RoPE may be stretched (linear, llama3, yarn, dynamic, longrope). Norm weights, and LayerNorm's
centring, fold into what reads them (`model.folded()`); a norm over what a part writes stays. MLPs
become bilinear (`bilens convert --to bilinear`) but for experts, and where norms are over what MLPs
write.

A family is one file in `src/bilens/models/families`; this page is made from them by
`make families`.
"""
NORMS = {"rms": "RMSNorm", "rms_unit_offset": "RMSNorm of gain 1 + w", "layer": "LayerNorm"}
PLACES = {"pre": "", "post": ", over what is written", "both": ", over what is read and written"}


def page() -> str:
    """The page: a line for each model_type, in the order of the alphabet."""
    kinds = {kind: family for family in FAMILIES for kind in family.kinds if kind in CONFIG_MAPPING}
    own = {kind for kind in kinds if kind.startswith("bilens_")}
    lines = [
        _line(kind, kinds[kind].config(_default(kind), {})) for kind in sorted(kinds.keys() - own)
    ]
    return HEAD + "\n".join(lines) + "\n" + TAIL


def _default(kind: str) -> dict[str, Any]:
    return CONFIG_MAPPING[kind]().to_dict()


def _line(kind: str, config: Any) -> str:
    cells = (f"`{kind}`", _norms(config), _positions(config), _mlp(config), _heads(config))
    return f"| {' | '.join(cells)} |"


def _norms(config: TransformerConfig) -> str:
    beside = "; attention and MLP read the same stream" if config.parallel_residual else ""
    return NORMS[config.norm] + PLACES[config.norm_placement] + beside


def _positions(config: TransformerConfig) -> str:
    if config.positions == "learned":
        return "learned"
    two = ", another where heads look back a window" if len(config.ropes) > 1 else ""
    part = next(iter(config.ropes.values())).get("partial_rotary_factor", 1)
    return f"RoPE{two}" + (f", {part:.0%} of each head" if part != 1 else "")


def _mlp(config: TransformerConfig) -> str:
    kind = "gated" if config.gated else "plain"
    many = f"{config.num_local_experts} experts, " if config.num_local_experts else ""
    return f"{many}{kind}, {config.hidden_act}" + (", biases" if config.mlp_bias else "")


def _heads(config: TransformerConfig) -> str:
    some = any(config.window(n) is None for n in range(config.num_hidden_layers))
    normed = "across heads" if config.qk_norm_across_heads else "by head"
    own_scale = config.attention_scale is not None
    told = {
        "biases": config.attention_bias,
        "their own scale": own_scale,
        f"queries and keys normed {normed}": config.qk_norm,
        f"a window in {'some' if some else 'all'} layers": bool(config.sliding_windows),
        "scores soft-capped": config.attn_logit_softcapping is not None,
        "logits soft-capped": config.final_logit_softcapping is not None,
        "embeddings scaled": config.embedding_scale != 1,
    }
    return ", ".join(words for words, there in told.items() if there)

"""The second case: a model of two-QK heads and a softmax twin, trained on a small language."""

from pathlib import Path

from bilens.training import TextRecipe, save_tokenizer, train_language
from experiments.known_rules import language

TEXTS, STEPS, EVERY = 20_000, 4_000, 666
HEAD = 24
MODEL = {
    "hidden_size": 48,
    "head_dim": HEAD,
    "num_attention_heads": 1,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "max_position_embeddings": language.LENGTH,
    "norm": "channel",
    "initializer_range": 0.05,
}
KINDS = {"bilinear": {"attention_scale": 1 / HEAD}, "softmax": {}}


def trained(folder: Path) -> dict[str, Path]:
    """The runs in ``folder``, by kind of attention; those that are not there are trained."""
    source = folder / "texts.txt"
    if not source.exists():
        language.write(folder, TEXTS)
        save_tokenizer(language.tokenizer(), folder / "tokenizer")
    runs = {kind: folder / kind for kind in KINDS}
    for kind, run in runs.items():
        if not run.exists():
            model = MODEL | {"attention": kind} | KINDS[kind]
            how = TextRecipe(
                model=model, steps=STEPS, batch_size=32, learning_rate=5e-3, weight_decay=0.01
            )
            words = folder / "tokenizer"
            train_language(
                str(source), run, how, tokenizer=words, save_every=EVERY, keep_all=True, quiet=True
            )
    return runs

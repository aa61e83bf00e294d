"""Trains the models in the box and puts them, with their cards, into the package.

    python -m experiments.boxed_models --data FOLDER [--only tinystories-1l]

FOLDER holds TinyStories as train.txt and valid.txt. One byte-level BPE of 1,024 tokens serves all.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from bilens.training import VARIANTS, read_recipe, save_tokenizer, train_language, train_tokenizer

RECIPES = Path(__file__).parent / "boxed"
BOX = Path(__file__).parent.parent / "src" / "bilens" / "models" / "box"
SHIPPED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
VOCABULARY = 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", required=True)
    options.add_argument("--only")
    given = options.parse_args()
    names = [given.only] if given.only else sorted(path.stem for path in RECIPES.glob("*.toml"))
    with tempfile.TemporaryDirectory() as work:
        save_tokenizer(train_tokenizer(given.data, VOCABULARY), Path(work) / "tokenizer")
        for name in names:
            run = Path(work) / name
            train_language(
                given.data,
                run,
                read_recipe(RECIPES / f"{name}.toml"),
                tokenizer=Path(work) / "tokenizer",
                quiet=True,
            )
            put_in_the_box(run, name)


def put_in_the_box(run: Path, name: str) -> None:
    (BOX / name).mkdir(parents=True, exist_ok=True)
    for file in SHIPPED:
        shutil.copyfile(run / file, BOX / name / file)
    about = json.loads((run / "training.json").read_text(encoding="utf-8"))
    rows = [
        json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    (BOX / name / "README.md").write_text(card(name, about, rows), encoding="utf-8")
    print(name, about["figures"])


def card(name: str, about: dict, rows: list[dict]) -> str:
    how, valid = about["recipe"], about["figures"]["valid"]
    config = json.loads((BOX / name / "config.json").read_text(encoding="utf-8"))
    train_losses = [row["loss"] for row in rows if "loss" in row]
    rate, decay = how["learning_rate"], how["weight_decay"]
    tokens = how["steps"] * how["batch_size"] * how["model"]["max_position_embeddings"]
    return f"""# {name}

{kind(config["hidden_act"], config["gated"])}, `bilens.load("{name}")`: {json.dumps(how["model"])}.

- Data: TinyStories (Eldan & Li, arXiv:2305.07759; CDLA-Sharing-1.0), 7,943 training and 600 \
validation stories.
- Tokenizer: byte-level BPE of {VOCABULARY:,} tokens, trained on the same stories.
- Training: {how["steps"]:,} steps of {how["batch_size"]} blocks, {tokens:,} tokens; AdamW, \
learning rate {rate},
  weight decay {decay}, 5 % warm-up, cosine; float32; seed {how["seed"]}.
- Loss: {train_losses[-1]:.4f} nats per token in the last steps of training; validation \
{valid["loss"]:.4f} nats per token,
  {valid["bits per byte"]:.4f} bits per byte, over {valid["tokens"]:,} tokens.
- Command: `python -m experiments.boxed_models --data FOLDER --only {name}`
- Meant for looking inside, not for use: it writes simple children's stories, and errs often.
"""


def kind(act: str, gated: bool) -> str:
    """What a model is, by its MLPs."""
    name = {mlp: name for name, mlp in VARIANTS.items()}[act, gated]
    return "A bilinear transformer" if name == "bilinear" else f"A transformer with {name} MLPs"


if __name__ == "__main__":
    main()

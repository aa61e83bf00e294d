"""Bilinear MLPs against ReLU, GELU, ReLU², ReGLU, GEGLU and SwiGLU, at equal parameters and equal
tokens, each with a learning rate and an initial scale of its own.

    python -m experiments.glu_variants --data FOLDER-OR-FILE … --output WORK [--preset small|gpu]

Tests, small, the claim after Shazeer (arXiv:2002.05202, table 1) that bilinear layers do better
than standard MLPs and slightly worse than SwiGLU. For each text and MLP, of all pairs of six
learning rates and five initial scales the five that are best on one seed, and of these the best
over three seeds. With it, five further seeds.

Every run is a row of experiments/results/glu_variants.jsonl, written when it is finished. A run
whose row is there is not made again, so the same command goes on from the repository alone; a run
that was stopped goes on from its checkpoint in WORK. Each text that is complete is saved there as
a comparison, with its figure as HTML.
"""

import argparse
from pathlib import Path

from bilens.base.errors import BilensError, FileError
from bilens.training import TextRecipe, read_recipe
from experiments.glu_variants.campaign import Campaign, digest

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "glu_variants.jsonl"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", required=True, nargs="+")
    options.add_argument("--output", required=True, type=Path)
    options.add_argument(
        "--preset", default="small", choices=sorted(path.stem for path in HERE.glob("*.toml"))
    )
    options.add_argument("--bf16", action="store_true")
    given = options.parse_args()
    how = read_recipe(HERE / f"{given.preset}.toml")
    try:
        for campaign in campaigns(given, how):
            run(campaign)
    except BilensError as error:
        options.error(str(error))


def campaigns(given: argparse.Namespace, how: TextRecipe) -> list[Campaign]:
    """One for each text, all of which are read before the first is trained on."""
    found = {}
    for source in given.data:
        name = name_of(source)
        if name in found:
            raise FileError("--data", must="be texts of different names", got=f"{name} twice")
        about = {"preset": given.preset, "bf16": given.bf16, "data": name, "text": digest(source)}
        work = given.output / name
        found[name] = Campaign(source, how, work, RESULTS, about, {"bf16": given.bf16})
    return list(found.values())


def name_of(source: str) -> str:
    """A file goes by its folder's name: several texts are called input.txt."""
    path = Path(source).resolve()
    return path.parent.name if path.is_file() else path.stem


def run(campaign: Campaign) -> None:
    found, work = campaign.compared(), campaign.work
    work.mkdir(parents=True, exist_ok=True)
    found.save(work / "comparison.safetensors")
    found.plot().write_html(work / "comparison.html")
    print(found.to_frame().to_string(index=False), flush=True)


if __name__ == "__main__":
    main()

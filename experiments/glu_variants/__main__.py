"""Bilinear MLPs against ReLU, GELU, ReLU², ReGLU, GEGLU and SwiGLU, at equal parameters and equal
tokens.

    python -m experiments.glu_variants --data FOLDER-OR-FILE … --output WORK \
        [--preset small|gpu] [--seeds 3]

Tests, small, the claim after Shazeer (arXiv:2002.05202, table 1) that bilinear layers do better
than standard MLPs and slightly worse than SwiGLU. Every run becomes a row of
experiments/results/glu_variants.jsonl; a run that was stopped goes on from its checkpoint. WORK
gets the runs, each comparison as a saved result, and its figure as HTML.
"""

import argparse
from pathlib import Path

from benchmarks.record import record
from bilens.training import compare, read_recipe

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "glu_variants.jsonl"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", required=True, nargs="+")
    options.add_argument("--output", required=True, type=Path)
    options.add_argument(
        "--preset", default="small", choices=sorted(path.stem for path in HERE.glob("*.toml"))
    )
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--bf16", action="store_true")
    given = options.parse_args()
    how = read_recipe(HERE / f"{given.preset}.toml")
    for source in given.data:
        name = Path(source).stem if Path(source).is_dir() else Path(source).parent.name
        found = compare(
            source,
            given.output / name,
            how,
            seeds=given.seeds,
            options={"bf16": given.bf16},
            quiet=True,
            on_run=lambda run, name=name: record(
                RESULTS, preset=given.preset, **run | {"data": name}
            ),
        )
        found.save(given.output / f"{name}.safetensors")
        found.plot().write_html(given.output / f"{name}.html")
        print(found.to_frame().to_string(index=False), flush=True)


if __name__ == "__main__":
    main()

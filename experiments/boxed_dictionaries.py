"""The dictionaries in the box: of what the second MLP of tinystories-2l reads and of what it
writes.

    python -m experiments.boxed_dictionaries --data FOLDER --work WORK

Trains both into WORK (activations too: 1 GB each) and copies them into the package; a run that was
stopped goes on. About ten minutes on two cores. Rows go to
experiments/results/boxed_dictionaries.jsonl.
"""

import argparse
import time
from pathlib import Path

import bilens
from benchmarks.record import record
from bilens.features import Dictionary, DictionaryRecipe
from bilens.features.dictionary import BOX
from bilens.training import read_about, train_dictionary

RESULTS = Path(__file__).parent / "results" / "boxed_dictionaries.jsonl"
MODEL = "tinystories-2l"
RECIPE = DictionaryRecipe(steps=2000, k=30)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", required=True)
    options.add_argument("--work", required=True, type=Path)
    given = options.parse_args()
    model = bilens.load(MODEL)
    for place in ("mlp1.input", "mlp1.output"):
        start, folder = time.perf_counter(), given.work / place
        train_dictionary(model, given.data, place, folder, RECIPE, resume=True)
        Dictionary.load(folder).save(BOX / MODEL / place)
        seconds = round(time.perf_counter() - start)
        record(
            RESULTS,
            model=MODEL,
            place=place,
            seconds=seconds,
            figures=read_about(folder)["figures"],
        )


if __name__ == "__main__":
    main()

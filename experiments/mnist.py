"""Bilinear classifiers on MNIST: accuracy, effective rank, eigenvectors needed, similarity across
seeds, HOSVD.

    python -m experiments.mnist --data FOLDER [--recipe interpretable|accuracy] [--seeds 3]

After Pearce et al., arXiv:2410.08417 (figures 3, 5 and 17). Rows go to
experiments/results/mnist.jsonl.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.record import record
from bilens.algebra import Eigen
from bilens.checks import truncate
from bilens.decompose import eigen, hosvd
from bilens.models import Classifier
from bilens.training import evaluate, load_images, recipe, train_classifier

RESULTS = Path(__file__).parent / "results" / "mnist.jsonl"
MATCHED = 5  # how many eigenvectors of the other seed a top one may match


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", required=True)
    options.add_argument("--recipe", default="interpretable")
    options.add_argument("--seeds", type=int, default=3)
    given = options.parse_args()
    spectra = [one_seed(given.data, given.recipe, seed) for seed in range(given.seeds)]
    if len(spectra) > 1:
        record(
            RESULTS,
            what="similarity across seeds",
            recipe=given.recipe,
            seeds=given.seeds,
            **similarity(spectra),
        )


def one_seed(source: str, name: str, seed: int) -> Eigen:
    data, start = load_images(source), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = train_classifier(source, folder, recipe(name, seed=seed), quiet=True)
    seconds = time.perf_counter() - start
    spectra = eigen(model.tensor().detach(), k=None)
    record(
        RESULTS,
        what="one seed",
        recipe=name,
        seed=seed,
        seconds=round(seconds, 1),
        **figures(model, data, spectra),
    )
    return spectra


def figures(model: Classifier, data, spectra: Eigen) -> dict:
    test = data.test
    curve = truncate(model, test.pixel_values, test.labels)
    modes = hosvd(model.tensor().detach().symmetrise(), max_rank=(10, 20, 20))
    return {
        "test": round(100 * evaluate(model, test)["accuracy"], 2),
        "valid": round(100 * evaluate(model, data.valid)["accuracy"], 2),
        "effective rank": round(float(spectra.effective_rank.mean()), 1),
        "test at k": percent(curve.kept, curve.zero),
        "test at k, rest at its mean": percent(curve.kept, curve.mean),
        "hosvd input σ / ‖S‖": [
            round(float(value) / modes.norm, 3) for value in modes.spectrum["left"][:5]
        ],
        "hosvd error at (10, 20, 20)": round(modes.error, 3),
    }


def percent(kept: tuple[int, ...], accuracies: tuple[float, ...]) -> dict[int, float]:
    return {k: round(100 * accuracy, 2) for k, accuracy in zip(kept, accuracies, strict=True)}


def similarity(spectra: list[Eigen]) -> dict:
    """|cos| of each class's top eigenvectors between seeds: rank by rank, and the best match among
    the other's top 5.
    """
    found: dict[str, list[float]] = {}
    for sign, (one, two) in itertools.product(
        ("positive", "negative"), itertools.combinations(spectra, 2)
    ):
        tops = [top_vectors(pairs, sign) for pairs in (one, two)]
        cosines = (tops[0] @ tops[1].mT).abs()  # (class, k, k)
        for rank in (0, 1):
            found.setdefault(f"{sign} {rank + 1}, same rank", []).append(
                float(cosines[:, rank, rank].mean())
            )
            found.setdefault(f"{sign} {rank + 1}, best of {MATCHED}", []).append(
                float(cosines[:, rank].amax(-1).mean())
            )
    return {name: round(sum(values) / len(values), 3) for name, values in found.items()}


def top_vectors(pairs: Eigen, sign: str) -> torch.Tensor:
    """(class, k, pixels): eigenvectors of the k largest or smallest eigenvalues of each class."""
    order = pairs.values.argsort(dim=-1, descending=sign == "positive")[:, :MATCHED]
    return torch.stack([vectors[rows] for vectors, rows in zip(pairs.vectors, order, strict=True)])


if __name__ == "__main__":
    main()

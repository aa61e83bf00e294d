"""The runs of one text: each MLP's learning rate and initial scale, chosen, and then compared."""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.record import record
from bilens.base.errors import FileError, NotFiniteError
from bilens.models import Transformer
from bilens.training import (
    VARIANTS,
    Comparison,
    TextRecipe,
    load_tokenizer,
    read_about,
    read_documents,
    save_tokenizer,
    train_language,
    train_tokenizer,
    with_mlp,
)

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
SCALES = (0.005, 0.01, 0.02, 0.04, 0.08)  # standard deviations; 1/√d is .088 for a d of 128
TUNING_SEEDS = (0, 6, 7)
TRIED_AGAIN = 5  # pairs; near the largest rate that works one seed says little
SEEDS = (1, 2, 3, 4, 5)
SAVE_EVERY = 100  # steps; each time the whole of the held-out text is read too


@dataclass(frozen=True)
class Trial:
    """All that tells one run on a text from another."""

    mlp: str
    learning_rate: float
    scale: float
    seed: int
    steps: int

    def recipe(self, how: TextRecipe) -> TextRecipe:
        """``how`` with what this trial decides; ``scale`` is the config's initializer_range."""
        model = {**with_mlp(how, self.mlp).model, "initializer_range": self.scale}
        rate, seed = self.learning_rate, self.seed
        return replace(how, model=model, learning_rate=rate, seed=seed, steps=self.steps)


@dataclass(frozen=True)
class Campaign:
    """The trials on ``source``, one row of the file ``results`` each.

    ``about`` is what all their rows share: a trial whose row is there is not run again. ``work``
    holds the run that is being made.
    """

    source: str
    how: TextRecipe
    work: Path
    results: Path
    about: Mapping[str, Any]
    options: Mapping[str, Any]

    def compared(self) -> Comparison:
        """All MLPs over SEEDS, each with its own rate and scale, and all steps of ``how``."""
        chosen = {mlp: self.chosen(mlp) for mlp in VARIANTS}
        rows: dict[str, list[dict[str, Any]]] = {mlp: [] for mlp in VARIANTS}
        for seed in SEEDS:
            for mlp, trial in chosen.items():
                final = replace(trial, seed=seed)
                rows[mlp].append(self.row(final, "final"))
        return Comparison(
            data=self.about["data"],
            variants=tuple(rows),
            seeds=SEEDS,
            loss=tuple(tuple(figure(row, "loss") for row in of) for of in rows.values()),
            bits_per_byte=tuple(
                tuple(figure(row, "bits per byte") for row in of) for of in rows.values()
            ),
            parameters=tuple(of[0]["parameters"] for of in rows.values()),
            tokens=self.how.tokens,
        )

    def chosen(self, mlp: str) -> Trial:
        """The pair of a rate and a scale that is best over three seeds that are not compared, of
        the five that are best on the first of them.
        """
        first, pairs = TUNING_SEEDS[0], product(RATES, SCALES)
        trials = [Trial(mlp, *pair, first, self.how.steps) for pair in pairs]
        best = sorted(trials, key=lambda trial: self.tuned(trial, (first,)))[:TRIED_AGAIN]
        return min(best, key=lambda trial: self.tuned(trial, TUNING_SEEDS))

    def tuned(self, trial: Trial, seeds: Sequence[int]) -> float:
        """The mean loss of ``trial`` over ``seeds``."""
        rows = (self.row(replace(trial, seed=seed), "tuning") for seed in seeds)
        return mean(figure(row, "loss") for row in rows)

    def row(self, trial: Trial, phase: str) -> dict[str, Any]:
        """The row of ``trial``, which is trained where there is none."""
        known = {**self.about, **asdict(trial)}
        for row in rows_of(self.results):
            if known.items() <= row.items():
                return row
        run = self.work / "-".join(map(str, astuple(trial)))
        record(self.results, **known, phase=phase, **self.trained(trial, run))
        shutil.rmtree(run, ignore_errors=True)
        return self.row(trial, phase)

    def trained(self, trial: Trial, run: Path) -> dict[str, Any]:
        """The figures of ``trial``, which goes on where it was; no loss for one that diverged."""
        words = self.work / "tokenizer"
        if not (words / "tokenizer_config.json").is_file():
            save_tokenizer(train_tokenizer(self.source, self.how.vocab_size), words)
        recipe = trial.recipe(self.how)
        try:
            train_language(
                self.source,
                run,
                recipe,
                tokenizer=words,
                resume=run.exists(),
                save_every=SAVE_EVERY,
                quiet=True,
                options=self.options,
            )
        except NotFiniteError:
            valid = {}
        else:
            valid = read_about(run)["figures"]["valid"]
        model = Transformer(recipe.configure(load_tokenizer(words)))
        figures = {name: valid.get(name) for name in ("loss", "bits per byte")}
        return figures | {"parameters": model.num_parameters()}


def figure(row: Mapping[str, Any], name: str) -> float:
    """Infinite for a run that diverged."""
    return math.inf if row[name] is None else row[name]


def rows_of(results: Path) -> list[dict[str, Any]]:
    """Errors: FileError for a line that is no JSON object."""
    if not results.is_file():
        return []
    lines = results.read_text(encoding="utf-8").splitlines()
    try:
        return [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise FileError(str(results), must="hold a JSON object a line", got=error) from error


def digest(source: str) -> str:
    """Of the documents of ``source``, so that rows of another text are not taken for its own.

    Errors: FileError where it cannot be read.
    """
    text = hashlib.blake2b(digest_size=8)
    for document in read_documents(source):
        text.update(document.encode() + b"\0")
    return text.hexdigest()

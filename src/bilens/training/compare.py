"""MLPs compared: language models that differ in the MLP alone, at equal parameters and equal
tokens, over several seeds.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bilens.base.charts import MARKER, POSITIVE, REFERENCE, curve, titled
from bilens.base.errors import ArgumentError, ConfigError, FileError, Interrupted
from bilens.base.files import Job, held, reason
from bilens.base.keys import OneOf, Whole, require
from bilens.base.progress import Progress, require_progress
from bilens.base.results import ANSWER_ROWS, Result
from bilens.base.words import counting
from bilens.models import TransformerConfig
from bilens.training.language import TextRecipe, train_language
from bilens.training.processes import first_does, processes
from bilens.training.run import ABOUT, LOG, read_about
from bilens.training.tokenizer import FILES, save_tokenizer, train_tokenizer

BASELINE = "bilinear"
# name: hidden_act, gated (Shazeer, arXiv:2002.05202; So et al., arXiv:2109.08668)
VARIANTS: dict[str, tuple[str, bool]] = {
    "ReLU": ("relu", False),
    "GELU": ("gelu", False),
    "ReLU²": ("relu2", False),
    "bilinear": ("linear", True),
    "ReGLU": ("relu", True),
    "GEGLU": ("gelu", True),
    "SwiGLU": ("silu", True),
}


@dataclass(frozen=True, repr=False, eq=False)
class Comparison(Result):
    """Held-out losses of the same model with different MLPs.

    Fields: ``variants``; ``loss`` in nats per token and ``bits_per_byte``, each variant × seed;
    ``parameters`` of each variant's model; ``tokens`` that each run was trained on; ``data``. Seeds
    fix the order of the data and the first weights of all that the variants share, so differences
    are taken seed by seed.

    Columns, a row for each variant: ``mlp``; ``parameters``; ``loss``: the mean over the seeds,
    ``±``: its standard error; ``bits per byte``; ``over bilinear``: the loss less the bilinear
    model's of the same seed, ``± of that``: its standard error.

    >>> how = bilens.training.TextRecipe(steps=100)
    >>> found = bilens.training.compare("topics", "runs", how, seeds=1)
    >>> found.to_frame()
    """

    data: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    loss: tuple[tuple[float, ...], ...]
    bits_per_byte: tuple[tuple[float, ...], ...]
    parameters: tuple[int, ...]
    tokens: int

    def summary(self) -> str:
        rows = self.rows()
        best = min(rows, key=lambda row: row["loss"])
        others = " < ".join(row["mlp"] for row in sorted(rows, key=lambda row: row["loss"]))
        of = f"{self.data}, {self.tokens:,} tokens, {counting(len(self.seeds), 'seeds')}"
        return f"{of}: {best['mlp']} has the lowest loss ({others})"

    def rows(self) -> list[dict[str, Any]]:
        """A row for each variant; ± columns are standard errors over the seeds (NaN for one seed),
        ``over bilinear`` is the loss less the bilinear model's of the same seed."""
        base = self.loss[self.variants.index(BASELINE)] if BASELINE in self.variants else None
        rows = []
        for name, losses, bits, size in zip(
            self.variants, self.loss, self.bits_per_byte, self.parameters, strict=True
        ):
            row = {
                "mlp": name,
                "parameters": size,
                "loss": mean(losses),
                "±": standard_error(losses),
            }
            row |= {"bits per byte": mean(bits)}
            if base is not None:
                gaps = [loss - other for loss, other in zip(losses, base, strict=True)]
                row |= {f"over {BASELINE}": mean(gaps), "± of that": standard_error(gaps)}
            rows.append(row)
        return rows

    def answer(self, count: int = ANSWER_ROWS) -> list[dict[str, Any]]:
        """The lowest loss first."""
        return sorted(self.rows(), key=lambda row: row["loss"])[:count]

    def figure(self) -> dict[str, Any]:
        rows = self.rows()
        names, means = [row["mlp"] for row in rows], [row["loss"] for row in rows]
        errors = [row["±"] for row in rows]
        hover = {"": names, "loss": means, "±": errors}
        middle = curve("mean ± standard error", names, means, hover=hover, mode="markers")
        bars = {"type": "data", "array": errors, "visible": len(self.seeds) > 1}
        middle |= {"error_y": bars, "marker": {"size": MARKER, "color": POSITIVE}}
        points = [
            (name, loss) for name, losses in zip(names, self.loss, strict=True) for loss in losses
        ]
        at, losses = [name for name, _ in points], [loss for _, loss in points]
        each = curve("one seed", at, losses, hover={"": at, "loss": losses}, mode="markers")
        each |= {"marker": {"symbol": "line-ew-open", "color": REFERENCE, "size": MARKER}}
        title = f"{self.data}, {self.tokens:,} tokens, {counting(len(self.seeds), 'seeds')}"
        layout = titled(title, "MLP", "held-out loss, nats per token")
        return {"data": [each, middle], "layout": layout}


def compare(
    source: str,
    output: str | Path,
    how: TextRecipe,
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    seeds: int = 3,
    options: Mapping[str, Any] | None = None,
    quiet: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Train ``how`` with each of ``variants`` and seeds 0 … ``seeds`` − 1, each into
    ``output``/variant-seed.

    ``intermediate_size`` of the recipe is that of the gated MLPs (three matrices); MLPs without a
    gate (two) get 3/2 of it, which is as many weights. One tokenizer serves all. A comparison that
    was stopped goes on where it was: finished runs are read from their folders, the run that was
    killed resumes from its checkpoint. ``progress`` hears of every run as it finishes, by
    its MLP and seed; ``options`` are further TrainingArguments.

    Cost: variants × seeds trainings. Errors: ArgumentError for a variant not in ``VARIANTS``, for
    nothing to compare, and for an ``intermediate_size`` with no 3/2 of it; ConfigError where
    ``output`` holds runs of another recipe or data.

    >>> how = bilens.training.TextRecipe(steps=100)
    >>> bilens.training.compare("topics", "runs", how, seeds=1)
    """
    output, variants = Path(output), tuple(variants)
    require("seeds", seeds, Whole(1), ArgumentError)
    require_progress("progress", progress)
    if not variants or len(set(variants)) < len(variants):
        got = f"{', '.join(variants) or 'none'} with {seeds} seeds"
        raise ArgumentError(
            "variants and seeds", must="be at least one of each, no variant twice", got=got
        )
    recipes = {name: with_mlp(how, name) for name in variants}
    words = output / "tokenizer"
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    with ExitStack() as stack:
        first_does(lambda: stack.enter_context(held(output)))
        first_does(lambda: _go_on(output, source, how, options))
        for seed in range(seeds):
            for name in variants:
                run, recipe = output / f"{name}-{seed}", replace(recipes[name], seed=seed)
                finished = "figures" in read_about(run)
                figures = _one_run(
                    source, run, recipe, tokenizer=words, quiet=quiet, options=options
                )
                found[name].append(figures)
                if progress and not finished and processes().is_main_process:
                    done = sum(map(len, found.values()))
                    progress(done, seeds * len(variants), figures, f"{name}, seed {seed}")
    return Comparison(
        data=source,
        variants=variants,
        seeds=tuple(range(seeds)),
        loss=tuple(tuple(run["loss"] for run in found[name]) for name in variants),
        bits_per_byte=tuple(
            tuple(run["bits per byte"] for run in found[name]) for name in variants
        ),
        parameters=tuple(found[name][0]["parameters"] for name in variants),
        tokens=_tokens(output / f"{variants[0]}-0"),
    )


def _go_on(output: Path, source: str, how: TextRecipe, options: Mapping[str, Any] | None) -> None:
    """Train the tokenizer of all runs where none was begun yet. Errors: ConfigError for one that
    was begun with something else.
    """
    begun = 0
    for file in sorted(output.glob(f"*-*/{ABOUT}")):
        name, _, seed = file.parent.name.partition("-")
        if name in VARIANTS and seed.isdecimal():
            recipe = replace(with_mlp(how, name), seed=int(seed))
            about = {"data": source, **recipe.said(options)}
            Job(ABOUT, about, name="the comparison", error=ConfigError).resumed(file.parent)
            begun += 1
    words = output / "tokenizer"  # may be another text's where nothing came of it
    if not begun or not (words / FILES[-1]).is_file():
        save_tokenizer(train_tokenizer(source, how.vocab_size), words)


def _tokens(run: Path) -> int:
    """The tokens that ``run`` was trained on, over all processes, as its log counts them."""
    try:
        last = (run / LOG).read_text(encoding="utf-8").splitlines()[-1]
        return int(json.loads(last)["num_input_tokens_seen"])
    except (OSError, LookupError, ValueError, TypeError) as error:
        must = "be whole, as the run wrote it"
        raise FileError(str(run / LOG), must=must, got=reason(error)) from error


def _one_run(source: str, run: Path, recipe: TextRecipe, **given: Any) -> dict[str, Any]:
    """The figures of one run, which goes on where it was. Errors: Interrupted, for the comparison:
    it needs no word.
    """
    try:
        model = train_language(source, run, recipe, resume=run.exists(), **given)
    except Interrupted as stop:
        raise Interrupted(stop.where) from stop
    valid = read_about(run)["figures"]["valid"]
    figures = {"loss": valid["loss"], "bits per byte": valid["bits per byte"]}
    return figures | {"held-out tokens": valid["tokens"], "parameters": model.num_parameters()}


def with_mlp(how: TextRecipe, variant: str) -> TextRecipe:
    """``how`` with the MLP of ``variant``, as many weights. Errors: ArgumentError for no such
    variant or size.

    >>> small = {"hidden_size": 32, "intermediate_size": 64}
    >>> how = bilens.training.TextRecipe(model=small)
    >>> dict(bilens.training.with_mlp(how, "ReLU").model)["hidden_act"]
    'relu'
    """
    require("variant", variant, OneOf(tuple(VARIANTS)), ArgumentError)
    act, gated = VARIANTS[variant]
    size = TransformerConfig(**how.model).intermediate_size
    if not gated and size % 2:
        raise ArgumentError(
            "intermediate_size", must="be even: MLPs without a gate get 3/2 of it", got=size
        )
    mlp = {"hidden_act": act, "gated": gated, "intermediate_size": size if gated else size * 3 // 2}
    return replace(how, model={**how.model, **mlp})


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of ``values``; NaN for fewer than two."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")

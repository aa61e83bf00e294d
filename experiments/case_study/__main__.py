"""Features that the second MLP of tinystories-2l makes of two others: read from its weights,
confirmed on held-out text.

    python -m experiments.case_study --data FOLDER --output DIR [--candidates 200]

One page, DIR/index.html, with all of it; a row of figures in experiments/results/case_study.jsonl.
One minute on two free cores.

The rule. Dictionaries: those in the box, of what the MLP reads and writes. Candidates, from weights
alone: for each output latent o the pair of input latents f, g with the largest positive coefficient
2 Q_fg among its 64 largest pairs, with |cos(w_f, w_g)| < 0.3, as a pair in one direction is a
square; and of these the 200 for which the smallest product a_f a_g would reach o's threshold by
itself. Output latents are told by the three tokens they promote (decoder row through the final
norm's weight and W_U), input latents by the three tokens that they answer most in texts of two
tokens. Words from training text are beside these, and say so.

A candidate is confirmed where it passes all of ``confirm.CHECKS`` on held-out text, intervals being
bootstraps over blocks at 99.9 %. Rule and checks were settled on training text before held-out text
was looked at. As a null, the same output latents are tried with random pairs of input latents of
positive coefficient.
"""

import argparse
import time
from pathlib import Path

import torch

import bilens
from benchmarks.record import record
from bilens.features import Dictionary, low_rank
from bilens.training import load_text
from experiments.case_study.confirm import CHECKS, Verdict, confirm
from experiments.case_study.page import write
from experiments.case_study.study import (
    candidates,
    names_by_text,
    names_by_weights,
    random_pairs,
    read,
    study_of,
)

RESULTS = Path(__file__).parent.parent / "results" / "case_study.jsonl"
MODEL, LAYER = "tinystories-2l", 1
# blocks of training text for words, held-out blocks, and tokens for low_rank
NAMED, HELD, SPECTRA = 300, 600, 8192


@torch.no_grad()
def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", required=True)
    options.add_argument("--output", required=True, type=Path)
    options.add_argument("--candidates", type=int, default=200)
    given = options.parse_args()
    start, model = time.perf_counter(), bilens.load(MODEL).eval()
    inputs, outputs = (
        Dictionary.load(f"{MODEL}/mlp{LAYER}.{side}") for side in ("input", "output")
    )
    study = study_of(model, LAYER, inputs, outputs)
    blocks = load_text(given.data, model.tokenizer, model.config.max_position_embeddings)
    pairs = candidates(study, given.candidates)
    text = read(model, study, LAYER, blocks.valid[:HELD]["input_ids"])
    verdicts = [confirm(study, text, pair) for pair in pairs]
    null = [confirm(study, text, pair) for pair in random_pairs(study, pairs, seed=0)]
    spectra = low_rank(study.tensor, outputs, text.x[:SPECTRA])
    by_weights = names_by_weights(model, study, LAYER, spelling(model))
    words = names_by_text(
        study, read(model, study, LAYER, blocks.train[:NAMED]["input_ids"]), spelling(model)
    )
    record(
        RESULTS,
        model=MODEL,
        layer=LAYER,
        tokens=text.ids.numel(),
        **counted(verdicts),
        random={"occurring": sum(v.checks["occurs"] for v in null)} | counted(null),
        low_rank={
            one["rank"]: [round(one[key], 3) for key in ("share", "low", "high")]
            for one in spectra.share
        },
        latents=len(spectra.features),
        confirmed=[[v.pair.out, v.pair.f, v.pair.g] for v in verdicts if v.passed],
        seconds=round(time.perf_counter() - start),
    )
    print(
        write(
            given.output,
            study,
            text,
            verdicts,
            null,
            spectra,
            (by_weights, words),
            spelling(model),
            MODEL,
        )
    )


def counted(verdicts: list[Verdict]) -> dict:
    """How many were tried, confirmed, and passed each check (each by itself)."""
    passed = {name: sum(v.checks[name] for v in verdicts) for name in CHECKS}
    return {"candidates": len(verdicts), "passed": sum(v.passed for v in verdicts), "each": passed}


def spelling(model: bilens.models.Transformer):
    return lambda token: model.tokenizer.decode([token]).replace(" ", "␣").replace("\n", "⏎") or "∅"


if __name__ == "__main__":
    main()

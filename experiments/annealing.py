"""From a SwiGLU model to a bilinear one at equal tokens: least squares and training, or annealing.

    python -m experiments.annealing [MODEL] --data FOLDER [--steps 200] [--rate 3e-4 …]

MODEL: a name in the box or a folder (tinystories-2l-swiglu). Three ways, each with as many steps of
the same batches and the same optimiser, and beside them what those steps bring by themselves:

    converted   layers by least squares, then training on the text (``training.make_bilinear``)
    distilled   the same, trained towards the original's logits
    annealed    the gate a σ(β a) with β from 1 to 0 in the first 30 % of the steps, where it is
                a / 2, then on as it is (Pearce et al., arXiv:2410.08417, appendix J)
    original    the model as it is, trained alike

A row a way and rate goes to experiments/results/annealing.jsonl: held-out nats before and after.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bilens
from benchmarks.record import record
from bilens.training import ConversionRecipe, evaluate_text, load_text, make_bilinear, read_about
from bilens.training.run import Lesson, Run

RESULTS = Path(__file__).parent / "results" / "annealing.jsonl"
SHARE = 0.3  # of the steps in which the gate is annealed, as the paper's 120 M of 400 M tokens


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", nargs="?", default="tinystories-2l-swiglu")
    options.add_argument("--data", required=True)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--rate", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    given = options.parse_args()
    model = bilens.load(given.model).eval()
    length = model.config.max_position_embeddings
    data = load_text(given.data, model.tokenizer, length)
    before = evaluate_text(model, data.valid)["loss"]
    for rate in given.rate:
        how = ConversionRecipe(
            tokens=65_536, steps=given.steps, length=length, batch_size=32, learning_rate=rate
        )
        for way in ("converted", "distilled", "annealed", "original"):
            with tempfile.TemporaryDirectory() as folder:
                run, fitted = Path(folder) / "run", None
                if way == "annealed":
                    made = annealed(model, data, how, run)
                elif way == "original":
                    made = trained(copy.deepcopy(model), data, how, run)
                else:
                    recipe = ConversionRecipe(**vars(how) | {"distil": way == "distilled"})
                    made = make_bilinear(model, given.data, run, recipe, quiet=True)
                    fitted = read_about(run)["figures"]["least squares"]
                after = evaluate_text(made, data.valid)["loss"]
            kept = {"way": way, "rate": rate, "steps": given.steps, "least squares": fitted}
            tokens = given.steps * 32 * length
            kept |= {"tokens": tokens, "before": before, "after": after}
            record(RESULTS, what="annealing", model=given.model, **kept)


class Annealed(nn.Module):
    """D [a σ(β a) ⊙ b] of a SwiGLU layer."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp, self.beta = mlp, 1.0

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.mlp.gate_proj(x), self.mlp.up_proj(x)  # type: ignore[operator]
        return self.mlp.down_proj(a * torch.sigmoid(self.beta * a) * b)  # type: ignore[operator]


def annealed(
    model: "bilens.Transformer", data: object, how: ConversionRecipe, output: Path
) -> "bilens.Transformer":
    """The model trained while its gate is annealed; with β = 0 in the end."""
    made = copy.deepcopy(model)
    layers = [Annealed(block.mlp) for block in made.blocks]  # type: ignore[arg-type]
    for block, layer in zip(made.blocks, layers, strict=True):
        block.mlp = layer  # type: ignore[assignment]
    trained(made, data, how, output, partial(set_gates, layers, SHARE * how.steps))
    for layer in layers:
        layer.beta = 0.0
    return made


def trained(
    model: "bilens.Transformer",
    data: object,
    how: ConversionRecipe,
    output: Path,
    penalty: Callable[[Any, int], Tensor | None] | None = None,
) -> "bilens.Transformer":
    """``model`` itself after the steps of ``how`` on the text."""
    about = {"data": data.name, "recipe": vars(how)}  # type: ignore[attr-defined]
    with Run.claim(output, about, resume=False) as run:
        lesson = Lesson(data.train, data.valid, penalty=penalty)  # type: ignore[attr-defined]
        run.train(model, lesson, how.schedule({}), quiet=True)
    return model.eval()


def set_gates(layers: list[Annealed], steps: float, model: object, step: int) -> None:
    """β after so many steps: falls linearly to 0. No penalty, but hears of every step."""
    for layer in layers:
        layer.beta = max(0.0, 1.0 - (step + 1) / steps)


if __name__ == "__main__":
    main()

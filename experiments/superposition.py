"""More sparse features than hidden units through a bilinear layer: which pairs of features
interfere?

    python -m experiments.superposition [--seeds 6] [--steps 1500] [--output DIR]

After Elhage et al. 2022 (Toy Models of Superposition), with a bilinear layer in the middle. F = 24
features x_f are each on with probability p, uniform in [0, 1] when on; y = readout(D[(Lx) ⊙ (Rx)] +
c) is trained on two tasks, with too few units:

    squares   y_f = x_f², 24 outputs through 8 units
    ANDs      y_k = x_2k x_2k+1, 12 outputs through 4 units

The readout is linear or a ReLU. With a linear one superposition cannot pay: D has rank h, the
outputs do not correlate, and so no h units do better than h of the outputs. A ReLU cuts what
interference leaves below zero, as in Elhage et al.

**Predicted from the weights alone.** T(x)_k = Σ_fg Q_k,fg x_f x_g. Where f, g is no pair that an
output is meant to have, all of 2 Q_k,fg x_f x_g is interference:

    interactions     Σ_k (2 Q_k,fg)², of ``interaction``
    positive part    Σ_k max(0, 2 Q_k,fg + min(c_k, 0))²: what a ReLU lets through where nothing
                     else is on
    Gram             |⟨S_:f:, S_:g:⟩| of ``gram("left", symmetric=True)``: how alike the layer reads
                     f and g

**Measured on data**: with the other features drawn as ever, the squared error that f and g make
together beyond what each makes alone, E[e(f, g) − e(f) − e(g) + e(neither)], the four on the same
background.

Spearman's correlation of prediction and measurement over the pairs, mean over seeds with a t
interval of 95 %; chance is the same with the predictions of another seed's weights. Rows go to
experiments/results/superposition.jsonl, the picture to DIR/superposition.html.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import plotly.express
import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.record import record
from bilens.algebra import CP

RESULTS = Path(__file__).parent / "results" / "superposition.jsonl"
FEATURES = 24
SPARSITIES = (0.5, 0.2, 0.05, 0.02)  # the probability that a feature is on
BATCH = 256
BACKGROUNDS = 1024  # for each pair of features
LEARNED = 0.5  # of its target: the least an output must have of it to count as represented
PREDICTIONS = ("interactions", "positive part", "Gram")


@dataclass(frozen=True)
class Task:
    """Which two features each output multiplies; through how many units."""

    name: str
    first: Tensor
    second: Tensor
    hidden: int

    def __call__(self, x: Tensor) -> Tensor:
        return x[..., self.first] * x[..., self.second]


SQUARES = Task("squares", torch.arange(FEATURES), torch.arange(FEATURES), FEATURES // 3)
ANDS = Task("ANDs", torch.arange(0, FEATURES, 2), torch.arange(1, FEATURES, 2), FEATURES // 6)


@dataclass(frozen=True, eq=False)
class Layers:
    """A layer for each seed, trained side by side. Rows of each tensor are seeds."""

    out: Tensor  # (s, o, h)
    left: Tensor  # (s, h, f)
    right: Tensor  # (s, h, f)
    offset: Tensor  # (s, o)
    relu: bool

    def __call__(self, x: Tensor) -> Tensor:
        """x is (s, n, f)."""
        hidden = (x @ self.left.mT) * (x @ self.right.mT)
        made = hidden @ self.out.mT + self.offset[:, None]
        return made.relu() if self.relu else made

    def tensor(self, seed: int) -> CP:
        return CP(self.out[seed], self.left[seed], self.right[seed]).detach().to(torch.float64)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=6)
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--output", type=Path)
    given = options.parse_args()
    if given.seeds < 2:
        must = "be 2 or more: chance is by another seed's weights"
        options.error(f"--seeds must {must}; got {given.seeds}")
    rows, points = [], []
    for task in (SQUARES, ANDS):
        for relu in (False, True):
            for p in SPARSITIES:
                start = time.perf_counter()
                layers = trained(task, relu, p, given.seeds, given.steps)
                predicted, measured = predictions(layers, task), interference(layers, task, p)
                what = {"task": task.name, "readout": "ReLU" if relu else "linear", "p": p}
                found = figures(layers, task, p) | {"spearman": correlations(predicted, measured)}
                seconds = round(time.perf_counter() - start, 1)
                record(
                    RESULTS, **what, seeds=given.seeds, steps=given.steps, seconds=seconds, **found
                )
                rows += [
                    what
                    | {
                        "predicted by": name,
                        "spearman": mid,
                        "low": low,
                        "high": high,
                        "chance": chance,
                    }
                    for name, (mid, low, high, chance) in found["spearman"].items()
                ]
                points += [
                    what | {"predicted": x, "measured": y}
                    for x, y in zip(
                        predicted["positive part" if relu else "interactions"][0],
                        measured[0],
                        strict=True,
                    )
                ]
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        pages = "".join(
            figure.to_html(full_html=False, include_plotlyjs=not n)
            for n, figure in enumerate((curves(rows), scattered(points)))
        )
        (given.output / "superposition.html").write_text(
            f"<meta charset='utf-8'>{pages}", encoding="utf-8"
        )


def trained(task: Task, relu: bool, p: float, seeds: int, steps: int) -> Layers:
    """All seeds at once by Adam, its rate falling to zero; the loss of each over the mean square of
    its targets.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = (seeds, len(task.first), task.hidden), *((seeds, task.hidden, FEATURES),) * 2
    factors = [
        nn.Parameter(torch.randn(shape, generator=generator) / shape[-1] ** 0.5) for shape in shapes
    ]
    offset = nn.Parameter(torch.zeros(seeds, len(task.first)))
    out, left, right = factors
    layers = Layers(out, left, right, offset, relu)
    optimiser = torch.optim.Adam([*factors, offset], lr=1e-2)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    scale = power(task, p)
    for _ in range(steps):
        x = drawn((seeds, BATCH, FEATURES), p, generator)
        optimiser.zero_grad()
        ((layers(x) - task(x)).square().mean((1, 2)) / scale).sum().backward()
        optimiser.step()
        falling.step()
    return Layers(out.detach(), left.detach(), right.detach(), offset.detach(), relu)


def drawn(shape: tuple[int, ...], p: float, generator: torch.Generator) -> Tensor:
    on = torch.rand(shape, generator=generator) < p
    return on * torch.rand(shape, generator=generator)


def power(task: Task, p: float) -> float:
    """E[y²]: p E[u⁴] = p / 5 for squares, p² E[u²]² = p² / 9 for products."""
    return p / 5 if task.name == "squares" else p**2 / 9


def variance(task: Task, p: float) -> float:
    """What the best constant leaves: E[y²] less E[y]² = (p / 3)² or (p² / 4)²."""
    return power(task, p) - ((p / 3) ** 2 if task.name == "squares" else (p**2 / 4) ** 2)


@torch.no_grad()
def figures(layers: Layers, task: Task, p: float, count: int = 40_000) -> dict[str, Any]:
    """Unexplained variance, beside that of h outputs made alone, and how many outputs have their
    own term.
    """
    x = drawn((len(layers.out), count, FEATURES), p, torch.Generator().manual_seed(1))
    left = (layers(x) - task(x)).square().mean((1, 2)) / variance(task, p)
    own = coefficients(layers)[:, torch.arange(len(task.first)), task.first, task.second]
    # Q_fg is half of what x_f x_g is multiplied by
    aim = (task.first == task.second).float() * 0.5 + 0.5
    counted = (own > LEARNED * aim).sum(1).double()
    return {
        "units": task.hidden,
        "outputs": len(task.first),
        "unexplained": interval(left.double().numpy()),
        "unexplained without superposition": round(1 - task.hidden / len(task.first), 3),
        "outputs represented": interval(counted.numpy()),
    }


def coefficients(layers: Layers) -> Tensor:
    """Q_k,fg of each seed: the symmetric interaction matrices, (s, o, f, f). Small enough here to
    be written out.
    """
    eye = torch.eye(layers.out.shape[1], dtype=torch.float64)
    return torch.stack(
        [layers.tensor(seed).interaction(eye).dense() for seed in range(len(layers.out))]
    )


def others(task: Task) -> tuple[Tensor, Tensor]:
    """The pairs f < g that no output is meant to multiply."""
    wanted = set(zip(task.first.tolist(), task.second.tolist(), strict=True))
    pairs = [
        (f, g) for f in range(FEATURES) for g in range(f + 1, FEATURES) if (f, g) not in wanted
    ]
    first, second = torch.tensor(pairs).unbind(1)
    return first, second


@torch.no_grad()
def predictions(layers: Layers, task: Task) -> dict[str, np.ndarray]:
    """Each prediction of each pair's interference, (s, pairs), from the weights alone."""
    f, g = others(task)
    terms = 2 * coefficients(layers)[:, :, f, g]
    passed = (terms + layers.offset.double().clamp(max=0)[..., None]).clamp(min=0)
    grams = torch.stack(
        [layers.tensor(seed).gram("left", symmetric=True) for seed in range(len(layers.out))]
    )
    found = terms.square().sum(1), passed.square().sum(1), grams[:, f, g].abs()
    return {name: values.numpy() for name, values in zip(PREDICTIONS, found, strict=True)}


@torch.no_grad()
def interference(
    layers: Layers, task: Task, p: float, backgrounds: int = BACKGROUNDS
) -> np.ndarray:
    """The squared error that each pair of features makes together beyond what they make alone, (s,
    pairs).
    """
    generator, found = torch.Generator().manual_seed(2), []
    for f, g in zip(*(each.tolist() for each in others(task)), strict=True):
        ground = drawn((1, backgrounds, FEATURES), p, generator)
        both = torch.rand(2, backgrounds, generator=generator)
        errors = []
        for on_f, on_g in ((1, 1), (1, 0), (0, 1), (0, 0)):
            x = ground.clone()
            x[..., f], x[..., g] = on_f * both[0], on_g * both[1]
            errors.append((layers(x) - task(x)).square().sum(-1).mean(-1))
        found.append(errors[0] - errors[1] - errors[2] + errors[3])
    return torch.stack(found, 1).double().numpy()


def correlations(
    predicted: dict[str, np.ndarray], measured: np.ndarray
) -> dict[str, tuple[float, ...]]:
    """Spearman over pairs, mean over seeds with its interval, and chance: the mean with the next
    seed's predictions.

    A prediction that is the same for all pairs counts as 0: it ranks none above another.
    """
    found = {}
    for name, values in predicted.items():
        own, foreign = (
            np.array([spearman(*pair) for pair in zip(each, measured, strict=True)])
            for each in (values, np.roll(values, 1, 0))
        )
        found[name] = (*interval(own), round(float(foreign.mean()), 3))
    return found


def spearman(one: np.ndarray, two: np.ndarray) -> float:
    return 0.0 if np.ptp(one) == 0 or np.ptp(two) == 0 else float(stats.spearmanr(one, two)[0])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean over seeds, and Student's 95 % interval."""
    mid, count = float(values.mean()), len(values)
    half = (
        float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5)
        if count > 1
        else float("nan")
    )
    return round(mid, 3), round(mid - half, 3), round(mid + half, 3)


def curves(rows: list[dict[str, Any]]) -> Any:
    """Correlation over sparsity, a line for each prediction."""
    frame = pandas.DataFrame(rows)
    frame["above"], frame["below"] = (
        frame["high"] - frame["spearman"],
        frame["spearman"] - frame["low"],
    )
    return plotly.express.line(
        frame, x="p", y="spearman", color="predicted by", facet_col="task", facet_row="readout",
        log_x=True, markers=True,
        error_y="above", error_y_minus="below",
        labels={"p": "probability that a feature is on"}, height=700,
        title="Interference predicted from the weights and measured on data",
    )  # fmt: skip


def scattered(points: list[dict[str, Any]]) -> Any:
    """Predicted against measured, a point for each pair of features of the first seed."""
    return plotly.express.scatter(
        points, x="predicted", y="measured", facet_col="p", facet_row="task", color="readout",
        opacity=0.5, height=700,
    ).update_xaxes(matches=None).update_yaxes(matches=None)  # fmt: skip


if __name__ == "__main__":
    main()

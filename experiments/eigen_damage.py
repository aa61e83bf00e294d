"""Does the size of an eigenvalue say what an eigenvector is worth? The two-layer model in the box,
on held-out text.

    python -m experiments.eigen_damage --data FOLDER [--directions 6] [--pairs 24] [--output DIR]

For each MLP and its top output directions u (of the SVD of its tensor), u·m(x) = Σ λ (v·x)² over
eigenpairs of Q_u. Terms spread over the whole spectrum are taken out one by one (held at their mean
over the text, and at zero), and the loss of the model on other text is measured again: the damage.
What ranks the damage?

    |λ|                 the plain eigenvalue: weights alone
    |λ E[(v·x)²]|       the mean of the term on real activations
    share               its share of the variance of u·m(x), under a Gaussian of the same
                        activations
    deviation           its standard deviation on real activations

and the same for data-weighted eigenpairs, whose |λ| is their standard deviation under the Gaussian.
Spearman's rank correlation within each direction (of all its terms, and of the top quarter alone)
and over all directions of a layer: the mean, and a bootstrap interval over directions (layers: two,
so an interval says little). Rows go to experiments/results/eigen_damage.jsonl, the picture to
DIR/eigen_damage.html.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import plotly.express
import torch
from torch import Tensor
from torch.nn import functional

import bilens
from benchmarks.record import record
from bilens import decompose
from bilens.models import activations
from bilens.training import load_text
from bilens.wiring import hooked

RESULTS = Path(__file__).parent / "results" / "eigen_damage.jsonl"
MODEL = "tinystories-2l"
MEASURE, DAMAGE = 200, 24  # blocks of 256 tokens for the measure, and other ones for the loss
RESAMPLES = 10_000
RANKS = ("|λ|", "|λ E[(v·x)²]|", "share", "deviation")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", required=True)
    options.add_argument("--directions", type=int, default=6)
    options.add_argument("--pairs", type=int, default=24)
    options.add_argument("--output", type=Path)
    given = options.parse_args()
    model, start = bilens.load(MODEL).eval(), time.perf_counter()
    blocks = load_text(given.data, model.tokenizer, model.config.max_position_embeddings).valid
    seen, held = blocks[:MEASURE]["input_ids"], blocks[MEASURE : MEASURE + DAMAGE]["input_ids"]
    rows = [
        row
        for layer in range(2)
        for row in damages(model, layer, seen, held, given.directions, given.pairs)
    ]
    frame = pandas.DataFrame(rows)
    strong = frame[frame.k < frame.k.max() / 4]
    found = {
        f"{spectrum}, {ablation}, {scope}": correlations(
            rows[rows.spectrum == spectrum], ablation, by
        )
        for spectrum in ("plain", "data-weighted")
        for ablation in ("mean", "zero")
        for scope, rows, by in (
            ("each direction", frame, ["layer", "direction"]),
            ("each direction, top quarter", strong, ["layer", "direction"]),
            ("all directions of a layer", frame, ["layer"]),
        )
    }
    record(
        RESULTS,
        model=MODEL,
        directions=given.directions,
        pairs=given.pairs,
        terms=len(frame),
        tokens={"measure": seen.numel(), "damage": held.numel()},
        seconds=round(time.perf_counter() - start),
        spearman=found,
        damage={name: round(float(frame[name].abs().mean()), 7) for name in ("mean", "zero")},
    )
    for name, values in found.items():
        print(
            name,
            {
                rank: f"{mid:+.2f} [{low:+.2f}, {high:+.2f}]"
                for rank, (mid, low, high) in values.items()
            },
        )
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        picture(frame).write_html(given.output / "eigen_damage.html", include_plotlyjs=True)


@torch.no_grad()
def damages(
    model: Any, layer: int, seen: Tensor, held: Tensor, directions: int, pairs: int
) -> list[dict[str, Any]]:
    """A row for each term that was taken out."""
    tensor = model.blocks[layer].mlp.tensor().detach()
    x = torch.cat(list(activations(model, seen.split(50), f"mlp{layer}.input")))
    outs = decompose.svd(tensor, max_rank=directions).directions.to(tensor.dtype)
    measure = bilens.Gaussian.from_batches([x])
    spectra = decompose.eigen(tensor, outs, k=None, measure=measure, solver=decompose.Dense())
    whole = loss(model, held)
    rows = []
    for spectrum, found, data in (
        ("plain", spectra.plain, spectra.plain_data),
        ("data-weighted", spectra, spectra.data),
    ):
        for n, u in enumerate(outs):
            for k in np.linspace(0, tensor.shape[1] - 1, pairs).round().astype(int).tolist():
                value, v = found.values[n, k], found.vectors[n, k]
                term = value * (x @ v).square()
                without = {
                    name: loss_without(model, layer, held, u, value, v, at) - whole
                    for name, at in (("mean", float(term.mean())), ("zero", 0.0))
                }
                figures = (
                    abs(float(value)),
                    abs(float(term.mean())),
                    abs(float(data.share[n, k])),
                    float(term.std()),
                )
                rows.append(
                    {"layer": layer, "direction": n, "k": k, "spectrum": spectrum}
                    | without
                    | dict(zip(RANKS, figures, strict=True))
                )
    return rows


def loss(model: Any, held: Tensor) -> float:
    """Nats per token over ``held``, in float64 from the logits on: a damage can be far below what
    float32 resolves.
    """
    logits = model(input_ids=held, use_cache=False).logits[:, :-1].double()
    return float(functional.cross_entropy(logits.flatten(0, 1), held[:, 1:].flatten()))


def loss_without(
    model: Any, layer: int, held: Tensor, u: Tensor, value: Tensor, v: Tensor, at: float
) -> float:
    """The loss with λ (v·x)² u of one MLP held at ``at``, and everything after it reacting."""
    read: list[Tensor] = []
    mlp = model.blocks[layer].mlp
    with (
        hooked(mlp, "input", lambda x: read.append(x)),
        hooked(
            mlp, "output", lambda out: out - (value * (read.pop() @ v).square() - at)[..., None] * u
        ),
    ):
        return loss(model, held)


def correlations(
    frame: pandas.DataFrame, ablation: str, by: list[str]
) -> dict[str, tuple[float, float, float]]:
    """Spearman of each rank with |damage| within each group: mean, and a bootstrap interval over
    groups.
    """
    draw = np.random.default_rng(0)
    found = {}
    for rank in RANKS:
        groups = [part for _, part in frame.groupby(by)]
        each = np.array(
            [part[rank].corr(part[ablation].abs(), method="spearman") for part in groups]
        )
        means = each[draw.integers(0, len(each), (RESAMPLES, len(each)))].mean(1)
        found[rank] = tuple(
            round(float(value), 3) for value in (each.mean(), *np.quantile(means, [0.025, 0.975]))
        )
    return found


def picture(frame: pandas.DataFrame) -> Any:
    """|damage| against each of the ranks, a panel each, log-log."""
    long = frame.assign(damage=frame["mean"].abs()).melt(
        id_vars=["layer", "direction", "spectrum", "damage"],
        value_vars=RANKS,
        var_name="ranked by",
        value_name="size",
    )
    labels = {"damage": "|change of the loss|, nats per token"}
    return plotly.express.scatter(
        long, x="size", y="damage", color="spectrum", symbol="layer", facet_col="ranked by",
        facet_col_wrap=2,
        log_x=True, log_y=True, opacity=0.5, labels=labels, height=800,
    ).update_xaxes(matches=None, showticklabels=True)  # fmt: skip


if __name__ == "__main__":
    main()

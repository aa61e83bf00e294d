"""Modular addition with one bilinear layer: the Fourier solution, read off the eigenvectors of each
class.

    python -m experiments.modular_addition [--seeds 3] [--train 0.8] [--steps 2500]

The model sees one-hots of a and b and says c = a + b mod 31. With w = 2πk/31, cos w(a + b − c) is a
quadratic form in the two one-hots, with off-diagonal blocks ½ cos w(a + b − c): for each frequency
k four eigenvectors, two of either sign,

    v = (cos(wa − α), ± cos(wb − β)),    α + β = wc (mod 2π),

so a and b are waves of one frequency each, and the sum of their phases turns with the class. Only α
+ β is fixed: the two of one sign are degenerate, and α is free. The frequencies of one class may
lie as close in λ, and then its eigenvectors mix them; what all classes share (HOSVD's input modes)
tells them apart where they differ in what they hold over all classes.

After Pearce et al., arXiv:2410.08417 (eigenvectors of bilinear layers), Nanda et al.,
arXiv:2301.05217 (the Fourier solution) and Gromov, arXiv:2301.02679 (quadratic networks that hold
it). Rows go to experiments/results/modular_addition.jsonl.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.record import record
from bilens.algebra import CP, Eigen
from bilens.decompose import eigen, hosvd
from bilens.models import Classifier, ClassifierConfig

RESULTS = Path(__file__).parent / "results" / "modular_addition.jsonl"
P = 31
KEPT = 0.9  # of Σλ²: the eigenvectors that together hold it are the top ones of a class
# of the top eigenvectors' Σλ²: what a frequency must hold to be counted as one that the model uses
STRONG = 0.02


@dataclass(frozen=True)
class How:
    """Full-batch AdamW, its rate falling to zero along a straight line."""

    width: int = 128
    train: float = 0.8
    steps: int = 2500
    learning_rate: float = 5e-3
    weight_decay: float = 4.0


@dataclass(frozen=True, eq=False)
class Waves:
    """The top eigenvectors of all classes as waves, by their halves (a, b)."""

    values: Tensor
    classes: Tensor
    frequency: Tensor  # (n, 2): the best of each half
    share: Tensor  # (n, 2): that frequency's, of the half's power, its mean included
    phase: Tensor  # (n, 2)
    power: Tensor  # (n, frequencies): of both halves together, adding up to 1


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--train", type=float, default=How.train)
    options.add_argument("--steps", type=int, default=How.steps)
    given = options.parse_args()
    if not 1 <= given.train * P**2 < P**2:
        must = f"leave some of the {P**2} pairs to show and some to hold back"
        options.error(f"--train must {must}; got {given.train}")
    for seed in range(given.seeds):
        how, start = How(train=given.train, steps=given.steps), time.perf_counter()
        model, test = trained(how, seed)
        found = figures(model)
        seconds = round(time.perf_counter() - start, 1)
        record(
            RESULTS,
            what="one seed",
            p=P,
            seed=seed,
            **vars(how),
            seconds=seconds,
            **{"test, %": test},
            **found,
        )


def trained(how: How, seed: int) -> tuple[Classifier, float]:
    """A model, and its accuracy in percent on the pairs that it was not shown."""
    torch.manual_seed(seed)
    model = Classifier(
        ClassifierConfig(
            input_shape=[2 * P], hidden_size=how.width, id2label={c: str(c) for c in range(P)}
        )
    )
    x, y = pairs()
    order = torch.randperm(len(x))
    shown, held = order.tensor_split([int(how.train * len(x))])
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay, betas=(0.9, 0.98)
    )
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, how.steps)
    for _ in range(how.steps):
        optimiser.zero_grad()
        model(x[shown], y[shown]).loss.backward()
        optimiser.step()
        falling.step()
    with torch.no_grad():
        right = model.eval()(x[held]).logits.argmax(-1) == y[held]
    return model, round(100 * float(right.double().mean()), 2)


def pairs() -> tuple[Tensor, Tensor]:
    """All P² inputs (a, b) as two one-hots side by side, and their sums."""
    a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).unbind(1)
    return torch.cat([one_hot(a, P), one_hot(b, P)], 1).float(), (a + b) % P


def figures(model: Classifier) -> dict[str, Any]:
    """What the eigenvectors say; averages over eigenvectors are weighted by λ²."""
    tensor = model.tensor().detach().to(torch.float64)
    spectra = eigen(tensor, k=None)
    found = waves(spectra)
    weight = found.values.square() / found.values.square().sum()
    held = {
        k: float(weight[found.frequency[:, 0] == k].sum())
        for k in sorted(set(found.frequency[:, 0].tolist()))
    }
    used = {k: round(share, 3) for k, share in held.items() if share >= STRONG}
    same = found.frequency[:, 0] == found.frequency[:, 1]
    return {
        "effective rank": round(float(spectra.effective_rank.mean()), 1),
        f"eigenvectors for {KEPT:.0%} of Σλ²": round(len(found.values) / P, 1),
        "power at the best frequency": round(float(weight @ found.share.mean(1)), 4),
        "worst of them": round(float(found.share.min()), 4),
        "power at the best two": round(float(weight @ found.power.topk(2).values.sum(1)), 4),
        "power at the frequencies used": round(
            float(weight @ found.power[:, list(used)].sum(1)), 4
        ),
        "a and b of one frequency": round(float(weight @ same.double()), 4),
        "frequencies": len(used),
        "share of Σλ² by frequency": used,
        "phases turn with the class": round(turning(found, weight, same), 4),
        "modes of all classes": shared_modes(tensor, 2 * len(used)),
        "Fourier share of the blocks": round(
            fourier(tensor.interaction(torch.eye(P, dtype=tensor.dtype)).dense()), 4
        ),
    }


def waves(spectra: Eigen) -> Waves:
    """Each class's top eigenvectors, each half by its discrete Fourier transform."""
    squares = spectra.values.square()
    before = squares.cumsum(-1) - squares  # what those above hold
    classes, rank = torch.nonzero(before < KEPT * squares.sum(-1, keepdim=True), as_tuple=True)
    spectrum = torch.fft.rfft(spectra.vectors[classes, rank].unflatten(-1, (2, P)))
    power = spectrum.abs().square()
    power[..., 1:] *= 2  # the mirrored frequencies
    best = power[..., 1:].argmax(-1) + 1
    share = power.gather(-1, best[..., None])[..., 0] / power.sum(-1)
    # cos(wa − α) has the coefficient e^{−iα}
    phase = -spectrum.gather(-1, best[..., None])[..., 0].angle()
    both = power.sum(-2) / power.sum((-2, -1))[:, None]
    return Waves(spectra.values[classes, rank], classes, best, share, phase, both)


def shared_modes(tensor: CP, count: int) -> list[dict[str, float]]:
    """The ``count`` strongest input modes of all classes together: best frequency, its share of the
    mode's power, and the mode's share of ‖S‖²."""
    modes = hosvd(tensor.symmetrise(), max_rank=(P, count, count))
    power = torch.fft.rfft(modes.bases["left"].mT.unflatten(-1, (2, P))).abs().square().sum(-2)
    power[:, 1:] *= 2
    share, best = (power / power.sum(-1, keepdim=True)).max(-1)
    held = (modes.spectrum["left"][:count] / modes.norm).square()
    columns = zip(best.tolist(), share.tolist(), held.tolist(), strict=True)
    return [
        {"frequency": int(k), "power": round(one, 3), "of ‖S‖²": round(part, 3)}
        for k, one, part in columns
    ]


def turning(found: Waves, weight: Tensor, same: Tensor) -> float:
    """Mean of cos(α + β − wc), and of its negative where λ < 0: 1 where the phases are those of the
    known solution.
    """
    angle = found.phase.sum(1) - 2 * math.pi * found.frequency[:, 0] * found.classes / P
    return float((weight * found.values.sign() * angle.cos())[same].sum() / weight[same].sum())


def fourier(matrices: Tensor) -> float:
    """The share of cos(w(a + b − c) + φ), over all k, in what the off-diagonal blocks say of c, a
    and b together.

    Means over c (which the softmax does not see), a and b are taken out first. In the transform
    over (c, a, b) such a wave stands at (−k, k, k) alone.
    """
    power = torch.fft.fftn(matrices[:, :P, P:]).abs().square()[1:, 1:, 1:]
    k = torch.arange(P - 1)
    return float(power[P - 2 - k, k, k].sum() / power.sum())


if __name__ == "__main__":
    main()

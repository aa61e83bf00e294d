"""The core of the superposition experiment: predictions and measurements of layers whose
interference is known.
"""

import numpy as np
import pytest
import torch

from experiments import superposition
from experiments.superposition import ANDS, FEATURES, SQUARES, Layers


def squaring(offset: float = 0.0, **crosses: float) -> Layers:
    """Every x_f², exactly, with a unit each; and c x_f x_g in the output k for each crossing named
    k_f_g.
    """
    eye = torch.eye(FEATURES)
    places = [tuple(map(int, name[1:].split("_"))) for name in crosses]
    outs = torch.cat(
        [
            eye,
            *(
                value * eye[:, [k]]
                for (k, _, _), value in zip(places, crosses.values(), strict=True)
            ),
        ],
        1,
    )
    lefts, rights = (torch.cat([eye, *(eye[[place[at]]] for place in places)]) for at in (1, 2))
    return Layers(
        outs[None], lefts[None], rights[None], torch.full((1, FEATURES), offset), relu=offset != 0
    )


def place(task, f, g):
    first, second = superposition.others(task)
    return int(((first == f) & (second == g)).nonzero())


def test_pairs_that_are_meant_are_no_interference():
    assert len(superposition.others(SQUARES)[0]) == FEATURES * (FEATURES - 1) // 2
    assert len(superposition.others(ANDS)[0]) == FEATURES * (FEATURES - 1) // 2 - FEATURES // 2


def test_exact_squares_interfere_nowhere():
    layers = squaring()
    assert superposition.figures(layers, SQUARES, 0.3, 1000)["unexplained"][0] == 0
    assert superposition.figures(layers, SQUARES, 0.3, 1000)["outputs represented"][0] == FEATURES
    assert np.abs(superposition.interference(layers, SQUARES, 0.3, 50)).max() < 1e-6
    assert all(
        np.abs(values).max() == 0 for values in superposition.predictions(layers, SQUARES).values()
    )


def test_one_crossing_is_predicted_and_measured():
    """With all else off, c x_f x_g makes the squared error c² x_f² x_g²: c² / 9 on average."""
    layers, at = squaring(k3_5_7=0.9), place(SQUARES, 5, 7)
    predicted, measured = (
        superposition.predictions(layers, SQUARES),
        superposition.interference(layers, SQUARES, 0.0, 4000),
    )
    assert predicted["interactions"][0, at] == pytest.approx(0.81)
    assert measured[0, at] == pytest.approx(0.81 / 9, rel=0.08)
    assert np.delete(predicted["interactions"][0], at).max() == 0
    assert np.abs(np.delete(measured[0], at)).max() < 1e-6


def test_what_a_relu_cuts_is_not_predicted():
    layers = squaring(-0.5, k3_5_7=0.9, k4_5_8=-2.0, k6_1_2=0.4)
    predicted = superposition.predictions(layers, SQUARES)["positive part"][0]
    assert predicted[place(SQUARES, 5, 7)] == pytest.approx(0.4**2)
    assert predicted.sum() == pytest.approx(0.4**2)


def test_correlations_and_their_chance():
    generator = np.random.default_rng(0)
    measured = generator.normal(size=(5, 400))
    found = superposition.correlations(
        {"same": np.exp(measured), "other": generator.normal(size=(5, 400))}, measured
    )
    assert found["same"][:3] == (1.0, 1.0, 1.0)
    assert abs(found["same"][3]) < 0.1
    assert found["other"][1] < 0 < found["other"][2]


@pytest.mark.parametrize("task", [SQUARES, ANDS], ids=lambda task: task.name)
def test_trains_and_is_read(task):
    """The mean square of the targets is what the loss divides by; some steps leave less than a
    constant does.
    """
    x = superposition.drawn((200_000, FEATURES), 0.3, torch.Generator().manual_seed(3))
    assert float(task(x).square().mean()) == pytest.approx(superposition.power(task, 0.3), rel=0.02)
    assert float(task(x).var(0).mean()) == pytest.approx(
        superposition.variance(task, 0.3), rel=0.02
    )
    layers = superposition.trained(task, True, 0.3, seeds=2, steps=300)
    assert superposition.figures(layers, task, 0.3, 2000)["unexplained"][0] < 1
    found = superposition.correlations(
        superposition.predictions(layers, task), superposition.interference(layers, task, 0.3, 8)
    )
    assert set(found) == set(superposition.PREDICTIONS)

"""Accuracies with few eigenvectors, against dense eigendecompositions class by class."""

import pytest
import torch

from bilens import Classifier, ClassifierConfig
from bilens.base.errors import ArgumentError, ShapeError
from bilens.checks import truncate


def build(**given):
    torch.manual_seed(0)
    config = ClassifierConfig(input_shape=[6], hidden_size=20, num_labels=4, **given)
    return Classifier(config).double().requires_grad_(False)


@pytest.mark.parametrize(
    "given", [{}, {"bias": True}, {"num_hidden_layers": 2, "residual": True, "bias": True}]
)
def test_what_is_left_out_is_left_out_or_put_at_its_mean(given):
    model = build(**given)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    images = torch.rand(300, 6, dtype=torch.float64)
    last = None if model.config.num_hidden_layers == 1 else model.config.num_hidden_layers - 1
    x, logits = model.inputs(images, last), model(images).logits
    labels = (logits + 0.5 * logits.std() * torch.randn_like(logits)).argmax(-1)
    cube = model.tensor(last).symmetrise().dense()
    zero, mean = ([logits.clone() for _ in range(3)] for _ in range(2))
    for c, matrix in enumerate(cube):
        values, vectors = torch.linalg.eigh(matrix)
        order = values.abs().argsort(descending=True)
        terms = (x @ vectors[:, order]).square() * values[order]
        for n, k in enumerate((1, 3, 4)):
            rest = terms[:, k:].sum(1)
            zero[n][:, c] -= rest
            mean[n][:, c] -= rest - rest.mean()
    found = truncate(model, images, labels, kept=(1, 3, 4))
    size = x.shape[1]

    def accuracy(scores):
        return float((scores.argmax(-1) == labels).sum()) / 300

    assert found.kept == (1, 3, 4, size)
    assert found.zero[:3] == tuple(accuracy(scores) for scores in zero)
    assert found.mean[:3] == tuple(accuracy(scores) for scores in mean)
    assert found.zero[3] == found.mean[3] == found.full == accuracy(logits)
    assert found.images == 300
    assert len({*found.zero, *found.mean}) > 4  # or the comparison would say little


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"labels": torch.zeros(5, 1).long()}, ShapeError, "labels must be (5,), one for each"),
        ({"labels": torch.zeros(1).long()}, ShapeError, "labels must be (5,), one for each image"),
        ({"labels": torch.full((5,), 4)}, ArgumentError, "labels must be 0 … 3; got 4"),
        ({"labels": torch.full((5,), -1)}, ArgumentError, "labels must be 0 … 3; got -1"),
        ({"kept": (-1,)}, ArgumentError, "kept must be a whole number ≥ 1; got -1"),
        ({"kept": (0,)}, ArgumentError, "kept must be a whole number ≥ 1; got 0"),
    ],
)
def test_what_cannot_be_counted_is_refused(given, error, said, refuses):
    model, given = build(), {"labels": torch.zeros(5).long()} | given
    images = torch.rand(5, 6, dtype=torch.float64)
    refuses(error, lambda: truncate(model, images, **given), said)
    none = images[:0], torch.zeros(0).long()
    refuses(
        ArgumentError, lambda: truncate(model, *none), "truncate must be given images; got none"
    )

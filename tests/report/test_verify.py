"""``verify`` passes on every kind of model, and fails when the code it guards is broken."""

import dataclasses
import itertools

import pytest
import torch

from bilens import Classifier, ClassifierConfig, verify
from bilens.algebra import CP, QuadraticForm
from bilens.report import Verification


def build(depth=1, residual=False, bias=False):
    torch.manual_seed(depth)
    config = ClassifierConfig(
        input_shape=[4, 4], hidden_size=12, num_hidden_layers=depth, residual=residual, bias=bias, num_labels=5
    )
    return Classifier(config)


@pytest.mark.parametrize(("depth", "residual", "bias"), itertools.product((1, 2), (False, True), (False, True)))
def test_every_identity_holds(depth, residual, bias):
    checks = verify(build(depth, residual, bias))
    assert checks.passed, checks.to_frame().to_string()
    assert len(checks.rows()) >= 15


def broken_call(self, x, y=None):
    return 1.001 * whole_call(self, x, y)


def broken_interaction(self, u):
    return QuadraticForm(u @ self.out, self.left, self.left)


def broken_gram(self, mode, **how):
    return whole_gram(self, mode, **how) * (1 + 1e-8)


def broken_norm(self):
    return whole_norm(self) * (1 + 1e-8)


def broken_swap(self):
    return CP(self.out, self.right, 1.01 * self.left)


def broken_eigh(self, *arguments):
    """Right eigenvalues with vectors of something else."""
    found = whole_eigh(self, *arguments)
    return dataclasses.replace(found, vectors=torch.linalg.qr(torch.randn_like(found.vectors).mT)[0].mT)


whole_eigh = QuadraticForm.eigh
whole_call, whole_gram, whole_norm = CP.__call__, CP.gram, QuadraticForm.norm


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (CP, "__call__", broken_call),
        (CP, "interaction", broken_interaction),
        (CP, "gram", broken_gram),
        (QuadraticForm, "norm", broken_norm),
        (CP, "swap", broken_swap),
        (QuadraticForm, "eigh", broken_eigh),
    ],
)
def test_it_fails_on_broken_code(monkeypatch, owner, name, broken):
    monkeypatch.setattr(owner, name, broken)
    assert not verify(build()).passed


def test_a_nan_does_not_pass():
    checks = Verification(("x",), ("float64",), (float("nan"),), (1e-10,))
    assert not checks.passed


def test_the_model_is_left_as_it_was():
    model = build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    verify(model)
    assert model.training
    assert all(
        torch.equal(before[name], value) and value.dtype == torch.float32 for name, value in model.state_dict().items()
    )

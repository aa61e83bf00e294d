"""``verify`` passes on every kind of model, and fails when the code it guards is broken."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from bilens import Classifier, ClassifierConfig, Transformer, TransformerConfig, verify
from bilens.algebra import CP, QuadraticForm
from bilens.base.errors import ArgumentError
from bilens.checks import Verification


def build(depth=1, residual=False, bias=False):
    torch.manual_seed(depth)
    config = ClassifierConfig(
        input_shape=[4, 4],
        hidden_size=12,
        num_hidden_layers=depth,
        residual=residual,
        bias=bias,
        num_labels=5,
    )
    return Classifier(config)


@pytest.mark.parametrize(
    ("depth", "residual", "bias"), itertools.product((1, 2), (False, True), (False, True))
)
def test_every_identity_holds(depth, residual, bias):
    checks = verify(build(depth, residual, bias))
    assert checks.passed, checks.to_frame().to_string()
    for layer in range(depth):
        named = [name for name in checks.identities if name.endswith(f", layer {layer}")]
        assert len(named) == 14 + bias, named
    whole = [name for name in checks.identities if ", layer" not in name]
    assert len(whole) == 4 + 2 * (depth == 1), whole
    assert checks.skipped == (
        "against a stock model: transformers has no class of bilinear classifiers",
    )


def tiny(family, seed=0, **given):
    """A small stock model with weights large enough that every one of them counts."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
        "max_position_embeddings": 64,
    }  # fmt: skip
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[family](
        **sizes | given
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


STRETCHED = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("family", "given", "name"),
    [
        ("llama", {"hidden_act": "linear"}, "LlamaForCausalLM"),
        ("llama", {"attention_bias": True, "mlp_bias": True}, "LlamaForCausalLM"),
        ("llama", {"tie_word_embeddings": True, "rope_parameters": STRETCHED}, "LlamaForCausalLM"),
        ("qwen2", {}, "Qwen2ForCausalLM"),
        ("qwen3", {"head_dim": 8}, "Qwen3ForCausalLM"),
    ],
)
def test_models_of_stock_classes_are_held_against_them(family, given, name):
    theirs = tiny(family, **given)
    checks = verify(Transformer.from_llama(theirs))
    assert checks.identities[0] == f"logits = those of stock {name}, same weights"
    assert checks.dtypes[0] == "float64"
    assert checks.tolerances[0] == 1e-5  # stock norms the stream in float32, in a float64 model too
    assert checks.passed, checks.to_frame().to_string()
    assert checks.skipped == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_pass(dtype):
    checks = verify(Transformer.from_llama(tiny("llama", hidden_act="linear").to(dtype)))
    assert checks.passed, checks.to_frame().to_string()
    assert "stock LlamaForCausalLM" in checks.identities[0]


@pytest.mark.parametrize("break_it", ["eps", "turns", "scale"])
def test_another_function_than_the_stock_one_is_found_by_that_check_alone(monkeypatch, break_it):
    """What is wrong everywhere in bilens in the same way, nothing that compares bilens with bilens
    can see.
    """
    model = Transformer.from_llama(tiny("llama", hidden_act="linear"))
    if break_it == "eps":
        monkeypatch.setattr(model.model.norm, "eps", 1e-2)
    elif break_it == "turns":
        model.model.rotary_emb.inv_freq.mul_(1.01)
    else:
        model.model.rotary_emb.scale = 1.001
    checks = verify(model)
    failed = [
        name for name, holds in zip(checks.identities, checks.holds, strict=True) if not holds
    ]
    assert "logits = those of stock LlamaForCausalLM, same weights" in failed
    assert all("stock" in name or name.startswith(("save, load", "folded")) for name in failed)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"norm": "layer"}, "norm = 'layer'"),
        ({"positions": "learned"}, "positions = 'learned'"),
        ({"num_attention_heads": 0, "num_key_value_heads": 0}, "num_attention_heads = 0"),
        ({"hidden_act": "square", "gated": False}, "gated = False"),
        ({"head_bias": True}, "head_bias = True"),
    ],
)
def test_what_has_no_stock_class_says_so(given, why):
    fields = {
        "vocab_size": 9,
        "hidden_size": 8,
        "intermediate_size": 6,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    checks = verify(Transformer(TransformerConfig(**fields | given)))
    assert checks.passed, checks.to_frame().to_string()
    assert checks.skipped == (
        f"against a stock model: bilens writes no model of a stock class that has {why}",
    )
    assert checks.summary().endswith(f"; not checked: {checks.skipped[0]}")
    assert not any("stock" in name for name in checks.identities)


def test_a_seed_may_be_numpys():
    model = build()
    assert verify(model, np.int64(5)).errors == verify(model, 5).errors


@pytest.mark.bad_input
@pytest.mark.parametrize("seed", ["a", 1.5, True, 2**63])
def test_a_seed_is_a_whole_number(refuses, seed):
    model = Classifier(ClassifierConfig(num_labels=3, hidden_size=8))
    refuses(ArgumentError, lambda: verify(model, seed), "seed must be a whole number")


def test_a_classifier_has_no_files_of_another_class(refuses, tmp_path):
    model = Classifier(ClassifierConfig(num_labels=3, hidden_size=8))
    refuses(ArgumentError, lambda: verify(model, against=tmp_path), "of which transformers has no")


@pytest.mark.bad_input
def test_what_is_no_model_is_refused(refuses):
    tensor = build().tensor()
    for what, name in (
        (tensor, "CP"),
        (torch.nn.Linear(2, 2), "Linear"),
        ("M", "str"),
        (None, "NoneType"),
    ):
        refuses(
            ArgumentError,
            lambda what=what: verify(what),
            f"verify: model must be a bilens Classifier or Transformer; got {name}",
        )


def broken_call(self, x, y=None):
    return 1.001 * whole_call(self, x, y)


def broken_interaction(self, u):
    return QuadraticForm(u @ self.out, self.left, self.left)


def broken_grams(self, modes, **how):
    return [gram * (1 + 1e-8) for gram in whole_grams(self, modes, **how)]


def broken_norm(self):
    return whole_norm(self) * (1 + 1e-8)


def broken_swap(self):
    return CP(self.out, self.right, 1.01 * self.left)


def broken_eigh(self, *arguments):
    """Right eigenvalues with vectors of something else."""
    found = whole_eigh(self, *arguments)
    return dataclasses.replace(
        found, vectors=torch.linalg.qr(torch.randn_like(found.vectors).mT)[0].mT
    )


whole_eigh = QuadraticForm.eigh
whole_call, whole_grams, whole_norm = CP.__call__, CP.grams_near_one, QuadraticForm.norm


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (CP, "__call__", broken_call),
        (CP, "interaction", broken_interaction),
        (CP, "grams_near_one", broken_grams),
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
        torch.equal(before[name], value) and value.dtype == torch.float32
        for name, value in model.state_dict().items()
    )

"""The model that an explanation runs: the same function, in full precision, module by module."""

import pytest
import torch

import bilens
from bilens.circuits.recording import record
from bilens.wiring import eager, explained, is_half, precision


def tiny(dtype=torch.float32, **given):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 9,
        "hidden_size": 8,
        "intermediate_size": 6,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    sizes["positions"] = "learned"
    return (
        bilens.Transformer(bilens.TransformerConfig(**sizes | given, initializer_range=0.5))
        .to(dtype)
        .eval()
    )


IDS = torch.tensor([[1, 4, 2, 7]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_is_explained_as_it_is(dtype):
    model = tiny(dtype)
    assert explained(model) is model
    assert eager(model) is model
    assert not is_half(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_are_exact_in_float32(dtype):
    model = tiny(dtype, tie_word_embeddings=True)
    model.tokenizer = object()
    copy = explained(model)
    assert is_half(model)
    assert model.dtype is dtype  # the model that is held does not change
    assert copy.tokenizer is model.tokenizer
    assert copy.lm_head.weight is copy.model.embed_tokens.weight  # what is tied stays tied
    assert explained(copy) is copy
    truth = tiny(torch.float64, tie_word_embeddings=True)
    truth.load_state_dict({name: weight.double() for name, weight in model.state_dict().items()})
    assert torch.allclose(copy(IDS).logits.double(), truth(IDS).logits, atol=1e-5)


def test_gradients_reach_the_half_weights():
    model = tiny(torch.bfloat16)
    explained(model)(IDS).logits.square().sum().backward()
    assert float(model.blocks[0].mlp.down_proj.weight.grad.float().norm()) > 0


def test_a_compiled_model_is_run_module_by_module_over_the_same_weights():
    model = tiny()
    model.blocks[0].mlp.compile(backend="eager")
    plain = explained(model)
    assert plain is not model
    assert plain.blocks[0].mlp._compiled_call_impl is None
    assert model.blocks[0].mlp._compiled_call_impl is not None
    assert all(a is b for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert eager(torch.compile(tiny(), backend="eager")).blocks


@pytest.mark.parametrize("room", [0, 2**30], ids=["no-room", "room-for-all"])
def test_a_recording_holds_no_weights_in_float32(monkeypatch, room):
    """Beside the readout, which its wiring has, and what there is room for."""
    monkeypatch.setattr(precision, "ROOM", room)
    sizes = {"num_key_value_heads": 1, "mlp_bias": True}
    model = tiny(torch.bfloat16, **sizes)
    full = record(tiny(torch.bfloat16, **sizes).float(), IDS[0])
    made = record(model, IDS[0])
    held = made.run.model.lm_head._parameters.full._alive
    every = sum(1 for _ in model.parameters())
    assert len(held) == (every - 1 if room else 1)  # of the embedding rows alone
    assert made.products.keys() == full.products.keys()
    for name, write in made.products.items():
        form, truth = write.form, full.products[name].form
        assert torch.equal(form.out, truth.out)
        for leg, true in zip(form.legs, truth.legs, strict=True):
            assert torch.equal(leg.weight, true.weight)
        assert form.double().out.dtype is torch.float64
    assert torch.equal(made.writes, full.writes)

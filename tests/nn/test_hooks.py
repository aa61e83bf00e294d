"""Places by either name, and hooks that tell and change."""

import pytest
import torch

from bilens import load
from bilens.base.errors import ArgumentError
from bilens.models import activations
from bilens.nn.hooks import Place, find_place, hooked

MODEL = load("tinystories-2l")
PARTS = MODEL.wiring().parts


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("mlp1.input", Place(3, "input", "mlp1.input")),
        ("layers.1.mlp.input", Place(3, "input", "mlp1.input")),
        ("model.layers.0.mlp.output", Place(1, "output", "mlp0.output")),
        ("layers.0.self_attn.input", Place(0, "input", "attn0.input")),
    ],
)
def test_both_names_say_the_same(text, place):
    assert find_place(text, PARTS) == place


@pytest.mark.parametrize("text", ["mlp2.input", "layers.9.mlp.input", "mlp1", "blocks.1.hook_mlp_in", ""])
def test_a_place_that_is_not_there(text, refuses):
    refuses(ArgumentError, lambda: find_place(text, PARTS), "place must be one of attn0.input, mlp0.input")


def test_heads_have_no_joint_output(refuses):
    refuses(ArgumentError, lambda: find_place("attn0.output", PARTS), "Heads write one by one")


def test_a_hook_changes_and_leaves():
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    before = layer(x)
    with hooked(layer, "output", lambda out: out * 0):
        assert layer(x).abs().max() == 0
    with hooked(layer, "input", lambda given: given * 2):
        assert torch.allclose(layer(x), 2 * before - layer.bias)
    assert torch.equal(layer(x), before)


def test_activations_are_what_the_layer_reads_and_writes():
    ids = torch.randint(0, 1024, (6, 20), generator=torch.Generator().manual_seed(0))
    read, written = (torch.cat(list(activations(MODEL, ids.split(4), f"mlp1.{side}"))) for side in ("input", "output"))
    assert read.shape == written.shape == (120, 128)
    tensor = MODEL.blocks[1].mlp.tensor().detach()
    assert torch.allclose(tensor(read), written, atol=1e-5)
    stream = MODEL(ids, output_hidden_states=True).hidden_states[-1].detach().flatten(0, 1)
    both = torch.cat(list(activations(MODEL, [ids], "mlp1.output")))
    assert torch.allclose(both, written, atol=1e-5)
    assert stream.shape == written.shape

"""The same weights in TransformerLens: its QK and OV circuits and composition scores are ours. Runs
where it is installed.

make interop
"""

from importlib.metadata import version

import pytest
import torch

import bilens
from bilens.circuits import composition, ov_circuit, qk_circuit

lens = pytest.importorskip(
    "transformer_lens",
    reason="an optional job: needs transformer-lens 2 or 3",
    exc_type=ImportError,
)
if not version("transformer_lens").startswith(("2.", "3.")):
    pytest.skip("an optional job: needs transformer-lens 2 or 3", allow_module_level=True)
SIZES = {"n_layers": 2, "d_model": 16, "n_ctx": 12, "d_head": 4, "n_heads": 3, "d_vocab": 11}


@pytest.fixture(scope="module")
def both():
    """An attention-only model here and there, in float32."""
    torch.manual_seed(0)
    ours = bilens.Transformer(
        bilens.TransformerConfig(
            vocab_size=11, hidden_size=16, intermediate_size=0, num_hidden_layers=2,
            num_attention_heads=3, head_dim=4,
            norm="none", positions="learned", max_position_embeddings=12, initializer_range=0.5,
        )
    ).eval()  # fmt: skip
    theirs = lens.HookedTransformer(
        lens.HookedTransformerConfig(
            **SIZES, attn_only=True, normalization_type=None, device="cpu", seed=0
        )
    )
    state = {"embed.W_E": ours.W_E, "pos_embed.W_pos": ours.W_pos, "unembed.W_U": ours.W_U}
    for layer in range(2):
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            state[f"blocks.{layer}.attn.{name}"] = getattr(ours, name)[layer]
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(state[name] if name in state else torch.zeros_like(parameter))
    return ours, theirs


@torch.no_grad()
def test_the_same_logits(both):
    ours, theirs = both
    tokens = torch.tensor([[1, 5, 2, 9, 3]])
    torch.testing.assert_close(theirs(tokens), ours(tokens).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("head", [0, 2])
def test_the_same_circuits(both, layer, head):
    ours, theirs = both
    ov, qk = theirs.OV[layer, head].AB, theirs.QK[layer, head].AB
    found = ov_circuit(ours, layer, head)
    torch.testing.assert_close(
        found.a @ found.b, theirs.W_E @ ov @ theirs.W_U, rtol=1e-5, atol=1e-5
    )
    found = qk_circuit(ours, layer, head)
    scaled = theirs.W_E @ qk @ theirs.W_E.mT / 4**0.5
    torch.testing.assert_close(found.a @ found.b, scaled, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_same_composition_scores(both):
    ours, theirs = both
    rows = composition(ours).rows()
    assert len(rows) == 3 * 3 * 3
    for kind in "QKV":
        scores = theirs.all_composition_scores(kind)
        for row in rows:
            if row["kind"] == kind:
                (one, a), (two, b) = (
                    (int(name[1]), int(name[3])) for name in (row["first"], row["second"])
                )
                assert row["strength"] == pytest.approx(float(scores[one, a, two, b]), rel=1e-5)

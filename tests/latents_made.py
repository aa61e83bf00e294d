"""A small language model, texts for it, and dictionaries of its places."""

import torch

import bilens
from bilens.features import Dictionary

D, F, VOCABULARY, CONTEXT = 12, 20, 30, 16


def small_model():
    config = bilens.TransformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=D,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    return bilens.Transformer(config).double().eval()


def small_texts():
    generator = torch.Generator().manual_seed(1)
    lengths = [CONTEXT, 5, 9, 1, 12, CONTEXT, 7, 14, 11, 10]
    return [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths]


def dictionary(hook="layers.1.mlp.input", **more):
    """A dictionary with signs of its own: JumpReLU fires on some tokens, not on others."""
    generator = torch.Generator().manual_seed(2)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    fields = {
        "W_enc": randn(D, F),
        "W_dec": randn(F, D),
        "b_enc": randn(F),
        "b_dec": randn(D),
        "threshold": torch.full((F,), 2.5).double(),
        "architecture": "jumprelu",
        "hook": hook,
    }
    return Dictionary(**fields | more)

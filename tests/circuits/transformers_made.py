"""Tiny transformers with other MLPs, whose biases are not zero."""

import torch

import bilens


def tiny(act, gated, norm="rms", bias=True, layers=2, dtype=torch.float64, seed=0, **more):
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 9,
        "hidden_size": 6,
        "intermediate_size": 10,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "head_dim": 4,
        "initializer_range": 0.5,
    }
    kinds = {"hidden_act": act, "gated": gated, "norm": norm, "mlp_bias": bias}
    model = bilens.Transformer(bilens.TransformerConfig(**sizes | kinds | more)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model.to(dtype).eval()

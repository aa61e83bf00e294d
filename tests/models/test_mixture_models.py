"""Transformers with mixtures of experts: transformers' own with the same weights, the loss while
training, and what is refused. (test_transformer holds them to all that is promised of the others.)
"""

import json

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

import bilens
from bilens.base.errors import ArgumentError, ConfigError

SMALL = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "hidden_act": "silu",
    "initializer_range": 0.3,
}
TOKENS = torch.randint(0, 30, (2, 9), generator=torch.Generator().manual_seed(1))


def build(**changes):
    torch.manual_seed(0)
    return bilens.Transformer(bilens.TransformerConfig(**(SMALL | changes))).double().eval()


def fused(model):
    """The weights by Mixtral's names: those of all experts in one."""
    made = {name: w for name, w in model.state_dict().items() if ".experts." not in name}
    for n, block in enumerate(model.blocks):
        at, experts = f"model.layers.{n}.mlp.experts", block.mlp.experts
        both = [torch.cat([one.gate_proj.weight, one.up_proj.weight]) for one in experts]
        made[f"{at}.gate_up_proj"] = torch.stack(both)
        made[f"{at}.down_proj"] = torch.stack([one.down_proj.weight for one in experts])
    return made


def test_it_is_mixtral(close):
    """Whose norms and router go through float32 in a model of any dtype."""
    model = build()
    alike = {"rms_norm_eps": 1e-6, "rope_parameters": model.config.rope_parameters}
    config = MixtralConfig(**SMALL, **alike, experts_implementation="eager")
    stock = MixtralForCausalLM(config).double().eval()
    stock.load_state_dict(fused(model))
    close(model(TOKENS).logits, stock(TOKENS).logits, tol=1e-5)
    said = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(model.generate(TOKENS, **said), stock.generate(TOKENS, **said))


def test_unequal_shares_count_while_training_alone():
    model, routed = build(router_aux_loss_coef=0.5), []
    plain = model(TOKENS, labels=TOKENS).loss.item()
    for block in model.blocks:
        block.mlp.gate.register_forward_hook(lambda _, given, out: routed.append(out))
    loss = model.train()(TOKENS, labels=TOKENS).loss
    unequal = [load_balancing_loss_func((logits,), 5, 2).item() for logits in routed[::2]]
    assert loss.item() == pytest.approx(plain + 0.5 * sum(unequal) / 2, rel=1e-6)
    assert model(TOKENS).loss is None


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    model, found = build(router_aux_loss_coef=0.5).train(), []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        model(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
        found.append({name: w.grad for name, w in model.named_parameters()})
    assert all(torch.allclose(grad, found[1][name]) for name, grad in found[0].items())


def test_what_cannot_be_is_refused(tmp_path, refuses):
    refuses(ConfigError, lambda: build(num_experts_per_tok=6), "be at most num_local_experts = 5")
    refuses(ConfigError, lambda: build(num_local_experts=-1), "num_local_experts must be a whole")
    refuses(ConfigError, lambda: build(intermediate_size=0), "at least 1 where there are experts")
    model = build()
    assert not model.config.is_exact
    assert not build(hidden_act="linear").config.is_exact
    refuses(ConfigError, model.to_llama, "num_local_experts must be 0")
    refuses(ArgumentError, lambda: model.W_in, "be asked of one expert")
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"num_local_experts": 9000}))
    refuses(ConfigError, lambda: bilens.load(tmp_path), "num_local_experts must be at most")

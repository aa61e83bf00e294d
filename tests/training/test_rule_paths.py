"""Known rules in single paths, against the polynomial written out densely."""

import pytest
import torch

from bilens.models import Transformer, TransformerConfig
from bilens.training import Truth, evaluate_paths, evaluate_rules, parts_of

SIZE = 7


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=SIZE, hidden_size=12, intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, attention="bilinear", norm="none",
        hidden_act="linear", gated=True,
    )  # fmt: skip
    made = Transformer(config).double().eval()
    for weights in made.parameters():
        weights.data *= 20  # so that attention counts
    return made


def dense(model, layer, head=None):
    """What a layer writes for outputs of each two tokens: (token, other, output)."""
    embed, mlp = model.W_E, model.model.blocks[layer].mlp
    other = embed
    if head is not None:
        n, h = head
        heads = model.model.blocks[n].self_attn
        values = heads.v_proj.weight.unflatten(0, (2, 6))[h]
        other = embed @ values.mT @ heads.o_proj.weight[:, 6 * h : 6 * h + 6].mT
    left, right = mlp.gate_proj.weight, mlp.up_proj.weight
    one, two = (embed @ left.mT)[:, None], (other @ right.mT)[None]
    swapped = (embed @ right.mT)[:, None] * (other @ left.mT)[None]
    share = 1 if head is not None else 0.5
    hidden = share * (one * two + swapped)
    return hidden @ mlp.down_proj.weight.mT @ model.lm_head.weight.mT


def test_a_path_has_the_rules_that_its_own_table_has(model):
    with torch.no_grad():
        twice, brought = dense(model, 1), dense(model, 1, (0, 1))
        direct = model.W_E @ model.lm_head.weight.mT
    own = brought.argmax(-1)
    skips = [(earlier, now, int(own[now, earlier])) for earlier, now in ((1, 2), (3, 4), (5, 0))]
    wrong = (2, 6, (int(own[6, 2]) + 1) % SIZE)
    best = [int(twice[n, n].argmax()) for n in range(3)]
    truth = Truth(
        bigram=tuple((n, ((after, 1.0),)) for n, after in enumerate(best)),
        skip=(*skips, wrong),
        reach=3,
    )
    found = {row["path"]: row for row in evaluate_paths(model, truth).rows()}
    assert found["mlp1(embed, L0H1)"]["skip"] == 3
    assert found["mlp1(embed, L0H1)"]["of_skip"] == 4
    assert found["mlp1(embed, embed)"]["bigram"] == 3
    assert found["embed"]["bigram"] == sum(int(direct[n].argmax()) == best[n] for n in range(3))
    assert found["mlp1(embed, embed)"]["skip"] is None
    assert found["mlp1(embed, L0H1)"]["bigram"] is None
    assert list(found)[:4] == ["embed", "mlp0(embed, embed)", *(
        f"mlp0(embed, L0H{h})" for h in range(2)
    )]  # fmt: skip
    assert "most skip rules: mlp1(embed, L0H1), 3 of 4" in evaluate_paths(model, truth).summary()


def test_a_part_that_writes_nothing_is_as_if_its_weights_were_zero(model):
    truth = Truth(skip=((1, 2, 3), (3, 4, 5)), reach=2)
    assert parts_of(model) == ("L0H0", "L0H1", "mlp0", "L1H0", "L1H1", "mlp1")
    for part in ("L0H1", "mlp1"):
        other = Transformer(model.config).double().eval()
        other.load_state_dict(model.state_dict())
        if part == "mlp1":
            other.model.blocks[1].mlp.down_proj.weight.data.zero_()
        else:
            other.model.blocks[0].self_attn.o_proj.weight.data[:, 6:].zero_()
        without = evaluate_rules(model, truth, [part]).rows()
        assert without == evaluate_rules(other, truth).rows()
        assert without != evaluate_rules(model, truth).rows()

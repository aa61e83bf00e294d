"""Known rules: paths that avoid an edge are the model without it; a language follows its rules."""

import itertools
import json

import pytest
import torch

import bilens
from bilens.models import Transformer, TransformerConfig
from bilens.training import read_truth
from experiments.known_rules import language
from experiments.known_rules.polynomial import Paths, Polynomial

IDS = torch.tensor([3, 1, 3])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=5, hidden_size=6, head_dim=4, num_attention_heads=1, intermediate_size=5,
        num_hidden_layers=2, max_position_embeddings=8, norm="channel", initializer_range=0.5,
        attention="bilinear", attention_scale=0.25,
    )  # fmt: skip
    return Transformer(config).double().eval()


def test_all_paths_are_the_model(model):
    ids = torch.tensor([[3, 1, 3], [0, 4, 2]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, -1]
    torch.testing.assert_close(Polynomial(model)(ids), logits)


@pytest.mark.parametrize("edge", ["L0H0→mlp1", "L0H0→L1H0.V", "L0H0→L1H0.K", "mlp0→logits"])
def test_the_paths_that_avoid_an_edge_are_the_model_without_it(model, edge):
    legs = {".V": [".v"], ".K": [".k1", ".k2"]}.get(edge[-2:], [""])
    cut = [edge.removesuffix(".V").removesuffix(".K") + leg for leg in legs]
    avoiding = Polynomial(model)(IDS[None], Paths().without(*cut))[0, 4]
    removed = bilens.circuits.knockout(model, IDS, edge, 4, with_="zero")
    assert float(avoiding) == pytest.approx(removed.after, rel=1e-9)


def test_a_text_follows_the_rules(tmp_path):
    file = language.write(tmp_path, 3)
    rules = tmp_path / "rules.json"
    truth, known = read_truth(rules), json.loads(rules.read_text())
    tokens = language.tokenizer()
    texts = file.read_text().split(f"\n{tokens.eos_token}\n")[:3]
    verbs = dict(truth.bigram)
    for text in texts:
        ids = tokens(text)["input_ids"]
        assert len(ids) == language.LENGTH - 1
        assert ids[0] == truth.begin
        for current, after in itertools.pairwise(ids):
            if current in verbs:
                assert after in dict(verbs[current])
    assert known["vocab_size"] == len(tokens) == truth.largest + 1

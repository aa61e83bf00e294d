"""Known rules: read from a file, and counted where what answers is known by construction."""

import json
import math

import pytest
import torch

import bilens
from bilens.base.errors import ConfigError, FileError
from bilens.models import Transformer, TransformerConfig
from bilens.training import Truth, evaluate_rules, read_truth, score_rules

RULES = {
    "special": {"bos": 0},
    "ranges": {"word": [1, 5], "place": [5, 7], "filler": [7, 9]},
    "bigram": {"1": {"2": 0.75, "3": 0.25}, "2": {"4": 1.0}},
    "skip": [[5, 3, 4], [6, 3, 2]],
    "skip_max": 4,
    "induction": {"min_distance": 3, "never": ["place"]},
}
SIZE = 9


def written(folder, **changes):
    file = folder / "rules.json"
    file.write_text(json.dumps(RULES | changes))
    return file


def oracle(ids, but=()):
    """Answers that follow the rules, read from each prompt itself."""
    logp = torch.full((len(ids), SIZE), math.log(1e-4))
    for n, row in enumerate(ids.tolist()):
        *before, current = row
        assert before[:1] == [0]
        skips = {(a, b): c for a, b, c in RULES["skip"]}
        place = next((one for one in before[::-1] if (one, current) in skips), None)
        if current in before and "induction" not in but:
            logp[n, row[row.index(current) + 1]] = 0
        elif place is not None and "skip" not in but:
            logp[n, skips[place, current]] = 0
        elif str(current) in RULES["bigram"] and "bigram" not in but:
            for token, p in RULES["bigram"][str(current)].items():
                logp[n, int(token)] = math.log(p)
    return logp


def test_what_has_all_rules_and_what_lacks_one(tmp_path):
    truth = read_truth(written(tmp_path))
    assert (truth.repeats, truth.fillers, truth.begin) == ((1, 2, 3, 4), (7, 8), 0)
    assert truth.largest == 8
    whole = {row["rule"]: row for row in score_rules(oracle, truth).rows()}
    counts = {rule: (row["right"], row["of"]) for rule, row in whole.items()}
    assert counts == {"bigram": (2, 2), "skip": (2, 2), "induction": (12, 12)}
    assert whole["bigram"]["nats"] == pytest.approx(math.log(1 + 7.5e-4), abs=2e-4)
    for rule in counts:
        scores = score_rules(lambda ids, rule=rule: oracle(ids, (rule,)), truth)
        right = {row["rule"]: row["right"] for row in scores.rows()}
        others = {name: right[name] for name in counts if name not in (rule, "induction")}
        assert others == {name: counts[name][0] for name in others}
        assert right[rule] < counts[rule][0]


def test_prompts_have_their_tokens_as_far_apart_as_they_are_asked():
    truth = Truth(fillers=(7, 8), begin=0)
    ids = truth.prompts(torch.tensor([[1, 2, 1], [3, 4, 3]]), (0, 2))
    assert ids[:, [0, 1, 2, 5]].tolist() == [[0, 1, 2, 1], [0, 3, 4, 3]]
    assert set(ids[:, 3:5].flatten().tolist()) <= {7, 8}
    assert truth.prompts(torch.tensor([[4]]), ()).tolist() == [[0, 4]]


BAD = {
    "ranges": ({"ranges": {"word": [1]}}, "ranges.word must be [first, after the last]; got [1]"),
    "skip": ({"skip": [[1, 2]]}, "skip[0] must be three tokens"),
    "skip list": ({"skip": {}}, "skip must be a list"),
    "chances": ({"bigram": {"1": {"2": 0.5}}}, "bigram.1 must have chances that add up to 1"),
    "token": ({"bigram": {"x": {"2": 1.0}}}, "bigram.x must have tokens by number"),
    "table": ({"bigram": []}, "bigram must be an object"),
    "bos": ({"special": {"bos": "^"}}, "special.bos must be a whole number"),
    "distance": ({"induction": {"min_distance": 1}}, "induction.min_distance must be"),
    "nothing": ({"bigram": {}, "skip": [], "induction": {}}, "must have rules in one of them"),
    "never": ({"induction": {"never": "filler"}}, "induction.never must be a list of kinds"),
    "no kind": ({"induction": {"never": ["plaice"]}}, "kinds, word, place, filler; got ['plaice']"),
    "backwards": ({"ranges": {"filler": [9, 7]}}, "ranges.filler must be [first, after the last]"),
    "one repeats": (
        {"ranges": {"word": [1, 2], "place": [5, 7], "filler": [7, 9]}},
        "induction must be of two tokens that repeat at least, or of none; got token 1 alone",
    ),
    "no reach": ({"skip_max": 0}, "skip_max must be a whole number ≥ 1; got 0"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD)
def test_what_is_no_file_of_rules(tmp_path, refuses, changes, said):
    with pytest.raises(ConfigError) as refused:
        read_truth(written(tmp_path, **changes))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_is_held_against_rules_that_fit_it(tmp_path):
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=SIZE, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=16,
    )  # fmt: skip
    model, truth = Transformer(config).train(), read_truth(written(tmp_path))
    scores = evaluate_rules(model, truth)
    assert model.training
    assert [row["of"] for row in scores.rows()] == [2, 2, 12]
    assert "known rules: bigram" in scores.summary()
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([[0, 1], [0, 2]])).logits[:, -1]
    rows, logp = RULES["bigram"].values(), logits.log_softmax(-1)
    lost = [
        sum(p * (math.log(p) - float(one[int(n)])) for n, p in nexts.items())
        for nexts, one in zip(rows, logp, strict=True)
    ]
    assert scores.rows()[0]["nats"] == pytest.approx(sum(lost) / 2, rel=1e-4)
    # bos, X, Y, ten fillers, X
    barely = Transformer(
        TransformerConfig(**config.to_diff_dict() | {"max_position_embeddings": 14})
    )
    assert len(evaluate_rules(barely, truth).rows()) == 3
    config = TransformerConfig(**config.to_diff_dict() | {"max_position_embeddings": 5})
    few = {"skip_max": 3, "induction": {}}  # bos, earlier, two fillers, current
    assert (
        len(evaluate_rules(Transformer(config), read_truth(written(tmp_path, **few))).rows()) == 2
    )
    with pytest.raises(ConfigError) as refused:
        evaluate_rules(Transformer(config), truth)
    assert "the model reads, 5 tokens; got prompts of 14" in str(refused.value)
    for changes, said in (
        ({"skip": [[5, 3, 9]]}, "must fit the vocabulary, tokens 0 … 8; got token 9"),
        ({"skip_max": 15}, "must reach no further than the model reads, 16 tokens"),
    ):
        with pytest.raises(ConfigError) as refused:
            evaluate_rules(model, read_truth(written(tmp_path, **changes)))
        assert said in str(refused.value)


def test_no_file(tmp_path):
    with pytest.raises(FileError):
        read_truth(tmp_path / "none.json")
    assert bilens.training.score_rules(oracle, Truth()).rows() == []

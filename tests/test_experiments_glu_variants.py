"""The comparison of MLPs chooses a rate and a scale for each, and makes no run twice."""

import json

import pytest

from bilens.base.errors import FileError
from bilens.training import VARIANTS, read_recipe
from experiments.glu_variants import campaign
from experiments.glu_variants.campaign import RATES, SCALES, SEEDS, TUNING_SEEDS, Campaign, Trial

PAIRS = len(RATES) * len(SCALES)
TUNED = PAIRS + 5 * 2  # runs: the five best again, on two seeds
BEST = {"bilinear": (RATES[-1], SCALES[-1])}  # the others do best in the middle
MIDDLE = (RATES[2], SCALES[2])
HOW = read_recipe(None, steps=40, model={"hidden_size": 16, "num_attention_heads": 2})


def made_loss(trial):
    """Least at the best rate and scale of its MLP."""
    rate, scale = BEST.get(trial.mlp, MIDDLE)
    return abs(RATES.index(trial.learning_rate) - RATES.index(rate)) + abs(trial.scale - scale)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A campaign whose runs take no time, one of which diverges, and the trials that it made."""
    trials = []

    def trained(_, trial, run):
        trials.append(trial)
        diverged = trial.mlp == "ReLU" and trial.learning_rate == RATES[0]
        loss = None if diverged else made_loss(trial)
        return {"loss": loss, "bits per byte": 1.0, "parameters": 9}

    monkeypatch.setattr(Campaign, "trained", trained)
    monkeypatch.setattr("benchmarks.record._commit", lambda: "1234567")  # git takes its time
    about = {"preset": "small", "data": "stories", "text": "0"}
    return Campaign("topics", HOW, tmp_path / "work", tmp_path / "rows.jsonl", about, {}), trials


def test_each_mlp_has_its_best_rate_and_scale(made):
    found, trials = made[0].compared(), made[1]
    assert len(set(trials)) == len(trials) == len(VARIANTS) * (TUNED + len(SEEDS))
    at = TUNED * len(VARIANTS)
    tuning, finals = trials[:at], trials[at:]
    assert {trial.seed for trial in tuning}.isdisjoint(SEEDS)
    assert {trial.steps for trial in trials} == {40}
    for trial in finals:
        assert (trial.learning_rate, trial.scale) == BEST.get(trial.mlp, MIDDLE)
    assert [(t.mlp, t.seed, t.steps) for t in finals] == [
        (mlp, seed, 40) for seed in SEEDS for mlp in VARIANTS
    ]
    assert found.loss == ((0.0,) * len(SEEDS),) * len(VARIANTS)


def test_one_lucky_seed_chooses_no_pair(made, monkeypatch):
    """The best pair on the first seed fails on another: the next one is taken."""
    lucky, next_best = (RATES[-1], SCALES[0]), (RATES[0], SCALES[0])

    def trained(_, trial, run):
        pair, first = (trial.learning_rate, trial.scale), trial.seed == TUNING_SEEDS[0]
        loss = {lucky: 1.0 if first else None, next_best: 2.0}.get(pair, 3.0)
        return {"loss": loss, "bits per byte": 1.0, "parameters": 9}

    monkeypatch.setattr(Campaign, "trained", trained)
    found = made[0].chosen("ReLU")
    assert (found.learning_rate, found.scale) == next_best


def test_a_run_whose_row_is_there_is_not_made_again(made):
    first, trials = made
    found = first.compared()
    rows = first.results.read_text(encoding="utf-8").splitlines()
    first.results.write_text("\n".join(rows[:20] + rows[21:]) + "\n", encoding="utf-8")
    trials.clear()
    assert first.compared().rows() == found.rows()
    lost = json.loads(rows[20])
    assert [(trial.mlp, trial.scale) for trial in trials] == [(lost["mlp"], lost["scale"])]
    trials.clear()
    other = Campaign(*(first.source, HOW, first.work, first.results, {"text": "1"}, {}))
    other.chosen("ReLU")
    assert len(trials) == TUNED  # rows of another text are not its own


def test_a_trial_is_its_recipe():
    recipe = Trial("GELU", 1e-2, 0.05, seed=3, steps=7).recipe(HOW)
    assert (recipe.learning_rate, recipe.seed, recipe.steps) == (1e-2, 3, 7)
    assert recipe.model["initializer_range"] == 0.05
    assert recipe.model["hidden_act"] == "gelu"
    assert not recipe.model["gated"]


def test_what_cannot_be_read_is_refused(refuses, made):
    for damaged in ('{"mlp": ', "3"):
        made[0].results.write_text(damaged, encoding="utf-8")
        refuses(FileError, lambda: made[0].chosen("ReLU"), "must hold a JSON object a line")
    refuses(FileError, lambda: campaign.digest("/nowhere/text.txt"), "must be")

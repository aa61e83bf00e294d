"""The core of the case study: candidates and verdicts on layers whose mechanism is known."""

import pytest
import torch

from bilens import CP
from bilens.features import Dictionary
from experiments.case_study.confirm import CHECKS, DRAWS, LEVEL, confirm, intervals
from experiments.case_study.study import Pair, Study, Text, candidates, names_by_text, random_pairs

WIDTH = 6
# the pair that output 0 multiplies, the pair that output 1 adds up; x_5 = 1
AND, SUM = (0, 1), (2, 3)


def eye(hook):
    """Latents that are the coordinates, active above one half."""
    zeros, half = torch.zeros(WIDTH), torch.full((WIDTH,), 0.5)
    same = torch.eye(WIDTH)
    return Dictionary(same, same, zeros, zeros, threshold=half, architecture="jumprelu", hook=hook)


def study():
    """out_0 = x_0 x_1; out_1 = (x_2 + x_3) x_5 / 3, no AND of x_2 and x_3; the token k is promoted
    by output k.
    """
    units = torch.eye(WIDTH)
    out = torch.stack([units[0], units[1] / 3], 1)
    layer = CP(out, torch.stack([units[0], units[2] + units[3]]), torch.stack([units[1], units[5]]))
    head = torch.cat([units, torch.zeros(2, WIDTH)]).mT
    return Study(
        layer,
        eye("mlp0.input"),
        eye("mlp0.output"),
        lambda mid, out: ((mid + out) @ head).log_softmax(-1),
        torch.arange(WIDTH)[:, None],
    )


def text_of(study, blocks=30, length=40):
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(blocks * length, WIDTH, generator=draw) < 0.4) * (
        0.8 + torch.rand(blocks * length, WIDTH, generator=draw)
    )
    x[:, 5] = 1
    ids = torch.randint(WIDTH + 2, (blocks, length), generator=draw)
    fires = study.outputs.encode(study.tensor(x)) > 0
    block = torch.arange(blocks).repeat_interleave(length)
    return Text(ids, block, torch.zeros_like(x), x, study.inputs.encode(x) > 0, fires)


def test_candidates_are_read_from_weights():
    """2 Q_01 = 1 for output 0; for output 1 the pairs (2, 5) and (3, 5) have 1/3. The others have
    none.
    """
    found = candidates(study(), 10)
    assert (found[0].out, found[0].f, found[0].g) == (0, *AND)
    assert found[0].coefficient == pytest.approx(1)
    assert found[0].needed == pytest.approx(0.5)
    assert (found[1].out, found[1].g, found[1].coefficient) == (1, 5, pytest.approx(1 / 3))
    assert len(found) == 2
    assert len(candidates(study(), 1)) == 1


def test_an_and_is_confirmed():
    made = study()
    found = confirm(made, text_of(made), Pair(0, *AND, 1.0, 0.5))
    assert found.passed, found.checks
    assert found.rates == {"both": pytest.approx(1), "f alone": 0, "g alone": 0}
    assert found.share == pytest.approx(1)
    assert found.figures["f without g"][0] == pytest.approx(0, abs=1e-6)
    assert found.figures["f with g"][0] == pytest.approx(found.figures["interaction"][0])


def test_a_sum_is_not_confirmed():
    """Both latents add to output 1, and it fires with both alone, but neither needs the other."""
    made = study()
    found = confirm(made, text_of(made), Pair(1, *SUM, 1e-3, 500.0))
    assert found.checks["occurs"]
    assert found.checks["together"]
    assert not found.checks["needs both"]
    assert not found.checks["share"]
    assert not found.passed


def test_interaction_is_that_of_the_head():
    """Against log-softmax written out, at the positions that were kept."""
    made = study()
    text = text_of(made)
    found = confirm(made, text, Pair(0, *AND, 1.0, 0.5))
    x = text.x[found.positions]

    def logp(z):
        out = torch.stack([z[:, 0] * z[:, 1], (z[:, 2] + z[:, 3]) * z[:, 5] / 3], 1)
        return out[:, 0] - (out.exp().sum(1) + WIDTH).log()

    no_f, no_g, none = (x.index_fill(1, torch.tensor(gone), 0) for gone in ([0], [1], [0, 1]))
    expected = logp(x) - logp(no_f) - logp(no_g) + logp(none)
    assert torch.allclose(found.sizes, expected, atol=1e-5)


def test_what_does_not_occur_is_said():
    made = study()
    text = text_of(made, blocks=9)
    found = confirm(made, text, Pair(0, *AND, 1.0, 0.5))
    assert found.count >= 20
    assert found.failed_first == "occurs"
    assert found.figures == {}
    assert list(found.checks) == list(CHECKS)


def test_random_pairs_have_positive_terms():
    made = study()
    found = random_pairs(made, candidates(made, 2), 1)
    for pair in found:
        z = torch.zeros(WIDTH)
        z[[pair.f, pair.g]] = 1
        alone = [made.tensor(torch.eye(WIDTH)[n])[pair.out] for n in (pair.f, pair.g)]
        assert pair.coefficient == pytest.approx(float(made.tensor(z)[pair.out] - sum(alone)))
        assert pair.coefficient > 0


def test_intervals_are_of_blocks():
    """Of blocks of one value each, the mean's spread is that of blocks and not of positions."""
    value = torch.randn(50, generator=torch.Generator().manual_seed(2))
    block = torch.arange(50).repeat_interleave(100)
    mean, low, high = intervals({"it": value[block]}, block)["it"]
    z = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + LEVEL) / 2))
    half = float(z * value.std() / 50**0.5)
    assert DRAWS >= 10 / (1 - LEVEL)
    assert mean == pytest.approx(float(value.mean()))
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)


def test_names_say_where_the_mass_is():
    """Latent 0 is on after the token 3 alone, latent 1 at the token 4 alone."""
    made = study()
    text = text_of(made)
    x = torch.zeros_like(text.x)
    flat = text.ids.flatten()
    before = torch.cat([torch.full_like(text.ids[:, :1], -1), text.ids[:, :-1]], 1).flatten()
    x[:, 0], x[:, 1] = (before == 3).float(), (flat == 4).float()
    names = names_by_text(
        made, Text(text.ids, text.block, text.mid, x, text.reads, text.fires), str, count=1
    )
    assert names[:2] == ["after 3 (100%)", "at 4 (100%)"]

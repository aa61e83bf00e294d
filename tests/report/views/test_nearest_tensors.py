"""MLPs beside their nearest tensors, on a page: the figures are the library's, the tokens stand in
their text.
"""

import copy

import pytest
import torch

import bilens
from bilens.models import activations
from bilens.report import write_page
from bilens.report.views import nearest_tensors as view
from bilens.report.views.nearest_tensors import FIRST, NO_TEXT, OF_EXPERTS, TITLE
from bilens.training import HeldOut
from tests.report.reading import sections


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = bilens.TransformerConfig(
        vocab_size=1024,
        hidden_size=8,
        intermediate_size=6,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="silu",
        initializer_range=0.5,
    )
    made = bilens.Transformer(config)
    made.tokenizer = bilens.load("tinystories-1l").tokenizer
    return made.eval()


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """The section without the others, which take longer."""
    monkeypatch.setattr("bilens.report.writing.VIEWS", (view.VIEW,))


def section(page):
    (found,) = [one["data"] for one in sections(page) if one["title"] == TITLE] or [None]
    return found


def test_the_figures_are_the_librarys(model, tmp_path):
    ids = torch.randint(100, 1000, (20, 12), generator=torch.Generator().manual_seed(0))
    page = write_page(model, [[1, 2]], tmp_path, text=HeldOut("some <b>text", ids))
    shown = section(page)["measured"]
    assert page.broken == ()
    assert "240 held-out tokens of some <b>text" in shown["text"]
    spectra, rungs = shown["degrees"]["figure"], shown["rungs"]["figure"]
    every = set()
    for n in range(2):
        batches = list(activations(model, ids.split(view.BATCH), f"mlp{n}.input"))
        mlp, measure = model.model.layers[n].mlp, bilens.Gaussian.from_batches(batches)
        truth = {fit: bilens.approximate(mlp, measure, fit, batches) for fit in view.RUNGS}
        powers = truth["closed"].degrees.powers[1:]
        assert [bar["y"][n] for bar in spectra["data"]] == pytest.approx(
            (100 * powers / powers.sum()).tolist(), rel=1e-4
        )
        for line, found in zip(rungs["data"], truth.values(), strict=True):
            share = found.unexplained
            assert line["y"][n] == pytest.approx(100 * float(share.value), rel=1e-4)
            assert line["error_y"]["array"][n] == pytest.approx(200 * float(share.error), rel=1e-3)
        # the one token that carries most, with what stands before and after it
        errors = truth["closed"].error(torch.cat(batches)).square().sum(-1)
        row, at = divmod(int(errors.argmax()), 12)
        names = model.output_names(ids[row])
        before = "".join(names[max(0, at - view.BEFORE) : at])
        part = shown["tokens"][n]
        worst = part["worst"][0]
        assert (worst["before"], worst["token"], worst["position"]) == (before, names[at], at)
        assert worst["share"] == pytest.approx(float(errors.max() / errors.sum()), rel=1e-4)
        # a kind's share is that of all its tokens, wherever they stand
        first = errors.reshape(20, 12)[:, 0].sum() / errors.sum()
        kinds = {kind["name"]: kind["share"] for kind in part["kinds"]}
        if FIRST in kinds:
            assert kinds[FIRST] == pytest.approx(float(first), rel=1e-4)
        every |= set(kinds)
    assert FIRST in every  # of both layers: twenty in 240 tokens


def test_too_few_tokens_fit_no_output(model, tmp_path):
    ids = torch.arange(14).reshape(1, 14)  # 14 features: a hidden unit each, and the linear part
    page = write_page(model, [[1, 2]], tmp_path, text=HeldOut("few", ids))
    shown = section(page)["measured"]
    assert not shown["refitted"]
    assert shown["columns"][-1] == "output by least squares"
    assert [row["rungs"][-1] for row in shown["rows"]] == [None, None]


def test_without_a_text_it_says_what_is_missing_and_exact_models_have_no_section(model, tmp_path):
    missing = section(write_page(model, [[1, 2]], tmp_path / "a"))
    assert missing == {"note": NO_TEXT, "measured": None}
    assert section(write_page(bilens.load("tinystories-1l"), ["A"], tmp_path / "b")) is None


def test_of_a_mixture_it_says_where_its_experts_are_told_of(model, tmp_path):
    config = copy.deepcopy(model.config)
    config.num_local_experts = 3
    mixture = bilens.Transformer(config).eval()
    mixture.tokenizer = model.tokenizer
    text = HeldOut("a text", torch.randint(100, 1000, (2, 12)))
    page = write_page(mixture, [[1, 2]], tmp_path, text=text)
    assert (page.broken, section(page)["note"]) == ((), OF_EXPERTS)

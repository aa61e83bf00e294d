"""The page of a language model: every token unfolds to paths that add up, whatever the prompt
holds.
"""

import pytest

import bilens
from bilens.base.errors import ArgumentError
from bilens.circuits import expand
from bilens.report import write_page
from bilens.report.views.token_paths import TERMS, _branches
from bilens.training import load_images
from tests.report.reading import sections


def test_a_panel_for_every_token(tmp_path):
    model = bilens.load("tinystories-1l")
    page = write_page(model, ["Once <b>a"], tmp_path)
    assert page.broken == ()
    tokens = len(model.tokenizer("Once <b>a")["input_ids"])
    assert len(sections(page, "paths")[0]["tokens"]) == tokens
    assert "<b>a" not in page.path.read_text(encoding="utf-8")
    assert model.dtype == bilens.load("tinystories-1l").dtype


def test_the_tree_adds_up_at_every_node():
    ex = expand(bilens.load("tinystories-2l").double(), "Once upon a time", max_terms=TERMS)
    branches = _branches(list(ex.terms), 0, 1.0)

    def check(branch):
        if branch.below:
            assert sum(child.value for child in branch.below) == pytest.approx(
                branch.value, rel=1e-9, abs=1e-12
            )
            assert sum(child.paths for child in branch.below) == branch.paths
            for child in branch.below:
                check(child)

    for branch in branches:
        check(branch)
    assert sum(branch.value for branch in branches) + ex.remainder == pytest.approx(
        ex.total, rel=1e-9
    )
    assert sum(branch.paths for branch in branches) == len(ex.terms)


def test_bars_are_as_wide_as_their_part_of_the_largest():
    ex = expand(bilens.load("tinystories-1l").double(), "Once upon a time", max_terms=40)
    branches = _branches(list(ex.terms), 0, 2.0)
    assert [branch.width for branch in branches] == pytest.approx(
        [min(100, 50 * abs(branch.value)) for branch in branches]
    )
    sizes = [abs(branch.value) for branch in branches if "more" not in branch.label]
    assert sizes == sorted(sizes, reverse=True)
    assert len(branches) > 1


def test_a_panel_shows_the_expansion_of_its_token(tmp_path):
    model = bilens.load("tinystories-1l")
    (shown,) = sections(write_page(model, ["Once upon"], tmp_path), "paths")
    ids = model.read("Once upon")
    model = model.double()
    for n in range(ids.shape[1]):
        chances = model.outputs(ids[:, : n + 1])[-1].softmax(-1)
        found = expand(model, ids[:, : n + 1], int(chances.argmax()), max_terms=TERMS)
        token = shown["tokens"][n]
        assert token["target"] == found.target
        assert token["probability"] == pytest.approx(100 * float(chances.max()))
        assert token["total"] == pytest.approx(found.total)


def test_opaque_models_and_models_without_mlps_have_pages(tmp_path):
    for change in ({"hidden_act": "silu"}, {"intermediate_size": 0}, {"num_attention_heads": 0}):
        config = bilens.TransformerConfig(
            **({"vocab_size": 50, "hidden_size": 16, "intermediate_size": 8} | change)
        )
        page = write_page(bilens.Transformer(config), [[1, 2, 3]], tmp_path / next(iter(change)))
        assert page.broken == ()


def test_data_of_the_wrong_kind_are_refused(refuses, tmp_path):
    model = bilens.load("tinystories-1l")
    refuses(
        ArgumentError,
        lambda: write_page(model, load_images("digits"), tmp_path),
        "data must be prompts",
    )
    config = bilens.ClassifierConfig(input_shape=[8, 8], hidden_size=4, id2label={0: "a"})
    refuses(
        ArgumentError,
        lambda: write_page(bilens.Classifier(config), ["a"], tmp_path),
        "data must be images",
    )

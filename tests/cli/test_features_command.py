"""``bilens features`` and ``bilens rules``: the library's figures, and bad input before a model is
loaded.
"""

import dataclasses
import json
import shutil

import pytest
import torch

import bilens
from bilens.features import Dictionary, Texts, cofiring, examples, firing, interactions
from bilens.report.views import features
from bilens.training import save_tokenizer, train_tokenizer

D, F = 8, 12


def dictionary(hook):
    generator = torch.Generator().manual_seed(3)
    encoder, decoder = (torch.randn(shape, generator=generator) for shape in ((D, F), (F, D)))
    return Dictionary(encoder, decoder, torch.zeros(F), torch.zeros(D), hook=hook)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A model, a text, and a dictionary on either side of a layer."""
    folder = tmp_path_factory.mktemp("there")
    text = "\n<|endoftext|>\n".join(f"There were {n} cats and {n * n} dogs." for n in range(100))
    (folder / "text.txt").write_text(text)
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": D, "intermediate_size": 8, "num_hidden_layers": 2}
    config = bilens.TransformerConfig(**sizes, num_attention_heads=2, initializer_range=0.5)
    bilens.Transformer(config).save_pretrained(folder / "model")
    save_tokenizer(train_tokenizer(str(folder / "text.txt"), 300), folder / "model")
    for side in ("input", "output"):
        dictionary(f"layers.1.mlp.{side}").save(folder / side)
    return folder


def test_a_ranking(run, there):
    words = ("--dictionary", there / "input", "--data", there / "text.txt", "--tokens", 60)
    code, out, err = run("features", there / "model", *words, "--by", "largest", "-k", 5, "--json")
    assert code == 0, err
    document = json.loads(out)
    model, texts = bilens.load(there / "model"), Texts(str(there / "text.txt"), 60)
    found = firing(model, Dictionary.load(there / "input"), texts, by="largest")
    assert document["summary"] == found.summary()
    assert document["left_out"] == F - 5
    assert document["rows"] == found.rows()[:5]


def test_a_feature_and_the_pairs_that_make_it(run, there, tmp_path):
    words = ("--dictionary", there / "output", "--inputs", there / "input", "--tokens", 60)
    words = (*words, "--data", there / "text.txt", "--feature", 3, "-k", 4)
    code, out, err = run("features", there / "model", *words, "--json")
    assert code == 0, err
    names, shown, pairs, on_text = json.loads(out)
    model, texts = bilens.load(there / "model"), Texts(str(there / "text.txt"), 60)
    writes, reads = (Dictionary.load(there / side) for side in ("output", "input"))
    found = examples(model, writes, texts, 3, k=4)
    assert shown == {"summary": found.summary(), "rows": found.rows(), "left_out": 0}
    assert names["rows"][0]["which"] == found.latents[0].at.shares()
    form = interactions(
        model.blocks[1].mlp.tensor().detach(),
        writes,
        reads,
        in_names=firing(model, reads, texts).names,
    ).of(3)
    assert pairs["rows"] == form.top(4).rows()
    together = cofiring(model, reads, texts, where=(writes, 3))
    assert on_text["rows"] == form.top_on(together, 4).rows()
    code, out, err = run("features", there / "model", *words, "-o", tmp_path / "new")
    assert (code, "texts.html" in {file.name for file in (tmp_path / "new").iterdir()}) == (0, True)
    assert "kind\tactivation\tpassage\tnext\tp\tp without" in out
    kept = bilens.features.Examples.load(tmp_path / "new" / "examples.safetensors")
    assert kept.summary() == found.summary()
    assert "fires on" in (tmp_path / "new" / "texts.html").read_text()
    assert len((tmp_path / "new" / "pairs on text.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_pairs_of_dictionaries_in_another_dtype(run, there, tmp_path, dtype):
    """Which a command has no other way to change: they are put in the layer's."""
    words = ["--tokens", 60, "--data", there / "text.txt", "--feature", 3, "-k", 4]
    coders = {}
    for side in ("output", "input"):
        coders[side] = Dictionary.load(there / side).to(dtype)
        coders[side].save(tmp_path / side)
    given = ("--dictionary", tmp_path / "output", "--inputs", tmp_path / "input")
    code, out, err = run("features", there / "model", *given, *words, "--json")
    assert code == 0, err
    layer = bilens.load(there / "model").double().blocks[1].mlp.tensor().detach()
    q = torch.einsum("o,oij->ij", coders["output"].W_enc.double()[:, 3], layer.dense())
    W = coders["input"].W_dec.double()
    q = W @ (q + q.mT) / 2 @ W.mT
    c = 2 * q - q.diagonal().diag()
    largest = c[tuple(torch.triu_indices(F, F))].abs().topk(4).values
    got = [abs(row["coefficient"]) for row in json.loads(out)[2]["rows"]]
    assert got == pytest.approx(largest.tolist(), rel=1e-4)


def test_pairs_of_a_dictionary_that_names_no_place(run, there, tmp_path):
    """It is of the place that ``--at`` names, for the pairs too."""
    words = ("--tokens", 60, "--data", there / "text.txt", "--feature", 3, "-k", 4, "--json")
    words = ("--inputs", there / "input", *words)
    dataclasses.replace(Dictionary.load(there / "output"), hook="").save(tmp_path / "output")
    given = ("--dictionary", tmp_path / "output", "--at", "layers.1.mlp.output")
    code, out, err = run("features", there / "model", *given, *words)
    assert code == 0, err
    named = run("features", there / "model", "--dictionary", there / "output", *words)
    assert json.loads(out)[2:] == json.loads(named[1])[2:]


BAD = {
    "a latent": (("--feature", F), f"--feature must be a whole number from 0 to {F - 1}; got {F}."),
    "k": (("-k", 0), "-k must be a whole number ≥ 1; got 0."),
    "tokens": (("--tokens", 0), "--tokens must be a whole number ≥ 1; got 0."),
    "by": (("--by", "size"), "--by must be one of count, mean, largest; got 'size'."),
    "by of a feature": (("--by", "mean", "--feature", 1), "--by must be left out with --feature"),
    "inputs of a ranking": (("--inputs", "x"), "--inputs must be left out without --feature"),
    "a text": (("--data", "no/such.txt"), "no/such.txt must be"),
    "no dictionary": (("--dictionary", "no/such"), "no/such"),
    "inputs of a reader": (
        ("--feature", 1, "--inputs", "input"),
        "--inputs must come with a dictionary of what a layer writes; got one of mlp1.input.",
    ),
    "inputs of a writer": (
        ("--feature", 1, "--dictionary", "output", "--inputs", "output"),
        "--inputs must read mlp1.input; got mlp1.output.",
    ),
}


@pytest.mark.parametrize(("words", "said"), BAD.values(), ids=BAD)
def test_bad_input_before_a_model_is_loaded(run, there, monkeypatch, words, said):
    monkeypatch.chdir(there)
    given = {"--dictionary": "input", "--data": "text.txt"}
    others = [word for flag in given if flag not in words for word in (flag, given[flag])]
    code, out, err = run("features", "no/such/model", *others, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_rules(run, there, tmp_path):
    code, out, err = run("rules", there / "model", "-k", 3, "--json")
    assert code == 0, err
    found = bilens.circuits.rules(bilens.load(there / "model"), k=3)
    assert json.loads(out) == {"summary": found.summary(), "rows": found.rows(), "left_out": 0}
    code, out, err = run(
        "rules", there / "model", "-k", 2, "--skip", "L0H1", "-o", tmp_path / "new"
    )
    assert code == 0, err
    assert "token\t→ next\tvalue\t× RMS" in out
    assert "query\tkey\tvalue\t× RMS" in out
    assert len(list((tmp_path / "new").iterdir())) == 4


def test_rules_held_against_known_ones(run, there, tmp_path):
    file = tmp_path / "rules.json"
    file.write_text('{"bigram": {"1": {"2": 1}}}')
    code, out, err = run("rules", there / "model", "-k", 1, "--truth", file)
    assert code == 0, err
    assert "rule\tright\tof\tshare\tnats" in out
    assert "path\tbigram\tof_bigram" in out
    file.write_text('{"bigram": {"1": {"99999": 1}}}')
    code, out, err = run("rules", there / "model", "--truth", file)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "the known rules must fit the vocabulary" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-k", 0), "-k must be a whole number ≥ 1"),
        (("--path", "W_U mlp0(embed"), "must"),
        (("--skip", "L0H1("), "--skip must name a head"),
        (("--truth", "no/rules.json"), "no/rules.json must"),
    ],
    ids=["k", "path", "head", "truth"],
)
def test_bad_rules_before_a_model_is_loaded(run, words, said):
    code, out, err = run("rules", "no/such/model", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert "no/such/model" not in err


def test_a_page_fires_on_what_the_model_was_trained_on(run, there, tmp_path, monkeypatch):
    """Where that is still there; else on the text that is built in, and says so. The page names
    its text.
    """
    monkeypatch.setattr("bilens.report.writing.VIEWS", (features.VIEW,))
    monkeypatch.setattr("bilens.report.views.features.TOKENS", 60)
    folder, text = tmp_path / "model", there / "text.txt"
    shutil.copytree(there / "model", folder)
    words = ("report", folder, "-o", tmp_path / "page", "--dictionary", there / "input")
    for data, named, told in (
        (None, "topics", "what the model was trained on is not known: the dictionaries fire on"),
        (str(text), text, ""),
        ("no/such.txt", "topics", 'no/such.txt is not there: the dictionaries fire on the text "t'),
    ):
        if data is not None:
            (folder / "training.json").write_text(json.dumps({"data": data, "recipe": {}}))
        code, _, err = run(*words)
        assert (code, told in err, bool(err)) == (0, True, bool(told)), err
        page = (tmp_path / "page" / "index.html").read_text()
        assert f"on 60 tokens of {named}:" in page
    code, _, err = run(*words, "--data", text)
    assert (code, err) == (0, "")


def test_a_dictionary_of_another_model_is_told(run, there, tmp_path):
    made = dataclasses.replace(
        dictionary("layers.1.mlp.input"), meta={"metadata": {"model_name": "gpt2-small"}}
    )
    made.save(tmp_path / "other")
    told = "the dictionary says that it was made of gpt2-small, and this model is model"
    words = ("--dictionary", tmp_path / "other", "--data", there / "text.txt", "--tokens", 60)
    code, out, err = run("features", there / "model", *words)
    assert (code, told in out) == (0, True), err
    words = ("--prompt", "There were", "--dictionary", tmp_path / "other", "--json")
    code, out, err = run("expand", there / "model", *words)
    assert (code, told in err, err.count("\n")) == (0, True, 1), err

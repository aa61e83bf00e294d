"""``bilens train dictionary``: a table in the end; bad input is one line on stderr and exit 2."""

import shutil

import pytest
import torch

import bilens
from bilens.features import Dictionary
from bilens.training import read_about, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with a text, a language model (and one without its tokenizer) and a classifier."""
    folder = tmp_path_factory.mktemp("there")
    (folder / "text.txt").write_text(
        "\n<|endoftext|>\n".join(f"There were {n} cats and {n + 1} dogs." for n in range(200))
    )
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = bilens.TransformerConfig(**sizes, max_position_embeddings=16, vocab_size=300)
    bilens.Transformer(config).save_pretrained(folder / "mute")
    shutil.copytree(folder / "mute", folder / "model")
    save_tokenizer(train_tokenizer(str(folder / "text.txt"), 300), folder / "model")
    bilens.Classifier(bilens.ClassifierConfig()).save_pretrained(folder / "classifier")
    return folder


def train(there, output, model="model", at="layers.0.mlp.input", **options):
    options = {"data": there / "text.txt", "steps": 10, "batch-size": 64, "expansion": 2} | options
    if options.get("architecture", "batchtopk") in ("batchtopk", "topk"):
        options.setdefault("k", 4)
    flat = [
        word
        for name, value in options.items()
        for word in ("-k" if name == "k" else f"--{name}", value)
    ]
    return ("train", "dictionary", there / model, "--at", at, "-o", output, *flat)


@pytest.mark.parametrize("architecture", ["batchtopk", "topk", "jumprelu", "standard"])
def test_it_prints_what_the_dictionary_is_worth(architecture, run, there, tmp_path):
    penalty = {"sparsity": 0.01} if architecture in ("jumprelu", "standard") else {}
    code, out, err = run(
        *train(there, tmp_path / "new", architecture=architecture, seed=3, **penalty)
    )
    assert (code, err) == (0, "")
    assert "Held out" in out
    for name, value in read_about(tmp_path / "new")["figures"].items():
        assert name.split()[0] in out
        assert f"{value:.4g}"[:6] in out
    made = Dictionary.load(tmp_path / "new")
    assert made.architecture == {"batchtopk": "jumprelu"}.get(architecture, architecture)
    assert (made.n_latents, made.hook) == (32, "layers.0.mlp.input")
    assert read_about(tmp_path / "new")["recipe"]["seed"] == 3


def test_a_run_is_gone_on_with(run, there, tmp_path):
    command = train(there, tmp_path / "new")
    first = run(*command)
    assert run(*command, "--resume") == first
    code, out, err = run(*command)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Resume it to go on, or name another folder" in err


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"at": "layers.1.mlp.input"}, "place must be one of attn0.input, mlp0.input"),
        ({"at": "attn0.output"}, "place must be the output of an mlp"),
        ({"model": "mute"}, "the model must have a tokenizer beside it"),
        ({"model": "classifier"}, "MODEL must be a language model; got Classifier"),
        ({"model": "nowhere"}, "nowhere must be a model folder"),
        ({"data": "nowhere.txt"}, "nowhere.txt must be"),
        (
            {"architecture": "gated"},
            "architecture must be one of batchtopk, topk, jumprelu, standard",
        ),
        ({"steps": 0}, "steps must be a whole number ≥ 1"),
        ({"sparsity": "nan", "architecture": "standard"}, "sparsity must be a finite number"),
        ({"sparsity": 0.1}, "--sparsity must be left out with --architecture batchtopk"),
        (
            {"k": 3, "architecture": "standard"},
            "-k must be left out with --architecture standard; got '3'.",
        ),
        ({"seed": -1}, "--seed"),
    ],
)
def test_bad_input_is_one_line(changes, text, run, there, tmp_path):
    code, out, err = run(*train(there, tmp_path / "new", **changes))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert text in err
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use(run, there, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = run(*train(there, tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "must be a new or empty folder" in err

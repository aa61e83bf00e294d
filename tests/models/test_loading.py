"""``bilens.load``: equal outputs after saving, and one clear error for each thing that can be wrong with a folder."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

import bilens
from bilens import Classifier, ClassifierConfig
from bilens.base.errors import ConfigError, FileError, NotFiniteError


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ClassifierConfig(input_shape=[2, 3], hidden_size=4, id2label={0: "cat", 1: "dog"}, bias=True, residual=True)
    return Classifier(config).eval()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_outputs(model, tmp_path, dtype):
    model.to(dtype).save_pretrained(tmp_path)
    loaded, pixels = bilens.load(tmp_path), torch.rand(5, 2, 3).to(dtype)
    assert loaded.dtype == dtype
    assert not loaded.training
    assert loaded.config.labels == ("cat", "dog")
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)


def test_the_auto_class_loads_it_too(model, folder):
    pixels = torch.rand(5, 2, 3)
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)


def test_a_folder_that_is_not_there(refuses, tmp_path):
    refuses(
        FileError,
        lambda: bilens.load(tmp_path / "nope"),
        "nope must be a model folder, or one in the box (tinystories-1l, tinystories-2l); got nothing there",
    )


def test_no_config(refuses, folder):
    (folder / "config.json").unlink()
    refuses(FileError, lambda: bilens.load(folder), "must hold a config.json")


def test_a_config_that_is_no_json(refuses, folder):
    (folder / "config.json").write_text("{")
    refuses(FileError, lambda: bilens.load(folder), "config.json must be readable JSON")


def test_an_unknown_model_type(refuses, folder):
    rewrite(folder, model_type="resnet")
    refuses(
        ConfigError, lambda: bilens.load(folder), "model_type must be one of bilens_classifier, bilens_transformer, llama"
    )


def test_an_unknown_key(refuses, folder):
    rewrite(folder, gate="silu")
    refuses(ConfigError, lambda: bilens.load(folder), "ClassifierConfig.gate must be a key it knows")


def test_no_weights(refuses, folder):
    (folder / "model.safetensors").unlink()
    refuses(FileError, lambda: bilens.load(folder), "must hold model.safetensors")


def test_a_pickle_comes_with_the_command_that_converts_it(refuses, model, folder):
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    refuses(
        FileError, lambda: bilens.load(folder), "a pickle, which can run code", "Convert: python -c", "weights_only=True"
    )


def test_the_command_that_converts_a_pickle_works(model, folder):
    import shlex
    import subprocess
    import sys

    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(FileError) as caught:
        bilens.load(folder)
    command = shlex.split(caught.value.todo.removeprefix("Convert: "))
    subprocess.run([sys.executable, *command[1:]], check=True)
    pixels = torch.rand(5, 2, 3)
    assert torch.equal(bilens.load(folder)(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:50], lambda raw: b"", lambda raw: raw[:-20], lambda raw: b"\x80\x04" + raw]
)
def test_damaged_weights(refuses, folder, damage):
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    refuses(FileError, lambda: bilens.load(folder), "model.safetensors must be an undamaged safetensors file")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: w.pop("head.weight"), "head.weight must have shape (2, 4), as config.json says; got nothing"),
        (lambda w: w.update(extra=torch.zeros(3)), "extra must not be there; got (3,)"),
        (lambda w: w.update({"embed.weight": torch.zeros(4, 7)}), "embed.weight must have shape (4, 6)"),
    ],
)
def test_weights_that_do_not_fit_the_config(refuses, folder, change, text):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refuses(FileError, lambda: bilens.load(folder), text)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(refuses, model, tmp_path, bad):
    with torch.no_grad():
        model.layers[0].w1.weight[1, 2] = bad
    model.save_pretrained(tmp_path)
    refuses(NotFiniteError, lambda: bilens.load(tmp_path), "layers.0.w1.weight must be finite; got 1 NaN or infinite of 16")

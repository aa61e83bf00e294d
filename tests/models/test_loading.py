"""``bilens.load``: equal outputs after saving, and one clear error for each thing that can be wrong
with a folder.
"""

import json
import os
import time

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

import bilens
from bilens import Classifier, ClassifierConfig, Transformer, TransformerConfig
from bilens.base.errors import ConfigError, FileError, NotFiniteError
from bilens.wiring import model_name


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ClassifierConfig(
        input_shape=[2, 3], hidden_size=4, id2label={0: "cat", 1: "dog"}, bias=True, residual=True
    )
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
        "nope must be a model folder, or one in the box (tinystories-1l, tinystories-2l, "
        "tinystories-2l-gelu, tinystories-2l-swiglu); got",
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
        ConfigError,
        lambda: bilens.load(folder),
        "model_type must be one of bilens_classifier, bilens_transformer, gemma, gemma2",
    )


def test_an_unknown_key(refuses, folder):
    rewrite(folder, gate="silu")
    refuses(
        ConfigError, lambda: bilens.load(folder), "ClassifierConfig.gate must be a key it knows"
    )


def test_no_weights(refuses, folder):
    (folder / "model.safetensors").unlink()
    refuses(FileError, lambda: bilens.load(folder), "must hold model.safetensors")


def test_pickled_weights_are_read_and_nothing_else_is(model, folder, monkeypatch):
    """As training scripts save: nested, on a GPU, two names for one tensor."""
    (folder / "model.safetensors").unlink()
    weights = model.state_dict()
    weights["layers.0.w2.weight"] = weights["layers.0.w1.weight"]
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"model_state_dict": weights, "step": 3}, folder / "pytorch_model.bin")
    pixels, loaded = torch.rand(5, 2, 3), bilens.load(folder)
    loaded.layers[0].w2.weight.data[0, 0] += 1  # they are two here
    model.load_state_dict(weights)
    model.layers[0].w2.weight.data[0, 0] += 1
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:50], lambda raw: b"", lambda raw: raw[:-20], lambda raw: b"\x80\x04" + raw],
)
def test_damaged_weights(refuses, folder, damage):
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    refuses(
        FileError,
        lambda: bilens.load(folder),
        "model.safetensors must be an undamaged safetensors file",
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda w: w.pop("head.weight"),
            "head.weight must have shape (2, 4), as config.json says; got nothing",
        ),
        (lambda w: w.update(extra=torch.zeros(3)), "extra must not be there; got (3,)"),
        (
            lambda w: w.update({"embed.weight": torch.zeros(4, 7)}),
            "embed.weight must have shape (4, 6)",
        ),
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
    refuses(
        NotFiniteError,
        lambda: bilens.load(tmp_path),
        "layers.0.w1.weight must be finite; got 1 NaN or infinite of 16",
    )


NAN = float("nan")
SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
IN_BOTH = [
    ("hidden_size", "8"), ("hidden_size", 8.0), ("hidden_size", 2**31 - 1),
    ("hidden_size", 10**30), ("vocab_size", None),
    ("num_hidden_layers", 10**6), ("num_hidden_layers", True), ("head_dim", 2**31 - 2),
    ("head_dim", 0), ("head_dim", 3),
    ("num_key_value_heads", 0), ("num_key_value_heads", 3), ("num_attention_heads", -1),
    ("attention_bias", "no"),
    ("mlp_bias", 1), ("rms_norm_eps", NAN), ("rms_norm_eps", -1), ("rms_norm_eps", "1e-5"),
    ("initializer_range", NAN),
    ("initializer_range", -1), ("tie_word_embeddings", "yes"), ("use_cache", 3),
    ("hidden_act", "mish"),
    ("hidden_act", ["silu"]), ("dtype", "int8"), ("dtype", "Tensor"),
    ("torch_dtype", "float8_e4m3fn"), ("dtype", [1]),
    ("bos_token_id", 20), ("bos_token_id", -1), ("eos_token_id", [1, 99]), ("eos_token_id", []),
    ("eos_token_id", "1"),
    ("pad_token_id", 10**9), ("num_labels", 10**9), ("num_labels", "3"), ("id2label", [1]),
    ("max_position_embeddings", 0),
    ("quantization_config", {"bits": 4}), ("use_mrope", True), ("rope_interleaved", True),
    ("is_encoder_decoder", True),
    ("logit_softcap", 30.0), ("output_attentions", "x"), ("return_dict", False),
    ("rope_parameters", "linear"),
    ("rope_parameters", {"type": "linear"}), ("rope_parameters", {"rope_type": "linear",
        "factor": NAN}),
    ("rope_parameters", {"rope_type": "linear", "factor": "4"}),
    ("rope_parameters", {"factor": 4.0}),
    ("rope_parameters", {"rope_type": "yarn"}),
    ("rope_parameters", {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}),
    ("rope_parameters", {"rope_theta": NAN}),
    ("rope_parameters", {"rope_theta": -1.0}),
    ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 1.5}),
    ("rope_parameters", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
        "high_freq_factor": 4.0}),
    ("rope_scaling", {"type": "dynamic"}), ("rope_scaling", {"type": "linear"}),
]  # fmt: skip
ALONE = [
    ("gated", 1),
    ("norm", "batch"),
    ("positions", 3),
    ("folded", "no"),
    ("qk_norm", None),
    ("model_type", ["llama"]),
]


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A folder of each kind of language model."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("llama", "bilens")}
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folders["llama"])
    Transformer(TransformerConfig(**SIZES)).save_pretrained(folders["bilens"])
    return folders


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [*(("llama", *case) for case in IN_BOTH), *(("bilens", *case) for case in IN_BOTH + ALONE)],
    ids=lambda value: str(value)[:30],
)
def test_each_value_of_a_config_is_checked(language, tmp_path, kind, key, value):
    """One error that names the file and what is wrong in it, before anything large is made."""
    for file in language[kind].iterdir():
        os.link(file, tmp_path / file.name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    begun = time.process_time()
    with pytest.raises((ConfigError, FileError)) as caught:
        bilens.load(tmp_path)
    assert time.process_time() - begun < 2
    text = str(caught.value)
    assert text.startswith(str(tmp_path))
    assert "\n" not in text
    assert key in text.replace(
        "rope_parameters", "rope_scaling" if key == "rope_scaling" else "rope_parameters"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 10**9), ("num_hidden_layers", 10**6), ("num_labels", 10**9),
        ("input_shape", [10**9, 10**9]),
        ("input_noise", NAN), ("bias", "no"), ("id2label", {"0": "a", "7": "b"}),
        ("id2label", {"x": "a"}),
        ("residual", 1), ("dtype", "float17"), ("is_encoder_decoder", True),
        ("quantization_config", {}),
    ],
    ids=str,
)  # fmt: skip
def test_each_value_of_a_classifier_is_checked(folder, key, value):
    rewrite(folder, **{key: value})
    begun = time.process_time()
    with pytest.raises((ConfigError, FileError)) as caught:
        bilens.load(folder)
    assert time.process_time() - begun < 2
    assert str(caught.value).startswith(str(folder))


@pytest.fixture
def shards(language, tmp_path):
    bilens.load(language["bilens"]).save_pretrained(tmp_path / "in", max_shard_size="1KB")
    return tmp_path / "in"


def name_shard(folder, name):
    """The index with its first weight in shard ``name``."""
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    first = min(index["weight_map"])
    before = index["weight_map"][first]
    index["weight_map"] |= {
        key: name for key, shard in index["weight_map"].items() if shard == before
    }
    file.write_text(json.dumps(index))
    return before


@pytest.mark.parametrize(
    "name",
    ["../out/x.safetensors", "{}/out/x.safetensors", "in/x.safetensors", "", ".", "..", "a\\b"],
)
def test_an_index_stays_in_its_folder(refuses, shards, tmp_path, name):
    (tmp_path / "out").mkdir()
    before = name_shard(shards, name.format(tmp_path))
    os.link(shards / before, tmp_path / "out" / "x.safetensors")
    refuses(FileError, lambda: bilens.load(shards), "weight_map must name files in its own folder")


def test_a_link_does_not_lead_out_of_the_folder(refuses, shards, tmp_path):
    before = name_shard(shards, "linked.safetensors")
    (shards / before).rename(tmp_path / "elsewhere.safetensors")
    (shards / "linked.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    refuses(FileError, lambda: bilens.load(shards), "linked.safetensors must lie in its own folder")


def test_a_hub_that_may_not_be_asked(refuses, monkeypatch):
    def fails(name, allow_patterns):
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr("bilens.models.loading.snapshot_download", fails)
    for told, text in (
        (True, "was not asked. To ask the hub, set"),
        (False, "did not give it (Local"),
    ):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", told)
        refuses(FileError, lambda: bilens.load("owner/name"), f"and the Hugging Face hub {text}")


def test_the_hubs_cache_links_to_its_own_blobs(shards, tmp_path):
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "rev").mkdir(parents=True)
    for file in shards.iterdir():
        file.rename(cache / "blobs" / file.name)
        (cache / "snapshots" / "rev" / file.name).symlink_to(f"../../blobs/{file.name}")
    assert bilens.load(cache / "snapshots" / "rev").config.vocab_size == 20


@pytest.mark.parametrize(
    ("weight_map", "text"),
    [
        ([], "weight_map must be an object"),
        ({}, "weight_map must be an object"),
        ({"lm_head.weight": 3}, "weight_map must be an object of file names"),
        (
            {"lm_head.weight": "model-00099.safetensors"},
            "model-00099.safetensors must be a file; got nothing there",
        ),
        ({"lm_head.weight": "a\0b"}, "must be a file"),
    ],
    ids=str,
)
def test_a_damaged_index(refuses, shards, weight_map, text):
    rewrite_index = shards / "model.safetensors.index.json"
    rewrite_index.write_text(json.dumps({"weight_map": weight_map}))
    refuses(FileError, lambda: bilens.load(shards), text)


def test_an_index_that_does_not_say_what_its_shards_hold(refuses, shards):
    file = shards / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    held = index["weight_map"].pop("lm_head.weight")
    file.write_text(json.dumps(index))
    if held in index["weight_map"].values():
        refuses(FileError, lambda: bilens.load(shards), "must say where lm_head.weight is")
    else:
        refuses(FileError, lambda: bilens.load(shards), "lm_head.weight must have shape (20, 8)")


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str
)
def test_weights_that_are_no_plain_numbers(refuses, language, tmp_path, dtype):
    for kind, folder in language.items():
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"].to(dtype)
        made = tmp_path / kind
        made.mkdir()
        save_file(weights, made / "model.safetensors")
        (made / "config.json").write_text((folder / "config.json").read_text())
        refuses(
            FileError,
            lambda: bilens.load(made),  # noqa: B023
            "model.norm.weight must be of type F64",
            "Convert its weights",
        )


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("tokenizer.json", "{", "tokenizer.json must be readable JSON"),
        ("tokenizer.json", "{}", "tokenizer.json must be a readable tokenizer"),
        ("tokenizer.json", '{"a":' * 10**5, "tokenizer.json must be readable JSON; got nesting"),
        (
            "tokenizer.model",
            "x",
            "tokenizer.model must be a readable tokenizer; got tokenizer.model alone. Install",
        ),
        ("vocab.json", '{"a": 0}', "vocab.json must be a readable tokenizer"),
        ("merges.txt", "", "merges.txt must hold a part of a tokenizer; got nothing in it"),
        ("generation_config.json", "[]", "generation_config.json must be a JSON object"),
        (
            "generation_config.json",
            '{"eos_token_id": [1, 999]}',
            "generation_config.json: eos_token_id must be a token",
        ),
    ],
)
def test_what_lies_beside_a_model_is_read_or_refused(
    refuses, language, tmp_path, name, content, text
):
    for file in language["bilens"].iterdir():
        if file.name != name:
            os.link(file, tmp_path / file.name)
    (tmp_path / name).write_text(content)
    kind = ConfigError if "eos_token_id" in content else FileError
    refuses(kind, lambda: bilens.load(tmp_path), text)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "merges.txt", "generation_config.json"],
)
def test_a_pipe_is_not_waited_for(refuses, language, tmp_path, name):
    for file in language["bilens"].iterdir():
        if file.name != name:
            os.link(file, tmp_path / file.name)
    os.mkfifo(tmp_path / name)
    refuses(FileError, lambda: bilens.load(tmp_path), f"{name} must be a file")


def test_no_code_of_a_folder_is_run(language, tmp_path):
    """auto_map names code in the folder; transformers would ask whether to run it, and wait."""
    for file in language["llama"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    rewrite(tmp_path, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (tmp_path / "evil.py").write_text("raise SystemExit(9)")
    assert bilens.load(tmp_path).config.hidden_act == "silu"


def test_a_config_of_another_family_is_not_read_by_ours(refuses, language):
    text = (
        "TransformerConfig.model_type must be 'bilens_transformer'; got 'llama'. bilens.load reads"
    )
    refuses(ConfigError, lambda: TransformerConfig.from_pretrained(language["llama"]), text)


@pytest.mark.parametrize("heads", [0, 2])
def test_a_model_without_layers_is_loaded_again(tmp_path, heads):
    config = TransformerConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=0, num_attention_heads=heads
    )
    model = Transformer(config)
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 2]])
    assert torch.equal(bilens.load(tmp_path)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("base", [0, 0.0, -1.0])
@pytest.mark.parametrize("where", ["rope_parameters", "rope_theta"])
def test_a_base_of_no_turns_is_refused_not_replaced(base, where, refuses):
    given = {"rope_theta": base} if where == "rope_theta" else {where: {"rope_theta": base}}
    refuses(ConfigError, lambda: TransformerConfig(**given), "rope_theta must be")


def test_a_model_says_what_it_was_read_from(model, folder, tmp_path, monkeypatch):
    """As transformers has it; what is written again does not hold it."""
    found = bilens.load(folder)
    assert found.name_or_path == str(folder)
    found.save_pretrained(tmp_path / "again")
    assert str(folder) not in (tmp_path / "again" / "config.json").read_text()
    monkeypatch.chdir(tmp_path / "again")
    assert model_name(bilens.load(".")) == "again"
    assert model_name(bilens.load("tinystories-1l")) == "tinystories-1l"
    assert model_name(model_name) == ""


def test_what_is_made_of_a_model_is_called_as_it_is(tmp_path):
    sizes = {"vocab_size": 9, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1}
    folder = tmp_path / "model"
    Transformer(TransformerConfig(**sizes, num_attention_heads=2)).save_pretrained(folder)
    found = bilens.load(folder)
    found.to_llama().save_pretrained(tmp_path / "llama")
    assert str(folder) not in (tmp_path / "llama" / "config.json").read_text()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    made = found.folded(), found.to_llama()
    assert [one.name_or_path for one in made] == [str(folder)] * 2
    made = Transformer.from_llama(theirs), bilens.models.from_transformers(theirs)
    assert [model_name(one) for one in made] == ["llama"] * 2
    gated = bilens.load("tinystories-2l-swiglu")
    assert model_name(bilens.models.bilinear_frame(gated)) == ""  # which is another model

"""Every door carries everything: stock transformers' own model on the same folder is the truth of
each.

A folder as transformers writes it, with one property that is easily lost, goes through each way in
and out.
"""

import copy
import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import bilens
from bilens import Transformer, TransformerConfig
from bilens.base.errors import FileError
from bilens.cli.commands.convert import write_as

WEIGHTS = "model.safetensors"
TEXT = "the thing λ"
LINEAR = {"type": "linear", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
"high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip


def llama(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 270,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "hidden_act": "silu",
    }
    heads = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    model = LlamaForCausalLM(LlamaConfig(**(sizes | heads | changes))).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # all of them one would hide a norm that is lost
                weight.add_(torch.rand_like(weight))
    return model.to(dtype)


def words(holes=False):
    """Byte-level BPE with two merges; with holes the last ids are not the next."""
    vocabulary = {byte: n for n, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {"th": 268 if holes else 256, "the": 262 if holes else 257, "<|endoftext|>": 258}
    made = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e")]))
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|endoftext|>", chat_template="{{ messages }}"
    )


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def plain(folder, **changes):
    llama(**changes).save_pretrained(folder)


def named_tied(folder):
    plain(folder)
    edit(folder / "config.json", tie_word_embeddings=True)


def only_head(folder):
    plain(folder, tie_word_embeddings=True)
    weights = load_file(folder / WEIGHTS)
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def old_keys(folder):
    """As published before transformers 5, with what others add."""
    plain(folder)
    raw = json.loads((folder / "config.json").read_text())
    del raw["rope_parameters"]
    raw |= {
        "rope_theta": 5e5,
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "torch_dtype": "float32",
    }
    raw |= {
        "_model_name_or_path": "x",
        "unk_token_id": 0,
        "use_mrope": False,
        "is_llama_config": True,
        "auto_map": {},
    }
    raw |= {
        "rope_interleaved": False,
        "unsloth_fixed": True,
        "transformers.js_config": {"dtype": "q4"},
        "temperature": 0.5,
    }
    (folder / "config.json").write_text(json.dumps(raw))


def old_buffers(folder):
    """As saved by transformers 4.30: RoPE's frequencies beside the weights, in another type."""
    plain(folder, dtype=torch.bfloat16)
    weights = load_file(folder / WEIGHTS) | {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def sampled(folder):
    plain(folder)
    edit(
        folder / "generation_config.json",
        eos_token_id=[2, 7],
        do_sample=True,
        temperature=0.6,
        top_k=9,
    )


def holed(folder):
    plain(folder)
    words(holes=True).save_pretrained(folder)


def two_files(folder):
    plain(folder)
    words().backend_tokenizer.model.save(str(folder))


def sharded(folder):
    llama().save_pretrained(folder, max_shard_size="10KB")


FOLDERS = {
    "bf16": lambda folder: plain(folder, dtype=torch.bfloat16),
    "tied": lambda folder: plain(folder, tie_word_embeddings=True),
    "tied in name only": named_tied,
    "tied, the other name": only_head,
    "sharded": sharded,
    "llama3": lambda folder: plain(folder, rope_parameters=dict(LLAMA3)),
    "linear": lambda folder: plain(folder, rope_parameters=dict(LINEAR)),
    "old keys": old_keys,
    "old buffers": old_buffers,
    "generation": sampled,
    "holes": holed,
    "two files": two_files,
}


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    return folder


def converted(folder, out, to):
    write_as(folder, out, to)
    return out


DOORS = {
    "load": lambda folder, out: bilens.load(folder),
    "from_llama": lambda folder, out: Transformer.from_llama(
        AutoModelForCausalLM.from_pretrained(folder)
    ),
    "to_llama": lambda folder, out: bilens.load(folder).to_llama(),
    "folded": lambda folder, out: bilens.load(folder).folded(),
    "shards": lambda folder, out: bilens.load(
        saved(bilens.load(folder), out, max_shard_size="10KB")
    ),
    "from_pretrained": lambda folder, out: Transformer.from_pretrained(
        saved(bilens.load(folder), out)
    ),
    "convert": lambda folder, out: bilens.load(converted(folder, out, "bilens")),
    "convert to llama": lambda folder, out: bilens.load(converted(folder, out, "llama")),
    "stock of convert": lambda folder, out: AutoModelForCausalLM.from_pretrained(
        converted(folder, out, "llama")
    ),
}


@pytest.fixture(scope="module", params=FOLDERS)
def given(request, tmp_path_factory):
    """A folder, and what stock transformers makes of it."""
    folder = tmp_path_factory.mktemp("given")
    FOLDERS[request.param](folder)
    stock = AutoModelForCausalLM.from_pretrained(folder)
    return request.param, folder, stock, _logits(stock)


@pytest.mark.filterwarnings("ignore:tie_word_embeddings")
@pytest.mark.parametrize("door", DOORS)
def test_a_door_keeps(given, door, tmp_path):
    name, folder, stock, truth = given
    made = DOORS[door](folder, tmp_path / "out")
    # which holds products of half types exactly
    dtype = torch.float32 if door == "folded" else stock.dtype
    assert {parameter.dtype for parameter in made.parameters()} == {dtype}
    _require_close(_logits(made), truth)
    for key in ("eos_token_id", "do_sample", "temperature", "top_k", "bos_token_id"):
        assert getattr(made.generation_config, key) == getattr(stock.generation_config, key)
    tied = name in ("tied", "tied, the other name") and door != "folded"
    assert (made.get_input_embeddings().weight is made.get_output_embeddings().weight) == tied
    assert made.config.tie_word_embeddings == tied or door == "stock of convert"
    if name in ("holes", "two files") and "from" not in door and "stock" not in door:
        assert made.tokenizer(TEXT)["input_ids"] == words(name == "holes")(TEXT)["input_ids"]
        assert made.tokenizer.get_vocab() == words(name == "holes").get_vocab()


@torch.no_grad()
def _logits(model):
    """In float64, so that weights of half types are compared and not the order of their sums."""
    ids = torch.randint(0, 270, (2, 40), generator=torch.Generator().manual_seed(1))
    return copy.deepcopy(model).double()(ids).logits


def _require_close(made, truth, limit=1e-5):  # stock norms round to float32
    assert float((made - truth).abs().max() / truth.abs().max()) < limit


def test_the_truth_is_not_the_same_without_what_is_kept(tmp_path):
    """The properties above change logits: a door that lost one would be seen."""
    base, ids = llama(), torch.arange(40)[None]
    for changes in (
        {"rope_parameters": dict(LINEAR)},
        {"rope_parameters": dict(LLAMA3)},
        {"tie_word_embeddings": True},
    ):
        assert not torch.allclose(llama(**changes)(ids).logits, base(ids).logits, atol=0.1)


@pytest.mark.parametrize("form", ["bf16", "sharded", "tokenizer"])
def test_the_dooms_door_too(tmp_path, form):
    from tests.models.families.test_dooms import CONFIG, dooms_forward, dooms_weights

    config = CONFIG | {"bilinear": True}
    weights = {name: value.bfloat16() for name, value in dooms_weights(config, 270).items()}
    names = sorted(weights)
    shards = (
        {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        if form == "sharded"
        else {WEIGHTS: names}
    )
    for file, held in shards.items():
        save_file({name: weights[name] for name in held}, tmp_path / file)
    if form == "sharded":
        index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
        (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(config))
    if form == "tokenizer":
        words(holes=True).save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    model = bilens.load(converted(tmp_path, tmp_path / "out", "bilens"))
    assert model.dtype == torch.bfloat16
    ids = torch.arange(12)
    exact = {name: value.double() for name, value in weights.items()}
    with torch.no_grad():  # o_proj times 1/2 is exact in bfloat16
        _require_close(model.double()(ids[None]).logits[0], dooms_forward(exact, config, ids))
    if form == "tokenizer":
        assert model.generation_config.eos_token_id == [3, 4]
        assert model.tokenizer(TEXT)["input_ids"] == words(True)(TEXT)["input_ids"]


def test_weights_of_several_types_are_widened_and_that_is_said(tmp_path):
    plain(tmp_path)
    truth = load_file(tmp_path / WEIGHTS)
    mixed = {name: value if "norm" in name else value.bfloat16() for name, value in truth.items()}
    save_file(mixed, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="bfloat16 and float32: all became float32"):
        model = bilens.load(tmp_path)
    assert all(
        torch.equal(value, mixed[name].float()) for name, value in model.state_dict().items()
    )


def test_tied_in_name_only_is_said_and_written_as_it_is(tmp_path):
    named_tied(tmp_path)
    with pytest.warns(UserWarning, match="they are not tied"):
        model = bilens.load(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = bilens.load(saved(model, tmp_path / "again"))
    assert not again.config.tie_word_embeddings
    assert torch.equal(again.W_E, load_file(tmp_path / WEIGHTS)["model.embed_tokens.weight"])


def test_a_live_model_tied_in_name_only():
    stock = llama(tie_word_embeddings=True)
    stock.lm_head.weight = torch.nn.Parameter(stock.lm_head.weight.detach() + 1)
    with pytest.warns(UserWarning, match="they are not tied"):
        made = Transformer.from_llama(stock)
    _require_close(_logits(made), _logits(stock))
    made.config.tie_word_embeddings = True
    with pytest.warns(UserWarning, match="they are not tied"):
        _require_close(_logits(made.to_llama()), _logits(stock))


def test_doors_copy(tmp_path):
    """What was made does not change with what it was made from."""
    stock = llama()
    made = Transformer.from_llama(stock)
    back = made.to_llama()
    stock.generation_config.eos_token_id = 5
    with torch.no_grad():
        for parameter in [*stock.parameters(), *made.parameters()]:
            parameter.zero_()
    assert made.generation_config.eos_token_id != 5
    assert all(parameter.abs().max() > 0 for parameter in back.parameters())


@pytest.mark.parametrize("to", ["bilens", "llama"])
def test_a_converted_tokenizer_is_stocks(tmp_path, to):
    holed(tmp_path / "given")
    out = converted(tmp_path / "given", tmp_path / "out", to)
    stock = AutoTokenizer.from_pretrained(out)
    assert stock(TEXT)["input_ids"] == words(holes=True)(TEXT)["input_ids"]
    assert stock.chat_template == "{{ messages }}"


def test_after_training_with_stretched_positions(tmp_path):
    from bilens.training import TextRecipe, train_language

    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    recipe = TextRecipe(
        sizes | {"max_position_embeddings": 32, "rope_parameters": dict(LLAMA3)},
        vocab_size=300,
        steps=2,
        batch_size=2,
    )
    (tmp_path / "text.txt").write_text("One day a dog saw a cat.\n\n" * 400)
    trained = train_language(str(tmp_path / "text.txt"), tmp_path / "run", recipe, quiet=True)
    ids = torch.arange(20)[None]
    assert torch.equal(bilens.load(tmp_path / "run")(ids).logits, trained.eval()(ids).logits)
    out = converted(tmp_path / "run", tmp_path / "llama", "llama")
    stock = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(stock(ids).logits, trained(ids).logits, rtol=1e-5, atol=1e-5)


REAL = "BILENS_REAL_MODEL"  # a folder with a published Llama-family model, SmolLM2-135M for one


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no folder of a published model")
def test_a_published_model_has_stocks_logits():
    folder = os.environ[REAL]
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = bilens.load(folder).float()
    ids = model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        _require_close(model(ids).logits, stock(ids).logits)
    ends = stock.generation_config.eos_token_id
    assert model.generation_config.eos_token_id == ends


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
@pytest.mark.parametrize("fails", ["settings", "reading back", "disk"])
def test_a_conversion_that_fails_leaves_nothing(refuses, tmp_path, monkeypatch, fails, there):
    plain(tmp_path / "given")
    if fails == "settings":  # transformers loads these, and refuses to save them
        edit(tmp_path / "given" / "generation_config.json", temperature=0.6)
    elif fails == "reading back":
        monkeypatch.setattr(torch, "equal", lambda one, other: False)
    else:
        monkeypatch.setattr(Transformer, "save_pretrained", _no_space)
    if there:
        (tmp_path / "out").mkdir()
    before = sorted(tmp_path.iterdir())
    refuses(
        FileError,
        lambda: write_as(tmp_path / "given", tmp_path / "out", "bilens"),
        f"{tmp_path / 'out'}",
    )
    assert sorted(tmp_path.iterdir()) == before
    assert not there or not any((tmp_path / "out").iterdir())


def _no_space(self, folder, **options):
    (Path(folder) / "config.json").write_text("half")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "given", [{"rope_parameters": dict(LINEAR)}, {"rope_scaling": dict(LINEAR), "rope_theta": 5e5}]
)
def test_old_names_of_stretched_positions(given):
    config = TransformerConfig(vocab_size=9, hidden_size=8, **given)
    theta = given.get("rope_theta", 1e4)
    assert config.rope_parameters == {"rope_type": "linear", "rope_theta": theta, "factor": 4.0}

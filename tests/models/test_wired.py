"""What a model reads of what a person passes, and how its tokens are named, on three kinds of
tokenizers.
"""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bilens import Transformer, TransformerConfig
from bilens.base.errors import ArgumentError, ShapeError
from bilens.models import activations, mlp_inputs
from bilens.wiring import Prompt
from tests.tokenizers_made import byte_level, llama_like, metaspace

KINDS = {"byte-level": byte_level, "▁, bytes": llama_like, "▁, unigram": metaspace}
TEXT = "Once upon a girl"


def reading(tokenizer, positions="rope", **given):
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=320, hidden_size=8, intermediate_size=6, num_hidden_layers=2,
        num_attention_heads=2,
        positions=positions, max_position_embeddings=40, initializer_range=0.5, **given,
    )  # fmt: skip
    model = Transformer(config).double().eval()
    model.tokenizer = tokenizer
    return model


@pytest.fixture(scope="module", params=KINDS, ids=str)
def model(request):
    return reading(KINDS[request.param]())


def test_a_text_is_read_as_the_tokenizer_reads_it(model):
    told = model.tokenizer(TEXT, return_tensors="pt")
    assert torch.equal(model.read(TEXT), told["input_ids"])
    assert torch.equal(model.outputs(model.read(TEXT)), model(**told).logits[0].detach())
    assert model.input_names(model.read(TEXT))[0] == "<s>"
    plain = model.read(Prompt(TEXT, special_tokens=False))
    assert torch.equal(plain, told["input_ids"][:, 1:])
    assert torch.equal(model.read(Prompt(TEXT)), model.read(TEXT))
    assert model.read("").tolist() == [[1]]  # BOS alone is what model(**tokenizer("")) reads


def test_an_end_that_the_tokenizer_adds_is_read_and_shown():
    model = reading(byte_level("both"))
    assert model.input_names(model.read("a girl")) == ["<s>", "a", "␣girl", "</s>"]
    assert model.input_names(model.read(Prompt("a girl", False))) == ["a", "␣girl"]


def test_what_was_written_is_told(model):
    for text in (TEXT, "girl", "a girl\n a", " a  girl", "née – 🙂"):
        try:
            ids = model.read(text)
        except ArgumentError:
            continue  # not all tokenizers know it
        leading = model.tokenizer.decode(ids[0], skip_special_tokens=True)
        assert model.text(ids) == leading
        if not text.startswith(" "):
            assert model.text(ids) == text


def test_no_two_tokens_have_one_name(model):
    every = range(model.config.vocab_size)
    names = model.output_names(every)
    assert len(set(names)) == len(names)
    assert [model.output_index(name) for name in names] == list(every)
    assert all(name.isprintable() and " " not in name for name in names)


def test_a_space_in_front_is_part_of_a_token(model):
    """Two tokens, two names, and each is found by its own text."""
    ids = model.tokenizer("the girl", add_special_tokens=False)["input_ids"]
    assert "".join(model.output_names(ids)).lstrip("␣").startswith("the␣gir")
    if len(model.tokenizer(" girl", add_special_tokens=False)["input_ids"]) == 1:
        assert model.output_names([model.output_index(" girl")]) == ["␣girl"]


def test_names_of_a_llama_like_tokenizer():
    model = reading(llama_like())
    tokens = model.tokenizer.convert_tokens_to_ids(
        ["girl", "▁girl", "<0x0A>", "<0x61>", "a", "▁a", "<0xC3>", "<s>"]
    )
    names = ["girl", "␣girl", "⏎", "<0x61>", "a", "␣a", "<0xC3>", "<s>"]
    assert model.output_names(tokens) == names
    texts = ["girl", " girl", "\n", "<0x61>", "a", " a", "<0xC3>", "<s>"]
    assert [model.output_index(text) for text in texts] == tokens
    assert [model.output_index(name) for name in names] == tokens


def test_tokens_of_a_tokenizer_of_whole_words():
    """Without a decoder, words are what they are; an id beyond the vocabulary has a number
    alone.
    """
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "girl": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = reading(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"))
    assert model.output_names([1, 2, 300]) == ["a", "girl", "#300"]
    assert model.read("a girl").tolist() == [[1, 2]]
    assert model.output_index("girl") == 2


def test_a_special_token_that_stands_for_the_unknown_too(refuses):
    """GPT-2's convention: one token begins, ends and is unknown; a text that names it is no unknown
    text.
    """
    made = byte_level()
    same = PreTrainedTokenizerFast(
        tokenizer_object=made.backend_tokenizer,
        unk_token="<s>",
        bos_token="<s>",
        eos_token="<s>",
        pad_token="<s>",
    )
    model = reading(same)
    assert model.read("a<s> girl")[0].tolist() == same("a<s> girl")["input_ids"]
    words = reading(metaspace())
    refuses(ArgumentError, lambda: words.read("girl ξ"), "must be made of what the tokenizer knows")


@pytest.mark.parametrize("positions", ["rope", "learned"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_text(side, positions):
    model = reading(byte_level(), positions)
    model.tokenizer.padding_side = side
    texts = ["Once upon a time there was a girl.", "a girl", "girl"]
    padded = model.tokenizer(texts, padding=True, return_tensors="pt")
    for n, text in enumerate(texts):
        row = {name: value[n] for name, value in padded.items()}
        assert torch.equal(model.read(row), model.read(text))
        assert torch.equal(model.read((row["input_ids"], row["attention_mask"])), model.read(text))
    for place in ("mlp1.input", "mlp0.output", "attn1.input"):
        alone = torch.cat([*activations(model, [model.read(text) for text in texts], place)])
        batches = (
            [padded],
            [(padded["input_ids"], padded["attention_mask"])],
            [padded["input_ids"].tolist()[0], *texts],
        )
        for batch in batches[:2]:
            torch.testing.assert_close(
                torch.cat([*activations(model, batch, place)]), alone, rtol=1e-10, atol=1e-12
            )
    # without a mask all is text
    (everything,) = activations(model, [padded["input_ids"]], "mlp1.input")
    assert len(everything) == padded["input_ids"].numel()


@pytest.mark.parametrize(("held", "passes"), [(2**28, 2), (1, 4)], ids=["at once", "one by one"])
def test_what_all_mlps_read_is_heard_in_one_pass(held, passes):
    model = reading(byte_level(), "rope")
    ids, seen = torch.arange(24).reshape(4, 6).split(2), []
    model.model.embed_tokens.register_forward_hook(lambda *_: seen.append(1))
    found = dict(mlp_inputs(model, ids, [1, 0], held))
    assert len(seen) == passes
    assert list(found) == [1, 0]
    for n, batches in found.items():
        for rows, truth in zip(batches, activations(model, ids, f"mlp{n}.input"), strict=True):
            assert torch.equal(rows, truth)


def test_what_a_tokenizer_returns_is_read():
    model = reading(byte_level())
    told = model.tokenizer(TEXT, return_token_type_ids=True, return_special_tokens_mask=True)
    assert torch.equal(model.read(told), model.read(TEXT))
    ids = told["input_ids"]
    for same in (
        ids,
        tuple(ids),
        [ids],
        np.array(ids),
        torch.tensor(ids, dtype=torch.int32)[None],
        {"input_ids": ids},
    ):
        assert torch.equal(model.read(same), model.read(TEXT))
    where = torch.arange(len(ids))
    assert torch.equal(model.read({"input_ids": ids, "position_ids": where}), model.read(TEXT))


BAD = {
    "texts": (["a", "girl"], "got a list of texts"),
    "chat": (
        [{"role": "user", "content": "a"}],
        "got chat messages. ids = tokenizer.apply_chat_template(messages",
    ),
    "ragged": ([[1, 2], [3]], "must be one text, or its token ids (t,); got list"),
    "nothing": (None, "must be one text, or its token ids (t,); got NoneType"),
    "set": ({1, 2}, "must be one text, or its token ids (t,); got set"),
    "bytes": (b"a", "must be one text, or its token ids (t,)"),
    "huge": ([2**70], "must be one text, or its token ids (t,); got list"),
    "beyond": ([320], "inputs must be tokens 0 … 319; got 320"),
    "negative": ([3, -1], "inputs must be tokens 0 … 319; got -1"),
    "bool": (torch.tensor([True]), "got torch.bool (1,)"),
    "scalar": (torch.tensor(3), "got torch.int64 ()"),
    "one number": (3, "got torch.int64 ()"),
    "float": ([1.0, 2.0], "got torch.float32 (2,)"),
    "complex": (torch.tensor([1j]), "got torch.complex64 (1,)"),
    "two texts": (torch.ones(2, 3, dtype=torch.int64), "got torch.int64 (2, 3)"),
    "deep": ([[[1]]], "got torch.int64 (1, 1, 1)"),
    "empty": ([], "must hold at least one token"),
    "no ids": ({"labels": [1]}, "inputs must hold input_ids; got labels"),
    "unread key": (
        {"input_ids": [1], "labels": [1]},
        "inputs['labels'] must be one of attention_mask, input_ids",
    ),
    "mask of another shape": (
        {"input_ids": [1, 2], "attention_mask": [1]},
        "attention_mask must be 0 and 1, (1, 2)",
    ),
    "mask of other values": (
        {"input_ids": [1, 2], "attention_mask": [1, 3]},
        "attention_mask must be 0 and 1",
    ),
    "mask with a hole": (
        {"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]},
        "got a hole between tokens",
    ),
    "padding alone": (
        {"input_ids": [1, 2], "attention_mask": [0, 0]},
        "must hold at least one token; got padding alone",
    ),
    "other positions": (
        {"input_ids": [1, 2], "position_ids": [4, 5]},
        "must count the tokens from 0",
    ),
    "meta": (
        torch.ones(3, dtype=torch.int64, device="meta"),
        "must be a dense tensor that holds its values",
    ),
    "sparse": (
        torch.ones(3, dtype=torch.int64).to_sparse(),
        "must be a dense tensor that holds its values",
    ),
    "half a surrogate": (
        "a \ud83d girl",
        "the text must be Unicode text; got half a surrogate pair at character 2",
    ),
    "prompt of no text": (lambda: Prompt(["a"]), "the text must be text; got list"),
    "no tokens": (Prompt("", special_tokens=False), "must hold at least one token"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.bad_input
def test_what_cannot_be_read_is_refused_in_one_line(name):
    given, text = BAD[name]
    model = reading(byte_level())
    with pytest.raises(ArgumentError) as caught:
        model.read(given() if callable(given) else given)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_batches_that_are_none_are_refused(refuses):
    model = reading(byte_level())
    told = model.tokenizer([TEXT], return_tensors="pt")
    for given, kind, text in (
        (told, ArgumentError, "a batch must be token ids; got a text or key, 'input_ids'"),
        ([TEXT], ArgumentError, "a batch must be token ids"),
        ([torch.rand(2, 3)], ShapeError, "token ids (t,); got torch.float32 (2, 3)"),
        ([[[1, 2], [3]]], ArgumentError, "token ids (t,); got list"),
    ):
        refuses(kind, lambda given=given: list(activations(model, given, "mlp0.input")), text)


@pytest.mark.parametrize("name", ["\ud800", "girl girl", "", 3.0, True, 320, -1, None])
@pytest.mark.bad_input
def test_outputs_that_are_none(refuses, name):
    refuses(ArgumentError, lambda: reading(byte_level()).output_index(name), "target")

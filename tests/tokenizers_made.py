"""Tokenizers made here: byte-level ones, as GPT-2's, and those that write ▁ for a space, as
Llama's.
"""

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

STORY = [
    (
        "Once upon a time there was a little girl.\n"
        "She had a cat – née Mäuschen – and the cat had the girl."
    )
] * 9


def byte_level(special="bos"):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return finished(
        made,
        special,
        trainers.BpeTrainer(special_tokens=SPECIALS, initial_alphabet=alphabet, vocab_size=310),
    )


def llama_like(special="bos"):
    """As Llama-2's tokenizer.json: a ▁ in front of the text, ▁ for each space, bytes for what is
    not known.
    """
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    made.decoder = decoders.Sequence(steps)
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    pieces = [
        *SPECIALS,
        *bytes_,
        "▁",
        *"abcdeghilnoprstuwO.",
        "▁a",
        "gi",
        "rl",
        "girl",
        "▁girl",
        "▁O",
        "nc",
        "▁Once",
        "▁t",
    ]
    merges = [
        ("▁", "a"),
        ("g", "i"),
        ("r", "l"),
        ("gi", "rl"),
        ("▁", "girl"),
        ("▁", "O"),
        ("n", "c"),
        ("▁", "t"),
    ]
    vocab = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    made.model = model
    return finished(made, special)


def metaspace(special="bos"):
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return finished(
        made,
        special,
        trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIALS, unk_token="<unk>"),
    )


SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]
TEMPLATES = {"bos": "<s> $A", "both": "<s> $A </s>", "none": "$A"}


def finished(made, special, trainer=None):
    if trainer is not None:
        made.train_from_iterator(STORY, trainer)
    made.add_special_tokens(SPECIALS)
    ids = [(name, made.token_to_id(name)) for name in SPECIALS[1:3]]
    made.post_processor = processors.TemplateProcessing(
        single=TEMPLATES[special], special_tokens=ids
    )
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **names, clean_up_tokenization_spaces=False
    )

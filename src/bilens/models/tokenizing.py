"""Tokenizers beside a model: every form that transformers reads, and an error for one that it does
not.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, GPT2Tokenizer

from bilens.base.errors import FileError
from bilens.base.numerics import is_whole
from bilens.base.reading import read_json_object, require_file

WHOLE = "tokenizer.json"
PAIR = ("vocab.json", "merges.txt")  # byte-level BPE as GPT-2 wrote it
PIECES = ("tokenizer.model", "spiece.model")  # SentencePiece
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
FILES = (WHOLE, *PAIR, *PIECES, "vocab.txt", *SETTINGS)
END = "<|endoftext|>"
HOW_READ = ("is_local", "local_files_only")  # which transformers keeps, and saves with a tokenizer


def read_tokenizer(folder: Path, vocab_size: int | None = None) -> Any:
    """The tokenizer of ``folder``; None only where no file of one is there.

    tokenizer.json, vocab.json with merges.txt, and tokenizer.model where sentencepiece is
    installed; its chat template too. Errors: FileError for files that cannot be read, or tokens
    with ids of ``vocab_size`` and above.

    >>> folder = bilens.models.open_model("tinystories-2l").folder
    >>> bilens.models.read_tokenizer(folder).tokenize(" girl")
    ['Ġgirl']
    """
    there = [name for name in FILES if (folder / name).exists()]
    if not there:
        return None
    for name in there:
        _require_sound(folder / name)
    tokenizer = _read(folder, there)
    size = vocabulary_size(tokenizer)
    if vocab_size is not None and size > vocab_size:
        must, todo = (
            f"know at most the model's {vocab_size} tokens",
            "Use the tokenizer it was trained with.",
        )
        raise FileError(str(folder / there[0]), must=must, got=size, todo=todo)
    return tokenizer


def vocabulary_size(tokenizer: Any) -> int:
    """How many embeddings the tokens need: the largest id and one, which is more than ``len`` where
    ids have holes.

    >>> bilens.models.vocabulary_size(model.tokenizer)
    1024
    """
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _require_sound(file: Path) -> None:
    """Raise FileError for a file that readers would wait for, run out of memory on, or take half of
    without a word.
    """
    require_file(file)
    if file.stat().st_size == 0:
        raise FileError(str(file), must="hold a part of a tokenizer", got="nothing in it")
    found = read_json_object(file) if file.suffix == ".json" else {}
    if file.name == PAIR[0]:
        for token, index in found.items():
            if not is_whole(index) or index < 0:
                raise FileError(
                    str(file), must="give each token its id", got=f"{index!r} for {token!r}"
                )


def _read(folder: Path, there: list[str]) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        if _knows_more_than_marks(tokenizer):
            tokenizer("a")  # odd settings are met here, and not in the middle of a pass
            for name in HOW_READ:
                tokenizer.init_kwargs.pop(name, None)
            return tokenizer
        reason = "special tokens alone"  # what transformers makes of files that are not its class's
    except Exception as error:  # tokenizers raises Exception itself
        reason = str(error)
    if WHOLE not in there and set(PAIR) <= set(there):
        return _byte_level(folder, reason)
    todo = ""
    if WHOLE not in there and set(PIECES) & set(there) and find_spec("sentencepiece") is None:
        reason, todo = (
            f"{there[0]} alone",
            "Install sentencepiece to read it, or save it as tokenizer.json.",
        )
    raise FileError(str(folder / there[0]), must="be a readable tokenizer", got=reason, todo=todo)


def _knows_more_than_marks(tokenizer: Any) -> bool:
    return bool(tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens))


def _byte_level(folder: Path, reason: str) -> Any:
    """vocab.json and merges.txt where nothing else says what they are: GPT-2's, if every byte is
    among the tokens.
    """
    vocabulary = read_json_object(folder / PAIR[0])
    if not set(ByteLevel.alphabet()) <= vocabulary.keys():
        raise FileError(str(folder / PAIR[0]), must="be a readable tokenizer", got=reason)
    end = END if END in vocabulary else None
    given: dict[str, Any] = {"vocab": str(folder / PAIR[0]), "merges": str(folder / PAIR[1])}
    given |= dict.fromkeys(("unk_token", "bos_token", "eos_token"), end)
    try:
        return GPT2Tokenizer(**given)
    except Exception as error:
        raise FileError(
            str(folder / PAIR[1]), must="be a readable tokenizer", got=str(error)
        ) from error

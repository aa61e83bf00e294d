"""Byte-level BPE: any text becomes tokens and comes back the same, character by character."""

from contextlib import ExitStack
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bilens.base.documents import END, pieces, split_documents
from bilens.base.errors import ArgumentError, FileError
from bilens.base.files import new_folder, reason, saved_together
from bilens.base.numerics import is_whole
from bilens.models import PAIR, Transformer, read_tokenizer

SMALLEST = 256 + 1  # every byte, and the end of text
LARGEST = 2**20  # four times the largest in use; room for all of them is taken at once
FILES = ("tokenizer.json", "tokenizer_config.json")


def train_tokenizer(
    source: str, vocab_size: int, output: str | Path | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Sennrich et al., arXiv:1508.07909; GPT-2's splitting into words)
    of ``vocab_size`` tokens.

    Learnt from the training documents of ``source`` (see ``split_documents``), so held-out text
    stays unseen; the same text gives the same tokenizer. Token 0 is ``<|endoftext|>``, the only
    special one: beginning, end and padding. There are fewer than ``vocab_size`` tokens where no
    further pair of them occurs twice. With ``output`` it is saved there, in a folder that is new or
    empty. Errors: ArgumentError for a ``vocab_size`` below 257 or above 2²⁰, FileError for a folder
    in use, and those of ``read_documents``.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp()) / "text.txt"
    >>> file.write_text("the red car is fast " * 50)
    1000
    >>> bilens.training.train_tokenizer(str(file), 270).tokenize("the red car")
    ['the', 'Ġred', 'Ġcar']
    """
    require_vocabulary(vocab_size)
    with ExitStack() as stack:
        if output is not None:
            stack.enter_context(new_folder(output))
        tokenizer = _learned(source, vocab_size)
        if output is not None:
            save_tokenizer(tokenizer, output)
    return tokenizer


def require_vocabulary(vocab_size: object) -> None:
    """Raise ArgumentError for a number of tokens that no tokenizer is trained with."""
    if not is_whole(vocab_size) or not SMALLEST <= vocab_size <= LARGEST:  # type: ignore[operator]
        must = f"be at least {SMALLEST}: 256 bytes and {END}, and at most {LARGEST:,}"
        raise ArgumentError("vocab_size", must=must, got=vocab_size)


def _learned(source: str, vocab_size: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = split_documents(source).train
    bpe.train_from_iterator(
        (piece for document in documents for piece in pieces(document)), trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=END
    )


def tokenizer_of(model: Transformer) -> PreTrainedTokenizerFast:
    """The tokenizer beside ``model``. Errors: ArgumentError where there is none."""
    if model.tokenizer is None:
        todo = "Save one into its folder."
        raise ArgumentError("the model", must="have a tokenizer beside it", got="none", todo=todo)
    return model.tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, output: str | Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into a temporary folder, then rename each into
    ``output``.

    Errors: FileError where the folder cannot be made or written.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> bilens.training.save_tokenizer(model.tokenizer, folder)
    >>> sorted(file.name for file in folder.iterdir())
    ['tokenizer.json', 'tokenizer_config.json']
    """
    with saved_together(output, FILES[-1]) as temporary:
        try:
            tokenizer.save_pretrained(temporary)
        except Exception as error:  # tokenizers raises Exception itself, for a full disk too
            raise FileError(
                str(output), must="be writable to the end", got=reason(error)
            ) from error


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer in ``folder``: one that ``save_tokenizer`` wrote, or any other with the same
    two files, or with vocab.json and merges.txt.

    Errors: FileError where the folder or a file is missing or damaged.

    >>> folder = bilens.models.open_model("tinystories-2l").folder
    >>> bilens.training.load_tokenizer(folder).tokenize(" girl")
    ['Ġgirl']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileError(
            str(folder),
            must="be a tokenizer folder",
            got="a file" if folder.exists() else "nothing there",
        )
    if not all((folder / name).is_file() for name in PAIR):  # GPT-2's form, which needs no more
        for name in FILES:
            if not (folder / name).is_file():
                todo = "Name a folder bilens train tokenizer wrote."
                raise FileError(str(folder), must=f"hold {name}", got="none", todo=todo)
    return read_tokenizer(folder)

"""Every way into bilens: what is called with a folder of which kind, and used if it is let in."""

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch

import bilens
from bilens.base.records import Record
from bilens.cli import main
from bilens.decompose import Chunks, eigen
from bilens.features import Dictionary
from bilens.training import load_images, load_text, load_tokenizer, read_documents, read_recipe
from tests.fuzz.artefacts import tensor


class Door(NamedTuple):
    """``call`` (folder, output): raises what bilens refuses; ``weight``: how often it is tried."""

    name: str
    kind: str
    call: Callable[[Path, Path], object]
    weight: int = 1


class RefusedError(Exception):
    """A command ended with exit 2 and this on stderr."""


def load_and_run(folder: Path, output: Path) -> None:
    model = bilens.load(folder)
    repr(model.config)
    if isinstance(model, bilens.Transformer):
        model(torch.tensor([[1, 2, 3]]))
        if model.tokenizer is not None:
            model.tokenizer("the sun")
    else:
        model(torch.zeros(1, model.config.input_size))


def load_results(folder: Path, output: Path) -> None:
    for file in sorted(folder.iterdir()):
        result = Record.load(file)
        repr(result)
        result.to_frame()  # type: ignore[attr-defined]
        result.plot()  # type: ignore[attr-defined]
        result._repr_html_()  # type: ignore[attr-defined]


def load_dictionary(folder: Path, output: Path) -> None:
    made = Dictionary.load(folder)
    repr(made)
    made(torch.zeros(2, made.d_in, dtype=made.W_enc.dtype))


def go_on_with_chunks(folder: Path, output: Path) -> None:
    repr(eigen(tensor(), k=2, chunks=Chunks(2, folder=folder / "chunks")))


def command(*arguments: str) -> Callable[[Path, Path], None]:
    """A command on the folder; IN and OUT stand for it and for where it may write."""

    def call(folder: Path, output: Path) -> None:
        named = {"IN": str(folder), "OUT": str(output / "out")}
        sys.argv = ["bilens", *(named.get(word, word) for word in arguments)]
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as ended:
                code = ended.code or 0
        if "Traceback" in out.getvalue() + err.getvalue():
            raise AssertionError(err.getvalue())
        if code == 2:
            lines = err.getvalue().strip().splitlines()
            assert len(lines) == 1, f"{len(lines)} lines on stderr: {lines[:3]}"
            assert not (output / "out").exists(), "exit 2, and something written"
            raise RefusedError(lines[0])

    return call


DOORS = (
    Door("load", "bilens", load_and_run, 6), Door("load", "llama", load_and_run, 6),
    Door("load", "sharded", load_and_run, 5), Door("load", "dooms", load_and_run, 5),
    Door("load", "classifier", load_and_run, 5),
    Door("Dictionary.load", "dictionary", load_dictionary, 6),
    Door("Result.load", "results", load_results, 10),
    Door("load_tokenizer", "tokenizer", lambda f, o: load_tokenizer(f / "tokenizer")("the sun"), 2),
    Door("read_documents", "texts", lambda f, o: [list(read_documents(str(f))),
        list(read_documents(str(f / "a.txt")))], 3),
    Door("load_text", "texts", lambda f, o: load_text(str(f),
        bilens.load("tinystories-1l").tokenizer, 8), 1),
    Door("load_images", "images", lambda f, o: load_images(str(f)), 5),
    Door("read_recipe", "recipe", lambda f, o: read_recipe(f / "recipe.toml"), 4),
    Door("eigen --folder", "chunks", go_on_with_chunks, 4),
    Door("decompose", "bilens", command("decompose", "IN", "-k", "2"), 2),
    Door("decompose", "classifier", command("decompose", "IN", "-k", "2", "--what", "hosvd"), 1),
    Door("expand", "bilens", command("expand", "IN", "--prompt", "the sun", "--max-terms", "50"),
    2),
    Door("expand with a dictionary", "dictionary",
         # of another width: refused
         command("expand", "tinystories-1l", "--prompt", "the sun", "--dictionary", "IN"), 1),
    Door("convert", "llama", command("convert", "IN", "-o", "OUT"), 2),
    Door("convert", "bilens", command("convert", "IN", "--to", "llama", "-o", "OUT"), 2),
    Door("train tokenizer", "texts", command("train", "tokenizer", "--data", "IN", "--vocab-size",
        "280", "-o", "OUT"), 2),
)  # fmt: skip

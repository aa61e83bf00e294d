"""Files from outside: each fault names its file, nothing is read that could hang or fill the
memory.
"""

import os

import pytest
import torch
from safetensors.torch import save_file

from bilens.base import reading, weights
from bilens.base.errors import FileError


@pytest.mark.parametrize(
    "text", ["{", '{"a": NaN', "\ud800".encode("utf-8", "surrogatepass"), "[" * 50_000, "[1]"]
)
def test_damaged_json_is_one_error_that_names_the_file(tmp_path, refuses, text):
    file = tmp_path / "config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    refuses(FileError, lambda: reading.read_json_object(file), str(file))


@pytest.mark.parametrize("text", ["a = ", "a = " + "[" * 50_000])
def test_damaged_toml_too(tmp_path, refuses, text):
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    refuses(FileError, lambda: reading.read_toml(file), str(file))


def test_a_pipe_and_a_folder_are_not_read(tmp_path, refuses):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for file in (pipe, tmp_path, tmp_path / "absent.json", tmp_path / ("x" * 300)):
        refuses(FileError, lambda file=file: reading.read_json(file), str(file)[:50])
        refuses(FileError, lambda file=file: weights.weight_shapes(file), str(file)[:50])


def test_a_huge_file_is_refused_before_it_is_read(tmp_path, refuses):
    file = tmp_path / "config.json"
    with file.open("wb") as out:
        out.truncate(reading.LARGEST + 1)  # a hole: no bytes on disk
    refuses(FileError, lambda: reading.read_json(file), str(file))


KINDS = [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_no_real_numbers_are_refused_by_name(tmp_path, refuses, kind):
    file = tmp_path / "model.safetensors"
    save_file({"good": torch.ones(2), "odd": torch.ones(2).to(kind)}, file)
    refuses(FileError, lambda: weights.load_weights(file), str(file), "odd", "Convert")


def test_weights_keep_their_type(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2, 3, dtype=torch.bfloat16)}, file)
    assert weights.weight_shapes(file) == {"a": (2, 3)}
    assert weights.load_weights(file)["a"].dtype is torch.bfloat16

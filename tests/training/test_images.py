"""The idx reader trusts nothing; image data come in the parts they should."""

import gzip
import os
import struct

import numpy as np
import pytest
import torch

from bilens.base.errors import ArgumentError, FileError
from bilens.training import load_images, read_idx
from bilens.training.images import require_fits


def idx(array, kind=8, shape=None):
    shape = array.shape if shape is None else shape
    return (
        bytes([0, 0, kind, len(shape)])
        + struct.pack(f">{len(shape)}I", *shape)
        + array.astype(np.uint8).tobytes()
    )


IMAGES = np.arange(2 * 3 * 4).reshape(2, 3, 4)


@pytest.fixture
def write(tmp_path):
    def to(raw, name="images.gz", compress=True):
        (tmp_path / name).write_bytes(gzip.compress(raw) if compress else raw)
        return tmp_path / name

    return to


@pytest.fixture
def folder(tmp_path):
    """A little MNIST: 24 + 6 images of 5 × 4."""
    random = np.random.default_rng(0)
    for prefix, count in (("train", 24), ("t10k", 6)):
        images, labels = random.integers(0, 256, (count, 5, 4)), np.arange(count) % 3
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_what_was_written_is_read(write):
    np.testing.assert_array_equal(read_idx(write(idx(IMAGES)), 3), IMAGES)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (idx(IMAGES)[:-1], "must hold 24 bytes of data, as its header says; got only 23"),
        (idx(IMAGES) + b"x", "must hold 24 bytes of data, as its header says; got more"),
        (idx(IMAGES, kind=9), "must be gzip, or start with the idx magic 00 00 08"),
        (b"PK\3\4" + idx(IMAGES), "got 50 4b 03 04"),
        (b"", "got nothing"),
        (idx(IMAGES)[:9], "must have a header of 16 bytes; got 9"),
        (idx(np.arange(5)), "must hold images (3 axes); got labels (1 axis)"),
        (idx(IMAGES, shape=(2**31, 2**31, 4)), "must promise at most 2,147,483,648 bytes"),
        (
            idx(IMAGES, shape=(10**6, 10, 100)),
            "must promise no more than a file of its size can hold",
        ),
    ],
)
def test_a_wrong_file_is_one_clear_error(refuses, write, raw, text):
    for compress in (True, False):
        path = write(raw, compress=compress)
        refuses(FileError, lambda path=path: read_idx(path, 3), str(path), text)


def test_a_bomb_is_not_unpacked(refuses, write):
    """A fifth of a gigabyte of zeros in 200 KB, as its header says."""
    path = write(idx(np.zeros((2000, 10, 10_000))))
    refuses(
        FileError,
        lambda: read_idx(path, 3),
        str(path),
        "must promise no more than a file of its size can hold",
    )


def test_a_pipe_is_not_waited_for(refuses, tmp_path):
    os.mkfifo(tmp_path / "images.gz")
    refuses(
        FileError,
        lambda: read_idx(tmp_path / "images.gz", 3),
        "must be an idx file",
        "got something else",
    )


@pytest.mark.parametrize("name", ["-images-idx3-ubyte", "-images.idx3-ubyte"])
def test_a_folder_of_unpacked_files(folder, name):
    """As torchvision leaves them, and as others name them."""
    packed = load_images(str(folder))
    for prefix in ("train", "t10k"):
        for old, new in (
            (f"{prefix}-images-idx3-ubyte.gz", name),
            (f"{prefix}-labels-idx1-ubyte.gz", name),
        ):
            raw = gzip.decompress((folder / old).read_bytes())
            (folder / old).unlink()
            kind = (
                new if "images" in old else new.replace("images", "labels").replace("idx3", "idx1")
            )
            (folder / f"{prefix}{kind}").write_bytes(raw)
    assert load_images(str(folder)).content() == packed.content()


def test_a_truncated_gzip(refuses, write):
    path = write(gzip.compress(idx(IMAGES))[:-12], compress=False)
    refuses(FileError, lambda: read_idx(path, 3), str(path), "a gzip stream that ends early")


def test_a_corrupt_gzip(refuses, write):
    raw = bytearray(gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (20, 20, 20)))))
    raw[40:60] = bytes(20)
    path = write(bytes(raw), compress=False)
    refuses(FileError, lambda: read_idx(path, 3), str(path))


def test_a_missing_file(refuses, tmp_path):
    refuses(
        FileError,
        lambda: read_idx(tmp_path / "no.gz", 3),
        "no.gz must be an idx file, or one as .gz; got nothing there",
    )


def test_a_folder_has_three_parts(folder):
    data = load_images(str(folder))
    assert [len(part) for part in (data.train, data.valid, data.test)] == [22, 2, 6]
    assert data.shape == (5, 4)
    assert data.classes == ("0", "1", "2")
    assert 0 <= data.train.pixel_values.min() <= data.train.pixel_values.max() == 1


def test_labels_that_do_not_match_their_images(refuses, folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(5))))
    refuses(
        FileError,
        lambda: load_images(str(folder)),
        "t10k-labels-idx1-ubyte.gz must label the 6 images",
        "got 5 labels",
    )


def test_images_of_no_size(refuses, folder):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((6, 0, 4)))))
    refuses(
        FileError,
        lambda: load_images(str(folder)),
        "t10k-images-idx3-ubyte.gz must hold images; got a header that says (6, 0, 4)",
    )


def test_images_of_two_sizes(refuses, folder):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((6, 4, 4)))))
    refuses(
        FileError,
        lambda: load_images(str(folder)),
        "training and test images of one size",
        "(5, 4) and (4, 4)",
    )


def test_a_folder_that_is_not_there(refuses):
    refuses(
        FileError,
        lambda: load_images("no/such"),
        'no/such must be "digits" or a folder of idx files',
    )


def test_digits_are_built_in():
    data = load_images("digits")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [1257, 180, 360]
    assert data.shape == (8, 8)
    assert data.train.pixel_values.dtype == torch.float32
    assert data.train.pixel_values.max() == 1
    assert torch.equal(load_images("digits").test.labels, data.test.labels)
    everything = torch.cat([part.pixel_values for part in (data.train, data.valid, data.test)])
    assert len(everything.flatten(1).unique(dim=0)) == 1797  # no image in two parts


def test_data_that_do_not_fit_the_model(refuses):
    data = load_images("digits")
    refuses(
        ArgumentError,
        lambda: require_fits(data, (28, 28), 10),
        "images of (28, 28) in at most 10 classes",
        "(8, 8) in 10",
    )


def test_a_folder_with_too_few_images(refuses, folder):
    for kind, array in (("images-idx3", np.zeros((1, 5, 4))), ("labels-idx1", np.zeros(1))):
        (folder / f"train-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    refuses(FileError, lambda: load_images(str(folder)), "must hold at least 2 training images")


@pytest.mark.parametrize(
    ("name", "got"), [("file", "something else"), ("nowhere", "nothing there")]
)
def test_what_is_no_folder_is_told_from_what_is_not_there(refuses, tmp_path, name, got):
    (tmp_path / "file").touch()
    refuses(FileError, lambda: load_images(str(tmp_path / name)), "a folder of idx files", got)

"""Image data: scikit-learn's digits (built in), or a folder of MNIST-like idx files."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from bilens.base.errors import ArgumentError, FileError
from bilens.training.idx import read_idx
from bilens.training.run import content

BUILT_IN = "digits"
HELD_OUT = 1 / 12  # of an idx folder's training images, the last ones: MNIST's usual 55,000 / 5,000


@dataclass(frozen=True)
class Images(Dataset):
    """Images in [0, 1] with their classes. Indexed by lists, so that a batch is one slice and not a
    loop.

    >>> images = bilens.training.load_images("digits").test
    >>> images.pixel_values.shape, images.labels.shape
    (torch.Size([360, 8, 8]), torch.Size([360]))
    """

    pixel_values: Float[Tensor, "n height width"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"pixel_values": self.pixel_values[indices], "labels": self.labels[indices]}

    def __getitem__(self, index: int | slice) -> dict[str, Tensor]:
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index]}


@dataclass(frozen=True)
class ImageData:
    """A named data set in three parts, with the names of its classes.

    >>> digits = bilens.training.load_images("digits")
    >>> digits.name, len(digits.classes), len(digits.test)
    ('digits', 10, 360)
    """

    name: str
    train: Images
    valid: Images
    test: Images
    classes: tuple[str, ...]

    def content(self) -> str:
        """A digest of all images and labels."""
        parts = (self.train, self.valid, self.test)
        return content(
            *(array.numpy() for part in parts for array in (part.pixel_values, part.labels))
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.pixel_values.shape[1:])


def load_images(source: str) -> ImageData:
    """``"digits"``, or a folder with train-{images,labels} and t10k-{images,labels} idx files,
    gzipped or as they are.

    Errors: FileError for a folder or file that is missing, damaged, or whose parts do not fit one
    another.

    >>> bilens.training.load_images("digits").classes[:3]
    ('0', '1', '2')
    """
    if source == BUILT_IN and not os.path.isdir(source):
        return _digits()
    folder = Path(source)
    if not os.path.isdir(source):
        got = "something else" if os.path.lexists(source) else "nothing there"
        raise FileError(source, must=f'be "{BUILT_IN}" or a folder of idx files', got=got)
    train, test = _part(folder, "train"), _part(folder, "t10k")
    if train.pixel_values.shape[1:] != test.pixel_values.shape[1:]:
        sizes = f"{tuple(train.pixel_values.shape[1:])} and {tuple(test.pixel_values.shape[1:])}"
        raise FileError(source, must="have training and test images of one size", got=sizes)
    if len(train) < 2:
        raise FileError(
            source, must="hold at least 2 training images, one to be held out", got=len(train)
        )
    cut = len(train) - max(1, int(len(train) * HELD_OUT))
    classes = tuple(str(n) for n in range(int(max(train.labels.max(), test.labels.max())) + 1))
    return ImageData(
        str(folder.resolve()),
        _slice(train, slice(cut)),
        _slice(train, slice(cut, None)),
        test,
        classes,
    )


def _part(folder: Path, prefix: str) -> Images:
    files = _idx_file(folder, f"{prefix}-images", 3), _idx_file(folder, f"{prefix}-labels", 1)
    images, labels = read_idx(files[0], 3), read_idx(files[1], 1)
    if images.size == 0:
        raise FileError(str(files[0]), must="hold images", got=f"a header that says {images.shape}")
    if len(images) != len(labels):
        wanted = f"label the {len(images)} images of {files[0].name}"
        raise FileError(str(files[1]), must=wanted, got=f"{len(labels)} labels")
    pixels = images.astype(np.float32)
    pixels /= 255
    return _images(pixels, labels)


def _idx_file(folder: Path, name: str, ndim: int) -> Path:
    """By the names that MNIST's files have, packed or unpacked (torchvision leaves both); the first
    where none is there.
    """
    names = [f"{name}{dot}idx{ndim}-ubyte{end}" for dot in "-." for end in (".gz", "")]
    return next(
        (folder / file for file in names if os.path.lexists(folder / file)), folder / names[0]
    )


def _digits() -> ImageData:
    from sklearn.datasets import load_digits  # a second of start-up that idx folders need not pay

    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(labels))  # the file is sorted by writer
    everything = _images((pixels.reshape(-1, 8, 8) / 16)[order].astype(np.float32), labels[order])
    train, valid, test = (
        _slice(everything, part) for part in (slice(1257), slice(1257, 1437), slice(1437, None))
    )
    return ImageData(BUILT_IN, train, valid, test, tuple(str(n) for n in range(10)))


def _images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))


def _slice(images: Images, part: slice) -> Images:
    return Images(images.pixel_values[part], images.labels[part])


def require_fits(data: ImageData, shape: tuple[int, ...], classes: int) -> None:
    """Raise ArgumentError unless a model of ``shape`` and ``classes`` can be asked about
    ``data``.
    """
    if data.shape != shape or len(data.classes) > classes:
        raise ArgumentError(
            f"data {data.name}",
            must=f"have images of {shape} in at most {classes} classes, like the model",
            got=f"{data.shape} in {len(data.classes)}",
        )

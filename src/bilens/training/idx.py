"""A small safe reader of idx files, the format of MNIST: it trusts no number in the file before
checking it.
"""

import gzip
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bilens.base.errors import FileError
from bilens.base.files import reason

UNSIGNED_BYTE = 0x08
GZIP = b"\x1f\x8b"
MAX_BYTES = 2**31  # ten times the largest MNIST-like file; a header that promises more is refused
PLAIN = 2**26  # bytes that any file may promise
# at most so many times its own size beyond that: images are compressed about five times
RATIO = 100


def read_idx(path: str | Path, ndim: int) -> np.ndarray:
    """The array of unsigned bytes with ``ndim`` axes in the idx file ``path``, gzipped or as it is.

    Layout: two zero bytes, the type (0x08), the number of axes, each axis as a big-endian uint32,
    then the entries. What the header promises is held against the file's size before anything is
    read, and no more than that is decompressed. Errors: FileError that names the file and what is
    wrong.

    >>> import gzip
    >>> from tempfile import mkdtemp
    >>> file = mkdtemp() + "/labels.gz"
    >>> size = gzip.open(file, "wb").write(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    """
    path = Path(path)
    if not os.path.isfile(path):
        got = "something else" if os.path.lexists(path) else "nothing there"
        raise FileError(str(path), must="be an idx file, or one as .gz", got=got)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            size = os.fstat(raw.fileno()).st_size
            if packed:
                with gzip.GzipFile(fileobj=raw) as file:
                    return _array(path, file, ndim, max(PLAIN, RATIO * size))
            return _array(path, raw, ndim, size)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise FileError(str(path), must="be undamaged gzip", got=str(error)) from error
    except EOFError as error:
        todo = "Download it again."
        raise FileError(
            str(path), must="be whole", got="a gzip stream that ends early", todo=todo
        ) from error
    except OSError as error:
        raise FileError(str(path), must="be readable", got=reason(error)) from error


def _array(path: Path, file: BinaryIO | gzip.GzipFile, ndim: int, room: int) -> np.ndarray:
    """The array in ``file``, which holds at most ``room`` bytes."""
    shape = _shape(path, file.read(4), file, ndim)
    promised = int(np.prod(shape, dtype=object))
    if promised > MAX_BYTES:
        raise FileError(
            str(path),
            must=f"promise at most {MAX_BYTES:,} bytes",
            got=f"a header that says {shape}",
        )
    if promised > room:
        must = f"promise no more than a file of its size can hold, {room:,} bytes"
        raise FileError(str(path), must=must, got=f"a header that says {shape}")
    body = file.read(promised + 1)
    if len(body) != promised:
        got = f"only {len(body):,}" if len(body) < promised else "more"
        raise FileError(
            str(path), must=f"hold {promised:,} bytes of data, as its header says", got=got
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _shape(path: Path, magic: bytes, file: BinaryIO | gzip.GzipFile, ndim: int) -> tuple[int, ...]:
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != UNSIGNED_BYTE:
        must = "be gzip, or start with the idx magic 00 00 08 (unsigned bytes)"
        raise FileError(str(path), must=must, got=magic.hex(" ") or "nothing")
    if magic[3] != ndim:
        kinds = {1: "labels (1 axis)", 3: "images (3 axes)"}
        wanted, got = (kinds.get(axes, f"{axes} axes") for axes in (ndim, magic[3]))
        raise FileError(str(path), must=f"hold {wanted}", got=got)
    header = file.read(4 * ndim)
    if len(header) < 4 * ndim:
        raise FileError(
            str(path), must=f"have a header of {4 + 4 * ndim} bytes", got=4 + len(header)
        )
    return tuple(int(n) for n in np.frombuffer(header, ">u4"))

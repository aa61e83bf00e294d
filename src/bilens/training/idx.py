"""A small safe reader of idx files, the format of MNIST: it trusts no number in the file before checking it."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from bilens.base.errors import FileError

UNSIGNED_BYTE = 0x08
MAX_BYTES = 2**31  # ten times the largest MNIST-like file; a header that promises more is refused


def read_idx(path: str | Path, ndim: int) -> np.ndarray:
    """The array of unsigned bytes with ``ndim`` axes in the gzipped idx file ``path``.

    Layout: two zero bytes, the type (0x08), the number of axes, each axis as a big-endian uint32, then the entries.
    At most as many bytes are decompressed as the header promises. Errors: FileError that names the file and what is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(str(path), must="be an idx .gz file", got="nothing there")
    try:
        with gzip.open(path) as file:
            shape = _shape(path, file.read(4), file, ndim)
            promised = int(np.prod(shape, dtype=object))
            if promised > MAX_BYTES:
                raise FileError(str(path), must=f"promise at most {MAX_BYTES:,} bytes", got=f"a header that says {shape}")
            body = file.read(promised + 1)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise FileError(str(path), must="be gzip", got=str(error)) from error
    except EOFError as error:
        raise FileError(
            str(path), must="be whole", got="a gzip stream that ends early", todo="Download it again."
        ) from error
    if len(body) != promised:
        got = f"only {len(body):,}" if len(body) < promised else "more"
        raise FileError(str(path), must=f"hold {promised:,} bytes of data, as its header says", got=got)
    return np.frombuffer(body, np.uint8).reshape(shape)


def _shape(path: Path, magic: bytes, file: gzip.GzipFile, ndim: int) -> tuple[int, ...]:
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != UNSIGNED_BYTE:
        raise FileError(
            str(path), must="start with the idx magic 00 00 08 (unsigned bytes)", got=magic.hex(" ") or "nothing"
        )
    if magic[3] != ndim:
        kinds = {1: "labels (1 axis)", 3: "images (3 axes)"}
        wanted, got = (kinds.get(axes, f"{axes} axes") for axes in (ndim, magic[3]))
        raise FileError(str(path), must=f"hold {wanted}", got=got)
    header = file.read(4 * ndim)
    if len(header) < 4 * ndim:
        raise FileError(str(path), must=f"have a header of {4 + 4 * ndim} bytes", got=4 + len(header))
    return tuple(int(n) for n in np.frombuffer(header, ">u4"))

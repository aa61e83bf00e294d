"""Mean and covariance of what the places of a model hold, in one pass over a text.

folder/about.json                  the model, the text, the places, and how the work is cut up
folder/so-far-0.safetensors        what the first process has seen so far, and in which chunks
folder/mlp0.input.safetensors      a ``Gaussian`` of each place; with all of them it is finished
"""

import json
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt
from safetensors.torch import save_file
from torch import Tensor

from bilens.base.chunks import Chunks, Share, claimed
from bilens.base.errors import ArgumentError, FileError, Interrupted
from bilens.base.files import atomic_write
from bilens.base.weights import Mapped, opened, weight_shapes
from bilens.measure import Gaussian, Moments, joined, moments_of
from bilens.models import Transformer, stream
from bilens.training.run import content, content_of
from bilens.wiring import find_place

TOKENS = 8192  # in one forward pass
ALONE = Share(0, 1, lambda: None)


def every_place(model: Transformer) -> tuple[str, ...]:
    """What each part reads, after its norm, and what each layer writes (heads write one by one).

    >>> bilens.training.every_place(model)[:3]
    ('attn0.input', 'mlp0.input', 'attn1.input')
    """
    parts = [part for part in model.wiring().parts if part.heard]
    reads = [f"{part.name}.input" for part in parts]
    writes = [f"{part.name}.output" for part in parts if part.attention is None]
    return (*reads, *writes)


def gather_moments(
    model: Transformer,
    tokens: UInt[np.ndarray, "n length"],
    places: Sequence[str],
    chunks: Chunks,
) -> dict[str, Path]:
    """A file with the ``Gaussian`` of what each of ``places`` holds at every token of the texts
    ``tokens``, in ``chunks.folder``.

    One pass: all are added up while the model runs. What was seen so far is written after every
    ``chunks.size`` texts, so that a run that was stopped goes on, in any number of processes. They
    share the texts, and their sums are joined exactly: the result is that of one process, but for
    rounding. A half-precision model runs as it is. Memory, of each process: 8 · width² bytes for
    each place, on the model's device; as much on disk until it is finished. Errors: ArgumentError
    for a place that is not there, or no folder; FileError for a folder that holds something else,
    or in which others are at work; Interrupted, which says how far it came; NotFiniteError.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> ids = torch.randint(1024, (4, 64)).numpy()
    >>> chunks = bilens.decompose.Chunks(folder=Path(mkdtemp()))
    >>> files = bilens.training.gather_moments(model, ids, ["mlp0.input"], chunks)
    >>> bilens.Gaussian.load(files["mlp0.input"]).count
    256
    """
    if chunks.folder is None:
        raise ArgumentError("Chunks.folder", must="be where moments are written", got=None)
    parts, folder, share = model.wiring().parts, Path(chunks.folder), chunks.share or ALONE
    names = list(dict.fromkeys(find_place(place, parts).name for place in places))
    files = {name: folder / f"{name}.safetensors" for name in names}
    about = {"moments of": content_of(model), "text": content(tokens)}
    about |= {"places": names, "texts at a time": chunks.size}
    with claimed(folder, about, chunks.share):
        if not all(file.is_file() for file in files.values()):
            _add_up(model, tokens, names, chunks, share)
            for name in names[share.process :: share.of]:
                Gaussian.from_moments(_together(_so_far(folder), name)).save(files[name])
            share.wait()
        for file in _so_far(folder) if share.process == 0 else ():
            file.unlink()
    return files


def _add_up(
    model: Transformer,
    tokens: UInt[np.ndarray, "n length"],
    names: Sequence[str],
    chunks: Chunks,
    share: Share,
) -> None:
    """This process's part of the chunks that none has seen yet, added to what it saw before."""
    folder, starts = Path(chunks.folder or ""), chunks.starts(len(tokens))
    seen = {start for file in _so_far(folder) for start in _header(file)["chunks"]}
    share.wait()  # until all have looked
    left = [start for start in starts if start not in seen][share.process :: share.of]
    sums = _Sums(folder / f"so-far-{share.process}.safetensors")
    texts = max(1, TOKENS // tokens.shape[1])
    try:
        for count, start in enumerate(left, 1):
            ids = torch.from_numpy(tokens[start : start + chunks.size].astype(np.int64))
            stream(model, ids.split(texts), names, sums.add)
            sums.save(start)
            chunks.tell(len(seen) // share.of + count, len(tokens))
    except KeyboardInterrupt as stop:
        done = sum(len(_header(file)["chunks"]) for file in _so_far(folder))
        raise Interrupted(f"{folder} stopped with {done} of {len(starts)} chunks done") from stop
    share.wait()


class _Sums:
    """What one process has seen so far, in ``file``."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.chunks: list[int] = []
        self.sums: dict[str, Moments] = {}
        if file.is_file():
            self.chunks = _header(file)["chunks"]
            self.sums = {name: _read(file, name) for name in _header(file)["counts"]}

    def add(self, name: str, rows: Float[Tensor, "n d"]) -> None:
        """Some more of what a place holds."""
        more, before = moments_of(rows, len(self.chunks)), self.sums.get(name)
        if before is None:
            self.sums[name] = more
            return
        here = Moments(before.n, before.mean.to(more.mean), before.scatter.to(more.scatter))
        self.sums[name] = joined(here, more)

    def save(self, start: int) -> None:
        """Write all down, with the chunk that begins at ``start``: both or none."""
        self.chunks = [*self.chunks, start]
        counts = {name: sums.n for name, sums in self.sums.items()}
        header = {"seen": json.dumps({"chunks": self.chunks, "counts": counts})}
        tensors = {f"{name} mean": sums.mean for name, sums in self.sums.items()}
        tensors |= {f"{name} scatter": sums.scatter for name, sums in self.sums.items()}
        with atomic_write(self.file) as temporary:
            save_file(tensors, temporary, metadata=header)


def _so_far(folder: Path) -> list[Path]:
    return sorted(folder.glob("so-far-*.safetensors"))


def _header(file: Path) -> dict[str, Any]:
    """Its "chunks" that were seen, and "counts": how many rows of each place."""
    weight_shapes(file)
    with opened(file) as held:
        found = json.loads((held.metadata() or {}).get("seen", "null"))
    if not isinstance(found, dict) or not {"chunks", "counts"} <= found.keys():
        raise FileError(str(file), must="say which chunks it has seen", got="nothing of it")
    return found


def _read(file: Path, name: str) -> Moments:
    """Those of one place."""
    tensors = Mapped(dict.fromkeys((f"{name} mean", f"{name} scatter"), file))
    count = _header(file)["counts"][name]
    return Moments(count, tensors[f"{name} mean"].clone(), tensors[f"{name} scatter"].clone())


def _together(files: Iterable[Path], name: str) -> Moments:
    """Those of one place that all processes have seen."""
    return reduce(joined, (_read(file, name) for file in files))

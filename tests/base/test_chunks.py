"""Which process makes which chunk, and that all of them make each once."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bilens.base.chunks import Chunks, Share, make_chunks, write_chunks
from bilens.base.errors import ArgumentError, FileError
from bilens.base.records import Record


@dataclass(frozen=True, repr=False, eq=False)
class OneChunk(Record):
    start: Tensor


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_each_chunk_is_made_by_one_process(of, tmp_path):
    """Process p of n makes chunks p, p + n, p + 2n, …, and all are counted as done in each."""
    starts = [0, 4, 8, 12, 16, 20, 24]
    made, heard = {}, []
    for process in range(of):
        made[process] = []

        def make(start, mine=made[process]):
            mine.append(start)
            return OneChunk(torch.tensor(start))

        share = Share(process, of, lambda: None)
        chunks = Chunks(4, folder=tmp_path, share=share, progress=lambda *told: heard.append(told))
        files = write_chunks(chunks, 27, {"what": "numbers"}, make)
        assert made[process] == starts[process::of]
        assert len(heard) == sum(len(starts[p::of]) for p in range(process + 1))
        assert heard[-1] == (min(4 * len(made[process]), 27), 27)
    assert sorted(start for mine in made.values() for start in mine) == starts
    assert [int(OneChunk.load(file).start) for file in files] == starts


def test_a_process_waits_for_the_first_to_claim_and_for_all_to_end(tmp_path):
    waits = []
    for process in (0, 1, 2):
        share = Share(process, 3, lambda process=process: waits.append(process))
        chunks = Chunks(folder=tmp_path / "c", share=share)
        write_chunks(chunks, 1, {}, lambda start: OneChunk(torch.tensor(start)))
    assert waits == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("process", "of"), [(3, 3), (-1, 3), (0, 0)])
def test_a_process_that_is_not_there(process, of, refuses):
    refuses(
        ArgumentError,
        lambda: Share(process, of, lambda: None),
        f"Share.process must be 0 … {of - 1}; got {process}",
    )


def test_in_memory_they_are_the_same_chunks():
    heard = []
    chunks = Chunks(4, max_bytes=90, progress=lambda *told: heard.append(told)).within(30)
    assert make_chunks(chunks, 7, lambda start: start) == [0, 3, 6]
    assert heard == [(3, 7), (6, 7), (7, 7)]
    assert chunks.within(10**9).size == 1  # what does not fit is made one by one


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"size": 0}, "Chunks.size must be a whole number ≥ 1; got 0"),
        ({"size": 2.0}, "Chunks.size must be a whole number ≥ 1; got 2.0"),
        ({"max_bytes": 0}, "Chunks.max_bytes must be a whole number ≥ 1; got 0"),
        ({"share": Share(0, 2, lambda: None)}, "Chunks.share must come with a folder"),
    ],
    ids=["no size", "half a size", "no memory", "no folder"],
)
def test_chunks_that_cannot_be(given, text, refuses):
    refuses(ArgumentError, lambda: Chunks(**given), text)


def test_a_chunk_that_is_damaged_or_anothers_is_no_result(tmp_path, refuses):
    def write():
        return write_chunks(Chunks(1, folder=tmp_path), 2, {}, lambda n: OneChunk(torch.tensor(n)))

    first, second = write()
    whole = first.read_bytes()
    first.write_bytes(second.read_bytes())
    refuses(FileError, write, f"{first} must be what was saved by that name; got a copy of")
    first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refuses(FileError, write, f"{first} must be undamaged; got other contents than were saved")
    first.unlink()
    assert [int(OneChunk.load(file).start) for file in write()] == [0, 1]

"""Which process makes which chunk, and that all of them make each once."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bilens.base.chunks import Share, write_chunks
from bilens.base.errors import ArgumentError
from bilens.base.records import Record


@dataclass(frozen=True, repr=False, eq=False)
class OneChunk(Record):
    start: Tensor


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_each_chunk_is_made_by_one_process(of, tmp_path):
    """Process p of n makes chunks p, p + n, p + 2n, …, and all are counted as done in each."""
    starts = [0, 4, 8, 12, 16, 20, 24]
    made, done = {}, []
    for process in range(of):
        made[process] = []

        def make(start, mine=made[process]):
            mine.append(start)
            return OneChunk(torch.tensor(start))

        share = Share(process, of, lambda: None)
        files = write_chunks(
            tmp_path / "chunks", {"what": "numbers"}, starts, make, lambda: done.append(1), share
        )
        assert made[process] == starts[process::of]
        assert len(done) == sum(len(starts[p::of]) for p in range(process + 1))
    assert sorted(start for mine in made.values() for start in mine) == starts
    assert [int(OneChunk.load(file).start) for file in files] == starts


def test_a_process_waits_for_the_first_to_claim_and_for_all_to_end(tmp_path):
    waits = []
    for process in (0, 1, 2):
        share = Share(process, 3, lambda process=process: waits.append(process))
        write_chunks(
            tmp_path / "c",
            {},
            [0],
            lambda start: OneChunk(torch.tensor(start)),
            lambda: None,
            share,
        )
    assert waits == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("process", "of"), [(3, 3), (-1, 3), (0, 0)])
def test_a_process_that_is_not_there(process, of, refuses):
    refuses(
        ArgumentError,
        lambda: Share(process, of, lambda: None),
        f"Share.process must be 0 … {of - 1}; got {process}",
    )

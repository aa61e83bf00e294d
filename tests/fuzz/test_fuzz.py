"""The campaign in little: the same cases at every run. At length: python -m tests.fuzz --cases
3000.
"""

import pytest

from tests.fuzz.campaign import run

CASES = 100  # a test, of two


@pytest.mark.parametrize("seed", [1, 2])
def test_no_mutated_file_is_more_than_refused(seed):
    outcome = run(CASES, seed)
    assert not outcome.faults, outcome.table()
    assert outcome.refused > CASES / 3

"""Every long job, killed once and gone on with, ends at the same bits and leaves nothing
half-written.
"""

import pytest

from tests.campaigns import kill9


@pytest.mark.parametrize("job", kill9.JOBS)
def test_a_killed_job_ends_as_one_in_one_go(job, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    kill9.run(job, tmp_path / "whole")
    done = kill9.made(tmp_path / "whole")
    assert len(done) > 1
    kill9.killed_in_the_middle(job, tmp_path / "killed")
    kill9.run(job, tmp_path / "killed", resume=True)
    assert kill9.made(tmp_path / "killed") == done
    assert kill9.left(tmp_path / "killed") == []

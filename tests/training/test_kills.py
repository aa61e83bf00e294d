"""Every long job, killed once and gone on with, ends at the same bits and leaves nothing
half-written.
"""

import os
import signal
import sys

import pytest

import bilens
from bilens.training import export
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


def killed(function, module, name):
    """Run ``function`` in a process that dies by kill -9 as it comes to ``name`` of ``module``."""
    child = os.fork()
    if child == 0:
        setattr(sys.modules[module], name, lambda *given: os.kill(os.getpid(), signal.SIGKILL))
        try:
            function()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_what_a_killed_conversion_left_is_swept_by_the_next(tmp_path):
    model = bilens.load("tinystories-1l")
    killed(lambda: export(model, tmp_path), "bilens.training.export", "load")
    left = [file.name for file in tmp_path.rglob("*")]
    assert [file.name[:8] for file in tmp_path.iterdir()] == [".saving-"]
    assert "model.safetensors" in left  # it was at work
    export(model, tmp_path)
    named = {file.name for file in tmp_path.iterdir()}
    assert named == {name for name in left if not name.startswith(".saving-")}

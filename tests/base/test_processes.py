"""Processes of one's own, with a module that does next to nothing."""

import os
import signal
import sys

import pytest

from bilens.base.processes import begin, started

MODULE = """
import os, signal, sys

def work(line, what):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    line.send((what, os.environ.get("OMP_WAIT_POLICY"), signal.SIGINT in blocked))
    line.recv()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "works_apart.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "works_apart"


def test_a_process_begun_is_the_one_that_is_given_and_hears_no_interrupt(module, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    begin(module)
    process, line = started(module)
    line.send({"a": 1})
    assert line.recv() == ({"a": 1}, "PASSIVE", True)
    assert "OMP_WAIT_POLICY" not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    os.kill(process.pid, signal.SIGINT)
    process.join(0.3)
    assert process.is_alive()
    other, its_line = started(module)
    assert other.pid != process.pid
    line.close()
    its_line.close()
    process.join(20)
    other.join(20)
    assert other.exitcode == 0
    assert module not in sys.modules

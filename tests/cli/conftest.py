"""The command line, run in this process."""

import io
import sys

import pytest

from bilens.cli import main
from tests.documents_made import stories


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bilens", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


@pytest.fixture
def run_in_ascii(monkeypatch):
    """Run a command whose stdout and stderr take ASCII alone: (exit code, stdout, stderr)."""

    def call(*arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            patch.setattr(sys, "argv", ["bilens", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = (
            (stream.flush(), stream.buffer.getvalue().decode("ascii"))[1] for stream in streams
        )
        return ended.value.code or 0, out, err

    return call


@pytest.fixture
def short_pages(monkeypatch):
    """Pages of language models without their rules, which take seconds."""
    monkeypatch.setattr("bilens.report.views.rules.WORDS", 0)


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A file of short stories: seconds less than the text that is built in."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(stories(), encoding="utf-8")
    return file

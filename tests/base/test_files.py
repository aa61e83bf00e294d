"""Atomic writes: all or nothing."""

import pytest

from bilens.base.errors import FileError
from bilens.base.files import atomic_write, write_text


def test_writes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "λ₁")
    assert path.read_text(encoding="utf-8") == "λ₁"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_replaces(tmp_path):
    path = tmp_path / "b.txt"
    write_text(path, "old")
    write_text(str(path), "new")
    assert path.read_text() == "new"


def fail_halfway(path, kind):
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise kind("disk full")


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_keeps_the_old_file_and_leaves_nothing(kind, tmp_path):
    path = tmp_path / "b.txt"
    write_text(path, "old")
    with pytest.raises(FileError if kind is OSError else kind):
        fail_halfway(path, kind)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_where_no_file_can_be(tmp_path, refuses):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    refuses(FileError, lambda: write_text(tmp_path / "file" / "x.txt", ""), "must be in a folder that can be written")
    refuses(FileError, lambda: write_text(tmp_path / "folder", ""), "must be writable")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]

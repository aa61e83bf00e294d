"""Files are whole or not there, with the permissions of any other; folders have one holder; disks
may say no.
"""

import os
import subprocess
import threading
from contextlib import suppress

import pytest
import torch

from bilens.algebra import QuadraticForm
from bilens.base.errors import FileError
from bilens.base.files import (
    SAVING,
    Job,
    atomic_write,
    claim,
    held,
    new_folder,
    saved_together,
    write_text,
)


def test_writes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "λ₁")
    assert path.read_text(encoding="utf-8") == "λ₁"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_are_those_of_open(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("")
        write_text(tmp_path / "text", "")
        # safetensors has its own ideas
        QuadraticForm(*(torch.ones(1, 1) for _ in range(3))).save(tmp_path / "record")
        with saved_together(tmp_path, "b") as folder:
            (folder / "b").touch(mode=0o600)
    finally:
        os.umask(before)
    assert {file.stat().st_mode for file in tmp_path.iterdir()} == {
        (tmp_path / "plain").stat().st_mode
    }
    (tmp_path / "text").chmod(0o604)
    write_text(tmp_path / "text", "new")
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o604


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
    os.mkfifo(tmp_path / "pipe")
    refuses(
        FileError,
        lambda: write_text(tmp_path / "file" / "x.txt", ""),
        "must be in a folder that can be written",
    )
    for name in ("folder", "pipe"):
        refuses(
            FileError, lambda name=name: write_text(tmp_path / name, ""), "must be writable: a file"
        )
    refuses(FileError, lambda: write_text(tmp_path / ("x" * 300), ""), "File name too long")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "pipe"]


@pytest.fixture
def little(tmp_path):
    """A disk of 64 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_one_error_and_leaves_what_was_there(little, refuses):
    write_text(little / "old", "old")
    form = QuadraticForm(torch.ones(300), torch.ones(300, 100), torch.ones(300, 100))
    refuses(
        FileError,
        lambda: write_text(little / "old", "x" * 100_000),
        "old must be writable; got No space left",
    )
    refuses(
        FileError, lambda: form.save(little / "record"), "record must be writable", "No space left"
    )
    assert [file.name for file in little.iterdir()] == ["old"]
    assert (little / "old").read_text() == "old"
    subprocess.run(["mount", "-o", "remount,ro", str(little)], check=True)
    refuses(FileError, lambda: write_text(little / "new", ""), "Read-only file system")
    refuses(FileError, lambda: held(little / "new").__enter__(), "Read-only file system")


def test_a_folder_has_one_holder(tmp_path, refuses):
    folder = tmp_path / "a" / "b"
    with held(folder):
        refuses(
            FileError,
            lambda: held(folder).__enter__(),
            "b must be free; got another run at work in it. Wait",
        )
        with held(tmp_path / "a" / "c"):
            pass
    assert not list(tmp_path.iterdir())  # made for this, and empty
    folder.mkdir(parents=True)
    with held(folder):
        pass
    assert folder.is_dir()


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_taken_away_is_not_all_there(again, tmp_path, refuses):
    def work():
        with held(tmp_path / "folder") as mine:
            write_text(mine / "a", "")
            mine.rename(tmp_path / "elsewhere")
            if again:
                write_text(mine / "b", "")

    got = "another folder" if again else "No such file"
    refuses(FileError, work, "folder must stay in its place", got)
    assert (tmp_path / "elsewhere" / "a").is_file()


def test_of_many_at_once_one_gets_it(tmp_path):
    """Begun together, each holds it alone or is refused; all but one of those that look at it while
    it is held.
    """
    together, inside, most, refused = threading.Barrier(8), [], [], []

    def begin():
        together.wait()
        try:
            with new_folder(tmp_path / "x"):
                inside.append(1)
                most.append(len(inside))
                together.wait(5)
                inside.pop()
        except FileError:
            refused.append(1)
            together.wait(5)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(refused)) == ([1], 7)
    assert not list(tmp_path.iterdir())


def test_what_the_dead_left_is_swept_and_what_the_living_write_is_not(tmp_path):
    (tmp_path / f"{SAVING}dead").mkdir()
    (tmp_path / f"{SAVING}dead" / "half").write_text("half")
    with atomic_write(tmp_path / "living") as temporary:
        temporary.write_text("whole")
        with held(tmp_path):
            assert not (tmp_path / f"{SAVING}dead").exists()
            assert temporary.exists()
    assert (tmp_path / "living").read_text() == "whole"


OPENED = [
    atomic_write,
    lambda path: saved_together(path.parent, "b"),
    lambda path: held(path.parent),
]


@pytest.mark.parametrize("opened", OPENED)
def test_every_writer_sweeps_what_the_dead_left(opened, tmp_path):
    (tmp_path / f"{SAVING}dead").mkdir()
    (tmp_path / f"{SAVING}dead" / "half").write_text("half")
    with opened(tmp_path / "b") as temporary:
        (temporary if temporary.name == "b" else tmp_path / "b").write_text("whole")
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("inside", ["b", "c/b"])
def test_a_link_to_nothing_is_no_folder(opened, inside, tmp_path, refuses):
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("link", "loop"):
        place = tmp_path / name / inside
        refuses(FileError, lambda place=place: begin(opened, place), name, "a link to nothing")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("opened", OPENED)
def test_a_name_with_a_nul_is_refused(opened, tmp_path, refuses):
    refuses(FileError, lambda: begin(opened, tmp_path / "a\0b" / "c"), "a NUL")


def begin(opened, place):
    with opened(place):
        raise AssertionError("begun")


def fail_together(place):
    with suppress(RuntimeError), saved_together(place, "last") as folder:
        (folder / "a").write_text("half")
        raise RuntimeError


def test_a_job_says_the_same_whether_it_is_begun_or_gone_on_with(tmp_path):
    job = Job("about.json", {"what": 1, "every": None, "seed": 2}, {"every": 5})
    for _ in range(2):
        with claim(tmp_path, job) as (_, about):
            assert list(about.items()) == [("what", 1), ("every", 5), ("seed", 2)]


def test_files_come_together(tmp_path):
    (tmp_path / "a").write_text("old")
    fail_together(tmp_path)
    assert (tmp_path / "a").read_text() == "old"
    with saved_together(tmp_path, "last") as folder:
        for name in ("last", "z", "a"):
            (folder / name).write_text("new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "last", "z"]
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize(
    "opened", [atomic_write, lambda path: saved_together(path, "b"), held, new_folder]
)
def test_folders_made_for_what_fails_go_again(opened, kind, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises((FileError, kind)), opened(tmp_path / "there" / "new" / "deep" / "b"):
        raise kind("disk full")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_a_name_that_cannot_be_leaves_no_folder(tmp_path, refuses):
    place = tmp_path / "new" / ("x" * 300)
    refuses(FileError, lambda: write_text(place, ""), "File name too long")
    refuses(FileError, lambda: write_text(place / "b", ""), "File name too long")
    assert not list(tmp_path.iterdir())

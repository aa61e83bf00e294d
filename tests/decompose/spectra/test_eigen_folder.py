"""Chunks on disk: a run that was killed goes on, two processes share one, and another computation
is refused.
"""

import pytest
import torch

from bilens.algebra import Eigen
from bilens.base.errors import ArgumentError, FileError
from bilens.decompose import Share, eigen

METHODS = ("lanczos", "dense")


def same(one, other):
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("values", "vectors", "residuals", "norm")
    )


@pytest.fixture
def layer(make):
    return make.cp(10, 30, h=40)


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_changes_nothing(layer, tmp_path, method):
    labels = tuple("abcdefghij")
    plain, written, read = (
        eigen(layer, k=3, method=method, chunk=3, labels=labels, folder=folder)
        for folder in (None, tmp_path / "run", tmp_path / "run")
    )
    assert same(plain, written)
    assert same(plain, read)
    assert plain.labels == read.labels == labels
    assert len(list((tmp_path / "run").glob("chunk-*"))) == 4


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_where_it_was(layer, tmp_path, method):
    def kill(done, of):
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        eigen(layer, k=3, method=method, chunk=3, folder=tmp_path / "run", progress=kill)
    first = sorted((tmp_path / "run").glob("chunk-*"))
    assert [file.name for file in first] == [
        "chunk-00000000.safetensors",
        "chunk-00000003.safetensors",
    ]
    before = [file.stat().st_mtime_ns for file in first]
    found = eigen(layer, k=3, method=method, chunk=3, folder=tmp_path / "run")
    assert [file.stat().st_mtime_ns for file in first] == before  # not made again
    assert same(found, eigen(layer, k=3, method=method, chunk=3))


def test_progress_counts_directions(layer):
    heard = []
    eigen(layer, k=2, chunk=4, progress=lambda *told: heard.append(told))
    assert heard == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_find_what_one_does(layer, tmp_path, method):
    """One after the other here, so nobody waits; in processes of their own in
    tests/cli/test_decompose_command.py.
    """
    folder = tmp_path / "run"
    with pytest.raises(FileError, match="nothing there"):  # the other's chunks are not there yet
        eigen(layer, k=3, method=method, chunk=3, folder=folder, share=Share(0, 2, lambda: None))
    assert len(list(folder.glob("chunk-*"))) == 2
    found = eigen(
        layer, k=3, method=method, chunk=3, folder=folder, share=Share(1, 2, lambda: None)
    )
    assert same(found, eigen(layer, k=3, method=method, chunk=3))


@pytest.mark.parametrize(
    "change", [{"k": 2}, {"chunk": 4}, {"which": "top"}, {"tensor": 2.0}, {"tol": 1e-3}]
)
def test_another_computation_is_refused(layer, tmp_path, refuses, change):
    given = {"k": 3, "chunk": 3, "method": "lanczos", "folder": tmp_path / "run"}
    eigen(layer, **given)
    other = layer * change.pop("tensor", 1.0)
    refuses(
        FileError,
        lambda: eigen(other, **{**given, **change}),
        "must be what was begun with",
        "Name another folder",
    )


def test_a_folder_in_use_is_refused(layer, tmp_path, refuses):
    (tmp_path / "thesis.tex").write_text("everything")
    refuses(FileError, lambda: eigen(layer, folder=tmp_path), "must be a new or empty folder")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_chunk_is_said(layer, tmp_path, refuses):
    eigen(layer, k=3, chunk=5, folder=tmp_path / "run")
    (tmp_path / "run" / "chunk-00000005.safetensors").write_bytes(b"half")
    refuses(FileError, lambda: eigen(layer, k=3, chunk=5, folder=tmp_path / "run"), "undamaged")
    assert len(Eigen.load(tmp_path / "run" / "chunk-00000000.safetensors").values) == 5


@pytest.mark.bad_input
def test_what_cannot_be_is_refused(layer, refuses):
    refuses(ArgumentError, lambda: eigen(layer, chunk=0), "chunk must be a whole number")
    refuses(
        ArgumentError,
        lambda: eigen(layer, share=Share(0, 2, lambda: None)),
        "share must come with a folder",
    )
    refuses(ArgumentError, lambda: Share(2, 2, lambda: None), "Share.process must be 0 … 1")

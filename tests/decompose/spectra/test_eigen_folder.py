"""Chunks on disk: a run that was killed goes on, two processes share one, and another computation
is refused.
"""

from dataclasses import replace

import pytest
import torch

from bilens.algebra import Eigen
from bilens.base.errors import FileError
from bilens.decompose import Chunks, Dense, Lanczos, Share, eigen


def same(one, other):
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("values", "vectors", "residuals", "norm")
    )


@pytest.fixture
def layer(make):
    return make.cp(10, 30, h=40)


@pytest.mark.parametrize("solver", [Dense(), Lanczos()], ids=["dense", "lanczos"])
def test_a_folder_changes_nothing(layer, tmp_path, solver):
    labels = tuple("abcdefghij")
    plain, written, read = (
        eigen(layer, k=3, solver=solver, chunks=Chunks(3, folder=folder)).labelled(labels)
        for folder in (None, tmp_path / "run", tmp_path / "run")
    )
    assert same(plain, written)
    assert same(plain, read)
    assert plain.labels == read.labels == labels
    assert len(list((tmp_path / "run").glob("chunk-*"))) == 4


@pytest.mark.parametrize("solver", [Dense(), Lanczos()], ids=["dense", "lanczos"])
def test_a_killed_run_goes_on_where_it_was(layer, tmp_path, solver):
    def kill(done, of):
        if done >= 6:
            raise KeyboardInterrupt

    chunks = Chunks(3, folder=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        eigen(layer, k=3, solver=solver, chunks=replace(chunks, progress=kill))
    first = sorted((tmp_path / "run").glob("chunk-*"))
    assert [file.name for file in first] == [
        "chunk-00000000.safetensors",
        "chunk-00000003.safetensors",
    ]
    before = [file.stat().st_mtime_ns for file in first]
    found = eigen(layer, k=3, solver=solver, chunks=chunks)
    assert [file.stat().st_mtime_ns for file in first] == before  # not made again
    assert same(found, eigen(layer, k=3, solver=solver, chunks=Chunks(3)))


def test_progress_counts_directions(layer):
    heard = []
    eigen(layer, k=2, chunks=Chunks(4, progress=lambda *told: heard.append(told)))
    assert heard == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize("solver", [Dense(), Lanczos()], ids=["dense", "lanczos"])
def test_two_processes_find_what_one_does(layer, tmp_path, solver):
    """One after the other here, so nobody waits; in processes of their own in
    tests/cli/test_decompose_command.py.
    """
    folder = tmp_path / "run"
    shares = [Share(process, 2, lambda: None) for process in range(2)]
    with pytest.raises(FileError, match="nothing there"):  # the other's chunks are not there yet
        eigen(layer, k=3, solver=solver, chunks=Chunks(3, folder=folder, share=shares[0]))
    assert len(list(folder.glob("chunk-*"))) == 2
    found = eigen(layer, k=3, solver=solver, chunks=Chunks(3, folder=folder, share=shares[1]))
    assert same(found, eigen(layer, k=3, solver=solver, chunks=Chunks(3)))


@pytest.mark.parametrize(
    "change",
    [
        {"k": 2},
        {"size": 4},
        {"which": "top"},
        {"tensor": 2.0},
        {"solver": Lanczos(tol=1e-3)},
        {"solver": Lanczos(norm=False)},
        {"solver": Dense()},
    ],
    ids=["k", "size", "which", "tensor", "tol", "norm", "method"],
)
def test_another_computation_is_refused(layer, tmp_path, refuses, change):
    given, folder = {"k": 3, "solver": Lanczos()}, tmp_path / "run"
    eigen(layer, **given, chunks=Chunks(3, folder=folder))
    changed = {name: value for name, value in change.items() if name not in ("tensor", "size")}
    other, chunks = layer * change.get("tensor", 1.0), Chunks(change.get("size", 3), folder=folder)
    refuses(
        FileError,
        lambda: eigen(other, **{**given, **changed}, chunks=chunks),
        "must be what the computation began with",
        "Name another folder",
    )


def test_a_folder_in_use_is_refused(layer, tmp_path, refuses):
    (tmp_path / "thesis.tex").write_text("everything")
    refuses(
        FileError,
        lambda: eigen(layer, chunks=Chunks(folder=tmp_path)),
        "must be a new or empty folder",
    )
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_chunk_is_said(layer, tmp_path, refuses):
    chunks = Chunks(5, folder=tmp_path / "run")
    eigen(layer, k=3, chunks=chunks)
    (tmp_path / "run" / "chunk-00000005.safetensors").write_bytes(b"half")
    refuses(FileError, lambda: eigen(layer, k=3, chunks=chunks), "undamaged")
    assert len(Eigen.load(tmp_path / "run" / "chunk-00000000.safetensors").values) == 5

"""Moments of the places of a model: those of all activations together, however the work was cut up,
stopped and shared.
"""

import threading
from functools import partial

import pytest
import torch

import bilens
from bilens import Gaussian, Transformer, TransformerConfig
from bilens.base.chunks import Chunks, Share
from bilens.base.errors import ArgumentError, FileError, Interrupted
from bilens.models import activations
from bilens.training import every_place, gather_moments

PLACES = ("attn0.input", "mlp0.input", "attn1.input", "mlp1.input", "mlp0.output", "mlp1.output")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=30, hidden_size=8, intermediate_size=12, norm="layer")
    return Transformer(config).double().eval()


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 30, (23, 6), generator=torch.Generator().manual_seed(1)).numpy()


def require_true(model, tokens, files):
    """Against the activations all at once, in one matrix."""
    assert tuple(files) == PLACES == every_place(model)
    for place, file in files.items():
        (rows,) = activations(model, [torch.from_numpy(tokens)], place)
        found = Gaussian.load(file)
        assert found.count == len(rows) == tokens.size
        assert torch.allclose(found.mean, rows.mean(0), rtol=1e-12, atol=1e-13)
        assert torch.allclose(found.cov, rows.T.cov(), rtol=1e-11, atol=1e-13)
    folder = file.parent
    assert {one.name for one in folder.iterdir()} == {
        "about.json", *(one.name for one in files.values())
    }  # fmt: skip


def together(run, of):
    """``run(share)`` in as many threads at once."""
    barrier, found = threading.Barrier(of), {}

    def one(n):
        found[n] = run(Share(n, of, partial(barrier.wait, 20)))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(of)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found[0]


def test_one_pass_stopped_and_gone_on_with_in_two_processes(model, tokens, tmp_path):
    def stop(done, of):
        if done == 12:  # of 23 texts
            raise KeyboardInterrupt

    folder, told = tmp_path / "moments", []
    with pytest.raises(Interrupted, match="stopped with 3 of 6 chunks done"):
        gather_moments(model, tokens, PLACES, Chunks(4, folder=folder, progress=stop))
    assert not list(folder.glob("mlp*"))  # none is finished
    files = together(
        lambda share: gather_moments(model, tokens, PLACES, Chunks(4, folder=folder, share=share)),
        of=2,
    )
    require_true(model, tokens, files)
    told_of = Chunks(4, folder=folder, progress=lambda *done: told.append(done))
    assert gather_moments(model, tokens, PLACES, told_of) == files
    assert not told  # finished before: the model is not run


@pytest.mark.parametrize("of", [1, 3, 9])
def test_any_number_of_processes(model, tokens, tmp_path, of):
    run = partial(gather_moments, model, tokens, PLACES)
    files = together(lambda share: run(Chunks(5, folder=tmp_path / "new", share=share)), of)
    require_true(model, tokens, files)


def test_what_is_refused(model, tokens, tmp_path, refuses):
    chunks = Chunks(8, folder=tmp_path / "moments")
    gather_moments(model, tokens, ["mlp0.input"], chunks)
    other = partial(gather_moments, model, tokens[:9], ["mlp0.input"], chunks)
    refuses(FileError, other, "about.json: text must be what the computation began with")
    refuses(ArgumentError, partial(gather_moments, model, tokens, PLACES, Chunks()), "folder")
    damaged = tmp_path / "damaged" / "so-far-0.safetensors"
    (tmp_path / "moments" / "about.json").rename(tmp_path / "kept.json")
    damaged.parent.mkdir()
    (tmp_path / "kept.json").rename(damaged.parent / "about.json")
    damaged.write_bytes(b"no weights")
    again = partial(gather_moments, model, tokens, ["mlp0.input"], Chunks(8, folder=damaged.parent))
    refuses(FileError, again, "so-far-0.safetensors must be an undamaged safetensors file")


def test_half_precision_runs_as_it_is(tokens, tmp_path):
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=30, hidden_size=8, intermediate_size=12)
    model = Transformer(config).bfloat16().eval()
    files = gather_moments(model, tokens, ["mlp1.input"], Chunks(folder=tmp_path / "half"))
    (rows,) = activations(model, [torch.from_numpy(tokens)], "mlp1.input")
    assert rows.dtype is torch.float32
    assert torch.allclose(Gaussian.load(files["mlp1.input"]).cov, rows.double().T.cov())


def test_places_by_either_name(model, tokens, tmp_path):
    names = ["layers.1.mlp.input", "mlp1.input"]
    files = gather_moments(model, tokens, names, Chunks(folder=tmp_path / "new"))
    assert list(files) == ["mlp1.input"]
    assert bilens.Gaussian.load(files["mlp1.input"]).count == tokens.size

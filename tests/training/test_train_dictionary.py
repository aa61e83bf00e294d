"""Training a dictionary of a place in a model: stopped and gone on with, the same as in one go;
figures as by hand.
"""

import dataclasses
import json
import math

import pytest
import torch

import bilens
from bilens.base.errors import ArgumentError, ConfigError, FileError, NotFiniteError, ShapeError
from bilens.features import Dictionary, DictionaryRecipe
from bilens.models import activations
from bilens.training import dictionary as module
from bilens.training import load_text, read_about, train_dictionary, train_tokenizer
from bilens.training.dictionary import Shard, harvest, measure, shuffled
from tests.documents_made import stories

D, CONTEXT, PLACE = 16, 16, "layers.0.mlp.input"
HOW = DictionaryRecipe(expansion=2, k=4, steps=30, batch_size=128, learning_rate=1e-2)


def model_of(seed, tokenizer=None):
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": D,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = bilens.TransformerConfig(
        **sizes, max_position_embeddings=CONTEXT, vocab_size=300, initializer_range=0.3
    )
    model = bilens.Transformer(config).double().eval()
    model.tokenizer = tokenizer
    return model


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(stories(600, ", and λ ran."), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def tokenizer(text):
    return train_tokenizer(str(text), 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    return model_of(0, tokenizer)


@pytest.fixture(scope="module")
def data(text, tokenizer):
    return load_text(str(text), tokenizer, CONTEXT)


@pytest.fixture(scope="module")
def whole(model, text, tmp_path_factory):
    """A run in one go: its folder, its dictionary, what progress heard."""
    folder, told = tmp_path_factory.mktemp("run") / "whole", []
    made = train_dictionary(model, str(text), PLACE, folder, HOW, progress=hear(told))
    return folder, made, told


def same(one, other):
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(one.tensors[n], t) for n, t in other.tensors.items()
    )


def hear(told):
    return lambda done, of, figures=None, what="": told.append(((done, of), what))


def stop(at):
    """A progress that ends the run like Ctrl-C when it hears of ``at`` = (what, how many)."""

    def progress(done, of, figures=None, what=""):
        if (what, done) == at:
            raise KeyboardInterrupt

    return progress


def test_from_end_to_end(whole, model, data):
    folder, made, told = whole
    assert {file.name for file in folder.iterdir()} == {
        "activations",
        "training.json",
        "cfg.json",
        "sae_weights.safetensors",
    }
    again = Dictionary.load(folder)
    x = torch.cat(list(activations(model, [data.valid[:]["input_ids"]], PLACE)))
    assert same(made, again)
    assert torch.equal(again.encode(x), made.encode(x))
    assert (again.hook, again.architecture, again.n_latents) == (PLACE, "jumprelu", 2 * D)
    assert json.loads((folder / "cfg.json").read_text())["metadata"]["hook_name"] == PLACE
    about = read_about(folder)
    assert about["figures"] == pytest.approx(
        measure(model, made, PLACE, data.valid[: module.HELD]["input_ids"])
    )
    assert 0 < about["figures"]["explained variance"] < 1
    assert (about["place"], about["recipe"]) == ("mlp0.input", dataclasses.asdict(HOW))
    blocks = len(data.train)
    assert blocks > 2 * module.SHARD
    assert [now for now, what in told if what == "blocks"] == [
        (min(end, blocks), blocks)
        for end in range(module.SHARD, blocks + module.SHARD, module.SHARD)
    ]
    assert told[-1] == ((30, 30), "steps")


def test_the_harvest_is_what_the_place_holds(whole, model, data, close):
    files = sorted((whole[0] / "activations").glob("*.safetensors"))
    rows = torch.cat([Shard.load(file).rows for file in files])
    heard = []
    hook = model.blocks[0].mlp.register_forward_pre_hook(
        lambda _, given: heard.append(given[0].flatten(0, 1))
    )
    with torch.no_grad():
        model(input_ids=data.train[:]["input_ids"])
    hook.remove()
    close(rows, heard[0])


def test_a_stopped_run_ends_as_one_in_one_go(whole, model, text, tmp_path, monkeypatch):
    """Stopped while harvesting, then while learning, then while saving."""
    run = tmp_path / "run"
    given = (model, str(text), PLACE, run, HOW)
    with pytest.raises(KeyboardInterrupt):
        train_dictionary(*given, progress=stop(("blocks", 2 * module.SHARD)))
    written = {
        file: file.stat().st_mtime_ns for file in (run / "activations").glob("*.safetensors")
    }
    assert len(written) == 2
    with pytest.raises(FileError, match="Resume it to go on"):
        train_dictionary(*given)
    with pytest.raises(KeyboardInterrupt):
        train_dictionary(*given, resume=True, progress=stop(("steps", 30)))
    assert not (run / "cfg.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(Dictionary, "save", lambda *_: stop(("", 0))(0, 0, {}, ""))
        with pytest.raises(KeyboardInterrupt):
            train_dictionary(*given, resume=True)
    assert "figures" in read_about(run)  # the dictionary is written last: where it is, they are
    made = train_dictionary(*given, resume=True)
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert same(made, whole[1])
    assert read_about(run) == read_about(whole[0])
    told = []
    assert same(train_dictionary(*given, resume=True, progress=hear(told)), made)
    assert told == []  # it was finished


def test_what_is_not_the_run_is_refused(model, tokenizer, text, tmp_path, refuses):
    run, other = tmp_path / "run", tmp_path / "text.txt"
    with pytest.raises(KeyboardInterrupt):
        train_dictionary(model, str(text), PLACE, run, HOW, progress=stop(("blocks", module.SHARD)))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    other.write_text(text.read_text(encoding="utf-8"), encoding="utf-8")

    def resume(model=model, source=str(text), place=PLACE, how=HOW):
        return lambda: train_dictionary(model, source, place, run, how, resume=True)

    refuses(
        ConfigError,
        resume(model=model_of(1, tokenizer)),
        "model must be what the run began with; got another model.",
    )
    refuses(ConfigError, resume(source=str(other)), "data must be what the run began with")
    refuses(
        ConfigError,
        resume(place="mlp0.output"),
        "place must be what the run began with, 'mlp0.input'",
    )
    refuses(
        ConfigError,
        resume(how=dataclasses.replace(HOW, k=5)),
        "recipe.k must be what the run began with, 4; got 5",
    )
    kept = text.read_bytes()
    text.write_bytes(kept.replace(b"dogs", b"cows"))
    refuses(ConfigError, resume(), "content must be what the run began with")
    text.write_bytes(kept)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    resume(place="mlp0.input")()  # the same place by another name


def test_a_finished_run_is_of_its_own_model(whole, text, tokenizer, refuses):
    other = model_of(1, tokenizer)
    refuses(
        ConfigError,
        lambda: train_dictionary(other, str(text), PLACE, whole[0], HOW, resume=True),
        "model must be what the run",
    )


def test_a_harvest_of_something_else(whole, model, data, refuses):
    folder = whole[0] / "activations"
    for given, text in (
        (
            (model_of(1), data.train, PLACE),
            "activations of must be what the computation began with",
        ),
        ((model, data.valid, PLACE), "text must be what the computation began with"),
        (
            (model, data.train, "mlp0.output"),
            "place must be what the computation began with, 'mlp0.input'",
        ),
    ):
        refuses(FileError, lambda given=given: harvest(*given, folder), text)


def test_what_cannot_be_begun(model, text, tmp_path, refuses):
    def begin(model=model, place=PLACE, folder=tmp_path / "new", how=HOW):
        return lambda: train_dictionary(model, str(text), place, folder, how)

    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    refuses(
        ArgumentError,
        begin(place="layers.1.mlp.input"),
        "place must be one of attn0.input, mlp0.input",
    )
    refuses(ArgumentError, begin(place="attn0.output"), "place must be the output of an mlp")
    refuses(ArgumentError, begin(model_of(0)), "the model must have a tokenizer beside it")
    refuses(FileError, begin(folder=tmp_path / "used"), "must be a new or empty folder")
    much = dataclasses.replace(HOW, k=2 * D + 1)
    refuses(ConfigError, begin(how=much), f"k must be at most {2 * D}, the latents of width {D}")
    assert [file.name for file in tmp_path.iterdir()] == ["used"]
    broken = model_of(0, model.tokenizer)
    broken.blocks[0].mlp.down_proj.weight.data[0, 0] = math.nan
    refuses(NotFiniteError, begin(broken, "mlp0.output"), "mlp0.output.activations must be finite")
    assert not (tmp_path / "new").exists()


# The order in which rows come


@pytest.fixture
def files(tmp_path):
    def write(*sizes):
        numbers = torch.arange(sum(sizes), dtype=torch.float64)
        files = [tmp_path / f"{n}.safetensors" for n in range(len(sizes))]
        for file, rows in zip(files, numbers.split(sizes), strict=True):
            Shard(rows[:, None]).save(file)
        return files

    return write


def taken(files, batches, batch_size=10, seed=0):
    stream = shuffled(files, batch_size, seed)
    return [next(stream)[:, 0].long() for _ in range(batches)]


def test_every_row_comes_equally_often(files):
    sizes = (40, 30, 25, 7)
    batches = taken(files(*sizes), 102 * 4)  # 40 times over
    assert {len(batch) for batch in batches} == {10}
    counts = torch.cat(batches).bincount(minlength=102)
    assert len(counts) == 102
    assert int(counts.min()) >= 37  # some wait among those left over
    assert int(counts.max()) <= 42
    once = torch.cat(batches[:10]).bincount(minlength=102)
    assert int(once.max()) <= 2
    mixed = [
        len({int(torch.tensor(sizes).cumsum(0).gt(row).nonzero()[0]) for row in batch})
        for batch in batches
    ]
    assert sum(mixed) > 2 * len(mixed)  # of two files or more, nearly always


def test_one_file_comes_whole_and_in_another_order_each_time(files):
    batches = taken(files(40), 8)
    first, second = torch.cat(batches[:4]), torch.cat(batches[4:])
    assert torch.equal(first.sort().values, torch.arange(40))
    assert torch.equal(second.sort().values, torch.arange(40))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("sizes", "batch"), [((3,), 3), ((27,), 10), ((2, 3), 10), ((1, 1, 1), 10), ((90, 1), 10)]
)
def test_batches_are_full_where_they_can_be(files, sizes, batch):
    batches = taken(files(*sizes), 50)
    assert {len(rows) for rows in batches} == {batch}
    assert len(torch.cat(batches).unique()) == sum(sizes)


def test_a_seed_decides_the_order(files):
    made = files(40, 30)
    one, same, other = (torch.cat(taken(made, 20, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# What a dictionary is worth


def folded(scale=1.0, **more):
    """x ↦ scale · x, by a latent for each sign of each coordinate."""
    unit = torch.eye(D, dtype=torch.float64)
    W_enc, zero = torch.cat([unit, -unit], 1), torch.zeros(D, dtype=torch.float64)
    return Dictionary(
        W_enc, scale * W_enc.mT, torch.zeros(2 * D, dtype=torch.float64), zero, **more
    )


def loss_of(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


@pytest.mark.parametrize("place", ["mlp0.input", "mlp0.output", "attn0.input"])
def test_a_perfect_dictionary_recovers_all_and_zeros_nothing(place, model, data):
    ids = data.valid[:21]["input_ids"]
    figures = measure(model, folded(), place, ids)
    assert figures["explained variance"] == pytest.approx(1, abs=1e-12)
    assert figures["loss recovered"] == pytest.approx(1, abs=1e-9)
    assert figures["L0"] == pytest.approx(D)
    assert (figures["dead"], figures["tokens"]) == (0, 21 * CONTEXT)
    nothing = dataclasses.replace(folded(), W_enc=torch.zeros(D, 2 * D, dtype=torch.float64))
    figures = measure(model, nothing, place, ids)
    assert figures["loss recovered"] == 0
    assert figures["explained variance"] <= 0
    assert (figures["L0"], figures["dead"]) == (0, 1)
    assert figures["loss with reconstruction"] == figures["loss with zeros"]


def test_figures_as_by_hand(model, tokenizer, data):
    """Half of what an MLP writes is the MLP with half its weights. 21 texts are a whole batch and a
    part of one.
    """
    ids, halved, silent = (
        data.valid[:21]["input_ids"],
        model_of(0, tokenizer),
        model_of(0, tokenizer),
    )
    halved.blocks[0].mlp.down_proj.weight.data *= 0.5
    silent.blocks[0].mlp.down_proj.weight.data *= 0
    figures = measure(model, folded(0.5), "mlp0.output", ids)
    M, L, Z = (loss_of(one, ids) for one in (model, halved, silent))
    assert figures["loss"] == pytest.approx(M, rel=1e-12)
    assert figures["loss with reconstruction"] == pytest.approx(L, rel=1e-12)
    assert figures["loss with zeros"] == pytest.approx(Z, rel=1e-12)
    assert figures["loss recovered"] == pytest.approx((Z - L) / (Z - M), rel=1e-9)
    (x,) = activations(model, [ids], "mlp0.output")
    missed = 0.25 * x.square().sum() / (x - x.mean(0)).square().sum()
    assert figures["explained variance"] == pytest.approx(1 - float(missed), rel=1e-12)


def test_a_dictionary_of_another_place_is_not_measured(model, data, refuses):
    ids = data.valid[:2]["input_ids"]
    narrow = Dictionary(*(torch.ones(shape) for shape in ((5, 3), (3, 5), (3,), (5,))))
    refuses(
        ShapeError,
        lambda: measure(model, narrow, PLACE, ids),
        "of width 16; got a dictionary of an unnamed hook",
    )
    other = folded(hook="layers.0.mlp.output")
    refuses(
        ArgumentError,
        lambda: measure(model, other, PLACE, ids),
        "must read mlp0.input",
        "of layers.0.mlp.output",
    )
    across = folded(hook=PLACE, hook_out="layers.0.mlp.output", architecture="transcoder")
    refuses(
        ArgumentError,
        lambda: measure(model, across, PLACE, ids),
        "must write mlp0.input",
        "of layers.0.mlp.output",
    )
    refuses(
        ArgumentError, lambda: measure(model, folded(), "mlp3.input", ids), "place must be one of"
    )


def test_it_says_of_which_model_it_is(text, tokenizer, tmp_path):
    model = model_of(0, tokenizer)
    assert "model_name" not in trained(model, text, tmp_path / "none").meta["metadata"]
    model.name_or_path = "some/runs/mine"
    assert trained(model, text, tmp_path / "one").model_name == "mine"
    said = json.loads((tmp_path / "one" / "cfg.json").read_text())["metadata"]
    assert said["model_name"] == "mine"


def trained(model, text, folder):
    train_dictionary(model, str(text), PLACE, folder, dataclasses.replace(HOW, steps=2))
    return Dictionary.load(folder)

"""Training a dictionary of a place in a language model: harvest once to disk, learn from there,
measure in the model.

output/about.json, chunk-….safetensors    under ``activations/``: what the place holds, a shard a
                                          file; a harvest that was stopped goes on
output/training.json                      model, data, place and recipe, written first; the figures
                                          are added at the end
output/cfg.json, sae_weights.safetensors  the dictionary, in SAELens's format, written last
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from bilens.base.chunks import Chunks, fingerprint, write_chunks
from bilens.base.errors import Interrupted
from bilens.base.numerics import require_finite, seeded, working_dtype
from bilens.base.progress import Progress, require_progress
from bilens.base.records import Record
from bilens.features import Dictionary, DictionaryRecipe
from bilens.models import Transformer, activations
from bilens.training.run import Run, content, content_of
from bilens.training.schedule import require_memory
from bilens.training.text import Blocks, TextData, load_text
from bilens.training.tokenizer import tokenizer_of
from bilens.wiring import eager, find_place, hooked, model_name, module_name

SHARD = 256  # blocks in a file
BATCH = 16  # blocks in a forward pass
HELD = 200  # held-out blocks that the figures are measured on


@dataclass(frozen=True, repr=False, eq=False)
class Shard(Record):
    """Activations of some blocks, in order."""

    rows: Float[Tensor, "n d"]


def train_dictionary(
    model: Transformer,
    source: str,
    place: str,
    output: str | Path,
    how: DictionaryRecipe,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Dictionary:
    """A dictionary of what ``place`` of ``model`` holds on the training part of ``source``, in
    folder ``output``.

    Activations are harvested to ``output``/activations and read back a shard at a time: never all
    in memory. ``resume`` goes on with a harvest that was stopped. Figures on held-out text end up
    in training.json (see ``measure``). Errors: ArgumentError for a place that is not there or a
    model without a tokenizer; FileError for a folder in use; ConfigError for a dictionary
    larger than this machine's memory or of fewer latents than its ``k``, and for ``resume`` of
    another model's run, or with another place, text or recipe.

    >>> how = bilens.features.DictionaryRecipe(steps=100)
    >>> place = "mlp1.input"
    >>> D = bilens.training.train_dictionary(model, "topics", place, "run", how)
    """
    require_progress("progress", progress)
    output, at = Path(output), find_place(place, model.wiring().parts)
    width = model.config.hidden_size
    require_memory("the dictionary of this recipe", 2 * 4 * how.latents(width) * width)
    data = _load(model, source)
    about = {"model": content_of(model), "data": data.name, "place": at.name, "recipe": asdict(how)}
    about |= {"content": content(data.train.tokens, data.valid.tokens)}
    with Run.claim(output, about, resume) as run:
        if (output / "cfg.json").is_file():  # finished before
            return Dictionary.load(output)
        return _harvested_and_learned(model, data, place, run, how, progress)


def _harvested_and_learned(
    model: Transformer,
    data: TextData,
    place: str,
    run: Run,
    how: DictionaryRecipe,
    progress: Progress | None,
) -> Dictionary:
    at = find_place(place, model.wiring().parts)

    told = None if progress is None else partial(progress, what="blocks")
    files = harvest(model, data.train, place, run.output / "activations", told)
    name = module_name(at.name)
    try:
        made = Dictionary.train(shuffled(files, how.batch_size, how.seed), how, name, progress)
    except KeyboardInterrupt as stop:
        raise Interrupted(
            f"{run.output} stopped while it learned; its harvest is whole", resume=True
        ) from stop
    if called := model_name(model):
        made = replace(made, meta={"metadata": {"model_name": called}})
    run.finish(measure(model, made, place, data.valid[:HELD]["input_ids"]))
    made.save(run.output)
    return made


def harvest(
    model: Transformer,
    blocks: Blocks,
    place: str,
    folder: Path,
    progress: Progress | None = None,
) -> list[Path]:
    """What ``place`` holds at every token of ``blocks``, in files of ``SHARD`` blocks each; those
    there are kept.

    Memory: one file's rows. Errors: FileError for a folder that holds another model's, text's or
    place's activations.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> blocks = bilens.training.Blocks(torch.randint(1024, (4, 64)).numpy(), 1000)
    >>> len(bilens.training.harvest(model, blocks, "mlp0.input", Path(mkdtemp())))
    1
    """

    def made(start: int) -> Shard:
        ids = blocks[start : start + SHARD]["input_ids"]
        rows = torch.cat(list(activations(model, ids.split(BATCH), place))).cpu()
        require_finite(place, activations=rows)
        return Shard(rows)

    tokens = torch.from_numpy(blocks.tokens.astype("int64"))
    about = {"activations of": content_of(model), "text": fingerprint(tokens=tokens)}
    about |= {"place": find_place(place, model.wiring().parts).name}
    return write_chunks(Chunks(SHARD, folder=folder, progress=progress), len(blocks), about, made)


def shuffled(files: list[Path], batch_size: int, seed: int) -> Iterator[Float[Tensor, "n d"]]:
    """Batches of rows, over and over: files in random order, rows of a file mixed with those left
    of the ones before.

    All of ``batch_size``, unless a single file holds less. Memory: about two files' rows, and as
    many as two batches'.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> blocks = bilens.training.Blocks(torch.randint(1024, (4, 64)).numpy(), 1000)
    >>> files = bilens.training.harvest(model, blocks, "mlp0.input", Path(mkdtemp()))
    >>> next(bilens.training.shuffled(files, batch_size=32, seed=0)).shape
    torch.Size([32, 128])
    """
    generator = seeded(seed)
    kept: Tensor | None = None
    while True:
        for n in torch.randperm(len(files), generator=generator, device="cpu").tolist():
            rows = Shard.load(files[n]).rows
            rows = rows if kept is None else torch.cat([kept, rows])
            rows = rows[torch.randperm(len(rows), generator=generator, device="cpu")]
            if len(files) == 1:
                yield from rows[: len(rows) - len(rows) % batch_size or len(rows)].split(batch_size)
                continue
            use = len(rows) // 2 // batch_size * batch_size
            yield from rows[:use].split(batch_size) if use else ()
            kept = rows[use:]


@torch.no_grad()
def measure(
    model: Transformer, dictionary: Dictionary, place: str, ids: Int[Tensor, "b t"]
) -> dict[str, float]:
    """What a dictionary is worth on ``ids``: L0, explained variance, latents that are never active,
    and loss recovered.

    Explained variance is 1 − Σ‖x − x̂‖² / Σ‖x − mean‖². Loss recovered is (Z − L) / (Z − M) of the
    model's own loss M, its loss L with the reconstruction in the place of x, and Z with zeros
    there. Errors: ShapeError for a dictionary of another width; ArgumentError where it reads or
    writes another place.

    >>> ids = bilens.training.held_out_ids(model, "topics", 1000).ids
    >>> bilens.training.measure(model, D, "mlp1.input", ids)["tokens"] > 500
    True
    """
    at = find_place(place, model.wiring().parts)
    for side in ("input", "output"):
        dictionary.require_fits(
            "dictionary", width=model.config.hidden_size, place=at.name, side=side
        )
    x = torch.cat(list(activations(model, ids.split(BATCH), place)))
    dictionary = dictionary.to(x.device, x.dtype)
    a = torch.cat([dictionary.encode(rows) for rows in x.split(4096)])
    missed = (x - dictionary.decode(a, x)).double().square().sum()
    variance = (x - x.mean(0)).double().square().sum()
    losses = {
        "loss": _loss(model, ids, at, None),
        "loss with reconstruction": _loss(model, ids, at, dictionary),
        "loss with zeros": _loss(model, ids, at, torch.zeros_like),
    }
    worst = losses["loss with zeros"] - losses["loss"]
    return {
        "L0": float((a != 0).sum(1).double().mean()),
        "explained variance": float(1 - missed / variance),
        "dead": float((a != 0).any(0).logical_not().double().mean()),
        "loss recovered": (losses["loss with zeros"] - losses["loss with reconstruction"]) / worst
        if worst
        else 0.0,
        **losses,
        "tokens": len(x),
    }


def _loss(
    model: Transformer, ids: Tensor, at: Any, instead: Callable[[Tensor], Tensor] | None
) -> float:
    """Nats per predicted token, with ``instead`` of what the place holds in its place."""
    model, total = eager(model), 0.0

    def replaced(x: Tensor) -> Tensor | None:
        return None if instead is None else instead(x.to(working_dtype(x.dtype))).to(x)

    for batch in ids.split(BATCH):
        with hooked(model.wiring().parts[at.part].passes(at.side), at.side, replaced):
            logits = (
                model(input_ids=batch.to(model.device), use_cache=False)
                .logits[:, :-1]
                .flatten(0, 1)
                .double()
            )
        total += float(
            functional.cross_entropy(
                logits, batch[:, 1:].flatten().to(logits.device), reduction="sum"
            )
        )
    return total / ids[:, 1:].numel() if len(ids) else float("nan")


def _load(model: Transformer, source: str) -> TextData:
    return load_text(source, tokenizer_of(model), model.config.max_position_embeddings)

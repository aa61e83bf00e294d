"""``python -m tests.campaigns.kill9 [kills] [seed]``: every long job killed at random moments, and
gone on with.

Each job is begun in a process of its own, which SIGKILL ends at a moment drawn between its start
and its end; then it is gone on with to the end. What it made must be what a run in one go made, to
the last bit, and nothing half-written may be left. Jobs are small (seconds), so that the moments
fall into every part of them.
"""

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from bilens import Transformer, TransformerConfig
from bilens.algebra import CP
from bilens.decompose import Chunks, eigen
from bilens.features import DictionaryRecipe
from bilens.training import (
    read_recipe,
    recipe,
    train_classifier,
    train_dictionary,
    train_language,
    train_tokenizer,
)
from tests.documents_made import stories

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
MODEL = SIZES | {"max_position_embeddings": 16}


def image(folder: Path, resume: bool) -> None:
    how = recipe(steps=40, batch_size=32, hidden_size=16, seed=3, bias=True)
    train_classifier("digits", folder / "run", how, resume=resume, save_every=4, quiet=True)


def text(folder: Path, resume: bool) -> None:
    how = read_recipe(None, steps=40, batch_size=4, vocab_size=300, seed=5, model=MODEL)
    train_language(_text(), folder / "run", how, resume=resume, save_every=4, quiet=True)


def dictionary(folder: Path, resume: bool) -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**MODEL, vocab_size=300)).eval()
    model.tokenizer = train_tokenizer(_text(), 300)
    how = DictionaryRecipe(expansion=2, k=4, steps=60, batch_size=128)
    train_dictionary(model, _text(), "layers.0.mlp.input", folder / "run", how, resume=resume)


def decompose(folder: Path, resume: bool) -> None:
    del resume  # it always goes on
    generator = torch.Generator().manual_seed(0)
    factors = (torch.randn(shape, generator=generator) for shape in ((120, 40), (40, 60), (40, 60)))
    eigen(CP(*factors), k=4, chunks=Chunks(2, folder=folder / "run")).save(
        folder / "run" / "found.safetensors"
    )


JOBS: dict[str, Callable[[Path, bool], None]] = {
    "train image": image,
    "train text": text,
    "train dictionary": dictionary,
    "decompose": decompose,
}


def made(folder: Path) -> dict[str, str]:
    """A digest of every tensor that a job is for, and every loss as it was logged. A header's order
    is no matter.
    """
    digests = {"losses": str([losses(log) for log in sorted(folder.rglob("log.jsonl"))])}
    for file in folder.rglob("*.safetensors"):
        if "checkpoint" not in str(file):
            for name, tensor in load_file(file).items():
                raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
                digests[f"{file.relative_to(folder)} {name} {tuple(tensor.shape)}"] = (
                    hashlib.sha256(raw).hexdigest()
                )
    return digests


def losses(log: Path) -> list[tuple[float, ...]]:
    """Steps, losses and norms of gradients that a run has logged."""
    rows = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "loss" in row]


def left(folder: Path) -> list[str]:
    """What is hidden, and so temporary."""
    return [str(place.relative_to(folder)) for place in folder.rglob(".*")]


def begun(job: str, folder: Path, resume: bool) -> int:
    """The process in which ``job`` was begun: a copy of this one, so that no time goes into
    imports.
    """
    process = os.fork()
    if process == 0:
        try:
            JOBS[job](folder, resume)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return process


def run(job: str, folder: Path, resume: bool = False) -> None:
    """``job`` to its end. Errors: RuntimeError where it fails."""
    if os.waitpid(begun(job, folder, resume), 0)[1]:
        raise RuntimeError(f"{job} failed in {folder}")


def killed(job: str, folder: Path, seconds: float) -> bool:
    """Kill ``job`` after so long; whether that came before its end."""
    process = begun(job, folder, False)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def killed_in_the_middle(job: str, folder: Path) -> None:
    """Kill ``job`` once it has saved something: a checkpoint, a shard, a chunk."""
    process = begun(job, folder, False)
    saved = ("run/checkpoints/*/complete", "run/activations/chunk-*", "run/chunk-*")
    while not any(any(folder.glob(kind)) for kind in saved):
        if os.waitpid(process, os.WNOHANG)[0]:
            raise RuntimeError(f"{job} ended before it could be killed")
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def campaign(kills: int, seed: int, place: Path) -> int:
    """``kills`` of each job; a line for each job, and how many ended otherwise than in one go."""
    draw, wrong = random.Random(seed), 0
    for job in JOBS:
        before = time.monotonic()
        run(job, place / job / "whole")
        lasts = time.monotonic() - before
        truth, tries, off, remains = made(place / job / "whole"), itertools.count(1), 0, 0
        for n in range(kills):
            folder = place / job / str(n)
            while not (next(tries) and killed(job, folder, draw.uniform(0, 0.95) * lasts)):
                shutil.rmtree(folder)  # it ended before: a run in one go once more
            run(job, folder, resume=True)
            off += made(folder) != truth
            remains += len(left(folder))
        print(
            f"{job}: {lasts:.1f} s, killed {kills} times in {next(tries) - 1} runs, "
            f"{off} other bits, {remains} files left"
        )
        wrong += off + remains
    return wrong


def _text() -> str:
    file = Path(tempfile.gettempdir()) / f"bilens-kill9-{os.getuid()}.txt"
    body = stories(end=", and λ ran.")
    if not file.is_file() or file.read_text(encoding="utf-8") != body:
        file.write_text(body, encoding="utf-8")
    return str(file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _text()
    kills, seed = (int(given) for given in (sys.argv[1:] + ["20", "0"][len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as place:
        sys.exit(1 if campaign(kills, seed, Path(place)) else 0)

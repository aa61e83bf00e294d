"""What does it cost to make every MLP of a language model bilinear?

    python -m experiments.conversion MODEL --data FILE … [--parts 1 …] [--other FILE …]
        [--tokens 16384 …] [--steps 0 …] [--batch 8] [--again] [--rate 1e-4] [--distil]
        [--control] [--device cpu]

MODEL: a folder that ``bilens.load`` reads. All its MLPs become bilinear layer after layer by least
squares (``models.converted_layers``), on each number of --tokens of the texts of --data, equally
many of each or as many --parts; then, for each number of --steps, all weights are trained from
there (AdamW, cosine, --batch texts of 512 tokens a step; with --again on the tokens that layers
were fitted on and no others; with --distil towards the model's own predictions); with --control the
model as it was is trained alike, to tell what these texts bring by themselves. Held out are tokens
8,192 to 13,312 of each text: of the first 1,024 come --choosing. A row a number goes to
experiments/results/conversion.jsonl: nats a token before and after on each text, and for every
layer what was missed, the ridge and the loss so far.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

import bilens
from benchmarks.record import record
from bilens.models import bilinear_frame, converted_layers
from experiments.nearest_tensors import LENGTH, loss, texts

RESULTS = Path(__file__).parent / "results" / "conversion.jsonl"
AT, CHOOSING, MEASURING = (
    8192,
    1024,
    4096,
)  # tokens of each text: before the held-out ones, and they


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("--data", nargs="+", type=Path, required=True)
    options.add_argument("--parts", nargs="*", type=int, help="Of the tokens, of each text.")
    options.add_argument("--choosing", type=int, default=CHOOSING, help="Tokens, of each text.")
    options.add_argument("--other", nargs="*", type=Path, default=[])
    options.add_argument("--tokens", nargs="*", type=int, default=[16_384])
    options.add_argument("--steps", nargs="*", type=int, default=[])
    options.add_argument("--batch", type=int, default=8, help="Texts a step of training.")
    options.add_argument("--again", action="store_true", help="Train on the tokens fitted alone.")
    options.add_argument("--rate", type=float, default=1e-4)
    options.add_argument("--distil", action="store_true")
    options.add_argument("--control", action="store_true")
    options.add_argument("--device", default="cpu")
    options.add_argument("--save", type=Path, help="Folder for the model of the last number.")
    given = options.parse_args()
    model = bilens.load(given.model).eval()
    choosing = torch.cat([texts(model, file, given.choosing, skip=AT) for file in given.data])
    held = {file.name: texts(model, file, MEASURING, skip=AT + CHOOSING) for file in given.data}
    held |= {file.name: texts(model, file, MEASURING) for file in given.other}
    most = max(0, *given.tokens, *(given.batch * LENGTH * steps for steps in given.steps))
    parts = given.parts or [1] * len(given.data)
    shares = [part / sum(parts) for part in parts]
    read = [
        not_held_out(model, file, int(most * share))
        for file, share in zip(given.data, shares, strict=True)
    ]
    model = model.to(given.device)
    held = {name: rows.to(given.device) for name, rows in held.items()}
    before = {name: loss(model, rows) for name, rows in held.items()}
    about = {"model": Path(given.model).name, "device": device_name(given.device), "before": before}
    about |= {"parts": parts, "choosing": given.choosing}

    def cost(made: bilens.Transformer) -> dict[str, float]:
        return {name: round(loss(made, rows) - before[name], 4) for name, rows in held.items()}

    for steps in given.steps if given.control else ():
        tuned = trained(model, torch.cat(read), steps, given.batch, given.rate, None)
        how = {"steps": steps, "batch": given.batch, "rate": given.rate}
        record(RESULTS, what="original, trained", **about, **how, nats=cost(tuned))
    for tokens in given.tokens:
        counts = (int(tokens * share) // LENGTH for share in shares)
        ids = torch.cat([rows[:count] for rows, count in zip(read, counts, strict=True)])
        made, began = bilinear_frame(model), time.perf_counter()
        layers = []
        for layer in converted_layers(model, made, ids, choosing):
            layers.append([round(layer.missed, 4), layer.ridge, round(layer.loss, 4)])
            print(len(layers) - 1, *layers[-1], round(time.perf_counter() - began), flush=True)
        fitted = {"tokens": ids.numel(), "seconds": round(time.perf_counter() - began)}
        record(RESULTS, what="conversion", **about, **fitted, nats=cost(made), layers=layers)
        for steps in given.steps:
            began = time.perf_counter()
            teacher = model if given.distil else None
            rows = ids if given.again else torch.cat(read)
            tuned = trained(made, rows, steps, given.batch, given.rate, teacher)
            how = {"steps": steps, "batch": given.batch, "again": given.again}
            how |= {"rate": given.rate, "distil": given.distil}
            how |= {"seconds": round(time.perf_counter() - began), "fitted on": ids.numel()}
            record(RESULTS, what="conversion, trained", **about, **how, nats=cost(tuned))
        if given.save is not None:
            made.save_pretrained(given.save)


def not_held_out(model: bilens.Transformer, file: Path, tokens: int) -> Tensor:
    """The first ``tokens`` of a text, as rows, without those that are held out."""
    first, held = AT // LENGTH, (CHOOSING + MEASURING) // LENGTH
    rows = texts(model, file, tokens + held * LENGTH)
    return torch.cat([rows[:first], rows[first + held :]])[: tokens // LENGTH]


def device_name(device: str) -> str:
    """What it is called by who made it."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def trained(
    made: bilens.Transformer,
    ids: Tensor,
    steps: int,
    batch: int,
    rate: float,
    teacher: bilens.Transformer | None,
) -> bilens.Transformer:
    """A copy of ``made`` after ``steps`` on texts in random order, the same every time."""
    model = copy.deepcopy(made).train()
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    order = order.repeat(-(-batch * steps // len(ids)))
    optimiser = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.95), weight_decay=0)
    warm = max(1, steps // 20)

    def share(step: int) -> float:
        return min(1, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    for rows in ids[order[: batch * steps]].to(model.device).split(batch):
        logits = model(rows, use_cache=False).logits.flatten(0, 1)
        if teacher is None:
            kept = logits.unflatten(0, rows.shape)[:, :-1].flatten(0, 1)
            missed = cross_entropy(kept, rows[:, 1:].flatten())
        else:
            with torch.no_grad():
                wanted = log_softmax(teacher(rows, use_cache=False).logits.flatten(0, 1), -1)
            said = log_softmax(logits, -1)
            missed = kl_div(said, wanted, reduction="batchmean", log_target=True)
        missed.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
    return model.eval()


if __name__ == "__main__":
    main()

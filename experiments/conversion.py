"""What does it cost to make every MLP of a language model bilinear?

    python -m experiments.conversion MODEL --data FILE … [--other FILE …] [--tokens 16384 …]

MODEL: a folder that ``bilens.load`` reads. All its MLPs become bilinear layer after layer by least
squares (``models.converted_layers``), on each number of --tokens of the texts of --data, equally
many of each; held out are the tokens that follow. A row a number goes to
experiments/results/conversion.jsonl: nats a token before and after on each text, and for every
layer what was missed, the ridge and the loss so far.
"""

import argparse
import time
from pathlib import Path

import torch

import bilens
from benchmarks.record import record
from bilens.models import bilinear_frame, converted_layers
from experiments.nearest_tensors import loss, texts

RESULTS = Path(__file__).parent / "results" / "conversion.jsonl"
CHOOSING, MEASURING = 1024, 4096  # tokens of each text


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("--data", nargs="+", type=Path, required=True)
    options.add_argument("--other", nargs="*", type=Path, default=[])
    options.add_argument("--tokens", nargs="+", type=int, default=[16_384])
    options.add_argument("--save", type=Path, help="Folder for the model of the last number.")
    given = options.parse_args()
    model = bilens.load(given.model).eval()
    last = max(given.tokens) // len(given.data)
    choosing = torch.cat([texts(model, file, CHOOSING, skip=last) for file in given.data])
    held = {file.name: texts(model, file, MEASURING, skip=last + CHOOSING) for file in given.data}
    held |= {file.name: texts(model, file, MEASURING) for file in given.other}
    before = {name: loss(model, rows) for name, rows in held.items()}
    for tokens in given.tokens:
        each = tokens // len(given.data)
        ids = torch.cat([texts(model, file, each) for file in given.data])
        made, began = bilinear_frame(model), time.perf_counter()
        layers = []
        for layer in converted_layers(model, made, ids, choosing):
            layers.append([round(layer.missed, 4), layer.ridge, round(layer.loss, 4)])
            print(len(layers) - 1, *layers[-1], round(time.perf_counter() - began), flush=True)
        seconds = round(time.perf_counter() - began)
        after = {name: round(loss(made, rows) - before[name], 4) for name, rows in held.items()}
        name = Path(given.model).name
        kept = {"before": before, "nats": after, "layers": layers, "seconds": seconds}
        record(RESULTS, what="conversion", model=name, tokens=tokens, **kept)
        if given.save is not None:
            made.save_pretrained(given.save)


if __name__ == "__main__":
    main()

"""Effects of all heads, all layers and the 50 largest pairs, in units of one forward pass.

    python -m benchmarks.effects [--only boxed|large] [--runs 5]

On the model in the box and on random weights of 12 layers, d_model 768, 64 tokens. In the same run
a tenth of the effects are held against a forward pass of the model itself whose component writes
nothing. Rows go to benchmarks/results/effects.jsonl.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import bilens
from benchmarks.expansion import LARGE, forward, interleaved, make
from benchmarks.record import record
from bilens.circuits import Effects, effects

RESULTS = Path(__file__).parent / "results" / "effects.jsonl"
PROMPT = "Once upon a time there was a little"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", choices=["boxed", "large"])
    options.add_argument("--runs", type=int, default=5)
    given = options.parse_args()
    if given.only in (None, "boxed"):
        model = bilens.load("tinystories-2l")
        measure("boxed", model, model.read(PROMPT)[0], given.runs)
    if given.only in (None, "large"):
        measure("12 layers, d_model 768", *make(LARGE, 64), given.runs)


@torch.no_grad()
def measure(what: str, model: Any, text: torch.Tensor, runs: int) -> None:
    """Zero alone, and zero beside the mean."""
    target = tuple(model.outputs(text[None])[-1].topk(2).indices.tolist())
    sides = {
        "forward": lambda: forward(model, text),
        "zero": lambda: effects(model, text, target, with_="zero"),
        "zero and mean": lambda: effects(model, text, target),
    }
    seconds = interleaved(sides, runs)
    found = effects(model, text, target, with_="zero")
    record(
        RESULTS,
        what=what,
        tokens=len(text),
        taken_out=len(found.knockouts),
        forward_s=round(seconds["forward"], 5),
        zero=round(seconds["zero"] / seconds["forward"], 1),
        zero_and_mean=round(seconds["zero and mean"] / seconds["forward"], 1),
        worst_miss=worst_miss(model, text, target, found),
    )


def worst_miss(model: Any, text: torch.Tensor, target: tuple[int, int], found: Effects) -> float:
    """The largest difference, relative to the target's own size, between an effect and what the
    model gives with that MLP's or head's columns of its last weight at zero.
    """
    misses = []
    whole = [one for one in found.knockouts if one.what[0].startswith(("mlp", "L"))]
    whole = [one for one in whole if "(" not in one.what[0]]
    for one in whole[:: max(1, len(whole) // 12)]:
        name = one.what[0]
        layer = int(name[3:]) if name.startswith("mlp") else int(name[1:].split("H")[0])
        block = model.blocks[layer]
        heads = block.self_attn
        weight = block.mlp.down_proj.weight if name.startswith("mlp") else heads.o_proj.weight
        width = heads.d_head
        columns = slice(None)
        if not name.startswith("mlp"):
            head = int(name.split("H")[1])
            columns = slice(head * width, (head + 1) * width)
        kept = weight[:, columns].clone()
        weight[:, columns] = 0
        first, second = model.outputs(text[None])[-1][list(target)].tolist()
        weight[:, columns] = kept
        misses.append(abs(first - second - one.after) / (abs(one.before) + abs(one.after)))
    return max(misses)


if __name__ == "__main__":
    main()

"""A training step against transformers' own Llama with the same weights: forward, and forward +
backward + AdamW.

    python -m benchmarks.transformer_step [--runs 15] [--dtype float32]

Both sides in turn, in one run, agreement checked first. Rows go to
benchmarks/results/transformer_step.jsonl.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.record import record
from bilens import Transformer

RESULTS = Path(__file__).parent / "results" / "transformer_step.jsonl"
SHAPES = {
    "d 128, 2 layers, 32 × 256 tokens": (
        {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2},
        32,
    ),
    "d 512, 6 layers, 4 × 256 tokens": (
        {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6},
        4,
    ),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=15)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = options.parse_args()
    for name, (shape, batch) in SHAPES.items():
        compare(name, shape, batch, given.runs, torch.device(given.device))


def compare(name: str, shape: dict, batch: int, runs: int, device: torch.device) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        num_attention_heads=shape["hidden_size"] // 32,
        hidden_act="linear",
        max_position_embeddings=256,
        **shape,
    )
    llama = LlamaForCausalLM(config).to(device).train()
    sides = {"llama": llama, "bilens": Transformer.from_llama(llama)}
    text = torch.randint(0, 1024, (batch, 256), device=device)
    logits = [model(text, use_cache=False).logits for model in sides.values()]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    steps = {side: training_step(model, text) for side, model in sides.items()}
    seconds: dict[tuple[str, str], list[float]] = {}
    for run in range(runs + 2):
        # each goes first as often as the other
        for side, model in list(sides.items())[:: 1 if run % 2 else -1]:
            for what, work in (
                ("forward", lambda model=model: forward(model, text)),
                ("step", steps[side]),
            ):
                taken = timed(work, device)
                if run > 1:  # the first two warm up
                    seconds.setdefault((what, side), []).append(taken)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    record(
        RESULTS,
        shape=name,
        device=str(device),
        milliseconds={
            f"{what} {side}": round(1e3 * value, 1) for (what, side), value in median.items()
        },
        forward_ratio=round(median["forward", "llama"] / median["forward", "bilens"], 3),
        step_ratio=round(median["step", "llama"] / median["step", "bilens"], 3),
    )


@torch.no_grad()
def forward(model: torch.nn.Module, text: torch.Tensor) -> None:
    model(text, labels=text, use_cache=False)


def training_step(model: torch.nn.Module, text: torch.Tensor) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        model(text, labels=text, use_cache=False).loss.backward()
        optimiser.step()

    return step


def timed(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

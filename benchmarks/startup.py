"""What it costs to start: ``import bilens`` against ``import torch``, ``bilens --help`` against
``import rich``, and a layer of a model, as commands have it, against the import of stock Llama.

    python -m benchmarks.startup [--runs 9]

Both sides in turn, in one run; the medians are compared. Rows go to
benchmarks/results/startup.jsonl.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.record import record

RESULTS = Path(__file__).parent / "results" / "startup.jsonl"
BEFORE, AFTER = "import gc", "gc.freeze()"  # or Python looks for garbage in all of torch as it ends
LAYER = "import bilens; bilens.training; bilens.load('tinystories-2l', part='mlp1').tensor()"
SIDES = {
    "import torch": ["-c", "import torch"],
    "import bilens": ["-c", "import bilens"],
    "import bilens and use its algebra": ["-c", "import bilens; bilens.CP"],
    "import rich": ["-c", "import rich"],
    "bilens --help": ["-m", "bilens", "--help"],
    "import stock Llama": ["-c", f"{BEFORE}; from transformers import LlamaForCausalLM; {AFTER}"],
    "a layer": ["-c", f"{BEFORE}; {LAYER}; {AFTER}"],
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=9)
    runs = options.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for run in range(runs + 1):
        for name, arguments in SIDES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if run:  # the first warms the disk cache
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    record(
        RESULTS,
        seconds={name: round(value, 3) for name, value in median.items()},
        bilens_over_torch=round(median["import bilens"] / median["import torch"], 3),
        algebra_over_torch=round(
            median["import bilens and use its algebra"] / median["import torch"], 3
        ),
        layer_over_stock=round(median["a layer"] / median["import stock Llama"], 3),
        help_allowed=round(1.5 * median["import rich"] + 0.5, 3),
    )


if __name__ == "__main__":
    main()

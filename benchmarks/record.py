"""Results that can be traced: each row with its date, commit and hardware, appended to a JSONL
file.
"""

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def record(path: Path, **figures: Any) -> None:
    """Append ``figures`` to ``path`` and print them."""
    row = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "commit": _commit(),
        "hardware": _hardware(),
    } | figures
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(json.dumps(figures, ensure_ascii=False), flush=True)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:  # a machine without git
        return "unknown"
    return found.stdout.strip() or "unknown"


def _hardware() -> str:
    cores = torch.get_num_threads()
    model = next(
        (line for line in _cpuinfo() if line.startswith("model name")), ": " + platform.processor()
    ).split(":")[1]
    parts = [*_accelerators(), model.strip(), f"{cores} threads", f"torch {torch.__version__}"]
    return ", ".join(parts)


def _accelerators() -> list[str]:
    """What Trainer trains on where there is one; the spectra's benchmarks are the processor's."""
    return [torch.cuda.get_device_name()] if torch.cuda.is_available() else []


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []
